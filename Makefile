# Two commands: `make demo` and `make test`. Each makes .venv and installs what it needs; Python 3.11 to 3.13 is all
# there must be.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo demo-powder test crash-test services lint bench clean

demo: $(VENV)/.installed
	$(BIN)/bluesky-pipeline demo

# A detector's frames, from HDF5 files that grow, with what integrates them.
demo-powder: $(VENV)/.installed-frames
	$(BIN)/bluesky-pipeline demo powder demo-powder

# Tests that hold a time against a bound have the machine to themselves. The others mostly wait for servers, and run
# two at a time.
TIMED := $(addprefix tests/test_,catalog.py journal.py projector.py service_troubles.py tiled_sink.py)
test: $(VENV)/.installed-dev services
	$(BIN)/python -m pytest -n 2 --dist loadfile $(addprefix --ignore=,$(TIMED))
	$(BIN)/python -m pytest $(TIMED)

# The long form of a test: a service is killed N times, and its ledger compared each time.
N ?= 5000
crash-test: $(VENV)/.installed-dev
	$(BIN)/python tests/crashes.py $(N)

# The tests use the servers that answer on loopback, start their own where none does, and are skipped where neither can
# be. Debian's packages bring them.
services:
	@ls /usr/bin/redis-server /usr/sbin/nats-server /usr/bin/chromium /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql redis-server nats-server chromium >/dev/null; \
	} || echo "PostgreSQL, Redis, NATS or Chromium is not installed: its tests are skipped, unless one answers on loopback."

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[bench]"
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) demo demo-powder build *.egg-info

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(f"wanted Python 3.11 or newer, {v} is here; try make PYTHON=python3.12" if v < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python setup.cfg
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-frames: $(BIN)/python setup.cfg
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[fast,frames]"
	touch $@

$(VENV)/.installed-dev: $(BIN)/python setup.cfg
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@ $(VENV)/.installed $(VENV)/.installed-frames

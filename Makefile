# Two commands: `make demo` and `make test`. Each makes .venv and installs what it needs; Python 3.11 to 3.13 is all
# there must be.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test postgresql lint bench clean

demo: $(VENV)/.installed
	$(BIN)/bluesky-pipeline demo

test: $(VENV)/.installed-dev postgresql
	$(BIN)/python -m pytest

# The tests start a server of their own where none answers on loopback, and are skipped where neither can be.
postgresql:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null; \
	} || echo "No PostgreSQL is installed: its tests are skipped, unless one answers on loopback."

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[bench]"
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) demo build *.egg-info

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(f"wanted Python 3.11 or newer, {v} is here; try make PYTHON=python3.12" if v < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python setup.cfg
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: $(BIN)/python setup.cfg
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@ $(VENV)/.installed

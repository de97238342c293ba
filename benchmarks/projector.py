"""The ledger into the embedded catalog: in bulk, as it grows, and when there is nothing to do."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy

from pipeline.catalog import open_catalog, python_module, stop_server
from pipeline.catalogs import find
from pipeline.documents import dumps
from pipeline.projector import Projector, report_path
from pipeline.testing import make_run

N_RUNS, N_ROWS = 10, 10_000
RATE, SECONDS = 50, 20
N_FINISHED, IDLE_SECONDS = 20_000, 20

FOLLOW = "import sys; from pipeline.projector_process import main; sys.exit(main(sys.argv[1:]))"
# The catalog does not hold so many runs; a projector that sees that would compare them all.
TRUSTING = f"from pipeline.projected import Projected; Projected.count = lambda self: 0; {FOLLOW}"


def projector():
    """Measure rows a second, the age of the newest readable row at 50 events/s, and what an idle follower costs."""
    with tempfile.TemporaryDirectory() as folder, open_catalog(Path(folder) / "catalog") as catalog:
        yield from _bulk(Path(folder), catalog)
        yield from _growing(Path(folder), catalog)
        yield from _idle(Path(folder))
        stop_server(Path(folder) / "catalog")


def _bulk(folder, catalog):
    ledger = folder / "bulk"
    ledger.mkdir()
    for k in range(N_RUNS):
        _write(ledger, make_run({"x": [float(i) for i in range(N_ROWS)], "n": list(range(N_ROWS))}, uid=f"bulk-{k}"))
    began = time.perf_counter()
    report = Projector(ledger, folder / "catalog").sync()
    rate = N_RUNS * N_ROWS / (time.perf_counter() - began)
    yield "projector, rows a second in bulk", rate, 5000.0, rate > 5000 and report["runs_level"] == N_RUNS
    (database,) = (ledger / ".state").glob("projected-*.db")
    database.unlink()
    began = time.perf_counter()
    Projector(ledger, folder / "catalog").sync()
    rate = N_RUNS * N_ROWS / (time.perf_counter() - began)
    yield "projector, rows a second compared", rate, 5000.0, rate > 5000


def _growing(folder, catalog):
    ledger = folder / "growing"
    ledger.mkdir()
    n = RATE * SECONDS
    run = make_run({"x": [float(i) for i in range(n)], "iq": [numpy.arange(1000.0)] * n}, uid="growing")
    ages = []
    with _process(ledger, folder / "catalog"):
        given, seen = [], 0
        began = time.perf_counter()
        with open(ledger / f"{run[0][1]['uid']}.jsonl", "ab", buffering=0) as file:
            for i, (name, doc) in enumerate(run):
                file.write(dumps(name, doc))
                given.append(time.perf_counter())
                while time.perf_counter() < began + i / RATE:
                    n_there = _n_rows(catalog["analysis"], run[0][1]["uid"])
                    now = time.perf_counter()
                    ages += [now - given[j + 2] for j in range(seen, n_there)]
                    seen = max(seen, n_there)
                    time.sleep(0.005)
    print(f"projector: {len(ages)} of {n} rows seen while the ledger grew")
    yield "projector, age of a row, median in s", statistics.median(ages), 1.0, statistics.median(ages) < 1
    yield "projector, age of a row, most in s", max(ages), 1.0, max(ages) < 1.0


def _n_rows(runs, uid):
    """Return how many rows are readable, by the array: it costs one small request, once it is there."""
    if (run := find(runs, uid)) is None or (stream := find(run, "primary")) is None:
        return 0
    table = find(stream.base, "internal")
    return 0 if table is None else len(table._get_partition(0, ["seq_num"]))


def _idle(folder):
    ledger = folder / "idle"
    ledger.mkdir()
    run = make_run({"x": [1.0]})
    for k in range(N_FINISHED):
        (ledger / f"{k}.jsonl").write_bytes(b"".join(dumps(name, doc) for name, doc in run))
    from pipeline.ledger_tail import LedgerTail
    from pipeline.projected import Projected
    from pipeline.projector import STATE, target_hash, target_name

    (ledger / STATE).mkdir()
    state = Projected(ledger / STATE / f"projected-{target_hash(target_name(folder / 'catalog'))}.db")
    tail = LedgerTail(ledger)
    while ready := tail.poll():
        for file in ready:
            state.remember(file.path.name, file.stamp)
            tail.finish(file)
    state.close()
    with _process(ledger, folder / "catalog", trust=N_FINISHED) as process:
        before = _cpu_seconds(process.pid)
        time.sleep(IDLE_SECONDS)
        percent = 100 * (_cpu_seconds(process.pid) - before) / IDLE_SECONDS
    yield "projector, idle, % of a core", percent, 1.0, percent < 1.0


def _write(ledger, documents):
    with open(ledger / f"{documents[0][1]['uid']}.jsonl", "ab") as file:
        file.writelines(dumps(name, doc) for name, doc in documents)


@contextmanager
def _process(ledger, catalog, trust=0):
    _, environment = python_module("pipeline.projector_process")
    command = [sys.executable, "-c", TRUSTING if trust else FOLLOW, str(ledger), "--to", str(catalog)]
    path = report_path(ledger, catalog)
    with subprocess.Popen(command, env=environment) as process:
        while not path.exists() or json.loads(path.read_bytes())["runs_level"] < trust:
            time.sleep(0.1)
        time.sleep(2)
        yield process
        process.terminate()


def _cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100

"""What stays in memory after many runs, and after one long one."""

import gc
import tempfile
from pathlib import Path

from pipeline import Node, Pipeline
from pipeline.reductions import Mean
from pipeline.sinks import JSONLSink
from pipeline.testing import make_run

RUNS, EVENTS = 10_000, 1_000_000


def resident():
    """Megabytes of this process in memory now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def many_runs(pipeline, first, last):
    for k in range(first, last):
        uid = f"{k:08d}-0000-4000-8000-000000000000"
        for name, doc in renamed(TEMPLATE, uid):
            pipeline(name, doc)


TEMPLATE = make_run({"det": [1.0, 2.0, 3.0]})


def renamed(documents, uid):
    descriptor = f"{uid[:-1]}1"
    for i, (name, doc) in enumerate(documents):
        links = {"run_start": uid} if "run_start" in doc else {"descriptor": descriptor} if "descriptor" in doc else {}
        own = {"start": uid, "descriptor": descriptor}.get(name, f"{uid[:-2]}{i:02d}")
        yield name, {**doc, **links, "uid": own}


def long_run(pipeline, n):
    start, descriptor, event, stop = TEMPLATE[0], TEMPLATE[1], TEMPLATE[2][1], TEMPLATE[-1]
    pipeline(*start)
    pipeline(*descriptor)
    for i in range(n):
        pipeline("event", {**event, "seq_num": i + 1, "uid": f"u{i}", "data": {"det": float(i)}})
        if i == n // 100:
            warm = resident()
    grown = resident() - warm
    pipeline(*stop)
    return grown


def memory():
    """Megabytes by which the process grows, after warm-up."""
    with tempfile.TemporaryDirectory() as folder, JSONLSink(folder) as ledger:
        pipeline = Pipeline([Node("mean", Mean("det"))], [ledger])
        many_runs(pipeline, 0, 1500)
        warm = resident()
        many_runs(pipeline, 1500, 1500 + RUNS)
        grown = resident() - warm
        yield f"memory, MB after {RUNS:,} runs", grown, 5.0, grown < 5
        grown = long_run(pipeline, EVENTS)
        yield f"memory, MB in {EVENTS:,} events", grown, 5.0, grown < 5

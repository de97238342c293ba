"""Derived events into the embedded catalog, at a steady rate: is each readable in time?"""

import tempfile
import threading
import time
from pathlib import Path

from pipeline import Node, Pipeline
from pipeline.catalog import open_catalog
from pipeline.reductions import Mean
from pipeline.sinks import TiledSink
from pipeline.testing import make_run

RATE, SECONDS = 2000, 20


def catalogs():
    """Give raw events at a rate, and look, as another reader would, how old the newest readable result is."""
    documents = make_run({"det": [float(i) for i in range(RATE * SECONDS)]})
    with tempfile.TemporaryDirectory() as folder:
        catalog = open_catalog(Path(folder) / "catalog")
        pipeline = Pipeline([Node("mean", Mean("det"))], [sink := TiledSink(Path(folder) / "catalog")])
        pipeline.replay(make_run({"det": [1.0]}, uid="first"))  # the writer is up after this
        given: list[float] = []  # when each raw event was given
        ages: list[float] = []
        done = threading.Event()
        reader = threading.Thread(target=_watch, args=(catalog, given, ages, done))
        reader.start()
        began = time.perf_counter()
        for i, (name, doc) in enumerate(documents):
            wait = began + i / RATE - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            if name == "event":
                given.append(time.perf_counter())
            pipeline(name, doc)
        rate = len(given) / (time.perf_counter() - began)
        pipeline.flush()
        done.set()
        reader.join()
        stored = len(catalog["analysis"][-1]["running"].base["internal"].read())
        sink.close()
    print(f"catalog: {rate:,.0f} events/s, {stored} of {len(given)} stored, looked at {len(ages)} times")
    yield "catalog, events a second", rate, 2000.0, rate > 0.98 * RATE and stored == len(given)
    yield "catalog, age of a result in s", max(ages), 1.0, max(ages) <= 1


def _watch(catalog, given, ages, done):
    """Note, again and again, how long ago the first event that is not yet readable was given."""
    while not done.is_set():
        time.sleep(0.3)
        try:
            n = len(catalog["analysis"][-1]["running"].base["internal"].read())
        except (KeyError, IndexError):
            continue
        if n < len(given):
            ages.append(time.perf_counter() - given[n])

"""The analyses of a raw run, and the raw run of an analysis, among a thousand."""

import tempfile
import time
from pathlib import Path
from statistics import median

from tiled.structures.core import Spec

from pipeline.catalog import open_catalog, stop_server
from pipeline.catalogs import kind_of, runs_of
from pipeline.documents import Uids
from pipeline.lineage import analyses, raw_runs
from pipeline.provenance import linked_metadata

N, ANALYSES_EACH, ROUNDS = 1000, 2, 15
RECIPE = {
    "stream": "primary",
    "reductions": [{"name": "PeakStatistics", "version": 1, "arguments": {"x": "motor", "y": "det"}}],
}
RUN = [Spec("BlueskyRun", version="3.0")]


def finding():
    """Milliseconds to find what was made of a run, and what a run was made of, in the embedded catalog."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog"
        with open_catalog(path) as catalog:
            yield from found_in(catalog, "embedded")
        stop_server(path)


def found_in(catalog, name):
    """The same of any catalog that is empty."""
    raws = fill(catalog)
    ours = [analyses(catalog, raw)[0].uid for raw in raws[:: len(raws) // ROUNDS]]
    chosen = raws[1 :: len(raws) // ROUNDS]
    for what, function, of in (("analyses", analyses, chosen), ("raw_runs", raw_runs, ours)):
        figure = median(milliseconds(function, catalog, each) for each in of)
        yield f"{name}, {what} in ms", figure, 100.0, figure <= 100


def fill(catalog):
    """Put in a thousand analysis runs and the raw runs that they are of; return the uids of these."""
    uids = Uids("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
    raws = [uids(f"raw {i}") for i in range(N // ANALYSES_EACH)]
    for i, raw in enumerate(raws):
        start = {"uid": raw, "time": 1.7e9 + i, "scan_id": i, "plan_name": "scan"}
        put(runs_of(catalog, "raw"), start)
        for k in range(ANALYSES_EACH):
            metadata = linked_metadata({"raw": start}, {**RECIPE, "node": f"peak {k}"})
            put(runs_of(catalog), {"uid": uids(f"{raw} {k}"), "time": start["time"], **metadata})
    return raws


def put(runs, start):
    """Put in a run without streams, as sinks do."""
    if kind_of(runs) == "mongo":
        runs.post_document("start", start)
    else:
        runs.create_container(key=start["uid"], metadata={"start": start}, specs=RUN)


def milliseconds(function, *arguments):
    began = time.perf_counter()
    assert function(*arguments)
    return 1e3 * (time.perf_counter() - began)

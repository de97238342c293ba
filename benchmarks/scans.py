"""What a pipeline costs a scan: 200 points on a real RunEngine, bare and with a pipeline, in turn."""

import gc
import tempfile
import time
from pathlib import Path
from statistics import median

from bluesky import RunEngine
from bluesky.plans import scan
from ophyd.sim import SynAxis, SynGauss

from pipeline import Node, Pipeline
from pipeline.reductions import Mean, PeakStatistics
from pipeline.sinks import JSONLSink, TiledSink

POINTS, ROUNDS = 200, 15


class Timed:
    """A callback, and how long each call took."""

    def __init__(self, callback):
        self.callback, self.seconds = callback, []

    def __call__(self, name, doc):
        began = time.perf_counter()
        self.callback(name, doc)
        self.seconds.append(time.perf_counter() - began)


def devices():
    motor = SynAxis(name="motor")
    return SynGauss("det", motor, "motor", center=0.3, Imax=1000, sigma=1), motor


def seconds_of_a_scan(RE, det, motor):
    began = time.perf_counter()
    RE(scan([det], motor, -5, 5, POINTS))
    return time.perf_counter() - began


def scans():
    """The ratio of a scan with the pipeline (ledger and embedded catalog) to a bare one, and p99 of its callback."""
    det, motor = devices()
    RE = RunEngine({}, call_returns_result=False)
    with tempfile.TemporaryDirectory() as folder:
        sink = TiledSink(Path(folder) / "catalog")
        node = Node("peak", PeakStatistics("motor", "det"), Mean("det"))
        timed = Timed(Pipeline([node], [JSONLSink(Path(folder) / "ledger"), sink]))
        token = RE.subscribe(timed)
        seconds_of_a_scan(RE, det, motor)  # starts the catalog's server
        sink.flush(120)
        RE.unsubscribe(token)
        timed.seconds.clear()
        ratios = []
        for _ in range(ROUNDS):
            gc.collect()
            bare = seconds_of_a_scan(RE, det, motor)
            token = RE.subscribe(timed)
            ratios.append(seconds_of_a_scan(RE, det, motor) / bare)
            RE.unsubscribe(token)
            time.sleep(0.3)  # the writer ends the run
        sink.close()
    calls = sorted(timed.seconds)
    p99 = calls[int(0.99 * len(calls))] * 1e3
    print(
        f"scans: a point takes {bare / POINTS * 1e3:.2f} ms bare; a call {median(calls) * 1e3:.3f} ms, p99 {p99:.3f} ms"
    )
    yield "scan, ratio to the bare one", median(ratios), 1.05, median(ratios) <= 1.05
    yield "scan, p99 of a call in ms", p99, 1.0, p99 < 1

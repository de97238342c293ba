"""What a pipeline costs a scan: 200 points on a real RunEngine, bare and with a pipeline, in turn."""

import gc
import random
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

POINTS, ROUNDS = 200, 25


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
    """The ratio of a scan with a pipeline (ledger and embedded catalog) to a bare one, and p99 of its callback.

    Each round scans once with each callback, in a new order; a callback that does nothing tells what the noise is.
    """
    det, motor = devices()
    RE = RunEngine({}, call_returns_result=False)
    with tempfile.TemporaryDirectory() as folder:
        sinks = [JSONLSink(Path(folder) / "ledger"), TiledSink(Path(folder) / "catalog")]
        peak = [PeakStatistics("motor", "det"), Mean("det")]
        callbacks = {
            "bare": lambda name, doc: None,
            "no-op": lambda name, doc: None,
            "ledger": Timed(Pipeline([Node("mean", Mean("det"))], sinks[:1])),
            "both sinks": Timed(Pipeline([Node("mean", Mean("det"))], sinks)),
            "peak, both": Timed(Pipeline([Node("peak", *peak)], sinks)),
        }
        for callback in callbacks.values():
            followed(callback, RE, det, motor)  # the catalog's server starts
        sinks[1].flush(120)
        rounds = [one_round(callbacks, RE, det, motor, sinks[1]) for _ in range(ROUNDS)]
        sinks[1].close()
    point = median(each["bare"] for each in rounds) / POINTS * 1e3
    print(f"scans: a point takes {point:.2f} ms bare, no-op {ratio_of('no-op', rounds):.3f} of it")
    for name in list(callbacks)[2:]:
        yield f"scan, {name}: ratio to bare", (ratio := ratio_of(name, rounds)), 1.05, ratio <= 1.05
        calls = sorted(callbacks[name].seconds)
        yield f"scan, {name}: p99 in ms", (p99 := calls[int(0.99 * len(calls))] * 1e3), 1.0, p99 < 1


def one_round(callbacks, RE, det, motor, catalog):
    seconds = {}
    for name in random.sample(list(callbacks), len(callbacks)):
        seconds[name] = followed(callbacks[name], RE, det, motor)
        catalog.flush(60)  # the next scan is not to pay for this one
        time.sleep(0.2)
    return seconds


def ratio_of(name, rounds):
    return median(each[name] / each["bare"] for each in rounds)


def followed(callback, RE, det, motor):
    gc.collect()
    token = RE.subscribe(callback)
    seconds = seconds_of_a_scan(RE, det, motor)
    RE.unsubscribe(token)
    return seconds

"""One event through each reduction of single events, its result included; and the state of one, as bytes and back."""

import time
from copy import deepcopy
from statistics import median

import numpy

from pipeline.reductions import Background, Normalize, PeakStatistics, Quality, Regions
from pipeline.state import state_from_bytes, state_to_bytes

ROUNDS = 7

SCALARS = {"det": 512.0, "i0": 1e4, "it": 2e3}
SPECTRUM = {"mca": numpy.arange(4096, dtype="u4"), "i0": 1e4}
FRAME = {"cam": numpy.arange(2048 * 2048, dtype="u2").reshape(2048, 2048)}

CASES = (
    ("Normalize, ratio, us", Normalize("det", "i0"), SCALARS, 10),
    ("Normalize, arithmetic, us", Normalize("det", "i0", "log(i0 / it) * sqrt(det)"), SCALARS, 10),
    ("Quality, number and beam, us", Quality("det", beam="i0"), SCALARS, 10),
    ("Quality, spectrum of 4096, us", Quality("mca", beam="i0"), SPECTRUM, 50),
    ("Normalize, spectrum of 4096, us", Normalize("mca", "i0"), SPECTRUM, 200),
    ("Regions, 3 of a spectrum, us", Regions("mca", {"a": [9, 99], "b": [800, 999], "c": [0, 4096]}), SPECTRUM, 200),
    ("Background, spectrum of 4096, us", Background("mca", list(range(4096)), "fit"), SPECTRUM, 100),
    ("Quality, frame of 4.2 Mpx, us", Quality("cam"), FRAME, 5_000),
    ("Regions, 200 x 200 of 4.2 Mpx, us", Regions("cam", {"a": [900, 1100, 900, 1100]}), FRAME, 1000),
)


def event_reductions():
    """Microseconds an event."""
    for what, reduction, data, aim in CASES:
        n = 3 if "cam" in data else 5000 if "det" in data else 500
        found = median(_microseconds(deepcopy(reduction), data, n) for _ in range(ROUNDS))
        yield what, found, aim, found <= aim
    yield _states()


def _microseconds(reduction, data, n):
    began = time.perf_counter()
    for _ in range(n):
        reduction.update(data)
        reduction.result()
    return (time.perf_counter() - began) / n * 1e6


def _states():
    """Milliseconds to write and to restore the state of a peak of 10,000 points."""
    peak, times = PeakStatistics("x", "y"), []
    peak.update_page({"x": numpy.arange(10_000.0), "y": numpy.arange(10_000.0)})
    for _ in range(ROUNDS):
        began = time.perf_counter()
        PeakStatistics("x", "y").restore(state_from_bytes(state_to_bytes(peak.state())))
        times.append((time.perf_counter() - began) * 1e3)
    return "state of 10,000 points, ms", median(times), 10, median(times) <= 10

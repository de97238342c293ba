"""One event, and rows of pages, through each reduction that sorts points into cells; and through those beside them."""

import time
from statistics import median

import numpy

from pipeline.reductions import Bin, Drift, FrameAverage, Histogram, Map

REGULAR = {"start": 0, "stop": 1, "n": 200}
ROUNDS = 7


def reductions():
    return {
        "Bin": Bin("x", "v", REGULAR),
        "Map": Map("x", "y", "v", [100, 100], [[0, 1], [0, 1]]),
        "Histogram": Histogram("v", {"start": -4, "stop": 4, "n": 200}),
        "Histogram 2-D": Histogram(["x", "y"], [REGULAR, REGULAR]),
        "Histogram with weights": Histogram("x", REGULAR, weights="v"),
        "Drift": Drift(["x", "y"]),
    }


def columns(n):
    rng = numpy.random.default_rng(0)
    return {"x": rng.random(n), "y": rng.random(n), "v": rng.normal(size=n)}


def seconds(function, *args):
    began = time.perf_counter()
    function(*args)
    return time.perf_counter() - began


def feed(update, items):
    for item in items:
        update(item)


def cells():
    """Microseconds of one event, aim 10; and a page's rows a second, aim a million."""
    table = columns(20_000)
    events = [dict(zip(table, row, strict=True)) for row in zip(*(c.tolist() for c in table.values()), strict=True)]
    for name, reduction in reductions().items():
        took = median(seconds(feed, reduction.update, events) for _ in range(ROUNDS)) / len(events) * 1e6
        yield f"{name}, us an event", took, 10.0, took <= 10
    pages = [columns(1000) for _ in range(100)]
    for name, reduction in reductions().items():
        if name != "Drift":
            rate = 1e5 / median(seconds(feed, reduction.update_page, pages) for _ in range(ROUNDS))
            yield f"{name}, rows a second", rate, 1e6, rate >= 1e6
    yield from frames()


def frames():
    """Microseconds of one spectrum of 1000 channels, aim 100, of integers and of floats."""
    for dtype in ("u4", "f8"):
        spectra = [{"mca": numpy.arange(1000).astype(dtype) + i} for i in range(1000)]
        average = FrameAverage("mca")
        took = median(seconds(feed, average.update, spectra) for _ in range(ROUNDS)) / len(spectra) * 1e6
        yield f"FrameAverage of 1000 {dtype}, us an event", took, 100.0, took <= 100

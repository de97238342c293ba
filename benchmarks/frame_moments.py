"""A frame of 4.2 Mpx, uint16, through the reductions of frames, with numba and without; beside numpy's own way.

Each reduction is beside its peer, in turns. What memory allows is told by copies of frames: 8.4 MB read and written.
"""

import os
import time
from contextlib import contextmanager
from itertools import cycle
from statistics import median

import numpy

from pipeline.reductions import FrameAverage, Quality, Regions
from pipeline.reductions.compiled import NO_NUMBA

ROUNDS, N_FRAMES = 25, 6
SHAPE = 2048, 2048
SIDES = 50


@contextmanager
def numba(is_used):
    before = os.environ.pop(NO_NUMBA, None)
    if not is_used:
        os.environ[NO_NUMBA] = "1"
    yield
    os.environ.pop(NO_NUMBA, None)
    if before is not None:
        os.environ[NO_NUMBA] = before


def milliseconds(works, frames):
    """Medians by name: in each round all works have the same frame, in an order drawn by lot, as a reader leaves it."""
    rng = numpy.random.default_rng(1)
    took = {name: [] for name in works}
    read = numpy.empty_like(frames[0])
    for i in range(ROUNDS + 3):
        for name in rng.permutation(list(works)).tolist():
            numpy.copyto(read, frames[i % len(frames)])
            began = time.perf_counter()
            works[name](read)
            took[name].append(time.perf_counter() - began)
    return {name: 1e3 * median(each[3:]) for name, each in took.items()}  # the first ones compile, and touch memory


def fed(reduction, is_series=False):
    def feed(frame):
        reduction.update({"cam": frame[None] if is_series else frame})
        if reduction.kind == "event":
            reduction.result()

    return feed


def numpys_variance():
    total, squares = numpy.zeros(SHAPE), numpy.zeros(SHAPE)

    def add(frame):
        numbers = frame.astype(float)
        numpy.add(total, numbers, out=total)
        numpy.multiply(numbers, numbers, out=numbers)
        numpy.add(squares, numbers, out=squares)

    return add


def numpys_sum():
    total = numpy.zeros(SHAPE)
    return lambda frame: numpy.add(total, frame, out=total)


def numpys_regions(boxes):
    axis = numpy.arange(SIDES, dtype=float)

    def reduce(frame):
        row = {}
        for name, (y0, y1, x0, x1) in boxes.items():
            part = frame[y0:y1, x0:x1]
            row[name] = (
                part.sum(),
                part.mean(),
                part.max(),
                y0 + part.sum(1) @ axis / part.sum(),
                x0 + part.sum(0) @ axis / part.sum(),
            )
        return row

    return reduce


def numpys_quality(frame):
    counts = numpy.count_nonzero(frame >= 65535), numpy.count_nonzero(frame == 0)
    return *counts, frame.max(), frame.sum(dtype=numpy.int64)


def boxes(rng):
    corners = rng.integers(0, SHAPE[0] - SIDES, (20, 2)).tolist()
    return {f"roi{i}": [y, y + SIDES, x, x + SIDES] for i, (y, x) in enumerate(corners)}


def frame_moments():
    """Milliseconds for a frame, and how many times as long numpy takes, in the same rounds."""
    rng = numpy.random.default_rng(0)
    frames = [rng.poisson(50, SHAPE).astype(numpy.uint16) for _ in range(N_FRAMES)]
    rois, copy, others = boxes(rng), numpy.zeros(SHAPE, numpy.uint16), cycle(frames)
    for is_used in (True, False):
        aims = {
            "FrameAverage": (1.5, 3, FrameAverage("cam"), numpys_variance()),
            "FrameAverage, no variance": (0.8, 3, FrameAverage("cam", variance=False), numpys_sum()),
            "20 Regions": (0.1, 3, Regions("cam", rois), numpys_regions(rois)),
            "Quality": (1.0, 2, Quality("cam"), numpys_quality),
        }
        peers = {name: {name: fed(reduction), "numpy": work} for name, (_, _, reduction, work) in aims.items()}
        series = {"20 Regions": fed(Regions("cam", rois)), "series": fed(Regions("cam", rois), is_series=True)}
        with numba(is_used):
            took = {name: milliseconds(works, frames) for name, works in peers.items()}
            took["series"] = milliseconds(series, frames)
        yield from told(took, aims, "" if is_used else ", no numba")
    copied = milliseconds({"copy": lambda frame: numpy.copyto(copy, next(others))}, frames)["copy"]
    rate = 2 * copy.nbytes / copied / 1e6
    yield "copy of a frame, GB/s", rate, 1.0, rate >= 1


def told(took, aims, how):
    for name, (aim, times, *_) in aims.items():
        aim, times = (aim, times) if not how else (4 * aim, 1)
        yield f"{name}{how}, ms", took[name][name], aim, took[name][name] <= aim
        ratio = took[name]["numpy"] / took[name][name]
        yield "   numpy's time over that", ratio, times, ratio >= times
    ratio = took["series"]["series"] / took["series"]["20 Regions"]
    yield f"20 Regions of [1, h, w]{how}, times", ratio, 1.2, ratio <= 1.2

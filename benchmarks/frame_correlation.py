"""Frames of 100,000 labelled pixels through a multiple-tau correlator: ours, its numpy twin, and the peer, in turns."""

import importlib.util
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy

from pipeline.reductions import MultiTau
from pipeline.reductions.compiled import NO_NUMBA

LEVELS, BUFFERS, ROUNDS = 7, 8, 9
DIFFERENT, FRAMES = 8, 64  # that fit into a cache, as those that were just read do; that fill all levels


def labels():
    """Eight rings of 16 pixels, 99,728 pixels in all."""
    y, x = numpy.mgrid[:512, :512]
    rings = ((numpy.hypot(y - 256, x - 256) - 60) // 16).astype(int) + 1
    return numpy.where((rings > 0) & (rings <= 8), rings, 0)


def ours(path):
    """Take in frames, with a result after each round."""
    correlation = MultiTau("cam", path, 0.01, LEVELS, BUFFERS)

    def take(frames):
        for frame in frames:
            correlation.update({"cam": frame})
        correlation.result()

    return take


def peer(rois):
    """Take in frames by scikit-beam, which gives a result after each; or by plain numpy, where it is not installed."""
    if importlib.util.find_spec("skbeam") is None:
        return "plain numpy", PlainNumpy(rois).take
    from skbeam.core.correlation import lazy_one_time

    state = None

    def take(frames):
        nonlocal state
        for found in lazy_one_time(iter(frames), LEVELS, BUFFERS, rois, state):
            state = found.internal_state

    return "scikit-beam", take


class PlainNumpy:
    """The algorithm as one writes it down: float64, `bincount` over regions."""

    def __init__(self, rois):
        self.places, self.names = numpy.flatnonzero(rois), rois[rois > 0]
        self.rings = numpy.zeros((LEVELS, BUFFERS, self.places.size))
        self.n = [0] * LEVELS
        self.sums = numpy.zeros((3, LEVELS, BUFFERS, rois.max() + 1))

    def take(self, frames):
        for frame in frames:
            self.push(0, frame.ravel()[self.places].astype(float))

    def push(self, level, values):
        ring, n = self.rings[level], self.n[level]
        ring[n % BUFFERS] = values
        for lag in range(BUFFERS // 2 if level else 0, min(n + 1, BUFFERS)):
            past = ring[(n - lag) % BUFFERS]
            for i, weights in enumerate((values * past, past, values)):
                self.sums[i, level, lag] += numpy.bincount(self.names, weights)
        self.n[level] += 1
        if n % 2 and level + 1 < LEVELS:
            self.push(level + 1, (ring[(n - 1) % BUFFERS] + values) / 2)


@contextmanager
def without_numba():
    before = os.environ.get(NO_NUMBA)
    os.environ[NO_NUMBA] = "1"
    try:
        yield
    finally:
        os.environ.pop(NO_NUMBA) if before is None else os.environ.update({NO_NUMBA: before})


def milliseconds(take, frames):
    began = time.perf_counter()
    take(frames)
    return (time.perf_counter() - began) / len(frames) * 1e3


def frame_correlation():
    """Milliseconds a frame, 7 levels of 8 buffers; medians of rounds in turns."""
    rois = labels()
    frames = list(numpy.random.default_rng(0).poisson(3, (DIFFERENT, *rois.shape)).astype("u2")) * (FRAMES // DIFFERENT)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "labels.npy")
        numpy.save(path, rois)
        kernel, twin = ours(path), ours(path)
    name, other = peer(rois)
    rounds = [
        (milliseconds(kernel, frames), _twin(twin, frames), milliseconds(other, frames)) for _ in range(ROUNDS + 2)
    ]
    with_numba, without, theirs = map(median, zip(*rounds[2:], strict=True))  # two to compile and to fill all levels
    print(f"frame_correlation: {name} takes {theirs:.2f} ms a frame")
    yield "MultiTau of 100,000 px, ms a frame", with_numba, 0.6, with_numba <= 0.6
    yield "MultiTau without numba, ms a frame", without, 5.0, without <= 5.0
    yield f"{name}, its time over ours", theirs / with_numba, 10.0, theirs / with_numba >= 10


def _twin(take, frames):
    with without_numba():
        return milliseconds(take, frames)

"""Curves of frames: for one geometry and shape, whatever the correction."""

import math
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy

from pipeline.reductions.compiled import compiled
from pipeline.reductions.corrected import Correction
from pipeline.reductions.pixel_blocks import PixelBlocks
from pipeline.reductions.pixel_runs import PixelRuns, broad_loop, whole_loop
from pipeline.reductions.pixel_splitting import Splitting

Array = numpy.ndarray
Bounds = tuple[float, float]

_EMPTY = 1e-12  # of the light of a bin: what is left by rounding where no pixel counts


class Sums(NamedTuple):
    """What frames sum up to, by bin: their values, the light that these pixels see, the variance of the values."""

    signal: Array
    norm: Array
    variance: Array | None

    def __add__(self, other: "Sums") -> "Sums":  # type: ignore[override]
        both = None if self.variance is None or other.variance is None else self.variance + other.variance
        return Sums(self.signal + other.signal, self.norm + other.norm, both)

    def curve(self) -> Array:
        """Return the mean of the values over the light; NaN where there is none."""
        return _over(self.signal, self.norm)

    def error(self) -> Array:
        """Return the standard error of the mean."""
        assert self.variance is not None
        return _over(numpy.sqrt(self.variance), self.norm)


def _over(values: Array, norm: Array) -> Array:
    return numpy.divide(values, norm, out=numpy.full(norm.shape, numpy.nan), where=norm > 0)


class FrameIntegrator:
    """Sums of frames by bin: compiled if there is numba, else by scipy.

    What corrects frames goes into weights, which are worked out when the first frame comes with a correction, and kept
    as long as that is.

    Parameters
    ----------
    splitting
        The shares of pixels in bins.
    missing
        The least and the largest value, under 0, that stand for no value; None: there are none.
    """

    def __init__(self, splitting: Splitting, missing: tuple[float, float] | None = None) -> None:
        self._missing = missing
        whole, broad = compiled(whole_loop), compiled(broad_loop)
        self.shape, self.bins, self.axes = splitting.shape, splitting.bins, splitting.axes
        self._pixels: Any = PixelRuns(splitting, (whole, broad)) if whole and broad else PixelBlocks(splitting)
        self._plain = self._pixels.prepared(None)
        self._prepared: WeakKeyDictionary[Correction, Any] = WeakKeyDictionary()

    def bounds(self, dtype: numpy.dtype) -> Bounds | None:
        """Return the least and the largest value that counts, None if all do; among unsigned -1 is the largest."""
        if self._missing is None:
            return None
        least, largest = self._missing
        if dtype.kind == "u":
            return -math.inf, math.nextafter(2.0 ** (8 * dtype.itemsize) + least, 0)
        return math.nextafter(largest, 0), math.inf

    def sums(self, frame: Array, correction: Correction | None, bounds: Bounds | None, has_variance: bool) -> Sums:
        """Return the sums of one frame."""
        prepared = self._plain if correction is None else self._prepared.get(correction)
        if prepared is None:
            assert correction is not None
            self._prepared[correction] = prepared = self._pixels.prepared(correction)
        signal, norm = prepared.sums(frame, bounds)
        is_seen = norm > _EMPTY * self._plain.norm
        variance = prepared.variances(frame, bounds) if has_variance else None
        return Sums(numpy.where(is_seen, signal, 0.0), numpy.where(is_seen, norm, 0.0), variance)

"""Sums over the pixels of each bin, by scipy: the twin of `PixelRuns`, where there is no numba."""

import math
from functools import cached_property
from typing import Any

import numpy

from pipeline.reductions.corrected import Correction
from pipeline.reductions.pixel_splitting import Splitting

Array = numpy.ndarray
Bounds = tuple[float, float]

BLOCK = 2**16  # pixels at a time, which stay in the cache


class PixelBlocks:
    """The shares of pixels in bins, as one sparse matrix for each block of the frame.

    Parameters
    ----------
    splitting
        The shares. What is kept of them takes 12 bytes for each, besides 4 bytes of light a pixel.
    """

    def __init__(self, splitting: Splitting) -> None:
        from scipy.sparse import csr_array

        self.n_bins, self.light = splitting.n_bins, splitting.light
        matrix: Any = csr_array(splitting[2:5], shape=(self.n_bins, self.light.size)).tocsc()
        starts = range(0, self.light.size, BLOCK)
        self.parts = [slice(start, min(start + BLOCK, self.light.size)) for start in starts]
        self.blocks = [matrix[:, part].tocsr().astype(float) for part in self.parts]

    @cached_property
    def squares(self) -> list[Any]:
        """The squares of the shares."""
        return [block.power(2) for block in self.blocks]

    def prepared(self, correction: Correction | None) -> "PreparedBlocks":
        """Return what sums frames that have this correction."""
        return PreparedBlocks(self, correction)


class PreparedBlocks:
    """What sums frames that have one correction; see `PreparedRuns`: the same sums, but for rounding of 1e-8.

    Attributes
    ----------
    norm
        float64, by bin: how much light the pixels see that can be used.
    """

    def __init__(self, pixels: PixelBlocks, correction: Correction | None) -> None:
        self._pixels = pixels
        self._is_usable = correction.is_usable.ravel() if correction is not None and correction.n_bad else None
        self._offset = None if correction is None else correction.offset.ravel()
        self._gain = None if correction is None or correction.gain is None else correction.gain.ravel()
        self.norm = numpy.zeros(pixels.n_bins)
        for part, block in zip(pixels.parts, pixels.blocks, strict=True):
            self.norm += block @ self._light(part)

    def _light(self, part: slice) -> Array:
        light = self._pixels.light[part].astype(float)
        return light if self._is_usable is None else light * self._is_usable[part]

    def sums(self, frame: Array, bounds: Bounds | None = None) -> tuple[Array, Array]:
        """Return the sums of the corrected values of a frame, by bin, and how much light the pixels see that count."""
        found, norm, values = numpy.zeros(self._pixels.n_bins), self.norm, frame.reshape(-1)
        for part, block in zip(self._pixels.parts, self._pixels.blocks, strict=True):
            x, is_lost = _counting(values[part], bounds)
            found += block @ self._without_unknown(self._corrected(x, part), is_lost)
            if is_lost is not None and is_lost.any():
                norm = norm - block @ numpy.where(is_lost, self._light(part), 0.0)
        return found, norm

    def variances(self, frame: Array, bounds: Bounds | None = None) -> Array:
        """Return the variances of these sums, of counts as they were read: that of N is N, and of nothing 1."""
        found, values = numpy.zeros(self._pixels.n_bins), frame.reshape(-1)
        for part, block in zip(self._pixels.parts, self._pixels.squares, strict=True):
            x, is_lost = _counting(values[part], bounds)
            found += block @ self._without_unknown(self._varied(x, part), is_lost)
        return found

    def _corrected(self, x: Array, part: slice) -> Array:
        if self._offset is not None:
            x -= self._offset[part]
        if self._gain is not None:
            x *= self._gain[part]
        return x

    def _varied(self, x: Array, part: slice) -> Array:
        numpy.maximum(x, 1.0, out=x)
        if self._gain is not None:
            x *= self._gain[part] ** 2
        return x

    def _without_unknown(self, x: Array, is_lost: Array | None) -> Array:
        if is_lost is not None or self._is_usable is not None:
            x[numpy.isnan(x)] = 0.0
        return x


def _counting(values: Array, bounds: Bounds | None) -> tuple[Array, Array | None]:
    """Return values as floats, and which do not count, if any may be so; NaN stands for them."""
    x = values.astype(float)
    if bounds is None and values.dtype.kind != "f":
        return x, None
    least, largest = bounds or (-math.inf, math.inf)
    is_lost = ~((x >= least) & (x <= largest) & numpy.isfinite(x))
    x[is_lost] = numpy.nan
    return x, is_lost

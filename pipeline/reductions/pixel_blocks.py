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
        is_usable = correction.is_usable.ravel() if correction is not None and correction.n_bad else None
        gain = None if correction is None else correction.gain
        if gain is None and is_usable is not None:
            gain = numpy.ones(pixels.light.shape, numpy.float32)
        self._offset = None if correction is None else _usable(correction.offset, is_usable)
        self._gain = None if gain is None else _usable(gain, is_usable)
        self._light = _usable(pixels.light, is_usable)
        self.norm = self._summed(self._light, pixels.blocks)
        self._of_offset = 0.0 if self._offset is None else self._summed(self._offset, pixels.blocks, self._gain)

    def _summed(self, image: Array, blocks: list[Any], gain: Array | None = None) -> Array:
        """Return the sums over an image, times a gain."""
        found = numpy.zeros(self._pixels.n_bins)
        for part, block in zip(self._pixels.parts, blocks, strict=True):
            x = image[part].astype(float)
            found += block @ (x if gain is None else numpy.multiply(x, gain[part], out=x))
        return found

    def sums(self, frame: Array, bounds: Bounds | None = None) -> tuple[Array, Array]:
        """Return the sums of the corrected values of a frame, by bin, and how much light the pixels see that count."""
        values, is_lost = frame.reshape(-1), _not_counting(frame, bounds)
        if is_lost is None:
            return self._summed(values, self._pixels.blocks, self._gain) - self._of_offset, self.norm
        # What does not count is nothing once the offset is taken off.
        values = numpy.where(is_lost, 0.0 if self._offset is None else self._offset, values)
        norm = self.norm - self._summed(numpy.where(is_lost, self._light, 0.0), self._pixels.blocks)
        return self._summed(values, self._pixels.blocks, self._gain) - self._of_offset, norm

    def variances(self, frame: Array, bounds: Bounds | None = None) -> Array:
        """Return the variances of these sums, of counts as they were read: that of N is N, and of nothing 1."""
        is_lost = _not_counting(frame, bounds)
        counts = numpy.maximum(frame.reshape(-1), 1)
        counts = counts if is_lost is None else numpy.where(is_lost, 0.0, counts)
        return self._summed(counts, self._pixels.squares, None if self._gain is None else self._gain**2)


def _usable(image: Array, is_usable: Array | None) -> Array:
    """Return an image that is 0 where a pixel cannot be used."""
    return image.ravel() if is_usable is None else numpy.where(is_usable, image.ravel(), numpy.float32(0))


def _not_counting(frame: Array, bounds: Bounds | None) -> Array | None:
    """Return which values do not count; None if all do."""
    if bounds is None and frame.dtype.kind != "f":
        return None
    least, largest = bounds or (-math.inf, math.inf)
    values = frame.reshape(-1)
    is_lost = ~((values >= least) & (values <= largest) & numpy.isfinite(values))
    return is_lost if is_lost.any() else None

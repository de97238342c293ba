"""Sums over the pixels of each bin, compiled: in one pass over the frame."""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy

from pipeline.reductions.compiled import readable
from pipeline.reductions.corrected import Correction
from pipeline.reductions.pixel_splitting import Splitting

Array = numpy.ndarray
Bounds = tuple[float, float]

BLOCK = 2**14  # pixels at a time: they stay in the cache nearest to the processor, and 16 bits number them
_ONE = 2.0**31  # a share of 1 as an integer of 32 bits
_UNEVEN = 256.0  # from where on gains differ too much for integers to hold them all
_FINITE = -numpy.finfo(float).max, numpy.finfo(float).max
_NONE = readable(numpy.empty(0, numpy.float32))  # so that there is one kernel, whatever the correction


class Weights(NamedTuple):
    """What the value of an entry is multiplied by in its bin, and in its bin and the next one together (1 if empty)."""

    here: Array
    both: Array
    unit: float = 1.0


class PixelRuns:
    """The shares of pixels in bins, sorted so that a frame is read once, and each bin is summed in a register.

    An entry is a pixel with its share in a bin. Most pixels have one: what is not in this bin is in the next; where a
    pixel lies in more bins it has an entry for each. Entries are sorted by block of the frame, then by bin; those of a
    bin in a block are a run. A block is copied to where it is near, and the values of a run are picked from there.

    Parameters
    ----------
    splitting
        The shares. What is kept of them takes 10 bytes an entry, besides 4 bytes of light a pixel.
    kernels
        `whole_loop` and `broad_loop`, compiled.
    """

    def __init__(self, splitting: Splitting, kernels: tuple[Callable[..., Any], Callable[..., Any]]) -> None:
        self.n_bins, self.light = splitting.n_bins, splitting.light
        self.sum_whole, self.sum_broad = kernels
        pixels, bins, here, is_pair = _entries(splitting)
        run = (pixels // BLOCK * numpy.int64(self.n_bins) + bins) * 2 + is_pair
        order = numpy.argsort(run, kind="stable")
        run = run[order]
        begins = numpy.flatnonzero(numpy.r_[True, run[1:] != run[:-1]][: len(run)])
        self.places = (pixels[order] % BLOCK).astype(numpy.uint16)
        self.here = here[order]
        self.run_bins = (run[begins] // 2 % self.n_bins).astype(numpy.uint32)
        self.run_is_pair = run[begins] % 2 == 1
        self.run_starts = numpy.r_[begins, len(run)].astype(numpy.uint64)
        blocks = numpy.arange(-(-self.light.size // BLOCK) + 1)
        self.block_runs = numpy.searchsorted(run[begins] // 2 // self.n_bins, blocks).astype(numpy.uint64)

    @property
    def layout(self) -> tuple[Array, ...]:
        """Where everything is, for kernels."""
        return self.places, self.run_bins, self.run_is_pair, self.run_starts, self.block_runs

    def prepared(self, correction: Correction | None) -> "PreparedRuns":
        """Return what sums frames that have this correction."""
        return PreparedRuns(self, correction)

    def pixels(self) -> Array:
        """Return the pixel of each entry."""
        starts = self.run_starts[self.block_runs].astype(numpy.int64)
        return numpy.repeat(numpy.arange(len(starts) - 1) * BLOCK, numpy.diff(starts)) + self.places

    def beyond(self) -> Array:
        """Return the share of each entry in the next bin."""
        return numpy.where(self._by_entry(self.run_is_pair), 1 - self.here, 0.0)

    def total(self, weights: Weights, image: Array) -> Array:
        """Return the sums over an image by plain numpy: for what is worked out once."""
        values, bins = image[self.pixels()].astype(float), self._by_entry(self.run_bins)
        here = values * weights.here
        beyond = values * (weights.both if weights.both.size else 1 / weights.unit) - here
        beyond[~self._by_entry(self.run_is_pair)] = 0
        found = numpy.bincount(bins, here, self.n_bins + 1)
        found[1:] += numpy.bincount(bins, beyond, self.n_bins)
        return found[:-1] * weights.unit

    def _by_entry(self, of_runs: Array) -> Array:
        return numpy.repeat(of_runs, numpy.diff(self.run_starts.astype(numpy.int64)))


def _entries(splitting: Splitting) -> tuple[Array, Array, Array, Array]:
    """Return pixel, bin, float64 share of each entry, and whether the rest of the pixel is in the next bin."""
    from scipy.sparse import csr_array

    matrix: Any = csr_array(splitting[2:5], shape=(splitting.n_bins, splitting.light.size)).tocsc()
    shares, bins, starts = matrix.data.astype(float), matrix.indices, matrix.indptr
    n_shares = numpy.diff(starts)
    pixels = numpy.repeat(numpy.arange(len(n_shares), dtype=numpy.int32), n_shares)
    is_pair = (n_shares == 1) | (n_shares == 2)
    first = starts[:-1][is_pair]
    last = first + n_shares[is_pair] - 1
    is_neighbour = bins[last] - bins[first] == last - first
    is_whole = abs(numpy.where(last > first, shares[first] + shares[last], shares[first]) - 1) < 1e-6
    is_pair[is_pair] = is_neighbour & is_whole
    first, last = starts[:-1][is_pair], starts[1:][is_pair] - 1
    # Of two shares in float32 the smaller one is known better, and 1 less it better than the other.
    beyond = numpy.where(last > first, shares[last], 0.0)
    shares[first] = numpy.where(beyond < shares[first], 1 - beyond, shares[first])
    is_kept = ~is_pair[pixels]
    is_kept[first] = True
    return pixels[is_kept], bins[is_kept], shares[is_kept], is_pair[pixels[is_kept]]


class PreparedRuns:
    """What sums frames that have one correction.

    Attributes
    ----------
    norm
        float64, by bin: how much light the pixels see that can be used.
    """

    def __init__(self, runs: PixelRuns, correction: Correction | None) -> None:
        self._runs = runs
        self._is_usable = correction.is_usable.ravel() if correction is not None and correction.n_bad else None
        offset = None if correction is None else correction.offset
        gain = None if correction is None else correction.gain
        if gain is None and self._is_usable is not None:
            gain = numpy.ones(runs.light.shape, numpy.float32)
        self._offset, self._gain, self._light = (self._usable(each) for each in (offset, gain, runs.light))
        self._weights: dict[tuple[bool, int], Weights] = {}
        self.norm = runs.total(Weights(runs.here, runs.here[:0]), self._light)

    def _usable(self, image: Array | None) -> Array:
        """Return an image that is 0 where a pixel cannot be used; an empty one for none."""
        if image is None or self._is_usable is None:
            return _NONE if image is None else readable(image).ravel()
        return readable(numpy.where(self._is_usable, image.ravel(), numpy.float32(0)))

    def sums(self, frame: Array, bounds: Bounds | None = None) -> tuple[Array, Array]:
        """Return the sums of the corrected values of a frame, by bin, and how much light the pixels see that count.

        Parameters
        ----------
        frame
            Of any dtype of numbers, as it was read.
        bounds
            The least and the largest value that counts; what is not finite never does.
        """
        if self._is_whole(frame, bounds):
            return self._of_whole(frame, numpy.iinfo(frame.dtype).min, 1), self.norm
        found, lost = self._of_broad(frame, bounds, -math.inf, 1)
        return found, self.norm - lost

    def variances(self, frame: Array, bounds: Bounds | None = None) -> Array:
        """Return the variances of these sums, of counts as they were read: that of N is N, and of nothing 1."""
        if self._is_whole(frame, bounds):
            return self._of_whole(frame, 1, 2)
        return self._of_broad(frame, bounds, 1.0, 2)[0]

    def _is_whole(self, frame: Array, bounds: Bounds | None) -> bool:
        return bounds is None and frame.dtype.kind in "iu" and frame.dtype.itemsize <= 2 and self._is_even

    @cached_property
    def _is_even(self) -> bool:
        """Whether integers of 32 bits hold all gains well."""
        used = self._gain[self._gain > 0]
        return not used.size or float(used.max()) <= _UNEVEN * float(numpy.median(used))

    def _of_whole(self, frame: Array, least: int, power: int) -> Array:
        runs, weights = self._runs, self._weights_of(power, is_whole=True)
        found = numpy.zeros((2, runs.n_bins + 1))
        values = readable(frame).ravel()
        floor = values.dtype.type(least)
        runs.sum_whole(values, floor, *weights[:2], *runs.layout, numpy.empty(BLOCK, values.dtype), *found)
        sums = _put_together(*found) * weights.unit
        return sums - self._offset_sums if power == 1 and self._offset.size else sums

    def _of_broad(self, frame: Array, bounds: Bounds | None, floor: float, power: int) -> tuple[Array, Array]:
        runs, weights = self._runs, self._weights_of(power, is_whole=False)
        found = numpy.zeros((4, runs.n_bins + 1))
        runs.sum_broad(
            readable(frame).ravel(),
            *(*(bounds or _FINITE), floor, self._offset if power == 1 else _NONE, self._gain_for(power)),
            *(*weights[:2], runs.here, self._light),
            *(*runs.layout, numpy.empty(BLOCK), *found),
        )
        return _put_together(*found[:2]), _put_together(*found[2:])

    # what is worked out once -----------------------------------------------------------------------------------

    def _gain_for(self, power: int) -> Array:
        return self._gain if power == 1 else readable(self._gain**power)

    @cached_property
    def _offset_sums(self) -> Array:
        return self._runs.total(self._weights_of(1, is_whole=True), self._offset)

    def _weights_of(self, power: int, *, is_whole: bool) -> Weights:
        """Return the weights, to this power; whole ones hold the gain too, which broad ones do without."""
        key = is_whole, power
        if key not in self._weights:
            here = self._runs.here**power
            both = here[:0] if power == 1 else here + self._runs.beyond() ** power
            self._weights[key] = self._as_whole(here, both, power) if is_whole else Weights(here, both)
        return self._weights[key]

    def _as_whole(self, here: Array, both: Array, power: int) -> Weights:
        if self._gain.size:
            gain = self._gain.astype(float)[self._runs.pixels()] ** power
            here, both = here * gain, both * gain if both.size else gain
        largest = float(both.max(initial=0)) or 1.0 if both.size else 1.0
        unit = 2.0 ** math.ceil(math.log2(largest)) / _ONE
        return Weights(*(numpy.rint(part / unit).astype(numpy.uint32) for part in (here, both)), unit=unit)


def _put_together(here: Array, beyond: Array) -> Array:
    here[1:] += beyond[:-1]
    return here[:-1]


# kernels -----------------------------------------------------------------------------------------------------------


def whole_loop(
    frame: Any,
    least: Any,
    weights_here: Any,
    weights_both: Any,
    places: Any,
    run_bins: Any,
    run_is_pair: Any,
    run_starts: Any,
    block_runs: Any,
    buffer: Any,
    here: Any,
    beyond: Any,
) -> None:
    """Sum integers of 16 bits times weights of 32 bits: in integers of 64 bits, exactly, within a run."""
    for block in range(block_runs.size - 1):
        part = frame[block * buffer.size : (block + 1) * buffer.size]
        for i in range(part.size):
            buffer[i] = part[i] if part[i] > least else least
        for run in range(block_runs[block], block_runs[block + 1]):
            a = numpy.int64(0)
            n = numpy.int64(0)
            if weights_both.size:
                for j in range(run_starts[run], run_starts[run + 1]):
                    x = numpy.int64(buffer[places[j]])
                    a += numpy.int64(weights_here[j]) * x
                    n += numpy.int64(weights_both[j]) * x
            else:
                for j in range(run_starts[run], run_starts[run + 1]):
                    x = numpy.int64(buffer[places[j]])
                    a += numpy.int64(weights_here[j]) * x
                    n += x
                n *= numpy.int64(2147483648)
            here[run_bins[run]] += numpy.float64(a)
            if run_is_pair[run]:
                beyond[run_bins[run]] += numpy.float64(n - a)


def broad_loop(
    frame: Any,
    least: Any,
    largest: Any,
    floor: Any,
    offset: Any,
    gain: Any,
    weights_here: Any,
    weights_both: Any,
    shares: Any,
    light: Any,
    places: Any,
    run_bins: Any,
    run_is_pair: Any,
    run_starts: Any,
    block_runs: Any,
    buffer: Any,
    here: Any,
    beyond: Any,
    lost_here: Any,
    lost_beyond: Any,
) -> None:
    """Sum numbers of any kind in float64, leave out those that do not count, and sum the light of these."""
    for block in range(block_runs.size - 1):
        start, stop = block * buffer.size, (block + 1) * buffer.size
        part, part_offset, part_gain, part_light = (
            frame[start:stop],
            offset[start:stop],
            gain[start:stop],
            light[start:stop],
        )
        for i in range(part.size):
            x = numpy.float64(part[i])
            x = x if (x >= least) & (x <= largest) else numpy.nan
            buffer[i] = floor if x < floor else x
        for i in range(part_offset.size):
            buffer[i] -= part_offset[i]
        for i in range(part_gain.size):
            buffer[i] *= part_gain[i]
        for run in range(block_runs[block], block_runs[block + 1]):
            begin, end = run_starts[run], run_starts[run + 1]
            last = end - numpy.uint64(1)
            a0, a1, n0, n1 = 0.0, 0.0, 0.0, 0.0
            if weights_both.size:
                for j in range(begin, end):
                    x = buffer[places[j]]
                    a0 += weights_here[j] * x
                    n0 += weights_both[j] * x
            else:
                for j in range(begin, last, numpy.uint64(2)):
                    x, y = buffer[places[j]], buffer[places[j + numpy.uint64(1)]]
                    a0 += weights_here[j] * x
                    a1 += weights_here[j + numpy.uint64(1)] * y
                    n0 += x
                    n1 += y
                if (end - begin) % numpy.uint64(2):
                    x = buffer[places[last]]
                    a0 += weights_here[last] * x
                    n0 += x
            a, n, k = a0 + a1, n0 + n1, run_bins[run]
            if n != n:  # some do not count
                a, n = 0.0, 0.0
                for j in range(begin, end):
                    x = buffer[places[j]]
                    if x == x:
                        a += weights_here[j] * x
                        n += weights_both[j] * x if weights_both.size else x
                    else:
                        lost_here[k] += shares[j] * part_light[places[j]]
                        if run_is_pair[run]:
                            lost_beyond[k] += (1 - shares[j]) * part_light[places[j]]
            here[k] += a
            if run_is_pair[run]:
                beyond[k] += n - a

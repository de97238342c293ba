"""A multiple-tau correlator: levels of frames, each at half the rate of the one below."""

import numpy

from pipeline.reductions.correlator_kernels import gather, products, sums
from pipeline.reductions.labelled_pixels import LANES, LabelledPixels
from pipeline.reductions.pair_sums import PairSums

Array = numpy.ndarray


class Correlator:
    """Sums over pairs of frames of the products of their pixels, for lags that grow with their distance.

    The first level has the lags 0 to `n_buffers - 1`; each next one sees sums of two frames of the level below, and has
    the upper half of those lags, which are twice as long. A frame that is bad keeps its place in time: the pairs that
    it would be in are left out, and so are the sums that it would be part of.

    Only the pixels are kept, in integers as narrow as hold them and the sums of frames exactly, else in float64; what
    is summed over pixels and pairs is in float64. So integers are summed without rounding up to 2**53.

    >>> correlator, pixels = Correlator(2, 4), LabelledPixels.of_labels(numpy.array([[1, 1]]))
    >>> for frame in ([[1, 2]], [[3, 4]], [[5, 6]]): correlator.add(numpy.array(frame), pixels)
    True
    True
    True
    >>> correlator.lags, correlator.sums(1).n_pairs
    (array([0, 1, 2, 3, 4, 6]), array([3, 2, 1, 0, 0, 0]))
    >>> correlator.sums(1).products[:3, 0]  # 1 + 4 + 9 + 16 + 25 + 36, 3 + 8 + 15 + 24, 5 + 12
    array([91., 50., 17.])
    """

    def __init__(self, n_levels: int, n_buffers: int) -> None:
        self._n_levels, self._n_buffers = n_levels, n_buffers
        self._levels: list[Level] = []  # as far as frames have come
        self._n_before = 0  # bad ones, before the pixels were known
        self._bits = 0  # of the largest magnitude so far; 64 once there were floats

    @property
    def lags(self) -> Array:
        """The lags, in frames."""
        half = self._n_buffers // 2
        upper = [numpy.arange(half, 2 * half) << k for k in range(1, self._n_levels)]
        return numpy.concatenate([numpy.arange(self._n_buffers), *upper])

    def add(self, frame: Array, pixels: LabelledPixels) -> bool:
        """Take in a frame; return whether all of its pixels are finite, without which it is bad."""
        level = self._begun(pixels)
        if frame.dtype.kind == "f":
            self._make_room(64)
        bits = gather(frame, pixels.places, pixels.targets, level.next)
        if self._make_room(bits):
            gather(frame, pixels.places, pixels.targets, level.next)
        level.next_totals[:] = sums(level.next.reshape(-1, LANES), pixels.starts)
        is_good = bool(numpy.isfinite(level.next_totals).all())
        self._push(is_good, pixels)
        return is_good

    def _make_room(self, bits: int) -> bool:
        """Let the levels keep what has so many bits, and sums of it; return whether the first one did not."""
        if bits <= self._bits:
            return False
        before, self._bits = self._dtype(0), bits
        for k, level in enumerate(self._levels):
            level.ring = level.ring.astype(self._dtype(k), copy=False)
        return before != self._dtype(0)

    def _dtype(self, k: int) -> str:
        """Return the narrowest dtype that holds all at a level exactly, if there is one."""
        bits = self._bits + k
        return "i2" if bits <= 15 else "i4" if bits <= 31 else "f8"

    def skip(self, pixels: LabelledPixels | None) -> None:
        """Take in a bad frame; the pixels may not be known yet."""
        if pixels is None:
            self._n_before += 1
        else:
            self._begun(pixels)
            self._push(False, pixels)

    def _begun(self, pixels: LabelledPixels) -> "Level":
        if not self._levels:
            self._levels.append(self._level(0, pixels))
            for _ in range(self._n_before):
                self._push(False, pixels)
        return self._levels[0]

    def _level(self, k: int, pixels: LabelledPixels) -> "Level":
        first = self._n_buffers // 2 if k else 0
        return Level(first, self._n_buffers, pixels, self._dtype(k))

    def _push(self, is_good: bool, pixels: LabelledPixels) -> None:
        """Let the first level take in what is next in it, and those above it what that completes."""
        self._levels[0].push(is_good, pixels)
        for k in range(1, self._n_levels):
            below = self._levels[k - 1]
            if below.n % 2:
                return
            if k == len(self._levels):
                self._levels.append(self._level(k, pixels))
            is_good = self._levels[k].add_pair(below)
            self._levels[k].push(is_good, pixels)

    def sums(self, n_regions: int) -> PairSums:
        """Return the sums so far, by lag; 0 where there are no pairs."""
        found, row = PairSums(len(self.lags), n_regions), 0
        for level in self._levels:
            row = found.put(row, level.sums)
        return found


class Level:
    """The last frames of one rate, and the sums over their pairs.

    Parameters
    ----------
    first
        The shortest lag.
    n_buffers
        How many frames are kept, and the longest lag less one.
    pixels
        What the frames have.
    dtype
        Of what is kept.
    """

    def __init__(self, first: int, n_buffers: int, pixels: LabelledPixels, dtype: str) -> None:
        self.ring: Array = numpy.zeros((n_buffers, pixels.n_rows * LANES), dtype)  # what fills up rows stays 0
        self.sums = PairSums(n_buffers - first, len(pixels.counts))
        self.n = 0  # frames so far
        self._first = first
        self._totals = numpy.zeros((n_buffers, len(pixels.counts)))  # of each region, of the frames in the ring
        self._is_good = [False] * n_buffers

    @property
    def next(self) -> Array:
        """Where the pixels of the next frame belong."""
        return self.ring[self.n % len(self.ring)]

    @property
    def next_totals(self) -> Array:
        """Where the sums of the regions of the next frame belong."""
        return self._totals[self.n % len(self.ring)]

    def add_pair(self, below: "Level") -> bool:
        """Make the next frame the sum of the last two of the level below; return whether both are good."""
        old, new = (below.n - 2) % len(self.ring), (below.n - 1) % len(self.ring)
        is_good = below._is_good[old] and below._is_good[new]
        if is_good:
            with numpy.errstate(over="ignore", invalid="ignore"):
                numpy.add(below.ring[old], below.ring[new], out=self.next, dtype=self.ring.dtype)
                numpy.add(below._totals[old], below._totals[new], out=self.next_totals)
        return is_good

    def push(self, is_good: bool, pixels: LabelledPixels) -> None:
        """Take in the next frame, whose values are where they belong if it is good."""
        place, n_buffers = self.n % len(self.ring), len(self.ring)
        self._is_good[place] = is_good
        self.n += 1
        lags = range(self._first, min(self.n, n_buffers)) if is_good else ()
        known = [lag for lag in lags if self._is_good[(place - lag) % n_buffers]]
        if known:
            self._correlate(place, numpy.array(known), pixels)

    def _correlate(self, place: int, lags: Array, pixels: LabelledPixels) -> None:
        past = (place - lags) % len(self.ring)
        rows = slice(lags[0] - self._first, lags[-1] - self._first + 1) if _are_all(lags) else lags - self._first
        ring = self.ring.reshape(len(self.ring), -1, LANES)
        with numpy.errstate(over="ignore", invalid="ignore"):
            found = products(ring, place, past, pixels.starts)
            self.sums.add(rows, found, self._totals[past], self._totals[place])


def _are_all(lags: Array) -> bool:
    return lags[-1] - lags[0] + 1 == len(lags)

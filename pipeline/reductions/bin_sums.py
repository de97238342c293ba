"""Exact sums of floats, and of their squares, in bins."""

import math
from typing import Any

import numpy

from pipeline.reductions.wide_integers import WideIntegers

Array = numpy.ndarray

_UNIT = 1074  # every float is a whole number of 2**-1074
_HALF = 27  # bits: the half of a mantissa
_WAITING = 256  # single numbers that are taken in at once
_FEW = 8  # that are taken in faster one by one


class BinSums:
    """How many numbers are in each bin, and their sum without any rounding: the same bits in any order.

    What `ExactSum` is to one sum, this is to many. Memory is some 50 bytes a bin, more where sizes differ widely.
    Single numbers wait until there are some, or until they are asked for, and are then taken in as an array.

    Parameters
    ----------
    size
        How many bins there are.

    >>> bins = BinSums(3)
    >>> bins.add_array(numpy.array([0, 0, 0, 0, 2]), numpy.array([1e16, 1.0, -1e16, 0.0, 7.0]))
    >>> bins.n, bins.sum(), bins.mean()
    (array([4, 0, 1]), array([1., 0., 7.]), array([0.25,  nan, 7.  ]))
    """

    def __init__(self, size: int) -> None:
        self._n: Array = numpy.zeros(size, numpy.int64)
        self._totals = WideIntegers(size)
        self._is_stale: Array = numpy.zeros(size, bool)  # the bins whose sum is not the one below
        self._sums: Array = numpy.zeros(size)
        self._waiting_bins: list[int] = []
        self._waiting: list[float] = []

    def add(self, i: int, x: float) -> None:
        """Take in one finite number, into bin `i`."""
        self._waiting_bins.append(i)
        self._waiting.append(x)
        if len(self._waiting) == _WAITING:
            self._settle()

    def _settle(self) -> None:
        bins, numbers = self._waiting_bins, self._waiting
        self._waiting_bins, self._waiting = [], []
        if len(numbers) > _FEW:
            self.add_array(numpy.array(bins), numpy.array(numbers))
        else:
            for i, x in zip(bins, numbers, strict=True):
                numerator, denominator = x.as_integer_ratio()
                self._add(i, numerator, _UNIT + 1 - denominator.bit_length())

    def _add(self, i: int, value: int, shift: int) -> None:
        self._n[i] += 1
        self._is_stale[i] = True
        self._totals.add(i, value, shift)

    @property
    def n(self) -> Array:
        """How many numbers there are in each bin."""
        self._settle()
        return self._n.copy()

    def add_array(self, i: Array, x: Array) -> None:
        """Take in finite numbers, float64, each into its bin `i`."""
        self._add_array(i, *_integers(x))

    def _add_array(self, i: Array, values: Array, shifts: Array) -> None:
        numpy.add.at(self._n, i, 1)
        self._is_stale[i] = True
        self._totals.add_array(i, values, shifts)

    def merge(self, other: Any) -> None:
        """Take in other sums."""
        other._settle()
        self._n += other._n
        self._is_stale |= other._n > 0
        self._totals.merge(other._totals)

    def sum(self) -> Array:
        """Return the sums, correctly rounded; NaN where that is no float."""
        self._refresh()
        return self._sums.copy()

    def mean(self) -> Array:
        """Return the rounded sums over the counts; NaN where there is nothing."""
        with numpy.errstate(invalid="ignore"):
            mean = self.sum() / self._n
        for i in numpy.flatnonzero(numpy.isnan(mean) & (self._n > 0)):  # the sum is no float, the mean is
            mean[i] = self._totals.integers([i])[0] / (int(self._n[i]) << _UNIT)
        return mean

    def _refresh(self) -> None:
        self._settle()
        stale = numpy.flatnonzero(self._is_stale)
        if len(stale):
            self._refresh_bins(stale)
            self._is_stale[stale] = False

    def _refresh_bins(self, i: Array) -> None:
        self._sums[i] = self._totals.rounded(i, _UNIT)


class BinMoments(BinSums):
    """`BinSums` with the sums of squares, for standard errors.

    >>> bins = BinMoments(2)
    >>> bins.add_array(numpy.array([0, 0, 1]), numpy.array([1e9 + 1, 1e9 + 3, 5.0]))
    >>> bins.error()
    array([ 1., nan])
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._squares = WideIntegers(size)
        self._errors: Array = numpy.full(size, numpy.nan)

    def _add(self, i: int, value: int, shift: int) -> None:
        super()._add(i, value, shift)
        self._squares.add(i, value * value, 2 * shift)

    def _add_array(self, i: Array, values: Array, shifts: Array) -> None:
        super()._add_array(i, values, shifts)
        sizes = numpy.abs(values)
        high, low = sizes >> _HALF, sizes & (2**_HALF - 1)  # of 26 and 27 bits
        for value, shift in ((high * high, 2 * _HALF), (high * low, _HALF + 1), (low * low, 0)):
            self._squares.add_array(i, value, 2 * shifts + shift)

    def merge(self, other: Any) -> None:
        """Take in other moments."""
        super().merge(other)
        self._squares.merge(other._squares)

    def error(self) -> Array:
        """Return the standard errors of the means, correctly rounded but for the root; NaN of less than two numbers."""
        self._refresh()
        return self._errors.copy()

    def _refresh_bins(self, i: Array) -> None:
        super()._refresh_bins(i)
        parts = zip(self._n[i].tolist(), self._totals.integers(i), self._squares.integers(i), strict=True)
        self._errors[i] = [_error(*part) for part in parts]


def _error(n: int, total: int, squares: int) -> float:
    if n < 2:
        return math.nan
    try:
        return math.sqrt((n * squares - total**2) / ((n * n * (n - 1)) << 2 * _UNIT))
    except OverflowError:
        return math.nan


def _integers(x: Array) -> tuple[Array, Array]:
    """Return floats as integers times powers of two, those in the unit."""
    fractions, exponents = numpy.frexp(x)
    shifts = exponents.astype(numpy.int64) + (_UNIT - 53)
    values = (fractions * 2.0**53).astype(numpy.int64)
    lost = numpy.maximum(-shifts, 0)  # of subnormals, which end in as many zeros
    return values >> lost, shifts + lost

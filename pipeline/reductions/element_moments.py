"""Moments of arrays, element by element, over events."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy

from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions.compiled import WORTH, compiled, readable
from pipeline.reductions.deviation_sums import BLOCK, DeviationSums, less

Array = numpy.ndarray


class ElementMoments:
    """Count, mean and variance of each element of float arrays, by Welford's update in float64.

    NaN and infinite elements are left out and counted. Parts are merged by the formula of Chan, Golub and LeVeque.

    Parameters
    ----------
    shape
        Of the arrays.
    has_squares
        Whether there are variances too.

    References
    ----------
    B. P. Welford, Technometrics 4 (1962) 419; T. F. Chan, G. H. Golub, R. J. LeVeque, Am. Stat. 37 (1983) 242.

    >>> moments = ElementMoments((2,))
    >>> for row in ([1.0, 2.0], [3.0, numpy.nan]): moments.add(numpy.array(row))
    >>> moments.mean(), moments.n
    (array([2., 2.]), array([2, 1]))
    """

    mergeable = "rounding"

    def __init__(self, shape: tuple[int, ...], has_squares: bool = True) -> None:
        self.shape, self.n_events = shape, 0
        size = math.prod(shape)
        self._missing = numpy.zeros(0, numpy.uint32)  # of each element, how many were not finite; empty while none was
        self._mean = numpy.zeros(size)
        self._squares = numpy.zeros(size if has_squares else 0)  # sums of squared deviations from the mean

    @property
    def n(self) -> Array:
        """Return how many values were taken of each element, int64."""
        return self.n_events - self.n_nan

    @property
    def n_nan(self) -> Array:
        """Return how many values were left out of each element, int64."""
        missing = self._missing if self._missing.size else numpy.zeros(self._mean.size)
        return missing.astype(numpy.int64).reshape(self.shape)

    def add(self, value: Array) -> None:
        """Take in one array."""
        check_shape(value, self.shape)
        values = floats(value)
        if not self._missing.size and not all_finite(values):
            self._missing = numpy.zeros(values.size, numpy.uint32)
        self.n_events += 1
        add = (compiled(_welford_loop) if values.size >= WORTH else None) or _welford_arrays
        with numpy.errstate(over="ignore", invalid="ignore"):
            add(values, self.n_events, self._mean, self._squares, self._missing)

    def merge(self, other: Any) -> None:
        """Take in other moments."""
        check_shapes(self.shape, other.shape)
        n, n_other = self._counts(), other._counts()
        n_all = numpy.maximum(n + n_other, 1)
        if self._missing.size or other._missing.size:
            self._missing = (self.n_nan + other.n_nan).reshape(-1).astype(numpy.uint32)
        self.n_events += other.n_events
        with numpy.errstate(over="ignore", invalid="ignore"):
            for part in parts(self._mean.size):
                share = _of(n_other, part) / _of(n_all, part)
                deviation = other._mean[part] - self._mean[part]
                if self._squares.size:
                    self._squares[part] += other._squares[part] + deviation**2 * _of(n, part) * share
                self._mean[part] += deviation * share

    def _counts(self) -> Array:
        """Return how many values were taken: of each element, or of all alike."""
        return self.n_events - self._missing.astype(numpy.int64) if self._missing.size else numpy.array(self.n_events)

    def total(self) -> Array:
        """Return the sums."""
        return (self._mean * self._counts()).reshape(self.shape)

    def mean(self) -> Array:
        """Return the means; NaN where there is nothing."""
        return numpy.where(self._counts() > 0, self._mean, numpy.nan).reshape(self.shape)

    def std(self, ddof: int) -> Array:
        """Return the standard deviations; NaN where there are `ddof` numbers or fewer."""
        return numpy.sqrt(self.variance(ddof))

    def variance(self, ddof: int) -> Array:
        """Return the variances; NaN where there are `ddof` numbers or fewer."""
        n = self._counts()
        known = self._squares / numpy.maximum(n - ddof, 1)
        return numpy.where(n > ddof, known, numpy.nan).reshape(self.shape)


class IntegerMoments:
    """Moments of integer arrays of at most 32 bits, summed in integers: the same bits in any order.

    Parameters
    ----------
    shape
        Of the arrays.
    has_squares
        Whether there are variances too.

    >>> moments = IntegerMoments((2,))
    >>> for row in ([1, 65535], [3, 65533]): moments.add(numpy.array(row, "u2"))
    >>> moments.mean(), moments.variance(1)
    (array([2.0000e+00, 6.5534e+04]), array([2., 2.]))
    """

    mergeable = "exact"

    def __init__(self, shape: tuple[int, ...], has_squares: bool = True) -> None:
        self.shape, self.n_events, self._has_squares = shape, 0, has_squares
        self._recent: DeviationSums | None = None
        self._before = numpy.zeros((1, 0), numpy.int64)  # sums, and of squares the high and the low parts

    @property
    def n(self) -> Array:
        """Return how many values were taken of each element, int64."""
        return numpy.full(self.shape, self.n_events)

    @property
    def n_nan(self) -> Array:
        """Return how many values were left out of each element, int64: none."""
        return numpy.zeros(self.shape, numpy.int64)

    def add(self, value: Array) -> None:
        """Take in one array."""
        check_shape(value, self.shape)
        if not fits(value.dtype):
            raise RejectedValue(f"wanted integers of at most 32 bits, as before; there is {value.dtype}.")
        if value.size < WORTH:
            self._add_whole(value.astype(numpy.int64).reshape(-1))
        else:
            self._add_narrow(readable(value).reshape(-1))
        self.n_events += 1

    def _add_whole(self, flat: Array) -> None:
        """Add a short array to the sums about zero."""
        self._reach()
        self._before[0] += flat
        if self._has_squares:
            squares = (flat * flat).view(numpy.uint64)
            self._before[1] += (squares >> numpy.uint64(32)).view(numpy.int64)
            self._before[2] += (squares & numpy.uint64(2**32 - 1)).view(numpy.int64)

    def _add_narrow(self, flat: Array) -> None:
        if self._recent is not None and (self._recent.is_far or not self._recent.takes(flat)):
            self._fold()
        if self._recent is None:
            self._recent = DeviationSums(flat, self._has_squares)
        else:
            self._recent.add(flat)

    def merge(self, other: Any) -> None:
        """Take in other moments."""
        check_shapes(self.shape, other.shape)
        if not other.n_events:
            return
        self._fold()
        self._reach()
        for part in self._parts():
            self._before[:, part] += other._sums(part)
        self.n_events += other.n_events

    def _fold(self) -> None:
        """Put what there is about zero, where anything can be added to it."""
        if self._recent is None:
            return
        self._reach()
        for part in self._parts():
            self._before[:, part] += _sums_of(self._recent, part, len(self._before))
        self._recent = None

    def _reach(self) -> None:
        if not self._before.size:
            self._before = numpy.zeros((3 if self._has_squares else 1, math.prod(self.shape)), numpy.int64)

    def _parts(self) -> Iterator[slice]:
        return parts(math.prod(self.shape))

    def _sums(self, part: slice, n_rows: int = 3) -> Array:
        """Return the sums of some elements, and those of their squares in two parts: `high * 2**32 + low`."""
        n_rows = min(n_rows, 3 if self._has_squares else 1)
        before = self._before[:n_rows, part] if self._before.size else 0
        return before + _sums_of(self._recent, part, n_rows) if self._recent is not None else numpy.asarray(before)

    def in_floats(self) -> ElementMoments:
        """Return moments that take any numbers from here on, by Welford's update."""
        new = ElementMoments(self.shape, self._has_squares)
        new.n_events = self.n_events
        if self.n_events:
            new._mean[:] = self.mean().reshape(-1)
        if self.n_events > 1 and self._has_squares:
            new._squares[:] = self.variance(1).reshape(-1) * (self.n_events - 1)
        return new

    def total(self) -> Array:
        """Return the sums."""
        return self._each(lambda part: self._sums(part, 1)[0])

    def mean(self) -> Array:
        """Return the means; NaN of nothing."""
        if not self.n_events:
            return numpy.full(self.shape, numpy.nan)
        return self._each(lambda part: self._sums(part, 1)[0] / self.n_events)

    def std(self, ddof: int) -> Array:
        """Return the standard deviations; NaN of `ddof` arrays or fewer."""
        return numpy.sqrt(self.variance(ddof))

    def variance(self, ddof: int) -> Array:
        """Return the variances; NaN of `ddof` arrays or fewer."""
        n = self.n_events
        if n <= ddof:
            return numpy.full(self.shape, numpy.nan)
        return self._each(lambda part: _squares_about_mean(self._sums(part), n) / (n - ddof))

    def _each(self, function: Callable[[slice], Array]) -> Array:
        """Return what a function gives of all elements, by parts: little memory is needed besides."""
        found = numpy.empty(math.prod(self.shape))
        for part in self._parts():
            found[part] = function(part)
        return found.reshape(self.shape)


def _sums_of(sums: DeviationSums, part: slice, n_rows: int) -> Array:
    totals = sums.totals(part)
    return numpy.array([totals] if n_rows == 1 else [totals, *sums.squares(part)])


def _squares_about_mean(sums: Array, n: int) -> Array:
    """Return sum((x - mean)**2) as float64, from the rows sum(x), high and low: sum(x**2) = high * 2**32 + low."""
    total, high, low = sums
    # About the rounded mean k the squares need no more bits than float64 has: sum((x-k)^2) = S2 - k(2S - nk).
    k = total // n
    rest = total - k * n
    high, low = less(high, low, k, total + rest)
    square = (high + (low >> 32)) * 2.0**32 + (low & (2**32 - 1))
    return square - rest.astype(float) ** 2 / n


def fits(dtype: numpy.dtype) -> bool:
    """Tell whether arrays of this dtype are summed in integers."""
    return dtype.kind == "b" or (dtype.kind in "iu" and dtype.itemsize <= 4)


def check_shape(value: Array, shape: tuple[int, ...]) -> None:
    """Refuse what is no array of numbers of this shape."""
    if value.shape != shape or value.dtype.kind not in "biuf":
        raise RejectedValue(
            f"wanted numbers of shape {list(shape)}, there is {value.dtype} of shape {list(value.shape)}."
        )


def check_shapes(shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    """Refuse to merge what is of another shape."""
    if shape != other:
        raise PipelineValueError(f"wanted moments of arrays of shape {list(shape)}, there are some of {list(other)}.")


def floats(value: Array) -> Array:
    """Return an array flat, as a kernel reads it: float32 and float64 as they are, all else as float64."""
    return readable(value if value.dtype.kind == "f" else value.astype(float)).reshape(-1)


def parts(size: int) -> Iterator[slice]:
    """Return slices of all elements, short enough to stay in the cache.

    >>> list(parts(40000))
    [slice(0, 32768, None), slice(32768, 40000, None)]
    """
    return (slice(begin, min(begin + BLOCK, size)) for begin in range(0, size, BLOCK))


def _of(counts: Array, part: slice) -> Array:
    return counts[part] if counts.ndim else counts


def all_finite(values: Array) -> bool:
    """Tell whether all elements of a flat array of floats are finite.

    >>> all_finite(numpy.array([1.0, 2.0])), all_finite(numpy.array([1.0, numpy.inf]))
    (True, False)
    """
    count = (compiled(_count_bad_loop) if values.size >= WORTH else None) or _count_bad_arrays
    return not count(values)


def _count_bad_loop(x: Array) -> int:
    n = 0
    for i in range(x.size):
        n += not numpy.isfinite(x[i])
    return n


def _count_bad_arrays(x: Array) -> int:
    return x.size - sum(int(numpy.count_nonzero(numpy.isfinite(x[part]))) for part in parts(x.size))


# Both take the n-th array into means and sums of squared deviations: flat arrays, the last two of which may be empty.


def _welford_loop(x: Array, n: int, mean: Array, squares: Array, missing: Array) -> None:
    for i in range(x.size):
        value, before, count = float(x[i]), mean[i], n
        if missing.size:
            is_known = numpy.isfinite(x[i])
            missing[i] += not is_known
            count = max(n - missing[i], 1)
            value = value if is_known else before  # which changes nothing
        after = before + (value - before) / count
        mean[i] = after
        if squares.size:
            squares[i] += (value - before) * (value - after)


def _welford_arrays(x: Array, n: int, mean: Array, squares: Array, missing: Array) -> None:
    for part in parts(x.size):
        value, running, count = x[part], mean[part], numpy.array(n)
        if missing.size:
            is_known = numpy.isfinite(value)
            missing[part] += ~is_known
            count = numpy.maximum(n - missing[part].astype(numpy.int64), 1)
            value = numpy.where(is_known, value, running)
        deviation = value - running
        running += deviation / count
        if squares.size:
            squares[part] += deviation * (value - running)

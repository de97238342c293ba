"""Moments of arrays, element by element, over events."""

from typing import Any

import numpy

from pipeline.errors import RejectedValue

Array = numpy.ndarray


class ElementMoments:
    """Count, mean, variance, least and largest of each element of float arrays, by Welford's update in float64.

    NaN and infinite elements are left out and counted. Parts are merged by the formula of Chan, Golub and LeVeque.

    References
    ----------
    B. P. Welford, Technometrics 4 (1962) 419; T. F. Chan, G. H. Golub, R. J. LeVeque, Am. Stat. 37 (1983) 242.

    >>> moments = ElementMoments((2,))
    >>> for row in ([1.0, 2.0], [3.0, numpy.nan]): moments.add(numpy.array(row))
    >>> moments.mean(), moments.n
    (array([2., 2.]), array([2, 1]))
    """

    mergeable = "rounding"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.n_events = 0
        self.n: Array = numpy.zeros(shape, numpy.int64)
        self.least = numpy.full(shape, numpy.nan)
        self.largest = numpy.full(shape, numpy.nan)
        self._mean = numpy.zeros(shape)
        self._squares = numpy.zeros(shape)  # sums of squared deviations from the mean

    def add(self, value: Array) -> None:
        """Take in one array."""
        self._check(value)
        self.n_events += 1
        good = numpy.isfinite(value)
        self.n += good
        deviation = numpy.where(good, value - self._mean, 0.0)
        self._mean += deviation / numpy.maximum(self.n, 1)
        self._squares += deviation * numpy.where(good, value - self._mean, 0.0)
        self._widen(numpy.where(good, value, numpy.nan))

    def _check(self, value: Array) -> None:
        if value.shape != self.n.shape or value.dtype.kind not in "biuf":
            raise RejectedValue(
                f"wanted numbers of shape {list(self.n.shape)}, there is {value.dtype} of shape {list(value.shape)}."
            )

    def _widen(self, value: Array) -> None:
        self.least = numpy.fmin(self.least, value)
        self.largest = numpy.fmax(self.largest, value)

    def merge(self, other: Any) -> None:
        """Take in other moments."""
        n = self.n + other.n
        share = other.n / numpy.maximum(n, 1)
        deviation = other._mean - self._mean
        self._squares += other._squares + deviation**2 * self.n * share
        self._mean += deviation * share
        self.n_events += other.n_events
        self.n = n
        self._widen(other.least)
        self.largest = numpy.fmax(self.largest, other.largest)

    def total(self) -> Array:
        """Return the sums."""
        return self._mean * self.n

    def mean(self) -> Array:
        """Return the means; NaN where there is nothing."""
        return numpy.where(self.n > 0, self._mean, numpy.nan)

    def std(self, ddof: int) -> Array:
        """Return the standard deviations; NaN where there are `ddof` numbers or fewer."""
        return numpy.sqrt(self.variance(ddof))

    def variance(self, ddof: int) -> Array:
        """Return the variances; NaN where there are `ddof` numbers or fewer."""
        return numpy.where(self.n > ddof, self._squares / numpy.maximum(self.n - ddof, 1), numpy.nan)


class IntegerMoments(ElementMoments):
    """Moments of integer arrays of at most 32 bits, summed in integers: the same bits in any order.

    >>> moments = IntegerMoments((2,))
    >>> for row in ([1, 65535], [3, 65533]): moments.add(numpy.array(row, "u2"))
    >>> moments.mean(), moments.variance(1)
    (array([2.0000e+00, 6.5534e+04]), array([2., 2.]))
    """

    mergeable = "exact"

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self._total = numpy.zeros(shape, numpy.int64)
        self._high = numpy.zeros(shape, numpy.int64)  # sums of squares, in two parts: 32 bits and the rest
        self._low = numpy.zeros(shape, numpy.int64)

    def add(self, value: Array) -> None:
        """Take in one array."""
        self._check(value)
        if not fits(value.dtype):
            raise RejectedValue(f"wanted integers of at most 32 bits, as before; there is {value.dtype}.")
        whole = value.astype(numpy.int64)
        squares = (whole * whole).view(numpy.uint64)
        self.n_events += 1
        self.n += 1
        self._total += whole
        self._high += (squares >> numpy.uint64(32)).view(numpy.int64)
        self._low += (squares & numpy.uint64(2**32 - 1)).view(numpy.int64)
        self._widen(value)

    def merge(self, other: Any) -> None:
        """Take in other moments."""
        self.n_events += other.n_events
        self.n += other.n
        self._total += other._total
        self._high += other._high
        self._low += other._low
        self._widen(other.least)
        self.largest = numpy.fmax(self.largest, other.largest)

    def in_floats(self) -> ElementMoments:
        """Return moments that take any numbers from here on, by Welford's update."""
        new = ElementMoments(self.n.shape)
        new.n_events, new.n, new.least, new.largest = self.n_events, self.n.copy(), self.least, self.largest
        new._mean = numpy.where(self.n > 0, self.mean(), 0.0)
        new._squares = numpy.where(self.n > 1, self.variance(1) * (self.n - 1), 0.0)
        return new

    def total(self) -> Array:
        """Return the sums."""
        return self._total.astype(float)

    def mean(self) -> Array:
        """Return the means; NaN of nothing."""
        return numpy.where(self.n > 0, self._total / numpy.maximum(self.n, 1), numpy.nan)

    def variance(self, ddof: int) -> Array:
        """Return the variances; NaN of `ddof` arrays or fewer."""
        if self.n_events <= ddof:
            return numpy.full(self.n.shape, numpy.nan)
        # About the rounded mean k the squares need no more bits than float64 has: sum((x-k)^2) = S2 - 2kS + nk^2.
        k = self._total // self.n_events
        rest = self._total - k * self.n_events
        square = _square_sum(self._high, self._low, k, self._total, self.n_events)
        return (square - rest.astype(float) ** 2 / self.n_events) / (self.n_events - ddof)


def _square_sum(high: Array, low: Array, k: Array, total: Array, n: int) -> Array:
    """Return sum((x - k)**2) as float64, from sum(x**2) = high * 2**32 + low and total = sum(x).

    That is sum(x**2) - k * (2 * total - n * k), of up to 96 bits: exact, in parts that int64 holds up to 2**29 events.
    """
    weight: Array = 2 * total - n * k
    k_high, k_low, w_high, w_low = k >> 16, k & 0xFFFF, weight >> 24, weight & 0xFFFFFF
    parts = (k_high * w_high, 40), (k_high * w_low, 16), (k_low * w_high, 24), (k_low * w_low, 0)
    for part, shift in parts:
        high = high - (part << (shift - 32) if shift > 32 else part >> (32 - shift))
        low = low - ((part & (2 ** (32 - shift) - 1)) << shift if shift < 32 else 0)
    return (high + (low >> 32)) * 2.0**32 + (low & (2**32 - 1))


def fits(dtype: numpy.dtype) -> bool:
    """Tell whether arrays of this dtype are summed in integers."""
    return dtype.kind == "b" or (dtype.kind in "iu" and dtype.itemsize <= 4)

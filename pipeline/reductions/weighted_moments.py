"""Weighted moments of arrays, element by element, over events."""

from typing import Any

import numpy

from pipeline.errors import RejectedValue

Array = numpy.ndarray


class WeightedMoments:
    """Count, weighted mean and variance of each element, by West's update in float64.

    NaN and infinite elements are left out and counted. The variance is the unbiased one for weights that tell how
    reliable a value is: sum(w (x - mean)^2) / (W1 - W2 / W1), W1 and W2 the sums of weights and of their squares; for
    equal weights that is the one with `n - 1`. Parts are merged by the formula of Chan, Golub and LeVeque.

    Parameters
    ----------
    shape
        Of the arrays.

    References
    ----------
    D. H. D. West, Commun. ACM 22 (1979) 532.

    >>> moments = WeightedMoments((2,))
    >>> for x, weight in (([1.0, 5.0], 1.0), ([4.0, numpy.nan], 2.0)): moments.add(numpy.array(x), weight)
    >>> moments.mean(), moments.n
    (array([3., 5.]), array([2, 1]))
    """

    mergeable = "rounding"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.n_events = 0
        self.n: Array = numpy.zeros(shape, numpy.int64)
        self._weight = numpy.zeros(shape)
        self._weight_squares = numpy.zeros(shape)
        self._mean = numpy.zeros(shape)
        self._squares = numpy.zeros(shape)  # weighted sums of squared deviations from the mean

    def add(self, value: Array, weight: float) -> None:
        """Take in one array, of a weight over 0."""
        if value.shape != self.n.shape:
            raise RejectedValue(f"wanted shape {list(self.n.shape)}, as before; there is {list(value.shape)}.")
        good = numpy.isfinite(value)
        self.n_events += 1
        self.n += good
        self._weight += good * weight
        self._weight_squares += good * (weight * weight)  # a power would raise where it overflows
        deviation = numpy.where(good, value - self._mean, 0.0)
        # the share first: that of the first value is 1, and the mean that value, to the last bit
        self._mean += deviation * (weight / numpy.where(self.n > 0, self._weight, 1.0))
        self._squares += weight * deviation * numpy.where(good, value - self._mean, 0.0)

    def merge(self, other: Any) -> None:
        """Take in other moments."""
        weight = self._weight + other._weight
        share = other._weight / numpy.where(weight > 0, weight, 1.0)
        deviation = other._mean - self._mean
        self._squares += other._squares + deviation**2 * self._weight * share
        self._mean += deviation * share
        self._weight = weight
        self._weight_squares += other._weight_squares
        self.n_events += other.n_events
        self.n += other.n

    def mean(self) -> Array:
        """Return the means; NaN where there is nothing."""
        return numpy.where(self.n > 0, self._mean, numpy.nan)

    def variance(self, ddof: int) -> Array:
        """Return the variances; NaN of `ddof` numbers or fewer."""
        weight = numpy.where(self.n > 0, self._weight, 1.0)
        freedom = weight - ddof * self._weight_squares / weight
        is_known = (self.n > ddof) & (freedom > 0)
        return numpy.where(is_known, self._squares / numpy.where(is_known, freedom, 1.0), numpy.nan)

"""Weighted moments of arrays, element by element, over events."""

import math
from typing import Any

import numpy

from pipeline.reductions.compiled import WORTH, compiled
from pipeline.reductions.element_moments import all_finite, check_shape, check_shapes, floats, parts

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
    has_squares
        Whether there are variances too.

    References
    ----------
    D. H. D. West, Commun. ACM 22 (1979) 532.

    >>> moments = WeightedMoments((2,))
    >>> for x, weight in (([1.0, 5.0], 1.0), ([4.0, numpy.nan], 2.0)): moments.add(numpy.array(x), weight)
    >>> moments.mean(), moments.n
    (array([3., 5.]), array([2, 1]))
    """

    mergeable = "rounding"

    def __init__(self, shape: tuple[int, ...], has_squares: bool = True) -> None:
        self.shape, self.n_events = shape, 0
        size = math.prod(shape)
        self._mean = numpy.zeros(size)
        self._squares = numpy.zeros(size if has_squares else 0)  # weighted sums of squared deviations from the mean
        # Of one element that stands for all, as long as everything is finite; then of each:
        self._missing = numpy.zeros(1, numpy.int64)
        self._weight = numpy.zeros(1)
        self._weight_squares = numpy.zeros(1)

    @property
    def n(self) -> Array:
        """Return how many values were taken of each element, int64."""
        return self.n_events - self.n_nan

    @property
    def n_nan(self) -> Array:
        """Return how many values were left out of each element, int64."""
        return self._of_each(self._missing)

    def _of_each(self, values: Array) -> Array:
        return numpy.broadcast_to(values, self._mean.shape).reshape(self.shape).copy()

    def add(self, value: Array, weight: float) -> None:
        """Take in one array, of a weight over 0."""
        check_shape(value, self.shape)
        values = floats(value)
        self.n_events += 1
        with numpy.errstate(over="ignore", invalid="ignore"):
            if self._is_alike() and all_finite(values):
                self._weight += weight
                self._weight_squares += weight * weight  # a power would raise where it overflows
            else:
                self._spread()
            add = (compiled(_west_loop) if values.size >= WORTH else None) or _west_arrays
            counts = self._missing, self._weight, self._weight_squares
            add(values, weight, self._mean, self._squares, *counts, self._is_alike())

    def _is_alike(self) -> bool:
        return self._missing.size == 1 and self._mean.size != 1

    def _spread(self) -> None:
        """Have counts and weights of each element."""
        if self._missing.size == 1:
            size = self._mean.size
            self._missing = numpy.full(size, self._missing[0])
            self._weight = numpy.full(size, self._weight[0])
            self._weight_squares = numpy.full(size, self._weight_squares[0])

    def merge(self, other: Any) -> None:
        """Take in other moments."""
        check_shapes(self.shape, other.shape)
        weight = self._weight + other._weight
        share = other._weight / numpy.where(weight > 0, weight, 1.0)
        for part in parts(self._mean.size):
            deviation = other._mean[part] - self._mean[part]
            if self._squares.size:
                self._squares[part] += other._squares[part] + deviation**2 * _of(self._weight, part) * _of(share, part)
            self._mean[part] += deviation * _of(share, part)
        self._weight = weight
        self._weight_squares = self._weight_squares + other._weight_squares
        self._missing = self._missing + other._missing
        self.n_events += other.n_events

    def mean(self) -> Array:
        """Return the means; NaN where there is nothing."""
        return numpy.where(self._weight > 0, self._mean, numpy.nan).reshape(self.shape)

    def variance(self, ddof: int) -> Array:
        """Return the variances; NaN of `ddof` numbers or fewer."""
        n = self.n_events - self._missing
        weight = numpy.where(n > 0, self._weight, 1.0)
        freedom = weight - ddof * self._weight_squares / weight
        is_known = (n > ddof) & (freedom > 0)
        known = self._squares / numpy.where(is_known, freedom, 1.0)
        return numpy.where(is_known, known, numpy.nan).reshape(self.shape)


def _of(values: Array, part: slice) -> Array:
    return values[part] if values.size > 1 else values


# Both take an array, flat, into weighted means and sums of squared deviations; where not all elements are alike, into
# the counts and weights of each too.


def _west_loop(
    x: Array,
    weight: float,
    mean: Array,
    squares: Array,
    missing: Array,
    weights: Array,
    weight_squares: Array,
    is_alike: bool,
) -> None:
    share = weight / weights[0]
    for i in range(x.size):
        value, before = float(x[i]), mean[i]
        if not is_alike:
            is_known = numpy.isfinite(x[i])
            missing[i] += not is_known
            weights[i] += weight if is_known else 0.0
            weight_squares[i] += weight * weight if is_known else 0.0
            share = weight / weights[i] if weights[i] > 0 else 0.0
            value = value if is_known else before  # which changes nothing
        # the share first: that of the first value is 1, and the mean that value, to the last bit
        after = before + (value - before) * share
        mean[i] = after
        if squares.size:
            squares[i] += weight * (value - before) * (value - after)


def _west_arrays(
    x: Array,
    weight: float,
    mean: Array,
    squares: Array,
    missing: Array,
    weights: Array,
    weight_squares: Array,
    is_alike: bool,
) -> None:
    for part in parts(x.size):
        value, running, w = x[part], mean[part], weights if is_alike else weights[part]
        if not is_alike:
            is_known = numpy.isfinite(value)
            missing[part] += ~is_known
            w += is_known * weight
            weight_squares[part] += is_known * (weight * weight)
            value = numpy.where(is_known, value, running)
        deviation = value - running
        running += deviation * (weight / numpy.where(w > 0, w, numpy.inf))
        if squares.size:
            squares[part] += weight * deviation * (value - running)

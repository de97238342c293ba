"""Least squares: the same bits for the same points."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy

Array = numpy.ndarray
Linearised = Callable[[Array], tuple[Array, Array]]  # parameters -> residuals (n,), their derivatives (k, n)

_STEP = 1e-6  # of the residuals: a step that changes less is the last one
_FLOOR = 1e-15  # of what is fitted: residuals that are rounding
_MOST_DAMPING = 1e15  # where no step is left
BY_CHANCE = 1e-4  # how probable it may be that noise at one place is as good, in a short scan


class Minimum(NamedTuple):
    """Where the sum of squares is least, that sum, (J^T J)^-1 there, and whether it was reached."""

    parameters: Array
    squares: float
    covariance: Array
    is_reached: bool


def least_squares(
    linearised: Linearised,
    start: Sequence[float],
    size: float | numpy.float64,
    *,
    damping: float = 1e-3,
    steps: int = 100,
) -> Minimum:
    """Return the minimum near a start, by the Levenberg-Marquardt algorithm with Nielsen's damping.

    Our own, since MINPACK in scipy 1.17 gives other bits for the same call where parameters are not determined.

    Parameters
    ----------
    linearised
        Gives residuals, shape `(n,)`, and their derivatives, shape `(k, n)`.
    start
        Parameters to begin at.
    size
        The sum of squares of what is fitted.
    damping
        What the first step is damped by: less where the start is near.
    steps
        How many to try at most.

    References
    ----------
    K. Madsen, H. B. Nielsen, O. Tingleff, Methods for Non-Linear Least Squares Problems, 2nd ed., DTU (2004).

    >>> x, y = numpy.arange(4.0), numpy.array([1.0, 3.0, 5.0, 7.0])
    >>> least_squares(lambda p: (p[0] + p[1] * x - y, numpy.array([x**0, x])), [0, 0], y @ y).parameters.round(9)
    array([1., 2.])
    """
    p, growth = numpy.array(start, float), 2.0
    residuals, slopes = linearised(p)
    squares, scale = dot(residuals, residuals), numpy.zeros(len(p))
    for _ in range(steps):
        normal, gradient = _normal(slopes), numpy.einsum("in,n->i", slopes, residuals)
        scale = numpy.maximum(scale, normal.diagonal())
        step = _solved(normal, damping * (scale if scale.all() else numpy.where(scale > 0, scale, 1.0)), gradient)
        if step is None or damping > _MOST_DAMPING:
            break
        if dot(scale * step, step) <= (_STEP * math.sqrt(squares) + _FLOOR * math.sqrt(size)) ** 2:
            return Minimum(p + step, float(squares), covariance_of(normal), True)
        next_residuals, next_slopes = linearised(p + step)
        next_squares = dot(next_residuals, next_residuals)
        if next_squares < squares:
            gain = (squares - next_squares) / dot(step, damping * scale * step - gradient)
            damping, growth = damping * max(1 / 3, 1 - (2 * gain - 1) ** 3), 2.0
            p, residuals, slopes, squares = p + step, next_residuals, next_slopes, next_squares
        else:
            damping, growth = damping * growth, growth * 2
    return Minimum(p, float(squares), covariance_of(_normal(slopes)), False)


def dot(a: Array, b: Array) -> numpy.float64:
    """Return the sum of products; not by BLAS, whose order of summing depends on how many threads it has."""
    return numpy.einsum("n,n->", a, b)[()]


def _normal(slopes: Array) -> Array:
    return numpy.einsum("in,jn->ij", slopes, slopes)


def _solved(normal: Array, damping: Array, gradient: Array) -> Array | None:
    damped = normal.copy()
    damped.ravel()[:: len(damped) + 1] += damping
    try:
        step = numpy.linalg.solve(damped, -gradient)
    except numpy.linalg.LinAlgError:
        return None
    return step if math.isfinite(step.sum()) else None


def covariance_of(normal: Array) -> Array:
    """Return the inverse of J^T J; zero for what changes nothing, which is held, and NaN where it has none.

    >>> covariance_of(numpy.diag([4.0, 0.0]))
    array([[0.25, 0.  ],
           [0.  , 0.  ]])
    """
    size = numpy.sqrt(normal.diagonal())
    free = numpy.flatnonzero(size > 0)
    covariance, part = numpy.zeros(normal.shape), numpy.ix_(free, free)
    scale = numpy.outer(size[free], size[free])
    try:
        covariance[part] = numpy.linalg.inv(normal[part] / scale) / scale
    except numpy.linalg.LinAlgError:
        covariance[:] = math.nan
    return covariance


def errors_of(covariance: Array, slopes: Array, redchi: float) -> Array:
    """Return the standard errors of what depends on parameters by these slopes; NaN where there is none."""
    variances = numpy.einsum("ij,jk,ik->i", slopes, covariance, slopes) * redchi
    known = ((variances > 0) & (variances < numpy.inf)) | (redchi == 0)
    return numpy.sqrt(numpy.where(known, variances, math.nan))


# is it noise? ----------------------------------------------------------------------------------------------------


def is_beyond_chance(ratio: float, n_more: int, n_rest: int) -> bool:
    """Tell whether `n_more` parameters lessen the sum of squares, to this ratio, by more than noise lets them.

    That is the F test; `n_rest` is how many degrees of freedom remain. Noise of n points can look like a curve at many
    places and of many widths, about as n squared.

    >>> is_beyond_chance(0.01, 2, 20), is_beyond_chance(0.5, 2, 20), is_beyond_chance(0.01, 2, 1)
    (True, False, False)
    """
    by_chance = BY_CHANCE * min(1.0, (10 / n_rest) ** 2)
    return ratio < 1 and incomplete_beta(n_rest / 2, max(n_more, 1) / 2, ratio) < by_chance


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function, by its continued fraction (DLMF 8.17.22).

    >>> round(incomplete_beta(2.0, 1.5, 0.3), 9), round(incomplete_beta(3.0, 1.0, 0.5), 9)
    (0.150790073, 0.125)
    """
    if not 0 < x < 1:
        return float(x > 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    n, fraction, before = 8, _fraction(a, b, x, 4), 0.0
    while fraction != before and n < 20_000:
        n, fraction, before = 2 * n, _fraction(a, b, x, n), fraction
    return math.exp(front) / (a * fraction)


def _fraction(a: float, b: float, x: float, n: int) -> float:
    """Return n pairs of terms of the continued fraction, from its end."""
    value = 1.0
    for m in range(n, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        value = 1 + odd / (1 + even / value)
    return value

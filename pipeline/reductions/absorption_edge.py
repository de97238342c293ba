"""An absorption edge: where it is, how high, and the spectrum in units of it."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy

Array = numpy.ndarray

_STANDS_OUT = 8.0  # how many standard errors the step must be high
_NEAR = 0.75  # eV: points that make a slope
_WIDTH = 30.0  # eV: what rises more slowly is no edge
_WINDOW = 3  # points on each side, of which a glitch is told
_LEAST_GLITCH = 0.01  # of the range of mu: what is nearer to its neighbours is never a glitch


class Edge(NamedTuple):
    """Energy and height of an edge, and the spectrum less its pre-edge line, in units of the height."""

    e0: float
    step: float
    normalised: Array


def find_edge(
    energy: Array, mu: Array, e0: float | None, pre: Sequence[float], norm: Sequence[float], degree: int | None
) -> Edge | None:
    """Return the edge of a spectrum, energies ascending and each once; `None` if there is none.

    The edge step is that of a line through the range `pre` and a polynomial through the range `norm`, at e0. As in
    Larch's `pre_edge`, so that numbers are the same, a range begins with the last point that is not after its start,
    and ends before the point nearest to its end; and the degree, if none is given, is 2 where the points of `norm`
    cover more than 350 eV, 1 where more than 50, else 0.

    References
    ----------
    M. Newville, J. Phys.: Conf. Ser. 430 (2013) 012007 (Larch).

    >>> energy = numpy.arange(6900.0, 7800.0, 2.0)
    >>> edge = find_edge(energy, numpy.arctan((energy - 7112) / 2) / math.pi + 1, None, (-150, -30), (100, 600), None)
    >>> edge.e0, round(edge.step, 2)
    (7112.0, 0.97)
    """
    slope = _slopes(energy, mu)
    at = int(slope[2:-2].argmax()) + 2 if e0 is None else int(abs(energy - e0).argmin())
    center = float(energy[at]) if e0 is None else e0
    x = energy - float(energy[at])
    line = _Polynomial.through(x, mu, pre, 1)
    over = None if line is None else _Polynomial.through(x, mu - line(x), norm, degree)
    if line is None or over is None:
        return None
    step, error = float(over(0.0)), math.hypot(line.error(0.0), over.error(0.0))
    is_steep = slope[at] - line(0.5) + line(-0.5) > step / _WIDTH
    stands_out = step > _STANDS_OUT * error and step > 4 * math.hypot(line.scatter, over.scatter)
    if not (stands_out and is_steep and math.isfinite(step)):
        return None
    return Edge(center, step, (mu - line(x)) / step)


def _slopes(energy: Array, mu: Array) -> Array:
    """Return the derivative of mu: that of the line through the points up to 0.75 eV away, or farther.

    That window gives the e0 of Larch within 0.3 eV for real scans in steps of 0.1 to 0.5 eV. It is doubled until its
    points spread by 0.25 eV: those of several scans may lie as near to each other as one likes.
    """
    x = energy - energy[len(energy) // 2]
    sums = [numpy.concatenate(([0.0], numpy.cumsum(v))) for v in (x, mu, x * x, x * mu)]
    slope, width, missing = numpy.zeros(len(x)), _NEAR, numpy.arange(len(x))
    while len(missing) and width < 4 * (x[-1] - x[0]):
        first, end = x.searchsorted(x[missing] - width), x.searchsorted(x[missing] + width, side="right")
        of_x, of_mu, of_xx, of_xmu = ((total[end] - total[first]) / (end - first) for total in sums)
        variance = of_xx - of_x**2
        wide = variance > (_NEAR / 3) ** 2
        slope[missing[wide]] = (of_xmu - of_x * of_mu)[wide] / variance[wide]
        missing, width = missing[~wide], 2 * width
    return slope


class _Polynomial:
    """A polynomial through points by least squares, about their middle and in units of their width."""

    def __init__(self, x: Array, y: Array, degree: int) -> None:
        self._middle, self._half = (x[0] + x[-1]) / 2, (x[-1] - x[0]) / 2 or 1.0
        powers = self._powers(x, degree)
        self._inverse = numpy.linalg.inv(numpy.einsum("in,jn->ij", powers, powers))
        self._heights = numpy.einsum("ij,jn,n->i", self._inverse, powers, y)
        rest = y - self(x)
        self.scatter = math.sqrt(float((rest * rest).sum()) / (len(x) - degree - 1))

    @classmethod
    def through(cls, x: Array, y: Array, span: Sequence[float], degree: int | None) -> "_Polynomial | None":
        """Return the one through the points of a range; `None` if they are too few or too near to tell how it fits."""
        first = max(0, int(x.searchsorted(span[0] + 1e-9, side="right")) - 1)
        end = int(abs(x - span[1]).argmin())
        part = slice(first, end)
        width = float(x[end] - x[first])
        degree = (width > 50) + (width > 350) if degree is None else degree
        if end - first < degree + 2:
            return None
        try:
            return cls(x[part], y[part], degree)
        except numpy.linalg.LinAlgError:
            return None

    def _powers(self, x: Array | float, degree: int) -> Array:
        t = (x - self._middle) / self._half
        return numpy.array([t**i for i in range(degree + 1)])

    def __call__(self, x: Array | float) -> Any:
        return numpy.einsum("i,i...->...", self._heights, self._powers(x, len(self._heights) - 1))

    def error(self, x: float) -> float:
        """Return the standard error at x."""
        powers = self._powers(x, len(self._heights) - 1)
        return self.scatter * math.sqrt(float(powers @ self._inverse @ powers))


def glitches(mu: Array, n_sigma: float) -> Array:
    """Tell which points are glitches: farther from the median of seven than `n_sigma` times their scatter (MAD).

    Only what is farther than 1 % of the whole range is one: where there is no noise, any curvature would be. The three
    points at each end have too few neighbours to tell.

    References
    ----------
    F. R. Hampel, J. Am. Stat. Assoc. 69 (1974) 383; R. K. Pearson, IEEE Trans. Control Syst. Technol. 10 (2002) 55.

    >>> glitches(numpy.array([1.0, 1.1, 1.0, 5.0, 1.1, 1.0, 1.0, 1.2]), 5).nonzero()[0]
    array([3])
    """
    bad = numpy.zeros(len(mu), bool)
    if n_sigma <= 0 or len(mu) <= 2 * _WINDOW:
        return bad
    windows = numpy.lib.stride_tricks.sliding_window_view(mu, 2 * _WINDOW + 1)
    middle = numpy.median(windows, axis=1)
    scatter = 1.4826 * numpy.median(abs(windows - middle[:, None]), axis=1)
    inner = slice(_WINDOW, -_WINDOW)
    bad[inner] = abs(mu[inner] - middle) > numpy.maximum(n_sigma * scatter, _LEAST_GLITCH * numpy.ptp(mu))
    return bad


def resampled(x: Array, y: Array, grid: Array) -> Array:
    """Return y on an ascending grid: means of the points about each of its values, and lines between; NaN outside.

    A mean stands at the mean x of its points, so points that lie on the grid stay as they are.

    >>> resampled(numpy.array([0.0, 0.9, 1.1, 3.0]), numpy.array([0.0, 1.0, 3.0, 4.0]), numpy.arange(-1.0, 4.0))
    array([nan,  0.,  2.,  3.,  4.])
    """
    edges = (grid[1:] + grid[:-1]) / 2
    cells = numpy.searchsorted(edges, x)
    starts = numpy.flatnonzero(numpy.diff(cells, prepend=-1))
    counts = numpy.diff(starts, append=len(x))
    xs, ys = (numpy.add.reduceat(each, starts) / counts for each in (x, y))
    return numpy.interp(grid, xs, ys, left=math.nan, right=math.nan)

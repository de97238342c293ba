"""A peak among points: where it is, how wide, how high, and whether it is one."""

import math
from typing import NamedTuple

import numpy

NAN = float("nan")
SIGNIFICANT = 8.0  # how many standard errors a peak stands over what is beside it

Array = numpy.ndarray


class Peak(NamedTuple):
    """What `find_peak` tells: `height` and `area` are over the baseline, `success` is whether there is a peak."""

    max: float
    max_x: float
    min: float
    min_x: float
    com: float
    cen: float
    fwhm: float
    left: float
    right: float
    bkg_slope: float
    bkg_intercept: float
    height: float
    area: float
    success: bool


def find_peak(x: Array, y: Array, *, edge_count: int = 0, sign: int = 1, level: float = 0.5) -> Peak:
    """Return what there is of a peak of y over x; NaN where that cannot be told.

    Parameters
    ----------
    x, y
        Finite, of one length of 1 and more, in any order; see `PeakStatistics` for what becomes of them.
    edge_count
        How many points at each end make the baseline; 0: the lowest point alone.
    sign
        1 for a peak, -1 for a dip.
    level
        The fraction of the height at which the width is taken.

    >>> x = numpy.linspace(0, 10, 101)
    >>> peak = find_peak(x, 3 * numpy.exp(-((x - 4) ** 2) / 2) + 7)
    >>> round(peak.cen, 3), round(peak.fwhm, 2), round(peak.area, 3), peak.success
    (4.0, 2.36, 7.52, True)
    """
    x, y, steps = _curve(x, y)
    highest, lowest = int(y.argmax()), int(y.argmin())
    extremes = [float(value) for value in (y[highest], x[highest], y[lowest], x[lowest])]
    if len(x) < 3 or y[highest] == y[lowest]:
        return Peak._make([*extremes, *[NAN] * 9, False])
    slope, intercept = _baseline(x, y, edge_count, y[lowest if sign > 0 else highest])
    height = sign * (y - (slope * x + intercept if slope else intercept))
    left, right = _flanks(x, height, level)
    center, area = _center_of_mass(x, height, steps)
    numbers = [center, _middle(left, right), right - left, left, right, slope, intercept, height.max(), area]
    return Peak._make([*extremes, *map(float, numbers), _stands_out(x, height, left, right)])


def _baseline(x: Array, y: Array, n: int, extreme: float) -> tuple[float, float]:
    """Return slope and intercept."""
    if not n:
        return 0.0, float(extreme)
    x0, x1, y0, y1 = x[:n].mean(), x[-n:].mean(), y[:n].mean(), y[-n:].mean()
    slope = (y1 - y0) / (x1 - x0) if x1 != x0 else 0.0
    return float(slope), float(y0 - slope * x0)


def _curve(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Return the points in order of x, the mean of y where an x is there more than once, and the steps in x."""
    steps = x[1:] - x[:-1]
    if not len(steps) or steps.min() > 0:
        return x, y, steps
    order = numpy.lexsort((y, x))  # y too, so that the sums do not depend on the order of arrival
    x, y = x[order], y[order]
    starts = numpy.flatnonzero(numpy.diff(x, prepend=-numpy.inf))
    x, y = x[starts], numpy.add.reduceat(y, starts) / numpy.diff(starts, append=len(x))
    return x, y, x[1:] - x[:-1]


def _center_of_mass(x: Array, height: Array, steps: Array) -> tuple[float, float]:
    """Return the centre of mass of the area over the baseline, and that area."""
    moment = height * x
    area = _sum(steps * (height[1:] + height[:-1]))
    center = _sum(steps * (moment[1:] + moment[:-1])) / area if area > 0 else NAN
    return center if x[0] <= center <= x[-1] else NAN, area / 2


_sum = numpy.add.reduce


def _flanks(x: Array, height: Array, level: float) -> tuple[float, float]:
    """Return where the height, from its highest point outward, first crosses `level` of it; NaN where it does not."""
    top = int(height.argmax())
    cut = level * height[top]
    below = numpy.flatnonzero(height < cut)
    after = int(numpy.searchsorted(below, top))
    left = _crossing(x, height, cut, below[after - 1], 1) if after else NAN
    right = _crossing(x, height, cut, below[after], -1) if after < len(below) else NAN
    return left, right


def _crossing(x: Array, height: Array, cut: float, i: int, step: int) -> float:
    share = (cut - height[i]) / (height[i + step] - height[i])
    return float(x[i] + share * (x[i + step] - x[i]))


def _middle(left: float, right: float) -> float:
    both = [flank for flank in (left, right) if not math.isnan(flank)]
    return sum(both) / len(both) if both else NAN


def _stands_out(x: Array, height: Array, left: float, right: float) -> bool:
    """Tell a peak from noise: the mean between the flanks against the mean and the scatter beside them."""
    if math.isnan(right - left):
        return False
    half = (right - left) / 2
    outer, first, last, end = x.searchsorted((left - half, left, right, right + half)).tolist()
    if outer + len(x) - end < 3:  # no room where the tails of the peak have ended: beside the flanks, then
        outer, end = first, last
    parts = height[:outer], height[end:]
    n = len(parts[0]) + len(parts[1])
    mean = sum(map(_sum, parts)) / n
    variance = max(0.0, sum(_sum(part * part) for part in parts) / n - mean**2)
    error = math.sqrt(variance * (1 / (last - first) + 1 / n))
    return bool(_sum(height[first:last]) / (last - first) - mean > SIGNIFICANT * error)

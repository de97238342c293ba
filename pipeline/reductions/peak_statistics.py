"""Where a peak is, how wide and how high, from points in any order."""

import math
from array import array
from collections.abc import Mapping
from typing import Any, Self

import numpy

from pipeline.errors import RejectedValue
from pipeline.reductions.reduction import Data, Reduction, Result, units_of, with_units

NAN = float("nan")
SIGNIFICANT = 8.0  # how many standard errors a peak stands over what is beside it

Array = numpy.ndarray


class PeakStatistics(Reduction):
    """Position, width and height of the peak of `y` over `x`, from all points so far.

    Points may come in any order, on any grid, and more than once at one x (their mean counts). The baseline is
    `sign` times the lowest point, or the line through the means of the first and the last `edge_count` points.
    The centre of mass is that of the area over the baseline, by the trapezoidal rule. The flanks are followed from the
    highest point outward to where the height over the baseline first falls below `level` of its own.

    Parameters
    ----------
    x, y
        The fields to read, scalars: usually a motor and a detector.
    edge_count
        How many points at each end make the baseline; 0: the lowest point alone.
    sign
        1 for a peak, -1 for a dip.
    level
        The fraction of the height at which the width is taken, between 0 and 1: 0.5 for the full width at half maximum.

    Results
    -------
    `{y}_max`, `_min`: float64, largest and least y. `{y}_max_x`, `_min_x`: where (the least x of those).
    `{y}_com`: centre of mass. `{y}_cen`: middle between the flanks, or the one flank there is (an edge).
    `{y}_left`, `_right`: the flanks, and `{y}_fwhm` their distance; NaN where a flank is missing.
    `{y}_bkg_slope`, `_bkg_intercept`: the baseline, slope * x + intercept.
    `{y}_n`, `_n_nan`: int64, how many points were taken, and left out since x or y was not finite.
    `{y}_success`: whether there is a peak: both flanks, and the mean between them more than eight standard errors over
    the mean beside them, half a width away. Fewer than 3 different x, or a flat y: NaN, and no success.

    >>> peak = PeakStatistics("motor", "det")
    >>> for x in (3, 0, 7, 1, 6, 4, 2, 5, 8): peak.update({"motor": x, "det": math.exp(-((x - 4.0) ** 2)) + 7})
    >>> result = peak.result()
    >>> result["det_max_x"], round(result["det_cen"], 6), round(result["det_fwhm"], 2), result["det_success"]
    (4.0, 4.0, 1.58, True)
    """

    mergeable = "exact"

    def __init__(self, x: str, y: str, edge_count: int = 0, sign: int = 1, level: float = 0.5) -> None:
        self.x, self.y = x, y
        self.fields = (x, y)
        self.edge_count, self.sign, self.level = edge_count, sign, level
        self._n_nan = 0
        self._xs, self._ys = array("d"), array("d")

    def update(self, data: Data) -> None:
        """Take in one point."""
        x, y = _scalar(data[self.x]), _scalar(data[self.y])
        if math.isfinite(x) and math.isfinite(y):
            self._xs.append(x)
            self._ys.append(y)
        else:
            self._n_nan += 1

    def merge(self, other: Self) -> None:
        """Take in the points of the other."""
        self._xs.extend(other._xs)
        self._ys.extend(other._ys)
        self._n_nan += other._n_nan

    def result(self) -> Result | None:
        """Return the statistics so far; `None` before the first point."""
        if not self._xs:
            return {**dict.fromkeys(self._keys(), NAN), **self._counts(False)} if self._n_nan else None
        x, y = _curve(numpy.array(self._xs), numpy.array(self._ys))
        numbers = _extremes(x, y)
        if len(x) < 3 or numbers[0] == numbers[2]:
            return self._named((*numbers, *[NAN] * 7), False)
        line = self._baseline(x, y)
        height = self.sign * (y - (line[0] * x + line[1]))
        left, right = _flanks(x, height, self.level)
        shape = (_center_of_mass(x, height), _middle(left, right), right - left, left, right)
        return self._named((*numbers, *shape, *line), _stands_out(x, height, left, right))

    def _keys(self) -> list[str]:
        return [f"{self.y}_{what}" for what in _UNITS]

    def _named(self, numbers: tuple[float, ...], success: bool) -> Result:
        return {**dict(zip(self._keys(), map(float, numbers), strict=True)), **self._counts(success)}

    def _counts(self, success: bool) -> Result:
        return {f"{self.y}_n": len(self._xs), f"{self.y}_n_nan": self._n_nan, f"{self.y}_success": success}

    def _baseline(self, x: Array, y: Array) -> tuple[float, float]:
        """Return slope and intercept."""
        n = self.edge_count
        if not n:
            return 0.0, float(self.sign * (self.sign * y).min())
        x0, x1, y0, y1 = x[:n].mean(), x[-n:].mean(), y[:n].mean(), y[-n:].mean()
        slope = (y1 - y0) / (x1 - x0) if x1 != x0 else 0.0
        return float(slope), float(y0 - slope * x0)

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: those of x, of y, or of their quotient."""
        x, y = units_of(data_keys, self.x), units_of(data_keys, self.y)
        units = {"x": x, "y": y, "y/x": f"{y}/({x})" if x and y else None}
        return with_units({f"{self.y}_{what}": units[of] for what, of in _UNITS.items()})


_UNITS = {
    "max": "y",
    "max_x": "x",
    "min": "y",
    "min_x": "x",
    "com": "x",
    "cen": "x",
    "fwhm": "x",
    "left": "x",
    "right": "x",
    "bkg_slope": "y/x",
    "bkg_intercept": "y",
}


def _scalar(value: Any) -> float:
    if value is None:
        return NAN
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RejectedValue(f"wanted a number, there is {type(value).__name__}.") from None


def _curve(x: Array, y: Array) -> tuple[Array, Array]:
    """Return the points in order of x, the mean of y where an x is there more than once."""
    if (x[1:] > x[:-1]).all():
        return x, y
    order = numpy.lexsort((y, x))  # y too, so that the sums do not depend on the order of arrival
    x, y = x[order], y[order]
    starts = numpy.flatnonzero(numpy.diff(x, prepend=-numpy.inf))
    return x[starts], numpy.add.reduceat(y, starts) / numpy.diff(starts, append=len(x))


def _extremes(x: Array, y: Array) -> tuple[float, float, float, float]:
    highest, lowest = y.argmax(), y.argmin()
    return y[highest], x[highest], y[lowest], x[lowest]


def _center_of_mass(x: Array, height: Array) -> float:
    area = numpy.trapezoid(height, x)
    center = numpy.trapezoid(height * x, x) / area if area > 0 else NAN
    return float(center) if x[0] <= center <= x[-1] else NAN


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
    inside = (x >= left) & (x <= right)
    width = right - left
    beside = (x < left - width / 2) | (x > right + width / 2)  # where the tails of the peak have ended
    peak, rest = height[inside], height[beside if beside.sum() >= 3 else ~inside]
    error = rest.std() * math.sqrt(1 / len(peak) + 1 / len(rest))
    return bool(peak.mean() - rest.mean() > SIGNIFICANT * error)

"""Where a peak is, how wide and how high, from points in any order."""

import math
from array import array
from collections.abc import Mapping
from typing import Any

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
    `{y}_left`, `_right`: the flanks. `{y}_fwhm`: their distance; NaN where a flank is missing.
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

    def merge(self, other: "PeakStatistics") -> None:
        """Take in the points of the other."""
        self._xs.extend(other._xs)
        self._ys.extend(other._ys)
        self._n_nan += other._n_nan

    def result(self) -> Result | None:
        """Return the statistics so far; `None` before the first point."""
        if not self._xs:
            return self._named([NAN] * len(_UNITS), False) if self._n_nan else None
        x, y, steps = _curve(numpy.array(self._xs), numpy.array(self._ys))
        highest, lowest = int(y.argmax()), int(y.argmin())
        numbers = [y[highest], x[highest], y[lowest], x[lowest]]
        if len(x) < 3 or y[highest] == y[lowest]:
            return self._named(numbers + [NAN] * 7, False)
        slope, intercept = self._baseline(x, y, y[lowest if self.sign > 0 else highest])
        height = self.sign * (y - (slope * x + intercept if slope else intercept))
        left, right = _flanks(x, height, self.level)
        shape = [_center_of_mass(x, height, steps), _middle(left, right), right - left, left, right]
        return self._named([*numbers, *shape, slope, intercept], _stands_out(x, height, left, right))

    def _named(self, numbers: list[float], success: bool) -> Result:
        result: Result = {f"{self.y}_{what}": float(value) for what, value in zip(_UNITS, numbers, strict=True)}
        result[f"{self.y}_n"] = len(self._xs)
        result[f"{self.y}_n_nan"] = self._n_nan
        result[f"{self.y}_success"] = success
        return result

    def _baseline(self, x: Array, y: Array, extreme: float) -> tuple[float, float]:
        """Return slope and intercept."""
        n = self.edge_count
        if not n:
            return 0.0, float(extreme)
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


def _center_of_mass(x: Array, height: Array, steps: Array) -> float:
    moment = height * x
    area = _sum(steps * (height[1:] + height[:-1]))
    center = _sum(steps * (moment[1:] + moment[:-1])) / area if area > 0 else NAN
    return center if x[0] <= center <= x[-1] else NAN


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

"""Where a peak is, how wide and how high, from points in any order."""

import math
from array import array
from collections.abc import Mapping
from typing import Any

import numpy

from pipeline.errors import RejectedValue
from pipeline.reductions.peak import NAN, find_peak
from pipeline.reductions.reduction import Data, Reduction, Result, ratio_units, units_of, with_units


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
        found = find_peak(
            numpy.array(self._xs),
            numpy.array(self._ys),
            edge_count=self.edge_count,
            sign=self.sign,
            level=self.level,
        )
        return self._named([getattr(found, what) for what in _UNITS], found.success)

    def _named(self, numbers: list[float], success: bool) -> Result:
        result: Result = {f"{self.y}_{what}": value for what, value in zip(_UNITS, numbers, strict=True)}
        result[f"{self.y}_n"] = len(self._xs)
        result[f"{self.y}_n_nan"] = self._n_nan
        result[f"{self.y}_success"] = success
        return result

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: those of x, of y, or of their quotient."""
        x, y = units_of(data_keys, self.x), units_of(data_keys, self.y)
        units = {"x": x, "y": y, "y/x": ratio_units(y, x)}
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

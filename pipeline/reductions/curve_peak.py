"""A peak of a curve: a ring in a diffraction pattern, a line in a spectrum; event by event."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import PipelineValueError
from pipeline.reductions.curve_window import CurveWindow
from pipeline.reductions.event_reduction import EventReduction
from pipeline.reductions.peak import NAN, find_peak
from pipeline.reductions.reduction import Data, Result, ratio_units, units_of, with_units


class CurvePeak(EventReduction):
    """Position, width, height and area of a peak of a curve within a range, event by event.

    The baseline is the line through the means of the first and the last `edge_count` points of the range, so the area
    is that of the peak alone, and is there whether a peak stands out or not: a ring that grows begins at 0. The flanks
    are followed from the highest point outward to where the height over the baseline first falls below `level` of its
    own. Points of which x or y is not finite are left out.

    Parameters
    ----------
    y
        The field of the curve: an array of one dimension.
    x
        Its axis: the field that has it, which an integration before this gives along (`det_q`); or a list of numbers.
        By default the axis is 0, 1, 2 and so on.
    range
        The first and the last x that are looked at; by default all are.
    edge_count
        How many points at each end make the baseline; 0: the lowest point alone.
    sign
        1 for a peak, -1 for a dip.
    level
        The fraction of the height at which the width is taken, between 0 and 1.
    name
        What stands in the results' names, where there are several peaks of one curve; by default the name of the field.

    Results
    -------
    `{name}_max`, `_max_x`: float64, the largest y in the range, and where it is.
    `{name}_height`: float64, the most that a point is over the baseline.
    `{name}_com`: centre of mass of what is over the baseline. `{name}_cen`: middle between the flanks, or the one flank
    there is. `{name}_left`, `_right`: the flanks. `{name}_fwhm`: their distance; NaN where a flank is missing.
    `{name}_area`: what is over the baseline, by the trapezoidal rule; negative for a dip that is taken for a peak.
    `{name}_bkg_slope`, `_bkg_intercept`: the baseline, slope * x + intercept.
    `{name}_n`: int64, how many points there were.
    `{name}_success`: whether there is a peak: both flanks, and the mean between them more than eight standard errors
    over the mean beside them, half a width away. Fewer than 3 points, or a flat curve: NaN, and no success.

    >>> import numpy
    >>> q = numpy.linspace(1, 3, 201)
    >>> ring = CurvePeak("I", q.tolist(), range=[1.8, 2.2], name="ring")
    >>> ring.update({"I": 5 * numpy.exp(-(((q - 2) / 0.03) ** 2) / 2) + 4 - q})
    >>> result = ring.result()
    >>> round(result["ring_cen"], 3), round(result["ring_fwhm"], 3), round(result["ring_area"], 3)
    (2.0, 0.071, 0.376)
    """

    constants = ("_curve",)

    def __init__(
        self,
        y: str,
        x: str | Sequence[float] | None = None,
        range: Sequence[float] | None = None,
        edge_count: int = 3,
        sign: int = 1,
        level: float = 0.5,
        name: str | None = None,
    ) -> None:
        if edge_count < 0 or sign not in (1, -1) or not 0 < level < 1:
            raise PipelineValueError(
                f"CurvePeak: edge_count is {edge_count!r}, sign {sign!r}, level {level!r}; wanted 0 or more, 1 or -1, "
                "and a fraction."
            )
        self._curve = CurveWindow(y, x, range)
        self.fields = self._curve.fields
        self.y, self.edge_count, self.sign, self.level = y, edge_count, sign, level
        self.key = name or y

    def reduce(self, data: Data) -> Result:
        """Return the peak of one curve."""
        x, y = self._curve.points(data)
        numbers: dict[str, float] = dict.fromkeys(_UNITS, NAN)
        success = False
        if len(x):
            found = find_peak(x, y, edge_count=self.edge_count, sign=self.sign, level=self.level)
            numbers = {what: getattr(found, what) for what in _UNITS}
            success = found.success
        row: Result = {f"{self.key}_{what}": number for what, number in numbers.items()}
        return {**row, f"{self.key}_n": len(x), f"{self.key}_success": success}

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: those of x, of y, their quotient and their product."""
        x, y = units_of(data_keys, self._curve.x_field or ""), units_of(data_keys, self.y)
        units = {"x": x, "y": y, "y/x": ratio_units(y, x), "y*x": f"{y}*({x})" if x and y else None}
        return with_units({f"{self.key}_{what}": units[of] for what, of in _UNITS.items()})


_UNITS = {
    "max": "y",
    "max_x": "x",
    "height": "y",
    "com": "x",
    "cen": "x",
    "fwhm": "x",
    "left": "x",
    "right": "x",
    "area": "y*x",
    "bkg_slope": "y/x",
    "bkg_intercept": "y",
}

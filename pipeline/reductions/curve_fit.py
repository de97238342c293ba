"""A model fitted to a curve, event by event."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.reductions.curve_window import CurveWindow
from pipeline.reductions.event_reduction import EventReduction
from pipeline.reductions.fit import model_of
from pipeline.reductions.fit_model import NAN
from pipeline.reductions.reduction import Data, Result, units_of, with_units


class CurveFit(EventReduction):
    """A model fitted to a curve within a range, event by event: a ring of a diffraction pattern, a line of a spectrum.

    Each fit begins anew, and each point has the same weight; those of which x or y is not finite are left out. The
    position and the area of a peak so do not depend on where its tails are cut off, as they do in `CurvePeak`, which
    needs no model instead.

    Parameters
    ----------
    y, x, range
        The field of the curve, its axis, and the first and the last x that are looked at; see `CurvePeak`.
    model, background, start
        See `Fit`. The background is under the model within the range.
    name
        What stands in the results' names, where there are several fits of one curve; by default `{y}_fit`.

    Results
    -------
    `{name}_{parameter}`, `..._stderr`: float64, each parameter and its standard error, as in `Fit`: `amplitude` is the
    area of a peak, and there are `center`, `sigma`, `fwhm`, `height`, `intercept`, `slope`.
    `{name}_redchi`: the sum of squares by the degrees of freedom.
    `{name}_n`: int64, how many points there were.
    `{name}_success`: whether it is a fit, and no noise; NaN where there is none.

    >>> import numpy
    >>> q = numpy.linspace(1, 3, 201)
    >>> ring = CurveFit("I", q.tolist(), range=[1.8, 2.2], name="ring")
    >>> ring.update({"I": 5 * numpy.exp(-(((q - 2) / 0.03) ** 2) / 2) + 4 - q})
    >>> result = ring.result()
    >>> round(result["ring_center"], 6), round(result["ring_sigma"], 6), result["ring_success"]
    (2.0, 0.03, True)
    """

    constants = ("_curve", "_model")

    def __init__(
        self,
        y: str,
        x: str | Sequence[float] | None = None,
        range: Sequence[float] | None = None,
        model: str = "gaussian",
        background: str = "linear",
        start: Mapping[str, float] | None = None,
        name: str | None = None,
    ) -> None:
        self._curve = CurveWindow(y, x, range)
        self._model = model_of(model, background, start)
        self.fields = self._curve.fields
        self.y, self.key = y, name or f"{y}_fit"

    def reduce(self, data: Data) -> Result:
        """Return the fit to one curve."""
        x, y = self._curve.points(data)
        nothing = (NAN,) * len(self._model.names)
        values, errors, redchi, success = nothing, nothing, NAN, False
        if len(x):
            order = x.argsort(kind="stable")
            _, values, errors, redchi, success = self._model.solve(x[order], y[order])
        row: Result = {}
        for name, value, error in zip(self._model.names, values, errors, strict=True):
            row |= {f"{self.key}_{name}": value, f"{self.key}_{name}_stderr": error}
        return {**row, f"{self.key}_redchi": redchi, f"{self.key}_n": len(x), f"{self.key}_success": success}

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: those of x and y, and products of them."""
        x, y = units_of(data_keys, self._curve.x_field or ""), units_of(data_keys, self.y)
        units = self._model.units(x, y)
        each = {f"{self.key}_{name}{end}": unit for name, unit in units.items() for end in ("", "_stderr")}
        return with_units({**each, f"{self.key}_redchi": f"({y})**2" if y else None})

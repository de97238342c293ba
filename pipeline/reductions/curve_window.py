"""The part of a curve that is looked at."""

from collections.abc import Sequence

import numpy

from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions.files import as_curve
from pipeline.reductions.reduction import Data
from pipeline.reductions.values import finite

Array = numpy.ndarray


class CurveWindow:
    """Find, in the data of an event, the points of a curve that are in a range and finite.

    Parameters
    ----------
    y
        The field of the curve: an array of one dimension, shape `(n,)` or `(1, n)`.
    x
        Its axis: a field, or a list of numbers; None: 0, 1, 2 and so on.
    range
        The first and the last x; None: all.

    Raises
    ------
    PipelineValueError
        If the axis or the range is none.

    >>> CurveWindow("I", [0.0, 1.0, 2.0, 3.0], [1, 3]).points({"I": [7, 8, float("nan"), 9]})
    (array([1., 3.]), array([8., 9.]))
    """

    def __init__(self, y: str, x: str | Sequence[float] | None = None, range: Sequence[float] | None = None) -> None:
        self._y, self.x_field = y, x if isinstance(x, str) else None
        self.fields = (y,) if self.x_field is None else (y, self.x_field)
        self._x = as_curve(x, "x") if x is not None and self.x_field is None else None
        if range is not None and (len(range) != 2 or not range[0] < range[1]):
            raise PipelineValueError(f"range is {list(range)}; wanted [first, last], the first below the last.")
        self._range = None if range is None else tuple(range)

    def points(self, data: Data) -> tuple[Array, Array]:
        """Return x and y, float64, in the order of the axis.

        Raises
        ------
        RejectedValue
            If there is no curve, or its axis is not of its length.
        KeyError
            If the event has no such field.
        """
        x, y = self._whole(data)
        inside = self._is_inside(x) & numpy.isfinite(y)
        return x[inside], y[inside]

    def whole(self, data: Data) -> Array:
        """Return the y of all points in the range, NaN where they are not finite."""
        x, y = self._whole(data)
        return y[self._is_inside(x)]

    def _whole(self, data: Data) -> tuple[Array, Array]:
        y = _line(finite(data[self._y]), self._y)
        x = self._axis(data, len(y))
        if len(x) != len(y):
            raise RejectedValue(f"{self._y!r} has {len(y)} points, and its axis {len(x)}; wanted as many.")
        return x, y

    def _is_inside(self, x: Array) -> Array:
        if self._range is None:
            return numpy.isfinite(x)
        return (x >= self._range[0]) & (x <= self._range[1])

    def _axis(self, data: Data, n: int) -> Array:
        if self.x_field is not None:
            return _line(finite(data[self.x_field]), self.x_field)
        return numpy.arange(float(n)) if self._x is None else self._x


def _line(values: Array, field: str) -> Array:
    line = values[0] if values.ndim == 2 and len(values) == 1 else values
    if line.ndim != 1:
        raise RejectedValue(f"{field!r}: wanted a curve, there is the shape {list(values.shape)}.")
    return line

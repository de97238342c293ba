"""Reductions of points: of several fields that belong together, number by number."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions.reduction import Data, Reduction

Array = numpy.ndarray


class PointReduction(Reduction):
    """A reduction of points, each a number of every field: a point an event, or as many as its arrays have elements.

    Where an event has arrays (a fly scan), they are of one shape; of the first `n_positions` fields, which tell where a
    point is, some may be scalars beside them. A subclass sets `fields` and `n_positions`, and gives `take` and
    `take_arrays`, which do the same; `is_new` tells whether no event has come yet.

    >>> class Sum(PointReduction):
    ...     def __init__(self, x, y):
    ...         self.fields, self.n_positions, self.total = (x, y), 1, 0
    ...     def take(self, point):
    ...         self.total += point[0] * point[1]
    ...     def take_arrays(self, x, y):
    ...         self.total += float(x @ y)
    >>> total = Sum("x", "y")
    >>> total.update({"x": 2, "y": 3.0})
    >>> total.update_page({"x": [1, 2], "y": [3, 4]})
    0
    >>> total.total
    17.0
    """

    n_positions: int
    is_new = True  # whether no event has come yet

    def take(self, point: list[float]) -> None:
        """Take in one point, of which any number may be NaN or infinite."""
        raise NotImplementedError(f"{self.name} has no take(point).")

    def take_arrays(self, *columns: Array) -> None:
        """Take in points by columns, float64."""
        raise NotImplementedError(f"{self.name} has no take_arrays(*columns).")

    def update(self, data: Data) -> None:
        """Take in the points of one event."""
        values = [data[field] for field in self.fields]
        point = _numbers(values)
        if point is None:
            self.take_arrays(*self._elements(values))
        else:
            self.take(point)
        self.is_new = False

    def update_page(self, columns: Mapping[str, Sequence[Any]]) -> int:
        """Take in the points of many events."""
        values = [columns[field] for field in self.fields]
        arrays = [array for array in map(_float_column, values) if array is not None]
        if len(arrays) < len(values):
            return super().update_page(dict(zip(self.fields, values, strict=True)))
        self.take_arrays(*arrays)
        self.is_new &= not len(arrays[0])
        return 0

    def _elements(self, values: list[Any]) -> list[Array]:
        arrays = [_float_array(value) for value in values]
        shape = next((array.shape for array in arrays[: self.n_positions or 1] if array.ndim), ())
        may_be_scalar = [i < self.n_positions and not array.ndim for i, array in enumerate(arrays)]
        if any(array.shape != shape and not free for array, free in zip(arrays, may_be_scalar, strict=True)):
            shapes = {field: list(array.shape) for field, array in zip(self.fields, arrays, strict=True)}
            raise RejectedValue(f"{self.name}: wanted arrays of one shape, there are {shapes}.")
        return [numpy.broadcast_to(array, shape).ravel() for array in arrays]


def field_names(fields: str | Sequence[str], what: str) -> list[str]:
    """Return one field or several as a list, or refuse what is none.

    >>> field_names("det", "Bin: ys"), field_names(["a", "b"], "Bin: ys")
    (['det'], ['a', 'b'])
    """
    names = [fields] if isinstance(fields, str) else list(fields)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise PipelineValueError(f"{what}: wanted fields, each once; there is {fields!r}.")
    return names


def _numbers(values: list[Any]) -> list[float] | None:
    """Return scalars as floats; `None` if there is an array among them."""
    numbers = []
    for value in values:
        number = value if type(value) is float else as_number(value)
        if number is None:
            return None
        numbers.append(number)
    return numbers


def as_number(value: Any) -> float | None:
    """Return a scalar as float, NaN for `None`, which is "no information"; `None` for an array.

    >>> as_number(3), as_number(numpy.float32(0.5)), as_number(None), as_number([1.0, 2.0])
    (3.0, 0.5, nan, None)
    """
    if value is None:
        return math.nan
    array = _array(value)
    if array.ndim:
        return None
    return float(array)


def _array(value: Any) -> Array:
    try:
        array = numpy.asarray(value)
    except ValueError:
        raise RejectedValue("wanted rows of one length, there are ragged ones.") from None
    if array.dtype.kind not in "biuf":
        raise RejectedValue(f"wanted numbers, there is {array.dtype} of shape {list(array.shape)}.")
    return array


def _float_array(value: Any) -> Array:
    return numpy.asarray(math.nan if value is None else _array(value), float)


def _float_column(column: Sequence[Any]) -> Array | None:
    """Return a column of scalars as float64; `None` if it has to be taken row by row."""
    try:
        array = numpy.asarray(column)
    except ValueError:
        return None
    return array.astype(float, copy=False) if array.ndim == 1 and array.dtype.kind in "biuf" else None

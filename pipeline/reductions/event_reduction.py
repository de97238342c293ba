"""A reduction whose result stands for the last event alone."""

from collections.abc import Mapping
from typing import Any

import numpy

from pipeline.errors import RejectedValue
from pipeline.reductions.reduction import Data, Reduction, Result
from pipeline.reductions.values import NAN


class EventReduction(Reduction):
    """A reduction of each event by itself: a subclass says, in `reduce`, what one event gives.

    An event that is rejected, or lacks a field, has no result of its own: numbers are NaN then, counts 0, flags false;
    never what the event before it gave.

    >>> class Double(EventReduction):
    ...     def __init__(self, field):
    ...         self.field = field
    ...     def reduce(self, data):
    ...         return {f"{self.field}_double": 2.0 * data[self.field]}
    >>> double = Double("det")
    >>> double.update({"det": 1.5})
    >>> double.result()
    {'det_double': 3.0}
    """

    kind = "event"
    _last: Result | None = None
    _has_arrays = True  # whether the rows have any, or may have
    _nothing: Result | None = None  # the row of an event without a result, once the shapes are known

    def reduce(self, data: Data) -> Result:
        """Return the result of one event: always of the same keys; arrays of its own, always of the same shape."""
        raise NotImplementedError(f"{self.name} has no reduce(data).")

    def update(self, data: Data) -> None:
        """Take in one event, in place of the one before."""
        self._last = self._nothing
        row = self.reduce(data)
        has_arrays = _has_arrays(row)
        if self._nothing is None:
            self._nothing = {key: _unknown(value) for key, value in row.items()}
        elif has_arrays or self._has_arrays:
            _check_shapes(row, self._nothing)
        self._last, self._has_arrays = row, has_arrays

    def result(self) -> Result | None:
        """Return what the last event gives; `None` before the first that gives something. Arrays are read-only."""
        if self._last is None:
            return None
        if self._has_arrays:
            for value in filter(_is_array, self._last.values()):
                value.setflags(write=False)
        return dict(self._last)


def _has_arrays(row: Result) -> bool:
    return numpy.ndarray in set(map(type, row.values()))


def _is_array(value: Any) -> bool:
    return type(value) is numpy.ndarray


def _unknown(value: Any) -> Any:
    """Return what stands where there is no information: NaN, 0 for counts, False for flags."""
    if not _is_array(value):
        return type(value)() if isinstance(value, int) else NAN
    return numpy.full(value.shape, NAN if value.dtype.kind == "f" else 0, value.dtype)


def _check_shapes(row: Result, before: Mapping[str, Any]) -> None:
    for key, value in row.items():
        if numpy.shape(value) != numpy.shape(before[key]):
            raise RejectedValue(
                f"{key}: wanted shape {list(numpy.shape(before[key]))}, as before; there is {list(numpy.shape(value))}."
            )

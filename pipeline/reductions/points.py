"""Points of two fields: kept, in order of x."""

import math
from array import array
from collections.abc import Sequence
from typing import Any

import numpy

from pipeline.errors import RejectedValue

Array = numpy.ndarray


class Points:
    """Pairs of numbers as they come; those that are not finite are left out and counted.

    >>> points = Points()
    >>> for pair in ((3, 1.0), (1, 2.0), (None, 3.0)): points.add(*pair)
    >>> points.ordered(), points.n_nan
    ((array([1., 3.]), array([2., 1.])), 1)
    """

    def __init__(self) -> None:
        self.n_nan = 0
        self._xs, self._ys = array("d"), array("d")

    def __len__(self) -> int:
        return len(self._xs)

    def add(self, x: Any, y: Any) -> None:
        """Take in one pair; None is NaN."""
        a, b = number(x), number(y)
        if math.isfinite(a) and math.isfinite(b):
            self._xs.append(a)
            self._ys.append(b)
        else:
            self.n_nan += 1

    def add_finite(self, x: Array, y: Array) -> None:
        """Take in finite float64 arrays, shape `(n,)`."""
        self._xs.frombytes(x.tobytes())
        self._ys.frombytes(y.tobytes())

    def merge(self, other: "Points") -> None:
        """Take in the pairs of the other."""
        self._xs.extend(other._xs)
        self._ys.extend(other._ys)
        self.n_nan += other.n_nan

    def ordered(self) -> tuple[Array, Array]:
        """Return x and y in order of x, and of y where x is the same: whatever the order they came in."""
        x, y = numpy.array(self._xs), numpy.array(self._ys)
        if (x[1:] > x[:-1]).all():
            return x, y
        order = numpy.lexsort((y, x))
        return x[order], y[order]


def number(value: Any) -> float:
    """Return a scalar as a float; NaN for None, which is "no information".

    Raises
    ------
    RejectedValue
        If it is text, an array, or anything else that is not one number.
    """
    if type(value) is float:
        return value
    if value is None:
        return math.nan
    array = numpy.asarray(value)
    if array.ndim or (array.dtype.kind not in "biuf" and not isinstance(value, int)):
        raise RejectedValue(f"wanted a number, there is {array.dtype} of shape {list(array.shape)}.")
    try:
        return float(value)
    except OverflowError:
        return math.nan


def float_columns(*columns: Sequence[Any]) -> list[Array] | None:
    """Return columns of numbers as float64; `None` if a value needs to be looked at by itself."""
    try:
        arrays = [numpy.asarray(column) for column in columns]
    except ValueError:
        return None
    if any(each.ndim != 1 or each.dtype.kind not in "biuf" for each in arrays):
        return None
    return [each.astype(float) for each in arrays]

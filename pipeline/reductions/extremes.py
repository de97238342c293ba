"""The least and the largest of arrays, element by element."""

from typing import Any

import numpy

Array = numpy.ndarray


class Extremes:
    """The least and the largest finite value of each element, float64; NaN where there is none.

    >>> extremes = Extremes((2,))
    >>> for row in ([1.0, 2.0], [3.0, numpy.nan]): extremes.add(numpy.array(row))
    >>> extremes.least, extremes.largest
    (array([1., 2.]), array([3., 2.]))
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.least = numpy.full(shape, numpy.nan)
        self.largest = numpy.full(shape, numpy.nan)

    def add(self, value: Array) -> None:
        """Take in one array of numbers."""
        known = value if value.dtype.kind != "f" else numpy.where(numpy.isfinite(value), value, numpy.nan)
        numpy.fmin(self.least, known, out=self.least)
        numpy.fmax(self.largest, known, out=self.largest)

    def merge(self, other: Any) -> None:
        """Take in other extremes."""
        numpy.fmin(self.least, other.least, out=self.least)
        numpy.fmax(self.largest, other.largest, out=self.largest)

"""The numbers that a result has of regions, from the sums over them."""

from collections.abc import Sequence

import numpy

from pipeline.reductions.compiled import compiled
from pipeline.reductions.runs import RegionSums

Array = numpy.ndarray

_N, _SUM, _MAX, _Y, _X, _BORDER, _MEAN = range(7)  # the first six as they stand in the rows below


class RegionTable:
    """A row for each region, with a column for each number; NaN where there is none.

    Parameters
    ----------
    statistics
        Which of `sum`, `mean`, `max` and `com`, in this order; after them is how many elements there are.
    n_axes
        How many axes a centre has.
    has_border
        Whether what was taken from each element is the last column.

    >>> one, zero = numpy.array([1]), numpy.zeros((2, 1))
    >>> table = RegionTable(["mean", "max"], 2, has_border=False)
    >>> table.of(RegionSums(2 * one, 3.0 * one, 2.0 * one, zero, zero), None, has_kernel=False)
    array([[1.5, 2. , 2. ]])
    """

    def __init__(self, statistics: Sequence[str], n_axes: int, *, has_border: bool) -> None:
        known = {"sum": [_SUM], "mean": [_MEAN], "max": [_MAX], "com": [_Y, _X][-n_axes:]}
        columns = [column for what in statistics for column in known[what]]
        self.n_place = len(columns)
        self._columns = numpy.array([*columns, _N, *([_BORDER] if has_border else [])])

    def of(self, sums: RegionSums, border: Array | None, *, has_kernel: bool) -> Array:
        """Return the table of some sums, less what surrounds their regions."""
        rows = numpy.array([sums.n, sums.total, sums.largest, *sums.moments, sums.n if border is None else border])
        kernel = compiled(_fill_loop) if has_kernel else None
        table = numpy.empty((rows.shape[1], len(self._columns)))
        (kernel or _fill)(rows, self._columns, table)
        return table


# a kernel and its twin: the same divisions


def _fill_loop(rows: Array, columns: Array, table: Array) -> None:
    for i in range(table.shape[0]):
        n, total = rows[0, i], rows[1, i]
        for j in range(columns.size):
            column = columns[j]
            value = total / n if column == _MEAN else rows[column, i]
            if column in (_Y, _X):
                value = value / total if total > 0 else numpy.nan
            is_told = numpy.isfinite(value) and (n > 0 or column in (_N, _BORDER))
            table[i, j] = value if is_told else numpy.nan


def _fill(rows: Array, columns: Array, table: Array) -> None:
    n, total = rows[:2]
    with numpy.errstate(over="ignore", invalid="ignore", divide="ignore"):
        there = numpy.where(n > 0, 1.0, numpy.nan)
        total, largest = total * there, rows[2] * there
        y, x = rows[3:5] / numpy.where(total > 0, total, numpy.nan)
        found = n, total, largest, y, x, rows[5], total / n
        table[:] = numpy.array([found[column] for column in columns]).T
    table[~numpy.isfinite(table)] = numpy.nan

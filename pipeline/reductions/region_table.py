"""The numbers that a result has of regions, from the sums over them."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy

from pipeline.reductions.compiled import compiled
from pipeline.reductions.runs import LARGEST, LEVEL, TOTAL, N, RegionSums, X, Y

Array = numpy.ndarray

MEAN = LEVEL + 1  # the one column that is no row of the sums


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

    >>> rows = numpy.array([[2.0], [3.0], [2.0], [0.0], [0.0], [0.0], [0.0], [0.0]])
    >>> table = RegionTable(["mean", "max"], 2, has_border=False)
    >>> table.of(RegionSums(rows), has_kernel=False)
    array([[1.5, 2. , 2. ]])
    """

    def __init__(self, statistics: Sequence[str], n_axes: int, *, has_border: bool) -> None:
        known = {"sum": [TOTAL], "mean": [MEAN], "max": [LARGEST], "com": [Y, X][-n_axes:]}
        columns = [column for what in statistics for column in known[what]]
        self.n_place = len(columns)
        self._columns = numpy.array([*columns, N, *([LEVEL] if has_border else [])])

    @cached_property
    def _kernel(self) -> Callable[..., Any] | None:
        return compiled(_fill_loop)

    def of(self, sums: RegionSums, *, has_kernel: bool) -> Array:
        """Return the table of some sums."""
        kernel = self._kernel if has_kernel else None
        table = numpy.empty((sums.rows.shape[1], len(self._columns)))
        (kernel or _fill)(sums.rows, self._columns, table)
        return table


# a kernel and its twin: the same divisions


def _fill_loop(rows: Array, columns: Array, table: Array) -> None:
    for i in range(table.shape[0]):
        n, total = rows[N, i], rows[TOTAL, i]
        for j in range(columns.size):
            column = columns[j]
            value = total / n if column == MEAN else rows[column, i]
            if column in (Y, X):
                value = value / total if total > 0 else numpy.nan
            is_told = numpy.isfinite(value) and (n > 0 or column in (N, LEVEL))
            table[i, j] = value if is_told else numpy.nan


def _fill(rows: Array, columns: Array, table: Array) -> None:
    n, total = rows[N], rows[TOTAL]
    with numpy.errstate(over="ignore", invalid="ignore", divide="ignore"):
        there = numpy.where(n > 0, 1.0, numpy.nan)
        total = total * there
        y, x = rows[[Y, X]] / numpy.where(total > 0, total, numpy.nan)
        found = {N: n, TOTAL: total, LARGEST: rows[LARGEST] * there, Y: y, X: x, LEVEL: rows[LEVEL], MEAN: total / n}
        table[:] = numpy.array([found[column] for column in columns.tolist()]).T
    table[~numpy.isfinite(table)] = numpy.nan

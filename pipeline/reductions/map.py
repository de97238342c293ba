"""Maps of fields over two positions."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy

from pipeline.errors import PipelineRuntimeError, PipelineTypeError, PipelineValueError
from pipeline.reductions.bin_sums import BinSums
from pipeline.reductions.grid import Grid, grid_of
from pipeline.reductions.point_reduction import PointReduction, field_names
from pipeline.reductions.reduction import Result, units_of

Array = numpy.ndarray


class Map(PointReduction):
    """Maps of some fields over a grid of two positions: of a step or fly scan, in any order, snaked or not.

    A point belongs to the cell around whose center it lies, by where it was measured and not by when; so a snaked
    scan needs nothing more. The grid is that of the start document of the raw run (`shape`, `extents`) unless it is
    given; `rel_grid_scan` writes extents that are not where its points are: give them. An event may have arrays of one
    shape in place of scalars (a line of a fly scan), and a position may be a scalar beside them. Memory grows with the
    number of cells alone.

    Parameters
    ----------
    x, y
        The fields that tell the column and the row.
    values
        The field or fields to map.
    shape
        How many rows and columns there are.
    extents
        The first and the last center of the rows, and of the columns: `[[y0, y1], [x0, x1]]`.
    mode
        What stands in a cell: the `"mean"` of its points, their `"sum"`, or the `"last"` of them.

    Results
    -------
    `{value}_map`: float64 of `shape`, in the units of the field; NaN where there is nothing.
    `{value}_map_n`: int64 of `shape`, how many points there are in each cell.
    `{value}_map_n_nan`: int64, how many points were left out since a number was not finite.
    `{value}_map_n_outside`: int64, how many were in no cell.
    Axes: `{y}_map_center`, `{x}_map_center`.

    >>> map = Map("x", "y", "det", shape=[2, 2], extents=[[0, 1], [0, 1]])
    >>> map.update_page({"x": [0, 1.1, 0.9], "y": [0, 0, 1], "det": [1.0, 2.0, 3.0]})
    0
    >>> map.result()["det_map"]
    array([[ 1.,  2.],
           [nan,  3.]])
    """

    n_positions = 2
    constants = ("mode", "values", "x", "y", "fields")

    def __init__(
        self,
        x: str,
        y: str,
        values: str | Sequence[str],
        shape: Sequence[int] | None = None,
        extents: Sequence[Sequence[float]] | None = None,
        mode: str = "mean",
    ) -> None:
        if mode not in ("mean", "sum", "last"):
            raise PipelineValueError(f"{self.name}: mode is {mode!r}; wanted 'mean', 'sum' or 'last'.")
        self.x, self.y, self.mode = x, y, mode
        self.values = field_names(values, f"{self.name}: values")
        self.fields = (x, y, *self.values)
        self._grid: Grid | None = None
        self._n_nan = [0] * len(self.values)
        self._n_outside = [0] * len(self.values)
        self._cells: list[BinSums | LastValues] = []
        if shape is not None and extents is not None:
            self._lay_out(lambda: Grid(shape, extents))

    def _lay_out(self, make_grid: Any) -> None:
        try:
            self._grid = grid = make_grid()
        except PipelineValueError as error:
            raise PipelineValueError(f"{self.name}: {error}") from None
        self._cells = [(LastValues if self.mode == "last" else BinSums)(grid.size) for _ in self.values]

    @property
    def mergeable(self) -> str | None:  # type: ignore[override]  # it depends on the mode
        """`"exact"`; `None` where the last value counts, which parts do not tell."""
        return None if self.mode == "last" else "exact"

    def begin(self, start: Mapping[str, Any]) -> None:
        """Lay out the grid that the start document tells, unless it is given."""
        if self._grid is None:
            shape, extents = self.arguments["shape"], self.arguments["extents"]
            self._lay_out(lambda: grid_of(start, self.y, self.x, shape, extents))

    @property
    def grid(self) -> Grid:
        """Where the cells are."""
        if self._grid is None:
            raise PipelineRuntimeError(
                f"{self.name} knows no grid; wanted shape and extents, or begin(start) before data."
            )
        return self._grid

    def take(self, point: list[float]) -> None:
        """Take in one point."""
        x, y, *values = point
        is_finite = isfinite(x) and isfinite(y)
        cell = self.grid.cell(y, x) if is_finite else -1
        for i, value in enumerate(values):
            if not (is_finite and isfinite(value)):
                self._n_nan[i] += 1
            elif cell >= 0:
                self._cells[i].add(cell, value)
            else:
                self._n_outside[i] += 1

    def take_arrays(self, *columns: Array) -> None:
        """Take in points by columns."""
        x, y, *values = columns
        is_finite = numpy.isfinite(x) & numpy.isfinite(y)
        cells = self.grid.cells(numpy.where(is_finite, y, 0.0), numpy.where(is_finite, x, 0.0))
        for i, value in enumerate(values):
            good = is_finite & numpy.isfinite(value)
            chosen = good & (cells >= 0)
            self._n_nan[i] += len(x) - int(good.sum())
            self._n_outside[i] += int(good.sum() - chosen.sum())
            self._cells[i].add_array(cells[chosen], value[chosen])

    def merge(self, other: "Map") -> None:
        """Take in what the other has taken in."""
        if self.mergeable is None:
            raise PipelineTypeError(
                f"{self.name}: mode is 'last'; wanted 'mean' or 'sum', of which parts can be merged."
            )
        self.is_new &= other.is_new
        for i, (mine, cells) in enumerate(zip(self._cells, other._cells, strict=True)):
            mine.merge(cells)  # type: ignore[union-attr]  # they are sums
            self._n_nan[i] += other._n_nan[i]
            self._n_outside[i] += other._n_outside[i]

    def result(self) -> Result | None:
        """Return the maps so far; `None` before the first point."""
        if self.is_new:
            return None
        result: Result = {}
        for i, (value, cells) in enumerate(zip(self.values, self._cells, strict=True)):
            numbers = numpy.where(cells.n > 0, getattr(cells, self.mode)(), numpy.nan)
            result[f"{value}_map"] = numbers.reshape(self.grid.shape)
            result[f"{value}_map_n"] = cells.n.reshape(self.grid.shape)
            result[f"{value}_map_n_nan"] = self._n_nan[i]
            result[f"{value}_map_n_outside"] = self._n_outside[i]
        return result

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units, those of the fields, and the dims of the maps."""
        described: dict[str, dict[str, Any]] = {}
        for field, what in ((self.y, "center"), (self.x, "center"), *((value, "") for value in self.values)):
            units = units_of(data_keys, field)
            described[f"{field}_map{'_' * bool(what)}{what}"] = {"units": units} if units else {}
        dims = [f"{self.y}_map_center", f"{self.x}_map_center"]
        for value in self.values:
            described[f"{value}_map"]["dims"] = dims
            described[f"{value}_map_n"] = {"dims": dims}
        return described

    def axes(self) -> Result:
        """Return the centers of the rows and of the columns."""
        return {
            f"{self.y}_map_center": self.grid.row_axis.centers.copy(),
            f"{self.x}_map_center": self.grid.column_axis.centers.copy(),
        }


class LastValues:
    """The last number of each cell, and how many there were.

    >>> last = LastValues(2)
    >>> last.add_array(numpy.array([1, 1]), numpy.array([3.0, 4.0]))
    >>> last.n, last.last()
    (array([0, 2]), array([nan,  4.]))
    """

    def __init__(self, size: int) -> None:
        self._n: Array = numpy.zeros(size, numpy.int64)
        self._values = numpy.full(size, numpy.nan)

    def add(self, i: int, x: float) -> None:
        """Put a number into the cell `i`."""
        self._n[i] += 1
        self._values[i] = x

    def add_array(self, i: Array, x: Array) -> None:
        """Put numbers into their cells `i`; of several in one the last stays."""
        numpy.add.at(self._n, i, 1)
        self._values[i] = x

    @property
    def n(self) -> Array:
        """How many numbers there were in each cell."""
        return self._n.copy()

    def last(self) -> Array:
        """Return the last numbers; NaN where there was none."""
        return self._values.copy()

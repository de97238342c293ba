"""How often a field has which value, or several fields together."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy

from pipeline.errors import PipelineValueError
from pipeline.reductions.bin_sums import BinSums
from pipeline.reductions.edges import Edges
from pipeline.reductions.point_reduction import PointReduction, field_names
from pipeline.reductions.reduction import Result, units_of

Array = numpy.ndarray


class Histogram(PointReduction):
    """Histogram of a field, or of several fields together, counted or weighted: what `numpy.histogram` gives.

    Counts are equal to those of `numpy.histogram` and `numpy.histogramdd`, the closed last edge included. Sums of
    weights are exact and rounded once, so they do not depend on the order, where those of numpy round at each step. An
    event may have an array in place of a scalar: then each element counts. Memory grows with the number of bins alone.

    Parameters
    ----------
    field
        The field, or a list of fields, one for each axis.
    bins
        `{"start", "stop", "n"}`, `{"start", "stop", "step"}`, a list of edges, or a list of joined regions, as in
        `Bin`. Of several fields: a list with one of those for each.
    weights
        The field that tells how much a point counts; by default each counts one.

    Results
    -------
    Of `{name}`: the field, or the fields joined by `_`:
    `{name}_hist`: int64, how many points are in each bin; with weights float64, their sum, in the units of the weights.
    `{name}_hist_under`, `_hist_over`: int64, how many points are below the first and above the last edge; of several
    fields one number for each, and a point counts at every axis that it is off.
    `{name}_hist_n_nan`: int64, how many were left out since a number was not finite.
    Axes: `{field}_hist_center`, `{field}_hist_edges`.

    >>> histogram = Histogram("det", {"start": 0, "stop": 3, "n": 3})
    >>> histogram.update_page({"det": [0.5, 1.0, 1.5, 3.0, 4.0, None]})
    0
    >>> histogram.result()
    {'det_hist': array([1, 2, 1]), 'det_hist_under': 0, 'det_hist_over': 1, 'det_hist_n_nan': 1}
    """

    mergeable = "exact"
    constants = ("names", "fields", "n_positions", "_edges", "_shape")

    def __init__(self, field: str | Sequence[str], bins: Any, weights: str | None = None) -> None:
        self.names = field_names(field, f"{self.name}: field")
        self.fields = (*self.names, weights) if weights else tuple(self.names)
        self.n_positions = len(self.fields)
        specs = [bins] if isinstance(field, str) else bins
        if not isinstance(specs, Sequence) or len(specs) != len(self.names):
            raise PipelineValueError(f"{self.name}: bins: wanted those of {self.names}, there is {bins!r}.")
        self._edges = [
            Edges(spec, f"{self.name}: bins of {name}") for name, spec in zip(self.names, specs, strict=True)
        ]
        self._shape = tuple(edges.n for edges in self._edges)
        size = int(numpy.prod(self._shape))
        self._sums = BinSums(size) if weights else None
        self._counts: Array = numpy.zeros(0 if weights else size, numpy.int64)
        self._flow: Array = numpy.zeros((2, len(self.names)), numpy.int64)  # how many points are below, and above
        self._n_nan = 0

    def take(self, point: list[float]) -> None:
        """Take in one point."""
        if not all(map(isfinite, point)):
            self._n_nan += 1
            return
        cell, is_inside = 0, True
        for axis, edges in enumerate(self._edges):
            place = edges.place(point[axis])
            cell = cell * edges.n + place
            if not 0 <= place < edges.n:
                is_inside = False
                self._flow[int(place > 0), axis] += 1
        if is_inside and self._sums is not None:
            self._sums.add(cell, point[-1])
        elif is_inside:
            self._counts[cell] += 1

    def take_arrays(self, *columns: Array) -> None:
        """Take in points by columns."""
        is_finite = numpy.logical_and.reduce([numpy.isfinite(column) for column in columns])
        if not is_finite.all():
            self._n_nan += int(len(is_finite) - is_finite.sum())
            columns = tuple(column[is_finite] for column in columns)
        cells, is_inside = self._cells(columns)
        if self._sums is not None:
            self._sums.add_array(cells[is_inside], columns[-1][is_inside])
        else:
            numpy.add.at(self._counts, cells[is_inside], 1)

    def _cells(self, columns: Sequence[Array]) -> tuple[Array, Array]:
        """Return the cell of each point, and whether it has one; count those off an axis."""
        cells = numpy.zeros(len(columns[0]), numpy.int64)
        is_inside = numpy.ones(len(columns[0]), bool)
        for axis, edges in enumerate(self._edges):
            places = edges.places(columns[axis])
            below, above = places < 0, places >= edges.n
            self._flow[:, axis] += below.sum(), above.sum()
            is_inside &= ~(below | above)
            cells = cells * edges.n + places
        return cells, is_inside

    def merge(self, other: "Histogram") -> None:
        """Take in what the other has taken in."""
        self.is_new &= other.is_new
        self._counts += other._counts
        self._flow += other._flow
        self._n_nan += other._n_nan
        if self._sums is not None:
            self._sums.merge(other._sums)

    def result(self) -> Result | None:
        """Return the histogram so far; `None` before the first point."""
        if self.is_new:
            return None
        cells = self._counts.copy() if self._sums is None else self._sums.sum()
        under, over = (row.copy() if len(row) > 1 else int(row[0]) for row in self._flow)
        name = f"{'_'.join(self.names)}_hist"
        flow = {f"{name}_under": under, f"{name}_over": over, f"{name}_n_nan": self._n_nan}
        return {name: cells.reshape(self._shape), **flow}

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units (counts, or those of the weights) and the dims of the histogram, and those of the axes."""
        units = "count" if self._sums is None else units_of(data_keys, self.fields[-1])
        described: dict[str, dict[str, Any]] = {}
        for name in self.names:
            unit = units_of(data_keys, name)
            described |= {f"{name}_hist_{what}": {"units": unit} for what in ("center", "edges") if unit}
        dims = [f"{name}_hist_center" for name in self.names]
        return {**described, f"{'_'.join(self.names)}_hist": {**({"units": units} if units else {}), "dims": dims}}

    def axes(self) -> Result:
        """Return the centers and the edges of the bins, for each field."""
        axes: Result = {}
        for name, edges in zip(self.names, self._edges, strict=True):
            axes |= {f"{name}_hist_center": edges.centers, f"{name}_hist_edges": edges.values.copy()}
        return axes

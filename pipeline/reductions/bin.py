"""Means of fields in bins of another field."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy

from pipeline.reductions.bin_sums import BinMoments
from pipeline.reductions.edges import Edges
from pipeline.reductions.point_reduction import PointReduction, field_names
from pipeline.reductions.reduction import Result, units_of

Array = numpy.ndarray


class Bin(PointReduction):
    """Mean, standard error and count of some fields, in bins of `x`: a fly scan on a regular grid, XAS in steps.

    Sums are exact, so neither the order of the points nor how they are divided among parts changes a bit. An event may
    have arrays of one shape in place of scalars: then each element is a point. Memory grows with the number of bins
    alone.

    Parameters
    ----------
    x
        The field that tells the bin.
    ys
        The field or fields to average.
    edges
        `{"start": 0, "stop": 10, "n": 100}`, or `"step"` in place of `"n"`; a list of rising edges; or a list of such
        dicts, joined: `[{"start": 8800, "stop": 8960, "step": 10}, {"start": 8960, "stop": 9030, "step": 0.5}]`. A bin
        has its left edge and not its right one, the last has both: as in `numpy.histogram`.

    Results
    -------
    `{y}_mean`: float64, one for each bin, in the units of y; NaN where there is nothing.
    `{y}_err`: float64, its standard error; NaN of less than two points.
    `{y}_n`: int64, how many points there are in each bin.
    `{y}_n_nan`: int64, how many points were left out since x or y was not finite.
    `{y}_n_outside`: int64, how many were in no bin.
    Axes: `{x}_bin_center`, `{x}_bin_edges`.

    >>> bins = Bin("motor", "det", {"start": 0, "stop": 2, "n": 2})
    >>> bins.update_page({"motor": [0.1, 0.9, 2.0, 7.0], "det": [1.0, 3.0, 5.0, 9.0]})
    0
    >>> result = bins.result()
    >>> result["det_mean"], result["det_err"], result["det_n"], result["det_n_outside"]
    (array([2., 5.]), array([ 1., nan]), array([2, 1]), 1)
    >>> bins.axes()["motor_bin_center"]
    array([0.5, 1.5])
    """

    mergeable = "exact"
    n_positions = 0
    constants = ("x", "ys", "fields", "_edges")

    def __init__(self, x: str, ys: str | Sequence[str], edges: Any) -> None:
        self.x, self.ys = x, field_names(ys, f"{self.name}: ys")
        self.fields = (x, *self.ys)
        self._edges = Edges(edges, f"{self.name}: edges")
        self._bins = [BinMoments(self._edges.n) for _ in self.ys]
        self._n_nan = [0] * len(self.ys)
        self._n_outside = [0] * len(self.ys)

    def take(self, point: list[float]) -> None:
        """Take in one point."""
        x = point[0]
        place = self._edges.place(x) if isfinite(x) else 0
        is_inside = 0 <= place < self._edges.n
        for i, y in enumerate(point[1:]):
            if not (isfinite(x) and isfinite(y)):
                self._n_nan[i] += 1
            elif is_inside:
                self._bins[i].add(place, y)
            else:
                self._n_outside[i] += 1

    def take_arrays(self, *columns: Array) -> None:
        """Take in points by columns."""
        x = columns[0]
        is_finite = numpy.isfinite(x)
        places = self._edges.places(numpy.where(is_finite, x, 0.0))
        is_inside = (places >= 0) & (places < self._edges.n)
        for i, y in enumerate(columns[1:]):
            good = is_finite & numpy.isfinite(y)
            chosen = good & is_inside
            self._n_nan[i] += len(x) - int(good.sum())
            self._n_outside[i] += int((good & ~is_inside).sum())
            self._bins[i].add_array(places[chosen], y[chosen])

    def merge(self, other: "Bin") -> None:
        """Take in what the other has taken in."""
        self.is_new &= other.is_new
        for i, bins in enumerate(other._bins):
            self._bins[i].merge(bins)
            self._n_nan[i] += other._n_nan[i]
            self._n_outside[i] += other._n_outside[i]

    def result(self) -> Result | None:
        """Return the means so far; `None` before the first point."""
        if self.is_new:
            return None
        result: Result = {}
        for i, (y, bins) in enumerate(zip(self.ys, self._bins, strict=True)):
            arrays = {f"{y}_mean": bins.mean(), f"{y}_err": bins.error(), f"{y}_n": bins.n}
            result |= {**arrays, f"{y}_n_nan": self._n_nan[i], f"{y}_n_outside": self._n_outside[i]}
        return result

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units, those of y, and the dims of arrays."""
        described = {f"{self.x}_bin_{what}": _unit(data_keys, self.x) for what in ("center", "edges")}
        for y in self.ys:
            dims = {"dims": [f"{self.x}_bin_center"]}
            described |= {f"{y}_{what}": {**_unit(data_keys, y), **dims} for what in ("mean", "err")}
            described[f"{y}_n"] = dims
        return described

    def axes(self) -> Result:
        """Return the centers and the edges of the bins."""
        return {f"{self.x}_bin_center": self._edges.centers, f"{self.x}_bin_edges": self._edges.values.copy()}


def _unit(data_keys: Mapping[str, Any], field: str) -> dict[str, Any]:
    units = units_of(data_keys, field)
    return {"units": units} if units else {}

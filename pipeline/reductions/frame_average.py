"""Means and variances of arrays, element by element, over events."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy

from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions.element_moments import ElementMoments, IntegerMoments, fits
from pipeline.reductions.point_reduction import as_number
from pipeline.reductions.reduction import Data, Reduction, Result, units_of
from pipeline.reductions.weighted_moments import WeightedMoments

Array = numpy.ndarray
Moments = ElementMoments | WeightedMoments


class FrameAverage(Reduction):
    """Mean and variance of each element of an array (a spectrum, a curve, a frame) over the events.

    Integers of up to 32 bits are summed in integers, exactly and in any order, whatever the width they come in, so
    that lists from a file give what arrays from a detector gave. From the first wider integers or floats on, and with
    weights, it goes by Welford's or West's update in float64. Memory is some arrays of the field's size for each group.

    Parameters
    ----------
    field
        The field to read: an array of any shape, which must stay the same.
    variance
        Whether to give the variances too.
    group_by
        `{field: values}`: averages apart for the events in which this field has the first of these values, the second,
        and so on; `{"image_key": [0, 1, 2]}`. The values are told beforehand since they are an axis of the results.
    weights
        The field that tells the weight of an array: a monitor, an exposure time. Where it is not finite, or not over
        0, the array is left out and counted.

    Results
    -------
    `{field}_mean`: float64, in the shape and the units of the field; NaN where there is nothing.
    `{field}_var`: float64, the sample variance (`n - 1`; for weights see `WeightedMoments`), in units squared.
    `{field}_n`, `{field}_n_nan`: int64 in that shape, how many values were taken, and left out since not finite.
    With `group_by` these have a first axis more, `{group}_group`, and there is `{field}_n_ungrouped`: int64, how many
    events have none of the values. With `weights` there is `{field}_n_unweighted`: int64, how many were left out.

    >>> average = FrameAverage("mca")
    >>> for counts in ([1, 2, 3], [3, 2, 7]): average.update({"mca": numpy.array(counts, "u2")})
    >>> average.result()["mca_mean"], average.result()["mca_var"]
    (array([2., 2., 5.]), array([2., 0., 8.]))
    """

    constants = ("fields", "_group", "_places")

    def __init__(
        self,
        field: str,
        variance: bool = True,
        group_by: Mapping[str, Sequence[Any]] | None = None,
        weights: str | None = None,
    ) -> None:
        self.field, self.variance, self.weights = field, variance, weights
        self._group, self._places = _groups(group_by, self.name)
        self.fields = tuple(name for name in (field, self._group, weights) if name is not None)
        self._parts: list[Moments] = []
        self._n_ungrouped = self._n_unweighted = 0

    @property
    def mergeable(self) -> str:  # type: ignore[override]  # it depends on the data
        """`"exact"`, or `"rounding"` for weights and once floats or wide integers were seen."""
        is_exact = all(part.mergeable == "exact" for part in self._parts)
        return "exact" if is_exact and self.weights is None else "rounding"

    def update(self, data: Data) -> None:
        """Take in the array of one event."""
        frame = _frame(data[self.field])
        place = 0 if self._group is None else self._place(data[self._group])
        weight = None if self.weights is None else _weight(data[self.weights])
        self._begin(frame)
        if place is None:
            self._n_ungrouped += 1
        elif weight is not None and not (isfinite(weight) and weight > 0):
            self._n_unweighted += 1
        else:
            self._add(place, frame, weight)

    def _add(self, place: int, frame: Array, weight: float | None) -> None:
        part = self._parts[place]
        with numpy.errstate(over="ignore", invalid="ignore"):
            if isinstance(part, WeightedMoments):
                assert weight is not None
                part.add(frame, weight)
            else:
                part.add(frame)

    def _begin(self, frame: Array) -> None:
        """Have moments that take this frame."""
        if not self._parts:
            kind = WeightedMoments if self.weights else IntegerMoments if fits(frame.dtype) else ElementMoments
            self._parts = [kind(frame.shape) for _ in self._places or (0,)]
        if frame.shape != self._parts[0].n.shape:
            raise RejectedValue(f"wanted shape {list(self._parts[0].n.shape)}, there is {list(frame.shape)}.")
        if not fits(frame.dtype):
            self._parts = [_in_floats(part) for part in self._parts]

    def _place(self, value: Any) -> int | None:
        value = value.item() if isinstance(value, numpy.generic | numpy.ndarray) and value.ndim == 0 else value
        try:
            return self._places.get(value)
        except TypeError:
            raise RejectedValue(f"{self.name}: {self._group}: wanted one value, there is {value!r}.") from None

    def merge(self, other: "FrameAverage") -> None:
        """Take in what the other has taken in."""
        self._n_ungrouped += other._n_ungrouped
        self._n_unweighted += other._n_unweighted
        if not other._parts:
            return
        if not self._parts:
            self._parts = [type(part)(part.n.shape) for part in other._parts]
        pairs = list(zip(self._parts, other._parts, strict=True))
        if type(self._parts[0]) is not type(other._parts[0]):
            pairs = [(_in_floats(one), _in_floats(two)) for one, two in pairs]
        for one, two in pairs:
            one.merge(two)
        self._parts = [one for one, _ in pairs]

    def result(self) -> Result | None:
        """Return the averages so far; `None` before the first array."""
        if not self._parts:
            return None
        result = {f"{self.field}_mean": self._stacked([_finite(part.mean()) for part in self._parts])}
        if self.variance:
            result[f"{self.field}_var"] = self._stacked([_finite(part.variance(1)) for part in self._parts])
        result[f"{self.field}_n"] = self._stacked([part.n.copy() for part in self._parts])
        result[f"{self.field}_n_nan"] = self._stacked([part.n_events - part.n for part in self._parts])
        return {**result, **self._left_out()}

    def _stacked(self, arrays: list[Array]) -> Array:
        return arrays[0] if self._group is None else numpy.stack(arrays)

    def _left_out(self) -> dict[str, int]:
        ungrouped = {f"{self.field}_n_ungrouped": self._n_ungrouped} if self._group is not None else {}
        return ungrouped | ({f"{self.field}_n_unweighted": self._n_unweighted} if self.weights else {})

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units, those of the field and their square, and the dims."""
        units = units_of(data_keys, self.field)
        dims = {"dims": self._dims(data_keys)} if self._dims(data_keys) else {}
        described: dict[str, dict[str, Any]] = {
            f"{self.field}_{what}": dict(dims) for what in ("mean", "var", "n", "n_nan")
        }
        if units:
            described[f"{self.field}_mean"]["units"] = units
            described[f"{self.field}_var"]["units"] = f"({units})^2"
        return described

    def _dims(self, data_keys: Mapping[str, Any]) -> list[str]:
        dims: list[str] = list(data_keys.get(self.field, {}).get("dims") or ())
        if self._group is None or not self._parts:
            return dims
        return [f"{self._group}_group", *(dims or [f"{self.field}_dim_{i}" for i in range(self._parts[0].n.ndim)])]

    def axes(self) -> Result:
        """Return the values that the groups are of."""
        return {} if self._group is None else {f"{self._group}_group": numpy.array(list(self._places))}


def _groups(group_by: Any, name: str) -> tuple[str | None, dict[Any, int]]:
    """Return the field that tells the group, and the place of each of its values."""
    if group_by is None:
        return None, {}
    field, values = next(iter(group_by.items())) if isinstance(group_by, Mapping) and len(group_by) == 1 else ("", ())
    is_list = isinstance(values, list | tuple) and bool(values)
    are_alike = all(isinstance(v, str) for v in values) or all(isinstance(v, int | float) for v in values)
    if not is_list or not are_alike or len(set(values)) < len(values):
        raise PipelineValueError(
            f"{name}: group_by is {group_by!r}; wanted a field and the values it has: {{'image_key': [0, 1, 2]}}."
        )
    return field, {value: i for i, value in enumerate(values)}


def _frame(value: Any) -> Array:
    """Return an array of numbers; integers in 32 bits where they fit, whatever the width they came in."""
    try:
        array = numpy.asarray(value)
    except ValueError:
        raise RejectedValue("wanted rows of one length, there are ragged ones.") from None
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise RejectedValue(f"wanted an array of numbers, there is {array.dtype} of shape {list(array.shape)}.")
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8 or not array.size:
        return array
    least, largest = int(array.min()), int(array.max())
    if least >= 0 and largest < 2**32:
        return array.astype(numpy.uint32)
    return array.astype(numpy.int32) if least >= -(2**31) and largest < 2**31 else array


def _weight(value: Any) -> float:
    weight = as_number(value)
    if weight is None:
        raise RejectedValue("wanted one number as the weight of an array, there is an array.")
    return weight


def _in_floats(part: Any) -> Any:
    return part.in_floats() if isinstance(part, IntegerMoments) else part


def _finite(array: Array) -> Array:
    return numpy.where(numpy.isfinite(array), array, numpy.nan)

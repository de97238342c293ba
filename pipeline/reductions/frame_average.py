"""Means and variances of arrays, element by element, over events."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Literal

import numpy

from pipeline.errors import PipelineValueError, RejectedValue, near
from pipeline.reductions.element_moments import ElementMoments, IntegerMoments, fits
from pipeline.reductions.frame_series import HOW, check_series, one_frame
from pipeline.reductions.point_reduction import as_number
from pipeline.reductions.reduction import Data, Reduction, Result, units_of
from pipeline.reductions.weighted_moments import WeightedMoments

Array = numpy.ndarray
Moments = IntegerMoments | ElementMoments | WeightedMoments


class FrameAverage(Reduction):
    """Mean and variance of each element of an array (a spectrum, a curve, a frame) over the events.

    Integers of up to 32 bits are summed in integers, exactly and in any order, whatever the width they come in, so
    that lists from a file give what arrays from a detector gave. From the first wider integers or floats on, and with
    weights, it goes by Welford's or West's update in float64. Memory for each group: of `uint16` 6 to 48 bytes an
    element, of floats 16, and 4 more once there was a NaN; without the variances about half of it.

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
    frames
        What the first axis of the array is. By default an axis as any other: spectra of several elements are averaged
        element by element; but an array of three axes, the first of them of length 1, is one frame, as detectors write
        it. Given, it is that of a series, whose frames are taken in one by one (`"each"`: `n` counts frames, and the
        variance is that of single frames) or by their `"mean"` or `"sum"` (`n` counts events).

    Results
    -------
    `{field}_mean`: float64, in the shape and the units of the field, or of one frame of it; NaN where there is nothing.
    `{field}_var`: float64, the sample variance (`n - 1`; for weights see `WeightedMoments`), in units squared.
    `{field}_n`, `{field}_n_nan`: int64 in that shape, how many values were taken, and left out since not finite.
    With `group_by` these have a first axis more, `{group}_group`, and there is `{field}_n_ungrouped`: int64, how many
    events have none of the values. With `weights` there is `{field}_n_unweighted`: int64, how many were left out.
    `{field}_n_frames`: int64, how many frames were taken in; only of series.

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
        frames: Literal["each", "mean", "sum"] | None = None,
    ) -> None:
        self.field, self.variance, self.weights, self.frames = field, variance, weights, frames
        if frames is not None and frames not in HOW:
            raise PipelineValueError(f"frames has {frames!r}{near(str(frames), HOW)}")
        self._group, self._places = _groups(group_by, self.name)
        self.fields = tuple(name for name in (field, self._group, weights) if name is not None)
        self._parts: list[Moments] = []
        self._n_ungrouped = self._n_unweighted = self._n_frames = 0
        self._is_series = False

    @property
    def mergeable(self) -> str:  # type: ignore[override]  # it depends on the data
        """`"exact"`, or `"rounding"` for weights and once floats or wide integers were seen."""
        is_exact = all(part.mergeable == "exact" for part in self._parts)
        return "exact" if is_exact and self.weights is None else "rounding"

    def update(self, data: Data) -> None:
        """Take in the array of one event."""
        array = _array(data[self.field])
        place = 0 if self._group is None else self._place(data[self._group])
        weight = None if self.weights is None else _weight(data[self.weights])
        is_series = array.ndim == 3 and len(array) == 1 if self.frames is None else array.ndim > 1
        frames = self._frames(array) if is_series else [_narrow(array)]
        self._begin(frames[0], is_series)
        if place is None:
            self._n_ungrouped += 1
        elif weight is not None and not (isfinite(weight) and weight > 0):
            self._n_unweighted += 1
        else:
            self._add(place, frames, weight)
            self._n_frames += len(array) if is_series else 1

    def _frames(self, series: Array) -> list[Array]:
        if self.frames != "each":
            return [_narrow(one_frame(series, self.frames or "sum"))]
        check_series(series)
        return list(_narrow(series))

    def _add(self, place: int, frames: list[Array], weight: float | None) -> None:
        part = self._parts[place]
        for frame in frames:
            if isinstance(part, WeightedMoments):
                assert weight is not None
                part.add(frame, weight)
            else:
                part.add(frame)

    def _begin(self, frame: Array, is_series: bool) -> None:
        """Have moments that take this frame."""
        if not self._parts:
            kind = WeightedMoments if self.weights else IntegerMoments if fits(frame.dtype) else ElementMoments
            self._parts = [kind(frame.shape, self.variance) for _ in self._places or (0,)]
            self._is_series = is_series
        if frame.shape != self._parts[0].shape or is_series is not self._is_series:
            raise RejectedValue(f"wanted shape {list(self._parts[0].shape)}, there is {list(frame.shape)}.")
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
        if other._parts:
            self._merge_parts(other._parts)
        self._n_ungrouped += other._n_ungrouped
        self._n_unweighted += other._n_unweighted
        self._n_frames += other._n_frames
        self._is_series |= other._is_series

    def _merge_parts(self, others: list[Moments]) -> None:
        parts = self._parts or [type(part)(part.shape, self.variance) for part in others]
        pairs: list[tuple[Any, Any]] = list(zip(parts, others, strict=True))
        if type(parts[0]) is not type(others[0]):
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
        result[f"{self.field}_n"] = self._stacked([part.n for part in self._parts])
        result[f"{self.field}_n_nan"] = self._stacked([part.n_nan for part in self._parts])
        return {**result, **self._counts()}

    def _stacked(self, arrays: list[Array]) -> Array:
        return arrays[0] if self._group is None else numpy.stack(arrays)

    def _counts(self) -> dict[str, int]:
        counts = {"n_ungrouped": self._n_ungrouped} if self._group is not None else {}
        counts |= {"n_unweighted": self._n_unweighted} if self.weights else {}
        counts |= {"n_frames": self._n_frames} if self._is_series else {}
        return {f"{self.field}_{what}": count for what, count in counts.items()}

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
        dims = dims[1:] if self._is_series else dims
        if self._group is None or not self._parts:
            return dims
        return [f"{self._group}_group", *(dims or [f"{self.field}_dim_{i}" for i in range(len(self._parts[0].shape))])]

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


def _array(value: Any) -> Array:
    """Return an array of numbers."""
    try:
        array = numpy.asarray(value)
    except ValueError:
        raise RejectedValue("wanted rows of one length, there are ragged ones.") from None
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise RejectedValue(f"wanted an array of numbers, there is {array.dtype} of shape {list(array.shape)}.")
    return array


def _narrow(array: Array) -> Array:
    """Return integers in 32 bits where they fit, whatever the width they came in."""
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
    """Return an array of our own with NaN for what is infinite."""
    array[numpy.isinf(array)] = numpy.nan
    return array

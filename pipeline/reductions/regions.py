"""Numbers of regions of interest, of spectra and of frames."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import numpy

from pipeline.errors import PipelineValueError, RejectedValue, near
from pipeline.reductions.event_reduction import EventReduction
from pipeline.reductions.files import read_array
from pipeline.reductions.frame_series import HOW, check_series, one_frame
from pipeline.reductions.reduction import Data, Result, units_of, with_units
from pipeline.reductions.region import Box, Labelled, Region
from pipeline.reductions.region_table import RegionTable
from pipeline.reductions.runs import RegionSums, Runs, runs_of_labels
from pipeline.reductions.values import as_numbers

Array = numpy.ndarray

STATISTICS = ("sum", "mean", "max", "com")


class Regions(EventReduction):
    """Sum, mean, maximum and centre of mass of regions of a spectrum or of a frame, event by event.

    A region of a spectrum is `[start, stop]`, one of a frame `[y0, y1, x0, x1]`: half-open, as slices are, but clipped
    at the edges and never counted from the end. An array with one axis more is a series of spectra or frames.
    Elements that are not finite are left out. Integers are summed in integers, floats in the order of `Runs`. One pass
    over each region: what lies between them costs nothing.

    Parameters
    ----------
    field
        The field to read: an array.
    rois
        The regions, by name; or a .npy or .npz file with an array of the shape of the frame, whose whole numbers over 0
        are regions of that name.
    statistic
        Which of `sum`, `mean`, `max` and `com`.
    background
        `"border"`: the mean of the finite elements that surround a region is taken from each of its elements.
    border
        How many elements wide that surrounding is.
    frames
        What becomes of a series: the `"sum"` or the `"mean"` of its frames is taken first, or an array is given with a
        result of `"each"`.
    sha256
        Of the file of labels. It becomes part of the recipe, whether given or not; a file that was changed is refused.

    Results
    -------
    `{field}_{roi}_sum`, `_mean`, `_max`: float64, in the units of the field; less the background, if that is asked for.
    `{field}_{roi}_com`, or of a frame `_com_y` and `_com_x`: float64, in elements of the whole array, from 0; NaN where
    the sum is not positive.
    `{field}_{roi}_n`: int64, how many elements were taken: fewer where the region is clipped, or something not finite.
    Of none, the rest is NaN.
    `{field}_{roi}_bkg`: float64, what was taken from each element; only with `background="border"`, NaN without any.
    `{field}_n_frames`: int64, how many there were; only of a series.

    >>> regions = Regions("mca", {"Fe": [1, 4], "edge": [4, 9]}, statistic=["sum", "com"])
    >>> regions.update({"mca": [9, 1, 2, 1, 5]})
    >>> regions.result()
    {'mca_Fe_sum': 4.0, 'mca_Fe_com': 2.0, 'mca_Fe_n': 3, 'mca_edge_sum': 5.0, 'mca_edge_com': 4.0, 'mca_edge_n': 1}
    """

    version = 2
    constants = ("_regions", "_shape", "_keys", "_table", "_runs")

    def __init__(
        self,
        field: str,
        rois: dict[str, Sequence[int]] | str,
        statistic: str | Sequence[str] = STATISTICS,
        background: Literal["none", "border"] = "none",
        border: int = 1,
        frames: Literal["sum", "mean", "each"] = "sum",
        sha256: str | None = None,
    ) -> None:
        self.field, self.background, self.frames = field, background, frames
        self.fields = (field,)
        self.statistics = [statistic] if isinstance(statistic, str) else list(statistic)
        _check(self.statistics, STATISTICS, "statistic")
        _check([background], ("none", "border"), "background")
        _check([frames], HOW, "frames")
        if border < 1:
            raise PipelineValueError(f"border is {border!r}; wanted 1 or more.")
        self._shape: tuple[int, ...] | None = None
        width = border if background == "border" else 0
        self._regions = self._read(rois, sha256) if isinstance(rois, str) else _boxes(rois, width)
        self._n_axes = next(iter(self._regions.values())).n_axes
        self._keys = self._result_keys()
        self._table = RegionTable(self.statistics, self._n_axes, has_border=width > 0)
        self._runs: dict[tuple[int, ...], Runs] = {}  # shape of the last frame -> regions, and what surrounds them

    def _read(self, path: str, sha256: str | None) -> dict[str, Region]:
        if self.background == "border":
            raise PipelineValueError("background is 'border'; wanted 'none' of a file of labels.")
        labels, digest = read_array(path, sha256)
        self._pin(sha256=digest)
        if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2) or not (labels > 0).any():
            raise PipelineValueError(
                f"{path!r} has {labels.dtype} of shape {list(labels.shape)}; wanted whole numbers, some over 0."
            )
        self._shape = labels.shape
        names = numpy.unique(labels[labels > 0]).tolist()
        runs = runs_of_labels(labels.reshape(-1, labels.shape[-1]))
        return {str(name): Labelled(each, labels.ndim) for name, each in zip(names, runs, strict=True)}

    def _result_keys(self) -> list[str]:
        """Return the keys in the order of the results: all of a region, then all of the next."""
        centers = ["com"] if self._n_axes == 1 else ["com_y", "com_x"]
        names = [centers if what == "com" else [what] for what in self.statistics]
        whats = [*chain.from_iterable(names), "n", *(["bkg"] if self.background == "border" else [])]
        return [f"{self.field}_{name}_{what}" for name in self._regions for what in whats]

    def reduce(self, data: Data) -> Result:
        """Return the numbers of the regions of one event."""
        values = as_numbers(data[self.field])
        axes = self._n_axes
        if values.ndim not in (axes, axes + 1) or (self._shape is not None and values.shape[-axes:] != self._shape):
            raise RejectedValue(
                f"{self.field!r}: wanted an array of {axes} axes{f', {list(self._shape)}' if self._shape else ''}, "
                f"or a series of them; there is the shape {list(values.shape)}."
            )
        if values.ndim == axes:
            return self._of_frame(values)
        row = self._of_series(values)
        row[f"{self.field}_n_frames"] = len(values)
        return row

    def _of_series(self, values: Array) -> Result:
        if self.frames != "each":
            return self._of_frame(one_frame(values, self.frames))
        check_series(values)
        rows = [self._of_frame(frame) for frame in values]
        return {key: numpy.array([row[key] for row in rows]) for key in rows[0]}

    def _of_frame(self, frame: Array) -> Result:
        frame = frame if frame.ndim == 2 else frame.reshape(1, -1)
        runs = self._runs_of(frame.shape)
        sums = runs.sums(frame)
        if self.background == "border":
            sums = _less_border(sums, len(self._regions))
        values: list[Any] = self._table.of(sums, has_kernel=runs.are_large).reshape(-1).tolist()
        counts = slice(self._table.n_place, None, len(values) // len(self._regions))
        values[counts] = sums.n.astype(int).tolist()
        return dict(zip(self._keys, values, strict=True))

    def _runs_of(self, shape: tuple[int, ...]) -> Runs:
        if (known := self._runs.get(shape)) is not None:
            return known
        height, width = shape
        regions = self._regions.values()
        borders = regions if self.background == "border" else ()
        runs = [region.runs((height, width)) for region in regions]
        self._runs.clear()
        self._runs[shape] = Runs([*runs, *(region.border((height, width)) for region in borders)])
        return self._runs[shape]

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: those of the field; centres are in elements, `pixel`."""
        units = units_of(data_keys, self.field)
        described: dict[str, str | None] = {}
        for name in self._regions:
            described |= {f"{self.field}_{name}_{what}": units for what in ("sum", "mean", "max", "bkg")}
            described |= {f"{self.field}_{name}_{what}": "pixel" for what in ("com", "com_y", "com_x")}
        return with_units(described)


def _check(given: Sequence[str], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            raise PipelineValueError(f"{what} has {name!r}{near(str(name), known)}")


def _less_border(sums: RegionSums, n: int) -> RegionSums:
    """Return the sums of the first regions less the mean of those after them, which surround them."""
    around = sums.part(n, 2 * n)
    with numpy.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return sums.part(0, n).less(around.total / around.n)


def _boxes(rois: Mapping[str, Sequence[int]], border: int) -> dict[str, Region]:
    if not isinstance(rois, Mapping) or not rois:
        raise PipelineValueError(f"rois is {rois!r}; wanted at least one region, by name.")
    for name in rois:
        if not isinstance(name, str) or not name or "." in name or "/" in name:
            raise PipelineValueError(f"rois has the name {name!r}; wanted text without '.' and '/'.")
    boxes: dict[str, Region] = {name: Box.of(name, bounds, border) for name, bounds in rois.items()}
    if len({box.n_axes for box in boxes.values()}) > 1:
        raise PipelineValueError(f"rois has regions of spectra and of frames, {dict(rois)}; wanted one kind.")
    return boxes

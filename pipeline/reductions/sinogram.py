"""One row of the detector, of each projection of a tomography scan."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from pipeline.errors import PipelineRuntimeError, PipelineValueError, RejectedValue, near
from pipeline.reductions.corrected import Corrected, as_frames
from pipeline.reductions.frame_reduction import Frames
from pipeline.reductions.frame_series import HOW, check_series, one_frame
from pipeline.reductions.projection import summed
from pipeline.reductions.reduction import Data, Reduction, Result, units_of, with_units
from pipeline.reductions.values import as_numbers

Array = numpy.ndarray


class Sinogram(Reduction):
    """Collect one row of the detector, or the mean of some, of each projection: an image that fills as a scan goes on.

    Rows stand in the order in which they came, with the angle of each beside; what is not there yet is NaN. An event
    without an angle is rejected. Frames are taken as they are; after `Correct` in a node, read `{field}_corrected`.

    Parameters
    ----------
    field
        The field to read: a frame, or a series of them.
    row
        Which row; or `[y0, y1]`, half-open, for the mean of the finite elements of these.
    angle
        The field that tells the angle.
    n
        How many projections there will be: by default the `num_points` of the start document, times the frames of the
        first event if each is one.
    frames
        What becomes of a series: the `"mean"` or the `"sum"` of its frames is a projection, or `"each"` is one; then
        the angle is an array, of one for each frame.

    Results
    -------
    `{field}_sinogram`: float32 [n, n_x], in the units of the field.
    `{field}_sinogram_angle`: float64 [n], in the units of the angle.
    `{field}_sinogram_n`: int64, how many rows are there.
    `{field}_sinogram_n_over`: int64, how many projections there were besides, and are left out.

    >>> sinogram = Sinogram("cam", 0, "theta", n=3)
    >>> sinogram.update({"cam": numpy.array([[1, 2], [3, 4]], "u2"), "theta": 90.0})
    >>> sinogram.result()["cam_sinogram"], sinogram.result()["cam_sinogram_angle"]
    (array([[ 1.,  2.],
           [nan, nan],
           [nan, nan]], dtype=float32), array([90., nan, nan]))
    """

    constants = ("_rows",)

    def __init__(
        self, field: str, row: int | Sequence[int], angle: str, n: int | None = None, frames: Frames = "mean"
    ) -> None:
        self.field, self.angle, self.frames = field, angle, frames
        self.fields = (field, angle)
        if frames not in HOW:
            raise PipelineValueError(f"frames has {frames!r}{near(str(frames), HOW)}")
        if n is not None and (type(n) is not int or n < 1):
            raise PipelineValueError(f"n is {n!r}; wanted how many projections there will be, or None.")
        self._rows = _rows(row)
        self._n_points: int | None = None  # as the start document tells
        self._image: Array | None = None  # once the width is known
        self._angles: Array = numpy.empty(0)
        self._n = self._n_over = 0

    def begin(self, start: Mapping[str, Any]) -> None:
        """Learn how many projections there will be, unless that is given."""
        n = start.get("num_points")
        self._n_points = n if type(n) is int and n > 0 else None
        if self.arguments["n"] is None and self._n_points is None:
            raise PipelineValueError(
                f"{self.name}: wanted num_points, but the start document has {n!r}; the argument n tells it."
            )

    def update(self, data: Data) -> None:
        """Take in the projections of one event."""
        angles = numpy.atleast_1d(as_numbers(data[self.angle])).astype(float)
        rows = self._rows_of(as_frames(data[self.field]))
        if angles.shape != (len(rows),) or not numpy.isfinite(angles).all():
            raise RejectedValue(f"{self.angle!r}: wanted {len(rows)} angles, there are {angles.tolist()}.")
        if self._image is None:
            self._begin(rows.shape)
        assert self._image is not None
        if rows.shape[1] != self._image.shape[1]:
            raise RejectedValue(f"{self.field!r}: wanted {self._image.shape[1]} columns, there are {rows.shape[1]}.")
        n = min(len(rows), len(self._image) - self._n)
        self._image[self._n : self._n + n], self._angles[self._n : self._n + n] = rows[:n], angles[:n]
        self._n += n
        self._n_over += len(rows) - n

    def _begin(self, shape: tuple[int, ...]) -> None:
        n = self.arguments["n"] or (self._n_points or 0) * shape[0]
        if not n:
            raise PipelineRuntimeError(f"{self.name} knows no size; wanted n, or begin(start) before data.")
        self._image = numpy.full((n, shape[1]), numpy.nan, numpy.float32)
        self._angles = numpy.full(n, numpy.nan)

    def _rows_of(self, values: Array | Corrected) -> Array:
        """Return the row of each projection, as float64."""
        if values.ndim not in (2, 3) or values.shape[-2] < self._rows.stop:
            raise RejectedValue(
                f"{self.field!r}: wanted a frame of {self._rows.stop} rows, or a series of them; "
                f"there is the shape {list(values.shape)}."
            )
        part = values[..., self._rows, :]
        if values.ndim == 3:
            check_series(part)
        is_each = self.frames == "each" and values.ndim == 3
        frames = part if is_each else [part if values.ndim == 2 else one_frame(part, self.frames)]
        return numpy.array([_mean(frame) for frame in frames])

    def result(self) -> Result | None:
        """Return the image so far; `None` before the first projection."""
        if self._image is None:
            return None
        name = f"{self.field}_sinogram"
        return {
            name: self._image.copy(),
            f"{name}_angle": self._angles.copy(),
            f"{name}_n": self._n,
            f"{name}_n_over": self._n_over,
        }

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units, those of the field and of the angle, and the dims."""
        name = f"{self.field}_sinogram"
        dims = {name: [f"{name}_angle", f"{name}_x"], f"{name}_angle": [f"{name}_angle"]}
        units = with_units({name: units_of(data_keys, self.field), f"{name}_angle": units_of(data_keys, self.angle)})
        return {key: {"dims": dims[key], **units.get(key, {})} for key in dims}


def _rows(row: Any) -> slice:
    start, stop = (row, row + 1) if type(row) is int else row if isinstance(row, list | tuple) else (0, 0)
    if type(start) is not int or type(stop) is not int or not 0 <= start < stop:
        raise PipelineValueError(f"row is {row!r}; wanted the number of one, or [y0, y1], from 0 and in order.")
    return slice(start, stop)


def _mean(rows: Array) -> Array:
    """Return the mean of the finite elements of each column; NaN of none."""
    total, n = summed(rows, 0)
    with numpy.errstate(invalid="ignore", divide="ignore"):
        mean = total / n
    return numpy.where(numpy.isfinite(mean), mean, numpy.nan)

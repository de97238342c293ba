"""Where the rotation axis of a tomography scan is."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Literal

import numpy

from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions.corrected import as_frames
from pipeline.reductions.frame_series import check_series, one_frame
from pipeline.reductions.mirror import mirror_axis
from pipeline.reductions.projection import summed
from pipeline.reductions.rectangle import Rectangle
from pipeline.reductions.reduction import Data, Reduction, Result
from pipeline.reductions.values import NAN, as_number

Array = numpy.ndarray


class RotationCenter(Reduction):
    """Find the rotation axis from two projections that are half a turn apart: one is the mirror image of the other.

    A preview, in the middle of a scan, for an axis along the columns that is between a quarter and three quarters of
    the width; what is made of a whole sinogram (Vo et al., Opt. Express 22 (2014) 19078) finds it better. The first
    projection is compared with that of those within the tolerance which is nearest to half a turn from it. Give
    frames that are corrected by a flat (`Correct`, `{field}_corrected`): what stays in place as the sample turns pulls
    the result to the middle of the frame. Other frames are not read.

    Parameters
    ----------
    field
        The field to read: a frame, or a series of them.
    angle
        The field that tells the angle, in degrees; an event without one is rejected.
    first
        The angle of the first of the two projections: by default the first angle there is.
    tolerance
        How far, in degrees, the two may be off these angles.
    region
        A rectangle `[y0, y1, x0, x1]`, half-open and clipped at the edges; the result is in the whole frame.
    bands
        To how many rows at most the rows are averaged before they are compared.
    frames
        Whether the `"mean"` or the `"sum"` of the frames of a series is a projection.

    Results
    -------
    `{field}_rotation_center`: float64, in columns from 0; NaN until both projections are there, or if they have no
    likeness.
    `{field}_rotation_score`: float64, the correlation of the one with the other, mirrored; 1 if they are the same.
    `{field}_rotation_apart`: float64, how far they are apart, in degrees.

    >>> center = RotationCenter("cam", "theta")
    >>> for theta, x0 in ((0.0, 10), (90.0, 18), (180.0, 26)):
    ...     center.update({"cam": numpy.exp(-((numpy.arange(40.0) - x0) ** 2) / 18)[None], "theta": theta})
    >>> {key: round(value, 2) for key, value in center.result().items()}
    {'cam_rotation_center': 18.0, 'cam_rotation_score': 1.0, 'cam_rotation_apart': 180.0}
    """

    constants = ("_rectangle",)

    def __init__(
        self,
        field: str,
        angle: str,
        first: float | None = None,
        tolerance: float = 0.5,
        region: Sequence[int] | None = None,
        bands: int = 64,
        frames: Literal["mean", "sum"] = "mean",
    ) -> None:
        if not (0 <= tolerance < 90) or bands < 1:
            raise PipelineValueError(
                f"tolerance is {tolerance!r} and bands {bands!r}; wanted 0 to under 90 degrees, and 1 or more."
            )
        if frames not in ("mean", "sum"):
            raise PipelineValueError(f"frames is {frames!r}; wanted 'mean' or 'sum'.")
        self.field, self.angle, self.tolerance, self.bands, self.frames = field, angle, tolerance, bands, frames
        self.fields = (field, angle)
        self._rectangle = None if region is None else Rectangle.of(region, "region")
        self._first_angle = NAN if first is None else float(first)
        self._first: Array | None = None  # the bands of the first projection
        self._off = 360.0  # how far the second one is from half a turn
        self._found = (NAN, NAN, NAN)

    def update(self, data: Data) -> None:
        """Take in the projection of one event, if it is one of the two."""
        angle = as_number(data[self.angle])
        if not isfinite(angle):
            raise RejectedValue(f"{self.angle!r}: wanted an angle, there is {angle!r}.")
        if self._first is None:
            self._begin(angle, data)
            return
        turn = (angle - self._first_angle) % 360
        if abs(turn - 180) <= self.tolerance and abs(turn - 180) < self._off:
            self._compare(turn, *self._projection(data))

    def _begin(self, angle: float, data: Data) -> None:
        wanted = self._first_angle if isfinite(self._first_angle) else angle
        if abs((angle - wanted + 180) % 360 - 180) <= self.tolerance:
            self._first, _ = self._projection(data)
            self._first_angle = angle

    def _compare(self, turn: float, bands: Array, x0: int) -> None:
        assert self._first is not None
        if bands.shape != self._first.shape:
            raise RejectedValue(
                f"{self.field!r}: wanted a projection as the first, whose bands are {list(self._first.shape)}; "
                f"there are {list(bands.shape)}."
            )
        self._off = abs(turn - 180)
        center, score = mirror_axis(self._first, bands)
        self._found = center + x0, score, turn

    def _projection(self, data: Data) -> tuple[Array, int]:
        """Return the bands of a projection, and its first column."""
        values = as_frames(data[self.field])
        if values.ndim not in (2, 3) or not values.size:
            raise RejectedValue(
                f"{self.field!r}: wanted a frame, or a series of them; there is the shape {list(values.shape)}."
            )
        shape = values.shape[-2:]
        rows, columns = (self._rectangle or Rectangle(0, shape[0], 0, shape[1])).slices(shape)
        part = values[..., rows, columns]
        if part.ndim == 3:
            check_series(part)
            part = one_frame(part, self.frames)
        if not part.size:
            raise RejectedValue(f"{self.field!r}: wanted something in the region, there is nothing.")
        return _banded(part, self.bands), columns.start

    def result(self) -> Result | None:
        """Return where the axis is; NaN until both projections are there, `None` before the first."""
        if self._first is None:
            return None
        names = ("center", "score", "apart")
        return {f"{self.field}_rotation_{name}": value for name, value in zip(names, self._found, strict=True)}

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units."""
        units = {"center": "pixel", "score": "dimensionless", "apart": "deg"}
        return {f"{self.field}_rotation_{name}": {"units": unit} for name, unit in units.items()}


def _banded(frame: Array, n: int) -> Array:
    """Return the mean of the finite elements over bands of rows, n of them at most."""
    sums = [summed(band, 0) for band in numpy.array_split(frame, min(n, len(frame)))]
    with numpy.errstate(invalid="ignore", divide="ignore"):
        return numpy.array([total / n for total, n in sums])

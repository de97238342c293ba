"""Frames, summed along one axis."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy

from pipeline.errors import PipelineValueError
from pipeline.reductions.frame_reduction import FrameReduction, Frames
from pipeline.reductions.reduction import Result, units_of

Array = numpy.ndarray


class Projection(FrameReduction):
    """Sum or average a frame, or a rectangle of it, along one axis, event by event: a profile remains.

    Elements that are not finite are left out. Integers are summed in integers; those of 64 bits,
    and floats, in float64.

    Parameters
    ----------
    field
        The field to read: a frame, or a series of them.
    axis
        Along which axis it is summed: 0 is y, and a profile along x remains; 1 is x.
    region
        A rectangle `[y0, y1, x0, x1]`, half-open and clipped at the edges.
    statistic
        `"sum"`, or the `"mean"` of the finite elements.
    frames
        What becomes of a series: the `"sum"` or the `"mean"` of its frames is taken first; or `"each"` has a profile.
    name
        What the names begin with: `{field}_projection` by default. Two projections in one node need two.

    Results
    -------
    `{name}`: float64 [n], in the units of the field; NaN where nothing was finite.
    `{name}_n`: int64 [n], of how many elements.
    `{name}_n_frames`: int64, how many there were; only of a series.
    Axes: `{name}_pixel`, counted in the whole frame.

    >>> projection = Projection("cam", axis=0, region=[0, 2, 1, 3])
    >>> projection.update({"cam": numpy.array([[1, 2, 3], [4, 5, 6]], "u1")})
    >>> projection.result(), projection.axes()
    ({'cam_projection': array([7., 9.]), 'cam_projection_n': array([2, 2])}, {'cam_projection_pixel': array([1, 2])})
    """

    def __init__(
        self,
        field: str,
        axis: int,
        region: Sequence[int] | None = None,
        statistic: Literal["sum", "mean"] = "sum",
        frames: Frames = "mean",
        name: str | None = None,
    ) -> None:
        super().__init__(field, name or f"{field}_projection", region, frames)
        if axis not in (0, 1) or statistic not in ("sum", "mean"):
            raise PipelineValueError(
                f"axis is {axis!r} and statistic {statistic!r}; wanted 0 or 1, and 'sum' or 'mean'."
            )
        self.axis, self.statistic = axis, statistic
        self._first = self._size = 0  # of the profile

    def of_frame(self, frame: Array, origin: tuple[int, int]) -> Result:
        """Return the profile of one frame."""
        self._first, self._size = origin[1 - self.axis], frame.shape[1 - self.axis]
        total, n = summed(frame, self.axis)
        with numpy.errstate(invalid="ignore", divide="ignore"):
            profile = total / n if self.statistic == "mean" else total.astype(float)
        profile[(n == 0) | ~numpy.isfinite(profile)] = numpy.nan
        return {self.label: profile, f"{self.label}_n": n}

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units, those of the field, and the dims."""
        units = units_of(data_keys, self.field)
        is_one = numpy.ndim((self._last or {}).get(self.label, 0.0)) == 1
        dims = {"dims": [f"{self.label}_pixel"]} if is_one else {}
        profile = {**dims, "units": units} if units else dims
        return {self.label: profile, f"{self.label}_n": dims, f"{self.label}_pixel": {"units": "pixel"}}

    def axes(self) -> Result:
        """Return the pixels that the profile is of."""
        return {f"{self.label}_pixel": numpy.arange(self._first, self._first + self._size)}


def summed(frame: Array, axis: int) -> tuple[Array, Array]:
    """Return the sums along an axis, and of how many finite elements.

    >>> summed(numpy.array([[1.0, 2.0], [numpy.nan, 3.0]]), 0)
    (array([1., 5.]), array([1, 2]))
    """
    n = numpy.full(frame.shape[1 - axis], frame.shape[axis], numpy.int64)
    if frame.dtype.kind != "f":
        return frame.sum(axis, dtype=numpy.int64 if frame.dtype.itemsize < 8 else float), n
    with numpy.errstate(over="ignore", invalid="ignore"):
        total = frame.sum(axis, dtype=float)
        if numpy.isfinite(total).all():
            return total, n
        is_known = numpy.isfinite(frame)
        return frame.sum(axis, dtype=float, where=is_known), numpy.count_nonzero(is_known, axis)

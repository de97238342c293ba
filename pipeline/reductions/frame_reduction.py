"""A reduction of each frame by itself, or of a rectangle of it."""

from collections.abc import Sequence
from typing import Literal

import numpy

from pipeline.errors import PipelineValueError, RejectedValue, near
from pipeline.reductions.corrected import as_frames
from pipeline.reductions.event_reduction import EventReduction
from pipeline.reductions.frame_series import HOW, check_series, one_frame
from pipeline.reductions.rectangle import Rectangle
from pipeline.reductions.reduction import Data, Result

Array = numpy.ndarray
Frames = Literal["sum", "mean", "each"]


class FrameReduction(EventReduction):
    """A reduction of each frame by itself, or of a rectangle of it: a subclass says, in `of_frame`, what one gives.

    An array of three axes is a series of frames: the `"sum"` or the `"mean"` of them is taken first, or, of `"each"`,
    results have one axis more; `{label}_n_frames` tells how many there were.

    Parameters
    ----------
    field
        The field to read.
    label
        What the names of the results begin with.
    region
        The rectangle `[y0, y1, x0, x1]`, half-open and clipped at the edges; without it, the whole frame. Events of
        which nothing is in it are rejected.
    frames
        What becomes of a series.

    >>> class Largest(FrameReduction):
    ...     def __init__(self, field, region=None):
    ...         super().__init__(field, f"{field}_largest", region, "sum")
    ...     def of_frame(self, frame, origin):
    ...         return {self.label: float(frame.max())}
    >>> largest = Largest("cam", [0, 1, 0, 2])
    >>> largest.update({"cam": [[[1, 2, 9]], [[3, 4, 9]]]})
    >>> largest.result()
    {'cam_largest': 6.0, 'cam_largest_n_frames': 2}
    """

    constants = ("rectangle",)

    def __init__(self, field: str, label: str, region: Sequence[int] | None, frames: Frames) -> None:
        self.field, self.label, self.frames = field, label, frames
        self.fields = (field,)
        if frames not in HOW:
            raise PipelineValueError(f"frames has {frames!r}{near(str(frames), HOW)}")
        self.rectangle = None if region is None else Rectangle.of(region, "region")

    @property
    def n_frames_key(self) -> str:
        """What tells how many frames there were."""
        return f"{self.label}_n_frames"

    def of_frame(self, frame: Array, origin: tuple[int, int]) -> Result:
        """Return the numbers of one frame, not empty, whose first element was at this place of the whole."""
        raise NotImplementedError(f"{self.name} has no of_frame(frame, origin).")

    def reduce(self, data: Data) -> Result:
        """Return the numbers of the frame, or of the frames, of one event."""
        values = as_frames(data[self.field])
        if values.ndim not in (2, 3):
            raise RejectedValue(
                f"{self.field!r}: wanted a frame, or a series of them; there is the shape {list(values.shape)}."
            )
        rows, columns = self._slices(values.shape[-2:])
        part, origin = values[..., rows, columns], (rows.start, columns.start)
        if part.shape[-1] * part.shape[-2] == 0:
            raise RejectedValue(f"{self.field!r}: wanted something in the region, there is nothing.")
        if values.ndim == 2:
            return self.of_frame(part, origin)
        return {**self._of_series(part, origin), self.n_frames_key: len(values)}

    def _slices(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        return (self.rectangle or Rectangle(0, shape[0], 0, shape[1])).slices(shape)

    def _of_series(self, frames: Array, origin: tuple[int, int]) -> Result:
        check_series(frames)
        if self.frames != "each":
            return self.of_frame(one_frame(frames, self.frames), origin)
        rows = [self.of_frame(frame, origin) for frame in frames]
        return {key: numpy.array([row[key] for row in rows]) for key in rows[0]}

"""Where a beam is in a frame, and how wide."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy

from pipeline.errors import PipelineValueError
from pipeline.reductions.frame_reduction import FrameReduction, Frames
from pipeline.reductions.reduction import Result, units_of, with_units
from pipeline.reductions.values import NAN

Array = numpy.ndarray

_CHUNK = 2**16  # elements that are worked on at once, in float64


class CenterOfMass2D(FrameReduction):
    """Centroid and second moments of a beam in a frame, or in a rectangle of it, event by event (ISO 11146).

    The second moments are those along the principal axes of the beam: `sigma_x` is along the axis that is nearer to x,
    which is turned by `theta` from x towards y, between -45 and 45 degrees. The width that the standard defines is four
    sigma. Elements that are not finite are left out; so are those at or under a threshold. Without one, negative noise
    is kept, as the standard wants it, since what is cut off at 0 makes every beam wide; then the background and the
    rectangle have to be right: three times the width of the beam.

    Parameters
    ----------
    field
        The field to read: a frame, or a series of them.
    threshold
        What is at or under this, the background being taken off, is left out.
    background
        What is taken off each element: a number, or the mean of the `"border"` of the rectangle.
    border
        How many elements wide that border is, inside the rectangle.
    region
        A rectangle `[y0, y1, x0, x1]`, half-open and clipped at the edges; centers are in the whole frame all the same.
    frames
        What becomes of a series: the `"sum"` or the `"mean"` of its frames is taken first; or `"each"` has results.
    name
        What the names begin with: the field by default. Two of one field in one node need two.

    Results
    -------
    `{name}_com_y`, `_com_x`: float64, in elements from 0; NaN where the sum is not positive, as all that follows.
    `{name}_sigma_y`, `_sigma_x`: float64, in elements; NaN where the second moment is negative.
    `{name}_theta`: float64, in degrees.
    `{name}_sum`: float64, of what was taken, less the background, in the units of the field.
    `{name}_bkg`: float64, what was taken off each element; only with `"border"`, NaN where nothing of it is finite.
    `{name}_com_n_frames`: int64, how many there were; only of a series.

    References
    ----------
    ISO 11146-1:2021, 3.2 (second moments, azimuth); ISO 11146-3:2004 (background).

    >>> beam = CenterOfMass2D("cam", background=1)
    >>> beam.update({"cam": numpy.array([[1, 1, 1, 1], [1, 3, 5, 3], [1, 1, 1, 1]], "u2")})
    >>> {key: round(value, 3) for key, value in beam.result().items()}
    {'cam_com_y': 1.0, 'cam_com_x': 2.0, 'cam_sigma_y': 0.0, 'cam_sigma_x': 0.707, 'cam_theta': 0.0, 'cam_sum': 8.0}
    """

    def __init__(
        self,
        field: str,
        threshold: float | None = None,
        background: float | Literal["border"] = 0.0,
        border: int = 1,
        region: Sequence[int] | None = None,
        frames: Frames = "mean",
        name: str | None = None,
    ) -> None:
        super().__init__(field, name or field, region, frames)
        if border < 1:
            raise PipelineValueError(f"border is {border!r}; wanted 1 or more.")
        if background != "border" and not _is_finite(background):
            raise PipelineValueError(f"background is {background!r}; wanted a number, or 'border'.")
        if threshold is not None and not _is_finite(threshold):
            raise PipelineValueError(f"threshold is {threshold!r}; wanted a number, or None.")
        self.threshold, self.background, self.border = threshold, background, border

    @property
    def n_frames_key(self) -> str:
        """What tells how many frames there were."""
        return f"{self.label}_com_n_frames"

    def of_frame(self, frame: Array, origin: tuple[int, int]) -> Result:
        """Return the centroid and the second moments of one frame."""
        level = _border(frame, self.border) if self.background == "border" else float(self.background)
        total, center, moments = _moments(frame, level, self.threshold)
        sigmas = _principal(*moments)
        values = (center[0] + origin[0], center[1] + origin[1], *sigmas, total)
        names = ("com_y", "com_x", "sigma_y", "sigma_x", "theta", "sum")
        row = {f"{self.label}_{what}": value for what, value in zip(names, values, strict=True)}
        return {**row, f"{self.label}_bkg": level} if self.background == "border" else row

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: elements (`pixel`), degrees, and those of the field."""
        units = units_of(data_keys, self.field)
        places = dict.fromkeys(("com_y", "com_x", "sigma_y", "sigma_x"), "pixel")
        described = {**places, "theta": "deg", "sum": units, "bkg": units}
        return with_units({f"{self.label}_{what}": unit for what, unit in described.items()})


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _border(frame: Array, width: int) -> float:
    """Return the mean of the finite elements at the edges; NaN of none."""
    height, length = frame.shape
    y, x = min(width, height), min(width, length)
    inner = slice(y, max(height - y, y))
    parts = [frame[:y], frame[max(height - y, y) :], frame[inner, :x], frame[inner, max(length - x, x) :]]
    values = numpy.concatenate([part.ravel() for part in parts]).astype(float)
    known = values[numpy.isfinite(values)]
    return float(known.mean()) if known.size else NAN


Moments = tuple[float, float, float]


def _moments(frame: Array, level: float, threshold: float | None) -> tuple[float, tuple[float, float], Moments]:
    """Return the sum, the centroid (y, x), and the second moments about it (yy, xx, xy)."""
    y, x = (numpy.arange(n) - (n - 1) / 2 for n in frame.shape)
    by_row, by_column, lever = _profiles(frame, x, level, threshold)
    total = float(by_row.sum())
    if not (total > 0 and math.isfinite(total)):
        return total if math.isfinite(total) else NAN, (NAN, NAN), (NAN, NAN, NAN)
    with numpy.errstate(over="ignore", invalid="ignore"):
        center_y, center_x = float((y * by_row).sum()) / total, float((x * by_column).sum()) / total
        dy, dx = y - center_y, x - center_x
        yy, xx = float((dy * dy * by_row).sum()) / total, float((dx * dx * by_column).sum()) / total
        xy = float((dy * (lever - center_x * by_row)).sum()) / total
    return total, (center_y - float(y[0]), center_x - float(x[0])), (yy, xx, xy)


def _profiles(frame: Array, x: Array, level: float, threshold: float | None) -> tuple[Array, Array, Array]:
    """Return the sums over each row and over each column, and over each row of x times the elements."""
    height, width = frame.shape
    by_row, lever, by_column = numpy.empty(height), numpy.empty(height), numpy.zeros(width)
    step = max(1, _CHUNK // width)
    with numpy.errstate(over="ignore", invalid="ignore"):
        for start in range(0, height, step):
            rows = slice(start, start + step)
            part = frame[rows].astype(float)
            part -= level
            if threshold is not None:
                part[~(part > threshold)] = 0.0
            if frame.dtype.kind == "f":
                part[~numpy.isfinite(part)] = 0.0
            by_column += part.sum(0)
            part.sum(1, out=by_row[rows])
            part *= x
            part.sum(1, out=lever[rows])
    return by_row, by_column, lever


def _principal(yy: float, xx: float, xy: float) -> tuple[float, float, float]:
    """Return sigma along the principal axis nearer to y and along the one nearer to x, and the turn, in degrees."""
    if not all(map(math.isfinite, (yy, xx, xy))):
        return NAN, NAN, NAN
    spread = math.hypot(xx - yy, 2 * xy)
    large, small = _root((xx + yy + spread) / 2, spread), _root((xx + yy - spread) / 2, spread)
    turn = math.degrees(math.atan2(2 * xy, abs(xx - yy))) / 2
    return (small, large, turn) if xx >= yy else (large, small, -turn)


def _root(value: float, scale: float) -> float:
    """Return the root, 0 of what is negative by rounding alone."""
    return math.sqrt(max(value, 0.0)) if value >= -1e-12 * scale else NAN

"""How sharp a frame is."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy

from pipeline.errors import PipelineValueError, near
from pipeline.reductions.focus_kernels import laplacian, sobel
from pipeline.reductions.frame_reduction import FrameReduction, Frames
from pipeline.reductions.reduction import Result, units_of, with_units
from pipeline.reductions.values import NAN

Array = numpy.ndarray

_CHUNK = 2**16  # elements that are worked on at once, in float64


class Focus(FrameReduction):
    """Measure how sharp a frame is, or a rectangle of it, event by event: largest where it is in focus.

    Only frames of one scene and one exposure can be compared. The first two measures grow with the square of the light,
    and with noise; the last is of the brightness itself, not of its edges, and bears more noise. The outermost pixels
    have no gradient; what is not finite is left out, and for the first two its neighbours are.

    Parameters
    ----------
    field
        The field to read: a frame, or a series of them.
    measure
        `"laplacian"`: the mean square of the Laplacian (in the paper the sum, energy of Laplacian). `"tenengrad"`: the
        mean square of Sobel's gradient. `"normalized_variance"`: the variance over the mean.
    region
        A rectangle `[y0, y1, x0, x1]`, half-open and clipped at the edges.
    frames
        What becomes of a series: the `"sum"` or the `"mean"` of its frames is taken first; or `"each"` is measured.
    name
        What the names begin with: `{field}_focus` by default. Two measures in one node need two.

    Results
    -------
    `{name}`: float64, in the square of the units of the field, of the variance over the mean in these; NaN without a
    pixel, or with a mean that is not positive.
    `{name}_n`: int64, of how many pixels.
    `{name}_n_frames`: int64, how many there were; only of a series.

    References
    ----------
    S. Pertuz, D. Puig, M. A. Garcia, Pattern Recognition 46 (2013) 1415.

    >>> focus = Focus("cam")
    >>> focus.update({"cam": numpy.array([[0, 0, 0], [0, 3, 1], [0, 0, 0]], "u2")})
    >>> focus.result()
    {'cam_focus': 121.0, 'cam_focus_n': 1}
    """

    def __init__(
        self,
        field: str,
        measure: Literal["laplacian", "tenengrad", "normalized_variance"] = "laplacian",
        region: Sequence[int] | None = None,
        frames: Frames = "mean",
        name: str | None = None,
    ) -> None:
        super().__init__(field, name or f"{field}_focus", region, frames)
        if measure not in _MEASURES:
            raise PipelineValueError(f"measure has {measure!r}{near(str(measure), list(_MEASURES))}")
        self.measure = measure

    def of_frame(self, frame: Array, origin: tuple[int, int]) -> Result:
        """Return how sharp one frame is."""
        found, n = _MEASURES[self.measure](frame)
        return {self.label: found if math.isfinite(found) else NAN, f"{self.label}_n": n}

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units, those of the field or their square."""
        units = units_of(data_keys, self.field)
        is_square = self.measure != "normalized_variance"
        return with_units({self.label: f"({units})^2" if units and is_square else units})


def _laplacian(frame: Array) -> tuple[float, int]:
    total, n = laplacian(frame)
    return total / n if n else NAN, n


def _tenengrad(frame: Array) -> tuple[float, int]:
    total, n = sobel(frame)
    return total / n if n else NAN, n


def _normalized_variance(frame: Array) -> tuple[float, int]:
    """Return the variance over the mean, in two passes over parts of the frame."""
    parts = numpy.array_split(frame, max(1, frame.size // _CHUNK))
    with numpy.errstate(over="ignore", invalid="ignore"):
        sums = [_summed(part.astype(float)) for part in parts]
        n = sum(size for _, size in sums)
        mean = sum(total for total, _ in sums) / n if n else NAN
        if not mean > 0:
            return NAN, n
        squares = sum(_summed((part.astype(float) - mean) ** 2)[0] for part in parts)
    return squares / n / mean, n


def _summed(values: Array) -> tuple[float, int]:
    """Return the sum of what is finite, and of how many."""
    total = float(values.sum())
    if math.isfinite(total):
        return total, values.size
    known = values[numpy.isfinite(values)]
    return float(known.sum()), known.size


_MEASURES: dict[str, Callable[[Array], tuple[float, int]]] = {
    "laplacian": _laplacian,
    "tenengrad": _tenengrad,
    "normalized_variance": _normalized_variance,
}

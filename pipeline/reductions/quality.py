"""Whether a frame can be used: what of it is saturated, missing or zero, and whether there was beam."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

import numpy

from pipeline.errors import PipelineValueError, RejectedValue, near
from pipeline.reductions.event_reduction import EventReduction
from pipeline.reductions.frame_counts import count_elements
from pipeline.reductions.frame_series import check_series
from pipeline.reductions.reduction import Data, Result, units_of, with_units
from pipeline.reductions.values import NAN, as_number, as_numbers


class Quality(EventReduction):
    """What of a number, a spectrum or a frame cannot be used, and whether there was beam, event by event.

    The beam is good if it is finite, positive, and more than `beam_drop` of the median of the last `beam_window` good
    ones; so a slow decay is followed and a dump is not. The first positive one is good. A beam that stays under that
    share (another filling mode) stays bad until the end of the run.

    Parameters
    ----------
    field
        The field to read: a number, or an array of any shape.
    saturation
        From where on a value is saturated: by default the largest of an integer dtype, and none for floats.
    beam
        The field of the beam: a monitor, or the ring current.
    beam_window
        Of how many good points the median is taken.
    beam_drop
        What share of the median is too little, between 0 and 1.
    frames
        By default all elements of an array are judged together, a series of frames as one. `"each"`: the first axis is
        that of a series, and an array is given with a result of each frame. (Neither their sum nor their mean tells
        what was saturated.)

    Results
    -------
    `{field}_n_saturated`, `_n_nan`, `_n_zero`: int64, how many elements are; infinities are counted as NaN.
    `{field}_max`, `_total`: float64, of the finite elements, in the units of the field; NaN of none. Totals of integers
    are exact; for floats see `count_elements`.
    `{field}_n_frames`: int64, how many there were; only with `frames`.
    `beam_ok`: whether there was beam; only where `beam` is given.

    >>> quality = Quality("cam", beam="i0")
    >>> quality.update({"cam": numpy.array([[0, 3], [255, 7]], "u1"), "i0": 10.0})
    >>> quality.result()
    {'cam_n_saturated': 1, 'cam_n_nan': 0, 'cam_n_zero': 1, 'cam_max': 255.0, 'cam_total': 265.0, 'beam_ok': True}
    """

    version = 2

    def __init__(
        self,
        field: str,
        saturation: float | None = None,
        beam: str | None = None,
        beam_window: int = 31,
        beam_drop: float = 0.5,
        frames: Literal["each"] | None = None,
    ) -> None:
        if beam_window < 1 or not 0 <= beam_drop <= 1:
            raise PipelineValueError(
                f"beam_window is {beam_window!r} and beam_drop {beam_drop!r}; wanted 1 or more, and a share of 0 to 1."
            )
        if frames not in (None, "each"):
            raise PipelineValueError(f"frames has {frames!r}{near(str(frames), ['each'])}")
        self.field, self.saturation, self.beam, self.beam_drop = field, saturation, beam, beam_drop
        self.frames = frames
        self.fields = (field,) if beam is None else (field, beam)
        self._keys = tuple(f"{field}_{what}" for what in ("n_saturated", "n_nan", "n_zero", "max", "total"))
        self._good: deque[float] = deque(maxlen=beam_window)

    def reduce(self, data: Data) -> Result:
        """Return what one event is worth."""
        value = data[self.field]
        beam = as_number(data[self.beam]) if self.beam is not None else NAN  # before anything is changed
        row = self._of_value(value)
        if self.beam is not None:
            row["beam_ok"] = self._has_beam(beam)
        return row

    def _of_value(self, value: Any) -> Result:
        if self.frames == "each":
            return self._of_series(as_numbers(value))
        counts = self._of_number(value) if type(value) is float else self._of_array(as_numbers(value))
        return dict(zip(self._keys, counts, strict=True))

    def _of_series(self, series: numpy.ndarray) -> Result:
        if series.ndim < 2:
            raise RejectedValue(f"{self.field!r}: wanted a series of arrays, there is the shape {list(series.shape)}.")
        check_series(series)
        columns = zip(*map(self._of_array, series), strict=True)
        row: Result = {key: numpy.array(column) for key, column in zip(self._keys, columns, strict=True)}
        return {**row, f"{self.field}_n_frames": len(series)}

    def _of_number(self, x: float) -> tuple[Any, ...]:
        if not math.isfinite(x):
            return 0, 1, 0, NAN, NAN
        return int(self.saturation is not None and x >= self.saturation), 0, int(x == 0), x, x

    def _of_array(self, values: numpy.ndarray) -> tuple[Any, ...]:
        return count_elements(values, self.saturation if self.saturation is not None else _largest(values.dtype))

    def _has_beam(self, beam: float) -> bool:
        if not (math.isfinite(beam) and beam > 0):
            return False
        if self._good and beam <= self.beam_drop * _median(self._good):
            return False
        self._good.append(beam)
        return True

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: those of the field."""
        units = units_of(data_keys, self.field)
        return with_units({f"{self.field}_max": units, f"{self.field}_total": units})


def _largest(dtype: numpy.dtype) -> int | None:
    return int(numpy.iinfo(dtype).max) if dtype.kind in "iu" else None


def _median(values: deque[float]) -> float:
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2

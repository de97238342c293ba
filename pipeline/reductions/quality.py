"""Whether a frame can be used: what of it is saturated, missing or zero, and whether there was beam."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy

from pipeline.errors import PipelineValueError
from pipeline.reductions.event_reduction import EventReduction
from pipeline.reductions.reduction import Data, Result, units_of, with_units
from pipeline.reductions.sums import total
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

    Results
    -------
    `{field}_n_saturated`, `_n_nan`, `_n_zero`: int64, how many elements are; infinities are counted as NaN.
    `{field}_max`, `_total`: float64, of the finite elements, in the units of the field; NaN of none.
    `beam_ok`: whether there was beam; only where `beam` is given.

    >>> quality = Quality("cam", beam="i0")
    >>> quality.update({"cam": numpy.array([[0, 3], [255, 7]], "u1"), "i0": 10.0})
    >>> quality.result()
    {'cam_n_saturated': 1, 'cam_n_nan': 0, 'cam_n_zero': 1, 'cam_max': 255.0, 'cam_total': 265.0, 'beam_ok': True}
    """

    def __init__(
        self,
        field: str,
        saturation: float | None = None,
        beam: str | None = None,
        beam_window: int = 31,
        beam_drop: float = 0.5,
    ) -> None:
        if beam_window < 1 or not 0 <= beam_drop <= 1:
            raise PipelineValueError(
                f"beam_window is {beam_window!r} and beam_drop {beam_drop!r}; wanted 1 or more, and a share of 0 to 1."
            )
        self.field, self.saturation, self.beam, self.beam_drop = field, saturation, beam, beam_drop
        self.fields = (field,) if beam is None else (field, beam)
        self._keys = tuple(f"{field}_{what}" for what in ("n_saturated", "n_nan", "n_zero", "max", "total"))
        self._good: deque[float] = deque(maxlen=beam_window)

    def reduce(self, data: Data) -> Result:
        """Return what one event is worth."""
        value = data[self.field]
        beam = as_number(data[self.beam]) if self.beam is not None else NAN  # before anything is changed
        counts = self._of_number(value) if type(value) is float else self._of_array(as_numbers(value))
        row = dict(zip(self._keys, counts, strict=True))
        if self.beam is not None:
            row["beam_ok"] = self._has_beam(beam)
        return row

    def _of_number(self, x: float) -> tuple[Any, ...]:
        if not math.isfinite(x):
            return 0, 1, 0, NAN, NAN
        return int(self.saturation is not None and x >= self.saturation), 0, int(x == 0), x, x

    def _of_array(self, values: numpy.ndarray) -> tuple[Any, ...]:
        known = values if values.dtype.kind != "f" else values[numpy.isfinite(values)]
        limit = self.saturation if self.saturation is not None else _largest(values.dtype)
        n_saturated = int(numpy.count_nonzero(known >= limit)) if limit is not None else 0
        n_zero = known.size - int(numpy.count_nonzero(known))
        largest, of_all = (float(known.max()), total(known)) if known.size else (NAN, NAN)
        return n_saturated, values.size - known.size, n_zero, largest, of_all

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

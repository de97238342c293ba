"""How far fields have moved from their first reading to the last."""

from collections.abc import Mapping, Sequence
from math import isclose, isfinite, nan
from typing import Any

from pipeline.errors import RejectedValue
from pipeline.reductions.point_reduction import as_number
from pipeline.reductions.reduction import Data, Reduction, Result, units_of

_DIFFERENCES = {"degC": "delta_degC", "degF": "delta_degF"}  # as pint has it: of temperatures that do not begin at 0


class Drift(Reduction):
    """How far each field has moved from the first reading to the last: of a baseline, taken before and after a scan.

    It reads whatever stream its node reads (`Node("drift", Drift(), stream="baseline")`), so the stream is no argument.
    Memory is a few numbers for each field.

    Parameters
    ----------
    fields
        The fields to read, numbers; by default all those that are numbers in the first event.
    rel_tol, abs_tol
        A field has drifted if its readings differ by more than `rel_tol` times the larger of them, and by more than
        `abs_tol`.

    Results
    -------
    `{field}_start`, `{field}_end`: float64, the first and the last finite reading; of one reading only, the end is NaN.
    `{field}_delta`: float64, the end minus the start. `{field}_drifted`: whether it is beyond the tolerance.
    `n_drifted`: int64, how many fields have drifted. `n_nan`: int64, how many readings were left out since not finite.

    >>> drift = Drift()
    >>> for table_y in (10.0, 10.5): drift.update({"table_y": table_y, "shutter": "open"})
    >>> drift.result()["table_y_delta"], drift.result()["table_y_drifted"], drift.result()["n_drifted"]
    (0.5, True, 1)
    """

    def __init__(self, fields: Sequence[str] | None = None, rel_tol: float = 1e-3, abs_tol: float = 0.0) -> None:
        self.fields = tuple(fields or ())
        self.rel_tol, self.abs_tol = rel_tol, abs_tol
        self._n_nan = 0
        self._readings: dict[str, list[float]] = {}  # field -> the first reading and the last, if there are

    def update(self, data: Data) -> None:
        """Take in the readings of one event."""
        chosen = self._readings or self.fields or [field for field in data if _is_number(data[field])]
        numbers = {field: _number(data[field], field) for field in chosen}
        for field, number in numbers.items():
            readings = self._readings.setdefault(field, [])
            if isfinite(number):
                readings[1:] = [number] * bool(readings)
                readings[:1] = readings[:1] or [number]
            else:
                self._n_nan += 1

    def result(self) -> Result | None:
        """Return the readings and how they differ; `None` before the first event."""
        if not self._readings:
            return None
        result: Result = {}
        for field, readings in self._readings.items():
            start, end = (*readings, nan, nan)[:2]
            delta = end - start
            result |= {
                f"{field}_start": start,
                f"{field}_end": end,
                f"{field}_delta": delta if isfinite(delta) else nan,
            }
            result[f"{field}_drifted"] = len(readings) == 2 and not self._are_close(start, end)
        n_drifted = sum(result[f"{field}_drifted"] for field in self._readings)
        return {**result, "n_drifted": n_drifted, "n_nan": self._n_nan}

    def _are_close(self, start: float, end: float) -> bool:
        return isclose(start, end, rel_tol=self.rel_tol, abs_tol=self.abs_tol)

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: those of the fields."""
        described: dict[str, dict[str, Any]] = {}
        for field in self._readings:
            units = units_of(data_keys, field)
            if units:
                described |= {f"{field}_{what}": {"units": units} for what in ("start", "end")}
                described[f"{field}_delta"] = {"units": _DIFFERENCES.get(units, units)}
        return described


def _is_number(value: Any) -> bool:
    try:
        return value is not None and as_number(value) is not None
    except RejectedValue:
        return False


def _number(value: Any, field: str) -> float:
    number = as_number(value)
    if number is None:
        raise RejectedValue(f"Drift reads {field!r}: wanted a number, there is an array.")
    return number

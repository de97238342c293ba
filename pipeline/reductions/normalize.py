"""A signal over its monitor: ratio, absorbance, difference, or any arithmetic; with its counting error."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from pipeline.errors import PipelineRuntimeError, PipelineValueError, RejectedValue
from pipeline.reductions.event_reduction import EventReduction
from pipeline.reductions.expression import Expression
from pipeline.reductions.reduction import Data, Result, ratio_units, units_of, with_units
from pipeline.reductions.values import NAN, as_number, as_numbers, finite

logger = logging.getLogger(__name__)

_OPERATIONS = {"ratio": "{a!r} / {b!r}", "absorbance": "log({a!r} / {b!r})", "difference": "{a!r} - {b!r}"}


class Normalize(EventReduction):
    """A signal over its monitor, event by event: of scalars, or of arrays element by element.

    The logarithm is taken of each event; the logarithm of means, which is another number, is not offered.
    Errors are those of counting (Poisson): each counted field has the variance N, carried on by the first derivatives.

    Parameters
    ----------
    numerator, monitor
        The fields to read. `"absorbance"` is ln(numerator / monitor): the beam before the sample is the numerator.
    op
        `"ratio"`, `"absorbance"`, `"difference"`, or arithmetic over fields, such as `"(det - dark) / i0"`, of which
        numerator is one; see `Expression`. A monitor that it does not read still decides what counts.
    name
        Of the results; by default `{numerator}_{op}`, of arithmetic `{numerator}_norm`.
    offsets
        By field: what it reads without beam; taken from it beforehand.
    scale
        A factor of the result.
    i0_min
        The monitor, less its offset, must be above; where it is not, or is not finite, the result is NaN.
        A difference asks no more than that the monitor is finite: to take off a background of nothing is right.
    counts
        The fields that are counted, and so have an error; by default numerator and monitor. `[]`: no error is given.
    units
        Of the result, where they are known better than from the fields.

    Results
    -------
    `{name}`: float64, in units that follow from the fields. `{name}_err`: its standard error; NaN of a negative count.
    `i0_ok`: whether the monitor was good; element by element if it is an array.

    References
    ----------
    P. R. Bevington, D. K. Robinson, Data Reduction and Error Analysis (2003), chapter 3: propagation of errors.

    >>> norm = Normalize("det", "i0")
    >>> norm.update({"det": 100, "i0": 400})
    >>> norm.result()
    {'det_ratio': 0.25, 'det_ratio_err': 0.02795084971874737, 'i0_ok': True}
    >>> norm.update({"det": 100, "i0": 0})
    >>> norm.result()
    {'det_ratio': nan, 'det_ratio_err': nan, 'i0_ok': False}
    """

    constants = ("_expression", "_counted")

    def __init__(
        self,
        numerator: str,
        monitor: str,
        op: str = "ratio",
        name: str | None = None,
        offsets: dict[str, float] | None = None,
        scale: float = 1.0,
        i0_min: float = 0.0,
        counts: Sequence[str] | None = None,
        units: str | None = None,
    ) -> None:
        self.numerator, self.monitor, self.op = numerator, monitor, op
        self.label = name or f"{numerator}_{op if op in _OPERATIONS else 'norm'}"
        self.i0_min, self.units = i0_min, units
        text = _OPERATIONS[op].format(a=numerator, b=monitor) if op in _OPERATIONS else op
        read = Expression(text).fields
        self.fields = tuple(dict.fromkeys((*read, monitor)))
        self._check(read, offsets or {})
        self._offset = float((offsets or {}).get(monitor, 0.0))
        self._counted = [field for field in (numerator, monitor) if field in read] if counts is None else list(counts)
        of_read = {field: offset for field, offset in (offsets or {}).items() if field in read}
        self._expression = Expression(text if scale == 1 else f"{float(scale)!r} * ({text})", of_read, self._counted)

    def _check(self, read: Sequence[str], offsets: Mapping[str, float]) -> None:
        if self.numerator not in read:
            raise PipelineValueError(f"{self.op!r} reads {list(read)}; wanted {self.numerator!r} among them.")
        for field in offsets:
            if field not in self.fields:
                raise PipelineValueError(f"offsets has {field!r}, but Normalize reads {list(self.fields)}.")

    def reduce(self, data: Data) -> Result:
        """Return the value of one event, its error, and whether its monitor was good."""
        values = [_operand(data[field]) for field in self._expression.fields]
        i0_ok = self._is_good(_operand(data[self.monitor]))
        try:
            row = {self.label: _where(i0_ok, self._expression.value(values))}
            if self._counted:
                row[f"{self.label}_err"] = _where(i0_ok, self._expression.error(values))
        except ValueError:
            shapes = {field: list(numpy.shape(data[field])) for field in self.fields}
            raise RejectedValue(f"wanted shapes that go together, there are {shapes}.") from None
        return {**row, "i0_ok": i0_ok}

    def _is_good(self, monitor: Any) -> Any:
        if type(monitor) is float:
            return math.isfinite(monitor) and (self.op == "difference" or monitor - self._offset > self.i0_min)
        if self.op == "difference":
            return numpy.isfinite(monitor)
        return monitor - self._offset > self.i0_min  # of NaN: False

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: of a ratio those of its parts, of a difference theirs, of arithmetic what pint tells."""
        units = self.units or self._units({field: units_of(data_keys, field) for field in self.fields})
        described = with_units({self.label: units, f"{self.label}_err": units})
        dims = data_keys.get(self.numerator, {}).get("dims")
        if dims:
            described = {key: {**described.get(key, {}), "dims": dims} for key in (self.label, f"{self.label}_err")}
        return described

    def _units(self, units: Mapping[str, str | None]) -> str | None:
        a, b = units[self.numerator], units[self.monitor]
        if self.op == "absorbance":
            return "dimensionless"
        if self.op == "difference":
            return a if a == b else None
        if self.op == "ratio":
            return ratio_units(a, b)
        return self._units_by_pint(units)

    def _units_by_pint(self, units: Mapping[str, str | None]) -> str | None:
        from pipeline.reductions.units import units_of_expression

        try:
            return units_of_expression(self._expression, units)
        except PipelineRuntimeError as error:
            logger.warning("%s: %s", self.label, error)
            return None


def _operand(value: Any) -> Any:
    """Return a scalar as a float, an array as one of floats with NaN where they are not finite."""
    if type(value) is float or type(value) is int or not as_numbers(value).ndim:
        return as_number(value)
    return finite(value)


def _where(is_good: Any, value: Any) -> Any:
    if is_good is True:
        return value
    return NAN if is_good is False and type(value) is float else numpy.where(is_good, value, NAN)

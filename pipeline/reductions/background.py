"""A curve less a reference curve: that of the buffer, the empty cell, the air."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions.event_reduction import EventReduction
from pipeline.reductions.files import Array, Curve, as_curve, read_curve
from pipeline.reductions.reduction import Data, Result, units_of, with_units
from pipeline.reductions.reference import Reference
from pipeline.reductions.values import NAN, as_number, finite

_SAME = 1e-9  # of the span of an axis: what a float32 or a file of ten digits would not change


class Background(EventReduction):
    """A curve less a scaled reference curve, event by event.

    Parameters
    ----------
    field
        The field to read: an array of one dimension.
    reference
        What is taken off: a list of numbers; the name of a .npy, .npz or .csv file, see `read_curve`; or where curves
        are, whose mean it is: `{run: <uid>, stream: final, field: saxs_mean}` of another run, raw or analysed;
        `{stream: buffer, n: 10}` or `{when: {sample: buffer}, n: 10}` of this one. See `Reference`.
    scale
        What the reference is multiplied by: a number; `"monitor"`, for the monitor of the event over that of the
        reference; or `"fit"`, for the factor with the least squares of what remains.
    monitor
        The field of the monitor, if the scale is; not finite, or 0 and less: no result.
    reference_monitor
        What the monitor was when the reference was measured.
    fit_range
        For `"fit"`: the first index, and the one after the last, of the part that is background alone. All by default.
    x
        The axis of the field: the name of a field, or a list of numbers. It is held against that of the reference.
        Curves of runs have no axis: they are over that of the field, and x is not to be given.
    reference_x
        The axis of the reference, where its file does not say.
    interpolate
        What if the axes differ: False: the event is rejected. True: the reference is interpolated, linearly, and where
        it does not reach there is NaN.
    sha256
        Of the file. It becomes part of the recipe, whether given or not; a file that was changed is refused.

    Results
    -------
    `{field}_sub`: float64, in the units of the field; NaN where the field or the reference is not finite.
    `{field}_bkg_scale`: float64, what the reference was multiplied by.

    >>> background = Background("I", [1.0, 2.0, 1.0], scale="fit", fit_range=[0, 2])
    >>> background.update({"I": [2.0, 4.0, 9.0]})
    >>> background.result()
    {'I_sub': array([0., 0., 7.]), 'I_bkg_scale': 2.0}
    """

    constants = ("references", "_curve", "_x", "_fitted")

    def __init__(
        self,
        field: str,
        reference: Sequence[float] | str | Mapping[str, Any],
        scale: float | str = 1.0,
        monitor: str | None = None,
        reference_monitor: float = 1.0,
        fit_range: Sequence[int] | None = None,
        x: str | Sequence[float] | None = None,
        reference_x: Sequence[float] | None = None,
        interpolate: bool = False,
        sha256: str | None = None,
    ) -> None:
        self.field, self.scale, self.monitor = field, scale, monitor
        self.reference_monitor, self.interpolate = reference_monitor, interpolate
        self.x_field = x if isinstance(x, str) else None
        self._check(fit_range)
        self._fitted = slice(*fit_range) if fit_range is not None else slice(None)
        self.references = [Reference.of("background", reference, field)] if isinstance(reference, Mapping) else []
        curve, digest = (_NO_CURVE, None) if self.references else read_curve(reference, sha256)
        if self.references and not (x is None and reference_x is None):
            raise PipelineValueError("Background has curves of a run for reference; wanted no x, and no reference_x.")
        self._pin(sha256=digest)
        self._curve = _with_axis(curve, reference_x)
        self._x = as_curve(x, "x") if x is not None and self.x_field is None else None
        if x is not None and self._curve.x is None:
            raise PipelineValueError("Background has x; wanted reference_x too, or a file with an axis x.")
        self.fields = tuple(name for name in (field, monitor, self.x_field) if name is not None)

    def _check(self, fit_range: Sequence[int] | None) -> None:
        if isinstance(self.scale, str) and self.scale not in ("monitor", "fit"):
            raise PipelineValueError(f"scale is {self.scale!r}; wanted a number, 'monitor' or 'fit'.")
        if (self.scale == "monitor") != (self.monitor is not None):
            raise PipelineValueError(f"scale is {self.scale!r} and monitor {self.monitor!r}; wanted both or neither.")
        if not self.reference_monitor > 0:
            raise PipelineValueError(f"reference_monitor is {self.reference_monitor!r}; wanted a number over 0.")
        if fit_range is not None and (len(fit_range) != 2 or not 0 <= fit_range[0] < fit_range[1]):
            raise PipelineValueError(f"fit_range is {list(fit_range)}; wanted [start, stop], 0 <= start < stop.")

    def begin(self, start: Mapping[str, Any]) -> None:
        """Make the references of this run."""
        self.references = [each.anew() for each in self.references]

    def reduce(self, data: Data) -> Result:
        """Return one curve less the reference, and the scale."""
        y = finite(data[self.field])
        reference = self._reference(data, y)
        scale = self._scale(data, y, reference)
        with numpy.errstate(over="ignore"):
            rest = finite(y - scale * reference)
        return {f"{self.field}_sub": rest, f"{self.field}_bkg_scale": scale}

    def _reference(self, data: Data, y: Array) -> Array:
        """Return the reference over the axis of this event."""
        if self.references:
            return self._of_run(self.references[0], data, y.shape)
        x = finite(data[self.x_field]) if self.x_field is not None else self._x
        like = self._curve.y if x is None or not self.interpolate else x
        if y.ndim != 1 or y.shape != like.shape or (x is not None and x.shape != y.shape):
            raise RejectedValue(f"{self.field!r}: wanted the shape {list(like.shape)}, there is {list(y.shape)}.")
        if x is None or _are_same(x, self._curve.x):
            return self._curve.y
        if not self.interpolate:
            raise RejectedValue(
                f"{self.field!r} and its reference are not over the same axis; wanted interpolate=True."
            )
        return numpy.interp(x, *self._sorted(), left=NAN, right=NAN)

    def _of_run(self, reference: Reference, data: Data, shape: tuple[int, ...]) -> Array:
        """Return the mean of the curves that there are, if this is none of them."""
        if reference.is_among and reference.is_of(data):
            raise RejectedValue(f"{self.field!r}: this is a background itself.")
        mean = reference.frame(data)
        if mean is None or mean.shape != shape:
            there = "none yet" if mean is None else list(mean.shape)
            raise RejectedValue(f"{self.field!r}: wanted a background of the shape {list(shape)}, there is {there}.")
        return mean

    def _sorted(self) -> tuple[Array, Array]:
        x, y = self._curve.x, self._curve.y
        assert x is not None
        order = numpy.argsort(x, kind="stable")
        return x[order], y[order]

    def _scale(self, data: Data, y: Array, reference: Array) -> float:
        if self.scale == "fit":
            return _fitted_scale(y[self._fitted], reference[self._fitted])
        if self.monitor is None:
            return float(self.scale)
        monitor = as_number(data[self.monitor])
        return monitor / self.reference_monitor if math.isfinite(monitor) and monitor > 0 else NAN

    def axes(self) -> Result:
        """Return the axis, where it is the same for all events."""
        x = self._x if self._x is not None else None if self.interpolate else self._curve.x
        return {} if x is None else {f"{self.field}_x": x}

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: those of the field; and its dims, or that of the axis."""
        sub = f"{self.field}_sub"
        dims = data_keys.get(self.field, {}).get("dims") or list(self.axes())
        described = with_units({sub: units_of(data_keys, self.field), f"{self.field}_bkg_scale": "dimensionless"})
        return {**described, sub: {**described.get(sub, {}), "dims": dims}} if dims else described


_NO_CURVE = Curve(numpy.empty(0), None)  # it is of a run


def _with_axis(curve: Curve, x: Sequence[float] | None) -> Curve:
    if x is not None:
        curve = Curve(curve.y, as_curve(x, "reference_x"))
    if curve.x is not None and curve.x.shape != curve.y.shape:
        raise PipelineValueError(f"The reference has {len(curve.y)} numbers, and its axis {len(curve.x)}.")
    if curve.x is not None and not numpy.isfinite(curve.x).all():
        raise PipelineValueError("The axis of the reference is not finite everywhere.")
    return curve


def _are_same(x: Array, other: Array | None) -> bool:
    if other is None or x.shape != other.shape:
        return False
    return bool((abs(x - other) <= _SAME * (numpy.ptp(other) or abs(other[0]))).all())  # False where x is NaN


def _fitted_scale(y: Array, reference: Array) -> float:
    """Return the factor of the reference with the least squares of what remains; NaN where there is none."""
    both = numpy.isfinite(y) & numpy.isfinite(reference)
    y, reference = y[both], reference[both]
    with numpy.errstate(over="ignore"):
        product, square = float((y * reference).sum()), float((reference * reference).sum())
    return product / square if square > 0 and math.isfinite(product) and math.isfinite(square) else NAN

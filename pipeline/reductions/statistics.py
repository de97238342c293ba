"""Count, mean, standard deviation, least, largest and sum of a field."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from pipeline.errors import RejectedValue
from pipeline.reductions.element_moments import ElementMoments, IntegerMoments, fits
from pipeline.reductions.exact_sum import ExactMoments, ExactSum
from pipeline.reductions.extremes import Extremes
from pipeline.reductions.reduction import Data, Reduction, Result, units_of, with_units

NAN = float("nan")


class Statistics(Reduction):
    """Statistics of a field over all events: of a scalar, or of each element of an array.

    Scalars and arrays of integers up to 32 bits are summed without rounding, so the results are the correctly rounded
    ones, in any order, live, replayed or in parallel; arrays of floats by Welford's update.

    Parameters
    ----------
    field
        The field to read: a number, or an array of any shape, which must stay the same.
    ddof
        Delta degrees of freedom: the standard deviation divides by `n - ddof`.
    skipna
        NaN and infinities are always left out and counted. If False, a result that they concern is NaN.

    Results
    -------
    `{field}_n`, `{field}_n_nan`: int64, how many values were taken, and left out.
    `{field}_mean`, `_std`, `_min`, `_max`, `_sum`: float64, in the units of the field, and of its shape.
    `_std` is NaN of `ddof` values or fewer.

    >>> statistics = Statistics("det")
    >>> for x in (1.0, 2.0, float("nan"), 4.0): statistics.update({"det": x})
    >>> result = statistics.result()
    >>> result["det_n"], result["det_n_nan"], result["det_max"], round(result["det_std"], 6)
    (3, 1, 4.0, 1.527525)
    """

    _has_spread = True  # whether the spread of arrays is asked for: their squares, least and largest are kept

    def __init__(self, field: str, ddof: int = 1, skipna: bool = True) -> None:
        self.field = field
        self.fields = (field,)
        self.ddof = ddof
        self.skipna = skipna
        self._taken: _Scalars | _Arrays | None = None

    @property
    def mergeable(self) -> str:  # type: ignore[override]  # it depends on the data
        """`"exact"`, or `"rounding"` once arrays of floats were seen."""
        return getattr(self._taken, "mergeable", "exact")

    def update(self, data: Data) -> None:
        """Take in the field of one event."""
        value = data[self.field]
        if self._taken is None:
            self._taken = self._begin(value)
        self._taken.add(value if type(self._taken) is _Scalars else numpy.asarray(value))

    def _begin(self, value: Any) -> "_Scalars | _Arrays":
        array = numpy.asarray(value)
        if array.ndim == 0:
            return _Scalars(self._moments())
        if array.dtype.kind not in "biuf":
            raise RejectedValue(f"{self.name} reads {self.field!r}: wanted numbers, there is {array.dtype}.")
        kind = IntegerMoments if fits(array.dtype) else ElementMoments
        return _Arrays(kind(array.shape, self._has_spread), Extremes(array.shape) if self._has_spread else None)

    def _moments(self) -> ExactSum:
        return ExactMoments()

    def update_page(self, columns: Mapping[str, Sequence[Any]]) -> int:
        """Take in a column of the field."""
        column = _float_column(columns[self.field])
        if column is None or not isinstance(self._taken, _Scalars | None):
            return super().update_page({self.field: columns[self.field]})
        if len(column):
            self._taken = self._taken or _Scalars(self._moments())
            self._taken.add_column(column)
        return 0

    def merge(self, other: "Statistics") -> None:
        """Take in what the other has taken in."""
        if other._taken is None:
            return
        if self._taken is None:
            self._taken = self._begin_like(other._taken)
        self._taken.merge(other._taken)  # type: ignore[arg-type]  # of one kind: both were fed from one field

    def _begin_like(self, taken: "_Scalars | _Arrays") -> "_Scalars | _Arrays":
        return _Scalars(self._moments()) if isinstance(taken, _Scalars) else taken.empty()

    def result(self) -> Result | None:
        """Return the statistics so far; `None` before the first event."""
        if self._taken is None:
            return None
        taken, field = self._taken, self.field
        return {
            f"{field}_n": taken.n,
            f"{field}_n_nan": taken.n_nan,
            f"{field}_mean": self._unless_nan(taken.mean()),
            f"{field}_std": self._unless_nan(taken.std(self.ddof)),
            f"{field}_min": self._unless_nan(taken.least),
            f"{field}_max": self._unless_nan(taken.largest),
            f"{field}_sum": self._unless_nan(taken.total()),
        }

    def _unless_nan(self, value: Any) -> Any:
        if self.skipna or self._taken is None:
            return value
        if isinstance(self._taken, _Scalars):
            return NAN if self._taken.n_nan else value
        return numpy.where(self._taken.n_nan > 0, NAN, value)

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: those of the field."""
        units = units_of(data_keys, self.field)
        return with_units({f"{self.field}_{what}": units for what in ("mean", "std", "min", "max", "sum")})


class Mean(Statistics):
    """Mean of a field over all events: the short form of `Statistics`.

    Parameters
    ----------
    field
        The field to read: a number, or an array of any shape.
    skipna
        As in `Statistics`.

    Results
    -------
    `{field}_n`: int64, how many values were taken; NaN and infinities are left out.
    `{field}_mean`: float64, in the units of the field, and of its shape.

    >>> mean = Mean("det")
    >>> mean.update_page({"det": [1.0, 2.0, 4.5]})
    0
    >>> mean.result()
    {'det_n': 3, 'det_mean': 2.5}
    """

    _has_spread = False

    def __init__(self, field: str, skipna: bool = True) -> None:
        super().__init__(field, skipna=skipna)
        self._keys = f"{field}_n", f"{field}_mean"

    def _moments(self) -> ExactSum:
        return ExactSum()

    def result(self) -> Result | None:
        """Return the mean so far; `None` before the first event."""
        taken = self._taken
        if taken is None:
            return None
        n, mean = self._keys
        return {n: taken.n, mean: self._unless_nan(taken.mean())}

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: those of the field."""
        return with_units({self._keys[1]: units_of(data_keys, self.field)})


class _Scalars:
    """Moments of scalars, and what they do not tell: least, largest, and how many were not finite."""

    mergeable = "exact"

    def __init__(self, moments: ExactSum) -> None:
        self.moments = moments
        self.n_nan = 0
        self.least = self.largest = NAN

    @property
    def n(self) -> int:
        return self.moments.n

    def mean(self) -> float:
        return self.moments.mean()

    def total(self) -> float:
        return self.moments.value()

    def std(self, ddof: int) -> float:
        assert isinstance(self.moments, ExactMoments)
        return math.sqrt(self.moments.variance(ddof))

    def add(self, value: Any) -> None:
        x = value if type(value) is float or type(value) is int else _number(value)
        if not math.isfinite(x):
            self.n_nan += 1
            return
        self.moments.add(x)
        if not self.least <= x:  # also while it is NaN
            self.least = float(x)
        if not self.largest >= x:
            self.largest = float(x)

    def add_column(self, column: numpy.ndarray) -> None:
        finite = column[numpy.isfinite(column)]
        self.n_nan += len(column) - len(finite)
        if len(finite):
            self.moments.add_array(finite)
            self._widen(float(finite.min()), float(finite.max()))

    def merge(self, other: "_Scalars") -> None:
        self.moments.merge(other.moments)
        self.n_nan += other.n_nan
        self._widen(other.least, other.largest)

    def _widen(self, least: float, largest: float) -> None:
        self.least = float(numpy.fmin(self.least, least))
        self.largest = float(numpy.fmax(self.largest, largest))


class _Arrays:
    """Moments of arrays, and their extremes if these are asked for."""

    def __init__(self, moments: IntegerMoments | ElementMoments, extremes: Extremes | None) -> None:
        self.moments, self.extremes = moments, extremes

    def empty(self) -> "_Arrays":
        shape, has_spread = self.moments.shape, self.extremes is not None
        return _Arrays(type(self.moments)(shape, has_spread), Extremes(shape) if has_spread else None)

    @property
    def mergeable(self) -> str:
        return self.moments.mergeable

    @property
    def n(self) -> numpy.ndarray:
        return self.moments.n

    @property
    def n_nan(self) -> numpy.ndarray:
        return self.moments.n_nan

    @property
    def least(self) -> numpy.ndarray:
        assert self.extremes is not None
        return self.extremes.least.copy()

    @property
    def largest(self) -> numpy.ndarray:
        assert self.extremes is not None
        return self.extremes.largest.copy()

    def mean(self) -> numpy.ndarray:
        return self.moments.mean()

    def total(self) -> numpy.ndarray:
        return self.moments.total()

    def std(self, ddof: int) -> numpy.ndarray:
        return self.moments.std(ddof)

    def add(self, value: numpy.ndarray) -> None:
        self.moments.add(value)
        if self.extremes is not None:
            self.extremes.add(value)

    def merge(self, other: "_Arrays") -> None:
        self.moments.merge(other.moments)
        if self.extremes is not None:
            self.extremes.merge(other.extremes)


def _number(value: Any) -> float | int:
    """Return this scalar as Python has it; NaN for None, which is "no information"."""
    if isinstance(value, bool | int | float):
        return value
    if value is None:
        return NAN
    array = numpy.asarray(value)
    if array.ndim or array.dtype.kind not in "biuf":
        raise RejectedValue(f"wanted a number, as before; there is {array.dtype} of shape {list(array.shape)}.")
    return array.item()


def _float_column(column: Sequence[Any]) -> numpy.ndarray | None:
    """Return scalars as float64 where that loses nothing; `None` otherwise."""
    try:
        array = numpy.asarray(column)
    except ValueError:
        return None
    is_rounded = array.dtype.kind == "f" and not hasattr(column, "dtype")  # of floats, or of integers among them
    is_small = not (is_rounded or array.dtype.kind in "iu") or not array.size or not abs(array).max() >= 2**53
    is_exact = array.dtype.kind in "biuf" and is_small
    return array.astype(float, copy=False) if array.ndim == 1 and is_exact and array.dtype.itemsize <= 8 else None

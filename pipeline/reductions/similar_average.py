"""The average of curves that are alike: what the beam has damaged, or has a bubble in it, is left out."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, Literal

import numpy

from pipeline.errors import PipelineImportError, PipelineValueError, RejectedValue, near
from pipeline.reductions.curve_window import CurveWindow
from pipeline.reductions.element_moments import ElementMoments
from pipeline.reductions.reduction import Data, Reduction, Result, units_of, with_units
from pipeline.reductions.similarity import longest_run, probability_of_run
from pipeline.reductions.sums import total
from pipeline.reductions.values import NAN

Array = numpy.ndarray

TESTS = ("cormap", "chi2")
REFERENCES = ("first", "mean")


class SimilarAverage(Reduction):
    """Mean of the curves that differ from the first one, or from the mean so far, by no more than noise.

    Each curve is judged once, as it comes, so the order matters. The first one is always taken: if it may be an outlier
    itself, begin the scan with one that may be thrown away. For averages by sample, or with other weights, there is
    `FrameAverage` after `Similarity`.

    Parameters
    ----------
    y
        The field of the curve: an array of one dimension, shape `(n,)` or `(1, n)`.
    x, range
        Its axis, and the first and the last x that are compared; see `CurvePeak`. The mean is of the whole curve.
    errors
        The field of the standard errors of y, in that shape.
    test
        `"cormap"`: by the longest run of points that are all above or all below, which needs no errors but points that
        are independent of their neighbours; see `Similarity`. `"chi2"`: by the squared differences over the errors.
    reference
        What a curve is compared with: the `"first"` one, or the `"mean"` of those that were taken.
    level
        How improbable the difference must be for a curve that is left out: of curves that are alike, no larger share
        than this is.
    scale
        Whether a curve is brought to the reference by a factor, that of least squares, before it is compared and taken:
        where what the beam does to the intensity is not divided out before.
    name
        What stands in the results' names; by default the name of the field.

    Results
    -------
    `{name}_mean`: float64, in the shape and the units of the curve; NaN where no curve that was taken is finite.
    `{name}_err`: float64, its standard error: from the errors, or without them from the scatter (NaN of one curve).
    `{name}_n`, `{name}_n_rejected`: int64, how many curves were taken, and left out.
    `{name}_is_similar`: whether the last curve was taken.
    `{name}_p`: float64, how probable a difference like that of the last curve is, of curves that are alike; 1 of the
    first.
    `{name}_chi2`: float64, the chi-square of the last curve for each degree of freedom; only with that test.
    `{name}_scale`: float64, the factor of the last curve; only with `scale`.

    References
    ----------
    D. Franke, C. M. Jeffries, D. I. Svergun, Nature Methods 12 (2015) 419 (correlation maps).

    >>> average = SimilarAverage("I", level=0.1)
    >>> for curve in ([5, 5, 5, 5, 5, 5, 5], [6, 4, 6, 4, 4, 6, 4], [6, 7, 8, 7, 6, 7, 8]): average.update({"I": curve})
    >>> result = average.result()
    >>> result["I_mean"], result["I_n"], result["I_n_rejected"], result["I_is_similar"], result["I_p"]
    (array([5.5, 4.5, 5.5, 4.5, 4.5, 5.5, 4.5]), 2, 1, False, 0.015625)
    """

    constants = ("fields", "_curve", "_window", "_errors")

    def __init__(
        self,
        y: str,
        x: str | Sequence[float] | None = None,
        range: Sequence[float] | None = None,
        errors: str | None = None,
        test: Literal["cormap", "chi2"] = "cormap",
        reference: Literal["first", "mean"] = "first",
        level: float = 0.01,
        scale: bool = False,
        name: str | None = None,
    ) -> None:
        _check(test, TESTS, "test")
        _check(reference, REFERENCES, "reference")
        if not 0 < level < 1:
            raise PipelineValueError(f"level is {level!r}; wanted a probability, between 0 and 1.")
        if test == "chi2" and errors is None:
            raise PipelineValueError("test is 'chi2', and errors is None; wanted the field of the errors.")
        if test == "chi2":
            _chi2_distribution()  # to miss it now, not in a scan
        self._window, self._curve = CurveWindow(y, x, range), CurveWindow(y)
        self._errors = CurveWindow(errors) if errors is not None else None
        self.fields = (*self._window.fields, *([errors] if errors is not None else []))
        self.y, self.test, self.reference, self.level, self.scale, self.key = (
            y,
            test,
            reference,
            level,
            scale,
            name or y,
        )
        self._first: _Curve | None = None
        self._taken = ElementMoments((0,))
        self._variances = numpy.zeros(0)  # sums of the squares of the errors of what was taken
        self._n_rejected, self._last, self._is_similar = 0, _Likeness(), True

    def update(self, data: Data) -> None:
        """Judge the curve of one event, and take it in if it is like the others."""
        with numpy.errstate(over="ignore", invalid="ignore", divide="ignore"):
            self._update(data)

    def _update(self, data: Data) -> None:
        curve = self._read(data)
        at = self._compared(data, curve)
        if self._first is None:
            self._begin(curve)
        else:
            self._last = self._likeness(curve.at(at), self._of_reference().at(at))
            self._is_similar = self._last.p >= self.level
        if not self._is_similar:
            self._n_rejected += 1
            return
        taken = curve.times(self._last.factor)
        self._taken.add(taken.y)
        self._variances += numpy.where(numpy.isfinite(taken.y), taken.variance, 0.0)

    def _begin(self, curve: "_Curve") -> None:
        self._first = curve
        self._taken = ElementMoments(curve.y.shape)
        self._variances = numpy.zeros(curve.y.shape)

    def _read(self, data: Data) -> "_Curve":
        y = self._curve.whole(data)
        variance = numpy.full(y.shape, NAN) if self._errors is None else self._errors.whole(data) ** 2
        n = len(y) if self._first is None else len(self._first.y)
        if len(y) != n or len(variance) != n:
            raise RejectedValue(f"wanted {n} points, with as many errors; there are {len(y)}, and {len(variance)}.")
        return _Curve(y, variance)

    def _compared(self, data: Data, curve: "_Curve") -> Array:
        """Return the places of the points that are compared."""
        axis = {field: data[field] for field in self._window.fields[1:]}
        at = self._window.whole({self.y: numpy.arange(float(len(curve.y))), **axis}).astype(int)
        if not numpy.isfinite(curve.y[at]).any():
            raise RejectedValue(f"{self.y!r}: wanted a curve with finite points in the range, there are none.")
        return at

    def _of_reference(self) -> "_Curve":
        assert self._first is not None
        if self.reference == "first":
            return self._first
        return _Curve(self._taken.mean(), self._variances / numpy.maximum(self._taken.n, 1) ** 2)

    def _likeness(self, curve: "_Curve", reference: "_Curve") -> "_Likeness":
        factor = _factor(curve, reference) if self.scale else 1.0
        curve = curve.times(factor)
        if self.test == "chi2":
            return _by_chi2(curve, reference, factor, int(self.scale))
        signs = numpy.sign(curve.y - reference.y)
        signs = signs[numpy.isfinite(signs) & (signs != 0)]
        return _Likeness(probability_of_run(longest_run(signs), len(signs)), NAN, factor)

    def result(self) -> Result | None:
        """Return the average so far; `None` before the first curve."""
        if self._first is None:
            return None
        found: Result = {
            "mean": self._mean(),
            "err": self._standard_error(),
            "n": self._taken.n_events,
            "n_rejected": self._n_rejected,
            "is_similar": self._is_similar,
            "p": self._last.p,
        }
        found |= {"chi2": self._last.chi2} if self.test == "chi2" else {}
        found |= {"scale": self._last.factor} if self.scale else {}
        return {f"{self.key}_{what}": value for what, value in found.items()}

    def _mean(self) -> Array:
        mean = self._taken.mean()
        return numpy.where(numpy.isfinite(mean), mean, NAN)

    def _standard_error(self) -> Array:
        n = self._taken.n
        square = self._taken.variance(1) / numpy.maximum(n, 1)
        if self._errors is not None:
            square = self._variances / numpy.maximum(n, 1) ** 2
        return numpy.sqrt(numpy.where((n > 0) & numpy.isfinite(square), square, NAN))

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: those of the curve, and of what has none."""
        units = units_of(data_keys, self.y)
        return with_units(
            {f"{self.key}_{what}": units for what in ("mean", "err")}
            | {f"{self.key}_{what}": "dimensionless" for what in ("p", "chi2", "scale")}
        )


class _Curve:
    """A curve and the squares of its errors, NaN where there are none."""

    def __init__(self, y: Array, variance: Array) -> None:
        self.y, self.variance = y, variance

    def at(self, places: Array) -> "_Curve":
        return _Curve(self.y[places], self.variance[places])

    def times(self, factor: float) -> "_Curve":
        return self if factor == 1 else _Curve(self.y * factor, self.variance * factor**2)


class _Likeness:
    """How probable a difference is, of curves that are alike; chi-square by degree of freedom; the factor between."""

    def __init__(self, p: float = 1.0, chi2: float = NAN, factor: float = 1.0) -> None:
        self.p, self.chi2, self.factor = p, chi2, factor


def _factor(curve: _Curve, reference: _Curve) -> float:
    """Return what brings a curve nearest to the reference, by least squares with the errors of the curve, if any."""
    weight = 1 / curve.variance if numpy.isfinite(curve.variance).any() else numpy.ones(len(curve.y))
    is_known = numpy.isfinite(curve.y) & numpy.isfinite(reference.y) & numpy.isfinite(weight)
    y, y0, w = curve.y[is_known], reference.y[is_known], weight[is_known]
    square = total(w * y * y)
    factor = total(w * y * y0) / square if square > 0 else 1.0
    return factor if isfinite(factor) and factor > 0 else 1.0


def _by_chi2(curve: _Curve, reference: _Curve, factor: float, n_fitted: int) -> _Likeness:
    squares = (curve.y - reference.y) ** 2 / (curve.variance + reference.variance)
    known = squares[numpy.isfinite(squares)]
    freedom = len(known) - n_fitted
    if freedom < 1:
        raise RejectedValue("wanted points with errors over 0, there are none.")
    chi2 = total(known)
    return _Likeness(float(_chi2_distribution()(freedom, chi2)), chi2 / freedom, factor)


def _chi2_distribution() -> Callable[[float, float], float]:
    """Return the probability of a chi-square as large, by degrees of freedom."""
    try:
        from scipy.special import chdtrc
    except ImportError:
        raise PipelineImportError("test 'chi2' wants scipy: pip install bluesky-pipeline[frames].") from None
    return chdtrc


def _check(given: str, known: Sequence[str], what: str) -> None:
    if given not in known:
        raise PipelineValueError(f"{what} has {given!r}{near(str(given), known)}")

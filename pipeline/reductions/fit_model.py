"""Curves that are fitted to points by least squares, with their derivatives."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy

from pipeline.errors import PipelineImportError, PipelineValueError

Array = numpy.ndarray
# internal parameters; values and standard errors by `names`; sum of squares over degrees of freedom; is it a fit?
Solution = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], float, bool]

NAN = math.nan
BY_CHANCE = 1e-6  # the probability of noise to look as much like a curve as one must to be taken for it
_TOLERANCE = 1e-10
_EVALUATIONS = 20  # for each parameter: what has not converged by then is seldom a fit
_AT_BOUND = 1e-4
_ROOT_PI = math.sqrt(math.pi)
_GAUSSIAN_FWHM = 2 * math.sqrt(2 * math.log(2))


class FitModel:
    """A peak, a step or a line over a background, fitted by the Levenberg-Marquardt algorithm of MINPACK.

    Parameters and their names are those of lmfit's models. Inside, the background turns about the mean of x, so that
    its two parameters do not depend on each other; standard errors follow by the derivatives of what is reported.

    References
    ----------
    J. J. More, in Numerical Analysis, Lecture Notes in Mathematics 630 (1978) 105 (the algorithm, by scipy);
    W. Squire, G. Trapp, SIAM Review 40 (1998) 110 (derivatives by a complex step).

    >>> x = numpy.linspace(-3, 3, 31)
    >>> model = FitModel("gaussian", "constant")
    >>> solution = model.solve(x, 5 * numpy.exp(-((x - 0.5) ** 2) / 2) + 10)
    >>> {name: round(value, 6) for name, value in zip(model.names, solution[1])}["center"]
    0.5
    """

    def __init__(self, shape: str, background: str, start: Mapping[str, float] | None = None) -> None:
        needs_scipy()
        self._curve, self._n_shape, reported, self._report = SHAPES[shape]
        self.is_peak = "fwhm" in reported
        self.is_line = shape == "linear"
        self.background = _BACKGROUNDS[background]
        self.names = (*reported, *reversed(self.background))
        self._names = (*reported[: self._n_shape], *self.background)  # of the internal parameters
        self._start = dict(start or {})
        for name in self._start:
            if name not in self._names:
                raise PipelineValueError(f"Fit of {shape!r} starts from {name!r}; wanted some of {list(self._names)}.")

    def units(self, x: str | None, y: str | None) -> dict[str, str | None]:
        """Return the units of each parameter."""
        return {name: _units(name, self.is_peak, x, y) for name in self.names}

    def solve(self, x: Array, y: Array, warm: Sequence[float] | None = None) -> Solution:
        """Return the fit to points in order of x, from the internal parameters of an earlier fit if there are any."""
        is_flat = not self.is_line and y.min() == y.max()
        if len(x) <= len(self._names) or x[0] == x[-1] or is_flat:
            return self._none()
        line = line_squares(x, y)
        best = self._none()
        for start in [self._from_bounds(warm)] if warm else self._starts(x, y):
            best = min(best, self._solve(x, y, start, line), key=_rank)
            if best[4]:
                return best
        return self.solve(x, y) if warm else best

    def _from_bounds(self, p: Sequence[float]) -> Sequence[float]:
        """Return internal parameters with the fraction off 0 and 1, where it has no derivative."""
        if "fraction" not in self._names:
            return p
        fraction = (math.sin(p[3]) + 1) / 2
        return [*p[:3], _inward(min(max(fraction, 0.02), 0.98)), *p[4:]]

    def _none(self) -> Solution:
        nothing = (NAN,) * len(self.names)
        return (), nothing, nothing, NAN, False

    def _solve(self, x: Array, y: Array, start: Sequence[float], line: float) -> Solution:
        """Return the fit that is reached from this start."""
        middle, n_rest = float(x.mean()), len(x) - len(self._names)
        with numpy.errstate(all="ignore"):  # far from a fit there are infinities, which are no fit
            found, squares, is_reached = self._minimize(start, (x, x - middle, y))
            values, slopes = self._reported(found, middle)
            errors = _errors(_covariance(self._jacobian(found, x, x - middle, y)), slopes, squares / n_rest)
            if not math.isfinite(squares) or not numpy.isfinite(values).all():
                return self._none()
            good = is_reached and (self.is_line or self._stands_out(x, values, errors, squares / line, n_rest))
        return tuple(found.tolist()), tuple(values.tolist()), tuple(errors.tolist()), squares / n_rest, good

    def _minimize(self, start: Sequence[float], data: tuple[Array, Array, Array]) -> tuple[Array, float, bool]:
        """Return internal parameters, their sum of squares, and whether it has converged."""
        from scipy.optimize import leastsq

        options = {"ftol": _TOLERANCE, "xtol": _TOLERANCE, "maxfev": _EVALUATIONS * len(start)}
        answer: Any = leastsq(
            self._residual, start, data, self._jacobian, col_deriv=True, full_output=True, **options
        )
        found, _, info, _, code = answer
        return found, float(info["fvec"] @ info["fvec"]), code in (1, 2, 3, 4, 6, 7, 8)

    def _residual(self, p: Array, x: Array, u: Array, y: Array) -> Array:
        out = self._curve(x, p)[0] - y
        if self.background:
            out += p[self._n_shape] + (p[-1] * u if len(self.background) == 2 else 0.0)
        return out

    def _jacobian(self, p: Array, x: Array, u: Array, y: Array) -> Array:
        return numpy.array([*self._curve(x, p)[1], *(numpy.ones_like(x), u)[: len(self.background)]])

    # what is reported ------------------------------------------------------------------------------------------

    def _reported(self, p: Array, middle: float) -> tuple[Array, Array]:
        """Return values in the order of `names`, and their derivatives by the internal parameters."""
        step = 1e-30
        columns = [self._values(p + 1j * step * unit, middle) for unit in numpy.eye(len(p))]
        return numpy.array([v.real for v in columns[0]]), numpy.imag(columns).T / step

    def _values(self, p: Array, middle: float) -> list[complex]:
        n = self._n_shape
        shape, offset = self._report(p[:n], bool(self.background))
        if not self.background:
            return shape
        slope = p[n + 1 :]
        return [*shape, *slope, p[n] + offset - sum(slope) * middle]

    def _stands_out(self, x: Array, values: Array, errors: Array, ratio: float, n_rest: int) -> bool:
        """Tell a peak or a step from noise: both flanks are there, and it is far better than a straight line."""
        named, error = dict(zip(self.names, values, strict=True)), dict(zip(self.names, errors, strict=True))
        width = "fwhm" if self.is_peak else "sigma"
        half = named[width] / 2
        is_within = x[0] <= named["center"] - half and named["center"] + half <= x[-1]
        is_known = error[width] < named[width] and error["center"] < named[width]
        return is_within and is_known and is_beyond_chance(ratio, len(self._names) - 2, n_rest)

    # where to begin --------------------------------------------------------------------------------------------

    def _starts(self, x: Array, y: Array) -> list[list[float]]:
        """Return where to begin, the likeliest first; what was given comes before what was guessed."""
        smooth = numpy.convolve(y, numpy.ones(5) / 5, "valid")
        guesses = [self._guess(x, y)] + ([self._guess(x[2:-2], smooth)] if len(smooth) > 5 else [])
        return [[float(self._start.get(name, guess)) for name, guess in zip(self._names, g, strict=True)]
                for g in guesses]  # fmt: skip

    def _guess(self, x: Array, y: Array) -> list[float]:
        slope = _slope(x, y) if self.is_line or len(self.background) == 2 and not self.is_peak else 0.0
        if self.is_line:
            return [float(y.mean()), slope]
        shape, level = _guess_peak(x, y, bool(self.background)) if self.is_peak else _guess_step(x, y)
        kinds = {"amplitude": self._area(shape), "center": shape[1], "sigma": shape[2], "fraction": 0.5}
        kinds |= {"intercept": level, "slope": 0.0}
        return [_inward(kinds[name]) if name == "fraction" else kinds[name] for name in self._names]

    def _area(self, shape: tuple[float, float, float]) -> float:
        height, _, width = shape
        return height * width * 2.0 if self.is_peak else height


def needs_scipy() -> None:
    """Refuse early where there is no scipy; importing it takes a second, which no scan should wait for."""
    try:
        import scipy.optimize
        import scipy.special  # noqa: F401
    except ImportError:
        raise PipelineImportError("Fit needs scipy; wanted `pip install bluesky-pipeline[fit]`.") from None


def is_beyond_chance(ratio: float, n_more: int, n_rest: int) -> bool:
    """Tell whether `n_more` parameters lessen the sum of squares, to this ratio, by more than noise lets them.

    That is the F test; `n_rest` is how many degrees of freedom remain.

    >>> is_beyond_chance(0.01, 2, 20), is_beyond_chance(0.5, 2, 20), is_beyond_chance(0.01, 2, 1)
    (True, False, False)
    """
    from scipy.special import betainc

    return bool(ratio < 1 and betainc(n_rest / 2, max(n_more, 1) / 2, ratio) < BY_CHANCE)


def _rank(solution: Solution) -> tuple[bool, float]:
    """Order fits: successful ones first, then by how near they are; those that are none last."""
    return not solution[4], solution[3] if math.isfinite(solution[3]) else math.inf


def _covariance(rows: Array) -> Array:
    """Return the inverse of J^T J, from J transposed; zero for what does not change the curve, which is held."""
    size = numpy.sqrt((rows * rows).sum(axis=1))
    free = size > 0
    unit = rows[free] / size[free, None]
    covariance = numpy.zeros((len(rows), len(rows)))
    try:
        covariance[numpy.ix_(free, free)] = numpy.linalg.inv(unit @ unit.T) / numpy.outer(size[free], size[free])
    except numpy.linalg.LinAlgError:
        covariance[:] = NAN
    return covariance


def _errors(covariance: Array, slopes: Array, redchi: float) -> Array:
    """Return standard errors; NaN where there is none, as of a parameter that is held."""
    variances = ((slopes @ covariance) * slopes).sum(axis=1) * redchi
    known = ((variances > 0) & (variances < numpy.inf)) | (redchi == 0)
    return numpy.sqrt(numpy.where(known, variances, NAN))


def _slope(x: Array, y: Array) -> float:
    u = x - x.mean()
    return float(u @ (y - y.mean()) / (u @ u))


def line_squares(x: Array, y: Array) -> float:
    """Return the sum of squares about the straight line."""
    rest = y - y.mean() - _slope(x, y) * (x - x.mean())
    return max(float(rest @ rest), 5e-324)


def _guess_peak(x: Array, y: Array, has_background: bool) -> tuple[tuple[float, float, float], float]:
    """Return height, place and half width of the largest deviation, up or down, and the level it starts from."""
    low, middle, high = numpy.partition(y, (len(y) // 10, len(y) // 2, -1 - len(y) // 10))[
        [len(y) // 10, len(y) // 2, -1 - len(y) // 10]
    ].tolist()
    if not has_background:
        low = middle = high = 0.0
    is_up = y.max() - middle >= middle - y.min()
    level = low if is_up else high
    height = y - level if is_up else level - y
    top = int(height.argmax())
    below = numpy.flatnonzero(height < height[top] / 2)
    after = int(numpy.searchsorted(below, top))
    left = x[below[after - 1]] if after else x[0]
    right = x[below[after]] if after < len(below) else x[-1]
    half = float(right - left) / 2 * 0.8  # the nearest points below the half lie outside it
    return (float(height[top]) * (1 if is_up else -1), float(x[top]), half), level


def _guess_step(x: Array, y: Array) -> tuple[tuple[float, float, float], float]:
    """Return height, place and width of a step, and the level it starts from."""
    n = max(1, len(y) // 5)
    first, last = float(y[:n].mean()), float(y[-n:].mean())
    height = last - first
    share = (y - first) / height if height else numpy.linspace(0, 1, len(y))
    quarter, half, three = (int((share > part).argmax()) for part in (0.25, 0.5, 0.75))
    width = abs(float(x[three] - x[quarter])) or float(x[-1] - x[0]) / len(x)
    return (height, float(x[half]), width), first


# shapes: value, derivatives by each parameter --------------------------------------------------------------------

Curve = tuple[Array, tuple[Array, ...]]
Report = Callable[[Array, bool], tuple[list[Any], Any]]


def _gaussian(x: Array, p: Array) -> Curve:
    amplitude, center, sigma = p[:3]
    z = (x - center) / sigma
    unit = numpy.exp(-0.5 * z * z) * (1 / (sigma * math.sqrt(2) * _ROOT_PI))
    value = amplitude * unit
    slope = value / sigma
    return value, (unit, slope * z, slope * (z * z - 1))


def _lorentzian(x: Array, p: Array) -> Curve:
    amplitude, center, sigma = p[:3]
    z = (x - center) / sigma
    rest = 1 / (1 + z * z)
    unit = rest * (1 / (math.pi * sigma))
    value = amplitude * unit
    slope = value * rest / sigma
    return value, (unit, 2 * slope * z, slope * (z * z - 1))


def _pseudo_voigt(x: Array, p: Array) -> Curve:
    amplitude, center, sigma, inward = p[:4]
    fraction = (math.sin(inward) + 1) / 2
    width = sigma * (2 / _GAUSSIAN_FWHM)
    gaussian, (g, g_center, g_width) = _gaussian(x, numpy.array([amplitude, center, width]))
    lorentzian, (l, l_center, l_sigma) = _lorentzian(x, p)  # noqa: E741 - the field's letters
    share, tilt = 1 - fraction, math.cos(inward) / 2
    derivatives = (
        share * g + fraction * l,
        share * g_center + fraction * l_center,
        share * g_width * (2 / _GAUSSIAN_FWHM) + fraction * l_sigma,
        (lorentzian - gaussian) * (tilt if abs(tilt) > _AT_BOUND else 0.0),
    )
    return share * gaussian + fraction * lorentzian, derivatives


def _inward(fraction: float) -> float:
    """Return the angle that stands for a fraction, which so stays within 0 and 1."""
    return math.asin(2 * min(max(fraction, 0.0), 1.0) - 1)


def _step(x: Array, p: Array) -> Curve:
    from scipy.special import erf

    amplitude, center, sigma = p[:3]
    z = (x - center) / sigma
    unit = 0.5 * (1 + erf(z))
    slope = numpy.exp(-z * z) * (-amplitude / (_ROOT_PI * sigma))
    return amplitude * unit, (unit, slope, slope * z)


def _nothing(x: Array, p: Array) -> Curve:
    return numpy.zeros_like(x), ()


def _report_peak(width: float, density: float) -> Report:
    def report(p: Array, has_background: bool) -> tuple[list[Any], Any]:
        sign = 1 if p[2].real > 0 else -1  # a negative width is a negative area
        amplitude, center, sigma = sign * p[0], p[1], sign * p[2]
        return [amplitude, center, sigma, width * sigma, density * amplitude / sigma], 0

    return report


def _report_pseudo_voigt(p: Array, has_background: bool) -> tuple[list[Any], Any]:
    fraction = (numpy.sin(p[3]) + 1) / 2
    density = (1 - fraction) * math.sqrt(math.log(2) / math.pi) + fraction / math.pi
    (amplitude, center, sigma, fwhm, _), _ = _report_peak(2.0, 0.0)(p, has_background)
    return [amplitude, center, sigma, fraction, fwhm, density * amplitude / sigma], 0


def _report_step(p: Array, has_background: bool) -> tuple[list[Any], Any]:
    """Return a width above zero: a step that falls has a negative height, from where it is high."""
    if p[2].real > 0 or not has_background:
        return list(p), 0
    return [-p[0], p[1], -p[2]], p[0]


def _report_nothing(p: Array, has_background: bool) -> tuple[list[Any], Any]:
    return [], 0


class Shape(NamedTuple):
    """A curve with its derivatives, how many parameters it has, what is reported of it, and how."""

    curve: Callable[[Array, Array], Curve]
    n: int
    reported: tuple[str, ...]
    report: Report


_PEAK = "amplitude", "center", "sigma", "fwhm", "height"
_VOIGT = "amplitude", "center", "sigma", "fraction", "fwhm", "height"

SHAPES = {
    "gaussian": Shape(_gaussian, 3, _PEAK, _report_peak(_GAUSSIAN_FWHM, 1 / (math.sqrt(2) * _ROOT_PI))),
    "lorentzian": Shape(_lorentzian, 3, _PEAK, _report_peak(2.0, 1 / math.pi)),
    "pseudo_voigt": Shape(_pseudo_voigt, 4, _VOIGT, _report_pseudo_voigt),
    "step": Shape(_step, 3, _PEAK[:3], _report_step),
    "linear": Shape(_nothing, 0, (), _report_nothing),
}

_BACKGROUNDS = {"none": (), "constant": ("intercept",), "linear": ("intercept", "slope")}


def _units(name: str, is_peak: bool, x: str | None, y: str | None) -> str | None:
    both = bool(x and y)
    if name == "amplitude":
        return (f"{y}*({x})" if both else None) if is_peak else y
    if name == "slope":
        return f"{y}/({x})" if both else None
    return {"fraction": "dimensionless", "height": y, "intercept": y}.get(name, x)

"""Curves that are fitted to points by least squares, with their derivatives."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy

from pipeline.errors import PipelineValueError
from pipeline.reductions.least_squares import dot, errors_of, is_beyond_chance, least_squares
from pipeline.reductions.reduction import ratio_units

Array = numpy.ndarray
# internal parameters; values and standard errors by `names`; sum of squares over degrees of freedom; is it a fit?
Solution = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], float, bool]

NAN = math.nan
_STEPS = 40  # what has not converged by then is seldom a fit
_AT_BOUND = 1e-4
_ROOT_PI = math.sqrt(math.pi)
_GAUSSIAN_FWHM = 2 * math.sqrt(2 * math.log(2))


class FitModel:
    """A peak, a step or a line over a background, fitted by least squares.

    Parameters and their names are those of lmfit's models. Inside, the background turns about the mean of x, so that
    its two parameters do not depend on each other; standard errors follow by the derivatives of what is reported.

    References
    ----------
    W. Squire, G. Trapp, SIAM Review 40 (1998) 110 (derivatives by a complex step).

    >>> x = numpy.linspace(-3, 3, 31)
    >>> model = FitModel("gaussian", "constant")
    >>> solution = model.solve(x, 5 * numpy.exp(-((x - 0.5) ** 2) / 2) + 10)
    >>> {name: round(value, 6) for name, value in zip(model.names, solution[1])}["center"]
    0.5
    """

    def __init__(self, shape: str, background: str, start: Mapping[str, float] | None = None) -> None:
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
        if len(x) <= len(self._names) or is_flat:
            return self._none()
        with numpy.errstate(all="ignore"):  # far from a fit, and of numbers too large, there is infinity: no fit
            line = line_squares(x, y)
            return self._nearest(x, y, warm, line) if line < math.inf else self._none()

    def _nearest(self, x: Array, y: Array, warm: Sequence[float] | None, line: float) -> Solution:
        """Return the first success from each start, or the nearest of what is none."""
        if warm:
            found = self._solve(x, y, self._from_bounds(warm), line, 1e-7)
            if found[4]:
                return found
        best = self._none()
        for start in self._starts(x, y):
            best = min(best, self._solve(x, y, start, line, 1e-3), key=_rank)
            if best[4]:
                break
        return best

    def _from_bounds(self, p: Sequence[float]) -> Sequence[float]:
        """Return internal parameters with the fraction off 0 and 1, where it has no derivative."""
        if "fraction" not in self._names:
            return p
        fraction = (math.sin(p[3]) + 1) / 2
        return [*p[:3], _inward(min(max(fraction, 0.02), 0.98)), *p[4:]]

    def _none(self) -> Solution:
        nothing = (NAN,) * len(self.names)
        return (), nothing, nothing, NAN, False

    def _solve(self, x: Array, y: Array, start: Sequence[float], line: float, damping: float) -> Solution:
        """Return the fit that is reached from this start."""
        middle, n_rest = float(x.mean()), len(x) - len(self._names)
        ones, u = numpy.ones_like(x), x - middle
        background = (ones, u)[: len(self.background)]
        linearised = partial(self._linearised, x=x, y=y, background=background)
        minimum = least_squares(linearised, start, dot(y, y), damping=damping, steps=_STEPS)
        found, squares, covariance, is_reached = minimum
        values, slopes = self._reported(found, middle)
        errors = errors_of(covariance, slopes, squares / n_rest)
        if not math.isfinite(squares) or not numpy.isfinite(values).all():
            return self._none()
        good = is_reached and (self.is_line or self._stands_out(x, values, errors, squares / line, n_rest))
        return tuple(found.tolist()), tuple(values.tolist()), tuple(errors.tolist()), squares / n_rest, good

    def _linearised(self, p: Array, x: Array, y: Array, background: Sequence[Array]) -> tuple[Array, Array]:
        value, slopes = self._curve(x, p)
        residuals = value - y
        for height, each in zip(p[self._n_shape :], background, strict=True):
            residuals += height * each
        return residuals, numpy.array([*slopes, *background])

    # what is reported ------------------------------------------------------------------------------------------

    def _reported(self, p: Array, middle: float) -> tuple[Array, Array]:
        """Return values in the order of `names`, and their derivatives by the internal parameters."""
        n = self._n_shape
        steps = p[:, None] + 1e-30j * numpy.eye(len(p))  # each parameter, with one step aside in each column
        shape, offset = self._report(steps[:n], bool(self.background))
        slope = steps[n + 1 :]
        level = [steps[n] + offset - slope.sum(axis=0) * middle] if self.background else []
        columns = numpy.array([*shape, *slope, *level])
        return numpy.real(columns[:, 0]), numpy.imag(columns) / 1e-30

    def _stands_out(self, x: Array, values: Array, errors: Array, ratio: float, n_rest: int) -> bool:
        """Tell a peak or a step from noise: both flanks are there, and it is far better than a straight line."""
        named, error = dict(zip(self.names, values, strict=True)), dict(zip(self.names, errors, strict=True))
        width = "fwhm" if self.is_peak else "sigma"
        half = named[width] / 2
        is_within = x[0] <= named["center"] - half and named["center"] + half <= x[-1]
        is_known = error[width] < named[width] and error["center"] < named[width]
        return bool(is_within and is_known) and is_beyond_chance(ratio, len(self._names) - 2, n_rest)

    # where to begin --------------------------------------------------------------------------------------------

    def _starts(self, x: Array, y: Array) -> Iterator[list[float]]:
        """Give where to begin, the likelier first: of the points, and of their mean over five."""
        if self.is_line:
            yield [float(y.mean()), _slope(x, y)]
            return
        slope = _end_slope(x, y) if "slope" in self.background and self.is_peak else 0.0
        yield self._guess(x, y - slope * (x - x.mean()), slope)
        if len(y) > 9:
            yield self._guess(x[2:-2], numpy.convolve(y, numpy.ones(5) / 5, "valid"), 0.0)

    def _guess(self, x: Array, y: Array, slope: float) -> list[float]:
        guess_shape = _guess_peak if self.is_peak else _guess_step
        (height, center, width), level = guess_shape(x, y, bool(self.background))
        area = height * width * 2.0 if self.is_peak else height
        guess = {"amplitude": area, "center": center, "sigma": width, "fraction": 0.5}
        guess |= {"intercept": level, "slope": slope, **self._start}
        if "intercept" in self._start:
            guess["intercept"] += guess["slope"] * float(x.mean())
        guess["fraction"] = _inward(guess["fraction"])
        return [float(guess[name]) for name in self._names]


def _rank(solution: Solution) -> tuple[bool, float]:
    """Order fits: successful ones first, then by how near they are; those that are none last."""
    return not solution[4], solution[3] if math.isfinite(solution[3]) else math.inf


def _slope(x: Array, y: Array) -> float:
    u = x - x.mean()
    return float(dot(u, y - y.mean()) / dot(u, u))


def _end_slope(x: Array, y: Array) -> float:
    """Return the slope between the first and the last tenth of the points."""
    n = max(1, len(y) // 10)
    return float((y[-n:].mean() - y[:n].mean()) / (x[-n:].mean() - x[:n].mean()))


def line_squares(x: Array, y: Array) -> float:
    """Return the sum of squares about the straight line; infinite where there is none."""
    rest = y - y.mean() - _slope(x, y) * (x - x.mean())
    squares = float(dot(rest, rest))
    return max(squares, 5e-324) if math.isfinite(squares) else math.inf


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


def _guess_step(x: Array, y: Array, has_background: bool) -> tuple[tuple[float, float, float], float]:
    """Return height, place and width of a step, and the level it starts from."""
    n = max(1, len(y) // 5)
    first, last = float(y[:n].mean()) if has_background else 0.0, float(y[-n:].mean())
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
    fraction = (numpy.sin(inward) + 1) / 2
    width = sigma * (2 / _GAUSSIAN_FWHM)
    gaussian, (g, g_center, g_width) = _gaussian(x, numpy.array([amplitude, center, width]))
    lorentzian, (l, l_center, l_sigma) = _lorentzian(x, p)  # noqa: E741 - the field's letters
    share, tilt = 1 - fraction, numpy.cos(inward) / 2
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
    amplitude, center, sigma = p[:3]
    z = (x - center) / sigma
    unit = numpy.array([0.5 * math.erfc(-each) for each in z.tolist()])
    slope = numpy.exp(-z * z) * (-amplitude / (_ROOT_PI * sigma))
    return amplitude * unit, (unit, slope, slope * z)


def _nothing(x: Array, p: Array) -> Curve:
    return numpy.zeros_like(x), ()


def _report_peak(width: float, density: float) -> Report:
    def report(p: Array, has_background: bool) -> tuple[list[Any], Any]:
        sign = 1 if p[2, 0].real > 0 else -1  # a negative width is a negative area
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
    if p[2, 0].real > 0 or not has_background:
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
    if name == "amplitude":
        return (f"{y}*({x})" if x and y else None) if is_peak else y
    if name == "slope":
        return ratio_units(y, x)
    return {"fraction": "dimensionless", "height": y, "intercept": y}.get(name, x)

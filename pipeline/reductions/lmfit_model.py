"""A model of lmfit, or an expression, fitted to points."""

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy

from pipeline.errors import PipelineImportError, PipelineValueError, near
from pipeline.reductions.fit_model import NAN, Array, Solution, line_squares
from pipeline.reductions.least_squares import dot, errors_of, is_beyond_chance, least_squares

_STEP = numpy.finfo(float).eps ** (1 / 3)  # where rounding and curvature cost a central difference the same
_SMALL = 1e-4  # the scale of a parameter that is zero
_FUNCTIONS = {"exp", "log", "log10", "sqrt", "sin", "cos", "tan", "arctan", "sinh", "cosh", "tanh", "abs", "erf"}
_NODES = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Name, ast.Constant, ast.operator, ast.unaryop, ast.Load, ast.Call)


class LmfitModel:
    """A model of lmfit by its name, or an arithmetic expression in `x`, over a background if one is wanted.

    Parameters
    ----------
    model
        A class of `lmfit.models`, with or without `Model`, in any case, `skewed_gaussian` or `SkewedGaussianModel`;
        or an expression: names other than `x` and functions are its parameters.
    background
        `"none"`, `"constant"` or `"linear"`; `"auto"`: constant under a peak, none under others.
    start
        Where parameters begin; what has no guess in lmfit needs one for each.

    >>> model = LmfitModel("a * exp(-x / tau)", "none", {"a": 1, "tau": 1})
    >>> x = numpy.linspace(0, 5, 20)
    >>> [round(value, 6) for value in model.solve(x, 3 * numpy.exp(-x / 2))[1]]
    [3.0, 2.0]
    """

    def __init__(self, model: str, background: str, start: Mapping[str, float] | None = None) -> None:
        self._make = _maker(model)
        self.is_peak = {"amplitude", "center", "sigma"} <= set(self._make().make_params())
        self._background = ("constant" if self.is_peak else "none") if background == "auto" else background
        self._start = dict(start or {})
        parameters = self._composed().make_params()
        self.names = tuple(name for name in parameters if name not in self._fixed())
        self._free = tuple(name for name in self.names if not parameters[name].expr)
        self._check_start(model)

    def _composed(self) -> Any:
        """Return a model of its own for each fit: that of an expression is changed by fitting it."""
        from lmfit.models import LinearModel

        return self._make() if self._background == "none" else self._make() + LinearModel()

    def _fixed(self) -> tuple[str, ...]:
        return ("slope",) if self._background == "constant" else ()

    def _check_start(self, model: str) -> None:
        for name in self._start:
            if name not in self._free:
                raise PipelineValueError(f"Fit of {model!r} starts from {name!r}; wanted some of {list(self._free)}.")
        missing = [name for name in self._free if name not in self._start]
        if missing and not _has_guess(self._make()):
            raise PipelineValueError(f"lmfit has no guess for {model!r}; wanted where to start from, of {missing}.")

    def units(self, x: str | None, y: str | None) -> dict[str, str | None]:
        """Return the units of each parameter, of those whose meaning is known."""
        known = {"center": x, "fwhm": x, "height": y} if self.is_peak else {}
        known |= {"intercept": y} if self._background != "none" else {}
        return {name: known.get(name) for name in self.names}

    def solve(self, x: Array, y: Array, warm: Sequence[float] | None = None) -> Solution:
        """Return the fit to points in order of x, from the free parameters of an earlier fit if there are any."""
        if len(x) <= len(self._free):
            return self._none()
        with numpy.errstate(all="ignore"):  # far from a fit, and of numbers too large, there is infinity: no fit
            line = line_squares(x, y)
            return self._solve(x, y, warm, line) if line < math.inf else self._none()

    def _none(self) -> Solution:
        nothing = (NAN,) * len(self.names)
        return (), nothing, nothing, NAN, False

    def _solve(self, x: Array, y: Array, warm: Sequence[float] | None, line: float) -> Solution:
        n_rest = len(x) - len(self._free)
        problem = _Problem(self._composed(), self._parameters(x, y, warm), self._free, x, y)
        found, squares, covariance, is_reached = least_squares(problem, problem.start(), dot(y, y))
        free, values, slopes = problem.outcome(found, self.names)
        errors = errors_of(covariance, slopes, squares / n_rest)
        if not math.isfinite(squares) or not numpy.isfinite(values).all():
            return self._none()
        good = is_reached and bool(numpy.isfinite(errors).all())
        good = good and (not self.is_peak or self._stands_out(x, values, errors, squares / line, n_rest))
        return free, tuple(values.tolist()), tuple(errors.tolist()), squares / n_rest, good

    def _stands_out(self, x: Array, values: Array, errors: Array, ratio: float, n_rest: int) -> bool:
        """Tell a peak from noise, as the built-in models do."""
        named, error = dict(zip(self.names, values, strict=True)), dict(zip(self.names, errors, strict=True))
        width = named.get("fwhm", 2 * named["sigma"])
        is_within = x[0] <= named["center"] - width / 2 and named["center"] + width / 2 <= x[-1]
        is_known = max(error["center"], error.get("fwhm", 2 * error["sigma"])) < width
        return bool(is_within and is_known) and is_beyond_chance(ratio, len(self._free) - 2, n_rest)

    def _parameters(self, x: Array, y: Array, warm: Sequence[float] | None) -> Any:
        parameters = self._composed().make_params()
        if any(name not in self._start for name in self._free):
            level = float(numpy.median(y)) if self._background != "none" else 0.0
            parameters.update(self._make().guess(y - level, x=x))
            if self._background != "none":
                parameters["intercept"].set(value=level)
                parameters["slope"].set(value=0.0)
        for name in self._fixed():
            parameters[name].set(value=0.0, vary=False)
        for name, value in {**self._start, **dict(zip(self._free, warm or (), strict=False))}.items():
            parameters[name].set(value=value)
        return parameters


class _Problem:
    """Residuals of a model of lmfit, and their derivatives, by parameters that lmfit keeps within their bounds."""

    def __init__(self, model: Any, parameters: Any, free: Sequence[str], x: Array, y: Array) -> None:
        self._model, self._parameters, self._x, self._y = model, parameters, x, y
        self._free = [parameters[name] for name in free]

    def start(self) -> list[float]:
        """Return where the parameters are, as lmfit has them inside."""
        return [float(each.setup_bounds()) for each in self._free]

    def __call__(self, inside: Array) -> tuple[Array, Array]:
        self._set(inside)
        return self._curve() - self._y, self._slopes(inside, self._curve)

    def _set(self, inside: Array) -> None:
        for each, value in zip(self._free, inside, strict=True):
            each.value = each.from_internal(value)

    def _curve(self) -> Array:
        return self._model.eval(self._parameters, x=self._x)

    def _slopes(self, inside: Array, function: Callable[[], Array]) -> Array:
        """Return the derivatives by the parameters inside, by central differences; what depends on them follows."""
        return numpy.array(
            [self._slope(each, function) * each.scale_gradient(i) for each, i in zip(self._free, inside, strict=True)]
        )

    def _slope(self, parameter: Any, function: Callable[[], Array]) -> Array:
        value = parameter.value
        step = _STEP * max(abs(value), _SMALL)
        parameter.value = above = value + step
        high = function()
        parameter.value = below = value - step
        low = function()
        parameter.value = value
        return (high - low) / (above - below)

    def outcome(self, inside: Array, names: Sequence[str]) -> tuple[tuple[float, ...], Array, Array]:
        """Return the free parameters, all that is reported, and its derivatives by the parameters inside."""

        def reported() -> Array:
            return numpy.array([self._parameters[name].value for name in names], float)

        self._set(inside)
        return tuple(float(each.value) for each in self._free), reported(), self._slopes(inside, reported).T


def _maker(model: str) -> Any:
    """Return what makes the model: a class of lmfit, or one of an expression."""
    try:
        from lmfit import models
    except ImportError:
        raise PipelineImportError(
            f"Fit of {model!r} needs lmfit; wanted `pip install bluesky-pipeline[fit]`."
        ) from None
    if not model.isidentifier():
        _check_expression(model)
        return lambda: models.ExpressionModel(model)
    known = {_short(name): name for name in vars(models) if name.endswith("Model") and name not in _OTHERS}
    if _short(model) not in known:
        raise PipelineValueError(f"Fit has no model {model!r}{near(_short(model), known)}")
    return getattr(models, known[_short(model)])


_OTHERS = {"Model", "ExpressionModel", "SplineModel", "PolynomialModel", "Gaussian2dModel", "ComplexConstantModel"}


def _short(name: str) -> str:
    return name.removesuffix("Model").replace("_", "").lower()


def _has_guess(model: Any) -> bool:
    from lmfit import Model
    from lmfit.models import ExpressionModel

    return type(model).guess is not Model.guess and not isinstance(model, ExpressionModel)


def _check_expression(text: str) -> None:
    """Refuse what is not arithmetic: no attributes, no items, no calls but of functions of numbers."""
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        raise PipelineValueError(f"Fit of {text!r}: wanted an expression in x, there is {error.msg}.") from None
    for node in ast.walk(tree):
        is_call = isinstance(node, ast.Call)
        if is_call and not (isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and not node.keywords):
            raise PipelineValueError(
                f"Fit of {text!r} calls {ast.unparse(node.func)!r}; wanted one of {sorted(_FUNCTIONS)}."
            )
        if not isinstance(node, _NODES) or (isinstance(node, ast.Constant) and type(node.value) not in (int, float)):
            raise PipelineValueError(f"Fit of {text!r}: wanted arithmetic, there is {ast.unparse(node)!r}.")

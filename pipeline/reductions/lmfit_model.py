"""A model of lmfit, or an expression, fitted to points."""

import ast
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from pipeline.errors import PipelineImportError, PipelineValueError, near
from pipeline.reductions.fit_model import NAN, Array, Solution, is_beyond_chance, line_squares

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
        self._model = self._composed()
        parameters = self._model.make_params()
        self.names = tuple(name for name in parameters if name not in self._fixed())
        self._free = tuple(name for name in self.names if not parameters[name].expr)
        self._check_start(model)

    def _composed(self) -> Any:
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
        nothing = (NAN,) * len(self.names)
        if len(x) <= len(self._free) or x[0] == x[-1]:
            return (), nothing, nothing, NAN, False
        parameters = self._parameters(x, y, warm)
        try:
            with numpy.errstate(all="ignore"):
                fit = self._model.fit(y, parameters, x=x, fit_kws={"ftol": 1e-12, "xtol": 1e-12})
        except ValueError:  # where the curve is not finite
            return (), nothing, nothing, NAN, False
        return self._solution(x, y, fit)

    def _solution(self, x: Array, y: Array, fit: Any) -> Solution:
        values = tuple(_finite(fit.params[name].value) for name in self.names)
        errors = tuple(_finite(fit.params[name].stderr) for name in self.names)
        free = tuple(float(fit.params[name].value) for name in self._free)
        is_known = all(map(math.isfinite, (*values, *errors, fit.redchi)))
        good = bool(fit.success) and is_known and (not self.is_peak or self._stands_out(x, y, values, fit))
        return free, values, errors, _finite(fit.redchi), good

    def _stands_out(self, x: Array, y: Array, values: Sequence[float], fit: Any) -> bool:
        named = dict(zip(self.names, values, strict=True))
        half = named.get("fwhm", 2 * named["sigma"]) / 2
        is_within = x[0] <= named["center"] - half and named["center"] + half <= x[-1]
        ratio = fit.chisqr / line_squares(x, y)
        return is_within and is_beyond_chance(ratio, len(self._free) - 2, len(x) - len(self._free))

    def _parameters(self, x: Array, y: Array, warm: Sequence[float] | None) -> Any:
        parameters = self._model.make_params()
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


def _finite(value: Any) -> float:
    return float(value) if value is not None and math.isfinite(value) else NAN

"""A curve fitted to points in any order."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from pipeline.errors import PipelineValueError
from pipeline.reductions.fit_model import NAN, SHAPES, FitModel, Solution
from pipeline.reductions.lmfit_model import LmfitModel
from pipeline.reductions.points import Points, float_columns
from pipeline.reductions.reduction import Data, Reduction, Result, units_of, with_units


class Fit(Reduction):
    """A model fitted to `y` over `x` by least squares, each point with the same weight.

    A fit is of all points there are when it is asked for, and is then kept until there are more; whoever asks last
    gets the fit of all, so there is no last time to know of. How often it is asked is the node's affair: with
    `Node(..., every=0)` once, at the end. It keeps x and y of every event, 16 bytes each.

    Parameters
    ----------
    x, y
        The fields to read, scalars: usually a motor and a detector. Points may come in any order.
    model
        `"gaussian"`, `"lorentzian"`, `"pseudo_voigt"`, `"step"` (an error function) or `"linear"`; by the extra `fit`
        also a model of lmfit by name (`"skewed_gaussian"`), or an expression in x (`"b1 * (1 - exp(-b2 * x))"`). Peaks
        may be dips. Parameters are those that lmfit has by these names: `amplitude` is the area of a peak, and the
        height of a step.
    background
        `"none"`, `"constant"` or `"linear"`, under the model; `"auto"`: constant for peaks and steps, else none.
    start
        Where parameters begin, by name. The others begin where the points suggest; those of an expression, and of a
        model for which lmfit has no guess, must all be given.
    every
        0: each fit begins anew, and depends on the points alone, not on their order. n: there is a fit after every
        nth point, and those up to the next begin where it ended, which is faster.
    name
        What stands in the results' names; for two fits of one field.

    Results
    -------
    `{y}_{name}_{parameter}`, `..._stderr`: float64, each parameter and its standard error, scaled so that chi-square is
    that of a good fit, as lmfit does; with `fwhm` and `height` of a peak, and `slope` and `intercept` of a background.
    `{y}_{name}_redchi`: the sum of squares by the degrees of freedom.
    `{y}_{name}_n`, `_n_nan`: int64, how many points were taken, and left out since x or y was not finite.
    `{y}_{name}_success`: whether it is one. A peak or a step must have both flanks within the points, a center and a
    width that are known better than the width, and be better than a straight line by more than noise is (F test; of
    54,000 simulated scans of noise, of 6 to 100 points, 7 were taken for a peak). Any other model must have converged,
    with all its standard errors. NaN where there is no fit, as where there are no more points than parameters.

    These names, and not `{y}_redchi` and `{y}_success`, so that a fit can stand beside other results of the field.

    References
    ----------
    K. Madsen, H. B. Nielsen, O. Tingleff, Methods for Non-Linear Least Squares Problems, 2nd ed., DTU (2004);
    M. Newville et al., lmfit (names and definitions of the models).

    >>> fit = Fit("motor", "det")
    >>> for i in range(41): fit.update({"motor": i / 4, "det": 5 * numpy.exp(-((i / 4 - 4) ** 2) / 2) + 7})
    >>> result = fit.result()
    >>> round(result["det_fit_center"], 6), round(result["det_fit_fwhm"], 6), result["det_fit_success"]
    (4.0, 2.35482, True)
    """

    constants = ("_model", "_solved")

    def __init__(
        self,
        x: str,
        y: str,
        model: str = "gaussian",
        background: str = "auto",
        start: Mapping[str, float] | None = None,
        every: int = 0,
        name: str = "fit",
    ) -> None:
        if not isinstance(every, int) or every < 0:
            raise PipelineValueError(f"Fit: every is {every!r}; wanted a number of points, or 0.")
        self.x, self.y = x, y
        self.fields = (x, y)
        self.every, self.key = every, name
        self._model = model_of(model, background, start)
        self._points = Points()
        self._followed: Solution | None = None  # the fit after the last nth point
        self._n_followed = 0
        self._solved: tuple[int, Solution] | None = None  # what was asked for last: of how many points, and what

    @property
    def mergeable(self) -> str:  # type: ignore[override]  # it depends on an argument
        """`"exact"`; `"rounding"` where fits begin at earlier ones."""
        return "rounding" if self.every else "exact"

    def update(self, data: Data) -> None:
        """Take in one point."""
        self._points.add(data[self.x], data[self.y])
        if self.every:
            self._follow()

    def update_page(self, columns: Mapping[str, Sequence[Any]]) -> int:
        """Take in columns of x and y."""
        pair = float_columns(columns[self.x], columns[self.y])
        if pair is None:
            return super().update_page({field: columns[field] for field in self.fields})
        finite = numpy.isfinite(pair[0]) & numpy.isfinite(pair[1])
        x, y = pair[0][finite], pair[1][finite]
        self._points.n_nan += len(finite) - len(x)
        while len(x):
            room = self.every - len(self._points) % self.every if self.every else len(x)
            self._points.add_finite(x[:room], y[:room])
            x, y = x[room:], y[room:]
            self._follow()
        return 0

    def _follow(self) -> None:
        """Fit after every nth point."""
        n = len(self._points)
        if self.every and n > self._n_followed and n % self.every == 0:
            self._followed, self._n_followed = self._solve(), n

    def _solve(self) -> Solution:
        """Return the fit of all points: it begins at the last one that was followed, if that was one."""
        n, followed = len(self._points), self._followed
        if followed and self._n_followed == n:
            return followed
        if self._solved is None or self._solved[0] != n:
            warm = followed[0] if followed and followed[4] else None
            self._solved = n, self._model.solve(*self._points.ordered(), warm)
        return self._solved[1]

    def merge(self, other: "Fit") -> None:
        """Take in the points of the other."""
        self._points.merge(other._points)
        self._followed, self._n_followed, self._solved = None, 0, None

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        super().restore(state)
        self._solved = None

    def result(self) -> Result | None:
        """Return the fit of all points so far; `None` before the first event."""
        points, stem = self._points, f"{self.y}_{self.key}"
        if not len(points) and not points.n_nan:
            return None
        _, values, errors, redchi, success = self._solve() if len(points) else _NOTHING
        result: Result = {}
        for i, name in enumerate(self._model.names):
            result[f"{stem}_{name}"] = values[i] if values else NAN
            result[f"{stem}_{name}_stderr"] = errors[i] if errors else NAN
        counts = {f"{stem}_n": len(points), f"{stem}_n_nan": points.n_nan}
        return {**result, f"{stem}_redchi": redchi, **counts, f"{stem}_success": success}

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: those of x and y, and products of them."""
        x, y = units_of(data_keys, self.x), units_of(data_keys, self.y)
        stem, units = f"{self.y}_{self.key}", self._model.units(x, y)
        each = {f"{stem}_{name}{end}": unit for name, unit in units.items() for end in ("", "_stderr")}
        return with_units({**each, f"{stem}_redchi": f"({y})**2" if y else None})


_NOTHING: Solution = (), (), (), NAN, False


def model_of(model: str, background: str, start: Mapping[str, float] | None) -> FitModel | LmfitModel:
    """Return a model by its name; see `Fit`.

    Raises
    ------
    PipelineValueError
        If there is no such model or background, or it has no parameter to start from.
    """
    if background not in ("auto", "none", "constant", "linear"):
        raise PipelineValueError(f"Fit: background is {background!r}; wanted 'auto', 'none', 'constant' or 'linear'.")
    if model not in SHAPES:
        return LmfitModel(model, background, start)
    if model == "linear":
        return FitModel(model, "linear", start)
    return FitModel(model, "constant" if background == "auto" else background, start)

"""Edges of bins: along one axis, and over a grid."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy

from pipeline.errors import PipelineValueError

Array = numpy.ndarray


class Edges:
    """The edges of bins that touch: each bin has its left edge and not its right one, the last has both.

    That is numpy's rule, and the bin of a number is the one that `numpy.histogram` gives it, bit for bit.

    Parameters
    ----------
    spec
        `{"start", "stop", "n"}`: n bins of one width; `{"start", "stop", "step"}`: bins of this width, which must
        come out even; a list of numbers: the edges themselves; a list of dicts: regions that are joined, each
        beginning where the one before it stops.
    what
        Of whom errors speak.

    >>> Edges([{"start": 0, "stop": 1, "n": 2}, {"start": 1, "stop": 4, "step": 1.5}]).values
    array([0. , 0.5, 1. , 2.5, 4. ])
    >>> edges = Edges([0.0, 1.0, 10.0])
    >>> [edges.place(x) for x in (-1.0, 0.0, 1.0, 10.0, 11.0)]
    [-1, 0, 1, 1, 2]
    """

    def __init__(self, spec: Any, what: str = "edges") -> None:
        self.values = _edges(spec, what)
        self.n = len(self.values) - 1
        self._list = self.values.tolist()

    def __deepcopy__(self, memo: Any) -> "Edges":
        return self  # it never changes

    @property
    def centers(self) -> Array:
        """The middles of the bins."""
        return self.values[:-1] + numpy.diff(self.values) / 2

    def place(self, x: float) -> int:
        """Return the bin of a finite number: -1 if it is below all, n if above."""
        return self.n - 1 if x == self._list[-1] else bisect_right(self._list, x) - 1

    def places(self, x: Array) -> Array:
        """Return the bins of finite numbers."""
        places = self.values.searchsorted(x, "right") - 1
        places[x == self._list[-1]] = self.n - 1
        return places


def _edges(spec: Any, what: str) -> Array:
    if isinstance(spec, Mapping):
        return _regular(spec, what)
    if isinstance(spec, str) or not isinstance(spec, Sequence | numpy.ndarray):
        raise PipelineValueError(f"{what}: wanted edges, or start, stop and n or step; there is {spec!r}.")
    if len(spec) and isinstance(spec[0], Mapping):
        return _joined([_edges(part, f"{what}[{i}]") for i, part in enumerate(spec)], what)
    return _rising(spec, what)


def _rising(spec: Any, what: str) -> Array:
    try:
        values = numpy.array(spec, float)
    except (TypeError, ValueError, OverflowError):
        raise PipelineValueError(f"{what}: wanted numbers, there is {spec!r}.") from None
    steps = numpy.diff(values) if values.ndim == 1 else values
    if values.ndim != 1 or len(values) < 2 or not numpy.isfinite(values).all() or not (steps > 0).all():
        raise PipelineValueError(f"{what}: wanted at least two finite numbers that rise, there is {spec!r}.")
    return values


def _regular(spec: Mapping[str, Any], what: str) -> Array:
    names = set(spec)
    if names not in ({"start", "stop", "n"}, {"start", "stop", "step"}):
        raise PipelineValueError(f"{what}: wanted start, stop and n or step; there is {sorted(names)}.")
    start, stop = _rising([spec["start"], spec["stop"]], what).tolist()
    n = spec["n"] if "n" in spec else _n_steps(start, stop, spec["step"], what)
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise PipelineValueError(f"{what}: n is {n!r}; wanted how many bins there are.")
    return _rising(numpy.linspace(start, stop, n + 1), what)


def _n_steps(start: float, stop: float, step: Any, what: str) -> int:
    if not isinstance(step, int | float) or not step > 0:
        raise PipelineValueError(f"{what}: step is {step!r}; wanted the width of a bin.")
    n = (stop - start) / step
    if not math.isfinite(n) or round(n) < 1 or abs(n - round(n)) > 1e-6:
        raise PipelineValueError(
            f"{what}: from {start:g} to {stop:g} there are {n:g} steps of {step:g}; wanted whole ones."
        )
    return round(n)


def _joined(regions: list[Array], what: str) -> Array:
    for i, (before, after) in enumerate(pairwise(regions)):
        if before[-1] != after[0]:
            raise PipelineValueError(
                f"{what}[{i + 1}] starts at {after[0]:g}; wanted {before[-1]:g}, where the region before it stops."
            )
    return numpy.concatenate([regions[0], *(region[1:] for region in regions[1:])])

"""One region of an array: which elements it has, and their numbers."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy

from pipeline.errors import PipelineValueError
from pipeline.reductions.sums import total
from pipeline.reductions.values import NAN

Array = numpy.ndarray


class Values:
    """The finite elements of a region, and where each is along each axis.

    >>> values = Values(numpy.array([[1.0, numpy.nan], [2.0, 1.0]]), (numpy.arange(2)[:, None], numpy.arange(2)))
    >>> values.n, values.sum(0.0), values.center(0.0)
    (3, 4.0, [('com_y', 0.75), ('com_x', 0.25)])
    """

    def __init__(self, values: Array, places: tuple[Array, ...]) -> None:
        self._places = places
        self._is_known = None if values.dtype.kind != "f" else numpy.isfinite(values)
        if self._is_known is not None and self._is_known.all():
            self._is_known = None
        self._all = values if self._is_known is None else numpy.where(self._is_known, values, 0)
        self.n = values.size if self._is_known is None else int(numpy.count_nonzero(self._is_known))
        self._total = total(self._all) if self.n else NAN

    def sum(self, level: float) -> float:
        """Return the sum of what is over a level; NaN of nothing."""
        return _finite(self._total - level * self.n) if level else self._total

    def mean(self, level: float) -> float:
        """Return the mean of what is over a level; NaN of nothing."""
        return self._total / self.n - level if self.n else NAN

    def max(self, level: float) -> float:
        """Return the largest, over a level; NaN of nothing."""
        if not self.n:
            return NAN
        known = self._all if self._is_known is None else self._all[self._is_known]
        return float(known.max()) - level

    def center(self, level: float) -> list[tuple[str, float]]:
        """Return the centre of mass of what is over a level, along each axis; NaN where the sum is not positive."""
        names = ("com",) if len(self._places) == 1 else ("com_y", "com_x")
        weight = self.sum(level)
        if not weight > 0:
            return [(name, NAN) for name in names]
        moments = [self._moment(place, level) for place in self._places]
        return [(name, _finite(moment / weight)) for name, moment in zip(names, moments, strict=True)]

    def _moment(self, place: Array, level: float) -> float:
        height = self._all if not level else self._all - level
        if level and self._is_known is not None:
            height = numpy.where(self._is_known, height, 0)
        with numpy.errstate(over="ignore", invalid="ignore"):
            return float((height * place.astype(float)).sum())


def _finite(value: float) -> float:
    return value if math.isfinite(value) else NAN


class Region(Protocol):
    """Some elements of arrays."""

    n_axes: int

    def take(self, frame: Array) -> Values:
        """Return its elements."""
        ...

    def border(self, frame: Array) -> float:
        """Return the mean of the finite elements that surround it; NaN of none."""
        ...


class Box:
    """A range of a spectrum, or a rectangle of a frame: half-open, clipped at the edges.

    >>> Box.of("a", [1, 9], 1).take(numpy.arange(4)).sum(0.0), Box.of("a", [1, 3], 1).border(numpy.arange(4))
    (6.0, 1.5)
    """

    def __init__(self, bounds: Sequence[tuple[int, int]], width: int) -> None:
        self.n_axes = len(bounds)
        self._bounds, self._width = bounds, width

    @classmethod
    def of(cls, name: str, bounds: Any, width: int) -> "Box":
        """Return the box with these bounds, as they are written: `[start, stop]` or `[y0, y1, x0, x1]`."""
        are_whole = isinstance(bounds, list | tuple) and all(type(bound) is int for bound in bounds)
        pairs = list(zip(bounds[::2], bounds[1::2], strict=False)) if are_whole else []
        if not are_whole or len(bounds) not in (2, 4) or any(start > stop for start, stop in pairs):
            raise PipelineValueError(
                f"rois: {name!r} is {bounds!r}; wanted [start, stop] or [y0, y1, x0, x1], whole numbers, in order."
            )
        return cls(pairs, width)

    def take(self, frame: Array) -> Values:
        """Return its elements."""
        part = self._slices(frame, 0)
        places = [numpy.arange(each.start, each.stop) for each in part]
        return Values(frame[part], (places[0],) if self.n_axes == 1 else (places[0][:, None], places[1]))

    def border(self, frame: Array) -> float:
        """Return the mean of the finite elements that surround it; NaN of none."""
        outer, inner = self._slices(frame, self._width), self._slices(frame, 0)
        is_border = numpy.ones(frame[outer].shape, bool)
        offsets = [each.start for each in outer]
        is_border[tuple(slice(i.start - o, i.stop - o) for i, o in zip(inner, offsets, strict=True))] = False
        return Values(frame[outer][is_border], (numpy.zeros(1),)).mean(0.0)

    def _slices(self, frame: Array, width: int) -> tuple[slice, ...]:
        sizes = frame.shape
        clipped = [
            (min(max(start - width, 0), size), min(max(stop + width, 0), size))
            for (start, stop), size in zip(self._bounds, sizes, strict=True)
        ]
        return tuple(slice(start, stop) for start, stop in clipped)


class Labelled:
    """The elements with one label."""

    def __init__(self, labels: Array, label: int) -> None:
        self.n_axes = labels.ndim
        self._places = numpy.nonzero(labels == label)

    def take(self, frame: Array) -> Values:
        """Return its elements."""
        return Values(frame[self._places], self._places)

    def border(self, frame: Array) -> float:
        """Return NaN: what surrounds a label is not told."""
        return NAN

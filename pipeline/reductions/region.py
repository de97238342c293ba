"""One region of a spectrum or a frame: which elements it has, as runs along the rows."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy

from pipeline.errors import PipelineValueError

Array = numpy.ndarray


class Region(Protocol):
    """Some elements of frames, or of spectra: frames of one row."""

    n_axes: int

    def runs(self, shape: tuple[int, int]) -> Array:
        """Return its runs in a frame of this shape: rows of `y, x0, x1`, half-open."""
        ...

    def border(self, shape: tuple[int, int]) -> Array:
        """Return the runs of the elements that surround it."""
        ...


class Box:
    """A range of a spectrum, or a rectangle of a frame: half-open, clipped at the edges.

    >>> box = Box.of("a", [1, 9, 1, 3], 1)
    >>> box.runs((3, 4)).tolist(), box.border((3, 4)).tolist()
    ([[1, 1, 3], [2, 1, 3]], [[0, 0, 4], [1, 0, 1], [1, 3, 4], [2, 0, 1], [2, 3, 4]])
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

    def runs(self, shape: tuple[int, int]) -> Array:
        """Return its runs."""
        (y0, y1), (x0, x1) = self._clipped(shape, 0)
        return _array([(y, x0, x1) for y in range(y0, y1)])

    def border(self, shape: tuple[int, int]) -> Array:
        """Return the runs of the elements around it, `width` wide."""
        (y0, y1), (x0, x1) = self._clipped(shape, self._width)
        (y2, y3), (x2, x3) = self._clipped(shape, 0)
        rows = [((y, x0, x2), (y, x3, x1)) if y2 <= y < y3 else ((y, x0, x1),) for y in range(y0, y1)]
        return _array([run for row in rows for run in row if run[1] < run[2]])

    def _clipped(self, shape: tuple[int, int], width: int) -> list[tuple[int, int]]:
        bounds = [(start - width, stop + width) for start, stop in self._bounds]
        bounds = bounds if self.n_axes == 2 else [(0, 1), *bounds]
        return [
            (min(max(start, 0), size), min(max(stop, 0), size))
            for (start, stop), size in zip(bounds, shape, strict=True)
        ]


class Labelled:
    """The elements with one label of a label file, as the runs that it has there."""

    def __init__(self, runs: Array, n_axes: int) -> None:
        self.n_axes, self._runs = n_axes, runs

    def runs(self, shape: tuple[int, int]) -> Array:
        """Return its runs."""
        return self._runs

    def border(self, shape: tuple[int, int]) -> Array:
        """Return none: what surrounds a label is not told."""
        return _array([])


def _array(runs: list[tuple[int, int, int]]) -> Array:
    return numpy.array(runs, numpy.int64).reshape(-1, 3)

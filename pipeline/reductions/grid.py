"""A grid of cells over two axes, slow and fast."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy

from pipeline.errors import PipelineValueError
from pipeline.reductions.edges import Edges

Array = numpy.ndarray


class Grid:
    """A grid by the centers of its cells, as `bluesky.plans.grid_scan` says it in `shape` and `extents`.

    A cell reaches half a step around its center. Where an axis has one center only, no step is known, and every number
    belongs to it. Centers may fall, and then the cells are in that order.

    Parameters
    ----------
    shape
        How many cells there are along the rows' axis (slow), and along the columns' (fast).
    extents
        For either axis the first and the last center.

    >>> grid = Grid([2, 3], [[10, 20], [1, -1]])
    >>> grid.row_axis.centers, grid.column_axis.centers
    (array([10., 20.]), array([ 1.,  0., -1.]))
    >>> grid.cell(19.0, 1.2), grid.cell(26.0, 1.2)
    (3, -1)
    """

    def __init__(self, shape: Any, extents: Any) -> None:
        self.shape = _shape(shape)
        rows, columns = (numpy.linspace(*pair, n) for pair, n in zip(_pairs(extents), self.shape, strict=True))
        self.row_axis, self.column_axis = Axis(rows), Axis(columns)

    def __deepcopy__(self, memo: Any) -> "Grid":
        return self  # it never changes

    @property
    def size(self) -> int:
        """How many cells there are."""
        return self.shape[0] * self.shape[1]

    def cell(self, row: float, column: float) -> int:
        """Return the cell at this place, counted row by row; -1 if it is outside."""
        i, j = self.row_axis.place(row), self.column_axis.place(column)
        return i * self.shape[1] + j if i >= 0 <= j else -1

    def cells(self, rows: Array, columns: Array) -> Array:
        """Return the cells at these places; -1 for those outside."""
        i, j = self.row_axis.places(rows), self.column_axis.places(columns)
        return numpy.where((i >= 0) & (j >= 0), i * self.shape[1] + j, -1)


class Axis:
    """Cells along one axis, around their centers, which rise or fall.

    >>> axis = Axis(numpy.array([2.0, 1.0, 0.0]))
    >>> [axis.place(x) for x in (1.9, 0.4, -0.6)]
    [0, 2, -1]
    """

    def __init__(self, centers: Array) -> None:
        self.centers = centers
        self.edges = Edges(_edges(centers))
        self.falls = bool(centers[0] > centers[-1])

    def place(self, x: float) -> int:
        """Return the cell of a finite number; -1 if it is outside."""
        place = self.edges.place(x)
        if not 0 <= place < self.edges.n:
            return -1
        return self.edges.n - 1 - place if self.falls else place

    def places(self, x: Array) -> Array:
        """Return the cells of finite numbers; -1 for those outside."""
        places = self.edges.places(x)
        is_inside = (places >= 0) & (places < self.edges.n)
        return numpy.where(is_inside, self.edges.n - 1 - places if self.falls else places, -1)


def _edges(centers: Array) -> Any:
    if len(centers) == 1:
        return [-8e307, 8e307]  # about all numbers, and a width that is one
    first, last = sorted((float(centers[0]), float(centers[-1])))
    half = (last - first) / (len(centers) - 1) / 2
    if not half:
        raise PipelineValueError(f"extents: wanted {len(centers)} centers, all are {first:g}.")
    return {"start": first - half, "stop": last + half, "n": len(centers)}


def grid_of(start: Mapping[str, Any], y: str, x: str, shape: Any, extents: Any) -> Grid:
    """Return the grid that a start document tells, where shape and extents are not given.

    Raises
    ------
    PipelineValueError
        If it does not tell; it says what there is.

    >>> start = {"motors": ["y", "x"], "shape": [2, 3], "extents": [[0, 1], [0, 2]]}
    >>> grid_of(start, "y", "x", None, None).shape
    (2, 3)
    """
    names = [fields for fields, _ in start.get("hints", {}).get("dimensions", [])]
    names = names if _has(names, y, x) else [[motor] for motor in start.get("motors") or ()]
    if not _has(names, y, x):
        raise PipelineValueError(
            f"wanted a scan of {y!r} and {x!r}, there is one of {names}; shape and extents tell the grid."
        )
    order = [next(i for i, fields in enumerate(names) if field in fields) for field in (y, x)]
    return Grid(shape or _told(start, "shape", order), extents or _told(start, "extents", order))


def _has(names: Sequence[Sequence[str]], *fields: str) -> bool:
    return all(any(field in of for of in names) for field in fields)


def _told(start: Mapping[str, Any], what: str, order: Sequence[int]) -> list[Any]:
    values = start.get(what)
    if values is None or len(values) <= max(order):
        raise PipelineValueError(f"wanted {what}, but the start document has {values!r}; the argument {what} tells it.")
    return [values[i] for i in order]


def _shape(shape: Any) -> tuple[int, int]:
    if len(shape) != 2 or not all(type(n) is int and n > 0 for n in shape):
        raise PipelineValueError(f"shape: wanted the numbers of rows and of columns, there is {shape!r}.")
    return shape[0], shape[1]


def _pairs(extents: Any) -> list[tuple[float, float]]:
    try:
        (a, b), (c, d) = extents
        pairs = [(float(a), float(b)), (float(c), float(d))]
    except (TypeError, ValueError):
        pairs = []
    if not pairs or not all(isfinite(a) and isfinite(b) for a, b in pairs):
        raise PipelineValueError(f"extents: wanted first and last of rows and of columns, there is {extents!r}.")
    return pairs

"""Sums over regions of frames, in one pass over each: counts, totals, largest and first moments."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy

from pipeline.reductions.compiled import WORTH, compiled, unaltered
from pipeline.reductions.lanes import LANES, in_lanes

Array = numpy.ndarray

N, TOTAL, LARGEST, Y, X, _PLACE_Y, _PLACE_X, LEVEL = range(8)  # rows of sums

_LOW = 2**32 - 1


class RegionSums:
    """Sums over regions, one region a column: `n` elements, their `total`, the `largest`, and so on.

    Parameters
    ----------
    rows
        How many elements, their sum, the largest; the sums of y and x times them (`moments`), and of y and x
        (`places`); and what was taken from each element (`level`).
    """

    def __init__(self, rows: Array) -> None:
        self.rows = rows

    @property
    def n(self) -> Array:
        """How many elements there are."""
        return self.rows[N]

    @property
    def total(self) -> Array:
        """Their sum."""
        return self.rows[TOTAL]

    @property
    def largest(self) -> Array:
        """The largest; 0 where there is none."""
        return self.rows[LARGEST]

    @property
    def moments(self) -> Array:
        """The sums of y, and of x, times them."""
        return self.rows[Y : X + 1]

    @property
    def places(self) -> Array:
        """The sums of y and of x."""
        return self.rows[X + 1 : LEVEL]

    def part(self, begin: int, end: int) -> "RegionSums":
        """Return those of some of the regions."""
        return RegionSums(self.rows[:, begin:end])

    def less(self, level: Array) -> "RegionSums":
        """Return what they are once something is taken from each element of a region."""
        rows = [self.n, self.total - level * self.n, self.largest - level]
        return RegionSums(numpy.array([*rows, *(self.moments - level * self.places), *self.places, level]))


class Runs:
    """Regions of a frame as runs along its rows: an array of `y, x0, x1` (half-open) for each region.

    Elements that are not finite are left out. Integers are summed exactly and rounded once. Floats are summed in
    float64, row by row, in the order that `in_lanes` tells, so that every way of doing it gives the same bits.

    Attributes
    ----------
    are_large
        Whether they have so many elements that a kernel is worth it.

    >>> frame = numpy.arange(12.0).reshape(3, 4)
    >>> sums = Runs([numpy.array([[0, 1, 3], [1, 1, 3]]), numpy.array([[2, 0, 1]])]).sums(frame)
    >>> sums.n.tolist(), sums.total.tolist(), sums.largest.tolist()
    ([4.0, 1.0], [14.0, 8.0], [6.0, 8.0])
    >>> sums.moments.tolist(), sums.places.tolist()
    ([[11.0, 16.0], [22.0, 0.0]], [[2.0, 2.0], [6.0, 0.0]])
    """

    def __init__(self, regions: Sequence[Array]) -> None:
        runs = [_without_empty(each) for each in regions]
        self._starts = numpy.cumsum([0, *map(len, runs)])
        self._runs = numpy.concatenate([numpy.zeros((0, 3), numpy.int64), *runs])
        self._rows = numpy.zeros((8, len(runs)))
        self._rows[[N, _PLACE_Y, _PLACE_X]] = numpy.array([_counts(each) for each in runs]).reshape(-1, 3).T
        self.are_large = bool(self._rows[N].sum() >= WORTH)

    @cached_property
    def _blocks(self) -> list["_Block"]:
        return [_Block(self._runs[i:j]) for i, j in zip(self._starts[:-1], self._starts[1:], strict=True)]

    def sums(self, frame: Array) -> RegionSums:
        """Return the sums over a frame of two axes."""
        return self._of_floats(frame) if frame.dtype.kind == "f" else self._of_integers(frame)

    def _of_integers(self, frame: Array) -> RegionSums:
        view = self._for_kernel(frame)
        rows = self._rows.copy()
        if view is not None and view.itemsize < 8 and (kernel := self._integers_kernel) is not None:
            kernel(view, self._starts, self._runs, rows)
        else:
            for i, block in enumerate(self._blocks):
                rows[TOTAL : X + 1, i] = _integers_of(block, frame)
        return RegionSums(rows)

    def _of_floats(self, frame: Array) -> RegionSums:
        view = self._for_kernel(frame)
        rows = numpy.zeros(self._rows.shape)
        with numpy.errstate(over="ignore", invalid="ignore"):
            if view is not None and (kernel := self._floats_kernel) is not None:
                kernel(view, self._starts, self._runs, rows)
            else:
                for i, block in enumerate(self._blocks):
                    rows[:LEVEL, i] = _floats_of(block, frame)
        return RegionSums(rows)

    def _for_kernel(self, frame: Array) -> Array | None:
        """Return a frame that a kernel is worth it for, and reads as it is: none is copied for a few regions."""
        return unaltered(frame) if self.are_large else None

    @cached_property
    def _integers_kernel(self) -> Callable[..., Any] | None:
        return compiled(_integers_loop)

    @cached_property
    def _floats_kernel(self) -> Callable[..., Any] | None:
        return compiled(_floats_loop)


def runs_of_labels(labels: Array) -> list[Array]:
    """Return the runs of each label over 0, in the order of the labels.

    >>> [runs.tolist() for runs in runs_of_labels(numpy.array([[0, 2, 2], [1, 1, 2]]))]
    [[[1, 0, 2]], [[0, 1, 3], [1, 2, 3]]]
    """
    flat = labels.reshape(-1)
    is_first = numpy.ones(len(flat), bool)
    is_first[1:] = flat[1:] != flat[:-1]
    is_first[:: labels.shape[1]] = True
    begins = numpy.flatnonzero(is_first)
    ends = numpy.append(begins[1:], len(flat))
    kinds, ys, xs = flat[begins], begins // labels.shape[1], begins % labels.shape[1]
    runs = numpy.array([ys, xs, xs + ends - begins]).T
    return [runs[kinds == kind] for kind in numpy.unique(kinds[kinds > 0])]


def _without_empty(runs: Array) -> Array:
    return runs[runs[:, 2] > runs[:, 1]].astype(numpy.int64)


def _counts(runs: Array) -> tuple[int, int, int]:
    """Return how many elements there are, and the sums of their y and x."""
    y, begin, end = runs.T
    n = end - begin
    return int(n.sum()), int((y * n).sum()), int(((begin + end - 1) * n).sum()) // 2


# kernels: for each region, over its runs


def _integers_loop(frame: Array, starts: Array, runs: Array, rows: Array) -> None:
    """Find the total, the largest, and the moments along y and x, summed in two parts: 32 bits, and those above."""
    for region in range(len(starts) - 1):
        total, y_high, y_low, x_high, x_low = 0, 0, 0, 0, 0
        largest = numpy.iinfo(numpy.int64).min
        for i in range(starts[region], starts[region + 1]):
            y, begin, end = runs[i, 0], runs[i, 1], runs[i, 2]
            row = frame[y, begin:end]
            line, across, top = 0, 0, row[0]
            for x in range(row.size):
                line += row[x]
                across += numpy.int64(numpy.int32(x)) * numpy.int64(row[x])
            for x in range(row.size):  # a loop of its own, which the compiler makes wider
                top = max(top, row[x])
            total += line
            largest = max(largest, numpy.int64(top))
            along, across = y * line, begin * line + across
            y_high, y_low = y_high + (along >> 32), y_low + (along & _LOW)
            x_high, x_low = x_high + (across >> 32), x_low + (across & _LOW)
        rows[TOTAL, region], rows[LARGEST, region] = total, largest if starts[region + 1] > starts[region] else 0
        rows[Y, region] = float(y_high) * 2.0**32 + float(y_low)
        rows[X, region] = float(x_high) * 2.0**32 + float(x_low)


def _floats_loop(frame: Array, starts: Array, runs: Array, rows: Array) -> None:
    """Count, and sum y and x, of the finite elements; find their total, the largest, and the moments along y and x."""
    lanes = numpy.empty((3, LANES))
    for region in range(len(starts) - 1):
        k, n, ys, xs, largest = 0, 0, 0, 0, -numpy.inf
        lanes[:] = 0.0
        for i in range(starts[region], starts[region + 1]):
            y, begin, end = runs[i, 0], runs[i, 1], runs[i, 2]
            for x in range(begin, end):
                value = float(frame[y, x])
                if numpy.isfinite(value):
                    n, ys, xs = n + 1, ys + y, xs + x
                    largest = max(largest, value)
                    lanes[0, k] += value
                    lanes[1, k] += value * float(y)
                    lanes[2, k] += value * float(x)
                k = (k + 1) % LANES
        half = LANES // 2
        while half:
            for lane in range(half):
                for j in range(3):
                    lanes[j, lane] += lanes[j, half + lane]
            half //= 2
        rows[N, region], rows[_PLACE_Y, region], rows[_PLACE_X, region] = n, ys, xs
        if n:
            rows[TOTAL, region], rows[LARGEST, region] = lanes[0, 0], largest + 0.0  # which is no -0.0
            rows[Y, region], rows[X, region] = lanes[1, 0], lanes[2, 0]


# twins: for each region, over its elements as an array


class _Block:
    """The elements of a region, and where they are: of a box an array of two axes, else of one."""

    def __init__(self, runs: Array) -> None:
        y, begin, end = runs.T
        n = end - begin
        self._is_box = len(runs) > 0 and bool((numpy.ptp(runs[:, 1:], 0) == 0).all() and (numpy.diff(y) == 1).all())
        if self._is_box:
            self.y, self.x = y[:, None], numpy.arange(begin[0], end[0])[None]
        else:
            self.y = numpy.repeat(y, n)
            self.x = numpy.arange(n.sum()) + numpy.repeat(begin - numpy.cumsum(n) + n, n)

    def take(self, frame: Array) -> Array:
        """Return the elements."""
        if self._is_box:
            return frame[self.y[0, 0] : self.y[-1, 0] + 1, self.x[0, 0] : self.x[0, -1] + 1]
        return frame[self.y, self.x]


def _integers_of(block: _Block, frame: Array) -> tuple[float, ...]:
    values = block.take(frame)
    if not values.size:
        return (0.0,) * 4
    if frame.itemsize < 8:
        total, y, x = _exact_sums(block, values.astype(numpy.int64))
    else:
        parts = [_exact_sums(block, each.astype(numpy.int64)) for each in (values >> 32, values & _LOW)]
        total, y, x = ((high << 32) + low for high, low in zip(*parts, strict=True))
    return float(total), float(values.max()), float(y), float(x)


def _exact_sums(block: _Block, values: Array) -> tuple[int, int, int]:
    """Return the total and the moments of integers of up to 33 bits."""
    if values.ndim == 1:
        return _exact_sum(values), _exact_sum(values * block.y), _exact_sum(values * block.x)
    lines, columns = values.sum(1), values.sum(0)
    return int(lines.sum()), _exact_sum(lines * block.y[:, 0]), _exact_sum(columns * block.x[0])


def _exact_sum(values: Array) -> int:
    return (int((values >> 32).sum()) << 32) + int((values & _LOW).sum())


def _floats_of(block: _Block, frame: Array) -> tuple[float, ...]:
    values = block.take(frame).astype(float)
    is_known = numpy.isfinite(values)
    n = int(numpy.count_nonzero(is_known))
    if not n:
        return (0.0,) * 7
    known = numpy.where(is_known, values, 0.0)
    largest = float(values.max(where=is_known, initial=-numpy.inf)) + 0.0  # which is no -0.0
    sums = in_lanes(known), largest, in_lanes(known * block.y), in_lanes(known * block.x)
    return n, *sums, int((is_known * block.y).sum()), int((is_known * block.x).sum())

"""Sums of squares of what is steep in a frame, by numba where it is there; the numbers are the same without.

Integers of up to 16 bits are worked with in int64, exactly; all else in float64, and in one order: over 16 rows down
each column, these sums down the frame, and then along the columns.
"""

from collections.abc import Callable

import numpy

from pipeline.reductions.compiled import WORTH, compiled, readable

Array = numpy.ndarray

_ROWS = 16


def laplacian(frame: Array) -> tuple[float, int]:
    """Return the sum of the squares of the Laplacian (of 4 neighbours), and of how many pixels that are not at an edge.

    >>> laplacian(numpy.array([[0, 0, 0], [0, 3, 1], [0, 0, 0]]))
    (121.0, 1)
    """
    return _sum(frame, _laplacian_loop, _laplacian)


def sobel(frame: Array) -> tuple[float, int]:
    """Return the sum of the squares of Sobel's two gradients, and of how many pixels that are not at an edge.

    >>> sobel(numpy.array([[0, 0, 1], [0, 0, 1], [0, 0, 1]], "u1"))
    (16.0, 1)
    """
    return _sum(frame, _sobel_loop, _sobel)


def _sum(frame: Array, loop: Callable[..., int], squares: Callable[[Array], Array]) -> tuple[float, int]:
    height, width = frame.shape
    if height < 3 or width < 3:
        return 0.0, 0
    is_exact = frame.dtype.kind != "f" and frame.dtype.itemsize <= 2
    columns: Array = numpy.zeros(width - 2, numpy.int64 if is_exact else float)
    kernel = compiled(loop) if frame.size >= WORTH else None
    with numpy.errstate(over="ignore", invalid="ignore"):
        n = kernel(readable(frame), columns) if kernel else _by_chunks(frame, columns, squares)
        return float(columns.sum()), int(n)


def _laplacian_loop(frame, columns):
    height, width = frame.shape
    part, zero, n = numpy.zeros_like(columns), columns[0], 0
    for start in range(1, height - 1, _ROWS):
        part[:] = 0
        for y in range(start, min(start + _ROWS, height - 1)):
            for x in range(1, width - 1):
                value = zero + frame[y - 1, x] + frame[y + 1, x] + frame[y, x - 1] + frame[y, x + 1]
                value = value - 4 * (zero + frame[y, x])
                square = value * value
                is_known = square - square == 0
                part[x - 1] += square if is_known else zero
                n += is_known
        for x in range(columns.size):
            columns[x] += part[x]
    return n


def _laplacian(wide: Array) -> Array:
    value = wide[:-2, 1:-1] + wide[2:, 1:-1]
    value += wide[1:-1, :-2]
    value += wide[1:-1, 2:]
    value -= 4 * wide[1:-1, 1:-1]
    value *= value
    return value


def _sobel_loop(frame, columns):
    height, width = frame.shape
    part, zero, n = numpy.zeros_like(columns), columns[0], 0
    for start in range(1, height - 1, _ROWS):
        part[:] = 0
        for y in range(start, min(start + _ROWS, height - 1)):
            for x in range(1, width - 1):
                a, b, c = zero + frame[y - 1, x - 1], zero + frame[y - 1, x], zero + frame[y - 1, x + 1]
                d, f = zero + frame[y, x - 1], zero + frame[y, x + 1]
                g, h, i = zero + frame[y + 1, x - 1], zero + frame[y + 1, x], zero + frame[y + 1, x + 1]
                along, down = (c + 2 * f + i) - (a + 2 * d + g), (g + 2 * h + i) - (a + 2 * b + c)
                square = along * along + down * down
                is_known = square - square == 0
                part[x - 1] += square if is_known else zero
                n += is_known
        for x in range(columns.size):
            columns[x] += part[x]
    return n


def _sobel(wide: Array) -> Array:
    by_row, by_column = wide[:-2] + 2 * wide[1:-1] + wide[2:], wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    along, down = by_row[:, 2:] - by_row[:, :-2], by_column[2:] - by_column[:-2]
    along *= along
    down *= down
    along += down
    return along


def _by_chunks(frame: Array, columns: Array, squares: Callable[[Array], Array]) -> int:
    n, last = 0, frame.shape[0] - 1
    for start in range(1, last, _ROWS):
        found = squares(frame[start - 1 : min(start + _ROWS, last) + 1].astype(columns.dtype))
        if columns.dtype.kind == "f":
            is_known = numpy.isfinite(found)
            n += int(numpy.count_nonzero(is_known))
            found[~is_known] = 0.0
        else:
            n += found.size
        columns += found.sum(0) if columns.size > 1 else found.cumsum()[-1]  # numpy has another order for one column
    return n

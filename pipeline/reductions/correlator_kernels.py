"""What a correlator does with the pixels of a frame, by numba where it is there; the bits are the same without.

Sums are taken in float64 and in one order: the element k of a region is added to the partial sum k % `LANES`, and then
the partial sums to each other, from the first to the last. Where a frame itself is summed, that is done apart for its
rows of `LANES` elements that have even numbers, and for the others.
"""

from itertools import pairwise
from typing import Any

import numpy

from pipeline.reductions.compiled import WORTH, compiled, readable
from pipeline.reductions.labelled_pixels import LANES

Array = numpy.ndarray


def gather(frame: Array, places: Array, targets: Array, out: Array) -> int:
    """Put the values at these places of a frame into `out`, at these targets; return how many bits they need.

    A sign is not counted. Where `out` has fewer, wrong values are there. Floats, and `uint64`, need all 64.

    >>> out = numpy.zeros(2, "i2")
    >>> gather(numpy.array([[1, -5], [7, 9]]), numpy.array([1, 2]), numpy.array([1, 0]), out), out
    (3, array([ 7, -5], dtype=int16))
    """
    is_any = frame.dtype.kind == "f" or frame.dtype == numpy.uint64
    loop, twin = (_gather_any_loop, _gather_any) if is_any else (_gather_loop, _gather)
    kernel = compiled(loop) if out.size >= WORTH else None
    with numpy.errstate(over="ignore", invalid="ignore"):
        bits = (kernel or twin)(readable(frame).reshape(-1), places, targets, out)
    return 64 if is_any else int(bits).bit_length()


def _gather_loop(frame, places, targets, out):
    bits = 0
    for k in range(places.size):
        value = frame[places[k]]
        out[targets[k]] = value
        wide = numpy.int64(value)
        bits |= wide ^ (wide >> 63)
    return bits


def _gather(frame: Array, places: Array, targets: Array, out: Array) -> Any:
    values = frame.take(places)
    out[targets] = values
    return numpy.bitwise_or.reduce(numpy.where(values < 0, ~values, values))


def _gather_any_loop(frame, places, targets, out):
    for k in range(places.size):
        out[targets[k]] = frame[places[k]]
    return 0


def _gather_any(frame: Array, places: Array, targets: Array, out: Array) -> int:
    out[targets] = frame.take(places)
    return 0


def sums(rows: Array, starts: Array) -> Array:
    """Return the sum over each region of a frame.

    >>> sums(numpy.ones((3, LANES), "i2"), numpy.array([0, 2, 3]))
    array([64., 32.])
    """
    kernel = compiled(_sums_loop) if rows.size >= WORTH else None
    if kernel:
        out = numpy.empty(starts.size - 1)
        kernel(rows, starts, out)
        return out
    with numpy.errstate(over="ignore", invalid="ignore"):
        parts = [rows[start:stop] for start, stop in pairwise(starts)]
        return _in_order(
            numpy.array([part[::2].sum(0, dtype=float) + part[1::2].sum(0, dtype=float) for part in parts])
        )


def _sums_loop(rows, starts, out):
    one, two = numpy.zeros(LANES), numpy.zeros(LANES)
    for r in range(starts.size - 1):
        one[:] = 0.0
        two[:] = 0.0
        for k in range(starts[r], starts[r + 1] - 1, 2):  # two at a time: of these the compiler makes wide instructions
            for j in range(LANES):
                one[j] += numpy.float64(rows[k, j])
                two[j] += numpy.float64(rows[k + 1, j])
        if (starts[r + 1] - starts[r]) % 2:
            for j in range(LANES):
                one[j] += numpy.float64(rows[starts[r + 1] - 1, j])
        total = one[0] + two[0]
        for j in range(1, LANES):
            total += one[j] + two[j]
        out[r] = total


def products(ring: Array, new: int, past: Array, starts: Array) -> Array:
    """Return the sum over each region of the newest frame times each of these past ones, [n_past, n_region].

    >>> ring = numpy.ones((2, 3, LANES), "i2")
    >>> products(ring, 1, numpy.array([1, 0]), numpy.array([0, 2, 3]))
    array([[64., 32.],
           [64., 32.]])
    """
    kernel = compiled(_products_loop) if ring[0].size >= WORTH else None
    if kernel:
        out = numpy.empty((past.size, starts.size - 1))
        kernel(ring, new, past, starts, out)
        return out
    return _products(ring, new, past, starts)


def _products_loop(ring, new, past, starts, out):
    one, two = numpy.zeros(LANES), numpy.zeros(LANES)
    a = ring[new]
    for p in range(0, past.size, 2):  # two at a time: what is new is read half as often
        q = min(p + 1, past.size - 1)
        b, c = ring[past[p]], ring[past[q]]
        for r in range(starts.size - 1):
            one[:] = 0.0
            two[:] = 0.0
            for k in range(starts[r], starts[r + 1]):
                for j in range(LANES):
                    value = numpy.float64(a[k, j])
                    one[j] += value * numpy.float64(b[k, j])
                    two[j] += value * numpy.float64(c[k, j])
            total_one, total_two = one[0], two[0]
            for j in range(1, LANES):
                total_one += one[j]
                total_two += two[j]
            out[p, r] = total_one
            out[q, r] = total_two


def _products(ring: Array, new: int, past: Array, starts: Array) -> Array:
    lanes = numpy.empty((past.size, starts.size - 1, LANES))
    work = numpy.empty(ring.shape[1:])
    with numpy.errstate(over="ignore", invalid="ignore"):
        for i, place in enumerate(past):
            numpy.multiply(ring[new], ring[place], out=work, dtype=float)
            for r, (start, stop) in enumerate(pairwise(starts)):
                work[start:stop].sum(0, out=lanes[i, r])
        return _in_order(lanes)


def _in_order(lanes: Array) -> Array:
    """Return the sum over the last axis, from the first to the last."""
    return numpy.add.accumulate(lanes, -1)[..., -1]

"""What a correlator does with the pixels of a frame, by numba where it is there; the bits are the same without.

Sums are taken in float64 and in one order: the element k of a region is added to the partial sum k % `LANES`, and then
the partial sums to each other, from the first to the last.
"""

from itertools import pairwise

import numpy

from pipeline.reductions.compiled import WORTH, compiled, readable
from pipeline.reductions.labelled_pixels import LANES, LabelledPixels

Array = numpy.ndarray


def gather(frame: Array, pixels: LabelledPixels, out: Array, totals: Array) -> None:
    """Put the pixels of the regions of a frame into `out`, 0 where it is filled up, and the sum of each into `totals`.

    >>> pixels = LabelledPixels.of_labels(numpy.array([[1, 0], [1, 0]]))
    >>> out, totals = numpy.empty(LANES), numpy.empty(1)
    >>> gather(numpy.array([[1, 5], [7, 9]]), pixels, out, totals)
    >>> out[:3], totals
    (array([1., 7., 0.]), array([8.]))
    """
    kernel = compiled(_gather_loop) if out.size >= WORTH else None
    if kernel:
        kernel(readable(frame).reshape(-1), pixels.places, pixels.starts, pixels.counts, out, totals)
    else:
        _gather(frame, pixels, out, totals)


def _gather_loop(frame, places, starts, counts, out, totals):
    for k in range(places.size):
        out[k] = frame[places[k]]
    lanes = numpy.zeros(LANES)
    for r in range(counts.size):
        out[starts[r] * LANES + counts[r] : starts[r + 1] * LANES] = 0.0
        lanes[:] = 0.0
        for row in range(starts[r], starts[r + 1]):
            for j in range(LANES):
                lanes[j] += numpy.float64(out[row * LANES + j])
        total = lanes[0]
        for j in range(1, LANES):
            total += lanes[j]
        totals[r] = total


def _gather(frame: Array, pixels: LabelledPixels, out: Array, totals: Array) -> None:
    out[:] = frame.take(pixels.places)
    out[pixels.filling] = 0.0
    rows = out.reshape(-1, LANES)
    with numpy.errstate(over="ignore", invalid="ignore"):
        lanes = [rows[start:stop].sum(0, dtype=float) for start, stop in pairwise(pixels.starts)]
        totals[:] = _in_order(numpy.array(lanes))


def products(ring: Array, new: int, past: Array, starts: Array) -> Array:
    """Return the sum over each region of the newest frame times each of these past ones, [n_past, n_region].

    >>> ring = numpy.ones((2, 3, LANES), "f4")
    >>> products(ring, 1, numpy.array([1, 0]), numpy.array([0, 2, 3]))
    array([[64., 32.],
           [64., 32.]])
    """
    out = numpy.empty((past.size, starts.size - 1))
    kernel = compiled(_products_loop) if ring[0].size >= WORTH else None
    if kernel:
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

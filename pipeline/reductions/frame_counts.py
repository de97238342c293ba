"""What a frame is made of, in one pass: how many elements are saturated, missing or zero, the largest and the sum."""

import math
from typing import NamedTuple

import numpy

from pipeline.reductions.compiled import WORTH, compiled, readable
from pipeline.reductions.lanes import LANES, in_lanes
from pipeline.reductions.sums import total
from pipeline.reductions.values import NAN

Array = numpy.ndarray

_PART = 2**15  # elements that are summed by themselves
_LINE = 2**12  # elements of 16 bits whose sum 32 bits hold


class FrameCounts(NamedTuple):
    """How many elements are saturated, not finite, and zero; the largest and the sum of the finite ones."""

    n_saturated: int
    n_nan: int
    n_zero: int
    largest: float
    total: float


def count_elements(values: Array, saturation: float | None) -> FrameCounts:
    """Count the elements of an array of booleans, integers or floats.

    Integers are summed exactly and rounded once. Floats are summed in float64, 32768 by 32768 as `in_lanes` tells. None
    of the arrays that this takes is as large as a frame.

    Parameters
    ----------
    values
        Of any shape.
    saturation
        From where on an element is saturated; `None`: nowhere.

    >>> count_elements(numpy.array([[0, 3], [255, 7]], "u1"), 255)
    FrameCounts(n_saturated=1, n_nan=0, n_zero=1, largest=255.0, total=265.0)
    """
    values = values.view(numpy.uint8) if values.dtype.kind == "b" else values
    if not values.size:
        return FrameCounts(0, 0, 0, NAN, NAN)
    return _of_floats(values, saturation) if values.dtype.kind == "f" else _of_integers(values, saturation)


def _of_integers(values: Array, saturation: float | None) -> FrameCounts:
    limit = _whole_limit(values.dtype, saturation)
    if values.size >= WORTH and values.itemsize < 8 and (kernel := compiled(_integers_loop)):
        flat, found = readable(values).reshape(-1), numpy.zeros(4, numpy.int64)
        lines = numpy.zeros(1, numpy.int32 if values.itemsize < 4 else numpy.int64)
        kernel(flat, flat.dtype.type(limit or 0), lines, found)
        n_saturated, n_zero, largest, of_all = found.tolist()
        return FrameCounts(n_saturated if limit is not None else 0, 0, n_zero, float(largest), float(of_all))
    flat = values.reshape(-1)
    parts = [flat[i : i + _PART] for i in range(0, flat.size, _PART)]
    n_saturated = sum(int(numpy.count_nonzero(part >= limit)) for part in parts) if limit is not None else 0
    n_zero = flat.size - sum(int(numpy.count_nonzero(part)) for part in parts)
    return FrameCounts(n_saturated, 0, n_zero, float(flat.max()), total(flat))


def _whole_limit(dtype: numpy.dtype, saturation: float | None) -> int | None:
    """Return from which integer of a dtype on one is saturated; `None` if none is."""
    info = numpy.iinfo(dtype)
    if saturation is None or math.isnan(saturation) or saturation > info.max:
        return None
    return max(math.ceil(saturation), int(info.min)) if saturation > info.min else int(info.min)


def _of_floats(values: Array, saturation: float | None) -> FrameCounts:
    flat, counts, found = readable(values).reshape(-1), numpy.zeros(3, numpy.int64), numpy.zeros(2)
    count = (compiled(_floats_loop) if values.size >= WORTH else None) or _floats_parts
    with numpy.errstate(over="ignore", invalid="ignore"):
        limit = float(flat.dtype.type(NAN if saturation is None else saturation))  # as numpy compares them
        count(flat, limit, counts, found)
    n_saturated, n_nan, n_zero = counts.tolist()
    largest, of_all = found.tolist()
    if n_nan == values.size:
        return FrameCounts(n_saturated, n_nan, n_zero, NAN, NAN)
    return FrameCounts(n_saturated, n_nan, n_zero, largest, of_all if math.isfinite(of_all) else NAN)


def _integers_loop(values: Array, limit: int, lines: Array, found: Array) -> None:
    n_saturated, n_zero, of_all, largest = 0, 0, 0, values[0]
    for i in range(0, values.size, _LINE):
        x = values[i : i + _LINE]
        saturated, zero, line = numpy.uint16(0), numpy.uint16(0), lines.dtype.type(0)
        for j in range(x.size):  # in as few bits as there may be, so that many go at once
            saturated = numpy.uint16(saturated + numpy.uint16(x[j] >= limit))
            zero = numpy.uint16(zero + numpy.uint16(x[j] == 0))
            line = lines.dtype.type(line + lines.dtype.type(x[j]))
            largest = max(largest, x[j])
        n_saturated, n_zero, of_all = n_saturated + saturated, n_zero + zero, of_all + line
    found[0], found[1], found[2], found[3] = n_saturated, n_zero, largest, of_all


def _floats_loop(values: Array, limit: float, counts: Array, found: Array) -> None:
    """Count what is saturated, not finite, and zero; find the largest and the sum."""
    n_saturated, n_nan, n_zero, of_all = 0, 0, 0, 0.0
    lanes, tops = numpy.empty(LANES), numpy.full(LANES, -numpy.inf)
    for i in range(0, values.size, _PART):
        part = values[i : i + _PART]
        lanes[:] = 0.0
        for j in range(0, part.size, LANES):
            x = part[j : j + LANES]
            for k in range(x.size):  # loops of their own, which the compiler makes wider
                n_nan += not numpy.isfinite(x[k])
                n_saturated += numpy.isfinite(x[k]) & (x[k] >= limit)
                n_zero += x[k] == 0
            for k in range(x.size):
                lanes[k] += float(x[k]) if numpy.isfinite(x[k]) else 0.0
            for k in range(x.size):
                value = float(x[k]) if numpy.isfinite(x[k]) else -numpy.inf
                tops[k] = value if value > tops[k] else tops[k]
        half = LANES // 2
        while half:
            for k in range(half):
                lanes[k] += lanes[half + k]
            half //= 2
        of_all += lanes[0]
    counts[0], counts[1], counts[2] = n_saturated, n_nan, n_zero
    found[0], found[1] = tops.max() + 0.0, of_all  # neither is -0.0


def _floats_parts(values: Array, limit: float, counts: Array, found: Array) -> None:
    found[0] = -numpy.inf
    for i in range(0, values.size, _PART):
        part = values[i : i + _PART]
        is_known = numpy.isfinite(part)
        counts += [
            numpy.count_nonzero(is_known & (part >= limit)),
            numpy.count_nonzero(~is_known),
            numpy.count_nonzero(part == 0),
        ]
        found[0] = max(found[0], part.max(where=is_known, initial=-numpy.inf))
        found[1] += in_lanes(numpy.where(is_known, part, 0.0))
    found[0] += 0.0

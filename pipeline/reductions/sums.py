"""Sums of arrays: of integers in integers, of floats in float64."""

import numpy


def total(values: numpy.ndarray) -> float:
    """Return the sum of finite numbers: of integers exactly, then rounded once; NaN where it is no finite float.

    >>> total(numpy.array([2**64 - 1, 2**64 - 1], "u8")) == 2.0**65
    True
    """
    if values.dtype.kind == "f":
        with numpy.errstate(over="ignore"):
            found = float(values.sum(dtype=float))
        return found if numpy.isfinite(found) else float("nan")
    if values.dtype.itemsize < 8:
        return float(int(values.sum(dtype=numpy.int64)))  # 2**31 values of 32 bits fit
    high, low = values >> 32, values & 0xFFFFFFFF
    return float((int(high.sum()) << 32) + int(low.sum()))

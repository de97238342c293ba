"""Sums of floats in an order that is told, which numpy and compiled loops keep alike, and which rounds little."""

import numpy

LANES = 64


def in_lanes(values: numpy.ndarray) -> float:
    """Return the sum of float64 numbers: every 64th is added to the same one of 64 sums; then, of these sums, the last
    half is added to the first, again and again. It is never -0.0.

    >>> in_lanes(numpy.arange(1000.0))
    499500.0
    """
    rows = numpy.zeros((-(-values.size // LANES), LANES))
    rows.reshape(-1)[: values.size] = values.reshape(-1)
    lanes, half = rows.sum(0), LANES // 2
    while half:
        lanes[:half] += lanes[half : 2 * half]
        half //= 2
    return float(lanes[0]) + 0.0

"""Values of events, as numbers: what is none is refused, and None is NaN."""

from typing import Any

import numpy

from pipeline.errors import RejectedValue

NAN = float("nan")


def as_number(value: Any) -> float:
    """Return a scalar as a float; NaN for None, which is "no information".

    >>> as_number(numpy.uint16(3)), as_number(None)
    (3.0, nan)
    """
    if type(value) is float:
        return value
    if type(value) is int:
        return _as_float(value)
    if value is None:
        return NAN
    array = as_numbers(value)
    if array.ndim:
        raise RejectedValue(f"wanted a number, there is {array.dtype} of shape {list(array.shape)}.")
    return float(array)


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return NAN


def as_numbers(value: Any) -> numpy.ndarray:
    """Return a value as an array of booleans, integers or floats, in its own dtype; NaN for None.

    >>> as_numbers([1, 2]), as_numbers(None)
    (array([1, 2]), array(nan))
    """
    try:
        array = numpy.asarray(NAN if value is None else value)
    except ValueError:
        raise RejectedValue("wanted rows of one length, there are ragged ones.") from None
    if array.dtype.kind not in "biuf":
        raise RejectedValue(f"wanted numbers, there is {array.dtype} of shape {list(array.shape)}.")
    return array


def finite(value: Any) -> numpy.ndarray:
    """Return numbers as a float64 array of its own, NaN where they are not finite.

    >>> finite([1, float("inf")])
    array([ 1., nan])
    """
    array = numpy.array(as_numbers(value), float)
    array[~numpy.isfinite(array)] = NAN
    return array

"""Series of frames: what one array of an event is, that has one axis more than a frame."""

from typing import Any

import numpy

from pipeline.errors import RejectedValue

Array = numpy.ndarray

HOW = ("each", "mean", "sum")


def one_frame(series: Array, how: str) -> Array:
    """Return the `"sum"` or the `"mean"` of the frames along the first axis: of one frame, that frame as it is.

    Integers of up to 32 bits are summed in int64, all else in float64; a mean is float64. An element that is not finite
    in one of the frames is not in what is returned.

    Raises
    ------
    RejectedValue
        If there is no frame.

    >>> one_frame(numpy.array([[200, 1], [100, 2]], "u1"), "sum"), one_frame(numpy.array([[200, 1]], "u1"), "mean")
    (array([300,   3]), array([200,   1], dtype=uint8))
    """
    check_series(series)
    if len(series) == 1:
        return series[0]
    if how == "mean":
        return series.mean(0, dtype=float)
    is_small = series.dtype.kind != "f" and series.dtype.itemsize < 8
    return series.sum(0, dtype=numpy.int64 if is_small else float)


def check_series(series: Any) -> None:
    """Refuse a series without a frame."""
    if not len(series):
        raise RejectedValue("wanted a series of frames, there is none in it.")

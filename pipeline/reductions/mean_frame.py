"""The mean of frames, element by element."""

from typing import Any

import numpy

from pipeline.errors import RejectedValue
from pipeline.reductions.values import as_numbers

Array = numpy.ndarray

_EXACT = 2**53  # under it float64 tells integers apart


class MeanFrame:
    """The mean of frames of one shape: of integers exactly, in any order; of floats less what is not finite.

    An array of three axes is a series of frames, each of which counts. From the first floats on, or from integers of
    2**53 and more, it goes on in float64.

    >>> mean = MeanFrame()
    >>> for frame in ([1, 65535], [2, 65534], [3, 65535]): mean.add(numpy.array(frame, "u2"))
    >>> mean.mean()
    array([2.00000000e+00, 6.55346667e+04])
    """

    def __init__(self) -> None:
        self.n_events = 0
        self._total: Array | None = None  # int64, while all is exact
        self._n: Any = 0  # frames; or how many finite ones, by element

    def add(self, value: Any) -> None:
        """Take in the frames of one event.

        Raises
        ------
        RejectedValue
            If they are no frames, or of another shape than those before.
        """
        frames = as_numbers(value)
        frames = frames if frames.ndim == 3 else frames[numpy.newaxis]
        shape = frames.shape[1:] if self._total is None else self._total.shape
        if frames.ndim < 2 or not frames.size or frames.shape[1:] != shape:
            there = f"there is {list(numpy.shape(value))}"
            raise RejectedValue(f"wanted frames{f' of shape {list(shape)}' if self.n_events else ''}, {there}.")
        for frame in frames:
            self._add(frame)
        self.n_events += 1

    def _add(self, frame: Array) -> None:
        is_exact = _is_exact(frame)
        if self._total is None:
            self._total = numpy.zeros(frame.shape, numpy.int64 if is_exact else float)
        elif not is_exact:
            self._total = self._total.astype(float, copy=False)
        is_known: Any = numpy.isfinite(frame) if frame.dtype.kind == "f" else True
        dtype = self._total.dtype
        numpy.add(self._total, frame, self._total, dtype=dtype, casting="unsafe", where=is_known)
        self._n = self._n + is_known

    def mean(self) -> Array:
        """Return the mean, as float64 that cannot be written; NaN where nothing was finite."""
        assert self._total is not None
        with numpy.errstate(invalid="ignore"):
            mean = numpy.asarray(numpy.true_divide(self._total, self._n), float)
        mean.setflags(write=False)
        return mean


def _is_exact(frame: Array) -> bool:
    """Tell whether these are integers that a float64 holds."""
    if frame.dtype.kind == "f" or frame.dtype.itemsize < 8:
        return frame.dtype.kind != "f"
    return int(frame.max()) < _EXACT and int(frame.min()) > -_EXACT

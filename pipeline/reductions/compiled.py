"""The one way to compile: a loop over the elements of a frame becomes a numba kernel, where there is numba.

A kernel is a function of the module, over arrays and numbers, with its numpy twin beside it: they give the same numbers
(of integers the same bits, of floats too wherever the order of summation is told), so that a result does not tell
whether numba was there. One thread, no `fastmath`, divisions as numpy's: no exception, `inf` or NaN. It lets go of the
interpreter while it works. How a reduction uses one:

    kernel = compiled(_sum_loop) if frame.size >= WORTH else None
    return kernel(readable(frame)) if kernel else _sum_by_chunks(frame)

When it is compiled
-------------------
In memory, by the first call with arrays of a dtype: some tenths of a second, and 1.3 s more for the first one of a
process, which has to import numba; it is logged. `import pipeline` imports no numba, nor does a reduction of scalars or
of short curves. A reduction that is given nothing but frames, whatever its dtype, does it in `begin`, before the first
point. One that may be given scalars and curves too does it when a frame is there: in a service nobody waits but the
service; where the pipeline is subscribed to a RunEngine itself, the first scan of a process waits once, between its
first point and its second. To compile in a thread meanwhile would take turns with the scan for longer.

Not `cache=True`: its files are pickles, are named by the time and the size of a source file, not by what is in it, do
not see a change in a function that was inlined from another file, and go stale beside a package that is replaced.

The environment variable `BLUESKY_PIPELINE_NO_NUMBA=1` does as if there were no numba; a reduction
may ask for it at its first frame alone.
"""

import logging
import os
from collections.abc import Callable
from functools import cache
from time import perf_counter
from typing import Any

import numpy

WORTH = 2**14  # elements: of fewer, what a kernel saves is not worth compiling it
NO_NUMBA = "BLUESKY_PIPELINE_NO_NUMBA"

logger = logging.getLogger(__name__)


def compiled(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return the kernel of a function, the same one each time; `None` without numba, where the twin does it.

    Parameters
    ----------
    function
        In the part of Python and numpy that numba knows. It calls no function of ours but kernels that it is given.

    >>> def double(values, out):
    ...     for i in range(values.size):
    ...         out[i] = 2 * values[i]
    >>> kernel, out = compiled(double) or double, numpy.zeros(2)
    >>> kernel(numpy.array([1.0, 2.0]), out)
    >>> out
    array([2., 4.])
    """
    return None if os.environ.get(NO_NUMBA) == "1" else _kernel(function)


@cache
def _kernel(function: Callable[..., Any]) -> Callable[..., Any] | None:
    numba = _numba()
    if numba is None:
        return None
    _OURS.add(function)
    return numba.njit(nogil=True, error_model="numpy")(function)


_OURS: set[Callable[..., Any]] = set()


@cache
def _numba() -> Any:
    try:
        import numba
        from numba.core import event
    except ImportError as error:  # it is not there, or does not go with this numpy
        logger.info("no numba: %s", error)
        return None

    class Told(event.Listener):
        """Logs what is compiled, and how long that took with all that it calls."""

        def __init__(self) -> None:
            self._begun: list[float] = []

        def on_start(self, event: Any) -> None:
            self._begun.append(perf_counter())

        def on_end(self, event: Any) -> None:
            took, function = perf_counter() - self._begun.pop(), event.data["dispatcher"].py_func
            if function in _OURS and not self._begun:
                types = ", ".join(str(getattr(each, "dtype", each)) for each in event.data["args"])
                logger.info("compiled %s(%s) in %.1f s", function.__name__, types, took)

    event.register("numba:compile", Told())
    return numba


def readable(array: numpy.ndarray) -> numpy.ndarray:
    """Return an array for a kernel to read: a view that is read-only, so that there is one kernel for each dtype.

    Only what no kernel reads is copied: an array with gaps, of another byte order, `float16` and `longdouble`, which
    become `float32` and `float64`. Booleans become `uint8`.

    >>> frame = readable(numpy.array([[True, False]]))
    >>> frame, frame.flags.writeable
    (array([[1, 0]], dtype=uint8), False)
    """
    view = unaltered(array)
    if view is not None:
        return view
    dtype = array.dtype.newbyteorder("=")
    if dtype.char in "eg":
        dtype = numpy.dtype("f4" if dtype.char == "e" else "f8")
    with numpy.errstate(over="ignore"):
        return readable(array.astype(dtype, order="C"))


def unaltered(array: numpy.ndarray) -> numpy.ndarray | None:
    """Return the view that `readable` gives; `None` where that would copy.

    >>> frame = numpy.zeros((4, 4))
    >>> unaltered(frame).base is frame, unaltered(frame[:, ::2])
    (True, None)
    """
    flags, dtype = array.flags, array.dtype
    if not (flags.c_contiguous and flags.aligned and dtype.isnative) or dtype.char in "eg":
        return None
    view = array.view(numpy.uint8) if dtype.char == "?" else array.view()
    view.setflags(write=False)
    return view

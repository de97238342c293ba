"""The one way to compile: a loop over the elements of a frame becomes a numba kernel, where there is numba.

A kernel is a function of the module, over arrays and numbers, with its numpy twin beside it: they give the same numbers
(of integers the same bits, of floats too wherever the order of summation is told), so that a result does not tell
whether numba was there. One thread, no `fastmath`, divisions as numpy's: no exception, `inf` or NaN. It lets go of the
interpreter while it works. How a reduction uses one:

    kernel = compiled(_sum_loop) if frame.size >= WORTH else None
    return kernel(readable(frame)) if kernel else _sum_by_chunks(frame)

When it is compiled
-------------------
In memory, by the first call with arrays of a dtype: 0.1 to 0.3 s, and 1.3 s for the first one of a process, which has
to import numba; either is logged. `import pipeline` imports no numba, nor does a reduction of scalars or short curves.
So that the points of a scan do not wait, a reduction that is sure to see frames makes a call with tiny arrays in
`begin`, before the first point: of `uint16`, as most detectors have; another dtype waits for its first frame.

Not `cache=True`: its files are pickles, are named by the time and the size of a source file, not by what is in it, do
not see a change in a function that was inlined from another file, and go stale beside a package that is replaced.

The environment variable `BLUESKY_PIPELINE_NO_NUMBA=1` does as if there were no numba.
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
        Of a module, in the part of Python and numpy that numba knows; it calls no function of ours.

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
    kernel = numba.njit(nogil=True, error_model="numpy")(function)

    def timed(*arguments: Any) -> Any:
        n_known, begun = len(kernel.overloads), perf_counter()
        result = kernel(*arguments)
        if len(kernel.overloads) > n_known:
            logger.info("compiled %s for %s in %.1f s", function.__name__, _types(arguments), perf_counter() - begun)
        return result

    return timed


@cache
def _numba() -> Any:
    try:
        import numba
    except ImportError as error:  # it is not there, or does not go with this numpy
        logger.info("no numba: %s", error)
        return None
    return numba


def _types(arguments: tuple[Any, ...]) -> str:
    return ", ".join(str(getattr(each, "dtype", type(each).__name__)) for each in arguments)


def readable(array: numpy.ndarray) -> numpy.ndarray:
    """Return an array for a kernel to read: a view that is read-only, so that there is one kernel for each dtype.

    Only what no kernel reads is copied: an array with gaps, of another byte order, `float16` and `longdouble`, which
    become `float32` and `float64`. Booleans become `uint8`.

    >>> frame = readable(numpy.array([[True, False]]))
    >>> frame, frame.flags.writeable
    (array([[1, 0]], dtype=uint8), False)
    """
    if array.dtype.kind == "b":
        array = array.view(numpy.uint8)
    elif array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        with numpy.errstate(over="ignore"):
            array = array.astype(numpy.float32 if array.dtype.itemsize == 2 else numpy.float64)
    view = numpy.require(array, array.dtype.newbyteorder("="), ["C", "A"]).view()
    view.flags.writeable = False
    return view

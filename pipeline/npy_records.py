"""Arrays as npy records: bytes that `numpy.load` reads, one behind another in a file; never a pickle."""

import io
import math
from collections.abc import Callable
from functools import lru_cache

import numpy
from numpy.lib import format as npy

from pipeline.errors import PipelineTypeError, PipelineValueError

_MOST_OF_A_HEADER = 4096

ReadInto = Callable[[memoryview, int], int]  # fills the buffer from this offset on, returns how many bytes there were


def npy_parts(array: numpy.ndarray) -> tuple[bytes, memoryview]:
    """Return header and data of the record of an array; the data are not copied if they are contiguous.

    Raises
    ------
    PipelineTypeError
        If it is an array of objects, which only a pickle could hold.

    >>> header, data = npy_parts(numpy.arange(3, dtype="<u2"))
    >>> numpy.load(io.BytesIO(header + data))
    array([0, 1, 2], dtype=uint16)
    """
    if array.dtype.hasobject:
        raise PipelineTypeError(f"An array of {array.dtype} is in no npy record; wanted numbers, booleans or text.")
    array = numpy.asarray(array)  # not a subclass, which may count its elements otherwise
    flags = array.flags
    if not (flags.c_contiguous or flags.f_contiguous):
        array = array.copy("C")
        flags = array.flags
    return _header(array.dtype, array.shape, not flags.c_contiguous), _bytes_of(array)


def _bytes_of(array: numpy.ndarray) -> memoryview:
    """Return the memory of a contiguous array."""
    flat = (array if array.flags.c_contiguous else array.T).reshape(-1)
    return flat.view(numpy.uint8).data if flat.nbytes else memoryview(bytearray())


@lru_cache(maxsize=256)
def _header(dtype: numpy.dtype, shape: tuple[int, ...], is_fortran: bool) -> bytes:
    file = io.BytesIO()
    entries = {"descr": npy.dtype_to_descr(dtype), "fortran_order": is_fortran, "shape": shape}
    try:
        npy.write_array_header_1_0(file, entries)
    except ValueError:  # of more than 64 KiB: there are many fields
        npy.write_array_header_2_0(file, entries)
    return file.getvalue()


def read_npy(read_into: ReadInto, offset: int, nbytes: int) -> numpy.ndarray:
    """Return the array of the record that stands at this offset; nobody else has its memory.

    Raises
    ------
    PipelineValueError
        If there is no such record, of this length, or it is of objects.

    >>> content = b"".join(npy_parts(numpy.array([1.5])))
    >>> def read_into(buffer, offset):
    ...     part = content[offset : offset + len(buffer)]
    ...     buffer[: len(part)] = part
    ...     return len(part)
    >>> read_npy(read_into, 0, len(content))
    array([1.5])
    >>> read_npy(read_into, 8, len(content))
    Traceback (most recent call last):
    pipeline.errors.PipelineValueError: wanted an npy record of 136 bytes at byte 8, there is none.
    """
    start = bytearray(min(nbytes, _MOST_OF_A_HEADER))
    n = _length_of_header(start, read_into(memoryview(start), offset))
    if not n or n > nbytes:
        raise _no_record(offset, nbytes)
    if n > len(start):
        start = bytearray(n)
        read_into(memoryview(start), offset)
    array = _empty(bytes(start[:n]), nbytes - n, offset)
    if read_into(_bytes_of(array), offset + n) != array.nbytes:
        raise PipelineValueError(f"wanted {array.nbytes} bytes of an array at byte {offset + n}, there are fewer.")
    return array


def _length_of_header(start: bytearray, n: int) -> int:
    """Return how long the header is that begins so; 0 if this is none."""
    if n < 12 or not start.startswith(npy.MAGIC_PREFIX):
        return 0
    is_short = start[6] == 1
    return 10 + int.from_bytes(start[8:10], "little") if is_short else 12 + int.from_bytes(start[8:12], "little")


def _empty(header: bytes, nbytes: int, offset: int) -> numpy.ndarray:
    """Return the array that a header tells of, if it is as large as the data behind it."""
    try:
        shape, is_fortran, dtype = _parsed(header)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise PipelineValueError(f"wanted the header of an npy record at byte {offset}: {error}") from None
    if dtype.hasobject:
        raise PipelineValueError(f"wanted an array of numbers, booleans or text at byte {offset}, there are objects.")
    if math.prod(shape) * dtype.itemsize != nbytes or (not dtype.itemsize and math.prod(shape)):
        raise PipelineValueError(f"wanted {nbytes} bytes of an array at byte {offset}, there are {shape} of {dtype}.")
    return numpy.empty(shape, dtype, "F" if is_fortran else "C")


@lru_cache(maxsize=256)
def _parsed(header: bytes) -> tuple[tuple[int, ...], bool, numpy.dtype]:
    file = io.BytesIO(header)
    is_short = npy.read_magic(file) == (1, 0)
    return (npy.read_array_header_1_0 if is_short else npy.read_array_header_2_0)(file)


def _no_record(offset: int, nbytes: int) -> PipelineValueError:
    return PipelineValueError(f"wanted an npy record of {nbytes} bytes at byte {offset}, there is none.")

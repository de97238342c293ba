"""Data keys: what a value is, and values as their data key says."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy

from pipeline.documents import Document
from pipeline.errors import PipelineError, PipelineTypeError, PipelineValueError
from pipeline.times import is_missing, moment, nanoseconds

_DTYPES = {"b": "boolean", "i": "integer", "u": "integer", "f": "number", "U": "string"}
_WIDE = {"b": "|b1", "i": "<i8", "u": "<i8", "f": "<f8", "U": "<U0"}


def describe(value: Any, source: str) -> Document:
    """Return the data key of a value: dtype, dtype_numpy and true shape.

    >>> describe(numpy.float32(1.5), "det")
    {'source': 'det', 'dtype': 'number', 'dtype_numpy': '<f8', 'shape': []}
    >>> describe(numpy.zeros((4, 5), "u2"), "cam")
    {'source': 'cam', 'dtype': 'array', 'dtype_numpy': '<u2', 'shape': [4, 5]}
    """
    if isinstance(value, str):
        return scalar(source, "U", "<U0")
    array = as_array(value)
    if array.ndim:
        return data_key_of(source, "array", array.dtype.str, array.shape)
    return scalar(source, array.dtype.kind, _WIDE[array.dtype.kind])


def data_key_of(source: str, dtype: str, dtype_numpy: str, shape: Sequence[int | None]) -> Document:
    """Return a data key of these."""
    return {"source": source, "dtype": dtype, "dtype_numpy": dtype_numpy, "shape": list(shape)}


def scalar(source: str, kind: str, dtype_numpy: str) -> Document:
    """Return the data key of scalars of this kind, in numpy's letters."""
    return data_key_of(source, _DTYPES[kind], dtype_numpy, [])


def as_array(value: Any) -> numpy.ndarray:
    """Return the value as an array that a document can hold, or refuse it."""
    try:
        array = numpy.asarray(value)
    except ValueError:
        raise PipelineValueError(f"wanted rows of one length, there are ragged ones: {short(value)}.") from None
    if array.dtype.kind in "biuf" or (array.ndim and array.dtype.kind == "U"):
        return array
    raise refused(value)


def refused(value: Any) -> PipelineTypeError:
    """Return the error that says what a document can hold."""
    return PipelineTypeError(f"wanted a number, text, boolean, datetime or an array of them, there is {short(value)}.")


def short(value: Any) -> str:
    """Return a value as an error shows it."""
    text = " ".join(repr(value).split())
    return text if len(text) < 60 else f"{text[:57]}..."


# casts -------------------------------------------------------------------------------------------------------------


def caster(data_key: Document) -> Callable[[Any], Any]:
    """Return the function that makes a value what its data key says, or refuses it.

    The value that comes out is a Python scalar or an array of its own, never the caller's, and equal to it.

    >>> caster({"dtype": "number", "shape": []})(numpy.int32(3))
    3.0
    """
    dtype_numpy = data_key.get("dtype_numpy") or ""
    if kind := data_key.get("kind"):
        return partial(_cast_time, kind=kind, shape=tuple(data_key["shape"]))
    if data_key["dtype"] == "array":
        shape = tuple(data_key["shape"])
        return partial(_cast_array, shape=shape, dtype=numpy.dtype(dtype_numpy or "<f8"))
    if isinstance(dtype_numpy, str) and dtype_numpy[1:] in ("f2", "f4", "i1", "i2", "i4", "u1", "u2", "u4", "u8"):
        return partial(_cast_narrow, cast=_CASTS[data_key["dtype"]], dtype=numpy.dtype(dtype_numpy))
    return _CASTS[data_key["dtype"]]


def exactly(cast: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return this cast, which refuses what it would change: a float holds integers up to 2**53, and few beyond.

    >>> exactly(caster({"dtype": "number", "shape": []}))(2**53 + 1)
    Traceback (most recent call last):
    pipeline.errors.PipelineValueError: wanted a number that a float can hold, there is 9007199254740993.
    """

    def exact(value: Any) -> Any:
        held = cast(value)
        if type(value) is int and held != value:
            raise PipelineValueError(f"wanted a number that a float can hold, there is {short(value)}.")
        return held

    return exact


def _cast_array(value: Any, shape: tuple[int | None, ...], dtype: numpy.dtype) -> numpy.ndarray:
    array = numpy.array(value)
    same = len(shape) == array.ndim and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if not same or not (numpy.can_cast(array.dtype, dtype, "same_kind") or _are_numbers(array.dtype, dtype)):
        raise PipelineValueError(
            f"wanted {dtype.str} of shape {list(shape)}, there is {array.dtype.str} of shape {list(array.shape)}."
        )
    cast = array.astype(dtype, copy=False)
    if not numpy.can_cast(array.dtype, dtype, "safe"):
        check_same(array, cast)
    return cast


def _are_numbers(one: numpy.dtype, other: numpy.dtype) -> bool:
    return one.kind in "iu" and other.kind in "iuf"


def check_same(array: numpy.ndarray, cast: numpy.ndarray) -> None:
    """Refuse a cast that changed a value."""
    if cast.dtype.kind == "U":
        same = numpy.array_equal(array, cast)
    else:
        same = numpy.array_equal(cast.astype(array.dtype), array, equal_nan=array.dtype.kind in "fmM")
    if not same:
        raise PipelineValueError(f"wanted values that {cast.dtype.str} can hold, there are others: {short(array)}.")


def _cast_narrow(value: Any, cast: Callable[[Any], Any], dtype: numpy.dtype) -> Any:
    wide = cast(value)
    with numpy.errstate(over="ignore"):
        held = wide == wide and _fits(wide, dtype) and numpy.array(wide).astype(dtype).item() == wide
    if wide == wide and not held:
        raise PipelineValueError(f"wanted what {dtype.str} can hold, there is {short(value)}.")
    return wide


def _fits(value: Any, dtype: numpy.dtype) -> bool:
    return dtype.kind == "f" or numpy.iinfo(dtype).min <= value <= numpy.iinfo(dtype).max


def _cast_time(value: Any, kind: str, shape: tuple[int | None, ...]) -> Any:
    """Return a moment, or an array of them, as nanoseconds."""
    array = numpy.asarray(moment(value))
    found, integers = nanoseconds(array) if array.dtype.kind in "mM" else (None, array)
    if found != kind and not is_missing(value):
        raise PipelineTypeError(f"wanted a {kind.partition('64')[0]}, there is {short(value)}.")
    return _cast_array(integers, shape, numpy.dtype("<i8")) if shape else int(integers)


def _cast_number(value: Any) -> float:
    if isinstance(value, float):
        return float(value)
    if value is None:
        return float("nan")
    is_scalar = isinstance(value, int | float | numpy.ndarray | numpy.generic) and numpy.ndim(value) == 0
    if not is_scalar or numpy.asarray(value).dtype.kind not in "iuf":
        raise PipelineTypeError(f"wanted a number, there is {short(value)}.")
    return float(value)


def _cast_integer(value: Any) -> int:
    if value is None:
        raise PipelineTypeError("wanted an integer, there is None; a column of numbers can lack some.")
    if type(value) is not int:
        if not isinstance(value, int | numpy.integer) and as_array(value).dtype.kind not in "iu":
            raise PipelineTypeError(f"wanted an integer, there is {short(value)}.")
        if isinstance(value, bool):
            raise PipelineTypeError(f"wanted an integer, there is {value}.")
        value = int(value)
    if not -(2**63) <= value < 2**63:
        raise PipelineValueError(f"wanted an integer of 64 bits, there is {value}.")
    return value


def _cast_boolean(value: Any) -> bool | None:
    if value is None:
        return None
    if not isinstance(value, bool | numpy.bool) and numpy.asarray(value).dtype.kind != "b":
        raise PipelineTypeError(f"wanted a boolean, there is {short(value)}.")
    return bool(value)


def _cast_string(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, numpy.ndarray) and value.ndim == 0:
        value = value[()]
    if not isinstance(value, str):
        raise PipelineTypeError(f"wanted text, there is {short(value)}.")
    return str(value)


_CASTS: dict[str, Callable[[Any], Any]] = {
    "number": _cast_number,
    "integer": _cast_integer,
    "boolean": _cast_boolean,
    "string": _cast_string,
}


def named(stream: str, key: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the function, its errors telling which field of which stream they are of."""

    def cast(value: Any) -> Any:
        try:
            return function(value)
        except PipelineError as error:
            raise type(error)(f"Stream {stream!r}, field {key!r}: {error}") from None

    return cast


def size_of(data_key: Mapping[str, Any]) -> int:
    """Return how many bytes the value of one event has, as its data key tells.

    >>> size_of({"dtype": "array", "shape": [1, 1000, 500], "dtype_numpy": "<u2"})
    1000000
    """
    digits = "".join(letter for letter in str(data_key.get("dtype_numpy", "")) if letter.isdigit())
    return math.prod(n or 1 for n in data_key.get("shape") or ()) * (int(digits or 8) or 8)

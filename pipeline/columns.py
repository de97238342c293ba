"""Columns: what a column of a table is, and its values as documents hold them."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import numpy

from pipeline.data_keys import caster, check_same, data_key_of, exactly, refused, scalar, short
from pipeline.documents import Document
from pipeline.errors import PipelineTypeError, PipelineValueError
from pipeline.times import UNITS, is_missing, moment, nanoseconds

_WORDS = {"b": "boolean", "i": "integer", "f": "number", "U": "text", "M": "datetime", "m": "time difference"}
_cast = {dtype: caster({"dtype": dtype, "shape": []}) for dtype in ("number", "integer", "boolean", "string")}


def describe_column(values: Any, source: str) -> tuple[Document, list[Any]]:
    """Return the data key of a column, and its values as documents hold them, none of them the caller's.

    Parameters
    ----------
    values
        One element a row: a numpy array with the rows first, or a sequence. None is a missing value: NaN among
        numbers, NaT among datetimes, None among texts and booleans (where NaN is one too).
    source
        What the data key names as its source.

    Returns
    -------
    data_key, values
        Numbers keep the width of their numpy dtype. Datetimes and time differences are integers, in nanoseconds, and
        their data key has a `kind`. Rows that are arrays of several lengths have a shape with None in it.

    Raises
    ------
    PipelineTypeError, PipelineValueError
        If the column cannot be stored without a change of its values.

    >>> describe_column(numpy.array([1, 2], "u2"), "x")
    ({'source': 'x', 'dtype': 'integer', 'dtype_numpy': '<u2', 'shape': []}, [1, 2])
    >>> describe_column([1, None, 2.5], "x")[1]
    [1.0, nan, 2.5]
    >>> describe_column([1, "a"], "x")
    Traceback (most recent call last):
    pipeline.errors.PipelineTypeError: wanted values of one kind, there are 1 (integer) and 'a' (text).
    """
    if isinstance(values, numpy.ndarray) and values.ndim == 0:
        raise PipelineTypeError(f"wanted a column, one element a row; there is {short(values)}.")
    if isinstance(values, numpy.ma.MaskedArray):
        return _describe_masked(values, source)
    if isinstance(values, numpy.ndarray) and values.dtype.kind != "O":
        return _describe_array(values, source)
    return _describe_objects(list(values), source)


def _describe_masked(values: Any, source: str) -> tuple[Document, list[Any]]:
    if not numpy.ma.is_masked(values):
        return _describe_array(values.filled(), source)
    if values.ndim > 1 and values.dtype.kind == "f":
        return _describe_array(values.filled(numpy.nan), source)
    if values.ndim > 1:
        raise PipelineValueError("wanted whole arrays, there are masked elements; only arrays of floats can lack some.")
    return _describe_objects([None if hidden else value for value, hidden in _with_mask(values)], source)


def _with_mask(values: Any) -> Any:
    return zip(values.data, numpy.ma.getmaskarray(values), strict=True)


def _describe_array(array: numpy.ndarray, source: str) -> tuple[Document, list[Any]]:
    if array.dtype.kind in "mM":
        return _describe_times(array, source)
    array = _storable(array)
    if array.ndim > 1:
        data_key = data_key_of(source, "array", array.dtype.str, array.shape[1:])
        return data_key, list(array)
    dtype_numpy = "<U0" if array.dtype.kind == "U" else array.dtype.str
    return scalar(source, array.dtype.kind, dtype_numpy), array.tolist()


def _storable(array: numpy.ndarray) -> numpy.ndarray:
    """Return a copy in a dtype that every catalog knows, or refuse."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "T":  # numpy's text of any length
        return array.astype("U")
    if kind not in "biufU" or (kind == "f" and size > 8):
        raise PipelineTypeError(f"wanted numbers, text, booleans or datetimes, there is {array.dtype}.")
    if kind == "f" and numpy.isinf(array).any():
        raise PipelineValueError("wanted finite numbers, or NaN for none; there is an infinite one.")
    if kind == "u" and size == 8 and array.size and array.max() >= 2**63:
        raise PipelineValueError(f"wanted integers below 2**63, there is {array.max()}.")
    return numpy.array(array, array.dtype.newbyteorder("<"), order="C")


def _describe_times(array: numpy.ndarray, source: str) -> tuple[Document, list[Any]]:
    kind, integers = nanoseconds(array)
    data_key, values = _describe_array(integers, source)
    return {**data_key, "units": UNITS[kind], "kind": kind}, values


def _describe_objects(values: list[Any], source: str) -> tuple[Document, list[Any]]:
    values = [None if is_missing(value) else value for value in values]
    present = [value for value in values if value is not None]
    if any(isinstance(value, list | tuple) or getattr(value, "ndim", 0) for value in present):
        return _describe_rows(values, source)
    kinds: dict[str, Any] = {}  # kind -> the first value of it
    for value in present:
        kinds.setdefault(_kind(value), value)
    if len(kinds) == 2 and "f" in kinds and kinds.keys() & {"U", "b"}:
        values = [None if value != value else value for value in values]  # as pandas and xarray have it
        kinds = {_kind(value): value for value in reversed(values) if value is not None}
    if kinds.keys() == {"i", "f"}:
        kinds = {"f": kinds["f"]}
    if len(kinds) > 1:
        (one, a), (other, b), *_ = kinds.items()
        raise PipelineTypeError(
            f"wanted values of one kind, there are {short(a)} ({_WORDS[one]}) and {short(b)} ({_WORDS[other]})."
        )
    return _DESCRIBE[next(iter(kinds), "f")](values, source)


def _kind(value: Any) -> str:
    """Return the kind of a scalar: numpy's letters, of which `i` is any integer."""
    for kind, types in _KINDS:
        if isinstance(value, types):
            return kind
    array = value if isinstance(value, numpy.ndarray) else None
    if array is not None and array.dtype.kind in "biufUmM":
        return "i" if array.dtype.kind == "u" else array.dtype.kind
    raise refused(value)


_KINDS: list[tuple[str, Any]] = [
    ("b", (bool, numpy.bool)),
    ("m", (timedelta, numpy.timedelta64)),  # before integers, of which numpy takes it for one
    ("M", (datetime, numpy.datetime64)),
    ("i", (int, numpy.integer)),
    ("f", (float, numpy.floating)),
    ("U", (str,)),
]


def _width(values: list[Any], wide: str) -> str:
    """Return the dtype of numpy scalars that all have the same, else the wide one."""
    dtypes = {getattr(value, "dtype", None) for value in values if value is not None}
    same = dtypes.pop() if len(dtypes) == 1 else None
    return wide if same is None else same.newbyteorder("<").str


def _describe_numbers(values: list[Any], source: str) -> tuple[Document, list[Any]]:
    dtype_numpy = _width(values, "<f8")
    if dtype_numpy[1] != "f" or int(dtype_numpy[2:]) > 8:
        dtype_numpy = "<f8"
    numbers = [exactly(_cast["number"])(value) for value in values]
    _storable(numpy.array(numbers))
    return scalar(source, "f", dtype_numpy), numbers


def _describe_integers(values: list[Any], source: str) -> tuple[Document, list[Any]]:
    if None in values:  # numbers can lack values, integers cannot
        return _describe_numbers([value if value is None else int(value) for value in values], source)
    return scalar(source, "i", _width(values, "<i8")), [_cast["integer"](value) for value in values]


def _describe_booleans(values: list[Any], source: str) -> tuple[Document, list[Any]]:
    return scalar(source, "b", "|b1"), [_cast["boolean"](value) for value in values]


def _describe_texts(values: list[Any], source: str) -> tuple[Document, list[Any]]:
    return scalar(source, "U", "<U0"), [_cast["string"](value) for value in values]


def _describe_moments(values: list[Any], source: str, letter: str = "M") -> tuple[Document, list[Any]]:
    if len({getattr(value, "tzinfo", None) is None for value in values if value is not None}) > 1:
        raise PipelineValueError("wanted datetimes that all have a time zone, or none; there are both.")
    nothing = numpy.datetime64("NaT") if letter == "M" else numpy.timedelta64("NaT")
    moments = [nothing if value is None else moment(value) for value in values]
    columns = [_describe_times(numpy.array([each]), source) for each in moments]  # each of its own precision
    return columns[0][0], [value for _, one in columns for value in one]


_DESCRIBE: dict[str, Callable[[list[Any], str], tuple[Document, list[Any]]]] = {
    "f": _describe_numbers,
    "i": _describe_integers,
    "b": _describe_booleans,
    "U": _describe_texts,
    "M": _describe_moments,
    "m": partial(_describe_moments, letter="m"),
}


def _describe_rows(values: list[Any], source: str) -> tuple[Document, list[Any]]:
    """Describe rows that are arrays: of one shape, or ragged."""
    rows = [_row(value) for value in values]
    if len({row.ndim for row in rows}) > 1:
        raise PipelineValueError(f"wanted rows of as many dimensions, there are shapes {_shapes(rows)}.")
    if len({row.shape for row in rows}) == 1:
        return _describe_array(_joined(rows), source)
    if rows[0].ndim > 1:
        raise PipelineValueError(f"wanted images of one shape, there are shapes {_shapes(rows)}.")
    flat = _joined([row.ravel() for row in rows], numpy.concatenate)
    data_key, _ = _describe_array(flat[:, None], source)
    ends = numpy.cumsum([row.size for row in rows])[:-1]
    parts = numpy.split(flat.astype("i8" if "kind" in data_key else data_key["dtype_numpy"]), ends)
    return {**data_key, "shape": [None]}, parts


def _row(value: Any) -> numpy.ndarray:
    if value is None:
        raise PipelineValueError("wanted an array in each row, there is None; an array of NaN will do.")
    array = numpy.asarray(value) if _is_even(value) else None
    if array is None or array.ndim == 0 or array.dtype.kind not in "biufUmM":
        raise PipelineTypeError(f"wanted an array of numbers, texts or booleans in each row, there is {short(value)}.")
    return array


def _is_even(value: Any) -> bool:
    try:
        numpy.asarray(value)
    except ValueError:
        return False
    return True


def _joined(rows: list[numpy.ndarray], join: Callable[[list[numpy.ndarray]], numpy.ndarray] = numpy.stack) -> Any:
    """Join rows, if they are of one kind; empty ones are of any."""
    kinds = {"n" if row.dtype.kind in "iuf" else row.dtype.kind for row in rows if row.size}
    if len(kinds) > 1:
        raise PipelineTypeError(f"wanted rows of one kind, there are {sorted({str(row.dtype) for row in rows})}.")
    full = [row for row in rows if row.size] or rows
    dtype = numpy.result_type(*full)
    for row in full:
        check_same(row, row.astype(dtype))
    return join([row.astype(dtype) for row in rows])


def _shapes(rows: list[numpy.ndarray]) -> str:
    return short(sorted({row.shape for row in rows}))

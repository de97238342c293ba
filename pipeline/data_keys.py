"""Data keys: what a value or a column is, and values as their data key says."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy

from pipeline.documents import Document
from pipeline.errors import PipelineError, PipelineTypeError, PipelineValueError

UNITS = {  # of times, which documents hold as integers
    "datetime64[ns]": "nanoseconds since 1970-01-01",
    "timedelta64[ns]": "nanoseconds",
}
NOT_A_TIME = -(2**63)
_DTYPES = {"b": "boolean", "i": "integer", "u": "integer", "f": "number", "U": "string"}
_WIDE = {"b": "|b1", "i": "<i8", "u": "<i8", "f": "<f8", "U": "<U0"}
_WORDS = {"b": "boolean", "i": "integer", "f": "number", "U": "text", "M": "datetime", "m": "time difference"}


# one value ---------------------------------------------------------------------------------------------------------


def describe(value: Any, source: str) -> Document:
    """Return the data key of a value: dtype, dtype_numpy and true shape.

    >>> describe(numpy.float32(1.5), "det")
    {'source': 'det', 'dtype': 'number', 'dtype_numpy': '<f8', 'shape': []}
    >>> describe(numpy.zeros((4, 5), "u2"), "cam")
    {'source': 'cam', 'dtype': 'array', 'dtype_numpy': '<u2', 'shape': [4, 5]}
    """
    if isinstance(value, str):
        return _scalar(source, "U", "<U0")
    array = _array(value)
    if array.ndim:
        return _data_key(source, "array", array.dtype.str, array.shape)
    return _scalar(source, array.dtype.kind, _WIDE[array.dtype.kind])


def _data_key(source: str, dtype: str, dtype_numpy: str, shape: Sequence[int | None]) -> Document:
    return {"source": source, "dtype": dtype, "dtype_numpy": dtype_numpy, "shape": list(shape)}


def _scalar(source: str, kind: str, dtype_numpy: str) -> Document:
    return _data_key(source, _DTYPES[kind], dtype_numpy, [])


def _array(value: Any) -> numpy.ndarray:
    try:
        array = numpy.asarray(value)
    except ValueError:
        raise PipelineValueError(f"wanted rows of one length, there are ragged ones: {short(value)}.") from None
    if array.dtype.kind in "biuf" or (array.ndim and array.dtype.kind == "U"):
        return array
    raise _refused(value)


def _refused(value: Any) -> PipelineTypeError:
    return PipelineTypeError(f"wanted a number, text, boolean, datetime or an array of them, there is {short(value)}.")


def short(value: Any) -> str:
    """Return a value as an error shows it."""
    text = " ".join(repr(value).split())
    return text if len(text) < 60 else f"{text[:57]}..."


# a column ----------------------------------------------------------------------------------------------------------


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
        data_key = _data_key(source, "array", array.dtype.str, array.shape[1:])
        return data_key, list(array)
    dtype_numpy = "<U0" if array.dtype.kind == "U" else array.dtype.str
    return _scalar(source, array.dtype.kind, dtype_numpy), array.tolist()


def _storable(array: numpy.ndarray) -> numpy.ndarray:
    """Return a copy in a dtype that every catalog knows, or refuse."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "T":  # numpy's text of any length
        return array.astype("U")
    if kind not in "biufU" or (kind == "f" and size > 8):
        raise PipelineTypeError(f"wanted numbers, text, booleans or datetimes, there is {array.dtype}.")
    if kind == "u" and size == 8 and array.size and array.max() >= 2**63:
        raise PipelineValueError(f"wanted integers below 2**63, there is {array.max()}.")
    return numpy.array(array, array.dtype.newbyteorder("<"), order="C")


def _describe_times(array: numpy.ndarray, source: str) -> tuple[Document, list[Any]]:
    kind = f"{'datetime' if array.dtype.kind == 'M' else 'timedelta'}64[ns]"
    nanoseconds = array.astype(kind)
    if not numpy.array_equal(nanoseconds.astype(array.dtype), array, equal_nan=True):
        raise PipelineValueError("wanted times between the years 1678 and 2262, to the nanosecond; there are others.")
    data_key, values = _describe_array(nanoseconds.view("i8"), source)
    return {**data_key, "units": UNITS[kind], "kind": kind}, values


def _describe_objects(values: list[Any], source: str) -> tuple[Document, list[Any]]:
    values = [None if _is_missing(value) else value for value in values]
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


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType", "MaskedConstant")


def _kind(value: Any) -> str:
    """Return the kind of a scalar: numpy's letters, of which `i` is any integer."""
    for kind, types in _KINDS:
        if isinstance(value, types):
            return kind
    array = value if isinstance(value, numpy.ndarray) else None
    if array is not None and array.dtype.kind in "biufUmM":
        return "i" if array.dtype.kind == "u" else array.dtype.kind
    raise _refused(value)


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
    return _scalar(source, "f", dtype_numpy), [exactly(_cast_number)(value) for value in values]


def _describe_integers(values: list[Any], source: str) -> tuple[Document, list[Any]]:
    if None in values:  # numbers can lack values, integers cannot
        return _describe_numbers([value if value is None else int(value) for value in values], source)
    return _scalar(source, "i", _width(values, "<i8")), [_cast_integer(value) for value in values]


def _describe_booleans(values: list[Any], source: str) -> tuple[Document, list[Any]]:
    return _scalar(source, "b", "|b1"), [_cast_boolean(value) for value in values]


def _describe_texts(values: list[Any], source: str) -> tuple[Document, list[Any]]:
    return _scalar(source, "U", "<U0"), [_cast_string(value) for value in values]


def _describe_moments(values: list[Any], source: str, letter: str = "M") -> tuple[Document, list[Any]]:
    nothing = numpy.datetime64("NaT") if letter == "M" else numpy.timedelta64("NaT")
    if len({getattr(value, "tzinfo", None) is None for value in values if value is not None}) > 1:
        raise PipelineValueError("wanted datetimes that all have a time zone, or none; there are both.")
    moments = [nothing if value is None else _moment(value) for value in values]
    columns = [_describe_times(numpy.array([moment]), source) for moment in moments]  # each of its own precision
    return columns[0][0], [value for _, one in columns for value in one]


def _moment(value: Any) -> Any:
    if hasattr(value, "asm8"):  # pandas
        return (value.tz_convert("UTC").tz_localize(None) if getattr(value, "tzinfo", None) else value).asm8
    if isinstance(value, datetime):
        naive = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        return numpy.datetime64(naive, "us")
    return numpy.timedelta64(value, "us") if isinstance(value, timedelta) else value


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
        _check_same(row, row.astype(dtype))
    return join([row.astype(dtype) for row in rows])


def _shapes(rows: list[numpy.ndarray]) -> str:
    return short(sorted({row.shape for row in rows}))


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
        _check_same(array, cast)
    return cast


def _are_numbers(one: numpy.dtype, other: numpy.dtype) -> bool:
    return one.kind in "iu" and other.kind in "iuf"


def _check_same(array: numpy.ndarray, cast: numpy.ndarray) -> None:
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
    data_key, (cast,) = describe_column([numpy.datetime64("NaT") if _is_missing(value) else value], "")
    is_missing = not data_key["shape"] and cast == NOT_A_TIME
    if data_key.get("kind") != kind and not is_missing:
        raise PipelineTypeError(f"wanted a {kind.partition('64')[0]}, there is {short(value)}.")
    return cast if not shape else _cast_array(cast, shape, numpy.dtype("<i8"))


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
        if not isinstance(value, int | numpy.integer) and _array(value).dtype.kind not in "iu":
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

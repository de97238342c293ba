"""A column: one variable of a table, with all that a file must keep to give it back as it was."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from pipeline.documents import Document, dumps
from pipeline.errors import PipelineTypeError, PipelineValueError

OBJECT = "object"
TEXT = "text"  # numpy's, of any length
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|U\d{1,6}|[mM]8(\[\w{1,16}\])?)")
_KINDS = {
    "b": "number",
    "i": "number",
    "u": "number",
    "f": "number",
    "M": "time",
    "m": "time",
    "U": "text",
    "T": "text",
}


@dataclass(frozen=True, eq=False)
class Column:
    """One variable of a table.

    Parameters
    ----------
    name
        Any text.
    dims
        The names of its dimensions.
    kind
        `number` (booleans too), `time` (moments and time differences), `text`, `flag` (booleans of which some are
        missing) or `ragged` (an array of its own length in each row).
    dtype
        As numpy writes it; of ragged rows that of a row; `object` where None stands for what is missing; `text` of
        numpy's text of any length.
    values
        As `dims` and `dtype` say.
    attrs
        JSON values; `units` is one of them.
    is_coordinate
        Whether it is what others stand against.
    """

    name: str
    dims: tuple[str, ...]
    kind: str
    dtype: str
    values: numpy.ndarray
    attrs: Document = field(default_factory=dict)
    is_coordinate: bool = False

    def describe(self) -> Document:
        """Return all but the values, as JSON."""
        return {
            "name": self.name,
            "dims": list(self.dims),
            "kind": self.kind,
            "dtype": self.dtype,
            "shape": list(self.values.shape),
            "attrs": self.attrs,
            "coordinate": self.is_coordinate,
        }

    @property
    def missing(self) -> numpy.ndarray:
        """Where there is no value, as booleans."""
        if self.dtype != OBJECT:
            return numpy.zeros(self.values.shape, bool)
        return is_none(self.values)


def is_none(values: numpy.ndarray) -> numpy.ndarray:
    """Tell where None stands.

    >>> is_none(numpy.array(["a", None], object))
    array([False,  True])
    """
    flat = numpy.array([value is None for value in values.ravel().tolist()], bool)
    return flat.reshape(values.shape)


def with_none(values: numpy.ndarray) -> numpy.ndarray:
    """Return objects with None for whatever means a missing one: xarray and pandas put NaN and their own there.

    >>> with_none(numpy.array(["a", float("nan")], object)).tolist()
    ['a', None]
    """
    if hasattr(values.dtype, "na_object"):  # numpy's text of any length, that knows of missing ones
        values = values.astype(object)
    if values.dtype != object:
        return values
    flat = values.ravel()
    missing = [i for i, value in enumerate(flat.tolist()) if _is_missing(value)]
    if missing:
        flat = flat.copy()
        flat[missing] = None
    return flat.reshape(values.shape)


def _is_missing(value: Any) -> bool:
    return (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")


def column_of(description: Document, values: Any) -> Column:
    """Return the column that was described so, holding these values.

    >>> x = Column("x", ("row",), "number", "<u2", numpy.array([1, 2], "u2"), {"units": "mm"})
    >>> column_of(x.describe(), [1, 2]).values
    array([1, 2], dtype=uint16)
    """
    values = values if description["kind"] == "ragged" else numpy.asarray(values, dtype_of(description))
    names = ("name", "kind", "dtype", "attrs")
    return Column(
        values=values,
        dims=tuple(description["dims"]),
        is_coordinate=bool(description["coordinate"]),
        **{name: description[name] for name in names},
    )


def dtype_of(description: Document) -> Any:
    """Return the dtype of a description, which a file may have made up: only of numbers, text and times.

    >>> dtype_of({"dtype": "V8"})
    Traceback (most recent call last):
    pipeline.errors.PipelineValueError: wanted a dtype of numbers, text or times, there is 'V8'.
    """
    text = description["dtype"]
    if text == OBJECT:
        return numpy.dtype(object)
    if text == TEXT:
        return numpy.dtypes.StringDType()
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise PipelineValueError(f"wanted a dtype of numbers, text or times, there is {text!r}.")
    return numpy.dtype(text)


def plain(values: Any, place: str) -> Document:
    """Return this dict as it is once JSON was made of it.

    >>> plain({"q": (1, numpy.float32(0.5), float("nan")), "n": 2**70}, "start")
    {'q': [1, 0.5, None], 'n': 1180591620717411303424}
    """
    line = dumps(place, {str(key): value for key, value in values.items()})
    return json.loads(line)[1]  # not orjson's: it makes floats of integers of more than 64 bits


def kind_of(values: numpy.ndarray, place: str) -> tuple[str, str]:
    """Return the kind and the dtype of these values, as `Column` has them.

    Raises
    ------
    PipelineTypeError
        If they are none that a run can hold: it names the place.

    >>> kind_of(numpy.array([True, None]), "a.csv, column 'x'")
    ('flag', 'object')
    """
    letter, dtype = values.dtype.kind, values.dtype.str
    if letter == "O":
        return _object_kind(values, place)
    if letter not in _KINDS or (letter == "f" and values.dtype.itemsize > 8):
        raise PipelineTypeError(f"{place}: wanted numbers, text, booleans or datetimes, there is {values.dtype}.")
    return _KINDS[letter], TEXT if letter == "T" else dtype


def _object_kind(values: numpy.ndarray, place: str) -> tuple[str, str]:
    flat = values.ravel().tolist()
    types = {type(value) for value in flat if value is not None}
    if all(issubclass(each, str) for each in types):
        return "text", OBJECT
    if all(issubclass(each, bool | numpy.bool) for each in types):
        return "flag", OBJECT
    if values.ndim == 1 and None not in types and all(issubclass(each, numpy.ndarray) for each in types):
        return "ragged", _row_dtype(flat, place)
    raise PipelineTypeError(
        f"{place}: wanted numbers, text or None, booleans or None, datetimes or an array in each row; "
        f"there are {sorted(each.__name__ for each in types)}."
    )


def _row_dtype(rows: Sequence[Any], place: str) -> str:
    if any(row is None or row.ndim != 1 for row in rows):
        raise PipelineTypeError(f"{place}: wanted an array of one dimension in each row; there are other rows.")
    dtypes = {row.dtype.str for row in rows}
    if len(dtypes) != 1:
        raise PipelineTypeError(f"{place}: wanted rows of one dtype, there are {sorted(dtypes)}.")
    dtype = dtypes.pop()
    if not _DTYPE.fullmatch(dtype):
        raise PipelineTypeError(f"{place}: wanted rows of numbers, text or times, there are rows of {dtype}.")
    return dtype


def ragged(rows: Iterable[numpy.ndarray]) -> numpy.ndarray:
    """Return rows, each an array of its own length, as one array of them.

    >>> ragged([numpy.zeros(2), numpy.zeros(2)]).shape
    (2,)
    """
    rows = list(rows)
    array = numpy.empty(len(rows), object)
    for i, row in enumerate(rows):
        array[i] = row
    return array

"""A part: an array such as HDF5 and NetCDF hold, of which one or two make a column."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from pipeline.documents import Document
from pipeline.errors import PipelineValueError
from pipeline.files.column import OBJECT, Column, column_of, dtype_of, is_none, ragged

NO_FLAG = -1
NO_TIME = numpy.iinfo("i8").min
_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_SHOWN = ("units", "long_name", "standard_name", "description")


@dataclass(frozen=True, eq=False)
class Part:
    """An array of numbers, or of text as Python objects, with what any reader of the file should know of it."""

    suffix: str
    dims: tuple[str, ...]
    values: numpy.ndarray
    attrs: dict[str, Any] = field(default_factory=dict)


def parts_of(column: Column, place: str) -> list[Part]:
    """Return the arrays that hold a column.

    Moments are integers, with units as CF has them; a missing text is empty, a missing boolean -1; ragged rows are one
    array and the lengths of its rows (a contiguous ragged array, as CF calls it).

    >>> rows = ragged([numpy.array([1.0]), numpy.array([2.0, 3.0])])
    >>> [part.values.tolist() for part in parts_of(Column("I", ("row",), "ragged", "<f8", rows), "a.nc")]
    [[1.0, 2.0, 3.0], [1, 2]]
    """
    if column.kind != "ragged":
        return [
            Part("", column.dims, *_encode(column.kind, column.values, _shown(column), f"{place}, {column.name!r}"))
        ]
    flat = numpy.concatenate([numpy.empty(0, dtype_of(column.describe())), *column.values])
    kind = {"M": "time", "m": "time", "U": "text"}.get(flat.dtype.kind, "number")
    elements = f"{column.name}_elements"
    lengths = numpy.array([len(row) for row in column.values], "i8")
    return [
        Part("", (elements,), *_encode(kind, flat, _shown(column), f"{place}, {column.name!r}")),
        Part("_lengths", column.dims, lengths, {"sample_dimension": elements}),
    ]


def _shown(column: Column) -> dict[str, str]:
    names = {"long_name": column.name} | {key: column.attrs[key] for key in _SHOWN if key in column.attrs}
    return {key: value for key, value in names.items() if isinstance(value, str) and value and "\0" not in value}


def _encode(
    kind: str, values: numpy.ndarray, attrs: dict[str, Any], place: str
) -> tuple[numpy.ndarray, dict[str, Any]]:
    if kind == "time":
        unit, _ = numpy.datetime_data(values.dtype)
        since = " since 1970-01-01" if values.dtype.kind == "M" else ""
        return values.astype("i8"), attrs | {"units": _UNITS[unit] + since, "_FillValue": numpy.int64(NO_TIME)}
    if kind == "flag":
        flags = numpy.array(numpy.where(is_none(values), NO_FLAG, values), "i1")
        return flags, attrs | {"_FillValue": numpy.int8(NO_FLAG)}
    if kind == "text":
        return _texts(values, place), attrs
    return values, attrs


def _texts(values: numpy.ndarray, place: str) -> numpy.ndarray:
    texts = numpy.where(is_none(values), "", values) if values.dtype == object else values
    texts = texts.astype(object)
    bad = next((text for text in texts.ravel() if "\0" in text or not _is_unicode(text)), None)
    if bad is not None:
        raise PipelineValueError(f"{place}: wanted text without NUL and half characters, there is {bad[:60]!r}.")
    return texts


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def missing_of(column: Column) -> list[int]:
    """Return the places, counted through, at which a column of text has none."""
    return numpy.flatnonzero(column.missing).tolist() if column.kind == "text" else []


def column_of_parts(description: Document, parts: Sequence[numpy.ndarray]) -> Column:
    """Return the column that these arrays hold."""
    if description["kind"] == "ragged":
        flat = _decode(parts[0], description)
        rows = numpy.split(flat, numpy.cumsum(parts[1])[:-1]) if len(parts[1]) else []
        return column_of(description, ragged(rows))
    values = _decode(parts[0], description)
    if missing := description.get("missing"):
        values.ravel()[missing] = None
    return column_of(description, values)


def _decode(values: numpy.ndarray, description: Document) -> numpy.ndarray:
    dtype = dtype_of(description)
    if description["kind"] == "flag":
        flags = values.astype(bool).astype(object)
        flags[values == NO_FLAG] = None
        return flags
    return values.astype(object if description["dtype"] == OBJECT else dtype)

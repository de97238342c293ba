"""Parquet files: a stream each."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

from pipeline.documents import Document
from pipeline.errors import PipelineError, PipelineTypeError, PipelineValueError
from pipeline.files.array_text import array_from_text, array_to_text
from pipeline.files.cells import nanoseconds, with_gaps
from pipeline.files.column import OBJECT, Column, column_of, dtype_of, kind_of, ragged
from pipeline.files.file_name import run_stem, stream_stem
from pipeline.files.formats import require
from pipeline.files.table import Table, table_of

LAYOUT = b"bluesky_layout"
START = b"bluesky_start"
_OTHERS = {LAYOUT, START, b"pandas", b"ARROW:schema"}


# write -------------------------------------------------------------------------------------------------------------


def write_parquet(directory: Path, start: Document, tables: Sequence[Table]) -> None:
    """Write a Parquet file for each stream: units in the metadata of a field, the start document in the schema's.

    >>> import tempfile
    >>> x = Column("x", ("row",), "number", "<f8", numpy.array([0.5]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_parquet(Path(folder), {"uid": "7f3c"}, [Table("final", [x])])
    ...     table, start, _ = read_parquet(Path(folder, "7f3c-final.parquet"))
    >>> table.name, table.columns[0].values, start
    ('final', array([0.5]), {'uid': '7f3c'})
    """
    arrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    for table in tables:
        layout = table.describe()
        constants = {column.name: array_to_text(column.values) for column in table.constants}
        for column in layout["columns"]:
            if column["name"] in constants:
                column["values"] = constants[column["name"]]
        fields, arrays = [], []
        for column in table.row_columns:
            array = _arrow(arrow, column, f"stream {table.name!r}, column {column.name!r}")
            arrays.append(array)
            fields.append(arrow.field(column.name, array.type, metadata=_texts(column.attrs)))
        facts = {START: json.dumps(start, allow_nan=False), LAYOUT: json.dumps(layout, allow_nan=False)}
        stored = arrow.table(arrays, schema=arrow.schema(fields, metadata=facts))
        path = directory / f"{run_stem(str(start.get('uid')))}-{stream_stem(table.name)}.parquet"
        try:
            parquet.write_table(stored, path, version="2.6")
        except arrow.ArrowException as error:
            raise PipelineValueError(f"stream {table.name!r}: Parquet cannot hold it: {error}") from None


def _texts(attrs: Document) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in attrs.items()}


def _arrow(arrow: Any, column: Column, place: str) -> Any:
    try:
        if column.kind == "ragged":
            empty = numpy.empty(0, dtype_of(column.describe()))
            flat = _arrow_of(arrow, numpy.concatenate([empty, *column.values]))
            return _nested(arrow, flat, numpy.array([len(row) for row in column.values]))
        array = _arrow_of(arrow, column.values.ravel())
        for axis in range(column.values.ndim - 1, 0, -1):
            lengths = numpy.full(numpy.prod(column.values.shape[:axis]), column.values.shape[axis])
            array = _nested(arrow, array, lengths)
        return array
    except (arrow.ArrowException, UnicodeError, OverflowError) as error:
        raise PipelineValueError(f"{place}: Parquet cannot hold it: {error}") from None


def _arrow_of(arrow: Any, values: numpy.ndarray) -> Any:
    """Return values, one after another, as arrow has them; NaN stays NaN, None and NaT are null."""
    if values.dtype.kind in "OUT":
        flat = values.tolist()
        is_flag = any(isinstance(value, bool | numpy.bool) for value in flat)
        return arrow.array(flat, arrow.bool_() if is_flag else arrow.string())
    return arrow.array(values.astype(values.dtype.newbyteorder("=")))


def _nested(arrow: Any, flat: Any, lengths: numpy.ndarray) -> Any:
    offsets = numpy.concatenate([[0], numpy.cumsum(lengths)])
    if offsets[-1] < 2**31:
        return arrow.ListArray.from_arrays(arrow.array(offsets, arrow.int32()), flat)
    return arrow.LargeListArray.from_arrays(arrow.array(offsets, arrow.int64()), flat)


# read --------------------------------------------------------------------------------------------------------------


def read_parquet(path: Path) -> tuple[Table, Document | None, Document]:
    """Read a Parquet file: the table, the start document if there is one, other facts.

    Raises
    ------
    PipelineValueError
        If it is none, or a column is of a kind that a run cannot hold: it names the file and the column.
    """
    arrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    try:
        stored = parquet.read_table(path)
        facts = stored.schema.metadata or {}
        if LAYOUT in facts:
            return _read_own(stored, json.loads(facts[LAYOUT])), json.loads(facts[START]), {}
        return Table("primary", _foreign_columns(path, stored)), None, _facts(facts)
    except PipelineError:
        raise
    except (arrow.ArrowException, OSError, ValueError, KeyError, TypeError, LookupError) as error:
        raise PipelineValueError(f"{path}: wanted a Parquet file: {error}") from None


def _read_own(stored: Any, layout: Document) -> Table:
    columns = []
    for description in layout["columns"]:
        if "values" in description:
            values = array_from_text(description["values"], description).reshape(description["shape"])
        else:
            values = _own_values(stored[description["name"]].combine_chunks(), description)
        columns.append(column_of(description, values))
    return table_of(layout, columns)


def _own_values(array: Any, description: Document) -> numpy.ndarray:
    if description["kind"] == "ragged":
        lengths = array.value_lengths().to_numpy(zero_copy_only=False)
        flat = _flat(array.flatten(), description)
        return ragged(numpy.split(flat, numpy.cumsum(lengths)[:-1]) if len(lengths) else [])
    shape = [len(array), *description["shape"][1:]]
    for _ in shape[1:]:
        array = array.flatten()
    return _flat(array, description).reshape(shape)


def _flat(array: Any, description: Document) -> numpy.ndarray:
    dtype = dtype_of(description)
    if dtype.kind in "OUT" or description["dtype"] == OBJECT:
        return numpy.array(array.to_pylist(), dtype)
    return array.to_numpy(zero_copy_only=False).astype(dtype)


def _facts(facts: dict[bytes, bytes]) -> Document:
    return {
        key.decode(errors="replace"): text.decode(errors="replace") for key, text in facts.items() if key not in _OTHERS
    }


def _foreign_columns(path: Path, stored: Any) -> list[Column]:
    require("pyarrow.types")
    indexes = [name for name in (stored.schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(name, str)]
    while any(str(field.type).startswith("struct") for field in stored.schema):
        stored = stored.flatten()
    return [
        _foreign(field, stored[i].combine_chunks(), field.name in indexes, f"{path}, column {field.name!r}")
        for i, field in enumerate(stored.schema)
    ]


def _foreign(field: Any, array: Any, is_index: bool, place: str) -> Column:
    values = _values(array, place)
    kind, dtype = kind_of(values, place)
    name = "index" if is_index and field.name.startswith("__index_level_") else field.name
    dims = ("row", *(f"{name}_{i}" for i in range(1, values.ndim)))
    facts = {key.decode(): text.decode() for key, text in (field.metadata or {}).items()}
    attrs = {key: text for key, text in facts.items() if not key.startswith(("PARQUET:", "ARROW:"))}
    return Column(name, dims, kind, dtype, values, attrs, is_index)


def _values(array: Any, place: str) -> numpy.ndarray:
    """Return an arrow array as numpy's: lists as further dimensions, or ragged."""
    import pyarrow.types as types

    kind = array.type
    if types.is_dictionary(kind):
        return _values(array.dictionary_decode(), place)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        rows = [_values(row.values, place) if row.is_valid else numpy.empty(0) for row in array]
        return numpy.stack(rows) if rows and len({row.shape for row in rows}) == 1 else ragged(rows)
    if types.is_integer(kind) and array.null_count:
        return with_gaps(array.to_pylist(), place)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_boolean(kind):
        return numpy.array(array.to_pylist(), bool if types.is_boolean(kind) and not array.null_count else object)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_duration(kind):
        return array.to_numpy(zero_copy_only=False)
    if types.is_date(kind) or types.is_timestamp(kind):
        return nanoseconds(array.to_numpy(zero_copy_only=False), place)
    if types.is_null(kind):
        return numpy.full(len(array), numpy.nan)
    raise PipelineTypeError(f"{place}: wanted numbers, text, booleans, datetimes or lists of them, there is {kind}.")

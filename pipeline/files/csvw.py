"""CSV on the Web: the file beside a CSV that tells its types, units and facts."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pipeline.documents import Document
from pipeline.errors import PipelineValueError
from pipeline.files.column import Column
from pipeline.files.table import Table

ENDING = "-metadata.json"
UNITS = "schema:unitText"
LAYOUT = "urn:bluesky-pipeline:layout"
START = "urn:bluesky-pipeline:start"
_NULLS = ("", "NA", "null", "None")
_DATATYPES = {
    "b1": "boolean",
    "i1": "byte",
    "i2": "short",
    "i4": "int",
    "i8": "long",
    "u1": "unsignedByte",
    "u2": "unsignedShort",
    "u4": "unsignedInt",
    "u8": "unsignedLong",
    "f2": "float",
    "f4": "float",
    "f8": "double",
}
_DTYPES = {datatype: f"<{dtype}" for dtype, datatype in _DATATYPES.items() if dtype != "f2"} | {
    "boolean": "|b1",
    "integer": "<i8",
    "nonNegativeInteger": "<i8",
    "positiveInteger": "<i8",
    "nonPositiveInteger": "<i8",
    "negativeInteger": "<i8",
    "number": "<f8",
    "decimal": "<f8",
    "dateTime": "<M8[ns]",
    "datetime": "<M8[ns]",
    "dateTimeStamp": "<M8[ns]",
    "date": "<M8[ns]",
}


def sidecar_path(path: Path) -> Path:
    """Return where what tells of a CSV file stands.

    >>> sidecar_path(Path("a/results.csv")).name
    'results.csv-metadata.json'
    """
    return path.with_name(path.name + ENDING)


def null_of(column: Column) -> str:
    """Return the text that stands for a missing cell: one that no cell of this column has.

    >>> import numpy
    >>> null_of(Column("s", ("row",), "text", "object", numpy.array(["", "NA", None], object)))
    'null'
    """
    taken = set(column.values.tolist()) if column.kind == "text" and column.values.ndim == 1 else set()
    return next(null for null in (*_NULLS, *map("missing{}".format, range(len(taken)))) if null not in taken)


def make_sidecar(name: str, table: Table, start: Document, constants: Mapping[str, str]) -> Document:
    """Return what tells of a CSV file, as W3C's recommendation has it.

    Parameters
    ----------
    name
        Of the CSV file.
    table
        What it holds.
    start
        The start document of the run.
    constants
        The columns that have no value in each row, as JSON text.
    """
    layout = table.describe()
    for column in layout["columns"]:
        if column["name"] in constants:
            column["values"] = constants[column["name"]]
    return {
        "@context": "http://www.w3.org/ns/csvw",
        "url": name,
        "dc:title": f"Stream {table.name} of run {start.get('uid', '')}",
        "dialect": {"encoding": "utf-8", "lineTerminators": ["\r\n", "\n"]},
        "tableSchema": {"columns": [_describe(i, column) for i, column in enumerate(table.row_columns, 1)]},
        LAYOUT: json.dumps(layout, allow_nan=False),
        START: json.dumps(start, allow_nan=False),
    }


def _describe(number: int, column: Column) -> Document:
    name = quote(column.name, safe="").replace("-", "%2D").replace("~", "%7E")
    document: Document = {"name": name if name and name[0] != "_" else f"column{number}", "titles": column.name}
    document |= {"datatype": _datatype(column), "null": [null_of(column)]}
    units = column.attrs.get("units")
    return document | ({UNITS: units} if isinstance(units, str) else {})


def _datatype(column: Column) -> str:
    if column.kind == "ragged" or column.values.ndim > 1:
        return "json"
    if column.kind == "number":
        return _DATATYPES[column.dtype[1:]]
    if column.kind == "time":
        return "datetime" if column.values.dtype.kind == "M" else "long"
    return "boolean" if column.kind == "flag" else "string"


def read_sidecar(path: Path) -> Document | None:
    """Return what is told of this CSV file beside it, or None.

    Raises
    ------
    PipelineValueError
        If what is there tells nothing of this file.
    """
    sidecar = sidecar_path(path)
    if not sidecar.exists():
        return None
    try:
        document = json.loads(sidecar.read_bytes())
        tables = document.get("tables", [document])
        found = [each for each in tables if _is_of(each.get("url", ""), path)] or tables
        if len(found) != 1:
            raise PipelineValueError(f"wanted the table {path.name!r}, there are {[each['url'] for each in tables]}")
        inherited = {key: document[key] for key in ("dialect", "tableSchema") if key in document}
        return {**inherited, **found[0]}
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise PipelineValueError(f"{sidecar}: wanted CSVW metadata of {path.name}: {error}") from None


def _is_of(url: str, path: Path) -> bool:
    return unquote(url).rpartition("/")[2] == path.name


def foreign_columns(sidecar: Document, titles: Sequence[str], place: str) -> list[Document]:
    """Return descriptions of the columns that a sidecar of another hand tells of, in the order of the file.

    Raises
    ------
    PipelineValueError
        If it does not tell of each column, or by a datatype or format that is not known here.

    >>> sidecar = {"tableSchema": {"columns": [{"name": "x", "datatype": "integer", "schema:unitText": "mm"}]}}
    >>> [(column["dtype"], column["attrs"]) for column in foreign_columns(sidecar, ["x"], "a.csv")]
    [('<i8', {'units': 'mm'})]
    """
    columns = [each for each in sidecar.get("tableSchema", {}).get("columns", ()) if not each.get("virtual")]
    if len(columns) != len(titles):
        raise PipelineValueError(f"{place}: wanted {len(columns)} columns, as its metadata tell; there are {titles}.")
    return [_foreign(each, title, f"{place}, column {title!r}") for each, title in zip(columns, titles, strict=True)]


def _foreign(column: Document, title: str, place: str) -> Document:
    known = [unquote(column["name"])] if "name" in column else []
    known += _titles(column.get("titles", []))
    if known and title not in known:
        raise PipelineValueError(f"{place}: wanted one of the names {known}, as its metadata tell.")
    datatype = column.get("datatype", "string")
    base = datatype.get("base", "string") if isinstance(datatype, dict) else datatype
    dtype = _DTYPES.get(base, "object")
    kind = {"M": "time", "o": "text"}.get(dtype[1:2] if dtype != "object" else "o", "number")
    null = column.get("null", [""])
    return {
        "name": title or known[0],
        "dims": ["row"],
        "kind": "array" if base == "json" else kind,
        "dtype": dtype,
        "attrs": _attrs(column),
        "coordinate": False,
        "nulls": [null] if isinstance(null, str) else null,
        "format": _format(datatype, kind, place),
    }


def _titles(titles: Any) -> list[str]:
    if isinstance(titles, dict):  # by language
        return [title for each in titles.values() for title in _titles(each)]
    return [titles] if isinstance(titles, str) else list(titles)


def _attrs(column: Document) -> Document:
    texts = {"units": UNITS, "long_name": "dc:title", "description": "dc:description"}
    found = {name: column.get(key) for name, key in texts.items()}
    return {name: text for name, text in found.items() if isinstance(text, str)}


def _format(datatype: Any, kind: str, place: str) -> Document:
    """Return how numbers or booleans are written: `decimal`, `group`, `true`, `false`."""
    format = datatype.get("format") if isinstance(datatype, dict) else None
    if format is None:
        return {}
    if isinstance(format, dict) and format.keys() <= {"decimalChar", "groupChar", "pattern"} and kind == "number":
        return {"decimal": format.get("decimalChar", "."), "group": format.get("groupChar", "")}
    if isinstance(format, str) and kind == "number" and re.fullmatch(r"[^|]+\|[^|]+", format):
        return dict(zip(("true", "false"), format.split("|"), strict=True))
    if isinstance(format, str) and (kind == "text" or format.replace("T", " ").startswith("yyyy-MM-dd")):
        return {}
    raise PipelineValueError(f"{place}: wanted a format of ISO dates, numbers or booleans, there is {format!r}.")

"""CSV files with a sidecar: written so that they read back exactly, and read as the sidecar tells."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy

from pipeline.documents import Document
from pipeline.errors import PipelineError, PipelineValueError
from pipeline.files.array_text import array_from_text, array_to_text
from pipeline.files.cells import moments_of, with_gaps
from pipeline.files.column import OBJECT, Column, column_of, dtype_of, kind_of, ragged
from pipeline.files.csvw import LAYOUT, START, foreign_columns, make_sidecar, null_of, sidecar_path
from pipeline.files.file_name import run_stem, stream_stem
from pipeline.files.table import Table, table_of
from pipeline.files.text_table import read_frame

_SPECIAL = {"nan": "NaN", "inf": "INF", "-inf": "-INF"}


# write -------------------------------------------------------------------------------------------------------------


def write_csv(directory: Path, start: Document, tables: Sequence[Table]) -> None:
    r"""Write a CSV file and its sidecar for each stream.

    >>> import tempfile
    >>> x = Column("x", ("row",), "number", "<f8", numpy.array([0.5]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_csv(Path(folder), {"uid": "7f3c"}, [Table("final", [x])])
    ...     Path(folder, "7f3c-final.csv").read_text()
    'x\n0.5\n'
    """
    for table in tables:
        path = directory / f"{run_stem(str(start.get('uid')))}-{stream_stem(table.name)}.csv"
        columns = [_cells(column, f"stream {table.name!r}, column {column.name!r}") for column in table.row_columns]
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([column.name for column in table.row_columns])
            writer.writerows(zip(*columns, strict=True))
        constants = {column.name: array_to_text(column.values) for column in table.constants}
        sidecar = make_sidecar(path.name, table, start, constants)
        sidecar_path(path).write_text(json.dumps(sidecar, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _cells(column: Column, place: str) -> list[str]:
    if column.kind == "ragged" or column.values.ndim > 1:
        return [array_to_text(row) for row in column.values]
    if column.kind == "number":
        return _numbers(column.values)
    if column.kind == "time":
        return _times(column.values, null_of(column))
    if column.kind == "flag":
        return ["" if value is None else str(bool(value)).lower() for value in column.values]
    return _texts(column, place)


def _numbers(values: numpy.ndarray) -> list[str]:
    if values.dtype.kind == "b":
        return ["true" if value else "false" for value in values]
    if values.dtype.kind in "iu":
        return [str(value) for value in values.tolist()]
    texts = map(repr, values.tolist()) if values.dtype.itemsize == 8 else map(_narrow, values)
    return [_SPECIAL.get(text, text) for text in texts]


def _narrow(value: Any) -> str:
    """Return the shortest text that reads back as this narrow float by way of a double."""
    text = str(value)
    return text if type(value)(float(text)) == value else repr(float(value))


def _times(values: numpy.ndarray, null: str) -> list[str]:
    texts = values.astype(str if values.dtype.kind == "M" else "i8").astype(str).tolist()
    return [null if missing else text for text, missing in zip(texts, numpy.isnat(values), strict=True)]


def _texts(column: Column, place: str) -> list[str]:
    bad = next((text for text in column.values if text is not None and "\0" in text), None)
    if bad is not None:
        raise PipelineValueError(f"{place}: wanted text without NUL, which CSV cannot hold; there is {bad[:60]!r}.")
    null = null_of(column)
    return [null if text is None else text for text in column.values]


# read --------------------------------------------------------------------------------------------------------------


def read_csvw(path: Path, sidecar: Document) -> tuple[Table, Document | None, Document]:
    """Read a CSV file as its sidecar tells: the table, the start document if there is one, other facts.

    Raises
    ------
    PipelineValueError
        If a cell is not what the sidecar tells: it names the file, the line and the column.
    """
    try:
        if LAYOUT in sidecar:
            return _read_own(path, sidecar), json.loads(sidecar[START]), {}
        return _read_foreign(path, sidecar), None, _facts(sidecar)
    except PipelineError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, LookupError, csv.Error) as error:
        raise PipelineValueError(f"{sidecar_path(path)}: wanted CSVW metadata of {path.name}: {error!r}") from None


def _read_own(path: Path, sidecar: Document) -> Table:
    layout = json.loads(sidecar[LAYOUT])
    rows = [column for column in layout["columns"] if "values" not in column]
    for column, told in zip(rows, sidecar["tableSchema"]["columns"], strict=True):
        column["nulls"] = told["null"]
    titles = _titles(path, ",", "utf-8-sig") if rows else []
    if sorted(titles) != sorted(column["name"] for column in rows):
        raise PipelineValueError(
            f"{path}, line 1: wanted the columns {[column['name'] for column in rows]}, as its metadata tell; "
            f"there are {titles}."
        )
    by_name = {column["name"]: column for column in rows}
    read = _read_rows(path, [by_name[title] for title in titles], {}) if rows else []
    columns = {column.name: column for column in read} | {
        column["name"]: column_of(column, array_from_text(column["values"], column).reshape(column["shape"]))
        for column in layout["columns"]
        if "values" in column
    }
    return table_of(layout, [columns[column["name"]] for column in layout["columns"]])


def _read_foreign(path: Path, sidecar: Document) -> Table:
    dialect = sidecar.get("dialect", {})
    known = {"encoding", "delimiter", "quoteChar", "header", "headerRowCount", "skipRows", "lineTerminators"}
    known |= {"doubleQuote", "commentPrefix", "trim", "skipInitialSpace", "skipBlankRows", "@type", "@id"}
    if not dialect.keys() <= known:
        raise PipelineValueError(f"{path}: wanted a dialect of {sorted(known)}, its metadata tell {sorted(dialect)}.")
    encoding, sep = dialect.get("encoding", "utf-8-sig"), dialect.get("delimiter", ",")
    skip, n_header = dialect.get("skipRows", 0), dialect.get("headerRowCount", int(dialect.get("header", True)))
    n = len(sidecar.get("tableSchema", {}).get("columns", ()))
    titles = _titles(path, sep, encoding, skip) if n_header else [""] * n
    how = {"sep": sep, "encoding": encoding, "skiprows": skip + max(0, n_header - 1)}
    how |= {"quotechar": dialect.get("quoteChar") or '"', "header": 0 if n_header else None}
    return Table("primary", _read_rows(path, foreign_columns(sidecar, titles, str(path)), how))


def _titles(path: Path, delimiter: str, encoding: str, skip: int = 0) -> list[str]:
    with open(path, encoding=encoding, newline="") as file:
        for _ in range(skip):
            next(file, None)
        return next(csv.reader(file, delimiter=delimiter), [])


def _facts(sidecar: Document) -> Document:
    return {key: value for key, value in sidecar.items() if ":" in key and isinstance(value, str | int | float)}


def _read_rows(path: Path, columns: Sequence[Document], how: Document) -> list[Column]:
    """Read the columns: plain numbers by pandas at once; if that fails cell by cell, so as to tell which is wrong."""
    how = {"encoding": "utf-8-sig", "header": 0, **how, "skip_blank_lines": len(columns) == 1 and "sep" in how}
    how |= {"names": range(len(columns)), "keep_default_na": False}
    nulls = {
        i: [*column["nulls"], *(["NaN"] if column["dtype"][1:2] == "f" else [])] for i, column in enumerate(columns)
    }
    dtypes = {i: _plain_dtype(column) or object for i, column in enumerate(columns)}
    try:
        frame = read_frame(path, dtype=dtypes, na_values=nulls, **how)
    except PipelineError:
        raise
    except (ValueError, OverflowError):
        frame = read_frame(
            path, dtype=object, na_values={i: column["nulls"] for i, column in enumerate(columns)}, **how
        )
    return [_column(path, column, frame[i]) for i, column in enumerate(columns)]


def _plain_dtype(column: Document) -> str | None:
    """Return the dtype that pandas reads a column with, if it can do so exactly."""
    if column["kind"] != "number" or len(column.get("shape", [0])) != 1 or column.get("format"):
        return None
    return "float64" if column["dtype"][1:2] == "f" else dtype_of(column).newbyteorder("=").name


def _column(path: Path, description: Document, series: Any) -> Column:
    place = f"{path}, column {description['name']!r}"
    if series.dtype != object:
        return column_of(description, series.to_numpy().astype(dtype_of(description)))
    cells = [None if missing else str(cell) for cell, missing in zip(series, series.isna(), strict=True)]
    if description["kind"] == "array":
        return _json_column(description, [None if cell is None else json.loads(cell) for cell in cells], place)
    shape = description.get("shape", [0])
    if description["kind"] == "ragged" or len(shape) != 1:
        return column_of(description, _arrays(cells, description, place))
    return _typed(cells, description, place)


def _arrays(cells: Sequence[str | None], description: Document, place: str) -> numpy.ndarray:
    rows = list(_convert(cells, lambda cell: array_from_text(cell or "", description), place))
    if description["kind"] == "ragged":
        return ragged(rows)
    shape = [len(rows), *description["shape"][1:]]
    values = numpy.array(rows, dtype_of(description)) if rows else numpy.empty(shape, dtype_of(description))
    return values.reshape(shape)


def _typed(cells: Sequence[str | None], description: Document, place: str) -> Column:
    convert = _CONVERT[description["kind"]]
    values = convert(cells, description, place)
    if description["dtype"] == OBJECT or "shape" in description:
        return column_of(description, values)
    kind, dtype = kind_of(values, place)  # integers of which some are missing became floats
    if values.dtype.kind == dtype_of(description).kind:
        return column_of(description, values)
    return column_of({**description, "kind": kind, "dtype": dtype}, values)


def _convert(cells: Sequence[str | None], function: Callable[[Any], Any], place: str) -> Iterator[Any]:
    for row, cell in enumerate(cells, 1):
        try:
            yield function(cell)
        except (ValueError, TypeError, KeyError, OverflowError):
            raise PipelineValueError(f"{place}, row {row}: wanted what its metadata tell, there is {cell!r}.") from None


def _as_numbers(cells: Sequence[str | None], description: Document, place: str) -> numpy.ndarray:
    dtype, format = dtype_of(description), description.get("format", {})
    if dtype.kind == "b":
        words = {format.get("true", "true"): True, format.get("false", "false"): False} | {"1": True, "0": False}
        values = _with_none(cells, lambda cell: words[cell], place)
        return numpy.array(values, object if None in values else bool)
    group, decimal = format.get("group") or "\0", format.get("decimal", ".")
    plain = [cell and cell.replace(group, "").replace(decimal, ".") for cell in cells]
    if dtype.kind in "iu":
        integers = _with_none(plain, int, place)
        _refuse_too_large(integers, dtype, place)
        whole = with_gaps(integers, place)
        return whole.astype(dtype) if None not in integers else whole
    return numpy.array(_with_none(plain, float, place), "f8").astype(dtype)


def _refuse_too_large(integers: Sequence[int | None], dtype: numpy.dtype, place: str) -> None:
    bounds = numpy.iinfo(dtype)
    bad = next((value for value in integers if value is not None and not bounds.min <= value <= bounds.max), None)
    if bad is not None:
        raise PipelineValueError(f"{place}: wanted integers of {dtype}, as its metadata tell; there is {bad}.")


def _with_none(cells: Sequence[str | None], function: Callable[[Any], Any], place: str) -> list[Any]:
    return list(_convert(cells, lambda cell: function(cell) if cell is not None else None, place))


def _as_times(cells: Sequence[str | None], description: Document, place: str) -> numpy.ndarray:
    dtype = dtype_of(description)
    if "shape" not in description:
        return moments_of(cells, place)
    if dtype.kind == "m":
        integers = _convert([cell or str(numpy.iinfo("i8").min) for cell in cells], int, place)
        return numpy.array(list(integers), "i8").astype(dtype)
    return numpy.array(list(_convert([cell or "NaT" for cell in cells], numpy.datetime64, place)), dtype)


def _as_flags(cells: Sequence[str | None], description: Document, place: str) -> numpy.ndarray:
    values = _with_none(cells, lambda cell: {"true": True, "false": False}[cell], place)
    return numpy.array(values, object)


def _as_texts(cells: Sequence[str | None], description: Document, place: str) -> numpy.ndarray:
    return numpy.array(list(cells), dtype_of(description))


_CONVERT: dict[str, Callable[[Sequence[str | None], Document, str], numpy.ndarray]] = {
    "number": _as_numbers,
    "time": _as_times,
    "flag": _as_flags,
    "text": _as_texts,
}


def _json_column(description: Document, rows: list[Any], place: str) -> Column:
    arrays = [numpy.asarray([] if row is None else row) for row in rows]
    values = numpy.stack(arrays) if len({array.shape for array in arrays}) == 1 else ragged(arrays)
    kind, dtype = kind_of(values, place)
    dims = ["row", *(f"{description['name']}_{i}" for i in range(1, values.ndim))]
    return column_of({**description, "kind": kind, "dtype": dtype, "dims": dims}, values)

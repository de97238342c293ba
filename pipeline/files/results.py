"""Results: what a file of results holds, as a run builder takes it."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.documents import Document
from pipeline.errors import PipelineError, PipelineOSError, PipelineRuntimeError, PipelineValueError
from pipeline.files.csv_file import read_csvw
from pipeline.files.csvw import read_sidecar
from pipeline.files.formats import FORMATS, TEXTS, format_of
from pipeline.files.metadata import metadata_of, nested, storable
from pipeline.files.netcdf import read_netcdf
from pipeline.files.nexus import read_hdf5
from pipeline.files.npz import read_npz
from pipeline.files.parquet import read_parquet
from pipeline.files.table import Table
from pipeline.files.text_table import read_text
from pipeline.files.xdi import read_xdi
from pipeline.json_lines import read_lines

Read = tuple[dict[str, Any], Document | None, Document]  # streams, start document, other facts


@dataclass(frozen=True)
class Results:
    """What a file of results holds.

    Parameters
    ----------
    streams
        An `xarray.Dataset` for each, its variables with `units` where the file tells them. The first dimension counts
        the rows; it is `row` where the file names none.
    metadata
        What belongs into a start document. Of a file that `export` wrote it is that of the start document, without uid
        and time; what any other file says of itself stands under one key, named for its format.
    documents
        The documents of JSONL, which are runs already; else None.
    reference
        `role`, `name`, `sha256` and `size` of the file; and `uid` of the run that `export` wrote it of.
    """

    streams: dict[str, Any]
    metadata: Document = field(default_factory=dict)
    documents: list[tuple[str, Document]] | None = None
    reference: Document = field(default_factory=dict)


def read_results(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    names: Sequence[str] | None = None,
    encoding: str | None = None,
) -> Results:
    r"""Read a file of results: CSV, TSV, XDI, columns of text, Parquet, NetCDF, HDF5, NeXus, npz or JSONL.

    What `export` wrote comes back as it was: values, dtypes, units, streams. No code of the file runs, nothing is
    unpickled, and no other file is opened but the metadata beside a CSV (`<name>-metadata.json`, CSV on the Web).

    Parameters
    ----------
    path
        Of the file; see `result_files` for a folder.
    format
        One of `csv`, `hdf5`, `jsonl`, `netcdf`, `nexus`, `npz`, `parquet`, `text`, `tsv`, `xdi`; by default that of
        the file's name, or of how it begins.
    delimiter, decimal
        Of text, where it does not show by itself. What is told here goes before the metadata beside a CSV.
    names
        Of the columns of text, where no line of it names them.
    encoding
        Of text; UTF-8 by default.

    Raises
    ------
    PipelineError
        If the file cannot be read: it names the file and the place in it, what was wanted and what there is.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "results.csv")
    ...     _ = path.write_text("# sample: Cu\nx (mm),I\n1,0.5\n2,\n")
    ...     results = read_results(path)
    >>> results.streams["primary"]["x"].attrs, results.streams["primary"]["I"].values.tolist(), results.metadata
    ({'units': 'mm'}, [0.5, nan], {'csv': {'sample': 'Cu'}})
    """
    path = Path(path)
    reference, state = _reference(path), _state(path)
    found = format_of(path, format) or ("text" if path.name.lower().endswith(TEXTS) else None)
    if found is None:
        raise PipelineValueError(f"{path}: wanted a file of {list(FORMATS)}, it begins like none; `format=` tells.")
    if found == "jsonl":
        with open(path, "rb") as raw:
            return Results({}, {}, list(read_lines(path, raw)), reference)
    told = {"delimiter": delimiter, "decimal": decimal, "names": names, "encoding": encoding}
    options = {key: value for key, value in told.items() if value is not None}
    with _contained(path, found):
        streams, start, facts = _read(path, found, options)
    if _state(path) != state:
        raise PipelineOSError(f"{path}: wanted a file that is complete; it was written to while it was read.")
    if start is not None:
        return Results(streams, metadata_of(start), None, reference | {"uid": start.get("uid")})
    facts = storable(facts, str(path))
    return Results(streams, {found: facts} if facts else {}, None, reference)


def _reference(path: Path) -> Document:
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"role": "file", "name": path.name, "sha256": digest, "size": file.tell()}
    except OSError as error:
        there = "a folder, see result_files" if path.is_dir() else error.strerror
        raise PipelineOSError(f"{path}: wanted a file to read, there is: {there}.") from None


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _read(path: Path, format: str, options: dict[str, Any]) -> Read:
    if format in ("csv", "tsv", "text", "xdi"):
        return _read_text(path, format, options)
    if options:
        raise PipelineValueError(f"{path}: wanted {sorted(options)} for text alone, it is {format}.")
    tables, start, facts = _READERS[format](path)
    if not tables:
        raise PipelineValueError(f"{path}: wanted arrays, there is none in it.")
    streams = tables if isinstance(tables, dict) else {table.name: _dataset(table, start) for table in tables}
    return streams, start, nested(facts)


def _dataset(table: Table, start: Document | None) -> Any:
    return (table if start is not None else table.clear()).dataset()


@contextmanager
def _contained(path: Path, format: str) -> Iterator[None]:
    """Name the file in each error that comes of what is in it."""
    try:
        yield
    except PipelineError as error:
        if path.name in str(error) or isinstance(error, PipelineRuntimeError):
            raise
        raise PipelineValueError(f"{path}: {error}") from error
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError) as error:
        raise PipelineValueError(f"{path}: wanted {format} that agrees with itself: {error!r}") from error


def _read_text(path: Path, format: str, options: dict[str, Any]) -> Read:
    sidecar = None if options else read_sidecar(path)
    if sidecar is not None:
        table, start, facts = read_csvw(path, sidecar)
        return {table.name: _dataset(table, start)}, start, facts
    read = read_xdi if format == "xdi" else lambda path, **options: read_text(path, format, **options)
    table, facts = read(path, **options)
    return {table.name: _dataset(table, None)}, None, facts


def _of_one(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def read_one(path: Path) -> Any:
        table, start, facts = read(path)
        return [table], start, facts

    return read_one


_READERS: dict[str, Callable[[Path], Any]] = {
    "parquet": _of_one(read_parquet),
    "netcdf": read_netcdf,
    "hdf5": read_hdf5,
    "npz": read_npz,
}

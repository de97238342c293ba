"""Export: a run as files."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy

from pipeline.documents import Document, dumps
from pipeline.errors import PipelineError, PipelineKeyError, PipelineOSError, PipelineValueError
from pipeline.files.column import plain
from pipeline.files.csv_file import write_csv
from pipeline.files.csvw import ENDING
from pipeline.files.file_name import run_stem
from pipeline.files.netcdf import write_netcdf
from pipeline.files.nexus import write_nexus
from pipeline.files.parquet import write_parquet
from pipeline.files.results import read_results
from pipeline.files.table import Table, difference


class Run(Protocol):
    """What can be exported: a run with its start document, its streams and its documents."""

    @property
    def metadata(self) -> Document:
        """The start and the stop document."""
        ...

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, stream: str, /) -> Any: ...

    def documents(self) -> Iterator[tuple[str, Document]]:
        """Return the documents, in order."""
        ...


def export(run: Run, format: str, directory: str | os.PathLike[str]) -> list[Path]:
    """Write a run as files, whole or not at all, and return their paths.

    What was written is read back and compared before it gets its name: a run that a format cannot hold exactly is
    refused, and no file is left. Metadata are JSON, and as such NaN in them is `null`. Files of that name are replaced.

    Parameters
    ----------
    run
        With its documents for `jsonl`, with its streams for the other formats.
    format
        `jsonl` (the ledger's lines), `csv` (a file a stream, and CSV on the Web metadata beside it), `parquet` (a file
        a stream), `netcdf` (a group a stream) or `nexus` (HDF5, an NXdata a stream).
    directory
        Made if it is not there. No file is written anywhere else, whatever the uid and the names of the streams.

    Raises
    ------
    PipelineValueError, PipelineTypeError
        If the format cannot hold a column as it is: it names the stream and the column.
    PipelineOSError
        If the files cannot be written.

    >>> import xarray
    >>> class Final:
    ...     def read(self): return xarray.Dataset({"com": ("time", [0.5])}, {"time": [1.0]})
    >>> class Peak(dict):
    ...     metadata = {"start": {"uid": "7f3c", "time": 0.0}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in export(Peak(final=Final()), "csv", folder)]
    ['7f3c-final.csv', '7f3c-final.csv-metadata.json']
    """
    if format not in WRITERS:
        raise PipelineKeyError(f"wanted a format of {list(WRITERS)}, there is {format!r}.")
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=directory) as folder:
            WRITERS[format](Path(folder), run)
            return sorted(_place(path, directory) for path in _in_order(Path(folder)))
    except PipelineError:
        raise
    except (OSError, RuntimeError) as error:  # h5py says so of a full disk
        raise PipelineOSError(f"{directory}: cannot write: {error}") from None


def _in_order(folder: Path) -> list[Path]:
    """Return what was written, sidecars first: a CSV file without its own would be read otherwise."""
    return sorted(folder.iterdir(), key=lambda path: (not path.name.endswith(ENDING), path.name))


def _place(path: Path, directory: Path) -> Path:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return path.replace(directory / path.name)


def _write_jsonl(folder: Path, run: Run) -> None:
    path = folder / f"{run_stem(str(run.metadata['start'].get('uid')))}.jsonl"
    with open(path, "wb") as file:
        for name, doc in run.documents():
            _refuse_infinities(name, doc)
            file.write(dumps(name, doc))


def _refuse_infinities(name: str, doc: Document) -> None:
    if name not in ("event", "event_page"):
        return
    for key, value in doc["data"].items():
        array = numpy.asarray(value) if _is_numbers(value) else numpy.empty(0)
        if array.dtype.kind == "f" and numpy.isinf(array).any():
            raise PipelineValueError(
                f"{name} {doc['seq_num']}, field {key!r}: wanted numbers that JSON can hold, there is an infinity; "
                f"{[each for each in WRITERS if each != 'jsonl']} can hold it."
            )


def _is_numbers(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_is_numbers, value))
    return isinstance(value, float | numpy.ndarray | numpy.floating)


def _write_tables(write: Callable[[Path, Document, Sequence[Table]], None]) -> Callable[[Path, Run], None]:
    def write_run(folder: Path, run: Run) -> None:
        start = plain(run.metadata["start"], "start")
        tables = [Table.of(name, run[name].read()) for name in run]
        write(folder, start, tables)
        _refuse_changed(folder, tables)

    return write_run


def _refuse_changed(folder: Path, tables: Sequence[Table]) -> None:
    """Read back what was written, and refuse it if it is not what was to be written."""
    read: dict[str, Any] = {}
    for path in folder.iterdir():
        if not path.name.endswith(ENDING):
            read |= read_results(path).streams
    for table in tables:
        found = difference(table, Table.of(table.name, read[table.name])) if table.name in read else "it is not there"
        if found:
            raise PipelineValueError(f"stream {table.name!r} cannot be written exactly: {found}.")


WRITERS: dict[str, Callable[[Path, Run], None]] = {
    "jsonl": _write_jsonl,
    "csv": _write_tables(write_csv),
    "parquet": _write_tables(write_parquet),
    "netcdf": _write_tables(write_netcdf),
    "nexus": _write_tables(write_nexus),
}

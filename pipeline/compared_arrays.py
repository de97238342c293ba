"""Large arrays of a run that is replayed, beside those that were stored of it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy

from pipeline.array_file import is_same
from pipeline.array_files import ArrayFiles
from pipeline.documents import Document, file_stem
from pipeline.errors import PipelineError
from pipeline.hdf5_rows import FAULTS, follow_file
from pipeline.sinks.jsonl import JSONLSink
from pipeline.sources.catalog import read_catalog
from pipeline.sources.jsonl import read_jsonl


class ComparedArrays:
    """Take arrays out of the events of a replay where they were taken out before, and compare them; write nothing.

    Which of them were is what the stored run tells, whatever its size limit was; so do the documents that are to be
    the same.

    Attributes
    ----------
    differences
        By run, the first array that is not as it was.
    """

    def __init__(self) -> None:
        self.differences: dict[str, str] = {}
        self._run = ""
        self._external: set[tuple[str, str]] = set()  # stream and key of arrays that are in files, of this run
        self._uris: dict[str, str] = {}  # by file name

    def is_external(self, run: str, stream: str, key: str, data_key: Document) -> bool:
        """Tell whether an array was stored in a file."""
        self._look(run)
        return (stream, key) in self._external

    def uri(self, run: str, stream: str, number: int) -> str:
        """Return the file as the stored documents tell of it, wherever it is now."""
        self._look(run)
        name = _file_name(run, stream, number)
        return self._uris.get(name, f"no file {name}")

    def open(
        self, run: str, digest: str, stream: str, number: int, data_keys: Mapping[str, Document], n_rows: int
    ) -> "ComparedRows":
        """Return the stored rows, as something that takes rows and compares them."""
        return ComparedRows(self._reader(run, stream, number), lambda text: self._note(run, text))

    def tell(self, error: OSError) -> None:
        """Nothing is written here."""

    def _note(self, run: str, text: str) -> None:
        self.differences.setdefault(run, text)

    def _look(self, run: str) -> None:
        if run == self._run:
            return
        self._run, self._external, self._uris = run, set(), {}
        for name, doc in self._documents(run):
            if name == "descriptor":
                external = [key for key, data_key in doc["data_keys"].items() if data_key.get("external")]
                self._external |= {(doc["name"], key) for key in external}
            elif name == "stream_resource":
                self._uris[Path(doc["uri"]).name] = doc["uri"]

    def _documents(self, run: str) -> Any:
        """Return the stored documents of a run: a subclass says where they are."""
        raise NotImplementedError(f"{type(self).__name__} has no _documents(run).")

    def _reader(self, run: str, stream: str, number: int) -> Callable[[str, int], Any]:
        """Return what gives a stored array, by its key and row: a subclass says where they are."""
        raise NotImplementedError(f"{type(self).__name__} has no _reader(run, stream, number).")


class LedgerArrays(ComparedArrays):
    """Compare with the files beside a ledger's.

    Parameters
    ----------
    directory
        Of the ledger.

    >>> LedgerArrays("nowhere").is_external("7f3c", "final", "det_mean", {})
    False
    """

    def __init__(self, directory: str) -> None:
        super().__init__()
        self._directory = Path(directory)

    def _documents(self, run: str) -> Any:
        try:
            yield from read_jsonl(self._directory / JSONLSink.file_name(run))
        except PipelineError:  # told by who compares documents
            return

    def _reader(self, run: str, stream: str, number: int) -> Callable[[str, int], Any]:
        path = self._directory / _file_name(run, stream, number)

        def read(key: str, i: int) -> Any:
            with follow_file(path) as file:
                dataset = file[file_stem(stream)][key]
                return dataset[i] if i < len(dataset) else None

        return read


class CatalogArrays(ComparedArrays):
    """Compare with what a catalog's server reads.

    Parameters
    ----------
    catalog
        A mapping of uids to runs.

    >>> CatalogArrays({}).is_external("7f3c", "final", "det_mean", {})
    False
    """

    def __init__(self, catalog: Mapping[str, Any]) -> None:
        super().__init__()
        self._catalog = catalog

    def _documents(self, run: str) -> Any:
        try:
            yield from read_catalog(self._catalog[run])
        except KeyError:  # told by who compares documents
            return

    def _reader(self, run: str, stream: str, number: int) -> Callable[[str, int], Any]:
        @cache
        def node(key: str) -> Any:
            return self._catalog[run][stream][key]

        return lambda key, i: node(key)[i] if i < node(key).shape[0] else None


class ComparedRows:
    """Stored rows, that take rows and compare them.

    Parameters
    ----------
    read
        Returns the stored row of a key, by number; None if there is none.
    note
        Called with what differs.

    >>> rows = ComparedRows(lambda key, i: numpy.zeros(2), print)
    >>> rows.put("x", 0, [numpy.zeros(2), numpy.ones(2)])
    'x', row 1: other values are stored
    """

    def __init__(self, read: Callable[[str, int], Any], note: Callable[[str], None]) -> None:
        self._read, self._note = read, note

    def put(self, key: str, first: int, rows: Sequence[Any]) -> None:
        """Compare rows, of which the first is number `first`."""
        for i, row in enumerate(rows, first):
            try:
                there = self._read(key, i)
            except FAULTS as error:
                return self._note(f"{key!r}, row {i}: cannot be read: {error}")
            if there is None:
                return self._note(f"{key!r}: wanted row {i}, none is stored")
            if difference := _difference(numpy.ascontiguousarray(row), numpy.ascontiguousarray(there)):
                return self._note(f"{key!r}, row {i}: {difference}")
        return None

    def close(self, *, is_whole: bool) -> None:
        """Nothing is open."""

    def let_go(self) -> None:
        """Nothing is open."""


def _difference(want: numpy.ndarray, there: numpy.ndarray) -> str:
    if (want.dtype, want.shape) != (there.dtype, there.shape):
        return f"wanted {want.dtype.str} of shape {want.shape}, {there.dtype.str} of shape {there.shape} is stored"
    return "" if is_same(want, there) else "other values are stored"


def _file_name(run: str, stream: str, number: int) -> str:
    return ArrayFiles(".", above=0).path(run, stream, number).name

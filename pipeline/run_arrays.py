"""The large arrays of one run, on their way from its events into files."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from pipeline.documents import Document, Uids, dumps, file_stem
from pipeline.errors import PipelineError
from pipeline.schema import validate_once

Documents = list[tuple[str, Document]]
MIMETYPE = "application/x-hdf5"


class Rows(Protocol):
    """A file of arrays: see `ArrayFile`."""

    def put(self, key: str, first: int, rows: Sequence[Any]) -> None:
        """Add rows, or see that they are there."""
        ...

    def close(self, *, is_whole: bool) -> None:
        """Close it; nothing more will come, if it is whole."""
        ...

    def let_go(self) -> None:
        """Leave it as it is."""
        ...


class Files(Protocol):
    """Where arrays are: see `ArrayFiles`."""

    def is_external(self, run: str, stream: str, key: str, data_key: Document) -> bool:
        """Tell whether an array stands in a file."""
        ...

    def uri(self, run: str, stream: str, number: int) -> str:
        """Return the file of a stream as documents tell of it."""
        ...

    def open(
        self, run: str, digest: str, stream: str, number: int, data_keys: Mapping[str, Document], n_rows: int
    ) -> Rows:
        """Return the file of a stream."""
        ...

    @property
    def tell(self) -> Callable[[OSError], None]:
        """What is called with what the disk refuses."""
        ...


class RunArrays:
    """Take the large arrays of one run out of its events, and tell in its documents where they are.

    A row is in its file before the documents of it go on: `stream_resource` with the first, `stream_datum`, and then
    the event without the arrays. Descriptors have `external` in their data keys.

    Parameters
    ----------
    files
        Where they are written.

    >>> import numpy, tempfile
    >>> from pipeline.array_files import ArrayFiles
    >>> from pipeline.testing import make_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     arrays = RunArrays(ArrayFiles(folder, above=1000))
    ...     [name for item in make_run({"image": [numpy.zeros((20, 20))]}) for name, doc in arrays(*item)]
    ['start', 'descriptor', 'stream_resource', 'stream_datum', 'event', 'stop']
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._run = self._digest = ""
        self._streams: dict[str, _Streamed] = {}  # uid of a descriptor that has large arrays -> its file
        self._n_descriptors: dict[str, int] = {}  # stream -> how often it was described
        self._is_cut = False

    def __call__(self, name: str, doc: Document) -> Documents:
        """Take in a document, and return those that stand for it.

        Raises
        ------
        PipelineError
            If an array cannot be kept. Then no array that comes after is; the documents are still without them.
        """
        try:
            method = getattr(self, f"_{name}", None)
            return [(name, doc)] if method is None else method(doc)
        except Exception as error:
            self.cut()
            if isinstance(error, OSError):
                self._files.tell(error)
            raise

    def cut(self) -> None:
        """Keep no more arrays."""
        self._is_cut = True
        self.let_go()

    def let_go(self) -> None:
        """Leave the files as they are."""
        for streamed in self._streams.values():
            streamed.let_go()

    # documents

    def _start(self, doc: Document) -> Documents:
        self._run, self._digest = doc["uid"], hashlib.sha256(dumps("start", doc)).hexdigest()
        return [("start", doc)]

    def _descriptor(self, doc: Document) -> Documents:
        stream = doc["name"]
        number = self._n_descriptors.get(stream, 0)
        self._n_descriptors[stream] = number + 1
        self._close([uid for uid, streamed in self._streams.items() if streamed.stream == stream])
        large = {
            key: data_key
            for key, data_key in doc["data_keys"].items()
            if self._files.is_external(self._run, stream, key, data_key)
        }
        if not large:
            return [("descriptor", doc)]
        self._streams[doc["uid"]] = _Streamed(self._files, doc["uid"], stream, number, large)
        external = {key: {**data_key, "external": "STREAM:"} for key, data_key in large.items()}
        doc = {**doc, "data_keys": doc["data_keys"] | external}
        validate_once("descriptor", doc)
        return [("descriptor", doc)]

    def _event(self, doc: Document) -> Documents:
        streamed = self._streams.get(doc["descriptor"])
        if streamed is None:
            return [("event", doc)]
        told: Documents = []
        if not self._is_cut:
            rows = {key: [doc["data"][key]] for key in streamed.keys}
            told = streamed.put(self._run, self._digest, rows, doc["seq_num"])
        return [*told, ("event", streamed.without(doc))]

    def _event_page(self, doc: Document) -> Documents:
        streamed = self._streams.get(doc["descriptor"])
        if streamed is None or not doc["seq_num"]:
            return [("event_page", doc)]
        told: Documents = []
        if not self._is_cut:
            rows = {key: doc["data"][key] for key in streamed.keys}
            told = streamed.put(self._run, self._digest, rows, doc["seq_num"][0])
        return [*told, ("event_page", streamed.without(doc))]

    def _stop(self, doc: Document) -> Documents:
        self._close(list(self._streams), is_whole=not (doc.get("analysis") or {}).get("abandoned"))
        return [("stop", doc)]

    def _close(self, descriptors: Sequence[str], *, is_whole: bool = True) -> None:
        for uid in descriptors:
            self._streams.pop(uid).close(is_whole=is_whole)

    def without(self, name: str, doc: Document) -> Document:
        """Return a document without the arrays."""
        streamed = self._streams.get(doc.get("descriptor", ""))
        return doc if streamed is None or name not in ("event", "event_page") else streamed.without(doc)

    # restarts

    def state(self) -> Document:
        """Return how many rows there are, as JSON values."""
        return {
            "digest": self._digest,
            "n_descriptors": dict(self._n_descriptors),
            "streams": {uid: streamed.state() for uid, streamed in self._streams.items()},
        }

    def resume(self, run: str, state: Mapping[str, Any]) -> None:
        """Go on from a state: rows that are there beyond it are compared as they come again.

        Raises
        ------
        PipelineError
            If there are fewer rows than it tells.
        """
        self._run, self._digest = run, state["digest"]
        self._n_descriptors = dict(state["n_descriptors"])
        for uid, each in state["streams"].items():
            streamed = self._streams[uid] = _Streamed(self._files, uid, **each)
            if streamed.n_rows:
                streamed.open(self._run, self._digest)


class _Streamed:
    """The large arrays of one descriptor's events."""

    def __init__(
        self,
        files: Files,
        descriptor: str,
        stream: str,
        number: int,
        data_keys: Mapping[str, Document],
        n_rows: int = 0,
    ) -> None:
        self._files, self._descriptor = files, descriptor
        self.stream, self._number, self.keys, self.n_rows = stream, number, dict(data_keys), n_rows
        self._file: Rows | None = None

    def state(self) -> Document:
        """Return the arguments that make the same, besides the first."""
        return {"stream": self.stream, "number": self._number, "data_keys": self.keys, "n_rows": self.n_rows}

    def open(self, run: str, digest: str) -> Rows:
        """Return the file, open."""
        if self._file is None:
            self._file = self._files.open(run, digest, self.stream, self._number, self.keys, self.n_rows)
        return self._file

    def put(self, run: str, digest: str, rows: Mapping[str, Sequence[Any]], seq_num: int) -> Documents:
        """Add rows, of which the first is of this event, and return the documents that tell of them."""
        file = self.open(run, digest)
        for key, column in rows.items():
            file.put(key, self.n_rows, column)
        n, first = len(next(iter(rows.values()))), self.n_rows
        resources = [] if first else [("stream_resource", self._resource(run, key)) for key in self.keys]
        self.n_rows += n
        return [*resources, *(("stream_datum", self._datum(key, first, n, seq_num)) for key in self.keys)]

    def _resource(self, run: str, key: str) -> Document:
        doc = {
            "uid": resource_uid(self._descriptor, key),
            "run_start": run,
            "data_key": key,
            "mimetype": MIMETYPE,
            "uri": self._files.uri(run, self.stream, self._number),
            "parameters": {
                "dataset": f"/{file_stem(self.stream)}/{key}",
                "chunk_shape": [1, *self.keys[key]["shape"]],
                "join_method": "stack",
                "swmr": True,
            },
        }
        validate_once("stream_resource", doc)
        return doc

    def _datum(self, key: str, first: int, n: int, seq_num: int) -> Document:
        resource = resource_uid(self._descriptor, key)
        return {
            "uid": f"{resource}/{first}",
            "stream_resource": resource,
            "descriptor": self._descriptor,
            "indices": {"start": first, "stop": first + n},
            "seq_nums": {"start": seq_num, "stop": seq_num + n},
        }

    def without(self, doc: Document) -> Document:
        """Return an event, or a page of them, without the arrays."""
        parts = {
            part: {key: value for key, value in doc[part].items() if key not in self.keys}
            for part in ("data", "timestamps", "filled")
            if part in doc
        }
        return {**doc, **parts}

    def close(self, *, is_whole: bool) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close(is_whole=is_whole)

    def let_go(self) -> None:
        """Leave the file as it is."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(PipelineError):
                file.let_go()


def resource_uid(descriptor: str, key: str) -> str:
    """Return the uid of the `stream_resource` of a descriptor's arrays.

    >>> resource_uid("a", "det_mean") == resource_uid("a", "det_mean") != resource_uid("a", "det_var")
    True
    """
    return Uids(descriptor)(f"stream_resource/{key}")

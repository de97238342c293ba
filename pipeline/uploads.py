"""Arrays that are in files, back in the events that they are of: for catalogs whose server cannot read the files."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy

from pipeline.array_files import path_of
from pipeline.documents import Document
from pipeline.errors import PipelineKeyError, PipelineOSError
from pipeline.hdf5_rows import FAULTS, follow_file
from pipeline.run_arrays import resource_uid

Documents = list[tuple[str, Document]]


class Uploads:
    """Return the documents of one run as they were before `RunArrays`, with the arrays in its events.

    What others tell of their files, of detectors for instance, is left as it is.

    >>> import numpy, tempfile
    >>> from pipeline.array_files import ArrayFiles
    >>> from pipeline.run_arrays import RunArrays
    >>> from pipeline.testing import make_run
    >>> run = make_run({"image": [numpy.eye(20)]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     arrays = RunArrays(ArrayFiles(folder, above=1000))
    ...     again = list(uploaded(each for item in run for each in arrays(*item)))
    >>> [name for name, doc in again], again[1] == run[1], bool((again[2][1]["data"]["image"] == numpy.eye(20)).all())
    (['start', 'descriptor', 'event', 'stop'], True, True)
    """

    def __init__(self) -> None:
        self._held: dict[str, Document] = {}  # descriptors with data in files, until it is known whose they are
        self._keys: dict[str, list[str]] = {}  # uid of a descriptor -> its keys that are put back
        self._order: dict[str, list[str]] = {}  # uid of such a descriptor -> all its keys
        self._resources: dict[str, Document] = {}
        self._told: set[str] = set()  # uids of resources that were handed on
        self._datums: dict[tuple[str, str], Document] = {}  # descriptor and key -> the last rows that were told of

    def __call__(self, name: str, doc: Document) -> Documents:
        """Take in a document, and return those that stand for it.

        Raises
        ------
        PipelineOSError
            If an array cannot be read.
        """
        method = getattr(self, f"_{name}", None)
        return [(name, doc)] if method is None else method(doc)

    def _descriptor(self, doc: Document) -> Documents:
        if not any(data_key.get("external") for data_key in doc["data_keys"].values()):
            return [("descriptor", doc)]
        self._held[doc["uid"]] = doc
        return []

    def _stream_resource(self, doc: Document) -> Documents:
        self._resources[doc["uid"]] = doc
        return []

    def _stream_datum(self, doc: Document) -> Documents:
        descriptor, resource = doc["descriptor"], self._resources.get(doc["stream_resource"])
        if resource is None:
            raise PipelineKeyError(
                f"a stream_datum of {doc['stream_resource']!r}, of which there is no stream_resource"
            )
        is_ours = resource["uid"] == resource_uid(descriptor, resource["data_key"])
        released = self._release(descriptor, is_ours)
        if is_ours:
            self._datums[descriptor, resource["data_key"]] = doc
            return released
        if resource["uid"] not in self._told:
            self._told.add(resource["uid"])
            released.append(("stream_resource", resource))
        return [*released, ("stream_datum", doc)]

    def _event(self, doc: Document) -> Documents:
        released = self._release(doc["descriptor"], False)
        arrays = {key: self._read(doc["descriptor"], key, doc["seq_num"], 1)[0] for key in self._put_back(doc)}
        return [*released, ("event", self._with(doc, arrays))]

    def _event_page(self, doc: Document) -> Documents:
        released = self._release(doc["descriptor"], False)
        first, n = (doc["seq_num"] or [0])[0], len(doc["seq_num"])
        arrays = {key: list(self._read(doc["descriptor"], key, first, n)) for key in self._put_back(doc)}
        return [*released, ("event_page", self._with(doc, arrays))]

    def _stop(self, doc: Document) -> Documents:
        return [each for uid in list(self._held) for each in self._release(uid, False)] + [("stop", doc)]

    def _put_back(self, doc: Document) -> list[str]:
        return self._keys.get(doc["descriptor"], [])

    def _with(self, doc: Document, arrays: Document) -> Document:
        """Return an event, or a page of them, with these arrays, in the order of the data keys."""
        if not arrays:
            return doc
        parts = {"data": doc["data"] | arrays, "timestamps": doc["timestamps"] | dict.fromkeys(arrays, doc["time"])}
        order = self._order[doc["descriptor"]]
        return {**doc, **{part: {key: each[key] for key in order if key in each} for part, each in parts.items()}}

    def _release(self, descriptor: str, is_ours: bool) -> Documents:
        """Return a descriptor that was held, as it was before if its arrays are put back."""
        doc = self._held.pop(descriptor, None)
        if doc is None:
            return []
        if is_ours:
            keys = self._keys[descriptor] = [key for key, each in doc["data_keys"].items() if each.get("external")]
            self._order[descriptor] = list(doc["data_keys"])
            doc = {**doc, "data_keys": doc["data_keys"] | {key: _inside(doc["data_keys"][key]) for key in keys}}
        return [("descriptor", doc)]

    def _read(self, descriptor: str, key: str, seq_num: int, n: int) -> Any:
        datum = self._datums.get((descriptor, key))
        seq_nums = datum["seq_nums"] if datum else {"start": 0, "stop": 0}
        if datum is None or not seq_nums["start"] <= seq_num <= seq_nums["stop"] - n:
            raise PipelineKeyError(f"event {seq_num} has {key!r} in a file, and no stream_datum told where")
        resource = self._resources[datum["stream_resource"]]
        row = datum["indices"]["start"] + seq_num - seq_nums["start"]
        return _rows(resource, row, row + n)


def uploaded(documents: Iterable[tuple[str, Document]]) -> Iterator[tuple[str, Document]]:
    """Yield the documents of one run with the arrays in its events; see `Uploads`."""
    uploads = Uploads()
    for name, doc in documents:
        yield from uploads(name, doc)


def _rows(resource: Document, start: int, stop: int) -> numpy.ndarray:
    path = path_of(resource["uri"])
    try:
        with follow_file(path) as file:
            rows = file[resource["parameters"]["dataset"]][start:stop]
    except FAULTS as error:
        raise PipelineOSError(f"{path}: wanted rows {start} to {stop}, they cannot be read: {error}") from error
    if len(rows) < stop - start:
        raise PipelineOSError(f"{path}: wanted rows {start} to {stop}, there are {len(rows)} of them.")
    return rows


def _inside(data_key: Document) -> Document:
    return {name: value for name, value in data_key.items() if name != "external"}

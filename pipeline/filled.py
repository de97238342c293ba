"""Documents with the values in them that are in files."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

from event_model import unpack_event_page

from pipeline.alignment import Alignment
from pipeline.documents import Document
from pipeline.readers.assets import Assets
from pipeline.readers.frame import Frame
from pipeline.readers.run_assets import RunAssets

ASSETS = ("resource", "datum", "datum_page", "stream_resource", "stream_datum")


def filled(documents: Iterable[tuple[str, Document]], assets: Assets | None = None) -> Iterator[tuple[str, Document]]:
    """Yield the documents of a stored run, with the values in its events that are in files.

    An event says so of them (`filled`), and comes when its values are told of; the documents that tell of files are
    left out. Each value is read when its event is asked for.

    Parameters
    ----------
    documents
        Of one run, as they were stored.
    assets
        Where the files are.

    Raises
    ------
    AssetError
        If a value cannot be read.

    >>> import numpy, tempfile
    >>> from pipeline.array_files import ArrayFiles
    >>> from pipeline.run_arrays import RunArrays
    >>> from pipeline.testing import make_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     arrays = RunArrays(ArrayFiles(folder, above=1000))
    ...     stored = [each for item in make_run({"image": [numpy.eye(20)]}) for each in arrays(*item)]
    ...     events = [doc for name, doc in filled(stored) if name == "event"]
    >>> float(events[0]["data"]["image"].sum()), events[0]["filled"]
    (20.0, {'image': True})
    """
    run = (assets or Assets()).of_run(is_stored=True)
    streams: dict[str, _Stream] = {}
    try:
        for name, doc in documents:
            run(name, doc)
            if name == "descriptor":
                stream = streams.setdefault(doc["name"], _Stream(run))
                stream.describe(doc)
                streams[doc["uid"]] = stream
            elif name == "stop":
                yield from _given(streams, is_over=True)
            if name in ASSETS:
                _tell(streams, name, doc)
            elif name in ("event", "event_page") and streams[doc["descriptor"]].has_files:
                streams[doc["descriptor"]].take(name, doc)
            else:
                yield name, doc
            yield from _given(streams)
        yield from _given(streams, is_over=True)
    finally:
        run.close()


def _tell(streams: dict[str, "_Stream"], name: str, doc: Document) -> None:
    if name == "stream_datum" and doc["descriptor"] in streams:
        streams[doc["descriptor"]].alignment.stream_datum(doc)
    elif name in ("datum", "datum_page"):
        for stream in set(streams.values()):
            stream.alignment.look()


def _given(streams: dict[str, "_Stream"], *, is_over: bool = False) -> Iterator[tuple[str, Document]]:
    for stream in dict.fromkeys(streams.values()):
        yield from stream.given(is_over=is_over)


class _Stream:
    """One stream: its events, each when it is known where its values are."""

    def __init__(self, run: RunAssets) -> None:
        self._run = run
        self._keys: dict[str, Document] = {}  # uid of a descriptor -> its data keys
        self._uids: dict[int, str] = {}  # seq_num -> uid of the event that had it last
        self._events: list[Document] = []
        self.alignment = Alignment(run, None, self._uids.get, self._events.append)

    def describe(self, doc: Document) -> None:
        self._keys[doc["uid"]] = doc["data_keys"]
        self.alignment.descriptor(doc)

    @property
    def has_files(self) -> bool:
        return self.alignment.wants_frames

    def take(self, name: str, doc: Document) -> None:
        events: Any = [doc] if name == "event" else unpack_event_page(cast("Any", doc))
        for event in events:
            self.alignment.event(event)

    def given(self, *, is_over: bool) -> Iterator[tuple[str, Document]]:
        if is_over:
            self.alignment.finish()
        while self._events:
            event = self._events.pop(0)
            self._uids[event["seq_num"]] = event["uid"]
            yield "event", self._filled(event)

    def _filled(self, event: Document) -> Document:
        frames = {key: value for key, value in event["data"].items() if type(value) is Frame}
        keys = self._keys[event["descriptor"]]
        data = {key: self._run.read(frame, keys[key]) for key, frame in frames.items()}
        times = dict.fromkeys(frames, event["time"]) | event["timestamps"]
        return {
            **event,
            "data": event["data"] | data,
            "timestamps": times,
            "filled": {**(event.get("filled") or {}), **dict.fromkeys(frames, True)},
        }

"""Compose one run, document by document, and hand each on at once."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, cast

import event_model
from event_model.documents import EventPage

from pipeline.data_keys import describe
from pipeline.documents import Document, Sink, Uids, plainly
from pipeline.errors import PipelineError, PipelineKeyError, PipelineRuntimeError, PipelineValueError
from pipeline.run import BlueskyRun
from pipeline.schema import validate_once
from pipeline.stream_builder import Rows, StreamBuilder, now
from pipeline.tables import tabulate


def build_simple_run(
    data: Any,
    metadata: Mapping[str, Any] | None = None,
    uid: str | None = None,
    time: float | None = None,
    exit_status: str = "success",
    reason: str = "",
) -> BlueskyRun:
    """Build a run of one table, in the stream `primary`.

    Parameters
    ----------
    data
        Of any kind that `pipeline.tables.tabulate` takes.
    metadata, uid, time
        As `RunBuilder` takes them.
    exit_status, reason
        Of the stop document.

    Raises
    ------
    PipelineError
        If something cannot be stored as it is; it names the column, what was wanted and what there is.

    >>> run = build_simple_run({"x": [1, 2, 3], "y": [4.0, 5.0, 6.0]}, metadata={"sample": "Cu"})
    >>> run.primary.read()["y"].values
    array([4., 5., 6.])
    >>> [name for name, doc in run.documents()]
    ['start', 'descriptor', 'event_page', 'stop']
    """
    with RunBuilder(metadata, uid, time) as builder:
        builder.add_stream("primary", data=data)
        builder.close(exit_status, reason)
    return builder.get_run()


class RunBuilder:
    """Compose a valid run whose uids all follow from the first, and emit each document as soon as it is made.

    Parameters
    ----------
    metadata
        What the start document says besides uid and time.
    uid
        Of the run; a new one by default. The same uid and the same data give the same documents.
    time
        When the run began, in seconds since 1970; now by default.
    emit
        Called with each `(name, doc)`, and nothing is kept. Without it the documents are kept, for `get_run()`.

    Raises
    ------
    PipelineError
        If something cannot be stored, before any document of it goes out: it names the stream and the field, what was
        wanted and what there is.

    >>> import numpy
    >>> with RunBuilder({"sample": "Cu"}, uid="a", time=0.0) as builder:
    ...     builder.add_stream("primary", data={"x": [1.0, 2.0], "image": numpy.zeros((2, 3, 4), "u2")}, time=1.0)
    ...     builder.add_event("primary", {"x": 3.0, "image": numpy.zeros((3, 4), "u2")}, time=2.0)
    >>> run = builder.get_run()
    >>> [name for name, doc in run.documents()]
    ['start', 'descriptor', 'event_page', 'event', 'stop']
    >>> run.primary.read()["image"].shape, run.metadata["stop"]["num_events"]
    ((3, 3, 4), {'primary': 3})
    """

    def __init__(
        self,
        metadata: Mapping[str, Any] | None = None,
        uid: str | None = None,
        time: float | None = None,
        *,
        emit: Sink | None = None,
    ) -> None:
        self._documents: list[tuple[str, Document]] | None = [] if emit is None else None
        self._begin(uid or str(uuid.uuid4()), self._keep if emit is None else emit)
        start = {**_metadata(metadata), "uid": self.uid, "time": now(time)}
        validate_once("start", start)
        self._emit("start", start)

    def _begin(self, uid: str, emit: Sink) -> None:
        self.uid = uid
        self._emit = emit
        self._streams: dict[str, StreamBuilder] = {}
        self._uids = Uids(uid)
        self._closed = False

    def state(self) -> Document:
        """Return how far the run is, as JSON values and arrays; not the documents that are kept."""
        return {"uid": self.uid, "streams": {name: stream.state() for name, stream in self._streams.items()}}

    @classmethod
    def resumed(cls, state: Mapping[str, Any], emit: Sink) -> "RunBuilder":
        """Return the builder that goes on from a state of an open run; nothing is emitted by it.

        >>> documents = []
        >>> builder = RunBuilder(uid="a", time=0.0, emit=lambda name, doc: documents.append((name, doc)))
        >>> builder.add_stream("primary", data={"x": [1.0]}, time=1.0)
        >>> again = RunBuilder.resumed(builder.state(), builder._emit)
        >>> again.add_event("primary", {"x": 2.0}, time=2.0)
        >>> [name for name, doc in documents], documents[-1][1]["seq_num"]
        (['start', 'descriptor', 'event_page', 'event'], 2)
        """
        builder = object.__new__(cls)
        builder._documents = None
        builder._begin(state["uid"], emit)
        for name, stream in state["streams"].items():
            builder._streams[name] = StreamBuilder.resumed(name, stream)
        return builder

    def _keep(self, name: str, doc: Document) -> None:
        assert self._documents is not None
        self._documents.append((name, doc))

    @property
    def streams(self) -> list[str]:
        """The names of the streams so far."""
        return list(self._streams)

    @property
    def closed(self) -> bool:
        """Whether the run has ended, and takes no more."""
        return self._closed

    def get_run(self) -> BlueskyRun:
        """Return the run, which grows as long as this builder is given more.

        Raises
        ------
        PipelineRuntimeError
            If the documents were handed to `emit`: then nothing is kept.
        """
        kept = self._documents
        if kept is None:
            raise PipelineRuntimeError(
                f"Run {self.uid}: its documents went to `emit` and are not kept; wanted a RunBuilder without it."
            )
        return BlueskyRun(lambda: kept)

    def documents(self) -> list[tuple[str, Document]]:
        """Return what was made so far; nothing if it was handed to `emit`."""
        return list(self._documents or ())

    def add_stream(
        self,
        name: str,
        data_keys: Mapping[str, Document] | None = None,
        data: Any = None,
        *,
        configuration: Mapping[str, Document] | None = None,
        object_keys: Mapping[str, Sequence[str]] | None = None,
        object_name: str | None = None,
        hints: Mapping[str, Any] | None = None,
        uid: str | None = None,
        time: Any = None,
        timestamps: Any = None,
    ) -> None:
        """Describe a stream, by its data keys or by its first data, and add those.

        Parameters
        ----------
        name
            Of the stream.
        data_keys
            Of each field, as event-model has them; by default as the data are.
        data
            A table of any kind that `pipeline.tables.tabulate` takes.
        configuration
            By object: `{"data": ..., "timestamps": ..., "data_keys": ...}`; see `configuration`. What a table says of
            all its rows is added to that of the object.
        object_keys
            Which fields are of which object; by default all of one.
        object_name
            The object that the fields are of; the name of the stream by default.
        hints
            By object: `{"fields": [...]}`.
        uid
            Of the descriptor; one that follows from the run's by default.
        time, timestamps
            Of the data, as in `add_data`.
        """
        self._refuse_closed()
        if name in self._streams:
            raise PipelineValueError(f"Stream {name!r} is there already; add_event and add_data add to it.")
        if data_keys is None and data is None:
            raise PipelineValueError(f"Stream {name!r}: wanted data_keys or data, there is neither.")
        table = None if data is None else tabulate(data, name)
        stream = StreamBuilder(name, data_keys, table, object_name, object_keys, configuration, hints)
        rows = None if table is None else stream.rows(table, time, timestamps)
        self._describe(stream, _first(time, rows), uid)
        self._streams[name] = stream
        if rows is not None:
            self._emit_rows(stream, rows)

    def _describe(self, stream: StreamBuilder, time: float | None, uid: str | None = None) -> None:
        doc = stream.descriptor(self.uid, uid or self._uids(f"{stream.name}/{stream.n_descriptors}"), now(time))
        validate_once("descriptor", doc)
        stream.begin(doc["uid"])
        self._emit("descriptor", doc)

    def add_event(
        self,
        name: str,
        data: Mapping[str, Any],
        *,
        time: float | None = None,
        timestamps: Mapping[str, float] | None = None,
    ) -> None:
        """Add one event to a stream; its timestamps are its time if there are none."""
        if self._closed:
            self._refuse_closed()
        try:
            stream = self._streams[name]
        except KeyError:
            raise self._no_such(name) from None
        self._emit("event", stream.event(data, now(time), timestamps))

    def add_data(
        self,
        name: str,
        data: Any,
        time: Any = None,
        timestamps: Any = None,
        seq_num: Sequence[int] | None = None,
        uid: Sequence[str] | None = None,
    ) -> None:
        """Add rows to a stream.

        Parameters
        ----------
        name
            Of a stream that was added.
        data
            A table of any kind that `pipeline.tables.tabulate` takes, with the fields of the stream.
        time
            Of all events, or a column of them; by default what the table says, or now.
        timestamps
            By field, of all events or a column; the times by default.
        seq_num
            Not needed: they are counted here, from 1 on. Others are refused.
        uid
            Of the events; by default they follow from the run's.
        """
        self._refuse_closed()
        if name not in self._streams:
            raise self._no_such(name)
        stream = self._streams[name]
        rows = stream.rows(tabulate(data, name), time, timestamps, seq_num, uid)
        self._emit_rows(stream, rows)

    def _emit_rows(self, stream: StreamBuilder, rows: Rows) -> None:
        for page in stream.pages(rows):
            self._emit("event_page", page)

    def update_configuration(
        self, name: str, configuration: Mapping[str, Document], *, time: float | None = None
    ) -> None:
        """Describe the stream anew, with another configuration: the events that come are of the new descriptor."""
        self.redescribe(name, configuration=configuration, time=time)

    def redescribe(
        self,
        name: str,
        data_keys: Mapping[str, Document] | None = None,
        *,
        configuration: Mapping[str, Document] | None = None,
        time: float | None = None,
    ) -> None:
        """Describe the stream anew, with other dtypes, shapes or configuration of the same fields."""
        self._refuse_closed()
        if name not in self._streams:
            raise self._no_such(name)
        old = self._streams[name]
        new = old.renewed(data_keys or old.data_keys, configuration or old.configuration)
        self._describe(new, time)
        self._streams[name] = new

    def close(
        self,
        exit_status: str = "success",
        reason: str = "",
        uid: str | None = None,
        time: float | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """End the run; a closed run refuses whatever comes."""
        self._refuse_closed()
        stop = {
            **(metadata or {}),
            "uid": uid or self._uids("stop"),
            "time": now(time),
            "run_start": self.uid,
            "exit_status": exit_status,
            "reason": reason,
            "num_events": {name: stream.n_events for name, stream in self._streams.items()},
        }
        validate_once("stop", stop)
        self._closed = True
        self._emit("stop", stop)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise PipelineRuntimeError(f"Run {self.uid} is closed; wanted it open.")

    def _no_such(self, stream: str) -> PipelineError:
        return PipelineKeyError(f"Run {self.uid} has no stream {stream!r}; there are {sorted(self._streams)}.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if not self._closed:
            self.close(*(("success", "") if error is None else ("fail", repr(error))))


def _metadata(metadata: Mapping[str, Any] | None) -> Document:
    """Return the metadata in JSON's own types; uid and time are told apart from it."""
    for key in ("uid", "time"):
        if key in (metadata or ()):
            raise PipelineValueError(f"metadata says {key!r}, which the run has itself; give it as {key}=.")
    return plainly(dict(metadata or {}), "metadata")


def _first(time: Any, rows: Rows | None) -> float | None:
    """Return the time of a descriptor: that of the first row, if there is one."""
    if rows is not None and rows.times:
        return rows.times[0]
    return None if hasattr(time, "__len__") else time


def configuration(object_name: str, values: Mapping[str, Any], time: float) -> dict[str, Document]:
    """Return the configuration of a descriptor that holds these values, described.

    >>> import numpy
    >>> configuration("powder", {"q": numpy.arange(3.0)}, 0.0)["powder"]["data_keys"]["q"]["shape"]
    [3]
    """
    return {
        object_name: {
            "data": dict(values),
            "timestamps": dict.fromkeys(values, time),
            "data_keys": {key: describe(value, object_name) for key, value in values.items()},
        }
    }


def iter_events(page: Document) -> Iterator[Document]:
    """Return the events of a page, one by one.

    >>> [event["data"] for event in iter_events({"data": {"x": [1, 2]}, "timestamps": {"x": [0, 0]}, "time": [0, 0],
    ...     "seq_num": [1, 2], "uid": ["a", "b"], "descriptor": "d", "filled": {}})]
    [{'x': 1}, {'x': 2}]
    """
    return cast(Iterator[Document], event_model.unpack_event_page(cast(EventPage, page)))

"""Compose one run, document by document, and hand each on at once."""

import time as clock
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any, Self, cast

import event_model
from event_model.documents import EventPage

from pipeline.documents import Document, Sink, Uids, caster, describe
from pipeline.errors import PipelineError, PipelineKeyError, PipelineRuntimeError, PipelineValueError
from pipeline.schema import validate_once

Columns = Mapping[str, Sequence[Any]]


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
        Called with each `(name, doc)`, and nothing is kept. Without it the documents are kept for `documents()`.

    Raises
    ------
    PipelineError
        If something cannot be stored, before any document of it goes out: it names the stream and the field, what was
        wanted and what there is.

    >>> import numpy
    >>> with RunBuilder({"sample": "Cu"}, uid="a", time=0.0) as builder:
    ...     builder.add_stream("primary", data={"x": [1.0, 2.0], "image": numpy.zeros((2, 3, 4), "u2")}, time=1.0)
    ...     builder.add_event("primary", {"x": 3.0, "image": numpy.zeros((3, 4), "u2")}, time=2.0)
    >>> [name for name, doc in builder.documents()]
    ['start', 'descriptor', 'event_page', 'event', 'stop']
    >>> builder.documents()[-1][1]["num_events"]
    {'primary': 3}
    """

    def __init__(
        self,
        metadata: Mapping[str, Any] | None = None,
        uid: str | None = None,
        time: float | None = None,
        *,
        emit: Sink | None = None,
    ) -> None:
        self.uid = uid or str(uuid.uuid4())
        self._documents: list[tuple[str, Document]] = []
        self._emit = self._keep if emit is None else emit
        self._streams: dict[str, _Stream] = {}
        self._uids = Uids(self.uid)
        self._closed = False
        start = {**(metadata or {}), "uid": self.uid, "time": _now(time)}
        validate_once("start", start)
        self._emit("start", start)

    def _keep(self, name: str, doc: Document) -> None:
        self._documents.append((name, doc))

    @property
    def streams(self) -> list[str]:
        """The names of the streams so far."""
        return list(self._streams)

    def documents(self) -> list[tuple[str, Document]]:
        """Return what was made so far; nothing if it was handed to `emit`."""
        return list(self._documents)

    def add_stream(
        self,
        name: str,
        data_keys: Mapping[str, Document] | None = None,
        data: Columns | None = None,
        *,
        configuration: Mapping[str, Document] | None = None,
        object_name: str | None = None,
        hints: Mapping[str, Any] | None = None,
        time: Any = None,
        timestamps: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe a stream, by its data keys or by its first data, and add those.

        Parameters
        ----------
        name
            Of the stream.
        data_keys
            Of each field, as event-model has them.
        data
            Columns of equal length, one element a row; arrays have the rows first.
        configuration
            By object: `{"data": ..., "timestamps": ..., "data_keys": ...}`; see `configuration`.
        object_name
            The object that the fields are of; the name of the stream by default.
        hints
            By object: `{"fields": [...]}`.
        time, timestamps
            Of the data, as in `add_data`.
        """
        self._refuse_closed()
        if name in self._streams:
            raise PipelineValueError(f"Stream {name!r} is there already; add_event and add_data add to it.")
        if data_keys is None:
            data_keys = _describe_columns(name, data or {})
        first = time[0] if isinstance(time, Sequence) else time
        stream = _Stream(name, data_keys, object_name or name, configuration or {}, hints or {})
        if data is not None:
            stream.check_page(data)
        self._describe(stream, _now(first))
        self._streams[name] = stream
        if data is not None:
            self.add_data(name, data, time=time, timestamps=timestamps)

    def _describe(self, stream: "_Stream", time: float) -> None:
        doc = stream.descriptor(self.uid, self._uids(f"{stream.name}/{stream.n_descriptors}"), time)
        validate_once("descriptor", doc)
        stream.begin(doc["uid"])
        self._emit("descriptor", doc)

    def add_event(
        self,
        stream: str,
        data: Mapping[str, Any],
        *,
        time: float | None = None,
        timestamps: Mapping[str, float] | None = None,
    ) -> None:
        """Add one event, whose timestamps are its time if there are none."""
        if self._closed:
            self._refuse_closed()
        try:
            to = self._streams[stream]
        except KeyError:
            raise self._no_such(stream) from None
        self._emit("event", to.event(data, _now(time), timestamps))

    def add_data(
        self, stream: str, data: Columns, *, time: Any = None, timestamps: Mapping[str, Any] | None = None
    ) -> None:
        """Add a page of events: columns of equal length.

        Parameters
        ----------
        stream
            One that was added.
        data
            By field, one element a row; arrays have the rows first.
        time
            Of all events, or a column of them; now by default.
        timestamps
            By field, of all events or a column; the times by default.
        """
        self._refuse_closed()
        if stream not in self._streams:
            raise self._no_such(stream)
        self._emit("event_page", self._streams[stream].page(data, time, timestamps))

    def update_configuration(
        self, stream: str, configuration: Mapping[str, Document], *, time: float | None = None
    ) -> None:
        """Describe the stream anew, with another configuration: the events that come are of the new descriptor."""
        self.redescribe(stream, configuration=configuration, time=time)

    def redescribe(
        self,
        stream: str,
        data_keys: Mapping[str, Document] | None = None,
        *,
        configuration: Mapping[str, Document] | None = None,
        time: float | None = None,
    ) -> None:
        """Describe the stream anew, with other dtypes, shapes or configuration of the same fields."""
        self._refuse_closed()
        if stream not in self._streams:
            raise self._no_such(stream)
        old = self._streams[stream]
        new = old.renewed(data_keys or old.data_keys, configuration or old.configuration)
        self._describe(new, _now(time))
        self._streams[stream] = new

    def close(
        self,
        exit_status: str = "success",
        reason: str = "",
        *,
        time: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """End the run; a closed run refuses whatever comes."""
        self._refuse_closed()
        stop = {
            **(metadata or {}),
            "uid": self._uids("stop"),
            "time": _now(time),
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


class _Stream:
    """One stream of a run: makes its documents, and counts them."""

    def __init__(
        self,
        name: str,
        data_keys: Mapping[str, Document],
        object_name: str,
        configuration: Mapping[str, Document],
        hints: Mapping[str, Any],
    ) -> None:
        self.name = name
        self.data_keys = {key: {"object_name": object_name, **data_key} for key, data_key in data_keys.items()}
        self.object_name, self.configuration, self.hints = object_name, configuration, hints
        self.n_events = self.n_descriptors = 0
        self._casts = {key: caster(data_key) for key, data_key in self.data_keys.items()}
        self._validate = {"event", "event_page"}  # the first of each is validated in full

    def renewed(self, data_keys: Mapping[str, Document], configuration: Mapping[str, Document]) -> "_Stream":
        """Return the stream, described anew, that counts on where this one is."""
        if data_keys.keys() != self.data_keys.keys():
            raise PipelineValueError(
                f"Stream {self.name!r} has {sorted(self.data_keys)}; a new descriptor of it cannot have "
                f"{sorted(data_keys)}."
            )
        new = _Stream(self.name, data_keys, self.object_name, configuration, self.hints)
        new.n_events, new.n_descriptors = self.n_events, self.n_descriptors
        return new

    def descriptor(self, run: str, uid: str, time: float) -> Document:
        """Return the document that describes the stream as it is."""
        return {
            "uid": uid,
            "time": time,
            "run_start": run,
            "name": self.name,
            "data_keys": self.data_keys,
            "object_keys": {self.object_name: list(self.data_keys)},
            "configuration": dict(self.configuration),
            "hints": dict(self.hints),
        }

    def begin(self, descriptor: str) -> None:
        """Make the events that come those of this descriptor."""
        self._descriptor = descriptor
        self._uids = Uids(descriptor)
        self.n_descriptors += 1

    def event(self, data: Mapping[str, Any], time: float, timestamps: Mapping[str, float] | None) -> Document:
        """Return the next event."""
        try:
            row = {key: cast(data[key]) for key, cast in self._casts.items()}
        except KeyError:
            raise self._other_fields(data) from None
        except PipelineError:
            row = {key: _named(self.name, key, cast)(data[key]) for key, cast in self._casts.items()}  # tells which
        if len(row) != len(data):
            raise self._other_fields(data)
        seq_num = self.n_events + 1
        doc = {
            "uid": self._uids(str(seq_num)),
            "time": time,
            "data": row,
            "timestamps": dict.fromkeys(row, time) if timestamps is None else timestamps,
            "seq_num": seq_num,
            "filled": {},
            "descriptor": self._descriptor,
        }
        if "event" in self._validate:
            self._check_first("event", doc)
        self.n_events = seq_num
        return doc

    def page(self, data: Columns, time: Any, timestamps: Mapping[str, Any] | None) -> Document:
        """Return the next events, as a page."""
        columns = self.check_page(data)
        n = len(next(iter(columns.values()), ()))
        times = _column(_now(time) if time is None else time, n, "time")
        seq_nums = list(range(self.n_events + 1, self.n_events + n + 1))
        stamps = {key: _column((timestamps or {}).get(key, times), n, f"timestamps[{key!r}]") for key in columns}
        doc = {
            "uid": [self._uids(str(seq_num)) for seq_num in seq_nums],
            "time": times,
            "data": columns,
            "timestamps": stamps,
            "seq_num": seq_nums,
            "filled": {},
            "descriptor": self._descriptor,
        }
        if "event_page" in self._validate:
            self._check_first("event_page", doc)
        self.n_events += n
        return doc

    def check_page(self, data: Columns) -> dict[str, list[Any]]:
        """Return the columns as they go out, or refuse them."""
        if data.keys() != self.data_keys.keys():
            raise self._other_fields(data)
        lengths = {key: len(column) for key, column in data.items()}
        if len(set(lengths.values())) > 1:
            raise PipelineValueError(f"Stream {self.name!r}: wanted columns of one length, there are {lengths}.")
        casts = {key: _named(self.name, key, cast) for key, cast in self._casts.items()}
        return {key: [cast(value) for value in data[key]] for key, cast in casts.items()}

    def _check_first(self, name: str, doc: Document) -> None:
        if doc["timestamps"].keys() != doc["data"].keys():
            raise PipelineValueError(
                f"Stream {self.name!r}: wanted timestamps of {sorted(doc['data'])}, "
                f"there are those of {sorted(doc['timestamps'])}."
            )
        validate_once(name, doc)
        self._validate.discard(name)

    def _other_fields(self, data: Mapping[str, Any]) -> PipelineError:
        return PipelineKeyError(f"Stream {self.name!r}: wanted {sorted(self.data_keys)}, there are {sorted(data)}.")


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


def _describe_columns(stream: str, data: Columns) -> dict[str, Document]:
    if not data:
        raise PipelineValueError(f"Stream {stream!r}: wanted data_keys or data, there is neither.")
    return {key: _named(stream, key, partial(_describe_column, key))(column) for key, column in data.items()}


def _describe_column(key: str, column: Sequence[Any]) -> Document:
    if not len(column):
        raise PipelineValueError("wanted data_keys, or a first row to describe it by; the column is empty.")
    return describe(column[0], key)


def _named(stream: str, key: str, function: Any) -> Any:
    """Return the function, its errors telling which field of which stream they are of."""

    def named(value: Any) -> Any:
        try:
            return function(value)
        except PipelineError as error:
            raise type(error)(f"Stream {stream!r}, field {key!r}: {error}") from None

    return named


def _column(value: Any, n: int, what: str) -> list[float]:
    column = list(repeat(float(value), n)) if not hasattr(value, "__len__") else [float(each) for each in value]
    if len(column) != n:
        raise PipelineValueError(f"wanted {n} of {what}, there are {len(column)}.")
    return column


def _now(time: float | None) -> float:
    return clock.time() if time is None else float(time)


def iter_events(page: Document) -> Iterator[Document]:
    """Return the events of a page, one by one.

    >>> [event["data"] for event in iter_events({"data": {"x": [1, 2]}, "timestamps": {"x": [0, 0]}, "time": [0, 0],
    ...     "seq_num": [1, 2], "uid": ["a", "b"], "descriptor": "d", "filled": {}})]
    [{'x': 1}, {'x': 2}]
    """
    return cast(Iterator[Document], event_model.unpack_event_page(cast(EventPage, page)))

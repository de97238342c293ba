"""Compose one run, document by document, and hand each on at once."""

import time as clock
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, cast

import event_model
import numpy
from event_model.documents import EventPage

from pipeline.data_keys import caster, describe, describe_column, exactly, named, short
from pipeline.documents import Document, Sink, Uids, plainly
from pipeline.errors import PipelineError, PipelineKeyError, PipelineRuntimeError, PipelineTypeError, PipelineValueError
from pipeline.run import BlueskyRun
from pipeline.schema import validate_once
from pipeline.tables import Table, tabulate

PAGE_ROWS = 1000  # of one event_page, or fewer, if they are large
PAGE_BYTES = 1 << 24


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
        self.uid = uid or str(uuid.uuid4())
        self._documents: list[tuple[str, Document]] | None = [] if emit is None else None
        self._emit = self._keep if emit is None else emit
        self._streams: dict[str, _Stream] = {}
        self._uids = Uids(self.uid)
        self._closed = False
        start = {**_metadata(metadata), "uid": self.uid, "time": _now(time)}
        validate_once("start", start)
        self._emit("start", start)

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
        stream = _Stream(name, data_keys, table, object_name, object_keys, configuration, hints)
        rows = None if table is None else stream.rows(table, time, timestamps)
        self._describe(stream, _first(time, rows), uid)
        self._streams[name] = stream
        if rows is not None:
            self._emit_rows(stream, rows)

    def _describe(self, stream: "_Stream", time: float | None, uid: str | None = None) -> None:
        doc = stream.descriptor(self.uid, uid or self._uids(f"{stream.name}/{stream.n_descriptors}"), _now(time))
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
        self._emit("event", stream.event(data, _now(time), timestamps))

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

    def _emit_rows(self, stream: "_Stream", rows: "_Rows") -> None:
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


def _metadata(metadata: Mapping[str, Any] | None) -> Document:
    """Return the metadata in JSON's own types; uid and time are told apart from it."""
    for key in ("uid", "time"):
        if key in (metadata or ()):
            raise PipelineValueError(f"metadata says {key!r}, which the run has itself; give it as {key}=.")
    return plainly(dict(metadata or {}), "metadata")


def _first(time: Any, rows: "_Rows | None") -> float | None:
    """Return the time of a descriptor: that of the first row, if there is one."""
    if rows is not None and rows.times:
        return rows.times[0]
    return None if hasattr(time, "__len__") else time


class _Rows:
    """Rows that are checked, on their way into pages."""

    def __init__(self, columns: dict[str, list[Any]], times: list[float], stamps: Document, uids: Any) -> None:
        self.columns, self.times, self.stamps, self.uids = columns, times, stamps, uids
        size = sum(getattr(column[0], "nbytes", 8) for column in columns.values() if column)
        self.step = min(PAGE_ROWS, max(1, PAGE_BYTES // max(1, size)))


class _Stream:
    """One stream of a run: makes its documents, and counts them."""

    def __init__(
        self,
        name: str,
        data_keys: Mapping[str, Document] | None,
        table: Table | None = None,
        object_name: str | None = None,
        object_keys: Mapping[str, Sequence[str]] | None = None,
        configuration: Mapping[str, Document] | None = None,
        hints: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.object_name = object_name or name
        if data_keys is None:
            assert table is not None
            data_keys = table.data_keys
        owners = {key: owner for owner, keys in (object_keys or {}).items() for key in keys}
        self.data_keys = {
            key: {"object_name": owners.get(key, self.object_name), **data_key} for key, data_key in data_keys.items()
        }
        self.object_keys = dict(object_keys or {self.object_name: list(self.data_keys)})
        self.configuration = dict(configuration or {})
        self.facts = {} if table is None else table.facts
        self.hints = dict(hints or {})
        self.n_events = self.n_descriptors = 0
        self._keys = {data_key.get("original_name", key): key for key, data_key in self.data_keys.items()}
        self._casts = {key: caster(data_key) for key, data_key in self.data_keys.items()}
        self._validate = {"event", "event_page"}  # the first of each is validated in full

    def renewed(self, data_keys: Mapping[str, Document], configuration: Mapping[str, Document]) -> "_Stream":
        """Return the stream, described anew, that counts on where this one is."""
        if data_keys.keys() != self.data_keys.keys():
            raise PipelineValueError(
                f"Stream {self.name!r} has {sorted(self.data_keys)}; a new descriptor of it cannot have "
                f"{sorted(data_keys)}."
            )
        new = _Stream(self.name, data_keys, None, self.object_name, self.object_keys, configuration, self.hints)
        new.facts = self.facts
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
            "object_keys": self.object_keys,
            "configuration": self._configuration(time),
            "hints": self.hints,
        }

    def _configuration(self, time: float) -> dict[str, Document]:
        """Return the configuration given, and that of the object with what the table says of all its rows."""
        if not self.facts:
            return self.configuration
        given = self.configuration.get(self.object_name, {})
        facts = {
            "data": {key: value for key, (_, value) in self.facts.items()},
            "timestamps": dict.fromkeys(self.facts, time),
            "data_keys": {key: data_key for key, (data_key, _) in self.facts.items()},
        }
        return {
            **self.configuration,
            self.object_name: {what: {**facts[what], **given.get(what, {})} for what in facts},
        }

    def begin(self, descriptor: str) -> None:
        """Make the events that come those of this descriptor."""
        self._descriptor = descriptor
        self._uids = Uids(descriptor)
        self.n_descriptors += 1

    def event(self, data: Mapping[str, Any], time: float, timestamps: Mapping[str, float] | None) -> Document:
        """Return the next event."""
        if not data.keys() <= self._casts.keys():
            data = self._by_key(data)
        try:
            row = {key: cast(data[key]) for key, cast in self._casts.items()}
        except KeyError:
            raise self._other_fields(data) from None
        except PipelineError:
            row = {key: named(self.name, key, cast)(data[key]) for key, cast in self._casts.items()}  # tells which
        seq_num = self.n_events + 1
        doc = {
            "uid": self._uids(str(seq_num)),
            "time": time,
            "data": row,
            "timestamps": dict.fromkeys(row, time) if timestamps is None else self._stamps(timestamps),
            "seq_num": seq_num,
            "filled": {},
            "descriptor": self._descriptor,
        }
        if "event" in self._validate:
            self._check_first("event", doc)
        self.n_events = seq_num
        return doc

    def _stamps(self, timestamps: Mapping[str, float]) -> Mapping[str, float]:
        return timestamps if timestamps.keys() <= self._casts.keys() else self._by_key(timestamps)

    def _by_key(self, by_name: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is given by name, by key."""
        by_key = {self._keys.get(name, name): value for name, value in by_name.items()}
        if len(by_key) != len(by_name) or not by_key.keys() <= self._casts.keys():
            raise self._other_fields(by_name)
        return by_key

    def rows(self, table: Table, time: Any, timestamps: Any, seq_num: Any = None, uid: Any = None) -> _Rows:
        """Return the rows of a table as they go out, or refuse them; nothing changes by it."""
        self._check_facts(table)
        columns = self._columns(table)
        n = len(table)
        times = _column(table.times or _now(None) if time is None else time, n, f"Stream {self.name!r}: time")
        stamps = {str(name): column for name, column in _items(timestamps)}
        if not {self._keys.get(name, name) for name in stamps} <= columns.keys():
            raise self._other_fields(stamps)
        by_key = {self._keys.get(name, name): column for name, column in stamps.items()}
        told = {
            key: _column(by_key.get(key, times), n, f"Stream {self.name!r}: timestamps[{key!r}]") for key in columns
        }
        expected = list(range(self.n_events + 1, self.n_events + n + 1))
        if seq_num is not None and list(seq_num) != expected:
            raise PipelineValueError(
                f"Stream {self.name!r}: wanted seq_num from {expected[:1]} on, one a row; there is {short(seq_num)}."
            )
        if uid is not None and (isinstance(uid, str) or len(uid) != n):
            raise PipelineValueError(f"Stream {self.name!r}: wanted {n} uids, there is {short(uid)}.")
        return _Rows(columns, times, told, uid)

    def _columns(self, table: Table) -> dict[str, list[Any]]:
        columns = self._by_key({name: table.columns[key] for name, key in table.names.items()})
        if columns.keys() != self.data_keys.keys():
            raise self._other_fields(columns)
        given = {self._keys.get(name, name): table.data_keys[key] for name, key in table.names.items()}
        return {key: self._checked(key, columns[key], given[key]) for key in self.data_keys}

    def _checked(self, key: str, values: list[Any], given: Document) -> list[Any]:
        """Return the values of a column as its data key says."""
        mine = self.data_keys[key]
        if all(mine.get(what) == given.get(what) for what in ("dtype", "dtype_numpy", "shape", "kind")):
            return values
        is_missing = given["dtype"] == "number" != mine["dtype"] and all(value != value for value in values)
        if not is_missing and mine.get("kind") != given.get("kind"):
            raise PipelineTypeError(
                f"Stream {self.name!r}, field {key!r}: wanted {_what(mine)}, there is {_what(given)}."
            )
        cast = self._casts[key] if is_missing else exactly(caster({**mine, "kind": None}))
        return [named(self.name, key, cast)(None if is_missing else value) for value in values]

    def _check_facts(self, table: Table) -> None:
        """Refuse what a later table says of all rows, if the descriptor says something else."""
        for key, (_, value) in table.facts.items():
            if key not in self.facts or not _is_same(self.facts[key][1], value):
                there = short(self.facts[key][1]) if key in self.facts else "none"
                raise PipelineValueError(
                    f"Stream {self.name!r} is described with {key!r} as {there}; there are rows with {short(value)}."
                )

    def pages(self, rows: _Rows) -> Iterator[Document]:
        """Yield the rows as pages, and count them."""
        for begin in range(0, len(rows.times), rows.step):
            part = slice(begin, begin + rows.step)
            n = len(rows.times[part])
            seq_nums = list(range(self.n_events + 1, self.n_events + n + 1))
            doc = {
                "uid": list(rows.uids[part]) if rows.uids else [self._uids(str(seq_num)) for seq_num in seq_nums],
                "time": rows.times[part],
                "data": {key: column[part] for key, column in rows.columns.items()},
                "timestamps": {key: column[part] for key, column in rows.stamps.items()},
                "seq_num": seq_nums,
                "filled": {},
                "descriptor": self._descriptor,
            }
            if "event_page" in self._validate:
                self._check_first("event_page", doc)
            self.n_events += n
            yield doc

    def _check_first(self, name: str, doc: Document) -> None:
        if doc["timestamps"].keys() != doc["data"].keys():
            raise PipelineValueError(
                f"Stream {self.name!r}: wanted timestamps of {sorted(doc['data'])}, "
                f"there are those of {sorted(doc['timestamps'])}."
            )
        validate_once(name, doc if name == "event" else _first_row(doc))
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


def _first_row(page: Document) -> Document:
    """Return the page without the rows but the first, which look the same."""
    rows = {key: page[key][:1] for key in ("uid", "time", "seq_num")}
    columns = {what: {key: column[:1] for key, column in page[what].items()} for what in ("data", "timestamps")}
    return {**page, **rows, **columns}


def _what(data_key: Document) -> str:
    kind = data_key.get("kind", data_key["dtype"]).partition("64")[0]
    return f"{kind} of shape {data_key['shape']}" if data_key["shape"] else kind


def _is_same(one: Any, other: Any) -> bool:
    one, other = numpy.asarray(one), numpy.asarray(other)
    return one.dtype.kind == other.dtype.kind and numpy.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _items(timestamps: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the columns of whatever holds timestamps by name."""
    if timestamps is not None:
        for name in timestamps:
            yield name, timestamps[name]


def _column(value: Any, n: int, what: str) -> list[float]:
    """Return n times, in seconds since 1970, of one for all or of a column of them."""
    if isinstance(value, float):
        return [value] * n
    is_column = hasattr(value, "__len__") and not isinstance(value, str) and numpy.ndim(value)
    data_key, seconds = _described(value if is_column else [value], what)
    if data_key.get("kind") == "datetime64[ns]":
        seconds = [nanoseconds / 1e9 for nanoseconds in seconds]
    elif data_key["dtype"] not in ("number", "integer"):
        raise PipelineTypeError(f"{what}: wanted seconds since 1970, or datetimes; there is {short(value)}.")
    column = [float(each) for each in (seconds if is_column else seconds * n)]
    if len(column) != n:
        raise PipelineValueError(f"{what}: wanted {n} of them, one a row; there are {len(column)}.")
    return column


def _described(values: Any, what: str) -> tuple[Document, list[Any]]:
    try:
        return describe_column(values, "time")
    except PipelineError as error:
        raise type(error)(f"{what}: {error}") from None


def _now(time: float | None) -> float:
    return clock.time() if time is None else float(time)


def iter_events(page: Document) -> Iterator[Document]:
    """Return the events of a page, one by one.

    >>> [event["data"] for event in iter_events({"data": {"x": [1, 2]}, "timestamps": {"x": [0, 0]}, "time": [0, 0],
    ...     "seq_num": [1, 2], "uid": ["a", "b"], "descriptor": "d", "filled": {}})]
    [{'x': 1}, {'x': 2}]
    """
    return cast(Iterator[Document], event_model.unpack_event_page(cast(EventPage, page)))

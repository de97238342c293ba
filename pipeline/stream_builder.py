"""One stream of a run that is built: makes its documents, and counts them."""

import time as clock
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy

from pipeline.columns import describe_column
from pipeline.data_keys import caster, exactly, named, short
from pipeline.documents import Document, Uids
from pipeline.errors import PipelineError, PipelineKeyError, PipelineTypeError, PipelineValueError
from pipeline.schema import validate_once
from pipeline.state import pack, unpack
from pipeline.tables import Table

_DESCRIBED = ("data_keys", "object_name", "object_keys", "configuration", "hints")

PAGE_ROWS = 1000  # of one event_page, or fewer, if they are large
PAGE_BYTES = 1 << 24


class Rows:
    """Rows that are checked, on their way into pages."""

    def __init__(self, columns: dict[str, list[Any]], times: list[float], stamps: Document, uids: Any) -> None:
        self.columns, self.times, self.stamps, self.uids = columns, times, stamps, uids
        size = sum(getattr(column[0], "nbytes", 8) for column in columns.values() if column)
        self.step = min(PAGE_ROWS, max(1, PAGE_BYTES // max(1, size)))


class StreamBuilder:
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

    def renewed(self, data_keys: Mapping[str, Document], configuration: Mapping[str, Document]) -> "StreamBuilder":
        """Return the stream, described anew, that counts on where this one is."""
        if data_keys.keys() != self.data_keys.keys():
            raise PipelineValueError(
                f"Stream {self.name!r} has {sorted(self.data_keys)}; a new descriptor of it cannot have "
                f"{sorted(data_keys)}."
            )
        new = StreamBuilder(self.name, data_keys, None, self.object_name, self.object_keys, configuration, self.hints)
        new.facts = self.facts
        new.n_events, new.n_descriptors = self.n_events, self.n_descriptors
        return new

    def state(self) -> Document:
        """Return what tells the stream from another, as JSON values and arrays; of one that tables made, not all."""
        return {
            **{name: pack(getattr(self, name), self.name, "") for name in _DESCRIBED},
            "n_events": self.n_events,
            "n_descriptors": self.n_descriptors,
            "descriptor": self._descriptor,
        }

    @classmethod
    def resumed(cls, name: str, state: Document) -> "StreamBuilder":
        """Return the stream that counts on from this state."""
        described = {each: unpack(state[each], "") for each in _DESCRIBED}
        stream = cls(name, described.pop("data_keys"), **described)
        stream.begin(state["descriptor"])
        stream.n_events, stream.n_descriptors = state["n_events"], state["n_descriptors"]
        return stream

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

    def rows(self, table: Table, time: Any, timestamps: Any, seq_num: Any = None, uid: Any = None) -> Rows:
        """Return the rows of a table as they go out, or refuse them; nothing changes by it."""
        self._check_facts(table)
        columns = self._columns(table)
        n = len(table)
        times = _column(table.times or now(None) if time is None else time, n, f"Stream {self.name!r}: time")
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
        return Rows(columns, times, told, uid)

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

    def pages(self, rows: Rows) -> Iterator[Document]:
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


def now(time: float | None) -> float:
    """Return this time, or what it is now, in seconds since 1970."""
    return clock.time() if time is None else float(time)

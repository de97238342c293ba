"""Bring the events of one raw stream together with where their frames are."""

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pipeline.documents import Document
from pipeline.readers.frame import Frame, Span
from pipeline.readers.run_assets import RunAssets
from pipeline.spans import Spans, Walk
from pipeline.state import pack, unpack


class Alignment:
    """Hand on the events of one stream, in the order they came, each when it is known where its frames are.

    In place of an external value an event has a `Frame` then. Where a stream has frames and no events at all (a fly
    scan), there is an event for each `seq_num` that all fields have, at the time of the descriptor. When the run is
    over, events are handed on without what was never announced.

    The first event of a `seq_num` has the first frames that are told of it, that of a point taken again the next ones:
    whether frames are told of before the events or after them makes no difference. Where a stream has nothing but
    frames, it does: that more than one batch of them came, and no event, is what tells a fly scan.

    Parameters
    ----------
    assets
        Of the raw run; they are given each document before this is.
    fields
        The external fields that are wanted; None: all. It may be told later, before the first descriptor.
    taken
        Returns the uid of the event that was taken under a `seq_num`, if one was.
    give
        Called with each event.

    Attributes
    ----------
    wants_frames
        Whether any of the fields wanted is external.
    """

    def __init__(
        self,
        assets: RunAssets,
        fields: Collection[str] | None,
        taken: Callable[[int], str | None],
        give: Callable[[Document], None],
    ) -> None:
        self._assets, self.fields, self._taken, self._give = assets, fields, taken, give
        self._wanted: dict[str, list[str]] = {}  # uid of a descriptor -> its external fields
        self._times: dict[str, float] = {}  # uid of a descriptor without other fields -> its time
        self._spans: dict[str, Spans] = {}
        self._waiting: deque[Document] = deque()
        self._again: dict[int, list[str]] = {}  # seq_num that was taken again -> uids of its events
        self._found: set[str] = set()  # fields that had a frame
        self._n_told: Counter[str] = Counter()  # field -> how many stream_datum
        self._has_events = self._has_rows = False
        self._walk = Walk()  # where there are no events
        self.wants_frames = False

    def descriptor(self, doc: Document) -> None:
        """Know which fields of a stream are external."""
        external = [field for field, key in doc["data_keys"].items() if key.get("external")]
        self._wanted[doc["uid"]] = [field for field in external if self.fields is None or field in self.fields]
        if len(external) == len(doc["data_keys"]):
            self._times[doc["uid"]] = doc["time"]
        if self._wanted[doc["uid"]]:
            self._want()

    def _want(self) -> None:
        self.wants_frames = True
        self._assets.want()

    @property
    def waits(self) -> bool:
        """Whether there are events that wait."""
        return bool(self._waiting)

    # documents

    def event(self, doc: Document) -> None:
        """Take in an event."""
        if self._has_rows:  # its frames have made one already
            return
        self._has_events = True
        if not self._waiting and not self._wanted[doc["descriptor"]]:
            self._give(doc)
            return
        self._waiting.append(doc)
        self.look()

    def stream_datum(self, doc: Document) -> None:
        """Take in where frames are."""
        span = self._assets.span(doc) if doc["descriptor"] in self._wanted else None
        if span is None or span.field not in self._wanted[span.descriptor]:
            return
        if not self._spans.setdefault(span.field, Spans()).add(span):
            return
        self._n_told[span.field] += 1
        # The second time that no event has come between, none will: detectors that are read point by point are told
        # of before each event, or after it.
        self._has_rows = self._has_rows or (
            self._n_told[span.field] > 1 and not self._has_events and span.descriptor in self._times
        )
        self.look()

    def look(self) -> None:
        """Hand on what is complete by now."""
        if self._has_rows:
            self._give_rows()
        while self._waiting:
            doc = self._referring(self._waiting[0])
            if doc is None:
                return
            self._waiting.popleft()
            self._give(doc)

    def finish(self) -> None:
        """Hand on what still waits, complete or not."""
        if not self._has_events and self._times:
            self._give_rows(is_over=True)
        while self._waiting:
            doc = self._waiting.popleft()
            self._give(self._referring(doc, is_over=True) or doc)

    # frames

    def _referring(self, doc: Document, *, is_over: bool = False) -> Document | None:
        """Return an event that says where its frames are; None if that is not known yet."""
        fields, seq_num = self._wanted[doc["descriptor"]], doc["seq_num"]
        uids = self._uids(seq_num)
        if not fields or doc["uid"] in uids:
            return doc
        frames = {field: self._frame(field, doc, len(uids), is_over) for field in fields if _is_to_read(doc, field)}
        if None in frames.values() and not is_over:
            return None
        if uids:
            self._note_again(doc)
        return {**doc, "data": self._data(doc, frames), "filled": {}}

    def _uids(self, seq_num: int) -> list[str]:
        """Return the uids of the events that had a `seq_num`, those that were replaced included."""
        uid = self._taken(seq_num)
        return self._again.get(seq_num) or ([] if uid is None else [uid])

    def _note_again(self, doc: Document) -> None:
        """Know that a point is taken again, and that those after it will be."""
        seq_num = doc["seq_num"]
        while (uid := self._taken(seq_num)) is not None:
            self._again.setdefault(seq_num, [uid])
            seq_num += 1
        self._again[doc["seq_num"]].append(doc["uid"])

    def _data(self, doc: Document, frames: Mapping[str, Frame | None]) -> dict[str, Any]:
        """Return the data of an event with its frames, and without the fields whose values nobody reads."""
        found = {field: frame for field, frame in frames.items() if frame is not None}
        self._found |= found.keys()
        others = {field: value for field, value in doc["data"].items() if field not in frames}
        for field, is_filled in (doc.get("filled") or {}).items():
            value = others.pop(field, None) if not is_filled else None
            if isinstance(value, str):
                self._assets.frame(field, value)  # as if it were read: it need not be known for ever
        return {**others, **found}

    def _frame(self, field: str, doc: Document, take: int, is_over: bool) -> Frame | None:
        value = doc["data"].get(field)
        if value is not None:
            return self._assets.frame(field, value)
        span = self._span(field, doc["seq_num"], take, is_over)
        return span and Frame(field, *span.place_of(doc["seq_num"]))

    def _span(self, field: str, seq_num: int, take: int, is_over: bool) -> Span | None:
        """Return the span that has this take of an event; when no more will come, the last that has it."""
        spans = self._spans.get(field, Spans())
        return spans.find(seq_num, take) or (spans.last(seq_num) if is_over else None)

    @property
    def lost(self) -> list[str]:
        """The fields that are external, and had no frame for any event."""
        return sorted({field for fields in self._wanted.values() for field in fields} - self._found)

    # rows without events

    def _give_rows(self, *, is_over: bool = False) -> None:
        fields = self._wanted[next(reversed(self._times))]
        lead = self._spans.get(fields[0], Spans()) if fields else Spans()
        while (step := self._walk.step(lead, skips=is_over)) is not None:
            doc = self._row_event(fields, *step, is_over)
            if doc is None and not is_over:
                return
            self._walk.go_on(*step)
            if doc is not None:
                self._give(doc)

    def _row_event(self, fields: Sequence[str], seq_num: int, take: int, is_over: bool) -> Document | None:
        """Return the event that frames make, if all fields have them."""
        found = {field: self._span(field, seq_num, take, is_over) for field in fields}
        spans = {field: span for field, span in found.items() if span is not None}
        if len(spans) < len(fields):
            return None
        self._found |= spans.keys()
        descriptor = next(iter(spans.values())).descriptor
        return {
            "uid": f"{descriptor}/{seq_num}" + (f"/{take}" if take else ""),
            "descriptor": descriptor,
            "seq_num": seq_num,
            "time": self._times.get(descriptor, next(reversed(self._times.values()))),
            "data": {field: Frame(field, *span.place_of(seq_num)) for field, span in spans.items()},
            "timestamps": {},
        }

    # restarts

    def state(self) -> dict[str, Any]:
        """Return what its documents told, as JSON values and arrays."""
        return {
            "wanted": self._wanted,
            "times": self._times,
            "spans": {field: spans.state() for field, spans in self._spans.items()},
            "waiting": [pack(doc, "event", "") for doc in self._waiting],
            "again": list(map(list, self._again.items())),
            "found": sorted(self._found),
            "n_told": dict(self._n_told),
            "rows": [self._has_events, self._has_rows],
            "walk": self._walk.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._wanted = {uid: list(fields) for uid, fields in state["wanted"].items()}
        self._times = dict(state["times"])
        if any(self._wanted.values()):
            self._want()
        self._spans = {field: Spans(*spans) for field, spans in state["spans"].items()}
        self._waiting = deque(unpack(doc, "") for doc in state["waiting"])
        self._again = {seq_num: list(uids) for seq_num, uids in state["again"]}
        self._found, self._n_told = set(state["found"]), Counter(state["n_told"])
        self._has_events, self._has_rows = state["rows"]
        self._walk = Walk(*state["walk"])


def _is_to_read(doc: Document, field: str) -> bool:
    """Tell whether an event has a reference in place of a value."""
    value = doc["data"].get(field)
    return value is None or (isinstance(value, str) and not (doc.get("filled") or {}).get(field))

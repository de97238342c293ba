"""Bring the events of one raw stream together with where their frames are."""

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pipeline.documents import Document
from pipeline.readers.frame import Frame
from pipeline.readers.run_assets import RunAssets
from pipeline.spans import Spans
from pipeline.state import pack, unpack


class Alignment:
    """Hand on the events of one stream, in the order they came, each when it is known where its frames are.

    In place of an external value an event has a `Frame` then. Where a stream has frames and no events at all (a fly
    scan), there is an event for each `seq_num` that all fields have, at the time of the descriptor. When the run is
    over, events are handed on without what was never announced.

    A point that was taken again has frames that came after those of the first take.

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
        self._again: dict[int, dict[str, int]] = {}  # seq_num that was taken again -> spans beside by then, by field
        self._found: set[str] = set()  # fields that had a frame
        self._n_told: Counter[str] = Counter()  # field -> how many stream_datum
        self._has_events = self._has_rows = False
        self._next_row = 1
        self.wants_frames = False

    def descriptor(self, doc: Document) -> None:
        """Know which fields of a stream are external."""
        external = [field for field, key in doc["data_keys"].items() if key.get("external")]
        self._wanted[doc["uid"]] = [field for field in external if self.fields is None or field in self.fields]
        if len(external) == len(doc["data_keys"]):
            self._times[doc["uid"]] = doc["time"]
        self.wants_frames = self.wants_frames or bool(self._wanted[doc["uid"]])

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
        spans = self._spans.setdefault(span.field, Spans())
        n_others = spans.n_others
        spans.add(span)
        self._n_told[span.field] += 1
        if spans.n_others > n_others:
            self._next_row = min(self._next_row, span.first)
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
            self._give_rows()
        while self._waiting:
            doc = self._waiting.popleft()
            self._give(self._referring(doc, is_over=True) or doc)

    # frames

    def _referring(self, doc: Document, *, is_over: bool = False) -> Document | None:
        """Return an event that says where its frames are; None if that is not known yet."""
        fields, seq_num = self._wanted[doc["descriptor"]], doc["seq_num"]
        known = self._taken(seq_num)
        if not fields or known == doc["uid"]:
            return doc
        since = self._again.get(seq_num, {}) if known is not None and not is_over else None
        frames = {field: self._frame(field, doc, since) for field in fields if _is_to_read(doc, field)}
        if None in frames.values() and not is_over:
            return None
        if known is not None:
            self._again[seq_num] = {field: spans.n_others for field, spans in self._spans.items()}
        return {**doc, "data": self._data(doc, frames), "filled": {}}

    def _data(self, doc: Document, frames: Mapping[str, Frame | None]) -> dict[str, Any]:
        """Return the data of an event with its frames, and without the fields whose values nobody reads."""
        filled, found = doc.get("filled") or {}, {field: frame for field, frame in frames.items() if frame is not None}
        self._found |= found.keys()
        others = {
            field: value for field, value in doc["data"].items() if field not in frames and filled.get(field, True)
        }
        return {**others, **found}

    def _frame(self, field: str, doc: Document, since: Mapping[str, int] | None) -> Frame | None:
        value = doc["data"].get(field)
        if value is not None:
            return self._assets.frame(field, value)
        spans, seq_num = self._spans.get(field, Spans()), doc["seq_num"]
        span = spans.find(seq_num) if since is None else spans.find_again(seq_num, since.get(field, 0))
        return span and Frame(field, span.resource, span.row_of(seq_num))

    @property
    def lost(self) -> list[str]:
        """The fields that are external, and had no frame for any event."""
        return sorted({field for fields in self._wanted.values() for field in fields} - self._found)

    # rows without events

    def _give_rows(self) -> None:
        while (doc := self._row(self._next_row)) is not None:
            self._next_row += 1
            self._give(doc)

    def _row(self, seq_num: int) -> Document | None:
        """Return the event that frames make, if all fields have them."""
        fields = self._wanted[next(reversed(self._times))]
        spans = {field: self._spans.get(field, Spans()).find(seq_num) for field in fields}
        found = {field: span for field, span in spans.items() if span is not None}
        if not fields or len(found) < len(fields):
            return None
        frames = {field: Frame(field, span.resource, span.row_of(seq_num)) for field, span in found.items()}
        descriptor = next(iter(found.values())).descriptor
        rows = "-".join(str(frame.row) for frame in frames.values())
        self._found |= found.keys()
        return {
            "uid": f"{descriptor}/{seq_num}/{rows}",
            "descriptor": descriptor,
            "seq_num": seq_num,
            "time": self._times.get(descriptor, next(reversed(self._times.values()))),
            "data": frames,
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
            "rows": [self._has_events, self._has_rows, self._next_row],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._wanted = {uid: list(fields) for uid, fields in state["wanted"].items()}
        self._times = dict(state["times"])
        self.wants_frames = any(self._wanted.values())
        self._spans = {field: Spans(*spans) for field, spans in state["spans"].items()}
        self._waiting = deque(unpack(doc, "") for doc in state["waiting"])
        self._again = dict(state["again"])
        self._found, self._n_told = set(state["found"]), Counter(state["n_told"])
        self._has_events, self._has_rows, self._next_row = state["rows"]


def _is_to_read(doc: Document, field: str) -> bool:
    """Tell whether an event has a reference in place of a value."""
    value = doc["data"].get(field)
    return value is None or (isinstance(value, str) and not (doc.get("filled") or {}).get(field))

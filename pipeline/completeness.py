"""Count off a raw run: whether everything that its stop document tells of has come."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from typing import Any

from pipeline.documents import Document


class Completeness:
    """Know which events of a raw run have come, stream by stream, in whatever order.

    An event and a `stream_datum` count alike: some streams have one, some the other.

    >>> run = Completeness()
    >>> run.take("descriptor", {"uid": "d", "name": "primary"})
    >>> for n in (1, 4): run.take("event", {"descriptor": "d", "seq_num": n})
    >>> run.missing({"num_events": {"primary": 5}})
    "stream 'primary' lacks 3 of 5 events: seq_num 2-3, 5"
    """

    def __init__(self) -> None:
        self._streams: dict[str, str] = {}  # descriptor uid -> name of its stream
        self._seen: dict[str, _Seen] = {}  # name of a stream -> what has come of it

    def take(self, name: str, doc: Document) -> None:
        """Take note of a document."""
        if name == "event":
            self._of(doc).add(doc["seq_num"])
        elif name == "event_page":
            seen = self._of(doc)
            for seq_num in doc["seq_num"]:
                seen.add(seq_num)
        elif name == "stream_datum":
            self._of(doc).add_range(doc["seq_nums"]["start"], doc["seq_nums"]["stop"])
        elif name == "descriptor":
            stream = doc.get("name", "primary")
            self._streams[doc["uid"]] = stream
            self._seen.setdefault(stream, _Seen())

    def _of(self, doc: Document) -> "_Seen":
        return self._seen[self._streams[doc["descriptor"]]]

    def stream_of(self, descriptor: str) -> str:
        """Return the name of the stream of a descriptor."""
        return self._streams[descriptor]

    def descriptor_of(self, stream: str) -> str | None:
        """Return the uid of the last descriptor of a stream, if one has come."""
        return next((uid for uid, name in reversed(self._streams.items()) if name == stream), None)

    def gaps(self, stop: Document) -> dict[str, list[tuple[int, int]]]:
        """Return what is missing, by stream: the first and the last `seq_num` of each gap."""
        expected = stop.get("num_events") or {}
        names = [*self._seen, *(name for name in expected if name not in self._seen)]
        gaps = {name: self._seen.get(name, _Seen()).gaps(_number(expected.get(name))) for name in names}
        return {name: each for name, each in gaps.items() if each}

    def missing(self, stop: Document) -> str:
        """Return, in words, what is missing; nothing if nothing is."""
        expected = stop.get("num_events") or {}
        return "; ".join(_told(name, gaps, expected.get(name)) for name, gaps in self.gaps(stop).items())

    def state(self) -> dict[str, Any]:
        """Return what has come, as JSON values."""
        return {"streams": self._streams, "seen": {name: seen.state() for name, seen in self._seen.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._streams = dict(state["streams"])
        self._seen = {name: _Seen(*seen) for name, seen in state["seen"].items()}


class _Seen:
    """The `seq_num` of one stream that have come: all below `next`, and spans beyond, each from first to last."""

    def __init__(self, after: int = 1, early: list[list[int]] | None = None) -> None:
        self._next = after
        self._early = [(first, last) for first, last in early or ()]  # in order, with gaps between them

    def state(self) -> list[Any]:
        return [self._next, [list(span) for span in self._early]]

    def add(self, seq_num: int) -> None:
        if seq_num == self._next and not self._early:
            self._next += 1
        elif seq_num >= self._next:
            self.add_range(seq_num, seq_num + 1)

    def add_range(self, start: int, stop: int) -> None:
        """Add those from `start` on, below `stop`."""
        if start >= stop:
            return
        begin = bisect_left(self._early, start - 1, key=lambda span: span[1])  # the first that it touches
        end = bisect_right(self._early, stop, key=lambda span: span[0])
        touched = self._early[begin:end]
        first, last = min([start, *(span[0] for span in touched)]), max([stop - 1, *(span[1] for span in touched)])
        self._early[begin:end] = [(first, last)]
        if self._early[0][0] <= self._next:
            self._next = max(self._next, self._early.pop(0)[1] + 1)

    def gaps(self, expected: int) -> list[tuple[int, int]]:
        gaps, begin = [], self._next
        for first, last in self._early:
            gaps.append((begin, first - 1))
            begin = last + 1
        return [*gaps, (begin, expected)] if begin <= expected else gaps


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _told(stream: str, gaps: list[tuple[int, int]], expected: Any) -> str:
    n = sum(last - first + 1 for first, last in gaps)
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in gaps[:5])
    of = f" of {expected}" if expected else ""
    more = f" and {len(gaps) - 5} gaps more" if len(gaps) > 5 else ""
    return f"stream {stream!r} lacks {n}{of} events: seq_num {shown}{more}"

"""Documents that came before what they refer to."""

import time
from collections.abc import Collection
from typing import Any, NamedTuple

from pipeline.documents import Document
from pipeline.form import refers_to

MAX_WAITING = 10_000


class Waiting(NamedTuple):
    """A document, and behind which position of its lane it stands."""

    lane: str
    before: Any
    name: str
    doc: Document


class WaitingRoom:
    """Keep documents until what they refer to (a start, a descriptor, a resource) has come.

    >>> room = WaitingRoom()
    >>> room.add(Waiting("journal", 7, "event", {"uid": "e", "descriptor": "d"}))
    >>> len(room), [each.name for each in room.take("d")], len(room)
    (1, ['event'], 0)
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._by_uid: dict[str, list[Waiting]] = {}  # what is waited for -> who waits
        self._since: dict[str, float] = {}
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def __contains__(self, uid: str) -> bool:
        return uid in self._by_uid

    def add(self, waiting: Waiting) -> None:
        """Let a document wait."""
        uid = refers_to(waiting.name, waiting.doc)
        self._by_uid.setdefault(uid, []).append(waiting)
        self._since.setdefault(uid, time.monotonic())
        self._n += 1

    def take(self, uid: str) -> list[Waiting]:
        """Return those that wait for this, in the order in which they came; they wait no more."""
        self._since.pop(uid, None)
        found = self._by_uid.pop(uid, [])
        self._n -= len(found)
        return found

    def overdue(self, seconds: float) -> list[str]:
        """Return what has been waited for longer than this; where too many wait, what has been so for longest."""
        before = time.monotonic() - seconds
        late = [uid for uid, since in self._since.items() if since <= before]
        return late or (list(self._since)[:1] if self._n > MAX_WAITING else [])

    def positions(self) -> list[tuple[str, Any]]:
        """Return lane and position behind which each stands."""
        return [(each.lane, each.before) for group in self._by_uid.values() for each in group]

    def drop(self, lanes: Collection[str] | None = None) -> None:
        """Let those of these lanes go, or all."""
        everyone = [each for group in self._by_uid.values() for each in group]
        kept = [each for each in everyone if lanes is not None and each.lane not in lanes]
        self._clear()
        for each in kept:
            self.add(each)

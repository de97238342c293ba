"""Put the events of one raw stream in order, each once."""

import heapq
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy

from pipeline.documents import Document
from pipeline.state import pack, unpack

_COUNTERS = ("n_taken", "n_duplicates", "n_superseded", "n_retaken", "n_missing")

REMEMBERED = 4096  # uids of the last events, by which one that comes again is known
PARKED = 1024  # events that wait for a gap to be filled


class Intake:
    """Hand on the events of one raw stream in order of `seq_num`, each once.

    The same uid again is a duplicate: left out. Another uid with a `seq_num` already taken is a point taken again (the
    RunEngine went back to its last checkpoint): it and what follows replace what was taken from there on. An event
    before its turn waits until the gap is filled, or given up: at the end of the run, or when 1024 wait. One that was
    taken more than 4096 events ago is left out, since it cannot be told whether it came again or was taken again.

    Parameters
    ----------
    take
        Called with each event, in order.
    rewind
        Called with a `seq_num`: makes as if that event and those after it had not been taken, and returns True; or
        returns False if it cannot.

    Attributes
    ----------
    n_taken, n_duplicates, n_superseded, n_retaken, n_missing
        Events handed on; left out as duplicates; replaced by a later take; taken again where the first take could not
        be undone, so that both count; never seen.

    >>> taken = []
    >>> intake = Intake(lambda event: taken.append(event["seq_num"]), lambda seq_num: False)
    >>> for seq_num in (2, 1, 1, 3): intake.event({"seq_num": seq_num, "uid": f"u{seq_num}"})
    >>> taken, intake.n_duplicates
    ([1, 2, 3], 1)
    """

    def __init__(self, take: Callable[[Document], None], rewind: Callable[[int], bool]) -> None:
        self._take, self._rewind = take, rewind
        self._next = 1
        self._uids: list[str | None] = [None] * REMEMBERED  # by seq_num % REMEMBERED
        self._replaced: set[str] = set()
        self._parked: list[tuple[int, int, Document]] = []
        self._n_parked = 0
        self.n_taken = self.n_duplicates = self.n_superseded = self.n_retaken = self.n_missing = 0

    @property
    def n_seen(self) -> int:
        """The last `seq_num` whose turn has come, taken or missing."""
        return self._next - 1

    def uid_of(self, seq_num: int) -> str | None:
        """Return the uid of the event that was taken under a `seq_num`, if it is remembered."""
        is_remembered = self._next - REMEMBERED <= seq_num < self._next
        return self._uids[seq_num % REMEMBERED] if is_remembered else None

    def event(self, doc: Document) -> None:
        """Take in one event."""
        self._event(doc)
        if self._parked:
            self._unpark()

    def _event(self, doc: Document) -> None:
        seq_num = doc["seq_num"]
        if self._replaced and doc["uid"] in self._replaced:
            self.n_duplicates += 1
        elif seq_num == self._next:
            self._next = seq_num + 1
            self._uids[seq_num % REMEMBERED] = doc["uid"]
            self.n_taken += 1
            self._take(doc)
        elif seq_num > self._next:
            self._park(doc)
        else:
            self._again(doc)

    def is_next(self, page: Document) -> bool:
        """Tell whether this page holds just the events whose turn it is."""
        seq_nums = page["seq_num"]
        first = self._next
        return not self._parked and bool(seq_nums) and list(seq_nums) == list(range(first, first + len(seq_nums)))

    def has_taken(self, seq_nums: list[int], uids: list[str]) -> None:
        """Count these events, whose turn it was, as taken."""
        start = seq_nums[0] % REMEMBERED
        fits = min(len(uids), REMEMBERED - start)
        self._uids[start : start + fits] = uids[:fits]
        for seq_num, uid in zip(seq_nums[fits:], uids[fits:], strict=True):
            self._uids[seq_num % REMEMBERED] = uid
        self._next += len(seq_nums)
        self.n_taken += len(seq_nums)

    def _park(self, doc: Document) -> None:
        self._n_parked += 1  # keeps equal seq_nums in order of arrival
        heapq.heappush(self._parked, (doc["seq_num"], self._n_parked, doc))
        if len(self._parked) > PARKED:
            self._give_up()

    def _unpark(self) -> None:
        while self._parked and self._parked[0][0] <= self._next:
            self._event(heapq.heappop(self._parked)[2])

    def _give_up(self) -> None:
        """Go on behind the first gap."""
        first = self._parked[0][0]
        for seq_num in range(max(self._next, first - REMEMBERED), first):
            self._uids[seq_num % REMEMBERED] = None
        self.n_missing += first - self._next
        self._next = first

    def finish(self) -> None:
        """Take in what still waits, gaps or not."""
        while self._parked:
            self._give_up()
            self._unpark()

    def _again(self, doc: Document) -> None:
        seq_num, uid = doc["seq_num"], doc["uid"]
        known = self._uids[seq_num % REMEMBERED] if self._next - seq_num <= REMEMBERED else uid
        if uid == known:
            self.n_duplicates += 1
        elif known is not None and self._rewind(seq_num):
            self._replace_from(seq_num)
            self._event(doc)
        else:
            self._take_late(doc, known)

    def _replace_from(self, seq_num: int) -> None:
        n = self._next - seq_num
        self._replaced.update(filter(None, (self._uids[i % REMEMBERED] for i in range(seq_num, self._next))))
        self.n_taken -= n
        self.n_superseded += n
        self._next = seq_num

    def _take_late(self, doc: Document, known: str | None) -> None:
        if known is None:  # its gap had been given up
            self.n_missing -= doc["seq_num"] >= 1  # some archives count from 0
        else:
            self.n_retaken += 1
            self._replaced.add(known)
        self._uids[doc["seq_num"] % REMEMBERED] = doc["uid"]
        self.n_taken += 1
        self._take(doc)

    def state(self) -> dict[str, Any]:
        """Return what events have changed, as JSON values and arrays."""
        return {
            "next": self._next,
            "uids": _pack_uids(self._window()),
            "replaced": sorted(self._replaced),
            "parked": [pack(doc, "event", "") for _, _, doc in sorted(self._parked, key=lambda each: each[1])],
            **{name: getattr(self, name) for name in _COUNTERS},
        }

    def _window(self) -> list[str | None]:
        """Return the uids that are remembered, the last one last; some archives count from 0."""
        n = min(self._next - (self._uids[0] is None), REMEMBERED)
        return _turned(self._uids, self._next)[REMEMBERED - n :]

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, as if nothing had been between."""
        self._next = state["next"]
        uids = _unpack_uids(state["uids"])
        self._uids = _turned([*[None] * (REMEMBERED - len(uids)), *uids], -self._next)
        self._replaced = set(state["replaced"])
        for doc in state["parked"]:
            self._park(unpack(doc, ""))
        for name in _COUNTERS:
            setattr(self, name, state[name])


def _turned(uids: list[str | None], n: int) -> list[str | None]:
    """Return the uids from the n-th on, and those before it behind them."""
    n %= len(uids)
    return uids[n:] + uids[:n]


_DIGITS = [slice(0, 8), slice(9, 13), slice(14, 18), slice(19, 23), slice(24, 36)]  # of a UUID, between its hyphens


def _pack_uids(uids: list[str | None]) -> Any:
    """Return uids as they are, or in 16 bytes each, if they all are what UUIDs look like."""
    packed = _to_bytes(tuple(uids))
    return uids if packed is None else numpy.frombuffer(packed, numpy.uint8)


def _unpack_uids(packed: Any) -> list[str | None]:
    return packed if isinstance(packed, list) else [*_from_bytes(packed.tobytes())]


# The nodes of a run remember the same uids: what was done for the one before is there, and takes no more memory.
@lru_cache(maxsize=1)
def _to_bytes(uids: tuple[str | None, ...]) -> bytes | None:
    try:
        digits = bytes.fromhex("".join(map(str, uids)).replace("-", ""))
    except ValueError:
        return None
    return digits if len(digits) == 16 * len(uids) and _from_bytes(digits) == uids else None


@lru_cache(maxsize=1)
def _from_bytes(packed: bytes) -> tuple[str, ...]:
    digits = numpy.frombuffer(packed.hex().encode(), numpy.uint8).reshape(-1, 32)
    letters = numpy.full((len(digits), 36), ord("-"), numpy.uint8)
    for n_before, part in enumerate(_DIGITS):
        letters[:, part] = digits[:, part.start - n_before : part.stop - n_before]
    text = letters.tobytes().decode()
    return tuple(text[i : i + 36] for i in range(0, len(text), 36))

"""How far a service is in each lane of its source."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pipeline.sources.position import Index
from pipeline.state_store import StateStore


class Lanes:
    """Know, by lane, up to where everything was taken in, and up to where that was committed.

    Parameters
    ----------
    store
        Where a lane is claimed, and what was committed is stored.
    begin_anew
        Whether the source knows of no other index than its own since it was opened, so that each lane begins anew.

    Attributes
    ----------
    taken
        Up to where everything was taken in; None: nothing was, as far as is known.
    committed
        Up to where it need not be given again.
    """

    def __init__(self, store: StateStore, begin_anew: bool = False) -> None:
        self._store, self._begins_anew = store, begin_anew
        self.taken: dict[str, Index | None] = {}
        self.committed: dict[str, Index] = {}

    def open(self) -> dict[str, Index]:
        """Return the positions to begin behind."""
        self.committed = self._store.positions()
        return dict(self.committed)

    def claim(self, lane: str, first: Index | None = None) -> None:
        """Make a lane ours, whose next item has the index `first`, or of which we know only what is stored."""
        self._store.claim(lane)
        if self._begins_anew:
            self.begin_anew(lane)
        committed = self._store.positions().get(lane)
        if committed is not None:
            self.committed[lane] = committed  # another process may have had the lane meanwhile
        is_before: bool = first is None or (committed is not None and committed < first)
        self.taken[lane] = committed if is_before else None

    def begin_anew(self, lane: str) -> None:
        """Forget how far a lane was, whose indices begin again."""
        self._store.reset(lane)
        self.committed.pop(lane, None)
        self.taken.pop(lane, None)

    def forget(self, lanes: Collection[str] | None = None) -> None:
        """Forget these lanes, or all: they are another's, or are claimed again."""
        for lane in list(self.taken) if lanes is None else lanes:
            self.taken.pop(lane, None)

    def is_read_again(self, lane: str) -> bool:
        """Tell whether a lane has gone back, and is not yet where it was: what is stored now would miss the rest."""
        taken: Any = self.taken[lane]
        committed = self.committed.get(lane)
        return committed is not None and (taken is None or taken < committed)

    def covered(self, open_ends: Iterable[tuple[str, Index | None]]) -> dict[str, Index]:
        """Return up to where everything is taken in or stored, by lane, where that has moved on.

        Parameters
        ----------
        open_ends
            Lane, and position behind which there is what is not stored.
        """
        ends: dict[str, list[Index | None]] = {}
        for lane, taken in self.taken.items():
            if taken != self.committed.get(lane):
                ends[lane] = [taken]
        for lane, before in open_ends:
            ends.get(lane, []).append(before)
        covered: dict[str, Index] = {}
        for lane, each in ends.items():
            known: list[Any] = [end for end in each if end is not None]
            if len(known) == len(each) and (lane not in self.committed or min(known) > self.committed[lane]):
                covered[lane] = min(known)
        return covered

    def has_committed(self, positions: Mapping[str, Index]) -> None:
        """Take note of what was committed."""
        self.committed |= positions

"""Fetch from a catalog of raw runs what did not come from the source."""

import logging
import time
from collections.abc import Collection, Sequence
from typing import Protocol

from pipeline.documents import Document
from pipeline.open_run import OpenRun
from pipeline.open_runs import OpenRuns
from pipeline.sources.position import Item, Position

logger = logging.getLogger(__name__)

AT_ONCE = 100_000  # events of one gap that are asked for
FIRST, LONGEST = 2.0, 300.0  # seconds between two times that somebody is asked for the same


class Raw(Protocol):
    """Whoever keeps raw runs: `pipeline.sources.Refill`. What is away or not there is nothing, and no error."""

    def documents(self, uid: str) -> Sequence[tuple[str, Document]] | None:
        """Return the documents of a whole run, in order; None if it is not there, or has no stop document."""
        ...

    def events_of(self, uid: str, stream: str, seq_nums: Collection[int]) -> Sequence[Document]:
        """Return events, as far as they are there: each its `seq_num`, `time`, `data` and `timestamps`."""
        ...


class GapFiller:
    """Ask for what is missing of runs, again and again, ever more rarely.

    Parameters
    ----------
    runs
        That may lack something.
    raw
        Who is asked; None: nobody.
    """

    def __init__(self, runs: OpenRuns, raw: Raw | None) -> None:
        self._runs, self._raw = runs, raw
        self._due: dict[str, tuple[float, float]] = {}  # run uid -> when it is asked for next, and how long after

    def fill_all(self) -> None:
        """Take in what there is of the events that parked runs lack."""
        if self._raw is None:
            return
        parked = [run for run in self._runs.runs.values() if run.parked and run.stop is not None]
        self._due = {run.uid: self._due.get(run.uid, (0.0, FIRST)) for run in parked}
        for run in parked:
            due, delay = self._due[run.uid]
            if time.monotonic() >= due:
                self._due[run.uid] = time.monotonic() + delay, min(2 * delay, LONGEST)
                self.fill(run)

    def fill(self, run: OpenRun) -> None:
        """Take in what there is of the events that this run lacks, and end it if nothing else is in its way."""
        if self._raw is None or run.stop is None:
            return
        for stream, gaps in run.completeness.gaps(run.stop).items():
            descriptor = run.completeness.descriptor_of(stream)
            if descriptor is not None:
                wanted = [n for first, last in gaps for n in range(first, min(last, first + AT_ONCE) + 1)]
                for event in self._raw.events_of(run.uid, stream, wanted):
                    run.fill(stream, descriptor, event)
        self._runs.settle(run)

    def fetch(self, uid: str) -> bool:
        """Take in a whole run whose start never came; return whether it was there.

        What of it is waiting goes: the catalog's documents stand for all.
        """
        documents = self._raw.documents(uid) if self._raw is not None else None
        if not documents:
            return False
        waited = self._runs.waiting.take(uid)
        for name, doc in documents:
            if name == "descriptor":
                waited += self._runs.waiting.take(doc["uid"])
        first = waited[0] if waited else None
        for name, doc in documents:
            place = Position(first.lane if first else "", 0)
            self._runs.take(Item(place, name, doc), first.before if first else None)
        logger.warning("Run %s, whose start never came, is read from the catalog.", uid, extra={"run": uid})
        return True

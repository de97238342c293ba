"""Stored runs of a catalog, one after the other, once."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.catalogs import find, runs_of
from pipeline.documents import Document
from pipeline.errors import PipelineError, PipelineKeyError, PipelineRuntimeError, PipelineTypeError, PipelineValueError
from pipeline.sources.catalog import read_catalog
from pipeline.sources.inbox import Inbox
from pipeline.sources.position import POISON, Index, Item, OnLost, Position, _ignore
from pipeline.sources.tiled_place import lane_of, seconds_of

logger = logging.getLogger(__name__)

BATCH = 500
MAX_BACKOFF = 30.0


class ArchiveSource:
    """Read all or some runs of a catalog, in the order in which they began, and end.

    There is one lane, the catalog. An index tells where a document's run stands: when it began, in nanoseconds; how
    many documents of runs that began then were given; and whether that was all of them. So a source that is opened
    behind an index goes on with the first run that was not given to its end, from its start document on, even if
    runs were added or removed in between. The taker keeps what it has committed, and gives it to `open`. A run that
    cannot be read is poison, and the others go on; while the server is away, it is waited for.

    Parameters
    ----------
    catalog
        As for `pipeline.catalogs.runs_of`: a client of Tiled, a databroker catalog, a path, a URI, a profile.
    uids
        Which runs; all by default.
    since, until
        Only runs that began in this span: seconds since 1970, or ISO 8601 text.
    container
        Which container, where the catalog has several.
    name
        What the log and the metrics call it.

    Attributes
    ----------
    progress
        How many runs are read, and how many there are.

    >>> import databroker
    >>> from pipeline.testing import make_run
    >>> catalog = databroker.temp()
    >>> for name, doc in make_run({"det": [1.0, 2.5]}, uid="a"):
    ...     catalog.insert(name, doc)
    >>> source = ArchiveSource(catalog)
    >>> source.open({})
    >>> [item.name for item in source.read(10.0)], source.progress
    (['start', 'descriptor', 'event', 'event', 'stop'], (1, 1))
    """

    may_lose = False
    is_stored = True
    assigns_lanes = False

    def __init__(
        self,
        catalog: Any,
        uids: Sequence[str] | None = None,
        since: float | str | None = None,
        until: float | str | None = None,
        *,
        container: str = "raw",
        name: str = "ArchiveSource",
    ) -> None:
        self.name = name
        self.lane = lane_of(catalog, container)
        self._selection = _Selection(catalog, container, uids, seconds_of(since), seconds_of(until))
        self._reader: _Reader | None = None

    @property
    def ended(self) -> bool:
        """Whether all was given."""
        return self._reader is not None and self._reader.inbox.is_done

    @property
    def progress(self) -> tuple[int, int]:
        """How many runs are read, and how many there are."""
        return self._reader.progress if self._reader else (0, 0)

    def open(self, begin: Mapping[str, Index], on_lost: OnLost = _ignore) -> None:
        """Begin behind what was committed, if anything was; the server may come later."""
        self._begin(begin.get(self.lane))

    def _begin(self, index: Index | None) -> None:
        self.close()
        self._reader = _Reader(self.name, self.lane, self._selection, _Place.of(index))
        self._reader.start()

    def read(self, timeout: float) -> Sequence[Item]:
        """Return what comes next: documents of one run.

        Raises
        ------
        PipelineError
            If this is no catalog, so that it is of no use to wait.
        """
        if self._reader is None:
            raise PipelineRuntimeError(f"{self.name} is not open; wanted open() before read().")
        return self._reader.inbox.take(timeout)

    def rewind(self, lane: str, index: Index) -> bool:
        """Go back: the first run that was not given to its end there is given again, from its start document on."""
        if lane != self.lane:
            return False
        self._begin(index)
        return True

    def commit(self, positions: Mapping[str, Index]) -> None:
        """Do nothing: the archive keeps no note of it, and can always be read again."""

    def close(self) -> None:
        """Let the catalog go."""
        if self._reader is not None:
            self._reader.inbox.stopped.set()
            self._reader = None


class _Place(NamedTuple):
    """When a run began, how many documents of that time were given, and whether these were all."""

    time: int = -(2**62)
    n: int = 0
    is_over: int = 0

    @classmethod
    def of(cls, index: Index | None) -> "_Place":
        return cls() if index is None else cls(*((index,) if isinstance(index, int) else index))


class _Listed(NamedTuple):
    """A run of the archive: when it began, its uid, and its client; None if there is no such run."""

    time: int
    uid: str
    run: Any


class _Selection(NamedTuple):
    """Which runs of which catalog."""

    catalog: Any
    container: str
    uids: Sequence[str] | None
    since: float | None
    until: float | None

    def runs(self) -> list[_Listed]:
        """Return the runs, in order."""
        client = runs_of(self.catalog, self.container)
        listed = self._between(client) if self.uids is None else [_listed(uid, find(client, uid)) for uid in self.uids]
        return sorted((each for each in listed if self._is_within(each)), key=lambda each: each[:2])

    def _between(self, client: Any) -> Iterator[_Listed]:
        from tiled.queries import Key

        if self.since is not None:
            client = client.search(Key("start.time") >= self.since)
        if self.until is not None:
            client = client.search(Key("start.time") <= self.until)
        return (_listed(key, run) for key, run in client.items())

    def _is_within(self, listed: _Listed) -> bool:
        time = listed.time / 1e9
        is_late = self.since is None or time >= self.since
        return listed.run is None or (is_late and (self.until is None or time <= self.until))


def _listed(uid: str, run: Any) -> _Listed:
    start = {} if run is None else run.metadata.get("start") or {}
    return _Listed(round(start.get("time", 0) * 1e9), start.get("uid", uid), run)


class _Reader(threading.Thread):
    """Read the runs, on a thread of its own: a run may take long, and `read` may not."""

    def __init__(self, name: str, lane: str, selection: _Selection, place: _Place) -> None:
        super().__init__(name=name, daemon=True)
        self.inbox = Inbox()
        self.progress = (0, 0)
        self._lane, self._selection, self._place = lane, selection, place

    def run(self) -> None:
        """Read them all, unless nobody wants them any more."""
        fault = None
        try:
            runs = self._patiently(self._selection.runs) or []
            for i, listed in enumerate(runs):
                self.progress = (i, len(runs))
                is_last = i + 1 == len(runs) or runs[i + 1].time > listed.time
                if not self._is_given(listed):
                    self._read(listed, is_last=is_last)
                if self.inbox.stopped.is_set():
                    return
            self.progress = (len(runs), len(runs))
        except (PipelineTypeError, PipelineValueError, PipelineKeyError) as error:
            fault = error
        finally:
            self.inbox.finish(fault)

    def _is_given(self, listed: _Listed) -> bool:
        place = self._place
        return listed.time < place.time or (listed.time == place.time and bool(place.is_over))

    def _read(self, listed: _Listed, *, is_last: bool) -> None:
        try:
            documents = self._patiently(lambda: _documents(listed)) or []
        except Exception as error:  # noqa: BLE001 - of this run: the others go on
            reason = f"run {listed.uid} cannot be read: {type(error).__name__}: {error}"
            documents = [(POISON, {"reason": reason, "run_start": listed.uid})]
        n = len(documents)
        items = [self._item(listed, name, doc, is_last and k == n) for k, (name, doc) in enumerate(documents, 1)]
        for k in range(0, n, BATCH):
            if k + BATCH >= n:
                self.progress = (self.progress[0] + 1, self.progress[1])
            self.inbox.put(items[k : k + BATCH])

    def _item(self, listed: _Listed, name: str, doc: Document, is_over: bool) -> Item:
        n = self._place.n + 1 if listed.time == self._place.time else 1
        self._place = _Place(listed.time, n, int(is_over))
        return Item(Position(self._lane, tuple(self._place)), name, doc)

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """Return what the catalog answers, when it does; None if nobody wants it any more."""
        import httpx

        wait = 0.0
        while not self.inbox.stopped.wait(wait):
            try:
                answer = ask()
            except (httpx.TransportError, OSError) as error:
                if not wait:
                    why = error if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}"
                    logger.error("%s cannot read %s, and will try again: %s", self.name, self._lane, why)
                wait = min(MAX_BACKOFF, max(0.5, 2 * wait))
            else:
                if wait:
                    logger.warning("%s: %s can be read again.", self.name, self._lane)
                return answer
        return None


def _documents(listed: _Listed) -> list[tuple[str, Document]]:
    if listed.run is None:
        raise PipelineKeyError("the catalog has no such run.")
    return list(read_catalog(listed.run))

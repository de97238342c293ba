"""Live runs from a Tiled catalog, while others write them."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.catalogs import kind_of, runs_of
from pipeline.documents import Document
from pipeline.errors import (
    PipelineError,
    PipelineKeyError,
    PipelineRuntimeError,
    PipelineTypeError,
    PipelineValueError,
)
from pipeline.sources.inbox import Inbox
from pipeline.sources.position import POISON, Index, Item, OnLost, Position, _ignore, poison
from pipeline.sources.tiled_api import Api
from pipeline.sources.tiled_listing import Listing
from pipeline.sources.tiled_place import Mark, Place, lane_of, mark, seconds_of
from pipeline.sources.tiled_run import Documents, StoredRun
from pipeline.sources.tiled_signal import Signal

logger = logging.getLogger(__name__)

MAX_BACKOFF = 30.0
PACE = 0.5  # the server is left alone for half as long as it was asked
MAX_PAUSE = 2.0
MAX_FAULTS = 5  # of a run, one after the other: a writer may just be making a part of it anew
MAX_IDLE = 60.0  # between two looks at a run of which nothing comes
PATIENCE = 7 * 86400.0  # a run of which nothing has come for so long is looked at no more


class TiledSource:
    """Follow the runs of a Tiled container, whoever writes them: `TiledWriter`, `TiledSink`.

    It reads the rows that are stored, so nothing is missed and nothing is too large. Where the server has a stream,
    a websocket says when to look; where it has none, it is looked at every `poll_seconds`. Events are given as they
    are stored: what the writer holds back for a batch comes with the batch.

    There is one lane, the container. An index tells how many items were given, the newest run of which anything was,
    and each run that was not over then; so a source that is opened behind an index gives those runs again, from their
    start document on, and what came after the newest; runs that were over are not given again. The taker keeps what
    it has committed, and gives it to `open`.

    Parameters
    ----------
    target
        A URI (`http...`), with the key from `TILED_API_KEY`; the path of an embedded catalog; or a Tiled client.
    since
        Where to begin if nothing was committed: with runs that began at this time (seconds since 1970, or ISO 8601
        text) or later. None: with the runs that are open, and those that begin later; all, if not `live`.
    poll_seconds
        How often it is looked for new runs, and for new rows where the server has no stream.
    live
        Whether to go on; else the source ends with what is stored.
    container
        Which container, where the catalog has several.
    name
        What the log and the metrics call it.

    >>> source = TiledSource("http://localhost:8000", since="2026-11-01")
    >>> source.lane, source.may_lose
    ('http://localhost:8000/raw', False)
    """

    may_lose = False
    is_stored = False
    assigns_lanes = False

    def __init__(
        self,
        target: Any,
        *,
        since: float | str | None = None,
        poll_seconds: float = 0.5,
        live: bool = True,
        container: str = "raw",
        name: str = "TiledSource",
    ) -> None:
        if not poll_seconds > 0:
            raise PipelineValueError(f"TiledSource: poll_seconds is {poll_seconds}; wanted more than 0.")
        self.name = name
        self.lane = lane_of(target, container)
        self._options = (target, container, seconds_of(since), poll_seconds, live)
        self._follower: Follower | None = None

    @property
    def ended(self) -> bool:
        """Whether all was given; never, if `live`."""
        return self._follower is not None and self._follower.inbox.is_done

    def open(self, begin: Mapping[str, Index], on_lost: OnLost = _ignore) -> None:
        """Begin behind what was committed, if anything was; the server may come later."""
        self._begin(Place.of(begin[self.lane]) if self.lane in begin else None)

    def _begin(self, place: Place | None) -> None:
        self.close()
        self._follower = Follower(self.name, self.lane, place, *self._options)
        self._follower.start()

    def read(self, timeout: float) -> Sequence[Item]:
        """Return what comes next.

        Raises
        ------
        PipelineError
            If the target is not what can be followed, so that it is of no use to wait.
        """
        if self._follower is None:
            raise PipelineRuntimeError(f"{self.name} is not open; wanted open() before read().")
        return self._follower.inbox.take(timeout)

    def rewind(self, lane: str, index: Index) -> bool:
        """Go back: the runs that were not over there are given again, from their start documents on."""
        if lane != self.lane:
            return False
        self._begin(Place.of(index))
        return True

    def commit(self, positions: Mapping[str, Index]) -> None:
        """Do nothing: the server keeps no note of it, and what is stored can always be read again."""

    def close(self) -> None:
        """Let the server go."""
        if self._follower is not None:
            self._follower.stop()
            self._follower = None


class Follower(threading.Thread):
    """Look at the server, on a thread of its own: a request may take long, and `read` may not."""

    def __init__(
        self,
        name: str,
        lane: str,
        place: Place | None,
        target: Any,
        container: str,
        since: float | None,
        poll_seconds: float,
        live: bool,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._lane, self._poll_seconds, self._live = lane, poll_seconds, live
        self._connect = lambda: runs_of(target, container)
        self.inbox = Inbox()
        self._stopped = self.inbox.stopped
        self._api: Api | None = None
        self._listing = Listing(place, since, live)
        self._signal: Signal | None = None
        self._runs: dict[str, _Followed] = {}  # those that are not over
        self._place = place or Place()
        self._polled = 0.0

    def stop(self) -> None:
        """Let this thread end when its request is answered; nothing of it is taken any more."""
        self._stopped.set()
        if self._signal is not None:
            self._signal.tell("")

    # the thread ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Look again and again, whatever becomes of the server."""
        wait, fault = 0.0, None
        while not self._stopped.wait(wait):
            try:
                self._round(*self._connected())
            except (PipelineTypeError, PipelineValueError, PipelineKeyError) as error:
                fault = error
                break
            except Exception as error:  # noqa: BLE001 - contained: the server is asked again
                wait = self._told_away(error, wait)
            else:
                wait = self._told_back(wait)
                if not self._live and not self._listing.n_waiting:
                    break
        self.inbox.finish(fault)
        self._disconnect()

    def _connected(self) -> tuple[Api, Signal]:
        """Return whom to ask, and what signals, of a server that answers."""
        if self._signal is None or self._api is None:
            client = self._connect()
            if kind_of(client) != "sql":
                raise PipelineTypeError(f"{self.name}: wanted a catalog of Tiled's own (SQL), there is one on Mongo.")
            if self._api is None:
                self._api = Api(client)
            self._api.client = client
            for run in self._runs.values():
                run.forget()
            self._signal = Signal(client)
            if self._live:
                self._signal.watch(client.item, "")
        return self._api, self._signal

    def _told_away(self, error: Exception, wait: float) -> float:
        if not wait:
            why = error if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}"
            logger.error("%s cannot read %s, and will try again: %s", self.name, self._lane, why)
        self._disconnect()
        return min(MAX_BACKOFF, max(self._poll_seconds, 2 * wait))

    def _told_back(self, wait: float) -> float:
        if wait:
            logger.warning("%s: %s can be read again.", self.name, self._lane)
        return 0.0

    def _disconnect(self) -> None:
        if self._signal is not None:
            self._signal.close()
            self._signal = None

    def _round(self, api: Api, signal: Signal) -> None:
        """Wait until something is due or signalled, and look at that."""
        news = signal.wait(self._until_due())
        began = time.monotonic()
        if "" in news or began >= self._polled + self._poll_seconds or self._listing.n_waiting:
            self._meet_runs(api)
            self._polled = time.monotonic()
        for key, run in list(self._runs.items()):
            if self._stopped.is_set():
                return
            if "" in news or key in news or time.monotonic() >= run.due:
                self._look_at(run, signal)
        self._stopped.wait(min(MAX_PAUSE, PACE * (time.monotonic() - began)) if self._live else 0.0)

    def _until_due(self) -> float:
        if not self._live or self._listing.n_waiting:
            return 0.0
        due = min([self._polled + self._poll_seconds, *(run.due for run in self._runs.values())])
        return max(0.0, due - time.monotonic())

    # runs ------------------------------------------------------------------------------------------------------

    def _meet_runs(self, api: Api) -> None:
        """Begin to follow runs that are new, some at a time; from now on an index names them as not over."""
        refused: list[tuple[str, Exception]] = []
        for item, is_newest in self._listing.next(api):
            try:
                stored = StoredRun(api, item)
                followed = _Followed(stored, mark(stored.key, stored.start))
            except (ValueError, TypeError) as error:
                refused.append((item["id"], error))
                continue
            self._runs.setdefault(stored.key, followed)
            if is_newest:
                self._place = self._place._replace(newest=followed.mark)
        if self._listing.is_from_now:
            self._place = self._place._replace(newest=self._listing.newest)
            self._listing.is_from_now = False
        for key, error in refused:
            self._refuse(key, error)

    def _look_at(self, run: "_Followed", signal: Signal) -> None:
        import httpx

        n = self._place.n
        try:
            for documents in run.stored.documents():
                self._give(run, documents)
        except (httpx.TransportError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - of this run: the others go on
            run.tell(error)
            is_answer = isinstance(error, httpx.HTTPStatusError)
            if not (self._live and (is_answer or run.n_faults < MAX_FAULTS)):
                self._refuse(run.stored.key, error)
                signal.forget(run.stored.key)
                return
        else:
            run.n_faults = 0
        run.note(self._poll_seconds, has_come=self._place.n > n)
        self._watch(run, signal)

    def _watch(self, run: "_Followed", signal: Signal) -> None:
        """Watch what there is of a run by now; nothing more of one that is over."""
        if run.stored.is_over or run.is_given_up:
            self._runs.pop(run.stored.key, None)
            signal.forget(run.stored.key)
        elif self._live:
            for item in run.nodes():
                if signal.watch(item, run.stored.key):
                    run.due = 0.0  # what came before it was watched

    def _give(self, run: "_Followed", documents: Documents) -> None:
        self.inbox.put([self._item(run.stored.key, name, doc) for name, doc in documents])

    def _item(self, key: str, name: str, doc: Document) -> Item:
        still_open = (each for each in self._runs.values() if name != "stop" or each.stored.key != key)
        self._place = Place(self._place.n + 1, self._place.newest, tuple(each.mark for each in still_open))
        return Item(Position(self._lane, self._place.numbers), name, doc)

    def _refuse(self, key: str, error: Exception) -> None:
        self._runs.pop(key, None)
        reason = f"run {key} cannot be read: {type(error).__name__}: {error}"
        item = self._item(key, POISON, {})
        self.inbox.put([poison(item.position, reason, key)])


class _Followed:
    """A run that is looked at again and again, the less often the longer nothing has come."""

    def __init__(self, stored: StoredRun, mark: Mark) -> None:
        self.stored, self.mark = stored, mark
        self.due = 0.0
        self.n_faults = 0
        self._last = time.monotonic()  # when something came

    def nodes(self) -> list[Any]:
        """What is to be watched."""
        streams = self.stored.streams.values()
        tables = [table for stream in streams for table in stream.tables]
        return [self.stored.item, *(stream.item for stream in streams), *tables]

    def forget(self) -> None:
        """Go on with another server on the same data."""
        self.stored.forget()
        self.due = 0.0

    def note(self, poll_seconds: float, *, has_come: bool) -> None:
        """Take note of a look, and say when the next is due."""
        now = time.monotonic()
        if has_come:
            self._last = now
        self.due = now + max(poll_seconds, min(MAX_IDLE, (now - self._last) / 100))

    @property
    def is_given_up(self) -> bool:
        """Whether nothing has come for so long that nothing will."""
        if time.monotonic() - self._last < PATIENCE:
            return False
        logger.error("run %s has no stop document, and nothing has come for days: given up.", self.stored.key)
        return True

    def tell(self, error: Exception) -> None:
        """Count a fault, and tell of the first, until there is none again."""
        if not self.n_faults:
            logger.warning("run %s cannot be read at the moment: %s: %s", self.stored.key, type(error).__name__, error)
        self.n_faults += 1
        self.stored.forget()

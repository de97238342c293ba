"""The raw runs that a service has open: which document is of which, and what cannot be told."""

import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Collection
from typing import Any

from pipeline.documents import Document
from pipeline.form import is_text, malformed, refers_to
from pipeline.open_run import OWNING, OpenRun
from pipeline.pipeline import Pipeline
from pipeline.sources.position import POISON, Index, Item
from pipeline.state_store import Ended, StateStore, StoredRun
from pipeline.waiting import Waiting, WaitingRoom

logger = logging.getLogger(__name__)

REMEMBERED = 5000  # uids of what is over, or was left out


class ReadAgain(Exception):
    """A run cannot go on from its snapshot: its lane is to be read again from where it began."""

    def __init__(self, run: StoredRun) -> None:
        super().__init__(run.uid)
        self.run = run


class OpenRuns:
    """Take in documents of many runs, each once, in whatever order they come.

    What came before the start, the descriptor or the resource that it refers to waits for it. Runs that are over are
    known when they come again. Runs that are stored are gone on with when something of them comes.

    Parameters
    ----------
    pipeline
        For the runs that begin from now on.
    store
        Where open runs are stored.

    Attributes
    ----------
    runs
        Those in memory, by uid.
    ended
        Those that are over and are not stored as such yet.
    poison
        Place and reason of what could not be read, and is not stored yet.
    counts
        What came, by kind.
    """

    def __init__(self, pipeline: Pipeline, store: StateStore) -> None:
        self.pipelines = [pipeline]  # the newest last
        self.runs: OrderedDict[str, OpenRun] = OrderedDict()
        self.ended: dict[str, Ended] = {}
        self.poison: list[tuple[str, str]] = []
        self.waiting = WaitingRoom()
        self._ready: deque[Waiting] = deque()
        self._stirred: dict[str, OpenRun] = {}  # runs with a stop document, of which something has come
        self.counts: Counter[str] = Counter()
        self._store = store
        self._owners: dict[str, OpenRun] = {}  # uid of a run, descriptor or resource -> the run
        self._over: OrderedDict[str, None] = OrderedDict()  # uids of what is of runs that are over
        self._left_out: OrderedDict[str, None] = OrderedDict()  # uids that were waited for in vain
        self._read_again: dict[str, str] = {}  # uid of a run whose start is to come again -> its lane

    def take(self, item: Item, before: Index | None) -> None:
        """Take in what a source gave; `before` is the position behind which it stands in its lane.

        Raises
        ------
        ReadAgain
            If it is of a run whose snapshot cannot be used.
        """
        (lane, index), name, doc = item
        self.counts["documents"] += 1
        if name == POISON:
            self.spoil(f"{lane}: {index}", doc["reason"], doc["run_start"] if is_text(doc["run_start"]) else "")
        elif reason := malformed(name, doc):
            self.spoil(f"{lane}: {index}", reason, _uid_of(name, doc))
        else:
            self._ready.append(Waiting(lane, before, name, doc))
        self._take_ready()

    def _take_ready(self) -> None:
        """Take in what has come, and what that lets go on; then end the runs that nothing keeps."""
        again: ReadAgain | None = None
        while self._ready:
            came = self._ready.popleft()
            try:
                self._route(came)
            except ReadAgain as error:
                again = error
                if came.lane != error.run.lane:  # so it does not come again with its run
                    self.waiting.add(came)
        stirred, self._stirred = self._stirred, {}
        for run in stirred.values():
            if run.uid in self.runs:
                self.settle(run)
        if again is not None:
            raise again

    def _route(self, came: Waiting) -> None:
        uid = refers_to(came.name, came.doc)
        if uid in self._left_out and came.name != "start":
            self.counts["left_out"] += 1
            return
        run = self.find(uid, came) if uid else self._only_one(came.lane)
        if run is not None:
            self._give(run, came.lane, came.name, came.doc)
        elif self._is_over(uid):
            self._pass_by(came)
        elif came.name == "start":
            self._begin(came)
        else:
            self.waiting.add(came)

    def _only_one(self, lane: str) -> OpenRun | None:
        """Return the run that is open in a lane, if it is the only one: resources of old do not say theirs."""
        runs = [run for run in self.runs.values() if run.lane == lane]
        return runs[0] if len(runs) == 1 else None

    def find(self, uid: str, came: Waiting | None = None) -> OpenRun | None:
        """Return the open run that this is the uid of, or of a descriptor or resource; from the store, if need be.

        Raises
        ------
        ReadAgain
            If it cannot go on from what is stored; not if what `came` is its start, which stands where it stood.
        """
        run = self._owners.get(uid)
        if run is not None or uid in self.waiting or uid in self._over:  # over, and not stored as such yet
            return run
        stored = self._store.run_of(uid)
        # One that is read again is in memory, and may not have come to this descriptor yet.
        return self._resume(stored, came) if stored and stored not in self.runs else None

    def _resume(self, uid: str, came: Waiting | None) -> OpenRun | None:
        stored = self._store.run(uid)
        if stored is None or uid in self._read_again:
            return None
        reason = "there is none"
        for pipeline in reversed(self.pipelines) if stored.snapshot else ():
            try:
                run = OpenRun.resumed(stored, pipeline)
            except OSError:  # the disk's fault, or another process has the file: the snapshot is good
                raise
            except Exception as error:  # noqa: BLE001 - contained: whatever is stored there, it is read again
                reason = f"{type(error).__name__}: {error}"
            else:
                self._add(run)
                return run
        if came is not None and came.name == "start" and came.before == stored.before:
            return None
        logger.warning("Run %s is read again from its start; its snapshot cannot be used: %s", uid, reason)
        self._read_again[uid] = stored.lane
        raise ReadAgain(stored)

    def _is_over(self, uid: str) -> bool:
        if uid in self._over:
            return True
        return uid not in self.waiting and self._store.is_over(uid)

    def _pass_by(self, came: Waiting) -> None:
        """Leave alone what is of a run that is over, and what refers to it."""
        self.counts["late_documents"] += 1
        if came.name in OWNING:
            _remember(self._over, came.doc["uid"])
            self._release(came.doc["uid"])

    def _begin(self, came: Waiting) -> None:
        run = OpenRun(came.doc, self.pipelines[-1], came.lane, came.before)
        self._left_out.pop(run.uid, None)
        self._read_again.pop(run.uid, None)
        self.counts["runs"] += 1
        run.take("start", came.doc)
        self._add(run)
        self._release(run.uid, run)

    def _add(self, run: OpenRun) -> None:
        self.runs[run.uid] = run
        self._owners |= dict.fromkeys((run.uid, *run.owned), run)

    def _give(self, run: OpenRun, lane: str, name: str, doc: Document) -> None:
        if name == "start" or (name in OWNING and doc["uid"] in self._owners):
            self._give_again(run, lane, name, doc)
            return
        try:
            run.take(name, doc)
        except Exception as error:  # noqa: BLE001 - contained: a document that is odd parks its run and nothing else
            self.spoil(lane, f"{name}: {type(error).__name__}: {error}", run.uid)
            return
        if run.stop is not None:
            self._stirred[run.uid] = run
        self.runs.move_to_end(run.uid)
        if name in OWNING:
            self._owners[doc["uid"]] = run
            self._release(doc["uid"], run)

    def _give_again(self, run: OpenRun, lane: str, name: str, doc: Document) -> None:
        """Leave out what has come already; what has the uid of something else cannot be told from that."""
        if name == "start" and doc["uid"] != run.uid:
            self.spoil(lane, f"start: run {run.uid} has something of the uid {doc['uid']!r}")
        elif self._owners[doc["uid"]] is not run:
            self.spoil(lane, f"{name}: another run has something of the uid {doc['uid']!r}", run.uid)
        else:
            self.counts[f"duplicate_{name}s"] += 1

    def _release(self, uid: str, run: OpenRun | None = None) -> None:
        """Let go on what has waited for this, which is of `run`: that begins where the first of these stands."""
        waited = self.waiting.take(uid)
        for each in waited:
            if run is not None and each.lane == run.lane:
                run.before = earlier(run.before, each.before)
        self._ready.extend(waited)

    def spoil(self, place: str, reason: str, uid: str = "") -> None:
        """Take note of what cannot be read: it is told, and parks its run, if that is known."""
        run = self.find(uid) if uid else None
        self.counts["poison"] += 1
        self.poison.append((place, f"{reason} (of {uid})" if uid else reason))
        logger.error("%s: what came cannot be read: %s", place, reason, extra={"run": uid})
        if run is not None:
            run.spoil(reason)
            self._stirred[run.uid] = run

    # ends ------------------------------------------------------------------------------------------------------

    def settle(self, run: OpenRun) -> bool:
        """End a run if nothing is in its way; return whether it is over."""
        was = run.parked
        if run.settle():
            self._end(run)
            return True
        if run.parked and not was:
            logger.warning("Run %s is parked: %s.", run.uid, run.parked, extra={"run": run.uid})
        return False

    def give_up(self, run: OpenRun) -> None:
        """End a run with what there is of it: as its stop document says, or as `abort` if that never came."""
        run.end()
        self._end(run)

    def _end(self, run: OpenRun) -> None:
        failed = "; ".join(f"{node}: {reason}" for node, reason in run.faults.items())
        self.ended[run.uid] = Ended(failed, tuple(run.owned), run.lane, run.before)
        self._drop(run)
        for uid in (run.uid, *run.owned):
            _remember(self._over, uid)

    def _drop(self, run: OpenRun) -> None:
        del self.runs[run.uid]
        for uid in (run.uid, *run.owned):
            self._owners.pop(uid, None)

    def drop_stored(self, uid: str) -> None:
        """Take a run that cannot be gone on with for over."""
        self.ended[uid] = Ended("given up, and not gone on with")

    def let_go(self, run: OpenRun) -> None:
        """Forget a run, as it is stored."""
        run.let_go()
        self._drop(run)

    def refuse(self, run: StoredRun) -> None:
        """Leave out whatever comes of a run that can neither go on nor be read again."""
        self._read_again.pop(run.uid, None)
        for uid in (run.uid, *run.owned):
            _remember(self._left_out, uid)

    def leave_out(self, uid: str) -> None:
        """Wait no more for this: what waited is left out, and told."""
        left = self.waiting.take(uid)
        self.counts["left_out"] += len(left)
        _remember(self._left_out, uid)
        names = ", ".join(f"{n} {name}" for name, n in Counter(each.name for each in left).items())
        what = f"{uid} never came, which these refer to" if uid else "These do not tell their run"
        reason = f"{what}: {names}. They are left out"
        self.poison.append((left[0].lane if left else "", reason))
        logger.error("%s.", reason)

    def forget(self, lanes: Collection[str] | None = None) -> None:
        """Forget, as it is stored, whatever is of these lanes, or all: what is not stored comes again."""
        for run in [run for run in self.runs.values() if lanes is None or run.lane in lanes]:
            self.let_go(run)
        self.waiting.drop(lanes)
        for uid in [uid for uid, lane in self._read_again.items() if lanes is None or lane in lanes]:
            del self._read_again[uid]
        for uid in [uid for uid, ended in self.ended.items() if lanes is None or ended.lane in lanes]:
            for each in (uid, *self.ended.pop(uid).owned):
                self._over.pop(each, None)
        if lanes is None:
            for news in (self.poison, self._left_out, self._ready, self._stirred):
                news.clear()

    def evict(self, n: int) -> None:
        """Keep at most so many runs in memory: let go, if they are stored, those of which nothing came for longest."""
        idle = [run for run in self.runs.values() if run.is_covered and not run.is_dirty]
        for run in idle[: max(0, len(self.runs) - n)]:
            self.let_go(run)


def _uid_of(name: str, doc: Document) -> str:
    """Return what a malformed document refers to, if it tells."""
    try:
        uid = refers_to(name, doc)
    except (KeyError, AttributeError):
        return ""
    return uid if is_text(uid) else ""


def earlier(one: Any, other: Any) -> Any:
    """Return the one of two places in a lane that is before the other; None is before all.

    >>> earlier(3, 2), earlier(None, 2), earlier((1, 7), (1, 5))
    (2, None, (1, 5))
    """
    return None if one is None or other is None else min(one, other)


def _remember(uids: "OrderedDict[str, None]", uid: str) -> None:
    uids[uid] = None
    if len(uids) > REMEMBERED:
        uids.popitem(last=False)

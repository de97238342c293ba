"""Feed a pipeline from a source until it ends, or someone ends it."""

import logging
import os
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.documents import Sink
from pipeline.errors import PipelineError, PipelineOSError, PipelineValueError
from pipeline.gap_filler import GapFiller, Raw
from pipeline.lanes import Lanes
from pipeline.open_runs import OpenRuns, ReadAgain, earlier
from pipeline.pipeline import Pipeline
from pipeline.report import Report
from pipeline.reporter import Reporter
from pipeline.serve import close_sinks
from pipeline.sinks.jsonl import JSONLSink
from pipeline.sources.position import POISON, Index, Item, PositionedSource
from pipeline.state import state_from_bytes, state_to_bytes
from pipeline.state_store import LaneLost, StateStore, StoredRun

logger = logging.getLogger(__name__)

TURN_SECONDS = 0.2  # a source is waited for no longer: so soon a service ends when it is told to
HOUSE_SECONDS = 0.5  # between two looks at requests, snapshots due and what waits
FIRST_DELAY, LONGEST_DELAY = 0.5, 10.0  # seconds before the next try, when the disk refuses
TENDED = 3  # times `snapshot_seconds`: who has not stored anything for longer does not tend its lanes
SNAPSHOT_SHARE = 0.1  # of the time at most goes into snapshots
GROUPS = "groups"


class Service:
    """Feed a pipeline from a source that can be read again, so that nothing is lost and nothing is doubled.

    Open runs are stored every few seconds (how far each reduction, each stream and the ledger are), together with the
    positions of the source that they cover; these are committed after that. So a process that is killed goes on, when
    it is started again, with the same analysis runs, to the same bytes. A run ends when every event that its stop
    document tells of has come; until then it is parked, and told. What cannot be read parks its run and nothing else.

    When the disk or the ledger refuses, everything goes back to what is stored, and is tried again until it works.

    Parameters
    ----------
    pipeline
        One of its sinks is the ledger, a `JSONLSink`.
    source
        Where documents come from.
    state
        The file that open runs are stored in; by default `.state/state.db` in the ledger's directory.
    snapshot_seconds
        How often open runs are stored; less often if it takes more than a tenth of the time.
    hold_seconds
        How long a document waits for its start or its descriptor.
    patience
        After how many seconds a parked run is given up by itself; None: never.
    timeout
        After how many seconds without a document an open run is closed as `abort`; None: never.
    max_open
        How many open runs are kept in memory; the others are on disk until something of them comes.
    refill
        Asked for events that are missing, and for runs whose start never came.

    Attributes
    ----------
    runs
        What is open.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        source: PositionedSource,
        state: str | Path | None = None,
        *,
        snapshot_seconds: float = 5.0,
        hold_seconds: float = 30.0,
        patience: float | None = None,
        timeout: float | None = None,
        max_open: int = 200,
        refill: Raw | None = None,
    ) -> None:
        self._ledger = _ledger_of(pipeline)
        self._source = source
        self._store = StateStore(state or self._ledger.directory / ".state" / "state.db")
        self._snapshot_seconds, self._hold_seconds = snapshot_seconds, hold_seconds
        self._patience, self._timeout, self._max_open = patience, timeout, max_open
        self.runs = OpenRuns(pipeline, self._store)
        self._gaps = GapFiller(self.runs, refill)
        self._restore_groups(pipeline)
        self._lanes = Lanes(self._store, begin_anew=source.may_lose)
        self._stopping = threading.Event()
        self._is_open = self._is_done = False
        self._lost: list[str] = []  # lanes that another process has taken over, and that are to be had again
        self._begins: dict[str, Index | None] = {}  # where open runs began, by lane, if what was stored is gone
        self._trouble = ""
        self._delay = FIRST_DELAY
        self._house_due = 0.0
        self._snapshot_due = time.monotonic() + snapshot_seconds
        self._reporter = Reporter(self.runs, self._store, source.name, source.may_lose)

    # the loop --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Take in what comes until the source ends, or `stop` is called; then store what is open, and let it go."""
        self._open()
        try:
            while not (self._stopping.is_set() or self._is_done):
                self._turn()
        finally:
            self._end()

    @property
    def owner(self) -> str:
        """What this process is called among those that share its state."""
        return self._store.owner

    @property
    def sinks(self) -> list[Sink]:
        """The sinks of the pipeline."""
        return self.runs.pipelines[-1].sinks

    def stop(self) -> None:
        """End `run`, from any thread or a signal handler: what is open is stored, and goes on next time."""
        self._stopping.set()

    def _open(self) -> None:
        if not self._store.is_there:
            self._store.reopen()
        self._source.open(self._lanes.open(), self._lose)
        for lane, before in self._begins.items():
            self._source.rewind(lane, before)
        self._begins.clear()
        self._is_open = True

    def _turn(self) -> None:
        try:
            if not self._is_open and self._stands_by():
                return
            if not self._is_open:
                self._open()
            self._take_in(self._source.read(TURN_SECONDS))
            self._keep_house()
            if self._source.ended:
                self._finish()
        except LaneLost as error:
            logger.warning("%s", error)
            self._lost = [] if self._source.assigns_lanes else error.lanes
            self._shut()
        except OSError as error:
            self._recover(error)

    def _shut(self) -> None:
        """Forget what is not stored; the source gives it again once it is opened again."""
        self._forget()
        self._source.close()
        self._is_open = False

    def _stands_by(self) -> bool:
        """Wait while another process tends lanes that were ours: two that take them from each other get nowhere."""
        if not any(self._store.is_tended(lane, TENDED * self._snapshot_seconds) for lane in self._lost):
            self._lost = []
            return False
        self._reporter.cannot("another process has what it worked on, and it stands by")
        self._stopping.wait(HOUSE_SECONDS)
        return True

    def _take_in(self, items: Sequence[Item]) -> None:
        again: set[str] = set()  # lanes that are read again: what is left of them comes once more
        for item in items:
            if item.position.lane not in again:
                self._take(item, again)
            if self._ledger.trouble:
                raise PipelineOSError(self._ledger.trouble)
        self._reporter.has_read(items)

    def _take(self, item: Item, again: set[str]) -> None:
        lane, index = item.position
        if item.name == POISON and item.doc.get("begins_anew"):
            self._lanes.begin_anew(lane)
        if lane not in self._lanes.taken:
            self._lanes.claim(lane, index)
        try:
            self.runs.take(item, self._lanes.taken[lane])
        except ReadAgain as error:
            self._read_again(error.run)
            again.add(error.run.lane)
        if lane not in again:
            self._lanes.taken[lane] = index

    def _read_again(self, run: StoredRun) -> None:
        """Have a run read again from its start, if that is still there; if not, park it."""
        parked = ""
        if run.lane not in self._lanes.taken:
            self._lanes.claim(run.lane)
        before = earlier(run.before, self._lanes.taken[run.lane])
        if not self._source.rewind(run.lane, before):
            parked = f"it cannot be gone on with, and {self._source.name} no longer has its start"
            logger.error("Run %s is parked: %s.", run.uid, parked, extra={"run": run.uid})
            self.runs.refuse(run)
        else:
            self._lanes.taken[run.lane] = before
        self._store.save({}, [run._replace(snapshot=None, parked=parked)])

    # troubles --------------------------------------------------------------------------------------------------

    def _recover(self, error: Exception) -> None:
        """Go back to what is stored, and begin again from there when that can be written to."""
        if not self._trouble:
            logger.error("What came cannot be kept, and is read again when it can: %s", error)
        self._trouble = f"what comes cannot be kept: {error}"
        self._reporter.cannot(self._trouble)
        if not self._store.is_there:
            self._begins = self._all_begins()
        self._shut()
        while not self._stopping.wait(self._delay):
            self._delay = min(2 * self._delay, LONGEST_DELAY, max(FIRST_DELAY, self._snapshot_seconds))
            if all(_can_write(each) for each in {self._ledger.directory / ".state", self._store.path.parent}):
                break
            self._reporter.cannot(self._trouble)
        self._ledger.trouble = ""
        self._snapshot_due = 0.0  # to see whether it can be stored, too

    def _all_begins(self) -> dict[str, Index | None]:
        """Return, by lane, where the first of all begins that is not stored as over."""
        begins = dict(self._begins)
        places = [(run.lane, run.before) for run in (*self.runs.runs.values(), *self.runs.ended.values())]
        for lane, before in (*places, *self.runs.waiting.positions()):
            begins[lane] = earlier(begins[lane], before) if lane in begins else before
        return begins

    def _lose(self, lanes: Collection[str]) -> None:
        """Store what is of these lanes, which go to another process, and forget it."""
        with suppress(PipelineError):
            self.checkpoint()
        self._forget(lanes)

    def _forget(self, lanes: Collection[str] | None = None) -> None:
        self.runs.forget(lanes)
        self._lanes.forget(lanes)

    # snapshots -------------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Store what is open, after the ledger; commit what that covers, after both.

        Raises
        ------
        PipelineOSError
            If it cannot be stored.
        LaneLost
            If a lane is another process's by now.
        """
        began = time.monotonic()
        for lane in self._other_lanes():
            self._lanes.claim(lane)
        dirty = [run for run in self.runs.runs.values() if run.is_dirty and not self._lanes.is_read_again(run.lane)]
        stored = {run.uid: run.stored() for run in dirty}
        positions = self._lanes.covered(self._open_ends(stored))
        self._ledger.flush()
        if self._ledger.trouble:
            raise PipelineOSError(self._ledger.trouble)
        self._store.save(positions, stored.values(), self.runs.ended, self.runs.poison, self._groups())
        self._source.commit(positions)
        for uid, each in stored.items():
            self.runs.runs[uid].has_stored(each)
        self._lanes.has_committed(positions)
        self.runs.ended.clear()
        self.runs.poison.clear()
        self.runs.evict(self._max_open)
        seconds = time.monotonic() - began
        self._snapshot_due = time.monotonic() + max(self._snapshot_seconds, seconds / SNAPSHOT_SHARE)
        self._reporter.has_stored(len(stored), seconds)
        if self._trouble:
            logger.warning("What comes can be kept again.")
        self._trouble, self._delay = "", FIRST_DELAY

    def _other_lanes(self) -> set[str]:
        """Return the lanes of runs of which something came by another, or that were asked for, since we began."""
        runs = (*self.runs.runs.values(), *self.runs.ended.values())
        return {run.lane for run in runs if run.lane} - self._lanes.taken.keys()

    def _open_ends(self, stored: dict[str, StoredRun]) -> Iterator[tuple[str, Index | None]]:
        """Yield lane and position behind which there is what no snapshot covers."""
        yield from self.runs.waiting.positions()
        for run in self.runs.runs.values():
            is_covered = stored[run.uid].snapshot is not None if run.uid in stored else run.is_covered
            if not is_covered:
                yield run.lane, run.before

    def _groups(self) -> dict[str, bytes]:
        groups = self.runs.pipelines[-1].groups_state()
        return {GROUPS: state_to_bytes(groups)} if groups else {}

    def _restore_groups(self, pipeline: Pipeline) -> None:
        stored = self._store.note(GROUPS)
        if stored is not None:
            pipeline.restore_groups(state_from_bytes(stored))

    # the house -------------------------------------------------------------------------------------------------

    def _keep_house(self) -> None:
        now = time.monotonic()
        if now >= self._house_due:
            self._house_due = now + HOUSE_SECONDS
            self._mend(self._hold_seconds)
            self._give_up_late()
            self._do_requests()
            if not self._trouble:
                self._reporter.tell()
        if now >= self._snapshot_due or len(self.runs.runs) > 2 * self._max_open:
            self.checkpoint()

    def _mend(self, hold_seconds: float) -> None:
        """Fetch what is missing from who keeps raw runs, or leave out what waits for it."""
        for uid in self.runs.waiting.overdue(hold_seconds):
            try:
                is_there = self._gaps.fetch(uid)
            except ReadAgain as error:
                self._read_again(error.run)
                continue
            if not is_there:
                self.runs.leave_out(uid)
        self._gaps.fill_all()

    def _give_up_late(self) -> None:
        for seconds, parked in ((self._patience, True), (self._timeout, False)):
            if seconds is not None:
                self._give_up_silent(seconds, parked)

    def _give_up_silent(self, seconds: float, parked: bool) -> None:
        for uid in self._store.silent(time.time() - seconds, parked):
            if self._is_mine(uid) and not self._is_stirring(uid, seconds):
                self._do("give-up", uid)

    def _is_stirring(self, uid: str, seconds: float) -> bool:
        """Tell whether something of a run has come since it was stored."""
        return uid in self.runs.runs and time.time() - self.runs.runs[uid].last < seconds

    def _do_requests(self) -> None:
        for number, verb, uid in self._store.requests():
            if self._is_mine(uid):
                self._do(verb, uid)
                self._store.done(number)

    def _is_mine(self, uid: str) -> bool:
        stored = self._store.run(uid)
        if uid in self.runs.runs or stored is None or stored.lane in self._lanes.taken:
            return True
        return not self._store.is_tended(stored.lane, TENDED * self._snapshot_seconds)

    def _do(self, verb: str, uid: str) -> None:
        try:
            run = self.runs.find(uid)
        except ReadAgain as error:
            self._read_again(error.run)
            return
        if run is None:
            logger.warning("Request %s %s: there is no such run that could go on; its entry is removed.", verb, uid)
            self.runs.drop_stored(uid)
        elif verb == "give-up":
            self.runs.give_up(run)
        else:
            run.spoiled.clear()
            run.is_dirty = True
            self._gaps.fill(run)
            if run.uid in self.runs.runs:
                self.runs.settle(run)

    # ends ------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Store what is open, since no more will come; end the runs of a stored source, with what there is of them."""
        if self._source.is_stored:
            self._mend(0.0)
            if not self._source.ended:  # something is read again
                return
            for uid in [*self.runs.runs, *(run.uid for run in self._store.runs())]:
                if self._is_mine(uid) and uid not in self.runs.ended:
                    self._do("give-up", uid)
            if not self._source.ended:
                return
        self.checkpoint()
        self._is_done = True

    def _end(self) -> None:
        try:
            if self._is_open:
                self.checkpoint()
                self._reporter.tell()
        except (PipelineError, OSError) as error:
            logger.error("What is open cannot be stored, and is read again next time: %s", error)
        self._forget()
        self._source.close()
        self._store.close()
        close_sinks(self.runs.pipelines[-1])

    def reload(self, pipeline: Pipeline) -> None:
        """Use another pipeline for the runs that begin from now on; its sinks are to be those of the first."""
        if pipeline.sinks != self.runs.pipelines[-1].sinks:
            raise PipelineValueError("A service goes on with the sinks that it has; wanted a pipeline with these.")
        pipeline.restore_groups(self.runs.pipelines[-1].groups_state())
        self.runs.pipelines.append(pipeline)

    def report(self) -> Report:
        """Return what there is to tell, as of half a second ago at most."""
        return self._reporter.report


def _ledger_of(pipeline: Pipeline) -> JSONLSink:
    ledgers = [sink for sink in pipeline.sinks if isinstance(sink, JSONLSink)]
    if len(ledgers) != 1:
        raise PipelineValueError(
            f"A service has its results in a ledger; wanted one JSONLSink, there are {len(ledgers)}."
        )
    return ledgers[0]


def _can_write(directory: Path) -> bool:
    """Tell whether a file of a megabyte can be written there; the directory is made, if the one above is there."""
    probe = directory / f"probe-{os.getpid()}"
    try:
        directory.mkdir(exist_ok=True)
        probe.write_bytes(bytes(1 << 20))
    except OSError:
        return False
    finally:
        with suppress(OSError):
            probe.unlink()
    return True

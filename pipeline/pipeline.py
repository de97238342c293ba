"""Route raw runs to nodes, and their analysis runs to sinks."""

import logging
import threading
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

from pipeline.analysis_result import AnalysisResult
from pipeline.buffer import Buffered
from pipeline.delivery import Delivery, Outlet
from pipeline.documents import Document, Sink
from pipeline.errors import PipelineKeyError, PipelineValueError, near
from pipeline.node import Node
from pipeline.plans import Plans
from pipeline.progress import Progress
from pipeline.raw_run import RawRun
from pipeline.readers.assets import Assets
from pipeline.readers.run_assets import RunAssets
from pipeline.report import NodeReport, SinkReport
from pipeline.results import Results
from pipeline.state import unpack
from pipeline.stream_sink import StreamSink
from pipeline.work import Work, debugs_callbacks

if TYPE_CHECKING:
    from streamz import Stream

logger = logging.getLogger(__name__)

REMEMBERED = 1000  # uids of runs that are over or unknown, so that each is logged once
ROUTED = (
    "start",
    "descriptor",
    "event",
    "event_page",
    "resource",
    "datum",
    "datum_page",
    "stream_resource",
    "stream_datum",
    "stop",
)
PACE = 10_000  # documents of a replay between two waits for the sinks


class Pipeline:
    """A callback that routes raw runs to nodes, and their analysis runs to sinks.

    Subscribe it to a RunEngine, give it the documents of stored runs (`replay`), or make it the sink of another
    pipeline. It never raises, and keeps nothing of a run that is over.

    Parameters
    ----------
    nodes
        The analyses, of different names.
    sinks
        Callables `(name, doc)`, in order; see `subscribe`.
    assets
        Where external assets are, and how they are read.
    timeout
        After how many seconds without a document a raw run is closed as `abort`. It is looked at whenever another
        run starts, and by `close_silent`. None: never.
    fresh
        Whether each analysis run is given a new uid, so that it stands beside the earlier ones of the same recipe.

    Attributes
    ----------
    plans
        What plans ask of it: `yield from pipeline.plans.wait_for("peak")`; see `Plans`.
    counts
        What came, by kind: `runs`, `duplicate_starts`, `duplicate_stops`, `duplicate_events`, `unknown_runs`, ...

    >>> from pipeline.reductions import Mean
    >>> from pipeline.testing import make_run
    >>> pipeline = Pipeline([Node("mean", Mean("det"))], [lambda name, doc: print(name, end=" ")])
    >>> pipeline.replay(make_run({"det": [1.0, 2.0]}))
    start descriptor event event descriptor event stop
    """

    inline = True

    def __init__(
        self,
        nodes: Sequence[Node],
        sinks: Sequence[Sink] = (),
        *,
        assets: Assets | None = None,
        timeout: float | None = None,
        fresh: bool = False,
    ) -> None:
        _check_names(nodes)
        self.nodes = list(nodes)
        self.assets = assets or Assets()
        self.timeout = timeout
        self.fresh = fresh
        self.counts: Counter[str] = Counter()
        self._progress = {node.name: Progress(node) for node in nodes}
        self._results = Results([node.name for node in nodes])
        self.plans = Plans(self, self._results)
        self._sinks: dict[int, Outlet] = {}
        self._token = 0
        self._runs: dict[str, RawRun] = {}  # uid of the raw run -> its works
        self._owners: dict[str, RawRun] = {}  # uid of a descriptor or a resource -> the run it is of
        self._known: OrderedDict[str, str] = OrderedDict()  # uids of what is over or unknown -> which of the two
        self._is_replaying = False
        self._lock = threading.RLock()  # documents may come from more than one RunEngine
        self._routes = {name: getattr(self, f"_on_{name}") for name in ROUTED}
        for sink in sinks:
            self.subscribe(sink)

    # sinks -----------------------------------------------------------------------------------------------------

    def subscribe(self, sink: Sink) -> int:
        """Add a sink, for the analysis runs that start from now on, and return a token for `unsubscribe`.

        A sink that says `inline = True` is called on the thread that documents come on: the ledger, another pipeline,
        and those that keep a queue of their own. Any other might block, and so is `Buffered`.
        """
        outlet = Outlet(sink if getattr(sink, "inline", False) else Buffered(sink))
        with self._lock:
            self._token += 1
            self._sinks[self._token] = outlet
        return self._token

    def unsubscribe(self, token: int) -> None:
        """Take a sink out; runs that are open still go to it."""
        with self._lock:
            self._sinks.pop(token, None)

    @property
    def sinks(self) -> list[Sink]:
        """The sinks, in order."""
        return [outlet.sink for outlet in self._sinks.values()]

    def flush(self, timeout: float | None = None) -> None:
        """Return when every sink has taken in what it was given; a sink that cannot is logged."""
        for outlet in list(self._sinks.values()):
            outlet.ask("flush", timeout)

    def stream(self, node: str, stream: str = "running") -> "Stream":
        """Return a `streamz.Stream` of the events of a node, as dicts: for DataFrames, plots, and graphs of one's own.

        Parameters
        ----------
        node
            The name of the node.
        stream
            The stream of its runs: `running`, `final`, or that of the raw name. Each event is its data and its `time`.

        Raises
        ------
        PipelineKeyError
            If there is no such node.

        >>> from pipeline import Node
        >>> from pipeline.reductions import Mean
        >>> from pipeline.testing import make_run
        >>> pipeline = Pipeline([Node("mean", Mean("det"))])
        >>> means = pipeline.stream("mean").pluck("det_mean").sink_to_list()
        >>> pipeline.replay(make_run({"det": [1.0, 2.0]}))
        >>> means
        [1.0, 1.5]
        """
        from streamz import Stream

        names = [each.name for each in self.nodes]
        if node not in names:
            raise PipelineKeyError(f"there is no node {node!r}{near(node, names)}")
        source = Stream()
        self.subscribe(StreamSink(source, node, stream))
        return source

    # results ---------------------------------------------------------------------------------------------------

    def result(self, node: str, *, run: str | None = None) -> AnalysisResult:
        """Return what a node has found by now, on any thread.

        It is worked out when it is asked for, whatever the node's `every`. A plan that wants what is of the newest
        event waits for it: see `plans`.

        Parameters
        ----------
        node
            The name of the node.
        run
            The uid of a raw run that is open, or of the last one that the node has analysed. By default the one that
            was last begun of those that the node analyses.

        Raises
        ------
        PipelineKeyError
            If there is no such node, or nothing is at hand of that run.
        PipelineRuntimeError
            If the node has analysed no run yet, or its analysis has failed; it says why.

        >>> from pipeline.reductions import Mean
        >>> from pipeline.testing import make_run
        >>> pipeline = Pipeline([Node("mean", Mean("det"))])
        >>> for name, doc in make_run({"det": [1.0, 2.0]})[:-1]: pipeline(name, doc)
        >>> found = pipeline.result("mean")
        >>> found["det_mean"], found.n_events, found.is_final
        (1.5, 2, False)
        """
        with self._lock:
            return self._results.find(node, run).result()

    # documents -------------------------------------------------------------------------------------------------

    def __call__(self, name: str, doc: Document) -> None:
        """Take in a document of a raw run; one that cannot be routed is logged and counted."""
        with self._lock:
            try:
                self._routes.get(name, self._other)(name, doc)
            except Exception as error:
                if debugs_callbacks():
                    raise
                self._refuse(name, error)

    def _refuse(self, name: str, error: Exception) -> None:
        self.counts["refused_documents"] += 1
        if self.counts["refused_documents"] == 1:
            logger.exception("A %s document cannot be routed (%r); more of them are only counted.", name, error)

    def _on_start(self, name: str, doc: Document) -> None:
        uid = doc["uid"]
        if uid in self._runs:
            self.counts["duplicate_starts"] += 1
            return
        if self.timeout is not None:
            self.close_silent(self.timeout)
        self.counts["runs"] += 1
        self._known.pop(uid, None)
        unbegun: dict[str, str] = {}
        assets = self.assets.of_run(is_stored=self._is_replaying)
        works = [self._begin_node(node, doc, assets, unbegun) for node in self.nodes]
        self._runs[uid] = RawRun(doc, [work for work in works if work is not None], unbegun, assets)

    def _begin_node(self, node: Node, doc: Document, assets: RunAssets, unbegun: dict[str, str]) -> Work | None:
        """Return the node at work on this run, if it wants it; a fault there ends this analysis alone."""
        try:
            wanted, fault = node.wants(doc), None
        except Exception as error:  # noqa: BLE001 - contained, told by the analysis run itself
            wanted, fault = True, error
        if not wanted:
            self._progress[node.name].pass_by(doc)
            return None
        self._progress[node.name].begin()
        emit = Delivery(list(self._sinks.values()))
        try:
            work = node.begin(doc, emit, str(uuid.uuid4()) if self.fresh else None, assets)
        except Exception as error:
            logger.exception("Node %s cannot begin with raw run %s.", node.name, doc["uid"])
            self.counts["faults"] += 1
            unbegun[node.name] = reason = f"{type(error).__name__}: {error}"
            self._progress[node.name].fail(reason)
            self._results.begin(doc["uid"], node.name, None, reason)
            return None
        self._results.begin(doc["uid"], node.name, work)
        if fault is not None:
            work.fail(fault)
        return work

    def _on_descriptor(self, name: str, doc: Document) -> None:
        self._own(doc["uid"], name, doc)

    _on_resource = _on_stream_resource = _on_descriptor

    def _own(self, uid: str, name: str, doc: Document) -> None:
        """Route a document that others refer to; a resource of old may not say which run it is of."""
        run = self._runs.get(doc.get("run_start") or "")
        if run is None and not doc.get("run_start") and len(self._runs) == 1:
            run = next(iter(self._runs.values()))
        if run is None:
            self._leave_alone(doc.get("run_start") or uid, name)
        elif uid in self._owners:
            self.counts[f"duplicate_{name}s"] += 1
        else:
            self._owners[uid] = run
            run.owned.append(uid)
            run.route(name, doc)

    def _on_event(self, name: str, doc: Document) -> None:
        run = self._owners.get(doc["descriptor"])
        if run is None:
            self._leave_alone(doc["descriptor"], name)
        else:
            run.give(name, doc)

    _on_event_page = _on_event

    def _on_datum(self, name: str, doc: Document) -> None:
        self._refer(doc["resource"], name, doc)

    _on_datum_page = _on_datum

    def _on_stream_datum(self, name: str, doc: Document) -> None:
        self._refer(doc["stream_resource"], name, doc)

    def _refer(self, uid: str, name: str, doc: Document) -> None:
        """Route a document that refers to this one."""
        run = self._owners.get(uid)
        if run is None:
            self._leave_alone(uid, name)
        else:
            run.route(name, doc)

    def _on_stop(self, name: str, doc: Document) -> None:
        run = self._runs.get(doc["run_start"])
        if run is not None:
            run.route(name, doc)
            self._forget(run)
        elif self._known.get(doc["run_start"]) == "over":
            self.counts["duplicate_stops"] += 1
        else:
            self._leave_alone(doc["run_start"], name)

    def _other(self, name: str, doc: Document) -> None:
        self.counts[f"unknown_{name}"] += 1

    def _leave_alone(self, uid: str, name: str) -> None:
        """Log once, of a run joined in the middle, that it is left alone."""
        if uid in self._known:
            self.counts["late_documents" if self._known[uid] == "over" else "unknown_documents"] += 1
            return
        self.counts["unknown_runs"] += 1
        self._remember(uid, "unknown")
        logger.warning("A %s document of a run whose start was not seen (%s): that run is left alone.", name, uid)

    def _remember(self, uid: str, what: str) -> None:
        self._known[uid] = what
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def _forget(self, run: "RawRun") -> None:
        self.counts["duplicate_events"] += sum(work.intake.n_duplicates for work in run.works)
        self.counts["faults"] += sum(bool(work.reason) for work in run.works)
        for work in run.works:
            if work.is_over:
                self._progress[work.name].end(work)
        self._results.end(run.uid)
        run.close()
        del self._runs[run.uid]
        for uid in run.owned:
            del self._owners[uid]
            self._remember(uid, "over")
        self._remember(run.uid, "over")

    def report(self) -> dict[str, NodeReport]:
        """Return, by node, how many runs it has begun with and ended, how many failed, and why nothing came out."""
        with self._lock:
            return {name: self._node_report(progress) for name, progress in self._progress.items()}

    def sinks_report(self) -> dict[str, SinkReport]:
        """Return, by sink, how many documents wait for it, were dropped, and what is wrong with it."""
        return {outlet.name: outlet.report() for outlet in list(self._sinks.values())}

    def _node_report(self, progress: Progress) -> NodeReport:
        works = [work for run in self._runs.values() for work in run.works if work.name == progress.node.name]
        return {
            "begun": progress.n_begun,
            "ended": progress.n_ended,
            "faults": progress.n_faults + sum(bool(work.reason) for work in works),
            "events": progress.n_events + sum(work.intake.n_taken for work in works),
            "why": progress.why(works),
        }

    # restarts --------------------------------------------------------------------------------------------------

    def state(self, run: str) -> Document | None:
        """Return how far the analyses of an open raw run are, as JSON values and arrays.

        None if that cannot be told: a flow cannot, nor a sink that has failed; then the run is to be read again from
        its start.

        Raises
        ------
        PipelineKeyError
            If no such raw run is open.
        """
        with self._lock:
            if run not in self._runs:
                raise PipelineKeyError(f"Raw run {run} is not open.")
            works, hashes = self._runs[run].works, {node.name: node.recipe_hash for node in self.nodes}
            state = self._runs[run].state()
            return state and {**state, "recipes": [[work.name, hashes[work.name]] for work in works]}

    def resume(self, state: Document) -> None:
        """Go on with a raw run as it was when `state` told this: in this process or another, to the same bytes.

        Sinks that can `resume` (the ledger) go on from their marks; others are given again, from the ledger, what
        they were given.

        Raises
        ------
        PipelineError
            If the nodes that want this run are not those of the state, or the ledger is not as far as it says: then
            nothing is changed, and the run is to be read again from its start.
        """
        with self._lock:
            start = unpack(state["definitions"], "")[0][1]
            nodes = [node for node in self.nodes if node.wants(start)]
            wanted = [[node.name, node.recipe_hash] for node in nodes]
            if start["uid"] in self._runs or wanted != state["recipes"]:
                raise PipelineValueError(f"Raw run {start['uid']}: wanted a state of the nodes that analyse it now.")
            run = RawRun.resumed(state, nodes, list(self._sinks.values()), self.assets.of_run())
            self._runs[run.uid] = run
            self._owners |= dict.fromkeys(run.owned, run)
            for work in run.works:
                self._results.begin(run.uid, work.name, work)

    def raw_run(self, run: str) -> RawRun | None:
        """Return a raw run that is open, with the analyses at work on it; None if it is not."""
        return self._runs.get(run)

    def abandon(self, run: str) -> None:
        """Close a raw run that is open as `abort`: its stop document never came."""
        with self._lock:
            self._abandon([self._runs[run]] if run in self._runs else [])

    @property
    def open_runs(self) -> list[str]:
        """The uids of the raw runs that are open."""
        return list(self._runs)

    def groups_state(self) -> Document:
        """Return, by recipe, the groups of runs that nodes have by now, as JSON values and arrays."""
        return {node.recipe_hash: node.over.state() for node in self.nodes if node.over is not None}

    def restore_groups(self, state: Document) -> None:
        """Go on with the groups of a state; those of nodes of which none has the recipe any more are left out."""
        for node in self.nodes:
            if node.over is not None and node.recipe_hash in state:
                node.over.restore(state[node.recipe_hash], node.reductions)

    def let_go(self, run: str) -> None:
        """Forget a raw run that is open, and close nothing of it: it is to go on later, from its `state`."""
        with self._lock:
            if run in self._runs:
                self._runs[run].let_go()
                self._forget(self._runs[run])
                self._known.pop(run, None)

    # runs ------------------------------------------------------------------------------------------------------

    def replay(self, documents: Iterable[tuple[str, Document]]) -> None:
        """Take in the documents of stored runs, and return when the sinks have all that came of them.

        A run whose stop document is not among them is closed as `abort`.
        """
        began: list[str] = []
        self._is_replaying = True
        try:
            for n, (name, doc) in enumerate(documents, 1):
                if name == "start" and doc["uid"] not in self._runs:
                    began.append(doc["uid"])
                self(name, doc)
                if n % PACE == 0:
                    self.flush()  # a queue that drops what it cannot hold is not for stored runs
        finally:
            self._is_replaying = False
            with self._lock:
                self._abandon([self._runs[uid] for uid in began if uid in self._runs])
            self.flush()

    def close_silent(self, seconds: float) -> None:
        """Close, as `abort`, the raw runs of which nothing came for so many seconds."""
        with self._lock:
            now = time.monotonic()
            self._abandon([run for run in self._runs.values() if now - run.last > seconds])

    def close(self, timeout: float | None = None) -> None:
        """Close, as `abort`, the raw runs that are open, and return when the sinks have everything.

        The pipeline can be used again afterwards; its sinks are left open.
        """
        with self._lock:
            self._abandon(list(self._runs.values()))
        self.flush(timeout)

    def _abandon(self, runs: Iterable["RawRun"]) -> None:
        for run in runs:
            logger.warning("The stop document of raw run %s never came: its analyses end as abort.", run.uid)
            for work in run.works:
                work.abandon()
            self._forget(run)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_names(nodes: Sequence[Node]) -> None:
    names = Counter(node.name for node in nodes)
    twice = [name for name, n in names.items() if n > 1]
    if twice:
        raise PipelineValueError(f"Wanted nodes of different names; there is more than one {twice[0]!r}.")

"""Whatever comes, whole raw runs are analysed as in a replay, and what is odd parks its own run and is told."""

import logging
import tempfile
from pathlib import Path

import pytest
from event_model import DocumentNames, schema_validators
from histories import histories
from hypothesis import HealthCheck, given, settings
from kept import Kept
from lanes import Lanes

from pipeline import Node, Pipeline
from pipeline.reductions import Mean, PeakStatistics, Statistics
from pipeline.service import Service
from pipeline.sinks import JSONLSink
from pipeline.sources import read_jsonl
from pipeline.state_store import StateStore

EVER = 1e9  # seconds


def nodes():
    return [
        Node("peak", PeakStatistics("x", "y"), every=3),
        Node("means", Mean("x"), Statistics("y"), every=0),
        Node("before and after", Mean("x"), stream="baseline"),
    ]


class Life:
    """A service that is ended and killed, and begun again on what is there."""

    def __init__(self, folder, history):
        self.ledger, self._history = folder / "ledger", history
        self._committed = {}

    def live(self):
        for end, is_killed in self._history.ends:
            self._serve(self._history.items[:end], is_killed)
        self._serve(self._history.items)
        self._serve(self._history.items, batch=1000, hold_seconds=0.0)  # what was waited for never came

    def _serve(self, items, is_killed=False, batch=0, hold_seconds=EVER):
        lanes = {}
        for lane, *item in items:
            lanes.setdefault(lane, []).append(item)
        source = Lanes(batch or self._history.batch, **lanes)
        source.committed = self._committed
        pipeline = Pipeline(nodes(), [JSONLSink(self.ledger)])
        service = Service(pipeline, source, snapshot_seconds=1e-6, hold_seconds=hold_seconds)
        if is_killed:
            service._end = lambda: (service._forget(), service._store.close(), pipeline.sinks[0].close())
        service.run()

    def files(self):
        return {path.name: path.read_bytes() for path in self.ledger.glob("*.jsonl")}

    def told(self):
        """The open runs by uid, all that could not be read, in words, and the runs whose analysis failed."""
        store = StateStore(self.ledger / ".state" / "state.db")
        try:
            poison = "\n".join(f"{place} {reason}" for _, place, reason in store.poison(1000))
            return {run.uid: run for run in store.runs()}, poison, {uid for uid, _, _ in store.failed(1000)}
        finally:
            store.close()


def replayed(run, folder):
    with JSONLSink(folder) as ledger:
        Pipeline(nodes(), [ledger]).replay(run)
    return {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}


def check_valid(path):
    """Every document is valid by event-model's schema; those of a run that is over are whole."""
    documents = Kept(read_jsonl(path))
    if documents and documents[-1][0] == "stop":
        documents._check_run()
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)


def outcome(run, open_runs, poison, ended):
    """What became of a run that did not come whole, or came with something else."""
    if run.uid in open_runs:
        stored = open_runs[run.uid]
        return "parked" if stored.parked else "open" if ("stop", run.whole[-1][1]) not in run.comes else "unaccounted"
    if any(repr(uid)[1:-1] in poison or uid in poison for uid in run.uids):
        return "told"
    if run.uid in ended:
        return "ended"
    return "nothing came" if not run.comes else "unaccounted"


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@given(histories())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_whole_runs_are_as_replayed_and_all_else_is_told(history):
    with tempfile.TemporaryDirectory() as folder:
        life = Life(Path(folder) / "home", history)

        life.live()

        files = life.files()
        open_runs, poison, failed = life.told()
        for run in history.runs:
            wanted = replayed(run.whole, Path(folder) / "replayed" / str(history.runs.index(run)))
            if run.is_whole:
                assert {name: files.get(name) for name in wanted} == wanted
                assert run.uid not in open_runs
            else:
                ended = {run.uid for name in wanted if b'\n["stop",' in files.get(name, b"")} | failed
                assert outcome(run, open_runs, poison, ended) != "unaccounted"
        for path in life.ledger.glob("*.jsonl"):
            check_valid(path)
        assert [path.name for path in life.ledger.parent.iterdir()] == ["ledger"]
        assert all(path.suffix in (".jsonl", ".json") or path.name == ".state" for path in life.ledger.iterdir())

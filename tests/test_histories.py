"""Whatever comes, whole raw runs are analysed as in a replay, and what is odd parks its own run and is told."""

import io
import logging
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from event_model import DocumentNames, schema_validators
from histories import History, Run, histories
from hypothesis import HealthCheck, given, settings
from kept import Kept
from lanes import Lanes

import pipeline.service
from pipeline import Node, Pipeline, service
from pipeline.json_lines import read_lines
from pipeline.reductions import Mean, PeakStatistics, Statistics
from pipeline.service import Service
from pipeline.sinks import JSONLSink
from pipeline.state_store import StateStore
from pipeline.testing import make_run

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
        for end, how in self._history.ends:
            self._serve(self._history.items[:end], how)
            if how == "set back":
                self._set_back()
        self._serve(self._history.items)
        with patch.object(
            service, "HOUSE_SECONDS", 0.0
        ):  # what waits when the source ends would wait for the next life
            self._serve(self._history.items, batch=1000, hold_seconds=0.0)  # what was waited for never came

    def _serve(self, items, how="ended", batch=0, hold_seconds=EVER):
        lanes = {}
        for lane, *item in items:
            lanes.setdefault(lane, []).append(item)
        source = Lanes(batch or self._history.batch, **lanes)
        source.committed = self._committed
        analysis = Pipeline(nodes(), [JSONLSink(self.ledger)])
        service = Service(analysis, source, snapshot_seconds=1e-6, hold_seconds=hold_seconds)
        service._recover = _refuse  # from what no disk has done
        if how != "ended":
            service._end = lambda: (service._forget(), service._store.close(), analysis.sinks[0].close())
        service.run()

    def _set_back(self):
        """Take away the end of files of runs that are open."""
        for path in self.ledger.glob("*.jsonl"):
            content = path.read_bytes()
            if b'\n["stop",' not in content:
                path.write_bytes(content[: len(content) // 2])  # in the middle of a line, until it is gone on with

    def files(self):
        return {path.name: path.read_bytes() for path in self.ledger.glob("*.jsonl")}

    def told(self):
        """The open runs by uid, all that could not be read, in words, and the uids of the runs that are over."""
        store = StateStore(self.ledger / ".state" / "state.db")
        try:
            poison = "\n".join(f"{place} {reason}" for _, place, reason in store.poison(1000))
            over = {run.uid for run in self._history.runs if store.is_over(run.uid)}
            return {run.uid: run for run in store.runs()}, poison, over
        finally:
            store.close()


def _refuse(error):
    raise AssertionError(f"a document was taken for a fault of the disk: {error}") from error


def replayed(run, folder):
    with JSONLSink(folder) as ledger:
        Pipeline(nodes(), [ledger]).replay(run)
    return {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}


def whole_lines(content):
    return content[: content.rfind(b"\n") + 1]


def check_valid(path):
    """Every document is valid by event-model's schema; those of a run that is over are whole."""
    documents = Kept(read_lines(path, io.BytesIO(whole_lines(path.read_bytes()))))
    if documents and documents[-1][0] == "stop":
        documents._check_run()
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)


def outcome(run, open_runs, poison, over):
    """What became of a run that did not come whole, or not alone."""
    if run.uid in open_runs:
        lacks_stop = ("stop", run.whole[-1][1]) not in run.comes
        return "parked" if open_runs[run.uid].parked else "open" if lacks_stop else "unaccounted"
    if run.uid in over:
        return "over"
    if any(repr(uid)[1:-1] in poison or uid in poison for uid in run.uids):
        return "told"
    if not any(item in run.whole for item in run.comes):  # so nothing tells that it was of this run
        return "nothing came" if not run.comes else "told" if poison else "unaccounted"
    return "unaccounted"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """Nothing in the log, and a snapshot after whatever was read at once, however long it takes."""
    monkeypatch.setattr(pipeline.service, "SNAPSHOT_SHARE", 1e9)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def check(history):
    """Live through a history, and hold what is left of it to what should be."""
    with tempfile.TemporaryDirectory() as folder:
        life = Life(Path(folder) / "home", history)

        life.live()

        files = life.files()
        open_runs, poison, over = life.told()
        for n, run in enumerate(history.runs):
            wanted = replayed(run.whole, Path(folder) / "replayed" / str(n))
            if run.is_whole:
                for name in wanted:
                    assert files.get(name, b"").splitlines() == wanted[name].splitlines()
                assert run.uid in over
                assert run.uid not in open_runs
            else:
                assert outcome(run, open_runs, poison, over) != "unaccounted"
        for path in life.ledger.glob("*.jsonl"):
            check_valid(path)
        assert [path.name for path in life.ledger.parent.iterdir()] == ["ledger"]
        assert all(path.suffix in (".jsonl", ".json") or path.name == ".state" for path in life.ledger.iterdir())


@given(histories())
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_whole_runs_are_as_replayed_and_all_else_is_told(history):
    check(history)


RUN = make_run({"x": [1.0, 2.0, 3.0, 4.0], "y": [1.0, 3.0, 2.0, 2.0]}, uid="a")
OTHER = make_run({"x": [1.0, 2.0], "y": [1.0, 3.0]}, uid="b")


def in_lane(lane, items):
    return [(lane, *item) for item in items]


def with_harm(place, **changes):
    """The run, and behind this place a document of it that says something else."""
    name, doc = RUN[place]
    return [*RUN[: place + 1], (name, {**doc, **changes}), *RUN[place + 1 :]]


@pytest.mark.parametrize("how", ["ended", "killed", "set back"])
@pytest.mark.parametrize("end", range(1, 8))
def test_what_came_before_the_start_is_read_again_with_it(end, how):
    late = [RUN[2], RUN[1], RUN[3], RUN[0], *RUN[4:], *OTHER]
    runs = [Run(RUN, RUN, True, False), Run(OTHER, OTHER, True, False)]

    check(History(runs, in_lane("a", late), [(end, how)], 1))


@pytest.mark.parametrize("end", range(8))
def test_a_run_that_comes_by_two_lanes_goes_on_after_a_restart(end):
    items = [*in_lane("a", RUN[:3]), *in_lane("b", [RUN[3]]), *in_lane("a", RUN[4:])]

    check(History([Run(RUN, RUN, True, False)], items, [(end, "ended"), (end + 1, "killed")], 1))


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        (0, {"sample": b"\xff"}),
        (0, {"sample": 1j}),
        (0, {"uid": "\ud800"}),
        (1, {"name": ["primary"]}),
        (1, {"run_start": ["nobody"]}),
        (2, {"run_start": ["nobody"]}),
        (2, {"data": "text"}),
        (2, {"seq_num": float("nan")}),
        (2, {"seq_num": 2**53}),
        (5, {"num_events": [4]}),
        (6, {"num_events": "four"}),
    ],
)
def test_a_document_that_is_odd_harms_no_other_run(place, changes):
    comes = with_harm(place, **changes)
    first, rest = comes[: place + 1], comes[place + 1 :]
    runs = [Run(RUN, comes, False, True), Run(OTHER, OTHER, True, True)]

    check(History(runs, in_lane("a", [*first, *OTHER[:2], *rest, *OTHER[2:]]), [(5, "ended"), (9, "killed")], 2))


@pytest.mark.parametrize("end", range(1, 6))
def test_a_run_that_is_over_does_not_begin_again(end):
    items = in_lane("a", [*RUN, RUN[0], *OTHER, *OTHER, RUN[2], RUN[4]])
    runs = [Run(RUN, RUN, True, True), Run(OTHER, OTHER, True, True)]

    check(History(runs, items, [(end, "ended")], len(RUN) + 1))


def test_a_run_that_has_the_uids_of_another_does_not_harm_it():
    thief = make_run({"x": [7.0, 7.0], "y": [7.0, 7.0]}, uid="thief")
    stolen = {**thief[1][1], "uid": RUN[1][1]["uid"]}
    runs = [Run(RUN, RUN, True, True), Run(thief, [thief[0], ("descriptor", stolen), thief[-1]], False, True)]

    check(History(runs, in_lane("a", [*RUN[:4], *runs[1].comes, *RUN[4:]]), [], 1))

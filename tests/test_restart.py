"""A pipeline that goes on from its state gives the bytes of one that was never interrupted."""

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import Node, Pipeline, group_by
from pipeline.errors import PipelineError, PipelineKeyError, PipelineValueError
from pipeline.reductions import Bin, FrameAverage, Mean, Normalize, PeakStatistics, Reduction, Statistics
from pipeline.sinks import JSONLSink
from pipeline.state import state_from_bytes, state_to_bytes
from pipeline.testing import make_run

A = make_run(uid="a")[0][1]["uid"]


def nodes():
    return [
        Node("peak", PeakStatistics("x", "y"), Mean("y"), every=2),
        Node("ratio", Normalize("y", "i0", name="mu"), Statistics("mu"), Bin("x", ["mu"], [0, 2, 4, 8])),
        Node("frames", FrameAverage("spectrum"), every=0),
        Node("group", Statistics("y"), over=group_by("sample")),
    ]


def raw_run(uid, n=6, sample="Cu"):
    rng = numpy.random.default_rng(len(uid) + n)
    data = {
        "x": [float(i) for i in range(n)],
        "y": [float(each) for each in rng.normal(5, 1, n)],
        "i0": [float("nan") if i == 2 else 1.0 + i for i in range(n)],
        "spectrum": list(rng.poisson(9, (n, 5)).astype("u2")),
    }
    return make_run(data, uid=uid, sample=sample)


def disturbed(documents):
    """Return the documents with a point taken again, one twice, and two that have changed places."""
    documents = list(documents)
    again = {**documents[4][1], "uid": "again", "data": {**documents[4][1]["data"], "y": 50.0}}
    documents[6:6] = [("event", again), documents[5]]
    documents[8], documents[9] = documents[9], documents[8]
    documents.insert(9, documents[3])
    return documents


def ledger_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}


def run_whole(documents, folder):
    with JSONLSink(folder) as ledger:
        pipeline = Pipeline(nodes(), [ledger])
        for item in documents:
            pipeline(*item)
    return ledger_bytes(folder)


def saved(pipeline, ledger):
    """Return the state of all that is open, as it is written and read."""
    ledger.flush()
    state = {
        "runs": [pipeline.state(uid) for uid in pipeline.open_runs],
        "groups": pipeline.groups_state(),
    }
    return state_from_bytes(state_to_bytes(state))


def resumed(state, folder):
    ledger = JSONLSink(folder)
    pipeline = Pipeline(nodes(), [ledger])
    pipeline.restore_groups(state["groups"])
    for run in state["runs"]:
        pipeline.resume(run)
    return pipeline, ledger


def run_in_parts(documents, cuts, folder):
    """Take in the documents, in a fresh pipeline after each cut; documents since the state are given again."""
    ledger = JSONLSink(folder)
    pipeline = Pipeline(nodes(), [ledger])
    state = saved(pipeline, ledger)
    since = 0
    for n, item in enumerate(documents):
        pipeline(*item)
        if n in cuts and cuts[n] == "save":
            state, since = saved(pipeline, ledger), n + 1
        elif n in cuts:
            ledger.close()
            pipeline, ledger = resumed(state, folder)
            for again in documents[since : n + 1]:
                pipeline(*again)
    ledger.close()
    return ledger_bytes(folder)


@pytest.mark.parametrize("cut", range(14))
def test_a_run_goes_on_from_any_document(cut, tmp_path):
    documents = disturbed(raw_run("a", 8))

    whole = run_whole(documents, tmp_path / "whole")
    parts = run_in_parts(documents, {cut: "save", cut + 1: "crash", cut + 2: "crash"}, tmp_path / "parts")

    assert len(whole) == 4
    assert parts == whole


@given(st.dictionaries(st.integers(0, 25), st.sampled_from(["save", "crash"]), max_size=6))
@settings(max_examples=25, deadline=None)
def test_interleaved_runs_go_on_from_any_states(tmp_path_factory, cuts):
    folder = tmp_path_factory.mktemp("ledgers")
    first, second = disturbed(raw_run("a", 8)), raw_run("bb", 10)
    documents = [item for pair in zip(first, second, strict=False) for item in pair]
    documents += second[len(first) :] + first[len(second) :]

    assert run_in_parts(documents, cuts, folder / "parts") == run_whole(documents, folder / "whole")


def test_a_failed_analysis_stays_failed(tmp_path):
    documents = raw_run("a")
    node = Node("nope", Mean("y"), Mean("nope"))
    ledger = JSONLSink(tmp_path)
    pipeline = Pipeline([node], [ledger])
    for item in documents[:4]:
        pipeline(*item)
    ledger.flush()
    state = pipeline.state(A)
    pipeline.let_go(A)

    again = Pipeline([node], [ledger])
    again.resume(state)
    for item in documents[4:]:
        again(*item)

    assert "reads 'nope'" in next(iter(ledger_bytes(tmp_path).values())).decode()
    assert b'"exit_status":"fail"' in next(iter(ledger_bytes(tmp_path).values()))


def test_other_nodes_do_not_go_on_from_a_state(tmp_path):
    with JSONLSink(tmp_path) as ledger:
        pipeline = Pipeline([Node("mean", Mean("y"))], [ledger])
        for item in raw_run("a")[:4]:
            pipeline(*item)
        state = pipeline.state(A)
        pipeline.let_go(A)

        for node in (Node("mean", Mean("x")), Node("other", Mean("y"))):
            with pytest.raises(PipelineValueError, match="wanted a state of the nodes"):
                Pipeline([node], [ledger]).resume(state)


def test_a_state_ahead_of_the_ledger_is_refused(tmp_path):
    with JSONLSink(tmp_path) as ledger:
        pipeline = Pipeline([Node("mean", Mean("y"))], [ledger])
        for item in raw_run("a")[:5]:
            pipeline(*item)
        state = pipeline.state(A)
        pipeline.let_go(A)
        (path,) = tmp_path.glob("*.jsonl")
        path.write_bytes(path.read_bytes()[:-30])

        again = Pipeline([Node("mean", Mean("y"))], [ledger])
        with pytest.raises(PipelineValueError, match="wanted 5 lines in"):
            again.resume(state)
        assert list(again.open_runs) == []
        for item in raw_run("a"):
            again(*item)

    assert b'"stop"' in path.read_bytes()


def test_what_cannot_tell_its_state_has_none(tmp_path):
    class Odd(Reduction):
        def __init__(self, field):
            self.field, self.odd = field, lambda: None

        def update(self, data):
            self.odd = lambda: data

        def result(self):
            return None

    for node in (Node("flow", flow=lambda raw: raw.map(dict)), Node("odd", Odd("y"))):
        with JSONLSink(tmp_path) as ledger:
            pipeline = Pipeline([node], [ledger])
            for item in raw_run("a")[:4]:
                pipeline(*item)

            assert pipeline.state(A) is None


def test_a_sink_without_marks_is_given_again_what_the_ledger_has(tmp_path, kept):
    documents = raw_run("a")
    node, seen = Node("mean", Mean("y")), []
    with JSONLSink(tmp_path) as ledger:
        pipeline = Pipeline([node], [ledger, kept])
        for item in documents[:5]:
            pipeline(*item)
        state = pipeline.state(A)
        pipeline.let_go(A)

        again = Pipeline([node], [ledger, lambda name, doc: seen.append(name)])
        with pytest.raises(PipelineError):
            again.state(A)
        again.resume(state)
        for item in documents[5:]:
            again(*item)
        again.flush()

    assert seen == ["start", "descriptor", *["event"] * 6, "descriptor", "event", "stop"]


def test_a_run_that_is_not_open_has_no_state():
    with pytest.raises(PipelineKeyError, match="not open"):
        Pipeline([Node("mean", Mean("y"))]).state("nope")

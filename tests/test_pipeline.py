"""A pipeline keeps runs apart, contains every fault, and keeps nothing of a run that is over."""

import copy
import gc
import logging
import threading
import time

import numpy
import pytest
from faulty import Faulty
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import Kept

from pipeline import Node, Pipeline, Reduction, matches
from pipeline.documents import Uids, dumps, loads
from pipeline.errors import PipelineError
from pipeline.provenance import analysis_uid
from pipeline.reductions import Mean, PeakStatistics, Statistics
from pipeline.testing import make_run

DET = [1.0, 2.0, 4.0, 8.0]


def analyse(documents, *nodes, **options):
    kept = Kept()
    Pipeline(nodes or [Node("mean", Mean("det"))], [kept], **options).replay(documents)
    return kept


def uid_of(text):
    return make_run(uid=text)[0][1]["uid"]


# what a run gives ----------------------------------------------------------------------------------------------------


def test_a_raw_run_gives_a_valid_linked_run():
    raw = make_run({"det": DET, "motor": [0.0, 1.0, 2.0, 3.0]}, plan_name="scan", scan_id=7, sample="Cu", other="x")

    kept = analyse(raw, node := Node("both", Mean("det"), PeakStatistics("motor", "det")))

    kept.check_valid()
    start = kept[0][1]
    assert start["uid"] == analysis_uid(raw[0][1]["uid"], node.recipe_hash)
    assert start["original_run_uid"] == raw[0][1]["uid"]
    assert start["parent_uids"] == [raw[0][1]["uid"]]
    assert start["time"] == raw[0][1]["time"]
    assert start["raw"] == {"scan_id": 7, "plan_name": "scan", "time": raw[0][1]["time"]}
    assert start["sample"] == "Cu"
    assert "other" not in start
    assert "scan_id" not in start
    assert start["analysis"]["recipe"] == node.recipe
    assert {each["name"] for each in start["analysis"]["software"]} >= {"bluesky-pipeline", "numpy", "event-model"}
    assert [data["det_mean"] for data in kept.events("running")] == [1.0, 1.5, 7 / 3, 3.75]
    assert kept.final()["det_n"] == 4
    assert kept.final()["raw_seq_num"] == kept.final()["n_events"] == 4
    assert kept.stop["exit_status"] == "success"
    assert kept.stop["analysis"]["n_raw"] == 4


def test_every_time_is_one_of_the_raw_run():
    raw = make_run({"det": DET})

    kept = analyse(raw)

    times = [doc["time"] for name, doc in raw if name == "event"]
    descriptors = {doc["name"]: doc for doc in kept.named("descriptor")}
    events = [doc for doc in kept.named("event") if doc["descriptor"] == descriptors["running"]["uid"]]
    assert [doc["time"] for doc in events] == times
    assert [set(doc["timestamps"].values()) for doc in events] == [{time} for time in times]
    assert descriptors["running"]["time"] == times[0]
    assert descriptors["final"]["time"] == times[-1]
    assert kept.stop["time"] == raw[-1][1]["time"]


def test_results_carry_units_and_what_was_scanned():
    raw = make_run(
        {"det": DET, "motor": [0, 1, 2, 3]},
        hints={"dimensions": [[["motor"], "primary"]]},
        data_keys={"det": {"units": "count"}, "motor": {"units": "mm", "precision": 3}},
    )

    kept = analyse(raw, Node("peak", PeakStatistics("motor", "det")))

    data_keys = kept.named("descriptor")[0]["data_keys"]
    assert data_keys["det_com"]["units"] == "mm"
    assert data_keys["det_max"]["units"] == "count"
    assert data_keys["motor"] == {"source": "motor", "units": "mm", "precision": 3, "object_name": "peak"} | {
        key: data_keys["motor"][key] for key in ("dtype", "dtype_numpy", "shape")
    }
    assert [data["motor"] for data in kept.events("running")] == [0.0, 1.0, 2.0, 3.0]
    assert "motor" not in kept.final()


@pytest.mark.parametrize(("every", "n"), [(0, 0), (1, 4), (2, 2), (3, 1)])
def test_summaries_come_at_their_cadence(every, n):
    kept = analyse(make_run({"det": DET}), Node("mean", Mean("det"), every=every))

    assert len(kept.events("running")) == n
    assert kept.final()["det_mean"] == 3.75


class Doubled(Reduction):
    kind = "event"

    def __init__(self, field):
        self.field = field

    def update(self, data):
        self.value = data[self.field]

    def result(self):
        return {f"{self.field}_doubled": 2 * self.value}


class Spectrum(Reduction):
    """Has an axis."""

    kind = "event"

    def __init__(self, field, n=3):
        self.field, self.n = field, n

    def update(self, data):
        self.value = data[self.field]

    def result(self):
        return {f"{self.field}_I": numpy.full(self.n, self.value)}

    def axes(self):
        return {"q": numpy.arange(float(self.n))}


def test_event_reductions_give_an_event_in_the_stream_of_the_raw_name():
    kept = analyse(make_run({"det": DET}, stream="mca"), Node("twice", Doubled("det"), Mean("det"), stream="mca"))

    kept.check_valid()
    assert [data["det_doubled"] for data in kept.events("mca")] == [2.0, 4.0, 8.0, 16.0]
    assert [data["raw_seq_num"] for data in kept.events("mca")] == [1, 2, 3, 4]
    assert "n_events" not in kept.events("mca")[0]
    assert len(kept.events("running")) == 4


def test_constant_axes_stand_in_a_stream_of_one_event_and_in_the_configuration():
    kept = analyse(make_run({"det": DET}), Node("powder", Spectrum("det")))

    kept.check_valid()
    (axes,) = kept.events("axes")
    assert axes["q"].tolist() == [0.0, 1.0, 2.0]
    primary = next(doc for doc in kept.named("descriptor") if doc["name"] == "primary")
    assert primary["configuration"]["powder"]["data"]["q"].tolist() == [0.0, 1.0, 2.0]
    assert primary["data_keys"]["det_I"]["shape"] == [3]


def test_names_that_sql_would_not_take_are_mapped_and_the_map_is_told():
    kept = analyse(make_run({"USAXS": DET}), Node("mean", Mean("USAXS"), Echo("a.b"), Echo("A/b")))

    data_keys = kept.named("descriptor")[-1]["data_keys"]
    assert data_keys["a_b"]["original_name"] == "a.b"
    assert data_keys["A_b_2"]["original_name"] == "A/b"
    assert "original_name" not in data_keys["USAXS_mean"]


class Echo(Reduction):
    def __init__(self, key):
        self.key = key

    def update(self, data):
        pass

    def result(self):
        return {self.key: 1.0}


# the same however it comes --------------------------------------------------------------------------------------------

NODES = [
    Node("last", Statistics("det"), every=0),
    Node("third", Statistics("det"), every=3),
    Node("double", Doubled("det")),
]
values = st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=1, max_size=40)


@given(values, st.integers(1, 50), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_pages_events_any_order_and_duplicates_give_the_same_bytes(data, pages, random):
    events = make_run({"det": data})
    paged = make_run({"det": data}, pages=pages)
    mixed = events[2:-1] + random.sample(events[2:-1], len(data) // 2)
    random.shuffle(mixed)

    wanted = analyse(events, *NODES).by_run()

    for other in (paged, [*events[:2], *mixed, events[-1]], [*events[:2], *events[:2], *events[2:], *events[1:]]):
        have = analyse(other, *NODES).by_run()
        assert {uid: run.bytes() for uid, run in have.items()} == {uid: run.bytes() for uid, run in wanted.items()}


@given(st.lists(st.booleans(), min_size=20, max_size=40))
@settings(max_examples=30, deadline=None)
def test_interleaved_runs_give_what_each_gives_alone(turns):
    one, other = (make_run({"det": [float(i * k) for i in range(8)]}, uid=str(k)) for k in (1, 2))
    alone = analyse(one, *NODES).by_run() | analyse(other, *NODES).by_run()
    queues = [list(reversed(one)), list(reversed(other))]
    mixed = []
    for turn in turns:
        queue = queues[turn] or queues[not turn]
        mixed += [queue.pop()] if queue else []
    mixed += [*reversed(queues[0]), *reversed(queues[1])]

    together = analyse(mixed, *NODES).by_run()

    assert {uid: run.bytes() for uid, run in together.items()} == {uid: run.bytes() for uid, run in alone.items()}


def test_the_raw_documents_are_never_changed():
    raw = make_run({"det": DET, "image": [numpy.ones((2, 2))] * 4}, pages=2)
    before = copy.deepcopy(raw)

    analyse(raw, Node("both", Mean("det"), Mean("image")))

    assert repr(raw) == repr(before)


def test_another_recipe_is_another_run_and_fresh_asks_for_a_new_one():
    raw = make_run({"det": DET})
    uids = {
        analyse(raw, node, **options)[0][1]["uid"]
        for node, options in (
            (Node("mean", Mean("det")), {}),
            (Node("mean", Mean("det")), {}),
            (Node("mean", Mean("det", skipna=False)), {}),
            (Node("mean", Mean("det"), every=2), {}),
            (Node("mean", Mean("det")), {"fresh": True}),
            (Node("mean", Mean("det")), {"fresh": True}),
        )
    }

    assert len(uids) == 5


# which runs ----------------------------------------------------------------------------------------------------------


def test_a_node_takes_the_runs_that_it_is_asked_to():
    runs = [*make_run({"det": DET}, uid="a", plan_name="scan"), *make_run({"det": DET}, uid="b", plan_name="count")]

    for when in ({"plan_name": "scan"}, matches(plan_name="scan"), lambda start: start["plan_name"] == "scan"):
        kept = analyse(runs, Node("mean", Mean("det"), when=when))
        assert [doc["original_run_uid"] for doc in kept.named("start")] == [runs[0][1]["uid"]]


def test_a_pipeline_is_a_sink_and_takes_no_analysis_run_for_a_raw_one_unless_asked_to(kept):
    again = Pipeline(
        [
            Node("no", Mean("det_mean"), stream="running"),
            Node("yes", Mean("det_mean"), stream="running", when=lambda s: "analysis" in s),
        ],
        [kept],
    )

    Pipeline([Node("mean", Mean("det"))], [again]).replay(make_run({"det": DET}))

    assert [doc["analysis"]["node"] for doc in kept.named("start")] == ["yes"]
    assert kept.final()["det_mean_mean"] == pytest.approx((1 + 1.5 + 7 / 3 + 3.75) / 4)


# how runs end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["success", "abort", "fail"])
def test_an_analysis_ends_as_its_raw_run_and_gives_its_last_summaries(status):
    raw = make_run({"det": DET}, exit_status=status)
    raw[-1][1]["reason"] = "beam dump"

    kept = analyse(raw)

    assert (kept.stop["exit_status"], kept.stop["reason"]) == (status, "beam dump")
    assert kept.final()["det_n"] == 4


def test_a_run_without_events_gives_a_run_without_events():
    raw = make_run({"det": DET})

    kept = analyse([raw[0], raw[1], raw[-1]])

    kept.check_valid()
    assert [name for name, _ in kept] == ["start", "stop"]
    assert (kept.stop["exit_status"], kept.stop["analysis"]["n_raw"]) == ("success", 0)


def test_a_run_without_the_stream_says_which_there_are():
    kept = analyse(make_run({"det": DET}, stream="baseline"))

    assert kept.stop["exit_status"] == "fail"
    assert kept.stop["reason"] == "Node 'mean' reads stream 'primary', but the run has ['baseline']."


def test_a_missing_field_ends_the_analysis_and_says_which_there_are():
    kept = analyse(make_run({"det": DET, "motor": DET}), Node("mean", Mean("nope")), Node("other", Mean("det")))

    stop = kept.of_node("mean").stop
    assert stop["exit_status"] == "fail"
    assert stop["reason"] == "Mean reads 'nope', but stream 'primary' has ['det', 'motor']."
    assert kept.of_node("other").stop["exit_status"] == "success"


def test_an_undeclared_field_that_is_missing_is_told_in_the_same_words():
    kept = analyse(make_run({"det": DET}), Node("twice", Doubled("nope")))

    assert "reads 'nope', but stream 'primary' has ['det']" in kept.stop["reason"]


def test_a_field_missing_in_one_event_skips_that_event_and_is_counted():
    raw = make_run({"det": DET, "motor": DET})
    del raw[3][1]["data"]["det"]

    kept = analyse(raw)

    assert kept.final()["det_n"] == 3
    assert kept.stop["analysis"]["n_skipped"] == 1


def test_a_field_in_files_that_no_document_tells_of_is_told():
    raw = make_run({"image": DET})
    raw[1][1]["data_keys"]["image"]["external"] = "STREAM:"
    for _, event in raw[2:-1]:
        del event["data"]["image"]

    kept = analyse(raw, Node("mean", Mean("image")))

    assert kept.stop["reason"] == (
        "Node 'mean' reads ['image'] of stream 'primary', and no document told of any value: "
        "wanted datum or stream_datum documents."
    )


def test_a_run_whose_stop_never_comes_is_closed_as_abort_and_goes_on_if_it_comes_after_all(tmp_path):
    from pipeline.sinks.jsonl import JSONLSink

    raw = make_run({"det": DET})
    kept = analyse(raw[:-2])
    assert kept.stop["exit_status"] == "abort"
    assert "never came" in kept.stop["reason"]
    assert kept.final()["det_n"] == 3

    for part in (raw[:-2], raw, raw):
        with JSONLSink(tmp_path) as ledger:
            Pipeline([Node("mean", Mean("det"))], [ledger]).replay(part)

    (path,) = tmp_path.glob("*.jsonl")
    assert path.read_bytes() == analyse(raw).bytes()


def test_a_silent_run_is_closed_when_another_starts():
    kept = Kept()
    pipeline = Pipeline([Node("mean", Mean("det"))], [kept], timeout=0.05)
    for item in make_run({"det": DET}, uid="a")[:-1]:
        pipeline(*item)
    time.sleep(0.1)

    pipeline(*make_run({"det": DET}, uid="b")[0])

    assert [doc["exit_status"] for doc in kept.named("stop")] == ["abort"]


def test_another_shape_starts_afresh_with_another_descriptor():
    raw = make_run({"det": [[1.0, 2.0], [3.0, 4.0]]})
    data_keys = {"det": {**raw[1][1]["data_keys"]["det"], "shape": [3]}}
    second = {**raw[1][1], "uid": "second", "data_keys": data_keys}
    more = {**raw[-2][1], "uid": "third", "descriptor": "second", "seq_num": 3, "data": {"det": [1.0, 2.0, 3.0]}}
    documents = [*raw[:-1], ("descriptor", second), ("event", more), raw[-1]]

    kept = analyse(documents)

    kept.check_valid()
    assert [doc["data_keys"]["det_mean"]["shape"] for doc in kept.named("descriptor") if doc["name"] == "running"] == [
        [2],
        [3],
    ]
    assert kept.final()["det_mean"].tolist() == [1.0, 2.0, 3.0]


# what comes wrong ------------------------------------------------------------------------------------------------------


def test_duplicates_change_nothing_and_are_counted():
    raw = make_run({"det": DET})
    pipeline = Pipeline([Node("mean", Mean("det"))], [kept := Kept()])

    pipeline.replay([raw[0], *raw[:2], raw[1], *raw[2:4], *raw[2:], raw[-1]])

    assert kept.bytes() == analyse(raw).bytes()
    counts = pipeline.counts
    assert (counts["duplicate_starts"], counts["duplicate_descriptors"], counts["duplicate_stops"]) == (1, 1, 1)
    assert counts["duplicate_events"] == 2


def test_a_run_joined_in_the_middle_is_one_line_in_the_log_and_is_left_alone(caplog):
    one, other = make_run({"det": DET}, uid="a"), make_run({"det": DET}, uid="b")

    kept = analyse([*one[1:], *other])

    assert kept.bytes() == analyse(other).bytes()
    assert len([r for r in caplog.records if "left alone" in r.message]) <= 2


def test_a_document_of_no_known_kind_is_counted():
    pipeline = Pipeline([Node("mean", Mean("det"))])

    pipeline("bulk_events", {})

    assert pipeline.counts["unknown_bulk_events"] == 1


histories = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=40)


@given(histories)
@settings(max_examples=300, deadline=None)
def test_no_history_of_documents_raises_or_spoils_what_comes_after(history):
    """Any documents of two runs, in any order, lost and doubled: what comes out is valid, and a whole run is whole."""
    logging.disable(logging.CRITICAL)
    runs = [make_run({"det": DET}, uid=str(k), pages=2 * k) for k in (0, 1)]
    kept = Kept()
    pipeline = Pipeline([Node("mean", Mean("det"))], [kept])

    for which, place, times in history:
        for _ in range(times):
            pipeline(*runs[which][place % len(runs[which])])
    pipeline.close()
    whole = Kept()
    pipeline.subscribe(whole)
    pipeline.replay(make_run({"det": DET}, uid="2"))

    logging.disable(logging.NOTSET)
    for run in kept.by_run().values():
        names = [name for name, _ in run]
        assert names.count("start") == names.count("stop")
    assert whole.bytes() == analyse(make_run({"det": DET}, uid="2")).bytes()
    assert not pipeline._runs
    assert not pipeline._owners


# faults --------------------------------------------------------------------------------------------------------------


def raises(start):
    raise RuntimeError("boom in start")


@pytest.mark.parametrize("where", ["start", "descriptor", "describe", "event", "result", "final"])
def test_a_fault_ends_its_own_analysis_and_nothing_else(where, caplog):
    bad = (
        Node("bad", Mean("det"), when=raises)
        if where == "start"
        else Node("bad", Faulty(where), every=where != "final")
    )

    kept = analyse(make_run({"det": DET}), Node("before", Mean("det")), bad, Node("after", Mean("det")))

    kept.check_valid()
    for name in ("before", "after"):
        assert kept.of_node(name).final()["det_mean"] == 3.75
        assert kept.of_node(name).stop["exit_status"] == "success"
    stop = kept.of_node("bad").stop
    assert (stop["exit_status"], stop["reason"]) == ("fail", f"RuntimeError: boom in {where}")
    assert len([r for r in caplog.records if "boom" in r.getMessage()]) == 1


def test_debug_callbacks_raises_instead(monkeypatch):
    monkeypatch.setenv("BLUESKY_DEBUG_CALLBACKS", "1")

    with pytest.raises(RuntimeError, match="boom in event"):
        analyse(make_run({"det": DET}), Node("bad", Faulty("event")))


@pytest.mark.parametrize("inline", [True, False])
def test_a_sink_that_raises_is_alone_in_it_and_told_in_the_stop_document(inline, caplog):
    kept = Kept()

    def bad(name, doc):
        if name == "event":
            raise OSError("no such printer")

    bad.inline = inline
    pipeline = Pipeline([Node("mean", Mean("det"))], [bad, kept])
    raw = make_run({"det": DET})
    for item in raw[:-1]:
        pipeline(*item)
    pipeline.flush()
    pipeline(*raw[-1])
    pipeline.flush()

    kept.check_valid()
    assert kept.final()["det_mean"] == 3.75
    (fault,) = kept.stop["analysis"]["sinks"].values()
    assert "no such printer" in fault
    assert kept.stop["exit_status"] == "success"
    assert len([r for r in caplog.records if "no such printer" in r.getMessage()]) == 1


def test_a_sink_that_hangs_holds_up_nothing():
    kept, hanging = Kept(), threading.Event()
    pipeline = Pipeline([Node("mean", Mean("det"))], [lambda name, doc: hanging.wait(), kept])

    began = time.monotonic()
    for item in make_run({"det": DET}):
        pipeline(*item)

    assert time.monotonic() - began < 1
    assert kept.stop["exit_status"] == "success"
    hanging.set()
    pipeline.close()


def test_a_sink_that_is_taken_out_gets_no_more_runs():
    kept = Kept()
    pipeline = Pipeline([Node("mean", Mean("det"))])
    token = pipeline.subscribe(kept)

    pipeline.replay(make_run({"det": DET}, uid="a"))
    pipeline.unsubscribe(token)
    pipeline.replay(make_run({"det": DET}, uid="b"))

    assert len(kept.named("start")) == 1
    assert pipeline.sinks == []


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Node("a"), "at least one reduction"),
        (lambda: Node("a", "Mean"), "wanted reductions, there is 'Mean'"),
        (lambda: Node("a", Mean("det"), every=-1), "every is -1"),
        (lambda: Node("a", Echo({"x.y": 1})), "key 'x.y'"),
        (lambda: Node("a", Echo(object())), "part of the recipe"),
        (lambda: Pipeline([Node("a", Mean("x")), Node("a", Mean("y"))]), "more than one 'a'"),
    ],
)
def test_what_is_wrong_is_said_when_it_is_made(make, says):
    with pytest.raises(PipelineError, match=says):
        make()


# memory --------------------------------------------------------------------------------------------------------------


def test_nothing_of_a_run_that_is_over_is_kept():
    pipeline = Pipeline([Node("mean", Mean("det"))])
    assets = {"spec": "X", "resource_path": "x", "resource_kwargs": {}, "root": "/", "path_semantics": "posix"}

    def give(first, last):
        for k in range(first, last):
            raw = make_run({"det": DET}, uid=str(k))
            uid = Uids(str(k))("asset")
            resource = {**assets, "uid": uid, "run_start": raw[0][1]["uid"]}
            datum = {"datum_id": f"{uid}/0", "resource": uid, "datum_kwargs": {}}
            pipeline.replay([*raw[:2], ("resource", resource), ("datum", datum), *raw[2:]])

    give(0, 1200)
    gc.collect()
    before = len(gc.get_objects())
    give(1200, 1300)
    gc.collect()

    assert len(gc.get_objects()) - before < 100
    assert not pipeline._runs
    assert not pipeline._owners


@pytest.mark.parametrize("dtype", ["u2", "i4", "f4", "f8", "?"])
def test_arrays_give_the_same_bytes_live_and_as_json_had_them(dtype, kept):
    arrays = [(numpy.arange(4) * 0.1 + k).astype(dtype) for k in range(3)]
    live = make_run({"mca": arrays})
    stored = [loads(dumps(*item)) for item in live]
    again = type(kept)()

    Pipeline([Node("mean", Statistics("mca"))], [kept]).replay(live)
    Pipeline([Node("mean", Statistics("mca"))], [again]).replay(stored)

    assert [dumps(*item) for item in kept] == [dumps(*item) for item in again]


def test_a_run_is_told_by_lists_live_where_they_are_tuples_and_stored():
    is_wanted = matches(motors=["motor"])

    assert is_wanted({"uid": "a", "motors": ("motor",)})
    assert is_wanted({"uid": "a", "motors": ["motor"]})
    assert not is_wanted({"uid": "a", "motors": ("other",)})

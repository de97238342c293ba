"""What a node has found can be asked for at any time, on any thread: it is what stands in its streams."""

import gc
import threading

import numpy
import pytest
from faulty import Faulty
from kept import Kept

from pipeline import Node, Pipeline, Reduction
from pipeline.errors import PipelineError, PipelineKeyError, PipelineRuntimeError
from pipeline.output import COUNTERS
from pipeline.reductions import Mean, PeakStatistics, Statistics
from pipeline.sources import read_jsonl
from pipeline.testing import make_run

MOTOR = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
DET = [1.0, 2.0, 8.0, 2.0, 1.0, 0.0]
RAW = make_run({"motor": MOTOR, "det": DET}, hints={"dimensions": [[["motor"], "primary"]]})
UID = RAW[0][1]["uid"]


class Ratio(Reduction):
    """One result for each event; none where there is nothing to divide by."""

    kind = "event"

    def __init__(self, field):
        self.field, self.last = field, None

    def update(self, data):
        self.last = data[self.field]

    def result(self):
        return {f"{self.field}_inverse": 1 / self.last} if self.last else None


class Total(Reduction):
    """A summary that is an array, and hands out its own."""

    def __init__(self, field):
        self.field, self.total = field, numpy.zeros(2)

    def update(self, data):
        self.total += numpy.array([1.0, data[self.field]])

    def result(self):
        return {f"{self.field}_total": self.total}


class Counted(Mean):
    """A mean that counts how often it is asked for."""

    n_asked = 0

    def result(self):
        Counted.n_asked += 1
        return super().result()


class Blank(Reduction):
    """A result that may be unknown."""

    def update(self, data):
        pass

    def result(self):
        return {"blank": None}


def results_in(data):
    return {key: value for key, value in data.items() if key not in (*COUNTERS, "motor")}


def give(pipeline, documents):
    for name, doc in documents:
        pipeline(name, doc)


def test_at_every_prefix_the_result_is_what_stands_in_running_and_at_the_end_in_final(kept):
    pipeline = Pipeline([Node("peak", PeakStatistics("motor", "det"), Mean("det"))], [kept])
    give(pipeline, RAW[:2])

    for n, item in enumerate(RAW[2:-1], 1):
        pipeline(*item)
        found = pipeline.result("peak")
        assert repr(dict(found)) == repr(results_in(kept.events("running")[-1]))
        assert (found.n_events, found.raw_seq_num, found.is_final) == (n, n, False)
    pipeline(*RAW[-1])
    found = pipeline.result("peak")

    assert dict(found) == results_in(kept.final())
    assert (found.node, found.run_uid, found.analysis_uid) == ("peak", UID, kept[0][1]["uid"])
    assert (found.n_events, found.raw_seq_num, found.is_final) == (6, 6, True)


@pytest.mark.parametrize("every", [0, 1, 4])
def test_a_result_does_not_wait_for_the_cadence_of_running(every):
    pipeline = Pipeline([Node("mean", Mean("det"), every=every)])

    give(pipeline, RAW[:5])

    assert pipeline.result("mean") == {"det_mean": 11 / 3, "det_n": 3}
    assert pipeline.result("mean").n_events == 3


@pytest.mark.parametrize("pages", [0, 4])
def test_to_ask_changes_nothing(pages):
    raw = make_run({"motor": MOTOR, "det": DET}, pages=pages)
    nodes = [Node("a", Statistics("det"), every=0), Node("b", PeakStatistics("motor", "det"), Ratio("det"), every=3)]
    asked, left_alone = Kept(), Kept()
    Pipeline(nodes, [left_alone]).replay(raw)
    pipeline = Pipeline(nodes, [asked])

    for item in raw:
        pipeline(*item)
        for node in "aabb":
            pipeline.result(node)

    assert asked.bytes() == left_alone.bytes()


def test_where_nobody_asks_no_result_is_worked_out_but_what_is_written():
    pipeline = Pipeline([Node("mean", Counted("det"))])

    give(pipeline, RAW)

    assert Counted.n_asked == len(DET) + 1 + 2, "running, final, and the descriptor of each"
    assert pipeline.result("mean")["det_n"] == 6
    assert Counted.n_asked == len(DET) + 1 + 2


def test_per_event_results_are_those_of_the_last_event_alone():
    pipeline = Pipeline([Node("ratio", Ratio("det")), Node("both", Ratio("det"), Mean("det"))])
    give(pipeline, RAW[:-2])

    assert pipeline.result("ratio") == {"det_inverse": 1.0}
    assert pipeline.result("both") == {"det_inverse": 1.0, "det_mean": 14 / 5, "det_n": 5}
    give(pipeline, RAW[-2:])
    found = pipeline.result("ratio")
    assert found == {}, "the last event has none, though the stream holds that of the one before"
    assert (found.n_events, found.raw_seq_num, found.is_final) == (6, 6, True)


def test_keys_are_those_of_the_documents_and_what_is_not_known_is_nan(kept):
    raw = make_run({"2-theta": DET, "x": DET, "X": DET})
    pipeline = Pipeline([Node("mean", Mean("2-theta"), Mean("x"), Mean("X"))], [kept])

    give(pipeline, raw[:3])
    early = set(pipeline.result("mean"))
    give(pipeline, raw[3:])

    assert early == set(pipeline.result("mean")) == set(results_in(kept.final()))
    assert {"k_2-theta_mean", "x_mean", "X_mean_2"} < early
    pipeline = Pipeline([Node("blank", Blank(), every=0)])
    give(pipeline, raw[:3])
    assert numpy.isnan(pipeline.result("blank")["blank"])


def test_a_result_is_a_copy(kept):
    pipeline = Pipeline([Node("total", Total("det"))], [kept])

    give(pipeline, RAW[:3])
    first = pipeline.result("total")
    first["det_total"][:] = -1
    give(pipeline, RAW[3:])
    last = pipeline.result("total")
    last["det_total"][:] = -1

    assert pipeline.result("total")["det_total"].tolist() == [6.0, 14.0]
    assert kept.final()["det_total"].tolist() == [6.0, 14.0]
    assert [row["det_total"][0] for row in kept.events("running")] == [1, 2, 3, 4, 5, 6]


def test_a_point_taken_again_replaces_the_first_take():
    pipeline = Pipeline([Node("mean", Mean("det"), every=0)])
    again = ("event", {**RAW[3][1], "uid": "again", "data": {"motor": 0.0, "det": 5.0}})

    give(pipeline, [*RAW[:5], again])

    found = pipeline.result("mean")
    assert found["det_mean"] == 3.0
    assert (found.n_events, found.raw_seq_num) == (2, 2)


def test_of_real_runs_the_result_is_what_was_written_last_after_each_event_and_the_stop(data_folder):
    n_runs = n_asked = 0
    for file in sorted(data_folder.glob("docs_*/*.jsonl")):
        documents = list(read_jsonl(file))
        motors, field = scanned_and_measured(documents)
        if not field or [name for name, _ in documents].count("start") > 1:
            continue
        pipeline = Pipeline([Node("peak", PeakStatistics(motors[0], field), Mean(field))], [kept := Kept()])
        for name, doc in documents:
            pipeline(name, doc)
            written = [doc["data"] for kind, doc in kept[-2:] if kind == "event"]
            if name in ("event", "stop") and written:
                found = pipeline.result("peak")
                wanted = {key: value for key, value in written[-1].items() if key not in (*COUNTERS, *motors)}
                assert repr(dict(found)) == repr(wanted), file.name
                assert found.n_events == written[-1]["n_events"]
                n_asked += 1
        n_runs += found.is_final
    assert n_runs >= 70
    assert n_asked >= 3000


def scanned_and_measured(documents):
    """The motors of a scan, and the first number that is none of them."""
    dimensions = documents[0][1].get("hints", {}).get("dimensions", [])
    motors = [field for fields, stream in dimensions if stream == "primary" for field in fields]
    for name, doc in documents:
        if name == "descriptor" and doc.get("name") == "primary" and {*motors[:1]} & {*doc["data_keys"]}:
            numbers = [key for key, k in doc["data_keys"].items() if k["dtype"] == "number" and not k.get("shape")]
            return motors, next((key for key in numbers if key not in motors), None)
    return motors, None


# which run -----------------------------------------------------------------------------------------------------------


def test_before_the_first_event_there_is_an_empty_result():
    pipeline = Pipeline([Node("mean", Mean("det"))])

    give(pipeline, RAW[:1])

    found = pipeline.result("mean")
    assert not found
    assert (found.run_uid, found.n_events, found.raw_seq_num) == (UID, 0, 0)
    with pytest.raises(PipelineKeyError, match=f"no result 'det_mean' after 0 events of raw run {UID}; there are"):
        found["det_mean"]


def test_the_current_run_is_the_one_that_was_last_begun_and_is_of_this_node():
    pipeline = Pipeline([Node("all", Mean("det")), Node("scans", Mean("det"), when={"plan_name": "scan"})])
    scan = make_run({"det": [1.0]}, uid="s", plan_name="scan")
    count = make_run({"det": [2.0]}, uid="c", plan_name="count")

    give(pipeline, [*scan, *count])

    assert pipeline.result("all")["det_mean"] == 2.0
    assert pipeline.result("scans")["det_mean"] == 1.0
    assert pipeline.result("scans").run_uid == scan[0][1]["uid"]


def test_of_two_open_runs_each_can_be_asked_for():
    one, other = (make_run({"det": [k, k]}, uid=str(k)) for k in (1.0, 2.0))
    pipeline = Pipeline([Node("mean", Mean("det"))])
    give(pipeline, [*one[:3], *other[:3]])

    assert pipeline.result("mean")["det_mean"] == 2.0
    assert pipeline.result("mean", run=one[0][1]["uid"])["det_mean"] == 1.0
    give(pipeline, other[3:])
    assert pipeline.result("mean").is_final, "the last begun is the current one, over or not"
    assert not pipeline.result("mean", run=one[0][1]["uid"]).is_final
    give(pipeline, one[3:])
    with pytest.raises(PipelineKeyError, match=r"no analysis of raw run .* at hand: .* last began with"):
        pipeline.result("mean", run=one[0][1]["uid"])


def test_what_cannot_be_asked_for_is_said():
    pipeline = Pipeline([Node("peak", Mean("det"))])

    with pytest.raises(PipelineKeyError, match=r"no node 'paek'; did you mean 'peak'\? There are \['peak'\]"):
        pipeline.result("paek")
    with pytest.raises(PipelineRuntimeError, match="Node 'peak' has analysed no raw run yet"):
        pipeline.result("peak")
    give(pipeline, RAW)
    with pytest.raises(PipelineKeyError, match=r"no result 'det_maen' .*; did you mean 'det_mean'\?"):
        pipeline.result("peak")["det_maen"]


# faults --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["descriptor", "describe", "event", "result", "final"])
def test_a_failed_analysis_says_why_while_its_run_is_open_and_after_it(where):
    pipeline = Pipeline([Node("bad", Faulty(where)), Node("good", Mean("det"))])
    why = f"Node 'bad', raw run {UID}: RuntimeError: boom in {where}"

    give(pipeline, RAW[:-1])
    with pytest.raises(PipelineRuntimeError, match=why):
        pipeline.result("bad")
    pipeline(*RAW[-1])

    with pytest.raises(PipelineRuntimeError, match=why):
        pipeline.result("bad")
    assert pipeline.result("good")["det_n"] == 6


def test_a_node_that_cannot_begin_says_why_and_gives_no_earlier_result():
    pipeline = Pipeline([Node("mean", Mean("det"))])
    start, *rest = make_run({"det": [1.0]}, uid="b")
    pipeline.replay(RAW)

    give(pipeline, [("start", start[1] | {"sample": 7}), *rest])

    with pytest.raises(PipelineRuntimeError, match=f"raw run {start[1]['uid']}: .*sample.*not valid"):
        pipeline.result("mean")


def test_a_reduction_that_fails_only_when_asked_is_told_to_who_asks_and_ends_nothing(kept):
    pipeline = Pipeline([Node("bad", Faulty("result"), every=0)], [kept])

    give(pipeline, RAW[:4])
    with pytest.raises(PipelineError, match="boom in result"):
        pipeline.result("bad")

    assert not [name for name, _ in kept if name == "stop"]


# threads and memory --------------------------------------------------------------------------------------------------


def test_it_can_be_asked_for_on_other_threads_while_documents_come():
    raw = make_run({"det": [float(i) for i in range(3000)]})
    pipeline = Pipeline([Node("mean", Mean("det"), every=0)])
    give(pipeline, raw[:3])
    seen, is_over = [], threading.Event()

    def ask():
        while not is_over.is_set():
            seen.append(pipeline.result("mean"))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    give(pipeline, raw[3:])
    is_over.set()
    for thread in threads:
        thread.join()

    assert len({found.n_events for found in seen}) > 1
    for found in seen:
        assert found.n_events == found.raw_seq_num == found["det_n"]
        assert found["det_mean"] == (found.n_events - 1) / 2


def test_of_many_runs_no_more_than_the_last_results_are_kept():
    pipeline = Pipeline([Node("mean", Mean("det")), Node("peak", Mean("det"), when={"plan_name": "scan"})])

    def run(first, last):
        for k in range(first, last):
            give(pipeline, make_run({"det": DET}, uid=str(k)))

    run(0, 1200)
    gc.collect()
    before = len(gc.get_objects())
    run(1200, 1300)
    gc.collect()

    assert len(gc.get_objects()) - before < 100
    assert pipeline.result("mean").is_final

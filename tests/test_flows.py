"""A streamz graph in a node is of one run alone, ends nothing but its own analysis, and gives in replay what live gave."""

import json
import threading

import pytest
from confluent_kafka import Producer
from flows import smooth
from streamz import Stream

from pipeline import Node, Pipeline
from pipeline.config import load
from pipeline.documents import dumps
from pipeline.errors import PipelineError
from pipeline.reductions import Flow, Mean, PeakStatistics
from pipeline.sources import read_jsonl
from pipeline.testing import make_run

DET = [1.0, 4.0, 2.0, 8.0, 3.0]
SMOOTH = [7 / 3, 14 / 3, 13 / 3]


def interleaved(*runs):
    return [item for items in zip(*runs, strict=True) for item in items]


def test_a_window_gives_a_result_from_the_event_that_fills_it_on(kept):
    Pipeline([Node("smooth", flow=smooth)], [kept]).replay(make_run({"det": DET}))

    assert [row["smooth"] for row in kept.events("primary")] == SMOOTH
    assert [row["raw_seq_num"] for row in kept.events("primary")] == [3, 4, 5]
    assert kept.named("stop")[0]["exit_status"] == "success"


def test_interleaved_runs_give_the_numbers_of_each_alone(kept):
    runs = [make_run({"det": [k + x for x in DET]}, uid=f"run-{k}") for k in range(2)]
    node, alone = Node("smooth", flow=smooth), type(kept)()
    for run in runs:
        Pipeline([node], [alone]).replay(run)

    pipeline = Pipeline([node], [kept])
    for name, doc in interleaved(*runs):
        pipeline(name, doc)

    assert kept.by_run() == alone.by_run()


def test_a_fault_in_a_flow_ends_its_own_analysis_and_nothing_else(kept):
    def fails(raw):
        return raw.map(lambda data: {"x": 1 / (data["det"] - 2.0)})

    nodes = [Node("fails", flow=fails), Node("smooth", flow=smooth), Node("mean", Mean("det"))]

    Pipeline(nodes, [kept]).replay(make_run({"det": DET}))

    stops = {node.name: kept.of_node(node.name)[-1][1] for node in nodes}
    assert {name: stop["exit_status"] for name, stop in stops.items()} == {
        "fails": "fail",
        "smooth": "success",
        "mean": "success",
    }
    assert "ZeroDivisionError" in stops["fails"]["reason"]


def test_reductions_take_their_place_in_a_flow_and_after_it(kept):
    node = Node(
        "peak",
        Mean("doubled"),
        flow=lambda raw: (
            raw.map(lambda data: {"det": 2 * data["det"]})
            .reduce(Mean("det"))
            .map(lambda result: {"doubled": result["det_mean"]})
        ),
    )

    Pipeline([node], [kept]).replay(make_run({"det": [1.0, 3.0]}))

    assert [row["doubled"] for row in kept.events("primary")] == [2.0, 4.0]
    assert kept.events("final")[-1]["doubled_mean"] == 3.0


@pytest.mark.parametrize(
    ("flow", "says"),
    [
        (
            lambda raw: raw.timed_window(1),
            "a flow of ['timed_window'] is refused: one of them works on an event loop of its own",
        ),
        (lambda raw: raw.buffer(10), "a flow of ['buffer'] is refused"),
        (lambda raw: 3, "returns 3; wanted a streamz.Stream"),
        (lambda raw: raw.pluck("det"), "emits 1.0; wanted a dict of results"),
        (lambda raw: raw.map(lambda data: [{"a": 1}, {"a": 2}]).flatten(), "gives 2 results for one event"),
        (lambda raw: raw.map(lambda data: {"det": 1.0}), "gives 'det', which is there already"),
    ],
)
def test_a_flow_that_cannot_be_replayed_or_stored_is_refused_with_a_word_why(flow, says, kept):
    Pipeline([Node("flow", Mean("det"), flow=flow)], [kept]).replay(make_run({"det": DET}))

    (stop,) = kept.named("stop")
    assert stop["exit_status"] == "fail"
    assert says in stop["reason"]


def test_dask_is_refused_since_it_hangs(kept):
    class Scatter(Stream):
        pass

    Scatter.__module__ = "streamz.dask"

    Pipeline([Node("flow", flow=Scatter)], [kept]).replay(make_run({"det": DET}))

    assert (
        "streamz.dask is refused in a flow: one error of a task, or a lost worker, hangs it"
        in (kept.named("stop")[0]["reason"])
    )


def test_the_recipe_tells_the_function_and_its_source():
    def one(raw):
        return raw.map(lambda data: {"a": 1})

    def two(raw):
        return raw.map(lambda data: {"a": 2})

    two.version = 7
    arguments = [Node("flow", flow=flow).recipe["reductions"][0]["arguments"] for flow in (smooth, one, two)]

    assert arguments[0]["function"] == "flows:smooth"
    assert len(arguments[0]["version"]) == 64
    assert arguments[1]["version"] != arguments[0]["version"]
    assert arguments[2]["version"] == 7
    with pytest.raises(PipelineError, match="a flow is a function"):
        Flow("flows:smooth")


def test_a_point_taken_again_after_a_pause_counts_twice_and_that_is_told(kept):
    documents = make_run({"det": DET})
    again = dict(documents[4][1], uid="another", data={"det": 5.0})

    Pipeline([Node("smooth", flow=smooth)], [kept]).replay([*documents[:5], ("event", again), *documents[5:]])

    assert kept.named("stop")[0]["analysis"]["n_retaken"] == 1
    assert kept.named("stop")[0]["exit_status"] == "success"


def test_a_flow_in_yaml_is_a_function_of_a_package_that_is_allowed(tmp_path):
    path = tmp_path / "flow.yaml"

    def written(allow, flow):
        path.write_text(f"allow: [{allow}]\nnodes:\n  - name: smooth\n    flow: {flow}\n")
        return path

    (node,) = load(written("flows", "flows:smooth")).nodes
    assert node.recipe == Node("smooth", flow=smooth).recipe
    for allow, flow, says in (
        ("", "flows:smooth", "does not allow"),
        ("flows", "flows:rough", "wanted a function; flows:rough is None"),
        ("flows", "smooth", "wanted a function, `package.module:name`"),
    ):
        with pytest.raises(PipelineError, match=f"nodes.0..flow: .*{says}"):
            load(written(allow, flow))


# outward and inward ------------------------------------------------------------------------------------------------


def test_derived_events_are_a_stream_for_those_who_build_on_it():
    pipeline = Pipeline([Node("peak", PeakStatistics("motor", "det")), Node("mean", Mean("det"))])
    means = pipeline.stream("mean").pluck("det_mean").sliding_window(2, return_partial=False).sink_to_list()
    last = pipeline.stream("mean", "final").sink_to_list()

    pipeline.replay(make_run({"motor": [0.0, 1.0, 2.0], "det": [1.0, 2.0, 6.0]}))

    assert means == [(1.0, 1.5), (1.5, 3.0)]
    assert (last[0]["det_mean"], last[0]["n_events"]) == (3.0, 3)
    with pytest.raises(PipelineError, match="no node 'meen'; did you mean 'mean'"):
        pipeline.stream("meen")


def test_a_stream_that_fails_downstream_is_told_and_holds_nothing_up(kept):
    pipeline = Pipeline([Node("mean", Mean("det"))], [kept])
    pipeline.stream("mean").map(lambda data: data["nope"]).sink(print)

    pipeline.replay(make_run({"det": DET}))

    assert kept.events("final")[-1]["det_mean"] == pytest.approx(3.6)


def test_a_source_of_streamz_feeds_a_pipeline(tmp_path, kept):
    path = tmp_path / "raw.jsonl"
    path.write_bytes(b"".join(dumps(*item) for item in make_run({"det": DET})))
    done = threading.Event()
    pipeline = Pipeline([Node("mean", Mean("det"))], [kept])

    source = Stream.from_textfile(str(path), poll_interval=0.01)
    source.map(json.loads).sink(lambda item: (pipeline(*item), item[0] == "stop" and done.set()))
    source.start()

    assert done.wait(10)
    source.stop()
    pipeline.flush()
    assert kept.events("final")[-1]["det_mean"] == pytest.approx(3.6)


def test_kafka_feeds_a_pipeline_through_streamz(kept):
    """From librdkafka's own cluster on loopback; one key, so that one partition keeps the order."""
    producer = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    for item in make_run({"det": DET}):
        producer.produce("raw", dumps(*item), key=b"run")
    producer.flush(10)
    done = threading.Event()
    pipeline = Pipeline([Node("mean", Mean("det"))], [kept])

    consumer = {
        "bootstrap.servers": f"{broker.host}:{broker.port}",
        "group.id": "g",
        "auto.offset.reset": "earliest",
        "log_level": 0,
    }
    source = Stream.from_kafka(["raw"], consumer, poll_interval=0.05)
    source.map(json.loads).sink(lambda item: (pipeline(*item), item[0] == "stop" and done.set()))
    source.start()

    assert done.wait(30)
    source.stop()
    pipeline.flush()
    assert kept.events("final")[-1]["det_mean"] == pytest.approx(3.6)


def test_a_folder_that_files_appear_in_feeds_a_pipeline_through_streamz(tmp_path, kept):
    done = threading.Event()
    pipeline = Pipeline([Node("mean", Mean("det"))], [kept])

    source = Stream.filenames(str(tmp_path / "*.jsonl"), poll_interval=0.01)
    source.map(read_jsonl).flatten().sink(lambda item: (pipeline(*item), item[0] == "stop" and done.set()))
    source.start()
    new = tmp_path / "raw.part"
    new.write_bytes(b"".join(dumps(*item) for item in make_run({"det": DET})))
    new.rename(tmp_path / "raw.jsonl")

    assert done.wait(30)
    source.stop()
    pipeline.flush()
    assert kept.events("final")[-1]["det_mean"] == pytest.approx(3.6)

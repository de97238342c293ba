"""Runs into a Tiled catalog: a real server, real writing processes."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid

import numpy
import pytest
from event_model import compose_run

from pipeline.catalog import open_catalog, python_module, stop_server
from pipeline.errors import PipelineRuntimeError, PipelineValueError
from pipeline.sinks.databroker import DatabrokerSink
from pipeline.sinks.tiled import TiledSink

NUMBER = {"source": "test", "dtype": "number", "shape": []}
INTEGER = {"source": "test", "dtype": "integer", "shape": []}
TEXT = {"source": "test", "dtype": "string", "shape": []}
TIMEOUT = 60

FOLLOW = """
import sys, time
from pipeline.catalog import open_catalog
from pipeline.sinks.stream_writer import find
catalog = open_catalog(sys.argv[1])
analysis = catalog["analysis"]
print("ready", flush=True)
table, n = None, 0
while n < int(sys.argv[3]):
    try:
        table = table or analysis[sys.argv[2]]["primary"].base["internal"]
        seen = len(table.read(["seq_num"]))
    except KeyError:
        seen = 0
    for _ in range(seen - n):
        print(time.time(), flush=True)
    n = max(n, seen)
catalog.close()
"""


def array(*shape, dtype="<f8"):
    return {"source": "test", "dtype": "array", "shape": list(shape), "dtype_numpy": dtype}


class Run:
    """A run made by hand: documents one by one."""

    def __init__(self, sink, metadata=None, /, uid=None, **data_keys):
        self.documents = []
        self.sink = sink
        self._bundle = compose_run(uid=uid or str(uuid.uuid4()), time=1.0, metadata=metadata or {"scan_id": 1})
        self.uid = self._bundle.start_doc["uid"]
        self.give("start", self._bundle.start_doc)
        self._stream = self._bundle.compose_descriptor(name="primary", data_keys=data_keys, time=2.0, validate=False)
        self.give("descriptor", self._stream.descriptor_doc)

    def give(self, name, doc):
        self.documents.append((name, doc))
        self.sink(name, doc)

    def event(self, **data):
        timestamps = dict.fromkeys(data, 3.0)
        self.give("event", self._stream.compose_event(data=data, timestamps=timestamps, time=3.0, validate=False))
        return self

    def stop(self, **kwargs):
        self.give("stop", {**self._bundle.compose_stop(time=4.0), **kwargs})
        return self


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("catalogs") / "catalog"
    yield path
    stop_server(path)


@pytest.fixture(scope="module")
def sink(directory):
    with TiledSink(directory) as sink:
        yield sink


@pytest.fixture(scope="module")
def analysis(directory, sink):
    with open_catalog(directory) as catalog:
        yield catalog["analysis"]


def read(analysis, run, stream="primary"):
    return analysis[run.uid][stream].read()


def table_of(analysis, run):
    return analysis[run.uid]["primary"].base["internal"].read()


def test_a_run_is_readable_when_flush_returns(sink, analysis):
    run = Run(sink, x=NUMBER, spectrum=array(3)).event(x=1.5, spectrum=numpy.array([1.0, 2.0, 3.0])).stop()

    sink.flush(TIMEOUT)

    data = read(analysis, run)
    assert data["x"].values.tolist() == [1.5]
    assert data["spectrum"].values.tolist() == [[1.0, 2.0, 3.0]]
    metadata = analysis[run.uid].metadata
    assert metadata["start"]["scan_id"] == 1
    assert metadata["stop"]["num_events"] == {"primary": 1}
    assert [name for name, _ in analysis[run.uid].documents()] == ["start", "descriptor", "event", "stop"]


def test_another_process_reads_each_row_of_an_open_run(sink, analysis, directory):
    run = Run(sink, x=NUMBER)
    _, environment = python_module("pipeline")
    with subprocess.Popen(
        [sys.executable, "-c", FOLLOW, str(directory), run.uid, "20"], env=environment, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout.readline() == b"ready\n"
        for i in range(20):
            run.event(x=float(i))
            time.sleep(0.1)
        seen = list(reader.stdout)  # while the run is open

        assert len(seen) == 20
    run.stop()


def test_many_events_at_once_are_all_there(sink, analysis):
    run = Run(sink, x=NUMBER, y=NUMBER)
    for i in range(4000):
        run.event(x=float(i), y=-float(i))

    sink.flush(TIMEOUT)

    assert table_of(analysis, run)["y"].tolist() == [-float(i) for i in range(4000)]


def test_columns_have_the_types_of_the_descriptor_from_the_first_row_on(sink, analysis):
    run = Run(sink, x=NUMBER, n=INTEGER, s=TEXT).event(x=1, n=1, s=None)
    sink.flush(TIMEOUT)

    run.event(x=2.5, n=2**60, s="two").event(x=float("nan"), n=None, s="three").stop()
    sink.flush(TIMEOUT)

    table = table_of(analysis, run)
    assert table["x"].tolist()[:2] == [1.0, 2.5]
    assert numpy.isnan(table["x"][2])
    assert int(table["n"][1]) == 2**60
    assert table["s"].tolist()[1:] == ["two", "three"]


def test_an_integer_that_becomes_a_float_keeps_its_fraction(sink, analysis):
    run = Run(sink, motor=INTEGER).event(motor=0)
    sink.flush(TIMEOUT)

    run.event(motor=0.5).stop()
    sink.flush(TIMEOUT)

    assert read(analysis, run)["motor"].values.tolist() == [0.0, 0.5]


def test_small_arrays_are_arrays_and_nan_is_nan(sink, analysis):
    keys = {"pair": array(2), "image": array(2, 2, dtype="<u2"), "flags": array(3, dtype="|b1"), "words": array(2)}
    keys["words"]["dtype_numpy"] = "<U3"
    run = Run(sink, **keys)
    for i in range(2):
        run.event(pair=[1.0, float("nan")], image=[[i, 1], [2, 3]], flags=[True, False, True], words=["a", "bcd"])
        sink.flush(TIMEOUT)
    run.stop()
    sink.flush(TIMEOUT)

    data = read(analysis, run)
    assert data["image"].dtype == numpy.dtype("<u2")
    assert data["image"].values.tolist() == [[[0, 1], [2, 3]], [[1, 1], [2, 3]]]
    assert numpy.array_equal(data["pair"].values, [[1.0, numpy.nan]] * 2, equal_nan=True)
    assert data["flags"].values.tolist() == [[True, False, True]] * 2
    assert data["words"].values.tolist() == [["a", "bcd"]] * 2


def test_an_array_that_changes_its_shape_is_kept_whole_and_harms_no_other(sink, analysis):
    run = Run(sink, a=array(2), x=NUMBER).event(a=[1.0, 2.0], x=1.0)
    sink.flush(TIMEOUT)

    run.event(a=[3.0, 4.0, 5.0], x=2.0).stop()
    sink.flush(TIMEOUT)

    stream = analysis[run.uid]["primary"].base
    assert [list(map(float, row)) for row in stream["a"].read()] == [[1.0, 2.0], [3.0, 4.0, 5.0]]
    assert table_of(analysis, run)["x"].tolist() == [1.0, 2.0]
    assert any("several shapes" in note for note in analysis[run.uid].metadata["notes"])


def test_names_that_sql_refuses_are_mapped_and_told(sink, analysis):
    names = ["2-theta", "θ", "Time", "time", "X", "x", "USAXS.a2rp", "ts_x", "a" * 80, "_hidden"]
    run = Run(sink, **dict.fromkeys(names, NUMBER))

    run.event(**{name: float(i) for i, name in enumerate(names)}).stop()
    sink.flush(TIMEOUT)

    table = table_of(analysis, run)
    data_keys = analysis[run.uid]["primary"].metadata["data_keys"]
    column_of = {data_key.get("original_name", column): column for column, data_key in data_keys.items()}
    assert [table[column_of[name]][0] for name in names] == [float(i) for i in range(len(names))]


def test_interleaved_runs_do_not_mix(sink, analysis):
    runs = [Run(sink, x=NUMBER) for _ in range(3)]
    for i in range(30):
        for run, sign in zip(runs, (1, -1, 2), strict=True):
            run.event(x=float(sign * i))
    for run in runs:
        run.stop()

    sink.flush(TIMEOUT)

    for run, sign in zip(runs, (1, -1, 2), strict=True):
        assert table_of(analysis, run)["x"].tolist() == [float(sign * i) for i in range(30)]


def test_a_wide_stream_is_kept(sink, analysis):
    names = [f"motor_{i}" for i in range(600)]
    run = Run(sink, **dict.fromkeys(names, NUMBER)).event(**dict.fromkeys(names, 1.0)).stop()

    sink.flush(TIMEOUT)

    assert float(analysis[run.uid].v3["primary"]["motor_599"].read()[0]) == 1.0


def test_a_run_given_twice_is_left_as_it_is(sink, analysis):
    run = Run(sink, x=NUMBER).event(x=1.0).stop()
    sink.flush(TIMEOUT)

    for name, doc in run.documents:
        sink(name, doc)
    sink.flush(TIMEOUT)

    assert table_of(analysis, run)["x"].tolist() == [1.0]
    assert run.uid not in sink.faults


def test_another_run_of_the_same_uid_is_refused_and_told(sink, analysis):
    run = Run(sink, x=NUMBER).event(x=1.0).stop()
    sink.flush(TIMEOUT)

    Run(sink, {"scan_id": 2}, uid=run.uid, x=NUMBER).event(x=2.0).stop()
    with pytest.raises(PipelineRuntimeError, match="same uid, other content"):
        sink.flush(TIMEOUT)

    assert table_of(analysis, run)["x"].tolist() == [1.0]
    assert "same uid, other content" in sink.faults[run.uid]


@pytest.mark.parametrize("abandoned", [False, True])
def test_half_a_run_is_replaced_by_the_whole(sink, analysis, directory, abandoned):
    run = Run(sink, x=NUMBER, a=array(2)).event(x=1.0, a=[1.0, 2.0])
    if abandoned:
        run.stop(analysis={"abandoned": True})
    sink.flush(TIMEOUT)

    whole = Run(sink, uid=run.uid, x=NUMBER, a=array(2)).event(x=1.0, a=[1.0, 2.0]).event(x=2.0, a=[3.0, 4.0]).stop()
    sink.flush(TIMEOUT)

    data = read(analysis, whole)
    assert data["x"].values.tolist() == [1.0, 2.0]
    assert data["a"].values.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert "abandoned" not in json.dumps(dict(analysis[run.uid].metadata["stop"]))


def test_what_cannot_be_written_ends_its_own_run_and_no_other(sink, analysis):
    good, bad = Run(sink, x=NUMBER), Run(sink, x=NUMBER)

    good.event(x=1.0)
    bad.event(x=1.0 + 1j).stop()
    good.event(x=2.0).stop()
    with pytest.raises(PipelineRuntimeError, match="complex"):
        sink.flush(TIMEOUT)

    assert table_of(analysis, good)["x"].tolist() == [1.0, 2.0]
    assert "complex" in sink.faults[bad.uid]
    assert "stop" not in analysis[bad.uid].metadata


def test_a_server_that_is_killed_in_the_middle_of_a_run_costs_nothing(tmp_path):
    with TiledSink(tmp_path / "catalog") as sink:
        run = Run(sink, x=NUMBER, a=array(2))
        for i in range(10):
            run.event(x=float(i), a=[i, 0.5])
        sink.flush(TIMEOUT)
        os.kill(json.loads((tmp_path / "catalog" / "server.json").read_bytes())["pid"], signal.SIGKILL)

        for i in range(10, 20):
            run.event(x=float(i), a=[i, 0.5])
        run.stop()
        sink.flush(TIMEOUT)

        with open_catalog(tmp_path / "catalog") as catalog:
            data = read(catalog["analysis"], run)
            assert data["x"].values.tolist() == list(range(20))
            assert data["a"].values[:, 0].tolist() == list(range(20))
            assert catalog["analysis"][run.uid].metadata["stop"]["exit_status"] == "success"
        assert sink.faults == {}
    stop_server(tmp_path / "catalog")


def test_a_writer_that_dies_ends_the_runs_it_had_and_no_later_one(analysis, directory, caplog):
    with TiledSink(directory) as sink:
        lost = Run(sink, x=NUMBER).event(x=1.0)
        sink.flush(TIMEOUT)
        sink._link._process.kill()
        while lost.uid not in sink.faults:
            time.sleep(0.01)
        lost.event(x=2.0).stop()

        later = Run(sink, x=NUMBER).event(x=3.0).stop()
        with pytest.raises(PipelineRuntimeError, match="writing process ended"):
            sink.flush(TIMEOUT)

        assert sink.n_dropped == 2
        assert "stop" not in analysis[lost.uid].metadata
        assert table_of(analysis, later)["x"].tolist() == [3.0]


def test_a_closed_server_disturbs_nobody_and_is_told_once(dead_uri, caplog):
    sink = TiledSink(dead_uri)
    began = time.perf_counter()
    Run(sink, x=NUMBER).event(x=1.0)
    seconds = time.perf_counter() - began

    deadline = time.monotonic() + TIMEOUT
    while "server" not in sink.faults and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(TimeoutError, match="documents wait"):
        sink.close(1.0)

    assert seconds < 1, "it did not wait for the server"
    assert "ConnectError" in sink.faults["server"]
    assert sum("cannot write" in record.message for record in caplog.records) == 1
    assert "not in the catalog" in caplog.text


def test_a_full_queue_drops_the_rest_of_the_run_and_counts_it(dead_uri):
    sink = TiledSink(dead_uri, maxsize=10)
    run = Run(sink, x=NUMBER)
    for i in range(20):
        run.event(x=float(i))
    run.stop()

    with pytest.raises(TimeoutError):
        sink.close(0.1)

    assert sink.n_dropped == 13
    assert "the rest of the run is dropped" in sink.faults[run.uid]


def test_a_key_that_is_refused_is_told(directory, analysis, monkeypatch):
    monkeypatch.setenv("TILED_API_KEY", "wrong")
    sink = TiledSink(analysis.uri)
    Run(sink, x=NUMBER)

    deadline = time.monotonic() + TIMEOUT
    while "server" not in sink.faults and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(TimeoutError):
        sink.close(0.1)

    assert "401" in sink.faults["server"]
    assert "wrong" not in sink.faults["server"]


def test_a_client_is_written_to_by_a_thread(analysis):
    with TiledSink(analysis) as sink:
        run = Run(sink, x=NUMBER).event(x=1.0)
        sink.flush(TIMEOUT)
        assert table_of(analysis, run)["x"].tolist() == [1.0]
        run.event(x=2.5).stop()

    assert table_of(analysis, run)["x"].tolist() == [1.0, 2.5]


def test_a_databroker_catalog_of_sql_is_written_to_live(analysis):
    with DatabrokerSink(analysis.v1) as sink:
        run = Run(sink, x=NUMBER, a=array(2)).event(x=1.0, a=[1.0, 2.0])
        sink.flush(TIMEOUT)
        assert table_of(analysis, run)["x"].tolist() == [1.0]
        run.stop()

    assert analysis.v1[run.uid].stop["exit_status"] == "success"
    assert read(analysis, run)["a"].values.tolist() == [[1.0, 2.0]]
    assert (sink.faults, sink.n_dropped) == ({}, 0)


def test_nothing_is_lost_when_the_interpreter_ends(directory, analysis, tmp_path):
    code = f"""
from event_model import compose_run
from pipeline.sinks.tiled import TiledSink
sink = TiledSink({str(directory)!r})
bundle = compose_run(uid={(uid := str(uuid.uuid4()))!r})
sink("start", bundle.start_doc)
sink("stop", bundle.compose_stop())
"""
    _, environment = python_module("pipeline")
    subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, check=True, timeout=TIMEOUT)

    assert analysis[uid].metadata["stop"]["exit_status"] == "success"


def test_wrong_arguments_are_refused():
    with pytest.raises(PipelineValueError, match="'drop'"):
        TiledSink("nowhere", when_full="block")
    with pytest.raises(PipelineValueError, match="above zero"):
        TiledSink("nowhere", flush_seconds=0)


def test_a_closed_sink_says_so(analysis):
    sink = TiledSink(analysis)
    sink.close()

    with pytest.raises(PipelineRuntimeError, match="closed"):
        sink("start", {"uid": "a", "time": 0.0})

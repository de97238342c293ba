"""Runs into a Tiled catalog on PostgreSQL, by one process and by eight at once."""

import subprocess
import sys
import uuid

import numpy
import pytest
from bluesky.plans import count
from ophyd.sim import hw

from pipeline import Node, Pipeline
from pipeline.catalog import python_module
from pipeline.catalog_run import CatalogRun
from pipeline.catalogs import find
from pipeline.errors import PipelineRuntimeError
from pipeline.reductions import Mean, PeakStatistics
from pipeline.sinks import TiledSink
from pipeline.sources import read_catalog
from pipeline.testing import make_run

TIMEOUT = 120
N_PROCESSES, N_RUNS, N_EVENTS = 8, 3, 20

WRITE = """
import sys
import numpy
from pipeline.sinks import TiledSink
from pipeline.testing import make_run
uri, first, n_runs, n_events = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
with TiledSink(uri) as sink:
    for k in range(first, first + n_runs):
        columns = {"k": [float(k)] * n_events, "i": list(range(n_events)), "a": [numpy.full(3, k)] * n_events}
        for name, doc in make_run(columns, uid=f"run-{k}"):
            sink(name, doc)
    sink.flush(110)
    assert not sink.faults, sink.faults
"""


@pytest.fixture(scope="module")
def sink(postgres_server):
    uri, key = postgres_server
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TILED_API_KEY", key)
        sink = TiledSink(f"{uri}/metadata/analysis")
    with sink:
        yield sink


@pytest.fixture
def written(sink, on_postgres):
    """Give documents to the sink, and return the run as the catalog has it."""

    def write(documents):
        for name, doc in documents:
            sink(name, doc)
        sink.flush(TIMEOUT)
        return CatalogRun(find(on_postgres["analysis"], documents[0][1]["uid"]))

    return write


def test_a_run_is_read_back_as_it_was_written(written):
    raw = make_run({"x": [1.0, float("nan"), 3.0], "n": [1, 2**60, 3], "s": ["a", "bé", ""], "b": [True, False, True]})

    run = written(raw)

    data = run["primary"].read()
    assert numpy.array_equal(data["x"].values, [1.0, numpy.nan, 3.0], equal_nan=True)
    assert data["n"].values.tolist() == [1, 2**60, 3]
    assert data["s"].values.tolist() == ["a", "bé", ""]
    assert data["b"].values.tolist() == [True, False, True]
    assert run.metadata["stop"]["num_events"] == {"primary": 3}


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i2", "f4", "?", "U3"])
def test_arrays_keep_their_dtype(written, dtype):
    rows = [numpy.array([[0, 1], [1, i]], dtype) for i in range(3)]

    data = written(make_run({"a": rows}, uid=str(uuid.uuid4())))["primary"].read()

    assert data["a"].dtype == numpy.dtype(dtype)
    assert data["a"].values.tolist() == numpy.array(rows).tolist()


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "f4"])
def test_numbers_of_every_width_are_kept(written, dtype):
    raw = make_run({"n": [numpy.dtype(dtype).type(i) for i in (0, 1, 100)]}, uid=str(uuid.uuid4()))

    assert written(raw)["primary"].read()["n"].values.tolist() == [0, 1, 100]


def test_names_that_sql_refuses_come_back(written):
    names = ["2-theta", "θ", "Time", "time", "X", "x", "USAXS,a2rp", "a" * 80, "select", "user", "ctid", "xmin"]
    raw = make_run({name: [float(i)] for i, name in enumerate(names)}, uid=str(uuid.uuid4()))

    run = written(raw)

    assert [run["primary"][name].values.tolist() for name in names] == [[float(i)] for i in range(len(names))]


def test_many_fields_are_kept(written):
    names = [f"motor_{i}" for i in range(520)]
    raw = make_run({name: [float(i)] for i, name in enumerate(names)}, uid=str(uuid.uuid4()))

    data = written(raw)["primary"].read()

    assert [float(data[name][0]) for name in names] == [float(i) for i in range(len(names))]


def test_an_analysis_is_replayed_to_the_same_bytes(written, kept):
    raw = make_run({"motor": [0.0, 1.0, 2.0], "det": [1.0, 5.0, 1.0]}, uid=str(uuid.uuid4()), plan_name="scan")
    stored = written(raw)

    pipeline = Pipeline([Node("peak", PeakStatistics("motor", "det"), Mean("det"))], [kept])
    pipeline.replay(raw)
    live = kept.bytes()
    kept.clear()
    pipeline.replay(read_catalog(stored))

    assert kept.bytes() == live


def test_eight_processes_write_at_once_and_every_run_is_whole(on_postgres):
    _, environment = python_module("pipeline")
    arguments = ([str(k * N_RUNS), str(N_RUNS), str(N_EVENTS)] for k in range(N_PROCESSES))
    commands = [[sys.executable, "-c", WRITE, str(on_postgres["analysis"].uri), *each] for each in arguments]
    writers = [subprocess.Popen(each, env=environment, stderr=subprocess.PIPE, text=True) for each in commands]

    said = [writer.communicate(timeout=300)[1] for writer in writers]

    assert [writer.returncode for writer in writers] == [0] * N_PROCESSES, said
    for k in range(N_PROCESSES * N_RUNS):
        run = CatalogRun(find(on_postgres["analysis"], make_run({"k": [0.0]}, uid=f"run-{k}")[0][1]["uid"]))
        data = run["primary"].read()
        assert data["k"].values.tolist() == [float(k)] * N_EVENTS
        assert data["i"].values.tolist() == list(range(N_EVENTS))
        assert data["a"].values.tolist() == [[k, k, k]] * N_EVENTS
        assert run.metadata["stop"]["exit_status"] == "success"


def test_images_in_files_are_read_along_the_rows(RE, written, postgres_folder):
    documents = []
    RE(count([hw(save_path=str(postgres_folder)).img], 3), lambda *item: documents.append(item))

    run = written(documents)

    images = run["primary"].read()["img"]
    assert images.dims[0] == "time"
    assert images.shape == (3, 10, 10)
    assert (images.values == 1).all()
    with pytest.raises(PipelineRuntimeError, match=r"data in files, which documents\(\) does not fill in"):
        list(run.documents(fill="yes"))
    assert "stream_resource" in [name for name, _ in run.documents(fill="no")]

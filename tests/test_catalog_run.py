"""A run has one face, whatever the catalog is made of."""

import time
import uuid
import warnings

import catalog_kinds
import numpy
import pytest
from bluesky.plans import scan
from bluesky_tiled_plugins.clients.bluesky_run import BlueskyRun
from event_model import compose_run
from ophyd.sim import SynAxis, SynGauss
from tiled.client import from_uri
from tiled.client.container import DEFAULT_STRUCTURE_CLIENT_DISPATCH
from tiled.server.simple import SimpleTiledServer

from pipeline import Node, Pipeline
from pipeline.catalog_run import CatalogRun
from pipeline.catalogs import find, kind_of, runs_of
from pipeline.errors import PipelineKeyError, PipelineRuntimeError, PipelineTypeError, PipelineValueError
from pipeline.reductions import Mean, PeakStatistics
from pipeline.sinks import DatabrokerSink, TiledSink
from pipeline.sources import read_catalog
from pipeline.testing import make_run

TIMEOUT = 60


@pytest.fixture(scope="module", params=["embedded", "mongo", "postgres"])
def catalog(request, tmp_path_factory):
    with catalog_kinds.catalog_of(request.param, request, tmp_path_factory.mktemp("runs")) as catalog:
        yield catalog


@pytest.fixture(scope="module")
def sink(catalog):
    runs = runs_of(catalog)
    with DatabrokerSink(runs) if kind_of(runs) == "mongo" else TiledSink(runs) as sink:
        yield sink


@pytest.fixture
def written(catalog, sink):
    """Write documents, and give the run as the catalog has it."""

    def write(documents):
        for name, doc in documents:
            sink(name, doc)
        sink.flush(TIMEOUT)
        return CatalogRun(find(runs_of(catalog), documents[0][1]["uid"]))

    return write


def run_of(data, **more):
    return make_run(data, uid=str(uuid.uuid4()), **more)


def test_a_run_is_read_back_as_it_was_written(written):
    spectrum = [numpy.arange(3, dtype="u2") + i for i in range(3)]
    data = {
        "x": [1.0, float("nan"), 3.0],
        "n": [1, 2, 3],
        "s": ["a", "bé", ""],
        "b": [True, False, True],
        "a": spectrum,
    }
    raw = run_of(data, data_keys={"x": {"units": "mm"}}, sample="Cu")

    run = written(raw)

    assert (run.uid, run.metadata["start"]["sample"]) == (raw[0][1]["uid"], "Cu")
    assert run.metadata["stop"]["num_events"] == {"primary": 3}
    assert list(run) == ["primary"]
    dataset = run.primary.read()
    assert list(dataset.data_vars) == list(data)
    assert dataset["time"].values.tolist() == [doc["time"] for name, doc in raw if name == "event"]
    assert all(dataset[key].dims[0] == "time" for key in data)
    assert dataset["x"].attrs["units"] == "mm"
    assert numpy.array_equal(dataset["x"].values, data["x"], equal_nan=True)
    assert dataset["a"].dtype == numpy.dtype("u2")
    assert dataset["a"].values.tolist() == [row.tolist() for row in spectrum]
    assert [dataset[key].values.tolist() for key in "nsb"] == [data[key] for key in "nsb"]


def test_some_fields_are_read_by_their_names(written):
    run = written(run_of({"2-theta": [1.0], "Time": [2.0], "time": [3.0], "x": [4.0]}))

    assert run["primary"]["2-theta"].values.tolist() == [1.0]
    assert run["primary"]["Time"].values.tolist() == [2.0]
    assert run["primary"]["time"].values.tolist() == [3.0]
    assert list(run["primary"].read(["x", "2-theta"]).data_vars) == ["x", "2-theta"]
    assert run["primary"].read([]).sizes["time"] == 1
    with pytest.raises(PipelineKeyError, match=r"Stream 'primary' has no field 'y'; there are \['2-theta', 'Time'"):
        run["primary"].read(["y"])


def test_streams_have_the_names_that_they_were_given(written):
    raw = run_of({"x": [1.0]}, stream="2-theta (fine)")

    run = written(raw)

    assert list(run) == ["2-theta (fine)"]
    assert run["2-theta (fine)"].read()["x"].values.tolist() == [1.0]
    assert run["2-theta (fine)"].metadata["stream_name"] == "2-theta (fine)"
    assert [doc["name"] for name, doc in run.documents() if name == "descriptor"] == ["2-theta (fine)"]
    with pytest.raises(PipelineKeyError, match=r"has no stream 'primary'; there are \['2-theta \(fine\)'\]"):
        run["primary"]
    with pytest.raises(AttributeError, match="no attribute or stream 'primary'"):
        run.primary  # noqa: B018


def test_descriptors_are_documents(written):
    raw = run_of({"x": [1.0]}, data_keys={"x": {"units": "mm"}})

    (descriptor,) = written(raw)["primary"].descriptors

    want = raw[1][1]
    assert {key: descriptor[key] for key in ("uid", "run_start", "name", "time")} == {
        key: want[key] for key in ("uid", "run_start", "name", "time")
    }
    assert descriptor["data_keys"]["x"]["units"] == "mm"


@pytest.mark.parametrize("fill", ["no", "yes", "delayed", False, True, None])
def test_documents_come_whatever_is_said_of_filling(written, fill):
    raw = run_of({"x": [1.0, float("nan")]})

    documents = list(written(raw).documents(fill=fill))

    assert [name for name, _ in documents] == ["start", "descriptor", "event", "event", "stop"]
    assert documents[2][1]["data"]["x"] == 1.0
    assert documents[-1][1]["uid"] == raw[-1][1]["uid"]


def test_a_wrong_word_for_filling_is_refused(written):
    with pytest.raises(PipelineValueError, match="fill is 'maybe'; wanted 'no'"):
        list(written(run_of({"x": [1.0]})).documents(fill="maybe"))


def test_an_open_run_is_seen_as_it_grows(catalog, sink):
    settle = 0 if kind_of(runs_of(catalog)) == "sql" else 2.2  # so long does a Mongo-backed server show what was
    raw = run_of({"x": [0.0, 1.0, 2.0, 3.0], "a": [numpy.full(3, float(i)) for i in range(4)]})
    for name, doc in raw[:4]:
        sink(name, doc)
    sink.flush(TIMEOUT)
    time.sleep(settle)
    run = CatalogRun(find(runs_of(catalog), raw[0][1]["uid"]))
    assert run.metadata["stop"] is None
    assert run["primary"].read()["x"].values.tolist() == [0.0, 1.0]

    for name, doc in raw[4:]:
        sink(name, doc)
    sink.flush(TIMEOUT)
    time.sleep(settle)

    assert run.metadata["stop"]["exit_status"] == "success"
    data = run["primary"].read()
    assert data["x"].values.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert data["a"].values[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_stream_without_events_is_empty(written):
    bundle = compose_run(uid=str(uuid.uuid4()), time=1.0)
    keys = {
        "x": {"source": "", "dtype": "number", "shape": [], "dtype_numpy": "<f8"},
        "a": {"source": "", "dtype": "array", "shape": [3], "dtype_numpy": "<f8"},
    }
    stream = bundle.compose_descriptor(name="primary", data_keys=keys, time=2.0)
    stop = bundle.compose_stop(time=3.0)

    run = written([("start", bundle.start_doc), ("descriptor", stream.descriptor_doc), ("stop", stop)])

    assert run["primary"].read().sizes.get("time") == 0


def test_an_analysis_is_read_as_it_was_made(written, sink, catalog, kept):
    raw = run_of({"motor": [0.0, 1.0, 2.0], "det": [1.0, 5.0, 1.0]}, plan_name="scan")
    pipeline = Pipeline([Node("peak", PeakStatistics("motor", "det"), Mean("det"))], [sink, kept])

    pipeline.replay(raw)
    sink.flush(TIMEOUT)
    run = CatalogRun(find(runs_of(catalog), kept.named("start")[0]["uid"]))

    final = run.final.read()
    want = kept.final()
    assert {key: final[key].values[0] for key in want} == pytest.approx(want, nan_ok=True)
    assert set(run) == {"running", "final"}
    assert len(run) == 2


def test_a_stored_raw_run_gives_the_same_analysis(written, kept):
    raw = run_of({"motor": [0.0, 1.0, 2.0], "det": [1.0, float("nan"), 1.0]}, plan_name="scan")
    pipeline = Pipeline([Node("peak", PeakStatistics("motor", "det"), Mean("det"))], [kept])

    pipeline.replay(raw)
    live = kept.bytes()
    kept.clear()
    pipeline.replay(read_catalog(written(raw)))

    assert kept.bytes() == live


def test_a_real_scan_is_read(RE, sink, catalog):
    motor = SynAxis(name="motor")
    det = SynGauss("det", motor, "motor", center=0, Imax=1, sigma=1)
    (uid,) = RE(scan([det], motor, -1, 1, 5), sink)
    sink.flush(TIMEOUT)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = CatalogRun(find(runs_of(catalog), uid))["primary"].read()

    assert data["motor"].values.tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert data["det"].values[2] == 1.0


def test_what_is_no_run_is_refused(catalog):
    for each in ({}, None, runs_of(catalog)):
        with pytest.raises(PipelineTypeError, match="wanted a run of a catalog"):
            CatalogRun(each)


@pytest.fixture
def clients():
    """Undo what a header of databroker does: from then on, all clients of the process give runs of the second version."""
    yield
    DEFAULT_STRUCTURE_CLIENT_DISPATCH["numpy"].set("BlueskyRun", lambda: BlueskyRun)


def test_a_header_of_databroker_is_a_run(written, catalog, clients):
    run = written(run_of({"x": [1.5]}))

    header = runs_of(catalog).v1[run.uid]

    for each in (header, header.v2, find(runs_of(catalog), run.uid)):
        assert CatalogRun(each)["primary"].read()["x"].values.tolist() == [1.5]
    assert bool(run)
    assert len({run, CatalogRun(run.client)}) == 1


def test_a_server_that_exports_no_runs_is_told_what_it_wants(tmp_path):
    with SimpleTiledServer(directory=tmp_path) as server:
        root = from_uri(server.uri, remember_me=False)
        start = {"uid": str(uuid.uuid4()), "time": 1.0}
        node = root.create_container(key=start["uid"], metadata={"start": start}, specs=catalog_kinds.RUN)
        with pytest.raises(PipelineRuntimeError, match="json_seq_exporter"):
            list(CatalogRun(node).documents())
        root.context.close()

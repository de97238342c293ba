"""Large arrays are read through catalogs, live and after restarts: by an embedded server from their files."""

import subprocess
import sys
import textwrap
import uuid

import numpy
import pytest
from kept import Kept
from test_array_files import LIMIT, SHAPE, Doubled, frames, raw_run, rows_of
from tiled.client import Context, from_context
from tiled.structures.core import Spec

from pipeline import Node, Pipeline, RunBuilder
from pipeline.audit import audit
from pipeline.catalog import open_catalog, python_module, stop_server
from pipeline.catalog_run import CatalogRun
from pipeline.documents import dumps
from pipeline.projector import Projector
from pipeline.reductions import FrameAverage
from pipeline.sinks import JSONLSink, TiledSink
from pipeline.sources import read_jsonl
from pipeline.verify import verify

TIMEOUT = 240
RUNS = [Spec("CatalogOfBlueskyRuns", version="3.0")]

READER = """
    import sys, time
    from pipeline.catalog import open_catalog
    catalog = open_catalog(sys.argv[1])
    print("ready", flush=True)
    seen, n = [], 0
    while n < 6:
        time.sleep(0.1)
        try:
            image = catalog["analysis"][sys.argv[2]]["primary"]["det_doubled"]
        except KeyError:
            continue
        if image.shape[0] > n:
            rows = image.read()
            n = len(rows)
            print(n, *(float(row[1, 1]) for row in rows), flush=True)
    catalog.close()
"""


def nodes():
    return [Node("frames", Doubled("det"), FrameAverage("det"), every=2)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("catalogs") / "catalog"
    yield path
    stop_server(path)


@pytest.fixture(scope="module")
def catalog(directory):
    with open_catalog(directory) as catalog:
        yield catalog


@pytest.fixture
def runs(catalog):
    """A container of the embedded catalog that is this test's own."""
    return catalog.create_container(key=f"c{uuid.uuid4().hex[:8]}", specs=RUNS)


@pytest.fixture
def remote(tmp_path):
    """A container of a Tiled server in this process, that may read nothing but what it wrote itself."""
    from tiled.catalog import in_memory
    from tiled.server.app import build_app

    storage = [tmp_path / "storage", f"duckdb:///{tmp_path / 'storage.duckdb'}"]
    (tmp_path / "storage").mkdir()
    with Context.from_app(build_app(in_memory(writable_storage=storage, specs=[]))) as context:
        yield from_context(context).create_container(key="analysis", specs=RUNS)


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "ledger"


def analyse(ledger, documents, *sinks):
    with JSONLSink(ledger, max_array_bytes=LIMIT) as sink:
        pipeline = Pipeline(nodes(), [sink, *sinks])
        for item in documents:
            pipeline(*item)
        pipeline.close(TIMEOUT)
    return Kept(read_jsonl(ledger))


def differences(ledger, runs):
    return [run.difference for run in audit(ledger, runs)]


def assert_is_right(run):
    run = run.v3  # whoever has used `.v1` in this process has made it the way of all runs, in Tiled's client
    data = run["primary"].read()
    numpy.testing.assert_array_equal(run["primary"]["det_doubled"].read(), [frame * 2 for frame in frames(6)])
    numpy.testing.assert_array_equal(data["det_doubled"].values, [frame * 2 for frame in frames(6)])
    numpy.testing.assert_allclose(data["det_rows"].values, [frame.sum(1) for frame in frames(6)])
    numpy.testing.assert_allclose(run["running"]["det_mean"].read()[1], numpy.mean(frames(4), 0))
    numpy.testing.assert_allclose(run["final"]["det_mean"].read()[0], numpy.mean(frames(6), 0))


def test_another_process_reads_the_arrays_of_a_run_as_it_grows(ledger, directory, catalog):
    _, environment = python_module("this")
    with JSONLSink(ledger, max_array_bytes=LIMIT) as sink, TiledSink(directory, flush_seconds=0.05) as tiled:
        pipeline = Pipeline(nodes(), [sink, tiled])
        documents = raw_run()
        pipeline(*documents[0])
        uid = pipeline.raw_run(documents[0][1]["uid"]).works[0].uid
        reader = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(READER), str(directory), uid],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert reader.stdout.readline() == "ready\n"
        seen = []
        for item in documents[1:]:
            pipeline(*item)
            tiled.flush(TIMEOUT)
            if item[0] == "event":
                seen.append(reader.stdout.readline().split())
        assert reader.wait(TIMEOUT) == 0

        assert [int(n) for n, *_ in seen] == [1, 2, 3, 4, 5, 6]
        assert [float(value) for value in seen[-1][1:]] == [frame[1, 1] * 2 for frame in frames(6)]
        assert tiled.faults == {}
    assert_is_right(catalog["analysis"][uid])
    assert str(ledger) in (directory / "readable").read_text().splitlines()
    run = CatalogRun(catalog["analysis"][uid])
    numpy.testing.assert_array_equal(run["primary"].read()["det_doubled"].values, [each * 2 for each in frames(6)])
    names = [name for name, _ in run.documents()]
    assert names.count("stream_resource") == names.count("stream_datum") == 9
    mine = [each for each in audit(ledger, directory) if each.uid == uid]
    assert [each.difference for each in mine] == [""]


def test_a_projector_goes_on_with_a_run_wherever_the_ledger_had_ended(ledger, runs):
    whole = analyse(ledger, raw_run())
    (path,) = ledger.glob("*.jsonl")
    for n in (1, 3, 4, 5, 8, 14, 27, 33, len(whole) - 1):
        path.write_bytes(b"".join(dumps(*item) for item in whole[:n]))
        Projector(ledger, runs).sync()
        if n in (4, 14, 33):
            assert differences(ledger, runs) == [""]
    path.write_bytes(whole.bytes())

    report = Projector(ledger, runs).sync()

    assert report["refused"] == {}
    assert differences(ledger, runs) == [""]
    assert_is_right(runs.values().first())
    assert Projector(ledger, runs).sync()["runs_level"] == 1


def test_audit_tells_of_rows_that_the_catalog_does_not_know_and_of_another_file(ledger, runs):
    whole = analyse(ledger, raw_run())
    (path,) = ledger.glob("*.jsonl")
    last = max(i for i, (name, doc) in enumerate(whole) if name == "event" and "det_rows" in doc["data"])
    path.write_bytes(b"".join(dumps(*item) for item in whole[: last - 1]))
    Projector(ledger, runs).sync()

    path.write_bytes(b"".join(dumps(*item) for item in whole[: last + 1]))
    assert differences(ledger, runs) == ["stream 'primary', 'det_doubled': wanted 6 rows, there are 5"]
    path.write_bytes(b"".join(dumps(*item) for item in whole[: last - 1]).replace(b".primary.h5", b".other.h5"))
    (difference,) = differences(ledger, runs)
    assert difference.startswith("stream 'primary', 'det_doubled'['files'][0]: wanted ")


def test_a_run_that_was_given_up_and_went_on_is_brought_level(ledger, runs):
    analyse(ledger, raw_run()[:5])
    Projector(ledger, runs).sync()
    before = rows_of(ledger)

    analyse(ledger, raw_run())
    report = Projector(ledger, runs).sync()

    assert report["refused"] == {}
    assert differences(ledger, runs) == [""]
    assert_is_right(runs.values().first())
    assert {len(rows) for rows in before.values()} == {3, 1}, "nothing of a file goes with the run"


def test_a_run_by_half_in_the_catalog_gives_way_and_its_files_stay(ledger, directory, catalog):
    documents = raw_run(uid="half")
    with TiledSink(directory) as tiled, JSONLSink(ledger, max_array_bytes=LIMIT) as sink:
        pipeline = Pipeline(nodes(), [sink, tiled])
        for item in documents[:5]:
            pipeline(*item)
        uid = pipeline.raw_run(documents[0][1]["uid"]).works[0].uid
        tiled.flush(TIMEOUT)

    with TiledSink(directory) as tiled:
        analyse(ledger, documents, tiled)

    assert_is_right(catalog["analysis"][uid])


def test_arrays_of_another_shape_are_left_out_and_told(ledger, runs):
    builder = RunBuilder(uid="raw", time=0.0)
    key = {"dtype": "array", "dtype_numpy": "<f8", "source": ""}
    builder.add_stream("primary", {"det": {**key, "shape": list(SHAPE)}})
    builder.add_event("primary", {"det": numpy.ones(SHAPE)}, time=1.0)
    builder.redescribe("primary", configuration={"det": {"data": {}, "timestamps": {}, "data_keys": {}}})
    builder.add_event("primary", {"det": numpy.ones(SHAPE)}, time=2.0)
    builder.redescribe("primary", {"det": {**key, "shape": [60, 50]}})
    builder.add_event("primary", {"det": numpy.ones((60, 50))}, time=3.0)
    builder.close(time=4.0)
    analyse(ledger, builder.documents())

    Projector(ledger, runs).sync()

    run = runs.values().first().v3
    assert run["primary"]["det_doubled"].read().shape == (2, *SHAPE)
    assert any("arrays of another shape or type" in note for note in run.metadata["notes"])
    assert run["primary"]["raw_seq_num"].read().tolist() == [1, 2, 3]


def test_files_outside_the_folders_that_are_named_are_not_served(tmp_path, directory, catalog):
    analyse(tmp_path / "named", raw_run(uid="named"))
    analyse(tmp_path / "elsewhere", raw_run(uid="elsewhere"))
    uids = {}
    for name in ("named", "elsewhere"):
        with TiledSink(directory) as tiled:
            documents = Kept(read_jsonl(tmp_path / name))
            uids[name] = documents[0][1]["uid"]
            for item in documents:
                tiled(*item)
            if name == "named":
                tiled.let_read(tmp_path / name)
            tiled.flush(TIMEOUT)

    assert_is_right(catalog["analysis"][uids["named"]])
    image = catalog["analysis"][uids["elsewhere"]].v3["primary"]["det_doubled"]
    block = image.item["links"]["block"].format(0, 0, 0)
    assert catalog.context.http_client.get(block).status_code == 500


@pytest.mark.parametrize("by", ["sink", "projector"])
def test_a_server_that_cannot_read_the_files_is_sent_the_arrays(ledger, remote, by):
    if by == "sink":
        with TiledSink(remote) as tiled:
            analyse(ledger, raw_run(), tiled)
            tiled.flush(TIMEOUT)
            assert tiled.faults == {}
    else:
        analyse(ledger, raw_run())
        (path,) = ledger.glob("*.jsonl")
        lines = path.read_bytes().splitlines(keepends=True)
        for n in (5, 12, len(lines)):
            path.write_bytes(b"".join(lines[:n]))
            Projector(ledger, remote).sync()

    run = remote.values().first()
    assert_is_right(run)
    assert {source.management for source in run["primary"].base["det_doubled"].data_sources()} != {"external"}
    assert differences(ledger, remote) == [""]


def test_mongo_has_the_arrays_in_its_events(ledger):
    import databroker

    catalog = databroker.temp()
    analyse(ledger, raw_run())
    Projector(ledger, catalog).sync()

    (run,) = catalog.v2.values()
    numpy.testing.assert_array_equal(run["primary"]["data"]["det_doubled"].read(), [each * 2 for each in frames(6)])
    assert differences(ledger, catalog) == [""]


def test_verify_compares_with_what_a_catalog_serves(ledger, runs):
    analyse(ledger, raw_run())
    Projector(ledger, runs).sync()

    (verdict,) = verify(nodes(), raw_run(), catalog=runs)
    assert verdict.difference == ""
    import h5py

    (path,) = ledger.glob("*.final.h5")
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        file["final/det_mean"][0] = 7.0
    (verdict,) = verify(nodes(), raw_run(), catalog=runs)
    assert verdict.difference == "'det_mean', row 0: other values are stored"

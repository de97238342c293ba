"""Runs that others write into a Tiled catalog, followed: real servers, with a stream and without, killed and restarted."""

import json
import os
import signal
import threading
import time
import uuid

import databroker
import numpy
import pytest
import servers
from bluesky.plans import count, scan
from bluesky_tiled_plugins import TiledWriter
from event_model import compose_run
from kept import Kept
from ophyd.sim import hw
from tiled.client import from_uri

from pipeline import Node, Pipeline
from pipeline.catalog import open_catalog, stop_server
from pipeline.catalog_run import CatalogRun
from pipeline.catalogs import find
from pipeline.documents import dumps
from pipeline.errors import PipelineTypeError, PipelineValueError
from pipeline.reductions import Mean
from pipeline.sinks import TiledSink
from pipeline.sources.position import PositionedSource
from pipeline.sources.tiled import TiledSource
from pipeline.sources.tiled_api import Api
from pipeline.sources.tiled_run import StoredRun
from pipeline.testing import make_run

TIMEOUT = 60


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("catalogs") / "catalog"
    yield path
    stop_server(path)


@pytest.fixture(scope="module")
def raw(directory):
    with open_catalog(directory) as catalog:
        yield catalog["raw"]


@pytest.fixture(scope="module")
def without_stream(tmp_path_factory):
    """A Tiled server over HTTP that has no stream: its root, and where it is."""
    folder = tmp_path_factory.mktemp("plain")
    args = {
        "uri": str(folder / "catalog.db"),
        "writable_storage": [str(folder / "data"), f"duckdb:///{folder / 'storage.duckdb'}"],
        "init_if_not_exists": True,
    }
    with servers.tiled_server(folder, [{"path": "/", "tree": "catalog", "args": args}]) as (uri, key):
        root = from_uri(uri, api_key=key, remember_me=False)
        yield root, uri, key
        root.context.close()


class Taker(threading.Thread):
    """Open a source and take what it gives, until told to end."""

    def __init__(self, source, begin=None):
        super().__init__(daemon=True)
        self.source, self.items = source, []
        source.open(begin or {})
        self._ends = threading.Event()
        self.start()

    def run(self):
        while not (self._ends.is_set() or self.source.ended):
            self.items += self.source.read(0.1)

    def wait_for(self, n, name="stop", timeout=TIMEOUT):
        end = time.monotonic() + timeout
        while sum(item.name == name for item in self.items) < n and time.monotonic() < end:
            time.sleep(0.02)
        assert sum(item.name == name for item in self.items) >= n, [item.name for item in self.items]
        return self.items

    def end(self):
        self._ends.set()
        self.join(TIMEOUT)
        self.source.close()
        return self.items


@pytest.fixture
def follow():
    takers = []

    def start(target, begin=None, wait=True, **options):
        taker = Taker(TiledSource(target, **{"poll_seconds": 0.1, **options}), begin)
        takers.append(taker)
        while wait and taker.is_alive() and taker.source._follower._listing._has_begun is False:
            time.sleep(0.02)
        return taker

    yield start
    for taker in takers:
        taker.end()


def read_all(target, **options):
    taker = Taker(TiledSource(target, live=False, **options))
    taker.join(TIMEOUT)
    return taker.items


def of_run(items, uid):
    """The documents of one run, in order."""
    by_run = Kept((item.name, item.doc) for item in items).by_run()
    return list(by_run[uid])


def by_stream(documents):
    """What is given of each stream, as JSON."""
    kept = Kept(documents)
    streams = {doc["uid"]: doc["name"] for doc in kept.named("descriptor")}
    found = {name: [] for name in streams.values()}
    for name, doc in documents:
        if name in ("descriptor", "event"):
            found[streams[doc.get("descriptor", doc["uid"])]].append(dumps(name, doc))
    return found


def analysed(documents, stream="primary", field="det"):
    kept = Kept()
    Pipeline([Node("mean", Mean(field), stream=stream)], [kept]).replay(documents)
    return kept.bytes()


def check_is_what_is_archived(items, raw, uid):
    documents = of_run(items, uid)
    stored = [each for batch in StoredRun(Api(raw), find(raw, uid).item).documents() for each in batch]
    exported = list(CatalogRun(find(raw, uid)).documents())
    assert by_stream(documents) == by_stream(stored)
    assert [json.loads(dumps(*each)) for each in (documents[0], documents[-1])] == [
        json.loads(dumps(*each)) for each in (exported[0], exported[-1])
    ]
    in_table = [json.loads(dumps(name, doc))[1] for name, doc in documents if name == "event"]
    of_server = [json.loads(dumps(name, doc))[1] for name, doc in exported if name == "event"]
    assert sorted(in_table, key=lambda doc: doc["uid"]) == sorted(of_server, key=lambda doc: doc["uid"])
    return documents


def test_a_scan_is_followed_while_it_is_written_and_is_then_what_is_archived(RE, raw, directory, follow):
    devices = hw()
    taker = follow(directory)
    RE.subscribe(TiledWriter(raw, batch_size=1, max_array_size=0))
    seen = []
    RE.subscribe(lambda name, doc: seen.append(len([item for item in taker.items if item.name == "event"])), "stop")

    (uid,) = RE(scan([devices.det, devices.direct_img], devices.motor, -1, 1, 12)) or [None]
    items = taker.wait_for(1)

    uid = uid or items[0].doc["uid"]
    documents = check_is_what_is_archived(items, raw, uid)
    assert [doc["seq_num"] for name, doc in documents if name == "event"] == list(range(1, 13))
    assert seen[0] > 0  # before it was over
    assert next(doc for name, doc in documents if name == "event")["data"]["img"].dtype == "f8"
    assert analysed(documents) == analysed(of_run(read_all(directory), uid))
    assert isinstance(taker.source, PositionedSource)
    indices = [item.position.index for item in items]
    assert indices == sorted(set(indices))
    assert {item.position.lane for item in items} == {f"{directory}/raw"}


def test_a_server_without_a_stream_is_polled(RE, without_stream, follow, monkeypatch):
    root, uri, key = without_stream
    monkeypatch.setenv("TILED_API_KEY", key)
    taker = follow(f"{uri}/metadata/raw")
    RE.subscribe(TiledWriter(root["raw"], batch_size=1))

    RE(count([hw().det], 5))
    items = taker.wait_for(1)

    uid = items[0].doc["uid"]
    documents = check_is_what_is_archived(items, root["raw"], uid)
    assert [doc["seq_num"] for name, doc in documents if name == "event"] == [1, 2, 3, 4, 5]
    assert key not in str(items)


def test_several_runs_that_are_open_at_once_do_not_mix(directory, raw, follow):
    taker = follow(directory)
    runs = [make_run({"det": [k, float("nan"), 4.0]}, uid=str(uuid.uuid4())) for k in (1.0, 2.0)]

    with TiledSink(directory, container="raw", flush_seconds=0.05) as sink:
        for pair in zip(*runs, strict=True):
            for name, doc in pair:
                sink(name, doc)
            time.sleep(0.15)
    items = taker.wait_for(2)

    for run in runs:
        documents = check_is_what_is_archived(items, raw, run[0][1]["uid"])
        data = [doc["data"]["det"] for name, doc in documents if name == "event"]
        assert numpy.array_equal(data, [run[2][1]["data"]["det"], numpy.nan, 4.0], equal_nan=True)


@pytest.mark.parametrize("writes", ["TiledWriter", "TiledSink"])  # the one puts small arrays into the table
def test_types_are_those_that_were_stored(directory, raw, writes):
    columns = {
        "n": [1, 2**60, 3],
        "x": [1.0, float("nan"), 3.0],
        "s": ["a", "bé", ""],
        "b": [True, False, True],
        "image": [numpy.arange(20, dtype="u2").reshape(4, 5) + i for i in range(3)],
        "small": [numpy.array([1.5, i]) for i in range(3)],
    }
    run = make_run(columns, uid=str(uuid.uuid4()))
    writer = TiledWriter(raw) if writes == "TiledWriter" else TiledSink(directory, container="raw")
    for name, doc in run:
        writer(name, doc)
    if isinstance(writer, TiledSink):
        writer.close()

    events = [doc for name, doc in of_run(read_all(directory), run[0][1]["uid"]) if name == "event"]

    for key, column in columns.items():
        for event, value in zip(events, column, strict=True):
            assert numpy.array_equal(event["data"][key], value, equal_nan=key == "x"), key
            assert isinstance(value, numpy.ndarray) or type(event["data"][key]) is type(value), key
    assert events[0]["data"]["image"].dtype == "u2"


def test_images_larger_than_a_message_of_the_stream_come_whole(directory, raw, follow):
    taker = follow(directory)
    images = [numpy.full((600, 600), float(i)) for i in range(3)]
    run = make_run({"image": images}, uid=str(uuid.uuid4()))
    writer = TiledWriter(raw, batch_size=1, max_array_size=0)

    for name, doc in run:
        writer(name, doc)
    items = taker.wait_for(1)

    given = [item.doc["data"]["image"] for item in items if item.name == "event"]
    assert numpy.array_equal(given, images)


def test_points_that_were_taken_again_and_rows_written_twice_are_told_apart(raw, directory):
    bundle = compose_run(uid=str(uuid.uuid4()), time=1.0)
    key = {"source": "test", "dtype": "number", "shape": []}
    stream = bundle.compose_descriptor(name="primary", data_keys={"det": key}, time=2.0)
    writer = TiledWriter(raw, batch_size=1)
    writer("start", bundle.start_doc)
    writer("descriptor", stream.descriptor_doc)

    for seq_num, when in [(1, 3.0), (2, 4.0), (2, 4.0), (2, 5.0), (3, 6.0)]:
        event = stream.compose_event(data={"det": when}, timestamps={"det": when}, time=when, seq_num=seq_num)
        writer("event", event)
    writer("stop", bundle.compose_stop(time=7.0))
    events = [d for n, d in of_run(read_all(directory), bundle.start_doc["uid"]) if n == "event"]

    assert [(event["seq_num"], event["time"]) for event in events] == [(1, 3.0), (2, 4.0), (2, 5.0), (3, 6.0)]
    assert len({event["uid"] for event in events}) == 4


def test_a_stream_that_is_configured_anew_has_its_descriptors(raw, directory, follow):
    taker = follow(directory)
    bundle = compose_run(uid=str(uuid.uuid4()), time=1.0)
    key = {"source": "test", "dtype": "number", "shape": [], "object_name": "det"}
    writer = TiledWriter(raw, batch_size=1)
    writer("start", bundle.start_doc)
    for when in (2.0, 4.0):
        configuration = {"det": {"data": {"gain": when}, "timestamps": {"gain": when}, "data_keys": {"gain": key}}}
        stream = bundle.compose_descriptor(
            name="primary", data_keys={"det": key}, configuration=configuration, time=when, object_keys={"det": ["det"]}
        )
        writer("descriptor", stream.descriptor_doc)
        n = int(when / 2)
        writer("event", stream.compose_event(data={"det": 1.0}, timestamps={"det": 1.0}, time=when + 1, seq_num=n))
    writer("stop", bundle.compose_stop(time=7.0))

    documents = check_is_what_is_archived(taker.wait_for(1), raw, bundle.start_doc["uid"])

    descriptors, events = ([doc for name, doc in documents if name == each] for each in ("descriptor", "event"))
    assert [doc["configuration"]["det"]["data"]["gain"] for doc in descriptors] == [2.0, 4.0]
    assert [event["descriptor"] for event in events] == [doc["uid"] for doc in descriptors]


def test_a_restart_gives_what_was_not_over_and_what_came_since_and_nothing_else(raw, directory, follow):
    before, opened, later = (make_run({"det": [1.0, 2.0]}, uid=str(uuid.uuid4())) for _ in range(3))
    writer = TiledWriter(raw, batch_size=1)
    taker = follow(directory)
    for name, doc in [*opened[:3], *before]:
        writer(name, doc)
    taker.wait_for(1)
    taker.wait_for(3, "event")
    committed = {taker.source.lane: taker.end()[-1].position.index}
    for name, doc in [*opened[3:], *later]:
        writer(name, doc)

    again = follow(directory, committed).wait_for(2)

    assert {item.doc["uid"] for item in again if item.name == "start"} == {opened[0][1]["uid"], later[0][1]["uid"]}
    for run in (opened, later):
        assert [name for name, _ in of_run(again, run[0][1]["uid"])] == [name for name, _ in run]
    assert min(item.position.index for item in again) > committed[f"{directory}/raw"]


def test_rewind_gives_the_runs_that_were_not_over_there_again(raw, directory, follow):
    taker = follow(directory)
    run = make_run({"det": [1.0, 2.0]}, uid=str(uuid.uuid4()))
    writer = TiledWriter(raw, batch_size=1)
    for name, doc in run:
        writer(name, doc)
    items = list(taker.wait_for(1))

    assert taker.source.rewind(taker.source.lane, items[1].position.index)
    taker.wait_for(2)
    assert by_stream([(i.name, i.doc) for i in taker.items[len(items) :]]) == by_stream(
        [(i.name, i.doc) for i in items]
    )
    assert not taker.source.rewind("another lane", 1)


def test_a_run_that_is_stored_late_with_an_earlier_time_is_found(raw, directory, follow):
    taker = follow(directory)
    (_, start), *rest = make_run({"det": [1.0]}, uid=str(uuid.uuid4()))
    writer = TiledWriter(raw)
    for name, doc in [("start", {**start, "time": 5.0}), *rest]:
        writer(name, doc)

    assert of_run(taker.wait_for(1), start["uid"])[0][1]["time"] == 5.0


def test_since_chooses_runs_by_their_time(raw, directory):
    times = {item.doc["uid"]: item.doc["time"] for item in read_all(directory) if item.name == "start"}
    middle = sorted(times.values())[len(times) // 2]

    chosen = {item.doc["uid"] for item in read_all(directory, since=middle) if item.name == "start"}

    assert chosen == {uid for uid, when in times.items() if when >= middle}
    with pytest.raises(PipelineValueError, match="ISO 8601"):
        TiledSource(directory, since="yesterday")


def test_what_is_no_run_is_poison_and_the_rest_goes_on(raw, directory, follow):
    taker = follow(directory)
    key = str(uuid.uuid4())
    raw.create_container(key=key, metadata={"color": "blue"})
    run = make_run({"det": [1.0]}, uid=str(uuid.uuid4()))
    writer = TiledWriter(raw)
    for name, doc in run:
        writer(name, doc)

    items = taker.wait_for(1)
    raw.delete_contents([key], external_only=False)

    (bad,) = [item.doc for item in items if item.name == "poison"]
    assert bad["run_start"] == key
    assert "wanted a run" in bad["reason"]
    assert [name for name, _ in of_run(items, run[0][1]["uid"])] == [name for name, _ in run]


def test_a_server_that_is_killed_in_the_middle_of_a_run_loses_nothing_and_doubles_nothing(directory, follow, caplog):
    taker = follow(directory)
    n = 30
    run = make_run({"det": [float(i) for i in range(n)], "curve": [numpy.arange(3.0) + i for i in range(n)]})

    with TiledSink(directory, container="raw", flush_seconds=0.05) as sink:
        for i, (name, doc) in enumerate(run):
            sink(name, doc)
            time.sleep(0.03)
            if i == n // 2:
                os.kill(json.loads((directory / "server.json").read_bytes())["pid"], signal.SIGKILL)
    items = taker.wait_for(1)

    events = [doc for name, doc in of_run(items, run[0][1]["uid"]) if name == "event"]
    assert [event["seq_num"] for event in events] == list(range(1, n + 1))
    assert [event["data"]["curve"][0] for event in events] == [float(i) for i in range(n)]
    assert len([r for r in caplog.records if "TiledSource cannot read" in r.getMessage()]) <= 1


def test_a_server_that_is_not_there_is_told_once_and_waited_for(dead_uri, caplog):
    source = TiledSource(dead_uri, poll_seconds=0.05)
    source.open({})

    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        assert source.read(0.1) == []
    source.close()

    assert len([r for r in caplog.records if "cannot read" in r.getMessage()]) == 1
    assert not source.ended


def test_a_catalog_on_mongo_is_refused():
    source = TiledSource(databroker.temp())
    source.open({})

    with pytest.raises(PipelineTypeError, match="there is one on Mongo"):
        source.read(10.0) or source.read(1.0)

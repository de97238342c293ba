"""What was lost is looked up in the catalog of raw runs; whole archives are read once."""

import uuid

import databroker
import pytest
from bluesky_tiled_plugins import TiledWriter

from pipeline import Node, Pipeline
from pipeline.catalog import open_catalog, stop_server
from pipeline.documents import dumps
from pipeline.errors import PipelineTypeError
from pipeline.reductions import Mean
from pipeline.sources.archive import ArchiveSource
from pipeline.sources.position import PositionedSource
from pipeline.sources.refill import Refill, missing
from pipeline.testing import make_run

RUNS = [make_run({"det": [float(k), float("nan"), 4.0]}, uid=str(uuid.uuid4())) for k in range(3)]
RUNS = [[("start", {**run[0][1], "time": 1000.0 + k // 2}), *run[1:]] for k, run in enumerate(RUNS)]  # two at a time
UIDS = [run[0][1]["uid"] for run in RUNS]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("catalogs") / "catalog"
    yield path
    stop_server(path)


@pytest.fixture(scope="module", params=["sql", "mongo"])
def catalog(request, directory):
    """A catalog with three runs, the last stored first, and one that is open."""
    opened = make_run({"det": [1.0, 2.0]}, uid="opened")[:-1]
    if request.param == "mongo":
        broker = databroker.temp()
        for run in [*reversed(RUNS), opened]:
            for name, doc in run:
                broker.insert(name, doc)
        yield broker
        return
    with open_catalog(directory) as client:
        for run in [*reversed(RUNS), opened]:
            writer = TiledWriter(client["raw"], batch_size=1)
            for name, doc in run:
                writer(name, doc)
        yield client


def analysed(documents, kept):
    kept.clear()
    Pipeline([Node("mean", Mean("det"))], [kept]).replay(documents)
    return kept.bytes()


# refill ------------------------------------------------------------------------------------------------------------


def test_a_run_is_given_whole_and_in_order(catalog, kept):
    documents = Refill(catalog).documents(UIDS[1])

    assert [name for name, _ in documents] == [name for name, _ in RUNS[1]]
    assert analysed(documents, kept) == analysed(RUNS[1], kept)


def test_a_run_that_is_not_there_or_not_over_is_none(catalog):
    opened = make_run({"det": [1.0, 2.0]}, uid="opened")[0][1]["uid"]

    assert Refill(catalog).documents("nope") is None
    assert Refill(catalog).documents(opened) is None


def test_events_are_found_by_stream_and_seq_num_and_fill_the_gap(catalog, kept):
    seen = [item for item in RUNS[0] if item[1].get("seq_num") != 2]
    gaps = missing([doc["seq_num"] for name, doc in seen if name == "event"], n_events=3)
    descriptors = [doc for name, doc in seen if name == "descriptor"]

    events = Refill(catalog).events_of(UIDS[0], "primary", gaps, descriptors)

    assert gaps == [2]
    assert [(event["seq_num"], str(event["data"]["det"])) for event in events] == [(2, "nan")]
    assert events[0]["timestamps"] == RUNS[0][3][1]["timestamps"]
    assert analysed([*seen[:3], ("event", events[0]), *seen[3:]], kept) == analysed(RUNS[0], kept)


def test_events_refer_to_the_descriptors_that_were_seen(catalog):
    events = Refill(catalog).events_of(UIDS[0], "primary", [1, 3, 99], [{"uid": "another"}])

    assert [(event["seq_num"], event["descriptor"]) for event in events] == [(1, "another"), (3, "another")]
    assert Refill(catalog).events_of(UIDS[0], "baseline", [1]) == []
    assert Refill(catalog).events_of("nope", "primary", [1]) == []


def test_a_catalog_that_is_away_is_told_once_and_gives_nothing(dead_uri, caplog):
    refill = Refill(dead_uri)

    assert refill.documents("a") is None
    assert refill.events_of("a", "primary", [1]) == []
    assert len([r for r in caplog.records if "cannot be looked up" in r.getMessage()]) == 1


# archives ----------------------------------------------------------------------------------------------------------


def read(source, begin=None):
    source.open(begin or {})
    items = []
    while not source.ended:
        items += source.read(0.2)
    source.close()
    return items


def uids_of(items):
    return [item.doc["uid"] for item in items if item.name == "start"]


def test_an_archive_is_read_once_in_the_order_in_which_the_runs_began(catalog, kept):
    source = ArchiveSource(catalog, uids=list(reversed(UIDS)))
    items = read(source)

    times = [item.doc["time"] for item in items if item.name == "start"]
    assert times == [1000.0, 1000.0, 1001.0]
    assert set(uids_of(items)) == set(UIDS)
    assert isinstance(source, PositionedSource)
    assert not source.may_lose
    indices = [item.position.index for item in items]
    assert indices == sorted(set(indices))
    last = [(item.name, item.doc) for item in items[-len(RUNS[2]) :]]
    assert analysed(last, kept) == analysed(RUNS[2], kept)


def test_runs_are_chosen_by_time(catalog):
    assert uids_of(read(ArchiveSource(catalog, since=1000.5, until=2000.0))) == [UIDS[2]]
    assert set(uids_of(read(ArchiveSource(catalog, until="1970-01-01T00:16:40+00:00")))) == set(UIDS[:2])


def test_it_goes_on_with_the_first_run_that_was_not_committed(catalog):
    items = read(ArchiveSource(catalog, uids=UIDS))
    lane, n = items[0].position.lane, len(RUNS[0])
    order = uids_of(items)

    for k, left in [(1, order), (n - 1, order), (2 * n - 1, order[2:]), (2 * n, order[2:]), (3 * n - 1, [])]:
        again = read(ArchiveSource(catalog, uids=UIDS), {lane: items[k].position.index})
        assert uids_of(again) == left


def test_progress_tells_how_many_runs_are_read(catalog):
    source = ArchiveSource(catalog, uids=UIDS)
    source.open({})
    while not source.ended:
        source.read(0.2)

    assert source.progress == (3, 3)
    source.close()


def test_a_run_that_cannot_be_read_is_poison_and_the_others_go_on(catalog):
    items = read(ArchiveSource(catalog, uids=["nope", *UIDS]))

    (bad,) = [item.doc for item in items if item.name == "poison"]
    assert bad["run_start"] == "nope"
    assert "no such run" in bad["reason"]
    assert len(uids_of(items)) == 3


def test_an_archive_goes_back(catalog):
    source = ArchiveSource(catalog, uids=UIDS)
    source.open({})
    first = []
    while not first:
        first += source.read(0.5)

    assert source.rewind(source.lane, first[0].position.index)
    again = []
    while not source.ended:
        again += source.read(0.2)
    assert len(uids_of(again)) == 3
    source.close()


def test_what_is_no_catalog_is_refused():
    source = ArchiveSource(3)
    source.open({})

    with pytest.raises(PipelineTypeError, match="wanted a catalog"):
        source.read(5.0) or source.read(1.0)


def test_documents_are_the_same_from_the_archive_and_by_refill(catalog):
    items = read(ArchiveSource(catalog, uids=UIDS[:1]))

    assert [dumps(item.name, item.doc) for item in items] == [
        dumps(*each) for each in Refill(catalog).documents(UIDS[0])
    ]

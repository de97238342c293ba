"""Runs into databroker catalogs of Mongo's kind; for those of SQL see `test_tiled_sink.py`."""

import time
import uuid

import databroker
import pytest
from event_model import compose_run, pack_event_page

from pipeline.errors import PipelineTypeError
from pipeline.sinks.databroker import DatabrokerSink

TIMEOUT = 60


def make_run(n=3, uid=None, **metadata):
    bundle = compose_run(uid=uid or str(uuid.uuid4()), time=1.0, metadata=metadata)
    data_keys = {"x": {"source": "test", "dtype": "number", "shape": [], "dtype_numpy": "<f8"}}
    stream = bundle.compose_descriptor(name="primary", data_keys=data_keys, time=2.0)
    events = [stream.compose_event(data={"x": i + 0.5}, timestamps={"x": 3.0}, time=3.0) for i in range(n)]
    return [
        ("start", bundle.start_doc),
        ("descriptor", stream.descriptor_doc),
        *(("event", event) for event in events),
        ("stop", bundle.compose_stop(time=4.0)),
    ]


def give(sink, documents):
    for name, doc in documents:
        sink(name, doc)


def values(catalog, documents):
    return catalog.v2[documents[0][1]["uid"]]["primary"].read()["x"].values.tolist()


@pytest.fixture(scope="module")
def temporary():
    return databroker.temp()


@pytest.fixture
def sink(temporary):
    with DatabrokerSink(temporary) as sink:
        yield sink


def test_a_run_goes_in(sink, temporary):
    run = make_run()

    give(sink, run)
    sink.flush(TIMEOUT)

    assert values(temporary, run) == [0.5, 1.5, 2.5]
    assert temporary[run[0][1]["uid"]].stop["uid"] == run[-1][1]["uid"]
    assert sink.faults == {}
    assert sink.n_dropped == 0


def test_a_run_given_twice_is_in_once(sink, temporary):
    run = make_run()

    give(sink, run)
    give(sink, run)
    sink.flush(TIMEOUT)

    names = [name for name, _ in temporary.v2[run[0][1]["uid"]].documents(fill=False)]
    assert names == ["start", "descriptor", "event_page", "stop"]
    assert values(temporary, run) == [0.5, 1.5, 2.5]
    assert sink.faults == {}


@pytest.mark.parametrize("paged", [False, True])
def test_half_a_run_is_made_whole(sink, temporary, paged):
    run = make_run(4)
    give(sink, run[:4])

    page = pack_event_page(*(doc for name, doc in run if name == "event"))
    give(sink, [*run[:2], ("event_page", page), run[-1]] if paged else run)
    sink.flush(TIMEOUT)
    time.sleep(2.1)  # for so long the catalog shows an open run as it was when it was last looked at

    assert values(temporary, run) == [0.5, 1.5, 2.5, 3.5]
    assert sink.faults == {}


def test_another_run_of_the_same_uid_is_refused_and_told(sink, temporary):
    run = make_run(2)
    uid = run[0][1]["uid"]
    give(sink, run)

    give(sink, make_run(3, uid=uid, sample="other"))
    sink.flush(TIMEOUT)

    assert values(temporary, run) == [0.5, 1.5]
    assert "same uid, other content" in sink.faults[uid]


def test_interleaved_runs_do_not_mix(sink, temporary):
    runs = make_run(2), make_run(2)

    for pair in zip(*runs, strict=True):
        give(sink, pair)
    sink.flush(TIMEOUT)

    assert [values(temporary, run) for run in runs] == [[0.5, 1.5]] * 2


def test_a_fault_ends_its_own_run_and_no_other(sink, temporary):
    good, bad = make_run(2), make_run(2)
    bad[2][1]["data"]["x"] = 1j

    for pair in zip(good, bad, strict=True):
        give(sink, pair)
    sink.flush(TIMEOUT)

    assert values(temporary, good) == [0.5, 1.5]
    assert "complex" in sink.faults[bad[0][1]["uid"]]
    assert temporary.v2[bad[0][1]["uid"]].metadata["stop"] is None


def test_what_is_no_catalog_is_refused():
    with pytest.raises(PipelineTypeError, match="there is a dict"):
        DatabrokerSink({})


def test_a_profile_is_known_by_name_or_refused():
    with DatabrokerSink("temp") as sink:
        assert sink.faults == {}
    with pytest.raises(KeyError, match="wanted the name of a profile, there is 'nope'"):
        DatabrokerSink("nope")

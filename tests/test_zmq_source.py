"""Documents over 0MQ, with positions: what comes, what is no document, and what is lost."""

import threading
import time

import pytest
from bluesky.callbacks.zmq import Proxy, Publisher

from pipeline.documents import dumps
from pipeline.errors import PipelineRuntimeError
from pipeline.sources.position import PositionedSource
from pipeline.sources.zmq import ZMQSource, serialize
from pipeline.testing import make_run

RAW = make_run({"det": [1.0, float("nan"), 4.0]})


@pytest.fixture(scope="module")
def ports():
    proxy = Proxy("127.0.0.1", "127.0.0.1")
    threading.Thread(target=proxy.start, daemon=True).start()
    return [str(port).rpartition(":")[2] for port in (proxy.in_port, proxy.out_port)]


@pytest.fixture
def publish(ports):
    publishers = []

    def make(**options):
        publishers.append(Publisher(f"127.0.0.1:{ports[0]}", **options))
        time.sleep(0.4)  # 0MQ connects when it likes
        return publishers[-1]

    yield make
    for publisher in publishers:
        publisher.close()


@pytest.fixture
def publisher(publish):
    return publish(serializer=serialize)


@pytest.fixture
def opened(ports):
    sources = []

    def open_source(**options):
        source = ZMQSource(f"127.0.0.1:{ports[1]}", **options)
        source.open({})
        time.sleep(0.4)  # 0MQ subscribes when it likes
        sources.append(source)
        return source

    yield open_source
    for source in sources:
        source.close()


def read(source, n, timeout=10.0):
    items, end = [], time.monotonic() + timeout
    while len(items) < n and time.monotonic() < end:
        items += source.read(0.2)
    return items


def test_documents_come_in_order_with_positions_and_nan(opened, publisher):
    source = opened()

    for name, doc in RAW:
        publisher(name, doc)
    items = read(source, len(RAW))

    assert b"".join(dumps(item.name, item.doc) for item in items) == b"".join(dumps(*each) for each in RAW)
    assert str(items[3].doc["data"]["det"]) == "nan"
    assert [item.position.index for item in items] == [1, 2, 3, 4, 5, 6]
    assert isinstance(source, PositionedSource)
    assert source.may_lose
    assert source.rewind(source.address, 1) is False
    assert source.read(0.0) == []


def test_what_is_no_json_is_poison_and_the_rest_goes_on(opened, publisher, publish):
    source = opened()
    pickles = publish()

    pickles("start", {"uid": "evil"})
    (bad,) = read(source, 1)
    publisher(*RAW[0])
    (good,) = read(source, 1)

    assert bad.name == "poison"
    assert "no JSON document" in bad.doc["reason"]
    assert good.name == "start"
    assert source.n_refused == 1


def test_what_finds_no_place_is_counted_and_told_where_it_would_have_stood(opened, publisher):
    source = opened(maxsize=2)

    for name, doc in RAW:
        publisher(name, doc)
    end = time.monotonic() + 10
    while source.n_lost < len(RAW) - 2 and time.monotonic() < end:
        time.sleep(0.02)
    first = source.read(1.0)
    publisher(*RAW[-1])
    (later,) = read(source, 1)

    assert [item.name for item in first] == ["start", "descriptor", "poison"]
    assert first[-1].doc["reason"].startswith("4 messages lost")
    assert [item.position.index for item in (*first, later)] == [1, 2, 6, 7]


def test_only_what_has_the_prefix_is_taken(opened, publish):
    source = opened(prefix="mine")
    mine, others = (publish(prefix=p, serializer=serialize) for p in (b"mine", b"other"))

    others("start", {"uid": "b"})
    mine("start", {"uid": "a"})
    items = read(source, 1)

    assert [item.doc["uid"] for item in items] == ["a"]


def test_a_source_that_is_closed_has_ended_and_may_be_opened_again(opened, publisher):
    source = opened()
    source.close()

    assert source.ended
    with pytest.raises(PipelineRuntimeError, match="was stopped"):
        source.start()
    source.open({})
    time.sleep(0.4)
    publisher(*RAW[0])
    assert [item.name for item in read(source, 1)] == ["start"]

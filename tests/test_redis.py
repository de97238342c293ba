"""What a stream of Redis holds is read in order, and again until it is committed; no outage of Redis loses any of it."""

import logging
import pickle
import secrets
import time

import pytest
import redis
import servers
from bluesky.plans import count
from ophyd.sim import det
from reading import documents, in_order, last, nothing_more, read, reader

from pipeline.buffer import Buffered
from pipeline.errors import PipelineError
from pipeline.sinks.redis import RedisSink
from pipeline.sources.position import POISON, Position, PositionedSource
from pipeline.sources.redis import RedisSource
from pipeline.testing import make_run

RUN = make_run({"det": [1.0, float("nan"), 3.0, 1e-300, 0.1]})


@pytest.fixture(scope="module")
def url():
    try:
        with servers.on_port(6379, servers.own_redis) as port:
            yield f"redis://127.0.0.1:{port}"
    except servers.NoServer as reason:
        pytest.skip(f"no Redis: {reason}")


@pytest.fixture
def client(url):
    with redis.Redis.from_url(url) as client:
        yield client


@pytest.fixture
def stream(client):
    key = f"test-{secrets.token_hex(8)}"
    yield key
    client.delete(key)


@pytest.fixture
def own(tmp_path):
    """A Redis that the test may kill."""
    try:
        with servers.own_redis(tmp_path) as server:
            yield server
    except servers.NoServer as reason:
        pytest.skip(f"no Redis: {reason}")


@pytest.fixture
def opened():
    """Open a source; it is closed at the end."""
    sources = []

    def open_(source, begin=None):
        sources.append(source)
        source.open(begin or {})
        return source

    yield open_
    for source in sources:
        source.close()


def publish(url, stream, run=RUN):
    sink = RedisSink(stream, url)
    for item in run:
        sink(*item)
    sink.close()


def test_what_a_run_engine_gives_the_sink_comes_as_it_was_with_its_positions(RE, url, stream, opened, kept):
    source = opened(RedisSource(stream, url))
    with Buffered(RedisSink(stream, url)) as sink:
        RE.subscribe(sink)
        RE.subscribe(kept)
        RE(count([det], 3))

    items = read(source, len(kept))

    assert isinstance(source, PositionedSource)
    assert sink.faults == {}
    assert kept.bytes() == type(kept)(documents(items)).bytes()
    assert in_order(items)
    assert {item.position.lane for item in items} == {stream}
    assert all(ms > 1e12 and seq >= 0 for ms, seq in (item.position.index for item in items))
    assert nothing_more(source, 0.1)


def test_what_is_committed_does_not_come_again_and_all_else_does(url, stream, client, opened):
    publish(url, stream)
    first = opened(RedisSource(stream, url, "g"))
    items = read(first, len(RUN))
    assert repr(documents(items)) == repr(RUN)
    first.commit({stream: items[2].position.index, "another": (1, 1)})
    first.close()

    for second in (first, RedisSource(stream, url, "g")):
        opened(second, {stream: items[0].position.index})
        again = read(second, len(RUN) - 3)
        assert repr(again) == repr(items[3:])
        second.close()
    second.open({})
    assert len(read(second, len(RUN) - 3)) == len(RUN) - 3
    second.commit(last(again))
    second.close()

    assert nothing_more(opened(RedisSource(stream, url, "g")))
    assert client.xpending(stream, "g")["pending"] == 0
    assert (
        read(opened(RedisSource(stream, url, "new"), {stream: items[5].position.index}), 1)[0].position
        == items[6].position
    )


def test_it_goes_back_to_where_it_is_told_unless_that_is_gone(url, stream, client, opened):
    publish(url, stream)
    source = opened(RedisSource(stream, url, batch=2))
    items = read(source, 6)

    assert source.rewind(stream, items[1].position.index)
    publish(url, stream, RUN[:1])
    assert [item.position for item in read(source, 7)] == [
        *[item.position for item in items[2:]],
        *[Position(stream, index) for index in sorted(source._held)[6:]],
    ]
    assert source.rewind(stream, None)
    assert read(source, 2)[0].position == items[0].position
    client.xtrim(stream, maxlen=2, approximate=False)
    assert not source.rewind(stream, items[1].position.index)
    assert not source.rewind("another", items[1].position.index)


def test_what_is_no_document_goes_by_and_is_committed_like_others(url, stream, client, opened):
    bad = [{"doc": pickle.dumps(RUN[0]), "run": "a"}, {"doc": b"", "run": b"\xff"}, {"document": b"{}"}]
    for entry in bad:
        client.xadd(stream, entry)
    publish(url, stream)

    source = opened(RedisSource(stream, url))
    items = read(source, len(bad) + len(RUN))

    assert [item.name for item in items[:3]] == [POISON] * 3
    assert [item.doc["run_start"] for item in items[:3]] == ["a", "�", ""]
    assert "wanted a document as msgpack or JSON" in items[0].doc["reason"]
    assert "wanted an entry with a field 'doc', there are [b'document']" in items[2].doc["reason"]
    assert repr(documents(items[3:])) == repr(RUN)
    source.commit(last(items))
    assert client.xpending(stream, source.group)["pending"] == 0


def test_an_entry_deleted_before_it_was_read_again_is_told(url, stream, client, opened):
    publish(url, stream)
    source = opened(RedisSource(stream, url))
    items = read(source, len(RUN))
    source.close()
    client.xdel(stream, "{}-{}".format(*items[1].position.index))

    again = read(opened(RedisSource(stream, url)), len(RUN))

    assert again[1].doc == {
        "reason": "wanted an entry with a field 'doc', it was deleted before it was read.",
        "run_start": "",
        "begins_anew": False,
    }
    assert [item.position for item in again] == [item.position for item in items]


def test_what_a_killed_process_holds_is_taken_over_in_order_and_before_what_is_new(
    url, stream, tmp_path, opened, caplog
):
    publish(url, stream, RUN[:4])
    source = opened(RedisSource(stream, url, consumer="b", min_idle=1.0))
    with reader(tmp_path / "a", "pipeline.sources.redis:RedisSource", stream, url, consumer="a") as other:
        other.wait(lambda other: len(other.items()) == 4)
        publish(url, stream, RUN[4:5])
        assert nothing_more(source, 1.2)  # the other one lives, and holds something
        other.wait(lambda other: len(other.items()) == 5)
        other.kill()
    publish(url, stream, RUN[5:])

    items = read(source, len(RUN))

    assert repr(documents(items)) == repr(RUN)
    assert in_order(items)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"Redis {stream}: waits, since ['a'] holds documents that are not acknowledged.",
        f"Redis {stream}: 5 documents are taken over from a, which is silent.",
    ]


def test_redis_killed_in_mid_run_loses_nothing_and_is_told_once(own, opened, caplog):
    run = make_run({"det": [float(n) for n in range(300)]})
    url = f"redis://127.0.0.1:{own.port}"
    source = opened(RedisSource("beamline", url))
    items = []
    with caplog.at_level(logging.INFO), Buffered(RedisSink("beamline", url)) as sink:
        for n, item in enumerate(run):
            sink(*item)
            if n == 100:
                items += read(source, 50)
                source.commit(last(items[:20]))
                own.kill()
                assert nothing_more(source, 0.3)
                source.commit(last(items[:30]))
                own.start()
        sink.flush()
        items += read(source, 2 * len(run), 1.0)

    once = {item.doc["uid"]: item for item in items}  # what was under way to Redis then may be in it twice
    assert documents(once.values()) == run
    assert len(items) <= len(run) + 1
    assert in_order(items)
    assert sink.faults == {}
    told = [record.getMessage() for record in caplog.records if record.name == "pipeline.sources.link"]
    assert [text.split(":")[0].split(",")[0] for text in told] == [
        "Redis beamline is not there",
        "Redis beamline is there again",
    ]
    source.close()
    again = read(opened(RedisSource("beamline", url)), len(items) - 30)
    assert again == items[30:]


def test_a_stream_that_is_gone_is_made_again(url, stream, client, opened, caplog):
    source = opened(RedisSource(stream, url))
    publish(url, stream)
    source.commit(last(read(source, len(RUN))))

    client.delete(stream)
    assert nothing_more(source, 0.3)
    publish(url, stream)

    assert repr(documents(read(source, len(RUN)))) == repr(RUN)
    assert [record.getMessage() for record in caplog.records] == [
        f"Redis {stream}: the group 'bluesky-pipeline' is gone; it is made again."
    ]


def test_no_redis_is_told_once_and_ends_a_source_that_is_to_end(dead_uri, opened, caplog):
    url = dead_uri.replace("http:", "redis:").removesuffix("/api/v1")
    source = opened(RedisSource("beamline", url, idle=0.5))

    assert nothing_more(source, 0.6)

    assert source.ended
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("Redis beamline is not there: ")


def test_the_sink_waits_for_redis_only_so_long(dead_uri):
    sink = RedisSink("beamline", dead_uri.replace("http:", "redis:").removesuffix("/api/v1"), patience=0.3)

    for seconds in (0.3, 0.1):
        before = time.monotonic()
        with pytest.raises(PipelineError, match=r"Redis beamline is not there: .* the document is not in it"):
            sink(*RUN[0])
        assert time.monotonic() - before < seconds + 0.1


def test_passwords_come_from_the_environment_and_are_never_told(monkeypatch, url, stream, opened, caplog):
    for kind in (RedisSource, RedisSink):
        with pytest.raises(PipelineError, match="wanted a URI without a password; it is taken from REDIS_PASSWORD"):
            kind("beamline", "redis://ada:a-secret@127.0.0.1")
    monkeypatch.setenv("REDIS_PASSWORD", "a-secret")
    source = opened(RedisSource(stream, url))

    assert source._redis.connection_pool.connection_kwargs["password"] == "a-secret"
    with caplog.at_level(logging.DEBUG):
        assert nothing_more(source, 0.2)  # this Redis has no password, and refuses ours

    assert "a-secret" not in caplog.text + repr(source) + str(vars(source)) + repr(source._redis)

"""What a stream of NATS holds is read in order, and again until it is committed; no outage of NATS loses any of it."""

import asyncio
import logging
import pickle
import secrets
import time
from contextlib import suppress

import msgpack
import nats
import pytest
import servers
from bluesky.plans import count
from nats.js.errors import NotFoundError
from ophyd.sim import det
from reading import documents, in_order, last, nothing_more, read, reader

from pipeline.buffer import Buffered
from pipeline.errors import PipelineError
from pipeline.sinks.nats import NATSSink
from pipeline.sources.nats import NATSSource
from pipeline.sources.position import POISON, Position, PositionedSource, poison
from pipeline.testing import make_run

RUN = make_run({"det": [1.0, float("nan"), 3.0, 1e-300, 0.1]})


@pytest.fixture(scope="module")
def url():
    try:
        with servers.on_port(4222, servers.own_nats) as port:
            yield f"nats://127.0.0.1:{port}"
    except servers.NoServer as reason:
        pytest.skip(f"no NATS: {reason}")


@pytest.fixture
def own(tmp_path):
    """A NATS server that the test may kill."""
    try:
        with servers.own_nats(tmp_path) as server:
            yield server
    except servers.NoServer as reason:
        pytest.skip(f"no NATS: {reason}")


def ask(url, *calls):
    """Call these methods of JetStream, and return what the last one gives."""

    async def run():
        client = await nats.connect(url)
        try:
            for name, args, kwargs in calls:
                answer = await getattr(client.jetstream(), name)(*args, **kwargs)
            return answer
        finally:
            await client.close()

    return asyncio.run(run())


def add_stream(url, name):
    return "add_stream", (), {"name": name, "subjects": [f"{name}.>"]}


@pytest.fixture
def stream(url):
    name = f"test-{secrets.token_hex(8)}"
    ask(url, add_stream(url, name))
    yield name
    with suppress(NotFoundError):
        ask(url, ("delete_stream", (name,), {}))


@pytest.fixture
def opened():
    """Open a source; it is closed at the end."""
    sources = []

    def open_(source, begin=None, **options):
        sources.append(source)
        source.open(begin or {}, **options)
        return source

    yield open_
    for source in sources:
        source.close()


def publish(url, stream, run=RUN):
    sink = NATSSink(f"{stream}.documents", url)
    for item in run:
        sink(*item)
    sink.close()


def indices(items):
    return [item.position.index for item in items]


def test_what_a_run_engine_gives_the_sink_comes_as_it_was_with_its_positions(RE, url, stream, opened, kept):
    source = opened(NATSSource(stream, servers=url))
    with Buffered(NATSSink(f"{stream}.documents", url)) as sink:
        RE.subscribe(sink)
        RE.subscribe(kept)
        RE(count([det], 3))

    items = read(source, len(kept))

    assert isinstance(source, PositionedSource)
    assert sink.faults == {}
    assert kept.bytes() == type(kept)(documents(items)).bytes()
    assert [item.position for item in items] == [Position(stream, n + 1) for n in range(len(kept))]
    assert nothing_more(source, 0.1)


def test_what_is_committed_does_not_come_again_and_all_else_does_at_once(url, stream, opened):
    publish(url, stream)
    first = opened(NATSSource(stream, f"{stream}.>", url, "d"))
    items = read(first, len(RUN))
    assert repr(documents(items)) == repr(RUN)
    first.commit({stream: 3, "another": 5})
    first.close()
    publish(url, stream, RUN[:1])  # the same again, which NATS keeps once

    before = time.monotonic()
    for second in (first, NATSSource(stream, f"{stream}.>", url, "d")):
        opened(second, {stream: 1})
        again = read(second, len(RUN) - 3)
        assert time.monotonic() - before < 2
        assert repr(documents(again)) == repr(RUN[3:])
        assert indices(again) == [4, 5, 6, 7, 8]
        second.close()
    second.open({})
    assert len(read(second, len(RUN) - 3)) == len(RUN) - 3
    second.commit(last(again))
    second.close()

    assert nothing_more(opened(NATSSource(stream, f"{stream}.>", url, "d")))
    assert ask(url, ("consumer_info", (stream, "d"), {})).ack_floor.stream_seq == 8
    assert indices(read(opened(NATSSource(stream, servers=url, durable="new"), {stream: 5}), 1))[0] == 6


def test_it_goes_back_to_where_it_is_told_unless_that_is_gone_and_loses_nothing_by_it(url, stream, opened):
    publish(url, stream)
    source = opened(NATSSource(stream, servers=url, batch=2))
    read(source, 6)
    source.commit({stream: 2})

    assert source.rewind(stream, 4)
    publish(url, stream, [("start", {"uid": "another"})])
    assert indices(read(source, 5)) == [5, 6, 7, 8, 9]
    assert source.rewind(stream, None)
    assert indices(read(source, 9)) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert not source.rewind("another", 4)
    ask(url, ("purge_stream", (stream,), {"seq": 6}))
    assert not source.rewind(stream, 4)
    assert source.rewind(stream, 5)
    assert indices(read(source, 4)) == [6, 7, 8, 9]
    source.close()
    assert indices(read(opened(NATSSource(stream, servers=url)), 4)) == [6, 7, 8, 9]


def test_what_bluesky_nats_publishes_is_read_and_what_is_no_document_goes_by(url, stream, opened):
    run = make_run({"det": [1.0, float("nan")]})
    messages = [(f"{stream}.{name}", msgpack.packb(doc)) for name, doc in run]
    bad = [(f"{stream}.start", pickle.dumps(RUN[0])), (f"{stream}.other", msgpack.packb({})), (f"{stream}.event", b"")]
    ask(url, *[("publish", each, {"headers": {"run_id": "a"}}) for each in [*messages, *bad]], add_stream(url, stream))

    source = opened(NATSSource(stream, servers=url))
    items = read(source, len(run) + 3)

    assert repr(documents(items[: len(run)])) == repr(run)
    assert [item.name for item in items[len(run) :]] == [POISON] * 3
    assert {item.doc["run_start"] for item in items[len(run) :]} == {"a"}
    assert "wanted a document as msgpack or JSON" in items[-3].doc["reason"]
    assert indices(items) == list(range(1, len(items) + 1))


def test_a_killed_process_loses_nothing_and_what_it_held_comes_before_what_is_new(url, stream, tmp_path, opened):
    publish(url, stream, RUN[:5])
    with reader(tmp_path / "a", "pipeline.sources.nats:NATSSource", stream, servers=url, commit_every=3) as other:
        other.wait(lambda other: len(other.items()) == 5)
        time.sleep(0.2)
        other.kill()
    publish(url, stream, RUN[5:])

    items = read(opened(NATSSource(stream, servers=url)), 5)

    assert indices(items) == [4, 5, 6, 7, 8]
    assert repr(documents(items)) == repr(RUN[3:])


def test_a_consumer_that_another_process_opens_is_its_own(url, stream, opened, caplog):
    lost = []
    publish(url, stream)
    first = opened(NATSSource(stream, servers=url, batch=2), on_lost=lost.append)
    items = read(first, len(RUN))
    first.commit({stream: 2})

    second = opened(NATSSource(stream, servers=url))
    again = read(second, 6)
    publish(url, stream, make_run({"det": [1.0, 2.0]}, uid="another"))
    deadline = time.monotonic() + 10
    first.commit({stream: 8})  # too late, it is no longer its own: nothing of the other's is acknowledged by it
    while not lost and time.monotonic() < deadline:
        items += first.read(0.1)
        again += second.read(0.1)
    again += read(second, 11 - len(again))

    assert lost == [[stream]]
    assert nothing_more(first, 0.2)
    assert indices(again) == list(range(3, 14))
    assert indices(items) == sorted(set(indices(items)))
    assert ask(url, ("consumer_info", (stream, "bluesky-pipeline"), {})).num_ack_pending == 11
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        f"NATS {stream}: another process reads with 'bluesky-pipeline'; this one gives nothing more."
    ]


def test_nats_killed_in_mid_run_loses_nothing_and_is_told_once(own, opened, caplog):
    run = make_run({"det": [float(n) for n in range(300)]})
    url = f"nats://127.0.0.1:{own.port}"
    ask(url, add_stream(url, "beamline"))
    source = opened(NATSSource("beamline", servers=url))
    items = []
    with caplog.at_level(logging.INFO), Buffered(NATSSink("beamline.documents", url)) as sink:
        for n, item in enumerate(run):
            sink(*item)
            if n == 100:
                items += read(source, 50)
                source.commit({"beamline": 20})
                own.kill()
                items += read(source, len(run), 0.5)  # what had come already
                source.commit({"beamline": 30})
                own.start()
        items += read(source, len(run) - len(items))

    assert documents(items) == run
    assert in_order(items)
    assert sink.faults == {}
    told = [record.getMessage() for record in caplog.records if record.name == "pipeline.sources.link"]
    assert [text.split(":")[0].split(",")[0] for text in told] == [
        "NATS beamline is not there",
        "NATS beamline is there again",
    ]
    source.close()
    assert indices(read(opened(NATSSource("beamline", servers=url)), len(run) - 30)) == indices(items)[30:]


def test_a_stream_that_is_made_anew_is_read_from_its_beginning(url, stream, opened, caplog):
    publish(url, stream)
    source = opened(NATSSource(stream, servers=url))
    source.commit(last(read(source, len(RUN))))

    ask(url, ("delete_stream", (stream,), {}), add_stream(url, stream))
    publish(url, stream, RUN[:3])

    anew, *items = read(source, 4)
    assert anew == poison(Position(stream, 0), "the stream was made anew", begins_anew=True)
    assert repr(documents(items)) == repr(RUN[:3])
    assert f"NATS {stream}: the stream was made anew; it is read from its beginning." in caplog.messages


def test_no_nats_is_told_once_and_ends_a_source_that_is_to_end(dead_uri, opened, caplog):
    source = opened(
        NATSSource("beamline", servers=dead_uri.replace("http:", "nats:").removesuffix("/api/v1"), idle=0.5)
    )

    assert nothing_more(source, 0.6)

    assert source.ended
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("NATS beamline is not there: ")


def test_the_sink_waits_for_nats_only_so_long_and_tells_what_it_refuses(dead_uri, url, stream):
    sink = NATSSink("beamline", dead_uri.replace("http:", "nats:").removesuffix("/api/v1"), patience=0.3)
    with pytest.raises(PipelineError, match=r"NATS beamline is not there: .* the document is not in it"):
        sink(*RUN[0])
    sink.close()

    sink = NATSSink(f"{stream}.x", url)
    with pytest.raises(PipelineError, match=r"refuses a 'event' of 2000\d+ bytes: nats: maximum payload exceeded"):
        sink("event", {"uid": "e", "x": "y" * 2_000_000})
    sink.close()


def test_passwords_come_from_the_environment_and_are_never_told(monkeypatch, dead_uri, opened, caplog):
    for kind in (NATSSource, NATSSink):
        with pytest.raises(PipelineError, match="wanted a URI without a password; it is taken from NATS_PASSWORD"):
            kind("beamline", servers="nats://ada:a-secret@127.0.0.1")
    monkeypatch.setenv("NATS_USER", "ada")
    monkeypatch.setenv("NATS_PASSWORD", "a-secret")
    source = opened(NATSSource("beamline", servers=dead_uri.replace("http:", "nats:").removesuffix("/api/v1")))

    with caplog.at_level(logging.DEBUG):
        assert nothing_more(source, 0.2)

    assert "a-secret" not in caplog.text + repr(source) + str(vars(source))

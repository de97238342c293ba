"""What Kafka holds is read in order, again until it is committed, by one process of the group or by several."""

import logging
import pickle
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager

import msgpack_numpy
import numpy
import pytest
from confluent_kafka import Producer
from reading import documents, in_order, last, nothing_more, read, reader

from pipeline.errors import PipelineError
from pipeline.sources.kafka import KafkaSource
from pipeline.sources.position import POISON, Position, PositionedSource
from pipeline.testing import make_run

KAFKA = "pipeline.sources.kafka:KafkaSource"
QUICK = {"session.timeout.ms": 3500, "heartbeat.interval.ms": 200}  # librdkafka's own cluster frees no member sooner


def image(n):
    return numpy.arange(12, dtype="<u2").reshape(3, 4) + n


def new_cluster():
    """Give a producer that is a cluster of one broker, of librdkafka itself, and the address of that broker."""
    producer = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    return producer, f"{broker.host}:{broker.port}"


@pytest.fixture
def cluster():
    return new_cluster()


@contextmanager
def opened(source, begin=None):
    source.open(begin or {})
    try:
        yield source
    finally:
        source.close()


def publish(producer, run, topic="raw", **options):
    for item in run:
        producer.produce(topic, msgpack_numpy.packb(list(item)), key=run[0][1]["uid"].encode(), **options)
    producer.flush(10)


PUBLISH = """
import sys
from bluesky_kafka import Publisher
from pipeline.testing import make_run
from test_kafka import image
run = make_run({"det": [float("nan"), 2.0, 3.0], "image": [image(n) for n in range(3)]})
publisher = Publisher("raw", sys.argv[1], run[0][1]["uid"])
for item in run:
    publisher(*item)
publisher.flush()
"""


def test_what_bluesky_kafka_publishes_comes_as_it_was_with_its_positions(cluster, request):
    pytest.importorskip("bluesky_kafka._version", reason="bluesky-kafka is not installed")
    _, address = cluster
    folder = str(request.path.parent)
    run = make_run({"det": [float("nan"), 2.0, 3.0], "image": [image(n) for n in range(3)]})

    subprocess.run([sys.executable, "-c", PUBLISH, address], check=True, timeout=60, env={"PYTHONPATH": folder})
    with opened(KafkaSource("raw", address)) as source:
        items = read(source, len(run))

    assert isinstance(source, PositionedSource)
    assert repr(documents(items)) == repr(run)
    (lane,) = last(items)
    assert lane in [f"raw[{n}]" for n in range(4)]
    assert [item.position for item in items] == [Position(lane, n) for n in range(len(run))]
    assert [item.doc["data"]["image"].dtype for item in items if item.name == "event"] == [numpy.dtype("u2")] * 3


def test_what_is_committed_does_not_come_again_and_all_else_does(cluster):
    producer, address = cluster
    run = make_run({"det": [float(n) for n in range(20)]})
    publish(producer, run)
    uid = run[0][1]["uid"]
    producer.produce("raw", pickle.dumps(["event", {}]), key=uid.encode())
    producer.produce("raw", None, key=uid.encode())
    publish(producer, run[-1:], topic="raw")  # the key is the same only if it begins with the uid of the run
    producer.flush(10)

    with opened(KafkaSource(["raw"], address, config=QUICK, idle=30.0)) as source:
        items = read(source, len(run) + 3)
        (lane,) = {item.position.lane for item in items if item.doc.get("uid") == uid}
        mine = [item for item in items if item.position.lane == lane]
        assert documents(mine[: len(run)]) == run
        assert in_order(items)
        bad = [item for item in mine if item.name == POISON]
        assert [item.doc["run_start"] for item in bad] == [uid, uid]
        assert all("wanted a document as msgpack or JSON" in item.doc["reason"] for item in bad)

        assert source.rewind(lane, 4)
        assert [item.position.index for item in read(source, 3)][:3] == [5, 6, 7]
        assert not source.rewind("raw[9]", 0)
        assert source.rewind(lane, None)
        assert read(source, 1)[0].position == Position(lane, 0)
        assert not source.ended
        source.commit({lane: 9, "raw[9]": 1})

    with (
        opened(KafkaSource("raw", address, config=QUICK), {lane: 2}) as source,
        opened(KafkaSource("^ra.$", address, "another", config=QUICK), {lane: 2}) as another,
    ):
        first = [read(each, 1)[0].position for each in (source, another)]

    assert [each for each in first if each.lane == lane] == [Position(lane, 10), Position(lane, 3)]


def test_partitions_that_go_to_another_process_are_told_and_committed_before(tmp_path):
    """And what a killed process had not committed comes again, to the one that is left.

    A broker takes a commit while partitions move. librdkafka's own does not when the process that joins had to join
    twice: then what was read comes again, all of it; and partitions are moved anew, until a commit was taken.
    """
    assert any(are_moved(tmp_path / str(n)) for n in range(10))


def are_moved(folder):
    """Move partitions from one process to another, which is killed; True if what was read was committed before."""
    folder.mkdir()
    producer, address = new_cluster()
    runs = [make_run({"det": [float(n) for n in range(40)]}, uid=f"run-{k}") for k in range(4)]
    args = (KAFKA, "raw", address)

    def go(part):
        for partition, run in enumerate(runs):
            publish(producer, run[part], partition=partition)

    go(slice(0, 20))
    with reader(folder / "a", *args, config=QUICK) as a:
        a.wait(lambda a: len(a.items()) >= 80)
        with reader(folder / "b", *args, config=QUICK) as b:
            a.wait(lambda a: a.lost())
            go(slice(20, 30))
            b.wait(lambda b: b.items())
            a.wait(lambda a: len(set(a.uids()) | set(b.uids())) == 120)
            (moved,) = a.lost()
            b.kill()

            go(slice(30, None))
            wanted = {doc["uid"] for run in runs for _, doc in run}
            a.wait(lambda a: set(a.uids()) | set(b.uids()) == wanted)

            refused = [text for text in a.told() if "Group rebalance in progress" in text]
            committed = 0 if refused else 20
            of_a, of_b = a.items(), b.items()
            first_of_b = {lane: min(line[2] for line in of_b if line[1] == lane) for lane in {line[1] for line in of_b}}
            assert len(moved) == 2
            assert first_of_b == dict.fromkeys(moved, committed)
            again = [line for line in of_a if line[1] in moved and 20 <= line[2] < 30]
            assert len(again) == 20
            twice = {lane_index for lane_index, n in Counter((line[1], line[2]) for line in of_a).items() if n > 1}
            assert twice == {(lane, n) for lane in moved for n in range(committed, 20)}
            a.end()
    return not refused


def test_no_broker_is_told_once_and_nothing_else(dead_uri, caplog, capfd):
    source = KafkaSource("raw", dead_uri.removeprefix("http://").partition("/")[0], idle=1.0)

    with caplog.at_level(logging.INFO), opened(source):
        before = time.monotonic()
        assert nothing_more(source, 1.5)
        assert time.monotonic() - before < 3
        assert source.ended

    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert told[0].startswith("Kafka raw is not there: ")
    assert capfd.readouterr() == ("", "")


def test_passwords_come_from_the_environment_or_a_file_and_are_never_told(monkeypatch, tmp_path, caplog):
    with pytest.raises(PipelineError, match=r"config has 'sasl.password'; it is taken from KAFKA_SASL_PASSWORD"):
        KafkaSource("raw", config={"sasl.password": "a-secret"})
    (tmp_path / "password").write_text("a-secret\n")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "ada")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD_FILE", str(tmp_path / "password"))
    source = KafkaSource(
        "raw", "127.0.0.1:1", config={"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN"}
    )

    with caplog.at_level(logging.DEBUG), opened(source):
        assert source._settings()["sasl.password"] == "a-secret"
        assert nothing_more(source, 0.2)

    assert "a-secret" not in caplog.text + repr(source) + str(vars(source))


def test_what_cannot_be_is_refused():
    with pytest.raises(PipelineError, match="wanted at least one"):
        KafkaSource([])
    with pytest.raises(PipelineError, match=r"librdkafka refuses its settings: .*no.such"):
        KafkaSource("raw", config={"no.such": 1}).open({})
    with pytest.raises(PipelineError, match="is not open"):
        KafkaSource("raw").read(0)

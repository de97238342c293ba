"""A soak: many runs from Kafka and from a journal at once, by services that share a ledger and are killed meanwhile.

`python tests/soak.py 2000` runs as many raw runs as one likes, half from each; it prints what it saw, and fails if an
analysis differs from that of a replay, or a run is parked.
"""

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

import msgpack
import yaml
from confluent_kafka import Producer

from pipeline import Node, Pipeline
from pipeline.config import load
from pipeline.sinks import Journal, JSONLSink
from pipeline.state_store import StateStore
from pipeline.testing import make_run

TOPIC = "raw"
QUICK = {"session.timeout.ms": 3500, "heartbeat.interval.ms": 200}  # librdkafka's own cluster frees no member sooner
NODES = [
    {"name": "peak", "reductions": [{"PeakStatistics": {"x": "x", "y": "y"}}, {"Mean": "y"}], "every": 4},
    {"name": "spread", "reductions": [{"Statistics": "y"}]},
]
SIDE_BY_SIDE = 6  # runs that are open at once, of either source
PATIENCE = 60  # seconds without a run that ends


class Seen(NamedTuple):
    """What a soak saw."""

    n_runs: int
    n_kills: int
    seconds: float
    memory: dict  # name of a process -> MB at the start and at the end, of one that was not killed
    wrong: list  # names of ledger files that differ from a replay, or are not there
    parked: list


# raw runs ----------------------------------------------------------------------------------------------------------


def raw_run(number):
    n = 6 + number % 9
    data = {"x": [float(i) for i in range(n)], "y": [float((i * i + number) % 11) for i in range(n)]}
    return make_run(data, uid=f"soak-{number}", scan_id=number)


def interleaved(numbers):
    """Yield the documents of these runs, of some of them at a time: the uid of the run, and the document."""
    waiting = deque(numbers)
    open_runs = deque()
    while waiting or open_runs:
        if waiting and len(open_runs) < SIDE_BY_SIDE:
            open_runs.append(deque(raw_run(waiting.popleft())))
        run = open_runs.popleft()
        yield run.popleft()
        if run:
            open_runs.append(run)


def replayed(number, folder):
    """Return the ledger files that a replay of a run makes."""
    with JSONLSink(folder) as ledger:
        Pipeline(nodes(folder.parent), [ledger]).replay(raw_run(number))
    found = {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}
    for path in folder.iterdir():
        path.unlink()
    return found


def nodes(folder) -> list[Node]:
    return load(folder / "journal.yaml").nodes


# sources -----------------------------------------------------------------------------------------------------------


class Kafka:
    """A cluster of one broker, of librdkafka itself, and what publishes to it."""

    def __init__(self):
        self._producer = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0})
        (broker,) = self._producer.list_topics(timeout=10).brokers.values()
        self.address = f"{broker.host}:{broker.port}"
        self._runs = {}  # descriptor uid -> run uid

    def __call__(self, name, doc):
        if name == "descriptor":
            self._runs[doc["uid"]] = doc["run_start"]
        run = doc["uid"] if name == "start" else doc.get("run_start") or self._runs[doc["descriptor"]]
        self._producer.produce(TOPIC, msgpack.packb([name, doc]), key=run.encode())
        self._producer.poll(0)

    def flush(self):
        assert self._producer.flush(10) == 0


def publish(sink, numbers, seconds):
    """Give a sink the documents of these runs, in about so many seconds."""
    documents = list(interleaved(numbers))
    began = time.monotonic()
    for n, item in enumerate(documents, 1):
        sink(*item)
        time.sleep(max(0.0, began + n * seconds / len(documents) - time.monotonic()))


# services ----------------------------------------------------------------------------------------------------------


class Process:
    """`bluesky-pipeline run CONFIG`, which is started again when it is killed."""

    def __init__(self, folder, name, *options):
        self._command = [sys.executable, "-m", "pipeline", "run", *options]
        self._folder, self._log = folder, folder / f"{name}.log"
        self.n_kills = 0
        self._start()

    def _start(self):
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=log, stderr=log)

    def kill(self):
        """Kill it, and start another."""
        assert self._process.poll() is None, self.said()
        self._process.kill()
        self._process.wait()
        self.n_kills += 1
        self._start()

    def end(self):
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def memory(self):
        """Resident, in MB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def said(self):
        return self._log.read_text()[-3000:]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()


def configure(folder, address):
    common = {"nodes": NODES, "sinks": [{"JSONLSink": "ledger"}], "service": {"snapshot_seconds": 0.5}}
    kafka = {"KafkaSource": {"topics": TOPIC, "bootstrap": address, "config": QUICK}}
    (folder / "kafka.yaml").write_text(yaml.safe_dump({**common, "source": kafka}))
    (folder / "journal.yaml").write_text(yaml.safe_dump(common))


def soak(n_runs, folder, *, seconds, kill_seconds):
    """Have so many runs published in so many seconds, kill a service every few of them, and see what comes out."""
    folder = Path(folder)
    kafka = Kafka()
    configure(folder, kafka.address)
    began = time.monotonic()
    with (
        Journal(folder / "journal") as journal,
        Process(folder, "steady", "kafka.yaml") as steady,
        Process(folder, "killed", "kafka.yaml") as killed,
        Process(folder, "of the journal", "journal.yaml", "--journal", "journal") as third,
    ):
        writers = [
            threading.Thread(target=publish, args=(sink, range(first, n_runs, 2), seconds), daemon=True)
            for first, sink in enumerate((kafka, journal))
        ]
        for writer in writers:
            writer.start()
        memory = {}
        next_kill = began + kill_seconds
        victims = deque([killed, third])
        while any(writer.is_alive() for writer in writers):
            time.sleep(0.1)
            if "steady" not in memory and n_over(folder) > n_runs / 20:
                memory["steady"] = [steady.memory()]
            if time.monotonic() >= next_kill:
                next_kill = time.monotonic() + kill_seconds
                victims[0].kill()
                victims.rotate()
        kafka.flush()
        wait_until_over(folder, n_runs, lambda: "\n\n".join(each.said() for each in (steady, killed, third)))
        took = time.monotonic() - began
        memory.setdefault("steady", [0.0]).append(steady.memory())
        memory["killed"], memory["of the journal"] = [killed.memory()], [third.memory()]
        statuses = [each.end() for each in (steady, killed, third)]
        assert statuses == [0, 0, 0], steady.said() + killed.said() + third.said()
    wrong, parked = compare(folder, n_runs)
    return Seen(n_runs, killed.n_kills + third.n_kills, took, memory, wrong, parked)


def n_over(folder):
    """How many raw runs the services have stored as over."""
    path = folder / "ledger" / ".state" / "state.db"
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
        try:
            return db.execute("SELECT count(*) FROM over").fetchone()[0]
        except sqlite3.OperationalError:  # it is being made
            return 0


def wait_until_over(folder, n_runs, said):
    """Return when all runs are over; fail if none ends for long."""
    most, deadline = -1, 0.0
    while most < n_runs:
        n = n_over(folder)
        if n > most:
            most, deadline = n, time.monotonic() + PATIENCE
        assert time.monotonic() < deadline, f"{most} of {n_runs} runs are over; {state(folder)}\n{said()}"
        time.sleep(0.2)


def state(folder):
    store = StateStore(folder / "ledger" / ".state" / "state.db")
    try:
        return [(run.uid, run.lane, run.parked, run.n_documents) for run in store.runs()], store.poison()
    finally:
        store.close()


def compare(folder, n_runs):
    """Return the names of files that are not as a replay makes them, and the runs that are parked or open."""
    wrong, known = [], set()
    for number in range(n_runs):
        for name, wanted in replayed(number, folder / "replayed").items():
            path = folder / "ledger" / name
            known.add(name)
            if not path.exists() or path.read_bytes() != wanted:
                wrong.append(name)
    wrong += sorted(path.name for path in (folder / "ledger").glob("*.jsonl") if path.name not in known)
    open_runs, poison = state(folder)
    return wrong, [*open_runs, *poison]


def main(n_runs, runs_per_second=8.0, kill_seconds=3.0):
    with tempfile.TemporaryDirectory() as folder:
        seen = soak(n_runs, folder, seconds=n_runs / runs_per_second, kill_seconds=kill_seconds)
    print(json.dumps(seen._asdict(), indent=1))
    return bool(seen.wrong or seen.parked)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *map(float, sys.argv[2:])))

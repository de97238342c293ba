"""What a service costs a scan, how soon and how fast it has results, how soon it goes on, what it keeps in memory."""

import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bluesky import RunEngine

from benchmarks.memory import TEMPLATE, renamed, resident
from benchmarks.scans import POINTS, devices, followed, ratio_of, seconds_of_a_scan
from pipeline import Node, Pipeline, Reduction, attach
from pipeline.catalog import python_module
from pipeline.documents import loads
from pipeline.reductions import Mean
from pipeline.service import Service
from pipeline.sinks import JSONLSink
from pipeline.sinks.journal import Journal
from pipeline.sources.journal import JournalSource
from pipeline.sources.kafka import KafkaSource
from pipeline.sources.position import Item, Position
from pipeline.testing import make_run

SCANS = 15
N_EVENTS, ROUNDS = 20_000, 5
SECONDS = 10  # of points, one after the other
N_RUNS, N_BEFORE, N_AFTER = 100, 10_000, 20
RUNS, WARM = 10_000, 6000


def five_nodes(every=1):
    return [Node(f"mean{k}", Mean(f"det{k}"), every=every) for k in range(5)]


def run(n, uid="service"):
    return make_run({f"det{k}": [1.1 * i + k for i in range(n)] for k in range(5)}, uid=uid)


def configuration(folder, nodes):
    path = Path(folder) / "service.yaml"
    config = {"allow": ["benchmarks"], "nodes": nodes, "sinks": [{"JSONLSink": str(Path(folder) / "ledger")}]}
    path.write_text(json.dumps(config))  # which is YAML
    return path


@contextmanager
def served(folder, nodes):
    """A process that serves what is in the journal, which is begun before, as by `attach`."""
    config, journal = configuration(folder, nodes), Path(folder) / "journal"
    Journal(journal).close()
    command, environment = python_module("pipeline", "run", str(config), "--journal", str(journal))
    with subprocess.Popen(command, env=environment) as process:
        yield process
        process.terminate()


# a scan ------------------------------------------------------------------------------------------------------------


class Burn(Reduction):
    """Takes five milliseconds of CPU for each event."""

    def __init__(self, field):
        self.fields = (field,)
        self.n = 0

    def update(self, data):
        end = time.thread_time() + 0.005
        while time.thread_time() < end:
            self.n += 1

    def result(self):
        return {"burnt": 1.0}


def attached():
    """Measure a scan with a journal attached, whose analysis burns 5 ms a point, against a bare one, in turn."""
    bare, RE = (RunEngine({}, call_returns_result=False) for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        nodes = [{"name": "burn", "reductions": [{"benchmarks.service:Burn": "det"}]}]
        analysis = attach(RE, configuration(folder, nodes))
        scans = {
            "bare": lambda *the: seconds_of_a_scan(bare, *the),
            "no-op": lambda *the: followed(lambda name, doc: None, bare, *the),
            "attached": lambda *the: seconds_of_a_scan(RE, *the),
        }
        rounds = [_one_round(scans, folder, n) for n in range(SCANS + 1)][1:]
        analysis.close()
    added = {name: median(each[name] - each["bare"] for each in rounds) / POINTS * 1e3 for name in scans}
    point = median(each["bare"] for each in rounds) / POINTS * 1e3
    print(f"attached: a point takes {point:.2f} ms; no-op {ratio_of('no-op', rounds):.3f}, {added['no-op']:+.3f} ms")
    yield "scan, attached: ratio to bare", (ratio := ratio_of("attached", rounds)), 1.05, ratio <= 1.05
    yield "scan, attached: ms added a point", added["attached"], 0.3, added["attached"] <= 0.3


def _one_round(scans, folder, n_before):
    det, motor = devices()
    seconds = {}
    for name in random.sample(list(scans), len(scans)):
        seconds[name] = scans[name](det, motor)
        if name == "attached":  # its analysis takes longer than the scan: the next scan is to have the machine alone
            _wait_for(lambda: len(list(Path(folder).glob("ledger/*.work.json"))) > n_before)
    return seconds


def _wait_for(is_so, seconds=60, pause=0.01):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(pause)


# how soon ----------------------------------------------------------------------------------------------------------

WRITER = """
    import sys, time
    from pipeline.sinks.journal import Journal
    from pipeline.testing import make_run
    folder, n, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    run = make_run({"det": [1.1 * i for i in range(n)]}, uid="latency")
    with Journal(folder) as journal:
        for name, doc in run:
            if name == "event":
                time.sleep(pause)
            journal(name, {**doc, "time": time.time()})
"""


def latency():
    """Measure milliseconds from the append of a raw event to its derived event in the ledger, by three processes."""
    for pause in (0.0025, 0.05):
        ages = sorted(_ages(int(SECONDS / pause), pause))
        middle, p99 = ages[len(ages) // 2] * 1e3, ages[int(0.99 * len(ages))] * 1e3
        print(f"latency: {len(ages)} points, the slowest {ages[-1] * 1e3:.1f} ms")
        yield f"result, every {pause * 1e3:g} ms: median in ms", middle, 5.0, middle <= 5
        yield f"result, every {pause * 1e3:g} ms: p99 in ms", p99, 50.0, p99 <= 50


def _ages(n, pause):
    with tempfile.TemporaryDirectory() as folder, served(folder, [{"name": "mean", "reductions": [{"Mean": "det"}]}]):
        journal, ledger = Path(folder) / "journal", Path(folder) / "ledger"
        _wait_for(lambda: (journal / "readers" / "pipeline.json").exists())
        command = [sys.executable, "-c", textwrap.dedent(WRITER), str(journal), str(n), str(pause)]
        with subprocess.Popen(command):
            _wait_for(lambda: list(ledger.glob("*.jsonl")))
            (path,) = ledger.glob("*.jsonl")
            return list(_tail(path))


def _tail(path):
    """Yield how old each event of stream `running` is when its line is seen, until the run stops."""
    name = torn = b""
    with open(path, "rb", buffering=0) as file:
        while name != "stop":
            *lines, torn = (torn + file.read(1 << 20)).split(b"\n")
            now = time.time()
            for line in lines:
                name, doc = loads(line)
                if name == "event" and "n_events" in doc["data"]:
                    yield now - doc["time"]
            time.sleep(0.0002)


# how fast ----------------------------------------------------------------------------------------------------------


def throughput():
    """Measure raw events a second into five nodes that have a result for each, from the journal and from Kafka."""
    documents = run(N_EVENTS)
    for name, rate_of in (("the journal", _from_journal), ("Kafka", _from_kafka)):
        rate = median(rate_of(documents) for _ in range(ROUNDS))
        yield f"service, events a second of {name}", rate, 5000.0, rate >= 5000


def _from_journal(documents):
    with tempfile.TemporaryDirectory() as folder:
        with Journal(Path(folder) / "journal") as journal:
            for item in documents:
                journal(*item)
        service = _service(folder, JournalSource(Path(folder) / "journal", follow=False), five_nodes())
        began = time.perf_counter()
        service.run()
        return N_EVENTS / (time.perf_counter() - began)


def _from_kafka(documents):
    import msgpack
    from confluent_kafka import Producer

    # librdkafka's own cluster keeps 5 MiB of a topic.
    producer = Producer(
        {"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "compression.type": "lz4", "log_level": 0}
    )
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    for item in documents:
        producer.produce("raw", msgpack.packb(item), key=documents[0][1]["uid"])
    producer.flush(60)
    source = Until(len(documents), f"{broker.host}:{broker.port}")
    with tempfile.TemporaryDirectory() as folder:
        _service(folder, source, five_nodes()).run()
        return N_EVENTS / (time.perf_counter() - source.began)


class Until(KafkaSource):
    """Ends after so many documents, and knows when the first of them came."""

    def __init__(self, n, address):
        super().__init__("raw", address)
        self.left, self.began = n, 0.0

    @property
    def ended(self):
        return self.left <= 0

    def read(self, timeout):
        items = super().read(timeout)
        if items and not self.began:
            self.began = time.perf_counter()
        self.left -= len(items)
        return items


def _service(folder, source, nodes, **options):
    return Service(Pipeline(nodes, [JSONLSink(Path(folder) / "ledger")]), source, **options)


# how soon again ----------------------------------------------------------------------------------------------------


def restart():
    """Measure seconds from the start of a process to being level: open runs, each with more events in the journal."""
    every = N_AFTER  # so that each file of the ledger grows when its run is level
    nodes = [{"name": f"mean{k}", "every": every, "reductions": [{"Mean": f"det{k}"}]} for k in range(5)]
    with tempfile.TemporaryDirectory() as folder:
        snapshot = _open_runs(Path(folder), five_nodes(every))
        with sqlite3.connect(Path(folder) / "ledger" / ".state" / "state.db") as db:
            ((n, size),) = db.execute("SELECT count(*), sum(length(snapshot)) FROM runs")
        print(f"restart: {n} runs of 5 nodes are stored in {size / 1e6:.1f} MB")
        before = _sizes(folder)
        began = time.perf_counter()
        with served(folder, nodes):
            _wait_for(lambda: all(size > before[name] for name, size in _sizes(folder).items()))
            seconds = time.perf_counter() - began
    yield f"restart with {n} runs, s", seconds, 5.0, seconds <= 5
    yield f"snapshot of {n} runs, s", snapshot, 1.0, snapshot <= 1


def _open_runs(folder, nodes):
    """Take in a part of each run, and leave the rest in the journal; return how many seconds the snapshot took."""
    runs = [run(N_BEFORE + N_AFTER, uid=f"restart-{k}") for k in range(N_RUNS)]
    with Journal(folder / "journal") as journal:
        for documents in runs:
            for item in documents[: 2 + N_BEFORE]:
                journal(*item)
        source = JournalSource(folder / "journal")
        source.end_when_level()  # what is open stays open
        service = Snapshots(Pipeline(nodes, [JSONLSink(folder / "ledger")]), source, snapshot_seconds=1e9)
        service.run()
        for row in zip(*(documents[2 + N_BEFORE : -1] for documents in runs), strict=True):
            for item in row:
                journal(*item)
    return max(service.seconds)


class Snapshots(Service):
    """Knows how long each snapshot took."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.seconds = []

    def checkpoint(self):
        began = time.perf_counter()
        super().checkpoint()
        self.seconds.append(time.perf_counter() - began)


def _sizes(folder):
    return {path.name: path.stat().st_size for path in (Path(folder) / "ledger").glob("*.jsonl")}


# memory ------------------------------------------------------------------------------------------------------------


class Runs:
    """A source of short runs, every other one without its stop document; tells how the process grows meanwhile."""

    name, may_lose, is_stored, ended = "runs", False, False, False

    def __init__(self):
        self._k = self._n = 0
        self.grown = 0.0

    def open(self, begin, on_lost=None):
        pass

    def read(self, timeout):
        if self._k == WARM:
            self._warm = resident()
        if self._k == WARM + RUNS:
            self.grown = resident() - self._warm
            self.ended = True
            return []
        documents = list(renamed(TEMPLATE, f"{self._k:08d}-0000-4000-8000-000000000000"))
        documents = documents[:-1] if self._k % 2 else documents
        self._k += 1
        self._n += len(documents)
        first = self._n - len(documents)
        return [Item(Position("runs", first + i), *item) for i, item in enumerate(documents, 1)]

    def rewind(self, lane, index):
        return False

    def commit(self, positions):
        pass

    def close(self):
        pass


def service_memory():
    """Measure megabytes by which a service grows with the number of runs, half of which never stop."""
    # In a process of its own: what other benchmarks have let go would hide it.
    command = [sys.executable, "-c", "from benchmarks.service import grown; print(grown())"]
    megabytes = float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    yield f"service, MB after {RUNS:,} runs", megabytes, 5.0, megabytes < 5


def grown():
    source = Runs()
    with tempfile.TemporaryDirectory() as folder:
        _service(folder, source, [Node("mean", Mean("det"))]).run()
    return source.grown

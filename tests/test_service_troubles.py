"""What goes wrong where a service runs: full disks, lost files, killed and stopped processes, catalogs that are away."""

import contextlib
import json
import logging
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline import Node, Pipeline
from pipeline.audit import audit
from pipeline.catalog import connect, stop_server
from pipeline.cli import main
from pipeline.config import load
from pipeline.reductions import Mean, PeakStatistics
from pipeline.service import Service
from pipeline.sinks import Journal, JSONLSink
from pipeline.sources import JournalSource
from pipeline.testing import make_run

CONFIG = """
nodes:
  - name: peak
    reductions:
      - PeakStatistics: {x: x, y: y}
      - Mean: y
sinks:
  - JSONLSink: ledger
service: {snapshot_seconds: 0.2}
"""


def nodes():
    return [Node("peak", PeakStatistics("x", "y"), Mean("y"))]


def raw_run(uid, n=40):
    return make_run({"x": [float(i) for i in range(n)], "y": [float(i * i % 7) for i in range(n)]}, uid=uid)


def uid_of(run):
    return run[0][1]["uid"]


def until(what, seconds=30.0, why="it has not come about"):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, why() if callable(why) else why
        time.sleep(0.02)
    return found


def ledger_bytes(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.jsonl")}


def replayed(runs, folder):
    with JSONLSink(folder) as ledger:
        for run in runs:
            Pipeline(nodes(), [ledger]).replay(run)
    return ledger_bytes(folder)


def put(journal, items):
    for item in items:
        journal(*item)


@contextlib.contextmanager
def serving(journal, ledger, **options):
    """A service that follows a journal, in a thread of its own."""
    pipeline = Pipeline(nodes(), [JSONLSink(ledger)])
    service = Service(pipeline, JournalSource(journal), snapshot_seconds=0.1, **options)
    thread = threading.Thread(target=service.run, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.stop()
        thread.join(20)
        assert not thread.is_alive()


def n_ended(service):
    return service.report()["nodes"].get("peak", {}).get("ended", 0)


def errors(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# disks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(path)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk):
    """Leave no room on a disk; return the file that takes it."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return ballast


@pytest.mark.parametrize("what", ["ledger", "state"])
def test_a_full_disk_is_told_once_and_waited_for(what, small_disk, tmp_path, caplog):
    runs = [raw_run("before"), raw_run("a", 300), raw_run("b", 300)]
    ledger = small_disk / "ledger" if what == "ledger" else tmp_path / "ledger"
    state = {"state": small_disk / "state" / "state.db"} if what == "state" else {}
    with Journal(tmp_path / "journal") as journal, serving(tmp_path / "journal", ledger, **state) as service:
        put(journal, runs[0])
        until(lambda: n_ended(service) == 1 and service.report()["ready"])
        put(journal, runs[1][:50])
        until(lambda: service.report()["counts"]["documents"] == len(runs[0]) + 50)

        ballast = fill(small_disk)
        put(journal, runs[1][50:])
        put(journal, runs[2])
        until(lambda: not service.report()["ready"])
        assert "what comes cannot be kept" in service.report()["why_not_ready"]
        time.sleep(1.5)
        assert not service.report()["ready"]
        ballast.unlink()

        until(lambda: service.report()["ready"] and n_ended(service) >= 2 and journal.position == committed(journal))
        open_runs = service._store.runs()

    assert ledger_bytes(ledger) == replayed(runs, tmp_path / "replayed")
    assert open_runs == []
    assert len([each for each in errors(caplog) if each.startswith("What came cannot be kept")]) == 1


def committed(journal):
    return journal.readers().get("pipeline")


SERVE = """
import sys, threading
from test_service_troubles import serving, committed
from pipeline.sinks import Journal
with serving("journal", "ledger") as service:
    print("serves", flush=True)
    told = True
    while sys.stdin.readline():
        report = service.report()
        print(report["ready"], report["why_not_ready"] or "-", flush=True)
"""


def test_a_process_that_may_not_write_more_goes_on_when_it_may(tmp_path):
    runs = [raw_run("a", 400), raw_run("b")]
    command = [sys.executable, "-c", SERVE]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (
        Journal(tmp_path / "journal") as journal,
        subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes) as process,
    ):

        def told():
            process.stdin.write("\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        assert process.stdout.readline() == "serves\n"
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (60_000, hard))
        for run in runs:
            put(journal, run)
        until(lambda: told().startswith("False what comes cannot be kept"))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        until(lambda: committed(journal) == journal.position and told() == "True -")
        process.stdin.close()
        said = process.stderr.read()
        assert process.wait(20) == 0

    assert ledger_bytes(tmp_path / "ledger") == replayed(runs, tmp_path / "replayed")
    assert said.count("What came cannot be kept") == 1


def test_a_ledger_that_is_removed_is_told_and_open_runs_are_made_again(tmp_path, caplog):
    before, run, after = raw_run("before"), raw_run("a"), raw_run("b")
    ledger = tmp_path / "ledger"
    with Journal(tmp_path / "journal") as journal, serving(tmp_path / "journal", ledger) as service:
        put(journal, before)
        put(journal, run[:20])
        until(lambda: n_ended(service) == 1 and committed(journal) == journal.position)

        shutil.rmtree(ledger)
        put(journal, run[20:])
        until(lambda: not service.report()["ready"])
        time.sleep(1.0)
        assert not ledger.exists()
        ledger.mkdir()
        put(journal, after)
        until(lambda: service.report()["ready"] and committed(journal) == journal.position)

    assert ledger_bytes(ledger) == replayed([run, after], tmp_path / "replayed")
    assert len([each for each in errors(caplog) if each.startswith("What came cannot be kept")]) == 1


# processes ---------------------------------------------------------------------------------------------------------


class Process:
    """`bluesky-pipeline run pipeline.yaml --journal journal` in this folder."""

    def __init__(self, folder, name="service"):
        self.log = folder / f"{name}.log"
        command = [sys.executable, "-m", "pipeline", "run", "pipeline.yaml", "--journal", "journal", "--until-released"]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=log)

    @property
    def pid(self):
        return self._process.pid

    def signal(self, number):
        self._process.send_signal(number)

    def said(self):
        return self.log.read_text()

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()

    def finish(self):
        """Let it end when all is done."""
        self._process.stdin.close()
        assert self._process.wait(40) == 0, self.said()


@contextlib.contextmanager
def process(folder, name="service"):
    one = Process(folder, name)
    try:
        yield one
    finally:
        if one._process.poll() is None:
            one.signal(signal.SIGCONT)
            one.kill()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pipeline.yaml").write_text(CONFIG)
    return tmp_path


def reports(folder):
    """What services told of themselves last."""
    found = []
    for path in folder.glob("ledger/.state/service-*.json"):
        with contextlib.suppress(OSError, ValueError):
            found.append(json.loads(path.read_bytes()))
    return found


def test_a_process_that_was_stopped_does_not_spoil_what_another_has_taken_over(folder):
    runs = [raw_run(f"run-{n}") for n in range(5)]
    with Journal(folder / "journal") as journal, process(folder, "first") as first:
        put(journal, runs[0])
        put(journal, runs[1][:20])
        until(lambda: committed(journal) == journal.position)
        put(journal, runs[1][20:25])
        first.signal(signal.SIGSTOP)
        put(journal, [*runs[1][25:], *runs[2][:20]])

        with process(folder, "second") as second:
            until(lambda: "is being written by another process" in second.said(), why=second.said)
            first.signal(signal.SIGCONT)
            until(lambda: "another process's by now" in first.said(), why=first.said)
            put(journal, [*runs[2][20:], *runs[3][:20]])
            until(lambda: committed(journal) == journal.position)
            until(lambda: any("it stands by" in each["why_not_ready"] for each in reports(folder)))
            assert second.said().count("another process's by now") == 0
            second.kill()

        put(journal, [*runs[3][20:], *runs[4]])
        until(lambda: committed(journal) == journal.position, why=first.said)
        assert first.said().count("another process's by now") == 1
        first.finish()

    assert ledger_bytes(folder / "ledger") == replayed(runs, folder / "replayed")


def test_a_process_that_is_killed_again_and_again_loses_and_doubles_nothing(folder):
    runs = [raw_run(f"run-{n}", 30) for n in range(60)]
    chance = random.Random()
    n_kills = 0
    writer = threading.Thread(target=write_slowly, args=(folder / "journal", runs, 14.0))
    writer.start()
    while n_kills < 15 or writer.is_alive():
        one = Process(folder)
        time.sleep(chance.uniform(0.2, 1.5))
        one.kill()
        n_kills += 1
    writer.join()

    last = Process(folder)
    last.finish()

    assert n_kills >= 15
    assert ledger_bytes(folder / "ledger") == replayed(runs, folder / "replayed"), last.said()[-3000:]


def write_slowly(directory, runs, seconds):
    """Write pairs of interleaved runs in about so many seconds; return how many each document took."""
    took = []
    with Journal(directory) as journal:
        for one, other in zip(runs[::2], runs[1::2], strict=True):
            for pair in zip(one, other, strict=True):
                for item in pair:
                    began = time.perf_counter()
                    journal(*item)
                    took.append(time.perf_counter() - began)
                time.sleep(2 * seconds / len(runs) / len(one))
    return took


def test_what_cannot_be_read_parks_its_run_until_it_is_given_up(folder, capsys):
    spoiled, good = raw_run("spoiled"), raw_run("good")
    with process(folder):
        with Journal(folder / "journal") as journal:
            put(journal, spoiled[:10])
        (segment,) = (folder / "journal").glob("*.jsonl")
        descriptor = spoiled[1][1]["uid"]
        with open(segment, "ab") as file:
            file.write(f'["event",{{"descriptor":"{descriptor}","seq_num":"nine"}}]\n'.encode())
        with Journal(folder / "journal") as journal:
            put(journal, [*spoiled[10:], *good])
            until(lambda: any(report["runs"]["parked"] == 1 for report in reports(folder)))

        assert main(["status", "--ledger", str(folder / "ledger")]) == 0
        told = capsys.readouterr().out
        assert f"{uid_of(spoiled)}  parked" in told
        assert "event has no 'uid'; wanted text" in told
        assert uid_of(good) not in told
        assert ledger_bytes(folder / "ledger").items() >= replayed([good], folder / "good").items()

        assert main(["give-up", uid_of(spoiled), "--ledger", str(folder / "ledger")]) == 0
        until(lambda: any(report["runs"]["parked"] == 0 for report in reports(folder)))

    assert ledger_bytes(folder / "ledger") == replayed([spoiled, good], folder / "replayed")


# catalogs ----------------------------------------------------------------------------------------------------------


class Proxy:
    """A way to a server, that can be closed, and made long."""

    def __init__(self, port):
        self._to = port
        self.is_closed, self.delay = False, 0.0
        self.n_refused = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.is_closed:
                    self.n_refused += 1
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._to))
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(one, other, one is client), daemon=True).start()

    def _pass(self, one, other, is_request):
        with contextlib.suppress(OSError):
            while not self.is_closed and (part := one.recv(1 << 16)):
                if is_request:
                    time.sleep(self.delay)
                other.sendall(part)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.is_closed = True
        self._listener.close()


def p99(seconds):
    return sorted(seconds)[len(seconds) * 99 // 100]


def test_a_catalog_that_is_away_and_then_slow_is_brought_level_and_disturbs_nobody(folder, monkeypatch):
    url, key = connect(folder / "catalog")
    monkeypatch.setenv("TILED_API_KEY", key)
    port = int(url.split(":")[2].split("/")[0])
    runs = [raw_run(f"run-{n}", 100) for n in range(2)]
    try:
        with Proxy(port) as proxy:
            proxy.is_closed = True
            target = url.replace(str(port), str(proxy.port))
            (folder / "pipeline.yaml").write_text(CONFIG.replace("ledger\n", f'ledger\n  - TiledSink: "{target}"\n'))
            with process(folder) as service:
                took = write_slowly(folder / "journal", runs, 3.0)
                until(lambda: ledger_bytes(folder / "ledger") == replayed(runs, folder / "replayed"), 10, service.said)
                until(lambda: proxy.n_refused and any(outages(folder)), 20, service.said)

                proxy.delay, proxy.is_closed = 0.2, False
                began = time.monotonic()
                until(lambda: is_level(folder, len(runs)), 60, service.said)
                print(f"p99 of the writer {p99(took) * 1e6:.0f} us; level after {time.monotonic() - began:.1f} s")

        assert [each.difference for each in audit(folder / "ledger", url, container="analysis")] == [""] * len(runs)
        assert p99(took) < 0.02
    finally:
        stop_server(folder / "catalog")


def projections(folder):
    return [each for report in reports(folder) for each in report["projectors"]]


def outages(folder):
    return [each["outage"] for each in projections(folder)]


def is_level(folder, n):
    return any(each["runs_level"] == n and not each["behind_bytes"] for each in projections(folder))


def test_the_configuration_of_these_tests_has_their_nodes(folder):
    assert [node.recipe for node in load(folder / "pipeline.yaml").nodes] == [node.recipe for node in nodes()]

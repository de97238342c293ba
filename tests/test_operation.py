"""A configuration as a service: real processes, a real RunEngine, a catalog, a page, signals."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from bluesky.plans import scan
from ophyd.sim import det, motor

from pipeline import attach
from pipeline.audit import audit
from pipeline.catalog import stop_server
from pipeline.cli import main
from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.sinks import Journal
from pipeline.testing import make_run
from pipeline.verify import verify

CONFIG = """
nodes:
  - name: peak
    reductions:
      - PeakStatistics: {x: motor, y: det}
      - Mean: det
  - name: unwanted
    when: {plan_name: fly}
    reductions: [{Mean: det}]
sinks:
  - JSONLSink: analysis
service: {snapshot_seconds: 0.2}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "peak.yaml").write_text(CONFIG)
    return tmp_path


def until(what, seconds=30.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it has not come about"
        time.sleep(0.05)


def raw_run(uid, n=6):
    x = [float(i) for i in range(n)]
    return make_run({"motor": x, "det": [each * (n - each) for each in x]}, uid=uid, plan_name="scan")


def differences(raw):
    return [verdict.difference for verdict in verify(load("peak.yaml").nodes, raw, ledger="analysis")]


class Running:
    """`bluesky-pipeline run peak.yaml` on a journal, with a page."""

    def __init__(self, *options):
        command = [sys.executable, "-m", "pipeline", "run", "peak.yaml", "--listen", "127.0.0.1:0", *options]
        self.log = Path("service.log")
        self._file = self.log.open("ab")
        self._begin = self.log.stat().st_size
        self.process = subprocess.Popen(command, stderr=self._file, stdout=subprocess.PIPE, text=True)
        until(lambda: "The page is at" in self.words())
        self.url = self.words().partition("The page is at ")[2].split()[0].rstrip("/")

    def words(self):
        return self.log.read_bytes()[self._begin :].decode()

    def get(self, path):
        with urllib.request.urlopen(f"{self.url}{path}", timeout=5) as answer:
            return answer.read().decode()

    def status(self):
        return json.loads(self.get("/status"))

    def node(self, name, what):
        return self.status()["nodes"].get(name, {}).get(what)

    def end(self):
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=30)
        self._file.close()
        return out, time.monotonic() - began

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self._file.close()


def test_a_scan_is_analysed_in_a_process_of_its_own(folder, RE):
    raw = []
    RE.subscribe(lambda name, doc: raw.append((name, doc)))

    with attach(RE, "peak.yaml") as analysis:
        RE(scan([det], motor, -1, 1, 20))
        pid = analysis.process.pid

    assert differences(raw) == [""]
    assert pid != os.getpid()
    assert not analysis.process.is_running


def test_an_analysis_that_is_killed_goes_on(folder, RE):
    raw = []
    RE.subscribe(lambda name, doc: raw.append((name, doc)))

    with attach(RE, "peak.yaml") as analysis:
        RE(scan([det], motor, -1, 1, 60))
        os.kill(analysis.process.pid, signal.SIGKILL)
        RE(scan([det], motor, -1, 1, 20))

    assert analysis.process.n_starts == 2
    assert differences(raw) == ["", ""]


def test_what_was_not_analysed_is_analysed_when_the_journal_is_attached_again(folder, RE):
    with Journal("analysis/journal") as journal:
        for item in raw_run("before"):
            journal(*item)

    with attach(RE, "peak.yaml"):
        pass

    assert differences(raw_run("before")) == [""]


def test_attach_wants_a_ledger(folder, RE):
    (folder / "no.yaml").write_text("nodes: [{name: n, reductions: [{Mean: det}]}]")

    with pytest.raises(ConfigError, match="wanted a JSONLSink"):
        attach(RE, "no.yaml")


def test_a_service_ends_on_sigterm_with_what_is_open_stored(folder, capsys):
    run = raw_run("a")
    with Journal("journal") as journal, Running("--journal", "journal") as service:
        for item in run[:4]:
            journal(*item)
        until(lambda: service.node("peak", "events") == 2)
        out, seconds = service.end()
        assert seconds < 10
        assert "there are 1 open, 0 parked, 0 failed" in out

        assert main(["status"]) == 0
        told = capsys.readouterr().out
        assert "No service runs on this ledger now." in told
        assert run[0][1]["uid"] in told

        with Running("--journal", "journal") as again:
            for item in run[4:]:
                journal(*item)
            until(lambda: again.node("peak", "ended") == 1)
            again.end()

    assert differences(run) == [""]


def test_a_service_shows_what_it_does_and_why_nothing_came_out(folder, capsys):
    run = raw_run("a")
    with Journal("journal") as journal, Running("--journal", "journal") as service:
        for item in [*run[:3], *run[4:]]:
            journal(*item)
        until(lambda: service.status()["runs"]["parked"] == 1)

        assert service.get("/healthz").strip() == "ok"
        assert service.get("/readyz").strip() == "ok"
        assert 'bluesky_pipeline_runs{state="parked"} 1.0' in service.get("/metrics")
        assert "lacks 1 of 6 events: seq_num 2" in service.status()["parked"][0]["reason"]
        assert "it wants none of the runs so far, 1" in service.status()["nodes"]["unwanted"]["why"]
        until(lambda: list(Path("analysis/.state").glob("service-*.json")))
        assert main(["status", "--ledger", "peak.yaml"]) == 0
        told = capsys.readouterr().out
        assert "A service reads from journal (ready" in told
        assert "lacks 1 of 6 events" in told

        assert main(["give-up", run[0][1]["uid"][:8]]) == 0
        until(lambda: service.status()["runs"]["parked"] == 0)
        service.end()

    (ledger,) = Path("analysis").glob("*.jsonl")
    assert '"n_missing":1' in ledger.read_text()


def test_a_late_event_lets_a_parked_run_end(folder):
    run = raw_run("a")
    with Journal("journal") as journal, Running("--journal", "journal") as service:
        for item in [*run[:3], *run[4:]]:
            journal(*item)
        until(lambda: service.status()["runs"]["parked"] == 1)
        journal(*run[3])
        until(lambda: service.node("peak", "ended") == 1)
        service.end()

    assert differences(run) == [""]


def test_a_service_reads_its_configuration_again_on_sighup(folder):
    first, second = raw_run("a"), raw_run("b")
    with Journal("journal") as journal, Running("--journal", "journal") as service:
        for item in first[:4]:
            journal(*item)
        until(lambda: service.node("peak", "events") == 2)
        Path("peak.yaml").write_text("nodes: nonsense")
        service.process.send_signal(signal.SIGHUP)
        until(lambda: "The configuration is not read again" in service.words())
        Path("peak.yaml").write_text(CONFIG.replace("name: peak", "name: other"))
        service.process.send_signal(signal.SIGHUP)
        until(lambda: "The configuration is read again: nodes other" in service.words())
        for item in [*first[4:], *second]:
            journal(*item)
        until(lambda: service.node("other", "ended") == 1)
        service.end()

    assert differences(second) == [""]
    Path("peak.yaml").write_text(CONFIG)
    assert differences(first) == [""]


def test_a_catalog_is_brought_level_by_a_process_of_its_own(folder):
    run = raw_run("a")
    Path("peak.yaml").write_text(
        CONFIG.replace("  - JSONLSink: analysis", "  - JSONLSink: analysis\n  - TiledSink: ./catalog")
    )
    try:
        with Journal("journal") as journal, Running("--journal", "journal") as service:
            for item in run:
                journal(*item)
            until(lambda: [each["runs_level"] for each in service.status()["projectors"]] == [1], 60)
            service.end()

        assert [each.difference for each in audit("analysis", "./catalog")] == [""]
    finally:
        stop_server("./catalog")


def test_stored_runs_are_taken_to_their_end(folder, capsys):
    raw = folder / "raw"
    raw.mkdir()
    from pipeline.documents import dumps

    (raw / "a.jsonl").write_bytes(b"".join(dumps(*item) for item in raw_run("a")))
    (raw / "b.jsonl").write_bytes(b"".join(dumps(*item) for item in raw_run("b")[:-1]))
    (folder / "peak.yaml").write_text(CONFIG + "source: {FolderSource: {path: raw, follow: false}}\n")

    assert main(["run", "peak.yaml"]) == 0

    assert "2 raw runs came; by now there are 0 open, 0 parked, 0 failed." in capsys.readouterr().out
    assert sorted(differences(raw_run("a")) + differences(raw_run("b")[:-1])) == ["", ""]

"""The command: what it prints, and its exit codes."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bluesky.callbacks.zmq import Proxy, Publisher

from pipeline.cli import main
from pipeline.documents import dumps
from pipeline.sources import read_jsonl
from pipeline.sources.zmq import serialize
from pipeline.testing import make_run

CONFIG = "nodes: [{name: mean, reductions: [{Mean: det}]}]\nsinks: [{JSONLSink: analysis}]\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLUESKY_PIPELINE_CATALOG", str(tmp_path / "no catalog"))
    (tmp_path / "mean.yaml").write_text(CONFIG)
    for uid in "ab":
        lines = b"".join(dumps(*item) for item in make_run({"det": [1.0, 2.0, 4.5]}, uid=uid, plan_name="count"))
        (tmp_path / f"{uid}.jsonl").write_bytes(lines)
    return tmp_path


def test_check_says_that_a_configuration_is_right_or_what_is_wrong(folder, capsys):
    (folder / "bad.yaml").write_text("nodes: [{name: n, reductions: [{Men: det}]}]")

    assert main(["check", "mean.yaml"]) == 0
    assert main(["check", "bad.yaml"]) == 2

    out, err = capsys.readouterr()
    assert out == "mean.yaml is right: nodes mean; sinks JSONLSink.\n"
    assert err.startswith(
        "bluesky-pipeline: bad.yaml: nodes[0].reductions[0]: no reduction 'Men'; did you mean 'Mean'? There are ['"
    )


def test_replay_then_verify_then_show(folder, capsys):
    assert main(["replay", "mean.yaml", "a.jsonl", "b.jsonl"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[2:4] for line in table] == [["analysis", "run"], ["mean", "success"], ["mean", "success"]]
    assert main(["verify", "mean.yaml", "."]) == 0
    assert "2 analysis runs: 2 as replayed, 0 not." in capsys.readouterr().out

    uid = table[1].split()[1]
    assert main(["show", f"analysis/{uid}.jsonl"]) == 0
    by_file = capsys.readouterr().out
    assert main(["show", uid]) == 0
    assert capsys.readouterr().out == by_file
    assert f"of raw run {table[1].split()[0]}" in by_file
    assert "det_mean     2.5" in by_file
    assert "reductions Mean('det', True)" in by_file


def test_verify_tells_the_first_difference(folder, capsys):
    main(["replay", "mean.yaml", "a.jsonl"])
    (path,) = (folder / "analysis").glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"det_mean":2.5', b'"det_mean":2.6', 1))
    capsys.readouterr()

    assert main(["verify", "mean.yaml", "a.jsonl", "b.jsonl"]) == 1

    out = capsys.readouterr().out
    assert "event['data']['det_mean']: wanted 2.5, there is 2.6" in out
    assert "wanted a JSONL file" in out  # b was never analysed
    assert "0 as replayed, 2 not." in out


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (["replay", "nope.yaml", "a.jsonl"], "nope.yaml: cannot be read"),
        (["replay", "mean.yaml", "nope.jsonl"], "wanted a JSONL file, a folder of them, or a glob"),
        (["show", "nope"], "no run 'nope': wanted a file, or the uid of a run in the ledger 'analysis' or the catalog"),
        (["run", "mean.yaml"], "wanted a source, one of"),
    ],
)
def test_a_wrong_call_is_2_and_says_why(folder, call, says, capsys):
    assert main(call) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("call", [[], ["nope"], ["check"], ["replay", "mean.yaml"]])
def test_a_call_that_is_no_call_is_2(call):
    with pytest.raises(SystemExit) as ended:
        main(call)
    assert ended.value.code == 2


def test_an_analysis_that_fails_is_1_and_told(folder, capsys):
    (folder / "nope.yaml").write_text(CONFIG.replace("det", "nope"))

    assert main(["replay", "nope.yaml", "a.jsonl"]) == 1

    assert "Mean reads 'nope', but stream 'primary' has ['det']." in capsys.readouterr().out


def test_run_takes_a_folder_to_its_end(folder, capsys):
    (folder / "run.yaml").write_text(CONFIG + "source: {read_jsonl: .}\n")

    assert main(["run", "run.yaml"]) == 0

    assert capsys.readouterr().out.count("success") == 2


def test_run_follows_0mq_until_it_is_told_to_stop(folder):
    proxy = Proxy("127.0.0.1", "127.0.0.1")
    threading.Thread(target=proxy.start, daemon=True).start()
    in_port, out_port = (str(port).rpartition(":")[2] for port in (proxy.in_port, proxy.out_port))
    (folder / "run.yaml").write_text(CONFIG + f"source: {{ZMQSource: '127.0.0.1:{out_port}'}}\n")
    process = subprocess.Popen([sys.executable, "-m", "pipeline", "run", "run.yaml"], stdout=subprocess.PIPE, text=True)
    publisher = Publisher(f"127.0.0.1:{in_port}", serializer=serialize)
    raw = make_run({"det": [1.0, 2.0]}, uid="c")

    end = time.monotonic() + 30
    while not list(Path("analysis").glob("*.jsonl")) and time.monotonic() < end:
        time.sleep(0.2)  # a subscriber that joins late misses what was before
        for item in make_run(uid=str(time.monotonic())):
            publisher(*item)
    for item in raw:
        publisher(*item)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    publisher.close()

    assert process.returncode == 0
    assert "0 open, 0 parked, 0 failed" in out
    stored = [path for path in Path("analysis").glob("*.jsonl") if raw[0][1]["uid"] in path.read_text()]
    assert b'["stop"' in stored[0].read_bytes()
    publisher.close()


def test_the_demo_runs_and_what_it_leaves_is_as_replayed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLUESKY_PIPELINE_CATALOG_LINGER", "1")

    done = subprocess.run([sys.executable, "-m", "pipeline", "demo"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert main(["verify", "demo/peak.yaml", "demo/raw"]) == 0
    assert "4 analysis runs: 4 as replayed, 0 not." in capsys.readouterr().out
    centers = [float(line.split()[2]) for line in done.stdout.splitlines() if line.endswith("yes")]
    assert centers == pytest.approx([-1.5, -0.2, 0.9, 2.1], abs=0.05)
    assert "The catalog has it" in done.stdout
    assert len(list(read_jsonl("demo/raw"))) == 4 * (41 + 3)

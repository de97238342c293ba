"""The ledger holds every line it was given, once, and is readable by others."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy
import pytest
import suitcase.jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import Kept

from pipeline import Node, Pipeline
from pipeline.documents import dumps, loads
from pipeline.errors import PipelineError, PipelineTypeError
from pipeline.reductions import Mean
from pipeline.sinks.jsonl import JSONLSink
from pipeline.sources import read_jsonl
from pipeline.testing import make_run

RAW = make_run({"det": [1.0, 2.0, float("nan"), 4.0]})


def analysed():
    kept = Kept()
    Pipeline([Node("mean", Mean("det"))], [kept]).replay(RAW)
    return kept


def give(directory, documents):
    with JSONLSink(directory) as ledger:
        for name, doc in documents:
            ledger(name, doc)
    return files_of(directory)


def files_of(directory):
    return {path.name: path.read_bytes() for path in Path(directory).glob("*.jsonl")}


def test_the_file_is_what_suitcase_writes(tmp_path):
    documents = make_run({"det": [1.0, 2.0], "curve": [numpy.arange(3), numpy.arange(3)]}, pages=2)

    (ours,) = give(tmp_path / "ours", documents).values()
    suitcase.jsonl.export(documents, tmp_path / "theirs")

    (theirs,) = files_of(tmp_path / "theirs").values()
    assert [json.loads(line) for line in ours.splitlines()] == [json.loads(line) for line in theirs.splitlines()]


def test_each_line_is_in_the_file_before_the_call_returns(tmp_path):
    with JSONLSink(tmp_path) as ledger:
        for n, (name, doc) in enumerate(RAW, 1):
            ledger(name, doc)
            (content,) = files_of(tmp_path).values()
            assert content == b"".join(dumps(*item) for item in RAW[:n])


def test_nan_is_null_in_the_file_and_nan_again_when_read(tmp_path):
    (content,) = give(tmp_path, RAW).values()

    assert b'"det":null' in content
    assert b"NaN" not in content
    assert repr(list(read_jsonl(tmp_path))) == repr(RAW)


VALUES = {
    "float": (numpy.float64(1.5), 1.5),
    "int": (numpy.int32(2), 2),
    "bool": (numpy.True_, True),
    "array": (numpy.arange(6).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
    "transposed": (numpy.arange(6).reshape(2, 3).T, [[0, 3], [1, 4], [2, 5]]),
    "zero_d": (numpy.array(7), 7),
    "texts": (numpy.array(["a", "b"]), ["a", "b"]),
    "tuple": ((1, (2, 3)), [1, [2, 3]]),
    "datetime": (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
    "large": (2**70, 2**70),
    "path": (Path("a/b"), "a/b"),
    "int key": ({1: 2}, {"1": 2}),
    "text": ("\u00e5\n\u2028", "\u00e5\n\u2028"),
    "nan": (float("inf"), None),
    "mixed": ({1: numpy.float32(0.5), "x": (numpy.arange(2), None)}, {"1": 0.5, "x": [[0, 1], None]}),
}


@pytest.mark.parametrize("kind", VALUES)
def test_each_kind_of_value_reads_back_by_the_rule(kind):
    value, wanted = VALUES[kind]

    line = dumps("start", {"value": value})

    assert line.count(b"\n") == 1
    assert loads(line) == ("start", {"value": wanted})
    assert json.loads(line) == ["start", {"value": wanted}]


@pytest.mark.parametrize("value", [1j, b"bytes", {1, 2}, object()])
def test_what_json_cannot_hold_is_refused_with_its_place(value):
    with pytest.raises(PipelineTypeError, match=r"start\['a'\]\[0\] is of type"):
        dumps("start", {"a": [value]})


@pytest.mark.parametrize("cut", range(0, 700, 23))
def test_a_run_that_was_cut_anywhere_is_completed_and_nothing_doubled(tmp_path, cut):
    documents = analysed()
    ((name, whole),) = give(tmp_path, documents).items()
    path = tmp_path / name
    size = len(whole) * cut // 700
    path.write_bytes(whole[:size])

    give(tmp_path, documents)

    assert path.read_bytes() == whole


def test_the_same_run_again_changes_nothing(tmp_path):
    documents = analysed()
    first = give(tmp_path, documents)
    ((path,),) = (list(tmp_path.glob("*.jsonl")),)
    touched = path.stat().st_mtime_ns

    assert give(tmp_path, documents) == first
    assert path.stat().st_mtime_ns == touched


def test_the_same_uid_with_other_content_is_refused_and_the_file_left(tmp_path):
    first = give(tmp_path, RAW)
    other = [(name, {**doc, "data": {"det": 9.0}} if name == "event" else doc) for name, doc in RAW]

    with JSONLSink(tmp_path) as ledger:
        for item in other[:2]:
            ledger(*item)
        with pytest.raises(PipelineError, match=r"line 3: .*another document"):
            ledger(*other[2])
        with pytest.raises(PipelineError, match="line 3"):
            ledger(*other[3])

    assert files_of(tmp_path) == first


@given(st.text(min_size=1, max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_name_leaves_the_directory(uid):
    name = JSONLSink.file_name(uid)

    assert Path("folder", name).resolve().parent == Path("folder").resolve()
    assert len(name) < 140


def test_hostile_uids_are_stored_and_read_back(tmp_path):
    for uid in ("../../evil", "/etc/passwd", "a/b", ".", "x" * 300, "nul\0"):
        start = {"uid": uid, "time": 0.0}
        stop = {"uid": "s", "time": 0.0, "run_start": uid, "exit_status": "success"}
        give(tmp_path, [("start", start), ("stop", stop)])

    assert len(files_of(tmp_path)) == 6
    assert {doc["uid"] for name, doc in read_jsonl(tmp_path) if name == "start"} >= {"../../evil", "a/b"}
    assert list(tmp_path.parent.glob("*evil*")) == []


def test_a_document_of_no_known_run_is_refused(tmp_path):
    with JSONLSink(tmp_path) as ledger, pytest.raises(PipelineError, match="no start"):
        ledger("stop", {"uid": "s", "run_start": "a"})


def test_the_work_is_told_beside_the_run(tmp_path):
    give(tmp_path, analysed())

    (path,) = tmp_path.glob("*.work.json")
    work = json.loads(path.read_text())
    assert work["lines"] == work["new_lines"] == len(analysed())
    assert work["pid"] == os.getpid()


def test_a_file_is_written_by_one_process_at_a_time(tmp_path):
    with JSONLSink(tmp_path) as one, JSONLSink(tmp_path) as other:
        one(*RAW[0])
        with pytest.raises(PipelineError, match="another process"):
            other(*RAW[0])
        one(*RAW[1])

    assert len(list(read_jsonl(tmp_path))) == 2


def test_a_full_disk_leaves_a_clean_prefix_and_the_run_is_completed_later(tmp_path):
    """A limit on the size of files stands for the disk."""
    script = """
        import resource, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        from pipeline.sinks.jsonl import JSONLSink
        from pipeline.testing import make_run
        limit = int(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        ledger = JSONLSink(sys.argv[1])
        for name, doc in make_run({"det": [float(i) for i in range(50)]}):
            try:
                ledger(name, doc)
            except OSError as error:
                print(error)
    """
    documents = make_run({"det": [float(i) for i in range(50)]})
    wanted = b"".join(dumps(*item) for item in documents)
    for limit in (700, 1000, 5000):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), str(limit)], capture_output=True, text=True
        )
        assert "cannot write" in done.stdout, done.stderr
        (content,) = files_of(tmp_path).values()
        assert content
        assert wanted.startswith(content)
        assert content.endswith(b"\n")

    give(tmp_path, documents)

    assert list(files_of(tmp_path).values()) == [wanted]


KILLED = """
    import sys, time
    from pipeline import Node, Pipeline
    from pipeline.reductions import PeakStatistics, Statistics
    from pipeline.sinks.jsonl import JSONLSink
    from pipeline.testing import make_run
    n = 1500
    raw = make_run({"motor": [float(i) for i in range(n)], "det": [float(i % 7) for i in range(n)]})
    print("ready", flush=True)
    pipeline = Pipeline([Node("all", Statistics("det"), PeakStatistics("motor", "det"), every=3)], [JSONLSink(sys.argv[1])])
    for item in raw:
        pipeline(*item)
    print("done", flush=True)
"""


def killed(directory, seconds):
    """Run the analysis in a process of its own, kill it after so many seconds, and tell whether it was done."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(directory)], stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    done = "done" in process.stdout.read()
    process.wait()
    process.stdout.close()
    return done


def test_kill_9_at_50_random_moments_loses_no_line_and_the_run_is_completed(tmp_path):
    seconds = time.monotonic()
    assert not killed(tmp_path / "whole", 0)
    while not killed(tmp_path / "whole", 5):
        assert time.monotonic() - seconds < 60
    ((name, whole),) = files_of(tmp_path / "whole").items()
    rng = random.Random(5)
    length, n_cut = 0, 0

    for _ in range(50):
        done = killed(tmp_path / "killed", rng.uniform(0, 0.15))
        content = files_of(tmp_path / "killed").get(name, b"")
        assert len(content) >= length, "a line that was there is gone"
        length = len(content)
        lines = content.splitlines(keepends=True)
        assert all(json.loads(line) for line in lines[:-1])
        assert whole.startswith(b"".join(lines[:-1]))
        if done:
            (tmp_path / "killed" / name).unlink()
            length = 0
        else:
            n_cut += 1
    assert n_cut >= 10  # how many depends on the machine; the others ended before their time

    assert killed(tmp_path / "killed", 5)
    assert files_of(tmp_path / "killed") == {name: whole}

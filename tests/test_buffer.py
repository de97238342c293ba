"""A buffer keeps a slow callback off the caller's thread, in order, and tells what it cannot keep."""

import subprocess
import sys
import textwrap
import threading
import time

import pytest
from kept import Kept

from pipeline import Buffered
from pipeline.errors import PipelineError
from pipeline.testing import make_run

RAW = make_run({"det": [1.0, 2.0, 3.0]}, uid="a")


class Gate:
    """A sink that waits until it is let go."""

    def __init__(self):
        self.kept, self.open = Kept(), threading.Event()

    def __call__(self, name, doc):
        self.open.wait()
        self.kept(name, doc)


def test_order_is_kept_and_flush_returns_when_all_is_in():
    kept = Kept()
    buffered = Buffered(lambda name, doc: (time.sleep(0.001), kept(name, doc)))

    for n in range(100):
        buffered("event", {"n": n, "descriptor": "d"})
    buffered.flush()

    assert [doc["n"] for _, doc in kept] == list(range(100))
    buffered.close()


def test_a_fault_is_logged_once_a_run_and_the_rest_goes_on(caplog):
    kept = Kept()

    def bad(name, doc):
        if name == "event":
            raise OSError("boom")
        kept(name, doc)

    with Buffered(bad) as buffered:
        for item in RAW:
            buffered(*item)

    assert [name for name, _ in kept] == ["start", "descriptor", "stop"]
    assert buffered.faults == {RAW[0][1]["uid"]: "OSError: boom"}
    assert len(caplog.records) == 1


def test_when_full_it_drops_the_rest_of_the_run_and_counts(caplog):
    gate = Gate()
    buffered = Buffered(gate, maxsize=2, when_full="drop")
    other = make_run({"det": [1.0]}, uid="b")

    buffered(*RAW[0])
    time.sleep(0.05)  # it is in the thread's hands, and two more fit
    for item in RAW[1:]:
        buffered(*item)
    gate.open.set()
    buffered.flush()
    for item in other:
        buffered(*item)
        buffered.flush()

    assert [name for name, _ in gate.kept] == ["start", "descriptor", "event", *[name for name, _ in other]]
    assert buffered.n_dropped == 3
    assert "queue of 2 documents is full" in buffered.faults[RAW[0][1]["uid"]]
    assert len(caplog.records) == 1
    buffered.close()


def test_when_full_it_waits_and_loses_nothing():
    gate = Gate()
    buffered = Buffered(gate, maxsize=1, when_full="wait")
    threading.Timer(0.1, gate.open.set).start()

    for item in RAW:
        buffered(*item)
    buffered.close()

    assert gate.kept == RAW


def test_a_flush_that_takes_too_long_says_so_and_loses_nothing():
    gate = Gate()
    buffered = Buffered(gate)
    buffered(*RAW[0])

    with pytest.raises(TimeoutError, match="1 documents wait"):
        buffered.flush(0.05)

    gate.open.set()
    buffered.close()
    assert gate.kept == RAW[:1]


def test_a_closed_buffer_refuses_and_closes_its_sink():
    class Sink(Kept):
        closed = False

        def close(self):
            self.closed = True

    buffered = Buffered(sink := Sink())
    buffered.close()
    buffered.close()

    assert sink.closed
    with pytest.raises(PipelineError, match="is closed"):
        buffered(*RAW[0])


def test_nothing_is_lost_at_the_end_of_the_interpreter():
    script = """
        import time
        from pipeline import Buffered
        buffered = Buffered(lambda name, doc: (time.sleep(0.01), print(doc["n"])))
        for n in range(30):
            buffered("event", {"n": n, "descriptor": "d"})
    """

    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)

    assert done.stdout.split() == [str(n) for n in range(30)]


def test_what_is_no_policy_is_refused():
    with pytest.raises(PipelineError, match="wanted 'wait' or 'drop'"):
        Buffered(print, when_full="maybe")

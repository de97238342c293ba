"""What a journal costs the scan, and how soon another process has what was appended."""

import subprocess
import sys
import tempfile
import textwrap
import time
from statistics import median

import numpy

from pipeline.sinks.journal import Journal
from pipeline.sources.journal import JournalSource
from pipeline.testing import make_run

N, ROUNDS = 20_000, 5

READER = """
    import sys, time
    from pipeline.sources.journal import JournalSource
    source = JournalSource(sys.argv[1])
    source.open({})
    print("ready", flush=True)
    seconds = []
    while len(seconds) < int(sys.argv[2]):
        items = source.read(10)
        now = time.time()
        seconds += [now - item.doc["time"] for item in items]
    seconds.sort()
    print(seconds[len(seconds) // 2] * 1e3, seconds[int(0.99 * len(seconds))] * 1e3)
"""


def run(n):
    return make_run({f"det{field}": [1.1 * i for i in range(n)] for field in range(5)})


def microseconds_a_call(documents):
    """The median over all calls, and p99, in microseconds."""
    with tempfile.TemporaryDirectory() as folder, Journal(folder) as journal:
        seconds = []
        for name, doc in documents:
            began = time.perf_counter()
            journal(name, doc)
            seconds.append(time.perf_counter() - began)
        assert journal.n_lost == 0
    return median(seconds) * 1e6, sorted(seconds)[int(0.99 * len(seconds))] * 1e6


def documents_a_second(documents):
    """How many documents a second a source reads that were there before."""
    with tempfile.TemporaryDirectory() as folder:
        with Journal(folder) as journal:
            for item in documents:
                journal(*item)
        source = JournalSource(folder, follow=False)
        source.open({})
        began = time.perf_counter()
        n = 0
        while not source.ended:
            n += len(source.read(1))
        source.close()
        return n / (time.perf_counter() - began)


def milliseconds_to_another_process(pause):
    """From the append to the read: median and p99, of points in five seconds."""
    n = int(5 / pause)
    with tempfile.TemporaryDirectory() as folder, Journal(folder) as journal:
        script = [sys.executable, "-c", textwrap.dedent(READER), folder, str(n)]
        with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout.readline() == "ready\n"
            for seq_num in range(n):
                time.sleep(pause)
                data = {f"det{field}": seq_num * 1.1 for field in range(5)}
                journal("event", {"uid": "e", "descriptor": "d", "seq_num": seq_num, "time": time.time(), "data": data})
            return tuple(map(float, reader.stdout.read().split()))


def journal():
    """Microseconds a document on the thread of the scan, and milliseconds until another process has it."""
    documents = run(N)
    rounds = [microseconds_a_call(documents) for _ in range(ROUNDS)]
    call, p99 = (median(each) for each in zip(*rounds, strict=True))
    print(f"journal: {documents_a_second(documents):,.0f} documents a second are read; p99 of a call {p99:.0f} us")
    yield "journal, us a document", call, 50.0, call <= 50
    images = make_run({"image": [numpy.zeros((512, 512), "u2")] * 100})
    call, _ = microseconds_a_call(images)
    print(f"journal: {call:.0f} us a document with an image of 0.5 MiB")
    for pause in (0.0025, 0.05):
        middle, p99 = milliseconds_to_another_process(pause)
        print(f"journal, a point every {pause * 1e3:g} ms: median {middle:.2f} ms, p99 {p99:.2f} ms")
        yield f"journal, ms to be read, every {pause * 1e3:g}", middle, 5.0, middle <= 5

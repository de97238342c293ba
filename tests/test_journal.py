"""A journal gives what it was given, to the last bit, whatever happens to who writes it or reads it."""

import copy
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import textwrap
import threading
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy
import pytest
from bluesky.plans import count, scan
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import Kept
from ophyd.sim import SynSignal, hw

from pipeline import Node, Pipeline
from pipeline.errors import PipelineError, PipelineOSError, PipelineTypeError, PipelineValueError
from pipeline.journal_files import Readers, Segment, segments
from pipeline.npy_records import npy_parts, read_npy
from pipeline.reductions import Mean, PeakStatistics, Statistics
from pipeline.sinks.journal import Journal
from pipeline.sinks.jsonl import JSONLSink
from pipeline.sources.journal import JournalSource
from pipeline.sources.position import PositionedSource
from pipeline.testing import make_run

RAW = make_run({"det": [1.0, float("nan"), 4.0]})


def write(directory, documents, **options):
    with Journal(directory, **options) as journal:
        for item in documents:
            journal(*item)
        assert journal.n_lost == 0


def opened(directory, reader="pipeline", follow=False, begin=None):
    source = JournalSource(directory, reader, follow=follow)
    source.open(begin or {})
    return source


def rest(source):
    """All items that a source gives until it ends."""
    items = []
    while not source.ended:
        items += source.read(1)
    source.close()
    return items


def everything(source):
    """All items that there are by now."""
    items = []
    while more := source.read(0):
        items += more
    return items


def documents(items):
    items = list(items)
    assert [item.doc for item in items if item.name == "poison"] == []
    return [(item.name, item.doc) for item in items]


def read(directory, **options):
    return documents(rest(opened(directory, **options)))


def bits(value):
    """What two values have in common that are the same to the type and the last bit, but for kinds of NaN."""
    if isinstance(value, numpy.ndarray):
        content = bits(value.tolist()) if value.dtype.hasobject else value.tobytes("A")
        return "array", value.dtype.str, str(value.dtype), value.shape, value.flags.f_contiguous, content
    if isinstance(value, dict):
        return dict, [(key, bits(part)) for key, part in value.items()]  # ordered or not
    if isinstance(value, list | tuple):
        return tuple if isinstance(value, tuple) else list, [bits(part) for part in value]
    if isinstance(value, float):
        return type(value), "nan" if value != value else struct.pack("d", value)
    return type(value), str(value)


# the same ------------------------------------------------------------------------------------------------------------


class Copies(list):
    """What a RunEngine gave, copied before anybody could change it."""

    inline = True
    __hash__ = object.__hash__

    def __call__(self, name, doc):
        self.append((name, copy.deepcopy(doc)))


def detectors():
    rng = numpy.random.default_rng(3)
    values = {
        "single": lambda: numpy.float32(rng.random()),
        "half": lambda: numpy.float16(rng.random()),
        "count": lambda: numpy.uint16(rng.integers(60000)),
        "nan": lambda: float("nan"),
        "inf": lambda: -numpy.inf,
        "curve": lambda: rng.random(7).astype("f4"),
        "camera": lambda: rng.integers(0, 4000, (64, 80)).astype("<u2"),
    }
    devices = hw()
    return [
        devices.det,
        devices.direct_img,
        *(SynSignal(func=func, name=name) for name, func in values.items()),
    ], devices


def test_what_is_read_is_what_a_run_engine_gave_to_the_last_bit(RE, tmp_path):
    found, devices = detectors()
    with Journal(tmp_path, max_segment=20_000) as journal:
        RE.subscribe(journal)
        RE.subscribe(given := Copies())

        RE(scan(found, devices.motor, -1, 1, 9, md={"sample": {"shape": (1, 2), "mass": numpy.float32(0.1)}}))
        RE(count(found, 2))

        assert journal.n_lost == 0
    assert len(segments(tmp_path)) > 3, "the journal was meant to rotate in the midst of a run"
    assert bits(read(tmp_path)) == bits(given)


def test_pages_and_every_kind_of_array_are_read_as_they_were_given(tmp_path):
    values = [
        numpy.arange(12, dtype=">i4").reshape(3, 4),
        numpy.asfortranarray(numpy.arange(12.0).reshape(3, 4)),
        numpy.arange(24.0).reshape(2, 3, 4)[:, ::2],
        numpy.array(5.0),
        numpy.array([], "f4"),
        numpy.array([numpy.nan, numpy.inf, -0.0]),
        numpy.array(["a", "\u00e5"]),
        numpy.array(["2026-01-02"], "M8[ns]"),
        numpy.array([1 + 2j]),
        numpy.array([(1, 2.0)], [("n", "i4"), ("x", "f8")]),
        numpy.array(["a", None, 3.5], object),
        numpy.complex64(1j),
        numpy.longdouble("0.1"),
        numpy.datetime64("2026-01-02"),
        numpy.bool_(True),
        float("nan"),
        (1, (2, float("-inf"))),
        2**70 + 1,
        -(2**65),
        2**64 - 1,
        {"!float": "nan"},
        {"!what": {"!npy": 1}},
        "\ud800 half of a pair",
    ]
    pages = make_run({"det": [1.0, float("nan"), 4.0], "curve": [numpy.arange(3, dtype="u1")] * 3}, pages=2)
    given = [*pages, *(("event", {"data": {"x": value}}) for value in values)]

    for max_inline in (0, 4096):
        write(tmp_path / str(max_inline), copy.deepcopy(given), max_inline=max_inline)
        found = read(tmp_path / str(max_inline))
        assert bits(found) == bits(given)
        arrays = [doc["data"]["x"] for _, doc in found if isinstance(doc.get("data", {}).get("x"), numpy.ndarray)]
        assert all(array.flags.owndata or array.base.flags.owndata for array in arrays)
        assert all(array.flags.writeable for array in arrays)


def test_what_is_no_number_comes_as_the_text_that_it_is_in_json(tmp_path):
    write(
        tmp_path,
        [("start", {"at": datetime(2026, 1, 2, tzinfo=UTC), "path": Path("a/b"), "keys": {1: numpy.arange(2)}})],
    )

    ((_, doc),) = read(tmp_path)

    assert doc["at"] == "2026-01-02T00:00:00+00:00"
    assert doc["path"] == "a/b"
    assert bits(doc["keys"]["1"]) == bits(numpy.arange(2))


def test_masked_values_are_none(tmp_path):
    write(tmp_path, [("start", {"x": numpy.ma.masked_array([1.0, 2.0], [False, True])})])

    assert read(tmp_path) == [("start", {"x": [1.0, None]})]


def test_a_document_is_not_changed(tmp_path):
    doc = {"uid": "e", "data": {"image": numpy.ones((40, 40)), "x": (1, float("nan"))}}
    before = bits(doc)

    write(tmp_path, [("event", doc)])

    assert bits(doc) == before


FOLLOWER = """
    import sys, time
    from pipeline import Node, Pipeline
    from pipeline.reductions import Mean, PeakStatistics, Statistics
    from pipeline.sinks.jsonl import JSONLSink
    from pipeline.sources.journal import JournalSource
    nodes = [Node("all", Statistics("single"), PeakStatistics("motor", "det"), Mean("half"), Mean("curve"))]
    pipeline = Pipeline(nodes, [JSONLSink(sys.argv[2])])
    source = JournalSource(sys.argv[1])
    source.open({})
    print("ready", flush=True)
    n_stops = 0
    while n_stops < 2:
        for item in source.read(10):
            assert item.name != "poison", item
            pipeline(item.name, item.doc)
            n_stops += item.name == "stop"
    pipeline.close()
"""


def test_the_analysis_in_another_process_writes_the_bytes_that_the_live_one_writes(RE, tmp_path):
    found, devices = detectors()
    nodes = [Node("all", Statistics("single"), PeakStatistics("motor", "det"), Mean("half"), Mean("curve"))]
    script = [sys.executable, "-c", textwrap.dedent(FOLLOWER), str(tmp_path / "journal"), str(tmp_path / "there")]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout.readline() == "ready\n"
        with Journal(tmp_path / "journal", max_segment=20_000) as journal:
            RE.subscribe(journal)
            RE.subscribe(Pipeline(nodes, [JSONLSink(tmp_path / "here")]))
            RE(scan(found, devices.motor, -1, 1, 9))
            RE(scan(found, devices.motor, -1, 1, 5))
        assert follower.wait(30) == 0

    here, there = (
        {path.name: path.read_bytes() for path in (tmp_path / each).glob("*.jsonl")} for each in ("here", "there")
    )
    assert len(here) == 2
    assert here == there


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        [numpy.float32(0.1), numpy.uint8(7), numpy.float64("nan"), numpy.arange(3, dtype="f4"), numpy.ones((9, 9))]
    ),
    lambda parts: (
        st.lists(parts, max_size=4)
        | st.lists(parts, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.sampled_from(["!float", "!npy", "!dict", "!"]), parts, max_size=4)
    ),
    max_leaves=12,
)
DOCS = st.lists(st.dictionaries(st.text(max_size=4) | st.just("!npy"), VALUES, max_size=4), max_size=12)


@given(DOCS, st.sampled_from([1, 200, 2**20]), st.sampled_from([0, 300]), st.randoms(use_true_random=False))
@settings(max_examples=120, deadline=None)
def test_whatever_is_written_is_read_with_any_segments_and_restarts(
    tmp_path_factory, docs, max_segment, max_inline, random
):
    directory = tmp_path_factory.mktemp("journal")
    options = {"max_segment": max_segment, "max_inline": max_inline, "keep_bytes": 0}
    journal, source = Journal(directory, **options), opened(directory, follow=True)
    found = []
    for doc in docs:
        journal("event", doc)
        if random.random() < 0.2:
            journal.close()
            journal = Journal(directory, **options)
        if random.random() < 0.5:
            found += source.read(0)
        if random.random() < 0.3:
            source.commit({"journal": found[-1].position.index} if found else {})
            if random.random() < 0.5:  # a new process begins where the last one has committed
                source.close()
                found = found[: sum(item.position.index <= source._committed for item in found)]
                source = opened(directory, follow=True)
    journal.close()
    source.end_when_level()
    found += rest(source)
    shutil.rmtree(directory)

    assert bits(documents(found)) == bits([("event", doc) for doc in docs])
    assert sorted(item.position for item in found) == [item.position for item in found]


# what happens to the writer ------------------------------------------------------------------------------------------


KILLED = """
    import os, random, signal, sys, time
    import numpy
    from pipeline.sinks.journal import Journal
    rng = random.Random(7)
    told = 0
    for _ in range(20):
        out, into = os.pipe()
        child = os.fork()
        if not child:
            journal = Journal(sys.argv[1], max_segment=300_000)
            n = told
            while True:
                data = {"n": n, "text": "x" * (n % 3000), "image": numpy.full(n % 1500, n)}
                journal("event", {"uid": str(n), "data": data})
                assert not journal.n_lost
                n += 1
                os.write(into, n.to_bytes(8, "little"))
        os.close(into)
        told = int.from_bytes(os.read(out, 8), "little")
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while number := os.read(out, 8):
            told = int.from_bytes(number, "little")
        os.close(out)
        print(told, flush=True)
"""


def test_kill_9_at_random_moments_loses_nothing_whose_call_returned(tmp_path):
    script = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(KILLED), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = [int(line) for line in done.stdout.split()]
    assert len(told) == 20
    assert told[-1] > 200

    write(tmp_path, [("stop", {"uid": "s"})])
    *events, stop = read(tmp_path)

    assert stop == ("stop", {"uid": "s"})
    numbers = [doc["data"]["n"] for _, doc in events]
    assert set(numbers) == set(range(max(told)))
    assert len(numbers) <= max(told) + 20, "only the last document of a writer may have come without being told"
    for _, doc in events:
        n = doc["data"]["n"]
        assert doc["data"]["text"] == "x" * (n % 3000)
        assert numpy.array_equal(doc["data"]["image"], numpy.full(n % 1500, n))


def test_a_torn_line_is_cut_and_its_arrays_are_left(tmp_path):
    image = ("event", {"uid": "e", "data": {"image": numpy.arange(3000.0)}})
    write(tmp_path, [*RAW, image])
    (segment,) = segments(tmp_path)
    size = segment.lines.stat().st_size
    os.truncate(segment.lines, size - 5)
    beside = segment.arrays.read_bytes()

    write(tmp_path, [image])

    assert segment.arrays.read_bytes() == beside * 2
    assert bits(read(tmp_path)) == bits([*RAW, image])


FULL = """
    import resource, signal, sys
    from pathlib import Path
    import numpy
    from bluesky import RunEngine
    from bluesky.plans import count
    from ophyd.sim import SynSignal, det
    from pipeline.sinks.journal import Journal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    image = SynSignal(func=lambda: numpy.ones((20, 20)), name="image")
    RE = RunEngine({}, call_returns_result=True)
    RE.subscribe(journal := Journal(sys.argv[1], max_inline=100))
    def limit(nbytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, resource.RLIM_INFINITY))
    limit(int(sys.argv[2]))
    full = RE(count([det, image], 20))
    n_lost, n_documents = journal.n_lost, journal.n_documents
    assert all(path.read_bytes()[-1:] in (b"", b"\\n") for path in Path(sys.argv[1]).glob("*.jsonl"))
    limit(resource.RLIM_INFINITY)
    room = RE(count([det], 3))
    assert full.exit_status == room.exit_status == "success"
    assert journal.n_documents + journal.n_lost == 23 + 6
    assert journal.n_lost == n_lost, "there was room again"
    assert list(journal.faults) == list(full.run_start_uids)
    print(n_documents, n_lost, journal.faults)
"""


@pytest.mark.parametrize("limit", [300, 5000, 10_000])
def test_a_full_disk_ends_no_scan_and_the_journal_goes_on_when_there_is_room(tmp_path, limit):
    script = [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path), str(limit)]

    done = subprocess.run(script, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert "File too large" in done.stdout
    assert done.stderr.count("File too large") == 1, "it is logged once for each run"
    n_documents, n_lost = map(int, done.stdout.split()[:2])
    assert n_lost > 0
    items = rest(opened(tmp_path))
    losses = [item for item in items if item.name == "poison"]
    assert {item.doc["run_start"] for item in losses} == {done.stdout.split("'")[1]}
    told = [re.search(r"(\d+) documents could not be written \(", item.doc["reason"])[1] for item in losses]
    assert sum(map(int, told)) == n_lost
    assert all(after.name != "poison" for item, after in pairwise(items) if item.name == "poison")
    found = documents(item for item in items if item.name != "poison")
    assert len(found) == n_documents + 6
    assert [name for name, _ in found[-6:]] == ["start", "descriptor", "event", "event", "event", "stop"]
    assert all(
        numpy.array_equal(doc["data"]["image"], numpy.ones((20, 20))) for name, doc in found[:-6] if name == "event"
    )


def test_what_json_cannot_hold_is_lost_and_told_and_the_rest_is_there(RE, tmp_path, caplog, monkeypatch):
    documents = [RAW[0], RAW[1], ("event", {**RAW[2][1], "data": {"det": object()}}), ("event", 7), *RAW[3:]]

    with Journal(tmp_path) as journal:
        for item in documents:
            journal(*item)
        assert journal.n_lost == 1
        assert list(journal.faults) == [RAW[0][1]["uid"]]
        assert [record.message for record in caplog.records] == [
            f"Journal {tmp_path}, run {RAW[0][1]['uid']}: event: PipelineTypeError: event['data']['det'] is of type "
            "object, which JSON cannot hold; wanted a number, text, boolean, datetime, array, list or dict."
        ]
        monkeypatch.setenv("BLUESKY_DEBUG_CALLBACKS", "1")
        with pytest.raises(PipelineTypeError):
            journal(*documents[2])

    items = rest(opened(tmp_path))
    assert [item.name for item in items] == ["start", "descriptor", "poison", "poison", "event", "event", "stop"]
    assert items[2].doc["run_start"] == RAW[0][1]["uid"]
    assert "1 documents could not be written (event: PipelineTypeError: event['data']['det']" in items[2].doc["reason"]
    assert "wanted [name, document]" in items[3].doc["reason"]


def test_a_directory_that_was_removed_ends_no_scan_and_is_made_anew(RE, tmp_path):
    det = hw().det
    with Journal(tmp_path / "journal") as journal:
        RE.subscribe(journal)
        RE(count([det], 2))
        source = opened(tmp_path / "journal", follow=True)
        assert len(source.read(1)) == 5
        shutil.rmtree(tmp_path / "journal")
        RE.subscribe(given := Copies())

        RE(count([det], 3))

        assert journal.n_lost == 0
        found = source.read(5)
        source.close()
    assert bits(documents(found)) == bits(given)


def test_a_directory_that_cannot_be_made_is_told_at_once_and_loses_documents_later(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineOSError, match="wanted a directory to write a journal to"):
        Journal(tmp_path / "file" / "journal")

    with Journal(tmp_path / "journal") as journal:
        journal(*RAW[0])
        shutil.rmtree(tmp_path / "journal")
        (tmp_path / "journal").write_text("")
        for item in RAW[1:4]:
            journal(*item)
        (tmp_path / "journal").unlink()
        journal(*RAW[4])
        assert journal.n_lost == 3
        assert len(caplog.records) == 1
    lost, event = rest(opened(tmp_path / "journal"))
    assert "3 documents could not be written (descriptor: " in lost.doc["reason"]
    assert event.name == "event"


def test_one_journal_writes_at_a_time_and_the_next_one_when_it_is_closed(tmp_path):
    with Journal(tmp_path), pytest.raises(PipelineOSError, match="being written by another journal"):
        Journal(tmp_path)

    write(tmp_path, RAW)
    journal = Journal(tmp_path)
    del journal  # nobody holds it, so it holds nothing
    write(tmp_path, RAW)

    assert len(read(tmp_path)) == 2 * len(RAW)


def test_several_threads_share_a_journal(tmp_path):
    runs = [make_run({"det": [float(i) for i in range(300)]}, uid=str(n)) for n in range(4)]
    with Journal(tmp_path, max_segment=10_000) as journal:

        def give(run):
            for item in run:
                journal(*item)

        threads = [threading.Thread(target=give, args=(run,)) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert journal.n_lost == 0

    found = Kept(read(tmp_path)).by_run()
    assert all(found[run[0][1]["uid"]] == run for run in runs)


def test_a_journal_that_is_closed_loses_what_comes_and_says_so(tmp_path):
    journal = Journal(tmp_path)
    journal.close()

    journal(*RAW[0])

    assert journal.n_lost == 1
    assert "is closed" in journal.faults[RAW[0][1]["uid"]]


# readers -------------------------------------------------------------------------------------------------------------


def test_it_is_a_source_with_positions(tmp_path):
    write(tmp_path, RAW)
    source = opened(tmp_path)
    assert isinstance(source, PositionedSource)

    items = rest(source)

    line_ends = [n + 1 for n, byte in enumerate(segments(tmp_path)[0].lines.read_bytes()) if byte == 10]
    assert [item.position for item in items] == [("journal", end) for end in line_ends]


def test_each_reader_goes_on_behind_what_it_has_committed(tmp_path):
    write(tmp_path, RAW)
    one, other = opened(tmp_path, "one"), opened(tmp_path, "an/other")
    items = one.read(1)
    one.commit({"journal": items[1].position.index})
    one.commit({"journal": items[0].position.index})
    one.commit({})

    with Journal(tmp_path) as journal:
        assert journal.readers() == {"one": items[1].position.index, "an/other": 0}
    assert bits(rest(opened(tmp_path, "one"))) == bits(items[2:])
    assert len(rest(other)) == len(RAW)


def test_of_what_a_reader_and_its_service_have_committed_the_lesser_counts(tmp_path):
    write(tmp_path, RAW)
    items = rest(opened(tmp_path))
    ends = [item.position.index for item in items]
    Readers(tmp_path).commit("pipeline", ends[2])

    assert bits(rest(opened(tmp_path, begin={"journal": ends[3]}))) == bits(items[3:])
    assert bits(rest(opened(tmp_path, begin={"journal": ends[0], "other": 9}))) == bits(items[1:])
    assert bits(rest(opened(tmp_path, "new", begin={"journal": ends[3]}))) == bits(items[4:])


def test_half_a_position_is_ignored_and_a_broken_one_gives_all_again(tmp_path):
    write(tmp_path, RAW)
    readers = Readers(tmp_path)
    readers.commit("pipeline", 20)
    (tmp_path / "readers" / "pipeline.tmp").write_text('{"reader"')
    (tmp_path / "readers" / "other.tmp").write_text("")
    assert readers.positions() == {"pipeline": 20}

    readers.path("pipeline").write_text("[" * 9)

    assert readers.positions() == {"pipeline": 0}
    assert len(rest(opened(tmp_path))) == len(RAW)


def test_a_reader_goes_back_as_far_as_there_is_something(tmp_path):
    write(tmp_path, RAW, max_segment=200)
    source = opened(tmp_path)
    items = everything(source)
    assert source.ended

    assert source.rewind("journal", items[2].position.index)
    assert not source.ended
    assert bits(rest(source)) == bits(items[3:])

    first, second, *_ = segments(tmp_path)
    first.remove()
    assert not source.rewind("journal", 0)
    assert not source.rewind("journal", items[-1].position.index + 1)
    assert not source.rewind("beamline[0]", second.base)
    assert source.rewind("journal", second.base)


def test_a_journal_that_has_not_begun_is_waited_for(tmp_path):
    source = opened(tmp_path / "later", follow=True)
    assert source.read(0.01) == []
    threading.Timer(0.1, write, (tmp_path / "later", RAW)).start()

    items = source.read(10)

    assert items[0].doc == RAW[0][1]
    assert not source.ended
    source.close()
    with pytest.raises(PipelineError, match="wanted the directory of a journal"):
        opened(tmp_path / "never")


def test_a_torn_line_is_waited_for_and_what_takes_its_place_is_read(tmp_path):
    write(tmp_path, RAW[:1])
    (segment,) = segments(tmp_path)
    source = opened(tmp_path, follow=True)
    assert len(source.read(0)) == 1
    with open(segment.lines, "ab") as file:
        file.write(b'["event",{"uid":"torn and much longer than what comes')
    assert source.read(0.05) == []

    write(tmp_path, RAW[1:2])  # cuts it

    assert documents(source.read(1)) == RAW[1:2]
    with open(segment.lines, "ab") as file:
        file.write(b'["event",')
    assert source.read(0.05) == []
    with open(segment.lines, "ab") as file:
        file.write(b"{}]\n")
    assert documents(source.read(1)) == [("event", {})]
    source.close()


def test_it_ends_when_it_has_given_everything_if_it_is_told_to(tmp_path):
    write(tmp_path, RAW)
    source = opened(tmp_path, follow=True)
    n = len(source.read(1))
    assert source.read(0.01) == []
    assert not source.ended
    write(tmp_path, RAW)

    source.end_when_level()

    assert not source.ended
    assert n + len(rest(source)) == 2 * len(RAW)


def test_a_read_gives_a_thousand_documents_or_four_mebibytes(tmp_path):
    small = [("event", {"n": n}) for n in range(1500)]
    large = [("event", {"image": numpy.zeros(2**18)})] * 5
    write(tmp_path, [*small, *large])
    source = opened(tmp_path)

    sizes = []
    while not source.ended:
        sizes.append(len(source.read(1)))

    assert sizes == [1000, 502, 2, 1, 0]
    source.close()


# retention -----------------------------------------------------------------------------------------------------------


def fill(journal, n, at=0):
    for i in range(at, at + n):
        journal("event", {"n": i, "image": numpy.full(60, i)})


def test_the_oldest_segments_go_when_there_are_more_bytes_than_asked_for(tmp_path):
    with Journal(tmp_path, max_segment=2000, keep_bytes=10_000, max_inline=100) as journal:
        fill(journal, 200)
        assert journal.n_lost == 0

    assert sum(path.stat().st_size for path in tmp_path.glob("*.*") if path.suffix != ".lock") < 13_000
    there = segments(tmp_path)
    assert len(there) > 3
    assert there[0].base > 0
    assert {path.stem for path in tmp_path.glob("*.npys")} <= {segment.lines.stem for segment in there}
    numbers = [doc["n"] for _, doc in read(tmp_path)]
    assert numbers == list(range(numbers[0], 200))


def test_the_oldest_segments_go_when_they_are_older_than_asked_for(tmp_path):
    with Journal(tmp_path, max_segment=2000, keep_seconds=3600) as journal:
        fill(journal, 60)
        old, *others = segments(tmp_path)
        os.utime(old.lines, (time.time() - 3700,) * 2)
        fill(journal, 10, 60)

    there = segments(tmp_path)
    assert there[: len(others)] == others
    assert len(others) > 3


def test_what_a_reader_has_not_committed_is_kept_until_it_does_or_is_forgotten(tmp_path, caplog):
    with Journal(tmp_path, max_segment=2000, keep_bytes=6000) as journal:
        slow, quick = opened(tmp_path, "slow", follow=True), opened(tmp_path, "quick", follow=True)
        fill(journal, 100)
        assert segments(tmp_path)[0].base == 0
        assert (
            len([record for record in caplog.records if "kept for the readers ['quick', 'slow']" in record.message])
            == 1
        )

        quick.commit({"journal": journal.position})
        fill(journal, 10, 100)
        assert segments(tmp_path)[0].base == 0
        assert "kept for the readers ['slow']" in caplog.records[-1].message

        items = everything(slow)
        assert len(items) == 110
        slow.commit({"journal": items[49].position.index})
        fill(journal, 10, 110)
        first = segments(tmp_path)[0]
        assert 0 < first.base <= items[49].position.index < first.end

        assert journal.forget("slow")
        assert not journal.forget("slow")
        assert journal.readers().keys() == {"quick"}
        quick.commit({"journal": journal.position})
        fill(journal, 10, 120)
        assert sum(segment.nbytes for segment in segments(tmp_path)) < 9000
        slow.close()
        quick.close()


def test_nothing_goes_while_a_reader_registers(tmp_path):
    with Journal(tmp_path, max_segment=2000, keep_bytes=0) as journal:
        with Readers(tmp_path).alone(wait=True):
            fill(journal, 50)
            assert segments(tmp_path)[0].base == 0
        fill(journal, 20)
        assert segments(tmp_path)[0].base > 0


def test_a_segment_that_has_vanished_is_told_with_how_much_is_gone(tmp_path):
    write(tmp_path, RAW, max_segment=200)
    there = segments(tmp_path)
    assert len(there) > 3
    source = opened(tmp_path, begin={"journal": there[1].base})
    there[0].remove()
    there[1].remove()

    gone, *others = rest(source)

    assert gone.name == "poison"
    assert gone.position == ("journal", there[2].base)
    assert f"{there[2].base - there[1].base} bytes before byte {there[2].base} are gone" in gone.doc["reason"]
    assert [item.name for item in others] == ["event", "event", "stop"]
    assert [item.name for item in rest(opened(tmp_path, "new"))] == ["event", "event", "stop"], "it had no claim"


def test_where_a_reader_has_been_nothing_else_will_ever_stand(tmp_path):
    """The power was lost, and with it the end of the journal, which a reader had read."""
    write(tmp_path, RAW)
    first = rest(opened(tmp_path))
    source = opened(tmp_path, follow=True)
    source.commit({"journal": first[-1].position.index})
    source.close()
    (segment,) = segments(tmp_path)
    os.truncate(segment.lines, first[2].position.index)
    source = opened(tmp_path, follow=True)
    assert source.read(0.02) == []
    behind = opened(tmp_path, "behind", follow=True)

    write(tmp_path, RAW[:2])

    again = source.read(1)
    assert documents(again) == RAW[:2]
    assert again[0].position > first[-1].position
    *known, gone = behind.read(1), *behind.read(1)[:1]
    assert documents(known[0]) == RAW[:3]
    assert gone.name == "poison"
    assert "are gone" in gone.doc["reason"]
    source.close()
    behind.close()


@pytest.mark.parametrize("is_live", [True, False])
def test_a_journal_that_was_begun_anew_is_read_from_its_beginning(tmp_path, is_live):
    write(tmp_path, RAW)
    source = opened(tmp_path, follow=True)
    (*_, last) = source.read(1)
    shutil.rmtree(tmp_path)
    write(tmp_path, RAW[:2])
    if not is_live:
        source.close()
        source = opened(tmp_path, follow=True, begin={"journal": last.position.index})

    told = source.read(1)
    items = source.read(1)

    assert "begun anew" in told[0].doc["reason"]
    assert documents(items) == RAW[:2]
    source.commit({"journal": items[-1].position.index})
    assert Readers(tmp_path).positions() == {"pipeline": items[-1].position.index}
    source.close()


# poison --------------------------------------------------------------------------------------------------------------

START = RAW[0][1]["uid"]


def stop_with(value):
    return json.dumps(["stop", {"run_start": START, "x": value}]).encode()


POISON = {
    b"no json": "unexpected character|Expecting value",
    b"": "Expecting value|unexpected",
    b"\x00\xff": "",
    b'["start"]': "wanted \\[name, document\\]",
    b'["start",7]': "wanted \\[name, document\\]",
    b"[" * 5000: "deep",
    b'["start",{"a":' + b"[" * 64 + b"]" * 64 + b"}]": "nested at most 64 deep",
    b" " * (64 * 2**20) + b"x": "at most 67108864 bytes, there are 67108866",
    b" " * (66 * 2**20): "at most 67108864 bytes, there are 69206017",
    stop_with({"!npy": [0, 10**15]}): "wanted an array of 1000000000000000 bytes",
    stop_with({"!npy": [7, 128]}): "wanted an npy record",
    stop_with({"!npy": [0, 20]}): "wanted an npy record",
    stop_with({"!npy": [0, 200]}): "wanted 72 bytes of an array",
    stop_with({"!npy": [-1, 200]}): "wanted \\[offset, nbytes\\]",
    stop_with({"!npy": "no base64"}): "",
    stop_with({"!npy": None}): "wanted \\[offset, nbytes\\]",
    stop_with({"!what": 1}): "wanted a tag of",
    stop_with({"!scalar": ["<f4", "x"]}): "wanted what stands behind",
    stop_with({"!scalar": 7}): "wanted what stands behind",
    stop_with({"!int": "0xyz"}): "wanted what stands behind",
    stop_with({"!tuple": {}}): "wanted a list",
    stop_with({"!objects": [[10**12], [1]]}): "wanted what stands behind",
    b'["start",{"!float":"nan"}]': "wanted a document, there is float",
}


@pytest.mark.parametrize("line", POISON, ids=lambda line: line[:40].decode(errors="replace"))
def test_what_cannot_be_read_is_poison_and_it_goes_on_behind_it(tmp_path, line):
    write(tmp_path, [RAW[0], ("event", {"image": numpy.arange(1000.0)})])
    (segment,) = segments(tmp_path)
    with open(segment.lines, "ab") as file:
        file.write(line + b"\n")
    write(tmp_path, RAW[1:])

    items = rest(opened(tmp_path))

    assert [item.name for item in items] == ["start", "event", "poison", *(name for name, _ in RAW[1:])]
    assert items[2].position.index == items[1].position.index + len(line) + 1
    assert re.search(POISON[line], items[2].doc["reason"])
    assert str(segment.lines) in items[2].doc["reason"]
    assert items[2].doc["run_start"] == (START if line.startswith(b'["stop"') else "")


def test_objects_are_never_unpickled(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    write(tmp_path, [("event", {"image": numpy.arange(1000.0)})])
    (segment,) = segments(tmp_path)
    with open(segment.arrays, "wb") as file:
        numpy.lib.format.write_array(file, numpy.array([Harm()] * 3, object), allow_pickle=True)
    place = [0, segment.arrays.stat().st_size]
    with open(segment.lines, "wb") as file:
        file.write(json.dumps(["event", {"x": {"!npy": place}}]).encode() + b"\n")

    ((item),) = rest(opened(tmp_path))

    assert "there are objects" in item.doc["reason"]
    assert not (tmp_path / "harm").exists()
    with pytest.raises(PipelineTypeError, match="in no npy record"):
        npy_parts(numpy.array([Harm()], object))


def test_an_npy_record_is_what_numpy_writes_and_a_header_cannot_ask_for_memory(tmp_path):
    many = numpy.dtype([(f"field{i}", "f8") for i in range(4000)])
    for array in (numpy.arange(6.0).reshape(2, 3).T, numpy.zeros(2, many), numpy.array(1, ">u2")):
        path = tmp_path / "a.npy"
        version = (2, 0) if array.dtype == many else (1, 0)
        with open(path, "wb") as file:
            numpy.lib.format.write_array(file, array, version, allow_pickle=False)
        assert b"".join(npy_parts(array)) == path.read_bytes()

    header, _ = npy_parts(numpy.zeros(8))
    lie = header.replace(b"(8,), }   ", b"(8" + b"0" * 12 + b",), }")[: len(header)]
    with pytest.raises(PipelineValueError, match="wanted 64 bytes of an array"):
        read_npy(reader_of(lie + bytes(64)), 0, len(header) + 64)


def reader_of(content):
    def read_into(buffer, offset):
        part = content[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    return read_into


def test_what_follows_is_read_soon(tmp_path):
    """From the append to the read, on a thread of its own: this is of the order of milliseconds."""
    source = opened(tmp_path, follow=True)
    seconds = []
    with Journal(tmp_path) as journal:

        def append():
            for _ in range(30):
                time.sleep(0.005)
                journal("event", {"time": time.perf_counter()})

        thread = threading.Thread(target=append)
        thread.start()
        while len(seconds) < 30:
            seconds += [time.perf_counter() - item.doc["time"] for item in source.read(5)]
        thread.join()
    source.close()

    assert sorted(seconds)[15] < 0.02


def test_a_segment_is_named_by_the_place_of_its_first_byte(tmp_path):
    write(tmp_path, RAW, max_segment=200)

    at = 0
    for segment in segments(tmp_path):
        assert segment == Segment(tmp_path, at)
        at = segment.end
    with Journal(tmp_path) as journal:
        assert journal.position == at

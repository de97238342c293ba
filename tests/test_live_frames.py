"""Frames in files reach reductions, each once, with their own events: live as in replay, whatever comes when."""

import gc
import logging
import os
import threading
import tracemalloc
import weakref

import numpy
import pytest
from frames import (
    HDF5,
    Checksum,
    Stored,
    classic,
    crc,
    datum,
    descriptor,
    event,
    frames,
    hdf5,
    npys,
    resource,
    start,
    stop,
    stream_datum,
    stream_resource,
    streamed,
    tiffs,
    uri_of,
    zarrs,
)
from hdf5_writer import Writer, frame
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import Kept

from pipeline import Node, Pipeline
from pipeline.alignment import Alignment
from pipeline.intake import Intake
from pipeline.readers import Assets
from pipeline.readers.hdf5 import HDF5Reader
from pipeline.reductions import FrameAverage, Mean, Statistics

MOTOR = {"source": "motor", "dtype": "number", "dtype_numpy": "<f8", "shape": []}
ROWS = frames(40, (4, 5))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Frames for two detectors, that differ."""
    folder = tmp_path_factory.mktemp("stored")
    return {
        "a": hdf5(folder / "a.h5", ROWS, chunks=(1, 4, 5)),
        "b": hdf5(folder / "b.h5", ROWS + 1000, chunks=(4, 4, 5), compression="gzip"),
    }


def analyse(documents, *nodes, assets=None, live=False):
    kept = Kept()
    pipeline = Pipeline(nodes, [kept], assets=assets or Assets(timeout=0.0))
    if live:
        for name, doc in documents:
            pipeline(name, doc)
    else:
        pipeline.replay(documents)
    return kept


def nodes():
    return Node("each", Checksum("a"), Checksum("b"), every=0), Node("all", FrameAverage("a"), Statistics("x"), every=2)


# what comes when ---------------------------------------------------------------------------------------------------


@st.composite
def scans(draw):
    """What a RunEngine does: point after point, and back to an earlier one now and then; the rows of each take."""
    taken, next_point, row = [], 1, 0
    for _ in range(draw(st.integers(1, 14))):
        if draw(st.integers(0, 4)) == 0:
            next_point = draw(st.integers(max(1, next_point - 4), next_point))
            row += draw(st.integers(0, 2))  # frames that were taken, and never told of
        taken.append((next_point, row))
        next_point, row = next_point + 1, row + 1
    return taken


def told_in_batches(field, taken, draw):
    """The stream_datum documents of one field: of so many points each as its detector likes."""
    documents, batch = [], []
    for point in [*taken, None]:
        goes_on = point is not None and batch and point == (batch[-1][0] + 1, batch[-1][1] + 1)
        if batch and not (goes_on and draw(st.booleans())):
            documents.append(stream_datum(field, batch[0][0], batch[-1][0] + 1, batch[0][1]))
            batch = []
        batch.append(point)
    return documents


def events_of(taken):
    """The events of a scan; those of a point that is taken again differ."""
    n_takes, documents = {}, []
    for point, row in taken:
        n_takes[point] = take = n_takes.get(point, -1) + 1
        documents.append(event(point, {"x": row + 0.5}, take=take))
    return documents


def head(stored, *, motor=True):
    keys = {field: each.key for field, each in stored.items()} | ({"x": MOTOR} if motor else {})
    return [start(), descriptor(keys), *(stream_resource(field, each) for field, each in stored.items())]


def plain(stored, taken):
    """The documents of a scan in the order of the RunEngine: each point's frames are told of, then comes its event."""
    documents = head(stored)
    for (point, row), each in zip(taken, events_of(taken), strict=True):
        documents += [*(stream_datum(field, point, point + 1, row) for field in stored), each]
    return [*documents, stop(max(point for point, _ in taken))]


def shuffled(parts, draw):
    order = draw(st.permutations([i for i, part in enumerate(parts) for _ in part]))
    parts = [iter(part) for part in parts]
    return [next(parts[i]) for i in order]


def by_run(kept):
    """The bytes of each run: two that go on at a time may be given in turn."""
    return {uid: run.bytes() for uid, run in kept.by_run().items()}


@given(taken=scans(), data=st.data())
@settings(max_examples=25, deadline=None)
def test_whatever_comes_when_the_analysis_is_the_same_bytes(stored, taken, data):
    wanted = analyse(plain(stored, taken), *nodes())
    told = [told_in_batches(field, taken, data.draw) for field in stored]
    documents = [*head(stored), *shuffled([events_of(taken), *told], data.draw), stop(max(n for n, _ in taken))]

    got = analyse(documents, *nodes(), live=data.draw(st.booleans()))

    assert by_run(got) == by_run(wanted)
    each = got.of_node("each")
    rows = [row for _, row in taken]
    assert [data["a_crc"] for data in each.events("primary")] == [crc(ROWS[row]) for row in rows]
    assert [data["b_crc"] for data in each.events("primary")] == [crc(ROWS[row] + 1000) for row in rows]
    mean = got.of_node("all").final()["a_mean"]
    numpy.testing.assert_allclose(mean, ROWS[kept_rows(taken)].mean(0), rtol=1e-6)


def kept_rows(taken):
    """The rows that are left: what is taken again replaces the point and those after it."""
    kept = []
    for point, row in taken:
        kept = [*(each for each in kept if each[0] < point), (point, row)]
    return [row for _, row in kept]


@given(taken=scans(), data=st.data())
@settings(max_examples=25, deadline=None)
def test_what_is_delivered_twice_changes_nothing(stored, taken, data):
    documents = plain(stored, taken)
    wanted = analyse(documents, *nodes())
    cut = data.draw(st.integers(0, len(documents) - 1))
    back = data.draw(st.integers(0, cut))

    got = analyse([*documents[:cut], *documents[back:]], *nodes())

    assert by_run(got) == by_run(wanted)


@given(taken=scans(), data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_fly_scan_has_an_event_for_each_row_whatever_comes_when(stored, taken, data):
    def documents(told):
        return [*head(stored, motor=False), *told, stop(max(n for n, _ in taken))]

    node = Node("each", Checksum("a"), Checksum("b"), FrameAverage("a"))
    point_by_point = [stream_datum(field, n, n + 1, row) for n, row in taken for field in stored]
    wanted = analyse(documents(point_by_point), node)
    told = [told_in_batches(field, taken, data.draw) for field in stored]

    got = analyse(documents(shuffled(told, data.draw)), node, live=data.draw(st.booleans()))

    assert got.bytes() == wanted.bytes()
    assert [data["a_crc"] for data in got.events("primary")] == [crc(ROWS[row]) for _, row in taken]


@pytest.mark.parametrize("order", ["frames first", "events first"])
def test_points_that_have_nothing_but_frames_are_their_events(stored, order):
    documents = head(stored, motor=False)
    for n in range(1, 6):
        point = [stream_datum("a", n, n + 1), stream_datum("b", n, n + 1), event(n)]
        documents += point if order == "frames first" else [point[2], *point[:2]]

    got = analyse([*documents, stop(5)], Node("each", Checksum("a"), Checksum("b")))

    events = got.named("event")
    assert [doc["time"] for doc in events] == [event(n)[1]["time"] for n in range(1, 6)]
    assert [doc["data"]["b_crc"] for doc in events] == [crc(row + 1000) for row in ROWS[:5]]


def test_a_frame_that_is_never_told_of_leaves_the_others_theirs(stored):
    told = [stream_datum("a", 1, 3), stream_datum("a", 4, 6, 3)]
    documents = [*head({"a": stored["a"]}), *events_of([(n, n - 1) for n in range(1, 6)]), *told, stop(5)]

    got = analyse(documents, Node("each", Checksum("a"), every=0), Node("motor", Mean("x"), every=0))

    crcs = [data["a_crc"] for data in got.of_node("each").events("primary")]
    assert crcs == [crc(ROWS[0]), crc(ROWS[1]), 0, crc(ROWS[3]), crc(ROWS[4])]
    assert got.of_node("each").stop["analysis"]["n_skipped"] == 1
    assert got.of_node("motor").final()["x_n"] == 5


def test_a_lost_batch_of_a_fly_scan_leaves_the_others_theirs(stored):
    told = [stream_datum("a", 1, 3), stream_datum("a", 5, 7, 4)]

    got = analyse([*head({"a": stored["a"]}, motor=False), *told, stop(6)], Node("each", Checksum("a")))

    assert [data["a_crc"] for data in got.events("primary")] == [crc(ROWS[i]) for i in (0, 1, 4, 5)]
    assert got.stop["analysis"]["n_missing"] == 2


def test_frames_of_which_nothing_is_told_at_all_are_missed(stored, caplog):
    documents = [*head(stored), *events_of([(1, 0), (2, 1)]), stop(2)]

    got = analyse(documents, Node("each", Checksum("a")), Node("motor", Mean("x")))

    assert "no document told of any value" in got.of_node("each").stop["reason"]
    assert got.of_node("motor").stop["exit_status"] == "success"


@given(taken=scans(), data=st.data())
@settings(max_examples=25, deadline=None)
def test_what_aligns_frames_goes_on_from_its_state(stored, taken, data):
    motor = data.draw(st.booleans())
    told = [told_in_batches(field, taken, data.draw) for field in stored]
    parts = [*told, *([events_of(taken)] if motor else [])]
    documents = [*head(stored, motor=motor), *shuffled(parts, data.draw)]

    assert aligned(documents, lambda: data.draw(st.booleans())) == aligned(documents, lambda: False)


def aligned(documents, is_cut):
    """What is handed on of a run, when the state is written and read at some documents."""
    taken, assets = [], Assets(timeout=0.0).of_run(is_stored=True)

    def fresh():
        intake = Intake(taken.append, lambda seq_num: True)
        return intake, Alignment(assets, None, intake.uid_of, intake.event)

    intake, alignment = fresh()
    for name, doc in documents:
        assets(name, doc)
        if name in ("descriptor", "event", "stream_datum"):
            getattr(alignment, name)(doc)
        if is_cut():
            states = intake.state(), alignment.state()
            intake, alignment = fresh()
            intake.restore(states[0])
            alignment.restore(states[1])
    alignment.finish()
    intake.finish()
    return [(doc["uid"], {k: str(getattr(v, "__dict__", v)) for k, v in doc["data"].items()}) for doc in taken]


def test_files_that_follow_one_another_hold_points_that_are_taken_again(tmp_path):
    stores = [hdf5(tmp_path / f"{i}.h5", ROWS[3 * i : 3 * i + 3]) for i in range(2)]
    documents = [start(), descriptor({"a": stores[0].key, "x": MOTOR})]
    for i, points in enumerate([(1, 2, 3), (2, 3, 4)]):  # each file counts its rows from 0
        documents.append(stream_resource("a", stores[i], f"r{i}"))
        for row, point in enumerate(points):
            documents += [stream_datum("a", point, point + 1, row, f"r{i}"), event(point, {"x": 0.0}, take=i)]

    got = analyse([*documents, stop(4)], Node("each", Checksum("a"), FrameAverage("a"), every=0))

    assert [data["a_crc"] for data in got.events("primary")] == [crc(row) for row in ROWS[:6]]
    numpy.testing.assert_allclose(got.final()["a_mean"], ROWS[[0, 3, 4, 5]].mean(0), rtol=1e-6)


# what cannot be read -----------------------------------------------------------------------------------------------


@pytest.fixture
def with_a_gap(tmp_path):
    """Six points; the frame of the third is damaged."""
    rows = ROWS[:6]
    stored = tiffs(tmp_path, rows)
    (tmp_path / "img_00002.tif").write_bytes(b"\0" * 100)
    return streamed({"a": stored}, 6)


def test_what_is_missing_ends_the_analysis_that_wants_it_alone(with_a_gap, caplog):
    got = analyse(with_a_gap, Node("each", Checksum("a"), every=0), Node("motor", Mean("x"), every=0))

    assert got.of_node("each").stop["exit_status"] == "fail"
    for word in ("field 'a'", "img_, row 2", "img_00002.tif is no whole file of its kind"):
        assert word in got.of_node("each").stop["reason"]
    assert len(got.of_node("each").events("primary")) == 2
    assert got.of_node("motor").stop["exit_status"] == "success"
    assert got.of_node("motor").final()["x_mean"] == 3.5
    assert [record.levelname for record in caplog.records if record.name.startswith("pipeline")] == ["ERROR"]


def test_what_is_missing_is_left_out_if_so_told(with_a_gap):
    assets = Assets(missing="skip", timeout=0.0)
    node = Node("each", Checksum("a"), FrameAverage("a"), every=0)

    for live in (False, True):
        got = analyse(with_a_gap, node, assets=assets, live=live)
        rows = [data["a_crc"] for data in got.events("primary")]
        assert rows == [crc(row) if i != 2 else 0 for i, row in enumerate(ROWS[:6])]
        assert got.stop["exit_status"] == "success"
        assert got.stop["analysis"]["n_skipped"] == 2
        assert (
            got.final()["a_n"].tolist() == [[5] * 5] * 4 if numpy.ndim(got.final()["a_n"]) else got.final()["a_n"] == 5
        )


def test_who_reads_numbers_alone_never_opens_a_file(tmp_path, monkeypatch):
    stored = {"a": Stored(uri_of(tmp_path / "none.h5"), HDF5, {}, [4, 5], "<u2")}

    class Never(HDF5Reader):
        def __init__(self, *args):
            raise AssertionError("it was opened")

    got = analyse(streamed(stored, 5), Node("motor", Mean("x")), assets=Assets(readers={HDF5: Never}), live=True)

    assert got.stop["exit_status"] == "success"
    assert got.final()["x_n"] == 5


def test_a_frame_that_does_not_come_is_waited_for_once(tmp_path):
    looks = []

    class Watched(HDF5Reader):
        def __init__(self, *args):
            looks.append(args)
            super().__init__(*args)

    stored = {"a": Stored(uri_of(tmp_path / "none.h5"), HDF5, {}, [4, 5], "<u2")}
    assets = Assets(readers={HDF5: Watched}, timeout=0.2, missing="skip")

    got = analyse(streamed(stored, 30), Node("each", Checksum("a"), every=0), assets=assets, live=True)

    assert got.stop["analysis"]["n_skipped"] == 30
    assert 30 < len(looks) < 60  # the first one a few times, all others once


# each once, and few at a time --------------------------------------------------------------------------------------


def watched(read, alive):
    """A reader that tells which rows were read, and refers to the arrays that it gave."""

    class Watched(HDF5Reader):
        def read(self, start, stop):
            found = super().read(start, stop)
            read.extend(range(start, start + len(found)))
            alive.append(weakref.ref(found))
            return found

    return Watched


def n_alive(references):
    return sum(reference() is not None for reference in list(references))


def test_each_frame_is_read_once_for_all_nodes_and_few_are_there_at_a_time(tmp_path):
    rows = frames(12, (1000, 1000), "u4")  # 4 MB each: one is a block
    stored = {"a": hdf5(tmp_path / "a.h5", rows, chunks=(1, 1000, 1000))}
    read, alive, most = [], [], []

    Watched = watched(read, alive)

    class Looks(Checksum):
        def reduce(self, data):
            result = super().reduce(data)
            most.append(n_alive(alive))
            return result

    for in_flight in (2, 4):
        read.clear(), alive.clear(), most.clear()
        both = [Node("one", Looks("a"), every=0), Node("two", Looks("a"), FrameAverage("a"), every=0)]
        got = analyse(streamed(stored, 12, batch=5), *both, assets=Assets(readers={HDF5: Watched}, in_flight=in_flight))

        for node in ("one", "two"):
            crcs = [data["a_crc"] for data in got.of_node(node).events("primary")]
            assert crcs == [crc(row) for row in rows]
        assert sorted(read) == list(range(12))
        assert max(most) <= in_flight
    gc.collect()
    assert n_alive(alive) == 0


def test_of_files_that_follow_one_another_few_frames_are_there_and_few_files_open(tmp_path):
    rows = frames(20, (1000, 1000), "u4")  # 4 MB each: one is a block
    documents, alive, most, files = [start()], [], [], []
    for i in range(10):
        store = hdf5(tmp_path / f"{i}.h5", rows[2 * i : 2 * i + 2], chunks=(1, 1000, 1000))
        documents += [descriptor({"a": store.key, "x": MOTOR})] if not i else []
        documents += [stream_resource("a", store, f"r{i}"), stream_datum("a", 2 * i + 1, 2 * i + 3, 0, f"r{i}")]
        documents += [event(2 * i + 1, {"x": 0.0}), event(2 * i + 2, {"x": 0.0})]

    class Looks(Checksum):
        def reduce(self, data):
            result = super().reduce(data)
            most.append(n_alive(alive))
            files.append(len({path for path in map(_opened, os.listdir("/proc/self/fd")) if path.endswith(".h5")}))
            return result

    assets = Assets(readers={HDF5: watched([], alive)})
    got = analyse([*documents, stop(20)], Node("each", Looks("a"), every=0), assets=assets)

    assert [data["a_crc"] for data in got.events("primary")] == [crc(row) for row in rows]
    assert max(most) <= 3
    assert max(files) <= 4


def _opened(descriptor):
    path = f"/proc/self/fd/{descriptor}"
    return os.readlink(path) if os.path.lexists(path) else ""


def test_files_and_memory_are_given_back_after_each_run(tmp_path):
    rows = frames(8, (16, 16))
    folders = {}
    for name, store in {"a": hdf5, "b": tiffs, "c": npys, "d": zarrs}.items():
        folder = tmp_path / name
        folder.mkdir()
        folders[name] = store(folder / "a.h5" if store is hdf5 else folder, rows)
    broken = {"a": Stored(uri_of(tmp_path / "a"), HDF5, {}, [16, 16], "<u2")}
    old = classic(
        "a",
        {"dtype": "array", "shape": [16, 16]},
        [resource("r", "AD_HDF5", tmp_path / "a" / "a.h5")],
        [datum("r", i, point_number=i) for i in range(8)],
    )
    assets, node = Assets(timeout=0.0), Node("each", *map(Checksum, "abcd"), every=0)
    pipeline = Pipeline([node, Node("a", FrameAverage("a"), every=0)], assets=assets)

    def many(n):
        for _ in range(n):
            for documents in (streamed(folders, 8, batch=3), streamed(broken, 3), old, streamed(folders, 8)[:-3]):
                pipeline.replay(documents)
        gc.collect()

    logging.disable(logging.CRITICAL)
    try:
        many(2)
        n_files, n_threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        tracemalloc.start()
        many(2)
        before = tracemalloc.get_traced_memory()[0]
        many(5)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        logging.disable(logging.NOTSET)

    assert len(os.listdir("/proc/self/fd")) <= n_files
    assert threading.active_count() <= n_threads
    assert grown < 100_000  # of 20 runs


@pytest.mark.parametrize("is_read", [False, True])
def test_what_nobody_reads_is_not_known_for_ever(is_read, tmp_path):
    told = [resource("r", "NPY_SEQ", tmp_path / "img")]
    told += [each for i in range(11_000) for each in (datum("r", 2 * i, index=i), datum("r", 2 * i + 1, index=i))]
    assets, taken = Assets().of_run(), []
    alignment = Alignment(assets, {"a"} if is_read else {"x"}, lambda seq_num: None, taken.append)
    keys = {field: {"source": "", "dtype": "array", "shape": [4, 5], "external": "OLD:"} for field in "ab"}
    alignment.descriptor(descriptor(keys | {"x": MOTOR})[1])
    for i, (name, doc) in enumerate(told):
        assets(name, doc)
        if name == "datum" and i % 2 == 0:
            data = {"a": f"r/{i - 2}", "b": f"r/{i - 1}", "x": 1.0}
            alignment.event(event(i // 2, data, filled={"a": False, "b": False})[1])

    assert len(taken) == 11_000
    assert len(assets.state()["datums"]) <= 10_000


# while it is read --------------------------------------------------------------------------------------------------


def test_a_run_may_end_while_a_frame_is_read_ahead(tmp_path):
    rows = frames(6, (4, 5))
    stored = {"a": hdf5(tmp_path / "a.h5", rows)}
    is_reading, may_go_on, closed = threading.Event(), threading.Event(), []

    class Slow(HDF5Reader):
        def read(self, start, stop):
            if threading.current_thread() is not threading.main_thread():
                is_reading.set()
                assert may_go_on.wait(10)
            return super().read(start, stop)

        def close(self):
            super().close()
            closed.append(threading.current_thread())

    pipeline = Pipeline([Node("each", Checksum("a"), every=0)], [kept := Kept()], assets=Assets(readers={HDF5: Slow}))
    documents = streamed(stored, 6, batch=6)
    for name, doc in documents[:5]:
        pipeline(name, doc)
    assert is_reading.wait(10)
    threading.Timer(0.2, may_go_on.set).start()
    pipeline(*stop(6))

    assert closed
    assert kept.stop["exit_status"] == "success"
    assert len(kept.events("primary")) == 1


def test_frames_are_reduced_while_another_process_writes_them(tmp_path):
    path = tmp_path / "a.h5"
    told = {"a": Stored(uri_of(path), HDF5, {}, [1, 4, 5], "<u2")}
    documents = streamed(told, 60, batch=7)
    with Writer(path) as writer:
        for step in ("create", "dataset", "swmr"):
            writer(step)
        writer.tell("frames", 1, 61, 0.002)
        live = analyse(
            documents, Node("each", Checksum("a"), FrameAverage("a")), assets=Assets(timeout=20.0), live=True
        )

    assert [data["a_crc"] for data in live.events("primary")] == [crc(frame(i)) for i in range(1, 61)]
    assert analyse(documents, Node("each", Checksum("a"), FrameAverage("a"))).bytes() == live.bytes()

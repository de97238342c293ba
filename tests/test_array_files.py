"""Large arrays of results are in files beside the ledger's, as safe as its lines, and told where."""

import logging
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from unittest.mock import patch

import crashes
import h5py
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import Kept

from pipeline import Node, Pipeline, RunBuilder, hdf5_rows
from pipeline.array_file import ArrayFile
from pipeline.delivery import Delivery, Outlet
from pipeline.errors import PipelineError, PipelineOSError, PipelineValueError
from pipeline.filled import filled
from pipeline.hdf5_rows import Layout
from pipeline.reductions import FrameAverage, Mean, Statistics
from pipeline.reductions.event_reduction import EventReduction
from pipeline.run import BlueskyRun
from pipeline.schema import validate
from pipeline.show import show
from pipeline.sinks import JSONLSink, jsonl
from pipeline.sources import read_jsonl
from pipeline.state import state_from_bytes, state_to_bytes
from pipeline.store import Store
from pipeline.store_file import store_file
from pipeline.superblock import Superblock, close_abandoned
from pipeline.testing import make_run
from pipeline.verify import verify

SHAPE = (40, 30)  # of a frame: 9.6 kB of float64
LIMIT = 5000  # bytes: frames are in files, curves are not
NAN = float("nan")


class Doubled(EventReduction):
    """An image and a curve of each frame."""

    def __init__(self, field):
        self.field = field

    def reduce(self, data):
        frame = numpy.asarray(data[self.field])
        return {f"{self.field}_doubled": frame * 2.0, f"{self.field}_rows": frame.sum(1) * 1.0}


def frames(n, seed=0):
    found = numpy.random.default_rng(seed).random((n, *SHAPE))
    found[:, 0, 0] = NAN
    return list(found)


def raw_run(n=6, uid="raw", **metadata):
    return make_run({"det": frames(n)}, uid=uid, **metadata)


def nodes():
    return [Node("frames", Doubled("det"), FrameAverage("det"), every=2)]


def analyse(folder, documents, *sinks, to=nodes, limit=LIMIT):
    with JSONLSink(folder, max_array_bytes=limit) as ledger:
        Pipeline(to(), [ledger, *sinks]).replay(documents)
    return Kept(read_jsonl(folder))


def state_of(folder):
    """Bytes and time of change of every file."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(Path(folder).iterdir())}


def rows_of(folder):
    """The rows in all files of arrays, by file and dataset."""
    found = {}
    for path in sorted(Path(folder).glob("*.h5")):
        with h5py.File(path, "r") as file:
            groups = {name: group for name, group in file.items() if isinstance(group, h5py.Group)}
            found |= {f"{path.name}/{name}/{key}": each[:] for name in groups for key, each in groups[name].items()}
    return found


def assert_same_rows(have, want):
    assert have.keys() == want.keys()
    for name, rows in want.items():
        assert have[name].dtype == rows.dtype, name
        assert have[name].tobytes() == rows.tobytes(), name


def path_in(folder, stream):
    (path,) = Path(folder).glob(f"*.{stream}.h5")
    return path


def delivered(folder, run, limit, compression=None):
    """Hand the documents of a run to a ledger as they are, and return those that it has."""
    with JSONLSink(folder, max_array_bytes=limit, compression=compression) as ledger:
        deliver = Delivery([Outlet(ledger)])
        for item in run:
            deliver(*item)
    assert deliver.faults == {}
    return list(read_jsonl(folder))


# documents ---------------------------------------------------------------------------------------------------------


def test_large_arrays_are_told_by_valid_documents_and_are_what_the_reductions_gave(tmp_path):
    kept = Kept()
    documents = analyse(tmp_path, raw_run(), kept)

    inside = Kept()
    Pipeline(nodes(), [inside]).replay(raw_run())
    assert documents.bytes() == kept.bytes()
    for name, doc in documents:
        if name != "event":
            continue
        assert not [key for key, value in doc["data"].items() if numpy.size(value) * 8 > LIMIT]
    again = Kept(filled(documents))
    for stream in ("primary", "running", "final"):
        for have, want in zip(again.events(stream), inside.events(stream), strict=True):
            assert have.keys() == want.keys()
            for key in want:
                numpy.testing.assert_array_equal(have[key], want[key])
    assert [doc["data_keys"]["det_doubled"]["external"] for doc in kept.named("descriptor")[:1]] == ["STREAM:"]
    assert "external" not in kept.named("descriptor")[0]["data_keys"]["det_rows"]


def test_each_document_is_valid_and_rows_are_told_before_their_event(tmp_path):
    kept = Kept()
    analyse(tmp_path, raw_run(), kept)
    told, resources = {}, {}
    for name, doc in kept:
        validate(name, doc)
        if name == "stream_resource":
            resources[doc["uid"]] = doc
        elif name == "stream_datum":
            key = resources[doc["stream_resource"]]["data_key"]
            told[doc["descriptor"], key] = doc["seq_nums"]["stop"]
            assert doc["indices"]["stop"] == doc["seq_nums"]["stop"] - 1
        elif name == "event":
            assert all(stop == doc["seq_num"] + 1 for (of, _), stop in told.items() if of == doc["descriptor"])
    assert len(resources) == len({doc["uid"] for doc in resources.values()}) == 1 + 2 * 4
    assert {key for _, key in told} == {"det_doubled", "det_mean", "det_var", "det_n", "det_n_nan"}


def test_a_row_is_in_the_file_for_who_reads_before_it_is_told(tmp_path):
    seen = []

    class Reader:
        inline = True

        def __call__(self, name, doc):
            if name == "stream_resource":
                self.resource = doc
            elif name == "stream_datum" and self.resource["data_key"] == "det_doubled":
                path = self.resource["uri"].removeprefix("file://localhost")
                with h5py.File(path, "r", swmr=True) as file:
                    seen.append(file[self.resource["parameters"]["dataset"]][doc["indices"]["start"]])

    analyse(tmp_path, raw_run(4), Reader(), to=lambda: [Node("frames", Doubled("det"))])

    for have, frame in zip(seen, frames(4), strict=True):
        numpy.testing.assert_array_equal(have, frame * 2.0)


KINDS = {
    "with NaN": numpy.full(SHAPE, NAN),
    "f4": numpy.arange(4000, dtype="f4").reshape(4, 25, 40),
    "u1": numpy.arange(6000, dtype="u1"),
    "u2": numpy.arange(4000, dtype="u2").reshape(50, 80),
    "i8": numpy.arange(-2000, 2000),
    "u8": numpy.arange(2**64 - 4000, 2**64 - 1, dtype="u8"),
    "booleans": numpy.arange(6000) % 3 == 0,
    "big-endian": numpy.arange(4000, dtype=">f8"),
    "columns first": numpy.asfortranarray(numpy.arange(4000.0).reshape(50, 80)),
    "every other": numpy.arange(8000.0)[::2],
    "negative zero": numpy.full(1000, -0.0),
}
INSIDE = {
    "a number": 1.5,
    "0-d": numpy.array(2.5),
    "empty": numpy.empty((0, 4)),
    "one": numpy.array([1.0]),
    "text": numpy.array(["a" * 3000, "b"]),
    "small": numpy.arange(625.0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_an_array_of_each_kind_comes_back_bit_by_bit(tmp_path, kind, compression):
    value = KINDS[kind]
    run = make_run({"x": [1.0, 2.0, 3.0], "y": [value, value[::-1], value]})
    stored = delivered(tmp_path, run, LIMIT, compression)

    (rows,) = rows_of(tmp_path).values()
    assert rows.dtype == value.dtype
    assert rows.tobytes() == numpy.array([value, value[::-1], value], value.dtype).tobytes()
    have = BlueskyRun(lambda: stored)["primary"].read()["y"]
    numpy.testing.assert_array_equal(have.values, numpy.array([value, value[::-1], value]))


@pytest.mark.parametrize("kind", INSIDE)
def test_what_is_small_or_no_array_of_numbers_stays_in_the_events(tmp_path, kind):
    stored = delivered(tmp_path, make_run({"y": [INSIDE[kind]]}), LIMIT)

    assert list(tmp_path.glob("*.h5")) == []
    assert "stream_resource" not in [name for name, _ in stored]


@given(
    st.lists(
        st.tuples(st.sampled_from(["<f8", "<f4", "<u2", ">i4", "|b1"]), st.lists(st.integers(1, 9), max_size=3)),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 5),
    st.integers(0, 300),
    st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_whatever_the_limit_a_run_reads_back_as_it_was(tmp_path_factory, columns, n, limit, chance):
    folder = tmp_path_factory.mktemp("ledger")
    rng = numpy.random.default_rng(chance.randrange(2**32))
    data = {
        f"x{i}": [(100 * rng.random(tuple(shape))).astype(dtype) for _ in range(n)]
        for i, (dtype, shape) in enumerate(columns)
    }
    run = make_run(data, pages=chance.choice([0, 1, 2, n]))
    stored = delivered(folder, run, limit)

    have, want = (BlueskyRun(lambda of=of: of)["primary"].read() for of in (stored, run))
    for key in data:
        numpy.testing.assert_array_equal(have[key].values, want[key].values)
        assert have[key].dtype == want[key].dtype


def test_a_stream_that_is_described_anew_with_another_shape_has_another_file(tmp_path):
    builder = RunBuilder(uid="raw", time=0.0)
    builder.add_stream("primary", {"det": {"dtype": "array", "dtype_numpy": "<f8", "shape": [40, 30], "source": ""}})
    builder.add_event("primary", {"det": numpy.ones((40, 30))}, time=1.0)
    builder.redescribe("primary", {"det": {"dtype": "array", "dtype_numpy": "<f8", "shape": [60, 50], "source": ""}})
    builder.add_event("primary", {"det": numpy.ones((60, 50))}, time=2.0)
    builder.close(time=3.0)

    documents = analyse(tmp_path, builder.documents(), to=lambda: [Node("frames", Doubled("det"))])

    shapes = {path.name.split(".", 1)[1]: rows.shape for path, rows in by_path(tmp_path)}
    assert shapes == {"primary.h5": (1, 40, 30), "primary.1.h5": (1, 60, 50)}
    arrays = [doc["data"]["det_doubled"] for name, doc in filled(documents) if name == "event"]
    assert [each.shape for each in arrays] == [(40, 30), (60, 50)]
    assert all((each == 2.0).all() for each in arrays)


def by_path(folder):
    for path in Path(folder).glob("*.h5"):
        ((_, rows),) = [(key, rows) for key, rows in rows_of(folder).items() if key.startswith(f"{path.name}/")]
        yield path, rows


# again -------------------------------------------------------------------------------------------------------------


def test_replay_gives_the_bytes_and_rows_that_live_gave_and_changes_nothing(tmp_path):
    with JSONLSink(tmp_path / "live", max_array_bytes=LIMIT) as ledger:
        pipeline = Pipeline(nodes(), [ledger])
        for item in raw_run():
            pipeline(*item)
    before, rows = state_of(tmp_path / "live"), rows_of(tmp_path / "live")

    analyse(tmp_path / "live", raw_run())

    assert state_of(tmp_path / "live") == before
    assert len(rows) == 1 + 2 * 4
    assert [doc.name for doc in (tmp_path / "live").iterdir() if doc.name.startswith(".")] == []


def test_a_run_that_is_read_only_is_compared_all_the_same(tmp_path):
    analyse(tmp_path, raw_run())
    for path in tmp_path.glob("*.h5"):
        path.chmod(0o444)
    kept = Kept()

    analyse(tmp_path, raw_run(), kept)

    assert "sinks" not in kept.stop["analysis"]


def changed(path, key, i, value):
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        (group,) = [each for each in file.values() if isinstance(each, h5py.Group)]
        group[key][i] = value


def test_other_values_in_a_whole_file_are_refused_and_left(tmp_path):
    analyse(tmp_path, raw_run())
    changed(path_in(tmp_path, "running"), "det_mean", 1, numpy.full(SHAPE, 7.0))
    before, kept = state_of(tmp_path), Kept()

    analyse(tmp_path, raw_run(), kept)

    assert "'det_mean', row 1: the file is whole and has other values" in kept.stop["analysis"]["sinks"]["JSONLSink"]
    assert state_of(tmp_path) == before


def test_a_file_of_another_start_document_is_refused_and_left(tmp_path):
    layout = Layout.of("final", {"x": {"shape": [3], "dtype_numpy": "<f8"}})
    file = ArrayFile(tmp_path / "a.h5", layout, "one")
    file.put("x", 0, [numpy.ones(3)])
    file.let_go()
    before = rows_of(tmp_path)

    with pytest.raises(PipelineValueError, match="same uid and another start document"):
        ArrayFile(tmp_path / "a.h5", layout, "other")

    assert_same_rows(rows_of(tmp_path), before)


def test_a_whole_file_of_other_arrays_is_refused_and_one_that_is_not_whole_is_made_anew(tmp_path, caplog):
    layout = Layout.of("final", {"x": {"shape": [3], "dtype_numpy": "<f8"}})
    other = Layout.of("final", {"x": {"shape": [4], "dtype_numpy": "<f8"}})
    for is_whole in (True, False):
        path = tmp_path / f"{is_whole}.h5"
        file = ArrayFile(path, layout, "digest")
        file.put("x", 0, [numpy.ones(3)])
        file.close(is_whole=is_whole)

    with pytest.raises(PipelineValueError, match="whole and has other arrays"):
        ArrayFile(tmp_path / "True.h5", other, "digest")
    file = ArrayFile(tmp_path / "False.h5", other, "digest")
    file.put("x", 0, [numpy.ones(4)])
    file.close(is_whole=True)

    assert {path.split("/")[0]: rows.shape for path, rows in rows_of(tmp_path).items()} == {
        "False.h5": (1, 4),
        "True.h5": (1, 3),
    }
    assert "its arrays are others now" in caplog.text


def test_a_file_that_cannot_be_read_is_kept_beside_and_made_anew(tmp_path, caplog):
    analyse(tmp_path, raw_run())
    wanted, path = rows_of(tmp_path), path_in(tmp_path, "running")
    spoiled = path.read_bytes()[:100] + b"spoiled" * 1000
    for content in (spoiled, b"no HDF5 at all", b""):
        path.write_bytes(content)

        analyse(tmp_path, raw_run())

        assert path.with_name(f"{path.name}.damaged").read_bytes() == content
        assert_same_rows(rows_of(tmp_path), wanted)
    assert "cannot be read" in caplog.text


def test_a_run_that_was_given_up_and_goes_on_has_the_rows_of_the_whole(tmp_path, caplog):
    whole = analyse(tmp_path / "whole", raw_run())
    analyse(tmp_path / "again", raw_run()[:5])  # its stop document does not come

    documents = analyse(tmp_path / "again", raw_run())

    assert documents.bytes().replace(b"/again/", b"/whole/") == whole.bytes()
    assert_same_rows(rows_of(tmp_path / "again"), rows_of(tmp_path / "whole"))
    assert "row 0: has other values than came, and is written again" in caplog.text, "that is the final average"


def test_rows_of_a_run_that_was_not_over_and_came_otherwise_are_taken_away(tmp_path):
    layout = Layout.of("final", {"x": {"shape": [3], "dtype_numpy": "<f8"}})
    file = ArrayFile(tmp_path / "a.h5", layout, "digest")
    file.put("x", 0, [numpy.ones(3)] * 4)
    file.close(is_whole=False)

    file = ArrayFile(tmp_path / "a.h5", layout, "digest")
    file.put("x", 0, [numpy.ones(3)] * 2)
    file.close(is_whole=True)

    assert [rows.shape for rows in rows_of(tmp_path).values()] == [(2, 3)]


def test_a_file_is_written_by_one_at_a_time_and_by_the_next_afterwards(tmp_path):
    layout = Layout.of("final", {"x": {"shape": [3], "dtype_numpy": "<f8"}})
    one = ArrayFile(tmp_path / "a.h5", layout, "digest")

    with pytest.raises(PipelineOSError, match="being written by another process"):
        ArrayFile(tmp_path / "a.h5", layout, "digest")
    one.let_go()
    ArrayFile(tmp_path / "a.h5", layout, "digest").let_go()
    with pytest.raises(PipelineOSError, match="is closed"):
        one.put("x", 0, [numpy.ones(3)])

    assert list(tmp_path.iterdir()) == []


def test_another_limit_makes_other_documents_which_are_refused(tmp_path):
    analyse(tmp_path, raw_run())
    before, kept = state_of(tmp_path), Kept()

    analyse(tmp_path, raw_run(), kept, limit=None)

    assert "another document" in kept.stop["analysis"]["sinks"]["JSONLSink"]
    assert state_of(tmp_path) == before


def test_a_run_that_the_ledger_refuses_leaves_no_files_of_arrays(tmp_path):
    analyse(tmp_path, raw_run(), limit=None)
    before = state_of(tmp_path)

    analyse(tmp_path, raw_run())

    assert state_of(tmp_path) == before


# crashes -----------------------------------------------------------------------------------------------------------


def crash_run(seed=0):
    rng = numpy.random.default_rng(seed)
    return make_run({"det": [rng.random(SHAPE) for _ in range(40)]})


def crash_work(folder, documents):
    analyse(folder, documents, to=lambda: [Node("frames", Doubled("det"), FrameAverage("det", variance=False))])


def forked(work):
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.alarm(60)
        try:
            work()
        except BaseException:  # noqa: BLE001 - whatever it is, the child ends here
            os._exit(1)
        os._exit(0)
    return pid


def ledger_bytes(folder):
    return {path.name: path.read_bytes().replace(os.fsencode(folder), b"") for path in Path(folder).glob("*.jsonl")}


def rows_told(folder):
    """How many rows of each dataset the ledger has told of."""
    resources, told = {}, {}
    for path in Path(folder).glob("*.jsonl"):
        whole = path.read_bytes().rpartition(b"\n")[0]
        for line in whole.splitlines():
            name, doc = jsonl.loads(line)
            if name == "stream_resource":
                resources[doc["uid"]] = doc
            elif name == "stream_datum":
                resource = resources[doc["stream_resource"]]
                told[Path(resource["uri"]).name + resource["parameters"]["dataset"]] = doc["indices"]["stop"]
    return told


def test_kill_9_at_chance_moments_loses_no_row_that_was_told_and_the_run_is_completed(tmp_path):
    documents, chance = crash_run(), random.Random(11)
    began = time.monotonic()
    os.waitpid(forked(lambda: crash_work(tmp_path / "whole", documents)), 0)
    seconds = time.monotonic() - began
    wanted, rows = ledger_bytes(tmp_path / "whole"), rows_of(tmp_path / "whole")
    n_killed = n_open = n_trials = 0

    while n_trials < 8 or n_killed < 8 or n_open < 3:
        n_trials += 1
        folder, status = tmp_path / str(n_trials), None
        while status != 0:
            pid = forked(lambda folder=folder: crash_work(folder, documents))
            time.sleep(pause := chance.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            n_killed += status == signal.SIGKILL
            seconds *= 1.05  # some time it is not killed
            assert status in (0, signal.SIGKILL)
            n_open += any(Superblock(path.read_bytes()[:48]).is_open for path in folder.glob("*.h5"))
            for name, n in rows_told(folder).items():
                file, _, dataset = name.partition("/")
                with h5py.File(folder / file, "r", swmr=True) as there:
                    assert there[dataset][:n].tobytes() == rows[name][:n].tobytes()
        seconds = min(seconds, 1.3 * pause)  # it was over by then: the first one may have taken much longer
        assert ledger_bytes(folder) == wanted
        assert_same_rows(rows_of(folder), rows)
        assert n_trials < 100, "it is killed while files are written"


class Steps:
    """End the process before or after the n-th step at which something reaches a file of arrays."""

    def __init__(self, at):
        self.n, self.at = 0, at

    def __call__(self, do):
        def step(*args, **kwargs):
            self.n += 1
            if self.n == self.at:
                os._exit(crashes.KILLED)
            result = do(*args, **kwargs)
            self.n += 1
            if self.n == self.at:
                os._exit(crashes.KILLED)
            return result

        return step

    def install(self):
        places = [
            (h5py.Dataset, "resize"),
            (h5py.Dataset, "flush"),
            (h5py.Dataset, "__setitem__"),
            (hdf5_rows, "add_row"),
            (hdf5_rows.os, "rename"),
            (jsonl.os, "pwrite"),
            (jsonl.os, "fsync"),
            (h5py.File, "close"),
        ]
        for place, name in places:
            patch.object(place, name, self(getattr(place, name))).start()


def test_whatever_step_it_is_killed_at_the_run_is_completed(tmp_path):
    documents = crash_run()[:6] + crash_run()[-1:]

    def work(folder, at):
        steps = Steps(at)
        steps.install()
        crash_work(folder, documents)
        (tmp_path / "steps").write_text(str(steps.n))

    def end(folder, at):
        return os.waitstatus_to_exitcode(os.waitpid(forked(lambda: work(folder, at)), 0)[1])

    assert end(tmp_path / "whole", 0) == 0
    wanted, rows = ledger_bytes(tmp_path / "whole"), rows_of(tmp_path / "whole")
    n_steps, chance = int((tmp_path / "steps").read_text()), random.Random(3)
    for at in sorted(chance.sample(range(1, n_steps + 1), 40)):
        folder = tmp_path / str(at)
        assert end(folder, at) == crashes.KILLED
        again = end(folder, chance.randint(1, n_steps))
        assert again in (0, crashes.KILLED)
        assert end(folder, 0) == 0
        assert ledger_bytes(folder) == wanted, at
        assert_same_rows(rows_of(folder), rows)
        assert list(folder.glob(".*")) == [] or again == crashes.KILLED
    assert n_steps > 60


def test_a_service_that_is_killed_anywhere_makes_the_same_rows(tmp_path, monkeypatch):
    """As in `test_crashes`, with curves in files."""
    monkeypatch.setattr(crashes, "nodes", lambda: [Node("frames", Doubled("det"), FrameAverage("det"), every=2)])
    monkeypatch.setattr(crashes, "MAX_ARRAY_BYTES", 64)
    n_crashes = n_trials = 0

    while n_crashes < 40:
        chance = numpy.random.default_rng(n_trials)
        runs = [make_run({"det": list(chance.random((8, 5, 4)))}, uid=f"{n_trials}-{i}") for i in range(2)]
        items = [item for pair in zip(*runs, strict=True) for item in pair]
        wanted, n_steps = crashes.undisturbed(items, tmp_path / f"{n_trials}")
        home = tmp_path / f"{n_trials} killed"
        crashed = crashes.trial(items, home, n_steps, n_trials)

        assert crashed >= 0
        have = crashes.contents(home / "ledger")
        old, new = os.fsencode(tmp_path / f"{n_trials}" / "ledger"), os.fsencode(home / "ledger")
        assert have == {name: content.replace(old, new) for name, content in wanted.items()}
        assert_same_rows(rows_of(home / "ledger"), rows_of(tmp_path / f"{n_trials}" / "ledger"))
        n_crashes, n_trials = n_crashes + crashed, n_trials + 1


def test_a_file_that_was_left_open_is_closed_and_what_it_has_is_kept(tmp_path):
    path = tmp_path / "a.h5"
    layout = Layout.of("final", {"x": {"shape": [300], "dtype_numpy": "<f8"}})

    def work():
        file = ArrayFile(path, layout, "digest")
        for i in range(5):
            file.put("x", i, [numpy.full(300, float(i))])
        os._exit(9)

    os.waitpid(forked(work), 0)
    with pytest.raises(OSError, match="already open for write"):
        h5py.File(path, "r+")

    assert close_abandoned(path) is True
    assert close_abandoned(path) is False

    with h5py.File(path, "r") as file:
        assert file["final/x"][:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


# restarts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(1, 8))
def test_a_pipeline_goes_on_from_its_state_after_each_document(tmp_path, at):
    whole = analyse(tmp_path / "whole", raw_run())
    ledger = JSONLSink(tmp_path / "again", max_array_bytes=LIMIT)
    pipeline = Pipeline(nodes(), [ledger])
    for item in raw_run()[:at]:
        pipeline(*item)
    state = state_to_bytes(pipeline.state(raw_run()[0][1]["uid"]))
    for item in raw_run()[at : at + 2]:  # of which the state does not know
        pipeline(*item)
    pipeline.let_go(raw_run()[0][1]["uid"])
    ledger.close()

    with JSONLSink(tmp_path / "again", max_array_bytes=LIMIT) as ledger:
        pipeline = Pipeline(nodes(), [ledger])
        pipeline.resume(state_from_bytes(state))
        for item in raw_run()[at:]:
            pipeline(*item)

    assert Kept(read_jsonl(tmp_path / "again")).bytes().replace(b"/again/", b"/whole/") == whole.bytes()
    assert_same_rows(rows_of(tmp_path / "again"), rows_of(tmp_path / "whole"))


def test_a_state_of_more_rows_than_there_are_is_refused_and_nothing_changed(tmp_path):
    with JSONLSink(tmp_path, max_array_bytes=LIMIT) as ledger:
        pipeline = Pipeline(nodes(), [ledger])
        for item in raw_run()[:5]:
            pipeline(*item)
        uid = raw_run()[0][1]["uid"]
        state = state_to_bytes(pipeline.state(uid))
        pipeline.let_go(uid)
        path_in(tmp_path, "primary").unlink()

        with pytest.raises(PipelineError, match="wanted 3 rows of 'det_doubled', there are 0"):
            pipeline.resume(state_from_bytes(state))

        assert pipeline.open_runs == []
        pipeline.replay(raw_run())
    assert {rows.shape[0] for name, rows in rows_of(tmp_path).items() if "primary" in name} == {6}


def test_a_sink_that_takes_arrays_has_them_also_after_a_restart(tmp_path):
    class Viewer(Kept):
        takes_arrays = True

    viewer, again = Viewer(), Viewer()
    with JSONLSink(tmp_path, max_array_bytes=LIMIT) as ledger:
        pipeline = Pipeline(nodes(), [ledger, viewer])
        for item in raw_run()[:5]:
            pipeline(*item)
        uid = raw_run()[0][1]["uid"]
        state = pipeline.state(uid)
        pipeline.let_go(uid)
        pipeline = Pipeline(nodes(), [ledger, again])
        pipeline.resume(state)
        for item in raw_run()[5:]:
            pipeline(*item)
        pipeline.flush()

    inside = Kept()
    Pipeline(nodes(), [inside]).replay(raw_run())
    assert again.bytes() == inside.bytes()
    assert viewer.bytes() == Kept(inside[: len(viewer)]).bytes()


def test_a_stream_of_results_has_the_arrays(tmp_path):
    with JSONLSink(tmp_path, max_array_bytes=LIMIT) as ledger:
        pipeline = Pipeline(nodes(), [ledger])
        images = pipeline.stream("frames", "primary").pluck("det_doubled").sink_to_list()
        pipeline.replay(raw_run(3))

    numpy.testing.assert_array_equal(images, [frame * 2.0 for frame in frames(3)])


# the disk ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1000, 12_000, 21_000, 45_000])
def test_a_full_disk_is_told_the_scan_goes_on_and_the_run_is_completed_later(tmp_path, limit):
    """A limit on the size of files stands for the disk."""
    whole = analyse(tmp_path / "whole", raw_run())

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        kept = Kept()
        analyse(tmp_path / "full", raw_run(), kept)
        assert len(kept.events("primary")) == 6
        assert kept.stop["exit_status"] == "success"
        assert "cannot write" in kept.stop["analysis"]["sinks"]["JSONLSink"]

    assert os.waitpid(forked(work), 0)[1] == 0
    there = Kept(read_jsonl(tmp_path / "full")).bytes().replace(b"/full/", b"/whole/")
    assert there
    assert whole.bytes().startswith(there)

    documents = analyse(tmp_path / "full", raw_run())

    assert documents.bytes().replace(b"/full/", b"/whole/") == whole.bytes()
    assert_same_rows(rows_of(tmp_path / "full"), rows_of(tmp_path / "whole"))


def test_a_disk_that_is_full_for_a_while_in_one_process_is_gone_on_with(tmp_path):
    whole = analyse(tmp_path / "whole", raw_run())

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        ledger = JSONLSink(tmp_path / "again", max_array_bytes=LIMIT)
        pipeline = Pipeline(nodes(), [ledger])
        for i, item in enumerate(raw_run()):
            if i == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
            pipeline(*item)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert "cannot write" in ledger.trouble
        Pipeline(nodes(), [ledger]).replay(raw_run())
        ledger.close()

    assert os.waitpid(forked(work), 0)[1] == 0
    documents = Kept(read_jsonl(tmp_path / "again"))
    assert documents.bytes().replace(b"/again/", b"/whole/") == whole.bytes()
    assert_same_rows(rows_of(tmp_path / "again"), rows_of(tmp_path / "whole"))


def test_what_the_disk_refuses_stops_a_service_and_not_the_other_sinks(tmp_path, caplog):
    kept = Kept()
    with JSONLSink(tmp_path, max_array_bytes=LIMIT) as ledger, caplog.at_level(logging.ERROR):
        with patch("pipeline.array_file.make_file", side_effect=OSError(28, "No space left on device")):
            Pipeline(nodes(), [ledger, kept]).replay(raw_run())

        assert "No space left" in ledger.trouble
    assert len(kept.events("primary")) == 6
    assert "det_doubled" not in kept.events("primary")[0]
    assert len([record for record in caplog.records if "No space left" in record.getMessage()]) == 1
    assert [name for name, _ in read_jsonl(tmp_path)] == ["start", "descriptor"]


# readers -----------------------------------------------------------------------------------------------------------


FOLLOWER = """
    import sys, time, h5py
    path, dataset = sys.argv[1:]
    print("ready", flush=True)
    while True:
        try:
            file = h5py.File(path, "r", swmr=True)
            break
        except FileNotFoundError:
            time.sleep(0.002)
    rows = file[dataset]
    seen = 0
    while seen < 20:
        rows.refresh()
        if len(rows) > seen:
            print(len(rows), [float(rows[i, 3]) for i in range(seen, len(rows))], flush=True)
            seen = len(rows)
"""


def test_another_process_follows_the_rows_as_they_are_added(tmp_path):
    path = tmp_path / "a.h5"
    reader = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FOLLOWER), str(path), "final/x"], stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout.readline() == "ready\n"
    file = ArrayFile(path, Layout.of("final", {"x": {"shape": [5000], "dtype_numpy": "<f8"}}), "digest")
    for i in range(20):
        file.put("x", i, [numpy.full(5000, float(i))])
        time.sleep(0.02)

    seen = [line.split(" ", 1) for line in reader.communicate(timeout=30)[0].splitlines()]
    file.close(is_whole=True)
    values = [float(value) for _, row in seen for value in row.strip("[]").split(",")]
    assert values == [float(i) for i in range(20)]
    assert len(seen) >= 3, "it saw the rows come"


def test_verify_compares_the_rows_wherever_the_ledger_is_and_writes_nothing(tmp_path):
    analyse(tmp_path / "ledger", raw_run())
    before = state_of(tmp_path / "ledger")

    assert [each.difference for each in verify(nodes(), raw_run(), ledger=tmp_path / "ledger")] == [""]
    assert state_of(tmp_path / "ledger") == before
    (tmp_path / "ledger").rename(tmp_path / "moved")
    assert [each.difference for each in verify(nodes(), raw_run(), ledger=tmp_path / "moved")] == [""]
    changed(path_in(tmp_path / "moved", "final"), "det_mean", 0, numpy.full(SHAPE, 7.0))
    (verdict,) = verify(nodes(), raw_run(), ledger=tmp_path / "moved")
    assert verdict.difference == "'det_mean', row 0: other values are stored"
    path_in(tmp_path / "moved", "primary").unlink()
    (verdict,) = verify(nodes(), raw_run(), ledger=tmp_path / "moved")
    assert verdict.difference.startswith("'det_doubled', row 0: cannot be read")


def test_verify_compares_runs_that_have_all_arrays_inside_too(tmp_path):
    analyse(tmp_path, raw_run(), limit=None)

    assert [each.difference for each in verify(nodes(), raw_run(), ledger=tmp_path)] == [""]


def test_a_run_in_memory_and_show_tell_of_what_is_in_files(tmp_path):
    documents = analyse(tmp_path, raw_run())
    run = BlueskyRun(lambda: documents)

    numpy.testing.assert_array_equal(run["primary"].read()["det_doubled"].values, [frame * 2 for frame in frames(6)])
    numpy.testing.assert_array_equal(run["primary"].read(["raw_seq_num"])["raw_seq_num"].values, range(1, 7))
    inside = [doc for name, doc in run.documents(fill="yes") if name == "event"][-1]
    numpy.testing.assert_allclose(inside["data"]["det_mean"], numpy.mean(frames(6), 0))
    assert inside["filled"]["det_mean"] is True
    assert f"array (40, 30) in {path_in(tmp_path, 'final').name}" in show(documents)


def test_an_open_run_in_memory_has_the_events_that_are_whole(tmp_path):
    documents = analyse(tmp_path, raw_run())
    last = max(i for i, (name, doc) in enumerate(documents) if name == "event" and "det_rows" in doc["data"])
    cut = [item for item in documents[: last + 1] if item[0] != "stream_datum" or item[1]["seq_nums"]["start"] < 6]

    assert BlueskyRun(lambda: cut)["primary"].read().sizes["time"] == 5


def test_a_chained_analysis_reads_the_arrays_of_the_first_live_and_replayed(tmp_path):
    def second():
        return [Node("mean", Statistics("det_doubled"), when=lambda start: "analysis" in start, stream="primary")]

    live = Kept()
    with JSONLSink(tmp_path, max_array_bytes=LIMIT) as ledger:
        pipeline = Pipeline([Node("frames", Doubled("det"))], [ledger, Pipeline(second(), [live])])
        for item in raw_run():
            pipeline(*item)
    again = Kept()
    Pipeline(second(), [again]).replay(read_jsonl(tmp_path))

    assert live.bytes() == again.bytes()
    numpy.testing.assert_allclose(live.final()["det_doubled_mean"], 2 * numpy.mean(frames(6), 0))


def test_store_keeps_large_arrays_beside_its_ledger_and_in_mongo(tmp_path):
    import databroker

    catalog, images = databroker.temp(), numpy.random.default_rng(0).random((3, 120, 120))
    with Store(catalog, ledger=tmp_path) as stored:
        run = stored({"x": [1.0, 2.0, 3.0], "image": images}, uid="7f3c0d9e")
        before = state_of(tmp_path)
        stored(run)

        assert state_of(tmp_path) == before
        numpy.testing.assert_array_equal(stored.held(run.uid)["primary"].read()["image"].values, images)
    (rows,) = rows_of(tmp_path).values()
    numpy.testing.assert_array_equal(rows, images)
    numpy.testing.assert_array_equal(catalog.v2[run.uid]["primary"]["data"]["image"].read(), images)
    assert b"stream_datum" in (tmp_path / "7f3c0d9e.jsonl").read_bytes()


def test_the_file_of_a_run_with_large_arrays_is_stored_elsewhere_with_them(tmp_path):
    import databroker

    analyse(tmp_path / "first", raw_run())
    (path,) = (tmp_path / "first").glob("*.jsonl")
    catalog = databroker.temp()

    with Store(catalog, ledger=tmp_path / "second") as stored:
        (run,) = store_file(path, stored)

    assert list((tmp_path / "second").glob("*.h5")) == [], "they stay where they are"
    numpy.testing.assert_array_equal(run["primary"].read()["det_doubled"].values, [each * 2 for each in frames(6)])
    (there,) = catalog.v2.values()
    numpy.testing.assert_array_equal(there["primary"]["data"]["det_doubled"].read(), [each * 2 for each in frames(6)])


def test_nothing_of_hdf5_is_imported_before_there_is_a_large_array(tmp_path):
    code = f"""
        import sys
        from pipeline import Node, Pipeline
        from pipeline.reductions import Mean
        from pipeline.sinks import JSONLSink
        from pipeline.testing import make_run
        with JSONLSink({str(tmp_path)!r}) as ledger:
            Pipeline([Node("mean", Mean("det"))], [ledger]).replay(make_run({{"det": [1.0]}}))
        print("h5py" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)

    assert done.stdout == "False\n", done.stderr


def test_a_limit_below_zero_is_refused(tmp_path):
    with pytest.raises(PipelineValueError, match="max_array_bytes is -1"):
        JSONLSink(tmp_path, max_array_bytes=-1)


def test_small_results_need_no_files(tmp_path):
    analyse(tmp_path, raw_run(), to=lambda: [Node("mean", Mean("det"))], limit=10**6)

    assert {path.suffix for path in tmp_path.iterdir()} == {".jsonl", ".json"}

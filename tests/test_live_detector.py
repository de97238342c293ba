"""A simulated detector of ophyd-async, in a real RunEngine, is reduced while it writes: live as in replay."""

import asyncio
from pathlib import PurePath
from urllib.parse import unquote, urlsplit

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import h5py
import numpy
import pytest
from bluesky import RunEngineInterrupted
from bluesky.preprocessors import pchain, plan_mutator, run_wrapper, stage_wrapper
from frames import Checksum, crc
from kept import Kept

from pipeline import Node, Pipeline
from pipeline.readers import Assets
from pipeline.reductions import FrameAverage, Mean, Statistics

sim = pytest.importorskip("ophyd_async.sim", reason="ophyd-async is not installed")
core = pytest.importorskip("ophyd_async.core")


@pytest.fixture
def devices(RE, tmp_path):
    """A detector and a stage that take no time."""
    generator = sim.PatternGenerator(sleep=lambda seconds: asyncio.sleep(0))
    paths = core.StaticPathProvider(core.UUIDFilenameProvider(), PurePath(tmp_path))
    with core.init_devices():
        stage = sim.SimStage(generator)
        det = sim.SimBlobDetector(paths, generator)
    RE(bps.mv(stage.x.velocity, 1000.0))
    return det, stage


def nodes():
    each = Node("each", Checksum("det"), Checksum("det-sum"), every=0)
    return (
        each,
        Node("all", FrameAverage("det"), Statistics("det-sum"), every=2),
        Node("motor", Mean("stage-x"), every=0),
    )


class Watched:
    """A pipeline on a RunEngine, and the raw documents."""

    def __init__(self, RE, folder, *nodes):
        self.nodes, self.live, self.raw = nodes, Kept(), Kept()
        self.pipeline = Pipeline(nodes, [self.live], assets=Assets(roots=[str(folder)], timeout=10.0))
        RE.subscribe(self.pipeline)
        RE.subscribe(self.raw)

    def check_replay(self):
        again = Kept()
        Pipeline(self.nodes, [again]).replay(self.raw)
        assert again.bytes() == self.live.bytes()
        self.live.check_valid()

    def crcs(self):
        return [row["det_crc"] for row in self.live.of_node("each").events("primary")]

    @property
    def rows(self):
        """All frames that the detector wrote."""
        uris = dict.fromkeys(doc["uri"] for doc in self.raw.named("stream_resource"))
        found = []
        for uri in uris:
            with h5py.File(unquote(urlsplit(uri).path)) as file:
                found += [*file["entry/data/data"][:]]
        return found


def test_a_scan_is_reduced_while_the_detector_writes(RE, devices, tmp_path):
    det, stage = devices
    watched = Watched(RE, tmp_path, *nodes())

    RE(bp.scan([det], stage.x, -0.2, 0.2, 5))

    rows = watched.rows
    assert len(rows) == 5
    assert watched.crcs() == [crc(row) for row in rows]
    final = watched.live.of_node("all").final()
    assert final["det-sum_mean"] == numpy.mean([int(row.sum()) for row in rows])
    numpy.testing.assert_allclose(final["det_mean"].reshape(rows[0].shape), numpy.mean(rows, axis=0), rtol=1e-6)
    watched.check_replay()


def test_several_runs_and_detectors_alone_are_reduced(RE, devices, tmp_path):
    det, _ = devices
    watched = Watched(RE, tmp_path, Node("each", Checksum("det"), Checksum("det-sum")))

    for n in (1, 4):
        RE(bp.count([det], n))

    runs = watched.live.by_run().values()
    crcs = [row["det_crc"] for run in runs for row in run.events("primary")]
    assert crcs == [crc(row) for row in watched.rows]
    assert [len(run.events("primary")) for run in runs] == [1, 4]
    watched.check_replay()


@pytest.mark.parametrize("n_frames", [1, 3])
def test_a_fly_scan_is_reduced_while_it_goes_on(n_frames, RE, devices, tmp_path):
    det, _ = devices
    watched = Watched(RE, tmp_path, Node("each", Checksum("det"), Checksum("det-sum"), FrameAverage("det"), every=0))
    info = core.TriggerInfo(number_of_events=6, collections_per_event=n_frames)

    def fly():
        yield from bps.prepare(det, info, wait=True)
        yield from bps.declare_stream(det, name="primary", collect=True)
        yield from bps.kickoff(det, wait=True)
        yield from bps.collect_while_completing([det], [det], flush_period=0.01, stream_name="primary")

    RE(run_wrapper(stage_wrapper(fly(), [det])))

    rows = numpy.reshape(watched.rows, (6, n_frames, 240, 320))
    assert watched.crcs() == [crc(row) for row in rows]
    watched.check_replay()


def pausing(plan, command, n, *, after=False):
    """The plan, with a pause before or after the n-th message of this command, once."""
    n_seen = 0

    def proc(message):
        nonlocal n_seen
        n_seen += message.command == command
        if message.command != command or n_seen != n:
            return None, None
        n_seen += 1  # when it is done again, it is another
        if after:
            return single(message), bps.pause()
        return pchain(bps.pause(), single(message)), None

    return plan_mutator(plan, proc)


def single(message):
    return (yield message)


PAUSES = {
    "before it is triggered": ("trigger", 3, False),
    "before it is saved": ("save", 3, False),
    "after it was saved": ("save", 3, True),
    "when the run is about to end": ("close_run", 1, False),
}


@pytest.mark.parametrize("pause", PAUSES.values(), ids=PAUSES)
def test_a_point_that_is_interrupted_is_taken_again(pause, RE, devices, tmp_path):
    det, stage = devices
    watched = Watched(RE, tmp_path, *nodes())
    command, n, after = pause

    with pytest.raises(RunEngineInterrupted):
        RE(pausing(bp.scan([det], stage.x, -0.2, 0.2, 5), command, n, after=after))
    RE.resume()

    rows, told = watched.rows, [doc["indices"]["start"] for doc in watched.raw.named("stream_datum")[::2]]
    assert watched.raw.stop["exit_status"] == "success"
    assert watched.crcs() == [crc(rows[row]) for row in told]
    assert len(rows) > 5 or command == "trigger"
    last = {doc["seq_num"]: told[i] for i, doc in enumerate(watched.raw.named("event"))}
    final = watched.live.of_node("all").final()
    assert final["det-sum_n"] == 5
    assert final["det-sum_mean"] == numpy.mean([int(rows[row].sum()) for row in last.values()])
    watched.check_replay()


def test_a_frame_that_was_taken_and_not_read_ends_the_run_and_is_no_other_points(RE, devices, tmp_path):
    det, stage = devices
    watched = Watched(RE, tmp_path, *nodes())

    with pytest.raises(RunEngineInterrupted):
        RE(pausing(bp.scan([det], stage.x, -0.2, 0.2, 5), "read", 5))  # the second read of a point is the detector's
    with pytest.raises(RuntimeError, match="multiple indices"):
        RE.resume()

    rows = watched.rows
    assert watched.raw.stop["exit_status"] == "fail"
    assert watched.crcs() == [crc(row) for row in rows[: len(watched.raw.named("event"))]]
    watched.check_replay()


def test_an_aborted_scan_ends_with_what_there_was(RE, devices, tmp_path):
    det, stage = devices
    watched = Watched(RE, tmp_path, *nodes())

    with pytest.raises(RunEngineInterrupted):
        RE(pausing(bp.scan([det], stage.x, -0.2, 0.2, 5), "save", 3))
    RE.abort("enough")

    assert watched.crcs() == [crc(row) for row in watched.rows[:2]]
    assert watched.live.of_node("all").stop["exit_status"] == "abort"
    watched.check_replay()

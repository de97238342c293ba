"""Attached to a RunEngine: live gives what replay gives, and nothing ends a scan."""

import threading

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import pytest
from bluesky.callbacks.core import CallbackBase
from bluesky.plans import count, scan
from bluesky.utils import RunEngineInterrupted
from faulty import Faulty
from kept import Kept
from ophyd.sim import hw

from pipeline import Node, Pipeline
from pipeline.reductions import Mean, PeakStatistics
from pipeline.sinks.jsonl import JSONLSink
from pipeline.sources import read_jsonl
from pipeline.verify import verify

NODES = [Node("peak", PeakStatistics("motor", "det"), Mean("det"))]


@pytest.fixture(scope="module")
def devices():
    return hw()


class Follow(CallbackBase):
    """What LivePlot does with documents, without the plot."""

    def __init__(self):
        super().__init__()
        self.points = []

    def event(self, doc):
        self.points.append((doc["data"]["motor"], doc["data"]["det_com"]))


def verified(tmp_path):
    return list(verify(NODES, read_jsonl(tmp_path / "raw"), ledger=tmp_path / "analysis"))


def test_five_lines_give_a_live_linked_result(RE, devices, tmp_path):
    pipeline = Pipeline(NODES, sinks=[JSONLSink(tmp_path / "analysis")])
    pipeline.subscribe(follow := Follow())
    RE.subscribe(pipeline)
    RE.subscribe(JSONLSink(tmp_path / "raw"))

    RE(scan([devices.det], devices.motor, -5, 5, 21))

    pipeline.flush()
    assert len(follow.points) == 21
    assert follow.points[-1] == (5.0, pytest.approx(0, abs=1e-9))
    (verdict,) = verified(tmp_path)
    assert verdict.difference == ""


def test_two_runs_interleaved_in_one_run_engine_are_as_replayed(RE, devices, tmp_path):
    kept = Kept()
    RE.subscribe(Pipeline(NODES, [kept, JSONLSink(tmp_path / "analysis")]))
    RE.subscribe(JSONLSink(tmp_path / "raw"))

    def interleaved():
        for run in "ab":
            yield from bpp.set_run_key_wrapper(bps.open_run({"plan_name": "scan"}), run)
        for position in range(-3, 4):
            yield from bps.mv(devices.motor, position)
            for run in "ab" if position % 2 else "ba":
                yield from bpp.set_run_key_wrapper(bps.trigger_and_read([devices.det, devices.motor]), run)
        for run in "ab":
            yield from bpp.set_run_key_wrapper(bps.close_run(), run)

    RE(interleaved())

    kept.check_valid()
    assert [run.final()["det_n"] for run in kept.by_run().values()] == [7, 7]
    assert [verdict.difference for verdict in verified(tmp_path)] == ["", ""]


def test_a_point_taken_again_after_a_pause_counts_once_live_and_in_replay(RE, devices, tmp_path):
    """The second point is taken, the plan pauses, the RunEngine goes back to its checkpoint and takes it again."""
    motor, det = devices.motor, devices.det
    kept, raw = Kept(), Kept()
    RE.subscribe(Pipeline(NODES, [kept, JSONLSink(tmp_path / "analysis")]))
    RE.subscribe(raw)
    RE.subscribe(JSONLSink(tmp_path / "raw"))
    state = {"paused": False}

    def pause_once():
        if not state["paused"]:
            state["paused"] = True
            yield from bps.pause()
        else:
            yield from bps.null()

    @bpp.run_decorator(md={"plan_name": "scan"})
    def plan():
        yield from bps.checkpoint()
        yield from bps.mv(motor, -1)
        yield from bps.trigger_and_read([det, motor])
        yield from bps.checkpoint()
        for position in (0, 1):
            yield from bps.mv(motor, position)
            yield from bps.trigger_and_read([det, motor])
        yield from pause_once()
        yield from bps.mv(motor, 2)
        yield from bps.trigger_and_read([det, motor])

    with pytest.raises(RunEngineInterrupted):
        RE(plan())
    RE.resume()

    assert [doc["seq_num"] for doc in raw.named("event")] == [1, 2, 3, 2, 3, 4]
    kept.check_valid()
    assert kept.final()["det_n"] == kept.final()["n_events"] == kept.final()["raw_seq_num"] == 4
    assert [data["raw_seq_num"] for data in kept.events("running")] == [1, 2, 3, 2, 3, 4]
    assert [data["det_n"] for data in kept.events("running")] == [1, 2, 3, 2, 3, 4]
    assert kept.stop["analysis"]["n_superseded"] == 2
    assert kept.stop["analysis"]["n_raw"] == 6
    assert [verdict.difference for verdict in verified(tmp_path)] == [""]


def boom(start):
    raise RuntimeError("boom in start")


@pytest.mark.parametrize("where", ["start", "descriptor", "event", "final"])
def test_a_node_that_raises_does_not_end_the_scan(RE, devices, where, caplog):
    kept, raw = Kept(), Kept()
    bad = Node("bad", Faulty(where), when=boom if where == "start" else None, every=0)
    RE.subscribe(Pipeline([bad, *NODES], [kept]))
    RE.subscribe(raw)

    RE(scan([devices.det], devices.motor, -2, 2, 5))

    assert raw.stop["exit_status"] == "success"
    assert kept.of_node("peak").final()["det_n"] == 5
    assert kept.of_node("peak").stop["exit_status"] == "success"
    assert kept.of_node("bad").stop["exit_status"] == "fail"
    assert kept.of_node("bad").stop["reason"] == f"RuntimeError: boom in {where}"
    assert len([record for record in caplog.records if "boom" in record.getMessage()]) == 1


def test_a_sink_that_raises_or_hangs_does_not_end_the_scan(RE, devices, caplog):
    kept, raw, hang = Kept(), Kept(), threading.Event()

    def raises(name, doc):
        raise OSError("boom")

    raises.inline = True
    pipeline = Pipeline(NODES, [raises, lambda name, doc: hang.wait(), kept])
    RE.subscribe(pipeline)
    RE.subscribe(raw)

    RE(scan([devices.det], devices.motor, -2, 2, 5))

    assert raw.stop["exit_status"] == "success"
    assert kept.final()["det_n"] == 5
    assert "boom" in next(iter(kept.stop["analysis"]["sinks"].values()))
    assert len([record for record in caplog.records if "boom" in record.getMessage()]) == 1
    hang.set()
    pipeline.close()


def test_a_failed_scan_gives_a_failed_analysis_with_its_last_summaries(RE, devices):
    kept = Kept()
    RE.subscribe(Pipeline([Node("mean", Mean("det"))], [kept]))

    def breaks():
        yield from bps.open_run()
        yield from bps.trigger_and_read([devices.det])
        raise ValueError("no beam")

    with pytest.raises(ValueError, match="no beam"):
        RE(bpp.finalize_wrapper(bpp.contingency_wrapper(breaks(), except_plan=_close_failed), bps.null()))

    assert kept.stop["exit_status"] == "fail"
    assert kept.final()["det_n"] == 1


def _close_failed(error):
    yield from bps.close_run(exit_status="fail", reason=str(error))


def test_a_count_without_the_motor_is_told(RE, devices):
    kept = Kept()
    RE.subscribe(Pipeline(NODES, [kept]))

    RE(count([devices.det], 2))

    assert "PeakStatistics reads 'motor', but stream 'primary' has ['det']" in kept.stop["reason"]

"""A plan goes by what the pipeline finds: it waits for it, while the RunEngine goes on."""

import asyncio
import os
import signal
import threading
import time
from itertools import pairwise

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import pytest
from bluesky.callbacks.buffer import BufferingWrapper
from bluesky.plans import count, scan
from bluesky.utils import RunEngineInterrupted
from faulty import Faulty
from kept import Kept
from ophyd.sim import SynAxis, SynGauss

from pipeline import Buffered, Node, Pipeline, Reduction
from pipeline.errors import PipelineError, PipelineKeyError, PipelineRuntimeError, PipelineTimeoutError
from pipeline.reductions import Mean, PeakStatistics
from pipeline.testing import make_run

GATE = threading.Event()  # Gated waits for it


class Slow(Reduction):
    """Takes its time for each event."""

    def __init__(self, seconds):
        self.seconds, self.n = seconds, 0

    def update(self, data):
        time.sleep(self.seconds)
        self.n += 1

    def result(self):
        return {"n": self.n}


class Gated(Slow):
    """Goes on no further than `seconds` events until the gate is open."""

    def update(self, data):
        self.n += 1
        if self.n > self.seconds:
            GATE.wait()


@pytest.fixture(autouse=True)
def gate():
    GATE.clear()
    yield GATE
    GATE.set()


@pytest.fixture
def motor():
    return SynAxis(name="motor")


@pytest.fixture
def det(motor):
    return SynGauss("det", motor, "motor", center=0.7, Imax=100, sigma=0.5)


@pytest.fixture
def attach(RE):
    """Subscribe a pipeline of these nodes behind these wrappers, the innermost first."""
    buffers = []

    def attach(*nodes, by=()):
        outer = pipeline = Pipeline(nodes)
        for wrap in by:
            outer = wrap(outer)
            buffers.append(outer)
        RE.subscribe(outer)
        return pipeline

    yield attach
    GATE.set()
    for buffer in reversed(buffers):
        (getattr(buffer, "close", None) or buffer.shutdown)()


directly, buffered, twice = (), (Buffered,), (Buffered, Buffered)
ways = pytest.mark.parametrize("by", [directly, buffered, twice], ids=["directly", "buffered", "twice buffered"])


def later(seconds, action):
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


# what a plan can do with it ------------------------------------------------------------------------------------------


@ways
def test_a_second_finer_scan_is_centred_on_what_the_first_one_found(RE, motor, det, attach, by):
    pipeline = attach(Node("peak", Slow(0.002), PeakStatistics("motor", "det")), by=by)
    raw = Kept()
    RE.subscribe(raw)

    def align():
        centre, found = 0.0, []
        for width in (3.0, 0.6):
            uid = yield from scan([det], motor, centre - width, centre + width, 31)
            peak = yield from pipeline.plans.wait_for("peak", timeout=10)
            assert (peak.run_uid, peak.n_events, peak.raw_seq_num, peak.is_final) == (uid, 31, 31, True)
            centre = peak["det_cen"]
            found.append(centre)
        yield from bps.mv(motor, centre)
        return found

    RE(align())

    second = [doc["data"]["motor"] for doc in raw.named("event")][31:]
    assert motor.position == pytest.approx(0.7, abs=1e-3)
    assert (second[0] + second[-1]) / 2 == pytest.approx(0.7, abs=0.05)


@ways
def test_inside_one_run_each_step_goes_by_all_points_before_it(RE, motor, det, attach, by):
    """Climbs by what the analysis says, until it is over the top."""
    pipeline = attach(Node("peak", Slow(0.002), PeakStatistics("motor", "det"), every=0), by=by)
    seen = []

    @bpp.run_decorator(md={"plan_name": "climb"})
    def climb():
        position = -1.0
        while position < 5:
            yield from bps.mv(motor, position)
            yield from bps.trigger_and_read([det, motor])
            peak = yield from pipeline.plans.wait_for("peak", timeout=10)
            seen.append((peak.raw_seq_num, peak["n"], peak.is_final))
            if peak["det_max_x"] < position:
                break
            position += 0.25

    def and_back():
        yield from climb()
        peak = yield from pipeline.plans.wait_for("peak", timeout=10)
        seen.append((peak.raw_seq_num, peak["n"], peak.is_final))
        yield from bps.mv(motor, peak["det_max_x"])

    RE(and_back())

    assert seen == [*((n, n, False) for n in range(1, 10)), (9, 9, True)]
    assert motor.position == pytest.approx(0.75)


def test_of_runs_that_are_open_at_once_each_can_be_waited_for(RE, motor, det, attach):
    pipeline = attach(Node("mean", Slow(0.01), Mean("det")), by=buffered)
    found = {}

    def both():
        uids = {}
        for key in "ab":
            uids[key] = yield from bpp.set_run_key_wrapper(bps.open_run(), key)
        for position, key in ((0.7, "a"), (9.0, "b"), (0.7, "a")):
            yield from bps.mv(motor, position)
            yield from bpp.set_run_key_wrapper(bps.trigger_and_read([det]), key)
        for key in "ab":
            found[key] = yield from pipeline.plans.wait_for("mean", run=uids[key])
        for key in "ab":
            yield from bpp.set_run_key_wrapper(bps.close_run(), key)

    RE(both())

    assert found["a"] == {"n": 2, "det_mean": 100.0, "det_n": 2}
    assert found["b"]["n"] == 1
    assert found["b"]["det_mean"] < 1e-9


@pytest.mark.parametrize("wrap", [lambda sink: sink, Buffered])
def test_a_pipeline_behind_a_pipeline_behind_a_buffer_can_be_waited_for(RE, motor, det, attach, wrap):
    second = Pipeline([Node("drift", Slow(0.03), Mean("det_mean"), stream="running", when=lambda s: "analysis" in s)])
    first = attach(Node("mean", Slow(0.015), Mean("det")), by=buffered)
    first.subscribe(wrap(second))
    found = []

    def plan():
        yield from scan([det], motor, -1, 1, 21)
        found.append((yield from second.plans.wait_for("drift")))

    RE(plan())

    assert (found[0]["n"], found[0].is_final) == (21, True)


# while it waits ------------------------------------------------------------------------------------------------------


def test_while_a_plan_waits_the_event_loop_and_other_callbacks_go_on(RE, motor, det, attach):
    pipeline = attach(Node("mean", Gated(2)), by=buffered)
    ticks, others, raw = [], [], Kept()
    RE.subscribe(raw)

    def tick():
        ticks.append(time.monotonic())
        RE.loop.call_later(0.01, tick)

    @bpp.run_decorator()
    def plan():
        yield from bps.monitor(motor, name="motor")
        for _ in range(3):
            yield from bps.trigger_and_read([det])
        RE.loop.call_soon(tick)
        later(0.2, lambda: motor.set(3))
        later(0.5, lambda: (others.extend(raw.named("event")), GATE.set()))
        found = yield from pipeline.plans.wait_for("mean")
        assert found["n"] == 3

    RE(plan())

    assert len(ticks) >= 20
    assert max(b - a for a, b in pairwise(ticks)) < 0.2
    assert any(doc["data"].get("motor") == 3 for doc in others), "the monitor's event came while the plan waited"


def test_an_abort_ends_it_at_once(RE, det, attach):
    pipeline = attach(Node("mean", Gated(0)), by=buffered)
    raw, after = Kept(), []
    RE.subscribe(raw)

    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([det])
        yield from pipeline.plans.wait_for("mean", timeout=None)
        after.append("went on")

    began = time.monotonic()
    later(0.3, RE.abort)
    with pytest.raises(RunEngineInterrupted):
        RE(plan())

    assert time.monotonic() - began < 2
    assert raw.stop["exit_status"] == "abort"
    assert not after
    assert RE.state == "idle"
    time.sleep(0.1)
    assert not asyncio.all_tasks(RE.loop), "nothing waits on"


def test_control_c_twice_pauses_it_and_it_can_be_resumed(RE, det, attach):
    pipeline = attach(Node("mean", Gated(0)), by=buffered)
    found = []

    @bpp.run_decorator()
    def plan():
        yield from bps.checkpoint()
        yield from bps.trigger_and_read([det])
        found.append((yield from pipeline.plans.wait_for("mean", timeout=None)))

    for seconds in (0.3, 0.5):
        later(seconds, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(RunEngineInterrupted):
        RE(plan())
    assert RE.state == "paused"
    assert not found
    GATE.set()
    RE.resume()

    assert found[0].n_events == 1


@pytest.mark.parametrize("is_rewindable", [True, False])
@pytest.mark.parametrize("opens", ["before the resume", "after it"])
def test_after_a_pause_it_waits_for_the_points_that_are_taken_again(RE, motor, det, attach, is_rewindable, opens):
    pipeline = attach(Node("mean", Gated(1), Mean("motor")), by=buffered)
    raw, found = Kept(), []
    RE.subscribe(raw)

    @bpp.run_decorator()
    def plan():
        yield from bps.checkpoint()
        yield from bps.trigger_and_read([det, motor])
        yield from bps.trigger_and_read([det, motor])
        found.append((yield from pipeline.plans.wait_for("mean", timeout=10)))
        yield from bps.trigger_and_read([det, motor])
        found.append((yield from pipeline.plans.wait_for("mean", timeout=10)))

    later(0.3, RE.request_pause)
    with pytest.raises(RunEngineInterrupted):
        RE(bpp.rewindable_wrapper(plan(), is_rewindable))
    motor.set(4.0)
    if opens == "before the resume":
        GATE.set()
        time.sleep(0.2)
    else:
        later(0.3, GATE.set)
    RE.resume()

    n_taken = 5 if is_rewindable else 3
    assert len(raw.named("event")) == n_taken
    assert [each.raw_seq_num for each in found] == [each.n_events for each in found] == [2, 3]
    assert found[0]["motor_mean"] == (4.0 if is_rewindable else 0.0)


# what goes wrong -----------------------------------------------------------------------------------------------------


def test_a_time_out_says_how_far_the_analysis_is_and_can_be_caught(RE, det, attach):
    pipeline = attach(Node("mean", Gated(2)), by=buffered)
    caught = []

    def plan():
        yield from count([det], 5)
        try:
            yield from pipeline.plans.wait_for("mean", timeout=0.2)
        except TimeoutError as error:
            caught.append(error)
        GATE.set()
        found = yield from pipeline.plans.wait_for("mean")
        assert found["n"] == 5

    RE(plan())

    assert isinstance(caught[0], PipelineTimeoutError)
    uid = pipeline.result("mean").run_uid
    assert str(caught[0]) == (
        f"Node 'mean': after 0.2 s the analysis of raw run {uid} has taken in 3 events "
        "and 4 documents wait in the buffer of Pipeline."
    )


@ways
def test_an_analysis_that_failed_is_told_at_once(RE, det, attach, by):
    """The run's other node is far behind; that does not matter."""
    slow = Node("slow", Slow(0) if by == directly else Gated(6))
    pipeline = attach(Node("bad", Faulty("event")), slow, by=by)

    def plan():
        yield from count([det], 20)
        yield from pipeline.plans.wait_for("bad", timeout=30)

    began = time.monotonic()
    with pytest.raises(PipelineRuntimeError, match=r"Node 'bad', raw run .*: RuntimeError: boom in event"):
        RE(plan())

    assert time.monotonic() - began < 5


def test_that_the_run_before_failed_is_not_told_of_this_one(RE, motor, det, attach):
    pipeline = attach(Node("peak", Slow(0.01), PeakStatistics("motor", "det")), by=buffered)
    found = []

    def plan():
        yield from count([det], 3)
        yield from scan([det], motor, -1, 1, 5)
        found.append((yield from pipeline.plans.wait_for("peak")))

    RE(plan())

    assert found[0].n_events == 5


def test_an_unknown_node_and_a_time_out_of_nothing_are_refused_before_the_plan_begins():
    pipeline = Pipeline([Node("peak", Mean("det"))])

    with pytest.raises(PipelineKeyError, match=r"no node 'paek'; did you mean 'peak'\?"):
        pipeline.plans.wait_for("paek")
    with pytest.raises(PipelineError, match="timeout is 0; wanted seconds, more than 0, or None"):
        pipeline.plans.wait_for("peak", timeout=0)


@ways
def test_to_wait_without_a_run_is_refused_at_once(RE, attach, by):
    pipeline = attach(Node("mean", Mean("det")), by=by)

    with pytest.raises(PipelineRuntimeError, match="Node 'mean' has analysed no raw run yet"):
        RE(pipeline.plans.wait_for("mean"))


def test_where_no_run_engine_carries_it_out_that_is_said():
    pipeline = Pipeline([Node("mean", Mean("det"))])

    with pytest.raises(PipelineRuntimeError, match="waited for, but not by a RunEngine"):
        list(pipeline.plans.wait_for("mean"))


@pytest.mark.parametrize(
    "wrap",
    [
        BufferingWrapper,
        lambda sink: Buffered(lambda name, doc: sink(name, doc)),
        lambda sink: BufferingWrapper(Buffered(sink)),
    ],
)
def test_a_way_that_cannot_be_followed_is_refused_rather_than_giving_what_is_old(RE, det, attach, wrap):
    pipeline = attach(Node("mean", Slow(0.05)), by=[wrap])

    def plan():
        yield from count([det], 3)
        yield from bps.sleep(0.05)
        yield from pipeline.plans.wait_for("mean")

    with pytest.raises(PipelineRuntimeError, match=r"it cannot be told when all of it is in; wanted RE\.subscribe"):
        RE(plan())


def test_a_run_that_came_by_another_way_is_not_taken_for_the_plans_own(RE, det, attach):
    pipeline = attach(Node("mean", Mean("det")), by=directly)
    pipeline.replay(make_run({"det": [1.0]}))

    with pytest.raises(PipelineRuntimeError, match="comes on the thread 'MainThread'"):
        RE(pipeline.plans.wait_for("mean"))


def test_a_run_of_which_documents_were_dropped_is_refused(RE, det, attach):
    pipeline = attach(
        Node("mean", Gated(1), Mean("det")), by=[lambda sink: Buffered(sink, maxsize=3, when_full="drop")]
    )

    def plan():
        yield from count([det], 20)
        yield from pipeline.plans.wait_for("mean", timeout=30)

    with pytest.raises(PipelineRuntimeError, match="its queue of 3 documents is full; the rest of the run is dropped"):
        RE(plan())

"""What plans ask of a pipeline."""

import asyncio
import threading
from collections.abc import Coroutine, Generator
from typing import Any

from pipeline.analysis_result import AnalysisResult
from pipeline.buffer import Buffered, buffers_before
from pipeline.errors import PipelineRuntimeError, PipelineTimeoutError, PipelineValueError
from pipeline.results import Analysis, Results

PAUSES = (0.0005, 0.02)  # seconds between two looks at a buffer: at first, and at most


class Plans:
    """Plan stubs that ask a pipeline for what it finds, so that a plan can go by it.

    The pipeline is subscribed to the RunEngine, directly or `Buffered`.

    Parameters
    ----------
    pipeline, results
        The pipeline, and what its nodes have found.
    """

    def __init__(self, pipeline: Any, results: Results) -> None:
        self._pipeline, self._results = pipeline, results

    def wait_for(
        self, node: str, *, run: str | None = None, timeout: float | None = 60.0
    ) -> Generator[Any, Any, AnalysisResult]:
        """Wait until a node has taken in all that the RunEngine has emitted, and return what it has found.

        The RunEngine goes on meanwhile: it can be paused and aborted, and devices are attended to. After a pause, it
        waits for the points that are taken again, too.

        Parameters
        ----------
        node, run
            As in `Pipeline.result`. Of several runs that are open, and where not every run is analysed by this node,
            name the one that is meant.
        timeout
            How many seconds to wait at most; None: as long as it takes.

        Raises
        ------
        PipelineTimeoutError
            If it takes longer; it says how far the analysis is.
        PipelineKeyError, PipelineRuntimeError
            As in `Pipeline.result`: as soon as it is known, not after the time-out. Also if the documents come by a
            way on which it cannot be told when all are in. A plan may catch any of them.

        >>> from bluesky import RunEngine, plan_stubs, plans
        >>> from ophyd.sim import det, motor
        >>> from pipeline import Node, Pipeline
        >>> from pipeline.reductions import PeakStatistics
        >>> pipeline = Pipeline([Node("peak", PeakStatistics("motor", "det"))])
        >>> def centre():
        ...     yield from plans.scan([det], motor, -2, 3, 26)
        ...     peak = yield from pipeline.plans.wait_for("peak", timeout=10)
        ...     yield from plan_stubs.mv(motor, peak["det_cen"])
        >>> RE = RunEngine()
        >>> _ = RE.subscribe(pipeline)
        >>> _ = RE(centre())
        >>> float(motor.position)
        0.0
        """
        self._results.check(node)
        if timeout is not None and timeout <= 0:
            raise PipelineValueError(f"Node {node!r}: timeout is {timeout!r}; wanted seconds, more than 0, or None.")
        return self._wait(_Wait(self._pipeline, self._results, node, run, timeout))

    def _wait(self, wait: "_Wait") -> Generator[Any, Any, AnalysisResult]:
        from bluesky.plan_stubs import wait_for

        try:
            # What the message returns is lost when the RunEngine is paused during it, and so may the message be.
            while wait.outcome is None:
                yield from wait_for([wait.begin])
                wait.check_begun()
        finally:
            wait.end()
        if isinstance(wait.outcome, Exception):
            raise wait.outcome
        return wait.outcome


class _Wait:
    """Wait, on the event loop of a RunEngine, for one result; again from the start whenever it is begun again.

    A RunEngine that is interrupted leaves what it waited for running: only what was begun last counts.
    """

    def __init__(self, pipeline: Any, results: Results, node: str, run: str | None, timeout: float | None) -> None:
        self.outcome: AnalysisResult | Exception | None = None
        self._pipeline, self._results = pipeline, results
        self._node, self._run, self._timeout = node, run, timeout
        self._turn = 0
        self._behind = ""

    def begin(self) -> Coroutine[Any, Any, None]:
        """Return the coroutine that waits, and sets the outcome."""
        self._turn += 1
        return self._follow(self._turn)

    def end(self) -> None:
        """Let what is still running end without an outcome."""
        self._turn += 1

    def check_begun(self) -> None:
        """Refuse to wait where nobody carries out messages."""
        if not self._turn:
            raise PipelineRuntimeError(f"Node {self._node!r} is waited for, but not by a RunEngine; wanted one.")

    async def _follow(self, turn: int) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                outcome = await self._result(turn)
        except TimeoutError:
            outcome = self._late()
        except Exception as error:  # noqa: BLE001 - raised in the plan, where it can be caught
            outcome = error
        if turn == self._turn:
            self.outcome = outcome

    async def _result(self, turn: int) -> AnalysisResult:
        buffers = buffers_before(self._pipeline)
        for buffer in buffers:
            await self._drain(buffer, turn)
        analysis = self._results.find(self._node, self._run)
        self._check_way(analysis, buffers)
        return await asyncio.to_thread(self._pipeline.result, self._node, run=analysis.run_uid)  # may wait for a lock

    async def _drain(self, buffer: Buffered, turn: int) -> None:
        """Return when the buffer has handed on all that is in it now."""
        n, pause = buffer.n_come, PAUSES[0]
        self._check(buffer)
        while (left := n - buffer.n_done) > 0:
            self._behind = f" and {left} documents wait in the buffer of {buffer.name}"
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSES[1])
            if turn != self._turn:
                raise asyncio.CancelledError
            self._check(buffer)
        self._behind = ""

    def _check(self, buffer: Buffered) -> None:
        """Refuse to wait for what cannot come any more."""
        run = self._run or buffer.last_run
        if run in buffer.faults:
            raise PipelineRuntimeError(f"Node {self._node!r}, raw run {run}: {buffer.name}: {buffer.faults[run]}.")
        analysis = self._results.get(self._node, run)
        if analysis is not None:
            analysis.check()

    def _check_way(self, analysis: Analysis, buffers: list[Buffered]) -> None:
        """Refuse a run whose documents did not come straight from this RunEngine, or by these buffers."""
        by_thread = {buffer.thread: buffer for buffer in buffers}
        thread = analysis.thread
        while thread is not threading.current_thread():
            if thread not in by_thread:
                raise PipelineRuntimeError(
                    f"Node {self._node!r}: raw run {analysis.run_uid} comes on the thread {thread.name!r}, and it "
                    "cannot be told when all of it is in; wanted RE.subscribe(pipeline) or "
                    "RE.subscribe(Buffered(pipeline))."
                )
            thread = by_thread.pop(thread).caller

    def _late(self) -> PipelineTimeoutError:
        analysis = self._results.get(self._node, self._run)
        progress = analysis.progress if analysis else "no raw run has come"
        return PipelineTimeoutError(f"Node {self._node!r}: after {self._timeout} s {progress}{self._behind}.")

"""Wait for a result on the event loop of a RunEngine."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from pipeline.analysis_result import AnalysisResult
from pipeline.buffer import Buffered, buffers_before
from pipeline.errors import PipelineRuntimeError, PipelineTimeoutError
from pipeline.results import Analysis, Results

PAUSES = (0.0005, 0.02)  # seconds between two looks at a buffer: at first, and at most


class Wait:
    """Wait, on the event loop of a RunEngine, for one result; again from the start whenever it is begun again.

    A RunEngine that is interrupted leaves what it waited for running: only what was begun last counts.

    Parameters
    ----------
    pipeline, results
        The pipeline, and what its nodes have found.
    node, run, timeout
        As in `Plans.wait_for`.

    Attributes
    ----------
    outcome
        The result, or why there is none; None until it is known.
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

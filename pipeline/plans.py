"""What plans ask of a pipeline."""

from collections.abc import Generator
from typing import Any

from pipeline.analysis_result import AnalysisResult
from pipeline.errors import PipelineValueError
from pipeline.results import Results


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
        return self._wait(node, run, timeout)

    def _wait(self, node: str, run: str | None, timeout: float | None) -> Generator[Any, Any, AnalysisResult]:
        from bluesky.plan_stubs import wait_for

        from pipeline.wait import Wait  # asyncio takes its time to import, and bluesky has done so

        wait = Wait(self._pipeline, self._results, node, run, timeout)
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

"""What each node has found, for who asks."""

import threading
from collections.abc import Sequence
from copy import deepcopy
from typing import cast

from pipeline.analysis_result import AnalysisResult
from pipeline.errors import PipelineError, PipelineKeyError, PipelineRuntimeError, near
from pipeline.work import Work


class Results:
    """Know the analyses of the raw runs that are open, and of each node the one that was last begun.

    Parameters
    ----------
    nodes
        Their names.
    """

    def __init__(self, nodes: Sequence[str]) -> None:
        self._nodes = list(nodes)
        self._open: dict[str, list[Analysis]] = {}  # uid of a raw run -> its analyses
        self._newest: dict[str, Analysis] = {}  # name of a node -> its analysis that was last begun

    def begin(self, run_uid: str, node: str, work: Work | None, reason: str = "") -> None:
        """Take in that a node has begun with a raw run, or why it could not."""
        analysis = Analysis(run_uid, node, work, reason)
        self._open.setdefault(run_uid, []).append(analysis)
        self._newest[node] = analysis

    def end(self, run_uid: str) -> None:
        """Keep of a raw run that is over no more than what may be asked for."""
        for analysis in self._open.pop(run_uid, ()):
            if self._newest[analysis.node] is analysis:
                analysis.end()

    def check(self, node: str) -> None:
        """Refuse a node that is not known."""
        if node not in self._nodes:
            raise PipelineKeyError(f"There is no node {node!r}{near(str(node), self._nodes)}")

    def get(self, node: str, run: str | None = None) -> "Analysis | None":
        """Return the analysis of this raw run, or the one that was last begun, by this node, if it is at hand."""
        newest = self._newest.get(node)
        candidates = [newest, *self._open.get(run or "", ())]
        found = (each for each in candidates if each and each.node == node and run in (None, each.run_uid))
        return next(found, None)

    def find(self, node: str, run: str | None = None) -> "Analysis":
        """Return what `get` does, or say what there is."""
        self.check(node)
        analysis, newest = self.get(node, run), self._newest.get(node)
        if analysis is not None:
            return analysis
        if newest is None:
            raise PipelineRuntimeError(f"Node {node!r} has analysed no raw run yet.")
        raise PipelineKeyError(
            f"Node {node!r} has no analysis of raw run {run!r} at hand: wanted one that is open, or the one it last "
            f"began with, {newest.run_uid!r}."
        )


class Analysis:
    """One analysis of one raw run: at work, over, or not begun for a reason.

    Attributes
    ----------
    thread
        The one that the start document came on.
    """

    def __init__(self, run_uid: str, node: str, work: Work | None, reason: str = "") -> None:
        self.run_uid, self.node = run_uid, node
        self.thread = threading.current_thread()
        self._work = work
        self._reason = reason
        self._last: AnalysisResult | None = None

    @property
    def reason(self) -> str:
        """Why it failed; empty if it did not."""
        work = self._work  # another thread may end it meanwhile
        return work.reason if work else self._reason

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        work = self._work
        so_far = f"has taken in {work.intake.n_taken} events" if work else "is over"
        return f"the analysis of raw run {self.run_uid} {so_far}"

    def check(self) -> None:
        """Raise if it has failed, and say why."""
        if self.reason:
            raise self._failed(self.reason)

    def result(self) -> AnalysisResult:
        """Return the results, or raise why there are none."""
        self.check()
        try:
            return self._work.result() if self._work else deepcopy(cast(AnalysisResult, self._last))
        except Exception as error:
            raise self._failed(_told(error)) from error

    def _failed(self, reason: str) -> PipelineError:
        return PipelineRuntimeError(f"Node {self.node!r}, raw run {self.run_uid}: {reason}")

    def end(self) -> None:
        """Let go of the work, and keep its last results."""
        self._reason = self.reason
        try:
            self._last = self._work.result() if self._work and not self._reason else None
        except Exception as error:  # noqa: BLE001 - contained: told to who asks
            self._reason = _told(error)
        self._work = None


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}"

"""Hand the documents of an analysis run to the sinks."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from pipeline.documents import Document, Sink, safe_key
from pipeline.errors import PipelineValueError
from pipeline.report import SinkReport

logger = logging.getLogger(__name__)


@runtime_checkable
class Resumable(Protocol):
    """A sink that can go on with a run in the middle: the ledger."""

    def mark(self, uid: str) -> Document:
        """Return how far the run is."""
        ...

    def resume(self, uid: str, mark: Document) -> None:
        """Go on from there."""
        ...

    def documents(self, uid: str, mark: Document) -> list[tuple[str, Document]]:
        """Return the documents up to there."""
        ...

    def let_go(self, uid: str) -> None:
        """Leave the run as it is."""
        ...


class Outlet:
    """A sink, and what it is called."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.name = safe_key(str(getattr(sink, "name", None) or type(sink).__name__))

    def fault(self, uid: str) -> str:
        """Return what a sink with a queue of its own tells of a run, or of its server."""
        faults = getattr(self.sink, "faults", None) or {}
        return faults.get(uid) or faults.get("server") or ""

    def report(self) -> SinkReport:
        """Return how many documents wait for the sink, how many it has dropped, and what is wrong with it."""
        faults = getattr(self.sink, "faults", None) or {}
        waiting = getattr(self.sink, "n_come", 0) - getattr(self.sink, "n_done", 0)
        return {
            "waiting": waiting,
            "dropped": getattr(self.sink, "n_dropped", 0),
            "faults": len(faults),
            "outage": getattr(self.sink, "trouble", "") or faults.get("server", ""),
        }

    def ask(self, method: str, timeout: float | None) -> None:
        """Call `flush` or the like, if the sink has it; a fault there is the sink's."""
        try:
            function = getattr(self.sink, method, None)
            if callable(function):
                function(timeout) if timeout is not None else function()
        except Exception as error:  # noqa: BLE001 - contained: a sink's fault is the sink's
            logger.error("Sink %s: %s", self.name, error)


class Delivery:
    """Hand the documents of one analysis run to every sink; a fault of one is its own, and is logged once.

    >>> seen = []
    >>> deliver = Delivery([Outlet(lambda name, doc: seen.append(name))])
    >>> deliver("start", {"uid": "a"})
    >>> seen, deliver.faults
    (['start'], {})
    """

    def __init__(self, outlets: Sequence[Outlet]) -> None:
        self._outlets = outlets
        self._sinks = [outlet.sink for outlet in outlets]
        self._faults: dict[str, str] = {}
        self._uid = ""

    def __call__(self, name: str, doc: Document) -> None:
        """Hand on one document."""
        if name == "start":
            self._uid = doc["uid"]
        for i, sink in enumerate(self._sinks):
            try:
                sink(name, doc)
            except Exception as error:  # noqa: BLE001 - contained: a sink's fault is the sink's
                self._tell(self._outlets[i].name, f"{name}: {type(error).__name__}: {error}")

    def _tell(self, sink: str, reason: str) -> None:
        if sink not in self._faults:
            self._faults[sink] = reason
            logger.exception("Sink %s, analysis run %s: %s", sink, self._uid, reason)

    @property
    def faults(self) -> dict[str, str]:
        """What went wrong first in each sink, as far as it is known by now."""
        known = {outlet.name: outlet.fault(self._uid) for outlet in self._outlets}
        return {name: reason for name, reason in known.items() if reason} | self._faults

    # restarts

    def state(self) -> Document | None:
        """Return how far the sinks are, as JSON values; None if none of them can tell."""
        marks = {name: sink.mark(self._uid) for name, sink in self._resumable()}
        return {"uid": self._uid, "marks": marks, "faults": dict(self._faults)} if marks else None

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: those that can, from their marks; others are given again what the first of these has.

        Raises
        ------
        PipelineError
            If a sink is not as far as its mark says.
        """
        self._uid, self._faults = state["uid"], dict(state["faults"])
        marks = state["marks"]
        able = self._resumable()
        if {name for name, _ in able} != marks.keys():
            raise PipelineValueError(
                f"Run {self._uid}: wanted the sinks {sorted(marks)}, there are {sorted(name for name, _ in able)}."
            )
        for name, sink in able:
            sink.resume(self._uid, marks[name])
        others = Delivery([outlet for outlet in self._outlets if not isinstance(outlet.sink, Resumable)])
        if others._sinks:
            first, ledger = able[0]
            for name, doc in ledger.documents(self._uid, marks[first]):
                others(name, doc)
            self._faults |= others._faults

    def _resumable(self) -> list[tuple[str, Resumable]]:
        return [(outlet.name, outlet.sink) for outlet in self._outlets if isinstance(outlet.sink, Resumable)]

    def let_go(self) -> None:
        """Have the sinks that can do so let the run go, as it is."""
        for _, sink in self._resumable():
            sink.let_go(self._uid)

"""Hand the documents of an analysis run to the sinks."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from pipeline.documents import Document, Sink, safe_key
from pipeline.errors import PipelineValueError
from pipeline.report import SinkReport
from pipeline.run_arrays import RunArrays
from pipeline.uploads import uploaded

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
        self.takes_arrays = bool(getattr(sink, "takes_arrays", False))
        self.arrays = getattr(sink, "arrays", None)  # where it keeps large ones

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

    def ask(self, method: str, *arguments: Any) -> None:
        """Call `flush` or the like, if the sink has it; a fault there is the sink's."""
        try:
            function = getattr(self.sink, method, None)
            if callable(function):
                function(*(each for each in arguments if each is not None))
        except Exception as error:  # noqa: BLE001 - contained: a sink's fault is the sink's
            logger.error("Sink %s: %s", self.name, error)


class Delivery:
    """Hand the documents of one analysis run to every sink; a fault of one is its own, and is logged once.

    The first sink that has `arrays`, the ledger, keeps large arrays in files: all sinks are told where they are, in
    place of them; but those that say `takes_arrays = True` are given the arrays themselves. What cannot be kept there
    is a fault of the ledger's: nothing more of the run goes to it, until the run is given again.

    >>> seen = []
    >>> deliver = Delivery([Outlet(lambda name, doc: seen.append(name))])
    >>> deliver("start", {"uid": "a"})
    >>> seen, deliver.faults
    (['start'], {})
    """

    def __init__(self, outlets: Sequence[Outlet]) -> None:
        self._outlets = outlets
        self._sinks = list(outlets)  # that are handed something
        self._keeper = next((outlet for outlet in outlets if outlet.arrays is not None), None)
        self._arrays = RunArrays(self._keeper.arrays) if self._keeper and self._keeper.arrays else None
        self._faults: dict[str, str] = {}
        self._uid = ""

    def __call__(self, name: str, doc: Document) -> None:
        """Hand on one document."""
        if name == "start":
            self._uid = doc["uid"]
        documents = [(name, doc)] if self._arrays is None else self._without_arrays(self._arrays, name, doc)
        for outlet in self._sinks:
            try:
                for each in [(name, doc)] if outlet.takes_arrays else documents:
                    outlet.sink(*each)
            except Exception as error:  # noqa: BLE001 - contained: a sink's fault is the sink's
                self._tell(outlet.name, f"{name}: {type(error).__name__}: {error}")
                if outlet is self._keeper and self._arrays is not None:
                    self._arrays.cut()  # what the ledger does not keep, its files do not either

    def _without_arrays(self, arrays: RunArrays, name: str, doc: Document) -> list[tuple[str, Document]]:
        """Return the documents that stand for this one, and have no large arrays."""
        try:
            documents = arrays(name, doc)
            if documents[0][0] == "stream_resource":
                self._let_read()
            return documents
        except Exception as error:  # noqa: BLE001 - contained, as above
            self._give_up_keeping(f"{name}: {type(error).__name__}: {error}")
            return [(name, arrays.without(name, doc))]

    def _let_read(self) -> None:
        """Have catalogs know the folder of the files that documents refer to."""
        folder = getattr(self._keeper and self._keeper.arrays, "directory", None)
        for outlet in self._sinks if folder is not None else ():
            outlet.ask("let_read", folder)

    def _give_up_keeping(self, reason: str) -> None:
        """Let the ledger's file end here: what comes next would not be what belongs there."""
        if self._keeper in self._sinks:
            self._tell(self._keeper.name, reason)
            self._sinks.remove(self._keeper)
            self._keeper.ask("flush")
            if isinstance(self._keeper.sink, Resumable):
                self._keeper.sink.let_go(self._uid)

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
        arrays = self._arrays and self._arrays.state()
        return {"uid": self._uid, "marks": marks, "faults": dict(self._faults), "arrays": arrays} if marks else None

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
        if self._arrays is not None and state.get("arrays"):
            self._arrays.resume(self._uid, state["arrays"])
        first, ledger = able[0]
        for takes_arrays in (False, True):
            others = [outlet for outlet in self._outlets if outlet.takes_arrays == takes_arrays]
            again = Delivery([outlet for outlet in others if not isinstance(outlet.sink, Resumable)])
            if again._outlets:
                documents = ledger.documents(self._uid, marks[first])
                for name, doc in uploaded(documents) if takes_arrays else documents:
                    again(name, doc)
                self._faults |= again._faults

    def _resumable(self) -> list[tuple[str, Resumable]]:
        return [(outlet.name, outlet.sink) for outlet in self._outlets if isinstance(outlet.sink, Resumable)]

    def let_go(self) -> None:
        """Have the sinks that can do so let the run go, as it is."""
        if self._arrays is not None:
            self._arrays.let_go()
        for _, sink in self._resumable():
            sink.let_go(self._uid)

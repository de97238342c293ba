"""What has become of a node's runs, and why nothing came out."""

from collections.abc import Sequence

from pipeline.documents import Document
from pipeline.node import Node
from pipeline.work import Work


class Progress:
    """Count what a node has done, and tell why nothing came of it.

    >>> from pipeline.reductions import Mean
    >>> progress = Progress(Node("mean", Mean("det"), when={"plan_name": "scan"}))
    >>> progress.why([])
    'no run has come yet'
    >>> progress.pass_by({"uid": "a", "plan_name": "count"})
    >>> progress.why([])
    "it wants none of the runs so far, 1; the last is a, with plan_name 'count'"
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.n_begun = self.n_ended = self.n_faults = self.n_events = self.n_passed_by = 0
        self._last_passed_by: Document = {}
        self._last_reason = self._last_needs = ""

    def pass_by(self, start: Document) -> None:
        """Take note of a run that the node does not want."""
        self.n_passed_by += 1
        self._last_passed_by = {key: start.get(key) for key in ("uid", "plan_name")}

    def begin(self) -> None:
        """Take note of a run that the node begins with."""
        self.n_begun += 1

    def fail(self, reason: str) -> None:
        """Take note of a run that the node could not begin with."""
        self.n_ended += 1
        self.n_faults += 1
        self._last_reason, self._last_needs = reason, ""

    def end(self, work: Work) -> None:
        """Take note of an analysis that is over."""
        self.n_ended += 1
        self.n_faults += bool(work.reason)
        self.n_events += work.intake.n_taken
        self._last_reason, self._last_needs = work.reason, work.needs

    def why(self, works: Sequence[Work]) -> str:
        """Return, in words, why nothing has come out lately; nothing if something has.

        Parameters
        ----------
        works
            Of this node, on runs that are open.
        """
        if works:
            return works[-1].reason or works[-1].needs
        if self.n_begun:
            return self._last_reason or self._last_needs
        if self.n_passed_by:
            last = self._last_passed_by
            return (
                f"it wants none of the runs so far, {self.n_passed_by}; the last is {last['uid']}, "
                f"with plan_name {last['plan_name']!r}"
            )
        return "no run has come yet"

"""A raw run that a service has taken in part of."""

import logging
import time
from typing import Any, Self

from pipeline.completeness import Completeness
from pipeline.documents import Document, Uids
from pipeline.errors import PipelineError
from pipeline.pipeline import Pipeline
from pipeline.state import pack, state_from_bytes, state_to_bytes, unpack
from pipeline.state_store import StoredRun

logger = logging.getLogger(__name__)

OWNING = ("descriptor", "resource", "stream_resource")


class OpenRun:
    """A raw run on its way into a pipeline: what has come of it, and what keeps it from ending.

    Its stop document is held back until every event that it tells of has come, since events may be late. A document
    that cannot be read keeps it from ending, too. It is *parked* then: until what is missing comes, or it is given up.

    Parameters
    ----------
    start
        The start document.
    pipeline
        That its documents go into.
    lane, before
        Where it comes from: behind `before` stands its start document, and what came before that.

    Attributes
    ----------
    owned
        The uids of its descriptors and resources.
    faults
        By node, of the analyses that failed, once the run is over.
    parked
        Why it cannot end; empty while nothing is in its way.
    is_dirty
        Whether something has come since it was stored last.
    was_stored, is_covered
        Whether it was stored, and has a snapshot; if not, the run is to be read again from its start.
    """

    def __init__(self, start: Document, pipeline: Pipeline, lane: str, before: Any) -> None:
        self.uid: str = start["uid"]
        self.start = start
        self.pipeline, self.lane, self.before = pipeline, lane, before
        self.completeness = Completeness()
        self.stop: Document | None = None
        self.spoiled: list[str] = []  # what could not be read
        self.parked = ""
        self.faults: dict[str, str] = {}
        self.owned: list[str] = []
        self.n_documents = 0
        self.since = self.last = time.time()
        self.is_dirty = True
        self.is_covered = self.was_stored = False

    def take(self, name: str, doc: Document) -> None:
        """Take in a document; a stop document is kept for `settle`."""
        self.n_documents += 1
        self.last = time.time()
        self.is_dirty = True
        if name == "stop":
            self.stop = self.stop or doc
            return
        if name in OWNING:
            self.owned.append(doc["uid"])
        self.completeness.take(name, doc)
        self.pipeline(name, doc)

    def fill(self, stream: str, descriptor: str, event: Document) -> None:
        """Take in an event that somebody else kept: its `seq_num`, `time`, `data` and `timestamps`."""
        uid = Uids(descriptor)(f"{stream}/{event['seq_num']}")
        self.take("event", {**event, "uid": uid, "descriptor": descriptor, "filled": {}})

    def spoil(self, reason: str) -> None:
        """Take note of a document that cannot be read."""
        self.spoiled.append(reason)
        self.is_dirty = True

    def settle(self) -> bool:
        """End the run if nothing is in its way; return whether it is over."""
        missing = "" if self.stop is None else self.completeness.missing(self.stop)
        self.parked = "; ".join(filter(None, [missing, *self.spoiled[:1]]))
        if self.stop is None or self.parked:
            return False
        self.end()
        return True

    def end(self) -> None:
        """End the run with what there is of it: as its stop document says, or as `abort` if that never came."""
        raw = self.pipeline.raw_run(self.uid)
        if self.stop is None:
            self.pipeline.abandon(self.uid)
        else:
            self.pipeline("stop", self.stop)
        self.parked, self.faults = "", raw.faults if raw else {}

    # restarts

    def stored(self) -> StoredRun:
        """Return the run as it is to be stored; without a snapshot if the pipeline cannot tell its state."""
        return StoredRun(
            self.uid,
            self.lane,
            self.before,
            self.parked,
            self.since,
            time.time(),
            self.n_documents,
            self._snapshot(),
            tuple(self.owned),
        )

    def _snapshot(self) -> bytes | None:
        try:
            state = self.pipeline.state(self.uid)
            return None if state is None else state_to_bytes({**self._own_state(), "pipeline": state})
        except PipelineError as error:  # it was never begun, or its documents hold what no state can
            logger.debug("Run %s cannot be stored, and is read again after a restart: %s", self.uid, error)
            return None

    def has_stored(self, stored: StoredRun) -> None:
        """Take note that this was stored, and that nothing has come since."""
        self.is_covered, self.is_dirty, self.was_stored = stored.snapshot is not None, False, True

    def _own_state(self) -> Document:
        return {
            "start": pack(self.start, "start", ""),
            "completeness": self.completeness.state(),
            "stop": pack(self.stop, "stop", ""),
            "spoiled": self.spoiled,
        }

    @classmethod
    def resumed(cls, stored: StoredRun, pipeline: Pipeline) -> Self:
        """Return the run that goes on from its snapshot.

        Raises
        ------
        PipelineError
            If the snapshot cannot be used: it is damaged, of other nodes, or ahead of the ledger.
        """
        state = state_from_bytes(stored.snapshot or b"")
        run = cls(unpack(state["start"], ""), pipeline, stored.lane, stored.before)
        run.completeness.restore(state["completeness"])
        run.stop, run.spoiled = unpack(state["stop"], ""), list(state["spoiled"])
        run.parked, run.since, run.n_documents = stored.parked, stored.since, stored.n_documents
        run.owned = list(stored.owned)
        run.has_stored(stored)
        pipeline.resume(state["pipeline"])
        return run

    def let_go(self) -> None:
        """Let the pipeline forget the run, as it is."""
        self.pipeline.let_go(self.uid)

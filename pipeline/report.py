"""What a service tells of itself: one dict, which the page, the metrics and the probes read."""

import time
from typing import TypedDict


class SourceReport(TypedDict):
    """Where documents come from, and how far behind it is."""

    name: str
    may_lose: bool  # whether a document may be lost on the way
    lag_seconds: float | None  # None: cannot be told
    last_document: float | None  # when the last one came, in seconds since 1970; None: none yet


class RunsReport(TypedDict):
    """How many raw runs are in which state, and how many documents wait for others."""

    open: int
    parked: int
    failed: int
    held: int


class ParkedRun(TypedDict):
    """A raw run that waits, and for what."""

    uid: str
    reason: str
    since: float


class NodeReport(TypedDict):
    """What a node has done, and why nothing came of it."""

    begun: int
    ended: int
    faults: int
    events: int
    why: str  # empty where something came


class SinkReport(TypedDict):
    """What a sink has before it, and what it could not take."""

    waiting: int
    dropped: int
    faults: int
    outage: str  # empty where there is none


class ProjectorReport(TypedDict):
    """How far a catalog is behind the ledger."""

    target: str
    behind_bytes: int
    runs_level: int
    refused: int
    outage: str


class SnapshotsReport(TypedDict):
    """The last snapshot: how old it is, how long it took, of how many runs it was."""

    age_seconds: float | None  # None: there was none yet
    last_seconds: float
    n_runs: int


class Report(TypedDict):
    """What a service tells of itself.

    >>> Report.__required_keys__ >= {"ready", "source", "runs", "nodes", "sinks"}
    True
    """

    ready: bool
    why_not_ready: str
    time: float  # when the main loop went round last, in seconds since 1970
    started: float
    version: str
    source: SourceReport
    counts: dict[str, int]  # what came, by kind: documents, runs, duplicate_events, poison, orphans, ...
    runs: RunsReport
    parked: list[ParkedRun]
    nodes: dict[str, NodeReport]
    sinks: dict[str, SinkReport]
    projectors: list[ProjectorReport]
    snapshots: SnapshotsReport


def empty_report(version: str, source: str) -> Report:
    """Return the report of a service that has not begun.

    >>> empty_report("0.1.0", "ZMQSource")["why_not_ready"]
    'it has not begun'
    """
    now = time.time()
    return {
        "ready": False,
        "why_not_ready": "it has not begun",
        "time": now,
        "started": now,
        "version": version,
        "source": {"name": source, "may_lose": False, "lag_seconds": None, "last_document": None},
        "counts": {},
        "runs": {"open": 0, "parked": 0, "failed": 0, "held": 0},
        "parked": [],
        "nodes": {},
        "sinks": {},
        "projectors": [],
        "snapshots": {"age_seconds": None, "last_seconds": 0.0, "n_runs": 0},
    }

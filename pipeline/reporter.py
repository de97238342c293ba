"""Tell what a service does, for the page, the metrics and the probes."""

import time
from collections.abc import Sequence
from typing import Any

from pipeline.open_runs import OpenRuns
from pipeline.provenance import software
from pipeline.report import ParkedRun, Report, empty_report
from pipeline.sources.position import Item
from pipeline.state_store import StateStore

SHOWN = 100  # parked runs at most


class Reporter:
    """Keep a report of a service up to date; it is replaced whole, so that other threads may read it.

    Parameters
    ----------
    runs, store
        Of the service.
    source, may_lose
        The name of its source, and whether that may lose something.
    """

    def __init__(self, runs: OpenRuns, store: StateStore, source: str, may_lose: bool) -> None:
        self._runs, self._store = runs, store
        self._snapshot_time: float | None = None
        self._last_document: float | None = None
        self._newest: Any = None  # the time that the newest document tells
        self._is_behind = False
        self.report: Report = empty_report(software()[0]["version"], source)
        self.report["source"]["may_lose"] = may_lose

    def has_read(self, items: Sequence[Item]) -> None:
        """Take note of what the source gave."""
        self._is_behind = bool(items)
        if items:
            self._last_document = time.time()
            doc: Any = items[-1].doc
            self._newest = doc.get("time") if isinstance(doc, dict) else None

    def has_stored(self, n_runs: int, seconds: float) -> None:
        """Take note of a snapshot of so many runs, that took so long."""
        self._snapshot_time = time.time()
        self.report = {
            **self.report,
            "snapshots": {"age_seconds": 0.0, "last_seconds": seconds, "n_runs": n_runs},
        }

    def cannot(self, reason: str) -> None:
        """Tell that the service is not ready, and why."""
        self.report = {**self.report, "time": time.time(), "ready": False, "why_not_ready": reason}

    def tell(self) -> None:
        """Tell how things are now."""
        now = time.time()
        report, runs = self.report, self._runs
        pipeline = runs.pipelines[-1]
        n_open, n_parked, n_failed = self._store.count()
        age = None if self._snapshot_time is None else now - self._snapshot_time
        self.report = {
            **report,
            "ready": True,
            "why_not_ready": "",
            "time": now,
            "source": {**report["source"], "lag_seconds": self._lag(now), "last_document": self._last_document},
            "counts": {**runs.counts, **{f"pipeline_{what}": n for what, n in pipeline.counts.items()}},
            "runs": {
                "open": n_open - n_parked + sum(not run.was_stored for run in runs.runs.values()),
                "parked": n_parked,
                "failed": n_failed + sum(bool(ended.failed) for ended in runs.ended.values()),
                "held": len(runs.waiting),
            },
            "parked": self._parked(),
            "nodes": pipeline.report(),
            "sinks": pipeline.sinks_report(),
            "snapshots": {**report["snapshots"], "age_seconds": age},
        }

    def _parked(self) -> list[ParkedRun]:
        return [
            {"uid": run.uid, "reason": run.parked, "since": run.updated}
            for run in self._store.parked(SHOWN)
            if run.uid not in self._runs.ended
        ]

    def _lag(self, now: float) -> float | None:
        """Return by how many seconds the newest document is older than now, while there is more to read."""
        if self._last_document is None:
            return None
        is_known = isinstance(self._newest, int | float)
        return max(0.0, now - self._newest) if self._is_behind and is_known else 0.0

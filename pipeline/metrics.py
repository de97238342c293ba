"""The report of a service as Prometheus metrics.

| metric | labels | is |
| --- | --- | --- |
| `bluesky_pipeline_info` | `version`, `source` | 1 |
| `bluesky_pipeline_ready` | | 1 if it is ready, else 0 |
| `bluesky_pipeline_start_time_seconds` | | when it was started, in seconds since 1970 |
| `bluesky_pipeline_loop_age_seconds` | | how long ago the main loop went round |
| `bluesky_pipeline_lag_seconds` | | how far the source is behind; NaN where that cannot be told |
| `bluesky_pipeline_last_document_time_seconds` | | when the last document came; NaN if none has |
| `bluesky_pipeline_documents_total` | | documents that came |
| `bluesky_pipeline_seen_total` | `kind` | what came, by kind: `runs`, `duplicate_events`, `poison`, ... |
| `bluesky_pipeline_runs` | `state` | raw runs that are `open`, `parked`, `failed` |
| `bluesky_pipeline_documents_held` | | documents that wait for others |
| `bluesky_pipeline_node_runs_begun_total` | `node` | analysis runs that began |
| `bluesky_pipeline_node_runs_ended_total` | `node` | analysis runs that ended |
| `bluesky_pipeline_node_events_total` | `node` | events that a node took in |
| `bluesky_pipeline_node_faults_total` | `node` | faults of a node |
| `bluesky_pipeline_node_silent` | `node` | 1 if nothing came of it, else 0; `/status` tells why |
| `bluesky_pipeline_sink_waiting` | `sink` | documents that wait for a sink |
| `bluesky_pipeline_sink_dropped_total` | `sink` | documents that a sink could not keep |
| `bluesky_pipeline_sink_faults_total` | `sink` | faults of a sink |
| `bluesky_pipeline_sink_outage` | `sink` | 1 while a sink cannot be reached, else 0 |
| `bluesky_pipeline_projector_behind_bytes` | `target` | how much of the ledger is not yet in a catalog |
| `bluesky_pipeline_projector_runs_level` | `target` | analysis runs that are in the catalog as in the ledger |
| `bluesky_pipeline_projector_refused` | `target` | analysis runs that the catalog has refused |
| `bluesky_pipeline_projector_outage` | `target` | 1 while a catalog cannot be reached, else 0 |
| `bluesky_pipeline_snapshot_age_seconds` | | how old the last snapshot is; NaN if there is none |
| `bluesky_pipeline_snapshot_duration_seconds` | | how long the last snapshot took |
| `bluesky_pipeline_snapshot_runs` | | how many runs were in the last snapshot |
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipeline.errors import PipelineImportError
from pipeline.report import Report

PREFIX = "bluesky_pipeline_"
Sample = tuple[tuple[str, ...], float]


def exposition(report: Callable[[], Report]) -> Callable[[], tuple[bytes, str]]:
    """Return a function that gives the metrics of a report, as Prometheus reads them, and their content type.

    Raises
    ------
    PipelineImportError
        If `prometheus_client` is not installed: the extra `bluesky-pipeline[service]` brings it.

    >>> from pipeline.report import empty_report
    >>> content, kind = exposition(lambda: empty_report("0.1.0", "ZMQSource"))()
    >>> b"bluesky_pipeline_ready 0.0" in content, kind.partition(";")[0]
    (True, 'text/plain')
    """
    try:
        import prometheus_client
    except ImportError:
        raise PipelineImportError("wanted prometheus_client; install bluesky-pipeline[service].") from None
    registry = prometheus_client.CollectorRegistry(auto_describe=False)
    registry.register(_Collector(report))
    return lambda: (prometheus_client.generate_latest(registry), prometheus_client.CONTENT_TYPE_LATEST)


class _Collector:
    """Reads a report whenever Prometheus asks."""

    def __init__(self, report: Callable[[], Report]) -> None:
        self._report = report

    def collect(self) -> Iterator[Any]:
        """Yield the families of metrics."""
        report = self._report()
        yield from _of_service(report)
        yield from _of_runs(report)
        yield from _of_nodes(report)
        yield from _of_sinks(report)
        yield from _of_projectors(report)
        yield from _of_snapshots(report)


def _of_service(report: Report) -> Iterator[Any]:
    source = report["source"]
    labels = ("version", "source")
    yield _gauge("info", "1", [((report["version"], source["name"]), 1)], labels)
    yield _gauge("ready", "Whether the service is ready", [((), report["ready"])])
    yield _gauge("start_time_seconds", "When it was started", [((), report["started"])])
    yield _gauge("loop_age_seconds", "How long ago the main loop went round", [((), time.time() - report["time"])])
    yield _gauge("lag_seconds", "How far the source is behind", [((), _number(source["lag_seconds"]))])
    last = _number(source["last_document"])
    yield _gauge("last_document_time_seconds", "When the last document came", [((), last)])


def _of_runs(report: Report) -> Iterator[Any]:
    counts = report["counts"]
    yield _counter("documents", "Documents that came", [((), counts.get("documents", 0))])
    others = [((kind,), n) for kind, n in counts.items() if kind != "documents"]
    yield _counter("seen", "What came and was counted, by kind", others, ("kind",))
    states = [((state,), report["runs"][state]) for state in ("open", "parked", "failed")]
    yield _gauge("runs", "Raw runs, by state", states, ("state",))
    yield _gauge("documents_held", "Documents that wait for others", [((), report["runs"]["held"])])


def _of_nodes(report: Report) -> Iterator[Any]:
    nodes, label = report["nodes"].items(), ("node",)
    yield _counter("node_runs_begun", "Analysis runs begun", [((k,), n["begun"]) for k, n in nodes], label)
    yield _counter("node_runs_ended", "Analysis runs ended", [((k,), n["ended"]) for k, n in nodes], label)
    yield _counter("node_events", "Events taken in", [((k,), n["events"]) for k, n in nodes], label)
    yield _counter("node_faults", "Faults of a node", [((k,), n["faults"]) for k, n in nodes], label)
    yield _gauge("node_silent", "Whether nothing came of it", [((k,), bool(n["why"])) for k, n in nodes], label)


def _of_sinks(report: Report) -> Iterator[Any]:
    sinks, label = report["sinks"].items(), ("sink",)
    yield _gauge("sink_waiting", "Documents that wait for a sink", [((k,), s["waiting"]) for k, s in sinks], label)
    yield _counter("sink_dropped", "Documents not kept", [((k,), s["dropped"]) for k, s in sinks], label)
    yield _counter("sink_faults", "Faults of a sink", [((k,), s["faults"]) for k, s in sinks], label)
    yield _gauge("sink_outage", "Whether it cannot be reached", [((k,), bool(s["outage"])) for k, s in sinks], label)


def _of_projectors(report: Report) -> Iterator[Any]:
    projectors, label = report["projectors"], ("target",)
    behind = [((p["target"],), p["behind_bytes"]) for p in projectors]
    yield _gauge("projector_behind_bytes", "Bytes of the ledger not yet in a catalog", behind, label)
    level = [((p["target"],), p["runs_level"]) for p in projectors]
    yield _gauge("projector_runs_level", "Analysis runs in the catalog as in the ledger", level, label)
    refused = [((p["target"],), p["refused"]) for p in projectors]
    yield _gauge("projector_refused", "Analysis runs that the catalog refused", refused, label)
    outage = [((p["target"],), bool(p["outage"])) for p in projectors]
    yield _gauge("projector_outage", "Whether a catalog cannot be reached", outage, label)


def _of_snapshots(report: Report) -> Iterator[Any]:
    snapshots = report["snapshots"]
    yield _gauge("snapshot_age_seconds", "Age of the last snapshot", [((), _number(snapshots["age_seconds"]))])
    yield _gauge("snapshot_duration_seconds", "How long it took", [((), snapshots["last_seconds"])])
    yield _gauge("snapshot_runs", "Runs in it", [((), snapshots["n_runs"])])


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _gauge(name: str, text: str, samples: Iterable[Sample], labels: tuple[str, ...] = ()) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(PREFIX + name, text, labels=labels), samples)


def _counter(name: str, text: str, samples: Iterable[Sample], labels: tuple[str, ...] = ()) -> Any:
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(PREFIX + name, text, labels=labels), samples)


def _filled(family: Any, samples: Iterable[Sample]) -> Any:
    for labels, value in samples:
        # half of a surrogate pair, which JSON may hold, is not UTF-8
        family.add_metric([str(label).encode("utf-8", "replace").decode() for label in labels], float(value))
    return family

"""Run a configuration as a service: its source, its pipeline, its catalogs, its page."""

import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.catalog import python_module
from pipeline.config import Config, load
from pipeline.errors import ConfigError, PipelineError
from pipeline.report import ProjectorReport, Report
from pipeline.service import Service
from pipeline.sources.position import PositionedSource
from pipeline.watched_process import WatchedProcess

logger = logging.getLogger(__name__)

LEVEL_SECONDS = 5.0  # in which catalogs may come level when the service ends
REPORT_SECONDS = 1.0
OLD_SECONDS = 3600.0  # after which a report that nobody renews is removed
STATE = ".state"


class Operation:
    """A service as it is configured: what `bluesky-pipeline run` runs.

    The pipeline writes to the ledger; each catalog is brought level with it by a process of its own. SIGTERM and SIGINT
    end it, with what is open stored; SIGHUP reads the configuration again, for the runs that begin from then on.

    Parameters
    ----------
    config
        With a source that can be read again, and a `JSONLSink`.
    source
        By default that of the configuration.
    listen
        Address and port of the page; by default that of the configuration, if it has one.
    """

    def __init__(self, config: Config, source: PositionedSource | None = None, listen: str | None = None) -> None:
        if config.ledger is None:
            raise ConfigError(
                f"{config.path}: a service keeps what it does in a ledger; wanted a JSONLSink among sinks."
            )
        self._config = config
        self._source = source if source is not None else config.source()
        self._listen = listen or config.listen
        self._ledger = Path(config.ledger)
        self._projectors: list[tuple[WatchedProcess, Path]] = []
        self._is_to_reload = threading.Event()

    def run(self) -> None:
        """Serve until the source ends or a signal comes."""
        pipeline = self._config.pipeline(projected=True)
        self.service = Service(pipeline, self._source, refill=self._config.refill(), **self._config.service)
        with ExitStack() as stack:
            stack.enter_context(self._signals())
            for target, container in self._config.catalogs:
                stack.enter_context(self._projector(target, container))
            if self._listen is not None:
                stack.enter_context(self._monitor(self._listen))
            stack.enter_context(self._reports())
            self.service.run()
            self._wait_until_level()

    # catalogs --------------------------------------------------------------------------------------------------

    @contextmanager
    def _projector(self, target: Any, container: str) -> Iterator[None]:
        from pipeline.projector import report_path

        options = [str(self._ledger), "--container", container] + ([] if target is None else ["--to", str(target)])
        path = report_path(self._ledger, target, container)
        path.unlink(missing_ok=True)
        command, environment = python_module("pipeline.projector_process", *options)
        with WatchedProcess(f"projector to {target or 'the embedded catalog'}", command, environment) as process:
            self._projectors.append((process, path))
            yield

    def _wait_until_level(self) -> None:
        deadline = time.monotonic() + LEVEL_SECONDS
        while time.monotonic() < deadline and any(each["behind_bytes"] for each in self._projections()):
            time.sleep(0.1)

    def _projections(self) -> list[ProjectorReport]:
        return [_projection(process, path) for process, path in self._projectors]

    # reports ---------------------------------------------------------------------------------------------------

    def report(self) -> Report:
        """Return what there is to tell of the service and its catalogs."""
        return {**self.service.report(), "projectors": self._projections()}

    @contextmanager
    def _monitor(self, listen: str) -> Iterator[None]:
        from pipeline.monitor import Monitor

        with Monitor(self.report, listen) as monitor:
            print(f"The page is at {monitor.url}", file=sys.stderr, flush=True)
            yield

    @contextmanager
    def _reports(self) -> Iterator[None]:
        """Keep the report in a file beside the state, for `bluesky-pipeline status`."""
        _remove_old(self._ledger / STATE)
        path = self._ledger / STATE / f"service-{self.service.owner}.json"
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(REPORT_SECONDS):
                with suppress(OSError):
                    _write(path, self.report())

        thread = threading.Thread(target=tell, name="reports", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(5.0)
            path.unlink(missing_ok=True)

    # signals ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGHUP: self._reload}
        kept = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def _stop(self, *_: object) -> None:
        self.service.stop()

    def _reload(self, *_: object) -> None:
        """Use the nodes that the configuration has now; what is wrong is told, and nothing changes."""
        try:
            config = load(self._config.path)
            self.service.reload(config.pipeline_into(self.service.sinks))
        except PipelineError as error:
            logger.error("The configuration is not read again: %s", error)
        else:
            logger.warning("The configuration is read again: nodes %s.", ", ".join(node.name for node in config.nodes))


def _projection(process: WatchedProcess, path: Path) -> ProjectorReport:
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError):
        told = {}
    return {
        "target": told.get("target", process.name),
        "behind_bytes": told.get("behind_bytes", 0),
        "runs_level": told.get("runs_level", 0),
        "refused": len(told.get("refused", {})),
        "outage": told.get("outage", "") if process.is_running else f"{process.name} does not run",
    }


def _remove_old(state: Path) -> None:
    """Remove the reports of processes that were killed."""
    for path in state.glob("service-*.json"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > OLD_SECONDS:
                path.unlink()


def _write(path: Path, report: Mapping[str, Any]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(report))
    new.rename(path)

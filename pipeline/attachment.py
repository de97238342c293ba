"""Attach an analysis to a RunEngine by a journal: a scan pays for the journal, and for nothing else."""

import atexit
import logging
import os
import weakref
from pathlib import Path
from typing import Any

from pipeline.catalog import python_module
from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.sinks.journal import Journal
from pipeline.watched_process import WatchedProcess

logger = logging.getLogger(__name__)
_open: "weakref.WeakSet[Attachment]" = weakref.WeakSet()


class Attachment:
    """A journal that is subscribed to a RunEngine, and the process that analyses what is in it; see `attach`.

    Attributes
    ----------
    journal
        What takes the documents.
    process
        What analyses them: `is_running`, `pid`, `n_starts`.
    """

    def __init__(self, RE: Any, config: str | os.PathLike[str], directory: str | os.PathLike[str]) -> None:
        self.journal = Journal(directory)
        command, environment = python_module(
            "pipeline", "run", os.fspath(config), "--journal", os.fspath(directory), "--until-released"
        )
        self.process = WatchedProcess(f"analysis by {config}", command, environment)
        self._RE = RE
        self._token = RE.subscribe(self.journal)
        self._is_closed = False
        _open.add(self)

    def close(self, timeout: float = 60.0) -> None:
        """Detach; return when all that came is analysed, or after `timeout` seconds, and the rest is done next time."""
        if self._is_closed:
            return
        self._is_closed = True
        self._RE.unsubscribe(self._token)
        self.journal.close()
        self.process.let_end()
        if not self.process.wait(timeout):
            logger.warning("%s is not done after %s s; it goes on next time.", self.process.name, timeout)
            self.process.end()

    def __enter__(self) -> "Attachment":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def attach(RE: Any, config: str | os.PathLike[str], *, journal: str | os.PathLike[str] | None = None) -> Attachment:
    """Attach the analyses of a configuration to a RunEngine, in a process of their own.

    What the RunEngine emits is appended to a journal, which takes some ten microseconds a document. A process reads it,
    and runs the configuration's nodes and sinks; it gives way to the scan where the processor is short, is watched, and
    is started again if it ends. What was not analysed
    when this interpreter ends, or is killed, is analysed when the same journal is attached again.

    Parameters
    ----------
    RE
        The RunEngine.
    config
        A YAML file, with a `JSONLSink`; its source is not used.
    journal
        The directory of the journal; by default `journal` in that of the ledger.

    Raises
    ------
    ConfigError
        If the configuration is wrong.
    PipelineOSError
        If the journal cannot be written, or another process writes it.

    Examples
    --------
    ::

        from pipeline import attach

        analysis = attach(RE, "configs/peak.yaml")
        RE(scan([det], motor, -1, 1, 11))
        analysis.close()  # or at the end of the interpreter
    """
    ledger = load(config).ledger
    if ledger is None:
        raise ConfigError(f"{config}: wanted a JSONLSink among sinks, there is none.")
    return Attachment(RE, config, Path(ledger) / "journal" if journal is None else journal)


@atexit.register
def _close_all() -> None:
    for attachment in list(_open):
        attachment.close()

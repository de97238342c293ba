"""Runs into a Tiled catalog, as they are made."""

import atexit
import logging
import os
import threading
import time
import weakref
from collections import deque
from typing import Any, Literal

from pipeline.documents import Document, dumps
from pipeline.errors import PipelineRuntimeError, PipelineValueError
from pipeline.run_of import RunOf
from pipeline.sinks.outbox import Outbox
from pipeline.sinks.writer_process import WriterProcess

logger = logging.getLogger(__name__)
_open: "weakref.WeakSet[TiledSink]" = weakref.WeakSet()

MAX_FAULTS = 1000  # remembered: memory does not grow with the number of runs
MAX_BYTES = 1 << 28


class TiledSink:
    """Write runs into a Tiled catalog, event by event, without disturbing whoever makes them.

    A call encodes the document and puts it in a queue, and that is all: it never waits for the server, and no fault
    of the server is raised. The writing is done in a process of its own, which writes what has come every
    `flush_seconds`, and tries again when the server is away. What goes wrong is logged once and stands in `faults`.

    Large arrays, that are in files beside a ledger, stay there in an embedded catalog: its server may read them. Other
    servers are sent them.

    A run that the catalog has already is left as it is; one of which it has half is written anew. If documents of a
    run are lost, the run gets no stop document: half a run is not passed off as a whole one, and may be given again.

    Parameters
    ----------
    target
        Where to write to. A path: the embedded catalog in this directory, its container `analysis`; None: that of
        `open_catalog()`. A URI (`http...`): that node of a Tiled server, with the key from `TILED_API_KEY`.
        A Tiled client: its node; this is written to by a thread of this process.
    flush_seconds, flush_count
        How long an event, and how many, may wait before they are written.
    maxsize
        How many documents may wait.
    when_full
        `"drop"`: a document that finds no place, and the rest of its run, are dropped, counted in `n_dropped` and
        told in `faults`. `"wait"`: the caller waits.
    container
        Which container of an embedded catalog to write to.
    name
        What the log calls the sink.
    """

    inline = True

    def __init__(
        self,
        target: Any = None,
        *,
        flush_seconds: float = 0.6,
        flush_count: int = 1000,
        maxsize: int = 100_000,
        when_full: Literal["drop", "wait"] = "drop",
        container: str = "analysis",
        name: str = "TiledSink",
    ) -> None:
        if when_full not in ("wait", "drop"):
            raise PipelineValueError(f"TiledSink: when_full is {when_full!r}; wanted 'wait' or 'drop'.")
        if not (flush_seconds > 0 and flush_count > 0 and maxsize > 0):
            raise PipelineValueError("TiledSink: wanted flush_seconds, flush_count and maxsize above zero.")
        self.name = name
        self.n_dropped = 0
        self.faults: dict[str, str] = {}  # run uid, or "server" -> what is wrong
        self._untold: list[str] = []  # faults that no flush has raised
        self._waits = when_full == "wait"
        self._outbox = Outbox(maxsize=maxsize, maxbytes=MAX_BYTES)
        self._run_of = RunOf()
        self._begun: dict[str, int] = {}  # run uid -> number of its first line, while it is not all in the catalog
        self._stopped: deque[tuple[int, str]] = deque()  # number of its last line, run uid
        self._cut: set[str] = set()  # uids of runs of which something is lost
        self._closed = False
        self._target = target
        self._readable: set[str | os.PathLike[str]] = set()  # folders
        self._link = self._connect(target, container, flush_seconds, flush_count)
        _open.add(self)

    def _connect(
        self, target: Any, container: str, flush_seconds: float, flush_count: int
    ) -> "WriterProcess | WriterThread":
        box = self._outbox
        if target is not None and not isinstance(target, str | os.PathLike):
            return WriterThread(box, target, report=self._report, flush_seconds=flush_seconds, flush_count=flush_count)
        where, options = _where(target, container), [f"--flush-count={flush_count}"]
        return WriterProcess(box, where, options, pause=flush_seconds, report=self._report, died=self._report_death)

    def let_read(self, folder: str | os.PathLike[str]) -> None:
        """Let the server of an embedded catalog read this folder: the documents that come refer to files in it."""
        from pipeline.catalog import let_read

        if folder not in self._readable:
            self._readable.add(folder)
            let_read(self._target, folder)

    def __call__(self, name: str, doc: Document) -> None:
        """Put the document in the queue; see `when_full`."""
        if self._closed:
            raise PipelineRuntimeError(f"{self.name} is closed; wanted it open for a {name!r} document.")
        if name in ("event", "event_page") and not self._cut:  # nearly all
            if not self._put(name, doc):
                self._lose(self._run_of(name, doc))
            return
        run = self._run_of(name, doc)
        if name == "start":
            self._cut.discard(run)
            self._begun[run] = self._outbox.n_put
        if run in self._cut or not self._put(name, doc):
            self._lose(run)
        if name == "stop":
            self._forget(run)

    def _put(self, name: str, doc: Document) -> bool:
        try:
            line = dumps(name, doc)
        except Exception as error:  # noqa: BLE001 - contained: the run cannot be written, and that is all
            self._report(self._run_of(name, doc), f"{type(error).__name__}: {error}")
            return False
        while not self._outbox.put(line):
            if not self._waits:
                self._report(self._run_of(name, doc), "the queue to Tiled is full; the rest of the run is dropped")
                return False
            self._outbox.wait_for_place(0.1)
        return True

    def _lose(self, run: str) -> None:
        """Count a document that is lost, and let nothing more of its run follow."""
        self.n_dropped += 1
        if run not in self._cut:
            self._cut.add(run)
            self._outbox.put(dumps("cut", {"run_start": run}), always=True)

    def _forget(self, run: str) -> None:
        if run in self._cut:
            self._cut.discard(run)
            self._begun.pop(run, None)
        else:
            self._stopped.append((self._outbox.n_put, run))
        while self._stopped and self._stopped[0][0] <= self._outbox.n_acked:
            self._begun.pop(self._stopped.popleft()[1], None)
        self._run_of.forget(run)

    # faults

    def _report(self, run: str, reason: str | None) -> None:
        if reason is None:
            self.faults.pop(run, None)
            logger.warning("%s: the server can be written to again.", self.name)
            return
        if run != "server" and run in self.faults:
            return
        while len(self.faults) >= MAX_FAULTS:
            self.faults.pop(next(iter(self.faults)), None)
        self.faults[run] = reason
        if run == "server":
            logger.error("%s cannot write, and will try again: %s.", self.name, reason)
        else:
            self._untold.append(f"run {run}: {reason}")
            logger.error("%s, run %s: %s.", self.name, run, reason)

    def _report_death(self, n_sent: int, reason: str) -> None:
        """Give up the runs that the writer had in hand: nobody knows how far it got."""
        stopped = {run for _, run in list(self._stopped)}
        for run, number in list(self._begun.items()):
            if number < n_sent:
                self._report(run, f"{reason}; the rest of the run is dropped")
                self._begun.pop(run, None)
                self._cut |= {run} - stopped

    # the end

    def flush(self, timeout: float | None = None) -> None:
        """Return when everything given is readable in the catalog.

        Raises
        ------
        PipelineRuntimeError
            If something given is lost, since the last flush that told of it; or, without a `timeout`, if the server
            cannot be written to.
        TimeoutError
            If it takes longer than `timeout` seconds; nothing is lost by it.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._outbox.put(b'["flush",{}]\n', always=True)
        self._outbox.hurry()
        n = self._outbox.n_put
        while not self._outbox.wait_until_acked(n, 0.1 if deadline is None else min(0.1, deadline - time.monotonic())):
            trouble = self.faults.get("server", "")
            waiting = f"{self.name}: {n - self._outbox.n_acked} documents wait"
            if deadline is None and trouble:
                raise PipelineRuntimeError(f"{waiting} for the server: {trouble}.")
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{waiting} after {timeout} s{': ' if trouble else ''}{trouble}.")
        if self._untold:
            told, self._untold = self._untold, []
            raise PipelineRuntimeError(f"{self.name} could not write all: {'; '.join(told[:5])}.")

    def close(self, timeout: float | None = 30.0) -> None:
        """Wait until everything is readable in the catalog, and end the writer.

        Raises
        ------
        As `flush` does; the writer is ended all the same.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self.flush(timeout)
        finally:
            self._link.end(10.0 if self._outbox.n_acked == self._outbox.n_put else 0.1)
            if missing := self._outbox.n_put - self._outbox.n_acked:
                logger.error("%s: %d documents are not in the catalog.", self.name, missing)

    def __enter__(self) -> "TiledSink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _where(target: str | os.PathLike[str] | None, container: str) -> Document:
    if isinstance(target, str) and target.startswith(("http://", "https://")):
        from pipeline.catalog import embedded_in

        uploads = embedded_in(target) is None
        return {
            "uri": target,
            "uploads": uploads,
            "api_key": None if "api_key=" in target else os.environ.get("TILED_API_KEY"),
        }
    from pipeline.catalog import default_path

    path = default_path() if target is None else os.fspath(target)
    return {"path": os.path.abspath(os.path.expanduser(path)), "container": container}


class WriterThread:
    """Write what is in an outbox with a client of this process, on a thread."""

    def __init__(self, outbox: Outbox, client: Any, *, report: Any, flush_seconds: float, flush_count: int) -> None:
        from pipeline.catalog import embedded_in
        from pipeline.sinks.catalog_writer import CatalogWriter

        self._outbox = outbox
        self._give_up = threading.Event()
        client = getattr(client, "analysis", client)  # of what `open_catalog` gives
        uploads = embedded_in(client) is None
        writer = CatalogWriter(
            client.include_data_sources,
            report,
            uploads=uploads,
            keep_trying=lambda: not self._give_up.is_set(),
            flush_seconds=flush_seconds,
            flush_count=flush_count,
        )
        self._thread = threading.Thread(
            target=writer.serve, args=(self._receive, outbox.ack), name="writes to Tiled", daemon=True
        )
        self._thread.start()

    def _receive(self, timeout: float | None) -> list[bytes] | None:
        self._outbox.wait_for_lines(timeout)
        lines = self._outbox.take()
        return None if self._outbox.closed and not lines else lines

    def end(self, timeout: float) -> None:
        """Let the thread finish what it has; after `timeout` seconds, give up."""
        self._outbox.close()
        self._thread.join(timeout)
        self._give_up.set()


@atexit.register
def _close_all() -> None:
    """Nothing may be lost at the end of the interpreter; nothing may hang it either."""
    for sink in list(_open):
        try:
            sink.close()
        except (PipelineRuntimeError, TimeoutError) as error:
            logger.error("%s", error)

"""Keep a callback that may be slow off the thread that documents come on."""

import atexit
import logging
import queue
import threading
import time
import weakref
from typing import Any, Literal

from pipeline.documents import Document, Sink
from pipeline.errors import PipelineRuntimeError, PipelineTimeoutError, PipelineValueError
from pipeline.run_of import RunOf

logger = logging.getLogger(__name__)
_open: "weakref.WeakSet[Buffered]" = weakref.WeakSet()


class Buffered:
    """Call a sink on a thread of its own, in order, from a bounded queue.

    A call returns at once. What the sink raises is logged once a run and stands in `faults`; the sink is called with
    the next document all the same. Nothing is lost at the end of the interpreter: it waits until all is in.

    Parameters
    ----------
    sink
        Called with `(name, doc)`, on one thread only.
    maxsize
        How many documents may wait.
    when_full
        `"wait"`: the caller waits for a place. `"drop"`: the document, and the rest of its run, are dropped, counted
        in `n_dropped` and told in `faults`: half a run is not passed off as a whole one.
    name
        What the log calls the sink.

    Attributes
    ----------
    thread, caller
        The thread that the sink is called on, and the one that the last start document came on.
    last_run
        The uid of the run whose start document came last.

    >>> seen = []
    >>> with Buffered(lambda name, doc: seen.append(name)) as sink:
    ...     sink("start", {"uid": "a"})
    >>> seen
    ['start']
    """

    inline = True

    def __init__(
        self,
        sink: Sink,
        *,
        maxsize: int = 100_000,
        when_full: Literal["wait", "drop"] = "wait",
        name: str | None = None,
    ) -> None:
        if when_full not in ("wait", "drop"):
            raise PipelineValueError(f"Buffered: when_full is {when_full!r}; wanted 'wait' or 'drop'.")
        self.takes_arrays = getattr(sink, "takes_arrays", False)
        self.name = name or getattr(sink, "name", None) or getattr(sink, "__qualname__", type(sink).__name__)
        self.n_dropped = 0
        self.faults: dict[str, str] = {}  # run uid -> what went wrong first
        self.last_run, self.caller = "", threading.current_thread()
        self._sink = sink
        self._drop = when_full == "drop"
        self._queue = _Queue(maxsize)
        self._run_of = RunOf()
        self._spoiled: set[str] = set()  # uids of runs of which something was dropped
        self._closed = False
        self.thread = threading.Thread(target=self._work, name=f"buffer of {self.name}", daemon=True)
        self.thread.start()
        _open.add(self)

    def __call__(self, name: str, doc: Document) -> None:
        """Put the document in the queue; see `when_full`."""
        if self._closed:
            raise PipelineRuntimeError(f"The buffer of {self.name} is closed; wanted it open for a {name!r} document.")
        run = self._run_of(name, doc)
        if name == "start":
            self.last_run, self.caller = run, threading.current_thread()
        if not self._drop:
            self._queue.put((run, name, doc))
        elif run in self._spoiled or not self._has_put((run, name, doc)):
            self._drop_from(run)
        if name == "stop":
            self._spoiled.discard(run)
            self._run_of.forget(run)

    @property
    def sinks(self) -> list[Sink]:
        """The sink, alone."""
        return [self._sink]

    @property
    def n_come(self) -> int:
        """How many documents have come into the queue."""
        return self._queue.n_put

    @property
    def n_done(self) -> int:
        """How many of them the sink has been given."""
        with self._queue.mutex:
            return self._queue.n_put - self._queue.unfinished_tasks

    def _has_put(self, item: tuple[str, str, Document]) -> bool:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            return False
        return True

    def _drop_from(self, run: str) -> None:
        self.n_dropped += 1
        self._spoiled.add(run)
        self._tell(run, f"its queue of {self._queue.maxsize} documents is full; the rest of the run is dropped")

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            run, name, doc = item
            try:
                self._sink(name, doc)
            except Exception as error:  # noqa: BLE001 - contained: a sink's fault is the sink's
                self._tell(run, f"{type(error).__name__}: {error}", exc_info=True)
            self._queue.task_done()
        self._queue.task_done()

    def _tell(self, run: str, reason: str, exc_info: bool = False) -> None:
        if run in self.faults:
            return
        while len(self.faults) >= 1000:  # memory does not grow with the number of runs
            self.faults.pop(next(iter(self.faults)), None)
        self.faults[run] = reason
        logger.error("Sink %s, run %s: %s.", self.name, run, reason, exc_info=exc_info)

    def flush(self, timeout: float | None = None) -> None:
        """Return when the sink has been given all that came before this call.

        Raises
        ------
        TimeoutError
            If that takes longer than `timeout` seconds; nothing is lost by it.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._queue.all_tasks_done:
            while self._queue.unfinished_tasks:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise PipelineTimeoutError(
                        f"Sink {self.name}: {self._queue.unfinished_tasks} documents wait after {timeout} s."
                    )
                self._queue.all_tasks_done.wait(left)
        flush = getattr(self._sink, "flush", None)
        if callable(flush):
            flush()

    def close(self, timeout: float | None = None) -> None:
        """Wait until all is in, end the thread, and close the sink if it can be closed."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush(timeout)
        finally:
            self._end()

    def _end(self) -> None:
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            logger.error("Sink %s hangs; %d documents are not in it.", self.name, self._queue.unfinished_tasks)
            return
        close: Any = getattr(self._sink, "close", None)
        if callable(close) and not self._queue.unfinished_tasks > 1:
            close()

    def __enter__(self) -> "Buffered":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Queue(queue.Queue[tuple[str, str, Document] | None]):
    """A queue that counts what is put into it."""

    n_put = 0

    def _put(self, item: tuple[str, str, Document] | None) -> None:
        self.n_put += 1
        super()._put(item)


def buffers_before(sink: Sink) -> list[Buffered]:
    """Return the open buffers that lead to this sink, the outermost first.

    >>> sink = print
    >>> with Buffered(sink, name="inner") as inner, Buffered(inner, name="outer"):
    ...     [buffer.name for buffer in buffers_before(sink)]
    ['outer', 'inner']
    """
    steps = {buffer: _steps(buffer, sink) for buffer in list(_open)}
    return sorted((buffer for buffer, n in steps.items() if n), key=lambda buffer: -steps[buffer])


def _steps(callback: Any, sink: Sink) -> int:
    """Return how many callbacks there are from this one to the sink, both counted; 0 if it does not lead there."""
    if callback is sink:
        return 1
    sinks = getattr(callback, "sinks", None)
    further = max((_steps(each, sink) for each in sinks), default=0) if isinstance(sinks, list) else 0
    return further and further + 1


@atexit.register
def _close_all(timeout: float = 30.0) -> None:
    """Nothing may be lost at the end of the interpreter; nothing may hang it either."""
    for buffered in list(_open):
        try:
            buffered.close(timeout)
        except TimeoutError as error:
            logger.error("%s They are not in it.", error)

"""What a thread has read, until somebody takes it."""

import contextlib
import queue
import threading

from pipeline.errors import PipelineError
from pipeline.sources.position import Item


class Inbox:
    """Hand items from a thread that reads to the one that takes them: few batches wait, and the reader with them.

    Parameters
    ----------
    maxsize
        How many batches may wait.

    >>> inbox = Inbox()
    >>> inbox.put([]), inbox.take(0.0), inbox.take(0.0)
    (None, [], [])
    """

    def __init__(self, maxsize: int = 2) -> None:
        self.stopped = threading.Event()
        self._batches: queue.Queue[list[Item]] = queue.Queue(maxsize)
        self._finished = threading.Event()
        self._fault: PipelineError | None = None

    @property
    def is_done(self) -> bool:
        """Whether all was read, and taken."""
        return self._finished.is_set() and self._batches.empty() and self._fault is None

    def put(self, items: list[Item]) -> None:
        """Wait until there is a place, or until nobody wants anything any more."""
        while not self.stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._batches.put(items, timeout=0.2)
                return

    def take(self, timeout: float) -> list[Item]:
        """Return the next batch; nothing if none comes within so many seconds.

        Raises
        ------
        PipelineError
            If the reader has ended with it, and all before it was taken.
        """
        with contextlib.suppress(queue.Empty):
            return self._batches.get_nowait() if timeout <= 0 or self._finished.is_set() else self._get(timeout)
        if self._fault is not None:
            raise self._fault
        return []

    def _get(self, timeout: float) -> list[Item]:
        return self._batches.get(timeout=timeout)

    def finish(self, fault: PipelineError | None = None) -> None:
        """Tell that there will be no more."""
        self._fault = fault
        self._finished.set()

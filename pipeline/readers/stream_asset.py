"""One streamed asset: its rows, each read once."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import NamedTuple

import numpy

from pipeline.errors import AssetError, PipelineError
from pipeline.readers.patience import awaited
from pipeline.readers.reader import Reader

Array = numpy.ndarray

BLOCK_BYTES, BLOCK_ROWS = 4 * 2**20, 4096  # of small rows that are read together


class Block(NamedTuple):
    """Rows that were read together."""

    start: int
    rows: Array

    @property
    def stop(self) -> int:
        """The row after the last."""
        return self.start + len(self.rows)


class StreamAsset:
    """Read the rows of one `stream_resource`, each once: the last blocks are kept, and one is read ahead.

    Parameters
    ----------
    name
        What errors call it.
    open_reader
        Makes its reader.
    n_kept
        How many blocks there are at a time, that which is read included.
    executor
        Reads ahead.
    """

    def __init__(self, name: str, open_reader: Callable[[], Reader], n_kept: int, executor: Executor) -> None:
        self.name = name
        self._open_reader, self._executor = open_reader, executor
        self._n_together = 1  # rows; small ones are read together, once it is known that they are
        self._blocks: deque[Block] = deque()
        self._n_kept = n_kept
        self._reader: Reader | None = None
        self._lock = threading.Lock()
        self._n_announced = 0
        self._asked = -1  # the row that is read ahead
        self._has_failed = self._is_closed = False

    def announce(self, stop: int) -> None:
        """Know that rows up to this one are written."""
        self._n_announced = max(self._n_announced, stop)

    def row(self, index: int, timeout: float) -> Array:
        """Return one row, which cannot be written to; wait for it, if it is announced.

        Raises
        ------
        AssetError
            If it cannot be read.
        """
        try:
            found, fault = awaited(lambda: self._look(index), 0.0 if self._has_failed else timeout)
        except PipelineError as error:
            raise AssetError(f"{self.name}, row {index}: {error}") from None
        self._has_failed = found is None
        if found is None:
            raise AssetError(f"{self.name}, row {index}: wanted what was announced, there is none: {fault}")
        if found.stop < self._n_announced and found.stop != self._asked:
            self._asked = found.stop
            self._executor.submit(self._read_ahead, found.stop)
        return found.rows[index - found.start]

    def _look(self, index: int) -> Block | None:
        with self._lock:
            return self._kept(index) or self._read(index)

    def _kept(self, index: int) -> Block | None:
        return next((block for block in reversed(self._blocks) if block.start <= index < block.stop), None)

    def _read(self, index: int) -> Block | None:
        if self._is_closed:
            return None
        while len(self._blocks) >= self._n_kept:
            self._blocks.popleft()
        rows = self._rows(index, max(index + 1, min(index + self._n_together, self._n_announced)))
        if not len(rows):
            return None
        rows = rows.astype(rows.dtype.newbyteorder("="), copy=False)
        rows.setflags(write=False)
        self._n_together = min(BLOCK_ROWS, max(1, BLOCK_BYTES // max(1, rows[0].nbytes)))
        self._blocks.append(Block(index, rows))
        return self._blocks[-1]

    def _rows(self, start: int, stop: int) -> Array:
        """Return rows: the first alone, if one of those after it cannot be read."""
        try:
            self._reader = self._reader or self._open_reader()
            return self._reader.read(start, stop)
        except BaseException as error:
            self._let_go()
            if stop - start == 1 or not isinstance(error, Exception):
                raise
        return self._rows(start, start + 1)

    def _read_ahead(self, index: int) -> None:
        with suppress(PipelineError, OSError, KeyError, ValueError, RuntimeError):  # who wants it meets it again
            self._look(index)

    def _let_go(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def forget(self) -> None:
        """Keep no rows."""
        with self._lock:
            self._blocks.clear()
            self._asked = -1

    def close(self) -> None:
        """Close the files, and keep nothing."""
        with self._lock:
            self._is_closed = True
            self._blocks.clear()
            self._let_go()

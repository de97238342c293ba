"""A journal: raw documents on their way to an analysis in another process, as files that outlive both."""

import logging
import math
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy

from pipeline.documents import Document
from pipeline.errors import PipelineError, PipelineOSError, PipelineRuntimeError, PipelineValueError
from pipeline.journal_files import ARRAYS, LINES, Readers, Segment, cut_torn_line, lock_writer, segments, sync_directory
from pipeline.journal_lines import LOST, inline, line_of
from pipeline.npy_records import npy_parts
from pipeline.run_of import RunOf

logger = logging.getLogger(__name__)

_SYNCED = frozenset({"start", "stop"})
_MAX_FAULTS = 1000


class Journal:
    """Append each document to a journal, which a `JournalSource` follows: `RE.subscribe(Journal(directory))`.

    When a call returns, the document survives the end of the process; after a start or a stop, all that was written
    survives the loss of power, too. What is read is what was given, to the type and the last bit. Several RunEngines
    of a process may share a journal; of processes, one writes at a time.

    Nothing that happens here ends a scan: a document that cannot be written, the disk being full for instance, is lost
    and counted, what there is of it is taken back, and the next one is tried again; readers are told of it then.
    (`BLUESKY_DEBUG_CALLBACKS=1` raises instead, as in bluesky.)

    The files are segments, each named by the place of its first byte among all that the journal ever had. The oldest
    are removed when there are more bytes than asked for, or when they are older, but never what a registered reader
    has not committed. So a reader that never comes again holds all that follows, until the disk is full: that is
    logged when it makes the journal larger than asked for, and `forget` lets it go.

    Parameters
    ----------
    directory
        Made if it is not there.
    max_segment
        Bytes, of lines and arrays, from which on a new segment is begun.
    keep_bytes, keep_seconds
        How much is kept, and for how long, of what every reader has committed; the segment in use is kept anyway.
    max_inline
        Bytes from which on an array is kept beside the lines, not in them.

    Attributes
    ----------
    position
        The place behind the last line: what a reader that is level has.
    n_documents, n_lost
        How many were written, and how many could not be.
    faults
        Of the runs that lost something, by uid: what went wrong first.

    Raises
    ------
    PipelineOSError
        If another journal writes there, or nobody can.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Journal(folder) as journal:
    ...     journal("start", {"uid": "a", "time": 0.0})
    ...     journal.position, journal.n_lost, journal.readers()
    (33, 0, {})
    """

    inline = True
    name = "Journal"

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_segment: int = 64 * 2**20,
        keep_bytes: int = 16 * 2**30,
        keep_seconds: float = 30 * 86400.0,
        max_inline: int = 4096,
    ) -> None:
        if max_segment < 1:
            raise PipelineValueError(f"Journal: max_segment is {max_segment}; wanted at least 1.")
        self.directory = Path(directory)
        self.position = self.n_documents = self.n_lost = 0
        self.faults: dict[str, str] = {}
        self._max_segment = max_segment
        self._max_inline = max_inline
        self._retention = _Retention(self.directory, keep_bytes, keep_seconds)
        self._run_of = RunOf()
        self._untold: dict[str, int] = {}  # run uid -> how many of its documents are missing, which no line tells yet
        self._guard = threading.RLock()
        self._file: _OpenSegment | None = None
        self._writer_lock = -1
        self._closed = self._is_stuck = False
        self._open_or_say_why_not()

    def __call__(self, name: str, doc: Document) -> None:
        """Append one document."""
        with self._guard:
            try:
                self._append(name, doc)
            except Exception as error:  # noqa: BLE001 - contained: nothing ends a scan
                self._lose(name, doc, error)
            else:
                self._take_note(name, doc)

    def _append(self, name: str, doc: Document) -> None:
        file = self._writable()
        beside = _Beside(file.n_arrays, self._max_inline)
        file.write(self._losses() + line_of(name, doc, beside), beside.parts)
        self._untold.clear()
        self.position = file.end
        self.n_documents += 1

    def _lose(self, name: str, doc: Document, error: Exception) -> None:
        run = self._run(name, doc)
        self.n_lost += 1
        self._untold[run] = self._untold.get(run, 0) + 1
        self._tell(name, doc, error)

    def _losses(self) -> bytes:
        """Return lines that tell readers how many documents of which runs are missing, before the next that is not."""
        return b"".join(
            line_of(LOST, {"run_start": run, "n": n, "reason": self.faults.get(run, "")}, inline)
            for run, n in self._untold.items()
        )

    def _take_note(self, name: str, doc: Document) -> None:
        try:
            run = self._run(name, doc)  # a descriptor is to be known before its events
            if name == "stop":
                self._run_of.forget(run)
            if name in _SYNCED:
                self.flush()
        except Exception as error:  # noqa: BLE001 - contained: nothing ends a scan
            self._tell(name, doc, error)

    def _tell(self, name: str, doc: Document, error: Exception) -> None:
        """Log what went wrong, once for each run, and keep it."""
        run = self._run(name, doc)
        if run not in self.faults:
            self.faults[run] = f"{name}: {type(error).__name__}: {error}"
            if len(self.faults) > _MAX_FAULTS:
                del self.faults[next(iter(self.faults))]
            logger.error("Journal %s, run %s: %s", self.directory, run or "unknown", self.faults[run])
        if os.environ.get("BLUESKY_DEBUG_CALLBACKS", "0") == "1":
            raise error

    def _run(self, name: str, doc: Document) -> str:
        try:
            return str(self._run_of(name, doc))
        except Exception:  # noqa: BLE001 - a document that is none may be of any form
            return ""

    # files

    def _writable(self) -> "_OpenSegment":
        """Return the segment to write to."""
        if self._closed:
            raise PipelineRuntimeError(f"The journal {self.directory} is closed; wanted it open.")
        if self._file is None or self._file.is_gone:
            self._open()
        elif self._file.nbytes >= self._max_segment:
            self._rotate(self._file)
        assert self._file is not None
        return self._file

    def _open_or_say_why_not(self) -> None:
        try:
            self._open()
        except PipelineError:
            raise
        except OSError as error:
            raise PipelineOSError(f"{self.directory}: wanted a directory to write a journal to: {error}.") from error

    def _open(self) -> None:
        """Begin the journal, or go on with it; also when somebody has removed it meanwhile."""
        self._let_go()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._writer_lock = lock_writer(self.directory)
        self._file = self._last_or_new()
        self.position = self._file.end
        self._retention.apply()

    def _last_or_new(self) -> "_OpenSegment":
        there = segments(self.directory)
        last = _OpenSegment(there[-1]) if there else None
        end = last.end if last else 0
        read = max([self.position, *self._retention.readers.positions().values()])
        if last and read <= end:
            return last
        if last:
            last.close()
            # Where a reader has been, nothing else may ever stand: it would be taken for read, or read from its middle.
            logger.warning(
                "%s ends at %d, and was read to %d: what was between them is gone.", self.directory, end, read
            )
        return _OpenSegment(Segment(self.directory, max(read, end)))

    def _rotate(self, full: "_OpenSegment") -> None:
        """Begin a new segment; go on with the full one if there cannot be another."""
        try:
            full.sync()
            self._file = _OpenSegment(Segment(self.directory, full.end))
        except OSError as error:
            if not self._is_stuck:
                logger.error("%s: cannot begin a new segment, so the last grows: %s", self.directory, error)
            self._is_stuck = True
            return
        self._is_stuck = False
        full.close()
        self._retention.apply()

    def _let_go(self) -> None:
        file, self._file = self._file, None
        lock, self._writer_lock = self._writer_lock, -1
        if file is not None:
            file.close()
        if lock >= 0:
            os.close(lock)

    # readers

    def readers(self) -> dict[str, int]:
        """Return how far each registered reader is, by name: up to there it has committed."""
        return self._retention.readers.positions()

    def forget(self, reader: str) -> bool:
        """Keep nothing for this reader any more; return whether it was registered. It is again when it comes again."""
        return self._retention.readers.forget(reader)

    # the end

    def flush(self, timeout: float | None = None) -> None:
        """Return when all that was written would survive the loss of power; the disk knows of no `timeout`."""
        with self._guard:
            if self._file is not None:
                self._file.sync()

    def close(self) -> None:
        """Flush, and let another journal write there."""
        with self._guard:
            self._closed = True
            try:
                self.flush()
            finally:
                self._let_go()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_writer_lock"):
            self._let_go()


class _Beside:
    """Where the arrays of a document are put: small ones as text in the line, others behind what the file has."""

    def __init__(self, offset: int, max_inline: int) -> None:
        self.parts: list[bytes | memoryview] = []
        self._offset, self._max_inline = offset, max_inline

    def __call__(self, array: numpy.ndarray) -> Any:
        if array.nbytes <= self._max_inline:
            return inline(array)
        parts = npy_parts(array)
        offset, nbytes = self._offset, sum(map(len, parts))
        self.parts += parts
        self._offset += nbytes
        return [offset, nbytes]


class _OpenSegment:
    """A segment that is being written."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._arrays = -1  # opened with the first array
        self._is_torn = False
        self._is_dirty = False
        self._is_new = True  # the names of its files may not be on the disk
        self._lines = os.open(segment.lines, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._size = cut_torn_line(self._lines)
            # Arrays that no line refers to, since the process ended between the two, are left where they are.
            self.n_arrays = os.stat(segment.arrays).st_size if segment.arrays.exists() else 0
        except BaseException:
            self.close()
            raise

    @property
    def end(self) -> int:
        return self.segment.base + self._size

    @property
    def nbytes(self) -> int:
        return self._size + self.n_arrays

    @property
    def is_gone(self) -> bool:
        """Whether somebody has removed the file: what is written to it then, nobody will ever read."""
        return os.fstat(self._lines).st_nlink == 0

    def write(self, line: bytes, arrays: list[bytes | memoryview]) -> None:
        """Add a line, or several at once, and before it its arrays; or nothing."""
        if self._is_torn:
            self._take_back()
        self._is_torn = self._is_dirty = True
        try:
            n = self._write_arrays(arrays) if arrays else 0
            _write_all(self._lines, [line], self._size)
        except BaseException:
            with suppress(OSError):  # it is tried again before the next line
                self._take_back()
            raise
        self._size += len(line)
        self.n_arrays += n
        self._is_torn = False

    def _write_arrays(self, arrays: list[bytes | memoryview]) -> int:
        if self._arrays < 0:
            self._arrays = os.open(self.segment.arrays, os.O_RDWR | os.O_CREAT, 0o644)
            self._is_new = True
        return _write_all(self._arrays, arrays, self.n_arrays)

    def _take_back(self) -> None:
        os.ftruncate(self._lines, self._size)
        if self._arrays >= 0:
            os.ftruncate(self._arrays, self.n_arrays)
        self._is_torn = False

    def sync(self) -> None:
        """Make what was written survive the loss of power."""
        if self._is_dirty:
            if self._arrays >= 0:
                os.fsync(self._arrays)
            os.fsync(self._lines)
            self._is_dirty = False
        if self._is_new:
            sync_directory(self.segment.directory)
            self._is_new = False

    def close(self) -> None:
        for fd in (self._lines, self._arrays):
            if fd >= 0:
                os.close(fd)
        self._lines = self._arrays = -1


def _write_all(fd: int, parts: list[Any], offset: int) -> int:
    """Write all of this, and return how many bytes it was."""
    begin = offset
    for part in parts:
        rest = memoryview(part)
        while rest:
            n = os.pwrite(fd, rest, offset)
            if not n:
                raise PipelineOSError(f"only {offset - begin} bytes could be written")
            offset += n
            rest = rest[n:]
    return offset - begin


class _Retention:
    """What is kept of a journal."""

    def __init__(self, directory: Path, keep_bytes: int, keep_seconds: float) -> None:
        self.readers = Readers(directory)
        self._directory = directory
        self._keep_bytes, self._keep_seconds = keep_bytes, keep_seconds
        self._told: list[str] = []  # readers of which it was said that they hold too much

    def apply(self) -> None:
        """Remove what need not be kept; nothing while a reader registers, or if the disk refuses."""
        try:
            with self.readers.alone(wait=False) as is_alone:
                if is_alone:
                    self._remove()
        except OSError as error:
            logger.error("%s: cannot remove old segments: %s", self._directory, error)

    def _remove(self) -> None:
        positions = self.readers.positions()
        committed = min(positions.values(), default=math.inf)
        there = segments(self._directory)
        self._remove_orphans(there)
        total = sum(segment.nbytes for segment in there)
        held: list[str] = []
        for segment in there[:-1]:
            if total <= self._keep_bytes and not self._is_old(segment):
                break
            if segment.end > committed:
                held = sorted(name for name, position in positions.items() if position < segment.end)
                break
            total -= segment.nbytes
            segment.remove()
        self._tell(held if total > self._keep_bytes else [], total, committed)

    def _remove_orphans(self, there: list[Segment]) -> None:
        known = {segment.arrays for segment in there}
        for path in self._directory.glob(f"*{ARRAYS}"):
            if path not in known and not path.with_suffix(LINES).exists():
                path.unlink(missing_ok=True)

    def _is_old(self, segment: Segment) -> bool:
        return time.time() - os.stat(segment.lines).st_mtime > self._keep_seconds

    def _tell(self, held: list[str], total: int, committed: float) -> None:
        if held and held != self._told:
            logger.warning(
                "%s has %d bytes, wanted %d: kept for the readers %s, which have committed no more than %d. "
                "`Journal.forget` lets go one that will not come again.",
                self._directory,
                total,
                self._keep_bytes,
                held,
                committed,
            )
        self._told = held

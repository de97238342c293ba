"""The ledger: runs as JSONL files, the first and durable copy of every analysis run."""

import fcntl
import getpass
import io
import json
import logging
import os
import socket
import threading
import time
from functools import cache
from pathlib import Path
from typing import Literal

from pipeline.array_files import ArrayFiles
from pipeline.documents import Document, dumps, file_stem, loads
from pipeline.errors import PipelineError, PipelineKeyError, PipelineOSError, PipelineValueError
from pipeline.json_lines import read_lines

logger = logging.getLogger(__name__)

_ABANDONED = b'"abandoned":true'
SYNC_SECONDS = 0.2
MAX_ARRAY_BYTES = 100_000  # as text it is a line of a quarter of a million, for every event


class JSONLSink:
    """Write each run to `<directory>/<uid>.jsonl`, one line `[name, doc]` a document, as suitcase-jsonl has it.

    A line is in the file, whole, before the call returns, so it survives the end of the process. It survives the loss
    of power after `fsync`: at stop, and by a thread of its own at most 0.2 s after it was written.
    NaN and infinities are `null` in the file, which `read_jsonl` reads back as NaN; see `pipeline.documents.dumps`.

    A run that is there already is compared, line by line, as it comes again: what is the same is left, what is missing
    is added, a torn last line is cut. So the same run any number of times, or after a crash, makes one whole file.
    Where a line differs the file is left as it is and the run is refused; only the end of a run that was abandoned
    gives way to a run that goes on. A file is written by one process at a time.

    The large arrays of analysis runs do not stand in their lines but in `<uid>.<stream>.h5`, HDF5 that others may read
    while it grows; `stream_resource` and `stream_datum` tell of them, to all sinks. The same rules hold for them.

    Parameters
    ----------
    directory
        Made if it is not there. No file is written anywhere else, whatever the uid.
    max_array_bytes
        How large an array may be that stands in a line. Runs that were written with another are refused as others.
        None: all do.
    compression
        Of larger arrays: `"gzip"` or `"lzf"`; they are written as they are by default, which is quickest.

    Attributes
    ----------
    arrays
        Where large arrays are.
    trouble
        What the disk refused last; empty while nothing was refused.

    Raises
    ------
    PipelineValueError
        If a document differs from the one that the file has in its place.
    PipelineOSError
        If a line cannot be written whole, the disk being full for instance: it is taken back, what is there stays
        readable, and nothing more of this run is written until the run is given again.

    >>> import tempfile
    >>> from pipeline.testing import make_run
    >>> with tempfile.TemporaryDirectory() as folder, JSONLSink(folder) as ledger:
    ...     for name, doc in make_run({"det": [1.0]}, uid="a"): ledger(name, doc)
    ...     [path.suffix for path in Path(folder).iterdir()]
    ['.jsonl']
    """

    inline = True
    name = "JSONLSink"

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_array_bytes: int | None = MAX_ARRAY_BYTES,
        compression: Literal["gzip", "lzf"] | None = None,
    ) -> None:
        if max_array_bytes is not None and max_array_bytes < 0:
            raise PipelineValueError(f"JSONLSink: max_array_bytes is {max_array_bytes}; wanted 0 or more, or None.")
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.arrays = None
        if max_array_bytes is not None:
            self.arrays = ArrayFiles(directory, above=max_array_bytes, compression=compression, tell=self._note)
        self._files: dict[str, _LedgerFile] = {}  # start and descriptor uids of open runs -> their files
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self.trouble = ""
        threading.Thread(target=self._sync_often, name="sync of the ledger", daemon=True).start()

    @staticmethod
    def file_name(uid: str) -> str:
        """Return the name of the file of a run; a uid that is no plain name is replaced by one that follows from it.

        >>> JSONLSink.file_name("7f3c"), "/" in JSONLSink.file_name("../evil")
        ('7f3c.jsonl', False)
        """
        return f"{file_stem(uid)}.jsonl"

    def __call__(self, name: str, doc: Document) -> None:
        """Write one document."""
        try:
            self._write(name, doc)
        except OSError as error:
            self._note(error)
            raise

    def _note(self, error: OSError) -> None:
        self.trouble = str(error)

    def _write(self, name: str, doc: Document) -> None:
        line = dumps(name, doc)
        if name == "start":
            self._open(doc)
        file = self._file(name, doc)
        file.write(line)
        if not self._wake.is_set():
            self._wake.set()
        if name == "descriptor":
            with self._lock:
                self._own(doc["uid"], file)
        elif name == "stop":
            self._finish(file)

    # restarts --------------------------------------------------------------------------------------------------

    def mark(self, uid: str) -> Document:
        """Return how far the file of an open run is, as JSON values: what `resume` goes on from.

        Raises
        ------
        PipelineKeyError
            If the run is not open.
        PipelineError
            If it was refused, or could not be written: then it is not as far as it should be.
        """
        file = self._file("mark", {"run_start": uid})
        return {"owned": list(file.owned), **file.mark()}

    def resume(self, uid: str, mark: Document) -> None:
        """Go on with a run from a mark: what the file has behind it is compared with what comes, as ever.

        Raises
        ------
        PipelineValueError
            If the file is not as long as the mark says.
        """
        path = self.directory / self.file_name(uid)
        if not path.exists():
            raise PipelineValueError(f"{path}: wanted the file of run {uid}, there is none.")
        file = _LedgerFile(path, _first_document(path))
        try:
            file.resume(mark["lines"], mark["bytes"])
        except BaseException:
            file.close()
            raise
        with self._lock:
            for each in mark["owned"]:
                self._own(each, file)

    def let_go(self, uid: str) -> None:
        """Close the file of a run that is open, as it is."""
        with self._lock:
            if uid in self._files:
                self._forget(self._files[uid])

    def documents(self, uid: str, mark: Document) -> list[tuple[str, Document]]:
        """Return the documents of a run up to a mark."""
        path = self.directory / self.file_name(uid)
        with open(path, "rb") as file:
            return list(read_lines(path, io.BytesIO(file.read(mark["bytes"]))))

    def _open(self, start: Document) -> None:
        with self._lock:
            if start["uid"] in self._files:
                self._forget(self._files[start["uid"]])
            self._own(start["uid"], _LedgerFile(self.directory / self.file_name(start["uid"]), start))

    def _own(self, uid: str, file: "_LedgerFile") -> None:
        self._files[uid] = file
        file.owned.append(uid)

    def _file(self, name: str, doc: Document) -> "_LedgerFile":
        uid = doc["descriptor"] if "descriptor" in doc else doc["uid"] if name == "start" else doc.get("run_start", "")
        try:
            return self._files[uid]
        except KeyError:
            raise PipelineKeyError(f"{self.directory}: a {name} of {uid!r}, of which there is no start.") from None

    def _finish(self, file: "_LedgerFile") -> None:
        file.sync()
        with self._lock:
            self._forget(file)
        file.tell_work()

    def _forget(self, file: "_LedgerFile") -> None:
        for uid in file.owned:
            if self._files.get(uid) is file:
                del self._files[uid]
        file.close()

    def _sync_often(self) -> None:
        while not self._closed:
            self._wake.wait()
            time.sleep(SYNC_SECONDS)
            self._wake.clear()
            try:
                self.flush()
            except OSError as error:
                self._note(error)
                logger.error("%s: fsync failed: %s", self.directory, error)

    def flush(self, timeout: float | None = None) -> None:
        """Return when all that was written would survive the loss of power; the disk knows of no `timeout`."""
        if self.arrays is not None:
            self.arrays.sync()  # before what tells of them
        with self._lock:
            files = set(self._files.values())
        for file in files:  # not under the lock: another run may start meanwhile
            file.sync()

    def close(self) -> None:
        """Flush, and close the files."""
        self._closed = True
        self._wake.set()
        if self.arrays is not None:
            self.arrays.close()
        with self._lock:
            for file in set(self._files.values()):
                file.sync()
                file.close()
            self._files = {}

    def __enter__(self) -> "JSONLSink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _LedgerFile:
    """The file of one run: first compared with what comes, then added to."""

    def __init__(self, path: Path, start: Document) -> None:
        self.path = path
        self.owned: list[str] = []  # uids of the run and of its descriptors
        self._start = start
        self._began = time.time()
        self._refusal: PipelineError | None = None  # of whatever else comes
        self._guard = threading.Lock()  # of the descriptor, which is synced by a thread of the sink
        self._n_lines = self._n_new = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock()
            self._size = _cut_torn_line(self._fd)
        except BaseException:
            os.close(self._fd)
            raise
        self._offset = 0  # up to here the file is what came
        self._there = open(path, "rb") if self._size else None  # noqa: SIM115 - closed when all is compared
        self._closed = False
        self._is_dirty = bool(self._size)  # who wrote it may have been killed before it was synced
        self._is_new = True  # to its directory, for all that is known

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PipelineOSError(f"{self.path} is being written by another process; wanted it alone.") from None

    def write(self, line: bytes) -> None:
        """Add a line, or see that it is there."""
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)
        if self._there is not None and self._is_there(line):
            return
        try:
            n = os.pwrite(self._fd, line, self._offset)
            if n != len(line):
                raise OSError(f"only {n} of {len(line)} bytes could be written")
        except OSError as error:
            self._take_back(error)
        self._offset += len(line)
        self._n_lines += 1
        self._n_new += 1
        self._is_dirty = True

    def _is_there(self, line: bytes) -> bool:
        """Compare with the next line of the file; from its end on, there is nothing to compare."""
        assert self._there is not None
        have = self._there.readline()
        if have == line:
            self._offset += len(line)
            self._n_lines += 1
            return True
        if have and not _is_abandoned(self._fd, self._size):
            self._refusal = PipelineValueError(
                f"{self.path}, line {self._n_lines + 1}: the file has another document of this run; "
                f"wanted {_short(line)}, there is {_short(have)}. The file is left as it is."
            )
            raise self._refusal.with_traceback(None)
        os.ftruncate(self._fd, self._offset)
        self._there.close()
        self._there = None
        return False

    def _take_back(self, error: OSError) -> None:
        os.ftruncate(self._fd, self._offset)
        self._refusal = PipelineOSError(
            f"{self.path}: cannot write ({error}); the file ends, whole, with line {self._n_lines}. "
            "Give the run again when there is room."
        )
        raise self._refusal from error

    def mark(self) -> Document:
        """Return how many lines and bytes are as they came."""
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)
        return {"lines": self._n_lines, "bytes": self._offset}

    def resume(self, lines: int, size: int) -> None:
        """Take the first lines as they are, and go on behind them."""
        if self._size < size or (size and os.pread(self._fd, 1, size - 1) != b"\n"):
            raise PipelineValueError(
                f"{self.path}: wanted {lines} lines in {size} bytes, there are {self._size} bytes."
            )
        self._n_lines, self._offset = lines, size
        if self._there is not None:
            self._there.seek(size)

    def sync(self) -> None:
        """Make what was written survive the loss of power."""
        with self._guard:
            if self._is_dirty and not self._closed:
                self._is_dirty = False
                os.fsync(self._fd)
                if self._is_new:
                    self._is_new = False
                    _sync_directory(self.path.parent)

    def close(self) -> None:
        """Let the file go."""
        with self._guard:
            if not self._closed:
                self._closed = True
                os.close(self._fd)
                if self._there is not None:
                    self._there.close()

    def tell_work(self) -> None:
        """Tell, beside the run, when, where and how long the work on it was done: it is no part of the result."""
        if "analysis" not in self._start or not self._n_new:
            return
        work = {
            "uid": self._start["uid"],
            "began": self._began,
            "seconds": round(time.time() - self._began, 6),
            "host": socket.gethostname(),
            "user": _user(),
            "pid": os.getpid(),
            "lines": self._n_lines,
            "new_lines": self._n_new,
        }
        try:
            self.path.with_suffix(".work.json").write_text(json.dumps(work, indent=1) + "\n")
        except OSError as error:
            logger.warning("%s: cannot tell the work: %s", self.path, error)


def _first_document(path: Path) -> Document:
    with open(path, "rb") as file:
        try:
            return loads(file.readline())[1]
        except ValueError as error:
            raise PipelineValueError(f"{path}: wanted a start document in line 1: {error}") from None


def _cut_torn_line(fd: int) -> int:
    """Cut what follows the last newline, and return the size that is left."""
    size = end = os.fstat(fd).st_size
    while end:
        start = max(0, end - 65536)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end != size:
        os.ftruncate(fd, end)
    return end


def _is_abandoned(fd: int, size: int) -> bool:
    """Tell whether the file ends with the stop of a run that was abandoned."""
    tail = os.pread(fd, 65536, max(0, size - 65536)).rstrip(b"\n").rpartition(b"\n")[2]
    return tail.startswith(b'["stop",') and _ABANDONED in tail


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@cache
def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for its user
        return str(os.getuid())


def _short(line: bytes) -> str:
    text = line.decode(errors="replace").rstrip()
    return text if len(text) <= 120 else f"{text[:117]}..."

"""The files of a journal: segments of lines, the arrays beside them, and how far each reader is."""

import fcntl
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pipeline.documents import Uids
from pipeline.errors import PipelineOSError

logger = logging.getLogger(__name__)

LANE = "journal"
LINES = ".jsonl"
ARRAYS = ".npys"
_SEGMENT = re.compile(r"(\d{20})\.jsonl")
_SAFE = re.compile(r"[A-Za-z0-9_-]{1,128}")
_STEP = 65536


class Segment(NamedTuple):
    """A piece of a journal: a file of lines, and beside it a file of the arrays that they refer to, if there are any.

    Attributes
    ----------
    directory
        Of the journal.
    base
        The place of its first byte among all lines that the journal ever had: its name.

    >>> Segment(Path("journal"), 4096).lines.name
    '00000000000000004096.jsonl'
    """

    directory: Path
    base: int

    @property
    def lines(self) -> Path:
        """The file of lines."""
        return self.directory / f"{self.base:020d}{LINES}"

    @property
    def arrays(self) -> Path:
        """The file of arrays, npy records one behind another."""
        return self.directory / f"{self.base:020d}{ARRAYS}"

    @property
    def end(self) -> int:
        """The place behind its last byte; its beginning, if the file is gone."""
        try:
            return self.base + os.stat(self.lines).st_size
        except FileNotFoundError:
            return self.base

    @property
    def nbytes(self) -> int:
        """How much room it takes."""
        return sum(path.stat().st_size for path in (self.lines, self.arrays) if path.exists())

    def remove(self) -> None:
        """Remove both files; lines first, so that none is ever without its arrays."""
        self.lines.unlink(missing_ok=True)
        self.arrays.unlink(missing_ok=True)


def segments(directory: Path) -> list[Segment]:
    """Return the segments of a journal, the oldest first; none if there is no such directory.

    >>> segments(Path("/nowhere"))
    []
    """
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [Segment(directory, int(match[1])) for match in map(_SEGMENT.fullmatch, sorted(names)) if match]


def cut_torn_line(fd: int) -> int:
    """Cut what follows the last newline of a file, and return the size that is left."""
    size = end = os.fstat(fd).st_size
    while end:
        start = max(0, end - _STEP)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end != size:
        os.ftruncate(fd, end)
    return end


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive the loss of power."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# readers -----------------------------------------------------------------------------------------------------------


class Readers:
    """How far each registered reader of a journal is: everything up to there need not be given to it again.

    What a reader has not committed is kept for it, so one that never comes again is to be forgotten.

    Parameters
    ----------
    directory
        Of the journal.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     readers = Readers(folder)
    ...     readers.commit("pipeline", 4096)
    ...     readers.positions(), readers.forget("pipeline"), readers.positions()
    ({'pipeline': 4096}, True, {})
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory) / "readers"
        self._lock = Path(directory) / "readers.lock"

    def path(self, name: str) -> Path:
        """Return the file of a reader; a name that is no plain one is replaced by one that follows from it."""
        return self.directory / f"{name if _SAFE.fullmatch(name) else Uids(name)('reader')}.json"

    def position(self, name: str) -> int | None:
        """Return how far a reader is; None if it is not registered, or its file cannot be read."""
        return _stored(self.path(name))[1]

    def positions(self) -> dict[str, int]:
        """Return how far every reader is; one whose file cannot be read is at 0, so that all is kept for it."""
        try:
            paths = sorted(self.directory.glob("*.json"))
        except FileNotFoundError:
            return {}
        stored = [_stored(path) for path in paths]
        return {name: position or 0 for name, position in stored}

    def commit(self, name: str, position: int) -> None:
        """Store how far a reader is, and register it with that; durable when the call returns.

        Raises
        ------
        OSError
            If it cannot be written; what was there before is there still.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.path(name)
        tmp = path.with_suffix(".tmp")
        with open(tmp, "w") as file:
            json.dump({"reader": name, LANE: position}, file)
            file.flush()
            os.fsync(file.fileno())
        tmp.replace(path)
        sync_directory(self.directory)

    def forget(self, name: str) -> bool:
        """Let a reader go, so that nothing is kept for it; return whether it was there."""
        path = self.path(name)
        is_there = path.exists()
        path.unlink(missing_ok=True)
        return is_there

    @contextmanager
    def alone(self, *, wait: bool) -> Iterator[bool]:
        """Hold what a reader does as it registers apart from what a writer does as it removes segments.

        Gives whether it is so; never not, if it waits.
        """
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            yield try_lock(fd, wait=wait)
        finally:
            os.close(fd)


def _stored(path: Path) -> tuple[str, int | None]:
    """Return name and position of a reader."""
    try:
        content = json.loads(path.read_bytes())
        name, position = content["reader"], content[LANE]
    except FileNotFoundError:
        return path.stem, None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        logger.error("%s: wanted the position of a reader: %s: %s", path, type(error).__name__, error)
        return path.stem, None
    is_right = isinstance(name, str) and type(position) is int and 0 <= position < 10**19
    return (name, position) if is_right else (path.stem, None)


def try_lock(fd: int, *, wait: bool = False) -> bool:
    """Lock an open file; return whether nobody else has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def lock_writer(directory: Path) -> int:
    """Return the open file that makes this the only writer of a journal, until it is closed or the process ends.

    Raises
    ------
    PipelineOSError
        If there is another one.
    """
    path = directory / "writer.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if try_lock(fd):
        return fd
    os.close(fd)
    raise PipelineOSError(f"{directory} is being written by another journal; wanted it alone.")

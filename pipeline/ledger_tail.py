"""Follow a folder of ledger files as they are made and grow."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import PipelineOSError

ENDING = ".jsonl"
LOOK_SECONDS = 0.05  # between two looks at a file that grows, and at the folder
IDLE_SECONDS = 0.5  # between two looks at a file that has not grown for long
SWEEP_SECONDS = 300.0  # between two looks at the files that are finished: they may have been replaced
AT_ONCE = 100  # files that are begun while others have something to read; the rest wait, the oldest longest
CHUNK = 1 << 20
TRACE = 256  # bytes before the place that was read to, by which a file is known again


class Stamp(NamedTuple):
    """What tells that a file is as it was.

    >>> Stamp(10, 1) == Stamp(10, 1)
    True
    """

    size: int
    mtime_ns: int


class LedgerFile:
    """One file of a ledger, read line by line; a line without its newline is not there yet.

    Parameters
    ----------
    path
        Of the file.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
    ...     _ = file.write(b'["start",{}]\\n["sto'); file.flush()
    ...     LedgerFile(Path(file.name)).read(10)
    [b'["start",{}]\\n']
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0  # up to here it was read
        self.n_lines = 0
        self.stamp = Stamp(0, 0)
        self.is_cut = False  # what was read is not what the file has
        self.last = b""  # the last line that was read, unless it is very long
        self._inode = 0
        self._scanned = 0  # up to here there is no newline behind the offset
        self._trace = b""
        self._grown = time.monotonic()
        self._looked = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is time to look at the file again."""
        now = time.monotonic()
        return now - self._looked >= min(IDLE_SECONDS, max(LOOK_SECONDS, (now - self._grown) / 20))

    @property
    def has_more(self) -> bool:
        """Whether something may be there that was not read."""
        return self.is_cut or self.stamp.size > max(self.offset, self._scanned)

    @property
    def n_bytes_behind(self) -> int:
        """How many bytes are there that were not read."""
        return max(0, self.stamp.size - self.offset)

    def look(self) -> bool:
        """Look how large the file is; return whether it is there."""
        self._looked = time.monotonic()
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False
        stamp = Stamp(status.st_size, status.st_mtime_ns)
        if stamp != self.stamp or status.st_ino != self._inode:
            self._grown = self._looked
            self.is_cut |= self.n_lines > 0 and (status.st_ino != self._inode or not self._is_known())
            self._scanned = min(self._scanned, stamp.size)
        self.stamp, self._inode = stamp, status.st_ino
        return True

    def _is_known(self) -> bool:
        """Say whether the file has, before the place that was read to, what it had."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset - len(self._trace))
                return file.read(len(self._trace)) == self._trace
        except FileNotFoundError:
            return False

    def read(self, max_lines: int, max_bytes: int = 8 * CHUNK) -> list[bytes]:
        """Return the next whole lines; at least one, if there is one, however long it is."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset - len(self._trace))
                self.is_cut |= file.read(len(self._trace)) != self._trace
                lines, n_rest = ([], 0) if self.is_cut else _whole_lines(file.readline, max_lines, max_bytes)
        except FileNotFoundError:
            return []
        if lines:
            self.last = lines[-1] if len(lines[-1]) < CHUNK else b""
            self._trace = (self._trace + b"".join(lines[-TRACE:]))[-TRACE:]
        self.offset += sum(map(len, lines))
        self.n_lines += len(lines)
        self._scanned = self.offset + n_rest
        return lines

    def skip_to(self, other: "LedgerFile") -> None:
        """Go on where another reader of this file is."""
        self.offset, self.n_lines = other.offset, other.n_lines
        self._trace, self._scanned, self.last = other._trace, other._scanned, other.last
        self.stamp, self._inode = other.stamp, other._inode

    def rewind(self) -> None:
        """Begin again with the first line."""
        self.offset = self.n_lines = self._scanned = 0
        self._trace = self.last = b""
        self.is_cut = False


def _whole_lines(readline: Callable[[], bytes], max_lines: int, max_bytes: int) -> tuple[list[bytes], int]:
    """Return lines, and how long the one is that is not whole."""
    lines: list[bytes] = []
    n_bytes = 0
    while len(lines) < max_lines and n_bytes < max_bytes:
        line = readline()
        if not line.endswith(b"\n"):
            return lines, len(line)
        lines.append(line)
        n_bytes += len(line)
    return lines, 0


class LedgerTail:
    """Tell which files of a ledger have something to read.

    The folder is listed only when it has changed, and only files that are not finished are looked at: so a hundred
    thousand finished files cost next to nothing. They are looked at every five minutes, whether they are as they were.

    Parameters
    ----------
    directory
        The ledger's.
    is_finished
        Says of a file, by name and stamp, that it need not be read.

    Raises
    ------
    PipelineOSError
        If the directory is not there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.jsonl").write_bytes(b'["start",{}]\\n')
    ...     [file.path.name for file in LedgerTail(folder).poll()]
    ['a.jsonl']
    """

    def __init__(
        self, directory: str | os.PathLike[str], is_finished: Callable[[str, Stamp], bool] = lambda name, stamp: False
    ) -> None:
        self.directory = Path(directory)
        self.files: dict[str, LedgerFile] = {}  # by name: those that are followed
        self._is_finished = is_finished
        self._finished: dict[str, Stamp] = {}
        self._waiting: dict[str, Stamp] = {}  # by name: those that are not followed yet, the next one last
        self._folder = (0, 0)  # mtime and inode, when it was listed
        self._look_at = self._sweep_at = 0.0
        if not self.directory.is_dir():
            raise PipelineOSError(f"{self.directory}: wanted the folder of a ledger, there is none.")

    @property
    def n_finished(self) -> int:
        """How many files are not followed any more."""
        return len(self._finished)

    @property
    def n_waiting(self) -> int:
        """How many files wait until some of those that are followed are finished."""
        return len(self._waiting)

    @property
    def n_bytes_waiting(self) -> int:
        """How many bytes the files have that wait."""
        return sum(stamp.size for stamp in list(self._waiting.values()))

    def forget(self) -> None:
        """Follow all files again, from the beginning."""
        self._finished.clear()
        self._folder = (0, 0)
        self._look_at = 0.0

    def poll(self) -> list[LedgerFile]:
        """Return the files that have something to read, the one that has changed last first."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_for_files()
            took = time.monotonic() - now
            self._look_at = now + took + max(LOOK_SECONDS, 4 * took)
        for name, file in list(self.files.items()):
            if file.is_due and not file.look():
                del self.files[name]
        ready = [file for file in self.files.values() if file.has_more]
        while self._waiting and len(ready) < AT_ONCE:
            name, _ = self._waiting.popitem()
            file = self.follow(name)
            ready += [file] if file.look() else []
        return sorted(ready, key=lambda file: file.stamp.mtime_ns, reverse=True)

    def finish(self, file: LedgerFile) -> None:
        """Follow this file no more, unless it changes."""
        self.files.pop(file.path.name, None)
        self._finished[file.path.name] = file.stamp

    def follow(self, name: str) -> LedgerFile:
        """Follow this file, from its beginning."""
        self._finished.pop(name, None)
        self.files[name] = LedgerFile(self.directory / name)
        return self.files[name]

    def _look_for_files(self) -> None:
        now = time.monotonic()
        is_sweep = now >= self._sweep_at
        folder = self._stamp_of_folder()
        if folder == self._folder and not is_sweep:
            return
        names = [name for name in os.listdir(self.directory) if name.endswith(ENDING) and not name.startswith(".")]
        new = (name for name in names if name not in self.files and name not in self._waiting)
        self._add(filter(None, (self._changed(name) for name in new if is_sweep or name not in self._finished)))
        self._folder = folder if time.time_ns() - folder[0] > 1e9 * LOOK_SECONDS else (0, 0)  # it may change unseen
        if is_sweep:
            self._sweep_at = time.monotonic() + SWEEP_SECONDS
            there = set(names)
            self._finished = {name: stamp for name, stamp in self._finished.items() if name in there}

    def _stamp_of_folder(self) -> tuple[int, int]:
        try:
            status = os.stat(self.directory)
        except FileNotFoundError:
            raise PipelineOSError(f"{self.directory}: the folder of the ledger is gone.") from None
        return status.st_mtime_ns, status.st_ino

    def _changed(self, name: str) -> tuple[str, Stamp] | None:
        """Return name and stamp of a file that is not finished, or not as it was."""
        try:
            status = os.stat(self.directory / name)
        except FileNotFoundError:
            return None
        stamp = Stamp(status.st_size, status.st_mtime_ns)
        if self._finished.get(name) == stamp:
            return None
        if name not in self._finished and self._is_finished(name, stamp):
            self._finished[name] = stamp
            return None
        self._finished.pop(name, None)
        return name, stamp

    def _add(self, files: Iterable[tuple[str, Stamp]]) -> None:
        self._waiting |= dict(sorted(files, key=lambda item: item[1].mtime_ns))

"""Runs from JSONL files that appear in a folder, or grow there."""

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

import orjson

from pipeline.errors import PipelineOSError, PipelineRuntimeError, PipelineValueError
from pipeline.sources.growing_file import GrowingFile
from pipeline.sources.position import POISON, Index, Item, OnLost, Position, _ignore, poison

logger = logging.getLogger(__name__)

STATE = ".bluesky-pipeline-positions"
FRESH = 2.0  # seconds: a folder that changed so lately may have changed again unseen
RESCAN = 30.0  # seconds between two looks at files that are done
MAX_SHARE = 0.01  # of the time, that these looks may take


class FolderSource:
    """Read the JSONL files of a folder, in order of appearance, and go on with those that grow.

    Both dialects are read, plain and gzipped. Each file is a lane, by its name; an index is the offset behind a line,
    of the text that a gzipped file holds. A line that is no document is poison, and the rest of the file goes on. A
    file that is shorter than what was read of it is another one: this is poison too, and it is read from its start.

    What is committed is kept in a hidden file, here or in a folder of state, since a service would have to carry
    along the positions of all files that ever were; `begin` counts where it names a file.

    Parameters
    ----------
    path
        The folder.
    pattern
        Which files of it.
    follow
        Whether to go on when all is read; else the source ends.
    settle
        After how many seconds without growth a last line that lacks its newline is taken as whole, if it is JSON.
    poll_seconds
        How often it is looked for what is new.
    state
        The folder for the file of positions; by default the folder itself.
    name
        What the log and the metrics call it.

    Raises
    ------
    PipelineOSError
        By `open`, if there is no such folder.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.jsonl").write_text('["start", {"uid": "a", "time": 0}]\\n')
    ...     source = FolderSource(folder, follow=False)
    ...     source.open({})
    ...     [(item.position, item.name) for item in source.read(1.0)]
    [(Position(lane='a.jsonl', index=35), 'start')]
    """

    may_lose = False
    is_stored = False
    assigns_lanes = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        pattern: str = "*.jsonl*",
        *,
        follow: bool = True,
        settle: float = 5.0,
        poll_seconds: float = 0.2,
        state: str | os.PathLike[str] | None = None,
        name: str = "FolderSource",
    ) -> None:
        if not (settle >= 0 and poll_seconds > 0):
            raise PipelineValueError("FolderSource: wanted settle of at least 0, and poll_seconds above 0.")
        self.name = name
        self.ended = False
        self.is_stored = not follow
        self._folder, self._pattern = Path(path).expanduser(), pattern
        self._follow, self._settle, self._poll_seconds = follow, settle, poll_seconds
        self._state = _state_file(self._folder, state)
        self._committed: dict[str, int] = {}
        self._files: dict[str, GrowingFile] = {}  # those that are looked at
        self._done: dict[str, tuple[int, int]] = {}  # those that are not: their sizes, and the offsets read to
        self._changed: dict[str, float] = {}  # when it last grew
        self._seen = (0, 0.0)  # the folder's mtime, and when it was scanned
        self._scan_seconds = 0.0
        self._batches: Iterator[list[Item]] | None = None
        self._has_told = False

    def open(self, begin: Mapping[str, Index], on_lost: OnLost = _ignore) -> None:
        """Begin behind what was committed, file by file."""
        if not self._folder.is_dir():
            raise PipelineOSError(f"{self.name}: wanted a folder; there is none at {self._folder}.")
        kept = self._load()
        told = {lane: _offset(index) for lane, index in begin.items()}
        self._committed = {lane: offset for lane, (offset, _) in kept.items()} | told
        self._done = {lane: (size, offset) for lane, (offset, size) in kept.items() if size and lane not in told}
        self._files, self._seen, self.ended = {}, (0, 0.0), False
        self._batches = self._pass()

    def read(self, timeout: float) -> Sequence[Item]:
        """Return what comes next: lines of one file."""
        if self._batches is None:
            raise PipelineRuntimeError(f"{self.name} is not open; wanted open() before read().")
        deadline = time.monotonic() + timeout
        while not self.ended:
            if items := next(self._batches, None):
                return items
            self.ended = not self._follow
            self._batches = self._pass()
            left = deadline - time.monotonic()
            if left <= 0 or self.ended:
                break
            time.sleep(min(self._poll_seconds, left))
        return []

    def rewind(self, lane: str, index: Index) -> bool:
        """Go back in a file; False if it is not there, or shorter."""
        try:
            file = GrowingFile(self._folder / lane, _offset(index))
            is_there = (self._folder / lane).is_file() and file.offset == _offset(index)
        except OSError:
            return False
        if not is_there:
            return False
        self._done.pop(lane, None)
        self._files[lane], self._changed[lane] = file, time.monotonic()
        self.ended, self._batches = False, self._pass()
        return True

    def commit(self, positions: Mapping[str, Index]) -> None:
        """Keep these positions: a new file is written beside the old one, and put in its place."""
        self._committed |= {lane: _offset(index) for lane, index in positions.items()}
        there = {
            lane: [offset, self._done[lane][0] if self._done.get(lane, (0, 0))[1] == offset else 0]
            for lane, offset in self._committed.items()
            if lane in self._done or lane in self._files
        }
        new = self._state.with_name(f"{self._state.name}.new")
        try:
            new.write_bytes(orjson.dumps({"version": 1, "files": there}))
            os.replace(new, self._state)
        except OSError as error:
            if not self._has_told:
                self._has_told = True
                logger.error("%s cannot keep positions, and will read again: %s", self.name, error)

    def close(self) -> None:
        """Let the folder go."""
        self._batches = None

    def _load(self) -> dict[str, tuple[int, int]]:
        """Return what was committed: offset, and the size of a file that was done, by name."""
        try:
            state = orjson.loads(self._state.read_bytes())
            return {lane: (offset, size) for lane, (offset, size) in state["files"].items() if state["version"] == 1}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.error("%s: %s cannot be read (%s); all files are read again.", self.name, self._state, error)
            return {}

    # one pass ----------------------------------------------------------------------------------------------------

    def _pass(self) -> Iterator[list[Item]]:
        """Yield what there is by now, file by file."""
        yield from self._scan()
        for lane in list(self._files):
            yield from self._read(lane)

    def _scan(self) -> Iterator[list[Item]]:
        """Look for files that came or went, if the folder has changed; files that are done are seldom looked at."""
        try:
            changed = os.stat(self._folder).st_mtime_ns
        except OSError as error:
            yield from self._tell_folder(error)
            return
        before, when = self._seen
        pause = max(RESCAN, self._scan_seconds / MAX_SHARE)
        if changed == before and time.time() - changed / 1e9 > FRESH and time.monotonic() < when + pause:
            return
        began = time.monotonic()
        there = self._there()
        self._seen, self._scan_seconds = (changed, time.monotonic()), time.monotonic() - began
        for lane in [lane for lane in (*self._files, *self._done) if lane not in there]:
            yield from self._remove(lane)
        for lane in sorted(there, key=lambda lane: (there[lane][0], lane)):
            if lane not in self._files and self._done.get(lane, (-1, 0))[0] != there[lane][1]:
                yield from self._add(lane, there[lane][1])

    def _there(self) -> dict[str, tuple[int, int]]:
        """Return what is in the folder: when it was changed, and its size."""
        found = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if fnmatch(entry.name, self._pattern) and not entry.name.startswith("."):
                    try:
                        stat = entry.stat()
                    except OSError:  # it is gone by now
                        continue
                    if entry.is_file():
                        found[entry.name] = stat.st_mtime_ns, stat.st_size
        return found

    def _tell_folder(self, error: OSError) -> Iterator[list[Item]]:
        for lane in list(self._files):
            yield from self._remove(lane)
        if not self._has_told:
            self._has_told = True
            logger.error("%s cannot read %s, and will try again: %s", self.name, self._folder, error)

    def _add(self, lane: str, size: int) -> Iterator[list[Item]]:
        size_before, offset = self._done.pop(lane, (0, self._committed.get(lane, 0)))
        if not lane.endswith(".gz") and size == offset > 0:  # whole, by what was committed
            self._done[lane] = size, offset
            return
        try:
            file = GrowingFile(self._folder / lane, offset if size >= size_before else 0)
            if file.offset < offset:
                yield [self._replaced(lane, "")]
                file = GrowingFile(self._folder / lane)
            self._files[lane], self._changed[lane] = file, time.monotonic()
        except OSError as error:
            self._done[lane] = size, offset
            yield [poison(Position(lane, offset), f"{lane}: {error}")]

    def _replaced(self, lane: str, run: str) -> Item:
        self._committed.pop(lane, None)
        reason = f"{lane} is shorter than it was: it is another file, and is read anew."
        logger.warning("%s: %s", self.name, reason)
        return poison(Position(lane, 0), reason, run, begins_anew=True)

    def _remove(self, lane: str) -> Iterator[list[Item]]:
        self._done.pop(lane, None)
        self._committed.pop(lane, None)
        file = self._files.pop(lane, None)
        self._changed.pop(lane, None)
        if file is not None and (file.is_open or file.n_waiting):
            logger.warning("%s: %s was removed before its run was over.", self.name, lane)
            yield [poison(Position(lane, file.offset), f"{lane} was removed before its run was over.", file.run)]

    def _read(self, lane: str) -> Iterator[list[Item]]:
        """Yield what is new in one file, and let the file be if it is done."""
        file = self._files[lane]
        try:
            if file.has_shrunk:
                yield [self._replaced(lane, file.run)]
                file = self._files[lane] = GrowingFile(self._folder / lane)
            if file.has_grown:
                self._changed[lane] = time.monotonic()
                yield from self._lines(lane, file)
        except FileNotFoundError:
            yield from self._remove(lane)
            return
        except (OSError, PipelineValueError) as error:
            file.is_broken = True
            yield [poison(Position(lane, file.offset), f"{lane}, behind byte {file.offset}: {error}", file.run)]
        yield from self._settled(lane, file)

    def _lines(self, lane: str, file: GrowingFile) -> Iterator[list[Item]]:
        for lines in file.chunks():
            yield [self._item(lane, file, end, line) for end, line in lines]

    def _item(self, lane: str, file: GrowingFile, end: int, line: bytes) -> Item:
        try:
            return Item(Position(lane, end), *file.document(line))
        except PipelineValueError as error:
            return poison(Position(lane, end), f"{lane}, line before byte {end}: {error}", file.run)

    def _settled(self, lane: str, file: GrowingFile) -> Iterator[list[Item]]:
        if self._follow and time.monotonic() - self._changed[lane] < self._settle:
            return
        if file.n_waiting:
            end, line = file.last_line()
            item = self._item(lane, file, end, line)
            if item.name == POISON and self._follow:
                file.put_back(line)
                return
            yield [item]
        if self._follow and file.is_open and not file.is_broken:
            return  # its stop document is to come
        self._files.pop(lane, None)
        self._changed.pop(lane, None)
        with contextlib.suppress(OSError):
            self._done[lane] = os.stat(self._folder / lane).st_size, file.offset


def _state_file(folder: Path, state: str | os.PathLike[str] | None) -> Path:
    if state is None:
        return folder / f"{STATE}.json"
    code = hashlib.sha1(os.fsencode(folder.absolute()), usedforsecurity=False).hexdigest()[:12]
    return Path(state).expanduser() / f"{STATE}-{code}.json"


def _offset(index: Index) -> int:
    return index if isinstance(index, int) else index[0]

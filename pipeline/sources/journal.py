"""Documents from a journal that a RunEngine's process writes, as they come, and again if need be."""

import contextlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from pipeline.documents import MAX_LINE, Document, loads
from pipeline.errors import PipelineError, PipelineOSError, PipelineValueError
from pipeline.journal_files import LANE, Readers, Segment, segments
from pipeline.journal_lines import LOST, loaded_inline, restored
from pipeline.npy_records import read_npy
from pipeline.run_of import RunOf
from pipeline.sources.position import Index, Item, OnLost, Position, poison

logger = logging.getLogger(__name__)

MAX_ITEMS = 1000  # of one `read`
MAX_BYTES = 4 * 2**20  # of one `read`, unless a single document has more
SHORT, LONG = 0.001, 0.005  # seconds between two looks: while something comes, and when nothing does
LOOK_AROUND = 0.25  # seconds between two looks at the whole directory
CHUNK = 2**20


def _ignore(lanes: object) -> None:
    """Let lanes go without a word: those of a journal never do."""


class JournalSource:
    """Follow the journal in a directory: a `PositionedSource` of one lane, `"journal"`.

    The index of a document is the place behind its line, among all that the journal ever had. Each reader commits for
    itself, in `readers/` beside the journal, and what it has not committed is kept for it, from `open` on.

    What cannot be read is poison, and it goes on behind it: a line that is no document, that is longer than 64 MiB or
    nested deeper than 64, a reference to an array that is not there. So is the place where documents are missing that
    the journal could not write. A torn line at the end is being written: it is
    waited for. So is a journal that has not begun.

    Parameters
    ----------
    directory
        The one that a `Journal` writes to.
    reader
        The name to commit under. Two that follow at once have two names.
    follow
        Whether to wait for more at the end of what is there.

    Raises
    ------
    PipelineOSError
        By `open`: if the reader cannot be registered, or there is no such directory and nothing to wait for.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, f"{0:020d}.jsonl").write_bytes(b'["start",{"uid":"a","time":0.0}]\\n')
    ...     source = JournalSource(folder, follow=False)
    ...     source.open({})
    ...     source.read(1), source.read(1), source.ended
    ([Item(position=Position(lane='journal', index=33), name='start', doc={'uid': 'a', 'time': 0.0})], [], True)
    """

    name = "journal"
    may_lose = False
    is_stored = False
    assigns_lanes = False

    def __init__(self, directory: str | os.PathLike[str], reader: str = "pipeline", *, follow: bool = True) -> None:
        self.directory = Path(directory)
        self.reader = reader
        self.ended = False
        self.is_stored = not follow
        self._follow = follow
        self._readers = Readers(directory)
        self._committed = -1
        self._was_there = True  # whether a journal that ends before the present position must be another one
        self._is_refused = self._is_away = False
        self._at = 0
        self._file: _SegmentFile | None = None
        self._run_of = RunOf()
        self._pause = SHORT
        self._look_around_at = 0.0

    def open(self, begin: Mapping[str, Index], on_lost: OnLost = _ignore) -> None:
        """Register the reader, and begin behind what it has committed or behind `begin`, whichever is less.

        One of the two may be newer, since they are stored one after the other; and a document given twice is known
        again by its uid, while one that is left out is gone. A reader that is new begins with the oldest there is.
        """
        self.close()
        self.ended = False
        if not self._follow and not self.directory.is_dir():
            raise PipelineOSError(f"{self.directory}: wanted the directory of a journal, there is none.")
        try:
            with self._readers.alone(wait=True):
                self._register(begin.get(LANE))
        except OSError as error:
            raise PipelineOSError(f"{self.directory}: cannot register reader {self.reader!r}: {error}.") from error

    def _register(self, begin: Index | None) -> None:
        there = segments(self.directory)
        oldest = there[0].base if there else 0
        own = self._readers.position(self.reader)
        known = [index for index in (own, begin) if isinstance(index, int)]
        self._at = self._committed = min(known, default=oldest)
        # A journal goes on behind what a registered reader has read, even if its end was lost with the power.
        self._was_there = own is None
        if self._was_there and there and self._at > there[-1].end:
            self._committed = oldest
        self._readers.commit(self.reader, self._committed)

    def read(self, timeout: float) -> Sequence[Item]:
        """Return the next documents, at most a thousand or 4 MiB; nothing if none comes within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            if items := self._next_or_nothing():
                self._pause = SHORT
                return items
            if not self._follow and not self._is_away:
                self.ended = True
                return []
            rest = deadline - time.monotonic()
            if rest <= 0:
                return []
            time.sleep(min(self._pause, rest))
            self._pause = min(LONG, self._pause * 1.1)

    def end_when_level(self) -> None:
        """End as soon as all that is there has been given: who writes the journal writes no more."""
        self._follow = False

    def rewind(self, lane: str, index: Index | None) -> bool:
        """Go back, so that the next document is the one behind `index`; False if that is gone."""
        index = 0 if index is None else index
        if lane != LANE or not isinstance(index, int):
            return False
        if not any(segment.base <= index <= segment.end for segment in segments(self.directory)):
            return False
        self._go_to(index)
        self.ended = False
        return True

    def commit(self, positions: Mapping[str, Index]) -> None:
        """Store that everything up to this position need not be given again; if that fails, it is given again."""
        index = positions.get(LANE)
        if not isinstance(index, int) or index <= self._committed:
            return
        try:
            self._readers.commit(self.reader, index)
        except OSError as error:
            if not self._is_refused:
                logger.error("%s: cannot commit for reader %r: %s", self.directory, self.reader, error)
            self._is_refused = True
        else:
            self._committed, self._is_refused = index, False

    def close(self) -> None:
        """Let the files go; the reader stays registered."""
        self._go_to(self._at)

    # where it is

    def _go_to(self, position: int) -> None:
        self._at = position
        file, self._file = self._file, None
        if file is not None:
            file.close()
        self._look_around_at = 0.0

    def _next_or_nothing(self) -> list[Item]:
        try:
            items = self._next()
        except OSError as error:
            if not self._is_away:
                logger.error("%s: cannot read the journal, and try again: %s", self.directory, error)
            self._is_away = True
            self._go_to(self._at)
            return []
        self._is_away = False
        return items

    def _next(self) -> list[Item]:
        if self._file is not None:
            if items := self._items(self._file):
                return items
            if Segment(self.directory, self._at).lines.exists() and self._at != self._file.segment.base:
                self._go_to(self._at)
        if time.monotonic() < self._look_around_at and self._follow:
            return []
        return self._look_around()

    def _look_around(self) -> list[Item]:
        """See what the directory has: the segment to go on with, or that what comes next is gone."""
        there = segments(self.directory)
        before = [segment for segment in there if segment.base <= self._at]
        after = [segment for segment in there if segment.base > self._at]
        self._look_around_at = time.monotonic() + LOOK_AROUND
        end = before[-1].end if before else -1  # once: it may grow between two looks
        if self._at < end:
            return self._open_file(before[-1])
        if self._at == end and not after:
            return [] if self._file is not None else self._open_file(before[-1])
        if after:
            return self._skip_to(after[0].base)
        if before and (self._was_there or self._readers.position(self.reader) is None):
            return self._begin_anew(before[0].base)
        return []

    def _open_file(self, segment: Segment) -> list[Item]:
        self._go_to(self._at)
        try:
            self._file = _SegmentFile(segment)
        except FileNotFoundError:  # removed since it was listed
            return self._look_around()
        self._look_around_at = time.monotonic() + LOOK_AROUND
        return self._items(self._file)

    def _skip_to(self, position: int) -> list[Item]:
        gone = position - self._at
        self._go_to(position)
        return [poison(Position(LANE, position), f"{self.directory}: {gone} bytes before byte {position} are gone.")]

    def _begin_anew(self, position: int) -> list[Item]:
        """Go back: neither what was read nor the reader's own file is there, so this is another journal."""
        reason = f"{self.directory}: wanted what follows byte {self._at}, there is a journal that was begun anew."
        self._go_to(position)
        self._committed = position
        with contextlib.suppress(OSError):
            self._readers.commit(self.reader, position)
        return [poison(Position(LANE, position), reason, begins_anew=True)]

    # what is there

    def _items(self, file: "_SegmentFile") -> list[Item]:
        """Return what the lines behind the present position tell; go on behind them."""
        items: list[Item] = []
        begin, n_arrays = self._at, file.n_loaded
        for line in file.lines(self._at - file.segment.base):
            at = self._at
            self._at += len(line)
            self._was_there = True
            items.append(self._item(file, line, at))
            if len(items) == MAX_ITEMS or self._at - begin + file.n_loaded - n_arrays >= MAX_BYTES:
                return items
        if not items and (end := file.end_of_oversize(self._at - file.segment.base)):
            return [self._oversize(file, end)]
        return items

    def _item(self, file: "_SegmentFile", line: bytes, at: int) -> Item:
        position = Position(LANE, self._at)
        run = ""
        try:
            name, doc = loads(line)
            run = self._run(name, doc)
            if name == LOST:
                raise PipelineValueError(f"{doc.get('n')} documents could not be written ({doc.get('reason')})")
            if b'"!' in line:
                doc = restored(doc, file.load)
            if type(doc) is not dict:
                raise PipelineValueError(f"wanted a document, there is {type(doc).__name__}")
        except Exception as error:  # noqa: BLE001 - contained: whatever is written there, it goes on
            reason = str(error) if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}"
            return poison(position, f"{file.segment.lines}, byte {at - file.segment.base}: {reason}", run)
        return Item(position, name, doc)

    def _run(self, name: str, doc: Document) -> str:
        try:
            run = str(self._run_of(name, doc))
        except Exception:  # noqa: BLE001 - it may have any form; whoever takes it in says so
            return ""
        if name == "stop":
            self._run_of.forget(run)
        return run

    def _oversize(self, file: "_SegmentFile", end: int) -> Item:
        at = self._at - file.segment.base
        self._at = file.segment.base + end
        reason = f"wanted a line of at most {MAX_LINE} bytes, there are {end - at}."
        return poison(Position(LANE, self._at), f"{file.segment.lines}, byte {at}: {reason}")


class _SegmentFile:
    """A segment that is read, and may grow meanwhile; what is open can be read to its end even if it is removed."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.n_loaded = 0  # bytes of arrays
        self._arrays = -1
        self._lines = os.open(segment.lines, os.O_RDONLY)
        self._torn = (0, 0, 0.0)  # from where to where there is no newline, and when that was seen
        self._scanned = 0
        self._open_arrays()

    def _open_arrays(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._arrays = os.open(self.segment.arrays, os.O_RDONLY)

    def lines(self, offset: int) -> list[bytes]:
        """Return whole lines from here on, about a MiB of them; none if there is none, or if it is too long."""
        size = os.fstat(self._lines).st_size
        # Half a line is read again when there is more, and now and then: another may have taken its place.
        if size <= offset or ((offset, size) == self._torn[:2] and time.monotonic() - self._torn[2] < LOOK_AROUND):
            return []
        step = CHUNK
        while True:
            content = os.pread(self._lines, step, offset)
            end = content.rfind(b"\n") + 1
            if end:
                return [line + b"\n" for line in content[: end - 1].split(b"\n")]
            if len(content) < step or step > MAX_LINE:
                self._torn = (offset, size, time.monotonic())
                return []
            step = min(4 * step, MAX_LINE + 1)

    def end_of_oversize(self, offset: int) -> int:
        """Return where a line ends that is too long; 0 if it is not, or does not end yet."""
        size = os.fstat(self._lines).st_size
        at = max(offset + MAX_LINE, self._scanned)
        while at < size:
            content = os.pread(self._lines, CHUNK, at)
            newline = content.find(b"\n")
            if newline >= 0:
                return at + newline + 1
            at += len(content)
            self._scanned = at
        return 0

    def load(self, place: Any) -> numpy.ndarray:
        """Return the array that a line refers to, or holds."""
        if isinstance(place, str):
            return loaded_inline(place)
        offset, nbytes = _checked(place)
        if self._arrays < 0:
            self._open_arrays()
        if self._arrays < 0 or offset + nbytes > os.fstat(self._arrays).st_size:
            raise PipelineValueError(
                f"wanted an array of {nbytes} bytes at byte {offset} of {self.segment.arrays.name}"
            )
        array = read_npy(self._read_into, offset, nbytes)
        self.n_loaded += nbytes
        return array

    def _read_into(self, buffer: memoryview, offset: int) -> int:
        n = 0
        while n < len(buffer):
            got = os.preadv(self._arrays, [buffer[n:]], offset + n)
            if not got:
                break
            n += got
        return n

    def close(self) -> None:
        os.close(self._lines)
        if self._arrays >= 0:
            os.close(self._arrays)


def _checked(place: Any) -> tuple[int, int]:
    if isinstance(place, list) and len(place) == 2 and all(type(n) is int and n >= 0 for n in place):
        return place[0], place[1]
    raise PipelineValueError(f"wanted [offset, nbytes] of an array, there is {place!r:.60}.")

"""A file of JSON lines that others write to, plain or gzipped, line by line as they become whole."""

import contextlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.documents import Document, NaNs, loads
from pipeline.errors import PipelineValueError

CHUNK = 1 << 20
SHOWN = 60  # letters of a bad line that are told


class GrowingFile:
    r"""Read a file on from where it was read to.

    Offsets are of the text: of a gzipped file, of what it holds.

    Parameters
    ----------
    path
        The file.
    offset
        Behind which to begin. What stands before it is looked through for what later lines refer to.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(b'["start", {"uid": "a"}]\n["st'); file.flush()
    ...     growing = GrowingFile(Path(file.name))
    ...     [line for chunk in growing.chunks() for line in chunk], growing.offset
    ([(24, b'["start", {"uid": "a"}]')], 24)
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = 0  # behind the last whole line that was read
        self.run = ""  # the uid of the last run that began
        self.is_open = False  # whether that has no stop document yet
        self.is_broken = False  # a gzipped file that is none, from here on
        self._raw = 0  # bytes of the file that were read
        self._rest = b""  # of a line that is not whole
        self._inflate = None  # what unpacks a gzipped file
        self._fault = ""
        self._restore = NaNs()
        if offset > 0:
            self._skip(offset)

    @property
    def n_waiting(self) -> int:
        """How many bytes there are behind the last newline."""
        return len(self._rest)

    @property
    def has_shrunk(self) -> bool:
        """Whether the file is shorter than what was read of it: it is another one."""
        return os.stat(self.path).st_size < self._raw

    @property
    def has_grown(self) -> bool:
        """Whether there is more than was read."""
        return not self.is_broken and (os.stat(self.path).st_size > self._raw or b"\n" in self._rest)

    def chunks(self) -> Iterator[list[tuple[int, bytes]]]:
        """Yield the lines that have become whole, with the offset behind each, some at a time.

        Raises
        ------
        PipelineValueError
            If the rest of a gzipped file cannot be read.
        """
        if lines := self._lines(b""):  # behind the offset at which this began
            yield lines
        with open(self.path, "rb") as file:
            file.seek(self._raw)
            while not self.is_broken and (data := file.read(CHUNK)):
                self._raw += len(data)
                if lines := self._lines(self._text(data)):
                    yield lines
        if self.is_broken:
            raise PipelineValueError(self._fault)

    def last_line(self) -> tuple[int, bytes]:
        """Return what stands behind the last newline as a line: nobody is about to write on."""
        line, self._rest = self._rest, b""
        self.offset += len(line)
        return self.offset, line

    def put_back(self, line: bytes) -> None:
        """Take a last line for one that is not whole, after all."""
        self._rest = line
        self.offset -= len(line)

    def document(self, line: bytes) -> tuple[str, Document]:
        """Return the document of a line; NaN are NaN again.

        Raises
        ------
        PipelineValueError
            If it is none.
        """
        try:
            name, doc = loads(line)
            doc = self._restore(name, doc) if name == "descriptor" or b"null" in line else doc
            self._note(name, doc)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PipelineValueError(f"wanted a document as JSON, there is {_short(line)}: {error}") from None
        return name, doc

    def _note(self, name: str, doc: Document) -> None:
        if name == "start":
            self.run, self.is_open = doc["uid"], True
        elif name == "stop":
            self.is_open = False

    def _lines(self, data: bytes) -> list[tuple[int, bytes]]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        lines = []
        for line in whole:
            self.offset += len(line) + 1
            if line.strip():
                lines.append((self.offset, line))
        return lines

    def _text(self, data: bytes) -> bytes:
        if self.path.suffix != ".gz":
            return data
        parts = []
        try:
            while data:
                self._inflate = self._inflate or zlib.decompressobj(wbits=31)
                parts.append(self._inflate.decompress(data))
                data = self._inflate.unused_data
                if self._inflate.eof:
                    self._inflate = None  # one may be written behind another
        except zlib.error as error:
            self.is_broken = True
            self._fault = f"wanted gzipped lines to the end: {error}"
        return b"".join(parts)

    def _skip(self, offset: int) -> None:
        """Go behind this offset, and note the descriptors before it."""
        with open(self.path, "rb") as file:
            while self.offset < offset and (data := file.read(CHUNK)):
                self._raw += len(data)
                self._skip_lines(self._text(data), offset)

    def _skip_lines(self, text: bytes, offset: int) -> None:
        before = self._rest + text
        first = self.offset
        for end, line in self._lines(text):
            if end > offset:
                break
            if any(name in line[:40] for name in (b"descriptor", b"start", b"stop")):
                with contextlib.suppress(PipelineValueError):  # it was told when it was read first
                    self.document(line)
        if self.offset >= offset or self.offset + len(self._rest) >= offset:  # perhaps in a line without newline
            self.offset, self._rest = offset, before[offset - first :]


def _short(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")

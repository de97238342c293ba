"""Documents from lines of JSON: an open file, plain or gzipped, of either dialect."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pipeline.documents import MAX_LINE, Document, NaNs, loads
from pipeline.errors import PipelineValueError


def read_lines(path: Path, raw: IO[bytes]) -> Iterator[tuple[str, Document]]:
    r"""Read the documents of an open file, NaN both bare and as `null`.

    Raises
    ------
    PipelineValueError
        If a line is no document: it names file and line.

    >>> import io
    >>> list(read_lines(Path("a.jsonl"), io.BytesIO(b'["start", {"uid": "a", "time": 0}]\n')))
    [('start', {'uid': 'a', 'time': 0})]
    """
    restore = NaNs()
    for number, line in enumerate(_lines(path, raw), 1):
        try:
            name, doc = loads(line)
            item = name, restore(name, doc) if name == "descriptor" or b"null" in line else doc
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PipelineValueError(
                f"{path}, line {number}: wanted a document as JSON, there is {_short(line)}: {error}"
            ) from None
        yield item


def _lines(path: Path, raw: IO[bytes]) -> Iterator[bytes]:
    if path.suffix != ".gz":
        yield from _short_lines(raw)
        return
    number = 0
    try:
        unpacked = _short_lines(gzip.GzipFile(fileobj=raw))
        for number, line in enumerate(unpacked, 1):  # noqa: B007 - told if the next cannot be read
            yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise PipelineValueError(f"{path}, line {number + 1}: wanted gzipped lines to the end: {error}") from None


def _short_lines(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """Yield the lines; of one that is too long no more than shows that it is."""
    return iter(lambda: file.readline(MAX_LINE + 1), b"")


def _short(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    return repr(text if len(text) <= 60 else f"{text[:57]}...")

"""Stored runs as JSONL files."""

import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.documents import Document
from pipeline.errors import PipelineOSError
from pipeline.json_lines import read_lines

ENDINGS = (".jsonl", ".jsonl.gz")


def read_jsonl(
    source: str | os.PathLike[str], *, progress: Callable[[int], object] | None = None
) -> Iterator[tuple[str, Document]]:
    """Read the documents of stored runs: a file, a folder, or a glob, in order of name.

    Both dialects are read, `[name, doc]` (suitcase) and `{"name": ..., "doc": ...}` (bluesky), plain and gzipped, and
    NaN both bare and as `null`. A line is not held to event-model's schema.

    Parameters
    ----------
    source
        A file, a folder, or a glob.
    progress
        Called before each document, with how many bytes of its file were read.

    Raises
    ------
    PipelineOSError
        If there is no such file, or none in the folder.
    PipelineValueError
        If a line is no document: it names file and line.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
    ...     _ = file.write(b'["start", {"uid": "a", "time": 0}]\\n'); file.flush()
    ...     list(read_jsonl(file.name))
    [('start', {'uid': 'a', 'time': 0})]
    """
    for path in jsonl_files(source):
        with open(path, "rb") as raw:
            for item in read_lines(path, raw):
                if progress is not None:
                    progress(raw.tell())
                yield item


def jsonl_files(source: str | os.PathLike[str]) -> list[Path]:
    """Return the files that `read_jsonl` reads."""
    path = Path(source)
    if path.is_dir():
        paths = sorted(each for each in path.iterdir() if each.name.endswith(ENDINGS))
    else:
        paths = [path] if path.exists() else [Path(each) for each in sorted(glob.glob(str(source), recursive=True))]
    if not paths:
        raise PipelineOSError(f"{source}: wanted a JSONL file, a folder of them, or a glob; there is none.")
    return paths

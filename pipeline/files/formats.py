"""Which format a file has: by its name, or by how it begins."""

import glob
import importlib
import os
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineOSError, PipelineRuntimeError, PipelineValueError

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".xdi": "xdi",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".nc": "netcdf",
    ".nc4": "netcdf",
    ".cdf": "netcdf",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".hdf": "hdf5",
    ".nxs": "hdf5",
    ".nx5": "hdf5",
    ".npz": "npz",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
}
FORMATS = (*sorted({*SUFFIXES.values(), "text"}), "nexus")
TEXTS = (".dat", ".txt", ".asc", ".xy")  # what is written into such a file may be anything
_MAGIC = {b"PAR1": "parquet", b"\x89HDF\r\n\x1a\n": "hdf5", b"CDF\x01": "netcdf", b"CDF\x02": "netcdf"}
HEAD = 65536


def format_of(path: Path, format: str | None = None) -> str | None:
    """Return the format of a file, or None if it has none that is known.

    >>> format_of(Path("results.csv")), format_of(Path("results.nxs")), format_of(Path("a.csv"), "text")
    ('csv', 'hdf5', 'text')
    """
    if format is not None:
        return _named(format)
    name = path.name.lower()
    by_name = next((each for suffix, each in SUFFIXES.items() if name.endswith(suffix)), None)
    return by_name or format_of_content(path)


def _named(format: str) -> str:
    if format not in FORMATS:
        raise PipelineValueError(f"wanted a format of {list(FORMATS)}, there is {format!r}.")
    return "hdf5" if format == "nexus" else format


def format_of_content(path: Path) -> str | None:
    """Return the format that a file begins with, or None.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(b"# XDI/1.0\\n"); file.flush()
    ...     format_of_content(Path(file.name))
    'xdi'
    """
    with open(path, "rb") as file:
        head = file.read(HEAD)
    for magic, format in _MAGIC.items():
        if head.startswith(magic):
            return format
    if head.startswith(b"PK") and b".npy" in head:
        return "npz"
    if head.startswith((b'["start"', b'{"name"')):
        return "jsonl"
    return _text_format(head)


def _text_format(head: bytes) -> str | None:
    text = head.decode(errors="replace").removeprefix("\ufeff")
    if text[:1] == "#" and text[1:].lstrip().startswith("XDI/"):
        return "xdi"
    from pipeline.files.text_head import is_table

    return "text" if "\0" not in text and is_table(text) else None


def result_files(source: str | os.PathLike[str]) -> list[Path]:
    """Return the files of results that there are: a file, those in a folder and below it, or those of a glob.

    In a folder only files that `read_results` knows are taken, by their name or by how they begin; hidden ones are not.

    Raises
    ------
    PipelineOSError
        If there is none.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.csv", "a.nc", "photo.png"): _ = Path(folder, name).write_text("x,y")
    ...     [path.name for path in result_files(folder)]
    ['a.nc', 'b.csv']
    """
    path = Path(source)
    if path.is_dir():
        paths = sorted(each for each in path.rglob("*") if _is_result(each, path))
    else:
        found = [path] if path.exists() else [Path(each) for each in glob.glob(str(source), recursive=True)]
        paths = sorted(each for each in found if each.is_file())
    if not paths:
        raise PipelineOSError(f"{source}: wanted a file of results, a folder of them, or a glob; there is none.")
    return paths


def _is_result(path: Path, folder: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.is_file() and not is_hidden and format_of(path) is not None


def require(module: str) -> Any:
    """Return a module that an extra brings, or say which.

    >>> require("json").dumps(1)
    '1'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PipelineRuntimeError(
            f"wanted the package {module.partition('.')[0]!r}, it is not here ({error}); "
            "`pip install 'bluesky-pipeline[files]'` brings it."
        ) from None

"""Arrays and curves that are arguments: given as lists, or as files with their SHA-256."""

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from pipeline.errors import PipelineOSError, PipelineValueError

Array = numpy.ndarray


class Curve(NamedTuple):
    """A curve y, and the axis that it stands over, if it has one."""

    y: Array
    x: Array | None


def read_members(path: str, sha256: str | None = None) -> tuple[dict[str, Array], str]:
    """Return the arrays of a .npy, .npz or .csv file by name, and the SHA-256 of its bytes.

    The array of a .npy file is named `y`; a .csv file (separated by commas or spaces, `#` begins a remark, one line
    of names may come first) has one column `y`, or the columns `x` and `y` first.

    Parameters
    ----------
    path
        The file.
    sha256
        What its bytes must have, if that is known.

    Raises
    ------
    PipelineOSError
        If it cannot be read.
    PipelineValueError
        If it is something else, or has another SHA-256.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise PipelineOSError(f"wanted a .npy, .npz or .csv file at {path!r}: {error.strerror or error}.") from None
    digest = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, digest):
        raise PipelineValueError(f"{path!r} has the SHA-256 {digest}; wanted {sha256}: the file was changed.")
    try:
        return _parse(Path(path).suffix.lower(), content), digest
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise PipelineValueError(f"{path!r} is no .npy, .npz or .csv file of numbers: {error}.") from None


def _parse(suffix: str, content: bytes) -> dict[str, Array]:
    if suffix == ".npy":
        return {"y": numpy.load(io.BytesIO(content), allow_pickle=False)}
    if suffix == ".npz":
        with numpy.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    if suffix in (".csv", ".txt", ".dat"):
        return _parse_text(content.decode())
    raise ValueError(f"its name ends in {suffix!r}")


def _parse_text(text: str) -> dict[str, Array]:
    lines = [line.partition("#")[0].replace(",", " ").split() for line in text.splitlines()]
    rows = [line for line in lines if line]
    if rows and not _are_numbers(rows[0]):
        rows = rows[1:]
    table = numpy.array([[float(part) for part in row] for row in rows], ndmin=2)
    if not table.size:
        raise ValueError("there are no numbers in it")
    return {"y": table[:, 0]} if table.shape[1] == 1 else {"x": table[:, 0], "y": table[:, 1]}


def _are_numbers(row: list[str]) -> bool:
    try:
        return bool([float(part) for part in row])
    except ValueError:
        return False


def read_array(path: str, sha256: str | None = None) -> tuple[Array, str]:
    """Return the one array of a file (of a .npz file the only one, or `y`), and its SHA-256; see `read_members`."""
    members, digest = read_members(path, sha256)
    return _main(members, path), digest


def _main(members: dict[str, Array], path: str) -> Array:
    if "y" not in members and len(members) != 1:
        raise PipelineValueError(f"{path!r} has the arrays {sorted(members)}; wanted one, or one named 'y'.")
    return members["y"] if "y" in members else next(iter(members.values()))


def read_curve(reference: Any, sha256: str | None = None) -> tuple[Curve, str | None]:
    """Return a curve that is a list of numbers, or a file with `y` and, if it has one, its axis `x`; and its SHA-256.

    >>> read_curve([1, 2])
    (Curve(y=array([1., 2.]), x=None), None)
    """
    if not isinstance(reference, str):
        return Curve(as_curve(reference, "reference"), None), None
    members, digest = read_members(reference, sha256)
    x = as_curve(members["x"], f"x of {reference!r}") if "x" in members else None
    return Curve(as_curve(_main(members, reference), repr(reference)), x), digest


def as_curve(value: Any, what: str) -> Array:
    """Return numbers as a float64 array of one dimension, which cannot be written.

    Raises
    ------
    PipelineValueError
        If they are no curve.
    """
    try:
        curve = numpy.array(value, float)
    except (ValueError, TypeError):
        raise PipelineValueError(f"{what}: wanted a list of numbers, there is {str(value)[:60]}.") from None
    if curve.ndim != 1 or not curve.size:
        raise PipelineValueError(f"{what}: wanted numbers of one dimension, there is the shape {list(curve.shape)}.")
    curve[~numpy.isfinite(curve)] = numpy.nan
    curve.setflags(write=False)
    return curve

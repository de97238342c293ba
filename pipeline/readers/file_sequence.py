"""Rows that are files: a TIFF or NPY sequence."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy

from pipeline.errors import PipelineImportError, PipelineOSError, PipelineValueError
from pipeline.readers.roots import Roots
from pipeline.readers.row_shape import RowShape

Array = numpy.ndarray

ONE_NUMBER = re.compile(r"[^{}]*\{(:[<>+ 0]*\d{0,2}d?)?\}[^{}]*")


class FileSequence:
    """Read values that are in files of their own: one or more for each event, as their first one tells.

    Values are in the byte order of this machine.

    Parameters
    ----------
    path
        What all their names begin with.
    shape
        What one event has.
    parameters
        `template`, of the rest of the name: `"{:05d}.tif"`, or `"%s_%05d.tif"` with `filename`. `files_per_datum`.
    roots
        Where files may be read.

    Raises
    ------
    PipelineError
        If the template is none.
    """

    def __init__(self, path: str, shape: RowShape, parameters: Mapping[str, Any], roots: Roots) -> None:
        self._path, self._shape, self._roots = path, shape, roots
        self._template = self._compiled(parameters)
        self._per_event: int | None = parameters.get("files_per_datum")
        if not ONE_NUMBER.fullmatch(self._template):
            raise PipelineValueError(
                f"{path}: wanted a template with one number, '{{:05d}}.tif'; there is {self._template!r}."
            )

    def _compiled(self, parameters: Mapping[str, Any]) -> str:
        from bluesky_tiled_plugins.utils import compile_template

        return compile_template(str(parameters.get("template", "")), str(parameters.get("filename", "")))

    def _name(self, number: int) -> str:
        """Return the name of a file, if it may be read."""
        tail = self._template.format(number)
        name = self._path + (tail.lstrip("/") if self._path.endswith("/") else tail)
        return self._roots.checked(os.path.normpath(name))

    def read(self, start: int, stop: int) -> Array:
        """Return the values of these events: fewer than wanted, or none, if there are no more yet."""
        rows: list[Array] = []
        for index in range(start, stop):
            row = self._row(index)
            if row is None or (rows and (row.dtype, row.shape) != (rows[0].dtype, rows[0].shape)):
                break
            rows.append(row)
        return numpy.stack(rows) if rows else numpy.empty((0,))

    def _row(self, index: int) -> Array | None:
        """Return the value of one event; None if it is not whole yet."""
        if self._per_event is None and os.path.isfile(self._name(index)):
            self._per_event = self._count(self._file(self._name(index)))
        n = self._per_event or 1
        names = [*takewhile(os.path.isfile, map(self._name, range(index * n, (index + 1) * n)))]
        return self._shape.fitted([*map(self._file, names)]) if len(names) == n else None

    def _count(self, file: Array) -> int:
        """Return how many files like this one make the value of an event."""
        sizes: Sequence[int | None] = self._shape.shape
        whole = numpy.prod([n or 1 for n in sizes], dtype=numpy.int64)
        return 1 if None in sizes else max(1, int(whole) // max(1, file.size))

    def _file(self, path: str) -> Array:
        try:
            array = self._load(path)
        except (PipelineImportError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - of a file that is not whole, libraries say whatever they like
            raise OSError(f"{path} is no whole file of its kind: {error}") from None
        if array.dtype.kind not in "biufc":
            raise PipelineOSError(f"{path}: wanted numbers, there is {array.dtype}")
        return array

    def _load(self, path: str) -> Array:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open between two reads."""


class TIFFSequence(FileSequence):
    """Read a TIFF sequence, each file for itself: no other one that it names."""

    def _load(self, path: str) -> Array:
        try:
            import tifffile
        except ImportError:
            raise PipelineImportError(
                "TIFF files are read by tifffile, which is not installed: pip install bluesky-pipeline[frames]."
            ) from None
        with tifffile.TiffFile(path, is_ome=False, is_mmstack=False, is_ndtiff=False) as file:
            self._check(file.pages.first, path)
            return file.asarray()

    def _check(self, page: Any, path: str) -> None:
        """Refuse a page that says to be larger than what one event has: it would be read until memory is full."""
        sizes = self._shape.shape
        wanted = math.prod(n or 0 for n in sizes) if None not in sizes else page.size
        if page.size > wanted or len(page.dataoffsets) > page.size:
            raise OSError(f"{path}: wanted at most {wanted} numbers, a page has {page.size}")


class NPYSequence(FileSequence):
    """Read a sequence of .npy files, as ophyd.sim's image devices write it."""

    def _compiled(self, parameters: Mapping[str, Any]) -> str:
        return "_{:d}.npy" if not parameters.get("template") else super()._compiled(parameters)

    def _load(self, path: str) -> Array:
        with open(path, "rb") as file:
            return numpy.lib.format.read_array(file, allow_pickle=False)

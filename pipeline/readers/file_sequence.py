"""Rows that are files: a TIFF or NPY sequence."""

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy

from pipeline.errors import PipelineImportError, PipelineOSError, PipelineValueError
from pipeline.readers.roots import Roots
from pipeline.readers.row_shape import RowShape

Array = numpy.ndarray


class FileSequence:
    """Read values that are in files of their own: one or more for each event, as their first one tells.

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
        try:
            self._name(0)
        except (ValueError, IndexError, KeyError, AttributeError):
            raise PipelineValueError(
                f"{path}: wanted a template with one number, '{{:05d}}.tif'; there is {self._template!r}."
            ) from None

    def _compiled(self, parameters: Mapping[str, Any]) -> str:
        from bluesky_tiled_plugins.utils import compile_template

        return compile_template(str(parameters.get("template", "")), str(parameters.get("filename", "")))

    def _name(self, number: int) -> str:
        if self._template.count("{") != 1 or not self._template.partition("{")[2].startswith(":"):
            raise ValueError(self._template)
        tail = self._template.format(number)
        return self._path + (tail.lstrip("/") if self._path.endswith("/") else tail)

    def read(self, start: int, stop: int) -> Array:
        """Return the values of these events: fewer than wanted, or none, if there are no more yet."""
        rows = []
        for index in range(start, stop):
            if not all(map(os.path.exists, self._names(index))):
                break
            rows.append(self._row(index))
        return numpy.stack(rows) if rows else numpy.empty((0,))

    def _names(self, index: int) -> list[str]:
        per_event = self._per_event or 1
        names = [self._name(number) for number in range(index * per_event, (index + 1) * per_event)]
        return [self._roots.checked(os.path.normpath(name)) for name in names]

    def _row(self, index: int) -> Array:
        if self._per_event is None:
            self._per_event = self._count(self._load(self._names(0)[0] if index == 0 else self._names(index)[0]))
        parts = [self._load(name) for name in self._names(index)]
        joined = parts[0] if len(parts) == 1 else numpy.stack(parts)
        shape = self._shape.shape
        sizes = [n or size for n, size in zip(shape, joined.shape, strict=False)]
        if len(sizes) != len(shape) or math.prod(sizes) != joined.size:
            sizes = [n or 1 for n in shape]
        if math.prod(sizes) != joined.size:
            raise PipelineOSError(f"wanted the shape {list(shape)} in {self._names(index)}, there is {joined.shape}")
        return joined.reshape(sizes)

    def _count(self, first: Array) -> int:
        """Return how many files like the first one make the value of an event."""
        size = numpy.prod([n or 1 for n in self._shape.shape], dtype=numpy.int64)
        return max(1, int(size) // max(1, first.size)) if None not in self._shape.shape else 1

    def _load(self, path: str) -> Array:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open between two reads."""


class TIFFSequence(FileSequence):
    """Read a TIFF sequence."""

    def _load(self, path: str) -> Array:
        try:
            import tifffile
        except ImportError:
            raise PipelineImportError(
                "TIFF files are read by tifffile, which is not installed: pip install bluesky-pipeline[frames]."
            ) from None
        return _whole(tifffile.imread, path)


class NPYSequence(FileSequence):
    """Read a sequence of .npy files, as ophyd.sim's image devices write it."""

    def _compiled(self, parameters: Mapping[str, Any]) -> str:
        return "_{:d}.npy" if not parameters.get("template") else super()._compiled(parameters)

    def _load(self, path: str) -> Array:
        return _whole(lambda name: numpy.load(name, allow_pickle=False), path)


def _whole(load: Any, path: str) -> Array:
    """Return what is in a file; one that is being written yet is an OSError, which may pass."""
    try:
        return load(path)
    except (ValueError, EOFError, KeyError, IndexError, TypeError) as error:
        raise OSError(f"{path} is no whole file of its kind: {error}") from None

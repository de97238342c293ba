"""Rows of a zarr array, also while it is written."""

from collections.abc import Mapping
from typing import Any

import numpy

from pipeline.errors import PipelineImportError, PipelineOSError
from pipeline.readers.roots import Roots
from pipeline.readers.row_shape import RowShape

Array = numpy.ndarray


class ZarrReader:
    """Read rows of a zarr array in a folder, also while it grows.

    A chunk that is not there is what the array says of such ones, usually zeros: zarr leaves chunks of these out, and
    nothing tells them from those that were lost.

    Parameters
    ----------
    path
        Of the folder.
    shape
        What one event has of it.
    parameters
        `dataset` (or `path`), the array within the folder; the folder itself by default.
    roots
        Where files may be read.
    """

    def __init__(self, path: str, shape: RowShape, parameters: Mapping[str, Any], roots: Roots) -> None:
        self._path, self._shape, self._roots = path, shape, roots
        self._name = str(parameters.get("dataset") or parameters.get("path") or "").strip("/")
        if ".." in self._name.split("/"):
            raise PipelineOSError(f"{path}: wanted an array within the folder, there is {self._name!r}")
        self._array = self._open()

    def _open(self) -> Any:
        try:
            import zarr
            import zarr.errors
        except ImportError:
            raise PipelineImportError(
                "zarr arrays are read by zarr, which is not installed: pip install bluesky-pipeline[frames]."
            ) from None
        try:
            array = zarr.open_array(_store(self._path, self._roots), path=self._name, mode="r")
        except zarr.errors.NodeTypeValidationError:
            raise PipelineOSError(f"{self._path}: wanted an array at {self._name!r}, there is a group") from None
        if not array.shape or array.dtype.kind not in "biufc":
            raise PipelineOSError(
                f"{self._path}: wanted an array of numbers, there is {array.dtype} of shape {list(array.shape)}"
            )
        self._per_event = self._shape.per_event(array.shape)
        return array

    def read(self, start: int, stop: int) -> Array:
        """Return the values of these events: fewer than wanted, or none, if there are no more yet."""
        per = self._per_event or 1
        if stop * per > self._array.shape[0]:
            self._array = self._open()
        stop = min(stop, self._array.shape[0] // per)
        if stop <= start:
            return numpy.empty((0,))
        rows = numpy.asarray(self._array[start * per : stop * per])
        return rows.reshape(stop - start, self._per_event, *rows.shape[1:]) if self._per_event else rows

    def close(self) -> None:
        """Nothing is open between two reads."""


def _store(path: str, roots: Roots) -> Any:
    """Return what reads a folder, and follows no link in it to where none may be read."""
    from zarr.storage import LocalStore

    class Store(LocalStore):
        async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
            roots.checked(str(self.root / key))
            return await super().get(key, *args, **kwargs)

    return Store(path, read_only=True)

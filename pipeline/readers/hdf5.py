"""Rows of an array in an HDF5 file, also while it is written."""

from collections.abc import Mapping
from typing import Any

import numpy

from pipeline.errors import PipelineValueError
from pipeline.readers.hdf5_files import HDF5Files
from pipeline.readers.hdf5_links import find_dataset
from pipeline.readers.hdf5_parts import HDF5Parts
from pipeline.readers.roots import Roots
from pipeline.readers.row_shape import RowShape

Array = numpy.ndarray

SAMPLED = 997  # every which value is looked at first


class HDF5Reader:
    """Read rows of a dataset of an HDF5 file, also while it is written (single writer, multiple readers).

    Its writer is never disturbed: no lock is taken. Links to other files are followed where the files may be read,
    moved ones to where they are now; the sources of a virtual dataset are where it says. Rows whose chunk was never
    written, or whose source is not there, are not there: HDF5 would give zeros for them.

    Values are in the byte order of this machine.

    Parameters
    ----------
    path
        Of the file.
    shape
        What one event has of it.
    parameters
        `dataset`, the path within the file: that of area detectors by default. `swmr`: False for a file that is not
        to be followed.
    roots
        Where files may be read.

    Raises
    ------
    OSError, KeyError
        If there is no such file or dataset yet.
    PipelineError
        If what is there is not what was told, or must not be read.
    """

    def __init__(self, path: str, shape: RowShape, parameters: Mapping[str, Any], roots: Roots) -> None:
        odd = sorted(key for key in ("slice", "squeeze") if parameters.get(key))
        if odd:
            raise PipelineValueError(f"{path}: a stream_resource with {odd[0]!r} cannot be read; wanted whole rows.")
        self._path, self._shape, self._roots = path, shape, roots
        self._name = str(parameters.get("dataset") or parameters.get("path") or "/entry/data/data")
        self._files = HDF5Files(follow=bool(parameters.get("swmr", True)))
        self._open()

    def _open(self) -> None:
        self.close()
        try:
            self._dataset, path = find_dataset(self._files, self._path, self._name, self._roots.here)
            self._parts = HDF5Parts(self._dataset, path, self._files, self._roots)
            self._per_event = self._shape.per_event(self._dataset.shape)
        except BaseException:
            self.close()
            raise

    def read(self, start: int, stop: int) -> Array:
        """Return the values of these events: fewer than wanted, or none, if there are no more yet."""
        per = self._per_event or 1
        stop = min(stop, self._n_rows(stop * per) // per)
        if stop <= start:
            if self._parts.lack:
                raise OSError(self._parts.lack)
            return numpy.empty((0,), self._dataset.dtype)
        rows = numpy.empty(((stop - start) * per, *self._dataset.shape[1:]), self._dataset.dtype.newbyteorder("="))
        self._dataset.read_direct(rows, numpy.s_[start * per : stop * per])
        if self._files.are_changed:
            raise OSError(f"{self._path} was written to while it was read")
        stop = start + self._n_written(rows, start * per) // per
        if stop <= start:
            raise OSError(f"{self._path}: row {start * per} of {self._name!r} was never written")
        rows = rows[: (stop - start) * per]
        return rows.reshape(stop - start, self._per_event, *rows.shape[1:]) if self._per_event else rows

    def _n_rows(self, wanted: int) -> int:
        """Return how many rows there are by now."""
        is_short = wanted > min(len(self._dataset), self._parts.n_rows)
        if self._files.are_changed or (is_short and self._dataset.is_virtual):
            self._open()
        elif is_short:
            self._dataset.refresh()
        return min(len(self._dataset), self._parts.n_rows) if self._dataset.is_virtual else len(self._dataset)

    def _n_written(self, rows: Array, first: int) -> int:
        """Return how many of these rows, from the first on, were written: a chunk that was not is read as its fill."""
        size, fill = (self._dataset.chunks or (0,))[0], self._dataset.fillvalue
        if not size or not rows.size:
            return len(rows)
        for chunk in range(first // size * size, first + len(rows), size):
            part, place = rows[max(0, chunk - first) : chunk + size - first], (chunk, *(0,) * (rows.ndim - 1))
            if _is_all(part, fill) and self._dataset.id.get_chunk_info_by_coord(place).byte_offset is None:
                return max(0, chunk - first)
        return len(rows)

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def _is_all(rows: Array, fill: Any) -> bool:
    """Tell whether rows have this value everywhere; most have another among the first that are looked at."""
    values = rows.reshape(-1)
    return all(bool(((part == fill) | ((part != part) & (fill != fill))).all()) for part in (values[::SAMPLED], values))

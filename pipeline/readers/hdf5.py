"""Rows of an array in an HDF5 file, also while it is written."""

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy

from pipeline.errors import PipelineImportError, PipelineOSError, PipelineValueError
from pipeline.readers.roots import Roots
from pipeline.readers.row_shape import RowShape

Array = numpy.ndarray

MAX_LINKS = 16  # from one to the next
MAX_CACHE = 256 * 2**20  # bytes of one chunk that is kept, so that its rows are decompressed once


class HDF5Reader:
    """Read rows of a dataset of an HDF5 file, also while it is written (single writer, multiple readers).

    Links to other files and virtual datasets are followed where the files may be read, moved ones to where they are
    now. A virtual dataset whose sources are not all there is refused: HDF5 would give zeros for them.

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
        self._roots, self._files = roots, []
        self._swmr = bool(parameters.get("swmr", True))
        name = parameters.get("dataset") or parameters.get("path") or "/entry/data/data"
        try:
            self._dataset = self._find(path, str(name))
            self._check_sources()
            self._per_event = shape.per_event(self._dataset.shape)
        except BaseException:
            self.close()
            raise

    def read(self, start: int, stop: int) -> Array:
        """Return the values of these events: fewer than wanted, or none, if there are no more yet."""
        per = self._per_event or 1
        if stop * per > len(self._dataset):
            self._dataset.id.refresh()
        stop = min(stop, len(self._dataset) // per)
        if stop <= start:
            return numpy.empty((0,), self._dataset.dtype)
        rows = numpy.empty(((stop - start) * per, *self._dataset.shape[1:]), self._dataset.dtype)
        self._dataset.read_direct(rows, numpy.s_[start * per : stop * per])
        return rows.reshape(stop - start, self._per_event, *rows.shape[1:]) if self._per_event else rows

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
        self._files = []

    # to the dataset, link by link

    def _find(self, path: str, name: str, n_links: int = 0) -> Any:
        import h5py

        if n_links > MAX_LINKS:
            raise PipelineOSError(f"{path}: more than {MAX_LINKS} links lead from one to the next")
        place = self._open(path)
        names = [part for part in name.split("/") if part]
        for i, part in enumerate(names):
            link = place.get(part, getlink=True)
            rest = "/".join(names[i + 1 :])
            if isinstance(link, h5py.ExternalLink):
                return self._find(self._beside(path, link.filename), f"{link.path}/{rest}", n_links + 1)
            if isinstance(link, h5py.SoftLink):
                head = link.path if link.path.startswith("/") else f"{place.name}/{link.path}"
                return self._find(path, f"{head}/{rest}", n_links + 1)
            if i < len(names) - 1:
                place = place[part]
        return self._dataset_of(place, names, path)

    def _dataset_of(self, group: Any, names: list[str], path: str) -> Any:
        import h5py

        access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
        access.set_virtual_view(h5py.h5d.VDS_FIRST_MISSING)  # what all its sources have
        found = group[names[-1]] if names else group
        if not isinstance(found, h5py.Dataset):
            raise PipelineOSError(f"{path}: wanted a dataset at {'/'.join(names)!r}, there is a group")
        chunk = numpy.prod(found.chunks or (0,), dtype=float) * found.dtype.itemsize
        if found.chunks and found.chunks[0] > 1 and chunk <= MAX_CACHE:
            access.set_chunk_cache(521, max(int(chunk), 2**20), 1.0)
        dataset = h5py.Dataset(h5py.h5d.open(group.id, names[-1].encode(), access))
        if dataset.ndim == 0 or dataset.dtype.hasobject:
            raise PipelineOSError(f"{path}: wanted an array of numbers at {'/'.join(names)!r}, there is {dataset}")
        return dataset

    def _open(self, path: str) -> Any:
        h5py = _h5py()
        if not os.path.exists(path):
            raise FileNotFoundError(f"there is no file {path}")
        try:
            file = h5py.File(path, "r", libver="latest", swmr=self._swmr)
        except OSError:
            if not self._swmr:
                raise
            file = h5py.File(path, "r")
        self._files.append(file)
        return file

    def _check_sources(self) -> None:
        """Refuse an array whose parts are in files that must not be read, or are not there."""
        path = self._dataset.file.filename
        for name, _, _ in self._dataset.external or ():
            self._roots.checked(os.path.join(os.path.dirname(path), name))
        for source in self._dataset.virtual_sources() if self._dataset.is_virtual else ():
            if source.file_name != "." and "%" not in source.file_name:
                there = os.path.join(os.path.dirname(path), source.file_name)
                if not os.path.exists(self._roots.checked(there)):
                    raise FileNotFoundError(f"a source of the virtual dataset is not there: {there}")

    def _beside(self, path: str, name: str) -> str:
        return self._roots.path(name if os.path.isabs(name) else os.path.join(os.path.dirname(path), name))


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise PipelineImportError(
            "HDF5 files are read by h5py, which is not installed: pip install bluesky-pipeline[frames]."
        ) from None
    with suppress(ImportError):
        import hdf5plugin  # noqa: F401 - registers the filters that detectors compress with
    return h5py

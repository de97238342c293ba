"""HDF5 files of rows, that others may read while one writes (single writer, multiple readers)."""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from pipeline.documents import Document
from pipeline.errors import PipelineImportError

FORMAT = "v110", "v110"  # of HDF5 1.10, the first that can be read while it is written: by all readers since
WHOLE = ".is_whole"  # a dataset: nothing more will come. No group has a name that begins with a dot
MAX_CHUNK = 2**31  # bytes: HDF5 takes less than 2**32
PATIENCE = 2.0  # seconds
FAULTS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)  # of h5py, where a file is damaged


class Layout(NamedTuple):
    """What datasets of rows there are: in which group, and of each the shape and dtype of a row, and its units.

    >>> Layout.of("final", {"x": {"shape": [2], "dtype_numpy": "<f8", "units": "mm"}}).rows
    {'x': ((2,), dtype('float64'))}
    """

    group: str
    rows: dict[str, tuple[tuple[int, ...], numpy.dtype]]
    units: dict[str, str]

    @classmethod
    def of(cls, group: str, data_keys: Mapping[str, Document]) -> "Layout":
        """Return the layout of these data keys."""
        rows = {key: (tuple(each["shape"]), numpy.dtype(each["dtype_numpy"])) for key, each in data_keys.items()}
        units = {key: each["units"] for key, each in data_keys.items() if isinstance(each.get("units"), str)}
        return cls(group, rows, units)

    def is_of(self, file: Any) -> bool:
        """Tell whether a file has these datasets and no others."""
        there = {key: (each.shape[1:], each.dtype) for key, each in file[self.group].items()}
        return there == self.rows


def h5py() -> Any:
    """Return h5py.

    Raises
    ------
    PipelineImportError
        If it is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise PipelineImportError(
            "Large arrays are in files of HDF5, for which h5py is not installed: pip install bluesky-pipeline[files]."
        ) from None
    return h5py


def make_file(path: Path, layout: Layout, digest: str, compression: str | None) -> Any:
    """Return a new file without rows, open for writing; it has its name when it can be read.

    Parameters
    ----------
    path
        Of the file.
    layout
        What it holds.
    digest
        Of the start document, its attribute `start_sha256`.
    compression
        As h5py takes it.
    """
    new = path.with_name(f".{path.name}.new")
    file = h5py().File(new, "w", libver=FORMAT)
    try:
        file.attrs["start_sha256"] = digest
        file.create_dataset(WHOLE, data=numpy.uint8(0))
        group = file.create_group(layout.group)
        for key, (shape, dtype) in layout.rows.items():
            chunks = (1, *_chunk(shape, dtype.itemsize))
            dataset = group.create_dataset(
                key, (0, *shape), dtype, maxshape=(None, *shape), chunks=chunks, compression=compression
            )
            if key in layout.units:
                dataset.attrs["units"] = layout.units[key]
        file.swmr_mode = True
        os.rename(new, path)
    except BaseException:
        with contextlib.suppress(*FAULTS):
            file.close()
        raise
    return file


def open_for_reading(path: Path) -> Any:
    """Return a file that nobody else writes to."""
    return _opened(path, swmr=False)


def follow_file(path: Path) -> Any:
    """Return a file that somebody may be writing to, or was killed while doing so."""
    return _opened(path, swmr=True)


def _opened(path: Path, *, swmr: bool) -> Any:
    try:
        return h5py().File(path, "r", libver=FORMAT, swmr=swmr)
    except OSError:
        if not is_open_here(path):
            raise
        return h5py().File(path, "r", libver=FORMAT, swmr=not swmr)  # as who has it open: HDF5 wants all alike


def is_open_here(path: Path) -> bool:
    """Tell whether this process has a file open, by HDF5."""
    low = h5py()
    with contextlib.suppress(OSError):
        names = [low.h5f.get_name(each) for each in low.h5f.get_obj_ids(low.h5f.OBJ_ALL, low.h5f.OBJ_FILE)]
        return any(os.path.exists(name) and os.path.samefile(name, path) for name in names)
    return False


def open_for_writing(path: Path) -> Any:
    """Return a file that is there, open for writing rows; who reads does not notice.

    Not h5py's `"r+"`, which is for a moment a file that nobody else may read. One that somebody reads as if nobody ever
    wrote to it is waited for.
    """
    low = h5py()
    access = low.h5p.create(low.h5p.FILE_ACCESS)
    access.set_libver_bounds(low.h5f.LIBVER_V110, low.h5f.LIBVER_V110)
    access.set_fclose_degree(low.h5f.CLOSE_STRONG)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return low.File(low.h5f.open(os.fsencode(path), low.h5f.ACC_RDWR | low.h5f.ACC_SWMR_WRITE, access))
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def shorten(path: Path, group: str, rows: Mapping[str, int]) -> None:
    """Take away what datasets have beyond so many rows, in a file that nobody writes to."""
    with h5py().File(path, "r+", libver=FORMAT) as file:
        for key, n in rows.items():
            file[group][key].resize(min(n, len(file[group][key])), 0)


def add_row(dataset: Any, i: int, row: numpy.ndarray) -> None:
    """Write row number `i`, which is contiguous and of the dataset's dtype, without a copy."""
    if len(dataset) <= i:
        dataset.resize(i + 1, 0)
    if dataset.chunks == (1, *row.shape) and dataset.compression is None:
        dataset.id.write_direct_chunk((i, *(0,) * row.ndim), row)
    else:
        dataset[i] = row


def n_whole_rows(dataset: Any) -> int:
    """Return how many rows a dataset has, up to the first that was never written."""
    n_chunks = int(numpy.prod([-(-n // m) for n, m in zip(dataset.shape[1:], dataset.chunks[1:], strict=True)]))
    found = numpy.zeros(len(dataset) + 1, int)
    dataset.id.chunk_iter(lambda chunk: _count(found, chunk.chunk_offset[0]))
    return int(numpy.argmin(found == n_chunks))


def _count(found: numpy.ndarray, row: int) -> None:
    if row < len(found) - 1:
        found[row] += 1


def _chunk(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the shape of a chunk: that of a row, unless HDF5 holds none so large.

    >>> _chunk((4, 5), 8), _chunk((2**16, 2**16), 8)
    ((4, 5), (4096, 65536))
    """
    chunk = list(shape)
    while numpy.prod(chunk, dtype=object) * itemsize > MAX_CHUNK:
        axis = next(i for i, n in enumerate(chunk) if n > 1)
        chunk[axis] = -(-chunk[axis] // 2)
    return tuple(chunk)

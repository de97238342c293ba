"""What of an HDF5 array is elsewhere: the sources of a virtual dataset, raw files."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.errors import PipelineError, PipelineOSError
from pipeline.readers.hdf5_files import HDF5Files
from pipeline.readers.hdf5_links import MAX_LINKS, find_dataset
from pipeline.readers.roots import Roots
from pipeline.readers.slab import Slab, rows_there


class HDF5Parts:
    """Know how many rows of an array are there with all their parts: for what is not, HDF5 gives zeros.

    The parts have to be where the file says: HDF5 looks for them there by itself.

    Parameters
    ----------
    dataset
        The array.
    path
        Of its file.
    files
        Opens files.
    roots
        Where files may be read.
    depth
        How many virtual datasets it is a part of.

    Attributes
    ----------
    n_rows
        How many rows there are, from the first on.
    lack
        What the one after them lacks, in words; nothing if the array has no more.

    Raises
    ------
    PipelineOSError
        If a part must not be read.
    OSError
        If a raw file is not whole.
    """

    def __init__(self, dataset: Any, path: str, files: HDF5Files, roots: Roots, depth: int = 0) -> None:
        if depth > MAX_LINKS:
            raise PipelineOSError(f"{path}: more than {MAX_LINKS} virtual datasets, each a part of the one before")
        self._path, self._files, self._roots, self._depth = path, files, roots, depth
        # Nothing is asked of the array before: to know its shape, HDF5 opens its sources.
        found = [self._sources(each) for each in dataset.virtual_sources()] if dataset.is_virtual else []
        if not dataset.shape:
            raise PipelineOSError(f"{path}: wanted an array of numbers, there is the shape {dataset.shape}")
        self.n_rows, self.lack = len(dataset), ""
        self._check_raw(dataset)
        for sources, mapping in zip(found, dataset.virtual_sources() if found else (), strict=True):
            self._count(sources, Slab.of(mapping.vspace), Slab.of(mapping.src_space))

    def _check_raw(self, dataset: Any) -> None:
        if dataset.external and self._depth:
            raise PipelineOSError(f"{self._path}: wanted a source of a virtual dataset, there is one in raw files")
        n_bytes = dataset.size * dataset.dtype.itemsize
        for name, offset, size in dataset.external or ():
            raw = self._roots.checked(os.path.join(os.path.dirname(self._path), name))
            wanted = offset + min(size, n_bytes)
            if os.path.getsize(raw) < wanted:
                raise OSError(f"{raw}: wanted {wanted} bytes, there are {os.path.getsize(raw)}")
            n_bytes -= min(size, n_bytes)

    def _sources(self, mapping: Any) -> list["_Source"]:
        """Return the sources of a mapping: one for each block, up to one that is not there, if their names count."""
        names = mapping.file_name, mapping.dset_name
        if not any("%b" in name.replace("%%", "") for name in names):
            return [self._source(*(name.replace("%%", "%") for name in names))]
        sources: list[_Source] = []
        while not (sources and sources[-1].shape is None):
            i = str(len(sources))
            sources.append(self._source(*(_counted(name, i) for name in names)))
        return sources

    def _source(self, file: str, name: str) -> "_Source":
        try:
            found, path = find_dataset(self._files, self._place(file), name, self._roots.checked)
            there = HDF5Parts(found, path, self._files, self._roots, self._depth + 1)
        except PipelineError:
            raise
        except (OSError, KeyError) as error:
            return _Source(None, str(error.args[0]))
        lack = there.lack or f"{path}: wanted more of {name!r}, there is the shape {found.shape}"
        return _Source((there.n_rows, *found.shape[1:]), lack)

    def _count(self, sources: Sequence["_Source"], rows: Slab, of: Slab) -> None:
        """Count the rows that have these sources, each a block of rows, or one all of them."""
        for i, source in enumerate(sources):
            block = rows.block(i) if len(sources) > 1 else rows
            taken = of if of.starts else block.at_zero()  # of numbered sources, HDF5 does not always tell
            n_rows = block.start if source.shape is None else rows_there(block, taken, source.shape)
            if n_rows < self.n_rows:
                self.n_rows, self.lack = n_rows, source.lack

    def _place(self, name: str) -> str:
        """Return where HDF5 looks for a source: beside the file, if it is not where its whole path says."""
        if name == ".":
            return self._path
        if os.path.isabs(name) and not os.path.exists(name):
            name = os.path.basename(name)
        return self._roots.checked(os.path.join(os.path.dirname(self._path), name))


class _Source(NamedTuple):
    """A source of a virtual dataset: the shape that is there, if it is there, and what lacks then."""

    shape: tuple[int, ...] | None
    lack: str


def _counted(name: str, i: str) -> str:
    return name.replace("%%", "\0").replace("%b", i).replace("\0", "%")


def check_file(path: str, roots: Roots) -> None:
    """Refuse a file, if it is one of HDF5, of which something is elsewhere, where none may be read.

    Raises
    ------
    PipelineOSError
        If there is such a link or part in it: whoever reads it by himself would follow.
    """
    import h5py
    import h5py.h5l as h5l

    if not h5py.is_hdf5(path):
        return
    files, found = HDF5Files(), []
    try:
        file = files.open(path)
        file.id.links.visit(lambda name, info: found.append((name, info.type)), info=True)
        for name, kind in found:
            if kind == h5l.TYPE_EXTERNAL:
                roots.checked(os.path.join(os.path.dirname(path), os.fsdecode(file.id.links.get_val(name)[0])))
            elif kind == h5l.TYPE_HARD and isinstance(file[name], h5py.Dataset):
                HDF5Parts(file[name], path, files, roots)
    finally:
        files.close()

"""What of an HDF5 array is elsewhere: the sources of a virtual dataset, raw files."""

import itertools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from pipeline.errors import PipelineError, PipelineOSError
from pipeline.readers.hdf5_files import HDF5Files
from pipeline.readers.hdf5_links import MAX_LINKS, find_dataset
from pipeline.readers.roots import Roots

ENDLESS = 2**63


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
        self.n_rows, self.lack = len(dataset), ""
        self._path, self._files, self._roots, self._depth = path, files, roots, depth
        self._check_raw(dataset)
        for source in dataset.virtual_sources() if dataset.is_virtual else ():
            for part in self._parts(source):
                self._count(part)

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

    def _parts(self, source: Any) -> Iterator["_Part"]:
        """Return the parts that a mapping tells of: one for each block, if their names count blocks."""
        names = source.file_name, source.dset_name
        rows, of = Slab.of(source.vspace), Slab.of(source.src_space)
        if not any("%b" in name.replace("%%", "") for name in names):
            file, name = (name.replace("%%", "%") for name in names)
            yield _Part(file, name, rows, of)
            return
        for i in itertools.count():
            file, name = (name.replace("%%", "\0").replace("%b", str(i)).replace("\0", "%") for name in names)
            if rows.block(i).start >= self.n_rows:
                return
            yield _Part(file, name, rows.block(i), of)

    def _count(self, part: "_Part") -> None:
        try:
            found, path = find_dataset(self._files, self._place(part.file), part.name, self._roots.checked)
            there = HDF5Parts(found, path, self._files, self._roots, self._depth + 1)
        except PipelineError:
            raise
        except (OSError, KeyError) as error:
            n_rows, lack = part.rows.start, str(error.args[0])
        else:
            n_rows = part.n_rows((there.n_rows, *found.shape[1:]))
            lack = there.lack or f"{path}: wanted more of {part.name!r}, there is shape {found.shape}"
        if n_rows < self.n_rows:
            self.n_rows, self.lack = n_rows, lack

    def _place(self, name: str) -> str:
        """Return where HDF5 looks for a source: beside the file, if it is not where its whole path says."""
        if name == ".":
            return self._path
        if os.path.isabs(name) and not os.path.exists(name):
            name = os.path.basename(name)
        return self._roots.checked(os.path.join(os.path.dirname(self._path), name))


class Slab(NamedTuple):
    """What a mapping takes of an array, by axis: as HDF5 says it."""

    starts: tuple[int, ...]
    strides: tuple[int, ...]
    counts: tuple[int, ...]
    blocks: tuple[int, ...]

    @classmethod
    def of(cls, space: Any) -> "Slab":
        """Return what is selected of a dataspace; of what is irregular, all between its bounds."""
        import h5py

        ones = (1,) * len(space.shape)
        kind = space.get_select_type()
        if kind == h5py.h5s.SEL_ALL:
            return cls((0,) * len(ones), ones, space.shape, ones)
        if kind == h5py.h5s.SEL_HYPERSLABS and space.is_regular_hyperslab():
            return cls(*space.get_regular_hyperslab())
        starts, ends = space.get_select_bounds()
        return cls(starts, ones, ones, tuple(end - start + 1 for start, end in zip(starts, ends, strict=True)))

    @property
    def start(self) -> int:
        """The first row."""
        return self.starts[0]

    @property
    def n_rows(self) -> int:
        """How many rows."""
        return self.counts[0] * self.blocks[0]

    @property
    def ends(self) -> tuple[int, ...]:
        """What follows the last, by axis."""
        axes = zip(*self, strict=True)
        return tuple(start + (count - 1) * stride + block for start, stride, count, block in axes)

    def block(self, i: int) -> "Slab":
        """Return the i-th block of rows alone."""
        start = self.start + i * self.strides[0]
        return self._replace(starts=(start, *self.starts[1:]), counts=(1, *self.counts[1:]))

    def n_before(self, row: int) -> int:
        """Return how many of its rows are before this one."""
        n_blocks, rest = divmod(max(0, row - self.start), self.strides[0])
        return min(self.n_rows, n_blocks * self.blocks[0] + min(rest, self.blocks[0]))

    def row(self, n: int) -> int:
        """Return its n-th row."""
        n_blocks, rest = divmod(n, self.blocks[0])
        return self.start + n_blocks * self.strides[0] + rest


class _Part(NamedTuple):
    """Rows of a virtual dataset, and of which dataset in which file they are."""

    file: str
    name: str
    rows: Slab
    of: Slab

    def n_rows(self, there: tuple[int, ...]) -> int:
        """Return up to which row of the virtual dataset an array of this shape goes."""
        if len(there) != len(self.of.starts):
            return self.rows.start
        if max(*self.rows.counts, *self.of.counts) >= ENDLESS:  # how far it goes says HDF5
            return ENDLESS
        if any(end > n for end, n in zip(self.of.ends[1:], there[1:], strict=True)):
            return self.rows.start
        if self.of.ends[0] <= there[0]:
            return ENDLESS
        n = self.of.n_before(there[0])
        return self.rows.row(n) if self.rows.n_rows == self.of.n_rows else self.rows.start

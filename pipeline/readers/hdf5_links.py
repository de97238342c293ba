"""From the name of an array in an HDF5 file to the array, link by link."""

import os
from collections.abc import Callable
from typing import Any

import numpy

from pipeline.errors import PipelineOSError
from pipeline.readers.hdf5_files import HDF5Files

MAX_LINKS = 16  # from one to the next
MAX_CACHE = 256 * 2**20  # bytes of one chunk that is kept, so that its rows are decompressed once
SHOWN = 20  # names that an error tells of


def find_dataset(
    files: HDF5Files, path: str, name: str, allowed: Callable[[str], str], n_links: int = 0
) -> tuple[Any, str]:
    """Return an open dataset, and the file that it is in.

    HDF5 would follow links to other files by itself, whether or not they may be read.

    Parameters
    ----------
    files
        Opens files.
    path, name
        Of the file, and of the dataset in it.
    allowed
        Returns where a file is that a link leads to, or refuses it.
    n_links
        How many links led here.

    Raises
    ------
    OSError, KeyError
        If there is none yet.
    PipelineOSError
        If it is no array of numbers, or links lead nowhere.
    """

    if n_links > MAX_LINKS:
        raise PipelineOSError(f"{path}: more than {MAX_LINKS} links lead from one to the next")
    place = files.open(path)
    names = [part for part in name.split("/") if part not in ("", ".")]
    for i, part in enumerate(names):
        file, head = _link(place, part, path)
        if head is not None:
            there = path if file is None else allowed(os.path.join(os.path.dirname(path), file))
            return find_dataset(files, there, "/".join([head, *names[i + 1 :]]), allowed, n_links + 1)
        place = place[part]
    return _opened(place, path), path


def _link(place: Any, part: str, path: str) -> tuple[str | None, str | None]:
    """Return to which file and name a link leads; None, if it is in the same one, or is no link.

    It is not followed: to ask a group of h5py whether it has a name is to follow it.
    """
    import h5py
    import h5py.h5l as h5l

    if not isinstance(place, h5py.Group):
        raise PipelineOSError(f"{path}: wanted a group at {place.name!r}, there is an array")
    links, name = place.id.links, part.encode()
    if not links.exists(name):
        raise KeyError(f"{path}: wanted {part!r} in {place.name!r}, there are {[*place][:SHOWN]}")
    kind = links.get_info(name).type
    if kind == h5l.TYPE_HARD:
        return None, None
    if kind == h5l.TYPE_SOFT:
        head = os.fsdecode(links.get_val(name))
        return None, head if head.startswith("/") else f"{place.name}/{head}"
    if kind == h5l.TYPE_EXTERNAL:
        file, head = map(os.fsdecode, links.get_val(name))
        return file, head
    raise PipelineOSError(f"{path}: wanted a link of HDF5 at {part!r} in {place.name!r}, there is one of its user")


def _opened(found: Any, path: str) -> Any:
    """Return a dataset as it is read here: virtual parts as far as they go, raw files beside its own.

    Its shape is not asked for: to know it, HDF5 may open the sources of a virtual dataset.
    """
    import h5py

    if not isinstance(found, h5py.Dataset):
        kind = "group" if isinstance(found, h5py.Group) else "type"
        raise PipelineOSError(f"{path}: wanted an array at {found.name!r}, there is a {kind}")
    if found.dtype.kind not in "biufc":
        raise PipelineOSError(f"{path}: wanted an array of numbers at {found.name!r}, there is {found.dtype}")
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_virtual_view(h5py.h5d.VDS_FIRST_MISSING)
    if found.external:
        access.set_efile_prefix(os.fsencode(os.path.dirname(path)))
    chunk = numpy.prod(found.chunks or (0,), dtype=float) * found.dtype.itemsize
    if found.chunks and found.chunks[0] > 1 and chunk <= MAX_CACHE:
        access.set_chunk_cache(521, max(int(chunk), 2**20), 1.0)
    file, name = found.file.id, str(found.name).encode()
    found.id.close()  # HDF5 refuses to open it in two ways at a time
    return h5py.Dataset(h5py.h5d.open(file, name, access))

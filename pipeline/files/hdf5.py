"""HDF5 files that lead nowhere else: what is in them, as arrays and facts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy

from pipeline.documents import Document
from pipeline.errors import PipelineOSError, PipelineTypeError, PipelineValueError
from pipeline.files.column import ragged
from pipeline.files.formats import require

_MAX_LINKS = 32
_HIDDEN = {"units", "long_name", "standard_name", "description"}


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file to read, after a look at each link and dataset: none leads out of the file.

    Raises
    ------
    PipelineOSError
        If it is no HDF5 file.
    PipelineValueError
        If a link or the data of a dataset lead to another file, or to nothing: it names the place.
    """
    h5py = require("h5py")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise PipelineOSError(f"{path}: wanted an HDF5 file: {error}") from None
    with file:
        _refuse_leads(h5py, path, file)
        yield file


def _refuse_leads(h5py: Any, path: Path, file: Any) -> None:
    seen: set[Any] = set()
    groups = [file["/"]]
    while groups:
        group = groups.pop()
        for name in group:
            place = f"{path}, {group.name.rstrip('/')}/{name}"
            _refuse_link(h5py, group, name, place)
            item = group[name]
            if isinstance(item, h5py.Dataset):
                _refuse_foreign_data(item, place)
            elif isinstance(item, h5py.Group) and h5py.h5o.get_info(item.id).addr not in seen:
                seen.add(h5py.h5o.get_info(item.id).addr)
                groups.append(item)


def _refuse_link(h5py: Any, group: Any, name: str, place: str) -> None:
    """Refuse a link that is not to something in this file, followed step by step."""
    todo = [name]
    for _ in range(_MAX_LINKS):
        while todo and isinstance(_link(group, todo[0], place), h5py.HardLink):
            item = group[todo.pop(0)]
            group = item if isinstance(item, h5py.Group) else group
        if not todo:
            return
        link = _link(group, todo[0], place)
        if not isinstance(link, h5py.SoftLink):
            there = f"{link.filename}:{link.path}" if isinstance(link, h5py.ExternalLink) else type(link).__name__
            raise PipelineValueError(f"{place}: wanted data of this file, there is a link to {there}.")
        group = group.file["/"] if link.path.startswith("/") else group
        todo = [part for part in link.path.split("/") if part not in ("", ".")] + todo[1:]
    raise PipelineValueError(f"{place}: wanted data, there are links without end.")


def _link(group: Any, name: str, place: str) -> Any:
    try:
        link = group.get(name, getlink=True)
    except (KeyError, TypeError):  # a kind of link of a user's own
        link = None
    if link is None:
        raise PipelineValueError(f"{place}: wanted data, there is a link to nothing: {name!r}.")
    return link


def _refuse_foreign_data(dataset: Any, place: str) -> None:
    files = [name for name, *_ in dataset.external or ()]
    if dataset.is_virtual:
        files += [source.file_name for source in dataset.virtual_sources() if source.file_name != "."]
    if files:
        raise PipelineValueError(f"{place}: wanted data of this file, there are those of {files[0]}.")


def items_of(file: Any) -> Iterator[tuple[str, Any]]:
    """Return each group and dataset of an open file, once, with its path."""
    h5py = require("h5py")
    seen: set[Any] = set()
    todo = [("", file["/"])]
    while todo:
        path, item = todo.pop(0)
        key = h5py.h5o.get_info(item.id).addr
        if key in seen:
            continue
        seen.add(key)
        yield path, item
        if isinstance(item, h5py.Group):
            children = [(f"{path}/{name}".lstrip("/"), item[name]) for name in item]
            todo += [child for child in children if isinstance(child[1], h5py.Group | h5py.Dataset)]


def arrays_of(path: str, dataset: Any, place: str) -> dict[str, tuple[numpy.ndarray, Document]]:
    """Return the arrays of a dataset by path, with their attributes: one, or one for each field of a compound.

    Raises
    ------
    PipelineTypeError
        If it holds references, opaque data or the like: it names the place.
    """
    if dataset.shape is None:
        return {}
    attrs = attrs_of(dataset)
    if dataset.dtype.names is None:
        return {path: (_values(dataset, dataset.dtype, f"{place}, {path}"), attrs)}
    whole = dataset[()]
    return {
        f"{path}/{name}": (_converted(whole[name], dataset.dtype[name], f"{place}, {path}/{name}"), {})
        for name in dataset.dtype.names
    }


def _values(dataset: Any, dtype: numpy.dtype, place: str) -> numpy.ndarray:
    try:
        return _converted(dataset[()], dtype, place)
    except OSError as error:
        raise PipelineOSError(f"{place}: cannot be read: {error}") from None


def _converted(values: Any, dtype: numpy.dtype, place: str) -> numpy.ndarray:
    h5py = require("h5py")
    array = numpy.asarray(values)
    if h5py.check_string_dtype(dtype) or dtype.kind == "S":
        texts = [text_of(value) for value in array.ravel().tolist()]
        return numpy.array(texts, object).reshape(array.shape)
    if h5py.check_vlen_dtype(dtype) and array.ndim == 1:
        return ragged(numpy.asarray(row) for row in values)
    if dtype.kind not in "biufc":
        raise PipelineTypeError(f"{place}: wanted numbers, text or lists of numbers, there is {dtype}.")
    return array


def text_of(value: Any) -> Any:
    """Return text as such, of bytes in UTF-8 or Latin-1, as old files have them.

    >>> text_of("Å".encode()), text_of("Å".encode("latin-1"))
    ('Å', 'Å')
    """
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def attrs_of(item: Any) -> Document:
    """Return the attributes of a group or dataset that JSON can hold."""
    h5py = require("h5py")
    found: Document = {}
    for name in item.attrs:
        kind = item.attrs.get_id(name).dtype.kind
        value = item.attrs[name] if kind in "biufSO" else None
        if isinstance(value, numpy.ndarray) and value.dtype.kind in "SO":
            value = [text_of(each) for each in value.ravel().tolist()]
        value = text_of(value.item() if isinstance(value, numpy.generic) else value)
        if not isinstance(value, h5py.Empty | h5py.Reference) and value is not None and _is_plain(value):
            found[name] = value
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, str | int | float | bool) or (isinstance(value, numpy.ndarray) and value.size <= 1024)


def column_attrs(attrs: Document) -> Document:
    """Return the attributes of a dataset that tell of its values, not of its place in the file.

    >>> column_attrs({"units": "mm", "signal": 1})
    {'units': 'mm'}
    """
    return {key: value for key, value in attrs.items() if key in _HIDDEN}

"""NeXus and other HDF5 files: a group of data for each stream."""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy

from pipeline.documents import Document
from pipeline.files.column import Column, kind_of
from pipeline.files.file_name import members, run_stem
from pipeline.files.formats import require
from pipeline.files.groups import name_streams, tables_of
from pipeline.files.hdf5 import arrays_of, attrs_of, column_attrs, items_of, open_hdf5, text_of
from pipeline.files.part import Part, column_of_parts, missing_of, parts_of
from pipeline.files.table import Table, table_of

OWN = "bluesky"
_NO_FACTS = {"default", "NX_class", "signal", "axes", "auxiliary_signals"}


# write -------------------------------------------------------------------------------------------------------------


def write_nexus(directory: Path, start: Document, tables: Sequence[Table]) -> None:
    """Write one NeXus file: an NXdata for each stream, and an NXcollection that gives it back exactly.

    >>> import tempfile
    >>> x = Column("x", ("row",), "number", "<f8", numpy.array([0.5]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_nexus(Path(folder), {"uid": "7f3c"}, [Table("final", [x])])
    ...     tables, start, _ = read_hdf5(Path(folder, "7f3c.nxs"))
    >>> tables[0].name, tables[0].columns[0].values, start
    ('final', array([0.5]), {'uid': '7f3c'})
    """
    path = directory / f"{run_stem(str(start.get('uid')))}.nxs"
    with require("h5py").File(path, "w") as file:
        file.attrs.update({"NX_class": "NXroot", "default": "entry", "creator": "bluesky-pipeline"})
        entry = _group(file, "entry", "NXentry")
        _write_facts(entry, start)
        own = _group(entry, OWN, "NXcollection")
        names = members((table.name for table in tables), entry)
        layouts = [_write_stream(entry, own, names[table.name], table) for table in tables]
        own["start"] = json.dumps(start, allow_nan=False)
        own["layout"] = json.dumps(layouts, allow_nan=False)
        _write_tree(_group(own, "metadata", "NXcollection"), start)
        plots = [name for name in names.values() if name in entry]
        if plots:
            entry.attrs["default"] = "primary" if "primary" in plots else plots[0]


def _group(parent: Any, name: str, nx_class: str) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _write_facts(entry: Any, start: Document) -> None:
    entry["entry_identifier"] = str(start.get("uid"))
    entry["title"] = str(start.get("title") or start.get("plan_name") or start.get("uid"))
    with suppress(TypeError, KeyError, ValueError, OverflowError, OSError):  # a time that no calendar has
        entry["start_time"] = datetime.fromtimestamp(start["time"], UTC).isoformat()


def _write_tree(group: Any, values: Document) -> None:
    """Write nested values as datasets, lists of mixed kinds as JSON."""
    names = members(values)
    for key, value in values.items():
        if isinstance(value, dict):
            _write_tree(_group(group, names[key], "NXcollection"), value)
        elif isinstance(value, int | float | str) and not _is_long(value) and "\0" not in str(value):
            group[names[key]] = value
        else:
            group[names[key]] = json.dumps(value)


def _is_long(value: Any) -> bool:
    return isinstance(value, int) and not -(2**63) <= value < 2**64


def _write_stream(entry: Any, own: Any, name: str, table: Table) -> Document:
    """Write what can be plotted into an NXdata, and all else beside it."""
    layout = table.describe()
    signals = [column for column in table.row_columns if column.kind == "number" and not column.is_coordinate]
    axes = [column for column in table.columns if column.is_coordinate and column.kind in ("number", "time")]
    shown = [*signals, *axes]
    data = _group(entry, name, "NXdata") if signals else None
    rest = _group(own, f"{name}_columns", "NXcollection")
    names = members(column.name for column in shown)
    _write_axes(data, signals, axes, names, table.rows)
    for column, description in zip(table.columns, layout["columns"], strict=True):
        into, stem = (data, names[column.name]) if data and column in shown else (rest, None)
        parts = parts_of(column, f"stream {table.name!r}")
        description["missing"] = missing_of(column)
        description["stored"] = [_write_part(into, stem or _free(rest, column.name), part) for part in parts]
    return layout


def _free(group: Any, name: str) -> str:
    return members([name], group)[name]


def _write_part(group: Any, name: str, part: Part) -> str:
    values = part.values
    dtype = require("h5py").string_dtype() if values.dtype == object else values.dtype
    stored = group.create_dataset(name + part.suffix, data=values, dtype=dtype)
    stored.attrs.update(part.attrs)
    return stored.name


def _write_axes(data: Any, signals: list[Column], axes: list[Column], names: dict[str, str], rows: str) -> None:
    """Tell what is plotted against what, as NXdata has it."""
    if data is None:
        return
    signal = signals[0]
    data.attrs["signal"] = names[signal.name]
    others = [names[each.name] for each in signals[1:] if each.values.shape == signal.values.shape]
    if others:
        data.attrs["auxiliary_signals"] = others
    lines: dict[str, Column] = {}
    for axis in sorted(axes, key=lambda axis: axis.name == rows):  # time, if there is nothing else
        if len(axis.dims) == 1:
            lines.setdefault(axis.dims[0], axis)
    told = [names[lines[dim].name] if dim in lines else "." for dim in signal.dims]
    data.attrs["axes"] = told
    for i, axis in enumerate(told):
        if axis != ".":
            data.attrs[f"{axis}_indices"] = i


# read --------------------------------------------------------------------------------------------------------------


def read_hdf5(path: Path) -> tuple[list[Table], Document | None, Document]:
    """Read an HDF5 file: its streams, the start document if there is one, other facts.

    Each NXdata is a stream, that of the default plot first; without any, the arrays of a group that are equally long.
    Single values and attributes are facts.

    Raises
    ------
    PipelineValueError
        If it leads out of itself, or nothing in it can be a stream: it names the file and the place.
    """
    with open_hdf5(path) as file:
        own = file.get(f"entry/{OWN}")
        if own is not None and "layout" in own and "start" in own:
            return _read_own(path, file, own)
        items = list(items_of(file))
        plots = [each for each in items if _nx_class(each[1]) == "NXdata" and _signal(each[1]) is not None]
        if plots:
            plots.sort(key=lambda each: each[0] != _default(file))
            names = name_streams([group for group, _ in plots])
            return [Table(names[name], _plot(path, group)) for name, group in plots], None, _facts(items)
        tables, _ = tables_of(_arrays(path, items), str(path))
        return tables, None, _facts(items)


def _read_own(path: Path, file: Any, own: Any) -> tuple[list[Table], Document, Document]:
    layouts, start = (json.loads(text_of(own[name][()])) for name in ("layout", "start"))
    return [_own_table(path, file, layout) for layout in layouts], start, {}


def _own_table(path: Path, file: Any, layout: Document) -> Table:
    columns = []
    for description in layout["columns"]:
        arrays = [arrays_of(name, file[name], str(path))[name][0] for name in description["stored"]]
        columns.append(column_of_parts(description, arrays))
    return table_of(layout, columns)


def _facts(items: list[tuple[str, Any]]) -> Document:
    """Return all single values, and the attributes of groups."""
    facts: Document = {}
    for name, item in items:
        if hasattr(item, "keys"):
            found = {key: value for key, value in attrs_of(item).items() if not _tells_of_plot(key)}
            facts.update({f"{name}/{key}".strip("/"): value for key, value in found.items()})
        elif item.size == 1 and item.ndim < 2 and item.dtype.names is None and item.dtype.kind in "biufSO":
            facts[name] = text_of(item[()].item() if isinstance(item[()], numpy.ndarray | numpy.generic) else item[()])
    return facts


def _tells_of_plot(key: str) -> bool:
    return key in _NO_FACTS or key.endswith("_indices")


def _arrays(path: Path, items: list[tuple[str, Any]]) -> dict[str, tuple[numpy.ndarray, Document]]:
    datasets = [(name, item) for name, item in items if not hasattr(item, "keys") and item.ndim]
    arrays = [arrays_of(name, item, str(path)) for name, item in datasets]
    return {key: (values, column_attrs(attrs)) for each in arrays for key, (values, attrs) in each.items()}


def _nx_class(item: Any) -> str:
    return str(text_of(item.attrs.get("NX_class", "")))


def _signal(group: Any) -> str | None:
    """Return the name of what is plotted: by the group's `signal`, or as older files have it by the dataset's."""
    name = text_of(group.attrs.get("signal"))
    old = next((key for key in group if text_of(group[key].attrs.get("signal")) in (1, "1")), None)
    name = name if isinstance(name, str) else old
    return name if name in group and getattr(group[name], "ndim", 0) else None


def _default(file: Any) -> str:
    """Return the path of the default plot."""
    group, path = file["/"], []
    for _ in range(8):
        name = text_of(group.attrs.get("default"))
        if not isinstance(name, str) or name not in group or not hasattr(group[name], "keys"):
            break
        group = group[name]
        path.append(name)
    return "/".join(path)


def _plot(path: Path, group: Any) -> list[Column]:
    """Return the columns of an NXdata: the signal first, the others by their shape or by what `axes` tells."""
    signal = group[_signal(group)]
    axes = _axes(group, signal)
    dims = ["row", *(_dim(group, axis, i, signal) for i, axis in enumerate(axes) if i)]
    datasets = [name for name in group if hasattr(group[name], "dtype") and group[name].ndim]
    names = sorted(datasets, key=lambda name: name != signal.name.rpartition("/")[2])
    columns = []
    for name in names:
        of_axis = _indices(group, name, axes)
        for column, (values, attrs) in arrays_of(name, group[name], f"{path}, {group.name}").items():
            kind, dtype = kind_of(values, f"{path}, {group.name}/{column}")
            told = _dims(column, values.shape, of_axis, dims, signal.shape)
            columns.append(Column(column, told, kind, dtype, values, column_attrs(attrs), of_axis is not None))
    return columns


def _axes(group: Any, signal: Any) -> list[str]:
    """Return the name of the axis of each dimension, `.` where there is none."""
    told = group.attrs["axes"] if "axes" in group.attrs else signal.attrs.get("axes", [])
    told = text_of(told)
    if isinstance(told, str):
        told = told.strip("[]").replace(",", ":").split(":")
    axes = [str(text_of(axis)).strip() for axis in told]
    return [*axes, *["."] * signal.ndim][: signal.ndim]


def _dim(group: Any, axis: str, i: int, signal: Any) -> str:
    is_line = axis in group and group[axis].shape == (signal.shape[i],)
    return axis if is_line else f"dim_{i}"


def _indices(group: Any, name: str, axes: list[str]) -> list[int] | None:
    """Return which dimensions of the signal an axis is of, or None if it is none."""
    if f"{name}_indices" in group.attrs:
        return [int(i) for i in numpy.atleast_1d(group.attrs[f"{name}_indices"])]
    return [axes.index(name)] if name in axes else None


def _dims(
    name: str, shape: tuple[int, ...], of_axis: list[int] | None, dims: list[str], signal: tuple[int, ...]
) -> tuple[str, ...]:
    """Return names of the dimensions of a dataset, those of the signal where the sizes say so."""
    if of_axis is not None and len(of_axis) == len(shape) and max(of_axis) < len(signal):
        wanted = [(dims[i], signal[i]) for i in of_axis]
    else:
        wanted = list(zip(dims, signal, strict=True))[: len(shape)]
    told = [dim if n == size else f"{name}_{i}" for i, ((dim, size), n) in enumerate(zip(wanted, shape, strict=False))]
    told += [f"{name}_{i}" for i in range(len(told), len(shape))]
    return tuple(f"{dim}_" if dim == name and len(shape) > 1 else dim for dim in told)

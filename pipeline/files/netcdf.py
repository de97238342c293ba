"""NetCDF files: a group for each stream."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy

from pipeline.documents import Document
from pipeline.errors import PipelineValueError
from pipeline.files.column import OBJECT
from pipeline.files.file_name import members, run_stem
from pipeline.files.formats import require
from pipeline.files.groups import name_streams
from pipeline.files.hdf5 import open_hdf5, text_of
from pipeline.files.part import Part, column_of_parts, missing_of, parts_of
from pipeline.files.table import Table, table_of

LAYOUT = "bluesky_layout"
START = "bluesky_start"


# write -------------------------------------------------------------------------------------------------------------


def write_netcdf(directory: Path, start: Document, tables: Sequence[Table]) -> None:
    """Write one NetCDF file: a group for each stream, and two texts at the root that give it back exactly.

    >>> import tempfile
    >>> from pipeline.files.column import Column
    >>> x = Column("x", ("row",), "number", "<f8", numpy.array([0.5]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_netcdf(Path(folder), {"uid": "7f3c"}, [Table("final", [x])])
    ...     tables, start, _ = read_netcdf(Path(folder, "7f3c.nc"))
    >>> tables[0].name, tables[0].columns[0].values, start
    ('final', array([0.5]), {'uid': '7f3c'})
    """
    path = directory / f"{run_stem(str(start.get('uid')))}.nc"
    names = members(table.name for table in tables)
    with require("h5netcdf").File(path, "w") as file:
        file.attrs["Conventions"] = "CF-1.11"
        layouts = [_write_stream(file.create_group(names[table.name]), table) for table in tables]
        _write_text(file, START, json.dumps(start, allow_nan=False))
        _write_text(file, LAYOUT, json.dumps(layouts, allow_nan=False))


def _write_text(file: Any, name: str, text: str) -> None:
    file.create_variable(name, (), require("h5py").string_dtype())[...] = text


def _write_stream(group: Any, table: Table) -> Document:
    layout = table.describe() | {"group": group.name}
    parts = [parts_of(column, f"stream {table.name!r}") for column in table.columns]
    names = members(
        column.name + part.suffix for column, each in zip(table.columns, parts, strict=True) for part in each
    )
    dims = members(dim for each in parts for part in each for dim in part.dims)
    dims |= {dim: names[dim] for dim in dims if dim in names}
    for column, description, each in zip(table.columns, layout["columns"], parts, strict=True):
        description["stored"] = [names[column.name + part.suffix] for part in each]
        description["missing"] = missing_of(column)
        for part, stored in zip(each, description["stored"], strict=True):
            _write_part(group, stored, part, dims)
    return layout


def _write_part(group: Any, name: str, part: Part, dims: dict[str, str]) -> None:
    for dim, size in zip(part.dims, part.values.shape, strict=True):
        if dims[dim] not in group.dimensions:
            group.dimensions[dims[dim]] = size
    values, attrs = _storable(part.values), dict(part.attrs)
    if part.values.dtype.kind == "b":
        attrs["dtype"] = "bool"
    dtype = require("h5py").string_dtype() if values.dtype == object else values.dtype
    fill = attrs.pop("_FillValue", None)
    stored = group.create_variable(name, tuple(dims[dim] for dim in part.dims), dtype, data=values, fillvalue=fill)
    for key, value in attrs.items():
        stored.attrs[key] = value


def _storable(values: numpy.ndarray) -> numpy.ndarray:
    """Return values in a type that NetCDF has: there are no booleans and no half floats in it."""
    if values.dtype.kind == "b":
        return values.astype("i1")
    return values.astype("f4") if values.dtype.kind == "f" and values.dtype.itemsize == 2 else values


# read --------------------------------------------------------------------------------------------------------------


def read_netcdf(path: Path) -> tuple[list[Table] | dict[str, Any], Document | None, Document]:
    """Read a NetCDF file: its streams, the start document if there is one, other facts.

    Raises
    ------
    PipelineValueError
        If it is none, or leads out of itself: it names the file and the place.
    """
    with open(path, "rb") as file:
        if file.read(3) == b"CDF":
            return _read_groups(path, "scipy")
    with open_hdf5(path) as file:
        if LAYOUT not in file:
            own = None
        else:
            own = json.loads(text_of(file[LAYOUT][()])), json.loads(text_of(file[START][()]))
    return _read_groups(path, "h5netcdf") if own is None else ([*_read_own(path, own[0])], own[1], {})


def _read_own(path: Path, layouts: list[Document]) -> Iterator[Table]:
    with require("h5netcdf").File(path, "r") as file:
        for layout in layouts:
            group = file[layout["group"]]
            columns = [
                column_of_parts(description, [_array(group[name]) for name in description["stored"]])
                for description in layout["columns"]
            ]
            yield table_of(layout, columns)


def _array(variable: Any) -> numpy.ndarray:
    values = numpy.asarray(variable[...])
    if values.dtype.kind == "O":
        texts = [text_of(value) for value in values.ravel().tolist()]
        return numpy.array(texts, object).reshape(values.shape)
    return values


def _read_groups(path: Path, engine: str) -> tuple[dict[str, Any], None, Document]:
    xarray = require("xarray")
    try:
        groups = _groups(path) if engine == "h5netcdf" else ["/"]
        datasets = {}
        for group in groups:
            how = {} if engine == "scipy" else {"group": group}
            with xarray.open_dataset(path, engine=engine, **how) as dataset:
                datasets[group] = dataset.load()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise PipelineValueError(f"{path}: wanted a NetCDF file: {error}") from None
    facts = dict(datasets["/"].attrs) if "/" in datasets else {}
    found = {group: _texted(dataset) for group, dataset in datasets.items() if dataset.dims}
    names = name_streams(list(found))
    return {names[group]: dataset for group, dataset in found.items()}, None, facts


def _groups(path: Path) -> list[str]:
    groups = ["/"]
    with require("h5py").File(path, "r") as file:
        file.visititems(lambda name, item: groups.append(name) if hasattr(item, "keys") else None)
    return groups


def _texted(dataset: Any) -> Any:
    """Return the dataset, its numpy texts as objects: what is missing in them is None."""
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "OU":
            values = [None if value is None or value != value else value for value in variable.values.ravel().tolist()]
            texts = numpy.array([text_of(value) for value in values], OBJECT).reshape(variable.shape)
            dataset[name] = (variable.dims, texts, variable.attrs)
    return dataset

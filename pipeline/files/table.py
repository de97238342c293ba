"""A table: the columns of one stream, as a file holds them."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import numpy

from pipeline.documents import Document
from pipeline.errors import PipelineTypeError
from pipeline.files.column import Column, kind_of, plain, with_none


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of one stream.

    Parameters
    ----------
    name
        Of the stream.
    columns
        Variables, then coordinates.
    attrs
        Facts of the stream, as JSON.
    rows
        The dimension that counts the rows.

    >>> import xarray
    >>> table = Table.of("primary", xarray.Dataset({"x": ("row", [1, 2], {"units": "mm"})}))
    >>> [column.name for column in table.row_columns], table.dataset()["x"].attrs
    (['x'], {'units': 'mm'})
    """

    name: str
    columns: list[Column]
    attrs: Document = field(default_factory=dict)
    rows: str = "row"

    @classmethod
    def of(cls, name: str, dataset: Any) -> Self:
        """Return the table of an `xarray.Dataset`, or refuse it: the error names the stream and the column."""
        place = f"stream {name!r}"
        names = [*dataset.data_vars, *dataset.coords]
        columns = [_column(each, dataset[each].variable, each in dataset.coords, place) for each in names]
        return cls(name, columns, plain(dataset.attrs, place), _rows(columns))

    def dataset(self) -> Any:
        """Return the table as an `xarray.Dataset`."""
        import xarray

        # not by its own conversion, which makes NaN of the None that stands for a missing text
        make = partial(xarray.Variable, fastpath=True)
        variables = {each.name: make(each.dims, each.values, each.attrs) for each in self.columns}
        coordinates = [each.name for each in self.columns if each.is_coordinate]
        return xarray.Dataset(variables, attrs=self.attrs).set_coords(coordinates)

    def clear(self) -> Self:
        """Return the table with its rows counted by a dimension that no column is called like.

        >>> Table("primary", [Column("row", ("row",), "number", "<i8", numpy.array([7]))]).clear().rows
        'row_'
        """
        names = {column.name for column in self.columns}
        if self.rows not in names:
            return self
        rows = self.rows
        while rows in names:
            rows += "_"
        renamed = [tuple(rows if dim == self.rows else dim for dim in column.dims) for column in self.columns]
        columns = [replace(column, dims=dims) for column, dims in zip(self.columns, renamed, strict=True)]
        return replace(self, columns=columns, rows=rows)

    @property
    def row_columns(self) -> list[Column]:
        """The columns that have a value, or an array, in each row."""
        return [column for column in self.columns if column.dims[:1] == (self.rows,)]

    @property
    def constants(self) -> list[Column]:
        """The columns that have not: axes for instance."""
        return [column for column in self.columns if column.dims[:1] != (self.rows,)]

    def describe(self) -> Document:
        """Return all but the values, as JSON."""
        columns = [column.describe() for column in self.columns]
        return {"stream": self.name, "rows": self.rows, "attrs": self.attrs, "columns": columns}


def table_of(description: Document, columns: list[Column]) -> Table:
    """Return the table that was described so, of these columns."""
    return Table(description["stream"], columns, description["attrs"], description["rows"])


def _column(name: Any, variable: Any, is_coordinate: bool, place: str) -> Column:
    if not isinstance(name, str):
        raise PipelineTypeError(f"{place}: wanted the name of a column as text, there is {name!r}.")
    place = f"{place}, column {name!r}"
    values = with_none(numpy.asarray(variable.values))
    kind, dtype = kind_of(values, place)
    dims = tuple(map(str, variable.dims))
    return Column(name, dims, kind, dtype, values, plain(variable.attrs, place), is_coordinate)


def _rows(columns: list[Column]) -> str:
    dims = [column.dims[0] for column in columns if column.dims]
    return "time" if "time" in dims or not dims else dims[0]


def difference(before: Table, after: Table) -> str | None:
    """Tell the first difference of two tables, or None if they are the same.

    >>> x, y = (Column("x", ("row",), "number", "<i8", numpy.array([n])) for n in (1, 2))
    >>> difference(Table("primary", [x]), Table("primary", [y]))
    "stream 'primary', column 'x': wanted [1], there is [2]"
    """
    place = f"stream {before.name!r}"
    old = {column.name: column for column in before.columns}
    new = {column.name: column for column in after.columns}
    if old.keys() != new.keys() or before.name != after.name:
        return f"{place}: wanted the columns {list(old)}, there are {list(new)} of {after.name!r}"
    if before.attrs != after.attrs:
        return f"{place}: wanted the attributes {before.attrs}, there are {after.attrs}"
    found = (_difference(column, new[name]) for name, column in old.items())
    return next((f"{place}, column {text}" for text in found if text), None)


def _difference(old: Column, new: Column) -> str | None:
    one, other = old.describe(), new.describe()
    keys = [key for key in one if one[key] != other[key]]
    if keys:
        return f"{old.name!r}: wanted {keys[0]} {one[keys[0]]!r}, there is {other[keys[0]]!r}"
    if _same(old, new):
        return None
    return f"{old.name!r}: wanted {_short(old.values)}, there is {_short(new.values)}"


def _same(old: Column, new: Column) -> bool:
    if old.kind == "ragged":
        pairs = zip(old.values, new.values, strict=True)
        return all(_equal(one, other) for one, other in pairs)
    return _equal(old.values, new.values)


def _equal(one: numpy.ndarray, other: numpy.ndarray) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(numpy.array_equal(one, other, equal_nan=one.dtype.kind in "fmM"))


def _short(values: numpy.ndarray) -> str:
    text = " ".join(repr(values.tolist()).split())
    return text if len(text) <= 60 else f"{text[:57]}..."

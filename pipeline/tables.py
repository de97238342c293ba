"""Tables of every kind as columns: what a scientist has in hand, made ready for documents."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from pipeline.columns import describe_column
from pipeline.data_keys import named, short
from pipeline.documents import Document, plainly, safe_keys
from pipeline.errors import PipelineError, PipelineTypeError, PipelineValueError

WANTED = "a dict of columns, rows (a list of dicts), a DataFrame, a Dataset, an Arrow table or a structured array"
EPOCH = "seconds since 1970-01-01"
LARGEST = 2**53  # integer that JSON keeps for everyone


@dataclass
class Given:
    """A column, or a fact, as its owner gave it: values, and what is known of them."""

    values: Any
    attrs: Mapping[str, Any] = field(default_factory=dict)
    dims: Sequence[str] = ()  # of a row
    is_coordinate: bool = False


@dataclass
class Table:
    """Columns ready for documents.

    Attributes
    ----------
    data_keys, columns
        By key: what each column is, and its values, one a row.
    names
        The key of each column, by its name: a name that SQL refuses has another key, and the data key tells the name.
    facts
        What holds for all rows: attributes, and axes such as `q`. Data keys and values.
    times
        When each row was taken, if the table says so; seconds since 1970.
    """

    data_keys: dict[str, Document]
    columns: dict[str, list[Any]]
    names: dict[str, str]
    facts: dict[str, tuple[Document, Any]]
    times: list[float] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


def tabulate(data: Any, stream: str) -> Table:
    """Return a table of whatever kind as columns that documents can hold; they are no part of what was given.

    Parameters
    ----------
    data
        A dict of lists, arrays or Series; a list of dicts; a pandas DataFrame or Series; an xarray Dataset or
        DataArray; a pyarrow Table, or what else speaks Arrow's C interface; a structured numpy array.
        Of a Dataset, the rows are along the dimension `time`, or else along the first one that all variables have.
        An index or coordinate of the rows that says something is a column too; one of another dimension is a fact.
        A `Table` is returned as it is.
    stream
        The stream it is for, as errors call it.

    Raises
    ------
    PipelineError
        If something cannot be stored as it is; it names the column, what was wanted and what there is.

    >>> table = tabulate([{"x": 1, "USAXS.a2rp": 0.5}, {"x": 2}], "primary")
    >>> table.columns
    {'x': [1, 2], 'USAXS_a2rp': [0.5, nan]}
    """
    if isinstance(data, Table):
        return data
    given, facts, times = _read(data, stream)
    keys = safe_keys(given)
    described = {name: _describe(stream, name, keys[name], column) for name, column in given.items()}
    lengths = {name: len(values) for name, (_, values) in described.items()}
    if len(set(lengths.values())) > 1:
        raise PipelineValueError(f"Stream {stream!r}: wanted columns of one length, there are {lengths}.")
    return Table(
        data_keys={keys[name]: data_key for name, (data_key, _) in described.items()},
        columns={keys[name]: values for name, (_, values) in described.items()},
        names=keys,
        facts=_facts(stream, facts),
        times=times,
    )


def _read(data: Any, stream: str) -> tuple[dict[str, Given], dict[str, Given], list[float] | None]:
    """Return columns, facts and times."""
    read = next((read for is_one, read in _READERS if is_one(data)), None)
    if read is None:
        raise PipelineTypeError(f"Stream {stream!r}: wanted {WANTED}; there is {short(data)}.")
    try:
        columns, facts, times = read(data)
        columns, facts = _by_name(columns), _by_name(facts)
    except PipelineError as error:
        raise type(error)(f"Stream {stream!r}: {error}") from None
    if not columns:
        raise PipelineValueError(f"Stream {stream!r}: wanted columns, there are none in {short(data)}.")
    return columns, facts, times


def _by_name(items: Iterable[tuple[Any, Given]]) -> dict[str, Given]:
    named_: dict[str, Given] = {}
    for name, given in items:
        if str(name) in named_:
            raise PipelineValueError(f"wanted names that differ, there are two of {str(name)!r}.")
        named_[str(name)] = given
    return named_


def _describe(stream: str, name: str, key: str, given: Given) -> tuple[Document, list[Any]]:
    data_key, values = named(stream, name, lambda given: describe_column(given.values, name))(given)
    return data_key | _known(stream, name, key, given, len(data_key["shape"])), values


def _known(stream: str, name: str, key: str, given: Given, ndim: int) -> Document:
    """Return what a data key says besides dtype and shape."""
    attrs = named(stream, name, lambda attrs: plainly(dict(attrs), "attrs"))(given.attrs)
    units = attrs.pop("units", None)
    known = {
        "units": units if isinstance(units, str) else None,
        "attrs": attrs if isinstance(units, str | None) else {**attrs, "units": units},
        "dims": list(given.dims) if len(given.dims) == ndim else [],
        "coordinate": given.is_coordinate,
        "original_name": name if key != name else None,
    }
    return {what: value for what, value in known.items() if value}


def _facts(stream: str, facts: Mapping[str, Given]) -> dict[str, tuple[Document, Any]]:
    keys = safe_keys(facts)
    described = {}
    for name, given in facts.items():
        row = Given([given.values], given.attrs, given.dims, given.is_coordinate)
        data_key, (value,) = _describe(stream, name, keys[name], row)
        if data_key["dtype_numpy"][1] in "iu" and not numpy.all(abs(numpy.asarray(value, "f8")) <= LARGEST):
            raise PipelineValueError(
                f"Stream {stream!r}, {name!r} of all rows: wanted integers up to 2**53, which is what a Tiled catalog "
                f"keeps of metadata; there is {short(given.values)}. Text, or a column of the rows, will do."
            )
        described[keys[name]] = data_key, value
    return described


# kinds of tables ---------------------------------------------------------------------------------------------------

Read = tuple[Iterable[tuple[Any, Given]], Iterable[tuple[Any, Given]], list[float] | None]


def _is_of(package: str, *names: str) -> Callable[[Any], bool]:
    """Return a test for objects of these classes, that does not import the package."""
    return lambda data: any(
        cls.__module__.partition(".")[0] == package and cls.__name__ in names for cls in type(data).__mro__
    )


_is_series = _is_of("pandas", "Series", "Index")
_is_variable = _is_of("xarray", "DataArray", "Variable")


def _read_mapping(data: Mapping[Any, Any]) -> Read:
    for index in _indexes(data)[1:]:
        if not index.equals(_indexes(data)[0]):
            raise PipelineValueError("wanted Series of one index, there are several; align them first.")
    return [(name, _column(name, values)) for name, values in data.items()], [], None


def _indexes(data: Mapping[Any, Any]) -> list[Any]:
    return [values.index for values in data.values() if _is_series(values) and hasattr(values, "index")]


def _column(name: Any, values: Any) -> Given:
    if _is_series(values):
        return Given(_of_series(values), getattr(values, "attrs", {}))
    if _is_variable(values):
        return Given(values.values, values.attrs, tuple(map(str, values.dims[1:])))
    if hasattr(values, "__array__"):
        return Given(numpy.ma.asarray(values) if isinstance(values, numpy.ma.MaskedArray) else numpy.asarray(values))
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence):
        raise PipelineTypeError(f"field {str(name)!r}: wanted a column, one element a row; there is {short(values)}.")
    return Given(values)


def _read_rows(rows: Sequence[Mapping[Any, Any]]) -> Read:
    names = dict.fromkeys(name for row in rows for name in row)
    return [(name, Given([row.get(name) for row in rows])) for name in names], [], None


def _is_rows(data: Any) -> bool:
    return isinstance(data, list | tuple) and all(isinstance(row, Mapping) for row in data)


def _read_structured(array: Any) -> Read:
    return [(name, Given(array[name])) for name in array.dtype.names], [], None


def _is_structured(data: Any) -> bool:
    return isinstance(data, numpy.ndarray) and data.dtype.names is not None


# pandas


def _read_frame(frame: Any) -> Read:
    columns = [(name, _column(name, series)) for name, series in frame.items()]
    return [*_index(frame.index), *columns], [(name, Given(value)) for name, value in frame.attrs.items()], None


def _read_series(series: Any) -> Read:
    return _read_frame(series.to_frame("0" if series.name is None else series.name))


def _index(index: Any) -> list[tuple[Any, Given]]:
    """Return the index as columns, if it says more than the number of the row."""
    import pandas

    if index.name is None and index.nlevels == 1 and index.equals(pandas.RangeIndex(len(index))):
        return []
    levels = [index.get_level_values(i) for i in range(index.nlevels)]
    names = [f"level_{i}" if index.nlevels > 1 else "index" for i in range(index.nlevels)]
    return [
        (name if level.name is None else level.name, Given(_of_series(level), is_coordinate=True))
        for name, level in zip(names, levels, strict=True)
    ]


def _of_series(series: Any) -> Any:
    """Return the values of a pandas Series: in numpy's dtype where it has one, with None for what is missing."""
    dtype: Any = series.dtype
    if getattr(dtype, "tz", None) is not None:
        return series.to_numpy("datetime64[ns]")  # of UTC
    if isinstance(dtype, numpy.dtype) and dtype.kind != "O":
        return series.to_numpy()
    is_there = series.notna()
    numpy_dtype = getattr(dtype, "numpy_dtype", None)  # of pandas' own dtypes, that know of missing values
    if numpy_dtype is not None and numpy_dtype.kind in "biufmM" and is_there.all():
        return series.to_numpy(numpy_dtype)
    return [value if there else None for value, there in zip(series.astype(object), is_there, strict=True)]


# xarray


def _read_array(array: Any) -> Read:
    return _read_dataset(array.to_dataset(name="data" if array.name is None else array.name))


def _read_dataset(dataset: Any) -> Read:
    rows = _rows(dataset)
    times = _times(dataset, rows)
    columns, facts = [], [(name, Given(value)) for name, value in dataset.attrs.items()]
    for name, variable in dataset.variables.items():
        is_coordinate = name in dataset.coords
        if is_coordinate and times is not None and name == rows:
            continue
        if rows not in variable.dims:
            facts.append((name, Given(variable.values, variable.attrs, tuple(map(str, variable.dims)), is_coordinate)))
            continue
        dims = [dim for dim in variable.dims if dim != rows]
        values = variable.transpose(rows, *dims).values
        columns.append((name, Given(values, variable.attrs, tuple(map(str, dims)), is_coordinate)))
    return columns, facts, times


def _rows(dataset: Any) -> Any:
    """Return the dimension of the rows."""
    shared = [dim for dim in dataset.sizes if all(dim in variable.dims for variable in dataset.data_vars.values())]
    if not dataset.data_vars:
        raise PipelineValueError("wanted variables, there are none in the Dataset.")
    if not shared:
        dims = {str(name): tuple(map(str, variable.dims)) for name, variable in dataset.data_vars.items()}
        raise PipelineValueError(
            f"wanted variables that share a dimension, along which the rows are; there are {dims}."
        )
    first = next(iter(dataset.data_vars.values())).dims
    return "time" if "time" in shared else next(dim for dim in first if dim in shared)


def _times(dataset: Any, rows: Any) -> list[float] | None:
    """Return the times of the rows, if the Dataset was a run's and says so."""
    coordinate = dataset.coords.get("time") if rows == "time" else None
    if coordinate is None or coordinate.dtype != float or coordinate.attrs.get("units") != EPOCH:
        return None
    return coordinate.values.tolist()


# Arrow


def _read_arrow(data: Any) -> Read:
    import pyarrow

    table = data if isinstance(data, pyarrow.Table) else pyarrow.table(data)
    metadata = (table.schema.metadata or {}).items()
    facts = [
        (name.decode(), Given(text.decode())) for name, text in metadata if name not in (b"pandas", b"ARROW:schema")
    ]
    columns = zip(table.schema, table.columns, strict=True)
    return [(field.name, Given(_of_arrow(column), _attrs(field))) for field, column in columns], facts, None


def _attrs(field: Any) -> dict[str, str]:
    return {name.decode(): text.decode() for name, text in (field.metadata or {}).items() if b":" not in name}


def _of_arrow(column: Any) -> Any:
    from pyarrow import types

    is_plain = types.is_integer(column.type) or types.is_floating(column.type) or types.is_boolean(column.type)
    if types.is_temporal(column.type) and not types.is_time(column.type):
        return column.to_numpy()
    return column.to_numpy() if is_plain and not column.null_count else column.to_pylist()


_READERS: list[tuple[Callable[[Any], bool], Callable[[Any], Read]]] = [
    (_is_of("pandas", "DataFrame"), _read_frame),
    (_is_of("pandas", "Series"), _read_series),
    (_is_of("xarray", "Dataset"), _read_dataset),
    (_is_of("xarray", "DataArray"), _read_array),
    (_is_structured, _read_structured),
    (lambda data: isinstance(data, Mapping), _read_mapping),
    (_is_rows, _read_rows),
    (lambda data: hasattr(data, "__arrow_c_stream__"), _read_arrow),
]

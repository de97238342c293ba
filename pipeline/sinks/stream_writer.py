"""The rows of one event stream on their way into a Tiled node: a table for scalars, one array for each array.

A part keeps its rows until the server has confirmed them, knows how many it has written, and finds out what became
of a write that was never answered. So a write may be tried again, and no row is lost or doubled.
"""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy
import orjson
import pyarrow

from pipeline.catalogs import find as find
from pipeline.documents import Document, safe_key

MAX_COLUMNS = 1000  # of one table; Tiled's own writer splits them at 1024
MAX_NAME = 60  # bytes: SQL takes 63, of which `ts_` takes three


class StreamWriter:
    """Write the events of one stream.

    Parameters
    ----------
    key
        The name of its node.
    descriptor
        The stream's first descriptor, with names that SQL takes.
    tell
        Called with what the run's notes should say, and with whether something is lost by it.
    dims
        Gives the names of an array's dimensions for its shape.
    """

    def __init__(
        self,
        key: str,
        descriptor: Document,
        *,
        tell: Callable[[str, bool], None],
        dims: Callable[[tuple[int | None, ...]], tuple[str, ...]],
    ) -> None:
        self.key = key
        self.descriptor = descriptor
        self.updates: list[Document] = []  # later descriptors: what they say of the configuration
        self.n_updates_written = 0
        self.node: Any = None  # once the catalog has it
        self._tell = tell
        self._dims = dims
        self._data_keys = descriptor["data_keys"]
        internal = [key for key, data_key in self._data_keys.items() if "external" not in data_key]
        self._arrays = {key: self._new_array(key) for key in internal if self._data_keys[key]["dtype"] == "array"}
        self._tables = _tables(internal, self._data_keys)
        self._known = set(internal)

    def take(self, event: Document) -> None:
        """Take in one event; nothing is written yet."""
        data = event["data"]
        if data.keys() != self._known:
            self._meet(data)
        for table in self._tables:
            table.take(event)
        for key, array in self._arrays.items():
            array.pending.append(data.get(key))

    def _meet(self, data: Document) -> None:
        """Make an array for external data that came filled; note what the descriptor does not know."""
        for key in data.keys() - self._known:
            self._known.add(key)
            if key in self._data_keys:
                self._arrays[key] = self._new_array(key)
                self._arrays[key].pending = [None] * (self._tables[0].n_written + self.n_pending)
            else:
                self._tell(f"stream {self.key!r} brings {key!r}, which its descriptor lacks; it is left out", True)

    def _new_array(self, key: str) -> "ArrayPart":
        return ArrayPart(key, self._data_keys[key], tell=self._tell, dims=self._dims)

    @property
    def n_pending(self) -> int:
        """How many events wait to be written."""
        return len(self._tables[0].pending[0])

    def write(self, access_tags: list[str] | None) -> None:
        """Write what waits into the stream's node, arrays first: a row that is seen is there altogether."""
        for part in self.parts():
            part.write(self.node, access_tags)

    def parts(self) -> list["Part"]:
        """Return what the stream is written in."""
        return [*self._arrays.values(), *self._tables]

    def detach(self) -> None:
        """Forget the clients of a server that is gone."""
        self.node = None
        for part in self.parts():
            part.node = None
            part.doubtful = True


def column_names(names: Iterable[str]) -> dict[str, str]:
    """Map the names of data keys to names that every SQL storage takes, and that leave `ts_...` free.

    >>> column_names(["x", "X", "2-theta", "time", "a.b", "ts_x"])
    {'x': 'x', 'X': 'X_2', '2-theta': 'k_2-theta', 'time': 'time_', 'a.b': 'a_b', 'ts_x': 'ts_x_3'}
    """
    taken = {"time", "seq_num", "internal"}
    columns = {}
    for name in names:
        stem = column = _sql_name(name)
        number = 1
        while {column.lower(), f"ts_{column}".lower()} & taken:
            number += 1
            column = f"{stem[: MAX_NAME - 5]}_{number}"
        taken |= {column.lower(), f"ts_{column}".lower()}
        columns[name] = column
    return columns


def _sql_name(name: str) -> str:
    key = re.sub("--+", "-", safe_key(name))
    key = key if re.match("[A-Za-z]", key) else f"k_{key.lstrip()}"  # Tiled keeps `_...` for itself
    return f"{key}_" if key.lower() in _TAKEN else key[:MAX_NAME].rstrip()


_TAKEN = {"internal", "tableoid", "ctid", "xmin", "xmax", "cmin", "cmax"}  # by Tiled, and by PostgreSQL in every table


# parts -------------------------------------------------------------------------------------------------------------


class Part:
    """A node below the stream's: rows that wait, how many are written, and whether that is certain."""

    key: str

    def __init__(self) -> None:
        self.node: Any = None
        self.n_written = 0
        self.doubtful = False  # a write was not answered: it may have been done, or not
        self._stale = False  # all rows wait again, and what is written is to be deleted

    def write(self, parent: Any, access_tags: list[str] | None) -> None:
        """Write the rows that wait; if it fails, call it again."""
        if self.doubtful:
            self.node = self.node or find(parent, self.key)
            if self.node is not None and not self._stale:
                self._settle()
        self.doubtful = True
        if self._stale and self.node is not None:
            self.node.delete(external_only=False)
            self.node = None
        self._stale = False
        if not self._has_written(parent, access_tags):
            self._stale = True
            self.write(parent, access_tags)
        self.doubtful = False

    def _settle(self) -> None:
        """Find out what became of a write that was not answered."""
        raise NotImplementedError

    def _has_written(self, parent: Any, access_tags: list[str] | None) -> bool:
        """Write the rows that wait; return False, with all rows waiting again, if the node must be made anew."""
        raise NotImplementedError

    def _drop(self, n: int) -> None:
        """Forget rows that are written."""
        raise NotImplementedError


class TablePart(Part):
    """The scalars of a stream, their timestamps, `seq_num` and `time`: a table that grows.

    A column is what its data key says (`number` is float64 even where the first value is an integer), until a value
    comes that does not fit (an `integer` of 2.5): then the table is made anew, with a column that is wide enough.
    """

    def __init__(self, key: str, columns: list["Column"], metadata: Document) -> None:
        super().__init__()
        self.key = key
        self.pending: list[list[Any]] = [[] for _ in columns]
        self._columns = columns
        self._metadata = metadata

    def take(self, event: Document) -> None:
        """Take in what this table holds of one event."""
        for column, values in zip(self._columns, self.pending, strict=True):
            values.append(column.get(event))

    def _settle(self) -> None:
        # Not of the column's own client: it answers 500 if the table has grown since the client was made.
        self._drop(len(self.node.read([self._columns[0].name])) - self.n_written)

    def _has_written(self, parent: Any, access_tags: list[str] | None) -> bool:
        n = len(self.pending[0])
        if n == 0:
            return True
        types = [column.type for column in self._columns]
        arrays = [column.array(values) for column, values in zip(self._columns, self.pending, strict=True)]
        if self.node is not None and types != [column.type for column in self._columns]:
            self._take_back()
            return False
        table = pyarrow.Table.from_arrays(arrays, names=[column.name for column in self._columns])
        if self.node is None:
            self.node = parent.create_appendable_table(
                schema=table.schema, key=self.key, metadata=self._metadata, access_tags=access_tags
            )
        self.node.append_partition(0, table)
        self._drop(n)
        return True

    def _take_back(self) -> None:
        table = self.node.read()
        self.n_written = 0
        self.pending = [
            [None if value != value else value for value in table[column.name].tolist()] + values
            for column, values in zip(self._columns, self.pending, strict=True)
        ]

    def _drop(self, n: int) -> None:
        self.n_written += n
        for values in self.pending:
            del values[:n]


class ArrayPart(Part):
    """The arrays of one data key, stacked along time; ragged, if they turn out to be of more than one shape."""

    def __init__(
        self,
        key: str,
        data_key: Document,
        *,
        tell: Callable[[str, bool], None],
        dims: Callable[[tuple[int | None, ...]], tuple[str, ...]],
    ) -> None:
        super().__init__()
        self.key = key
        self.pending: list[Any] = []
        shape = tuple(data_key.get("shape") or ())
        self._ragged = None in shape
        self._shape = shape if shape and 0 not in shape and not self._ragged else None
        self._dtype = _dtype(data_key)
        self._metadata = data_key
        self._tell = tell
        self._dims = dims
        self._spoiled = False

    def _settle(self) -> None:
        if self._ragged and self.n_written:
            self._drop(self.node.shape[0] - self.n_written)
        elif self._ragged:
            self._stale = True  # perhaps made, and not filled
        # a block is written to its place again

    def _has_written(self, parent: Any, access_tags: list[str] | None) -> bool:
        if self._spoiled:
            self.pending.clear()
        if not self.pending:
            return True
        try:
            return self._has_written_as(self._as_array(), parent, access_tags)
        except (TypeError, ValueError) as error:  # of the data, not of the server: the other columns go on
            self._spoiled = True
            self.pending.clear()
            self._tell(f"data key {self.key!r} cannot be stored as an array ({error}); it is left out", True)
            return True

    def _as_array(self) -> Any:
        if not self._ragged:
            block = _block(self.pending, self._shape, self._dtype)
            if block is not None:
                return block
            self._tell(f"data key {self.key!r} brings arrays of several shapes; it is stored as a ragged array", False)
        return _ragged(self.pending, self._dtype)

    def _has_written_as(self, array: Any, parent: Any, access_tags: list[str] | None) -> bool:
        ragged = not isinstance(array, numpy.ndarray)
        if self.node is not None and (ragged != self._ragged or (not ragged and array.dtype != self.node.dtype)):
            self._take_back(array, ragged)
            return False
        self._ragged = ragged
        if self.node is None:
            self.node = self._create(array, parent, access_tags)
        else:
            self.node.patch(array, offset=self.n_written if ragged else (self.n_written,), extend=True)
        self._drop(len(self.pending))
        return True

    def _create(self, array: Any, parent: Any, access_tags: list[str] | None) -> Any:
        if self._ragged:
            write = parent.write_ragged
        else:
            write = parent.write_array
            self._shape, self._dtype = array.shape[1:], array.dtype
            self._metadata = {**self._metadata, "dtype_numpy": array.dtype.str}
        return write(
            array, key=self.key, metadata=self._metadata, dims=self._dims(array.shape), access_tags=access_tags
        )

    def _take_back(self, array: Any, ragged: bool) -> None:
        self.pending = [*self.node.read(), *self.pending]
        self.n_written = 0
        self._ragged = ragged
        if not ragged:
            self._dtype = numpy.promote_types(array.dtype, self._dtype)

    def _drop(self, n: int) -> None:
        self.n_written += n
        del self.pending[:n]


# columns -----------------------------------------------------------------------------------------------------------


class Column:
    """One column of a table: where its values come from and what they are."""

    def __init__(self, name: str, kind: str, get: Callable[[Document], Any]) -> None:
        self.name = name
        self.type = _ARROW.get(kind, pyarrow.string())
        self.get = get

    def array(self, values: list[Any]) -> pyarrow.Array:
        """Return the values as an Arrow array; the column's type widens if they need it."""
        for type_ in (self.type, pyarrow.float64()):
            try:
                array = _arrow(values, type_)
            except (TypeError, ValueError, OverflowError, pyarrow.ArrowException):
                continue
            self.type = type_
            return array
        self.type = pyarrow.string()
        return pyarrow.array([_text(value) for value in values], self.type)


_ARROW = {"number": pyarrow.float64(), "integer": pyarrow.int64(), "boolean": pyarrow.bool_()}


def _arrow(values: list[Any], type_: pyarrow.DataType) -> pyarrow.Array:
    if pyarrow.types.is_floating(type_):
        if any(isinstance(value, str) for value in values):
            raise TypeError("text is no number")
        return pyarrow.array(numpy.array(values, dtype="f8"), type_)
    if pyarrow.types.is_integer(type_):
        return pyarrow.array([_integer(value) for value in values], type_)
    if pyarrow.types.is_boolean(type_) and not all(value is None or isinstance(value, bool) for value in values):
        raise TypeError("a number is no boolean")
    return pyarrow.array(values, type_)


def _integer(value: Any) -> int | None:
    """Return the value as an integer, if it is one; Arrow would cut off the fraction."""
    if value is None or type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise TypeError(f"{value!r} is no integer")


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def _tables(keys: list[str], data_keys: Document) -> list[TablePart]:
    columns = [
        Column("seq_num", "integer", lambda event: event["seq_num"]),
        Column("time", "number", lambda event: event["time"]),
    ]
    for key in keys:
        if data_keys[key]["dtype"] != "array":
            columns.append(Column(key, data_keys[key]["dtype"], _getter("data", key)))
        columns.append(Column(f"ts_{key}", "number", _getter("timestamps", key)))
    n_tables = math.ceil(len(columns) / MAX_COLUMNS)
    parts = [columns[i::n_tables] for i in range(n_tables)]
    return [
        TablePart(
            "internal" if n_tables == 1 else f"internal_{i}",
            part,
            {column.name: data_keys[column.name] for column in part if column.name in data_keys},
        )
        for i, part in enumerate(parts)
    ]


def _getter(place: str, key: str) -> Callable[[Document], Any]:
    return lambda event: event[place].get(key)


# arrays ------------------------------------------------------------------------------------------------------------


def _dtype(data_key: Document) -> numpy.dtype:
    dtype = data_key.get("dtype_numpy")
    try:
        return numpy.dtype(dtype) if isinstance(dtype, str) and numpy.dtype(dtype).kind in "biufU" else _FLOAT
    except TypeError:
        return _FLOAT


_FLOAT = numpy.dtype("<f8")


def _block(rows: list[Any], shape: tuple[int, ...] | None, dtype: numpy.dtype) -> numpy.ndarray | None:
    """Return the rows as one array of this dtype, or of the next that holds them; None if they are of several shapes.

    A row that is missing is NaN.
    """
    if shape is None:
        shape = next((numpy.shape(row) for row in rows if row is not None), (0,))
    try:
        array = numpy.array([numpy.full(shape, numpy.nan) if row is None else row for row in rows])
    except ValueError:  # inhomogeneous
        return None
    if array.dtype == object:  # JSON's null among numbers
        array = array.astype("f8")
    if array.shape[1:] != shape or 0 in array.shape:
        return None
    return _fitting(array, dtype)


def _fitting(array: numpy.ndarray, dtype: numpy.dtype) -> numpy.ndarray:
    if array.dtype.kind == "U" or dtype.kind == "U":
        return array.astype(numpy.promote_types(array.dtype, dtype) if dtype.kind == "U" else array.dtype)
    if dtype.kind == "f":
        return array.astype(dtype)
    with numpy.errstate(invalid="ignore"):
        cast = array.astype(dtype)
    return cast if (cast == array).all() else array


def _ragged(rows: list[Any], dtype: numpy.dtype) -> Any:
    from tiled.structures.ragged import make_ragged_array

    lists = [[] if row is None else row.tolist() if hasattr(row, "tolist") else row for row in rows]
    shape = (len(rows), *(None,) * max(map(_depth, lists)))
    return make_ragged_array(_floats(lists) if dtype.kind == "f" else lists, shape=shape)


def _depth(row: Any) -> int:
    return 1 + max(map(_depth, row), default=0) if isinstance(row, list) else 0


def _floats(row: Any) -> Any:
    return [_floats(part) for part in row] if isinstance(row, list) else float("nan") if row is None else float(row)

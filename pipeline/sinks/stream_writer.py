"""The rows of one event stream on their way into a Tiled node: a table for scalars, one array for each array.

What is in files stays there; the node of such a data key is told where.

A part keeps its rows until the server has confirmed them, knows how many it has written, and finds out what became
of a write that was never answered. So a write may be tried again, and no row is lost or doubled.
A part may also compare its rows with those that the catalog has, and go on behind them.
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
from pipeline.sinks.external_part import ExternalPart
from pipeline.sinks.stored_rows import StoredArrays, StoredTable

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
        self.external: dict[str, ExternalPart] = {}  # by data key
        self._known = set(internal)
        self._kept: dict[str, int] = {}

    def take(self, event: Document) -> None:
        """Take in one event; nothing is written yet."""
        data = event["data"]
        if data.keys() != self._known:
            self._meet(data)
        for table in self._tables:
            table.take(event)
        for key, array in self._arrays.items():
            array.pending.append(data.get(key))

    def take_datum(self, datum: Document, resource: Document, data_key: Document) -> None:
        """Take in that there are rows in a file."""
        key = resource["data_key"]
        if key not in self.external:
            self.external[key] = ExternalPart(key, self.descriptor, self._tell)
            if key in self._kept:
                self.external[key].keep(self._kept[key])
        self.external[key].take(datum, resource, data_key)

    def _meet(self, data: Document) -> None:
        """Make an array for external data that came filled; note what the descriptor does not know."""
        for key in data.keys() - self._known:
            self._known.add(key)
            if key in self._data_keys:
                self._arrays[key] = self._new_array(key)
                self._arrays[key].pending = [None] * (self._tables[0].n_written + self.n_pending)
                if key in self._kept:
                    self._arrays[key].keep(self._kept[key])
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

    def compare(self) -> str:
        """Compare the rows that wait with those of the catalog, and forget them; return the first difference."""
        differences = [table.compare(self.node) for table in self._tables]
        n_rows = max(table.n_there for table in self._tables)
        differences += [array.compare(self.node, n_rows) for array in self._arrays.values()]
        differences += [part.compare(self.node) for part in self.external.values()]
        return next((f"stream {self.key!r}, {difference}" for difference in differences if difference), "")

    def keep(self, rows: dict[str, int]) -> None:
        """Go on behind the rows that the catalog has of each part, by its key."""
        self._kept = rows
        for part in self.parts():
            part.keep(rows.get(part.key, 0))

    def shorten(self, access_tags: list[str] | None) -> None:
        """Cut off what is there beyond the last row: of a write that was never finished."""
        for array in self._arrays.values():
            array.shorten(self.node, access_tags)
        for part in self.external.values():
            part.shorten()

    def standing(self) -> dict[str, int]:
        """Return how many rows of each part can be kept, by its key, once all have been compared.

        Arrays are written before the row that they are of. So what an array has beyond the table's rows is of a write
        that was never finished, and is written once more.
        """
        return {part.key: part.n_kept for part in self.parts()}

    def parts(self) -> list["Part | ExternalPart"]:
        """Return what the stream is written in, the table last: a row that is seen is there altogether."""
        return [*self.external.values(), *self._arrays.values(), *self._tables]

    def detach(self) -> None:
        """Forget the clients of a server that is gone."""
        self.node = None
        for part in self.parts():
            part.detach()


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
        self.n_there = 0  # rows that the catalog has, once they have been compared
        self.n_given = 0  # rows that were compared, or could not be: the catalog has no more
        self.doubtful = False  # a write was not answered: it may have been done, or not
        self._stale = False  # all rows wait again, and what is written is to be deleted
        self._adopts = False  # the node that the catalog has, if any
        self._n_to_skip = 0  # rows to come that the catalog has already

    def keep(self, n: int) -> None:
        """Go on behind the first `n` rows, which the catalog has."""
        self._adopts, self._n_to_skip = True, n

    def _adopt(self, parent: Any) -> None:
        """Take the node that is there for the own one."""
        self._adopts = False
        self.node = find(parent, self.key)
        if self.node is not None:
            self._adapt()

    def _adapt(self) -> None:
        """Take over what the node that is there says of itself."""
        raise NotImplementedError

    def detach(self) -> None:
        """Forget the client of a server that is gone."""
        self.node, self.doubtful = None, True

    @property
    def n_kept(self) -> int:
        """How many of the rows that were compared need not be written again."""
        return min(self.n_there, self.n_given)

    @property
    def n_beyond(self) -> int:
        """How many rows the catalog has that were not given, and that are to be written over or cut off."""
        return 0

    @property
    def n_lacking(self) -> int:
        """How many of the rows that were compared the catalog has not."""
        return max(0, self.n_given - self.n_there)

    @property
    def _n_pending(self) -> int:
        raise NotImplementedError

    def write(self, parent: Any, access_tags: list[str] | None) -> None:
        """Write the rows that wait; if it fails, call it again."""
        if self._adopts:
            self._adopt(parent)
        if self._n_to_skip:
            n = min(self._n_to_skip, self._n_pending)
            self._n_to_skip -= n
            self._drop(n)
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
        self._stored: StoredTable | None = None

    def take(self, event: Document) -> None:
        """Take in what this table holds of one event."""
        for column, values in zip(self._columns, self.pending, strict=True):
            values.append(column.get(event))

    @property
    def _n_pending(self) -> int:
        return len(self.pending[0])

    def _adapt(self) -> None:
        schema = self.node.structure().arrow_schema_decoded
        for column in self._columns:
            column.adopt(schema.field(column.name).type)

    def compare(self, parent: Any) -> str:
        """Compare the rows that wait with those that the catalog has, and forget them; return the first difference."""
        if self._stored is None:
            self._stored = StoredTable(None if parent is None else find(parent, self.key))
            self.n_there = len(self._stored)
        rows = {column.name: values for column, values in zip(self._columns, self.pending, strict=True)}
        difference = self._stored.compare(self.n_given, rows)
        self.n_given += self._n_pending
        self._drop(self._n_pending)
        return difference

    def _settle(self) -> None:
        # Not of the column's own client: it answers 500 if the table has grown since the client was made.
        self._drop(len(self.node.read([self._columns[0].name])) - self.n_written)

    def _has_written(self, parent: Any, access_tags: list[str] | None) -> bool:
        n = self._n_pending
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
        self._stored: StoredArrays | None = None

    @property
    def _n_pending(self) -> int:
        return len(self.pending)

    def _adapt(self) -> None:
        self._ragged = self.node.structure_family == "ragged"
        if self._ragged:
            self._stale = self.node.shape[0] != self._n_to_skip  # it grows at its end only
        else:
            self._shape, self._dtype = tuple(self.node.shape[1:]), self.node.dtype

    def compare(self, parent: Any, n_rows: int) -> str:
        """Compare the rows that wait, as far as the catalog has a table of them, and forget them."""
        if self._stored is None:
            self._stored = StoredArrays(self.key, None if parent is None else find(parent, self.key), n_rows)
            self.n_there = len(self._stored)
        difference = "" if self._spoiled else self._compare_with(self._stored)
        self.n_given += self._n_pending
        self._drop(self._n_pending)
        return difference

    def _compare_with(self, stored: StoredArrays) -> str:
        try:
            _block(self.pending, self._shape, self._dtype)  # as it would be when it is written
        except (TypeError, ValueError):
            self._spoiled = True
            return ""
        difference = stored.compare(self.n_given, self.pending)
        self.n_there = len(stored)  # less, where it turns out to be torn
        return difference

    @property
    def n_lacking(self) -> int:
        """How many rows are lacking; none, where one came that cannot be stored as an array."""
        return 0 if self._spoiled else super().n_lacking

    @property
    def n_beyond(self) -> int:
        """How many rows the array has beyond those that were given."""
        return 0 if self._stored is None or self._spoiled else max(0, self._stored.n_in_catalog - self.n_given)

    @property
    def n_kept(self) -> int:
        """How many rows can stay; none of a ragged array that is torn, since it grows at its end only."""
        is_torn = self._stored is not None and self._stored.is_ragged and self._stored.n_in_catalog > self.n_there
        return 0 if is_torn else super().n_kept

    def shorten(self, parent: Any, access_tags: list[str] | None) -> None:
        """Cut off what is there beyond the last row."""
        if self.node is None or self._spoiled or self.node.shape[0] <= self.n_written:
            return
        self.pending = list(self.node[: self.n_written])
        self.n_written = 0
        self._stale = True
        self.write(parent, access_tags)

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
        self.pending = [*self.node.read()[: self.n_written], *self.pending]
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
        self._is_text = False  # all values are to be made text: one was neither number nor boolean
        self.get = get

    def array(self, values: list[Any]) -> pyarrow.Array:
        """Return the values as an Arrow array; the column's type widens if they need it."""
        for type_ in () if self._is_text else (self.type, pyarrow.float64()):
            try:
                array = _arrow(values, type_)
            except (TypeError, ValueError, OverflowError, pyarrow.ArrowException):
                continue
            self.type = type_
            return array
        self.type, self._is_text = pyarrow.string(), True
        return pyarrow.array([_text(value) for value in values], self.type)

    def adopt(self, type_: pyarrow.DataType) -> None:
        """Take over the type of a column that the catalog has."""
        self.type, self._is_text = type_, pyarrow.types.is_string(type_)


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

"""The events of one stream, from the rows that a Tiled catalog holds of it, as they come."""

import logging
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.documents import Document, NaNs
from pipeline.sources.tiled_api import Api, Item, family_of, metadata_of, path_of, schema

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger(__name__)

MAX_ROWS = 500  # that are read of the arrays at once
MAX_BYTES = 32_000_000
LONG = 1000  # rows: of a longer table it is asked first whether it has grown

Rows = list[tuple[int, int, int]]  # row in the table, seq_num, how many with this seq_num there were before


class StoredStream:
    """Give the events of one stream, each once, in the order of the table.

    What an event is follows from the table alone, not from when it was looked at: so what is given of a stream that
    grows is what is given of the whole one. A row with the `seq_num` and the time of one before it was written twice,
    and is left out; one with another time is a point that was taken again, and has a uid of its own.

    Parameters
    ----------
    api
        Of the server.
    item
        What the server says of the stream's node.
    run
        The uid of the run.
    """

    def __init__(self, api: Api, item: Item, run: str) -> None:
        self.item = item
        self.name = metadata_of(item).get("stream_name") or item["id"]
        self.n_given = 0
        self._api, self._run = api, run
        self._restore = NaNs()
        self.descriptors: list[Document] = []
        self._tables: list[tuple[Item, pyarrow.Schema]] = []
        self._arrays: dict[str, Item] = {}
        self._columns: dict[str, tuple[pyarrow.ChunkedArray, pyarrow.DataType]] = {}
        self._n_rows = 0
        self._is_sorted: bool | None = None  # by seq_num: if the run was over when its rows were first looked at
        self._has_told = False

    # looking ---------------------------------------------------------------------------------------------------

    @property
    def tables(self) -> list[Item]:
        """What the stream has of tables, as far as it was seen."""
        return [item for item, _ in self._tables]

    def forget(self) -> None:
        """Read all anew at the next look: there may be another server."""
        self._tables, self._arrays, self._columns, self._n_rows = [], {}, {}, 0

    def look(self) -> None:
        """Read the tables, and only then see how long the arrays are: a writer writes these first."""
        if not self._tables:
            self._look_at_parts()
        if self._tables and self._has_grown():
            self._read_tables()
            if self._has_arrays:
                self._look_at_parts()

    @property
    def _has_arrays(self) -> bool:
        data_keys = metadata_of(self.item).get("data_keys", {}).values()
        return any(_is_inside(data_key) and data_key["dtype"] == "array" for data_key in data_keys)

    def _look_at_parts(self) -> None:
        parts = {item["id"]: item for item in self._api.children(path_of(self.item))}
        family = {key: family_of(item) for key, item in parts.items()}
        tables = [item for key, item in parts.items() if family[key] == "table"]
        self._tables = [(item, schema(item)) for item in sorted(tables, key=lambda item: _natural(item["id"]))]
        self._arrays = {key: parts[key] for key in sorted(parts) if family[key] in ("array", "ragged", "awkward")}

    def _has_grown(self) -> bool:
        if self._n_rows < LONG:
            return True
        item, types = self._tables[0]
        column = self._api.table(path_of(item), [types.names[0]])
        return column is None or len(column) != self._n_rows

    def _read_tables(self) -> None:
        self._columns, self._n_rows = {}, 0
        read = [(self._api.table(path_of(item)), types) for item, types in self._tables]
        there = [(table, types) for table, types in read if table is not None]
        if len(there) < len(read):  # being made anew by its writer
            self._tables = []
            return
        for table, types in there:
            columns = {name: (table[name], types.field(name).type) for name in types.names}
            self._columns = columns | self._columns  # seq_num and time may be in each of them
        self._n_rows = min(len(table) for table, _ in there)

    # descriptors -----------------------------------------------------------------------------------------------

    def meet(self, item: Item) -> list[Document]:
        """Take what the server says of the stream by now; return the descriptors that are new."""
        from bluesky_tiled_plugins.exporters import build_descriptor_docs

        self.item = item
        descriptors = build_descriptor_docs(metadata_of(item), self.name, run_start_uid=self._run)
        new = descriptors[len(self.descriptors) :]
        self.descriptors += new
        for doc in new:
            self._restore("descriptor", doc)
        return new

    @property
    def external(self) -> list[str]:
        """The fields whose data are in files of their own."""
        return [key for key, data_key in self._data_keys.items() if data_key.get("external")]

    @property
    def _data_keys(self) -> Mapping[str, Document]:
        return self.descriptors[0]["data_keys"] if self.descriptors else {}

    # events ----------------------------------------------------------------------------------------------------

    def events(self, is_over: bool, wanted: Collection[int] | None = None) -> Iterator[Document]:
        """Yield the events that are whole, behind the first `n_given`; of a run that is over, all there are.

        Whoever takes one counts it in `n_given`. With `wanted`, only those that have one of these `seq_num`.
        """
        if not self.descriptors or not {"seq_num", "time"} <= self._columns.keys():
            return
        if self._is_sorted is None:
            self._is_sorted = is_over
        n_rows, lengths = self._n_whole()
        if n_rows < self._n_rows and is_over:
            self._tell_missing()
        rows = self._rows()[self.n_given :]
        rows = rows if is_over else [row for row in rows if row[0] < n_rows]
        rows = rows if wanted is None else [row for row in rows if row[1] in wanted]
        step = self._step(lengths) if wanted is None else 1
        for first in range(0, len(rows), step):
            yield from self._block(rows[first : first + step], lengths)

    def _n_whole(self) -> tuple[int, dict[str, int]]:
        """Return how many rows are there in all columns, and how many there are in each array."""
        elsewhere = [key for key, data_key in self._data_keys.items() if _is_inside(data_key)]
        elsewhere = sorted(set(elsewhere) - self._columns.keys())
        lengths = {key: _length(self._arrays.get(key)) for key in elsewhere}
        if any(self._data_keys[key]["dtype"] != "array" for key in elsewhere):  # in a table that is about to come
            self._tables = []
        return min(lengths.values(), default=self._n_rows), {key: n for key, n in lengths.items() if n}

    def _rows(self) -> Rows:
        seq_nums = self._columns["seq_num"][0].to_pylist()[: self._n_rows]
        if len(set(seq_nums)) == len(seq_nums):
            rows = [(row, seq_num, 0) for row, seq_num in enumerate(seq_nums)]
            return sorted(rows, key=lambda row: row[1]) if self._is_sorted else rows
        times = self._columns["time"][0].to_pylist()
        rows: Rows = []
        seen: dict[int, list[float]] = {}
        for row, seq_num in enumerate(seq_nums):
            before = seen.setdefault(seq_num, [])
            if times[row] not in before:
                rows.append((row, seq_num, len(before)))
                before.append(times[row])
        return rows

    def _step(self, keys: Collection[str]) -> int:
        """Return how many rows of the arrays are read at once."""
        n_bytes = sum(_row_bytes(self._arrays[key]) for key in keys)
        return max(1, min(MAX_ROWS, MAX_BYTES // max(n_bytes, 1)))

    def _block(self, rows: Rows, lengths: Mapping[str, int]) -> Iterator[Document]:
        first, last = min(row for row, _, _ in rows), max(row for row, _, _ in rows) + 1
        columns = {name: _values(column[first:last], type_) for name, (column, type_) in self._columns.items()}
        arrays = {key: self._array(key, first, min(last, n)) for key, n in lengths.items()}
        inside = {key: values for key, values in columns.items() if key in self._data_keys} | arrays
        for row, seq_num, n_before in rows:
            i = row - first
            data = {key: values[i] for key, values in inside.items() if i < len(values)}
            stamps = {key: columns[f"ts_{key}"][i] for key in data if f"ts_{key}" in columns}
            yield self._event(seq_num, columns["time"][i], n_before, data, stamps)

    def _array(self, key: str, first: int, last: int) -> list[Any]:
        if last <= first:
            return []
        return self._api.rows(self._arrays[key], first, last)

    def _event(self, seq_num: int, time: float, n_before: int, data: Document, stamps: Document) -> Document:
        descriptor = self._descriptor(time)
        again = f"-{n_before + 1}" if n_before else ""
        event = {
            "seq_num": seq_num,
            "time": time,
            "uid": f"event-{descriptor}-{seq_num}{again}",  # as Tiled's exporter has it
            "descriptor": descriptor,
            "data": data,
            "timestamps": dict.fromkeys(data, time) | stamps,
        }
        return self._restore("event", event)

    def _descriptor(self, time: float) -> str:
        uid = self.descriptors[0]["uid"]
        for doc in self.descriptors[1:]:
            if doc["time"] <= time:
                uid = doc["uid"]
        return uid

    def _tell_missing(self) -> None:
        if not self._has_told:
            self._has_told = True
            logger.warning("run %s is over, and stream %r has columns shorter than others.", self._run, self.name)


# values ------------------------------------------------------------------------------------------------------------


def _values(column: Any, stored: "pyarrow.DataType") -> list[Any]:
    """Return a column in Python's types; integers are integers again, which came as floats since one is missing."""
    import pyarrow

    values = column.to_pylist()
    if pyarrow.types.is_integer(stored) and pyarrow.types.is_floating(column.type):
        return [None if value is None or value != value else int(value) for value in values]
    if pyarrow.types.is_floating(stored) and column.null_count:
        return [float("nan") if value is None else value for value in values]
    return values


def _natural(key: str) -> tuple[int, str]:
    return len(key), key  # internal_2 before internal_10


def _length(item: Item | None) -> int:
    return item["attributes"]["structure"]["shape"][0] if item else 0


def _row_bytes(item: Item) -> int:
    structure = item["attributes"]["structure"]
    n = (structure.get("data_type") or {}).get("itemsize") or 8
    for size in structure["shape"][1:]:
        n *= 1000 if size is None else size
    return n


def _is_inside(data_key: Document) -> bool:
    return not data_key.get("external")

"""One stream of a run in a catalog."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy

from pipeline.dataset import build
from pipeline.documents import Document
from pipeline.run import BlueskyEventStream
from pipeline.sources.catalog import read_catalog

if TYPE_CHECKING:
    import xarray


class CatalogStream(BlueskyEventStream):
    """One stream of a run in a catalog; `CatalogRun` gives them.

    Parameters
    ----------
    name
        Of the stream.
    client
        That of its node.
    run
        The client of its run.
    """

    def __init__(self, name: str, client: Any, run: Any) -> None:
        self.name = name
        self.client = client
        self._run = run

    @property
    def descriptors(self) -> list[Document]:
        """What describes the stream: more than one, if it was configured anew."""
        metadata = self.client.metadata_copy()[0]
        if "descriptors" in metadata:  # of Mongo
            return metadata["descriptors"]
        from bluesky_tiled_plugins.exporters import build_descriptor_docs

        return build_descriptor_docs(metadata, self.name, run_start_uid=self._run.metadata["start"]["uid"])

    def read(self, variables: Sequence[str] | None = None) -> "xarray.Dataset":
        """Return the events as a Dataset, along `time`; see `pipeline.dataset.build`.

        Of a stream that grows it holds the events that are whole. Data in files that hold another number of rows than
        there are events have a dimension of their own.

        Parameters
        ----------
        variables
            Names of fields; all by default.
        """
        descriptors = self.descriptors
        last = descriptors[-1]
        data_keys = last["data_keys"]
        names = {data_key.get("original_name") or key: key for key, data_key in data_keys.items()}
        wanted = list(data_keys) if variables is None else [self._key(name, names) for name in variables]
        is_open = not self._run.metadata.get("stop")
        if "descriptors" in self.client.metadata:
            columns, times = _read_documents(self._run, {doc["uid"] for doc in descriptors}, data_keys)
            arrays = _read_arrays(self.client, wanted, data_keys, is_open)
            times = arrays.pop("time", times)
            columns |= arrays
        else:
            columns, times = _read_parts(self.client, wanted)
        if times is None or not len(times):  # of what no event brought, nothing is stored
            columns = {key: numpy.empty(0) for key in wanted if "external" not in data_keys[key]} | columns
        order = [key for key in (columns if variables is None else wanted) if key in wanted and key in columns]
        return _dataset({key: columns[key] for key in order}, times, last, is_open)

    def __getitem__(self, name: str) -> "xarray.DataArray":
        dataset = self.read([name])
        return next(iter(dataset.data_vars.values())) if name == "time" else dataset[name]


# reading -----------------------------------------------------------------------------------------------------------


def _read_parts(client: Any, wanted: Iterable[str]) -> tuple[dict[str, Any], Any]:
    """Return columns of a stream in SQL, and the times; each table is read at once, whatever is wanted of it.

    One column alone, of a table that grows, is refused by the server at times.
    """
    wanted = {*wanted, "time"}
    parts = dict(children(client))
    tables = {key: part for key, part in parts.items() if part.structure_family == "table"}
    columns = dict.fromkeys(_fields(tables))
    for table in tables.values():
        if names := [name for name in table.columns if name in wanted]:
            rows = table.read(names)
            columns |= {name: _column(rows[name]) for name in names}
    for key in [key for key in parts if key in wanted and key not in tables]:
        part = parts[key]
        columns[key] = _ragged(part) if part.structure_family in ("ragged", "awkward") else part.read()
    times = columns.pop("time", None)
    return {key: values for key, values in columns.items() if values is not None}, times


def _fields(tables: Mapping[str, Any]) -> list[str]:
    """Return the fields in the order in which they were given, which PostgreSQL's JSON does not keep."""
    in_order = [tables[key].columns for key in sorted(tables, key=lambda key: (len(key), key))]
    columns = (column for each in zip_longest(*in_order) for column in each if column)
    return [column.removeprefix("ts_") for column in columns if column.startswith("ts_")]


def _column(series: Any) -> numpy.ndarray:
    is_numpy = isinstance(series.dtype, numpy.dtype)
    return series.to_numpy() if is_numpy else numpy.array(series.tolist(), object)


def _ragged(part: Any) -> numpy.ndarray:
    rows = part.read().tolist()
    column = numpy.empty(len(rows), object)
    column[:] = [numpy.array(row) for row in rows] if rows else []
    return column


def _read_documents(run: Any, descriptors: set[str], data_keys: Mapping[str, Document]) -> tuple[dict[str, Any], Any]:
    """Return the columns of a stream in Mongo, and the times, of its events: they hold what was given."""
    events = [doc for name, doc in read_catalog(run) if name == "event" and doc["descriptor"] in descriptors]
    inside = [key for key, data_key in data_keys.items() if "external" not in data_key]
    columns = {key: _as_column([event["data"][key] for event in events], data_keys[key]) for key in inside}
    return columns, numpy.array([event["time"] for event in events], "f8")


def _as_column(values: list[Any], data_key: Document) -> numpy.ndarray:
    if data_key["dtype"] == "array":
        values = [numpy.array(value) for value in values]
        shapes = {value.shape for value in values}
        if len(shapes) == 1:
            return numpy.array(values)
    column = numpy.empty(len(values), object)
    column[:] = values
    return column


def _read_arrays(
    client: Any, wanted: Iterable[str], data_keys: Mapping[str, Document], is_open: bool
) -> dict[str, Any]:
    """Return what the server makes arrays of: what is in files; of an open run all but text, and the times.

    Of the events of an open run the server keeps the last up to 25 back; of text it makes no arrays.
    """
    inside = {key for key, data_key in data_keys.items() if "external" not in data_key}
    keys = [key for key in wanted if key not in inside or (is_open and data_keys[key]["dtype"] != "string")]
    return {key: client["data"][key].read() for key in [*keys, *(["time"] * is_open)]}


# what was read -----------------------------------------------------------------------------------------------------


def _dataset(columns: dict[str, Any], times: Any, descriptor: Document, is_open: bool) -> "xarray.Dataset":
    data_keys = descriptor["data_keys"]
    columns = {key: _along_rows(values, data_keys[key]) for key, values in columns.items()}
    inside = [values for key, values in columns.items() if "external" not in data_keys[key]]
    inside += [] if times is None else [times]
    n = min(map(len, inside or columns.values()), default=0)
    rows = {key: values[:n] for key, values in columns.items() if len(values) == n or (is_open and len(values) > n)}
    known = {key: {**data_keys[key], **_shape(values)} for key, values in rows.items()}
    if "time" in rows:  # which is the name of the rows' dimension
        rows["time_"], known["time_"] = rows.pop("time"), {**known.pop("time"), "original_name": "time"}
    dataset = build(rows, numpy.full(n, numpy.nan) if times is None else times[:n], {**descriptor, "data_keys": known})
    others = {key: values for key, values in columns.items() if len(values) != n and not (is_open and len(values) > n)}
    return dataset.assign({key: (_dims(key, values), values) for key, values in others.items()})


def _along_rows(values: Any, data_key: Document) -> Any:
    """Return data of a file with one element a row, where the file holds them end to end."""
    shape = list(data_key.get("shape") or [])
    is_joined = "external" in data_key and len(shape) == values.ndim > 1 and tuple(shape[1:]) == values.shape[1:]
    return values.reshape(-1, *shape) if is_joined and shape[0] and len(values) % shape[0] == 0 else values


def _dims(key: str, values: Any) -> list[str]:
    return [f"{key}_row", *(f"{key}_dim_{axis}" for axis in range(values.ndim - 1))]


def _shape(values: Any) -> Document:
    """Return the shape of an array that turned out to be ragged, to be told in place of the descriptor's."""
    first = values[0] if values.dtype == object and len(values) else None
    return {"shape": [None] * first.ndim} if isinstance(first, numpy.ndarray) else {}


# clients -----------------------------------------------------------------------------------------------------------


def stream_clients(run: Any) -> dict[str, Any]:
    """Return the clients of a run's streams, by the names that the streams had.

    Asked of the server each time: a run's own client asks but once what streams there are.
    """
    found = dict(children(run))
    inner = found.get("streams")
    if inner is not None and all(spec.name != "BlueskyEventStream" for spec in inner.specs):
        found = dict(children(inner))  # as it was written until 2025
    return {client.metadata.get("stream_name") or key: client for key, client in found.items()}


def children(client: Any) -> Iterable[tuple[str, Any]]:
    """Yield what lies below a node, as it lies there: the clients of runs and streams show it otherwise."""
    from tiled.client.container import Container

    return Container(client.context, item=client.item, structure_clients=client.structure_clients).items()

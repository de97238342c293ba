"""One stream of a run in a catalog."""

from collections.abc import Iterable, Mapping, Sequence
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
        if "descriptors" in self.client.metadata:
            columns = _read_documents(self._run, {doc["uid"] for doc in descriptors}, data_keys)
            columns |= _read_filled(self.client, [key for key in wanted if "external" in data_keys[key]])
        else:
            columns = _read_parts(self.client, wanted)
        is_open = not self._run.metadata.get("stop")
        found = {key: columns[key] for key in (*wanted, "time") if key in columns}
        if not len(columns.get("time", ())):  # of what no event brought, nothing is stored
            found = {key: numpy.empty(0) for key in wanted if "external" not in last["data_keys"][key]} | found
        return _dataset(found, last, is_open)

    def __getitem__(self, name: str) -> "xarray.DataArray":
        dataset = self.read([name])
        return next(iter(dataset.data_vars.values())) if name == "time" else dataset[name]


# reading -----------------------------------------------------------------------------------------------------------


def _read_parts(client: Any, wanted: Iterable[str]) -> dict[str, Any]:
    """Read columns and arrays of a stream in SQL; each table by one request, whatever columns are wanted of it."""
    wanted = {*wanted, "time"}
    columns: dict[str, Any] = {}
    for key, part in client.base.items():
        if part.structure_family == "table":
            names = [name for name in part.columns if name in wanted]
            table = part.read(names) if names else {}
            columns |= {name: _column(table[name]) for name in names}
        elif key in wanted:
            columns[key] = _ragged(part) if part.structure_family in ("ragged", "awkward") else part.read()
    return columns


def _column(series: Any) -> numpy.ndarray:
    is_numpy = isinstance(series.dtype, numpy.dtype)
    return series.to_numpy() if is_numpy else numpy.array(series.tolist(), object)


def _ragged(part: Any) -> numpy.ndarray:
    rows = part.read().tolist()
    column = numpy.empty(len(rows), object)
    column[:] = [numpy.array(row) for row in rows] if rows else []
    return column


def _read_documents(run: Any, descriptors: set[str], data_keys: Mapping[str, Document]) -> dict[str, Any]:
    """Read the columns of a stream in Mongo from its events: the arrays that the server makes of them refuse None."""
    events = [doc for name, doc in read_catalog(run) if name == "event" and doc["descriptor"] in descriptors]
    inside = [key for key, data_key in data_keys.items() if "external" not in data_key]
    return {
        "time": numpy.array([event["time"] for event in events], "f8"),
        **{key: _as_column([event["data"][key] for event in events], data_keys[key]) for key in inside},
    }


def _as_column(values: list[Any], data_key: Document) -> numpy.ndarray:
    if data_key["dtype"] == "array":
        values = [numpy.array(value) for value in values]
        shapes = {value.shape for value in values}
        if len(shapes) == 1:
            return numpy.array(values)
    column = numpy.empty(len(values), object)
    column[:] = values
    return column


def _read_filled(client: Any, keys: list[str]) -> dict[str, Any]:
    return {key: client["data"][key].read() for key in keys}


# what was read -----------------------------------------------------------------------------------------------------


def _dataset(columns: dict[str, Any], descriptor: Document, is_open: bool) -> "xarray.Dataset":
    data_keys = descriptor["data_keys"]
    columns = {key: _along_rows(values, data_keys.get(key, {})) for key, values in columns.items()}
    inside = [len(values) for key, values in columns.items() if "external" not in data_keys.get(key, {})]
    n = min(inside or [len(values) for values in columns.values()], default=0)
    rows = {key: values[:n] for key, values in columns.items() if len(values) == n or (is_open and len(values) > n)}
    times = rows.pop("time", numpy.full(n, numpy.nan))
    known = {key: {**data_keys[key], **_shape(values)} for key, values in rows.items()}
    dataset = build(rows, times, {**descriptor, "data_keys": known})
    others = {key: values for key, values in columns.items() if key not in rows and key != "time"}
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
    from tiled.client.container import Container

    children = dict(Container(run.context, item=run.item, structure_clients=run.structure_clients).items())
    inner = children.get("streams")
    if inner is not None and all(spec.name != "BlueskyEventStream" for spec in inner.specs):
        children = dict(inner.items())  # as it was written until 2025
    return {client.metadata.get("stream_name") or key: client for key, client in children.items()}

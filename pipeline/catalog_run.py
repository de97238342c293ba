"""A run in a catalog, with one face whatever the catalog is made of."""

from collections.abc import Iterator
from typing import Any

from pipeline.catalog_stream import CatalogStream, stream_clients
from pipeline.documents import Document
from pipeline.errors import PipelineKeyError, PipelineRuntimeError, PipelineTypeError, PipelineValueError
from pipeline.run import FILL, BlueskyRun
from pipeline.sources.catalog import read_catalog

FILLED = (True, "yes")
ASSETS = ("resource", "datum", "stream_resource", "stream_datum")


class CatalogRun(BlueskyRun):
    """A run in a catalog of Tiled or databroker.

    Streams are its items, and its attributes where their names allow it. An open run is asked for anew whenever it is
    looked at.

    Parameters
    ----------
    client
        What a catalog gives for a run: of Tiled, of `databroker.v2`, or a header of `databroker.v1`.

    >>> import databroker
    >>> from pipeline.testing import make_run
    >>> catalog = databroker.temp()
    >>> for name, doc in make_run({"det": [1.0, 2.5]}, uid="a"):
    ...     catalog.insert(name, doc)
    >>> run = CatalogRun(catalog.v2.values().last())
    >>> list(run), run.primary.read()["det"].values
    (['primary'], array([1. , 2.5]))
    """

    def __init__(self, client: Any) -> None:
        client = client if hasattr(client, "specs") else getattr(client, "v2", None)
        if "start" not in getattr(client, "metadata", ()):
            raise PipelineTypeError(f"wanted a run of a catalog, with a start document; there is {client!r}.")
        self.client = client

    @property
    def metadata(self) -> dict[str, Any]:
        """The start document, and the stop document or None while the run is open."""
        if not self.client.metadata.get("stop"):
            self.client.refresh()
        metadata = self.client.metadata_copy()[0]
        return {"start": metadata["start"], "stop": metadata.get("stop") or None}

    def documents(self, fill: Any = None) -> Iterator[tuple[str, Document]]:
        """Yield the documents, from start to stop, or as far as the run has come; see `read_catalog`.

        Of an open run, a server on Mongo keeps the last up to 25 events of a stream back.

        Parameters
        ----------
        fill
            `"no"`, `"yes"`, `"delayed"`, False, True or nothing. Data in files of their own are not filled in: a run
            that has them is refused where they are asked for. `run[stream].read()` reads them.

        Raises
        ------
        PipelineRuntimeError
            If the server has no exporter for runs, or data in files are to be filled in.
        """
        if fill not in FILL:
            raise PipelineValueError(f"documents: fill is {fill!r}; wanted 'no', 'yes', 'delayed' or nothing.")
        streams = {client.item["id"]: stream for stream, client in stream_clients(self.client).items()}
        for name, doc in _exported(self.client):
            if fill in FILLED and name in ASSETS:
                raise PipelineRuntimeError(
                    f"run {self.uid} has data in files, which documents() does not fill in: wanted fill='no'."
                )
            if name == "descriptor":
                doc = {**doc, "name": streams.get(doc["name"], doc["name"])}
            yield name, doc

    def __getitem__(self, name: str) -> CatalogStream:
        streams = stream_clients(self.client)
        if name not in streams:
            raise PipelineKeyError(f"Run {self.uid} has no stream {name!r}; there are {sorted(streams)}.")
        return CatalogStream(name, streams[name], self.client)

    def __iter__(self) -> Iterator[str]:
        return iter(stream_clients(self.client))

    def __len__(self) -> int:
        return len(stream_clients(self.client))

    def __bool__(self) -> bool:
        return True  # a run without streams is there all the same

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CatalogRun) and self.client.uri == other.client.uri

    def __hash__(self) -> int:
        return hash(self.client.uri)


def _exported(client: Any) -> Iterator[tuple[str, Document]]:
    from tiled.client.utils import ClientError

    try:
        yield from read_catalog(client)
    except ClientError as error:
        if error.response.status_code != 406:
            raise
        raise PipelineRuntimeError(
            "the Tiled server cannot export documents: its configuration wants "
            "media_types: {BlueskyRun: {application/json-seq: bluesky_tiled_plugins.exporters:json_seq_exporter}}."
        ) from None

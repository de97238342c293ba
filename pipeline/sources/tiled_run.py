"""The documents of one run, from what a Tiled catalog holds of it, as it comes."""

import heapq
import logging
from collections.abc import Collection, Iterator
from operator import itemgetter

from pipeline.documents import Document
from pipeline.errors import PipelineValueError
from pipeline.sources.catalog import read_catalog
from pipeline.sources.tiled_api import Api, Item, family_of, metadata_of, path_of
from pipeline.sources.tiled_stream import StoredStream

logger = logging.getLogger(__name__)

ASSETS = ("stream_resource", "stream_datum")
MAX_BATCH = 500
Documents = list[tuple[str, Document]]


class StoredRun:
    """Give the documents of one run, each once; ask again, and get those that have come since.

    Parameters
    ----------
    api
        Of the server.
    item
        What the server says of the run's node.
    """

    def __init__(self, api: Api, item: Item) -> None:
        self.key: str = item["id"]
        start = metadata_of(item).get("start")
        if not isinstance(start, dict) or not {"uid", "time"} <= start.keys():
            raise PipelineValueError(f"wanted a run, with a start document; there is {self.key!r}.")
        self.start: Document = start
        self.streams: dict[str, StoredStream] = {}
        self.is_over = False
        self.item = item
        self._api = api
        self._is_begun = False
        self._untold: list[Document] = []  # descriptors

    def forget(self) -> None:
        """Read all anew at the next look: there may be another server."""
        for stream in self.streams.values():
            stream.forget()

    def documents(self) -> Iterator[Documents]:
        """Yield what is new, in batches: descriptors before their events, events of several streams by time."""
        item = self._api.item(path_of(self.item))
        if item is None:  # being written anew, by a sink that found half of it
            return
        self.item, stop = item, metadata_of(item).get("stop")
        if not self._is_begun:
            self._is_begun = True
            yield [("start", self.start)]
        self._look()
        if self._untold:
            descriptors, self._untold = self._untold, []
            yield [("descriptor", doc) for doc in sorted(descriptors, key=itemgetter("time"))]
        yield from self._events(is_over=bool(stop))
        if stop:
            self.is_over = True
            yield [*self._assets(), ("stop", stop)]

    def events_of(self, stream: str, seq_nums: Collection[int]) -> tuple[list[Document], list[Document]]:
        """Return the descriptors of a stream, and its events that have one of these `seq_num` and are whole."""
        self._look()
        named = next((each for each in self.streams.values() if each.name == stream), None)
        if named is None:
            return [], []
        return named.descriptors, list(named.events(bool(metadata_of(self.item).get("stop")), seq_nums))

    def _look(self) -> None:
        """Read the rows, and only then what describes them: of a row that is seen, the descriptor is."""
        n = -1
        while n != len(self.streams):
            n = len(self.streams)
            for stream in self.streams.values():
                stream.look()
            for item in self._stream_items():
                self._untold += self._stream(item).meet(item)

    def _stream_items(self) -> list[Item]:
        items = self._api.children(path_of(self.item))
        inner = next((item for item in items if item["id"] == "streams" and not _is_stream(item)), None)
        items = self._api.children(path_of(inner)) if inner else items  # as it was written until 2025
        return [item for item in items if family_of(item) == "container"]

    def _stream(self, item: Item) -> StoredStream:
        if item["id"] not in self.streams:
            self.streams[item["id"]] = StoredStream(self._api, item, self.start["uid"])
        return self.streams[item["id"]]

    def _events(self, is_over: bool) -> Iterator[Documents]:
        batch: list[tuple[Document, StoredStream]] = []
        for event, stream in heapq.merge(*(_paired(each, is_over) for each in self.streams.values()), key=_time):
            batch.append((event, stream))
            if len(batch) == MAX_BATCH or _is_large(event):
                yield _counted(batch)
                batch = []
        if batch:
            yield _counted(batch)

    def _assets(self) -> Documents:
        """Return what tells of data in files of their own, as the server's exporter has it."""
        external = sorted({key for stream in self.streams.values() for key in stream.external})
        if not external:
            return []
        from tiled.client.utils import client_for_item

        try:
            client = client_for_item(self._api.client.context, self._api.client.structure_clients, self.item)
            return [(name, doc) for name, doc in read_catalog(client) if name in ASSETS]
        except Exception as error:  # noqa: BLE001 - the run is given all the same
            logger.warning("run %s: %s, whose data are in files, are left out: %s", self.key, external, error)
            return []


def _paired(stream: StoredStream, is_over: bool) -> Iterator[tuple[Document, StoredStream]]:
    return ((event, stream) for event in stream.events(is_over))


def _time(pair: tuple[Document, StoredStream]) -> float:
    return pair[0]["time"]


def _counted(batch: list[tuple[Document, StoredStream]]) -> Documents:
    """Count events as given, now that they are: what is read before the server goes away is read again."""
    for _, stream in batch:
        stream.n_given += 1
    return [("event", event) for event, _ in batch]


def _is_stream(item: Item) -> bool:
    return any(spec["name"] == "BlueskyEventStream" for spec in item["attributes"]["specs"])


def _is_large(event: Document) -> bool:
    return any(getattr(value, "nbytes", 0) > 1_000_000 for value in event["data"].values())

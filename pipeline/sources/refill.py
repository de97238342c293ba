"""What was lost on the way, from the catalog of raw runs."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipeline.catalogs import find, kind_of, runs_of
from pipeline.documents import Document
from pipeline.errors import PipelineError
from pipeline.sources.catalog import read_catalog

logger = logging.getLogger(__name__)

Documents = list[tuple[str, Document]]


class Refill:
    """Look up runs, or some of their events, in a catalog of raw runs.

    A catalog on SQL keeps the uids of start, descriptor and stop documents, but not those of events, and an event
    that it gives is the same as one that was seen if stream and `seq_num` are. So `events_of` is asked by these, and
    gives events that refer to descriptors of the taker's: to the one of the same uid, else to the one of the same
    place among those of the stream.

    What cannot be looked up, since the server is away, is None or nothing, and told in the log: ask again later.

    Parameters
    ----------
    catalog
        As for `pipeline.catalogs.runs_of`.
    container
        Which container, where the catalog has several.

    >>> import databroker
    >>> from pipeline.testing import make_run
    >>> catalog, run = databroker.temp(), make_run({"det": [1.0, 2.5, 4.0]}, uid="a")
    >>> for name, doc in run:
    ...     catalog.insert(name, doc)
    >>> refill, uid = Refill(catalog), run[0][1]["uid"]
    >>> [event["data"] for event in refill.events_of(uid, "primary", missing([1, 3]))]
    [{'det': 2.5}]
    >>> [name for name, _ in refill.documents(uid)], refill.documents("nope")
    (['start', 'descriptor', 'event', 'event', 'event', 'stop'], None)
    """

    def __init__(self, catalog: Any, *, container: str = "raw") -> None:
        self._catalog, self._container = catalog, container
        self._client: Any = None
        self._is_away = False

    def documents(self, uid: str) -> Documents | None:
        """Return the documents of a run, whole and in order; None if it is not there, or has no stop document."""
        found = self._asked(lambda run: list(read_catalog(run)), uid)
        return found if found and found[-1][0] == "stop" else None

    def events_of(
        self, uid: str, stream: str, seq_nums: Iterable[int], seen: Sequence[Document] = ()
    ) -> list[Document]:
        """Return the events of a stream that have one of these `seq_num` and are there, each once, by `seq_num`.

        Of a point that was taken again, the last is returned.

        Parameters
        ----------
        uid
            Of the run.
        stream
            The name of the stream.
        seq_nums
            Which events.
        seen
            The descriptors of this stream that the taker has, in order: what is returned refers to them.
        """
        wanted = set(seq_nums)
        there, events = self._asked(lambda run: self._events(run, stream, wanted), uid) or ([], [])
        uids = as_seen(there, seen)
        found = {event["seq_num"]: {**event, "descriptor": uids[event["descriptor"]]} for event in events}
        return [found[seq_num] for seq_num in sorted(found)]

    def _events(self, run: Any, stream: str, wanted: set[int]) -> tuple[list[Document], list[Document]]:
        is_sql = kind_of(self._connected()) == "sql"
        return _rows(run, stream, wanted) if is_sql else _among_documents(run, stream, wanted)

    def _connected(self) -> Any:
        if self._client is None:
            self._client = runs_of(self._catalog, self._container)
        return self._client

    def _asked(self, ask: Callable[[Any], Any], uid: str) -> Any:
        import httpx

        try:
            run = find(self._connected(), uid)
            answer = None if run is None else ask(run)
        except (httpx.HTTPError, OSError) as error:
            self._client = None
            if not self._is_away:
                self._is_away = True
                why = error if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}"
                logger.error("run %s cannot be looked up in the catalog of raw runs: %s", uid, why)
            return None
        self._is_away = False
        return answer


def missing(seq_nums: Iterable[int], n_events: int = 0) -> list[int]:
    """Return which `seq_num` are not among these, up to the greatest, or to the number of events that there are.

    >>> missing([1, 2, 5]), missing([2], n_events=4)
    ([3, 4], [1, 3, 4])
    """
    there = set(seq_nums)
    return [seq_num for seq_num in range(1, max([n_events, *there]) + 1) if seq_num not in there]


def as_seen(there: Sequence[Document], seen: Sequence[Document]) -> dict[str, str]:
    """Return which descriptor that was seen each of the catalog's is, both of one stream and in order.

    >>> as_seen([{"uid": "a"}, {"uid": "b"}], [{"uid": "c"}, {"uid": "b"}])
    {'a': 'c', 'b': 'b'}
    """
    known = {doc["uid"] for doc in seen}
    places = dict(enumerate(doc["uid"] for doc in seen))
    return {doc["uid"]: doc["uid"] if doc["uid"] in known else places.get(i, doc["uid"]) for i, doc in enumerate(there)}


def _rows(run: Any, stream: str, wanted: set[int]) -> tuple[list[Document], list[Document]]:
    from pipeline.sources.tiled_api import Api
    from pipeline.sources.tiled_run import StoredRun

    return StoredRun(Api(run), run.item).events_of(stream, wanted)


def _among_documents(run: Any, stream: str, wanted: set[int]) -> tuple[list[Document], list[Document]]:
    documents = list(read_catalog(run))
    there = [doc for name, doc in documents if name == "descriptor" and doc["name"] == stream]
    uids = {doc["uid"] for doc in there}
    events = [doc for name, doc in documents if name == "event" and doc["descriptor"] in uids]
    return there, [event for event in events if event["seq_num"] in wanted]

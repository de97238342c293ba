"""Runs into a databroker catalog, whatever it is made of."""

import os
import time
from typing import TYPE_CHECKING, Any, Literal, cast

from pipeline.buffer import Buffered
from pipeline.documents import Document, dumps, loads
from pipeline.errors import PipelineKeyError, PipelineRuntimeError, PipelineTypeError
from pipeline.sinks.tiled import TiledSink

if TYPE_CHECKING:
    from event_model.documents import EventPage

CACHE_SECONDS = 2.5  # a Mongo-backed catalog shows an open run as it was up to two seconds ago


class DatabrokerSink:
    """Insert runs into a databroker catalog, each document once.

    A catalog backed by Mongo (and `databroker.temp()`, by its imitation) is given every document by
    `catalog.v1.insert`. It takes the same document twice without a word; so what it holds of a run is looked up first.

    A catalog backed by SQL is written to as `TiledSink` does. `v1.insert` would do it with a writer that shows no
    event before 10,000 have come or the run has stopped, that turns small arrays into text, and that cannot go on
    with a run that is there already.

    Large arrays go into either, but for an embedded catalog, whose server reads them beside the ledger.

    Either way a call returns at once. What goes wrong is logged once and stands in `faults`.

    Parameters
    ----------
    catalog
        A `databroker.v1.Broker`, a client that has it as `.v1`, or the name of a profile (`"temp"` is one in memory).
    maxsize
        How many documents may wait.
    when_full
        As for `TiledSink`: `"drop"` or `"wait"`.
    name
        What the log calls the sink.
    """

    inline = True

    def __init__(
        self,
        catalog: Any,
        *,
        maxsize: int = 100_000,
        when_full: Literal["drop", "wait"] = "drop",
        name: str = "DatabrokerSink",
    ) -> None:
        broker: Any = getattr(_named(catalog) if isinstance(catalog, str) else catalog, "v1", None)
        if not hasattr(broker, "insert"):
            raise PipelineTypeError(
                f"DatabrokerSink: wanted a databroker catalog, with .v1.insert; there is a {type(catalog).__name__}."
            )
        if broker.v2.is_sql:
            self._sink: TiledSink | Buffered = TiledSink(broker.v2, maxsize=maxsize, when_full=when_full, name=name)
        else:
            self._sink = Buffered(MissingOnly(broker), maxsize=maxsize, when_full=when_full, name=name)

    def let_read(self, folder: str | os.PathLike[str]) -> None:
        """Let the server of an embedded catalog read this folder: the documents that come refer to files in it."""
        if isinstance(self._sink, TiledSink):
            self._sink.let_read(folder)

    def __call__(self, name: str, doc: Document) -> None:
        """Put the document in the queue."""
        self._sink(name, doc)

    @property
    def takes_arrays(self) -> bool:
        """Whether large arrays are to be given in events: Mongo knows no others."""
        return isinstance(self._sink, Buffered)

    @property
    def faults(self) -> dict[str, str]:
        """What went wrong first with each run, by the run's uid."""
        return self._sink.faults

    @property
    def n_dropped(self) -> int:
        """How many documents have been dropped."""
        return self._sink.n_dropped

    def flush(self, timeout: float | None = None) -> None:
        """Return when everything given is in the catalog, or stands in `faults`.

        Raises
        ------
        TimeoutError
            If it takes longer than `timeout` seconds; nothing is lost by it.
        """
        self._sink.flush(timeout)

    def close(self, timeout: float | None = 30.0) -> None:
        """Wait until everything is in the catalog, and end the thread."""
        self._sink.close(timeout)

    def __enter__(self) -> "DatabrokerSink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _named(profile: str) -> Any:
    from databroker.v1 import Broker
    from tiled.profiles import ProfileNotFound

    try:
        return Broker.named(profile)
    except ProfileNotFound as error:
        raise PipelineKeyError(f"DatabrokerSink: wanted the name of a profile, there is {profile!r}: {error}") from None


class MissingOnly:
    """Insert the documents that a catalog does not hold yet."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self._began = time.monotonic()
        self._streams: dict[str, str] = {}  # descriptor uid -> stream name, of open runs
        self._up_to: dict[tuple[str, str], int] = {}  # run uid, stream name -> the last seq_num that is held
        self._held: dict[str, set[str]] = {}  # run uid -> uids of what the catalog held of it, while it is open
        self._runs: dict[str, str] = {}  # uid of a descriptor or resource -> run uid
        self._written: dict[str, float] = {}  # run uid -> when it was last written to, of the latest runs

    def __call__(self, name: str, doc: Document) -> None:
        """Insert this document, unless the catalog has it."""
        run = self._run_of(name, doc)
        if name == "start":
            self._held[run] = self._look_up(doc)
        if run not in self._held:
            return  # it was refused
        try:
            self._insert(run, self._missing(name, doc, self._held[run]))
        except Exception:
            self._forget(run)  # nothing more of it, and no stop document: half a run is not passed off as a whole one
            raise
        if name == "stop":
            self._forget(run)

    def _insert(self, run: str, documents: list[tuple[str, Document]]) -> None:
        for name, doc in documents:
            self._broker.insert(name, _plain(name, doc))
            self._remember(run)

    def _run_of(self, name: str, doc: Document) -> str:
        if name == "start":
            return doc["uid"]
        owner = doc.get("descriptor") or doc.get("resource") or ""
        run = doc.get("run_start") or self._runs.get(owner) or next(reversed(self._held), "")
        if name in ("descriptor", "resource"):
            self._runs[doc["uid"]] = run
        if name == "descriptor":
            self._streams[doc["uid"]] = doc["name"]
        return run

    def _look_up(self, start: Document) -> set[str]:
        """Return the uids of what the catalog holds of this run."""
        uid = start["uid"]
        try:
            node = self._broker.v2[uid]
        except KeyError:
            return set()
        if not node.metadata.get("stop"):  # another that wrote may have ended just before this one began
            time.sleep(max(0.0, self._written.get(uid, self._began) + CACHE_SECONDS - time.monotonic()))
            node = self._broker.v2[uid]
            self._up_to |= {(uid, stream): n for stream, n in events_held(node).items()}
        documents = list(node.documents(fill=False))
        there = dict(documents)
        if _comparable("start", start) != _comparable("start", there["start"]):
            raise _other_content(uid, "start")
        return {uid for name, doc in documents for uid in _uids(name, doc)}

    def _missing(self, name: str, doc: Document, held: set[str]) -> list[tuple[str, Document]]:
        if not held:
            return [(name, doc)]
        if name in ("event", "event_page"):
            return self._missing_events(name, doc, held)
        if name == "stop" and "stop" in held:
            self._compare_stop(doc)
            return []
        return [] if held.issuperset(_uids(name, doc)) else [(name, doc)]

    def _missing_events(self, name: str, doc: Document, held: set[str]) -> list[tuple[str, Document]]:
        descriptor = doc["descriptor"]
        up_to = self._up_to.get((self._runs.get(descriptor, ""), self._streams.get(descriptor, "")), 0)
        if name == "event":
            return [] if doc["uid"] in held or doc["seq_num"] <= up_to else [(name, doc)]
        if min(doc["seq_num"]) > up_to and not held.intersection(doc["uid"]):
            return [(name, doc)]
        from event_model import unpack_event_page

        events = unpack_event_page(cast("EventPage", doc))
        return [("event", dict(event)) for event in events if event["uid"] not in held and event["seq_num"] > up_to]

    def _compare_stop(self, stop: Document) -> None:
        there = self._broker.v2[stop["run_start"]].metadata["stop"]
        if _comparable("stop", stop) != _comparable("stop", there):
            raise _other_content(stop["run_start"], "stop")

    def _remember(self, run: str) -> None:
        self._written.pop(run, None)
        self._written[run] = time.monotonic()
        if len(self._written) > 1000:
            del self._written[next(iter(self._written))]

    def _forget(self, run: str) -> None:
        self._held.pop(run, None)
        self._runs = {uid: of for uid, of in self._runs.items() if of != run}
        self._streams = {uid: stream for uid, stream in self._streams.items() if uid in self._runs}
        self._up_to = {place: n for place, n in self._up_to.items() if place[0] != run}


def events_held(node: Any) -> dict[str, int]:
    """Return the last `seq_num` of each stream of an open run in a Mongo-backed catalog.

    Its `documents()` keeps the last up to 25 events of an open run back; the arrays that the server makes do not.
    """
    return {name: _last_seq_num(node[name]) for name in node}


def _last_seq_num(stream: Any) -> int:
    return int(stream["data"]["time"].shape[0])


def _uids(name: str, doc: Document) -> list[str]:
    if name == "stop":
        return ["stop"] if doc else []
    uid = doc.get("uid") or doc.get("datum_id") or []
    return [uid] if isinstance(uid, str) else list(uid)


def _plain(name: str, doc: Document) -> Document:
    return loads(dumps(name, doc))[1]


def _comparable(name: str, doc: Any) -> Document:
    return {key: value for key, value in _plain(name, dict(doc)).items() if value is not None}


def _other_content(uid: str, name: str) -> PipelineRuntimeError:
    return PipelineRuntimeError(
        f"same uid, other content: the catalog has run {uid} with another {name} document; what it has is left as it is"
    )

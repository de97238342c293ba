"""One run of the ledger, beside what a catalog has of it: by Tiled's own storage, or by Mongo."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from pipeline.catalog import embedded_in
from pipeline.catalogs import find, kind_of
from pipeline.difference import first_difference
from pipeline.documents import Document, dumps, loads
from pipeline.errors import PipelineRuntimeError, PipelineValueError
from pipeline.ledger_tail import LedgerFile
from pipeline.uploads import Uploads, uploaded

if TYPE_CHECKING:
    from event_model.documents import EventPage

Documents = Iterable[tuple[str, Document]]
PAGE_ROWS = 200  # of a page of events into Mongo
LINES = 1000  # of a ledger file that are read at once


class Refused(PipelineRuntimeError):
    """The catalog has another run of this uid; it is left as it is."""


class Ahead(PipelineRuntimeError):
    """The catalog has more of this run than the ledger, in which it is not over."""


class Writer(Protocol):
    """Brings the catalog level with what it is given of one run."""

    losses: list[str]

    def __call__(self, name: str, doc: Document) -> Any:
        """Take in one document."""
        ...

    def write(self, client: Any) -> Any:
        """Write what was taken in."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether the stop document is written."""
        ...


class Runs(Protocol):
    """The runs of one catalog."""

    client: Any

    def __len__(self) -> int: ...

    def uids(self) -> Iterator[str]:
        """Yield the uids of all runs."""
        ...

    def difference(self, uid: str, documents: Documents) -> str:
        """Return how the catalog's run differs from these documents; nothing, if it does not."""
        ...

    def begin(self, uid: str, read: Callable[[], Documents], *, may_replace: bool) -> Writer | None:
        """Return what to give the documents to, from the start on; None if the catalog has them all, and the stop."""
        ...


def runs_in(client: Any) -> Runs:
    """Return the runs of a container, whatever it is kept in.

    >>> import databroker
    >>> len(runs_in(databroker.temp().v2))
    0
    """
    return MongoRuns(client) if kind_of(client) == "mongo" else TiledRuns(client)


class TiledRuns:
    """The runs of a container that Tiled itself keeps.

    Parameters
    ----------
    client
        Of the container.
    """

    def __init__(self, client: Any) -> None:
        self.client = client.include_data_sources()
        self._uploads = embedded_in(client) is None  # its server cannot read what is in files beside the ledger

    def __len__(self) -> int:
        return len(self.client)

    def uids(self) -> Iterator[str]:
        """Yield the uids of all runs."""
        return iter(self.client.keys())

    def difference(self, uid: str, documents: Documents) -> str:
        """Return how the catalog's run differs from these documents; nothing, if it does not."""
        from tiled.client.utils import ClientError

        node = find(self.client, uid)
        if node is None:
            return "the catalog has no such run"
        try:
            standing = self._compared(node, documents).finish()
        except ClientError as error:
            if error.response.status_code != 404:
                raise
            return "the catalog's run was changed while it was compared"
        return standing.difference or standing.surplus or standing.missing

    def begin(self, uid: str, read: Callable[[], Documents], *, may_replace: bool) -> Writer | None:
        """Return what to give the documents to; what the catalog has is compared first.

        Parameters
        ----------
        uid
            Of the run.
        read
            Gives its documents from the start on, as far as they are there.
        may_replace
            Whether the run was given up once, so that what the catalog has may give way.

        Raises
        ------
        Refused
            If the catalog has another run of this uid.
        Ahead
            If it has more of this one.
        """
        from pipeline.sinks.run_writer import RunWriter

        node = find(self.client, uid)
        if node is None:
            return RunWriter(kept={}, uploads=self._uploads)
        comparison = self._compared(node, read())
        standing = comparison.finish()
        if standing.is_level and comparison.has_stop:
            return None
        if standing.difference or (standing.surplus and comparison.has_stop):
            if not (may_replace or comparison.is_abandoned):
                raise _other(uid, standing.difference or standing.surplus)
            node.delete(recursive=True, external_only=False)
            return RunWriter(kept={}, uploads=self._uploads)
        if comparison.is_abandoned and not comparison.has_stop:
            _take_stop_away(node)
        elif standing.surplus:
            raise Ahead(f"the catalog has more of run {uid} than the ledger: {standing.surplus}")
        return RunWriter(there=node, kept=standing.kept, uploads=self._uploads)

    def _compared(self, node: Any, documents: Documents) -> Any:
        from pipeline.sinks.run_comparison import RunComparison

        comparison = RunComparison(node, uploads=self._uploads)
        for name, doc in documents:
            comparison(name, doc)
        return comparison


def _take_stop_away(node: Any) -> None:
    from tiled.client.metadata_update import DELETE_KEY

    node.update_metadata(metadata={"stop": DELETE_KEY}, drop_revision=True)


def _other(uid: str, difference: str) -> Refused:
    return Refused(
        f"same uid, other content: the catalog has another run {uid} ({difference}); what it has is left as it is"
    )


# Mongo -------------------------------------------------------------------------------------------------------------


class MongoRuns:
    """The runs of a databroker catalog that keeps them in Mongo, or in its imitation.

    Parameters
    ----------
    client
        Of the catalog.
    """

    def __init__(self, client: Any) -> None:
        from pipeline.sinks.databroker import MissingOnly

        self.client = client
        self._insert = MissingOnly(client.v1)

    def __len__(self) -> int:
        return len(self.client)

    def uids(self) -> Iterator[str]:
        """Yield the uids of all runs."""
        return iter(self.client)

    def difference(self, uid: str, documents: Documents) -> str:
        """Return how the catalog's run differs from these documents; nothing, if it does not."""
        try:
            node = self.client[uid]
        except KeyError:
            return "the catalog has no such run"
        return _differ(node, documents)

    def begin(self, uid: str, read: Callable[[], Documents], *, may_replace: bool) -> Writer | None:
        """Return what to give the documents to; a run that the catalog has whole is compared first.

        Nothing is ever deleted here, so a run that was given up cannot give way.

        Raises
        ------
        Refused
            If the catalog has another run of this uid.
        """
        try:
            node = self.client[uid]
        except KeyError:
            return MongoRun(self._insert)
        if not node.metadata.get("stop"):
            return MongoRun(self._insert)
        if difference := _differ(node, read()):
            raise _other(uid, difference)
        return None


class MongoRun:
    """Gives the documents of one run to a Mongo-backed catalog, events in pages.

    Parameters
    ----------
    insert
        Takes each document, and inserts it unless the catalog has it.
    """

    def __init__(self, insert: Callable[[str, Document], Any]) -> None:
        self.losses: list[str] = []
        self.is_finished = False
        self._insert = insert
        self._waiting: list[tuple[str, Document]] = []
        self._uploads = Uploads()

    def __call__(self, name: str, doc: Document) -> None:
        """Take in one document."""
        self._waiting += self._uploads(name, doc)

    def write(self, client: Any) -> None:
        """Insert what was taken in."""
        for name, doc in _in_pages(self._waiting):
            self._insert(name, doc)
            self.is_finished = name == "stop"
        self._waiting.clear()


def _in_pages(documents: list[tuple[str, Document]]) -> Iterator[tuple[str, Document]]:
    from event_model import pack_event_page

    for (name, _), group in itertools.groupby(documents, key=lambda item: (item[0], item[1].get("descriptor"))):
        docs: list[Any] = [doc for _, doc in group]
        if name != "event" or len(docs) == 1 or any(doc.get("filled") for doc in docs):
            yield from ((name, doc) for doc in docs)
            continue
        for first in range(0, len(docs), PAGE_ROWS):
            page: Any = pack_event_page(*docs[first : first + PAGE_ROWS])
            yield "event_page", page


def _differ(node: Any, documents: Documents) -> str:
    """Compare documents with those that the catalog gives back, in an order of its own."""
    from pipeline.sinks.databroker import events_held

    have = _in_order(node.documents(fill=False))
    want = _in_order(uploaded(documents))
    streams = {doc["uid"]: doc["name"] for name, doc in want.values() if name == "descriptor"}
    kept_back = {} if node.metadata.get("stop") else events_held(node)
    for uid, (name, doc) in want.items():
        if uid in have:
            if difference := first_difference(_plain(name, doc), _plain(*have.pop(uid)), _place(name, doc)):
                return difference
        elif name != "event" or doc["seq_num"] > kept_back.get(streams.get(doc["descriptor"], ""), 0):
            return f"{_place(name, doc)}: the catalog has none"
    left = next(iter(have.values()), None)
    return f"{_place(*left)}: the ledger has none" if left else ""


def _in_order(documents: Documents) -> dict[str, tuple[str, Document]]:
    """Return documents by uid; pages as events, a stop document as "stop"."""
    from event_model import unpack_event_page

    found: dict[str, tuple[str, Document]] = {}
    for name, doc in documents:
        if name == "event_page":
            events = unpack_event_page(cast("EventPage", doc))
            found |= {event["uid"]: ("event", dict(event)) for event in events}
        elif name == "stop":
            found |= {"stop": (name, doc)} if doc else {}
        elif "uid" in doc:
            found[doc["uid"]] = name, dict(doc)
    return found


def _plain(name: str, doc: Document) -> Document:
    plain = loads(dumps(name, doc))[1]
    return {key: value for key, value in plain.items() if value not in (None, {}, [])}


def _place(name: str, doc: Document) -> str:
    return f"{name} {doc['seq_num']}" if name == "event" else name


# the ledger --------------------------------------------------------------------------------------------------------


def documents_of(lines: Iterable[bytes], path: Any, first: int = 1) -> Iterator[tuple[str, Document]]:
    r"""Read lines of a ledger file.

    Raises
    ------
    PipelineValueError
        If one is no document: it names file and line.

    >>> list(documents_of([b'["stop",{"uid":"a"}]\n'], "a.jsonl"))
    [('stop', {'uid': 'a'})]
    """
    for number, line in enumerate(lines, first):
        try:
            item = loads(line)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise PipelineValueError(f"{path}, line {number}: wanted a document as JSON: {error}") from None
        yield item


def documents_in(file: LedgerFile) -> Iterator[tuple[str, Document]]:
    """Read what is left of a ledger file, up to its last whole line; it may be looked at afterwards.

    Raises
    ------
    PipelineValueError
        If a line is no document.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
    ...     _ = file.write(b'["start",{"uid":"a"}]\\n["sto'); file.flush()
    ...     list(documents_in(LedgerFile(Path(file.name))))
    [('start', {'uid': 'a'})]
    """
    while lines := file.read(LINES):
        yield from documents_of(lines, file.path, file.n_lines - len(lines) + 1)


def uid_in(path: Path) -> str:
    """Return the uid of the run in a ledger file; nothing, if it has no line yet.

    Raises
    ------
    PipelineValueError
        If it does not begin with a start document.
    """
    head = next(documents_of(LedgerFile(path).read(1), path), None)
    if head is None:
        return ""
    name, doc = head
    if name != "start" or not isinstance(doc.get("uid"), str):
        raise PipelineValueError(f"{path}, line 1: wanted a start document with a uid, there is {name!r}.")
    return doc["uid"]

"""Stored runs in a catalog."""

from collections.abc import Iterable, Iterator
from inspect import Parameter, signature
from typing import Any

from event_model import unpack_event_page

from pipeline.documents import Document, NaNs
from pipeline.errors import PipelineTypeError


def read_catalog(run: Any) -> Iterator[tuple[str, Document]]:
    """Read the documents of a run in a databroker or Tiled catalog, in the order in which they were made.

    Catalogs give back a run's documents in orders of their own. Here start and descriptors come first, then the events
    of each stream by time and `seq_num`, then the stop document; an open run has none. `null` where numbers stand is
    NaN again, and a page is given as events.

    Parameters
    ----------
    run
        What a catalog gives for a uid: `catalog[uid]`, of `databroker.v1`, `databroker.v2` or Tiled, or any object
        that has `documents()`.

    >>> class Run:
    ...     def documents(self, *, fill):
    ...         yield "start", {"uid": "a", "time": 0.0}
    >>> list(read_catalog(Run()))
    [('start', {'uid': 'a', 'time': 0.0})]
    """
    restore = NaNs()
    for name, doc in _in_order(_documents(run)):
        yield name, restore(name, doc)


def _documents(run: Any) -> Iterable[tuple[str, Document]]:
    """Ask for unfilled documents, in the words of this kind of run."""
    documents = getattr(run, "documents", None)
    if documents is None:
        raise PipelineTypeError(f"wanted a run of a catalog, that has documents(); there is {type(run).__name__}.")
    fill = signature(documents).parameters.get("fill")
    # bluesky-live wants fill="no" and has no default; Tiled takes that text for True.
    items = documents(fill="no") if fill is not None and fill.default is Parameter.empty else documents()
    for name, doc in items:
        yield str(getattr(name, "name", name)), dict(doc)


def _in_order(items: Iterable[tuple[str, Document]]) -> Iterator[tuple[str, Document]]:
    first: list[tuple[str, Document]] = []
    assets: list[tuple[str, Document]] = []
    events: list[Document] = []
    last: list[tuple[str, Document]] = []
    for name, doc in items:
        if name == "event_page":
            events.extend(unpack_event_page(doc))  # type: ignore[arg-type]
        elif name == "event":
            events.append(doc)
        elif name in ("start", "descriptor"):
            first.append((name, doc))
        elif name == "stop":
            last.extend([(name, doc)] if doc else [])  # Tiled ends an open run with an empty one
        else:
            assets.append((name, doc))
    yield from sorted(first, key=lambda item: (item[0] == "descriptor", item[1].get("time", 0)))
    yield from assets
    yield from (("event", event) for event in sorted(events, key=lambda event: (event["time"], event["seq_num"])))
    yield from last

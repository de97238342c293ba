"""Show that stored analysis runs are what their raw runs give when they are replayed."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.compared_arrays import CatalogArrays, ComparedArrays, LedgerArrays
from pipeline.difference import first_difference
from pipeline.documents import Document, dumps, loads
from pipeline.errors import PipelineError
from pipeline.node import Node
from pipeline.pipeline import Pipeline
from pipeline.readers.assets import Assets
from pipeline.run_of import RunOf
from pipeline.sinks.jsonl import JSONLSink
from pipeline.sources.catalog import read_catalog
from pipeline.sources.jsonl import read_jsonl

Documents = list[tuple[str, Document]]


class Verdict(NamedTuple):
    """What became of one analysis run: its uid, that of its raw run, and how it differs; nothing if it does not."""

    uid: str
    raw_uid: str
    node: str
    difference: str


def verify(
    nodes: Sequence[Node],
    documents: Iterable[tuple[str, Document]],
    *,
    ledger: str | None = None,
    catalog: Mapping[str, Any] | None = None,
    assets: Assets | None = None,
) -> Iterator[Verdict]:
    """Replay raw runs, and compare with what the ledger or the catalog holds, document by document.

    A ledger is compared byte by byte. A catalog gives documents back in a form of its own: there the start and stop
    documents, and time, `seq_num`, data and timestamps of each event are compared. Large arrays are compared with those
    in files, as the replay comes to them: they are there as they were stored, and nothing is written.

    Parameters
    ----------
    nodes
        That made the analysis runs.
    documents
        Of the raw runs.
    ledger
        The directory of the ledger.
    catalog
        The catalog, where there is no ledger: a mapping of uids to runs.
    assets
        Where external assets of the raw runs are.
    """
    arrays = CatalogArrays(catalog or {}) if ledger is None else LedgerArrays(ledger)
    for uid, wanted in replayed(nodes, documents, assets, arrays).items():
        start = wanted[0][1]
        if ledger is not None:
            difference = _differ(wanted, _from_ledger(ledger, uid))
        else:
            difference = _differ(_as_catalog(wanted), _from_catalog(catalog or {}, uid))
        difference = difference or arrays.differences.get(uid, "")
        yield Verdict(uid, start["original_run_uid"], start["analysis"]["node"], difference)


def replayed(
    nodes: Sequence[Node],
    documents: Iterable[tuple[str, Document]],
    assets: Assets | None = None,
    arrays: ComparedArrays | None = None,
) -> dict[str, Documents]:
    """Return the documents of the analysis runs that a replay gives, by uid.

    Parameters
    ----------
    nodes, documents, assets
        As for `verify`.
    arrays
        Takes large arrays out of the events, and compares them. None: they stay there.
    """
    runs = _Collected(arrays)
    Pipeline(nodes, [runs], assets=assets).replay(documents)
    return runs.by_uid


class _Collected:
    """A sink that keeps the documents of each run apart."""

    inline = True

    def __init__(self, arrays: ComparedArrays | None) -> None:
        self.arrays = arrays
        self.by_uid: dict[str, Documents] = defaultdict(list)
        self._run_of = RunOf()

    def __call__(self, name: str, doc: Document) -> None:
        self.by_uid[self._run_of(name, doc)].append((name, doc))


def _from_ledger(directory: str, uid: str) -> Documents | str:
    path = Path(directory) / JSONLSink.file_name(uid)
    try:
        return list(read_jsonl(path))
    except PipelineError as error:
        return str(error)


def _from_catalog(catalog: Mapping[str, Any], uid: str) -> Documents | str:
    try:
        return _as_catalog(list(read_catalog(catalog[uid])))
    except KeyError:
        return f"the catalog has no run {uid}"


def _as_catalog(documents: Documents) -> Documents:
    """Return of each document what every catalog gives back; events by stream and `seq_num`."""
    streams = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
    ends = [(name, doc) for name, doc in documents if name in ("start", "stop")]
    events = [
        (f"event of {streams[doc['descriptor']]}", {key: doc[key] for key in ("seq_num", "time", "data", "timestamps")})
        for name, doc in documents
        if name == "event"
    ]
    return [*ends, *sorted(events, key=lambda event: (event[0], event[1]["seq_num"]))]


def _differ(wanted: Documents, have: Documents | str) -> str:
    """Return the first difference, or nothing."""
    if isinstance(have, str):
        return have
    nothing: tuple[str, Document] = ("nothing", {})
    for number, (want, there) in enumerate(zip_longest(wanted, have, fillvalue=nothing), 1):
        if want[0] != there[0]:
            return f"document {number}: wanted {want[0]}, there is {there[0]}"
        place = first_difference(_comparable(*want), _comparable(*there), want[0])
        if place:
            return f"document {number}: {place}"
    return ""


def _comparable(name: str, doc: Document) -> Document:
    """Return the document as JSON has it, without what became of it in the sinks: that is no part of the analysis."""
    if name == "stop" and "sinks" in doc.get("analysis", {}):
        doc = {**doc, "analysis": {key: value for key, value in doc["analysis"].items() if key != "sinks"}}
    return loads(dumps(name, doc))[1]

"""Store a run of results: one call for every catalog."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import event_model

from pipeline.array_files import path_of
from pipeline.catalog import default_path
from pipeline.catalogs import find, kind_of, runs_of
from pipeline.documents import Document, file_stem, plainly
from pipeline.errors import PipelineError, PipelineRuntimeError, PipelineTypeError, PipelineValueError
from pipeline.provenance import linked_metadata
from pipeline.run import BlueskyRun
from pipeline.run_arrays import RunArrays
from pipeline.run_builder import RunBuilder, build_simple_run
from pipeline.schema import faults
from pipeline.sinks import DatabrokerSink, JSONLSink, TiledSink
from pipeline.sources.catalog import read_catalog
from pipeline.sources.jsonl import read_jsonl
from pipeline.stream_builder import PAGE_ROWS
from pipeline.tables import LARGEST
from pipeline.uploads import uploaded

Documents = list[tuple[str, Document]]
Path_ = str | os.PathLike[str]


def store(
    run: Any,
    catalog: Any = None,
    *,
    raw: Any = None,
    name: str = "store",
    metadata: Mapping[str, Any] | None = None,
    uid: str | None = None,
    references: Sequence[Document] = (),
    ledger: Path_ | bool | None = None,
    timeout: float = 60.0,
) -> BlueskyRun:
    """Store a run of results, linked to the raw run that they are of, in the ledger and in any catalogs.

    A run that is there already is left as it is, and one that is there by half is completed: so whatever went wrong,
    the same call again sets it right.

    Parameters
    ----------
    run
        A run (what `build_simple_run` and `RunBuilder.get_run()` give, or any object that has `documents()`), its
        documents, or a table of any kind that `build_simple_run` takes.
    catalog
        Where to: what `open_catalog` gives, any client of Tiled or databroker catalog, a path (the embedded catalog
        there), a URI, the name of a profile; None: the embedded catalog of `open_catalog()`. A list of several.
    raw
        The run that the results are of: a uid, a run or its start document; several: a list, or a dict by role.
        The start document tells of it as that of a node's analysis does. What the raw run says of its owner, project
        and sample is taken over, if the run is given or one of the catalogs holds it.
    name
        What the analysis is called, in the place of the node's name.
    metadata
        More for the start document.
    uid
        Of the run, if `run` is a table; a new one by default.
    references
        What else was read, as `{"role": ..., "name": ..., "sha256": ...}`.
    ledger
        The folder of the JSONL file that is written first; by default `ledger` in the directory of the embedded
        catalog, with files of HDF5 beside it for large arrays. False: none.
    timeout
        How many seconds a catalog may take.

    Returns
    -------
    BlueskyRun
        The run as it is stored.

    Raises
    ------
    PipelineError
        If the run cannot be stored; nothing is written then. Or if another run of this uid is there.
    PipelineRuntimeError
        If a catalog could not be written to; it tells what is where.

    >>> import tempfile
    >>> from databroker import temp
    >>> catalog = temp()
    >>> run = store({"centre": [1.25]}, catalog, raw="7f3c0d9e", metadata={"sample": "Cu"}, ledger=False)
    >>> run.metadata["start"]["original_run_uid"], catalog.v2[run.uid].metadata["start"]["sample"]
    ('7f3c0d9e', 'Cu')
    """
    with Store(catalog, ledger=ledger, timeout=timeout) as stored:
        return stored(run, raw=raw, name=name, metadata=metadata, uid=uid, references=references)


class Store:
    """Store many runs, as `store` does one, into catalogs that are opened once.

    Parameters
    ----------
    catalog, ledger, timeout
        As for `store`.
    """

    def __init__(self, catalog: Any = None, *, ledger: Path_ | bool | None = None, timeout: float = 60.0) -> None:
        self._timeout = timeout
        targets = catalog if isinstance(catalog, list | tuple) else [catalog]
        directory = _ledger(targets) if ledger is None or ledger is True else ledger
        self._targets = [_Target(target) for target in targets]
        self._ledger = None if directory is False else JSONLSink(directory)

    def __call__(
        self,
        run: Any,
        *,
        raw: Any = None,
        name: str = "store",
        metadata: Mapping[str, Any] | None = None,
        uid: str | None = None,
        references: Sequence[Document] = (),
    ) -> BlueskyRun:
        """Store one run; see `store`."""
        documents = _documents(run, uid)
        start = {**documents[0][1], **plainly(dict(metadata or {}), "metadata")}
        if raw is not None or references:
            parents = {} if raw is None else self._parents(raw)
            start = _linked(start, parents, name, _first_stream(documents), references)
        documents[0] = ("start", start)
        _check(documents)
        self._write(documents)
        return BlueskyRun(lambda: documents)

    def held(self, uid: str) -> BlueskyRun | None:
        """Return the run of this uid that the ledger holds whole."""
        path = None if self._ledger is None else self._ledger.directory / self._ledger.file_name(uid)
        if path is None or not path.exists():
            return None
        documents = list(read_jsonl(path))
        return BlueskyRun(lambda: documents) if documents and documents[-1][0] == "stop" else None

    def _parents(self, raw: Any) -> dict[str, Document]:
        if isinstance(raw, Mapping) and "uid" not in raw and not isinstance(raw, BlueskyRun):
            by_role = dict(raw)
        elif isinstance(raw, list | tuple):
            by_role = {"raw" if i == 0 else f"raw_{i + 1}": each for i, each in enumerate(raw)}
        else:
            by_role = {"raw": raw}
        if not by_role:
            raise PipelineValueError("raw: wanted the runs that the results are of, there are none.")
        return {role: self._start_of(each) for role, each in by_role.items()}

    def _start_of(self, raw: Any) -> Document:
        """Return the start document of a raw run, or its uid if that is all that is known."""
        if isinstance(raw, str):
            found = (target.start_of(raw) for target in self._targets)
            return next((start for start in found if start), {"uid": raw})
        start = raw if isinstance(raw, dict) else (getattr(raw, "metadata", None) or {}).get("start")
        if not start or "uid" not in start:
            raise PipelineTypeError(f"raw: wanted a uid, a run or a start document; there is a {type(raw).__name__}.")
        return dict(start)

    def _write(self, documents: Documents) -> None:
        """Write into the ledger, and then into each catalog, whatever becomes of the others."""
        uid = documents[0][1]["uid"]
        there, told = [], documents
        if self._ledger is not None:
            told = self._written(documents, self._ledger)
            there.append(f"the ledger {str(self._ledger.directory)!r}")
        missing = []
        for target in self._targets:
            given = list(uploaded(documents)) if target.takes_arrays else told
            fault = target.write(given, self._timeout)
            there += [] if fault else [target.name]
            missing += [f"{target.name}: {fault}"] if fault else []
        if missing:
            raise PipelineRuntimeError(
                f"Run {uid} is whole in {' and in '.join(there) or 'no place'}; "
                f"it is not in {'; nor in '.join(missing)}. Store the same run again to complete it."
            )

    def _written(self, documents: Documents, ledger: JSONLSink) -> Documents:
        """Write into the ledger, and return the documents that it has: those of large arrays tell where they are."""
        arrays = None if ledger.arrays is None else RunArrays(ledger.arrays)
        told: Documents = []
        try:
            for item in documents:
                for each in [item] if arrays is None else arrays(*item):
                    ledger(*each)
                    told.append(each)
        finally:
            if arrays is not None:
                arrays.let_go()
        for folder in _folders(told):
            for target in self._targets:
                target.let_read(folder)
        return told

    def close(self) -> None:
        """Let the ledger and the catalogs go."""
        if self._ledger is not None:
            self._ledger.close()
        for target in self._targets:
            target.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Target:
    """One catalog that is written to."""

    def __init__(self, catalog: Any) -> None:
        self._catalog = catalog
        self._runs = runs_of(catalog)
        self._is_mongo = kind_of(self._runs) == "mongo"
        self._sink = (DatabrokerSink if self._is_mongo else TiledSink)(self._runs)
        self.takes_arrays = self._is_mongo
        self.name = _shown(catalog)

    def start_of(self, uid: str) -> Document | None:
        """Return the start document of a run that this catalog holds."""
        for runs in (_raw_runs(self._catalog), self._runs):
            node = None if runs is None else find(runs, uid)
            if node is not None:
                return dict(node.metadata["start"])
        return None

    def let_read(self, folder: Path) -> None:
        """Let the server of an embedded catalog read the files of this folder."""
        self._sink.let_read(folder)

    def write(self, documents: Documents, timeout: float) -> str:
        """Write a run; return why it is not there, if so."""
        uid = documents[0][1]["uid"]
        try:
            _give(_in_pages(documents) if self._is_mongo else documents, self._sink)
            self._sink.flush(timeout)
        except (PipelineError, TimeoutError) as error:
            return str(error)
        return self._sink.faults.get(uid, "")

    def close(self) -> None:
        """End the writing."""
        with suppress(PipelineError, TimeoutError):  # told by write
            self._sink.close(0.1)


def _raw_runs(catalog: Any) -> Any:
    try:
        return runs_of(catalog, "raw")
    except PipelineError:
        return None


def _ledger(targets: Sequence[Any]) -> Path:
    """Return the ledger beside the first embedded catalog, or beside the default one."""
    paths = [Path(target).expanduser() for target in targets if _is_path(target)]
    return (paths[0] if paths else default_path()) / "ledger"


def _is_path(target: Any) -> bool:
    if isinstance(target, str):
        return "://" not in target and (os.sep in target or target.startswith((".", "~")) or Path(target).is_dir())
    return isinstance(target, os.PathLike)


def _shown(catalog: Any) -> str:
    if catalog is None:
        return f"the catalog {str(default_path())!r}"
    if isinstance(catalog, str | os.PathLike):
        return f"the catalog {os.fspath(catalog).partition('?')[0]!r}"
    return f"the catalog given as {type(catalog).__name__}"


def _folders(documents: Documents) -> set[Path]:
    """Return the folders of the files that are named for this run: of arrays beside a ledger."""
    stem = file_stem(documents[0][1]["uid"])
    paths = [path_of(doc["uri"]) for name, doc in documents if name == "stream_resource"]
    return {path.parent for path in paths if path.name.startswith(f"{stem}.")}


# documents ---------------------------------------------------------------------------------------------------------


def _documents(run: Any, uid: str | None) -> Documents:
    """Return the documents of a whole run, of whatever holds them."""
    if hasattr(run, "documents"):
        documents = list(run.documents() if isinstance(run, BlueskyRun | RunBuilder) else read_catalog(run))
    elif _are_documents(run := list(run) if isinstance(run, Iterable) and not hasattr(run, "__len__") else run):
        documents = [(str(getattr(name, "name", name)), dict(doc)) for name, doc in run]
    else:
        return list(build_simple_run(run, uid=uid).documents())
    _check_whole(documents)
    return documents


def _are_documents(run: Any) -> bool:
    return (
        isinstance(run, list | tuple)
        and len(run) > 0
        and all(isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[1], Mapping) for item in run)
    )


def _check_whole(documents: Documents) -> None:
    names = [name for name, _ in documents]
    if names[:1] != ["start"] or names.count("start") != 1:
        raise PipelineValueError(f"wanted one run, its start document first; there are {names[:3]} ...")
    if names[-1] != "stop" or names.count("stop") != 1:
        raise PipelineValueError(
            f"wanted a whole run, its stop document last; run {documents[0][1].get('uid')} ends with {names[-1]!r}: "
            "close it first."
        )


def _check(documents: Documents) -> None:
    """Refuse what no catalog would keep as it is, before anything is written."""
    found: list[str] = []
    for name, doc in faults(documents, found):
        if name in ("start", "stop", "descriptor"):
            _check_integers(doc, name)
    if found:
        raise PipelineValueError("; ".join(found))


def _check_integers(value: Any, place: str) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            _check_integers(part, f"{place}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            _check_integers(part, f"{place}[{i}]")
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise PipelineValueError(
            f"{place} is {value}; wanted integers up to 2**53, which is what a Tiled catalog keeps of metadata. "
            "Text will do, or a column."
        )


def _first_stream(documents: Documents) -> str:
    return next((doc["name"] for name, doc in documents if name == "descriptor"), "primary")


def _linked(
    start: Document, parents: dict[str, Document], name: str, stream: str, references: Sequence[Document]
) -> Document:
    recipe = {"node": name, "stream": stream, "reductions": []}
    link = linked_metadata(parents, recipe, references=references)
    raw, there = link.get("original_run_uid"), start.get("original_run_uid")
    if raw and there not in (None, raw):
        raise PipelineValueError(f"Run {start['uid']} says that it is of the raw run {there}; raw= says {raw}.")
    if there is not None:
        return start
    own = {key: link[key] for key in ("original_run_uid", "parent_uids", "analysis", "raw") if key in link}
    if taken := sorted(own.keys() & start.keys()):
        raise PipelineValueError(f"metadata says {taken[0]!r}, where a run tells of its raw run; call it otherwise.")
    return {**plainly(link, "raw"), **start, **plainly(own, "raw")}


def _give(documents: Iterable[tuple[str, Document]], sink: Callable[[str, Document], Any]) -> None:
    for name, doc in documents:
        sink(name, doc)


def _in_pages(documents: Documents) -> Iterator[tuple[str, Document]]:
    """Yield the documents, with events that follow one another in pages: Mongo takes a page as quickly as an event."""
    for (name, _), group in groupby(documents, key=lambda item: (item[0], item[1].get("descriptor"))):
        items = [doc for _, doc in group]
        if name == "event" and not any(doc.get("filled") for doc in items):
            for i in range(0, len(items), PAGE_ROWS):
                yield "event_page", event_model.pack_event_page(*items[i : i + PAGE_ROWS])  # type: ignore[arg-type]
        else:
            yield from ((name, doc) for doc in items)

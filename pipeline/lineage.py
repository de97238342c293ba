"""The kin of a run in a catalog: what was made of it, and what it was made of."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.catalog_run import CatalogRun
from pipeline.catalogs import containers_of, kind_of
from pipeline.documents import Document
from pipeline.errors import PipelineKeyError, PipelineTypeError, PipelineValueError
from pipeline.family import Family, Link
from pipeline.kin import PARENT_KEYS, RAW_KEYS, parents_of

MIN_PREFIX = 6  # of a recipe's hash
UIDS_A_QUERY = 50  # they stand in a URL
FORMATS = ("tree", "mermaid", "graphviz", "json", "prov")


@dataclass(frozen=True)
class ParentRun:
    """A run that another was made of, as that one tells.

    Parameters
    ----------
    uid
        Of the run.
    role
        What it was read as.
    run
        The run itself; None if the catalog does not hold it.
    """

    uid: str
    role: str
    run: CatalogRun | None


def analyses(
    catalog: Any,
    raw: Any,
    *,
    node: str | None = None,
    recipe: str | None = None,
    reduction: str | None = None,
    limit: int | None = None,
) -> list[CatalogRun]:
    """Return the runs that were made of this run, directly or by way of others, newest first.

    Of us and of others: a run is one of them if its start document says so in any of the words that `parents_of`
    knows. Newest is what started last, and of those that started at the same time, what came last into the catalog.
    Of a catalog that has `raw` and `analysis`, it is looked for in `raw` only if there is nothing in `analysis`.

    Parameters
    ----------
    catalog
        As for `runs_of`.
    raw
        The uid of the run, its start document, or the run. It may be an analysis run itself.
    node
        Only those of the node of this name.
    recipe
        Only those whose recipe's hash begins with this: six letters or more.
    reduction
        Only those whose recipe has a reduction of this name.
    limit
        How many at most.

    >>> import databroker
    >>> catalog = databroker.temp()
    >>> catalog.insert("start", {"uid": "raw-1", "time": 1.0})
    >>> catalog.insert("start", {"uid": "one", "time": 2.0, "original_run_uid": "raw-1"})
    >>> analyses(catalog, "raw-1")
    [<CatalogRun uid='one'>]
    """
    if recipe is not None and len(recipe) < MIN_PREFIX:
        raise PipelineValueError(
            f"analyses: wanted {MIN_PREFIX} letters or more of a recipe's hash, there is {recipe!r}."
        )
    if limit is not None and limit < 1:
        raise PipelineValueError(f"analyses: wanted a limit of 1 or more, there is {limit}.")
    uid = uid_of(raw)
    searched = (_made_of(container, uid) for container in containers_of(catalog))
    found = next((found for found in searched if found), [])
    found = [client for client in found if _is_of(_start(client), node, recipe, reduction)]
    found.sort(key=lambda client: _start(client).get("time", 0.0))
    return [CatalogRun(client) for client in found[::-1][:limit]]


def raw_runs(catalog: Any, analysis: Any) -> list[ParentRun]:
    """Return the runs that this run was made of, in the order in which it tells them, with their roles.

    A run that the catalog does not hold is there, without the run itself.

    Parameters
    ----------
    catalog
        As for `runs_of`.
    analysis
        The uid of the run, its start document, or the run.

    Raises
    ------
    PipelineKeyError
        If a uid is given, and the catalog has no such run.

    >>> import databroker
    >>> raw_runs(databroker.temp(), {"uid": "one", "time": 2.0, "original_run_uid": "raw-1"})
    [ParentRun(uid='raw-1', role='raw', run=None)]
    """
    containers = containers_of(catalog)
    start = _start_of(analysis)
    if start is None:
        start = _start(_one(containers, uid_of(analysis)))
    parents = parents_of(start)
    there = _held(reversed(containers), [parent.uid for parent in parents])
    runs = {uid: CatalogRun(client) for uid, client in there.items()}
    return [ParentRun(parent.uid, parent.role, runs.get(parent.uid)) for parent in parents]


def lineage(catalog: Any, uid: Any, *, format: str | None = None) -> Any:
    """Return the family of a run: what it was made of, and what that was made of; and what was made of it, and so on.

    Parameters
    ----------
    catalog
        As for `runs_of`.
    uid
        That of the run, its start document, or the run.
    format
        None gives a `Family`. Text is given for `"tree"` (for a terminal), `"mermaid"`, `"graphviz"`, `"json"`, and
        `"prov"` (W3C PROV-JSON).

    Raises
    ------
    PipelineKeyError
        If the catalog has no such run.

    >>> import databroker
    >>> catalog = databroker.temp()
    >>> catalog.insert("start", {"uid": "raw-1", "time": 1.0, "plan_name": "scan"})
    >>> catalog.insert("start", {"uid": "one", "time": 2.0, "original_run_uid": "raw-1"})
    >>> print(lineage(catalog, "one", format="tree"))
    raw-1  scan
    └─ one  <-- asked for
    """
    if format not in (None, *FORMATS):
        raise PipelineValueError(f"lineage: format is {format!r}; wanted one of {list(FORMATS)}, or None.")
    containers = containers_of(catalog)
    asked = uid_of(uid)
    runs: dict[str, Document | None] = {asked: _metadata(_one(containers, asked))}
    _add_parents(containers, runs, [asked])
    _add_made(containers, runs, asked)
    family = Family(asked, runs, _links(runs))
    if format is None:
        return family
    value = {"json": family.as_dict, "prov": family.prov}.get(format)
    return json.dumps(value(), indent=2) if value else getattr(family, format)()


def uid_of(run: Any) -> str:
    """Return the uid of a run that is given as a uid, as its start document, or as the run.

    >>> uid_of("a"), uid_of({"uid": "a", "time": 0.0})
    ('a', 'a')
    """
    if isinstance(run, str) and run:
        return run
    start = _start_of(run)
    if start is None or not isinstance(start.get("uid"), str):
        raise PipelineTypeError(f"wanted the uid of a run, its start document, or the run; there is {run!r}.")
    return start["uid"]


def _start_of(run: Any) -> Document | None:
    if isinstance(run, Mapping) and "uid" in run and not hasattr(run, "metadata"):
        return dict(run)
    metadata = getattr(run, "metadata", None)
    start = metadata.get("start") if isinstance(metadata, Mapping) else getattr(run, "start", None)
    return dict(start) if isinstance(start, Mapping) else None


# of a catalog ------------------------------------------------------------------------------------------------------


def _made_of(container: Any, uid: str) -> list[Any]:
    """Return the clients of the runs of this container that name that one as what they were made of."""
    found = _search(container, _mentions(kind_of(container), uid))
    return [client for client in found if uid in {parent.uid for parent in parents_of(_start(client))}]


def _mentions(kind: str, uid: str) -> Any:
    """Return one query for the start documents that have this uid in them.

    Tiled knows no *or*. Mongo does, and takes it through `Eq` as it is; SQL compares the whole start document, as
    text. What is found too much has to be sorted out.
    """
    from tiled.queries import Contains, Eq

    if kind == "mongo":
        return Eq("$or", [{key: uid} for key in (*RAW_KEYS, *PARENT_KEYS, "analysis.parents.uid")])
    return Contains("start", re.sub(r"[^0-9A-Za-z_-]+", "%", uid))  # what JSON or LIKE would write otherwise


def _held(containers: Iterable[Any], uids: Iterable[str]) -> dict[str, Any]:
    """Return the clients of those of these runs that are in any of these containers."""
    from tiled.queries import In, KeysFilter

    missing, there = list(dict.fromkeys(uids)), {}
    for container in containers:
        is_sql = kind_of(container) == "sql"
        # By key is quicker; who did not write runs by their uids is asked the other way.
        for query in [KeysFilter, lambda part: In("start.uid", part)] if is_sql else [lambda part: In("uid", part)]:
            for i in range(0, len(missing), UIDS_A_QUERY):
                found = _search(container, query(missing[i : i + UIDS_A_QUERY]))
                there |= {_start(client)["uid"]: client for client in found if _start(client).get("uid") in missing}
            missing = [uid for uid in missing if uid not in there]
    return there


def _search(container: Any, query: Any) -> Iterator[Any]:
    """Yield the clients of the runs that are found.

    Not `container.search`: a catalog of runs would look for a key `start` within the start document.
    """
    from tiled.client.container import Container

    return (client for client in Container.search(container, query).values() if _start(client))


def _one(containers: list[Any], uid: str) -> Any:
    there = _held(containers, [uid])
    if uid not in there:
        names = [container.item["id"] or "/" for container in containers]
        raise PipelineKeyError(f"wanted the run {uid}; it is not among the runs of {names}.")
    return there[uid]


def _metadata(client: Any) -> Document:
    return client.item["attributes"]["metadata"]


def _start(client: Any) -> Document:
    return _metadata(client).get("start") or {}


def _is_of(start: Document, node: str | None, recipe: str | None, reduction: str | None) -> bool:
    analysis = start.get("analysis")
    analysis = analysis if isinstance(analysis, dict) else {}
    if node is not None and analysis.get("node") != node:
        return False
    if recipe is not None and not str(analysis.get("recipe_hash", "")).startswith(recipe):
        return False
    reductions = (analysis.get("recipe") or {}).get("reductions") or []
    return reduction is None or any(each.get("name") == reduction for each in reductions)


# of a family -------------------------------------------------------------------------------------------------------


def _add_parents(containers: list[Any], runs: dict[str, Document | None], generation: list[str]) -> None:
    """Add what these runs were made of, and what that was made of, until there is no more."""
    while generation:
        named = [parent.uid for uid in generation for parent in parents_of((runs[uid] or {}).get("start") or {})]
        new = [uid for uid in dict.fromkeys(named) if uid not in runs]
        there = _held(reversed(containers), new)
        runs |= {uid: _metadata(there[uid]) if uid in there else None for uid in new}
        generation = list(there)


def _add_made(containers: list[Any], runs: dict[str, Document | None], asked: str) -> None:
    """Add what was made of this run, and what was made of that, until there is no more."""
    seen, waiting = {asked}, [asked]
    while waiting:
        uid = waiting.pop()
        for client in (client for container in containers for client in _made_of(container, uid)):
            made = _start(client)["uid"]
            runs.setdefault(made, _metadata(client))
            if made not in seen:
                seen.add(made)
                waiting.append(made)


def _links(runs: Mapping[str, Document | None]) -> list[Link]:
    """Return who was made of whom; what an analysis of an analysis says of the first raw run is told by the rest."""
    links, named = [], []
    for uid, metadata in runs.items():
        for parent in parents_of((metadata or {}).get("start") or {}):
            if parent.uid in runs:
                (links if parent.is_read else named).append(Link(uid, parent.uid, parent.role))
    return links + [link for link in named if link.parent not in _ancestors(link.uid, links)]


def _ancestors(uid: str, links: Iterable[Link]) -> set[str]:
    above: dict[str, list[str]] = {}
    for link in links:
        above.setdefault(link.uid, []).append(link.parent)
    found: set[str] = set()
    waiting = [uid]
    while waiting:
        new = [parent for parent in above.get(waiting.pop(), ()) if parent not in found]
        found.update(new)
        waiting += new
    return found

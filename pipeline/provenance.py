"""What the start document of an analysis run says of where the run came from."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import metadata
from typing import Any

from pipeline.documents import Document, Uids
from pipeline.errors import PipelineValueError

SCHEMA_VERSION = 1
SHARED = ("data_session", "data_groups", "tiled_access_tags", "owner", "group", "project", "sample")
OF_RAW = ("scan_id", "plan_name", "time")
SOFTWARE = ("bluesky-pipeline", "event-model", "numpy")


def is_raw(start: Document) -> bool:
    """Tell a raw run from an analysis run, of ours or of others, by its start document.

    >>> is_raw({"uid": "a"}), is_raw({"uid": "b", "original_run_uid": "a"})
    (True, False)
    """
    return not ("analysis" in start or "original_run_uid" in start)


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """Return the name of an analysis: the SHA-256 of its recipe as canonical JSON.

    Raises
    ------
    PipelineValueError
        If the recipe holds what JSON cannot, or a key with `.` or `/`, which documents refuse.

    >>> recipe_hash({"b": 1, "a": 2}) == recipe_hash({"a": 2, "b": 1})
    True
    """
    _check_keys(recipe, "recipe")
    try:
        text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise PipelineValueError(
            f"The arguments of a reduction are part of the recipe: wanted numbers, text, lists and dicts; {error}."
        ) from None
    return hashlib.sha256(text.encode()).hexdigest()


def _check_keys(value: Any, place: str) -> None:
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str) or "." in key or "/" in key:
                raise PipelineValueError(f"{place} has the key {key!r}; wanted text without '.' and '/'.")
            _check_keys(part, f"{place}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            _check_keys(part, f"{place}[{i}]")


def analysis_uid(raw_uid: str, digest: str) -> str:
    """Return the uid of the analysis run that this recipe makes of this raw run: always the same.

    >>> analysis_uid("7f3c", "00") == analysis_uid("7f3c", "00") != analysis_uid("7f3c", "01")
    True
    """
    return Uids(raw_uid)(digest)


def linked_metadata(
    parents: Mapping[str, Document],
    recipe: Mapping[str, Any],
    packages: Iterable[str] = (),
    references: Sequence[Document] = (),
) -> Document:
    """Return the metadata of the start document of an analysis run.

    Parameters
    ----------
    parents
        By role: the start documents of the runs that were read, or as much as is known of them, but `uid` at least.
        The first is the raw run, or an analysis of it. None, if only `references` were read.
    recipe
        What the analysis does; see `recipe_hash`.
    packages
        Further distributions whose versions matter.
    references
        What else was read: `{"role": ..., "uid" or "name": ..., "sha256": ...}`.

    >>> metadata = linked_metadata({"sample": {"uid": "a"}, "buffer": {"uid": "b"}}, {"node": "n", "stream": "primary"})
    >>> metadata["original_run_uid"], metadata["parent_uids"]
    ('a', ['a', 'b'])
    """
    first = next(iter(parents.values()), {})
    return {
        **({"original_run_uid": first.get("original_run_uid", first["uid"])} if first else {}),
        "parent_uids": list(dict.fromkeys(parent["uid"] for parent in parents.values())),
        **{key: first[key] for key in SHARED if key in first},
        "analysis": {
            "schema_version": SCHEMA_VERSION,
            "node": recipe["node"],
            "stream": recipe["stream"],
            "recipe": recipe,
            "recipe_hash": recipe_hash(recipe),
            "parents": [{"uid": parent["uid"], "role": role} for role, parent in parents.items()],
            "software": software(tuple(packages)),
            "references": list(references),
        },
        "raw": {key: first[key] for key in OF_RAW if key in first and not isinstance(first[key], dict | list | tuple)},
    }


@cache
def software(packages: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """Return names and versions of what the numbers depend on, as installed."""
    names = dict.fromkeys((*SOFTWARE, *packages))
    return [{"name": name, "version": _version(name)} for name in names]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"

"""Of which runs a run was made, as its start document says: in our words, and in those of others."""

from collections.abc import Mapping
from typing import Any, NamedTuple

# LiveDispatcher of bluesky and code of NSLS-II; others; xpdAn
RAW_KEYS = ("original_run_uid", "raw_run_uid", "raw_uid", "original_start_uid")
PARENT_KEYS = ("parent_uids", "parent_uid")  # SHED and others


class Parent(NamedTuple):
    """One run that another was made of.

    Parameters
    ----------
    uid
        Of the parent.
    role
        What it was read as: `raw`, or what the analysis calls it.
    is_read
        Whether it was read itself. The raw run of an analysis of an analysis need not have been.
    """

    uid: str
    role: str
    is_read: bool


def parents_of(start: Mapping[str, Any]) -> list[Parent]:
    """Return the runs that this start document names as those that the run was made of, in order.

    First come those of `analysis.parents`, then of `parent_uids` and `parent_uid`, then those named as the raw run
    (`original_run_uid`, `raw_run_uid`, `raw_uid`, `original_start_uid`); each once.

    >>> parents_of({"uid": "b", "original_run_uid": "a", "parent_uids": ["a", "dark"]})
    [Parent(uid='a', role='raw', is_read=True), Parent(uid='dark', role='parent', is_read=True)]
    >>> parents_of({"uid": "a", "plan_name": "scan"})
    []
    """
    roles = _roles(start)
    raw = [uid for key in RAW_KEYS for uid in _texts(start.get(key))]
    read = [*roles, *(uid for key in PARENT_KEYS for uid in _texts(start.get(key)))]
    return [
        Parent(uid, roles.get(uid) or ("raw" if uid in raw else "parent"), uid in read or not read)
        for uid in dict.fromkeys([*read, *raw])
        if uid and uid != start.get("uid")
    ]


def _roles(start: Mapping[str, Any]) -> dict[str, str]:
    analysis = start.get("analysis")
    parents = analysis.get("parents") if isinstance(analysis, Mapping) else None
    known = [each for each in parents or () if isinstance(each, Mapping) and isinstance(each.get("uid"), str)]
    return {each["uid"]: str(each.get("role") or "parent") for each in known}


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [each for each in value if isinstance(each, str)] if isinstance(value, list | tuple) else []

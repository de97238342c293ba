"""Runs and what they were made of as W3C PROV-JSON (https://www.w3.org/submissions/prov-json)."""

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from pipeline.documents import Document

PREFIXES = {
    "run": "urn:bluesky:run:",
    "analysis": "urn:bluesky:analysis:",
    "software": "urn:bluesky:software:",
    "start": "urn:bluesky:start:",
}


def prov_json(runs: Mapping[str, Document | None], links: Iterable[tuple[str, str, str]]) -> Document:
    """Return the runs as entities, what made them of others as activities, and its software as agents.

    Parameters
    ----------
    runs
        By uid: `start` and `stop` document, or None.
    links
        The uid of a run, that of a run that it was made of, and what that was read as.

    >>> document = prov_json({"a": None, "b": {"start": {"uid": "b", "time": 0.0}}}, [("b", "a", "raw")])
    >>> document["wasDerivedFrom"]["_:derived0"]["prov:usedEntity"], document["activity"]["analysis:b"]
    ('run:a', {'prov:startTime': '1970-01-01T00:00:00+00:00'})
    """
    links = list(links)
    made = {uid: runs.get(uid) or {} for uid, _, _ in links}
    agents = {uid: _agents(run) for uid, run in made.items()}
    document = {
        "prefix": PREFIXES,
        "entity": {_name("run", uid): _attributes(run) for uid, run in runs.items()},
        "activity": {_name("analysis", uid): _times(run) for uid, run in made.items()},
        "agent": {name: agent for each in agents.values() for name, agent in each.items()},
        "used": _numbered("used", (_used(*link) for link in links)),
        "wasGeneratedBy": _numbered("generated", (_generated(uid) for uid in made)),
        "wasDerivedFrom": _numbered("derived", (_derived(uid, parent) for uid, parent, _ in links)),
        "wasAssociatedWith": _numbered("agent", (_associated(uid, name) for uid in made for name in agents[uid])),
    }
    return {key: value for key, value in document.items() if value}


def _name(kind: str, text: str) -> str:
    return f"{kind}:{quote(text, safe='')}"


def _numbered(name: str, items: Iterable[Document]) -> Document:
    return {f"_:{name}{i}": item for i, item in enumerate(items)}


def _used(uid: str, parent: str, role: str) -> Document:
    return {"prov:activity": _name("analysis", uid), "prov:entity": _name("run", parent), "prov:role": role}


def _generated(uid: str) -> Document:
    return {"prov:entity": _name("run", uid), "prov:activity": _name("analysis", uid)}


def _derived(uid: str, parent: str) -> Document:
    return {
        "prov:generatedEntity": _name("run", uid),
        "prov:usedEntity": _name("run", parent),
        "prov:activity": _name("analysis", uid),
    }


def _associated(uid: str, agent: str) -> Document:
    return {"prov:activity": _name("analysis", uid), "prov:agent": agent}


def _attributes(run: Document | None) -> Document:
    """Return the start document as attributes: numbers and text as they are, what is nested as JSON."""
    start = (run or {}).get("start") or {}
    return {_name("start", key): _literal(value) for key, value in start.items() if value is not None}


def _literal(value: Any) -> Any:
    if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return json.dumps(value, default=str)


def _times(run: Document) -> Document:
    times = {"prov:startTime": run.get("start"), "prov:endTime": run.get("stop")}
    return {
        key: datetime.fromtimestamp(doc["time"], UTC).isoformat() for key, doc in times.items() if doc and "time" in doc
    }


def _agents(run: Document) -> Document:
    analysis = (run.get("start") or {}).get("analysis")
    software = analysis.get("software") if isinstance(analysis, Mapping) else None
    return {
        _name("software", f"{each.get('name')}-{each.get('version')}"): {
            "prov:type": {"$": "prov:SoftwareAgent", "type": "prov:QUALIFIED_NAME"},
            "prov:label": f"{each.get('name')} {each.get('version')}",
        }
        for each in software or ()
        if isinstance(each, Mapping)
    }

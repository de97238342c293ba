"""Whether a document is valid."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from event_model import DocumentNames, schema_validators
from jsonschema import ValidationError

from pipeline.documents import Document
from pipeline.errors import PipelineValueError


def validate(name: str, doc: Document) -> None:
    """Hold a document to event-model's schema.

    Raises
    ------
    PipelineValueError
        If it is not valid; it names the place.

    >>> validate("start", {"uid": "a"})
    Traceback (most recent call last):
    pipeline.errors.PipelineValueError: start is not valid by event-model's schema: 'time' is a required property
    """
    try:
        schema_validators[DocumentNames[name]].validate(doc)
    except ValidationError as error:
        place = "".join(f"[{part!r}]" for part in error.absolute_path)
        raise PipelineValueError(f"{name}{place} is not valid by event-model's schema: {error.message[:300]}") from None
    except KeyError:
        raise PipelineValueError(f"there is no kind of document called {name!r}") from None


KNOWN = 10_000
FREE = frozenset({"uid", "run_start", "descriptor", "reason", "original_run_uid", "parent_uids"})  # any text will do
_known: set[str] = set()  # what documents that were found valid look like


def validate_once(name: str, doc: Document) -> None:
    """Hold a document to the schema, unless one that differs from it in numbers and uids alone was found valid.

    The runs of one analysis differ in little more, and jsonschema takes milliseconds for a descriptor: at the first
    point of every scan. The schema knows types, texts and names, but no numbers.

    >>> validate_once("start", {"uid": "a", "time": 0.0})
    >>> validate_once("start", {"uid": "b", "time": None})
    Traceback (most recent call last):
    pipeline.errors.PipelineValueError: start['time'] is not valid by event-model's schema: None is not of type 'number'
    """
    look = f"{name} {json.dumps(_look(doc), sort_keys=True)}"
    if look in _known:
        return
    validate(name, _with_distinct_keys(doc) if name == "descriptor" else doc)
    if len(_known) >= KNOWN:
        _known.clear()
    _known.add(look)


def _look(value: Any, key: Any = "") -> Any:
    if isinstance(value, dict):
        return {str(k): _look(v, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_look(v, key) for v in value]
    return f"={value}" if isinstance(value, str) and key not in FREE else type(value).__name__


def _with_distinct_keys(doc: Document) -> Document:
    """Return a descriptor with one data key of each kind: what holds for it holds for those that look the same."""
    plain, named = {}, {}
    for key, data_key in doc["data_keys"].items():
        if "." in key or "/" in key:
            named[key] = data_key
        else:
            plain.setdefault(json.dumps(_look(data_key), sort_keys=True), (key, data_key))
    return {**doc, "data_keys": named | dict(plain.values())}


def faults(documents: Iterable[tuple[str, Document]], found: list[str]) -> Iterator[tuple[str, Document]]:
    """Pass documents on, and note what is not valid: of each kind that comes once, and the first event of a stream.

    >>> found = []
    >>> list(faults([("stop", {"uid": "a"})], found)) and found
    ["stop is not valid by event-model's schema: 'exit_status' is a required property"]
    """
    seen: set[str] = set()
    for name, doc in documents:
        key = doc.get("descriptor") if name in ("event", "event_page") else None
        if key not in seen or key is None:
            seen.update([key] if key else [])
            try:
                validate(name, doc)
            except PipelineValueError as error:
                found.append(str(error))
        yield name, doc

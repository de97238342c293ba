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
        raise PipelineValueError(
            f"{name}{place} is not valid by event-model's schema: {error.message[:300]}"
        ) from None
    except KeyError:
        raise PipelineValueError(f"there is no kind of document called {name!r}") from None


_known: set[str] = set()  # parts of documents, as text, that were found valid
KNOWN = 10_000


def validate_once(name: str, doc: Document) -> None:
    """Hold a start document or a descriptor to the schema, leaving out the parts that were found valid before.

    The runs of one analysis differ in little, and the fields of one stream too: to validate each data key of each
    descriptor in full costs milliseconds, at the first point of every scan.

    >>> validate_once("start", {"uid": "a", "time": 0.0, "analysis": {"node": "mean", "parents": []}})
    """
    part = {"start": _start_parts, "descriptor": _descriptor_parts}[name]
    reduced, texts = part(doc)
    validate(name, reduced)
    if len(_known) > KNOWN:
        _known.clear()
    _known.update(texts)


def _start_parts(doc: Document) -> tuple[Document, list[str]]:
    analysis = doc.get("analysis")
    if not isinstance(analysis, dict):
        return doc, []
    text = _text({key: value for key, value in analysis.items() if key != "parents"})
    if text not in _known:
        return doc, [text]
    return {**doc, "analysis": {"parents": analysis.get("parents", [])}}, []


def _descriptor_parts(doc: Document) -> tuple[Document, list[str]]:
    """Keep one data key of each content; a schema that holds for it holds for all, but for their names."""
    new: dict[str, str] = {}
    for key, data_key in doc["data_keys"].items():
        text = _text(data_key)
        if "." in key or "/" in key:
            new[f"{key}: {text}"] = key
        elif text not in _known:
            new.setdefault(text, key)
    return {**doc, "data_keys": {key: doc["data_keys"][key] for key in new.values()}}, list(new)


def _text(part: Any) -> str:
    return json.dumps(part, sort_keys=True, default=repr)


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

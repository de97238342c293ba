"""Whether a document is valid."""

from collections.abc import Iterable, Iterator

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

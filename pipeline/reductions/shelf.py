"""The shelf of reductions, as their docstrings tell it."""

import inspect
import re
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.reductions.reduction import Reduction


class Entry(NamedTuple):
    """One reduction: how it is called, what it does, what it gives."""

    call: str
    kind: str
    what: str
    results: str


def entries() -> Iterator[Entry]:
    """Yield the reductions on the shelf, by name.

    >>> [entry.call for entry in entries() if entry.call.startswith("Mean")]
    ['Mean(field, skipna=True)']
    """
    import pipeline.reductions as shelf

    for name, cls in sorted(vars(shelf).items()):
        if isinstance(cls, type) and issubclass(cls, Reduction) and cls is not Reduction:
            doc = inspect.getdoc(cls) or ""
            yield Entry(f"{name}({_parameters(cls)})", cls.kind, doc.partition("\n")[0], ", ".join(_results(doc)))


def _parameters(cls: type) -> str:
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return ", ".join(str(each.replace(annotation=each.empty)) for each in parameters)


def _results(doc: str) -> Iterator[str]:
    """Yield the names of results: what the section has in back quotes, with a colon or a comma behind it."""
    section = re.search(r"^Results\n-+\n(.*?)(?=^\w+\n-+\n|^>>>|\Z)", doc, re.M | re.S)
    told = section.group(1).partition("\nAxes:")[0] if section else ""
    yield from dict.fromkeys(re.findall(r"`([^`]+)`(?=[:,])", told))


def markdown() -> str:
    """Return the shelf as a table in Markdown."""
    rows = [f"| `{e.call}` | {e.kind} | {e.what} | {_quoted(e.results)} |" for e in entries()]
    return "\n".join(["| reduction | kind | what it does | results |", "| --- | --- | --- | --- |", *rows])


def _quoted(results: str) -> str:
    return ", ".join(f"`{name}`" for name in results.split(", ")) if results else "what the graph emits"


def text() -> str:
    """Return the shelf for a terminal."""
    return "\n\n".join(
        f"{e.call}  [{e.kind}]\n    {e.what}\n    gives {e.results or 'what it emits'}" for e in entries()
    )

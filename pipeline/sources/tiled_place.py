"""Where one is in a container of runs of which several may be open."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from pipeline.documents import Document
from pipeline.errors import PipelineValueError
from pipeline.sources.position import Index


class Mark(NamedTuple):
    """A run as two integers: when it began, in nanoseconds, and 48 bits of the hash of its key."""

    time: int
    code: int


def mark(key: str, start: Document) -> Mark:
    """Return the mark of a run.

    >>> mark("a", {"time": 1.5})
    Mark(time=1500000000, code=148399243917989)
    """
    return Mark(round(start["time"] * 1e9), code_of(key))


def code_of(key: str) -> int:
    """Return what tells this run from others that began at the same time."""
    return int.from_bytes(hashlib.sha1(key.encode(), usedforsecurity=False).digest()[:6], "big")


class Place(NamedTuple):
    """How many items were given, the newest run of which anything was given, and the runs that were not over then.

    As an index it is a flat tuple of integers, which grows with the first of them.

    >>> place = Place(7, Mark(2, 20), (Mark(1, 10),))
    >>> place.numbers, Place.of(place.numbers) == place
    ((7, 2, 20, 1, 10), True)
    """

    n: int = 0
    newest: Mark = Mark(0, 0)
    open: tuple[Mark, ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """The place as an index of the source."""
        return (self.n, *self.newest, *(number for each in self.open for number in each))

    @classmethod
    def of(cls, index: Index) -> Self:
        """Return the place that this index tells."""
        numbers: Sequence[int] = (index,) if isinstance(index, int) else tuple(index)
        marks = tuple(_marks(numbers[1:]))
        return cls(numbers[0], marks[0] if marks else Mark(0, 0), marks[1:])


def lane_of(target: Any, container: str) -> str:
    """Return the name of a container that stays: without what may be secret, and the port of an embedded catalog.

    >>> lane_of("http://me:secret@host:8000/api/v1", "raw")
    'http://host:8000/api/v1/raw'
    """
    if isinstance(target, str) and target.startswith(("http://", "https://")):
        parts = urlsplit(target)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/{container}"
    if isinstance(target, os.PathLike) or (isinstance(target, str) and ("/" in target or Path(target).exists())):
        return f"{os.path.abspath(os.path.expanduser(target))}/{container}"
    text = target if isinstance(target, str) else "/".join(["catalog", *getattr(target, "path_parts", ())])
    return f"{text}/{container}"


def seconds_of(time: float | str | None) -> float | None:
    """Return a time in seconds since 1970.

    Raises
    ------
    PipelineValueError
        If it is a text, and not ISO 8601.

    >>> seconds_of("2026-11-01T00:00:00+00:00"), seconds_of(1.5), seconds_of(None)
    (1793491200.0, 1.5, None)
    """
    try:
        return datetime.fromisoformat(time).timestamp() if isinstance(time, str) else time
    except ValueError as error:
        raise PipelineValueError(f"wanted seconds since 1970, or ISO 8601 text; there is {time!r}: {error}") from None


def _marks(numbers: Sequence[int]) -> Iterable[Mark]:
    return (Mark(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True))

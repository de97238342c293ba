"""The reductions of a node, one after the other: each is given what those before it gave."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.documents import Document
from pipeline.errors import PipelineError, PipelineKeyError, PipelineValueError, RejectedValue
from pipeline.event_data import EventData
from pipeline.output import Point
from pipeline.reductions.event_reduction import EventReduction
from pipeline.reductions.reduction import SHARED, Data, Reduction


class Links:
    """What events change, and what is undone with them: the reductions, and how much they have taken in."""

    def __init__(self, reductions: list[Reduction], time: float) -> None:
        self.reductions = reductions
        self.n_events = self.n_skipped = 0
        self.last = Point(0, time, {}, {})


class Chain:
    """Give events to reductions in turn, each with the results of those before it, and say what is wrong with them.

    Parameters
    ----------
    stream
        The raw stream that the events are of.

    Attributes
    ----------
    data_keys
        Of the events.
    derived
        What reductions of single events gave, for those after them: by key, the place of that which gave it.
    """

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.data_keys: Mapping[str, Document] = {}
        self.derived: dict[str, int] = {}

    def begin(self, data_keys: Mapping[str, Document]) -> None:
        """Know what the fields are; nothing is derived of them yet."""
        self.data_keys, self.derived = data_keys, {}

    def check(self, reductions: Sequence[Reduction], configured: Mapping[str, Any]) -> None:
        """Refuse fields that are not there; what the reductions before give is known with their first result."""
        for reduction in reductions:
            for field in reduction.fields:
                if field not in self.data_keys and field not in configured:
                    raise self._no_field(reduction, field)
            if reduction.kind == "event":
                return

    def _no_field(self, reduction: Reduction, field: Any) -> PipelineError:
        given = f", and the reductions before it give {sorted(self.derived)}" if self.derived else ""
        return PipelineKeyError(
            f"{reduction.name} reads {field!r}, but stream {self.stream!r} has {list(self.data_keys)}{given}."
        )

    def update(self, links: Links, data: Data) -> bool:
        """Let each reduction take in an event, and what those before it gave; return whether each has a result."""
        links.n_events += 1
        is_whole = True
        for i, reduction in enumerate(links.reductions):
            try:
                reduction.update(data)
            except RejectedValue:
                is_rejected = True
            except KeyError as error:
                self._forgive(reduction, error, is_whole)
                is_rejected = True
            else:
                is_rejected = False
            links.n_skipped += is_rejected
            if reduction.kind != "event":
                continue
            if is_rejected and (not isinstance(reduction, EventReduction) or reduction.result() is None):
                is_whole = False  # what it says is of the event before, or it has said nothing yet
            elif len(links.reductions) > 1:
                data = self._fed(data, reduction, i)
        return is_whole

    def _fed(self, data: Data, reduction: Reduction, place: int) -> Data:
        """Return the data with the results of the reduction at this place, for those after it."""
        result = reduction.feed() or {}
        if any(self.derived.get(key) != place for key in result):  # its first result, or the first with all keys
            self._derive(reduction, [key for key in result if not key.endswith(SHARED)], place)
        if isinstance(data, EventData):
            data.add(result)
            return data
        return {**data, **result}

    def _derive(self, reduction: Reduction, keys: Sequence[str], place: int) -> None:
        others = {key for key, of in self.derived.items() if of != place} | self.data_keys.keys()
        if taken := sorted(others.intersection(keys)):
            raise PipelineValueError(f"{reduction.name} gives {taken[0]!r}, which is there already; name it otherwise.")
        self.derived |= dict.fromkeys(keys, place)

    def update_page(self, links: Links, columns: Mapping[str, Sequence[Any]], n: int) -> None:
        """Let each reduction take in `n` events by their columns; none feeds another."""
        links.n_events += n
        for reduction in links.reductions:
            try:
                links.n_skipped += reduction.update_page(columns)
            except KeyError as error:
                self._forgive(reduction, error, is_whole=True)
                links.n_skipped += n

    def _forgive(self, reduction: Reduction, error: KeyError, is_whole: bool) -> None:
        """Let a field be missing in one event, but not in the stream."""
        field: Any = error.args[0] if error.args else None
        if field not in self.data_keys and field not in self.derived and is_whole:
            raise self._no_field(reduction, field) from error

"""Several raw runs in one analysis: runs of a kind, taken together as they end."""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from pipeline.documents import Document, Uids, plainly
from pipeline.errors import PipelineTypeError, PipelineValueError
from pipeline.reductions.reduction import Reduction
from pipeline.state import pack, unpack

logger = logging.getLogger(__name__)

MAX_OPEN = 100  # groups of one node; the one that has waited longest is closed for another


@dataclass
class Total:
    """What the raw runs of a group have given so far."""

    raws: list[Document] = field(default_factory=list)  # start documents, in the order in which they ended
    reductions: list[Reduction] = field(default_factory=list)
    n_events: int = 0

    def with_run(self, raw: Document, reductions: Sequence[Reduction], n_events: int) -> "Total":
        """Return the total with one more run; neither is changed."""
        merged = deepcopy(list(reductions))
        for i, before in enumerate(self.reductions):
            if before.kind != "event":
                merged[i] = deepcopy(before)
                merged[i].merge(reductions[i])
        return Total([*self.raws, raw], merged, self.n_events + n_events)

    def state(self) -> dict[str, Any]:
        """Return the total as JSON values and arrays."""
        states = [reduction.state() for reduction in self.reductions]
        return {"raws": pack(self.raws, "raws", ""), "reductions": states, "n_events": self.n_events}

    @classmethod
    def restored(cls, state: Mapping[str, Any], prototypes: Sequence[Reduction]) -> "Total":
        """Return the total that had this state; it is of reductions like these."""
        reductions = deepcopy(list(prototypes)) if state["reductions"] else []
        for reduction, each in zip(reductions, state["reductions"], strict=True):
            reduction.restore(each)
        return cls(unpack(state["raws"], ""), reductions, state["n_events"])


class GroupBy:
    """Take raw runs together whose start documents say the same of some keys; see `group_by`."""

    def __init__(self, keys: Sequence[str], count: int | None = None, seconds: float | None = None) -> None:
        if not keys or not all(isinstance(key, str) for key in keys):
            raise PipelineTypeError(f"group_by: wanted keys of start documents, there are {list(keys)}.")
        if (count is not None and count < 2) or (seconds is not None and seconds <= 0):
            raise PipelineValueError(
                f"group_by: wanted count above 1 and seconds above 0; there are {count}, {seconds}."
            )
        self.keys, self.count, self.seconds = tuple(keys), count, seconds
        self._open: OrderedDict[str, Total] = OrderedDict()  # what the keys say -> what there is
        self._counted: OrderedDict[str, None] = OrderedDict()  # uids of raw runs that were taken in

    @property
    def recipe(self) -> Document:
        """What is declared, for the recipe."""
        return {"keys": list(self.keys), "count": self.count, "seconds": self.seconds}

    def wants(self, start: Document) -> bool:
        """Say whether a run belongs to a group and is not in it yet."""
        return all(key in start for key in self.keys) and start["uid"] not in self._counted

    def before(self, start: Document) -> Total:
        """Return what there is of the group of this run, which is closed first if the run comes too late."""
        name = self._name(start)
        total = self._open.get(name)
        if total is not None and self.seconds is not None and start["time"] - total.raws[-1]["time"] > self.seconds:
            del self._open[name]
        return self._open.get(name, Total())

    def add(self, start: Document, reductions: Sequence[Reduction], n_events: int) -> None:
        """Take in a run that has ended well; a group that is full is closed."""
        name = self._name(start)
        total = self._open.pop(name, Total()).with_run(start, reductions, n_events)
        self._remember(start["uid"])
        if self.count is None or len(total.raws) < self.count:
            self._open[name] = total
        while len(self._open) > MAX_OPEN:
            closed, _ = self._open.popitem(last=False)
            logger.warning("%s groups are open; %s, which has waited longest, is closed.", MAX_OPEN, closed)

    def _remember(self, uid: str) -> None:
        self._counted[uid] = None
        if len(self._counted) > 100 * MAX_OPEN:
            self._counted.popitem(last=False)

    def close(self, **values: Any) -> int:
        """Close the groups whose keys say this, or all; a run that comes begins another. Return how many there were."""
        closed = [name for name, total in self._open.items() if _says(total.raws[0], values)]
        for name in closed:
            del self._open[name]
        return len(closed)

    def state(self) -> dict[str, Any]:
        """Return the open groups, and what was taken in, as JSON values and arrays."""
        return {
            "open": [[name, total.state()] for name, total in self._open.items()],
            "counted": list(self._counted),
        }

    def restore(self, state: Mapping[str, Any], prototypes: Sequence[Reduction]) -> None:
        """Go on from a state, of reductions like these."""
        self._open = OrderedDict((name, Total.restored(total, prototypes)) for name, total in state["open"])
        self._counted = OrderedDict.fromkeys(state["counted"])

    def _name(self, start: Document) -> str:
        return repr([plainly(start[key], key) for key in self.keys])


def group_by(*keys: str, count: int | None = None, seconds: float | None = None) -> GroupBy:
    """Return the rule by which a node takes raw runs together: `Node(..., over=group_by("sample", "edge"))`.

    After each raw run that ends with success there is an analysis run of all that the group has so far, itself
    included: its parents are just those, in the order in which they ended, the new one first among them by role `raw`.
    A run that lacks a key is of no group and is left alone; so is one that comes twice. A run that fails or is aborted
    has its own part and what was before, and is not taken in.

    Parameters
    ----------
    keys
        Of the start document; runs that say the same of all of them are of a group.
    count
        A group of so many runs is closed; the next run begins another.
    seconds
        A group is closed if the next run starts later than this after the one before.

    Closed by hand, a group is done with at once: `node.over.close(sample="Cu")`.

    >>> rule = group_by("sample")
    >>> rule.wants({"uid": "a", "sample": "Cu"}), rule.wants({"uid": "b"})
    (True, False)
    """
    return GroupBy(keys, count, seconds)


def group_uid(raw: Document, digest: str, total: Total) -> str:
    """Return the uid of an analysis of several runs: it follows from all of them and the recipe."""
    return Uids(raw["uid"])(" ".join((digest, *(parent["uid"] for parent in total.raws))))


def parents(raw: Document, total: Total) -> dict[str, Document]:
    """Return the start documents of the runs that are read, by role."""
    return {"raw": raw, **{f"before_{i}": start for i, start in enumerate(total.raws, 1)}}


def _says(start: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    return all(start.get(key) == value for key, value in values.items())

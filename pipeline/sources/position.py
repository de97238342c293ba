"""What a source gives that can be read again: documents with their positions."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from pipeline.documents import Document

Index = int | tuple[int, ...]

POISON = "poison"  # in the place of a document's name: what came cannot be read


class Position(NamedTuple):
    """A place in a source.

    Attributes
    ----------
    lane
        What is in order in itself: a partition, a journal, a file, a stream.
    index
        Grows within a lane. Everything up to this index, included, has been given with the item that has it.

    >>> Position("beamline[0]", 41) < Position("beamline[0]", 42)
    True
    """

    lane: str
    index: Index  # pyright: ignore[reportIncompatibleMethodOverride]  # nobody looks for a value in a position


class Item(NamedTuple):
    """A document, or what cannot be read, and where it stands.

    What cannot be read has the name `"poison"` and a document that tells: `{"reason": ..., "run_start": ...}`, the
    latter empty where it cannot be told; and `begins_anew`, if what is behind it is another lane of the same name,
    whose indices begin again.

    >>> Item(Position("journal", 7), "start", {"uid": "a", "time": 0.0}).name
    'start'
    """

    position: Position
    name: str
    doc: Document


def poison(position: Position, reason: str, run_start: str = "", *, begins_anew: bool = False) -> Item:
    """Return the item that stands for what cannot be read.

    >>> poison(Position("journal", 7), "no JSON").doc
    {'reason': 'no JSON', 'run_start': '', 'begins_anew': False}
    """
    return Item(position, POISON, {"reason": reason, "run_start": run_start, "begins_anew": begins_anew})


OnLost = Callable[[Collection[str]], Any]


def _ignore(lanes: Collection[str]) -> None:
    """Let lanes go without a word."""


@runtime_checkable
class PositionedSource(Protocol):
    """A source that can be read again: it gives `(position, name, doc)`, and takes `commit(positions)`.

    It is used from one thread. It never raises for what comes in: that is poison. What it is connected to may go and
    come back: it connects again by itself, with a back-off, tells it once in the log, and gives nothing meanwhile.

    Attributes
    ----------
    name
        What the log and the metrics call it.
    may_lose
        Whether a document may be lost on the way, so that only a gap in `seq_num` tells.
    is_stored
        Whether no more will ever come than what there is: runs that are open at its end are over.
    assigns_lanes
        Whether it gives each lane to one process at a time, as a consumer group does.
    ended
        Whether there will be no more: of a live source never, unless it is told to end.
    """

    name: str
    may_lose: bool
    is_stored: bool
    assigns_lanes: bool
    ended: bool

    def open(self, begin: Mapping[str, Index], on_lost: OnLost = _ignore) -> None:
        """Connect, and begin behind these positions, by lane; what is not among them begins where it was committed.

        A source that keeps what was committed elsewhere (with its broker) goes by that, and leaves `begin` alone.
        `on_lost` is called, by `read`, before lanes go to another process: what is of them is to be committed now.
        """
        ...

    def read(self, timeout: float) -> Sequence[Item]:
        """Return what comes next, in order within each lane; nothing if nothing comes within `timeout` seconds."""
        ...

    def rewind(self, lane: str, index: Index | None) -> bool:
        """Go back, so that the next item of this lane is the one behind `index`; False if that is gone.

        None stands for what is before the first item of the lane.
        """
        ...

    def commit(self, positions: Mapping[str, Index]) -> None:
        """Take note that everything up to these positions, by lane, need not be given again."""
        ...

    def close(self) -> None:
        """Let everything go; what was not committed is given again next time."""
        ...

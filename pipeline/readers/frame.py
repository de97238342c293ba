"""What an event has in place of a frame: where it is to be read."""

from typing import Any, NamedTuple


class Span(NamedTuple):
    """The events that `stream_datum` documents tell of, and where the values of a field are in an asset.

    >>> span = Span("resource", "descriptor", "det", 1, 4, 10)
    >>> span.row_of(3), span.extended(Span("resource", "descriptor", "det", 4, 6, 13)).after
    (12, 6)
    """

    resource: str
    descriptor: str
    field: str
    first: int
    after: int
    row: int

    def extended(self, other: "Span") -> "Span | None":
        """Return both as one, if the other goes on where this one ends; else None."""
        goes_on = self[:3] == other[:3] and other.first == self.after and other.row == self.row_of(other.first)
        return self._replace(after=other.after) if goes_on else None

    def has_all(self, other: "Span") -> bool:
        """Tell whether all that the other tells is told here."""
        is_within = self[:3] == other[:3] and self.first <= other.first and other.after <= self.after
        return is_within and self.row_of(other.first) == other.row

    def split(self, seq_num: int) -> "tuple[Span, Span]":
        """Return the part before an event, and the one from it on."""
        middle = min(max(seq_num, self.first), self.after)
        return self._replace(after=middle), self._replace(first=middle, row=self.row_of(middle))

    def row_of(self, seq_num: int) -> int:
        """Return which row of the asset is of an event."""
        return self.row + seq_num - self.first

    def place_of(self, seq_num: int) -> tuple[str, int]:
        """Return which row of which asset is of an event."""
        return self.resource, self.row_of(seq_num)


class Frame:
    """A value that is in an asset: of a `stream_resource` by its row, of a `resource` by its datum.

    Parameters
    ----------
    field
        The field that it is the value of.
    resource
        The uid of the `stream_resource`, or of the `resource`.
    row
        Which row of the asset it is; None: it is told by a datum.
    datum
        The arguments of the datum.
    """

    def __init__(self, field: str, resource: str, row: int | None = None, datum: dict[str, Any] | None = None) -> None:
        self.field, self.resource, self.row, self.datum = field, resource, row, datum

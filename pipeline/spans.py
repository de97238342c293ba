"""Which rows of assets are of which events, for one field."""

from bisect import bisect_right
from collections.abc import Sequence

from pipeline.readers.frame import Span


class Spans:
    """Find the row of an event; of a point that was taken again, the later one.

    What comes in order is one span as long as it goes on; what overlaps it was taken again, and is kept beside.

    >>> spans = Spans()
    >>> spans.add(Span("resource", "descriptor", "det", 1, 4, 0))
    >>> spans.add(Span("resource", "descriptor", "det", 3, 5, 3))
    >>> spans.find(2).row_of(2), spans.find(3).row_of(3), spans.stop
    (1, 3, 5)
    """

    def __init__(self, in_order: Sequence[Sequence] = (), others: Sequence[Sequence] = ()) -> None:
        self._in_order = [Span(*span) for span in in_order]
        self._others = [Span(*span) for span in others]
        self.stop = max((span.after for span in (*self._in_order, *self._others)), default=0)

    def add(self, span: Span) -> None:
        """Take in what a `stream_datum` tells."""
        if span.after <= span.first:
            return
        if self._in_order and span.first < self.stop:
            self._others.append(span)
        else:
            last = self._in_order[-1] if self._in_order else None
            both = last and last.extended(span)
            self._in_order[-1:] = [both] if both else [*self._in_order[-1:], span]
        self.stop = max(self.stop, span.after)

    def find(self, seq_num: int) -> Span | None:
        """Return the last span that has this event, if one has."""
        return self.find_again(seq_num, 0) or self._first(seq_num)

    def find_again(self, seq_num: int, after: int) -> Span | None:
        """Return the last of the spans beside, from the `after`-th on, that has this event."""
        others = reversed(self._others[after:])
        return next((span for span in others if span.first <= seq_num < span.after), None)

    @property
    def n_others(self) -> int:
        """How many spans there are beside those in order."""
        return len(self._others)

    def _first(self, seq_num: int) -> Span | None:
        i = bisect_right(self._in_order, seq_num, key=lambda span: span.first) - 1
        return self._in_order[i] if i >= 0 and seq_num < self._in_order[i].after else None

    def state(self) -> list[list[list]]:
        """Return the arguments that make the same."""
        return [list(map(list, self._in_order)), list(map(list, self._others))]

"""Which rows of assets are of which events, for one field."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.readers.frame import Span


class Again(NamedTuple):
    """A span of events that were taken again, when those before `stop` were known."""

    span: Span
    stop: int


class Spans:
    """Find the rows of an event: the first that was told of it, and those of the times that it was taken again.

    What is told again, word for word, is told once.

    >>> spans = Spans()
    >>> first, again = Span("resource", "descriptor", "det", 1, 4, 0), Span("resource", "descriptor", "det", 3, 5, 3)
    >>> spans.add(first), spans.add(again), spans.add(first)
    (True, True, False)
    >>> [spans.find(3, take).row_of(3) for take in (0, 1)], spans.find(3, 2), spans.last(3).row_of(3), spans.stop
    ([2, 3], None, 3, 5)
    """

    def __init__(self, firsts: Sequence[Sequence] = (), again: Sequence[Sequence] = ()) -> None:
        self._firsts = [Span(*span) for span in firsts]  # in order, none overlaps another
        self._again = [Again(Span(*span), stop) for *span, stop in again]

    @property
    def stop(self) -> int:
        """The event after the last that is known."""
        return self._firsts[-1].after if self._firsts else 1

    def add(self, span: Span) -> bool:
        """Take in what a `stream_datum` tells; return whether that was new."""
        stop, is_new = self.stop, False
        while span.first < span.after:
            i = self._n_until(span.first)
            known = self._firsts[i - 1] if i else None
            if known is not None and span.first < known.after:
                head, span = span.split(known.after)
                is_new |= self._add_again(head, known, stop)
            else:
                head, span = span.split(self._firsts[i].first if i < len(self._firsts) else span.after)
                self._insert(i, head)
                is_new = True
        return is_new

    def _n_until(self, seq_num: int) -> int:
        """Return how many of the first spans begin at this event or before it."""
        return bisect_right(self._firsts, seq_num, key=lambda span: span.first)

    def _add_again(self, span: Span, known: Span, stop: int) -> bool:
        if any(before.has_all(span) for before in (known, *(again.span for again in self._again))):
            return False
        last = self._again[-1] if self._again else None
        both = last and last.stop == stop and last.span.extended(span)
        self._again[-1:] = [Again(both, stop)] if both else [*self._again[-1:], Again(span, stop)]
        return True

    def _insert(self, i: int, span: Span) -> None:
        """Put a span in its place, as one with those before and after it where they go on."""
        joined: list[Span] = []
        for each in (*self._firsts[max(i - 1, 0) : i], span, *self._firsts[i : i + 1]):
            both = joined[-1].extended(each) if joined else None
            joined[-1:] = [both] if both else [*joined[-1:], each]
        self._firsts[max(i - 1, 0) : i + 1] = joined

    def find(self, seq_num: int, take: int) -> Span | None:
        """Return the span that has an event as it was taken first (0) or again (1, ...), if one has."""
        takes = self._takes(seq_num)
        return takes[take] if take < len(takes) else None

    def last(self, seq_num: int) -> Span | None:
        """Return the span that has an event as it was taken last."""
        return next(reversed(self._takes(seq_num)), None)

    def _takes(self, seq_num: int) -> list[Span]:
        """Return the spans that have an event, each at another row, in the order they were told of."""
        i = self._n_until(seq_num)
        if not i or seq_num >= self._firsts[i - 1].after:
            return []
        found = {self._firsts[i - 1].place_of(seq_num): self._firsts[i - 1]}
        for span, _ in self._again:
            if span.first <= seq_num < span.after:
                found.setdefault(span.place_of(seq_num), span)
        return [*found.values()]

    def again(self, i: int) -> Again | None:
        """Return the i-th span of events that were taken again, in the order they were told of."""
        return self._again[i] if i < len(self._again) else None

    def take_of(self, seq_num: int, span: Span) -> int:
        """Return which take of an event a span has."""
        return [each.place_of(seq_num) for each in self._takes(seq_num)].index(span.place_of(seq_num))

    def known_from(self, seq_num: int) -> int:
        """Return the first event from this one on that is known."""
        i = self._n_until(seq_num)
        if i and seq_num < self._firsts[i - 1].after:
            return seq_num
        return self._firsts[i].first if i < len(self._firsts) else self.stop

    def state(self) -> list[list[list]]:
        """Return the arguments that make the same."""
        return [list(map(list, self._firsts)), [[*span, stop] for span, stop in self._again]]


class Walk:
    """Go through all takes of all events that spans tell of, as they were taken: an event again when it was.

    >>> spans, walk, steps = Spans(), Walk(), []
    >>> for told in [(1, 4, 0), (2, 3, 3), (4, 5, 4)]:
    ...     _ = spans.add(Span("resource", "descriptor", "det", *told))
    >>> while (step := walk.step(spans)) is not None:
    ...     steps.append(step)
    ...     walk.go_on(*step)
    >>> steps
    [(1, 0), (2, 0), (3, 0), (2, 1), (4, 0)]
    """

    def __init__(self, seq_num: int = 1, i_again: int = 0, n_again: int = 0) -> None:
        self._seq_num, self._i_again, self._n_again = seq_num, i_again, n_again

    def step(self, spans: Spans, *, skips: bool = False) -> tuple[int, int] | None:
        """Return which event is next, and which take of it; None if no more is known.

        Parameters
        ----------
        spans
            What is known; more than the last time, perhaps.
        skips
            Whether events are left out that are not known: no more will be.
        """
        if skips:
            self._seq_num = spans.known_from(self._seq_num)
        again = self._again(spans)
        if again is not None and self._seq_num >= again.stop:
            seq_num = again.span.first + self._n_again
            return seq_num, spans.take_of(seq_num, again.span)
        return (self._seq_num, 0) if self._seq_num < spans.stop else None

    def _again(self, spans: Spans) -> Again | None:
        """Return the span of events taken again that is next, or under way."""
        again = spans.again(self._i_again)
        if again is None or self._n_again < again.span.after - again.span.first:
            return again
        if spans.again(self._i_again + 1) is None:  # this one may get longer yet
            return None
        self._i_again, self._n_again = self._i_again + 1, 0
        return self._again(spans)

    def go_on(self, seq_num: int, take: int) -> None:
        """Leave this step behind."""
        if take:
            self._n_again += 1
        else:
            self._seq_num = seq_num + 1

    def state(self) -> list[int]:
        """Return the arguments that make the same."""
        return [self._seq_num, self._i_again, self._n_again]

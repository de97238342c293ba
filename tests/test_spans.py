"""Spans find what a dict of lists finds; a walk goes through a run as it was taken."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.readers.frame import Span
from pipeline.spans import Spans, Walk

SMALL = st.integers(1, 12)


@st.composite
def told_spans(draw):
    """What is told, in whatever order, of whatever events, some of it twice."""
    found = []
    for _ in range(draw(st.integers(0, 12))):
        if found and draw(st.booleans()) and draw(st.booleans()):
            found.append(draw(st.sampled_from(found)))
            continue
        first, n, row, resource = (
            draw(SMALL),
            draw(st.integers(0, 5)),
            draw(st.integers(0, 9)),
            draw(st.sampled_from("ab")),
        )
        found.append(Span(resource, "descriptor", "det", first, first + n, row))
    return found


@given(told_spans())
def test_each_take_of_an_event_is_found_in_the_order_in_which_they_were_told_of(told):
    spans, places = Spans(), defaultdict(list)  # seq_num -> where it is, each place once
    for span in told:
        new = [n for n in range(span.first, span.after) if span.place_of(n) not in places[n]]
        assert spans.add(span) >= bool(new)
        for n in new:
            places[n].append(span.place_of(n))
        for n in range(20):
            assert [each.place_of(n) for each in takes(spans, n)] == places[n]
            last = spans.last(n)
            assert (last and last.place_of(n)) == (places[n][-1] if places[n] else None)
            known = [each for each in sorted(places) if places[each] and each >= n]
            assert spans.known_from(n) == (known[0] if known else spans.stop)
        assert spans.stop == max((n + 1 for n in places if places[n]), default=1)


def takes(spans, seq_num):
    found = []
    while (span := spans.find(seq_num, len(found))) is not None:
        found.append(span)
    return found


@given(told_spans(), st.data())
def test_spans_that_go_on_from_a_state_are_the_same(told, data):
    whole, resumed = Spans(), Spans()
    for span in told:
        whole.add(span)
        resumed.add(span)
        if data.draw(st.booleans()):
            resumed = Spans(*resumed.state())

    assert resumed.state() == whole.state()


@given(told_spans())
def test_what_is_told_twice_is_told_once(told):
    once, twice = Spans(), Spans()
    for span in told:
        once.add(span)
        twice.add(span)
        assert not twice.add(span)

    assert twice.state() == once.state()


def test_what_goes_on_is_one_span_in_whatever_order_it_comes():
    for order in (range(1, 1000), range(999, 0, -1), [*range(1, 1000, 2), *range(2, 1000, 2)]):
        spans = Spans()
        for n in order:
            spans.add(Span("a", "d", "det", n, n + 1, n - 1))
        assert spans.state() == [[["a", "d", "det", 1, 1000, 0]], []]


@st.composite
def runs(draw):
    """What a run tells, batch by batch, and all takes in the order they were taken: it may go back and go on."""
    told, taken, next_event, row, n_takes = [], [], 1, 0, defaultdict(int)
    for _ in range(draw(st.integers(1, 10))):
        if draw(st.integers(0, 3)) == 0:
            next_event = draw(st.integers(1, next_event))
            row += draw(st.integers(0, 1))  # a frame that was taken, and never told of
        n = draw(st.integers(1, 3))
        told.append(Span("a", "d", "det", next_event, next_event + n, row))
        for seq_num in range(next_event, next_event + n):
            taken.append((seq_num, n_takes[seq_num]))
            n_takes[seq_num] += 1
        next_event, row = next_event + n, row + n
    return told, taken


def steps(walk, spans):
    found = []
    while (step := walk.step(spans)) is not None:
        found.append(step)
        walk.go_on(*step)
    return found


@given(runs(), st.data())
def test_a_walk_goes_as_the_run_went_whenever_it_is_told(run, data):
    told, taken = run
    spans, walk, found = Spans(), Walk(), []
    for span in told:
        spans.add(span)
        if data.draw(st.booleans()):
            found += steps(walk, spans)
        if data.draw(st.booleans()):
            walk = Walk(*walk.state())
    found += steps(walk, spans)

    assert found == taken


def test_a_walk_stops_at_a_gap_until_no_more_will_come():
    spans, walk = Spans(), Walk()
    for first, after in [(1, 3), (5, 6), (10**12, 10**12 + 2)]:
        spans.add(Span("a", "d", "det", first, after, first - 1))

    found = []
    for _ in range(2):
        walk.go_on(*(step := walk.step(spans)))
        found.append(step)
    assert found == [(1, 0), (2, 0)]
    assert walk.step(spans) == (3, 0)  # which nobody has told of
    while (step := walk.step(spans, skips=True)) is not None:
        found.append(step)
        walk.go_on(*step)
    assert found[2:] == [(5, 0), (10**12, 0), (10**12 + 1, 0)]


@pytest.mark.parametrize("n", [0, -3])
def test_an_empty_span_tells_nothing(n):
    spans = Spans()

    assert not spans.add(Span("a", "d", "det", 5, 5 + n, 0))
    assert spans.state() == [[], []]

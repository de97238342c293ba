"""Events come in by seq_num, each once, whatever order they are given in."""

from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.history import History
from pipeline.intake import PARKED, REMEMBERED, Intake
from pipeline.state import state_from_bytes, state_to_bytes


class Points:
    """Takes events as a node does: a state that can be undone."""

    def __init__(self, block=512):
        self.history = History([], block)
        self.intake = Intake(self.take, self.rewind)
        self.emitted = []

    def take(self, event):
        self.history.add(event["seq_num"], event)
        self.history.state.append(event["uid"])
        self.emitted.append(event["uid"])

    def rewind(self, seq_num):
        events = self.history.rewind(seq_num)
        for before, event in events or ():
            self.history.add(before, event)
            self.history.state.append(event["uid"])
        return events is not None

    def give(self, *uids):
        for uid in uids:
            self.intake.event({"seq_num": int(uid.rstrip("abc")), "uid": uid})

    @property
    def state(self):
        return self.history.state


@given(st.permutations([f"{n}a" for n in range(1, 20)]), st.lists(st.integers(0, 18), max_size=8))
@settings(max_examples=200, deadline=None)
def test_any_order_with_any_duplicates_gives_each_point_once_in_order(uids, again):
    points = Points()
    given_twice = [uid for i, uid in enumerate(uids) for uid in ([uid, uid] if i in again else [uid])]

    points.give(*given_twice)
    points.intake.finish()

    assert points.state == points.emitted == [f"{n}a" for n in range(1, 20)]
    assert points.intake.n_missing == 0


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=6), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_points_taken_again_replace_the_first_take(rewinds, block):
    """As the RunEngine does it: take some points, go back to a checkpoint, go on from there."""
    points, wanted, all_given = Points(block), [], []
    n = take = furthest = 0
    for forward, back in [*rewinds, (3, 0)]:
        for _ in range(forward):
            n += 1
            all_given.append(f"{n}{'abc'[take % 3]}{'a' * (take // 3)}")
            wanted = [*wanted[: n - 1], all_given[-1]]
        furthest = max(furthest, n)
        n, take = max(0, n - back, furthest - block), take + 1  # a state is at hand for as many events

    points.give(*all_given)

    assert points.intake.n_retaken == 0
    assert points.state == wanted
    points.give(*all_given)  # all of it again: each is known, by its uid
    assert points.state == wanted


def test_a_point_taken_again_too_late_to_undo_counts_twice_and_is_told():
    points = Points(block=2)

    points.give("1a", "2a", "3a", "4a", "5a", "1b")

    assert points.state == ["1a", "2a", "3a", "4a", "5a", "1b"]
    assert (points.intake.n_retaken, points.intake.n_superseded) == (1, 0)


def test_a_gap_is_given_up_at_the_end_and_told():
    points = Points()

    points.give("1a", "4a", "5a")
    assert points.state == ["1a"]
    points.intake.finish()

    assert points.state == ["1a", "4a", "5a"]
    assert points.intake.n_missing == 2


def test_a_gap_does_not_hold_up_the_rest_for_ever():
    points = Points()

    points.give("1a", *(f"{n}a" for n in range(3, PARKED + 4)))
    assert len(points.state) == PARKED + 2
    points.give("2a")

    assert points.state[-1] == "2a"
    assert points.intake.n_missing == 0


def test_what_came_too_long_ago_is_a_duplicate():
    points = Points()
    points.give(*(f"{n}a" for n in range(1, REMEMBERED + 10)))

    points.give("1b")

    assert points.intake.n_duplicates == 1


def test_an_archive_may_count_from_0():
    points = Points()

    points.give("0a", "1a", "2a")

    assert points.state == ["0a", "1a", "2a"]
    assert points.intake.n_missing == 0


def resumed(points):
    """Return points that go on from a state, which has been bytes."""
    again = Points()
    again.intake.restore(state_from_bytes(state_to_bytes(points.intake.state())))
    return again


def uuids(first, last):
    return [(n, str(UUID(int=n))) for n in range(first, last)]


@pytest.mark.parametrize("last", [0, 1, 2, REMEMBERED - 1, REMEMBERED, REMEMBERED + 1, 2 * REMEMBERED + 5])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("odd", ["", "odd", "00000000-0000-0000-0000-00000000000A", "0" * 36])
def test_events_that_come_again_after_a_restart_are_known(first, last, odd):
    points = Points()
    events = [(n, odd if odd and n == last - 1 else uid) for n, uid in uuids(first, last)]
    for n, uid in events:
        points.intake.event({"seq_num": n, "uid": uid})

    again = resumed(points)
    for n, uid in [*events, *uuids(max(last, 1), last + 3)]:
        again.intake.event({"seq_num": n, "uid": uid})

    assert again.intake.n_duplicates == len(events)
    assert again.emitted == [uid for _, uid in uuids(max(last, 1), last + 3)]
    assert again.intake.n_retaken == again.intake.n_missing == 0


def test_the_uids_of_a_state_take_16_bytes_each_and_those_of_many_nodes_no_more():
    points = Points()
    for n, uid in uuids(1, REMEMBERED):
        points.intake.event({"seq_num": n, "uid": uid})
    state = points.intake.state()

    one, five = (len(state_to_bytes([state] * n)) for n in (1, 5))

    assert 16 * REMEMBERED < one < 17 * REMEMBERED
    assert five - one < 5000

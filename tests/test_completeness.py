"""Events are counted off in whatever order they come, without a place in memory for each."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.completeness import Completeness

DESCRIPTOR = {"uid": "d", "name": "primary"}
spans = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 6)), max_size=30)


@given(spans, st.integers(0, 45))
def test_gaps_are_what_a_set_of_numbers_lacks(came, expected):
    run, seen = Completeness(), set()
    run.take("descriptor", DESCRIPTOR)
    for first, n in came:
        numbers = range(first, first + n)
        seen.update(numbers if n != 1 else [first])
        if n == 1:
            run.take("event", {"descriptor": "d", "seq_num": first})
        else:
            run.take("stream_datum", {"descriptor": "d", "seq_nums": {"start": first, "stop": first + n}})

    again = Completeness()
    again.restore(run.state())
    gaps = again.gaps({"num_events": {"primary": expected}}).get("primary", [])
    lacking = {number for first, last in gaps for number in range(first, last + 1)}
    assert lacking == set(range(1, max([expected, *seen]) + 1)) - seen
    assert all(first <= last for first, last in gaps)


def test_a_frame_that_tells_of_millions_takes_no_room():
    run = Completeness()
    run.take("descriptor", DESCRIPTOR)
    run.take("stream_datum", {"descriptor": "d", "seq_nums": {"start": 2, "stop": 10_000_000}})

    assert run.state()["seen"] == {"primary": [1, [[2, 9_999_999]]]}
    assert run.missing({"num_events": {"primary": 9_999_999}}) == (
        "stream 'primary' lacks 1 of 9999999 events: seq_num 1"
    )

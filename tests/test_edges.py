"""Edges put a number where numpy does, and refuse what are none."""

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineValueError
from pipeline.reductions.edges import Edges

numbers = st.floats(-10, 10)


@given(st.lists(numbers, min_size=2, max_size=20, unique=True), st.lists(numbers, min_size=1, max_size=50))
@settings(max_examples=200, deadline=None)
def test_one_number_and_many_are_placed_alike_and_as_numpy_does(edges, values):
    edges = Edges(sorted(edges))
    values = [*values, *edges.values]

    places = edges.places(numpy.array(values))

    assert places.tolist() == [edges.place(x) for x in values]
    counts = numpy.bincount(places[(places >= 0) & (places < edges.n)], minlength=edges.n)
    assert counts.tolist() == numpy.histogram(values, edges.values)[0].tolist()


@given(st.integers(1, 100), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.lists(st.floats(0, 1), max_size=50))
@settings(max_examples=200, deadline=None)
def test_regular_edges_are_those_of_numpy_to_the_bit(n, start, width, shares):
    edges = Edges({"start": start, "stop": start + width, "n": n})
    values = numpy.array([*(start + width * share for share in shares), *edges.values])

    counts, wanted = numpy.histogram(values, n, (start, start + width))

    places = edges.places(values)
    assert edges.values.tolist() == wanted.tolist()
    assert numpy.bincount(places[(places >= 0) & (places < n)], minlength=n).tolist() == counts.tolist()


def test_a_step_gives_the_edges_that_it_says():
    assert Edges({"start": 0, "stop": 0.3, "step": 0.1}).values.tolist() == numpy.linspace(0, 0.3, 4).tolist()


def test_regions_are_joined_as_for_xas():
    edges = Edges(
        [
            {"start": 8800, "stop": 8960, "step": 10},
            {"start": 8960, "stop": 9030, "step": 0.5},
            {"start": 9030, "stop": 9800, "n": 77},
        ]
    )

    assert edges.n == 16 + 140 + 77
    assert (numpy.diff(edges.values) > 0).all()
    assert edges.centers[[0, 16, -1]].tolist() == [8805, 8960.25, 9795]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"start": 0, "stop": 1}, r"edges: wanted start, stop and n or step; there is \['start', 'stop'\]"),
        ({"start": 0, "stop": 1, "n": 2, "step": 1}, "wanted start, stop and n or step"),
        ({"start": 0, "stop": 1, "num": 2}, "wanted start, stop and n or step"),
        ({"start": 1, "stop": 1, "n": 2}, "two finite numbers that rise"),
        ({"start": 0, "stop": 1, "n": 0}, "n is 0; wanted how many bins"),
        ({"start": 0, "stop": 1, "n": 2.0}, "n is 2.0; wanted how many bins"),
        ({"start": 0, "stop": 1, "step": 0}, "step is 0; wanted the width"),
        ({"start": 0, "stop": 1, "step": 0.3}, "from 0 to 1 there are 3.33333 steps of 0.3; wanted whole ones"),
        ({"start": 0, "stop": float("inf"), "n": 2}, "two finite numbers that rise"),
        ([1.0], "two finite numbers that rise"),
        ([1.0, 1.0], "two finite numbers that rise"),
        ([[1.0, 2.0]], "two finite numbers that rise"),
        (["a", "b"], "wanted numbers"),
        ("abc", "wanted edges"),
        (7, "wanted edges"),
        ([{"start": 0, "stop": 1, "n": 1}, {"start": 2, "stop": 3, "n": 1}], r"edges\[1\] starts at 2; wanted 1"),
        ([{"start": 0, "stop": 1, "n": 1}, {"start": 1, "stop": 0, "n": 1}], r"edges\[1\]: wanted at least two"),
    ],
)
def test_what_are_no_edges_is_refused_with_words(spec, message):
    with pytest.raises(PipelineValueError, match=message):
        Edges(spec)

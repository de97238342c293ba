"""Curves that are alike and curves that are not, by the runs of their differences."""

from itertools import product

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Node, Pipeline
from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions import FrameAverage, Similarity
from pipeline.reductions.similarity import longest_run, probability_of_run
from pipeline.testing import check_reduction, make_run

Q = numpy.linspace(0.01, 0.3, 200)
FORM = 1000 * numpy.exp(-((Q * 30) ** 2) / 3) + 20  # a Guinier law over a constant


def exposures(n, damage=0.0, seed=1):
    """Curves with the noise of counting, whose radius grows by this share from one to the next."""
    rng = numpy.random.default_rng(seed)
    return [rng.poisson(1000 * numpy.exp(-((Q * 30 * (1 + damage * i)) ** 2) / 3) + 20).astype(float) for i in range(n)]


def verdicts(curves, **arguments):
    similarity, told = Similarity("I", **arguments), []
    for curve in curves:
        similarity.update({"I": curve})
        told.append(similarity.result())
    return told


def longest_by_hand(signs):
    longest = now = 0
    for i, sign in enumerate(signs):
        now = now + 1 if i and sign == signs[i - 1] else 1
        longest = max(longest, now)
    return longest


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_the_probability_of_a_run_is_the_share_of_all_tosses_that_have_one(n):
    longest = [longest_by_hand(tosses) for tosses in product((1, -1), repeat=n)]

    for run in range(1, n + 1):
        assert probability_of_run(run, n) == sum(each >= run for each in longest) / 2**n
    assert probability_of_run(n + 1, n) == 0.0


@given(st.lists(st.sampled_from([1.0, -1.0]), max_size=50))
def test_the_longest_run_is_that_which_counting_finds(signs):
    assert longest_run(numpy.array(signs)) == longest_by_hand(signs)


def test_the_laws_hold():
    curves = exposures(6, damage=0.02)
    curves[3][10:20] = numpy.nan

    check_reduction(Similarity("I", Q.tolist(), [0.02, 0.2], n=2, scale=True), [{"I": curve} for curve in curves])


def test_as_many_as_the_level_tells_of_curves_that_are_alike_are_taken_to_differ():
    told = [verdict for seed in range(400) for verdict in verdicts(exposures(2, seed=seed), level=0.05)[1:]]

    assert 0.01 < numpy.mean([not verdict["I_similar"] for verdict in told]) < 0.09


def test_damage_is_seen_and_what_came_before_it_is_not_taken_for_it():
    curves = exposures(5) + exposures(10, damage=0.03, seed=2)[5:]

    told = [verdict["I_similar"] for verdict in verdicts(curves, n=2)]

    assert told == [True] * 5 + [False] * 5


def test_a_brighter_beam_is_another_curve_unless_a_factor_is_fitted():
    curves = [*exposures(2), exposures(3, seed=5)[2] * 1.3]

    assert [verdict["I_similar"] for verdict in verdicts(curves)] == [True, True, False]
    assert [verdict["I_similar"] for verdict in verdicts(curves, scale=True)] == [True, True, True]


def test_the_same_curve_again_is_similar_and_so_is_one_of_which_nothing_is_known():
    told = verdicts([FORM, FORM, numpy.full(len(Q), numpy.nan)])

    assert [(verdict["I_similar"], verdict["I_p"], verdict["I_run"]) for verdict in told] == [(True, 1.0, 0)] * 3


def test_what_is_outside_the_range_is_not_compared():
    damaged = FORM + numpy.where(Q > 0.2, 50, numpy.where(numpy.arange(len(Q)) % 2, 1, -1))

    assert [v["I_similar"] for v in verdicts([FORM, damaged])] == [True, False]
    assert [v["I_similar"] for v in verdicts([FORM, damaged], x=Q.tolist(), range=[0.0, 0.2])] == [True, True]


def test_an_average_leaves_out_what_is_not_similar(kept):
    curves = exposures(8)
    curves[5] = curves[5] * (1 + 0.2 * numpy.sin(Q * 20))
    node = Node("average", Similarity("I"), FrameAverage("I", weights="I_similar"), every=0)

    Pipeline([node], [kept]).replay(make_run({"I": curves}))

    kept.check_valid()
    right = numpy.mean(curves[:5] + curves[6:], axis=0)
    assert kept.final()["I_mean"] == pytest.approx(right, rel=1e-12)
    assert kept.final()["I_n_unweighted"] == 1


def test_what_cannot_be_compared_is_rejected_and_arguments_that_mean_nothing_are_refused():
    similarity = Similarity("I")
    similarity.update({"I": FORM})

    with pytest.raises(RejectedValue, match="wanted 200 points, as before; there are 3"):
        similarity.update({"I": [1.0, 2.0, 3.0]})
    for arguments in ({"n": 0}, {"level": 0.0}, {"level": 1.0}):
        with pytest.raises(PipelineValueError, match="wanted"):
            Similarity("I", **arguments)

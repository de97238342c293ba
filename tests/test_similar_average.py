"""The average of curves that are alike is that of numpy over those that are taken, with the errors that they have."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import Kept
from scipy import stats

from pipeline import Node, Pipeline
from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions import SimilarAverage
from pipeline.reductions.similarity import probability_of_run
from pipeline.testing import check_reduction, make_run

NAN = math.nan
Q = numpy.linspace(0.01, 0.3, 300)


def form(radius=30.0):
    return 1000 * numpy.exp(-((Q * radius) ** 2) / 3) + 20  # a Guinier law over a constant


def exposures(n, radius=30.0, seed=0, brightness=1.0):
    rng = numpy.random.default_rng(seed)
    return [rng.poisson(brightness * form(radius)).astype(float) for _ in range(n)]


def events(curves):
    return [{"I": curve, "s": numpy.sqrt(numpy.maximum(curve, 1)), "q": Q} for curve in curves]


def judged(curves, **arguments):
    average, verdicts = SimilarAverage("I", **arguments), []
    for event in events(curves):
        average.update(event)
        verdicts.append(average.result()["I_is_similar"])
    return verdicts, average.result()


def longest(signs):
    """The longest run, and how many signs there are, by going through them."""
    best = now = 0
    for i, sign in enumerate(signs):
        now = now + 1 if i and sign == signs[i - 1] else 1
        best = max(best, now)
    return best


def oracle(test="cormap", reference="first", level=0.01, inside=slice(None)):
    """What is right, by the definition, over the whole past."""

    def right(events):
        taken, p, chi2, ok = [events[0]], 1.0, NAN, True
        for event in events[1:]:
            y, e = event["I"], event["s"]
            n = len(taken)
            y0 = taken[0]["I"] if reference == "first" else numpy.mean([each["I"] for each in taken], 0)
            variance = sum(each["s"] ** 2 for each in taken) / n**2 if reference == "mean" else taken[0]["s"] ** 2
            difference = (y - y0)[inside]
            if test == "chi2":
                square = float((difference**2 / (e**2 + variance)[inside]).sum())
                chi2, p = square / len(difference), float(stats.chi2.sf(square, len(difference)))
            else:
                signs = [sign for sign in numpy.sign(difference).tolist() if sign]
                p = probability_of_run(longest(signs), len(signs))
            ok = p >= level
            taken += [event] if ok else []
        n = len(taken)
        want = {
            "I_mean": numpy.mean([each["I"] for each in taken], 0),
            "I_err": numpy.sqrt(sum(each["s"] ** 2 for each in taken)) / n,
            "I_n": n,
            "I_n_rejected": len(events) - n,
            "I_is_similar": ok,
            "I_p": p,
        }
        return want | ({"I_chi2": chi2} if test == "chi2" else {})

    return right


@pytest.mark.parametrize("test", ["cormap", "chi2"])
@pytest.mark.parametrize("reference", ["first", "mean"])
def test_curves_are_judged_and_averaged_by_the_definition(test, reference):
    curves = exposures(6) + exposures(3, 36.0, seed=1) + exposures(4, seed=2)
    curves = [
        curve + 0.1 * numpy.sin(100 * curve.cumsum()) for curve in curves
    ]  # that none is at the mean, but for rounding

    average = SimilarAverage("I", errors="s", test=test, reference=reference)
    check_reduction(average, events(curves), oracle(test, reference), rtol=1e-9)


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=1, max_size=8), st.sampled_from([0.2, 0.9])
)
@settings(max_examples=80, deadline=None)
def test_any_curves_are_judged_by_the_definition(rows, level):
    rows = [{"I": 100.0 + numpy.array(row), "s": numpy.ones(6)} for row in rows]

    check_reduction(SimilarAverage("I", errors="s", level=level), rows, oracle(level=level), rtol=1e-9)


def test_damage_is_left_out_of_the_average():
    verdicts, result = judged([*exposures(20), *exposures(10, 35.0, seed=1)])

    assert verdicts == [True] * 20 + [False] * 10
    assert (result["I_n"], result["I_n_rejected"]) == (20, 10)
    assert numpy.abs((result["I_mean"] - form()) / numpy.sqrt(form() / 20)).max() < 4.5


@pytest.mark.parametrize("arguments", [{}, {"errors": "s", "test": "chi2"}])
def test_of_curves_that_are_alike_no_larger_share_than_the_level_is_left_out(arguments):
    rejected = []
    for seed in range(300):
        verdicts, _ = judged(exposures(2, seed=seed), level=0.05, **arguments)
        rejected.append(not verdicts[1])

    assert 0 < numpy.mean(rejected) < 0.09


def test_the_first_curve_is_always_taken_and_the_order_matters():
    curves = [*exposures(1, 36.0), *exposures(3, seed=1)]

    assert judged(curves)[0] == [True, False, False, False]
    assert judged(curves[::-1])[0] == [True, True, True, False]
    assert SimilarAverage("I").mergeable is None


def test_the_error_without_errors_is_that_of_the_scatter():
    curves = exposures(5)

    _, result = judged(curves)

    assert numpy.allclose(result["I_err"], numpy.std(curves, axis=0, ddof=1) / math.sqrt(5), rtol=1e-9)
    assert numpy.isnan(judged(curves[:1])[1]["I_err"]).all()


def test_only_the_range_is_compared_and_the_whole_curve_is_averaged():
    curves = exposures(3)
    curves[2] = curves[2] + numpy.where(Q > 0.2, 100.0, 0.0)

    whole, _ = judged(curves)
    by_list, result = judged(curves, x=Q.tolist(), range=[0.0, 0.15])
    by_field, _ = judged(curves, x="q", range=[0.0, 0.15])

    assert (whole, by_list, by_field) == ([True, True, False], [True] * 3, [True] * 3)
    assert numpy.allclose(result["I_mean"], numpy.mean(curves, 0))
    assert SimilarAverage("I", "q", [0, 1], errors="s").fields == ("I", "q", "s")
    inside = (Q >= 0.02) & (Q <= 0.2)
    average = SimilarAverage("I", "q", [0.02, 0.2], errors="s", test="chi2")
    check_reduction(average, events(curves), oracle("chi2", inside=inside), rtol=1e-9)


@pytest.mark.parametrize("arguments", [{}, {"errors": "s"}, {"errors": "s", "test": "chi2"}])
def test_a_brighter_beam_is_another_curve_unless_it_is_scaled(arguments):
    curves = [*exposures(3), *exposures(1, seed=5, brightness=1.3)]

    as_it_is, _ = judged(curves, **arguments)
    scaled, result = judged(curves, scale=True, **arguments)

    assert (as_it_is, scaled) == ([True, True, True, False], [True] * 4)
    assert result["I_scale"] == pytest.approx(1 / 1.3, rel=0.02)
    assert numpy.abs((result["I_mean"] - form()) / numpy.sqrt(form() / 4)).max() < 4.5


def test_points_that_are_not_finite_are_neither_compared_nor_averaged():
    curves = exposures(4)
    curves[1][10:20], curves[3][15] = NAN, math.inf

    verdicts, result = judged(curves)

    assert verdicts == [True] * 4
    assert result["I_mean"][12] == pytest.approx(numpy.mean([curve[12] for curve in (curves[0], *curves[2:])]))
    assert result["I_mean"][15] == pytest.approx((curves[0][15] + curves[2][15]) / 2)


def test_equal_curves_are_alike():
    verdicts, result = judged([form()] * 3)

    assert verdicts == [True] * 3
    assert result["I_p"] == 1.0


@pytest.mark.parametrize(
    "event",
    [
        {"I": [1.0, 2.0]},
        {"I": 1.0},
        {"I": [[1.0, 2.0, 3.0]] * 2},
        {"I": "text"},
        {"I": [NAN, NAN, 5.0]},
        {"I": [1.0, 2.0, 3.0], "s": [1.0]},
        {"I": [1.0, 2.0, 3.0], "s": [0.0, NAN, 0.0]},
    ],
)
def test_what_cannot_be_judged_is_rejected_and_changes_nothing(event):
    average = SimilarAverage("I", range=[0, 1], errors="s", test="chi2")
    average.update({"I": [1.0, 2.0, 3.0], "s": [0.0, 0.0, 0.0]})
    before = repr(average.state())

    with pytest.raises(RejectedValue):
        average.update({"s": [1.0, 1.0, 1.0], **event})

    assert repr(average.state()) == before


def test_curves_too_large_to_square_are_nan_and_never_infinite():
    average = SimilarAverage("I", errors="s")

    for value in (1.7e308, -1.7e308, 1.7e308):
        average.update({"I": [value, 1.0], "s": [1e200, 1.0]})

    assert not any(numpy.isinf(value).any() for value in average.result().values())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"test": "cormaps"}, "test has 'cormaps'"),
        ({"reference": "last"}, "reference has 'last'"),
        ({"level": 0}, "level is 0; wanted a probability"),
        ({"level": 1.5}, "level is 1.5; wanted a probability"),
        ({"test": "chi2"}, "wanted the field of the errors"),
        ({"range": [2, 1]}, "the first below the last"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused_at_once(arguments, reason):
    with pytest.raises(PipelineValueError, match=reason):
        SimilarAverage("I", **arguments)


def test_units_are_those_of_the_curve():
    described = SimilarAverage("I", scale=True).describe({"I": {"units": "cm^-1"}})

    assert described["I_mean"] == described["I_err"] == {"units": "cm^-1"}
    assert described["I_p"] == described["I_scale"] == {"units": "dimensionless"}


def test_a_node_gives_the_average_and_says_how_many_were_left_out():
    kept = Kept()
    curves = [*exposures(3), *exposures(2, 40.0, seed=1)]

    Pipeline([Node("average", SimilarAverage("I", name="saxs"))], [kept]).replay(make_run({"I": curves}))

    kept.check_valid()
    final = kept.final()
    assert (final["saxs_n"], final["saxs_n_rejected"]) == (3, 2)
    assert numpy.allclose(final["saxs_mean"], numpy.mean(curves[:3], 0))


def test_real_patterns_that_change_with_temperature_are_told_from_the_first_ones(data_folder):
    from pipeline.sources import read_jsonl

    file = data_folder / "xrd_ramp" / "nacl_crcl3_public.jsonl"
    average, verdicts = SimilarAverage("chi_I", scale=True), []

    for name, doc in read_jsonl(file):
        if name == "event":
            average.update(doc["data"])
            verdicts.append(average.result()["chi_I_is_similar"])

    assert len(verdicts) == 40
    assert not any(verdicts[-10:])

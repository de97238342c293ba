"""A model fitted to each curve: lmfit's own numbers, and those that the curve was made of."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lmfit.models import GaussianModel, LinearModel

from pipeline import Node, Pipeline
from pipeline.errors import PipelineValueError
from pipeline.reductions import CurveFit
from pipeline.testing import check_reduction, make_run

Q = numpy.linspace(1.0, 3.0, 401)


def ring(center, sigma=0.03, height=100.0):
    return height * numpy.exp(-(((Q - center) / sigma) ** 2) / 2)


def lmfit_ring(x, y):
    model = GaussianModel() + LinearModel()
    fit = model.fit(y, x=x, amplitude=8.0, center=2.0, sigma=0.03, slope=0.0, intercept=5.0)
    numbers = {f"I_fit_{name}": p.value for name, p in fit.params.items()}
    return numbers | {f"I_fit_{name}_stderr": p.stderr for name, p in fit.params.items() if name != "height"}


def test_it_agrees_with_lmfit_at_every_event():
    rng = numpy.random.default_rng(1)
    inside = (Q >= 1.7) & (Q <= 2.3)
    events = [{"I": ring(2 + 0.01 * i) + 5 + 2 * Q + rng.normal(0, 1, len(Q)), "q": Q} for i in range(5)]

    check_reduction(
        CurveFit("I", "q", range=[1.7, 2.3]),
        events,
        lambda events: lmfit_ring(Q[inside], events[-1]["I"][inside]),
        rtol=2e-3,
    )


@given(st.floats(1.85, 2.15), st.floats(0.02, 0.06), st.floats(1, 1e5), st.floats(-5, 5), st.floats(-50, 50))
@settings(max_examples=40, deadline=None)
def test_it_finds_what_a_curve_was_made_of(center, sigma, height, slope, level):
    fit = CurveFit("I", Q.tolist(), range=[1.5, 2.5], name="ring")

    fit.update({"I": ring(center, sigma, height) + slope * Q + level})

    result = fit.result()
    assert result["ring_success"] is True
    assert result["ring_center"] == pytest.approx(center, abs=1e-7)
    assert result["ring_sigma"] == pytest.approx(sigma, rel=1e-5)
    assert result["ring_amplitude"] == pytest.approx(height * sigma * math.sqrt(2 * math.pi), rel=1e-5)


def test_errors_are_as_large_as_positions_scatter():
    rng = numpy.random.default_rng(2)
    centers, errors = [], []
    for _ in range(200):
        fit = CurveFit("I", Q.tolist(), range=[1.7, 2.3])
        fit.update({"I": ring(2.0) + 5 + rng.normal(0, 3, len(Q))})
        centers.append(fit.result()["I_fit_center"])
        errors.append(fit.result()["I_fit_center_stderr"])

    assert numpy.std(centers) == pytest.approx(numpy.mean(errors), rel=0.15)
    assert abs(numpy.mean(centers) - 2) < 4 * numpy.std(centers) / math.sqrt(200)


def test_noise_is_no_fit_and_neither_is_nothing():
    rng = numpy.random.default_rng(3)
    n_found = 0
    for _ in range(100):
        fit = CurveFit("I", Q.tolist(), range=[1.7, 2.3])
        fit.update({"I": 100 + rng.normal(0, 3, len(Q))})
        n_found += fit.result()["I_fit_success"]
    fit.update({"I": numpy.full(len(Q), numpy.nan)})

    assert n_found == 0
    assert math.isnan(fit.result()["I_fit_center"])
    assert (fit.result()["I_fit_n"], fit.result()["I_fit_success"]) == (0, False)


def test_in_a_node_each_event_has_a_fit_with_units(kept):
    raw = make_run(
        {"I": [(ring(2 + 0.05 * i) + 7)[::-1] for i in range(3)], "q": [Q[::-1]] * 3},
        data_keys={"I": {"units": "count"}, "q": {"units": "angstrom^-1"}},
    )

    Pipeline([Node("ring", CurveFit("I", "q", [1.7, 2.3], name="ring"))], [kept]).replay(raw)

    kept.check_valid()
    keys = next(doc["data_keys"] for doc in kept.named("descriptor") if doc["name"] == "primary")
    assert keys["ring_center"]["units"] == keys["ring_center_stderr"]["units"] == "angstrom^-1"
    assert [row["ring_center"] for row in kept.events("primary")] == pytest.approx([2.0, 2.05, 2.1], abs=1e-7)
    assert [row["ring_n"] for row in kept.events("primary")] == [121] * 3


@pytest.mark.parametrize(
    "arguments", [{"background": "cubic"}, {"start": {"nope": 1}}, {"range": [3, 1]}, {"model": "gausian"}]
)
def test_arguments_that_mean_nothing_are_refused(arguments):
    with pytest.raises(PipelineValueError, match=r"wanted|did you mean"):
        CurveFit("I", **arguments)

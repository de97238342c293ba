"""The peak of a curve, against scipy's own and against what a Gaussian is."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import peak_widths

from pipeline import Node, Pipeline
from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions import CurvePeak, Normalize
from pipeline.testing import check_reduction, make_run

FWHM = 2 * math.sqrt(2 * math.log(2))
Q = numpy.linspace(1.0, 3.0, 401)


def gaussian(center, sigma=0.03, height=100.0):
    return height * numpy.exp(-(((Q - center) / sigma) ** 2) / 2)


def scipy_peak(y):
    """Width and place at half of the height over the line through the ends, in q."""
    x0, x1, y0, y1 = Q[:3].mean(), Q[-3:].mean(), y[:3].mean(), y[-3:].mean()
    over = y - (y0 + (y1 - y0) / (x1 - x0) * (Q - x0))
    top = int(over.argmax())
    # prominence and bases as for a peak that stands alone: its height is over 0
    prominence = numpy.array([over[top]]), numpy.array([0]), numpy.array([len(Q) - 1])
    width, _, left, right = peak_widths(over, [top], 0.5, prominence)
    step = Q[1] - Q[0]
    return {
        "I_fwhm": width[0] * step,
        "I_cen": Q[0] + (left[0] + right[0]) / 2 * step,
        "I_height": over[top],
        "I_area": numpy.trapezoid(over, Q),
        "I_com": numpy.trapezoid(over * Q, Q) / numpy.trapezoid(over, Q),
    }


@given(st.floats(1.5, 2.5), st.floats(0.02, 0.08), st.floats(1, 1e5), st.floats(-5, 5), st.floats(-50, 50))
@settings(max_examples=60, deadline=None)
def test_a_peak_over_a_line_is_what_scipy_says_and_what_the_gaussian_is(center, sigma, height, slope, level):
    y = gaussian(center, sigma, height) + slope * Q + level

    check_reduction(CurvePeak("I", Q.tolist()), [{"I": y}], lambda events: scipy_peak(events[-1]["I"]), rtol=1e-6)

    peak = CurvePeak("I", Q.tolist())
    peak.update({"I": y})
    result = peak.result()
    assert result["I_cen"] == pytest.approx(center, abs=2e-4)
    assert result["I_com"] == pytest.approx(center, abs=1e-4)
    assert result["I_fwhm"] == pytest.approx(FWHM * sigma, rel=0.02)
    assert result["I_area"] == pytest.approx(height * sigma * math.sqrt(2 * math.pi), rel=1e-4)
    assert result["I_success"] is True


def test_the_laws_hold_for_curves_with_holes_and_noise():
    rng = numpy.random.default_rng(1)
    events = [{"I": gaussian(2 + 0.01 * i) + rng.normal(0, 1, len(Q)), "q": Q} for i in range(6)]
    events[2]["I"][100:130] = numpy.nan
    events[4]["I"][:] = numpy.nan

    check_reduction(CurvePeak("I", "q", range=[1.5, 2.5], name="ring"), events)


def test_each_peak_of_a_curve_is_looked_for_in_its_range():
    y = gaussian(1.5) + 3 * gaussian(2.2) + 10 * Q
    first, second = CurvePeak("I", Q.tolist(), [1.3, 1.7], name="a"), CurvePeak("I", Q.tolist(), [2.0, 2.4], name="b")

    for peak in (first, second):
        peak.update({"I": y})

    assert first.result()["a_cen"] == pytest.approx(1.5, abs=1e-4)
    assert second.result()["b_cen"] == pytest.approx(2.2, abs=1e-4)
    assert second.result()["b_area"] / first.result()["a_area"] == pytest.approx(3, rel=1e-6)


def test_what_is_outside_the_range_changes_nothing():
    inside, y = (Q >= 1.8) & (Q <= 2.2), gaussian(2.0) + 5
    other = numpy.where(inside, y, 1e9)
    one, two = CurvePeak("I", Q.tolist(), [1.8, 2.2]), CurvePeak("I", Q.tolist(), [1.8, 2.2])

    one.update({"I": y})
    two.update({"I": other})

    assert one.result() == two.result()
    assert one.result()["I_n"] == inside.sum()


def test_a_dip_is_a_peak_of_the_other_sign():
    dip = CurvePeak("I", Q.tolist(), sign=-1)

    dip.update({"I": 500 - gaussian(2.1)})

    assert dip.result()["I_cen"] == pytest.approx(2.1, abs=1e-4)
    assert dip.result()["I_height"] == pytest.approx(100, rel=1e-6)
    assert dip.result()["I_success"] is True


def test_noise_is_no_peak_and_its_area_is_near_nothing():
    rng = numpy.random.default_rng(3)
    n_peaks, areas = 0, []
    for _ in range(200):
        peak = CurvePeak("I", Q.tolist(), range=[1.8, 2.2], edge_count=10)
        peak.update({"I": 1000 + rng.normal(0, 10, len(Q))})
        n_peaks += peak.result()["I_success"]
        areas.append(peak.result()["I_area"])

    assert n_peaks == 0
    assert abs(numpy.mean(areas)) < 4 * numpy.std(areas) / math.sqrt(len(areas))


def test_points_that_are_not_finite_are_left_out_and_what_has_none_is_no_peak():
    y = gaussian(2.0) + 5
    holed = y.copy()
    holed[::7] = numpy.nan
    whole, part = CurvePeak("I", Q.tolist()), CurvePeak("I", Q.tolist())

    whole.update({"I": y})
    part.update({"I": holed})
    center = part.result()["I_cen"]
    part.update({"I": numpy.full(len(Q), numpy.nan)})

    assert center == pytest.approx(whole.result()["I_cen"], abs=1e-3)
    assert math.isnan(part.result()["I_cen"])
    assert (part.result()["I_n"], part.result()["I_success"]) == (0, False)


def test_a_falling_axis_gives_the_same_peak():
    y = gaussian(2.3) + 5 * Q
    rising, falling = CurvePeak("I", "q"), CurvePeak("I", "q")

    rising.update({"I": y, "q": Q})
    falling.update({"I": y[::-1], "q": Q[::-1]})

    assert falling.result() == rising.result()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"I": [1.0, 2.0]}, "'I' has 2 points, and its axis 401"),
        ({"I": numpy.ones((2, 401))}, r"'I': wanted a curve, there is the shape \[2, 401\]"),
        ({"I": "text"}, "wanted numbers"),
    ],
)
def test_what_is_no_curve_over_the_axis_is_rejected(data, says):
    with pytest.raises(RejectedValue, match=says):
        CurvePeak("I", Q.tolist()).update(data)


@pytest.mark.parametrize(
    "arguments", [{"range": [2, 1]}, {"range": [1, 2, 3]}, {"edge_count": -1}, {"sign": 0}, {"level": 1.0}]
)
def test_arguments_that_mean_nothing_are_refused(arguments):
    with pytest.raises(PipelineValueError, match="wanted"):
        CurvePeak("I", **arguments)


def test_in_a_node_it_gives_each_event_a_peak_with_units_and_feeds_those_after_it(kept):
    curves = [gaussian(2 + 0.1 * i, height=100.0 * (i + 1)) + 7 for i in range(3)]
    raw = make_run(
        {"I": curves, "q": [Q] * 3, "i0": [2.0, 2.0, 2.0]},
        data_keys={"I": {"units": "count"}, "q": {"units": "angstrom^-1"}, "i0": {"units": "count"}},
    )
    peak, norm = CurvePeak("I", "q", [1.8, 2.4], name="ring"), Normalize("ring_area", "i0", name="strength", counts=[])

    Pipeline([Node("ring", peak, norm)], [kept]).replay(raw)

    kept.check_valid()
    rows = kept.events("primary")
    assert [row["ring_cen"] for row in rows] == pytest.approx([2.0, 2.1, 2.2], abs=1e-4)
    assert [row["strength"] / rows[0]["strength"] for row in rows] == pytest.approx([1, 2, 3], rel=1e-6)
    keys = next(doc["data_keys"] for doc in kept.named("descriptor") if doc["name"] == "primary")
    assert (keys["ring_cen"]["units"], keys["ring_area"]["units"]) == ("angstrom^-1", "count*(angstrom^-1)")

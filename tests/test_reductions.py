"""Every reduction agrees with an oracle at every prefix, and keeps the laws."""

import math
import statistics as stdlib
from fractions import Fraction

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import peak_widths

from pipeline.errors import RejectedValue
from pipeline.reductions import Mean, PeakStatistics, Statistics
from pipeline.reductions.element_moments import IntegerMoments
from pipeline.testing import check_reduction

NAN = float("nan")
finite = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=True)
numbers = st.one_of(finite, st.integers(-(2**62), 2**62), st.just(NAN), st.just(math.inf), st.none())


def exact_statistics(events):
    """By fractions: what no rounding touches before the end."""
    values = [Fraction(e["x"]) for e in events if e["x"] is not None and math.isfinite(e["x"])]
    n = len(values)
    right = {"x_n": n, "x_n_nan": len(events) - n, "x_mean": NAN, "x_std": NAN, "x_min": NAN, "x_max": NAN}
    if n:
        right |= {"x_mean": as_float(sum(values) / n), "x_sum": as_float(sum(values))}
        right |= {"x_min": float(min(values)), "x_max": float(max(values))}
    if n > 1:
        mean = sum(values) / n
        right["x_std"] = math.sqrt(as_float(sum((v - mean) ** 2 for v in values) / (n - 1)))
    return right


def as_float(fraction):
    try:
        return float(fraction)
    except OverflowError:
        return NAN


@given(st.lists(numbers, min_size=1, max_size=30), st.integers(0, 30))
@settings(max_examples=200, deadline=None)
def test_statistics_of_scalars_are_the_correctly_rounded_ones(values, split):
    check_reduction(Statistics("x"), [{"x": v} for v in values], exact_statistics, split=split, rtol=0)


@given(st.lists(finite, min_size=2, max_size=40), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_statistics_do_not_depend_on_the_order_of_scalars(values, random):
    shuffled = random.sample(values, len(values))
    one, other = Statistics("x"), Statistics("x")

    for a, b in zip(values, shuffled, strict=True):
        one.update({"x": a})
        other.update({"x": b})

    assert repr(one.result()) == repr(other.result())


@given(st.lists(finite, min_size=1, max_size=700))
@settings(max_examples=50, deadline=None)
def test_a_long_column_is_summed_as_its_rows_are(values):
    rows, page = Statistics("x"), Statistics("x")

    for value in values:
        rows.update({"x": value})
    page.update_page({"x": values})

    assert repr(rows.result()) == repr(page.result())


@pytest.mark.parametrize("dtype", ["bool", "u1", "i1", "u2", "i2", "u4", "i4"])
def test_statistics_of_integer_arrays_are_exact(dtype):
    rng = numpy.random.default_rng(1)
    info = numpy.iinfo(dtype) if dtype != "bool" else None
    shape = (40, 2, 3)
    frames = rng.integers(info.min, info.max, shape, dtype, endpoint=True) if info else rng.random(shape) > 0.5
    frames[:, 0, 0] = info.max if info else True

    def oracle(events):
        stack = numpy.array([e["x"] for e in events], dtype=object).astype(object)
        n = len(stack)
        variance = (
            [
                [float(Fraction(n * sum(int(v) ** 2 for v in c) - sum(map(int, c)) ** 2, n * (n - 1))) for c in row]
                for row in stack.transpose(1, 2, 0)
            ]
            if n > 1
            else numpy.full(shape[1:], NAN)
        )
        numbers = stack.astype(float)
        return {
            "x_std": numpy.sqrt(variance),
            "x_mean": stack.sum(0).astype(float) / n,
            "x_min": numbers.min(0),
            "x_max": numbers.max(0),
            "x_n": numpy.full(shape[1:], n),
        }

    check_reduction(Statistics("x"), [{"x": frame} for frame in frames], oracle, rtol=1e-15)


def test_the_variance_of_saturated_32_bit_counters_is_right():
    moments = IntegerMoments((1,))
    values = [2**32 - 1, 2**32 - 2] * 5000

    for value in values:
        moments.add(numpy.array([value], "u4"))

    assert moments.variance(1)[0] == float(stdlib.variance(map(Fraction, values)))


def test_statistics_of_float_arrays_leave_out_nan_element_by_element():
    rng = numpy.random.default_rng(2)
    stack = rng.normal(1e3, 1, (30, 4))
    stack[rng.random(stack.shape) < 0.2] = NAN
    stack[0] = NAN

    def oracle(events):
        part = numpy.array([e["x"] for e in events])
        n = numpy.isfinite(part).sum(0)
        mean = numpy.where(n > 0, numpy.nansum(part, 0) / numpy.maximum(n, 1), NAN)
        square = numpy.nansum((part - mean) ** 2, 0)
        return {
            "x_mean": mean,
            "x_std": numpy.where(n > 1, numpy.sqrt(square / numpy.maximum(n - 1, 1)), NAN),
            "x_n": n,
            "x_n_nan": len(part) - n,
        }

    check_reduction(Statistics("x"), [{"x": row} for row in stack], oracle, rtol=1e-10)


def test_a_value_of_another_shape_is_rejected():
    for first, second in ((1.0, [1.0, 2.0]), ([1.0, 2.0], 1.0), ([1.0, 2.0], [1.0]), (1.0, "text"), ("text", "text")):
        statistics = Statistics("x")
        try:
            statistics.update({"x": first})
        except RejectedValue:
            continue
        with pytest.raises(RejectedValue, match="wanted"):
            statistics.update({"x": second})


def test_skipna_false_makes_every_result_that_a_nan_concerns_nan():
    scalar, elements = Statistics("x", skipna=False), Statistics("x", skipna=False)

    for value in (1.0, NAN):
        scalar.update({"x": value})
        elements.update({"x": numpy.array([value, 2.0])})

    assert math.isnan(scalar.result()["x_mean"])
    assert scalar.result()["x_n"] == 1
    assert numpy.array_equal(elements.result()["x_mean"], [NAN, 2.0], equal_nan=True)


def test_mean_is_that_of_statistics():
    values = [{"x": v} for v in (0.1, 0.2, 0.3, NAN)]

    check_reduction(
        Mean("x"), values, lambda es: {k: v for k, v in exact_statistics(es).items() if k == "x_mean"}, rtol=0
    )


# peaks -------------------------------------------------------------------------------------------------------------


def gaussian(x, center=0.3, sigma=1.1, height=5.0, base=0.0):
    return base + height * numpy.exp(-((x - center) ** 2) / (2 * sigma**2))


def points(x, y):
    return [{"x": a, "y": b} for a, b in zip(x, y, strict=True)]


def result_of(reduction, events):
    for event in events:
        reduction.update(event)
    return reduction.result()


@given(
    st.lists(st.tuples(st.integers(-20, 20), st.one_of(st.integers(-5, 50), st.just(NAN))), min_size=1, max_size=30),
    st.integers(0, 30),
)
@settings(max_examples=200, deadline=None)
def test_peak_statistics_keep_the_laws(pairs, split):
    check_reduction(PeakStatistics("x", "y"), [{"x": float(x), "y": y} for x, y in pairs], split=split)


@pytest.mark.parametrize("base", [0.0, 100.0, -3.0])
@pytest.mark.parametrize("grid", ["even", "uneven", "shuffled", "twice"])
def test_a_gaussian_is_found_whatever_the_grid_and_the_background(base, grid):
    rng = numpy.random.default_rng(3)
    x = numpy.linspace(-6, 6.6, 127)
    x = {"even": x, "uneven": numpy.sort(rng.uniform(-6, 6.6, 400)), "shuffled": rng.permutation(x), "twice": [*x, *x]}[
        grid
    ]
    x = numpy.asarray(x)

    result = result_of(PeakStatistics("x", "y"), points(x, gaussian(x, base=base)))

    assert result["y_success"] is True
    assert result["y_cen"] == pytest.approx(0.3, abs=2e-3)
    assert result["y_com"] == pytest.approx(0.3, abs=2e-3)
    assert result["y_fwhm"] == pytest.approx(2.3548 * 1.1, rel=3e-3)
    assert result["y_bkg_intercept"] == pytest.approx(base, abs=1e-4)


def test_the_width_is_that_of_scipy():
    x = numpy.arange(50.0)
    y = gaussian(x, 21.3, 4.2)

    result = result_of(PeakStatistics("x", "y"), points(x, y))

    width, _, left, right = peak_widths(y, [int(y.argmax())], rel_height=0.5)
    assert result["y_fwhm"] == pytest.approx(width[0], rel=1e-4)  # scipy measures from the prominence
    assert (result["y_left"], result["y_right"]) == (
        pytest.approx(left[0], rel=1e-4),
        pytest.approx(right[0], rel=1e-4),
    )


def test_a_dip_is_a_peak_downward():
    x = numpy.linspace(-5, 5, 41)

    result = result_of(PeakStatistics("x", "y", sign=-1), points(x, 10 - gaussian(x)))

    assert result["y_success"] is True
    assert result["y_cen"] == pytest.approx(0.3, abs=1e-2)
    assert result["y_min_x"] == 0.25


def test_a_sloping_background_is_taken_from_the_edges():
    x = numpy.linspace(-8, 8, 81)

    result = result_of(PeakStatistics("x", "y", edge_count=3), points(x, gaussian(x) + 2 * x + 30))

    assert result["y_cen"] == pytest.approx(0.3, abs=1e-2)
    assert result["y_bkg_slope"] == pytest.approx(2, abs=1e-3)
    assert result["y_bkg_intercept"] == pytest.approx(30, abs=1e-2)


def test_noise_is_no_peak():
    rng = numpy.random.default_rng(4)
    claims = [
        result_of(PeakStatistics("x", "y"), points(range(31), rng.poisson(126, 31)))["y_success"] for _ in range(300)
    ]

    assert sum(claims) == 0


@pytest.mark.parametrize(
    ("y", "fwhm_is_nan"), [([1, 1, 1, 1], True), ([1, 2], True), ([5, 4, 3, 2, 1], True), ([0, 0, 9, 0, 0], False)]
)
def test_what_is_no_peak_has_no_width(y, fwhm_is_nan):
    result = result_of(PeakStatistics("x", "y"), points(range(len(y)), y))

    assert math.isnan(result["y_fwhm"]) is fwhm_is_nan
    assert result["y_success"] is not fwhm_is_nan


def test_an_edge_has_a_center_and_no_width():
    x = numpy.linspace(-2, 2, 41)

    result = result_of(PeakStatistics("x", "y"), points(x, 1 / (1 + numpy.exp(-x / 0.1))))

    assert result["y_cen"] == pytest.approx(0, abs=1e-6)
    assert math.isnan(result["y_fwhm"])
    assert result["y_success"] is False


def test_points_without_a_number_are_left_out_and_counted():
    events = [*points(range(9), gaussian(numpy.arange(9.0), 4)), {"x": NAN, "y": 1.0}, {"x": 1.0, "y": None}]

    result = result_of(PeakStatistics("x", "y"), events)

    assert (result["y_n"], result["y_n_nan"]) == (9, 2)
    assert result["y_cen"] == pytest.approx(4, abs=1e-3)


def test_units_follow_the_fields():
    described = PeakStatistics("x", "y").describe({"x": {"units": "mm"}, "y": {"units": "count"}})

    assert described["y_cen"] == {"units": "mm"}
    assert described["y_max"] == {"units": "count"}
    assert described["y_bkg_slope"] == {"units": "count/(mm)"}


def test_large_integers_among_floats_are_taken_exactly_from_a_page_too():
    check_reduction(Statistics("x"), [{"x": 0.0}, {"x": 18_014_398_509_481_981}])

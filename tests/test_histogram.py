"""Histograms are equal to those of numpy at every prefix, and keep the laws."""

import math
from fractions import Fraction

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import Kept
from real import columns

from pipeline import Node, Pipeline
from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions import Histogram
from pipeline.sources import read_jsonl
from pipeline.testing import check_reduction

NAN = float("nan")
REGULAR = {"start": -1, "stop": 2, "n": 7}
EDGES = [-1.0, 0.0, 0.5, 2.0]
on_edges = st.sampled_from([*numpy.linspace(-1, 2, 8).tolist(), *EDGES, numpy.nextafter(2, 3), numpy.nextafter(-1, -2)])
numbers = st.one_of(st.floats(-2, 3), on_edges, st.sampled_from([NAN, math.inf, -math.inf]), st.none())


def is_finite(value):
    return value is not None and math.isfinite(value)


def numpy_histogram(events, bins, limits=None):
    x = numpy.array([e["x"] for e in events if is_finite(e["x"])])
    counts, edges = numpy.histogram(x, bins, limits)
    return {
        "x_hist": counts,
        "x_hist_under": (x < edges[0]).sum(),
        "x_hist_over": (x > edges[-1]).sum(),
        "x_hist_n_nan": len(events) - len(x),
    }


@given(st.lists(numbers, min_size=1, max_size=40), st.integers(0, 40))
@settings(max_examples=200, deadline=None)
def test_regular_and_explicit_bins_count_as_numpy_does(values, split):
    events = [{"x": value} for value in values]

    check_reduction(Histogram("x", REGULAR), events, lambda es: numpy_histogram(es, 7, (-1, 2)), split=split, rtol=0)
    check_reduction(Histogram("x", EDGES), events, lambda es: numpy_histogram(es, EDGES), split=split, rtol=0)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=40), st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_two_fields_count_as_histogramdd_does(pairs, split):
    def oracle(events):
        good = [(e["x"], e["y"]) for e in events if is_finite(e["x"]) and is_finite(e["y"])]
        sample = numpy.array(good).reshape(-1, 2)
        counts, edges = numpy.histogramdd(sample, [numpy.linspace(-1, 2, 8), EDGES])
        return {
            "x_y_hist": counts,
            "x_y_hist_under": [(sample[:, i] < edges[i][0]).sum() for i in range(2)],
            "x_y_hist_over": [(sample[:, i] > edges[i][-1]).sum() for i in range(2)],
            "x_y_hist_n_nan": len(events) - len(good),
        }

    events = [{"x": x, "y": y} for x, y in pairs]

    check_reduction(Histogram(["x", "y"], [REGULAR, EDGES]), events, oracle, split=split, rtol=0)


@given(st.lists(st.tuples(numbers, st.floats(-1e9, 1e9)), min_size=1, max_size=30), st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_weights_are_summed_without_rounding(pairs, split):
    def oracle(events):
        sums = [Fraction(0)] * 3
        for event in events:
            counts = numpy.histogram([event["x"] if is_finite(event["x"]) else -9.0], EDGES)[0]
            if counts.any():
                sums[int(counts.argmax())] += Fraction(event["w"])
        return {"x_hist": [float(total) for total in sums]}

    events = [{"x": x, "w": w} for x, w in pairs]

    check_reduction(Histogram("x", EDGES, weights="w"), events, oracle, split=split, rtol=0)


def test_integer_weights_are_summed_as_numpy_does():
    rng = numpy.random.default_rng(1)
    x, w = rng.uniform(-1.5, 2.5, 500), rng.integers(0, 100, 500)
    histogram = Histogram("x", REGULAR, weights="w")

    histogram.update_page({"x": x, "w": w})

    assert histogram.result()["x_hist"].tolist() == numpy.histogram(x, 7, (-1, 2), weights=w)[0].tolist()


def test_a_point_without_a_weight_is_left_out_and_counted():
    histogram = Histogram("x", EDGES, weights="w")

    for w in (NAN, math.inf, None, 2.0):
        histogram.update({"x": 0.25, "w": w})

    assert histogram.result()["x_hist"].tolist() == [0.0, 2.0, 0.0]
    assert histogram.result()["x_hist_n_nan"] == 3


def test_every_element_of_an_array_counts_and_a_weight_may_be_of_all():
    frame = numpy.arange(12).reshape(3, 4)
    plain, weighted = Histogram("cam", [0, 4, 11]), Histogram("cam", [0, 4, 11], weights="w")

    plain.update({"cam": frame})
    weighted.update({"cam": frame, "w": 0.5})

    assert plain.result()["cam_hist"].tolist() == [4, 8]
    assert weighted.result()["cam_hist"].tolist() == [2.0, 4.0]


def test_what_is_no_number_is_rejected_and_changes_nothing():
    histogram = Histogram("x", EDGES)

    for value in ("1", 1j, ["a"], [[1.0], [1.0, 2.0]], numpy.datetime64("2026-01-01")):
        with pytest.raises(RejectedValue, match="wanted"):
            histogram.update({"x": value})

    assert histogram.result() is None
    assert histogram.update_page({"x": [0.1, "1", 0.2]}) == 1
    assert histogram.result()["x_hist"].tolist() == [0, 2, 0]


@pytest.mark.parametrize(
    ("field", "bins", "message"),
    [
        (["x", "y"], [EDGES], r"bins: wanted those of \['x', 'y'\]"),
        (["x", "y"], REGULAR, r"bins: wanted those of \['x', 'y'\]"),
        ([], [], r"Histogram: field: wanted fields, each once; there is \[\]"),
        (["x", "x"], [EDGES, EDGES], "Histogram: field: wanted fields, each once"),
        ("x", {"start": 0}, "Histogram: bins of x: wanted start, stop and n or step"),
        (["x", "y"], [EDGES, [1, 0]], "Histogram: bins of y: wanted at least two finite numbers that rise"),
    ],
)
def test_bins_that_do_not_fit_the_fields_are_refused(field, bins, message):
    with pytest.raises(PipelineValueError, match=message):
        Histogram(field, bins)


def test_units_dims_and_axes_follow_the_fields():
    keys = {"x": {"units": "mm"}, "w": {"units": "s"}}
    two = Histogram(["x", "y"], [REGULAR, EDGES], weights="w")

    assert Histogram("x", EDGES).describe(keys)["x_hist"] == {"units": "count", "dims": ["x_hist_center"]}
    assert two.describe(keys)["x_y_hist"] == {"units": "s", "dims": ["x_hist_center", "y_hist_center"]}
    assert two.describe(keys)["x_hist_center"] == {"units": "mm"}
    assert sorted(two.axes()) == ["x_hist_center", "x_hist_edges", "y_hist_center", "y_hist_edges"]
    assert two.axes()["y_hist_center"].tolist() == [-0.5, 0.25, 1.25]


def test_the_pixels_of_real_spectra_are_counted_as_numpy_does(data_folder):
    file = data_folder / "facility_streams" / "xspress3mini-dump20.jsonl"
    kept = Kept()
    histogram = Histogram("xspress3_spectra", {"start": 0, "stop": 100, "n": 50})

    Pipeline([Node("counts", histogram, every=0)], [kept]).replay(read_jsonl(file))

    (spectra,) = columns(file, "xspress3_spectra")
    kept.check_valid()
    final = kept.final()
    assert final["xspress3_spectra_hist"].tolist() == numpy.histogram(spectra, 50, (0, 100))[0].tolist()
    assert final["xspress3_spectra_hist"].sum() + final["xspress3_spectra_hist_over"] == 22 * 2 * 4096

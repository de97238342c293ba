"""Bins agree with scipy at every prefix, and keep the laws."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import Kept
from real import columns
from scipy.stats import binned_statistic

from pipeline import Node, Pipeline
from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions import Bin
from pipeline.sources import read_jsonl
from pipeline.testing import check_reduction, make_run

NAN = float("nan")
finite = st.floats(-1e150, 1e150)
numbers = st.one_of(finite, st.integers(-(2**62), 2**62), st.sampled_from([NAN, math.inf, -math.inf]), st.none())
EDGES = [-1.0, 0.0, 0.5, 2.0]


def is_finite(value):
    return value is not None and math.isfinite(value)


def scipy_bins(events, edges=EDGES):
    right = {}
    for y in ("a", "b"):
        good = [e for e in events if is_finite(e["x"]) and is_finite(e[y])]
        x, values = (numpy.array([float(e[key]) for e in good]) for key in ("x", y))
        inside = (x >= edges[0]) & (x <= edges[-1])
        right |= {f"{y}_n_nan": len(events) - len(good), f"{y}_n_outside": int((~inside).sum())}
        right[f"{y}_n"] = numpy.histogram(x, edges)[0]
        if len(x):
            by = [binned_statistic(x, values, what, edges)[0] for what in ("mean", standard_error)]
            right |= {f"{y}_mean": by[0], f"{y}_err": by[1]}
    return right


def standard_error(values):
    return numpy.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else NAN


def random_points(n=60):
    rng = numpy.random.default_rng(1)
    x, a, b = rng.uniform(-1.5, 2.5, n), rng.normal(100, 3, n), rng.poisson(7, n).astype(float)
    x[5], a[7], b[9], x[11], x[12] = NAN, NAN, math.inf, 2.0, -1.0
    return [{"x": float(i), "a": float(j), "b": int(k) if is_finite(k) else k} for i, j, k in zip(x, a, b, strict=True)]


def test_bins_are_those_of_scipy_at_every_prefix():
    check_reduction(Bin("x", ["a", "b"], EDGES), random_points(), scipy_bins, rtol=1e-12)


@given(
    st.lists(
        st.fixed_dictionaries({"x": st.one_of(st.floats(-2, 3), st.none()), "a": numbers}), min_size=1, max_size=30
    ),
    st.integers(0, 30),
)
@settings(max_examples=150, deadline=None)
def test_bins_keep_the_laws_whatever_the_numbers(events, split):
    check_reduction(Bin("x", "a", EDGES), events, split=split)


@given(st.lists(st.tuples(st.floats(-1, 2), finite), min_size=2, max_size=40), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_bins_do_not_depend_on_the_order(points, random):
    one, other = Bin("x", "a", EDGES), Bin("x", "a", EDGES)

    for x, a in points:
        one.update({"x": x, "a": a})
    for x, a in random.sample(points, len(points)):
        other.update({"x": x, "a": a})

    assert repr(one.result()) == repr(other.result())


def test_a_long_run_gives_the_bits_of_its_page_however_often_it_is_asked():
    points = random_points(1000)
    asked, fed, page = (Bin("x", ["a", "b"], EDGES) for _ in range(3))

    for i, point in enumerate(points):
        fed.update(point)
        asked.update(point)
        if i % 37 == 0:
            asked.result()
    page.update_page({key: [point[key] for point in points] for key in points[0]})

    assert repr(fed.result()) == repr(asked.result()) == repr(page.result())
    scipy_result = scipy_bins(points)
    assert numpy.allclose(fed.result()["a_mean"], scipy_result["a_mean"], rtol=1e-13, atol=0)
    assert numpy.allclose(fed.result()["a_err"], scipy_result["a_err"], rtol=1e-12, atol=0)


def test_an_event_of_arrays_is_as_many_points():
    points = random_points()
    arrays, rows = Bin("x", ["a", "b"], EDGES), Bin("x", ["a", "b"], EDGES)

    arrays.update({key: numpy.array([point[key] for point in points]).reshape(6, 10) for key in points[0]})
    for point in points:
        rows.update(point)

    assert repr(arrays.result()) == repr(rows.result())


def test_pages_of_arrays_are_what_their_events_are():
    rng = numpy.random.default_rng(2)
    events = [{"x": rng.uniform(-1, 2, 5).tolist(), "a": rng.normal(size=5).tolist()} for _ in range(7)]

    check_reduction(Bin("x", "a", EDGES), events)


@pytest.mark.parametrize(
    "data",
    [
        {"x": 1.0, "a": [1.0, 2.0]},
        {"x": [1.0, 2.0], "a": 1.0},
        {"x": [1.0, 2.0], "a": [1.0, 2.0, 3.0]},
        {"x": [[1.0, 2.0]], "a": [1.0, 2.0]},
        {"x": "1.0", "a": 2.0},
        {"x": 1.0, "a": 1j},
        {"x": 1.0, "a": [[1.0], [1.0, 2.0]]},
        {"x": 1.0, "a": 10**400},
    ],
)
def test_what_is_no_point_is_rejected_and_changes_nothing(data):
    bins, page = Bin("x", "a", EDGES), Bin("x", "a", EDGES)

    with pytest.raises(RejectedValue, match="wanted"):
        bins.update(data)
    n_rejected = page.update_page({"x": [0.0, data["x"]], "a": [1.0, data["a"]]})

    assert bins.result() is None
    assert n_rejected == 1
    assert page.result()["a_n"].tolist() == [0, 1, 0]


def test_a_field_that_is_missing_is_a_key_error_and_changes_nothing():
    bins = Bin("x", ["a", "b"], EDGES)

    with pytest.raises(KeyError, match="b"):
        bins.update({"x": 1.0, "a": 2.0})
    with pytest.raises(KeyError, match="b"):
        bins.update_page({"x": [1.0], "a": [2.0]})

    assert bins.result() is None


@pytest.mark.parametrize("ys", [[], ["a", "a"], [1]])
def test_fields_that_are_none_are_refused(ys):
    with pytest.raises(PipelineValueError, match="Bin: ys: wanted fields, each once"):
        Bin("x", ys, EDGES)


def test_an_empty_page_is_nothing():
    bins = Bin("x", "a", EDGES)

    assert bins.update_page({"x": [], "a": []}) == 0
    assert bins.result() is None


def test_results_are_not_the_state():
    bins = Bin("x", "a", EDGES)
    bins.update({"x": 0.1, "a": 3.0})

    for value in [*bins.result().values(), *bins.axes().values()]:
        numpy.asarray(value)[...] = 7

    assert bins.result()["a_mean"].tolist()[1] == 3.0
    assert bins.result()["a_n"].tolist() == [0, 1, 0]
    assert bins.axes()["x_bin_edges"].tolist() == EDGES


def test_units_and_dims_follow_the_fields():
    described = Bin("x", "a", EDGES).describe({"x": {"units": "eV"}, "a": {"units": "count"}})

    assert described["a_mean"] == described["a_err"] == {"units": "count", "dims": ["x_bin_center"]}
    assert described["a_n"] == {"dims": ["x_bin_center"]}
    assert described["x_bin_center"] == {"units": "eV"}


def test_a_node_gives_the_bins_and_their_axis():
    kept = Kept()
    run = make_run({"x": [0.1, 0.2, 1.0, 9.0], "a": [1.0, 3.0, 5.0, 7.0]})

    Pipeline([Node("bins", Bin("x", "a", EDGES))], [kept]).replay(run)

    kept.check_valid()
    assert kept.final()["a_mean"][1:].tolist() == [2.0, 5.0]
    assert kept.final()["a_n_outside"] == 1
    (axes,) = kept.events("axes")
    assert numpy.asarray(axes["x_bin_center"]).tolist() == [-0.5, 0.25, 1.25]


def test_an_xas_scan_is_binned_in_three_regions_as_scipy_does(data_folder):
    file = data_folder / "xas" / "cu_metal_rt_xdi.jsonl"
    regions = [
        {"start": 8779, "stop": 8949, "step": 10},
        {"start": 8949, "stop": 9019, "step": 2},
        {"start": 9019, "stop": 9869, "n": 85},
    ]
    kept = Kept()

    Pipeline([Node("xas", Bin("energy", "mutrans", regions), every=0)], [kept]).replay(read_jsonl(file))

    energy, mu = columns(file, "energy", "mutrans")
    kept.check_valid()
    final, edges = kept.final(), kept.events("axes")[0]["energy_bin_edges"]
    assert final["mutrans_n"].tolist() == numpy.histogram(energy, edges)[0].tolist()
    assert final["mutrans_n"].sum() + final["mutrans_n_outside"] == len(energy) == 408
    assert final["mutrans_n"].sum() > 300
    wanted = binned_statistic(energy, mu, "mean", edges)[0]
    assert numpy.allclose(final["mutrans_mean"], wanted, rtol=1e-13, atol=0, equal_nan=True)
    assert kept.named("descriptor")[-1]["data_keys"]["mutrans_mean"]["dims"] == ["energy_bin_center"]


def test_a_fly_scan_in_one_event_is_binned(data_folder):
    file = data_folder / "usaxs_fly" / "S11_GC.jsonl"
    edges, counts = columns(file, "ar_pulse_positions", "struck_mca3", stream="mca")
    centers, counts = (edges[0][1:] + edges[0][:-1]) / 2, counts[0].astype(float)
    low, high = float(centers.min()), float(centers.max())
    bins = Bin("angle", "counts", {"start": low, "stop": high, "n": 250})

    bins.update({"angle": centers, "counts": counts})

    result = bins.result()
    assert result["counts_n"].sum() == 7999
    wanted = binned_statistic(centers, counts, "mean", bins.axes()["angle_bin_edges"])[0]
    assert numpy.allclose(result["counts_mean"], wanted, rtol=1e-13, atol=0, equal_nan=True)

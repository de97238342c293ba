"""Maps agree with scipy at every prefix, know their grid from the start document, and keep the laws."""

import json
import math

import numpy
import pytest
from bluesky import plans
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import Kept
from ophyd.sim import SynAxis, SynGauss
from real import columns
from scipy.stats import binned_statistic_2d

from pipeline import Node, Pipeline
from pipeline.errors import PipelineRuntimeError, PipelineTypeError, PipelineValueError, RejectedValue
from pipeline.reductions import Map
from pipeline.reductions.grid import Grid
from pipeline.sources import read_jsonl
from pipeline.testing import check_reduction, make_run

NAN = float("nan")
SHAPE, EXTENTS = [3, 4], [[0.0, 2.0], [10.0, 13.0]]
Y_EDGES, X_EDGES = numpy.linspace(-0.5, 2.5, 4), numpy.linspace(9.5, 13.5, 5)
positions = st.one_of(st.floats(-1, 14), st.sampled_from([0.5, 9.5, 13.5, 2.5, -0.5, NAN, math.inf]), st.none())
numbers = st.one_of(st.floats(-1e150, 1e150), st.sampled_from([NAN, -math.inf]), st.none())
points = st.fixed_dictionaries({"x": positions, "y": st.one_of(st.floats(-1, 3), positions), "v": numbers})


def is_finite(value):
    return value is not None and math.isfinite(value)


def scipy_map(statistic):
    def oracle(events):
        good = [e for e in events if all(map(is_finite, (e["x"], e["y"], e["v"])))]
        right = {"v_map_n_nan": len(events) - len(good)}
        if good:
            y, x, v = (numpy.array([e[key] for e in good]) for key in ("y", "x", "v"))
            found = binned_statistic_2d(y, x, v, "count", [Y_EDGES, X_EDGES])
            counts = found.statistic
            value = binned_statistic_2d(y, x, v, statistic, [Y_EDGES, X_EDGES]).statistic
            right |= {"v_map_n": counts, "v_map": numpy.where(counts > 0, value, NAN)}
            right["v_map_n_outside"] = len(good) - counts.sum()
        return right

    return oracle


def random_points(n=60):
    rng = numpy.random.default_rng(1)
    x, y, v = rng.uniform(9, 14, n), rng.uniform(-1, 3, n), rng.normal(100, 3, n)
    x[5], y[6], v[7] = NAN, math.inf, NAN
    return [{"x": float(a), "y": float(b), "v": float(c)} for a, b, c in zip(x, y, v, strict=True)]


@pytest.mark.parametrize(("mode", "statistic"), [("mean", "mean"), ("sum", "sum"), ("last", lambda values: values[-1])])
def test_maps_are_those_of_scipy_at_every_prefix(mode, statistic):
    check_reduction(Map("x", "y", "v", SHAPE, EXTENTS, mode), random_points(), scipy_map(statistic))


@given(st.lists(points, min_size=1, max_size=30), st.integers(0, 30), st.sampled_from(["mean", "sum", "last"]))
@settings(max_examples=150, deadline=None)
def test_maps_keep_the_laws_whatever_the_numbers(events, split, mode):
    check_reduction(Map("x", "y", "v", SHAPE, EXTENTS, mode), events, split=split)


@given(st.lists(points, min_size=2, max_size=30), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_means_do_not_depend_on_the_way_of_the_scan(events, random):
    one, other = Map("x", "y", "v", SHAPE, EXTENTS), Map("x", "y", "v", SHAPE, EXTENTS)

    for event in events:
        one.update(event)
    for event in random.sample(events, len(events)):
        other.update(event)

    assert repr(one.result()) == repr(other.result())


@given(st.lists(st.tuples(st.floats(-1, 3), st.floats(9, 14)), min_size=1, max_size=50), st.booleans(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_grid_whose_centers_fall_is_the_rising_one_the_other_way_round(places, flip_rows, flip_columns):
    (y0, y1), (x0, x1) = EXTENTS
    extents = [[y1, y0] if flip_rows else [y0, y1], [x1, x0] if flip_columns else [x0, x1]]
    grid, rising = Grid(SHAPE, extents), Grid(SHAPE, EXTENTS)
    y, x = (numpy.array(part) for part in zip(*places, strict=True))

    cells, wanted = grid.cells(y, x), rising.cells(y, x)

    numbers = numpy.arange(12).reshape(3, 4)[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1].ravel()
    assert cells.tolist() == [grid.cell(*place) for place in places]
    assert [numbers[cell] if cell >= 0 else -1 for cell in cells] == wanted.tolist()
    assert grid.row_axis.centers.tolist() == sorted(rising.row_axis.centers, reverse=flip_rows)


def test_a_line_of_a_fly_scan_is_an_event_of_arrays():
    lines = Map("x", "y", "v", SHAPE, EXTENTS)

    for row in range(3):
        lines.update({"y": float(row), "x": numpy.linspace(9.6, 13.4, 8), "v": numpy.arange(8) + 10.0 * row})

    assert lines.result()["v_map"].tolist() == [[0.5 + 2 * j + 10 * i for j in range(4)] for i in range(3)]


def test_where_there_is_one_row_every_y_belongs_to_it():
    line = Map("x", "y", "v", [1, 2], [[5.0, 5.0], [0.0, 1.0]])

    line.update_page({"x": [0.0, 1.0], "y": [-1e6, 7.0], "v": [1.0, 2.0]})

    assert line.result()["v_map"].tolist() == [[1.0, 2.0]]
    assert line.axes()["y_map_center"].tolist() == [5.0]


START = {"shape": (3, 4), "extents": ([0.0, 2.0], [10.0, 13.0]), "motors": ("y", "x"), "snaking": (False, True)}


@pytest.mark.parametrize(
    "start",
    [
        START,
        {**START, "motors": ("my", "mx"), "hints": {"dimensions": [(["y"], "primary"), (["x"], "primary")]}},
        {**START, "shape": (2, 3, 4), "extents": ([7, 8], *START["extents"]), "motors": ("z", "y", "x")},
        {**START, "shape": (4, 3), "extents": START["extents"][::-1], "motors": ("x", "y")},
    ],
)
def test_the_start_document_tells_the_grid(start):
    told, given_ = Map("x", "y", "v"), Map("x", "y", "v", SHAPE, EXTENTS)

    told.begin(start)
    for event in random_points():
        told.update(event)
        given_.update(event)

    assert repr(told.result()) == repr(given_.result())
    assert repr(told.axes()) == repr(given_.axes())
    fresh = Map("x", "y", "v")
    fresh.begin(start)
    check_reduction(fresh, random_points(20))


def test_what_is_given_goes_before_what_the_start_document_tells():
    told = Map("x", "y", "v", extents=[[0.0, 1.0], [0.0, 1.0]])

    told.begin(START)

    assert told.axes()["x_map_center"].tolist() == numpy.linspace(0, 1, 4).tolist()


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({}, "Map: wanted a scan of 'y' and 'x', there is one of \\[\\]; shape and extents tell the grid"),
        ({**START, "motors": ("y", "z")}, "wanted a scan of 'y' and 'x', there is one of"),
        ({"motors": ("y", "x"), "shape": (3, 4)}, "Map: wanted extents, but the start document has None"),
        ({"motors": ("y", "x"), "extents": START["extents"]}, "Map: wanted shape, but the start document has None"),
        ({**START, "shape": (12,)}, "Map: wanted shape, but the start document has \\(12,\\)"),
        ({**START, "extents": ([0, 0], [1, 2])}, "Map: extents: wanted 3 centers, all are 0"),
        ({**START, "extents": ("a", "b")}, "Map: extents: wanted first and last"),
        ({**START, "extents": ([0, NAN], [1, 2])}, "Map: extents: wanted first and last"),
        ({**START, "shape": (3, 0)}, "Map: shape: wanted the numbers of rows and of columns"),
    ],
)
def test_a_start_document_that_tells_no_grid_is_refused_with_words(start, message):
    with pytest.raises(PipelineValueError, match=message):
        Map("x", "y", "v").begin(start)


def test_a_map_without_a_grid_takes_nothing():
    with pytest.raises(PipelineRuntimeError, match="Map knows no grid"):
        Map("x", "y", "v").update({"x": 1.0, "y": 1.0, "v": 1.0})


def test_a_mode_that_is_none_is_refused():
    with pytest.raises(PipelineValueError, match="mode is 'median'; wanted 'mean', 'sum' or 'last'"):
        Map("x", "y", "v", mode="median")


def test_last_values_are_not_merged():
    last = Map("x", "y", "v", SHAPE, EXTENTS, mode="last")

    assert last.mergeable is None
    with pytest.raises(PipelineTypeError, match="mode is 'last'"):
        last.merge(Map("x", "y", "v", SHAPE, EXTENTS, mode="last"))


@pytest.mark.parametrize("data", [{"x": "1", "y": 1.0, "v": 1.0}, {"x": 1.0, "y": 1.0, "v": [1.0, 2.0]}])
def test_what_is_no_point_is_rejected(data):
    with pytest.raises(RejectedValue, match="wanted"):
        Map("x", "y", "v", SHAPE, EXTENTS).update(data)


def test_units_and_dims_follow_the_fields():
    described = Map("x", "y", ["v", "w"]).describe({"x": {"units": "mm"}, "v": {"units": "count"}})

    assert described["v_map"] == {"units": "count", "dims": ["y_map_center", "x_map_center"]}
    assert described["w_map"] == described["v_map_n"] == {"dims": ["y_map_center", "x_map_center"]}
    assert described["x_map_center"] == {"units": "mm"}


def test_a_run_whose_start_tells_no_grid_fails_with_the_reason():
    kept = Kept()

    Pipeline([Node("map", Map("x", "y", "v"))], [kept]).replay(make_run({"x": [1.0], "y": [1.0], "v": [1.0]}))

    assert kept.stop["exit_status"] == "fail"
    assert "Map: wanted a scan of 'y' and 'x'" in kept.stop["reason"]


@pytest.mark.parametrize("snake", [False, True])
def test_a_grid_scan_of_a_run_engine_becomes_its_map_snaked_or_not(RE, snake):
    slow, fast = SynAxis(name="slow"), SynAxis(name="fast")
    det = SynGauss("det", fast, "fast", center=1, Imax=5, sigma=1)
    kept = Kept()
    with Pipeline([Node("map", Map("fast", "slow", "det"))], [kept]) as pipeline:
        RE.subscribe(pipeline)
        RE(plans.grid_scan([det], slow, -1, 1, 3, fast, 4, 0, 5, snake))

    kept.check_valid()
    row = 5 * numpy.exp(-((numpy.linspace(4, 0, 5) - 1) ** 2) / 2)
    final, axes = kept.final(), kept.events("axes")[0]
    assert numpy.allclose(final["det_map"], [row] * 3, rtol=1e-12)
    assert final["det_map_n"].tolist() == [[1] * 5] * 3
    assert axes["fast_map_center"].tolist() == [4.0, 3.0, 2.0, 1.0, 0.0]
    assert axes["slow_map_center"].tolist() == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize("theta", [0, 1])
def test_the_maps_of_i18_are_those_of_the_beamline(data_folder, theta):
    name = f"stxm_theta{theta}"
    reference = json.loads((data_folder / "maps_i18" / "reference.json").read_text())[name]
    kept = Kept()

    file = data_folder / "maps_i18" / f"{name}.jsonl"
    Pipeline([Node("map", Map("x", "y", ["stxm", "monitor"]), every=0)], [kept]).replay(read_jsonl(file))

    kept.check_valid()
    assert kept.final()["stxm_map"].tolist() == reference["map_stxm"]
    assert kept.final()["stxm_map_n"].tolist() == [[1] * 101] * 7
    assert kept.final()["monitor_map_n_outside"] == 0


@pytest.mark.parametrize(
    ("file", "x", "y", "value", "extents"),
    [
        ("33id_spec_S22_mesh", "eta", "chi", "signal", [[90.9, 91], [57, 57.1]]),
        ("lmn40_S101_hklmesh", "H", "K", "NaI", [[-0.05, -0.4], [0, 0.4]]),
    ],
)
def test_meshes_of_spec_are_mapped_by_where_they_were_measured(data_folder, file, x, y, value, extents):
    path = data_folder / "docs_spec_scans" / f"{file}.jsonl"
    kept = Kept()
    map_ = Map(x, y, value, extents=extents)

    Pipeline([Node("map", map_, every=0)], [kept]).replay(read_jsonl(path))

    kept.check_valid()
    final = kept.final()
    shape = next(doc["shape"] for _, doc in read_jsonl(path))
    in_order = columns(path, value)[0].reshape(shape)
    grid = Grid(shape, extents)
    xs, ys, values = columns(path, x, y, value)
    edges = [numpy.sort(axis.edges.values) for axis in (grid.row_axis, grid.column_axis)]
    counts = binned_statistic_2d(ys, xs, values, "count", edges).statistic
    flip = -1 if extents[0][0] > extents[0][1] else 1
    assert final[f"{value}_map_n"].tolist() == counts[::flip].tolist()
    assert final[f"{value}_map_n"].sum() + final[f"{value}_map_n_outside"] == in_order.size
    one = final[f"{value}_map_n"] == 1
    assert one.mean() > 0.9
    assert numpy.array_equal(final[f"{value}_map"][one], in_order[one])

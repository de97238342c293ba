"""Projection: numpy's sums along an axis, of any integers and floats, of rectangles and of series."""

import math

import h5py
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from kept import Kept

from pipeline import Node, Pipeline
from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions import Projection
from pipeline.testing import check_reduction, make_run

NAN = math.nan
floats = st.floats(-1e6, 1e6, width=32) | st.sampled_from([NAN, math.inf, -math.inf])
bound = st.integers(-3, 9)
pair = st.tuples(bound, bound).map(sorted)


def profile(frame, axis, statistic="sum"):
    """The oracle: by Python's exact integers, or numpy over what is finite."""
    known = numpy.isfinite(frame)
    n = known.sum(axis)
    wide = numpy.where(known, frame, 0).astype(object if frame.dtype.kind != "f" else float)
    total = wide.sum(axis)
    values = [(float(t) / (k if statistic == "mean" else 1) if k else NAN) for t, k in zip(total, n, strict=True)]
    return {"d_projection": values, "d_projection_n": n}


@given(
    st.sampled_from(["u1", "i2", "u2", "u4", "i4", "bool", "f4", "f8"]).flatmap(
        lambda dtype: arrays.arrays(dtype, (2, 5, 7), elements=floats if dtype[0] == "f" else None)
    ),
    st.sampled_from([0, 1]),
    st.sampled_from(["sum", "mean"]),
    st.none() | st.tuples(pair, pair),
)
@settings(max_examples=150, deadline=None)
def test_profiles_are_what_numpy_gives_along_the_axis(frames, axis, statistic, bounds):
    part = slice(None), slice(None)
    if bounds is not None:
        part = tuple(slice(max(a, 0), max(b, 0)) for a, b in bounds)
    if not frames[0][part].size:
        return
    region = None if bounds is None else [*bounds[0], *bounds[1]]

    check_reduction(
        Projection("d", axis, region, statistic),
        [{"d": frame} for frame in frames],
        lambda events: profile(events[-1]["d"][part], axis, statistic),
        rtol=1e-9 if frames.dtype.kind == "f" else 1e-15,
    )


def test_sums_of_integers_do_not_wrap():
    projection = Projection("d", axis=0)

    projection.update({"d": numpy.full((70000, 2), 2**32 - 1, "u4")})
    found = projection.result()["d_projection"]

    assert found.tolist() == [70000 * (2**32 - 1)] * 2
    projection.update({"d": numpy.full((70000, 2), 2**64 - 1, "u8")})
    assert projection.result()["d_projection"] == pytest.approx([70000 * 2.0**64] * 2)


def test_sums_that_no_float_holds_are_nan():
    projection = Projection("d", axis=0)

    projection.update({"d": numpy.array([[1e308, 1.0], [1e308, 2.0]])})

    assert numpy.array_equal(projection.result()["d_projection"], [NAN, 3.0], equal_nan=True)


def test_the_axis_is_counted_in_the_whole_frame():
    along_x, along_y = Projection("d", 0, [-2, 9, 2, 99]), Projection("d", 1, [1, 3, 0, 5])
    for projection in (along_x, along_y):
        projection.update({"d": numpy.ones((4, 5))})

    assert along_x.axes()["d_projection_pixel"].tolist() == [2, 3, 4]
    assert along_y.axes()["d_projection_pixel"].tolist() == [1, 2]


def test_a_series_is_averaged_summed_or_taken_frame_by_frame():
    series = numpy.random.default_rng(1).integers(0, 2**16, (3, 4, 5)).astype("u2")
    each = series.sum(1, dtype=numpy.int64)
    want = {"mean": each.mean(0), "sum": each.sum(0), "each": each}

    for frames, right in want.items():
        check_reduction(
            Projection("d", 0, frames=frames),
            [{"d": series}] * 2,
            lambda events, right=right: {"d_projection": right, "d_projection_n_frames": 3},
        )


@pytest.mark.parametrize("frames", ["mean", "sum"])
def test_a_series_of_one_frame_gives_what_the_frame_gives(frames):
    frame = numpy.random.default_rng(2).integers(0, 2**16, (4, 5)).astype("u2")
    alone, series = Projection("d", 1, frames=frames), Projection("d", 1, frames=frames)

    alone.update({"d": frame})
    series.update({"d": frame[numpy.newaxis]})

    result = series.result()
    assert result.pop("d_projection_n_frames") == 1
    assert {key: value.tobytes() for key, value in result.items()} == {
        key: value.tobytes() for key, value in alone.result().items()
    }


@pytest.mark.parametrize("value", [1.0, [1, 2], numpy.zeros((1, 1, 1, 1)), [["a"]], numpy.zeros((0, 4, 5)), None])
def test_what_is_no_frame_is_rejected_and_has_no_profile(value):
    projection = Projection("d", 0)
    projection.update({"d": numpy.ones((4, 5))})

    with pytest.raises(RejectedValue, match="wanted"):
        projection.update({"d": value})

    assert numpy.isnan(projection.result()["d_projection"]).all()


def test_a_frame_with_nothing_in_the_region_is_rejected():
    with pytest.raises(RejectedValue, match="wanted something in the region"):
        Projection("d", 0, [10, 20, 0, 5]).update({"d": numpy.ones((4, 5))})


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"axis": 2}, "wanted 0 or 1"),
        ({"statistic": "max"}, "'sum' or 'mean'"),
        ({"frames": "all"}, "frames has 'all'"),
        ({"region": [3, 1, 0, 2]}, r"region: wanted \[y0, y1, x0, x1\]"),
        ({"region": [0, 1]}, r"region: wanted \[y0, y1, x0, x1\]"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused_at_once(arguments, reason):
    with pytest.raises(PipelineValueError, match=reason):
        Projection(**{"field": "d", "axis": 0, **arguments})


def test_two_projections_of_a_frame_stand_in_one_node_with_their_axes():
    kept = Kept()
    run = make_run({"d": list(numpy.arange(24).reshape(2, 3, 4))}, data_keys={"d": {"units": "count"}})
    node = Node("profiles", Projection("d", 0, name="across"), Projection("d", 1, name="down", statistic="mean"))

    Pipeline([node], [kept]).replay(run)

    kept.check_valid()
    first = kept.events("primary")[0]
    assert first["across"].tolist() == [12, 15, 18, 21]
    assert first["down"].tolist() == [1.5, 5.5, 9.5]
    assert kept.events("axes")[0]["down_pixel"].tolist() == [0, 1, 2]
    keys = kept.named("descriptor")[-1]["data_keys"]
    assert keys["across"]["units"] == "count"
    assert keys["across"]["dims"] == ["across_pixel"]


def test_real_frames_have_the_sums_of_the_reference(data_folder):
    folder = data_folder / "frames_k11_tomo"
    reference = numpy.load(folder / "k11_reference.npz")
    with h5py.File(folder / "k11-18014-imaging.h5") as file:
        frames = file["entry/detector/detector"][:200]
    projection = Projection("imaging", 0, region=[5, 15, 8, 20])

    for i, frame in enumerate(frames):
        projection.update({"imaging": frame[numpy.newaxis]})
        assert projection.result()["imaging_projection"].sum() == reference["roi_5_15_8_20_sum"][i]

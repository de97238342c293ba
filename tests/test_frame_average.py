"""Averages of frames are those of numpy over the stack, and keep the laws."""

import math
from fractions import Fraction

import h5py
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import Kept
from real import columns

from pipeline import Node, Pipeline
from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions import FrameAverage
from pipeline.sources import read_jsonl
from pipeline.testing import check_reduction, make_run

NAN = float("nan")


def stacked(events):
    return numpy.array([numpy.asarray(e["x"], float) for e in events])


def numpy_average(events):
    stack = stacked(events)
    stack = numpy.where(numpy.isfinite(stack), stack, NAN)
    n = numpy.isfinite(stack).sum(0)
    mean = numpy.where(n > 0, numpy.nansum(stack, 0) / numpy.maximum(n, 1), NAN)
    squares = numpy.nansum((stack - mean) ** 2, 0)
    variance = numpy.where(n > 1, squares / numpy.maximum(n - 1, 1), NAN)
    return {"x_mean": mean, "x_var": variance, "x_n": n, "x_n_nan": len(events) - n}


def exact_average(events):
    columns = list(zip(*[numpy.asarray(e["x"]).tolist() for e in events], strict=True))
    n = len(events)
    means = [Fraction(sum(column), n) for column in columns]
    right = {"x_mean": [float(mean) for mean in means], "x_n": [n] * len(columns)}
    if n > 1:
        squares = [sum((v - mean) ** 2 for v in column) for column, mean in zip(columns, means, strict=True)]
        right["x_var"] = [float(square / (n - 1)) for square in squares]
    return right


@pytest.mark.parametrize("dtype", ["bool", "u1", "i2", "u2", "u4", "i4", "i8", "u8"])
def test_integers_are_averaged_exactly_at_every_prefix(dtype):
    rng = numpy.random.default_rng(1)
    frames = rng.integers(0, 2, (20, 5)) if dtype == "bool" else rng.integers(0, 100, (20, 5))

    check_reduction(FrameAverage("x"), [{"x": frame.astype(dtype)} for frame in frames], exact_average, rtol=1e-15)


@given(
    st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3), min_size=2, max_size=12),
    st.integers(0, 12),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_integers_keep_the_laws_and_do_not_depend_on_the_order(frames, split, random):
    one, other = FrameAverage("x"), FrameAverage("x")

    for frame in frames:
        one.update({"x": numpy.array(frame, "i4")})
    for frame in random.sample(frames, len(frames)):
        other.update({"x": frame})  # lists, as a file has them

    assert repr(one.result()) == repr(other.result())
    assert one.mergeable == other.mergeable == "exact"
    check_reduction(FrameAverage("x"), [{"x": frame} for frame in frames], split=split)


def test_floats_are_averaged_element_by_element_without_what_is_not_finite():
    rng = numpy.random.default_rng(2)
    stack = rng.normal(1e3, 1, (30, 4))
    stack[rng.random(stack.shape) < 0.2] = NAN
    stack[3, 1], stack[0] = math.inf, NAN

    check_reduction(FrameAverage("x"), [{"x": frame} for frame in stack], numpy_average, rtol=1e-10)


def test_the_running_mean_keeps_its_digits_where_a_sum_of_squares_has_none():
    rng = numpy.random.default_rng(3)
    stack = 1e6 + rng.normal(0, 1e-2, (500, 3))
    average = FrameAverage("x")

    average.update_page({"x": list(stack)})

    assert numpy.allclose(average.result()["x_var"], stack.var(0, ddof=1), rtol=1e-6, atol=0)


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3)), min_size=2, max_size=20), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_weights_are_those_that_numpy_takes(pairs, split):
    def weighted_mean(events):
        return {"x_mean": numpy.average(stacked(events), axis=0, weights=[e["w"] for e in events])}

    events = [{"x": [2000.0 + x, 2000.0], "w": w} for x, w in pairs]
    average = FrameAverage("x", weights="w")

    check_reduction(FrameAverage("x", weights="w", variance=False), events, weighted_mean, split=split)
    average.update_page({key: [event[key] for event in events] for key in ("x", "w")})

    covariance = numpy.cov(stacked(events).T, aweights=[w for _, w in pairs])
    assert numpy.allclose(average.result()["x_var"], numpy.diag(covariance), rtol=1e-6, atol=1e-6)


def test_equal_values_have_no_variance_whatever_their_weights():
    average = FrameAverage("x", weights="w")

    average.update_page({"x": [[2000.0], [2000.0]], "w": [525.1500504607186, 0.0625]})

    assert average.result()["x_var"] == [0.0]


def test_equal_weights_give_the_variance_without_weights():
    rng = numpy.random.default_rng(4)
    stack = rng.normal(5, 2, (20, 3))

    def oracle(events):
        return {key: value for key, value in numpy_average(events).items() if key in ("x_mean", "x_var", "x_n")}

    check_reduction(FrameAverage("x", weights="w"), [{"x": x, "w": 0.25} for x in stack], oracle, rtol=1e-10)


def test_a_frame_without_a_weight_is_left_out_and_counted():
    average = FrameAverage("x", weights="w")

    for weight in (0.0, -1.0, NAN, math.inf, None, 2.0):
        average.update({"x": [1.0, 2.0], "w": weight})

    result = average.result()
    assert result["x_n"].tolist() == [1, 1]
    assert result["x_n_unweighted"] == 5
    assert result["x_mean"].tolist() == [1.0, 2.0]


def test_groups_are_averaged_apart_and_stand_along_an_axis():
    rng = numpy.random.default_rng(5)
    frames, keys = rng.integers(0, 1000, (30, 4)), rng.integers(0, 4, 30)
    events = [{"x": frame, "key": int(key)} for frame, key in zip(frames, keys, strict=True)]

    def oracle(events):
        kept = [[e for e in events if e["key"] == key] for key in (2, 0, 7)]
        empty = {
            "x_mean": numpy.full(4, NAN),
            "x_var": numpy.full(4, NAN),
            "x_n": numpy.zeros(4),
            "x_n_nan": numpy.zeros(4),
        }
        parts = [numpy_average(part) if part else empty for part in kept]
        return {name: numpy.stack([part[name] for part in parts]) for name in empty} | {
            "x_n_ungrouped": len(events) - sum(map(len, kept))
        }

    check_reduction(FrameAverage("x", group_by={"key": [2, 0, 7]}), events, oracle)
    assert FrameAverage("x", group_by={"key": [2, 0, 7]}).axes()["key_group"].tolist() == [2, 0, 7]


def test_groups_may_be_text_and_what_is_of_none_is_counted():
    average = FrameAverage("x", group_by={"kind": ["dark", "flat"]})

    for kind in ("dark", "flat", "sample", None, numpy.str_("dark")):
        average.update({"x": [1, 2], "kind": kind})
    with pytest.raises(RejectedValue, match="kind: wanted one value"):
        average.update({"x": [1, 2], "kind": ["dark"]})

    assert average.result()["x_n"].tolist() == [[2, 2], [1, 1]]
    assert average.result()["x_n_ungrouped"] == 2


@pytest.mark.parametrize(
    "group_by", ["key", {}, {"key": []}, {"key": "ab"}, {"a": [1], "b": [2]}, {"key": [1, 1]}, {"key": [1, "a"]}]
)
def test_groups_that_are_not_told_beforehand_are_refused(group_by):
    with pytest.raises(PipelineValueError, match="wanted a field and the values it has"):
        FrameAverage("x", group_by=group_by)


def test_from_the_first_wider_integer_or_float_on_it_goes_by_floats_and_loses_nothing():
    frames = [
        numpy.array([1, 2]),
        numpy.array([3, 6]),
        numpy.array([2**40, 4]),
        numpy.array([0.5, 1.5]),
        numpy.array([7, 7], "u2"),
    ]

    check_reduction(FrameAverage("x"), [{"x": frame} for frame in frames], numpy_average, rtol=1e-12)
    check_reduction(FrameAverage("x"), [{"x": frame} for frame in frames], numpy_average, rtol=1e-12, split=4)
    check_reduction(FrameAverage("x"), [{"x": frame} for frame in frames[::-1]], numpy_average, rtol=1e-12, split=4)


@pytest.mark.parametrize(
    "value", [1.0, "text", ["a", "b"], [[1.0], [1.0, 2.0]], [1.0, 2.0, 3.0], [[1.0, 2.0]], [1j, 2j]]
)
def test_what_is_no_frame_like_the_others_is_rejected_and_changes_nothing(value):
    average = FrameAverage("x")
    average.update({"x": [1, 2]})
    before = repr(average.state())

    with pytest.raises(RejectedValue, match="wanted"):
        average.update({"x": value})

    assert repr(average.state()) == before


def test_values_too_large_to_average_are_nan_and_never_infinite():
    average = FrameAverage("x")

    for value in (1.7e308, -1.7e308, 1.7e308):
        average.update({"x": [value, 1.0]})

    assert not numpy.isinf(average.result()["x_mean"]).any()
    assert not numpy.isinf(average.result()["x_var"]).any()
    assert average.result()["x_mean"][1] == 1.0


def test_weights_too_large_to_square_give_no_variance_and_no_error():
    average = FrameAverage("x", weights="w")

    for value in (1.0, 2.0, NAN):
        average.update({"x": [value, 1.0], "w": 1e200})

    assert average.result()["x_mean"].tolist() == [1.5, 1.0]
    assert numpy.isnan(average.result()["x_var"]).all()


def test_units_and_dims_follow_the_field():
    keys = {"x": {"units": "count", "dims": ["channel"]}}
    grouped, bare = FrameAverage("x", group_by={"key": [0, 1]}), FrameAverage("x", group_by={"key": [0, 1]})
    for average in (grouped, bare):
        average.update({"x": [1, 2], "key": 0})

    assert FrameAverage("x").describe(keys)["x_mean"] == {"units": "count", "dims": ["channel"]}
    assert FrameAverage("x").describe(keys)["x_var"] == {"units": "(count)^2", "dims": ["channel"]}
    assert grouped.describe(keys)["x_n"] == {"dims": ["key_group", "channel"]}
    assert bare.describe({})["x_n"] == {"dims": ["key_group", "x_dim_0"]}


def test_without_variance_there_is_none():
    average = FrameAverage("x", variance=False)

    average.update({"x": [1, 2]})

    assert sorted(average.result()) == ["x_mean", "x_n", "x_n_nan"]


def test_a_node_gives_the_groups_and_their_axis():
    kept = Kept()
    run = make_run({"x": list(numpy.arange(8.0).reshape(4, 2)), "kind": ["dark", "flat", "flat", "dark"]})

    Pipeline([Node("average", FrameAverage("x", group_by={"kind": ["flat", "dark"]}))], [kept]).replay(run)

    kept.check_valid()
    assert kept.final()["x_mean"].tolist() == [[3.0, 4.0], [3.0, 4.0]]
    assert list(kept.events("axes")[0]["kind_group"]) == ["flat", "dark"]


def test_real_spectra_are_averaged_as_numpy_does(data_folder):
    file = data_folder / "facility_streams" / "xspress3mini-dump20.jsonl"
    reference = numpy.load(file.with_name("xspress3mini-dump20_reference.npz"))
    kept = Kept()

    Pipeline([Node("average", FrameAverage("xspress3_spectra"), every=0)], [kept]).replay(read_jsonl(file))

    (stack,) = columns(file, "xspress3_spectra")
    kept.check_valid()
    final = kept.final()
    assert numpy.array_equal(final["xspress3_spectra_mean"], reference["sum_spectrum"] / 22)
    assert numpy.allclose(final["xspress3_spectra_var"], stack.var(0, ddof=1), rtol=1e-13, atol=0)
    descriptor = kept.named("descriptor")[-1]
    assert descriptor["data_keys"]["xspress3_spectra_mean"]["dims"] == ["element", "channel"]


def test_real_diffraction_patterns_are_averaged_as_numpy_does(data_folder):
    file = data_folder / "xrd_ramp" / "nacl_crcl3_public.jsonl"
    reference = numpy.load(file.with_name("reference.npz"))
    kept = Kept()

    Pipeline([Node("average", FrameAverage("chi_I"), every=0)], [kept]).replay(read_jsonl(file))

    final = kept.final()
    assert numpy.allclose(final["chi_I_mean"], reference["mean"], rtol=1e-13, atol=0)
    assert numpy.allclose(numpy.sqrt(final["chi_I_var"]), reference["std_ddof1"], rtol=1e-12, atol=0)


def big_frames(n, dtype="u2", scale=100):
    """Frames of a detector, large enough to be summed narrowly."""
    rng = numpy.random.default_rng(6)
    return [rng.poisson(scale, (130, 131)).astype(dtype) for _ in range(n)]


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "i4", "f4"])
def test_frames_keep_the_laws(dtype):
    frames = [frame - (5 if dtype == "i4" else 0) for frame in big_frames(7, dtype)]
    if dtype == "f4":
        frames[2][3, :] = NAN

    check_reduction(FrameAverage("x"), [{"x": frame} for frame in frames], numpy_average, rtol=1e-12)


def test_frames_with_weights_keep_the_laws():
    events = [{"x": frame, "w": 1.0 + i} for i, frame in enumerate(big_frames(5))]

    def oracle(events):
        mean = numpy.average(stacked(events), axis=0, weights=[event["w"] for event in events])
        return {"x_mean": mean, "x_n": numpy.full((130, 131), len(events))}

    check_reduction(FrameAverage("x", weights="w"), events, oracle)


@pytest.mark.parametrize("frames", [None, "each", "mean", "sum"])
def test_a_frame_that_comes_as_a_series_of_one_is_that_frame(frames):
    stack = big_frames(3)
    one, other = FrameAverage("x"), FrameAverage("x", frames=frames)

    for frame in stack:
        one.update({"x": frame})
        other.update({"x": frame[None]})

    result = other.result()
    assert result.pop("x_n_frames") == 3
    assert repr(result) == repr(one.result())
    assert other.mergeable == "exact"


def test_an_array_of_three_axes_is_otherwise_averaged_as_it_is():
    average = FrameAverage("x")

    average.update({"x": numpy.ones((22, 2, 4), "u2")})

    assert average.result()["x_mean"].shape == (22, 2, 4)
    assert "x_n_frames" not in average.result()


@pytest.mark.parametrize("shape", [(1, 4), (4,), (1, 1, 1, 4)])
def test_an_axis_of_length_one_is_kept_elsewhere(shape):
    average = FrameAverage("x")

    average.update({"x": numpy.ones(shape, "u2")})

    assert average.result()["x_mean"].shape == shape


@pytest.mark.parametrize("dtype", ["u2", "f4"])
@pytest.mark.parametrize("n", [[3, 3, 3], [1, 4, 2]])
def test_series_are_taken_in_frame_by_frame_or_by_their_mean_or_sum(dtype, n):
    rng = numpy.random.default_rng(7)
    events = [{"x": rng.integers(0, 2**16, (k, 5, 4)).astype(dtype)} for k in n]

    def each(events):
        frames = [{"x": frame} for event in events for frame in event["x"]]
        return numpy_average(frames) | {"x_n_frames": len(frames)}

    def by(what):
        def oracle(events):
            frames = [{"x": getattr(event["x"].astype(float), what)(0)} for event in events]
            return numpy_average(frames) | {"x_n_frames": sum(len(event["x"]) for event in events)}

        return oracle

    check_reduction(FrameAverage("x", frames="each"), events, each, rtol=1e-10)
    check_reduction(FrameAverage("x", frames="mean"), events, by("mean"), rtol=1e-10)
    check_reduction(FrameAverage("x", frames="sum"), events, by("sum"), rtol=1e-10)


def test_series_of_integers_are_summed_exactly():
    average = FrameAverage("x", frames="sum")

    for _ in range(2):
        average.update({"x": numpy.full((1000, 2), 65535, "u2")})

    assert average.mergeable == "exact"
    assert average.result()["x_mean"].tolist() == [65535000.0] * 2


def test_a_series_belongs_to_one_group_and_has_one_weight():
    average = FrameAverage("x", frames="each", group_by={"key": [0, 1]}, weights="w")

    average.update({"x": [[1.0, 2.0], [3.0, 4.0]], "key": 1, "w": 2.0})
    average.update({"x": [[1.0, 2.0], [3.0, 4.0]], "key": 5, "w": 2.0})
    average.update({"x": [[1.0, 2.0], [3.0, 4.0]], "key": 1, "w": 0.0})

    result = average.result()
    assert result["x_mean"][1].tolist() == [2.0, 3.0]
    assert result["x_n"].tolist() == [[0, 0], [2, 2]]
    assert (result["x_n_frames"], result["x_n_ungrouped"], result["x_n_unweighted"]) == (2, 1, 1)


@pytest.mark.parametrize("frames", ["each", "mean", "sum"])
@pytest.mark.parametrize("value", [numpy.zeros((0, 2)), numpy.zeros((2, 3)), numpy.zeros(2), 1.0, "text"])
def test_what_is_no_such_series_is_rejected_and_changes_nothing(frames, value):
    average = FrameAverage("x", frames=frames)
    average.update({"x": [[1, 2], [3, 4]]})
    before = repr(average.state())

    with pytest.raises(RejectedValue, match="wanted"):
        average.update({"x": value})

    assert repr(average.state()) == before


def test_another_way_to_take_series_is_refused():
    with pytest.raises(PipelineValueError, match="frames has 'all'"):
        FrameAverage("x", frames="all")


def test_dims_are_those_of_one_frame():
    keys = {"x": {"dims": ["frame", "y", "x"], "shape": [1, 2, 2]}}
    average = FrameAverage("x")

    average.update({"x": numpy.ones((1, 2, 2), "u2")})

    assert average.describe(keys)["x_mean"] == {"dims": ["y", "x"]}


def test_a_frame_may_be_read_only_and_is_not_kept():
    frame = big_frames(1)[0]
    kept = frame.copy()
    frame.setflags(write=False)
    average = FrameAverage("x")
    average.update({"x": frame})
    average.update({"x": frame})

    frame.setflags(write=True)
    frame[:] = 0
    average.result()["x_mean"][:] = 0

    assert numpy.array_equal(average.result()["x_mean"], kept)


def test_real_tomography_frames_are_averaged_by_their_kind_as_the_reference_says(data_folder):
    folder = data_folder / "frames_k11_tomo"
    reference = numpy.load(folder / "k11_reference.npz")
    keys = h5_array(folder / "k11-18014-image_key.h5", "entry/image_key/image_key")
    stack = h5_array(folder / "k11-18014-imaging.h5", "entry/detector/detector")
    average = FrameAverage("cam", group_by={"key": [2, 1, 0]})

    for frame, key in zip(stack, keys, strict=True):
        average.update({"cam": frame[None], "key": int(key)})

    result = average.result()
    for i, kind in enumerate(("dark", "flat", "proj")):
        assert numpy.allclose(result["cam_mean"][i], reference[f"{kind}_mean"], rtol=1e-14, atol=0)
        assert numpy.allclose(result["cam_var"][i], stack[keys == 2 - i].var(0, ddof=1), rtol=1e-12, atol=0)


def test_frames_with_gaps_of_minus_one_and_hot_pixels_are_averaged_as_numpy_does(data_folder):
    stack = h5_array(data_folder / "frames_synth_agbh_pilatus300k" / "agbh_20frames.h5", "entry/data/data")
    assert (stack.min(), stack.max()) == (-2, 2**20 - 1)
    average = FrameAverage("cam")

    for frame in stack:
        average.update({"cam": frame})

    assert numpy.array_equal(average.result()["cam_mean"], stack.sum(0) / 20)
    assert numpy.allclose(average.result()["cam_var"], stack.var(0, ddof=1), rtol=1e-12, atol=0)


def h5_array(path, name):
    with h5py.File(path) as file:
        return file[name][()]

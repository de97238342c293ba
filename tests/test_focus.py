"""Focus: scipy's convolutions, squared and averaged; falls as a frame is blurred; the same bits with numba or without."""

import math

import h5py
import numpy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from kept import Kept
from scipy import ndimage

from pipeline import Node, Pipeline
from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions import Focus, focus_kernels
from pipeline.reductions.compiled import NO_NUMBA
from pipeline.testing import check_reduction, make_run

NAN = math.nan
MEASURES = ("laplacian", "tenengrad", "normalized_variance")
SMOOTH, STEEP = numpy.array([1, 2, 1]), numpy.array([1, 0, -1])


@pytest.fixture(params=["numba", "numpy"])
def with_or_without(request, monkeypatch):
    """Kernels for frames of any size, or none at all."""
    monkeypatch.setattr(focus_kernels, "WORTH", 0)
    if request.param == "numpy":
        monkeypatch.setenv(NO_NUMBA, "1")
    else:
        pytest.importorskip("numba", reason="numba is not here")


def by_convolution(frame, measure):
    """The oracle: scipy's convolutions in float64, where all that they take in is finite."""
    wide = frame.astype(float)
    known = numpy.isfinite(wide)
    if measure == "normalized_variance":
        values = wide[known]
        return (values.var() / values.mean() if values.size and values.mean() > 0 else NAN), values.size
    inner = slice(1, -1), slice(1, -1)
    filled = numpy.where(known, wide, 0.0)
    if measure == "laplacian":
        cross = ndimage.generate_binary_structure(2, 1)
        squares = ndimage.laplace(filled)[inner] ** 2
    else:
        cross = numpy.ones((3, 3), bool)
        cross[1, 1] = False
        squares = (
            ndimage.convolve(filled, numpy.outer(SMOOTH, STEEP))[inner] ** 2
            + ndimage.convolve(filled, numpy.outer(STEEP, SMOOTH))[inner] ** 2
        )
    taken = ~ndimage.binary_dilation(~known, cross)[inner] if measure == "laplacian" else _all_around(known)
    return (squares[taken].mean() if taken.any() else NAN), int(taken.sum())


def _all_around(known):
    """Where the eight neighbours are finite; Sobel's gradients leave out the middle."""
    return numpy.all(
        [
            known[1 + i : known.shape[0] - 1 + i, 1 + j : known.shape[1] - 1 + j]
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
            if i or j
        ],
        axis=0,
    )


def oracle(measure, part=(slice(None), slice(None))):
    def of(events):
        found, n = by_convolution(events[-1]["d"][part], measure)
        return {"d_focus": found, "d_focus_n": n}

    return of


@pytest.mark.usefixtures("with_or_without")
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("dtype", ["bool", "u1", "i2", "u2", "i4", "u4", "u8", "f4", "f8"])
def test_a_measure_is_what_scipys_convolutions_give(measure, dtype):
    rng = numpy.random.default_rng(1)
    frames = rng.integers(0, 2 if dtype == "bool" else 120, (4, 40, 23)).astype(dtype)

    check_reduction(Focus("d", measure), [{"d": frame} for frame in frames], oracle(measure), rtol=1e-12)


@pytest.mark.usefixtures("with_or_without")
@pytest.mark.parametrize("measure", MEASURES)
def test_what_is_not_finite_is_left_out_with_what_it_touches(measure):
    rng = numpy.random.default_rng(2)
    frames = rng.normal(100, 5, (4, 40, 23))
    frames[rng.random(frames.shape) < 0.03] = NAN
    frames[1, 7, 8], frames[1, 9, 9], frames[2] = math.inf, -math.inf, NAN

    check_reduction(Focus("d", measure), [{"d": frame} for frame in frames], oracle(measure), rtol=1e-10)


def one_column():
    frame = numpy.zeros((18, 3), "u4")
    frame[0, 1], frame[2, 0] = 379625066, 7
    return frame


@pytest.mark.parametrize("measure", ["laplacian", "tenengrad"])
@example(one_column())
@given(
    st.sampled_from(["u1", "i1", "i2", "u2", "u4", "i8", "u8", "f2", "f4", "f8"]).flatmap(
        lambda dtype: arrays.arrays(dtype, st.tuples(st.integers(1, 40), st.integers(1, 9)))
    )
)
@settings(max_examples=80, deadline=None)
def test_kernels_and_their_twins_give_the_same_bits(measure, frame):
    pytest.importorskip("numba", reason="numba is not here")
    found = []

    for worth in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(focus_kernels, "WORTH", worth)
            focus = Focus("d", measure)
            focus.update({"d": frame[::-1]})
            found.append(repr(focus.result()))

    assert found[0] == found[1]


@pytest.mark.parametrize("measure", MEASURES)
def test_it_falls_as_a_frame_is_blurred(measure):
    scene = numpy.random.default_rng(3).integers(0, 2, (60, 80)).repeat(4, 0).repeat(4, 1) * 900.0 + 100
    found = []

    for width in (0.5, 1, 2, 4, 8):
        focus = Focus("d", measure)
        focus.update({"d": ndimage.gaussian_filter(scene, width).astype("u2")})
        found.append(focus.result()["d_focus"])

    assert found == sorted(found, reverse=True)
    assert found[0] > 2 * found[-1]


@pytest.mark.parametrize("measure", MEASURES)
def test_the_largest_integers_do_not_wrap(measure):
    for dtype in ("u1", "u2", "u4"):
        largest = numpy.iinfo(dtype).max
        frame = numpy.zeros((300, 300), dtype)
        frame[::2, ::2] = largest

        focus = Focus("d", measure)
        focus.update({"d": frame})

        assert focus.result()["d_focus"] == pytest.approx(by_convolution(frame, measure)[0], rel=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_region_is_measured_by_itself(measure):
    frames = numpy.random.default_rng(4).integers(0, 99, (3, 20, 30)).astype("u2")

    check_reduction(
        Focus("d", measure, region=[3, 18, -5, 12]),
        [{"d": frame} for frame in frames],
        oracle(measure, (slice(3, 18), slice(0, 12))),
    )


@pytest.mark.parametrize("measure", MEASURES)
def test_of_a_series_the_mean_or_each_frame_is_measured(measure):
    series = numpy.random.default_rng(5).integers(0, 99, (3, 20, 30)).astype("u2")
    each = [by_convolution(frame, measure)[0] for frame in series]
    want = {
        "mean": by_convolution(series.mean(0), measure)[0],
        "sum": by_convolution(series.sum(0), measure)[0],
        "each": each,
    }

    for frames, right in want.items():
        check_reduction(
            Focus("d", measure, frames=frames),
            [{"d": series}] * 2,
            lambda events, right=right: {"d_focus": right, "d_focus_n_frames": 3},
        )


@pytest.mark.parametrize("measure", MEASURES)
def test_a_series_of_one_frame_gives_what_the_frame_gives(measure):
    frame = numpy.random.default_rng(6).integers(0, 2**16, (20, 30)).astype("u2")
    alone, series = Focus("d", measure), Focus("d", measure)

    alone.update({"d": frame})
    series.update({"d": frame[numpy.newaxis]})

    assert series.result() == {**alone.result(), "d_focus_n_frames": 1}


@pytest.mark.parametrize("shape", [(1, 1), (2, 50), (50, 2)])
def test_a_frame_without_an_inside_has_no_gradient(shape):
    for measure in ("laplacian", "tenengrad"):
        focus = Focus("d", measure)

        focus.update({"d": numpy.ones(shape)})

        assert math.isnan(focus.result()["d_focus"])
        assert focus.result()["d_focus_n"] == 0


@pytest.mark.parametrize("frame", [numpy.zeros((9, 9)), numpy.full((9, 9), -2.0), numpy.full((9, 9), NAN)])
def test_a_mean_that_is_not_positive_normalizes_nothing(frame):
    focus = Focus("d", "normalized_variance")

    focus.update({"d": frame})

    assert math.isnan(focus.result()["d_focus"])


def test_values_too_large_to_square_give_no_measure():
    for measure in MEASURES:
        focus = Focus("d", measure)

        focus.update({"d": numpy.where(numpy.eye(9) > 0, 1e300, 0.0)})

        assert not math.isinf(focus.result()["d_focus"])


def test_two_measures_stand_in_one_node():
    kept = Kept()
    frames = list(numpy.random.default_rng(7).integers(0, 99, (3, 9, 9)))
    node = Node("focus", Focus("d"), Focus("d", "tenengrad", name="gradient"))

    Pipeline([node], [kept]).replay(make_run({"d": frames}, data_keys={"d": {"units": "count"}}))

    kept.check_valid()
    assert [row["gradient"] for row in kept.events("primary")] == [by_convolution(f, "tenengrad")[0] for f in frames]
    assert kept.named("descriptor")[-1]["data_keys"]["d_focus"]["units"] == "(count)^2"


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(PipelineValueError, match="did you mean 'laplacian'"):
        Focus("d", "laplace")
    with pytest.raises(RejectedValue, match="wanted a frame"):
        Focus("d").update({"d": [1, 2, 3]})
    assert Focus("d", "normalized_variance").describe({"d": {"units": "V"}}) == {"d_focus": {"units": "V"}}


@pytest.mark.parametrize("measure", MEASURES)
def test_real_frames_have_the_measures_of_scipy(data_folder, measure):
    with h5py.File(data_folder / "frames_k11_tomo" / "k11-18014-imaging.h5") as file:
        frames = file["entry/detector/detector"][:300:10]

    check_reduction(Focus("d", measure), [{"d": frame} for frame in frames], oracle(measure), rtol=1e-12)

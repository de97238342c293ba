"""Correct: the formula in float64, from raw frames of any dtype; the kernel's bits are numpy's; real flats and darks."""

import copy
import pickle

import h5py
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.errors import PipelineRuntimeError, PipelineValueError, RejectedValue
from pipeline.reductions import Correct, FrameAverage, Projection, Quality, Regions, Sinogram
from pipeline.reductions.compiled import NO_NUMBA, WORTH
from pipeline.reductions.corrected import Corrected, Correction, correction_of
from pipeline.testing import check_reduction

NAN = numpy.nan
SHAPE = (4, 5)
frames = st.sampled_from(["u1", "i2", "u2", "u4", "i4", "f4", "f8"]).flatmap(
    lambda dtype: arrays.arrays(
        dtype, (3, *SHAPE), elements=st.floats(-1e6, 1e6, width=32) | st.just(NAN) if dtype[0] == "f" else None
    )
)
images = arrays.arrays("f8", SHAPE, elements=st.floats(-100, 1000))


@pytest.fixture
def saved(tmp_path):
    """Saves an array, and returns its path."""

    def save(name, array):
        numpy.save(tmp_path / f"{name}.npy", array)
        return str(tmp_path / f"{name}.npy")

    return save


def formula(raw, dark=0.0, flat=None, mask=None, pedestal=0.0, mode="subtract", clip=False):
    """The oracle: in float64, and how far float32 may be from it."""
    raw = raw.astype(float)
    value, near = raw - dark - pedestal, abs(raw) + abs(dark + pedestal)
    if flat is not None:
        light = flat if mode == "subtract" else flat - dark - pedestal
        light = numpy.where(light > 1e-18, light, NAN)
        value, near = value / light, near / light
    if mask is not None:
        value = numpy.where(mask, NAN, value)
    return numpy.maximum(value, 0) if clip else value, 4e-7 * near


def corrected(reduction, raw):
    reduction.update({"det": raw})
    return numpy.asarray(reduction.feed()["det_corrected"])


def assert_near(image, expected, near):
    assert image.dtype == numpy.float32
    assert (numpy.isnan(image) == numpy.isnan(expected)).all()
    known = ~numpy.isnan(expected)
    assert (abs(image[known] - expected[known]) <= near[known] + 1e-30).all()


# the formula ---------------------------------------------------------------------------------------------------------


@given(frames, images, images, arrays.arrays("?", SHAPE), st.sampled_from([0.0, 100.5]), st.booleans())
@settings(max_examples=80, deadline=None)
def test_the_image_is_that_of_the_formula(raw, dark, flat, mask, pedestal, clip):
    for parts in ({"dark": dark}, {"dark": dark, "flat": flat}, {"flat": flat, "mask": mask, "mode": "transmission"}):
        options = {"pedestal": pedestal, "clip": clip}
        correction = correction_of(SHAPE, **parts, **options)
        for frame in raw:
            assert_near(numpy.asarray(Corrected(frame, correction)), *formula(frame, **parts, **options))


def test_nothing_is_subtracted_in_unsigned_integers(saved):
    correct = Correct("det", dark=saved("dark", numpy.full(SHAPE, 7, "u2")))

    assert (corrected(correct, numpy.full(SHAPE, 5, "u2")) == -2).all()


def test_a_dark_field_stays_as_dark_as_it_is_but_where_it_is_clipped(saved):
    rng = numpy.random.default_rng(0)
    dark = saved("dark", numpy.full((200, 200), 100.0))
    raw = numpy.rint(rng.normal(100, 3, (200, 200))).astype("u2")

    assert corrected(Correct("det", dark), raw).mean() == pytest.approx(0, abs=0.05)
    assert corrected(Correct("det", dark, clip=True), raw).mean() == pytest.approx(1.2, abs=0.05)


def test_an_absorbance_is_minus_the_logarithm_where_there_is_one(saved):
    dark, flat = numpy.full((1, 5), 10.0), numpy.array([[110.0, 110.0, 110.0, 10.0, 5.0]])
    absorbance = Correct("det", saved("dark", dark), saved("flat", flat), mode="absorbance")

    image = corrected(absorbance, numpy.array([[60, 10, 5, 60, 60]], "u2"))

    assert image[0, 0] == pytest.approx(numpy.log(2), rel=1e-6)
    assert numpy.isnan(image[0, 1:]).all()
    assert absorbance.result()["det_n_bad"] == 2


def test_a_flat_that_is_a_response_divides_what_is_left():
    response = numpy.array([[0.5, 2.0, 0.0]])

    image = numpy.asarray(
        Corrected(numpy.array([[14, 14, 14]], "u2"), correction_of((1, 3), 10.0 * response, response))
    )

    assert image.tolist()[0][:2] == [18.0, -3.0]
    assert numpy.isnan(image[0, 2])


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "u2", ">u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", ">f4"])
@pytest.mark.parametrize("has_flat", [False, True])
def test_the_kernel_gives_the_bits_of_its_twin(dtype, has_flat, monkeypatch):
    rng = numpy.random.default_rng(1)
    shape = (3, 7, WORTH // 8 + 5)
    raw = (rng.integers(0, 2, shape) if dtype == "?" else rng.normal(60, 40, shape).clip(0, 120)).astype(dtype)
    if numpy.dtype(dtype).kind == "f":
        raw[0, 0, :4] = NAN, numpy.inf, -numpy.inf, 3
    dark = rng.normal(10, 1, shape[1:])
    dark[1, 1] = NAN
    correction = correction_of(shape[1:], dark, rng.normal(1, 0.2, shape[1:]) if has_flat else None)

    by_kernel = numpy.asarray(Corrected(raw, correction))
    monkeypatch.setenv(NO_NUMBA, "1")
    by_twin = numpy.asarray(Corrected(raw, correction))

    assert by_kernel.tobytes() == by_twin.tobytes()
    assert not numpy.isinf(by_kernel).any()


def test_a_strided_frame_is_corrected_as_a_copy_of_it():
    raw = numpy.arange(200, dtype="u2").reshape(10, 20)[::-2, ::3]
    correction = correction_of(raw.shape, numpy.full(raw.shape, 2.0))

    assert (numpy.asarray(Corrected(raw, correction)) == raw - 2.0).all()


# as an array ---------------------------------------------------------------------------------------------------------


def test_it_is_an_array_as_numpy_wants_one():
    lazy = Corrected(numpy.array([[5, 7]], "u2"), Correction(numpy.zeros((1, 2), "f4")))

    assert (lazy.shape, lazy.ndim, len(lazy), lazy.dtype) == ((1, 2), 2, 1, numpy.float32)
    assert numpy.asarray(lazy) is numpy.asarray(lazy)
    assert not numpy.asarray(lazy).flags.writeable
    assert numpy.array(lazy).flags.writeable
    assert numpy.array(lazy).base is None
    assert numpy.asarray(lazy, "f8").tolist() == [[5.0, 7.0]]
    assert numpy.asarray(lazy, copy=False).dtype == numpy.float32
    with pytest.raises(ValueError, match="without a copy"):
        numpy.asarray(lazy, "f8", copy=False)
    assert (lazy.shape, (numpy.asarray(lazy) + 1).tolist()) == ((1, 2), [[6.0, 8.0]])


def test_images_share_one_array_and_an_old_one_is_worked_out_anew(saved):
    correct = Correct("det", saved("dark", numpy.ones(SHAPE)))
    correct.update({"det": numpy.full(SHAPE, 3, "u2")})
    old = correct.feed()["det_corrected"]
    first = numpy.asarray(old)
    correct.update({"det": numpy.full(SHAPE, 5, "u2")})
    second = numpy.asarray(correct.feed()["det_corrected"])

    assert numpy.shares_memory(first, second)
    assert (second == 4).all()
    assert (numpy.asarray(old) == 2).all()
    assert (numpy.asarray(correct.feed()["det_corrected"]) == 4).all()


def test_what_is_emitted_is_a_copy(saved):
    correct = Correct("det", saved("dark", numpy.ones(SHAPE)), emit=True)
    kept = []
    for value in (3, 5):
        correct.update({"det": numpy.full(SHAPE, value, "u2")})
        kept.append(correct.result()["det_corrected"])

    assert [image[0, 0] for image in kept] == [2.0, 4.0]
    assert not numpy.shares_memory(kept[1], numpy.asarray(correct.feed()["det_corrected"]))


def test_the_reductions_after_it_read_its_image(saved):
    dark = numpy.full(SHAPE, 1.0)
    correct = Correct("det", saved("dark", dark), mask=saved("mask", numpy.eye(*SHAPE, dtype="u1")))
    average, regions = FrameAverage("det_corrected"), Regions("det_corrected", {"a": [0, 2, 0, 2]})
    quality = Quality("det_corrected")
    for value in (3, 5):
        data = {"det": numpy.full(SHAPE, value, "u2")}
        correct.update(data)
        data |= correct.feed()
        for each in (average, regions, quality):
            each.update(data)

    expected = numpy.where(numpy.eye(*SHAPE), NAN, 3.0)
    assert numpy.array_equal(average.result()["det_corrected_mean"], expected, equal_nan=True)
    assert regions.result()["det_corrected_a_sum"] == 8.0
    assert regions.result()["det_corrected_a_n"] == 2
    assert quality.result()["det_corrected_n_nan"] == 4


def kinds_of_corrections():
    rng = numpy.random.default_rng(6)
    dark, flat, mask = rng.normal(10, 1, (8, 9)), rng.normal(90, 9, (8, 9)), rng.random((8, 9)) < 0.1
    for options in ({}, {"clip": True}, {"flat": flat}, {"flat": flat, "mode": "absorbance"}, {"mask": mask}):
        yield correction_of((8, 9), dark, **options)


@pytest.mark.parametrize("shape", [(8, 9), (3, 8, 9)])
@pytest.mark.parametrize("where", [(slice(2, 4), slice(None)), (slice(1, 7, 2), slice(-3, None)), (slice(0), slice(1))])
def test_a_part_is_that_of_the_image(shape, where):
    raw = numpy.random.default_rng(5).poisson(50, shape).astype("u2")
    for correction in kinds_of_corrections():
        image, part = numpy.asarray(Corrected(raw, correction)), Corrected(raw, correction)[..., *where]

        assert part.dtype == numpy.float32
        assert part.tobytes() == image[..., *where].tobytes()


@pytest.mark.parametrize("where", [2, (0, 1), (..., 3), slice(1, 2), (..., [0, 2], slice(None))])
def test_any_part_that_numpy_knows_is_that_of_the_image(where):
    raw = numpy.arange(72, dtype="u2").reshape(8, 9)

    lazy = Corrected(raw, correction_of((8, 9), numpy.ones((8, 9))))

    assert lazy[where].tolist() == (raw - 1.0)[where].tolist()


def test_a_part_of_a_series_of_spectra_is_that_of_their_image():
    raw = numpy.arange(24, dtype="u2").reshape(4, 6)

    spectra = Corrected(raw, correction_of((6,), numpy.ones(6)))

    assert (spectra[..., 1:2, :3] == raw[1:2, :3] - 1.0).all()


def test_of_a_row_or_a_box_no_more_is_worked_out(saved, monkeypatch):
    correct = Correct("det", saved("dark", numpy.ones((40, 50))))
    row, box = Sinogram("det_corrected", row=7, angle="angle", n=2), Projection("det_corrected", 0, region=[3, 5, 0, 4])
    sizes, apply = [], Correction.apply
    monkeypatch.setattr(Correction, "apply", lambda self, raw, out: (sizes.append(out.size), apply(self, raw, out)))
    data = {"det": numpy.full((40, 50), 3, "u2"), "angle": 0.0}

    correct.update(data)
    data |= correct.feed()
    row.update(data)
    box.update(data)

    assert sizes == [50, 8]
    assert row.result()["det_corrected_sinogram"][0].tolist() == [2.0] * 50
    assert numpy.asarray(data["det_corrected"]).sum() == 2.0 * 40 * 50
    assert sizes == [50, 8, 2000]


# references ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("emit", [False, True])
def test_it_keeps_the_laws(emit, saved):
    rng = numpy.random.default_rng(2)
    dark = rng.normal(100, 3, SHAPE)
    events = [{"det": rng.poisson(120, SHAPE).astype("u2")} for _ in range(4)]

    def oracle(es):
        image = {"det_corrected": (es[-1]["det"] - dark.astype("f4")).astype("f4")} if emit else {}
        return {"det_is_dark_subtracted": True, "det_n_bad": 0, **image}

    check_reduction(Correct("det", saved("dark", dark), emit=emit), events, oracle)


def test_frames_that_are_darks_themselves_give_no_result_and_no_image():
    correct = Correct("det", dark={"when": {"image_key": 2}})
    (dark,) = correct.references
    event = {"det": numpy.full(SHAPE, 4, "u2"), "image_key": 2}

    assert dark.wants("primary", event)
    dark.offer(event)
    with pytest.raises(RejectedValue, match="this is a dark frame itself"):
        correct.update(event)
    assert correct.result() is None
    assert numpy.isnan(correct.feed()["det_corrected"])
    correct.update({"det": numpy.full(SHAPE, 6, "u2"), "image_key": 0})
    assert (numpy.asarray(correct.feed()["det_corrected"]) == 2).all()
    with pytest.raises(RejectedValue):
        correct.update(event)
    assert correct.result() == {"det_is_dark_subtracted": False, "det_n_bad": 0}
    assert numpy.isnan(correct.feed()["det_corrected"])


def test_a_dark_may_be_late():
    frame = {"det": numpy.full(SHAPE, 6, "u2")}
    waits, passes, fails = (Correct("det", {"stream": "dark", "late": late}) for late in ("wait", "pass", "fail"))

    with pytest.raises(RejectedValue, match="dark of 'det' has 0 of 1 events"):
        waits.update(frame)
    with pytest.raises(PipelineRuntimeError, match="dark of 'det' has 0 of 1 events"):
        fails.update(frame)
    passes.update(frame)
    assert passes.result() == {"det_is_dark_subtracted": False, "det_n_bad": 0}
    assert (numpy.asarray(passes.feed()["det_corrected"]) == 6).all()
    passes.references[0].offer({"det": numpy.full(SHAPE, 4, "u2")})
    passes.update(frame)
    assert passes.result()["det_is_dark_subtracted"] is True
    assert (numpy.asarray(passes.feed()["det_corrected"]) == 2).all()


def test_each_gain_has_its_dark():
    correct = Correct("det", dark={"stream": "dark", "per": "gain"})
    for gain, value in ((1, 10), (2, 20)):
        correct.references[0].offer({"det": numpy.full(SHAPE, value, "u2"), "gain": gain})

    found = []
    for gain in (1, 2, 1):
        correct.update({"det": numpy.full(SHAPE, 30, "u2"), "gain": gain})
        found.append(numpy.asarray(correct.feed()["det_corrected"])[0, 0])

    assert found == [20.0, 10.0, 20.0]


def test_each_run_has_its_own_references(saved):
    correct = Correct("det", dark={"stream": "dark"}, mask=saved("mask", numpy.zeros(SHAPE, "u1")))
    one, two = copy.deepcopy(correct), copy.deepcopy(correct)
    one.begin({})
    two.begin({})
    one.references[0].offer({"det": numpy.ones(SHAPE, "u2")})

    assert not one.references[0].lacks({})
    assert two.references[0].lacks({})
    assert correct.references[0].lacks({})
    assert copy.deepcopy(one).references[0] is one.references[0]


def test_what_is_made_of_files_is_made_once_for_all_runs(saved):
    correct = Correct("det", saved("dark", numpy.ones(SHAPE)))
    made = []
    for _ in range(2):
        run = copy.deepcopy(correct)
        run.begin({})
        run.update({"det": numpy.ones(SHAPE, "u2")})
        made.append(run.feed()["det_corrected"].correction)

    assert made[0] is made[1]


def test_a_series_stays_one(saved):
    correct = Correct("det", saved("dark", numpy.ones(SHAPE)))

    assert (corrected(correct, numpy.full((3, *SHAPE), 5, "u2")) == numpy.full((3, *SHAPE), 4.0)).all()


@pytest.mark.parametrize(
    "value", [numpy.ones((4, 6)), numpy.ones(5), 1.0, None, numpy.ones((2, 5, 4)), [["a"] * 5] * 4]
)
def test_a_frame_of_another_shape_is_rejected(value, saved):
    correct = Correct("det", saved("dark", numpy.ones(SHAPE)))

    with pytest.raises(RejectedValue, match="wanted"):
        correct.update({"det": value})
    assert numpy.isnan(correct.feed()["det_corrected"])


def test_darks_and_flats_of_different_shapes_are_rejected(saved):
    correct = Correct("det", saved("dark", numpy.ones(SHAPE)), saved("flat", numpy.ones((5, 4))))

    with pytest.raises(RejectedValue, match=r"wanted a flat of shape \[4, 5\], there is \[5, 4\]"):
        correct.update({"det": numpy.ones(SHAPE)})


# arguments -----------------------------------------------------------------------------------------------------------


def test_the_sha256_of_files_is_part_of_the_recipe(saved):
    dark, mask = saved("dark", numpy.ones(SHAPE)), saved("mask", numpy.zeros(SHAPE, "?"))
    correct = Correct("det", dark, mask=mask)
    again = pickle.loads(pickle.dumps(correct))  # noqa: S301 - made here

    assert sorted(correct.arguments["sha256"]) == ["dark", "mask"]
    assert again.arguments == correct.arguments
    again.update({"det": numpy.full(SHAPE, 3, "u2")})
    assert (numpy.asarray(again.feed()["det_corrected"]) == 2).all()
    saved("mask", numpy.ones(SHAPE, "?"))
    with pytest.raises(PipelineValueError, match="the file was changed"):
        Correct(**correct.arguments)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({}, "nothing to correct with"),
        ({"pedestal": 1, "mode": "divide"}, "mode is 'divide'"),
        ({"pedestal": 1, "mode": "transmission"}, "wanted a flat for that"),
        ({"dark": {"stram": "x"}}, "did you mean 'stream'"),
        ({"flat": {"stream": "x", "late": "pass"}, "mode": "absorbance"}, "wanted a flat that is waited for"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, wrong):
    with pytest.raises(PipelineValueError, match=wrong):
        Correct("det", **arguments)


def test_a_mask_of_floats_is_refused(saved):
    with pytest.raises(PipelineValueError, match="wanted a mask"):
        Correct("det", mask=saved("mask", numpy.ones(SHAPE)))


def test_units_are_those_of_the_field_or_none(saved):
    flat = saved("flat", numpy.ones(SHAPE))
    keys = {"det": {"units": "count", "dims": ["y", "x"]}}

    assert Correct("det", pedestal=3).describe(keys) == {"det_corrected": {"units": "count", "dims": ["y", "x"]}}
    assert Correct("det", flat=flat, mode="absorbance").describe({})["det_corrected"] == {"units": "dimensionless"}


# real data -----------------------------------------------------------------------------------------------------------


def test_a_real_scan_with_flats_and_darks_among_its_frames_gives_the_transmission_that_integers_give(data_folder):
    """3201 frames of Diamond K11: 50 flats, 50 darks, 3001 projections, 50 flats, 50 darks."""
    folder = data_folder / "frames_k11_tomo"
    with h5py.File(folder / "k11-18014-imaging.h5") as file, h5py.File(folder / "k11-18014-image_key.h5") as keys:
        raw, image_key = file["entry/detector/detector"][:], keys["entry/image_key/image_key"][:]
    events = [{"det": frame[numpy.newaxis], "key": key} for frame, key in zip(raw, image_key, strict=True)]
    correct = Correct("det", {"when": {"key": 2}, "n": 100}, {"when": {"key": 1}, "n": 100}, mode="transmission")
    for event in events:
        for reference in correct.references:
            if reference.wants("primary", event):
                reference.offer(event)

    means, rows, n_rejected = [], [], 0
    for event in events:
        try:
            correct.update(event)
        except RejectedValue:
            n_rejected += 1
            continue
        image = numpy.asarray(correct.feed()["det_corrected"])
        means.append(image.mean(dtype=float))
        rows.append(-numpy.log(image[0, 11].astype(float)))

    oracle = numpy.load(folder / "k11_reference.npz")
    dark, flat = correct.references
    assert (dark.frame({}) == oracle["dark_mean"]).all()
    assert (flat.frame({}) == oracle["flat_mean"]).all()
    assert n_rejected == 200
    assert numpy.array(means) == pytest.approx(oracle["transmission_frame_mean"], rel=1e-7)
    assert numpy.array(rows) == pytest.approx(oracle["sinogram_row11"], abs=3e-7)

"""Azimuthal integration: pyFAI's numbers from raw frames of any dtype, numpy's histogram, with and without numba."""

import copy
import pickle

import h5py
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineOSError, PipelineTypeError, PipelineValueError, RejectedValue
from pipeline.reductions import AzimuthalIntegration, Correct
from pipeline.reductions.compiled import NO_NUMBA
from pipeline.reductions.corrected import Corrected, correction_of
from pipeline.reductions.geometry import Geometry
from pipeline.testing import check_reduction

pytest.importorskip("pyFAI")

NAN = numpy.nan
SHAPE = (120, 90)
PONI = {"dist": 0.1, "poni1": 0.007, "poni2": 0.004, "rot1": 0.01, "pixel1": 1e-4, "pixel2": 1e-4, "wavelength": 1e-10}
METHOD = ("bbox", "csr", "cython")


@pytest.fixture(params=["numba", "scipy"])
def engine(request, monkeypatch):
    """Both ways to sum."""
    if request.param == "scipy":
        monkeypatch.setenv(NO_NUMBA, "1")
    return request.param


@pytest.fixture
def saved(tmp_path):
    """Saves an array, and returns its path."""

    def save(name, array):
        numpy.save(tmp_path / f"{name}.npy", array)
        return str(tmp_path / f"{name}.npy")

    return save


def pyfai(poni=PONI):
    return Geometry(poni).integrator({})


def rings(dtype="u2", seed=0, shape=SHAPE, mean=50):
    """A frame with rings, and counting noise."""
    y, x = numpy.indices(shape)
    radius = numpy.hypot(y - 70, x - 40)
    return numpy.random.default_rng(seed).poisson(mean * (1 + numpy.cos(radius / 3) ** 4)).astype(dtype)


def curve(reduction, frame, key="det_I"):
    reduction.update({reduction.field: frame})
    return reduction.result()[key]


def assert_is_pyfais(found, expected, count, rtol=2e-7):
    """NaN where no pixel is, and within float32 of pyFAI elsewhere."""
    assert (numpy.isnan(found) == (count == 0)).all()
    known = count > 0
    assert found[known] == pytest.approx(expected[known].astype(float), rel=rtol, abs=1e-7 * numpy.nanmax(abs(found)))


# pyFAI ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["bbox", "full", "no"])
@pytest.mark.parametrize(("npt", "unit"), [(7, "q_A^-1"), (60, "2th_deg"), (300, "r_mm")])
def test_curves_and_axes_are_pyfais(engine, split, npt, unit):
    frame = rings()
    integration = AzimuthalIntegration("det", PONI, npt, unit, split, polarization_factor=0.9, error_model="poisson")

    expected = pyfai().integrate1d_ng(
        frame, npt, unit=unit, method=(split, "csr", "cython"), polarization_factor=0.9, error_model="poisson"
    )
    assert_is_pyfais(curve(integration, frame), expected.intensity, expected.count)
    assert_is_pyfais(integration.result()["det_I_err"], expected.sigma, expected.count)
    (axis,) = integration.axes().values()
    assert axis == pytest.approx(expected.radial, rel=1e-12)


@pytest.mark.parametrize("dtype", ["?", "u1", ">u2", "i2", "u4", "i8", "f4", "f8"])
def test_any_dtype_is_integrated(engine, dtype):
    frame = rings(mean=20).clip(0, 120).astype(dtype)

    expected = pyfai().integrate1d_ng(frame.astype("f4"), 60, unit="q_nm^-1", method=METHOD)
    integration = AzimuthalIntegration("det", PONI, 60, "q_nm^-1")
    assert_is_pyfais(curve(integration, frame), expected.intensity, expected.count)


def test_the_largest_counts_are_summed_without_overflow(engine):
    for dtype in ("u2", "i2", "u4", "i4"):
        largest = numpy.iinfo(dtype).max
        found = curve(AzimuthalIntegration("det", PONI, 3, solid_angle=False), numpy.full(SHAPE, largest, dtype))

        assert found == pytest.approx(numpy.full(3, float(largest)), rel=1e-9)


def test_without_solid_angle_and_without_its_correction_they_are_pyfais_too(engine):
    expected = pyfai().integrate1d_ng(rings(), 60, unit="q_A^-1", method=METHOD, correctSolidAngle=False)

    integration = AzimuthalIntegration("det", PONI, 60, solid_angle=False)
    assert_is_pyfais(curve(integration, rings()), expected.intensity, expected.count)


@pytest.mark.parametrize("radial_range", [None, [0.1, 0.4]])
@pytest.mark.parametrize("azimuth_range", [[-60, 60], [100, 170], [150, -150]])
def test_a_part_of_the_rings_is_pyfais(engine, radial_range, azimuth_range):
    options = {"radial_range": radial_range, "azimuth_range": azimuth_range}
    integrator = pyfai()
    if azimuth_range[0] > azimuth_range[1]:
        integrator.setChiDiscAtZero()
    expected = integrator.integrate1d_ng(rings(), 60, unit="q_A^-1", method=METHOD, **options)

    integration = AzimuthalIntegration("det", PONI, 60, **options)
    assert_is_pyfais(curve(integration, rings()), expected.intensity, expected.count)
    assert (expected.count > 0).any()


@pytest.mark.parametrize("split", ["bbox", "no"])
def test_a_cake_is_pyfais(engine, split):
    frame = rings()
    expected = pyfai().integrate2d_ng(frame, 40, 36, unit="q_A^-1", method=(split, "csr", "cython"))
    integration = AzimuthalIntegration("det", PONI, 40, split=split, npt_azim=36)

    cake = curve(integration, frame)

    assert cake.shape == (36, 40)
    assert_is_pyfais(cake, expected.intensity, expected.count)
    assert integration.axes()["det_q"] == pytest.approx(expected.radial, rel=1e-12)
    assert integration.axes()["det_chi"] == pytest.approx(expected.azimuthal, rel=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.3))
@settings(max_examples=15, deadline=None)
def test_pixels_that_are_nan_are_left_out_with_their_light(seed, share):
    rng = numpy.random.default_rng(seed)
    frame = rings("f4", seed)
    frame[rng.random(SHAPE) < share] = rng.choice([NAN, numpy.inf, -numpy.inf])

    expected = pyfai().integrate1d_ng(frame, 60, unit="q_A^-1", method=METHOD)
    for reduction in (INTEGRATION, TWIN):
        assert_is_pyfais(curve(copy.deepcopy(reduction), frame), expected.intensity, expected.count)


INTEGRATION = AzimuthalIntegration("det", PONI, 60)
with pytest.MonkeyPatch.context() as patch:
    patch.setenv(NO_NUMBA, "1")
    TWIN = AzimuthalIntegration("det", PONI, 60)
    TWIN.update({"det": rings()})


@pytest.mark.parametrize("dtype", ["i2", "i4", "f4"])
def test_values_out_of_range_are_left_out_as_if_they_were_masked(engine, dtype, saved):
    frame = rings(dtype)
    frame[10:20] = -1
    frame[:, 30] = 20_000
    is_bad = (frame < 0) | (frame > 10_000)
    masked = AzimuthalIntegration("det", PONI, 60, mask=saved("mask", is_bad), error_model="poisson")
    ranged = AzimuthalIntegration("det", PONI, 60, valid_range=[0, 1e4], error_model="poisson")

    expected = curve(masked, numpy.where(is_bad, 0, frame).astype(dtype))

    assert curve(ranged, frame) == pytest.approx(expected, rel=1e-9, nan_ok=True)
    assert ranged.result()["det_I_err"] == pytest.approx(masked.result()["det_I_err"], rel=1e-9, nan_ok=True)
    assert ranged.result()["det_I_sum"] == pytest.approx(masked.result()["det_I_sum"], rel=1e-9)


@pytest.mark.parametrize("dtype", ["i4", "u4", "u2", "f4"])
def test_gaps_and_dead_pixels_that_a_detector_marks_do_not_count(engine, dtype):
    """A Pilatus and an Eiger write -1 and -2, which are the largest numbers in unsigned integers."""
    poni = {**PONI, "detector": "Pilatus100k"}
    del poni["pixel1"], poni["pixel2"]
    frame = rings("i8", shape=(195, 487))
    frame[50:60], frame[80] = -1, -2
    signed = frame.astype("f4")
    frame = frame.astype(dtype)

    expected = pyfai(poni).integrate1d_ng(signed, 60, unit="q_A^-1", method=METHOD)
    assert_is_pyfais(curve(AzimuthalIntegration("det", poni, 60), frame), expected.intensity, expected.count)


def test_empty_bins_are_nan(engine, saved):
    integration = AzimuthalIntegration("det", PONI, 60, mask=saved("mask", numpy.ones(SHAPE, "u1")))

    assert numpy.isnan(curve(integration, rings())).all()
    assert integration.result()["det_I_sum"] == 0.0


# a second oracle -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from(["u2", "i4", "f8"]))
@settings(max_examples=10, deadline=None)
def test_unsplit_pixels_are_numpys_histogram(seed, dtype):
    """The radius of a detector that faces the beam is that of the plane, without any of pyFAI's engines."""
    frame = rings(dtype, seed)
    poni = {"dist": 1.0, "poni1": 6.1e-3, "poni2": 4.3e-3, "pixel1": 1e-4, "pixel2": 1e-4}
    y, x = (numpy.indices(SHAPE) + 0.5) * 1e-4
    radius = numpy.hypot(y - 6.1e-3, x - 4.3e-3) * 1e3
    integration = AzimuthalIntegration("det", poni, 40, "r_mm", "no", solid_angle=False, radial_range=[0.5137, 6.4871])

    found = curve(integration, frame)

    edges = numpy.linspace(0.5137, 6.4871, 41)
    assert abs(radius[..., None] - edges).min() > 3e-6  # no pixel on an edge, where rounding decides
    total, _ = numpy.histogram(radius, edges, weights=frame.astype(float))
    count, _ = numpy.histogram(radius, edges)
    expected = numpy.where(count > 0, total / numpy.maximum(count, 1), NAN)
    assert found[1:] == pytest.approx(expected[1:], rel=1e-9, nan_ok=True)  # pyFAI's first bin begins before its edge
    assert integration.axes()["det_r"] == pytest.approx((edges[1:] + edges[:-1]) / 2, rel=1e-6)


# after Correct -------------------------------------------------------------------------------------------------------


def corrections():
    rng = numpy.random.default_rng(3)
    dark, flat = rng.normal(20, 2, SHAPE), rng.normal(1, 0.1, SHAPE)
    mask = rng.random(SHAPE) < 0.05
    uneven = numpy.where(rng.random(SHAPE) < 0.01, 1e-5, flat)
    return {
        "dark": {"dark": dark},
        "mask": {"mask": mask},
        "dark and mask": {"dark": dark, "mask": mask},
        "dark and flat": {"dark": dark, "flat": flat},
        "all": {"dark": dark, "flat": numpy.where(flat > 0.8, flat, 0), "mask": mask, "pedestal": 3.0},
        "transmission": {"dark": dark, "flat": 100 * flat, "mode": "transmission"},
        "uneven flat": {"flat": uneven},
    }


@pytest.mark.parametrize("what", corrections())
@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_what_corrects_a_frame_goes_into_the_sums_as_if_its_image_was_integrated(engine, what, dtype):
    frame = rings(dtype)
    if dtype == "f4":
        frame[5:9] = NAN
    lazy = Corrected(frame, correction_of(SHAPE, **corrections()[what]))
    image = numpy.array(lazy)
    integration = AzimuthalIntegration("det_corrected", PONI, 60)

    expected = pyfai().integrate1d_ng(image, 60, unit="q_A^-1", method=METHOD)
    found = curve(integration, lazy, "det_corrected_I")
    assert_is_pyfais(found, expected.intensity, expected.count, rtol=1e-6)
    as_image = curve(copy.deepcopy(integration), image, "det_corrected_I")
    assert found == pytest.approx(as_image, rel=1e-6, abs=1e-6 * numpy.nanmax(abs(as_image)), nan_ok=True)


def test_the_image_is_not_worked_out_for_it(engine):
    class Unseen(Corrected):
        def __array__(self, dtype=None, copy=None):
            raise AssertionError("an image was asked for")

    lazy = Unseen(rings(), correction_of(SHAPE, **corrections()["all"]))

    assert numpy.isfinite(curve(AzimuthalIntegration("det", PONI, 60), lazy)).any()


@pytest.mark.parametrize("options", [{"clip": True}, {"mode": "absorbance", "flat": numpy.full(SHAPE, 200.0)}])
def test_where_a_correction_is_no_sum_its_image_is_integrated(engine, options):
    frame = rings("i4")
    frame[10:20] = -1
    correction = correction_of(SHAPE, numpy.full(SHAPE, 60.0), **options)
    image = numpy.where(frame < 0, NAN, numpy.array(Corrected(frame, correction)))

    expected = pyfai().integrate1d_ng(image.astype("f4"), 60, unit="q_A^-1", method=METHOD)
    integration = AzimuthalIntegration("det", PONI, 60, valid_range=[0, 1e6])
    assert_is_pyfais(curve(integration, Corrected(frame, correction)), expected.intensity, expected.count)
    with pytest.raises(PipelineTypeError, match="wanted no error_model"):
        curve(AzimuthalIntegration("det", PONI, 60, error_model="poisson"), Corrected(frame, correction))


@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_errors_of_corrected_frames_are_pyfais(engine, dtype):
    dark = numpy.random.default_rng(4).uniform(1, 20, SHAPE)

    expected = pyfai().integrate1d_ng(
        rings("f4"), 60, unit="q_A^-1", method=METHOD, dark=dark.astype("f4"), error_model="poisson"
    )
    integration = AzimuthalIntegration("det", PONI, 60, error_model="poisson")
    lazy = Corrected(rings(dtype), correction_of(SHAPE, dark))
    assert_is_pyfais(curve(integration, lazy, "det_I_err"), expected.sigma, expected.count, rtol=5e-7)
    assert_is_pyfais(integration.result()["det_I"], expected.intensity, expected.count, rtol=1e-6)


def test_in_a_node_it_follows_correct(saved):
    dark = numpy.full(SHAPE, 20.0)
    correct, integration = Correct("det", saved("dark", dark)), AzimuthalIntegration("det_corrected", PONI, 60)
    data = {"det": rings()}
    correct.update(data)
    integration.update(data | correct.feed())

    expected = curve(AzimuthalIntegration("det", PONI, 60), rings("f8") - dark)
    assert integration.result()["det_corrected_I"] == pytest.approx(expected, rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("lazy", [NAN, Corrected(numpy.ones((4, 5)), correction_of((4, 5), numpy.ones((4, 5))))])
def test_what_correct_could_not_give_is_rejected(lazy):
    integration = AzimuthalIntegration("det", PONI, 60)
    integration.update({"det": rings()})

    with pytest.raises(RejectedValue, match="wanted a frame of shape"):
        integration.update({"det": lazy})
    assert numpy.isnan(integration.result()["det_I"]).all()


# series --------------------------------------------------------------------------------------------------------------


def test_a_series_of_one_gives_what_its_frame_gives(engine):
    for frames in ("mean", "sum"):
        options = {"frames": frames, "error_model": "poisson"}
        alone, series = (AzimuthalIntegration("det", PONI, 60, **options) for _ in range(2))
        alone.update({"det": rings()})
        series.update({"det": rings()[numpy.newaxis]})

        result = series.result()
        assert result.pop("det_n_frames") == 1
        for key, value in alone.result().items():
            assert numpy.array_equal(result[key], value, equal_nan=True)


def test_a_series_gives_its_mean_its_sum_or_each_of_its_frames(engine):
    series = numpy.stack([rings(seed=seed) for seed in range(3)])
    options = {"error_model": "poisson"}
    mean, total, each = (
        AzimuthalIntegration("det", PONI, 60, frames=how, **options) for how in ("mean", "sum", "each")
    )
    alone = [AzimuthalIntegration("det", PONI, 60, **options) for _ in series]
    curves = numpy.array([curve(one, frame) for one, frame in zip(alone, series, strict=True)])
    errors = numpy.array([one.result()["det_I_err"] for one in alone])

    assert curve(each, series).tolist() == curves.tolist()
    assert curve(mean, series) == pytest.approx(curves.mean(0), rel=1e-12)
    assert curve(total, series) == pytest.approx(curves.sum(0), rel=1e-12)
    assert mean.result()["det_I_err"] == pytest.approx(numpy.sqrt((errors**2).sum(0)) / 3, rel=1e-12)
    assert total.result()["det_I_err"] == pytest.approx(numpy.sqrt((errors**2).sum(0)), rel=1e-12)
    assert each.result()["det_I_sum"] == pytest.approx(series.sum((1, 2)).astype(float), rel=1e-7)
    assert mean.result()["det_I_sum"] == pytest.approx(series.sum() / 3, rel=1e-7)
    assert total.result()["det_I_sum"] == pytest.approx(float(series.sum()), rel=1e-7)
    assert each.result()["det_n_frames"] == 3


def test_a_pixel_that_is_nan_in_one_frame_counts_in_the_others(engine):
    series = numpy.stack([rings("f4"), rings("f4")])
    series[1, 40:80, 30:60] = NAN

    expected = pyfai().integrate1d_ng(numpy.where(numpy.isnan(series[1]), 0, series.sum(0)).astype("f4"), 60)
    found = curve(AzimuthalIntegration("det", PONI, 60, "q_nm^-1"), series)
    assert numpy.isfinite(found).all()
    assert len(found) == len(expected.intensity)
    assert found == pytest.approx(curve(AzimuthalIntegration("det", PONI, 60, "q_nm^-1"), series[0]), rel=0.1)


def test_a_corrected_series_is_corrected_frame_by_frame(engine):
    series = numpy.stack([rings(seed=seed) for seed in range(3)])
    dark = numpy.full(SHAPE, 20.0)
    each = AzimuthalIntegration("det", PONI, 60, frames="each")

    found = curve(each, Corrected(series, correction_of(SHAPE, dark)))

    assert found == pytest.approx(curve(copy.deepcopy(each), series - dark), rel=1e-9)


# monitors and geometry -----------------------------------------------------------------------------------------------


def test_a_curve_goes_over_its_monitor_and_without_one_there_is_none(engine):
    integration = AzimuthalIntegration("det", PONI, 60, norm="i0", error_model="poisson")
    plain = curve(AzimuthalIntegration("det", PONI, 60), rings())

    integration.update({"det": rings(), "i0": 4.0})
    good = integration.result()
    for monitor in (0.0, -1.0, NAN, None, numpy.inf):
        integration.update({"det": rings(), "i0": monitor})
        bad = integration.result()
        assert bad["norm_ok"] is False
        assert all(numpy.isnan(bad[key]).all() for key in ("det_I", "det_I_err", "det_I_sum"))

    assert good["norm_ok"] is True
    assert good["det_I"] == pytest.approx(plain / 4, rel=1e-12)
    assert integration.fields == ("det", "i0")


def test_the_geometry_may_be_arithmetic_over_fields(engine):
    poni = {**PONI, "dist": "det_z / 1000", "wavelength": "12.398 / energy * 1e-10"}
    integration = AzimuthalIntegration("det", poni, 60)
    event = {"det": rings(), "det_z": 100.0, "energy": 12.398}

    integration.begin({})
    integration.update(event)
    by_fields = integration.result()["det_I"]
    integration.update({**event, "det_z": 100.001})

    assert integration.fields == ("det", "det_z", "energy")
    assert by_fields == pytest.approx(curve(AzimuthalIntegration("det", PONI, 60), rings()), rel=1e-6)
    assert integration.result()["det_I"].tolist() == by_fields.tolist()
    with pytest.raises(RejectedValue, match="wanted one in a stream"):
        integration.update({**event, "det_z": 120.0})
    with pytest.raises(RejectedValue, match="wanted a number that can be"):
        integration.update({**event, "det_z": -5.0})


def test_frames_of_another_shape_are_rejected():
    integration = AzimuthalIntegration("det", PONI, 60)
    integration.update({"det": rings()})

    for value in (numpy.ones((90, 120)), numpy.ones(SHAPE[1]), numpy.ones((1, 1, *SHAPE)), 3.0, [["a"]]):
        with pytest.raises(RejectedValue, match="wanted"):
            integration.update({"det": value})
    with pytest.raises(RejectedValue, match="there is none in it"):
        integration.update({"det": numpy.ones((0, *SHAPE))})


def test_detector_and_mask_tell_the_shape_too(saved):
    poni = {**PONI, "detector": "Pilatus100k"}
    del poni["pixel1"], poni["pixel2"]

    with pytest.raises(RejectedValue, match=r"wanted a frame of shape \[195, 487\], as the detector"):
        AzimuthalIntegration("det", poni).update({"det": rings()})
    with pytest.raises(RejectedValue, match=r"wanted a frame of shape \[9, 9\], as the mask"):
        AzimuthalIntegration("det", PONI, mask=saved("mask", numpy.ones((9, 9), "u1"))).update({"det": rings()})


def test_what_a_detector_tells_is_worked_out_before_the_first_frame(monkeypatch):
    poni = {**PONI, "detector": "Pilatus100k"}
    del poni["pixel1"], poni["pixel2"]
    integration = AzimuthalIntegration("det", poni, 60)
    integration.begin({})
    monkeypatch.setattr(Geometry, "integrator", None)  # nothing is asked of it any more

    again = copy.deepcopy(integration)
    again.update({"det": numpy.ones((195, 487), "u2")})

    assert numpy.isfinite(again.result()["det_I"]).any()


# laws ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"npt_azim": 8}, {"error_model": "poisson", "norm": "i0"}])
def test_it_keeps_the_laws(engine, options):
    events = [{"det": rings(seed=seed), "i0": 2.0 + seed} for seed in range(3)]

    check_reduction(AzimuthalIntegration("det", PONI, 20, **options), events)


def test_a_state_and_a_pickle_hold_no_shares(saved):
    from pipeline.state import state_to_bytes

    integration = AzimuthalIntegration("det", PONI, 60, mask=saved("mask", numpy.zeros(SHAPE, "u1")))
    integration.update({"det": rings()})
    again = pickle.loads(pickle.dumps(integration))  # noqa: S301 - made here

    assert len(state_to_bytes(integration.state())) < 10_000
    assert len(pickle.dumps(integration)) < 10_000
    assert again.axes()["det_q"].tolist() == integration.axes()["det_q"].tolist()
    assert curve(again, rings(seed=1)).tolist() == curve(integration, rings(seed=1)).tolist()


def test_copies_share_what_was_worked_out():
    integration = AzimuthalIntegration("det", PONI, 60)
    before = copy.deepcopy(integration)
    integration.update({"det": rings()})
    before.update({"det": rings()})

    assert before._known_integrator() is integration._known_integrator()


def test_the_two_ways_differ_by_less_than_is_told(monkeypatch):
    for dtype, what in (("u2", "all"), ("u2", "dark"), ("f4", "all"), ("i4", "dark and flat")):
        lazy = Corrected(rings(dtype), correction_of(SHAPE, **corrections()[what]))
        by_numba = curve(AzimuthalIntegration("det", PONI, 60), lazy)
        with monkeypatch.context() as patch:
            patch.setenv(NO_NUMBA, "1")
            by_scipy = curve(AzimuthalIntegration("det", PONI, 60), lazy)

        assert by_numba == pytest.approx(by_scipy, rel=1e-8, abs=1e-8 * numpy.nanmax(abs(by_scipy)), nan_ok=True)


# arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({"poni": 7}, r"poni is 7; wanted the name of a .poni file"),
        ({"poni": {"dist": 1}}, r"wanted \['poni1', 'poni2', 'pixel1', 'pixel2'\] too"),
        ({"poni": {**PONI, "dst": 1}}, r"did you mean 'dist'"),
        ({"poni": {**PONI, "dist": -1}}, r"poni: dist is -1; wanted a number"),
        ({"poni": {**PONI, "dist": "det_z +"}}, r"det_z \+"),
        ({"unit": "q"}, r"unit is 'q'"),
        ({"split": "box"}, r"did you mean 'bbox'"),
        ({"frames": "all"}, r"frames is 'all'"),
        ({"error_model": "gauss"}, r"error_model is 'gauss'"),
        ({"npt": 0}, r"npt is 0"),
        ({"npt_azim": 1.5}, r"npt_azim 1.5"),
        ({"valid_range": [3, 1]}, r"valid_range is \[3, 1\]"),
        ({"radial_range": [1]}, r"radial_range is \[1\]"),
    ],
)
def test_what_is_written_wrong_is_refused_in_words(arguments, wrong):
    with pytest.raises(PipelineValueError, match=wrong):
        AzimuthalIntegration(**{"field": "det", "poni": PONI, **arguments})


def test_what_pyfai_cannot_do_is_told():
    without = {word: value for word, value in PONI.items() if word != "wavelength"}
    with pytest.raises(PipelineValueError, match=r"pyFAI cannot integrate frames of shape \[120, 90\]: wavelength"):
        AzimuthalIntegration("det", without).update({"det": rings()})
    with pytest.raises(PipelineValueError, match=r"detector is 'Pilatus101k'; wanted a name that pyFAI knows\.$"):
        AzimuthalIntegration("det", {**PONI, "detector": "Pilatus101k"}).update({"det": rings()})


def test_a_poni_file_is_part_of_the_recipe(tmp_path):
    path = tmp_path / "a.poni"
    pyfai().save(str(path))
    integration = AzimuthalIntegration("det", str(path), 60)

    assert curve(integration, rings()).tolist() == curve(AzimuthalIntegration("det", PONI, 60), rings()).tolist()
    assert list(integration.arguments["sha256"]) == ["poni"]
    path.write_text(path.read_text() + "# changed\n")
    with pytest.raises(PipelineValueError, match="the file was changed"):
        AzimuthalIntegration(**integration.arguments)
    with pytest.raises(PipelineOSError, match="No such file"):
        AzimuthalIntegration("det", str(tmp_path / "b.poni"))
    (tmp_path / "b.poni").write_text("# nothing\nDistance: 1\n")
    with pytest.raises(PipelineValueError, match=r"is no .poni file"):
        AzimuthalIntegration("det", str(tmp_path / "b.poni"))


def test_units_and_dims_are_told():
    keys = {"det": {"units": "count"}, "i0": {"units": "V"}}
    cake = AzimuthalIntegration("det", PONI, 20, norm="i0", npt_azim=8).describe(keys)
    each = AzimuthalIntegration("det", PONI, 20, "2th_deg", frames="each").describe(keys)

    assert cake["det_I"] == {"units": "count/(V)", "dims": ["det_chi", "det_q"]}
    assert (cake["det_q"], cake["det_chi"]) == ({"units": "angstrom^-1"}, {"units": "deg"})
    assert each["det_I"]["dims"] == ["det_frame", "det_2theta"]
    assert each["det_2theta"] == {"units": "deg"}


# real and certified data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["bbox", "no"])
def test_a_real_frame_of_ceria_gives_the_recorded_curve(engine, data_folder, split, saved):
    folder = data_folder / "frame_ceria_dexela"
    with h5py.File(folder / "ceria_dexela_ff1_0_0.h5") as file:
        frame = file["entry/data/data"][:]
    oracle = numpy.load(folder / "reference.npz")
    ranges = {"radial_range": [float(oracle["numpy_edges"][0]), float(oracle["numpy_edges"][-1])]}
    integration = AzimuthalIntegration(
        "det",
        str(folder / "ceria_dexela.poni"),
        1500,
        "2th_deg",
        split,
        saved("mask", frame[0] == 0),
        solid_angle=False,
        **ranges,
    )

    found = curve(integration, frame)

    assert integration.axes()["det_2theta"] == pytest.approx(oracle[f"pyfai_{split}_2th"], rel=1e-9)
    assert_is_pyfais(found, oracle[f"pyfai_{split}_I"], oracle[f"pyfai_{split}_norm"])


@pytest.mark.parametrize("split", ["bbox", "no"])
def test_a_sequence_with_gaps_and_hot_pixels_gives_the_recorded_curves(engine, data_folder, split):
    folder = data_folder / "frames_synth_agbh_pilatus300k"
    with h5py.File(folder / "agbh_20frames.h5") as file:
        frames = file["entry/data/data"][:]
    oracle = numpy.load(folder / "reference.npz")
    integration = AzimuthalIntegration(
        "det",
        str(folder / "agbh.poni"),
        400,
        "q_nm^-1",
        split,
        mask=str(folder / "mask.npy"),
        polarization_factor=0.95,
        error_model="poisson",
        radial_range=[0.3, 8.0],
    )
    for i, frame in enumerate(frames):
        found = curve(integration, frame)
        assert_is_pyfais(found, oracle[f"q_{split}_I"][i], oracle[f"q_{split}_I"][i])
        assert integration.result()["det_I_err"] == pytest.approx(oracle[f"q_{split}_sigma"][i].astype(float), rel=2e-7)
    assert integration.axes()["det_q"] == pytest.approx(oracle[f"q_{split}_radial"], rel=1e-12)

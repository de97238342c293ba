"""CenterOfMass2D: scipy's centre of mass, analytic tilted Gaussians, and what noise and background do to them."""

import math

import h5py
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions import CenterOfMass2D
from pipeline.testing import check_reduction

NAN = math.nan


def gaussian(shape, center, sigmas, degrees, height=1000.0):
    """A tilted Gaussian; sigmas are along the axis that is turned from x towards y, and across it."""
    y, x = numpy.mgrid[: shape[0], : shape[1]].astype(float)
    dy, dx, turn = y - center[0], x - center[1], math.radians(degrees)
    along, across = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
    return height * numpy.exp(-((along / sigmas[0]) ** 2) / 2 - (across / sigmas[1]) ** 2 / 2)


def by_definition(weights):
    """The oracle: scipy's centre, and the eigenvectors of numpy's covariance of the elements' places."""
    total = weights.sum()
    if not total > 0:
        names = ("com_y", "com_x", "sigma_y", "sigma_x", "theta")
        return {"d_sum": total} | {f"d_{name}": NAN for name in names}
    y, x = ndimage.center_of_mass(weights)
    row, column = numpy.indices(weights.shape)
    covariance = numpy.cov(row.ravel(), column.ravel(), aweights=weights.ravel().astype(float), ddof=0)
    values, vectors = numpy.linalg.eigh(covariance)
    nearer = int(numpy.argmax(abs(vectors[1])))  # of these, the one along x
    sigma_x, sigma_y = numpy.sqrt(values[nearer].clip(0)), numpy.sqrt(values[1 - nearer].clip(0))
    theta = math.degrees(math.atan(vectors[0, nearer] / vectors[1, nearer]))
    return {"d_sum": total, "d_com_y": y, "d_com_x": x, "d_sigma_y": sigma_y, "d_sigma_x": sigma_x, "d_theta": theta}


@given(arrays.arrays("u2", (2, 6, 9), elements=st.integers(0, 1000)))
@settings(max_examples=100, deadline=None)
def test_centers_are_scipys_and_widths_those_of_the_covariance(frames):
    events = [{"d": frame} for frame in frames if not _is_round(frame)]

    check_reduction(CenterOfMass2D("d"), events, lambda events: by_definition(events[-1]["d"]), rtol=1e-6)


def _is_round(frame):
    """Of a round beam, or one that is turned by 45 degrees, the axis is not told."""
    right = by_definition(frame)
    is_flat = min(right["d_sigma_y"], right["d_sigma_x"]) < 1e-3
    close = math.isclose(right["d_sigma_y"], right["d_sigma_x"], rel_tol=1e-3) or abs(right["d_theta"]) > 44.9
    return is_flat or close or abs(right["d_theta"]) < 1e-3


@pytest.mark.parametrize("sigmas", [(9.0, 3.0), (3.0, 9.0), (5.0, 4.0)])
@pytest.mark.parametrize("degrees", [0, 10, 30, 44, -20, -44])
def test_a_tilted_gaussian_has_the_moments_it_was_made_with(sigmas, degrees):
    beam = CenterOfMass2D("d")
    frame = gaussian((160, 200), (70.3, 95.8), sigmas, degrees)

    beam.update({"d": frame})

    result = beam.result()
    assert result["d_com_y"] == pytest.approx(70.3, abs=1e-6)
    assert result["d_com_x"] == pytest.approx(95.8, abs=1e-6)
    assert (result["d_sigma_x"], result["d_sigma_y"]) == pytest.approx(sigmas, rel=1e-6)
    assert result["d_theta"] == pytest.approx(degrees, abs=1e-5)
    assert result["d_sum"] == pytest.approx(2 * math.pi * sigmas[0] * sigmas[1] * 1000, rel=1e-6)


def test_a_beam_that_leans_more_than_45_degrees_is_told_by_its_other_axis():
    beam = CenterOfMass2D("d")

    beam.update({"d": gaussian((160, 160), (80, 80), (9, 3), 60)})

    result = beam.result()
    assert (result["d_sigma_x"], result["d_sigma_y"]) == pytest.approx((3, 9), rel=1e-6)
    assert result["d_theta"] == pytest.approx(-30, abs=1e-5)


def test_a_line_has_no_width_across_it():
    beam = CenterOfMass2D("d")

    beam.update({"d": numpy.eye(300)})

    result = beam.result()
    assert result["d_theta"] == pytest.approx(45)
    assert sorted((result["d_sigma_y"], result["d_sigma_x"])) == pytest.approx(
        [0, math.sqrt((300**2 - 1) / 6)], abs=1e-5
    )


def test_a_narrow_beam_at_the_far_corner_of_a_large_frame_keeps_its_digits():
    beam = CenterOfMass2D("d")
    frame = numpy.zeros((2048, 2048), "u2")
    frame[2040:2043, 2030:2033] = 1

    beam.update({"d": frame})

    result = beam.result()
    assert (result["d_com_y"], result["d_com_x"]) == (2041, 2031)
    assert (result["d_sigma_y"], result["d_sigma_x"]) == pytest.approx([math.sqrt(2 / 3)] * 2, rel=1e-12)


def test_the_background_is_a_number_or_the_mean_of_the_border():
    frame = gaussian((101, 121), (50, 60), (6, 4), 15) + 37.25
    given, border = CenterOfMass2D("d", background=37.25), CenterOfMass2D("d", background="border", border=3)

    for beam in (given, border):
        beam.update({"d": frame})
        assert beam.result()["d_sigma_x"] == pytest.approx(6, rel=1e-6)

    assert border.result()["d_bkg"] == pytest.approx(37.25, abs=1e-9)
    assert "d_bkg" not in given.result()


def test_what_is_at_or_under_the_threshold_is_left_out():
    beam = CenterOfMass2D("d", threshold=2, background=1)

    beam.update({"d": numpy.array([[9, 3, 0], [0, 4, 6]], "u1")})

    result = beam.result()
    assert result["d_sum"] == 8 + 3 + 5
    assert result["d_com_x"] == pytest.approx((3 * 1 + 5 * 2) / 16)
    assert result["d_com_y"] == pytest.approx(8 / 16)


def test_noise_about_zero_is_kept_and_does_not_make_the_beam_wide():
    rng = numpy.random.default_rng(4)
    noise = rng.normal(0, 3, (100, 120))
    frame = gaussian((100, 120), (50, 60), (6, 4), 0) + noise
    beam, cut = CenterOfMass2D("d", region=[26, 74, 24, 96]), CenterOfMass2D("d", region=[26, 74, 24, 96])

    beam.update({"d": frame})
    cut.update({"d": frame.clip(0)})

    assert beam.result()["d_sigma_x"] == pytest.approx(6, rel=0.05)
    assert cut.result()["d_sigma_x"] > 6.6


def test_unsigned_integers_are_not_subtracted_in_unsigned_arithmetic():
    beam = CenterOfMass2D("d", background=7)

    beam.update({"d": numpy.array([[5, 12]], "u2")})

    assert beam.result()["d_sum"] == 3.0


def test_what_is_not_finite_is_left_out():
    frame = gaussian((40, 50), (20, 25), (4, 3), 0)
    holes = frame.copy()
    holes[0, 0], holes[5, 7], holes[39, 49] = NAN, math.inf, -math.inf
    for background in (0.0, "border"):
        beam = CenterOfMass2D("d", background=background)

        beam.update({"d": holes})

        assert beam.result()["d_sigma_x"] == pytest.approx(4, rel=1e-4)


@pytest.mark.parametrize("frame", [numpy.zeros((3, 4), "u2"), numpy.full((3, 4), -1.0), numpy.full((3, 4), NAN)])
def test_without_a_positive_sum_there_is_no_center(frame):
    beam = CenterOfMass2D("d", background="border")

    beam.update({"d": frame})

    result = beam.result()
    assert not result["d_sum"] > 0
    assert all(math.isnan(result[f"d_{what}"]) for what in ("com_y", "com_x", "sigma_y", "sigma_x", "theta"))


def test_a_negative_second_moment_has_no_root():
    beam = CenterOfMass2D("d")

    beam.update({"d": numpy.array([[-1, 9, -1]])})

    assert math.isnan(beam.result()["d_sigma_x"])
    assert beam.result()["d_com_x"] == 1


def test_centers_in_a_region_are_in_the_whole_frame():
    frame = gaussian((100, 120), (40, 70), (3, 2), 0)
    whole, part = CenterOfMass2D("d"), CenterOfMass2D("d", region=[15, 70, 40, 300])

    for beam in (whole, part):
        beam.update({"d": frame})

    assert part.result()["d_com_y"] == pytest.approx(whole.result()["d_com_y"], abs=1e-6)
    assert part.result()["d_com_x"] == pytest.approx(whole.result()["d_com_x"], abs=1e-6)


def test_a_series_is_averaged_summed_or_taken_frame_by_frame():
    series = numpy.array([gaussian((40, 50), (y, 25), (4, 3), 0) for y in (15, 25)])
    mean, total, each = (CenterOfMass2D("d", frames=frames) for frames in ("mean", "sum", "each"))

    for beam in (mean, total, each):
        check_reduction(beam, [{"d": series}] * 2)
        beam.update({"d": series})
        assert beam.result()["d_com_n_frames"] == 2

    assert mean.result()["d_com_y"] == total.result()["d_com_y"] == pytest.approx(20, abs=1e-4)
    assert total.result()["d_sum"] == pytest.approx(2 * mean.result()["d_sum"])
    assert each.result()["d_com_y"] == pytest.approx([15, 25], abs=1e-3)


def test_a_frame_of_any_integers_gives_what_the_floats_give():
    values = numpy.random.default_rng(5).integers(0, 100, (30, 40))
    results = []

    for dtype in ("u1", "i1", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
        beam = CenterOfMass2D("d")
        beam.update({"d": values.astype(dtype)})
        results.append(repr(beam.result()))

    assert len(set(results)) == 1


def test_what_is_no_frame_is_rejected_and_has_no_center():
    beam = CenterOfMass2D("d")
    beam.update({"d": [[1, 2], [3, 4]]})

    with pytest.raises(RejectedValue, match="wanted a frame"):
        beam.update({"d": [1, 2]})

    assert math.isnan(beam.result()["d_com_y"])


@pytest.mark.parametrize(
    "arguments",
    [{"background": "none"}, {"background": math.nan}, {"threshold": math.inf}, {"threshold": "a"}, {"border": 0}],
)
def test_arguments_that_cannot_be_right_are_refused_at_once(arguments):
    with pytest.raises(PipelineValueError, match="wanted"):
        CenterOfMass2D("d", **arguments)


def test_units_are_told():
    described = CenterOfMass2D("d").describe({"d": {"units": "count"}})

    assert described["d_sigma_x"] == described["d_com_y"] == {"units": "pixel"}
    assert described["d_theta"] == {"units": "deg"}
    assert described["d_sum"] == {"units": "count"}


def test_real_frames_have_the_centers_of_scipy(data_folder):
    with h5py.File(data_folder / "frames_k11_tomo" / "k11-18014-imaging.h5") as file:
        frames = file["entry/detector/detector"][:300:10]

    events = [{"d": frame} for frame in frames]
    check_reduction(CenterOfMass2D("d"), events, lambda events: by_definition(events[-1]["d"]), rtol=1e-8)

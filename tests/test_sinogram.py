"""Sinogram: rows as they come, in an image of one size. RotationCenter: phantoms whose axis is known, and real frames."""

import math

import h5py
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import Kept
from test_real_frames import raw_run

from pipeline import Node, Pipeline
from pipeline.errors import PipelineRuntimeError, PipelineValueError, RejectedValue
from pipeline.reductions import Correct, RotationCenter, Sinogram
from pipeline.testing import check_reduction, make_run

NAN = math.nan


@pytest.fixture(scope="module")
def k11(data_folder):
    """Frames, angles and what each frame is (0: projection, 1: flat, 2: dark) of a real scan."""
    folder = data_folder / "frames_k11_tomo"
    with (
        h5py.File(folder / "k11-18014-imaging.h5") as imaging,
        h5py.File(folder / "k11-18014-pcompPanda.h5") as panda,
        h5py.File(folder / "k11-18014-image_key.h5") as keys,
    ):
        theta = panda["entry/gts_theta.value/gts_theta.value"][()]
        return imaging["entry/detector/detector"][()], theta, keys["entry/image_key/image_key"][()]


# sinograms ---------------------------------------------------------------------------------------------------------


def filled(rows, angles, n):
    image, beside = numpy.full((n, len(rows[0])), NAN, "f4"), numpy.full(n, NAN)
    image[: len(rows)], beside[: len(rows)] = rows[:n], angles[:n]
    return {"d_sinogram": image, "d_sinogram_angle": beside, "d_sinogram_n": len(rows[:n])}


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize(("row", "rows"), [(2, slice(2, 3)), ([1, 4], slice(1, 4))])
def test_a_sinogram_fills_row_by_row_and_keeps_its_size(dtype, row, rows):
    frames = numpy.random.default_rng(1).integers(0, 120, (5, 4, 7)).astype(dtype)
    angles = [10.0, 20.0, 15.0, -5.0, 360.0]

    def oracle(events):
        means = [event["d"][rows].astype(float).mean(0).astype("f4") for event in events]
        return filled(means, [event["a"] for event in events], 8)

    events = [{"d": frame, "a": angle} for frame, angle in zip(frames, angles, strict=True)]
    check_reduction(Sinogram("d", row, "a", n=8), events, oracle)


def test_what_is_not_finite_is_left_out_of_the_mean_of_rows():
    sinogram = Sinogram("d", [0, 2], "a", n=1)

    sinogram.update({"d": numpy.array([[1.0, NAN, NAN], [3.0, 5.0, math.inf]]), "a": 0})

    assert numpy.array_equal(sinogram.result()["d_sinogram"], [[2, 5, NAN]], equal_nan=True)


def test_its_size_is_that_of_the_start_document_unless_it_is_given():
    event = {"d": numpy.ones((2, 3)), "a": 1.0}
    for n, num_points, want in ((None, 6, 6), (4, 6, 4), (4, None, 4)):
        sinogram = Sinogram("d", 0, "a", n=n)
        sinogram.begin({"num_points": num_points})

        sinogram.update(event)

        assert sinogram.result()["d_sinogram"].shape == (want, 3)

    with pytest.raises(PipelineValueError, match="wanted num_points, but the start document has None"):
        Sinogram("d", 0, "a").begin({})
    with pytest.raises(PipelineRuntimeError, match="wanted n, or begin"):
        Sinogram("d", 0, "a").update(event)


def test_projections_over_that_are_counted_and_left_out():
    sinogram = Sinogram("d", 0, "a", n=2)

    for i in range(5):
        sinogram.update({"d": numpy.full((1, 2), i), "a": i})

    result = sinogram.result()
    assert result["d_sinogram"].tolist() == [[0, 0], [1, 1]]
    assert (result["d_sinogram_n"], result["d_sinogram_n_over"]) == (2, 3)


def test_a_series_is_one_projection_or_as_many_as_it_has_frames():
    series = numpy.random.default_rng(2).integers(0, 2**16, (3, 2, 4)).astype("u2")
    mean, total, each = (Sinogram("d", 1, "a", frames=frames) for frames in ("mean", "sum", "each"))

    for sinogram in (mean, total, each):
        sinogram.begin({"num_points": 2})
        angles = [0.0, 1.0, 2.0] if sinogram is each else 0.5
        check_reduction(sinogram, [{"d": series, "a": angles}] * 2)
        sinogram.update({"d": series, "a": angles})

    assert mean.result()["d_sinogram"][0] == pytest.approx(series[:, 1].mean(0), rel=1e-6)
    assert total.result()["d_sinogram"][0] == pytest.approx(series[:, 1].sum(0, dtype=int), rel=1e-6)
    assert each.result()["d_sinogram"].shape == (6, 4)
    assert each.result()["d_sinogram"][:3].tolist() == series[:, 1].tolist()
    assert each.result()["d_sinogram_angle"][:4].tolist()[:3] == [0, 1, 2]


def test_a_series_that_goes_over_the_size_is_cut():
    sinogram = Sinogram("d", 0, "a", n=4, frames="each")

    for _ in range(2):
        sinogram.update({"d": numpy.ones((3, 1, 2)), "a": [1, 2, 3]})

    assert (sinogram.result()["d_sinogram_n"], sinogram.result()["d_sinogram_n_over"]) == (4, 2)


@pytest.mark.parametrize(
    "event",
    [
        {"d": numpy.ones((3, 4)), "a": NAN},
        {"d": numpy.ones((3, 4)), "a": None},
        {"d": numpy.ones((3, 4)), "a": [1.0, 2.0]},
        {"d": numpy.ones((3, 4)), "a": "text"},
        {"d": numpy.ones((2, 4)), "a": 1.0},
        {"d": numpy.ones((3, 5)), "a": 1.0},
        {"d": numpy.ones((0, 3, 4)), "a": 1.0},
        {"d": 5.0, "a": 1.0},
    ],
)
def test_what_is_no_projection_with_its_angle_is_rejected_and_changes_nothing(event):
    sinogram = Sinogram("d", 2, "a", n=4)
    sinogram.update({"d": numpy.ones((3, 4)), "a": 1.0})
    before = repr(sinogram.state())

    with pytest.raises(RejectedValue, match="wanted"):
        sinogram.update(event)

    assert repr(sinogram.state()) == before


@pytest.mark.parametrize(
    "arguments",
    [{"row": -1}, {"row": [3, 3]}, {"row": [1, 2, 3]}, {"row": 1.5}, {"n": 0}, {"n": 2.0}, {"frames": "all"}],
)
def test_arguments_of_a_sinogram_that_cannot_be_right_are_refused_at_once(arguments):
    with pytest.raises((PipelineValueError, ValueError)):
        Sinogram(**{"field": "d", "row": 0, "angle": "a", **arguments})


def test_a_sinogram_is_emitted_with_its_angles_as_it_fills():
    kept = Kept()
    run = make_run(
        {"d": list(numpy.arange(24.0).reshape(4, 2, 3)), "a": [0.0, 1.0, 2.0, 3.0]},
        data_keys={"d": {"units": "count"}, "a": {"units": "deg"}},
        num_points=4,
    )

    Pipeline([Node("tomo", Sinogram("d", 1, "a"))], [kept]).replay(run)

    kept.check_valid()
    assert [row["d_sinogram_n"] for row in kept.events("running")] == [1, 2, 3, 4]
    assert kept.final()["d_sinogram"].tolist() == [[3, 4, 5], [9, 10, 11], [15, 16, 17], [21, 22, 23]]
    keys = kept.named("descriptor")[-1]["data_keys"]
    assert keys["d_sinogram"]["dims"] == ["d_sinogram_angle", "d_sinogram_x"]
    assert (keys["d_sinogram"]["units"], keys["d_sinogram_angle"]["units"]) == ("count", "deg")
    assert keys["d_sinogram"]["dtype_numpy"] == "<f4"


def test_a_real_scan_has_the_rows_of_its_frames(k11):
    frames, theta, _ = k11
    sinogram = Sinogram("d", 11, "a", n=3201)

    for frame, angle in zip(frames, theta, strict=True):
        sinogram.update({"d": frame[numpy.newaxis], "a": angle})

    assert numpy.array_equal(sinogram.result()["d_sinogram"], frames[:, 11])
    assert numpy.array_equal(sinogram.result()["d_sinogram_angle"], theta)


def test_a_real_scan_that_is_corrected_has_the_absorption_of_its_formula(data_folder, k11):
    frames, _, key = k11
    dark, flat = (frames[:100][key[:100] == which].mean(0) for which in (2, 1))
    transmission = (frames[key == 0].astype(float) - dark) / (flat - dark)
    references = {role: {"when": {"image_key": is_of}, "n": 50} for role, is_of in (("dark", 2), ("flat", 1))}
    kept = Kept()
    node = Node(
        "tomo",
        Correct("imaging", **references, mode="absorbance"),
        Sinogram("imaging_corrected", 11, "gts_theta", n=3001),
        RotationCenter("imaging_corrected", "gts_theta"),
        every=0,
    )

    Pipeline([node], [kept]).replay(raw_run(data_folder, "frames_k11_tomo/k11_stream.jsonl"))

    kept.check_valid()
    final = kept.final()
    assert final["imaging_corrected_sinogram_n"] == 3001
    assert final["imaging_corrected_sinogram"] == pytest.approx(-numpy.log(transmission[:, 11]), rel=1e-4, abs=1e-5)
    assert final["imaging_corrected_rotation_center"] == pytest.approx(12.47, abs=0.02)


# rotation centers --------------------------------------------------------------------------------------------------


def phantom(theta, center, shape=(20, 160), seed=3, blobs=12):
    """Projections of round blobs, about an axis at this column: exact at any angle."""
    rng = numpy.random.default_rng(seed)
    radius, phase = rng.uniform(0, 45, blobs), rng.uniform(0, 360, blobs)
    width, height, row = rng.uniform(2, 6, blobs), rng.uniform(0.2, 1, blobs), rng.uniform(0, shape[0], blobs)
    y, x = numpy.mgrid[: shape[0], : shape[1]].astype(float)
    place = center + radius * numpy.cos(numpy.radians(phase + theta))
    return sum(
        h * numpy.exp(-((x - p) ** 2 + (y - r) ** 2) / (2 * w * w))
        for h, p, r, w in zip(height, place, row, width, strict=True)
    )


@given(st.floats(55, 105), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_the_axis_of_a_phantom_is_found_within_some_hundredths_of_a_pixel(center, seed):
    found = RotationCenter("d", "a")

    for theta in (0.0, 90.0, 180.0):
        found.update({"d": phantom(theta, center + 20, (20, 200), seed), "a": theta})  # with all its blobs in the frame

    assert found.result()["d_rotation_center"] == pytest.approx(center + 20, abs=0.03)
    assert found.result()["d_rotation_score"] == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f4"])
def test_counts_with_noise_give_it_within_a_quarter_of_a_pixel(dtype):
    rng = numpy.random.default_rng(4)
    found = RotationCenter("d", "a")

    for theta in (0.0, 180.0):
        counts = rng.poisson(150 * numpy.exp(-phantom(theta, 71.3) / 2)).clip(0, 255)
        found.update({"d": counts.astype(dtype), "a": theta})

    assert found.result()["d_rotation_center"] == pytest.approx(71.3, abs=0.25)
    assert 0.5 < found.result()["d_rotation_score"] < 1


def test_offset_scale_and_what_is_not_finite_do_not_matter():
    found = RotationCenter("d", "a", bands=20)
    one, other = phantom(0, 88.6), 7 * phantom(180, 88.6) + 1000
    one[3, 10:60], other[:, 100], other[7] = NAN, math.inf, NAN

    found.update({"d": one, "a": 0})
    found.update({"d": other, "a": 180})

    assert found.result()["d_rotation_center"] == pytest.approx(88.6, abs=0.05)


def test_nothing_is_told_before_both_projections_are_there():
    found = RotationCenter("d", "a", tolerance=1)
    assert found.result() is None

    for theta in (10, 20, 100, 188.9, 191.1, 370):
        found.update({"d": phantom(theta, 80), "a": theta})
        assert all(map(math.isnan, found.result().values()))
    found.update({"d": phantom(190, 80), "a": 190})

    assert found.result()["d_rotation_center"] == pytest.approx(80, abs=0.02)


def test_the_projection_nearest_to_half_a_turn_counts():
    found = RotationCenter("d", "a", tolerance=2)
    centers, aparts = [], []

    for theta in (-90, 88.5, 89.6, 90.2, 91.4):
        found.update({"d": phantom(theta, 80), "a": theta})
        centers.append(found.result()["d_rotation_center"])
        aparts.append(found.result()["d_rotation_apart"])

    assert aparts[1:] == pytest.approx([178.5, 179.6, 180.2, 180.2])
    assert centers[4] == centers[3] == pytest.approx(80, abs=0.3)


@pytest.mark.parametrize(("first", "angles"), [(0, (45, 0.1, 100, 180.1)), (90, (45, 89.8, -90.2)), (-180, (180, 0))])
def test_the_first_projection_may_be_told_and_scans_go_either_way(first, angles):
    found = RotationCenter("d", "a", first=first)

    for theta in angles:
        found.update({"d": phantom(theta, 77.25), "a": theta})

    assert found.result()["d_rotation_center"] == pytest.approx(77.25, abs=0.02)
    assert found.result()["d_rotation_apart"] == pytest.approx(180)


def test_frames_between_are_not_read():
    class Unread(dict):
        def __missing__(self, field):
            raise AssertionError(f"{field} was read")

    found = RotationCenter("d", "a")
    found.update({"d": phantom(0, 80), "a": 0})

    found.update(Unread(a=90.0))

    assert math.isnan(found.result()["d_rotation_center"])


def test_it_keeps_the_laws_and_takes_series():
    events = [{"d": numpy.array([phantom(t, 80)] * 2), "a": t} for t in (0, 45, 90, 180, 180.2)]

    for frames in ("mean", "sum"):
        check_reduction(
            RotationCenter("d", "a", frames=frames),
            events,
            lambda es: {"d_rotation_center": 80.0 if len(es) > 3 else NAN},
            rtol=3e-4,
        )


def test_a_region_leaves_out_what_does_not_turn():
    still = numpy.zeros((20, 160))
    still[:8] = 30 * numpy.exp(-((numpy.arange(160) - 79.5) ** 2) / 18)
    whole, part = RotationCenter("d", "a"), RotationCenter("d", "a", region=[8, 20, 10, 999])

    for theta in (0, 180):
        for found in (whole, part):
            found.update({"d": phantom(theta, 71.3) + still, "a": theta})

    assert whole.result()["d_rotation_center"] == pytest.approx(79.5, abs=0.1)
    assert part.result()["d_rotation_center"] == pytest.approx(71.3, abs=0.05)


@pytest.mark.parametrize("frame", [numpy.ones((4, 30)), numpy.full((4, 30), NAN), numpy.ones((4, 1))])
def test_projections_without_features_have_no_axis(frame):
    found = RotationCenter("d", "a")

    for theta in (0, 180):
        found.update({"d": frame, "a": theta})

    assert math.isnan(found.result()["d_rotation_center"])
    assert math.isnan(found.result()["d_rotation_score"])


def test_what_is_no_projection_is_rejected():
    found = RotationCenter("d", "a")
    for event in ({"d": [1.0], "a": 0}, {"d": numpy.ones((2, 3)), "a": NAN}, {"d": numpy.ones((0, 2, 3)), "a": 0}):
        with pytest.raises(RejectedValue, match="wanted"):
            found.update(event)
    found.update({"d": numpy.ones((2, 3)), "a": 0})

    with pytest.raises(RejectedValue, match="wanted a projection as the first"):
        found.update({"d": numpy.ones((2, 4)), "a": 180})
    with pytest.raises(RejectedValue, match="wanted something in the region"):
        RotationCenter("d", "a", region=[5, 9, 0, 2]).update({"d": numpy.ones((2, 4)), "a": 180})


@pytest.mark.parametrize(
    "arguments", [{"tolerance": -1}, {"tolerance": 90}, {"bands": 0}, {"frames": "each"}, {"region": [0]}]
)
def test_arguments_of_a_rotation_center_that_cannot_be_right_are_refused_at_once(arguments):
    with pytest.raises(PipelineValueError, match="wanted"):
        RotationCenter("d", "a", **arguments)


def test_units_of_a_rotation_center_are_told():
    described = RotationCenter("d", "a").describe({})

    assert described["d_rotation_center"] == {"units": "pixel"}
    assert described["d_rotation_apart"] == {"units": "deg"}


def by_least_squares(one, other):
    """The oracle: the column about which the mirrored image differs least, by interpolation and trial."""
    x = numpy.arange(one.shape[1], dtype=float)

    def difference(column):
        mirrored = numpy.array([numpy.interp(2 * column - x, x, row, left=NAN, right=NAN) for row in other])
        return numpy.nanmean((one - mirrored) ** 2)

    trials = numpy.arange(x[-1] / 4, 3 * x[-1] / 4, 0.05)
    return trials[numpy.argmin([difference(column) for column in trials])]


def test_the_axis_of_a_real_scan_is_where_the_mirrored_projection_differs_least(data_folder, k11):
    frames, theta, key = k11
    reference = numpy.load(data_folder / "frames_k11_tomo" / "k11_reference.npz")
    dark, flat = reference["dark_mean"], reference["flat_mean"]
    absorption = -numpy.log((frames[key == 0] - dark) / (flat - dark))
    found = RotationCenter("d", "a")

    for frame, angle in zip(absorption, theta[key == 0], strict=True):
        found.update({"d": frame, "a": angle})

    result = found.result()
    assert result["d_rotation_apart"] == pytest.approx(180, abs=1e-3)
    # 26 columns, cropped out of a sample that is wider: the score is low, and the two agree to a fifth of a pixel
    assert result["d_rotation_center"] == pytest.approx(by_least_squares(absorption[0], absorption[-1]), abs=0.2)

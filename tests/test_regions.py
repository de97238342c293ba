"""Regions: numpy's numbers of each region, clipped at the edges, of spectra, frames and series."""

import math

import h5py
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from pipeline.errors import PipelineOSError, PipelineValueError, RejectedValue
from pipeline.reductions import Regions
from pipeline.sources import read_jsonl
from pipeline.testing import check_reduction

NAN = math.nan
floats = st.floats(-1e6, 1e6) | st.sampled_from([NAN, math.inf, -math.inf])
bound = st.integers(-3, 9)
pair = st.tuples(bound, bound).map(sorted)


def numbers(values, mask, prefix):
    """The oracle: over a mask of the whole frame, by plain numpy in wide types, and scipy's centre of mass."""
    wide = values.astype(object) if values.dtype.kind != "f" else values.astype(float)
    known = mask & numpy.isfinite(values)
    part = wide[known]
    n = int(known.sum())
    right = {f"{prefix}_n": n, f"{prefix}_sum": float(sum(part)) if n else NAN}
    right |= {f"{prefix}_mean": float(sum(part) / n) if n else NAN, f"{prefix}_max": float(max(part)) if n else NAN}
    return right


def center(values, mask, prefix):
    known = numpy.where(mask & numpy.isfinite(values), values, 0).astype(float)
    names = ["com"] if values.ndim == 1 else ["com_y", "com_x"]
    found = ndimage.center_of_mass(known) if known.sum() > 0 else [NAN] * len(names)
    return {f"{prefix}_{name}": value for name, value in zip(names, found, strict=True)}


def mask_of(shape, bounds):
    mask = numpy.zeros(shape, bool)
    mask[tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(bounds[::2], bounds[1::2], strict=True))] = True
    return mask


@given(
    st.sampled_from(["u1", "i2", "u4", "i8", "u8", "bool", "f4", "f8"]).flatmap(
        lambda dtype: arrays.arrays(
            dtype, (3, 5), elements=floats.map(numpy.float32).map(float) if dtype[0] == "f" else None
        )
    ),
    pair,
)
@settings(max_examples=150, deadline=None)
def test_regions_of_spectra_are_numpys(spectra, bounds):
    def oracle(events):
        values = events[-1]["s"]
        return numbers(values, mask_of(5, bounds), "s_a")

    check_reduction(Regions("s", {"a": bounds}), [{"s": row} for row in spectra], oracle, rtol=1e-9)


@given(arrays.arrays("u2", (2, 6, 7)), pair, pair)
@settings(max_examples=100, deadline=None)
def test_regions_of_frames_are_numpys_and_centres_scipys(frames, y, x):
    bounds = [*y, *x]

    def oracle(events):
        frame = events[-1]["cam"]
        mask = mask_of((6, 7), bounds)
        return numbers(frame, mask, "cam_a") | center(frame, mask, "cam_a")

    check_reduction(Regions("cam", {"a": bounds}), [{"cam": frame} for frame in frames], oracle)


def test_what_is_not_finite_is_left_out_of_everything():
    regions = Regions("s", {"a": [0, 4]})

    regions.update({"s": [1.0, NAN, math.inf, 3.0, 100.0]})

    assert regions.result() == {"s_a_sum": 4.0, "s_a_mean": 2.0, "s_a_max": 3.0, "s_a_com": 2.25, "s_a_n": 2}


@pytest.mark.parametrize("bounds", [[2, 2], [7, 9], [-5, -1], [-5, 0]])
def test_a_region_with_nothing_in_it_has_no_numbers(bounds):
    regions = Regions("s", {"a": bounds}, background="border")

    regions.update({"s": [1.0, 2.0, 3.0]})

    result = regions.result()
    assert result.pop("s_a_n") == 0
    bkg = result.pop("s_a_bkg")
    assert math.isnan(bkg) or bounds in ([2, 2], [-5, 0])
    assert all(map(math.isnan, result.values()))


def test_bounds_are_clipped_and_n_says_how_many_are_left():
    regions = Regions("cam", {"a": [-2, 2, 1, 99]}, statistic="sum")

    regions.update({"cam": numpy.ones((3, 4))})

    assert regions.result() == {"cam_a_sum": 6.0, "cam_a_n": 6}


def test_sums_of_integers_do_not_wrap_nor_round():
    regions = Regions("s", {"a": [0, 4]}, statistic=["sum"])

    regions.update({"s": numpy.array([2**64 - 1, 2**64 - 1, 1, 1], "u8")})

    assert regions.result()["s_a_sum"] == 2.0**65


def test_a_center_of_nothing_positive_is_nan():
    regions = Regions("s", {"a": [0, 3]}, statistic=["com"])

    for values in ([0, 0, 0], [1.0, -3.0, 1.0]):
        regions.update({"s": values})
        assert math.isnan(regions.result()["s_a_com"])


@pytest.mark.parametrize("width", [1, 2])
def test_the_border_is_what_surrounds_a_region(width):
    rng = numpy.random.default_rng(5)
    frames = rng.normal(10, 1, (4, 9, 9))
    frames[1, 3, 2] = NAN

    def oracle(events):
        frame = events[-1]["cam"]
        outer, inner = mask_of((9, 9), [3 - width, 6 + width, 4 - width, 9]), mask_of((9, 9), [3, 6, 4, 9])
        level = numpy.nanmean(frame[outer & ~inner])
        part = frame[inner] - level
        right = {"cam_a_bkg": level, "cam_a_sum": part.sum(), "cam_a_mean": part.mean(), "cam_a_max": part.max()}
        return right | center(frame - level, inner, "cam_a")

    regions = Regions("cam", {"a": [3, 6, 4, 12]}, background="border", border=width)
    check_reduction(regions, [{"cam": frame} for frame in frames], oracle, rtol=1e-9)


def test_a_region_without_a_border_has_no_background_and_no_net_sum():
    regions = Regions("s", {"a": [0, 3]}, background="border")

    regions.update({"s": [1.0, 2.0, 3.0]})

    result = regions.result()
    assert result.pop("s_a_n") == 3
    assert all(map(math.isnan, result.values()))


def test_a_flat_background_is_taken_off_a_peak():
    regions = Regions("s", {"a": [3, 6]}, background="border", border=2)

    regions.update({"s": numpy.array([7, 7, 7, 8, 9, 8, 7, 7, 7], "u2")})

    want = {
        "s_a_sum": 4.0,
        "s_a_mean": pytest.approx(4 / 3),
        "s_a_max": 2.0,
        "s_a_com": 4.0,
        "s_a_n": 3,
        "s_a_bkg": 7.0,
    }
    assert regions.result() == want


def test_a_series_is_summed_averaged_or_taken_frame_by_frame():
    series = numpy.arange(2 * 3 * 4, dtype="u2").reshape(2, 3, 4)
    part = series[:, 1:3, 0:2].astype(float)
    want = {"sum": part.sum(), "mean": part.sum() / 2, "each": part.sum((1, 2))}

    for frames, right in want.items():
        regions = Regions("cam", {"a": [1, 3, 0, 2]}, frames=frames, statistic=["sum"])
        check_reduction(
            regions, [{"cam": series}] * 2, lambda events, right=right: {"cam_a_sum": right, "cam_n_frames": 2}
        )


@pytest.mark.parametrize("value", [1.0, numpy.zeros((1, 1, 1)), ["a"], [[1], [2, 3]], numpy.zeros((0, 4)), None])
def test_what_is_neither_a_spectrum_nor_a_series_is_rejected(value):
    regions = Regions("s", {"a": [0, 2]})
    regions.update({"s": [1, 2, 3]})

    with pytest.raises(RejectedValue, match="wanted"):
        regions.update({"s": value})

    assert regions.result()["s_a_n"] == 0
    assert math.isnan(regions.result()["s_a_sum"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"rois": {}}, "at least one region"),
        ({"rois": {"a": [3, 1]}}, "'a' is \\[3, 1\\]; wanted \\[start, stop\\]"),
        ({"rois": {"a": [1, 2, 3]}}, "wanted \\[start, stop\\]"),
        ({"rois": {"a": [1.0, 2.0]}}, "wanted \\[start, stop\\]"),
        ({"rois": {"a": 3}}, "wanted \\[start, stop\\]"),
        ({"rois": {"a.b": [1, 2]}}, "without '.' and '/'"),
        ({"rois": {"a": [1, 2], "b": [1, 2, 3, 4]}}, "wanted one kind"),
        ({"statistic": ["total"]}, "statistic has 'total'"),
        ({"background": "edge"}, "background has 'edge'"),
        ({"frames": "all"}, "frames has 'all'"),
        ({"border": 0}, "border is 0"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused_at_once(arguments, reason):
    with pytest.raises(PipelineValueError, match=reason):
        Regions(**{"field": "s", "rois": {"a": [0, 1]}, **arguments})


def test_units_are_those_of_the_field():
    described = Regions("s", {"a": [0, 1]}).describe({"s": {"units": "count"}})

    assert described["s_a_sum"] == described["s_a_bkg"] == {"units": "count"}
    assert described["s_a_com"] == {"units": "pixel"}


# frames of a detector: kernels -------------------------------------------------------------------------------------


def detector_frames(dtype="u2"):
    rng = numpy.random.default_rng(8)
    return [rng.poisson(200, (300, 310)).astype(dtype) for _ in range(3)]


SQUARES = {f"r{i}": [10 * i, 10 * i + 50, 12 * i, 12 * i + 50] for i in range(20)}


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4"])
@pytest.mark.parametrize("background", ["none", "border"])
def test_many_regions_of_a_frame_are_numpys(dtype, background):
    def oracle(events):
        right = {}
        for name, bounds in SQUARES.items():
            frame, inner = events[-1]["cam"].astype(float), mask_of((300, 310), bounds)
            if background == "border":
                wide = [bounds[0] - 1, bounds[1] + 1, bounds[2] - 1, bounds[3] + 1]
                frame = frame - frame[mask_of((300, 310), wide) & ~inner].mean()
            right |= numbers(frame, inner, f"cam_{name}") | center(frame, inner, f"cam_{name}")
        return right

    regions = Regions("cam", SQUARES, background=background)
    events = [{"cam": frame} for frame in detector_frames(dtype)]
    check_reduction(regions, events, oracle, rtol=1e-12 if background == "none" else 1e-8)


@pytest.mark.parametrize("frames", ["sum", "mean"])
@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_a_frame_that_comes_as_a_series_of_one_is_that_frame(frames, dtype):
    one, other = Regions("cam", SQUARES), Regions("cam", SQUARES, frames=frames)

    for frame in detector_frames(dtype):
        one.update({"cam": frame})
        other.update({"cam": frame[None]})

        assert other.result() == {**one.result(), "cam_n_frames": 1}


def test_regions_without_numba_have_the_same_numbers(monkeypatch):
    for dtype in ("u2", "u4", "f4", "f8"):
        one, other = Regions("cam", SQUARES, background="border"), Regions("cam", SQUARES, background="border")
        frame = detector_frames(dtype)[0]

        one.update({"cam": frame})
        with monkeypatch.context() as context:
            context.setenv("BLUESKY_PIPELINE_NO_NUMBA", "1")
            other.update({"cam": frame})

        assert repr(one.result()) == repr(other.result())


def test_labels_of_a_large_frame_are_scipys(tmp_path):
    labels = (numpy.hypot(*numpy.mgrid[-150:150, -155:155]) // 20).astype("u2")
    numpy.save(tmp_path / "rings.npy", labels)
    regions, frame = Regions("cam", str(tmp_path / "rings.npy"), statistic=["sum", "max"]), detector_frames()[0]

    regions.update({"cam": frame})

    names = range(1, labels.max() + 1)
    result = regions.result()
    assert [result[f"cam_{name}_sum"] for name in names] == ndimage.sum(frame, labels, names).tolist()
    assert [result[f"cam_{name}_max"] for name in names] == ndimage.maximum(frame, labels, names).tolist()


# files of labels ---------------------------------------------------------------------------------------------------


def labels_file(folder):
    labels = numpy.zeros((4, 5), "i2")
    labels[0, :3], labels[2:, 4], labels[1, 1] = 1, 7, -1
    numpy.save(folder / "labels.npy", labels)
    return labels, str(folder / "labels.npy")


def test_labels_are_regions_by_number(tmp_path):
    labels, path = labels_file(tmp_path)
    rng = numpy.random.default_rng(6)
    frames = rng.normal(5, 2, (5, 4, 5))
    frames[2, 0, 0] = NAN

    def oracle(events):
        right = {}
        for label in (1, 7):
            frame = events[-1]["cam"]
            right |= numbers(frame, labels == label, f"cam_{label}") | center(frame, labels == label, f"cam_{label}")
        return right

    check_reduction(Regions("cam", path), [{"cam": frame} for frame in frames], oracle, rtol=1e-12)


def test_a_file_of_labels_is_part_of_the_recipe_by_its_sha256(tmp_path):
    _, path = labels_file(tmp_path)

    digest = Regions("cam", path).arguments["sha256"]

    assert Regions("cam", path, sha256=digest).arguments["sha256"] == digest
    numpy.save(path, numpy.ones((4, 5), int))
    with pytest.raises(PipelineValueError, match=f"wanted {digest}: the file was changed"):
        Regions("cam", path, sha256=digest)


def test_a_state_of_another_file_of_labels_is_refused(tmp_path):
    _, path = labels_file(tmp_path)
    regions = Regions("cam", path)
    numpy.save(path, numpy.ones((4, 5), int))

    with pytest.raises(PipelineValueError, match="wanted a state of arguments"):
        Regions("cam", path).restore(regions.state())


def test_files_that_are_no_labels_are_refused(tmp_path):
    numpy.save(tmp_path / "floats.npy", numpy.ones((3, 3)))
    numpy.savez(tmp_path / "two.npz", a=numpy.ones(3, int), b=numpy.ones(3, int))
    numpy.save(tmp_path / "objects.npy", numpy.array([{}], dtype=object))
    (tmp_path / "labels.tif").write_bytes(b"II")

    for name, reason in (
        ("floats.npy", "wanted whole numbers"),
        ("two.npz", r"has the arrays \['a', 'b'\]"),
        ("objects.npy", "Object arrays cannot be loaded"),
        ("labels.tif", "its name ends in '.tif'"),
    ):
        with pytest.raises(PipelineValueError, match=reason):
            Regions("cam", str(tmp_path / name))
    with pytest.raises(PipelineOSError, match="No such file"):
        Regions("cam", str(tmp_path / "none.npy"))
    with pytest.raises(PipelineValueError, match="of a file of labels"):
        Regions("cam", labels_file(tmp_path)[1], background="border")


def test_a_frame_of_another_shape_than_the_labels_is_rejected(tmp_path):
    regions = Regions("cam", labels_file(tmp_path)[1])

    with pytest.raises(RejectedValue, match=r"2 axes, \[4, 5\]"):
        regions.update({"cam": numpy.zeros((5, 4))})


# real data ---------------------------------------------------------------------------------------------------------


def test_the_regions_of_real_spectra_are_those_of_the_reference(data_folder):
    folder = data_folder / "facility_streams"
    want = numpy.load(folder / "xspress3mini-dump20_reference.npz")
    regions = Regions("xspress3_spectra", {"a": [800, 1000], "all": [0, 4096]}, frames="each", statistic=["sum"])
    found = []

    for name, doc in read_jsonl(folder / "xspress3mini-dump20.jsonl"):
        if name == "event":
            regions.update(doc["data"])
            found.append(regions.result())

    assert len(found) == 22
    assert numpy.array_equal([row["xspress3_spectra_a_sum"] for row in found], want["roi_800_1000"])
    assert numpy.array_equal([row["xspress3_spectra_all_sum"].sum() for row in found], want["frame_total"])


def test_the_region_of_3201_real_frames_is_that_of_the_reference(data_folder):
    folder = data_folder / "frames_k11_tomo"
    want = numpy.load(folder / "k11_reference.npz")["roi_5_15_8_20_sum"]
    regions = Regions("imaging", {"a": [5, 15, 8, 20]}, statistic=["sum"])
    found = []
    with h5py.File(folder / "k11-18014-imaging.h5") as file:
        datasets = []
        file.visititems(
            lambda _, item: datasets.append(item) if isinstance(item, h5py.Dataset) and item.ndim == 3 else None
        )
        (frames,) = datasets
        for frame in frames[:]:
            regions.update({"imaging": frame})
            found.append(regions.result()["imaging_a_sum"])

    assert len(found) == 3201
    assert numpy.array_equal(found, want)

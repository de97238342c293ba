"""MultiTau: scikit-beam's correlation at every prefix, its definition, the theory of speckle, and bad frames."""

import copy
import math
from fractions import Fraction

import h5py
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from kept import Kept
from test_real_frames import raw_run

from pipeline import Node, Pipeline
from pipeline.errors import PipelineOSError, PipelineValueError, RejectedValue
from pipeline.reductions import MultiTau, correlator_kernels
from pipeline.reductions.compiled import NO_NUMBA
from pipeline.reductions.labelled_pixels import LANES, LabelledPixels
from pipeline.reductions.rectangle import Rectangle
from pipeline.testing import check_reduction, make_run

NAN = math.nan
BOXES = [[0, 2, 0, 3], [1, 4, 2, 5]]  # which overlap
SHAPE = (4, 5)


@pytest.fixture
def speckle(data_folder):
    with h5py.File(data_folder / "frames_synth_xpcs" / "xpcs_public.h5") as file:
        return file["entry/data/data"][()]


@pytest.fixture
def labels_file(data_folder):
    return str(data_folder / "frames_synth_xpcs" / "labels.npy")


@pytest.fixture(params=["numba", "numpy"])
def with_or_without(request, monkeypatch):
    """Kernels for frames of any size, or none at all."""
    monkeypatch.setattr(correlator_kernels, "WORTH", 0)
    if request.param == "numpy":
        monkeypatch.setenv(NO_NUMBA, "1")
    else:
        pytest.importorskip("numba", reason="numba is not here")


def masks(boxes, shape):
    found = []
    for y0, y1, x0, x1 in boxes:
        mask = numpy.zeros(shape, bool)
        mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
        found.append(mask)
    return found


def by_definition(frames, regions, levels, buffers):
    """The oracle: g2 and numbers of pairs by exact fractions, over all pairs, from frames (None is a bad one)."""
    rows, n_pairs = [], []
    series = [None if frame is None else frame.astype(object) for frame in frames]
    for level in range(levels):
        for lag in range(buffers // 2 if level else 0, buffers):
            pairs = [(a, b) for a, b in zip(series, series[lag:], strict=False) if a is not None and b is not None]
            n_pairs.append(len(pairs))
            rows.append([g2(pairs, mask) for mask in regions])
        halves = zip(series[::2], series[1::2], strict=False)
        series = [None if a is None or b is None else a + b for a, b in halves]
    return numpy.array(rows), n_pairs


def g2(pairs, mask):
    n = len(pairs) * int(mask.sum())
    both = sum(int(x) * int(y) for a, b in pairs for x, y in zip(a[mask], b[mask], strict=True))
    past, future = (sum(int(x) for pair in pairs for x in pair[i][mask]) for i in (0, 1))
    return float(Fraction(n * both, past * future)) if past and future else NAN


def result_by_definition(events, **how):
    frames = [None if numpy.isnan(event["d"]).any() else event["d"] for event in events]
    found, n_pairs = by_definition(frames, masks(BOXES, SHAPE), **how)
    return {"d_g2": found, "d_n_pairs": n_pairs, "d_n_bad": sum(frame is None for frame in frames)}


@pytest.mark.parametrize(("levels", "buffers"), [(1, 2), (3, 4), (4, 6), (2, 12)])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "u4", "i8", "f4", "f8"])
def test_the_correlation_is_what_its_definition_says(levels, buffers, dtype):
    rng = numpy.random.default_rng(1)
    frames = rng.integers(0, 90, (40, *SHAPE)).astype(dtype)

    check_reduction(
        MultiTau("d", BOXES, 0.5, levels, buffers),
        [{"d": frame} for frame in frames],
        lambda events: result_by_definition(events, levels=levels, buffers=buffers),
        rtol=1e-15,
    )


@given(
    arrays.arrays("i2", (12, *SHAPE), elements=st.integers(-(2**15), 2**15 - 1)),
    st.sets(st.integers(0, 11), max_size=4),
)
@settings(max_examples=30, deadline=None)
def test_frames_with_nan_keep_their_place_and_are_left_out_of_all_levels(frames, bad):
    events = [{"d": frame.astype(float)} for frame in frames]
    for i in bad:
        events[i]["d"][1, 2] = [NAN, math.inf, -math.inf][i % 3]

    def oracle(events):
        known = [{"d": numpy.where(numpy.isinf(event["d"]), NAN, event["d"])} for event in events]
        return result_by_definition(known, levels=3, buffers=4)

    check_reduction(MultiTau("d", BOXES, 1, 3, 4), events, oracle, rtol=1e-14)


def test_it_agrees_with_scikit_beam_at_every_prefix(speckle, labels_file):
    peer = pytest.importorskip("skbeam.core.correlation", reason="scikit-beam is not here")
    correlation = MultiTau("det", labels_file, 0.01, levels=4)
    labels = numpy.load(labels_file)

    for frame, found in zip(speckle, peer.lazy_one_time(iter(speckle), 4, 8, labels), strict=True):
        correlation.update({"det": frame})
        ours = correlation.result()["det_g2"]
        assert numpy.allclose(ours[: len(found.g2)], found.g2, rtol=4e-15, atol=0)
        assert numpy.isnan(ours[len(found.g2) :]).all()


def test_it_leaves_out_bad_frames_as_scikit_beam_does(speckle, labels_file):
    peer = pytest.importorskip("skbeam.core.correlation", reason="scikit-beam is not here")
    frames = speckle[:150].astype(float)
    frames[[3, 4, 50, 77, 149]] = NAN
    correlation = MultiTau("det", labels_file, 0.01, levels=4)

    for frame in frames:
        correlation.update({"det": frame})

    want, _ = peer.multi_tau_auto_corr(4, 8, numpy.load(labels_file), frames)
    assert numpy.allclose(correlation.result()["det_g2"][: len(want)], want, rtol=1e-14, atol=0)
    assert correlation.result()["det_n_bad"] == 5


def test_it_gives_the_stored_numbers_of_scikit_beam(data_folder, speckle, labels_file):
    reference = numpy.load(data_folder / "frames_synth_xpcs" / "reference.npz")
    correlation = MultiTau("det", labels_file, 0.01, levels=4)

    correlation.update({"det": speckle})  # all frames in one event

    assert numpy.allclose(correlation.result()["det_g2"], reference["skbeam_multitau_g2"], rtol=4e-15, atol=0)
    assert numpy.allclose(correlation.axes()["det_lag"], reference["skbeam_multitau_lags"] * 0.01, rtol=1e-15)


def test_speckle_of_a_known_rate_decays_as_theory_says(data_folder, speckle, labels_file):
    reference = numpy.load(data_folder / "frames_synth_xpcs" / "reference.npz")
    correlation = MultiTau("det", labels_file, 1.0, levels=3)
    correlation.update({"det": speckle})

    lags, found = correlation.axes()["det_lag"], correlation.result()["det_g2"]

    for i, gamma in enumerate((0.02, 0.08)):  # one mode: 1 + exp(-2 gamma lag)
        single = slice(1, 8)  # lag 0 has the noise of counting, longer lags are of averages
        theory = 1 + numpy.exp(-2 * gamma * lags[single])
        assert numpy.abs(found[single, i] - theory).max() < 0.08
        assert numpy.allclose(theory, numpy.interp(lags[single], reference["lags"], reference[f"g2_theory_{i + 1}"]))
        contrast = numpy.log((found[1, i] - 1) / (found[7, i] - 1))
        assert contrast / (2 * 6) == pytest.approx(gamma, rel=0.15)


def test_a_run_of_external_frames_has_that_correlation(data_folder, labels_file):
    reference = numpy.load(data_folder / "frames_synth_xpcs" / "reference.npz")
    kept = Kept()
    node = Node("xpcs", MultiTau("det", labels_file, dt=0.01, levels=4), every=0)

    Pipeline([node], [kept]).replay(raw_run(data_folder, "frames_synth_xpcs/xpcs_stream.jsonl"))

    kept.check_valid()
    final, (axes,) = kept.final(), kept.events("axes")
    assert numpy.allclose(final["det_g2"], reference["skbeam_multitau_g2"], rtol=4e-15, atol=0)
    assert final["det_n_pairs"][:9].tolist() == [300, 299, 298, 297, 296, 295, 294, 293, 146]
    assert axes["det_lag"][-1] == pytest.approx(56 * 0.01)
    assert axes["det_region"].tolist() == [1, 2]
    recipe = kept[0][1]["analysis"]["recipe"]
    assert len(recipe["reductions"][0]["arguments"]["sha256"]) == 64


KEPT_IN = {"u1": "i2", "bool": "i2", "i2": "i2", "u2": "i4", "i4": "i4"}  # by what there can be; all else in float64


@pytest.mark.parametrize("dtype", [*KEPT_IN, "u4", "i8", "u8", "f2", "f4", "f8"])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_kernels_and_their_twins_give_the_same_bits(dtype, data):
    pytest.importorskip("numba", reason="numba is not here")
    limits = {"elements": st.floats(-1e3, 1e3, width=16)} if dtype[0] == "f" else {}
    frame = data.draw(arrays.arrays(dtype, (9, 31), **limits))
    corners = data.draw(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 30)), min_size=1, max_size=4))
    pixels = LabelledPixels.of_rectangles([Rectangle(y, 9, x, 31) for y, x in [*corners, (9, 0)]], (9, 31))
    found = []

    for worth in (0, 10**9):
        ring = numpy.zeros((2, pixels.n_rows * LANES), KEPT_IN.get(dtype, "f8"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(correlator_kernels, "WORTH", worth)
            largest = [
                correlator_kernels.gather(f, pixels.places, pixels.targets, out)
                for f, out in zip((frame, frame[::-1]), ring, strict=True)
            ]
            rows = ring.reshape(2, -1, LANES)
            totals = correlator_kernels.sums(rows[1], pixels.starts)
            pairs = correlator_kernels.products(rows, 1, numpy.array([1, 0, 1]), pixels.starts)
        found.append(
            (largest, ring.tobytes(), (totals + 0.0).tobytes(), (pairs + 0.0).tobytes())
        )  # there are two zeros

    assert found[0] == found[1]
    taken = [int(value) for value in numpy.nan_to_num(frame).ravel()[pixels.places]]
    is_any = dtype[0] == "f" or dtype == "u8"
    assert found[0][0][0] == (64 if is_any else max((v if v >= 0 else ~v).bit_length() for v in taken))


@pytest.mark.usefixtures("with_or_without")
def test_frames_of_any_size_are_correlated_with_numba_and_without(speckle, labels_file, data_folder):
    reference = numpy.load(data_folder / "frames_synth_xpcs" / "reference.npz")
    correlation = MultiTau("det", labels_file, 0.01, levels=4)

    for frame in speckle:
        correlation.update({"det": frame})

    assert numpy.allclose(correlation.result()["det_g2"], reference["skbeam_multitau_g2"], rtol=4e-15, atol=0)


@pytest.mark.parametrize(
    "late",
    [
        numpy.array([[2**31, 1]], "u4"),
        numpy.array([[2**64 - 1, 1]], "u8"),
        numpy.array([[-(2**63), 1]], "i8"),
        numpy.array([[-(2**15), 1]], "i2"),
        numpy.array([[2**23, 5]]),
        numpy.array([[0.5, 1]]),
    ],
)
@pytest.mark.parametrize("largest", [9, 2**13, 2**16])
def test_what_is_kept_becomes_wider_when_values_need_it_and_nothing_else_changes(late, largest):
    rng = numpy.random.default_rng(2)
    frames = list(rng.integers(0, largest, (11, 1, 2)).astype("u2"))
    narrow, wide = MultiTau("d", [[0, 1, 0, 2]], 1, 3, 4), MultiTau("d", [[0, 1, 0, 2]], 1, 3, 4)

    for frame in [*frames, late, *frames]:
        narrow.update({"d": frame})
        wide.update({"d": frame.astype(float)})

    assert narrow.result()["d_g2"].tobytes() == wide.result()["d_g2"].tobytes()
    check_reduction(MultiTau("d", [[0, 1, 0, 2]], 1, 3, 4), [{"d": frame} for frame in [*frames, late, *frames]])


@pytest.mark.parametrize(("value", "dtype", "sizes"), [(100, "u2", [2, 2]), (20000, "u2", [2, 4]), (1, "f4", [8, 8])])
def test_counts_are_kept_in_few_bytes(value, dtype, sizes):
    correlation = MultiTau("d", [[0, 99, 0, 99]], 1, levels=2)
    for _ in range(2):
        correlation.update({"d": numpy.full((200, 200), value, dtype)})

    rings = [level.ring for level in correlation._correlator._levels]

    assert [ring.dtype.itemsize for ring in rings] == sizes
    assert all(ring.shape == (8, 9824) for ring in rings)  # 99 * 99 pixels, in rows of 32


def test_a_series_is_as_many_frames_one_after_the_other():
    rng = numpy.random.default_rng(3)
    frames = rng.integers(0, 9, (12, *SHAPE)).astype("u1")
    one_by_one, series, single = (MultiTau("d", BOXES, 1, 3, 4) for _ in range(3))

    for frame in frames:
        one_by_one.update({"d": frame})
        single.update({"d": frame[numpy.newaxis]})
    series.update({"d": frames[:5]})
    series.update({"d": frames[5:]})

    want = one_by_one.result()["d_g2"].tobytes()
    assert series.result()["d_g2"].tobytes() == single.result()["d_g2"].tobytes() == want


OTHER_SHAPE = {"d": numpy.ones((5, 4))}
BAD = [{}, {"d": "text"}, {"d": 1.0}, {"d": numpy.ones((0, 4, 5))}, OTHER_SHAPE]


@pytest.mark.parametrize(
    ("labels", "bad", "place"),
    # of rectangles, the first frame tells the shape
    [
        (of, bad, i)
        for of in ("file", "boxes")
        for bad in BAD
        for i in (0, 1, 5)
        if of == "file" or i or bad is not OTHER_SHAPE
    ],
)
def test_a_frame_that_is_missing_or_of_another_shape_keeps_its_place(labels, bad, place, tmp_path):
    if labels == "file":
        numpy.save(tmp_path / "labels.npy", masks([[0, 2, 0, 3]], SHAPE)[0].astype("u1"))
    regions = str(tmp_path / "labels.npy") if labels == "file" else [[0, 2, 0, 3]]
    frames = numpy.random.default_rng(4).integers(0, 9, (10, *SHAPE)).astype(float)
    frames[place] = NAN
    correlation, other = MultiTau("d", regions, 1, 3, 4), MultiTau("d", regions, 1, 3, 4)

    for i, frame in enumerate(frames):
        other.update({"d": frame})
        if i != place:
            correlation.update({"d": frame})
        else:
            with pytest.raises((KeyError, RejectedValue)):
                correlation.update(bad)

    assert correlation.result()["d_g2"].tobytes() == other.result()["d_g2"].tobytes()
    assert correlation.result()["d_n_bad"] == other.result()["d_n_bad"] == 1


def test_events_that_are_refused_before_the_first_frame_keep_their_places():
    correlation, other = MultiTau("d", BOXES, 1, 2, 4), MultiTau("d", BOXES, 1, 2, 4)
    frames = numpy.random.default_rng(5).integers(0, 9, (7, *SHAPE)).astype("u2")

    for _ in range(3):
        with pytest.raises(KeyError):
            correlation.update({"e": 1})
        other.update({"d": numpy.full(SHAPE, NAN)})
    assert correlation.result() is None
    for frame in frames:
        correlation.update({"d": frame})
        other.update({"d": frame})

    assert correlation.result()["d_g2"].tobytes() == other.result()["d_g2"].tobytes()
    assert correlation.result()["d_n_pairs"].tolist() == other.result()["d_n_pairs"].tolist() == [7, 6, 5, 4, 1, 0]


def test_a_series_that_is_missing_has_as_many_frames_as_the_one_before():
    correlation, other = MultiTau("d", BOXES, 1, 2, 4), MultiTau("d", BOXES, 1, 2, 4)
    series = numpy.random.default_rng(6).integers(0, 9, (3, *SHAPE)).astype(float)

    correlation.update({"d": series})
    with pytest.raises(KeyError):
        correlation.update({})
    correlation.update({"d": series})
    for part in (series, series * NAN, series):
        other.update({"d": part})

    assert correlation.result()["d_g2"].tobytes() == other.result()["d_g2"].tobytes()
    assert correlation.result()["d_n_bad"] == 3


def test_what_is_not_finite_outside_the_regions_does_not_matter():
    correlation = MultiTau("d", [[0, 1, 0, 1]], 1)
    frame = numpy.full(SHAPE, NAN)
    frame[0, 0] = 2.0

    correlation.update({"d": frame})

    assert correlation.result()["d_g2"][0, 0] == 1.0
    assert correlation.result()["d_n_bad"] == 0


def test_regions_without_pixels_and_dark_ones_have_no_correlation():
    correlation = MultiTau("d", [[9, 12, 0, 5], [-4, 1, 0, 2], [2, 4, 0, 5]], 1, 1, 2)
    frame = numpy.zeros(SHAPE, "u2")
    frame[0, :2] = 1, 3

    for _ in range(2):
        correlation.update({"d": frame})

    found = correlation.result()["d_g2"]
    assert numpy.isnan(found[:, [0, 2]]).all()
    assert found[:, 1].tolist() == [1.25, 1.25]


def test_the_time_between_frames_may_be_a_field_or_configuration():
    run = make_run({"d": list(numpy.ones((3, 2, 2))), "t": [0.25, 0.2501, 0.25]}, data_keys={"t": {"units": "ms"}})
    kept = Kept()

    Pipeline([Node("xpcs", MultiTau("d", [[0, 2, 0, 2]], "t", 1, 2))], [kept]).replay(run)

    assert kept.events("axes")[0]["d_lag"].tolist() == [0, 0.25]
    (descriptor,) = [doc for doc in kept.named("descriptor") if doc["name"] == "axes"]
    assert descriptor["data_keys"]["d_lag"]["units"] == "ms"
    assert kept.stop["analysis"]["n_skipped"] == 0


def test_a_configured_time_between_frames_is_found():
    run = copy.deepcopy(make_run({"d": list(numpy.ones((3, 2, 2)))}))
    for name, doc in run:
        if name == "descriptor":
            doc["configuration"] = {
                "d": {
                    "data": {"d_period": 0.5},
                    "timestamps": {"d_period": 0.0},
                    "data_keys": {"d_period": {"source": "", "dtype": "number", "shape": []}},
                }
            }
    kept = Kept()

    Pipeline([Node("xpcs", MultiTau("d", [[0, 2, 0, 2]], "d_period", 1, 2))], [kept]).replay(run)

    assert kept.events("axes")[0]["d_lag"].tolist() == [0, 0.5]


def test_a_frame_of_another_time_is_rejected_and_keeps_its_place():
    correlation = MultiTau("d", [[0, 2, 0, 2]], "t", 1, 4)

    with pytest.raises(RejectedValue, match="wanted a time between frames over 0"):
        correlation.update({"d": numpy.ones((2, 2)), "t": 0.0})
    for t in (0.1, 0.1005, 0.2, 0.1):
        if t == 0.2:
            with pytest.raises(RejectedValue, match=r"wanted 0.1 s as in the first event, there is 0.2"):
                correlation.update({"d": numpy.ones((2, 2)), "t": t})
        else:
            correlation.update({"d": numpy.ones((2, 2)), "t": t})

    assert correlation.result()["d_n_pairs"].tolist() == [3, 1, 1, 1]
    assert correlation.result()["d_n_bad"] == 2


def test_values_too_large_to_multiply_give_no_correlation_and_never_infinity():
    correlation = MultiTau("d", [[0, 1, 0, 2]], 1, 2, 4)

    for _ in range(6):
        correlation.update({"d": numpy.array([[1e200, 1e200]])})

    assert numpy.isnan(correlation.result()["d_g2"]).all()


def test_a_file_of_labels_that_was_changed_is_refused(tmp_path):
    file = tmp_path / "labels.npy"
    numpy.save(file, numpy.array([[0, 1], [2, 2]]))
    correlation = MultiTau("d", str(file), 1)

    numpy.save(file, numpy.array([[0, 1], [1, 2]]))

    with pytest.raises(PipelineValueError, match="the file was changed"):
        MultiTau("d", str(file), 1, sha256=correlation.arguments["sha256"])
    with pytest.raises(PipelineOSError, match=r"wanted a \.npy"):
        MultiTau("d", str(tmp_path / "none.npy"), 1)


@pytest.mark.parametrize("labels", [numpy.zeros((2, 2), int), numpy.ones(3, int), numpy.ones((2, 2))])
def test_a_file_without_labels_of_a_frame_is_refused(tmp_path, labels):
    numpy.save(tmp_path / "labels.npy", labels)

    with pytest.raises(PipelineValueError, match="wanted whole numbers of a frame, some over 0"):
        MultiTau("d", str(tmp_path / "labels.npy"), 1)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"levels": 0}, "levels is 0"),
        ({"buffers": 7}, "an even number"),
        ({"buffers": 0}, "an even number"),
        ({"dt": 0}, "dt is 0; wanted"),
        ({"dt": math.inf}, "dt is inf; wanted"),
        ({"dt": True}, "dt is True; wanted"),
        ({"labels": []}, "labels is"),
        ({"labels": [[0, 1, 2]]}, r"labels: wanted .*; there is \[0, 1, 2\]"),
        ({"labels": [[3, 1, 0, 2]]}, "whole numbers, in order"),
        ({"labels": [[0, 1.5, 0, 2]]}, "whole numbers, in order"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused_at_once(arguments, reason):
    with pytest.raises(PipelineValueError, match=reason):
        MultiTau(**{"field": "d", "labels": BOXES, "dt": 1.0, **arguments})


def test_a_state_holds_the_pixels_of_the_regions_and_not_the_frame():
    correlation = MultiTau("d", [[10, 20, 10, 20]], 1, 2, 4)
    for _ in range(4):
        correlation.update({"d": numpy.ones((500, 500), "u2")})

    levels = correlation.state()["data"]["_correlator"]["!object"][1]["_levels"]

    assert sum(level["!object"][1]["ring"].size for level in levels) == 2 * 4 * 128


def test_dims_and_units_are_told():
    assert MultiTau("d", BOXES, 1).describe({}) == {
        "d_g2": {"units": "dimensionless", "dims": ["d_lag", "d_region"]},
        "d_n_pairs": {"dims": ["d_lag"]},
        "d_lag": {"units": "s"},
    }
    assert MultiTau("d", BOXES, "t").fields == ("d", "t")

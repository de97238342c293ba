"""Quality: what numpy's masks count, and a beam that is judged by its own past."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions import Quality
from pipeline.sources import read_jsonl
from pipeline.testing import check_reduction

NAN = math.nan
beams = st.floats(-1, 10) | st.sampled_from([NAN, math.inf, 0.0, 0, 5]) | st.none()


def masks(values, limit):
    """The oracle: masks of numpy, sums of Python's integers."""
    values = numpy.asarray(values)
    finite = numpy.isfinite(values)
    known = values[finite]
    exact = known.astype(object).sum() if values.dtype.kind != "f" else math.fsum(known.astype(float))
    return {
        "d_n_saturated": int((known >= limit).sum()) if limit is not None else 0,
        "d_n_nan": int((~finite).sum()),
        "d_n_zero": int((known == 0).sum()),
        "d_max": float(known.max()) if known.size else NAN,
        "d_total": float(exact) if known.size else NAN,
    }


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"])
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_integer_frames_are_saturated_at_the_largest_of_their_dtype(dtype, data):
    info = numpy.iinfo(dtype)
    frames = data.draw(
        arrays.arrays(dtype, (3, 2, 3), elements=st.sampled_from([0, 1, info.max, info.max - 1, info.min]))
    )

    check_reduction(Quality("d"), [{"d": frame} for frame in frames], lambda es: masks(es[-1]["d"], info.max))


@given(arrays.arrays("f8", (3, 7), elements=st.floats(-1e6, 1e6) | st.sampled_from([NAN, math.inf, -math.inf, 0.0])))
@settings(max_examples=60, deadline=None)
def test_float_arrays_are_saturated_where_it_is_told(rows):
    quality = Quality("d", saturation=1000.0)

    check_reduction(
        quality, [{"d": row} for row in rows], lambda es: masks(es[-1]["d"], 1000.0) | {"d_total": total(es)}
    )


def total(events):
    known = events[-1]["d"][numpy.isfinite(events[-1]["d"])]
    return float(known.sum()) if known.size else NAN


@pytest.mark.parametrize(
    ("value", "n_nan", "n_zero"), [(3, 0, 0), (0.0, 0, 1), (NAN, 1, 0), (None, 1, 0), (math.inf, 1, 0)]
)
def test_a_number_is_an_array_of_one(value, n_nan, n_zero):
    quality = Quality("d")

    quality.update({"d": value})

    result = quality.result()
    assert (result["d_n_nan"], result["d_n_zero"], result["d_n_saturated"]) == (n_nan, n_zero, 0)
    assert math.isnan(result["d_total"]) is bool(n_nan)


@pytest.mark.parametrize(("value", "n"), [(2.9, 0), (3.0, 1), (3, 1), (numpy.float32(4), 1), (math.inf, 0)])
def test_a_number_is_saturated_where_it_is_told(value, n):
    quality = Quality("d", saturation=3)

    quality.update({"d": value})

    assert quality.result()["d_n_saturated"] == n


def accepted(values, window, drop):
    """The oracle: as the definition says, over the whole past."""
    good, flags = [], []
    for value in values:
        x = NAN if value is None else value
        ok = math.isfinite(x) and x > 0 and (not good or x > drop * numpy.median(good[-window:]))
        flags.append(ok)
        if ok:
            good.append(x)
    return flags


@given(st.lists(beams, min_size=1, max_size=25), st.integers(1, 6), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
@settings(max_examples=150, deadline=None)
def test_the_beam_is_judged_by_the_median_of_good_points_alone(values, window, drop):
    quality = Quality("d", beam="i0", beam_window=window, beam_drop=drop)

    def oracle(events):
        return {"beam_ok": accepted([e["i0"] for e in events], window, drop)[-1]}

    check_reduction(quality, [{"d": 1.0, "i0": value} for value in values], oracle)


def test_a_dump_is_told_a_slow_decay_is_not():
    quality = Quality("d", beam="i0")
    beam = [*(100 * 0.98**i for i in range(100)), 1.0, 1.0, 13.0]
    flags = []

    for i0 in beam:
        quality.update({"d": 1.0, "i0": i0})
        flags.append(quality.result()["beam_ok"])

    assert flags == [True] * 100 + [False, False, True]


def test_a_frame_that_is_rejected_leaves_the_beam_as_it_was():
    quality = Quality("d", beam="i0", beam_window=1)
    quality.update({"d": 1.0, "i0": 10.0})

    with pytest.raises(RejectedValue):
        quality.update({"d": "text", "i0": 100.0})
    with pytest.raises(RejectedValue):
        quality.update({"d": 1.0, "i0": [1.0, 2.0]})
    with pytest.raises(KeyError):
        quality.update({"d": 1.0})
    assert quality.result()["beam_ok"] is False
    quality.update({"d": 1.0, "i0": 9.0})

    assert quality.result()["beam_ok"] is True


def large_frames(dtype):
    """Frames with all there is to count, in several parts; of floats also what is not finite."""
    rng = numpy.random.default_rng(0)
    frames = [rng.poisson(3, (250, 301)).astype(dtype) for _ in range(3)]
    frames[1].reshape(-1)[::7] = numpy.finfo(dtype).max if dtype[-2] == "f" else numpy.iinfo(dtype).max
    if dtype[-2] == "f":
        frames[0].reshape(-1)[::5], frames[0].reshape(-1)[1::50], frames[2][:] = NAN, -math.inf, NAN
        frames[1] = numpy.where(frames[1] > 1e4, 5000.25, frames[1]).astype(dtype)
    elif dtype[-2] == "i":
        frames[2] -= 3
    return frames


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", ">u2", "f4", "f8", ">f8"])
@pytest.mark.parametrize("saturation", [None, 3, 2.5, -1, 1e30, -1e30])
@pytest.mark.parametrize("has_numba", [True, False])
def test_frames_are_counted_as_numpy_counts_them(dtype, saturation, has_numba, monkeypatch):
    if not has_numba:
        monkeypatch.setenv("BLUESKY_PIPELINE_NO_NUMBA", "1")
    limit = numpy.iinfo(dtype).max if saturation is None and dtype[-2] != "f" else saturation

    def oracle(events):
        return masks(events[-1]["d"], NAN if limit is None else limit)

    check_reduction(Quality("d", saturation), [{"d": frame} for frame in large_frames(dtype)], oracle)


@pytest.mark.parametrize("dtype", ["u2", "i4", "f4", "f8"])
def test_frames_are_counted_alike_with_and_without_numba(dtype, monkeypatch):
    one, other = Quality("d"), Quality("d")

    for frame in large_frames(dtype):
        one.update({"d": frame * 0.1 if dtype[0] == "f" else frame})
        with monkeypatch.context() as context:
            context.setenv("BLUESKY_PIPELINE_NO_NUMBA", "1")
            other.update({"d": frame * 0.1 if dtype[0] == "f" else frame})

        assert repr(one.result()) == repr(other.result())


def test_a_frame_that_comes_as_a_series_of_one_is_that_frame():
    one, other = Quality("d"), Quality("d")

    for frame in large_frames("u2"):
        one.update({"d": frame})
        other.update({"d": frame[None]})

        assert one.result() == other.result()


def test_a_series_is_judged_frame_by_frame_if_asked():
    def oracle(events):
        rows = [masks(frame, 65535) for frame in events[-1]["d"]]
        return {key: [row[key] for row in rows] for key in rows[0]} | {"d_n_frames": 3}

    series = numpy.array(large_frames("u2"))
    check_reduction(Quality("d", frames="each"), [{"d": series}, {"d": series[::-1]}], oracle)


@pytest.mark.parametrize("value", [1.0, [1.0, 2.0], numpy.zeros((0, 3)), None])
def test_what_is_no_series_is_rejected_where_one_is_told(value):
    quality = Quality("d", frames="each")

    with pytest.raises(RejectedValue, match="wanted a series"):
        quality.update({"d": value})


def test_a_sum_of_frames_is_refused_since_it_does_not_tell_what_is_saturated():
    with pytest.raises(PipelineValueError, match="frames has 'sum'"):
        Quality("d", frames="sum")  # type: ignore[arg-type]


def test_without_a_beam_nothing_is_said_of_it():
    quality = Quality("d")
    quality.update({"d": [1, 2]})

    assert "beam_ok" not in quality.result()
    assert quality.fields == ("d",)
    assert Quality("d", beam="i0").fields == ("d", "i0")


@pytest.mark.parametrize("arguments", [{"beam_window": 0}, {"beam_drop": 1.5}, {"beam_drop": -0.1}])
def test_arguments_that_cannot_be_right_are_refused_at_once(arguments):
    with pytest.raises(PipelineValueError, match="wanted 1 or more, and a share"):
        Quality("d", beam="i0", **arguments)


def test_units_are_those_of_the_field():
    assert Quality("d").describe({"d": {"units": "count"}}) == {
        "d_max": {"units": "count"},
        "d_total": {"units": "count"},
    }


def test_real_spectra_have_the_totals_of_the_reference(data_folder):
    folder = data_folder / "facility_streams"
    want = numpy.load(folder / "xspress3mini-dump20_reference.npz")["frame_total"]
    quality = Quality("xspress3_spectra")
    found = []

    for name, doc in read_jsonl(folder / "xspress3mini-dump20.jsonl"):
        if name == "event":
            quality.update(doc["data"])
            found.append(quality.result()["xspress3_spectra_total"])

    assert numpy.array_equal(found, want)

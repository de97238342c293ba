"""References: the exact mean of the first frames of a kind, whatever order they come in, and what waits for them."""

import copy
from fractions import Fraction

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.errors import PipelineOSError, PipelineRuntimeError, PipelineValueError, RejectedValue
from pipeline.reductions.mean_frame import MeanFrame
from pipeline.reductions.reference import Reference
from pipeline.state import state_from_bytes, state_to_bytes

INTEGERS = ["?", "u1", "i1", "u2", "i2", "u4", "i4"]


def exact_mean(frames):
    """The mean of integers by fractions, rounded once."""
    wide = numpy.array(frames).astype(object)
    return numpy.vectorize(lambda total: float(Fraction(int(total), len(frames))))(wide.sum(0))


@given(st.sampled_from(INTEGERS).flatmap(lambda dtype: arrays.arrays(dtype, (5, 2, 3))), st.permutations(range(5)))
@settings(max_examples=100, deadline=None)
def test_the_mean_of_integers_is_exact_in_any_order_at_every_prefix(frames, order):
    mean, shuffled = MeanFrame(), MeanFrame()
    for n, frame in enumerate(frames, 1):
        mean.add(frame)
        assert mean.mean().tolist() == exact_mean(frames[:n]).tolist()
    for i in order:
        shuffled.add(frames[i])

    assert shuffled.mean().tobytes() == mean.mean().tobytes()


@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_wide_integers_are_exact_as_long_as_a_float_holds_them(dtype):
    frames = numpy.array([[[2**52 + 1, 3]], [[2**52 + 1, 4]], [[2**52 + 1, 5]]], dtype)
    mean = MeanFrame()
    for frame in frames:
        mean.add(frame)

    assert mean.mean().tolist() == [[2.0**52 + 1, 4.0]]
    mean.add(numpy.array([[numpy.iinfo(dtype).max, 4]], dtype))
    assert mean.mean()[0].tolist() == pytest.approx([(3 * 2.0**52 + float(numpy.iinfo(dtype).max)) / 4, 4.0], rel=1e-12)


@given(
    arrays.arrays("f8", (4, 2, 2), elements=st.floats(-1e9, 1e9) | st.sampled_from([numpy.nan, numpy.inf, -numpy.inf])),
    st.sampled_from(["f4", "f8"]),
)
@settings(max_examples=100, deadline=None)
def test_what_is_not_finite_is_in_no_mean(values, dtype):
    frames = values.astype(dtype)
    mean = MeanFrame()
    for frame in frames:
        mean.add(frame)

    known = numpy.where(numpy.isfinite(frames), frames, 0).astype(float)
    n = numpy.isfinite(frames).sum(0)
    expected = numpy.where(n > 0, known.sum(0) / numpy.maximum(n, 1), numpy.nan)
    assert mean.mean() == pytest.approx(expected, rel=1e-12, abs=1e-6, nan_ok=True)


def test_integers_and_then_floats_go_on_in_floats():
    mean = MeanFrame()
    for frame in (numpy.array([[1, 2]], "u2"), numpy.array([[2.5, numpy.nan]])):
        mean.add(frame)

    assert mean.mean().tolist() == [[1.75, 2.0]]


def test_each_frame_of_a_series_counts():
    series, alone = MeanFrame(), MeanFrame()
    series.add(numpy.array([[[1, 2]], [[4, 6]], [[1, 1]]], "u1"))
    for row in ([1, 2], [4, 6], [1, 1]):
        alone.add(numpy.array([row], "u1"))

    assert series.mean().tolist() == alone.mean().tolist() == [[2.0, 3.0]]


@pytest.mark.parametrize("value", [3, None, [[1, 2, 3]], "text", numpy.zeros((0, 1, 2)), [[1], [1, 2]]])
def test_frames_of_another_shape_are_rejected_and_change_nothing(value):
    dark = Reference("dark", "det", stream="dark", n=2)
    dark.offer({"det": numpy.array([[1, 2]])})

    with pytest.raises(RejectedValue, match="dark of 'det'"):
        dark.offer({"det": value})
    dark.offer({"det": numpy.array([[3, 4]])})

    assert dark.frame({}).tolist() == [[2.0, 3.0]]


# which frames --------------------------------------------------------------------------------------------------------


def frame(value):
    return numpy.full((1, 2), value, "u2")


def test_the_first_n_events_count_and_no_other():
    dark = Reference("dark", "det", stream="dark", n=2)
    for value in (1, 2, 50):
        dark.offer({"det": frame(value)})

    assert dark.frame({}).tolist() == [[1.5, 1.5]]
    assert not dark.frame({}).flags.writeable


def test_an_event_is_wanted_by_its_stream_and_the_values_of_its_fields():
    keyed = Reference("dark", "det", when={"image_key": 2, "shutter": "closed"})
    elsewhere = Reference("dark", "det", stream="dark")

    assert keyed.wants("primary", {"image_key": numpy.array([2]), "shutter": "closed"})
    assert not keyed.wants("primary", {"image_key": 2, "shutter": "open"})
    assert not keyed.wants("primary", {"shutter": "closed"})
    assert elsewhere.wants("dark", {})
    assert not elsewhere.wants("primary", {})
    assert keyed.is_among
    assert not elsewhere.is_among


def test_there_is_one_mean_for_each_gain():
    dark = Reference("dark", "det", stream="dark", n=2, per="gain")
    for gain, value in ((1, 10), (2, 20), (1, 12)):
        dark.offer({"det": frame(value), "gain": numpy.int64(gain)})

    assert dark.frame({"gain": 1}).tolist() == [[11.0, 11.0]]
    assert dark.lacks({"gain": 2}) == "dark of 'det' has 1 of 2 events of stream 'dark' with {'gain': 2}"
    assert dark.lacks({"gain": 3}) == "dark of 'det' has 0 of 2 events of stream 'dark' with {'gain': 3}"
    with pytest.raises(RejectedValue, match="wanted one number or text"):
        dark.lacks({"gain": float("nan")})
    with pytest.raises(KeyError):
        dark.lacks({})


def test_what_is_late_is_waited_for_or_passed_or_a_reason_to_fail():
    waits, passes, fails = (Reference("flat", "det", stream="flat", late=late) for late in ("wait", "pass", "fail"))

    assert waits.lacks({})
    assert fails.lacks({})
    with pytest.raises(RejectedValue, match=r"^flat of 'det' has 0 of 1 events of stream 'flat'\.$"):
        waits.frame({})
    with pytest.raises(PipelineRuntimeError, match=r"^flat of 'det' has 0 of 1 events of stream 'flat'\.$"):
        fails.frame({})
    assert passes.lacks({}) == ""
    assert passes.frame({}) is None
    passes.offer({"det": frame(3)})
    assert passes.frame({}).tolist() == [[3.0, 3.0]]


def test_at_the_end_of_a_run_fewer_events_are_enough_but_one_there_must_be():
    some, none = (Reference("dark", "det", stream="dark", n=10, per="gain") for _ in range(2))
    some.offer({"det": frame(7), "gain": 1})

    some.end()
    none.end()

    assert some.lacks({"gain": 1}) == ""
    assert some.frame({"gain": 1}).tolist() == [[7.0, 7.0]]
    assert "0 of 10" in none.lacks({"gain": 1})


def test_one_that_is_made_anew_has_taken_in_nothing(tmp_path):
    numpy.save(tmp_path / "dark.npy", frame(4))
    taken, of_file = Reference("dark", "det", stream="dark"), Reference("dark", "det", file=str(tmp_path / "dark.npy"))
    taken.offer({"det": frame(1)})

    assert taken.anew().lacks({})
    assert not taken.lacks({})
    assert of_file.anew().frame({}).tolist() == [[4.0, 4.0]]


# states --------------------------------------------------------------------------------------------------------------


@given(arrays.arrays("f8", (4, 1, 2), elements=st.floats(-1e6, 1e6) | st.just(numpy.nan)), st.integers(0, 4))
@settings(max_examples=50, deadline=None)
def test_one_that_is_restored_goes_on_with_the_same_bits(frames, split):
    def fed(reference, part):
        for i, each in enumerate(part):
            reference.offer({"det": each, "gain": i % 2})
        return reference

    reference = Reference("dark", "det", stream="dark", n=2, per="gain")
    whole = fed(reference.anew(), frames)
    first = fed(reference.anew(), frames[:split])
    restored = reference.anew()
    restored.restore(state_from_bytes(state_to_bytes(copy.deepcopy(first.state()))))
    for i, each in enumerate(frames[split:], split):
        restored.offer({"det": each, "gain": i % 2})

    for gain in (0, 1):
        assert restored.frame({"gain": gain}).tobytes() == whole.frame({"gain": gain}).tobytes()
        assert not restored.frame({"gain": gain}).flags.writeable
    assert restored.sha256 == whole.sha256


def test_a_file_is_no_part_of_a_state(tmp_path):
    numpy.save(tmp_path / "dark.npy", numpy.zeros((100, 100)))
    dark = Reference("dark", "det", file=str(tmp_path / "dark.npy"))

    assert len(state_to_bytes(dark.state())) < 200


# provenance ----------------------------------------------------------------------------------------------------------


def test_it_tells_what_it_is_by_role_run_and_sha256(tmp_path):
    of_run = Reference("dark", "det", run="abc", stream="primary")
    assert of_run.provenance() == []
    assert of_run.sha256 is None
    of_run.offer({"det": frame(3)})
    by_gain = Reference("dark", "det", stream="dark", per="gain")
    for gain in (2, 1):
        by_gain.offer({"det": frame(gain), "gain": gain})
    numpy.save(tmp_path / "flat.npy", frame(1))
    of_file = Reference("flat", "det", file=str(tmp_path / "flat.npy"))

    assert of_run.provenance() == [{"role": "dark", "uid": "abc", "sha256": of_run.sha256}]
    assert [(each["role"], each["gain"]) for each in by_gain.provenance()] == [("dark", 1), ("dark", 2)]
    assert len({each["sha256"] for each in by_gain.provenance()}) == 2
    assert of_file.provenance() == [{"role": "flat", "sha256": of_file.sha256}]


# how it is written ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        ({}, r"dark is \{\}; wanted the name of a file"),
        (7, r"dark is 7; wanted the name of a file"),
        ({"n": 3}, r"dark: wanted one of \['file', 'stream', 'when', 'run'\]"),
        ({"stream": "dark", "m": 3}, r"dark has 'm'"),
        ({"strem": "dark"}, r"did you mean 'stream'\?"),
        ({"stream": "dark", "n": 0}, r"dark: n is 0; wanted 1 or more"),
        ({"stream": "dark", "n": 1.5}, r"dark: n is 1.5; wanted 1 or more"),
        ({"stream": "dark", "late": "never"}, r"dark: late is 'never'"),
        ({"stream": 5}, r"dark: stream is 5; wanted text"),
        ({"file": "x.npy", "stream": "dark"}, r"dark is of a file; wanted no 'stream' then"),
        ({"file": "x.npy", "per": "gain"}, r"dark is of a file; wanted no 'per' then"),
    ],
)
def test_what_is_written_wrong_is_refused_in_words(spec, wrong):
    with pytest.raises(PipelineValueError, match=wrong):
        Reference.of("dark", spec, "det")


def test_another_field_may_be_told():
    assert Reference.of("dark", {"run": "abc", "stream": "primary", "field": "cam"}, "det").field == "cam"


def test_files_that_are_none_or_were_changed_are_refused(tmp_path):
    path = str(tmp_path / "dark.npy")
    with pytest.raises(PipelineOSError, match="No such file"):
        Reference.of("dark", path, "det")
    numpy.save(path, numpy.array(["a"]))
    with pytest.raises(PipelineValueError, match="wanted a frame of numbers"):
        Reference.of("dark", path, "det")
    numpy.save(path, frame(1))
    with pytest.raises(PipelineValueError, match="the file was changed"):
        Reference.of("dark", path, "det", sha256="0" * 64)

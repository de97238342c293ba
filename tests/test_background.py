"""Background: what numpy's arithmetic leaves, over the same axis or an interpolated one."""

import copy
import math
import pickle

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline import Node, Pipeline
from pipeline.errors import PipelineOSError, PipelineValueError, RejectedValue
from pipeline.readers import Assets
from pipeline.reductions import Background, FrameAverage
from pipeline.sources import read_jsonl
from pipeline.testing import check_reduction, make_run

NAN = math.nan
REFERENCE = [1.0, 2.0, 4.0, 3.0, 1.5]
curves = arrays.arrays("f8", (3, 5), elements=st.floats(-1e6, 1e6) | st.sampled_from([NAN, math.inf]))


def rest(y, reference, scale):
    y = numpy.where(numpy.isfinite(y), y, NAN)
    return {"I_sub": y - scale * numpy.asarray(reference), "I_bkg_scale": scale}


@given(curves, st.sampled_from([1, 0.9, 0, -2.5]))
@settings(max_examples=50, deadline=None)
def test_a_scaled_reference_is_taken_off(rows, scale):
    events = [{"I": row} for row in rows]

    check_reduction(Background("I", REFERENCE, scale), events, lambda es: rest(es[-1]["I"], REFERENCE, scale))


@given(curves, st.lists(st.floats(-1, 10) | st.just(NAN) | st.none(), min_size=3, max_size=3))
@settings(max_examples=50, deadline=None)
def test_the_reference_goes_with_the_monitor(rows, monitors):
    def oracle(events):
        monitor = events[-1]["i0"]
        scale = monitor / 4 if monitor is not None and monitor > 0 else NAN
        return rest(events[-1]["I"], REFERENCE, scale)

    background = Background("I", REFERENCE, "monitor", monitor="i0", reference_monitor=4.0)
    check_reduction(background, [{"I": row, "i0": i0} for row, i0 in zip(rows, monitors, strict=True)], oracle)


@given(
    arrays.arrays("f8", (3, 5), elements=st.floats(0.1, 1e6) | st.just(NAN)),
    st.sampled_from([None, [0, 5], [1, 4], [0, 99]]),
)
@settings(max_examples=80, deadline=None)
def test_a_fitted_scale_is_that_of_least_squares(rows, fit_range):
    def oracle(events):
        y, r = events[-1]["I"], numpy.array(REFERENCE)
        part = slice(*(fit_range or [0, 5]))
        known = numpy.isfinite(y[part])
        if not known.any():
            return rest(y, r, NAN)
        (scale,) = numpy.linalg.lstsq(r[part][known][:, None], y[part][known], rcond=None)[0]
        return {"I_bkg_scale": scale}

    background = Background("I", REFERENCE, "fit", fit_range=fit_range)
    check_reduction(background, [{"I": row} for row in rows], oracle, rtol=1e-9)


def test_a_background_that_was_added_is_found_and_taken_off():
    x = numpy.linspace(0, 10, 101)
    background, peak = 50 * numpy.exp(-x / 3) + 2, numpy.where(abs(x - 8) < 0.95, 30.0, 0)
    reduction = Background("I", background.tolist(), "fit", fit_range=[0, 60])

    reduction.update({"I": peak + 1.7 * background})

    result = reduction.result()
    assert result["I_bkg_scale"] == pytest.approx(1.7, rel=1e-14)
    assert result["I_sub"] == pytest.approx(peak, abs=1e-12)


@pytest.mark.parametrize("reference", [[0.0, 0.0], [NAN, NAN]])
def test_nothing_cannot_be_fitted(reference):
    background = Background("I", reference, "fit")

    background.update({"I": [1.0, 2.0]})

    assert math.isnan(background.result()["I_bkg_scale"])
    assert numpy.isnan(background.result()["I_sub"]).all()


@pytest.mark.parametrize("value", [[1.0, 2.0], 1.0, numpy.zeros((1, 5)), ["a"] * 5, [[1], [2, 3]], None])
def test_a_curve_of_another_length_is_rejected_and_leaves_no_result_behind(value):
    background = Background("I", REFERENCE)
    background.update({"I": REFERENCE})

    with pytest.raises(RejectedValue, match="wanted"):
        background.update({"I": value})

    assert numpy.isnan(background.result()["I_sub"]).all()


# axes --------------------------------------------------------------------------------------------------------------


def test_an_axis_that_is_the_same_is_let_in_and_another_is_rejected():
    x = numpy.linspace(0, 1, 5)
    background = Background("I", REFERENCE, x="q", reference_x=x.tolist())

    background.update({"I": REFERENCE, "q": x.astype("f4")})
    good = background.result()["I_sub"]
    for axis in (x + 1e-3, x[::-1], numpy.full(5, NAN)):
        with pytest.raises(RejectedValue, match="are not over the same axis; wanted interpolate=True"):
            background.update({"I": REFERENCE, "q": axis})

    assert good.tolist() == [0.0] * 5
    assert background.axes()["I_x"].tolist() == x.tolist()


@given(arrays.arrays("f8", 7, elements=st.floats(-1, 2)), st.permutations(range(5)))
@settings(max_examples=50, deadline=None)
def test_another_axis_is_interpolated_if_asked(x, order):
    grid = numpy.linspace(0, 1, 5)[list(order)]
    y = numpy.array(REFERENCE)
    ordered = numpy.argsort(grid)

    def oracle(events):
        return {"I_sub": numpy.ones(7) - numpy.interp(x, grid[ordered], y[ordered], left=NAN, right=NAN)}

    background = Background("I", REFERENCE, x="q", reference_x=grid.tolist(), interpolate=True)
    check_reduction(background, [{"I": numpy.ones(7), "q": x}] * 2, oracle)


def test_an_axis_can_be_a_list():
    background = Background("I", [1.0, 3.0], x=[0.0, 1.0, 2.0], reference_x=[0.0, 2.0], interpolate=True)

    background.update({"I": [5.0, 5.0, 5.0]})

    assert background.result()["I_sub"].tolist() == [4.0, 3.0, 2.0]
    assert background.axes()["I_x"].tolist() == [0.0, 1.0, 2.0]
    assert background.describe({"I": {"units": "count"}})["I_sub"] == {"units": "count", "dims": ["I_x"]}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"scale": "max"}, "scale is 'max'; wanted a number, 'monitor' or 'fit'"),
        ({"scale": "monitor"}, "wanted both or neither"),
        ({"monitor": "i0"}, "wanted both or neither"),
        ({"reference_monitor": 0.0}, "wanted a number over 0"),
        ({"fit_range": [3, 1]}, "0 <= start < stop"),
        ({"fit_range": [1]}, "0 <= start < stop"),
        ({"reference": []}, "one dimension"),
        ({"reference": [[1.0]]}, "one dimension"),
        ({"reference": ["a"]}, "wanted a list of numbers"),
        ({"x": "q"}, "wanted reference_x too"),
        ({"reference_x": [1.0]}, "has 2 numbers, and its axis 1"),
        ({"reference_x": [1.0, NAN]}, "not finite everywhere"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused_at_once(arguments, reason):
    with pytest.raises(PipelineValueError, match=reason):
        Background(**{"field": "I", "reference": [1.0, 2.0], **arguments})


# files -------------------------------------------------------------------------------------------------------------


def write(folder, kind):
    path = folder / f"reference.{kind}"
    x, y = numpy.arange(5.0), numpy.array(REFERENCE)
    if kind == "npy":
        numpy.save(path, y)
    elif kind == "npz":
        numpy.savez(path, x=x, y=y)
    else:
        rows = "\n".join(f"{a}, {b}, 0.1" for a, b in zip(x, y, strict=True))
        path.write_text(f"# measured before\nq, I, error\n{rows}\n")
    return str(path)


@pytest.mark.parametrize("kind", ["npy", "npz", "csv"])
def test_a_reference_is_read_from_a_file(tmp_path, kind):
    background = Background("I", write(tmp_path, kind))

    check_reduction(background, [{"I": numpy.arange(5)}] * 2, lambda es: rest(numpy.arange(5.0), REFERENCE, 1))

    assert ("I_x" in background.axes()) is (kind != "npy")


def test_the_sha256_of_the_file_is_part_of_the_recipe_and_of_the_state(tmp_path):
    path = write(tmp_path, "csv")
    background = Background("I", path)
    background.update({"I": REFERENCE})
    (tmp_path / "reference.csv").write_text("1\n2\n3\n4\n5\n")

    with pytest.raises(PipelineValueError, match="the file was changed"):
        Background(**background.arguments)
    with pytest.raises(PipelineValueError, match="wanted a state of arguments"):
        Background("I", path).restore(background.state())
    with pytest.raises(PipelineValueError, match="the file was changed"):
        pickle.loads(pickle.dumps(background))  # noqa: S301 - made here
    assert copy.deepcopy(background).result()["I_sub"].tolist() == [0.0] * 5


def test_a_reference_is_shared_by_copies():
    background = Background("I", REFERENCE)

    assert copy.deepcopy(background)._curve is background._curve


def test_files_that_are_no_curves_are_refused(tmp_path):
    (tmp_path / "words.csv").write_text("a b\nc d\n")
    (tmp_path / "empty.csv").write_text("# nothing\n")
    (tmp_path / "ragged.csv").write_text("1 2\n3\n")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY")
    numpy.save(tmp_path / "two.npy", numpy.ones((2, 2)))

    for name in ("words.csv", "empty.csv", "ragged.csv", "bytes.csv", "torn.npz", "torn.npy"):
        with pytest.raises(PipelineValueError, match=r"is no .npy, .npz or .csv file of numbers"):
            Background("I", str(tmp_path / name))
    with pytest.raises(PipelineValueError, match=r"one dimension, there is the shape \[2, 2\]"):
        Background("I", str(tmp_path / "two.npy"))
    with pytest.raises(PipelineOSError, match="Is a directory"):
        Background("I", str(tmp_path))


# real data ---------------------------------------------------------------------------------------------------------


def test_real_patterns_less_the_first_are_what_numpy_leaves(data_folder):
    """40 patterns of NaCl and CrCl3, against the first; the axis of each event is that of the first."""
    file = data_folder / "xrd_ramp" / "nacl_crcl3_public.jsonl"
    events = [doc["data"] for name, doc in read_jsonl(file) if name == "event"]
    first = numpy.array(events[0]["chi_I"])
    reference_x = numpy.load(data_folder / "xrd_ramp" / "reference.npz")["q"].tolist()

    def oracle(es):
        y = numpy.array(es[-1]["chi_I"])
        scale = (y * first).sum() / (first * first).sum()
        return {"chi_I_sub": y - scale * first, "chi_I_bkg_scale": scale}

    background = Background("chi_I", first.tolist(), "fit", x="chi_Q", reference_x=reference_x)
    check_reduction(background, events, oracle, rtol=1e-9)
    assert len(events) == 40


# curves of runs ----------------------------------------------------------------------------------------------------


def test_the_mean_of_another_run_is_taken_off_and_named(kept):
    buffer, sample = [numpy.array([1.0, 2.0, 3.0]), numpy.array([3.0, 2.0, 4.0])], numpy.array([5.0, 5.0, 5.0])
    measured = []
    Pipeline([Node("buffer", FrameAverage("I"), every=0)], [lambda *item: measured.append(item)]).replay(
        make_run({"I": buffer}, uid="buffer")
    )
    uid = measured[0][1]["uid"]
    runs = {uid: measured, "raw": make_run({"I": buffer}, uid="buffer")}
    analysed = Background("I", {"run": uid, "stream": "final", "field": "I_mean"})
    raw = Background("I", {"run": "raw", "n": 2})

    for background in (analysed, raw):
        pipeline = Pipeline([Node("n", background)], [kept], assets=Assets(run=runs.__getitem__))
        pipeline.replay(make_run({"I": [sample, 2 * sample]}))

    for run in kept.by_run().values():
        assert [list(row["I_sub"]) for row in run.events("primary")] == [[3.0, 3.0, 1.5], [8.0, 8.0, 6.5]]
    named = [run.stop["analysis"]["references"][0] for run in kept.by_run().values()]
    assert [(each["role"], each["uid"]) for each in named] == [("background", uid), ("background", "raw")]
    assert named[0]["sha256"] == named[1]["sha256"]


def test_the_buffer_may_be_among_the_events_and_those_before_it_wait(kept):
    curves = [[5.0, 5.0], [1.0, 2.0], [3.0, 2.0], [7.0, 7.0]]
    background = Background("I", {"when": {"is_buffer": 1}, "n": 2})
    raw = make_run({"I": [numpy.array(curve) for curve in curves], "is_buffer": [0, 1, 1, 0]})

    Pipeline([Node("n", background)], [kept]).replay(raw)

    rows = kept.events("primary")
    assert [list(row["I_sub"]) for row in rows if row["raw_seq_num"] in (1, 4)] == [[3.0, 3.0], [5.0, 5.0]]
    assert all(numpy.isnan(row["I_sub"]).all() for row in rows if row["raw_seq_num"] in (2, 3))
    assert kept.stop["analysis"]["n_skipped"] == 2


def test_a_buffer_of_another_length_is_no_background_of_this(kept):
    runs = {"b": make_run({"I": [numpy.ones(4)]}, uid="b")}
    pipeline = Pipeline([Node("n", Background("I", {"run": "b"}))], [kept], assets=Assets(run=runs.__getitem__))

    pipeline.replay(make_run({"I": [numpy.ones(3)]}))

    assert kept.stop["analysis"]["n_skipped"] == 1
    with pytest.raises(PipelineValueError, match="wanted no x, and no reference_x"):
        Background("I", {"run": "b"}, x="q")

"""Normalize: its values are numpy's, its errors those of counting, and a bad monitor makes no number."""

import copy
import json
import math
import pickle
import sys

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions import Normalize
from pipeline.sources import read_jsonl
from pipeline.testing import check_reduction

NAN = math.nan
counts = st.one_of(
    st.floats(-10, 1e9).map(lambda x: round(x, 6)), st.integers(0, 2**40), st.just(NAN), st.just(math.inf), st.none()
)


def last(formula, error):
    """The oracle: what numpy gives for the last event, where its monitor is good."""

    def oracle(events):
        a, b = (numpy.array(events[-1][key], float) for key in "ab")
        with numpy.errstate(all="ignore"):
            value, err = (numpy.where(numpy.isfinite(a + b), f(a, b), NAN) for f in (formula, error))
        return tuple(numpy.where(numpy.isfinite(x), x, NAN) for x in (value, err))

    return oracle


def rooted(a, b, variance):
    return numpy.sqrt(numpy.where((a < 0) | (b < 0), NAN, variance))


OPERATIONS = {
    "ratio": last(lambda a, b: a / b, lambda a, b: rooted(a, b, a / b**2 + a**2 / b**3)),
    "absorbance": last(
        lambda a, b: numpy.log(a / b), lambda a, b: rooted(a, b, numpy.where(a > 0, 1 / a + 1 / b, NAN))
    ),
    "difference": last(lambda a, b: a - b, lambda a, b: rooted(a, b, a + b)),
}


@pytest.mark.parametrize("op", OPERATIONS)
@given(st.lists(st.tuples(counts, counts), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_each_operation_is_numpys_at_every_event(op, pairs):
    def oracle(events):
        b = events[-1]["b"]
        i0_ok = b is not None and math.isfinite(b) and (op == "difference" or b > 0)
        value, error = OPERATIONS[op](events) if i0_ok and events[-1]["a"] is not None else (NAN, NAN)
        return {f"a_{op}": value, f"a_{op}_err": error, "i0_ok": i0_ok}

    check_reduction(Normalize("a", "b", op), [{"a": a, "b": b} for a, b in pairs], oracle, rtol=1e-9)


def test_arrays_are_normalised_element_by_element():
    rng = numpy.random.default_rng(1)
    events = [{"a": rng.integers(0, 2**16, (3, 4), dtype="u2"), "b": float(i0)} for i0 in (10, 0, 20, NAN, 5)]

    def oracle(es):
        a, b = es[-1]["a"].astype(float), es[-1]["b"]
        good = b > 0
        ratio = a / b if good else numpy.full((3, 4), NAN)
        error = numpy.sqrt(a / b**2 + a**2 / b**3) if good else numpy.full((3, 4), NAN)
        return {"a_ratio": ratio, "a_ratio_err": error, "i0_ok": good}

    check_reduction(Normalize("a", "b"), events, oracle)


def test_a_monitor_that_is_an_array_counts_element_by_element():
    norm = Normalize("a", "b")

    norm.update({"a": [1.0, 2.0, NAN], "b": [2, 0, 5]})

    result = norm.result()
    assert numpy.array_equal(result["a_ratio"], [0.5, NAN, NAN], equal_nan=True)
    assert numpy.array_equal(result["i0_ok"], [True, False, True])


def test_offsets_are_taken_first_and_the_scale_last():
    norm = Normalize("a", "b", offsets={"a": 10, "b": 20}, scale=3, name="n")

    norm.update({"a": 110, "b": 70})

    want = {"n": 6.0, "n_err": pytest.approx(3 * math.sqrt(110 / 50**2 + 100**2 * 70 / 50**4)), "i0_ok": True}
    assert norm.result() == want


@pytest.mark.parametrize(("i0", "i0_ok"), [(100, False), (100.1, True), (99, False), (NAN, False), (math.inf, False)])
def test_a_monitor_at_or_under_its_least_is_bad(i0, i0_ok):
    norm = Normalize("a", "b", i0_min=50, offsets={"b": 50})

    norm.update({"a": 1.0, "b": i0})

    assert norm.result()["i0_ok"] is i0_ok
    assert math.isfinite(norm.result()["a_ratio"]) is i0_ok


def test_unsigned_counts_do_not_wrap():
    norm = Normalize("a", "b", "difference")

    norm.update({"a": numpy.array([5], "u2"), "b": numpy.array([7], "u2")})

    assert norm.result()["a_difference"].tolist() == [-2.0]


def test_a_monitor_outside_the_arithmetic_decides_what_counts():
    norm = Normalize("a", "b", "a * 2", offsets={"b": 1.0}, counts=[])

    norm.update({"a": 3.0, "b": 2.0})
    good = norm.result()
    norm.update({"a": 3.0, "b": 1.0})

    assert good == {"a_norm": 6.0, "i0_ok": True}
    assert math.isnan(norm.result()["a_norm"])
    assert norm.fields == ("a", "b")


def test_counts_say_which_fields_have_an_error():
    norm = Normalize("a", "b", "a / b * theta", counts=["a"])

    norm.update({"a": 100.0, "b": 10.0, "theta": 0.5})

    assert norm.result() == {"a_norm": 5.0, "a_norm_err": pytest.approx(0.5), "i0_ok": True}
    assert norm.fields == ("a", "b", "theta")


@pytest.mark.parametrize("value", ["text", [[1.0], [2.0, 3.0]], numpy.array(["a"]), 1j])
def test_a_value_that_is_no_number_is_rejected_and_leaves_no_result_behind(value):
    norm = Normalize("a", "b")
    norm.update({"a": 1.0, "b": 2.0})

    with pytest.raises(RejectedValue, match="wanted"):
        norm.update({"a": value, "b": 2.0})

    assert math.isnan(norm.result()["a_ratio"])
    assert norm.result()["i0_ok"] is False


def test_shapes_that_do_not_go_together_or_change_are_rejected():
    norm = Normalize("a", "b")

    with pytest.raises(RejectedValue, match=r"shapes that go together, there are {'a': \[3\], 'b': \[2\]}"):
        norm.update({"a": [1, 2, 3], "b": [1, 2]})
    assert norm.result() is None
    norm.update({"a": [1, 2, 3], "b": 1})
    with pytest.raises(RejectedValue, match=r"a_ratio: wanted shape \[3\], as before; there is \[2\]"):
        norm.update({"a": [1, 2], "b": 1})
    assert numpy.isnan(norm.result()["a_ratio"]).all()
    assert norm.update_page({"a": [[1, 2, 3], [1, 2], [4, 5, 6]], "b": [1, 1, 2]}) == 1
    assert norm.result()["a_ratio"].tolist() == [2.0, 2.5, 3.0]


def test_a_missing_field_leaves_no_result_behind():
    norm = Normalize("a", "b")
    norm.update({"a": 1.0, "b": 2.0})

    with pytest.raises(KeyError):
        norm.update({"a": 1.0})

    assert math.isnan(norm.result()["a_ratio"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"op": "i0 / it"}, r"'i0 / it' reads \['i0', 'it'\]; wanted 'a' among them"),
        ({"op": "rato"}, r"'rato' reads \['rato'\]"),
        ({"op": "a.b"}, "is not allowed"),
        ({"offsets": {"c": 1.0}}, r"offsets has 'c', but Normalize reads \['a', 'b'\]"),
        ({"counts": ["c"]}, "counts has 'c'"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused_at_once(arguments, reason):
    with pytest.raises(PipelineValueError, match=reason):
        Normalize("a", "b", **arguments)


@pytest.mark.parametrize(
    ("norm", "units"),
    [
        (Normalize("a", "b"), "count/(s)"),
        (Normalize("a", "a"), "dimensionless"),
        (Normalize("a", "b", "difference"), None),
        (Normalize("a", "a", "difference"), "count"),
        (Normalize("a", "b", "absorbance"), "dimensionless"),
        (Normalize("a", "b", "(a - 1) / b ** 2"), "count/second**2"),
        (Normalize("a", "b", units="1/cm"), "1/cm"),
        (Normalize("a", "c"), None),
    ],
)
def test_units_follow_the_operation(norm, units):
    described = norm.describe({"a": {"units": "count", "dims": ["q"]}, "b": {"units": "s"}, "c": {}})

    assert described[norm.label].get("units") == units
    assert described[f"{norm.label}_err"].get("units") == units
    assert described[norm.label]["dims"] == ["q"]


def test_without_pint_arithmetic_has_no_units_and_says_why(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "pint", None)

    described = Normalize("a", "b", "a / b").describe({"a": {"units": "count"}, "b": {"units": "s"}})

    assert described == {}
    assert "pip install bluesky-pipeline[units]" in caplog.text


def test_results_are_not_the_state():
    norm = Normalize("a", "b")
    norm.update({"a": [1.0, 2.0], "b": 1.0})

    with pytest.raises(ValueError, match="read-only"):
        norm.result()["a_ratio"][0] = 7


def test_copies_and_pickles_work_on():
    norm = Normalize("a", "b", "a / b * 2")
    norm.update({"a": 3.0, "b": 2.0})

    for other in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):  # noqa: S301 - made here
        assert other.result() == norm.result()
        other.update({"a": 1.0, "b": 2.0})
        assert other.result()["a_norm"] == 1.0
    assert norm.result()["a_norm"] == 3.0


# real data ---------------------------------------------------------------------------------------------------------


def events_of(file):
    documents = read_jsonl(file)
    for name, doc in documents:
        if name == "event":
            yield doc["data"]
        elif name == "event_page":
            yield from (dict(zip(doc["data"], row, strict=True)) for row in zip(*doc["data"].values(), strict=True))


def test_fluorescence_is_what_the_beamline_recorded(data_folder):
    """BMM, whose file Bluesky wrote, recorded xmu, the sum of four channels over I0, to eight digits."""
    norm = Normalize("DTC1", "I0", "(DTC1 + DTC2 + DTC3 + DTC4) / I0", name="mu")
    events = list(events_of(data_folder / "xas" / "NSLS6BM_2019_dat.jsonl"))

    for data in events:
        norm.update(data)
        assert norm.result()["mu"] == pytest.approx(data["xmu"], rel=4e-8)
    assert len(events) == 352


def test_the_foil_has_the_statistics_of_the_reference(data_folder):
    reference = json.loads((data_folder / "xas" / "reference.json").read_text())
    want = next(entry for key, entry in reference.items() if key.startswith("v_foil"))["mu_stats"]
    norm, found = Normalize("i0", "i1", "absorbance"), []

    for data in events_of(data_folder / "xas" / "v_foil_xdi.jsonl"):
        norm.update(data)
        found.append(norm.result()["i0_absorbance"])

    assert len(found) == want["n"]
    assert numpy.mean(found) == pytest.approx(want["mean"], rel=1e-12)
    assert (min(found), max(found)) == (pytest.approx(want["min"]), pytest.approx(want["max"]))


@pytest.mark.parametrize("name", ["stxm_theta0", "stxm_theta1"])
def test_a_map_over_its_monitor_has_the_mean_of_the_reference(data_folder, name):
    want = json.loads((data_folder / "maps_i18" / "reference.json").read_text())[name]["normalised_mean"]
    norm, found = Normalize("stxm", "monitor"), []

    for data in events_of(data_folder / "maps_i18" / f"{name}.jsonl"):
        norm.update(data)
        found.append(norm.result()["stxm_ratio"])

    assert len(found) == 707
    assert numpy.mean(found) == pytest.approx(want, rel=1e-12)


def test_fluorescence_with_dead_times_is_what_the_beamline_recorded(data_folder):
    """13-ID-E wrote the sum of seven elements, each times its dead-time factor; the reference recomputed it to 3e-7."""
    terms = " + ".join(f"Fe_Ka_mca{i} * DTFactor_mca{i}" for i in range(1, 8))
    norm = Normalize("Fe_Ka_mca1", "I0", f"({terms}) / I0", name="mu")
    events = list(events_of(data_folder / "xas" / "fexanes_a_001.jsonl"))

    for data in events:
        norm.update(data)
        assert norm.result()["mu"] == pytest.approx(data["Sum_Fe_Ka"] / data["I0"], rel=3e-7)
    assert len(events) == 449

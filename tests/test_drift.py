"""Drift is what the first and the last reading say."""

import math

import pytest
from kept import Kept
from real import columns

from pipeline import Node, Pipeline
from pipeline.errors import RejectedValue
from pipeline.reductions import Drift
from pipeline.sources import read_jsonl
from pipeline.testing import check_reduction, make_run

NAN = float("nan")


def by_hand(events, rel_tol=1e-3):
    right = {"n_drifted": 0, "n_nan": 0}
    for field in ("a", "b", "c"):
        readings = [float(e[field]) for e in events if e[field] is not None and math.isfinite(e[field])]
        start, end = readings[0] if readings else NAN, readings[-1] if len(readings) > 1 else NAN
        drifted = len(readings) > 1 and abs(end - start) > rel_tol * max(abs(start), abs(end))
        right["n_nan"] += len(events) - len(readings)
        right["n_drifted"] += drifted
        right |= {f"{field}_start": start, f"{field}_end": end, f"{field}_delta": end - start}
        right[f"{field}_drifted"] = drifted
    return right


READINGS = [
    {"a": 10.0, "b": 5, "c": NAN},
    {"a": 10.001, "b": 5, "c": 1.0},
    {"a": NAN, "b": 5, "c": math.inf},
    {"a": 10.1, "b": None, "c": 0.0},
    {"a": 0.0, "b": 4, "c": 1.0},
]


def test_drift_is_what_is_found_by_hand_at_every_prefix():
    check_reduction(Drift(["a", "b", "c"]), READINGS, by_hand, rtol=0)
    check_reduction(Drift(), READINGS, by_hand, rtol=0)


def test_of_one_reading_there_is_no_end_and_nothing_has_drifted():
    drift = Drift()

    drift.update({"a": 1.0})

    result = drift.result()
    assert math.isnan(result["a_end"])
    assert math.isnan(result["a_delta"])
    assert (result["a_start"], result["a_drifted"], result["n_drifted"]) == (1.0, False, 0)


@pytest.mark.parametrize(
    ("start", "end", "tolerances", "drifted"),
    [
        (1000.0, 1000.9, {}, False),
        (1000.0, 1001.1, {}, True),
        (0.0, 1e-9, {}, True),
        (0.0, 1e-9, {"abs_tol": 1e-6}, False),
        (1.0, 1.05, {"rel_tol": 0.1}, False),
        (False, True, {}, True),
        (-1e308, 1e308, {}, True),
    ],
)
def test_a_field_has_drifted_if_it_is_beyond_both_tolerances(start, end, tolerances, drifted):
    drift = Drift(**tolerances)

    for value in (start, end):
        drift.update({"a": value})

    assert drift.result()["a_drifted"] is drifted
    assert drift.result()["n_drifted"] == int(drifted)
    assert not math.isinf(drift.result()["a_delta"])


def test_what_are_no_numbers_are_no_fields_unless_they_are_asked_for():
    drift = Drift()

    drift.update({"a": 1.0, "text": "open", "array": [1.0, 2.0], "nothing": None, "digits": "7"})

    assert sorted(drift.result()) == ["a_delta", "a_drifted", "a_end", "a_start", "n_drifted", "n_nan"]
    for field in ("text", "array"):
        with pytest.raises(RejectedValue, match="wanted"):
            Drift([field]).update({"text": "open", "array": [1.0, 2.0]})


def test_a_reading_that_is_rejected_or_lacks_a_field_changes_nothing():
    drift = Drift()
    drift.update({"a": 1.0, "b": 2.0})
    before = repr(drift.result())

    with pytest.raises(RejectedValue, match="wanted"):
        drift.update({"a": 5.0, "b": "gone"})
    with pytest.raises(KeyError, match="b"):
        drift.update({"a": 5.0})

    assert repr(drift.result()) == before


def test_without_numbers_there_is_no_result():
    drift = Drift()

    drift.update({"text": "open"})

    assert drift.result() is None


def test_units_are_those_of_the_fields_and_of_their_difference():
    drift = Drift()
    drift.update({"a": 1.0, "t": 20.0, "n": 3})

    described = drift.describe({"a": {"units": "mm"}, "t": {"units": "degC"}, "n": {}})

    assert described["a_start"] == described["a_end"] == described["a_delta"] == {"units": "mm"}
    assert described["t_end"] == {"units": "degC"}
    assert described["t_delta"] == {"units": "delta_degC"}
    assert not [key for key in described if key.startswith("n_")]


def test_a_node_of_the_baseline_gives_the_drift_of_all_its_numbers():
    kept = Kept()
    baseline = {"table_y": [1.0, 1.5], "shutter": ["open", "open"], "ring_current": [100.0, 100.05]}

    run = make_run(baseline, stream="baseline")
    Pipeline([Node("drift", Drift(), stream="baseline")], [kept]).replay(run)

    kept.check_valid()
    assert kept.final()["table_y_delta"] == 0.5
    assert kept.final()["n_drifted"] == 1
    assert kept.final()["n_events"] == 2


def test_the_baseline_of_a_beamline_with_268_fields_is_read_as_it_is(data_folder):
    n = 0
    for file in sorted((data_folder / "docs_aps_usaxs_2019").glob("*.jsonl")):
        keys = [doc for name, doc in read_jsonl(file) if name == "descriptor" and doc["name"] == "baseline"]
        if not keys or len(columns(file, stream="baseline")) != 0:
            continue
        scalars = {
            field
            for field, key in keys[0]["data_keys"].items()
            if key["dtype"] in ("number", "integer") and not key.get("shape")
        }
        kept = Kept()
        Pipeline([Node("drift", Drift(), stream="baseline")], [kept]).replay(read_jsonl(file))
        kept.check_valid()
        assert kept.stop["exit_status"] == "success", kept.stop["reason"]
        final, descriptor = kept.final(), kept.named("descriptor")[-1]
        names = {k.get("original_name", key): key for key, k in descriptor["data_keys"].items()}
        n_drifted = 0
        for field in scalars:
            (readings,) = columns(file, field, stream="baseline")
            assert final[names[f"{field}_start"]] == readings[0]
            assert final[names[f"{field}_delta"]] == float(readings[1]) - float(readings[0])
            n_drifted += not math.isclose(readings[0], readings[1], rel_tol=1e-3)
        assert final["n_drifted"] == n_drifted
        n += len(scalars) > 100
    assert n >= 3

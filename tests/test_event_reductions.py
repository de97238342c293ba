"""Reductions of single events, in a pipeline: one result for each event, live as in replay, and none for a bad one."""

import math

import numpy
import pytest
from bluesky.plans import scan
from kept import Kept
from ophyd.sim import det, motor

from pipeline import Node, Pipeline
from pipeline.config import load
from pipeline.errors import RejectedValue
from pipeline.reductions import Background, Normalize, Quality, Regions
from pipeline.reductions.event_reduction import EventReduction
from pipeline.testing import make_run

NAN = math.nan
KEYS = {"det": {"units": "count"}, "i0": {"units": "count"}, "mca": {"units": "count"}}


def columns(n=6):
    rng = numpy.random.default_rng(8)
    i0 = [100.0, 0.0, 90.0, 110.0, 2.0, 105.0][:n]
    mca = [rng.poisson(5, 8).astype("i4") for _ in range(n)]
    return {"det": [float(i) for i in range(n)], "i0": i0, "mca": mca}


def node():
    return Node(
        "each",
        Normalize("det", "i0"),
        Quality("mca", beam="i0"),
        Regions("mca", {"a": [2, 5]}, background="border"),
        Background("mca", [1.0] * 8, "monitor", monitor="i0", reference_monitor=50.0),
    )


def analyse(documents):
    kept = Kept()
    Pipeline([node()], [kept]).replay(documents)
    kept.check_valid()
    return kept


def test_each_event_has_its_result_and_its_units():
    data = columns()

    kept = analyse(make_run(data, data_keys=KEYS))

    events = kept.events("primary")
    assert [e["i0_ok"] for e in events] == [True, False, True, True, True, True]
    assert [e["beam_ok"] for e in events] == [True, False, True, True, False, True]
    assert [e["mca_a_sum"] for e in events] == pytest.approx(
        [v[2:5].sum() - 3 * (v[1] + v[5]) / 2 for v in data["mca"]]
    )
    for event, values, i0 in zip(events, data["mca"], data["i0"], strict=True):
        want = values - i0 / 50 if i0 > 0 else [NAN] * 8
        assert numpy.allclose(event["mca_sub"], want, equal_nan=True)
    (descriptor,) = (doc for doc in kept.named("descriptor") if doc["name"] == "primary")
    units = {key: data_key.get("units") for key, data_key in descriptor["data_keys"].items()}
    assert (units["det_ratio"], units["mca_a_com"], units["mca_sub"]) == ("dimensionless", "pixel", "count")


def test_pages_give_what_events_give():
    data = columns()

    assert analyse(make_run(data, pages=4)).bytes() == analyse(make_run(data)).bytes()


class Positive(EventReduction):
    """Rejects what is not positive."""

    def __init__(self, field):
        self.field = field

    def reduce(self, data):
        from pipeline.errors import RejectedValue

        if data[self.field] <= 0:
            raise RejectedValue("wanted more than 0.")
        return {"value": data[self.field], "n": 1, "is_good": True, "pair": numpy.array([1, 2])}


def test_a_rejected_event_has_no_result_and_never_that_of_the_event_before():
    kept = Kept()

    Pipeline([Node("n", Positive("det"))], [kept]).replay(make_run({"det": [-1.0, 1.0, -1.0, 3.0]}))

    kept.check_valid()
    events = kept.events("primary")
    assert [e["raw_seq_num"] for e in events] == [2, 3, 4]
    assert (events[0]["value"], math.isnan(events[1]["value"]), events[2]["value"]) == (1.0, True, 3.0)
    assert [(e["n"], e["is_good"], list(e["pair"])) for e in events[:2]] == [(1, True, [1, 2]), (0, False, [0, 0])]
    assert kept.stop["analysis"]["n_skipped"] == 2


class Given(EventReduction):
    """What the event has."""

    def reduce(self, data):
        return dict(data)


@pytest.mark.parametrize(
    ("first", "then"), [(numpy.ones(2), 1.0), (1.0, numpy.ones(2)), (numpy.ones(2), numpy.ones(3))]
)
def test_a_result_keeps_its_shape_or_is_rejected(first, then):
    given = Given()
    given.update({"a": first})

    with pytest.raises(RejectedValue, match=r"a: wanted shape .*, as before; there is"):
        given.update({"a": then})

    assert numpy.isnan(given.result()["a"]).all()


def test_live_is_replay(RE, kept):
    raw = []
    pipeline = Pipeline([Node("n", Normalize("det", "motor", "det * exp(-motor / 10)"))], [kept])
    RE.subscribe(pipeline)
    RE.subscribe(lambda name, doc: raw.append((name, doc)))

    RE(scan([det], motor, 1, 5, 9))
    again = Kept()
    Pipeline([Node("n", Normalize("det", "motor", "det * exp(-motor / 10)"))], [again]).replay(raw)

    events = kept.events("primary")
    assert len(events) == 9
    assert kept.bytes() == again.bytes()
    assert events[0]["det_norm"] == pytest.approx(math.exp(-0.5) * math.exp(-0.1))


def test_a_configuration_can_name_them(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "nodes:\n"
        "  - name: each\n"
        "    reductions:\n"
        "      - Normalize: {numerator: det, monitor: i0, op: '(det - 2) / i0', offsets: {i0: 3}, scale: 2}\n"
        "      - Regions: {field: mca, rois: {Fe: [1, 4]}, statistic: [sum, com], background: border}\n"
        "      - Quality: {field: mca, beam: i0, saturation: 100}\n"
        "      - Background: {field: mca, reference: [1, 2, 3], scale: fit, fit_range: [0, 2]}\n"
        "sinks: []\n"
    )

    reductions = load(tmp_path / "a.yaml").pipeline().nodes[0].reductions

    assert [reduction.name for reduction in reductions] == ["Normalize", "Regions", "Quality", "Background"]
    assert reductions[1].arguments["rois"] == {"Fe": [1, 4]}

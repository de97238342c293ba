"""In a node, each reduction reads the raw fields and what the reductions of single events before it gave."""

import numpy
import pytest

from pipeline import Node, Pipeline, Reduction
from pipeline.config import load
from pipeline.errors import RejectedValue
from pipeline.reductions import Map, Mean, Normalize, PeakStatistics, Quality, Regions
from pipeline.testing import make_run

X = [float(i) for i in range(21)]
PEAK = [100 * numpy.exp(-((x - 12.0) ** 2) / 8) for x in X]
I0 = [50.0 + 3 * x for x in X]
DATA = {"motor": X, "det": [p * i for p, i in zip(PEAK, I0, strict=True)], "i0": I0}
UNITS = {"motor": {"units": "mm"}, "det": {"units": "count"}, "i0": {"units": "count"}}


def replayed(kept, node, raw):
    Pipeline([node], [kept]).replay(raw)
    return kept


def final(kept):
    return kept.events("final")[-1]


def test_what_is_normalised_has_the_peak_that_the_detector_alone_would_not_show(kept):
    node = Node("peak", Normalize("det", "i0", name="mu"), PeakStatistics("motor", "mu"), Mean("mu"))

    replayed(kept, node, make_run(DATA, data_keys=UNITS))

    assert numpy.allclose([row["mu"] for row in kept.events("primary")], PEAK)
    assert final(kept)["mu_com"] == pytest.approx(12.0, abs=0.05)
    assert final(kept)["mu_mean"] == pytest.approx(numpy.mean(PEAK))
    data_keys = {doc["name"]: doc["data_keys"] for doc in kept.named("descriptor")}
    assert "mu" not in data_keys["final"]
    assert data_keys["primary"]["mu"]["units"] == "dimensionless"
    assert data_keys["final"]["mu_mean"]["units"] == "dimensionless"
    assert data_keys["final"]["mu_com"]["units"] == "mm"


def test_units_follow_through_a_chain_and_nobody_is_warned_of_them(kept, caplog):
    data = {"mca": [numpy.arange(8.0) + i for i in range(6)], "i0": [2.0] * 6}
    units = {"mca": {"units": "count"}, "i0": {"units": "count"}}
    node = Node(
        "n", Regions("mca", {"fe": [2, 5]}), Normalize("mca_fe_sum", "i0", op="mca_fe_sum**2 / i0", name="fe"), every=0
    )

    replayed(kept, node, make_run(data, data_keys=units))

    data_keys = {doc["name"]: doc["data_keys"] for doc in kept.named("descriptor")}
    assert data_keys["primary"]["fe"]["units"] == "count"
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []


def test_regions_of_a_spectrum_feed_a_map(kept):
    spectra = [numpy.arange(8.0) + i for i in range(6)]
    data = {"x": [0.0, 1.0, 2.0] * 2, "y": [0.0] * 3 + [1.0] * 3, "mca": spectra}
    node = Node(
        "map", Regions("mca", {"fe": [2, 5]}), Map("x", "y", "mca_fe_sum", shape=[2, 3], extents=[[0, 1], [0, 2]])
    )

    replayed(kept, node, make_run(data))

    sums = [float(spectrum[2:5].sum()) for spectrum in spectra]
    (key,) = [key for key in final(kept) if key.endswith("_map")]
    assert final(kept)[key].tolist() == [sums[:3], sums[3:]]


def test_a_chain_gives_the_same_from_events_pages_and_a_second_time(kept):
    node = Node("peak", Normalize("det", "i0", name="mu"), PeakStatistics("motor", "mu"))
    runs = []
    for pages in (0, 5):
        sink = type(kept)()
        runs.append(
            [(name, doc["data"]) for name, doc in replayed(sink, node, make_run(DATA, pages=pages)) if "data" in doc]
        )

    assert repr(runs[0]) == repr(runs[1])


def test_the_order_is_that_of_the_node(kept):
    node = Node("peak", Mean("mu"), Normalize("det", "i0", name="mu"))

    replayed(kept, node, make_run(DATA))

    (stop,) = kept.named("stop")
    assert stop["exit_status"] == "fail"
    assert stop["reason"] == "Mean reads 'mu', but stream 'primary' has ['motor', 'det', 'i0']."


def test_a_field_that_nobody_gives_is_told_with_what_there_is(kept):
    replayed(kept, Node("peak", Normalize("det", "i0", name="mu"), Mean("nu")), make_run(DATA))

    (stop,) = kept.named("stop")
    assert stop["exit_status"] == "fail"
    assert "Mean reads 'nu'" in stop["reason"]
    assert "the reductions before it give ['i0_ok', 'mu', 'mu_err']" in stop["reason"]


@pytest.mark.parametrize(
    ("reductions", "says"),
    [
        ([Normalize("det", "i0", name="motor"), Mean("motor")], "Normalize gives 'motor', which is there already"),
        ([Normalize("det", "i0", name="a"), Normalize("i0", "det", name="b"), Mean("a")], "gives 'i0_ok'"),
        (
            [Quality("det"), Quality("det", saturation=3.0), Mean("i0")],
            "Quality gives 'det_max', which is there already",
        ),
    ],
)
def test_a_name_that_is_taken_is_refused(reductions, says, kept):
    replayed(kept, Node("peak", *reductions), make_run(DATA))

    (stop,) = kept.named("stop")
    assert stop["exit_status"] == "fail"
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(stop["reason"])


class Picky(Reduction):
    """Refuses what is above a level; what it says then is of the event before."""

    kind = "event"

    def __init__(self, field):
        self.field, self.last = field, None

    def update(self, data):
        if data[self.field] > 2:
            raise RejectedValue("too much")
        self.last = data[self.field]

    def result(self):
        return {"picked": self.last}


def test_the_result_of_an_event_is_never_passed_on_for_another(kept):
    replayed(kept, Node("picky", Picky("det"), Mean("picked")), make_run({"det": [5.0, 1.0, 7.0, 2.0]}))

    assert [row["picked"] for row in kept.events("primary")] == [1.0, 2.0]
    assert (final(kept)["picked_mean"], final(kept)["picked_n"]) == (1.5, 2)
    assert kept.named("stop")[0]["analysis"]["n_skipped"] == 4


def test_a_bad_monitor_is_no_information_further_on(kept):
    data = {**DATA, "i0": [0.0, *I0[1:]]}

    replayed(kept, Node("peak", Normalize("det", "i0", name="mu"), Mean("mu")), make_run(data))

    assert final(kept)["mu_n"] == len(X) - 1
    assert [row["i0_ok"] for row in kept.events("primary")] == [False] + [True] * (len(X) - 1)


def test_a_chain_in_yaml_is_the_chain_in_python(tmp_path, kept):
    path = tmp_path / "chain.yaml"
    path.write_text(
        "nodes:\n"
        "  - name: peak\n"
        "    reductions:\n"
        "      - Normalize: {numerator: det, monitor: i0, name: mu}\n"
        "      - PeakStatistics: {x: motor, y: mu}\n"
        "sinks:\n"
        "  - JSONLSink: " + str(tmp_path / "ledger") + "\n"
    )

    (node,) = load(path).nodes

    assert node.recipe == Node("peak", Normalize("det", "i0", name="mu"), PeakStatistics("motor", "mu")).recipe
    assert final(replayed(kept, node, make_run(DATA)))["mu_com"] == pytest.approx(12.0, abs=0.05)


def test_what_two_reductions_call_alike_is_kept_of_both(kept):
    data = {"motor": [0.0, 1.0, 2.0, 3.0], "det": [1.0, float("nan"), 5.0, 1.0]}

    replayed(kept, Node("peak", PeakStatistics("motor", "det"), Mean("det"), Mean("det")), make_run(data))

    assert [final(kept)[key] for key in ("det_n", "det_n_2", "det_n_3", "det_mean", "det_mean_2")] == [
        3,
        3,
        3,
        pytest.approx(7 / 3),
        pytest.approx(7 / 3),
    ]
    (data_keys,) = (doc["data_keys"] for doc in kept.named("descriptor") if doc["name"] == "final")
    assert [data_keys[key]["source"].partition("(")[0] for key in ("det_n", "det_n_2")] == ["PeakStatistics", "Mean"]


def test_how_many_frames_a_field_had_is_said_once(kept):
    frames = [numpy.full((2, 3, 4), i, "u2") for i in range(3)]
    node = Node("frames", Quality("det"), Regions("det", {"a": [0, 2, 0, 2]}, "sum"), Mean("det_a_sum"))

    replayed(kept, node, make_run({"det": frames}))

    assert [row["det_n_frames"] for row in kept.events("primary")] == [2, 2, 2]
    assert kept.final()["det_a_sum_mean"] == 8.0

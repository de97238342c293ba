"""The configurations for techniques, as they stand in configs/, give the numbers that real runs should give.

`map.yaml` and `xas.yaml` name the fields of runs as they were archived, and so does the drift of `quality.yaml`. For
the others a raw run is made of real columns, under the names that the configuration has.
"""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy
import pytest
from bluesky.callbacks.fitting import PeakStats
from kept import Kept
from real import columns
from scipy.stats import binned_statistic

from pipeline import Node, Pipeline, RunBuilder, analyses
from pipeline.cli import main
from pipeline.config import load
from pipeline.documents import dumps
from pipeline.sources import read_jsonl
from pipeline.testing import TIME, make_run

CONFIGS = Path(__file__).parents[1] / "configs"


def analysed(config, raw):
    kept = Kept()
    Pipeline(load(CONFIGS / config).nodes, [kept]).replay(raw)
    kept.check_valid()
    return kept


def axis(kept, field):
    (axes,) = kept.events("axes")
    return numpy.array(axes[field])


def made(columns, plan_name, **told):
    return make_run({name: column.tolist() for name, column in columns.items()}, plan_name=plan_name, **told)


# the runs ----------------------------------------------------------------------------------------------------------


def tuned(folder, file, x, y, monitor):
    """A scan of APS USAXS to align a crystal, as a scan of `motor`."""
    data = columns(folder / "docs_spec_scans" / file, x, y, monitor)
    return made(dict(zip(("motor", "det", "i0"), data, strict=True)), "scan")


rocked = partial(tuned, file="APS_spec_data_S1_ascan.jsonl", x="mr", y="I0_2", monitor="Monitor")


def flown(folder, file="S10_Blank", **told):
    """A fly scan of APS USAXS, one event of arrays: a channel is where the angle was in the middle of its pulse."""
    names = "struck_mca3", "struck_mca2", "ar_pulse_positions"
    (det,), (i0,), (pulses,) = columns(folder / "usaxs_fly" / f"{file}.jsonl", *names, stream="mca")
    return {"encoder": (pulses[1:] + pulses[:-1]) / 2, "det": det.astype(float), "i0": i0.astype(float)}


def flown_at_once(folder):
    return make_run({name: [array] for name, array in flown(folder).items()}, plan_name="fly")


def mapped(folder, file="stxm_theta0"):
    """A map of Diamond I18, as it is."""
    return list(read_jsonl(folder / "maps_i18" / f"{file}.jsonl"))


def spectra(folder):
    """22 spectra of two elements each of MAX IV NanoMAX, put on a grid of 2 by 11; what they had for a monitor is time."""
    file = folder / "facility_streams" / "xspress3mini-dump20.jsonl"
    mca, exposure = columns(file, "xspress3_spectra", "exptime")
    y, x = (place.ravel().astype(float) for place in numpy.mgrid[:2, :11])
    data = {"y": y.tolist(), "x": x.tolist(), "mca": list(mca), "i0": exposure.tolist()}
    told = {"motors": ["y", "x"], "shape": [2, 11], "extents": [[0.0, 1.0], [0.0, 10.0]]}
    return make_run(data, plan_name="grid_scan", **told)


def diffracted(folder):
    """The powder pattern of CeO2 of CHESS: counts by two theta; what normalises them is how many pixels they are of."""
    reference = numpy.load(folder / "frame_ceria_dexela" / "reference.npz")
    edges = reference["numpy_edges"]
    data = {
        "two_theta": (edges[1:] + edges[:-1]) / 2,
        "det": reference["numpy_sum"],
        "i0": reference["numpy_count"].astype(float),
    }
    return made(data, "scan"), *data.values(), reference["numpy_mean"]


def absorbed(folder):
    """The spectrum of a copper foil of APS 13-ID, as it is."""
    return list(read_jsonl(folder / "xas" / "cu_metal_rt_xdi.jsonl"))


def tuned_with_a_baseline(folder):
    """A scan of APS USAXS whose diode saturates and whose beam comes and goes, with the baseline of another."""
    file = folder / "docs_spec_scans" / "usaxs_bluesky_specwritercallback_S2_TuneAxis.jsonl"
    det, i0 = columns(file, "PD_USAXS", "I0_USAXS")
    readings = baseline(folder)
    with RunBuilder({"plan_name": "scan"}, "raw", TIME) as builder:
        builder.add_stream("baseline", data={k: [row[k] for row in readings] for k in readings[0]}, time=TIME)
        builder.add_stream("primary", data={"det": det, "i0": i0}, time=TIME)
        builder.close(time=TIME + 1)
    return builder.documents()


def baseline(folder, file="2ffe4d87_scan108_tune_mr.jsonl"):
    documents = list(read_jsonl(folder / "docs_aps_usaxs_2019" / file))
    (uid,) = (doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == "baseline")
    return [doc["data"] for name, doc in documents if name == "event" and doc["descriptor"] == uid]


RUNS = {
    "alignment": rocked,
    "flyscan": flown_at_once,
    "fluorescence": spectra,
    "map": mapped,
    "powder_scalar": lambda folder: diffracted(folder)[0],
    "quality": tuned_with_a_baseline,
    "xas": absorbed,
}


# their numbers -----------------------------------------------------------------------------------------------------


def test_alignment_finds_the_peak_of_the_ratio_as_bluesky_does(data_folder):
    motor, det, i0 = columns(data_folder / "docs_spec_scans" / "APS_spec_data_S1_ascan.jsonl", "mr", "I0_2", "Monitor")
    oracle = PeakStats("x", "y")
    for x, y in zip(motor, det / i0, strict=True):
        oracle("event", {"data": {"x": x, "y": y}})
    oracle("stop", {})
    x, height = motor[::-1], (det / i0 - min(det / i0))[::-1]

    final = analysed("alignment.yaml", rocked(data_folder)).final()

    assert final["norm_com"] == pytest.approx(numpy.trapezoid(height * x, x) / numpy.trapezoid(height, x), rel=1e-12)
    assert final["norm_com"] == pytest.approx(oracle.com, abs=1e-7)  # its centre of mass counts each point alike
    assert final["norm_cen"] == pytest.approx(oracle.cen, rel=1e-12)
    assert final["norm_fwhm"] == pytest.approx(oracle.fwhm, rel=1e-9)
    assert (final["norm_max_x"], final["norm_max"]) == pytest.approx(oracle.max, rel=1e-15)
    assert final["norm_success"] is True


@pytest.mark.parametrize(
    ("file", "x", "y", "com"),
    [
        ("usaxs_bluesky_specwritercallback_S2_TuneAxis.jsonl", "m_stage_r", "I0_USAXS", 8.824867),
        ("usaxs_bluesky_specwritercallback_S4_TuneAxis.jsonl", "a_stage_r", "PD_USAXS", 8.8839199),
    ],
)
def test_alignment_over_the_counting_time_is_where_the_beamline_moved_to(data_folder, file, x, y, com):
    final = analysed("alignment.yaml", tuned(data_folder, file, x, y, "scaler0_time")).final()

    assert final["norm_com"] == pytest.approx(com, abs=5e-7)


@pytest.mark.parametrize("file", ["S10_Blank", "S11_GC"])
def test_flyscan_bins_arrays_and_loses_no_count_that_was_recorded(data_folder, file):
    sums = json.loads((data_folder / "usaxs_fly" / "reference.json").read_text())[file]["sums"]
    data = flown(data_folder, file)

    kept = analysed("flyscan.yaml", make_run({name: [array] for name, array in data.items()}, plan_name="fly"))

    final, edges = kept.final(), axis(kept, "encoder_bin_edges")
    for y, channel in (("det", "mca3"), ("i0", "mca2")):
        mean, n = numpy.array(final[f"{y}_mean"]), numpy.array(final[f"{y}_n"])
        right = binned_statistic(data["encoder"], data[y], "mean", edges).statistic
        assert numpy.allclose(mean, right, rtol=1e-12, atol=0, equal_nan=True)
        assert n.tolist() == numpy.histogram(data["encoder"], edges)[0].tolist()
        assert numpy.nansum(mean * n) == pytest.approx(sums[channel], rel=1e-13)
        assert final[f"{y}_n_outside"] == 0


def test_flyscan_gives_of_single_points_the_bits_that_it_gives_of_their_arrays(data_folder):
    (node,) = load(CONFIGS / "flyscan.yaml").nodes
    kept = Kept()

    Pipeline([Node("flyscan", *node.reductions, every=0)], [kept]).replay(made(flown(data_folder), "fly", pages=1000))

    points, arrays = kept.final(), analysed("flyscan.yaml", flown_at_once(data_folder)).final()
    assert points["n_events"] == 7999
    for key in ("det_mean", "det_err", "i0_mean", "i0_err"):
        assert numpy.array_equal(points[key], arrays[key], equal_nan=True)


@pytest.mark.parametrize("file", ["stxm_theta0", "stxm_theta1"])
def test_map_is_that_of_the_detector_over_that_of_the_monitor(data_folder, file):
    reference = json.loads((data_folder / "maps_i18" / "reference.json").read_text())[file]

    kept = analysed("map.yaml", mapped(data_folder, file))

    final = kept.final()
    right = numpy.array(reference["map_stxm"]) / numpy.array(reference["map_monitor"])
    assert numpy.array_equal(final["norm_map"], right)
    assert numpy.mean(final["norm_map"]) == pytest.approx(reference["normalised_mean"], rel=1e-12)
    assert numpy.array_equal(final["norm_map_n"], numpy.ones((7, 101)))
    assert axis(kept, "y_map_center") == pytest.approx(numpy.linspace(13.6, 13.63, 7))
    assert len(kept.events("running")) == 7


def test_fluorescence_maps_the_counts_of_a_region_over_the_monitor(data_folder):
    folder = data_folder / "facility_streams"
    counts = numpy.load(folder / "xspress3mini-dump20_reference.npz")["roi_800_1000"]
    (exposure,) = columns(folder / "xspress3mini-dump20.jsonl", "exptime")

    final = analysed("fluorescence.yaml", spectra(data_folder)).final()

    assert numpy.array_equal(final["Fe_map"], (counts.sum(1) / exposure).reshape(2, 11))
    assert numpy.array_equal(final["Fe_map_n"], numpy.ones((2, 11)))


def has_beam(i0, window=31, drop=0.5):
    """What `Quality` says of the beam, by its definition."""
    good = []
    for x in i0:
        if x > 0 and (not good or x > drop * numpy.median(good[-window:])):
            good.append(x)
            yield True
        else:
            yield False


def test_quality_counts_what_is_saturated_and_tells_when_the_beam_is_gone(data_folder):
    file = data_folder / "docs_spec_scans" / "usaxs_bluesky_specwritercallback_S2_TuneAxis.jsonl"
    det, i0 = columns(file, "PD_USAXS", "I0_USAXS")

    rows = analysed("quality.yaml", tuned_with_a_baseline(data_folder)).of_node("quality").events("primary")

    assert [row["det_n_saturated"] for row in rows] == (det >= 99999).astype(int).tolist()
    assert [row["det_max"] for row in rows] == [row["det_total"] for row in rows] == det.tolist()
    assert [row["beam_ok"] for row in rows] == list(has_beam(i0))
    assert sum(row["det_n_saturated"] for row in rows) == 15
    assert [row["beam_ok"] for row in rows[-10:]] == [True] + [False] * 9


def test_quality_finds_no_beam_in_a_scan_without_beam(data_folder):
    file = data_folder / "docs_aps_8id_2026" / "0001_fcaca5e1_rel_scan_sample_x.jsonl"
    det, i0 = columns(file, "tetramm1_sum_all_mean_value", "tetramm1_current1_mean_value")

    rows = analysed("quality.yaml", made({"det": det, "i0": i0}, "scan")).of_node("quality").events("primary")

    assert [row["beam_ok"] for row in rows] == [False] * 60


def test_quality_counts_the_zeros_of_spectra(data_folder):
    mca, exposure = columns(
        data_folder / "facility_streams" / "xspress3mini-dump20.jsonl", "xspress3_spectra", "exptime"
    )

    raw = make_run({"det": list(mca), "i0": exposure.tolist()}, plan_name="scan")
    rows = analysed("quality.yaml", raw).of_node("quality").events("primary")

    assert [row["det_n_zero"] for row in rows] == (mca == 0).sum((1, 2)).tolist()
    assert [row["det_total"] for row in rows] == mca.sum((1, 2)).tolist()


@pytest.mark.parametrize(
    "file",
    ["2ffe4d87_scan108_tune_mr.jsonl", "6cfeb213_scan102_tune_m2rp.jsonl", "b0aa6435_scan104_tune_a2rp.jsonl"],
)
def test_quality_tells_what_of_a_real_baseline_has_drifted(data_folder, file):
    before, after = baseline(data_folder, file)
    numbers = {key: (float(before[key]), float(after[key])) for key in before if isinstance(before[key], int | float)}
    apart = {key for key, (a, b) in numbers.items() if abs(b - a) > 0.001 * max(abs(a), abs(b))}

    kept = analysed("quality.yaml", read_jsonl(data_folder / "docs_aps_usaxs_2019" / file)).of_node("drift")

    (descriptor,) = (doc for doc in kept.named("descriptor") if doc["name"] == "final")
    final = {key.get("original_name", name): kept.final()[name] for name, key in descriptor["data_keys"].items()}
    assert {key for key in numbers if final[f"{key}_drifted"]} == apart
    assert final["n_drifted"] == len(apart) > 0
    assert {key: final[f"{key}_delta"] for key in numbers} == {key: b - a for key, (a, b) in numbers.items()}


def test_powder_scalar_has_the_pattern_of_the_detector_over_the_monitor(data_folder):
    raw, two_theta, _, i0, right = diffracted(data_folder)

    kept = analysed("powder_scalar.yaml", raw)

    final, there = kept.final(), numpy.isfinite(right)
    mean, edges = numpy.array(final["intensity_mean"]), axis(kept, "two_theta_bin_edges")
    pattern = binned_statistic(two_theta[there], right[there], "mean", edges).statistic
    assert numpy.allclose(mean, pattern, rtol=1e-12, atol=0, equal_nan=True)
    strongest = two_theta[numpy.nanargmax(right)]
    assert axis(kept, "two_theta_bin_center")[numpy.nanargmax(mean)] == pytest.approx(strongest, abs=0.01)
    assert sum(final["intensity_n"]) == there.sum() - final["intensity_n_outside"]
    assert final["intensity_n_nan"] == 39 == (~there).sum()
    assert final["i0_mean"] == pytest.approx(numpy.mean(i0), rel=1e-15)


def test_xas_has_the_absorbance_that_the_beamline_recorded_and_the_edge_of_larch(data_folder):
    (mu,) = columns(data_folder / "xas" / "cu_metal_rt_xdi.jsonl", "mutrans")
    larch = json.loads((data_folder / "xas" / "reference.json").read_text())["cu_metal_rt.xdi"]["larch"]

    kept = analysed("xas.yaml", absorbed(data_folder))

    final = kept.final()
    energy = axis(kept, "mu_xas_energy") + final["mu_xas_e0"]
    white_line, height = larch["whiteline"]
    assert [row["mu"] for row in kept.events("primary")] == pytest.approx(mu, abs=1e-11)
    assert (final["mu_xas_success"], final["mu_xas_n"], final["mu_xas_n_glitch"]) == (True, 408, 0)
    assert final["mu_xas_e0"] == pytest.approx(larch["e0"], abs=0.3)
    assert final["mu_xas_edge_step"] == pytest.approx(larch["edge_step"], rel=5e-4)
    assert numpy.interp(white_line, energy, final["mu_xas_norm"]) == pytest.approx(height, rel=2e-3)


# their commands ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """One embedded catalog for all; its server goes when it is not used."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("catalog")
        patch.setenv("BLUESKY_PIPELINE_CATALOG", str(folder))
        patch.setenv("BLUESKY_PIPELINE_CATALOG_LINGER", "5")
        yield str(folder)


def commands(config):
    """The command lines in the comments of a configuration."""
    lines = (line.lstrip("# ") for line in (CONFIGS / config).read_text().splitlines())
    return [line.partition("  ")[0].split()[1:] for line in lines if line.startswith("bluesky-pipeline ")]


def test_every_configuration_for_a_technique_is_here():
    others = {"peak", "statistics", "beamline-journal", "facility-kafka", "facility-tiled", "replay"}
    others |= {"powder", "saxs", "tomography", "xpcs", "xrf"}  # of frames: tests/test_frame_configs.py
    assert {path.stem for path in CONFIGS.glob("*.yaml")} - others == set(RUNS)


@pytest.mark.parametrize("config", RUNS)
def test_the_commands_in_its_comments_work_and_fill_ledger_and_catalog(
    data_folder, config, catalog, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CONFIGS, "configs")
    raw = RUNS[config](data_folder)
    Path("FILE").write_bytes(b"".join(dumps(name, doc) for name, doc in raw))
    asked = commands(f"{config}.yaml")

    codes = [main(command) for command in asked if command[0] != "run"]

    assert [command[0] for command in asked] == ["show", "check", "replay", "run"]
    assert asked[1][1] == asked[2][1] == asked[3][1] == f"configs/{config}.yaml"
    assert codes == [0, 0, 0], capsys.readouterr()
    in_ledger = {path.stem for path in Path("analysis").glob("*.jsonl")}
    assert len(in_ledger) == len(load(f"configs/{config}.yaml").nodes)
    assert {run.uid for run in analyses(catalog, raw[0][1]["uid"])} >= in_ledger

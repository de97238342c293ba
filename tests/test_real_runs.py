"""Real runs of real beamlines: each gives the analysis that it should, or says why not."""

import json
import math

import pytest
from kept import Kept
from lanes import Lanes

from pipeline import Node, Pipeline
from pipeline.cli import main
from pipeline.documents import NaNs
from pipeline.reductions import Drift, PeakStatistics, Statistics
from pipeline.service import Service
from pipeline.sinks import JSONLSink
from pipeline.sources import read_jsonl
from pipeline.state_store import StateStore
from pipeline.testing import make_run

FOLDERS = (
    "docs_aps_8id_2026",
    "docs_aps_usaxs_2019",
    "docs_apstools_2019",
    "docs_apstools_2025",
    "docs_peer_examples",
    "docs_spec_scans",
    "docs_tutorials_2020",
)


def analyse(documents, *nodes):
    kept = Kept()
    Pipeline(nodes, [kept]).replay(documents)
    return kept


def numeric_fields(file, stream):
    for name, doc in read_jsonl(file):
        if name == "descriptor" and doc.get("name") == stream:
            keys = doc["data_keys"].items()
            return [
                k for k, v in keys if v["dtype"] in ("number", "integer") and not v.get("shape") and "external" not in v
            ]
    return []


def references(folder):
    return [(folder, entry) for name in FOLDERS for entry in json.loads((folder / name / "reference.json").read_text())]


def file_of(folder, entry):
    (path,) = [p for name in FOLDERS for p in (folder / name).glob(entry["file"])]
    return path


def near(have, want, tolerance=1e-12):
    if want is None or (isinstance(want, float) and math.isnan(want)):
        return have is None or math.isnan(have)
    return math.isclose(have, want, rel_tol=tolerance, abs_tol=1e-300)


def test_statistics_of_every_field_of_every_stream_agree_with_the_reference(data_folder):
    n_fields = n_runs = 0
    for folder, entry in references(data_folder):
        file = file_of(folder, entry)
        for stream, wanted in entry["streams"].items():
            fields = [f for f in numeric_fields(file, stream) if f in wanted["fields"]]
            if not fields:
                continue
            kept = analyse(read_jsonl(file), Node("all", *map(Statistics, fields), stream=stream, every=0))
            kept.check_valid()
            final, descriptor = kept.final(), kept.named("descriptor")[-1]
            keys = {k.get("original_name", key): key for key, k in descriptor["data_keys"].items()}
            n_runs += 1
            for field in fields:
                reference = wanted["fields"][field]
                n_fields += 1
                assert final[keys[f"{field}_n"]] == reference["n_finite"], (file.name, field)
                for what, of in (
                    ("mean", "mean"),
                    ("sum", "sum"),
                    ("min", "min"),
                    ("max", "max"),
                    ("std", "std_ddof1"),
                ):
                    if of not in reference:
                        continue
                    have, want = final[keys[f"{field}_{what}"]], reference[of]
                    tolerance = 1e-12 if what in ("min", "max") else 1e-9
                    scale = abs(reference.get("max") or 0) * 1e-12
                    assert near(have, want, tolerance) or abs(have - want) <= scale, (
                        file.name,
                        field,
                        what,
                        have,
                        want,
                    )
    assert n_runs >= 100
    assert n_fields >= 2500


def test_peaks_agree_with_the_reference_where_there_is_one_peak(data_folder):
    """PeakStats of bluesky takes every crossing; where there are two, its centre and width are ours."""
    n = 0
    for folder, entry in references(data_folder):
        for pair, wanted in (entry.get("peaks") or {}).items():
            y, _, x = pair.partition(" vs ")
            peak = (wanted or {}).get("peakstats") or {}
            crossings = peak.get("crossings")
            kept = analyse(read_jsonl(file_of(folder, entry)), Node("peak", PeakStatistics(x, y), every=0))
            if kept.stop["exit_status"] == "fail":
                continue
            final = {key.rpartition(f"{y}_")[2] or key: value for key, value in kept.final().items()}
            gaussian = wanted.get("lmfit_gauss_linear") or {}
            if crossings and len(crossings) == 2 and gaussian.get("is_a_peak"):
                n += 1
                assert near(final["cen"], peak["cen"], 1e-9), (entry["file"], pair)
                assert near(final["fwhm"], peak["fwhm"], 1e-9), (entry["file"], pair)
                assert near(final["max_x"], peak["max"][0])
                assert final["success"] is True, (entry["file"], pair)
    assert n >= 15


def test_the_centres_of_the_beamline_itself_are_found(data_folder):
    """USAXS moved to the centre of mass that it had computed: to the digits that it recorded."""
    n = 0
    for folder, entry in references(data_folder):
        if "beamline_recorded" not in entry:
            continue
        (pair,) = entry["peaks"]
        y, _, x = pair.partition(" vs ")
        kept = analyse(read_jsonl(file_of(folder, entry)), Node("peak", PeakStatistics(x, y), every=0))
        assert kept.final()[f"{y}_com"] == pytest.approx(entry["beamline_recorded"]["com"], abs=5e-7)
        n += 1
    assert n == 2


def test_noise_without_beam_is_no_peak(data_folder):
    for name, x, y in (
        ("2ffe4d87_scan108_tune_mr", "m_stage_r", "I0_USAXS"),
        ("6cfeb213_scan102_tune_m2rp", "m_stage_r2p", "I0_USAXS"),
        ("b0aa6435_scan104_tune_a2rp", "a_stage_r2p", "PD_USAXS"),
    ):
        file = data_folder / "docs_aps_usaxs_2019" / f"{name}.jsonl"
        assert analyse(read_jsonl(file), Node("peak", PeakStatistics(x, y), every=0)).final()[f"{y}_success"] is False


LRE = {"Lew": (14, 14), "Lottery": (14, 14), "NumAcc1": (14, 14), "NumAcc3": (14, 9.4)}  # digits of mean, and std


@pytest.mark.parametrize("name", LRE)
def test_nist_statistics_have_the_certified_digits(data_folder, name):
    reference = json.loads((data_folder / "nist_univariate" / "reference.json").read_text())[name]
    file = data_folder / "nist_univariate" / f"{name}.jsonl"

    final = analyse(read_jsonl(file), Node("nist", Statistics("y"), every=0)).final()

    for what, digits, certified in zip(("mean", "std"), LRE[name], ("mean", "std_ddof1"), strict=True):
        want = float(reference["certified"][certified])
        error = abs(final[f"y_{what}"] - want) / abs(want)
        assert error == 0 or -math.log10(error) >= digits
    assert final["y_std"] == pytest.approx(reference["exact_of_doubles"]["std_ddof1"], rel=3e-16)


def numacc4():
    """NumAcc4 of NIST StRD, by its definition: 10000000.2, then 500 times 10000000.1 and 10000000.3."""
    return [10000000.2, *[10000000.1, 10000000.3] * 500]


def test_numacc4_has_its_digits():
    final = analyse(make_run({"y": numacc4()}), Node("nist", Statistics("y"), every=0)).final()

    assert -math.log10(abs(final["y_std"] - 0.1) / 0.1) >= 8.2
    assert final["y_mean"] == 10000000.2


def test_out_of_order_archives_give_what_the_ordered_ones_give(data_folder):
    files = sorted((data_folder / "docs_aps_8id_2026").glob("*_asreturned.jsonl"))
    assert files
    for file in files:
        ordered = file.with_name(file.name.replace("_asreturned", ""))
        field = numeric_fields(file, "primary")[0]
        node = Node("all", Statistics(field))
        assert analyse(read_jsonl(file), node).bytes() == analyse(read_jsonl(ordered), node).bytes()


def test_interleaved_runs_equal_the_runs_alone(data_folder):
    mixed = Kept(read_jsonl(data_folder / "docs_interleaved"))
    alone = mixed.by_run()
    nodes = [Node("a", Statistics("PD_USAXS")), Node("b", Statistics("sample_y"))]

    together = analyse(mixed, *nodes).by_run()

    assert len(alone) == 2
    apart = {uid: run for documents in alone.values() for uid, run in analyse(documents, *nodes).by_run().items()}
    assert {uid: run.bytes() for uid, run in together.items()} == {uid: run.bytes() for uid, run in apart.items()}
    assert sum(run.stop["exit_status"] == "success" for run in together.values()) == 2


@pytest.mark.parametrize(
    ("file", "node", "status", "reason", "events"),
    [
        ("docs_spec_scans/CdOsO_S3_ascan_aborted.jsonl", Node("n", Statistics("Ana5")), "abort", "", 50),
        ("docs_apstools_2019/49dce8d9_scan132_count.jsonl", Node("n", Statistics("x")), "fail", "reads 'x', but", 0),
        (
            "docs_aps_usaxs_2019/19965989_scan110_Flyscan.jsonl",
            Node("n", Statistics("I0")),
            "fail",
            "but the run has ['",
            0,
        ),
        (
            "docs_peer_examples/bluesky-tiled-plugins_external_assets_single_key.jsonl",
            Node("n", Statistics("det-key2")),
            "fail",
            "peer_assets/dataset.h5 /entry/data/data_2, row 0: wanted what was announced, there is none",
            1,
        ),
        (
            "docs_peer_examples/bluesky-tiled-plugins_internal_events.jsonl",
            Node("n", Statistics("det")),
            "success",
            "",
            3,
        ),
    ],
)
def test_each_kind_of_run_ends_in_its_own_way(data_folder, file, node, status, reason, events):
    kept = analyse(read_jsonl(data_folder / file), node)

    kept.check_valid()
    assert kept.stop["exit_status"] == status
    assert reason in kept.stop["reason"]
    assert kept.stop["analysis"]["n_raw"] == events
    assert len(kept.events("final")) == (events > 0 and status != "fail")


def test_a_run_without_stop_and_events_is_an_abort(data_folder):
    file = data_folder / "docs_apstools_2019" / "49dce8d9_scan132_count.jsonl"
    (field,) = next(doc["data_keys"] for name, doc in read_jsonl(file) if name == "descriptor")

    kept = analyse(read_jsonl(file), Node("n", Statistics(field)))

    assert kept.stop["exit_status"] == "abort"
    assert kept.stop["analysis"]["abandoned"] is True


def test_every_real_run_with_one_configuration_twice_by_the_command(data_folder, tmp_path, capsys, monkeypatch):
    """Replayed, each gives a run that is valid or says why not; the same files again change nothing; verify agrees."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all.yaml").write_text(
        "nodes:\n"
        "  - {name: det, reductions: [{Statistics: noisy_det}]}\n"
        "  - {name: usaxs, reductions: [{PeakStatistics: {x: m_stage_r, y: I0_USAXS}}]}\n"
        "  - {name: nist, when: {plan_name: nist_univariate}, reductions: [{Statistics: y}]}\n"
        "sinks: [{JSONLSink: analysis}]\n"
    )
    folders = [str(data_folder / name) for name in (*FOLDERS, "nist_univariate", "docs_interleaved")]

    assert main(["replay", "all.yaml", *folders]) == 1  # some runs have no such field: each says so
    first = {path.name: path.read_bytes() for path in (tmp_path / "analysis").glob("*.jsonl")}
    out = capsys.readouterr().out
    assert main(["replay", "all.yaml", *folders]) == 1
    again = {path.name: path.read_bytes() for path in (tmp_path / "analysis").glob("*.jsonl")}

    assert first == again
    assert len(first) >= 200
    assert "reads 'noisy_det', but stream 'primary' has [" in out
    for content in first.values():
        kept = Kept(_parse(content))
        kept.check_valid()
    capsys.readouterr()
    assert main(["verify", "all.yaml", *folders]) == 0
    assert " 0 not." in capsys.readouterr().out


def _parse(content):
    from pipeline.documents import loads

    restore = NaNs()
    return [(name, restore(name, doc)) for name, doc in map(loads, content.splitlines())]


def test_a_run_that_is_not_valid_is_reported_by_name(data_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = (data_folder / "nist_univariate" / "NumAcc1.jsonl").read_text().splitlines(keepends=True)
    broken = [line.replace('"shape": []', '"shape": "none"') for line in lines]
    (tmp_path / "invalid.jsonl").write_text("".join(broken))
    (tmp_path / "c.yaml").write_text("nodes: [{name: n, reductions: [{Mean: y}]}]\nsinks: [{JSONLSink: out}]\n")

    assert main(["replay", "c.yaml", "invalid.jsonl"]) == 1

    assert (
        "invalid.jsonl: descriptor['data_keys']['y']['shape'] is not valid by event-model's schema"
        in capsys.readouterr().err
    )


def test_a_damaged_file_is_reported_by_name_and_the_others_are_analysed(data_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = next(iter(sorted((data_folder / "nist_univariate").glob("*.jsonl"))))
    (tmp_path / "a_bad.jsonl").write_bytes(good.read_bytes()[:-40])
    (tmp_path / "b_good.jsonl").write_bytes(good.read_bytes())
    (tmp_path / "c.yaml").write_text("nodes: [{name: n, reductions: [{Mean: y}]}]\nsinks: [{JSONLSink: out}]\n")

    assert main(["replay", "c.yaml", "a_bad.jsonl", "b_good.jsonl"]) == 1

    err = capsys.readouterr().err
    assert "a_bad.jsonl, line" in err
    (path,) = (tmp_path / "out").glob("*.jsonl")
    assert Kept(_parse(path.read_bytes())).stop["exit_status"] == "success"


def kept_by_a_service(documents, folder, nodes):
    """What a service has in its ledger of stored documents, and what it says it could not read."""
    source = Lanes(one=documents, batch=50)
    source.is_stored = True
    Service(Pipeline(nodes, [JSONLSink(folder)]), source).run()
    store = StateStore(folder / ".state" / "state.db")
    unread = [reason for _, _, reason in store.poison()]
    store.close()
    return {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}, unread


def test_a_service_makes_of_every_real_run_what_a_replay_makes(data_folder, tmp_path):
    nodes = [Node("primary", Drift(), every=5), Node("baseline", Drift(), stream="baseline", every=0)]
    n_runs, told = 0, {}
    for number, path in enumerate(sorted(data_folder.rglob("*.jsonl*"))):
        documents = list(read_jsonl(path))
        with JSONLSink(tmp_path / f"{number} replayed") as ledger:
            Pipeline(nodes, [ledger]).replay(documents)

        have, unread = kept_by_a_service(documents, tmp_path / f"{number}", nodes)

        assert have == {each.name: each.read_bytes() for each in ledger.directory.glob("*.jsonl")}, path
        n_runs += 1
        told |= {path.parent.name: unread} if unread else {}
    assert n_runs > 100
    assert told == {}

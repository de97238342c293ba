"""The configurations for frames, as they stand in configs/, give the numbers that real and simulated frames should.

Where frames are is what a beamline changes in them: `/data`, in the tests the folder that has them.
"""

import json
import shutil
from pathlib import Path

import h5py
import numpy
import pytest
from kept import Kept
from real import columns

from pipeline import analyses
from pipeline.cli import main
from pipeline.config import load
from pipeline.documents import dumps
from pipeline.serve import close_sinks
from pipeline.simulation import PowderBeamline
from pipeline.sources import read_jsonl

CONFIGS = Path(__file__).parents[1] / "configs"
AGBH = "frames_synth_agbh_pilatus300k/async_stream.jsonl"
K11 = "frames_k11_tomo/k11_stream.jsonl"
XPCS = "frames_synth_xpcs/xpcs_stream.jsonl"
XRF = "facility_streams/xspress3mini-dump20.jsonl"


def raw_run(folder, file):
    """A stored run, whose documents name files below `__DATA_ROOT__`."""
    text = "".join(json.dumps(item) + "\n" for item in read_jsonl(folder / file))
    return [tuple(json.loads(line)) for line in text.replace("__DATA_ROOT__", str(folder)).splitlines()]


def here(config, folder, path="config.yaml", **changes):
    """Write the configuration with other values: where frames are, and what the run has under other names."""
    text = (CONFIGS / config).read_text()
    for old, new in {"[/data]": f"[{folder}]", **changes}.items():
        assert old in text
        text = text.replace(old, new)
    Path(path).write_text(text)
    return load(path)


@pytest.fixture
def at_beamline(tmp_path, monkeypatch):
    """A folder to work in, with the configurations in `configs`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CONFIGS, "configs")
    return tmp_path


def analysed(config, raw):
    kept = Kept()
    config.pipeline_into([kept]).replay(raw)
    kept.check_valid()
    return kept


def axis(kept, field):
    (axes,) = kept.events("axes")
    return numpy.array(axes[field])


def column(kept, field):
    return numpy.array([row[field] for row in kept.events("primary")])


@pytest.fixture(scope="module")
def heated(tmp_path_factory):
    """The simulated powder, as it is heated: its beamline, and the documents of a run of six frames."""
    line, kept = PowderBeamline(tmp_path_factory.mktemp("beamline")), Kept()
    line.run([300.0, 340.0, 380.0, 420.0, 460.0, 500.0], [kept], sample="powder")
    return line, [(name, json.loads(json.dumps(doc))) for name, doc in kept]


# powder ------------------------------------------------------------------------------------------------------------


def test_powder_finds_the_ring_where_it_was_simulated_and_the_pattern_that_pyfai_has(heated, at_beamline):
    import pyFAI

    line, raw = heated

    kept = analysed(here("powder.yaml", line.folder), raw)

    with h5py.File(sorted((line.folder / "frames").glob("*.h5"))[0]) as file:
        dark = file["entry/data/data"][()].mean(0)
    with h5py.File(sorted((line.folder / "frames").glob("*.h5"))[1]) as file:
        frames = file["entry/data/data"][()]
    i0 = [doc["data"]["i0"] for name, doc in raw if name == "event" and "i0" in doc["data"]]
    q, right = pyFAI.load(str(line.poni)).integrate1d(
        frames[3] - dark,
        500,
        unit="q_A^-1",
        radial_range=(0.4, 4.4),
        polarization_factor=0.99,
        mask=(frames[3] < 1) | (frames[3] > 50000),
        method=("bbox", "csr", "cython"),
    )
    rows = kept.events("primary")
    assert axis(kept, "det_corrected_q") == pytest.approx(q, rel=1e-6)
    assert numpy.array(rows[3]["det_corrected_I"]) * i0[3] == pytest.approx(right, rel=1e-5, abs=1e-4)
    for row in rows:
        ring = line.powder.cold.rings(row["temperature"])[0]
        assert row["ring_center"] == pytest.approx(ring, abs=1e-4)
        assert row["ring_success"] is True
    patterns = numpy.array([row["det_corrected_I_sub"] for row in rows], float)
    assert numpy.array(kept.final()["det_corrected_I_sub_mean"]) == pytest.approx(patterns.mean(0), rel=1e-12)
    beside = (q > 1.7) & (q < 1.9)
    assert abs(patterns[:, beside].mean()) < 0.01 * patterns.max()
    assert [each["role"] for each in kept.stop["analysis"]["references"]] == ["dark"]


def test_powder_follows_a_ring_of_frames_that_others_have_simulated(data_folder, at_beamline):
    """Silver behenate on a Pilatus, which counts photons: there is no dark, and a mask in its place."""
    folder = data_folder / "frames_synth_agbh_pilatus300k"
    reference = numpy.load(folder / "reference.npz")
    Path("nothing.csv").write_text("0.1,0\n9,0\n")
    text = (CONFIGS / "powder.yaml").read_text()
    geometry = text[text.index("            {dist:") : text.index("          npt: 500")]
    changes = {
        "plan_name: ramp": "plan_name: scan",
        "dark: {stream: dark, n: 10} ": f"mask: {folder}/mask.npy ",
        geometry: f"            {folder}/agbh.poni\n",
        "q_A^-1": "q_nm^-1",
        "norm: i0": "norm: I0",
        "[1, 50000]": "[0, 1000000]",
        "configs/powder_background.csv": "nothing.csv",
        "[1.94, 2.07]": "[0.85, 1.25]",
    }

    kept = analysed(here("powder.yaml", data_folder, **changes), raw_run(data_folder, AGBH))

    assert column(kept, "ring_center") == pytest.approx(reference["ring1_true_q"], abs=1e-3)
    assert kept.stop["analysis"]["n_skipped"] == 0


# saxs --------------------------------------------------------------------------------------------------------------


def test_saxs_has_the_curves_of_pyfai_over_the_beam_less_the_buffer_and_the_mean_of_those_alike(
    data_folder, at_beamline
):
    reference = numpy.load(data_folder / "frames_synth_agbh_pilatus300k" / "reference.npz")

    kept = analysed(here("saxs.yaml", data_folder), raw_run(data_folder, AGBH))

    q, curves = axis(kept, "det_q"), column(kept, "det_I").astype(float)
    assert q == pytest.approx(reference["q_no_radial"], rel=1e-6)
    assert curves * reference["I0"][:, None] == pytest.approx(reference["q_no_I"], rel=1e-6, nan_ok=True)
    buffer = numpy.interp(q, *numpy.loadtxt("configs/saxs_buffer.csv", delimiter=",", skiprows=2).T)
    assert column(kept, "det_I_sub").astype(float) == pytest.approx(curves - buffer, rel=1e-9, abs=1e-18, nan_ok=True)
    running = kept.events("running")
    alike = [row["saxs_is_similar"] for row in running]
    assert alike == [True] * 10 + [False] * 10  # it expands as it is heated
    right = (curves - buffer)[alike].mean(0)
    assert numpy.array(kept.final()["saxs_mean"], float) == pytest.approx(right, rel=1e-9, abs=1e-18, nan_ok=True)
    assert (kept.final()["saxs_n"], kept.final()["saxs_n_rejected"]) == (10, 10)


# tomography --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def turned(data_folder, tmp_path_factory):
    """What tomography.yaml makes of the scan of Diamond K11."""
    path = tmp_path_factory.mktemp("tomography") / "config.yaml"
    return analysed(here("tomography.yaml", data_folder, path), raw_run(data_folder, K11))


def test_tomography_has_the_transmission_of_projections_a_sinogram_and_where_the_axis_is(data_folder, turned):
    reference = numpy.load(data_folder / "frames_k11_tomo" / "k11_reference.npz")
    with h5py.File(data_folder / "frames_k11_tomo" / "k11-18014-imaging.h5") as file:
        frames = file["entry/detector/detector"][()].astype(float)
    flat, dark = frames[:50].mean(0), frames[50:100].mean(0)
    right = (frames[100:3101] - dark) / (flat - dark)

    kept = turned.of_node("tomography")

    final = kept.final()
    sinogram = numpy.array(final["imaging_corrected_sinogram"])
    assert sinogram == pytest.approx(right[:, 11], rel=1e-6)
    assert final["imaging_corrected_sinogram_angle"] == pytest.approx(reference["theta_projection"], abs=1e-9)
    rows = [row for row in kept.events("primary") if 100 < row["raw_seq_num"] <= 3101]
    sample = [row["imaging_corrected_sample_mean"] for row in rows]
    assert sample == pytest.approx(right[:, 4:18, 4:22].mean((1, 2)), rel=1e-6)
    assert final["imaging_corrected_rotation_apart"] == pytest.approx(180, abs=0.1)
    assert 6 < final["imaging_corrected_rotation_center"] < 20
    assert {each["role"] for each in kept.stop["analysis"]["references"]} == {"dark", "flat"}


def test_tomography_tells_of_every_frame_what_of_it_can_be_used_as_it_comes(data_folder, turned):
    reference = numpy.load(data_folder / "frames_k11_tomo" / "k11_reference.npz")

    kept = turned.of_node("frames")

    assert column(kept, "imaging_total").tolist() == reference["frame_sum"].tolist()
    assert column(kept, "imaging_n_saturated").sum() == 0


# xpcs --------------------------------------------------------------------------------------------------------------


def test_xpcs_correlates_each_region_as_all_pairs_do_and_finds_how_fast_each_forgets(data_folder, at_beamline):
    with h5py.File(data_folder / "frames_synth_xpcs" / "xpcs_public.h5") as file:
        frames = file["entry/data/data"][()].astype(float)
    raw = raw_run(data_folder, XPCS)

    kept = analysed(here("xpcs.yaml", data_folder), raw)

    lags, g2 = axis(kept, "det_lag"), numpy.array(kept.final()["det_g2"])
    for region, (y0, y1, x0, x1) in enumerate([(18, 25, 21, 44), (3, 10, 22, 43)]):
        pixels = frames[:, y0:y1, x0:x1].reshape(len(frames), -1)
        for lag in range(8):
            one, other = pixels[: len(pixels) - lag], pixels[lag:]
            right = (one * other).mean() / (one.mean() * other.mean())
            assert g2[lag, region] == pytest.approx(right, rel=1e-12)
        rate = raw[0][1]["curator"]["gamma_per_frame"][region]
        first = slice(1, 8)
        slope, _ = numpy.polyfit(lags[first] / 0.01, numpy.log(g2[first, region] - 1), 1)
        assert -slope / 2 == pytest.approx(rate, rel=0.25)
    assert column(kept, "det_total").tolist() == frames.sum((1, 2)).tolist()
    assert len(kept.events("running")) == 3


# xrf ---------------------------------------------------------------------------------------------------------------


def test_xrf_has_the_rates_of_lines_over_their_background_and_the_sum_spectrum(data_folder, at_beamline):
    reference = numpy.load(data_folder / "facility_streams" / "xspress3mini-dump20_reference.npz")
    spectra, exposure = columns(data_folder / XRF, "xspress3_spectra", "exptime")
    spectra = spectra.astype(float)

    kept = analysed(load("configs/xrf.yaml"), raw_run(data_folder, XRF))

    beside = numpy.concatenate([spectra[..., 620:640], spectra[..., 660:680]], axis=-1).mean(-1)
    line = spectra[..., 640:660].sum(-1) - 20 * beside
    assert column(kept, "xspress3_spectra_Fe_sum") == pytest.approx(line, abs=1e-9)
    assert column(kept, "Fe") == pytest.approx(line / exposure[:, None], abs=1e-9)
    assert column(kept, "xspress3_spectra_total").tolist() == reference["frame_total"].tolist()
    final = kept.final()
    total = numpy.array(final["xspress3_spectra_mean"]) * final["xspress3_spectra_n"]
    assert total == pytest.approx(reference["sum_spectrum"], abs=1e-9)
    assert len(kept.events("running")) == 2


# their commands ----------------------------------------------------------------------------------------------------


RUNS = {"saxs": AGBH, "tomography": K11, "xpcs": XPCS, "xrf": XRF}


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


def check_commands(name, raw, frames, catalog, capsys):
    """What the comments say works, where the folder of the frames is said, and fills ledger and catalog."""
    path = Path(f"configs/{name}.yaml")
    path.write_text(path.read_text().replace("[/data]", f"[{frames}]"))
    Path("FILE").write_bytes(b"".join(dumps(*item) for item in raw))
    asked = commands(f"{name}.yaml")

    codes = [main(command) for command in asked if command[0] != "run"]

    assert [command[0] for command in asked] == ["show", "check", "replay", "run"]
    assert {command[1] for command in asked[1:]} == {str(path)}
    assert codes == [0, 0, 0], capsys.readouterr()
    in_ledger = {file.stem for file in Path("analysis").glob("*.jsonl")}
    assert len(in_ledger) == len(load(path).nodes)
    assert {run.uid for run in analyses(catalog, raw[0][1]["uid"])} >= in_ledger


@pytest.mark.parametrize("name", RUNS)
def test_the_commands_in_its_comments_work_with_stored_frames(data_folder, at_beamline, catalog, name, capsys):
    check_commands(name, raw_run(data_folder, RUNS[name]), data_folder, catalog, capsys)


def test_saxs_takes_off_what_a_run_of_the_buffer_has_in_the_catalog(data_folder, at_beamline, catalog):
    raw = raw_run(data_folder, AGBH)
    pipeline = here("saxs.yaml", data_folder).pipeline()
    pipeline.replay(raw)
    close_sinks(pipeline)
    buffer = pipeline.result("saxs")
    text = (CONFIGS / "saxs.yaml").read_text()
    changes = {
        text[text.index("          reference: configs") : text.index("          scale: 1.0")]: (
            f"          reference: {{run: {buffer.analysis_uid}, stream: final, field: saxs_mean}}\n"
        ),
        '# catalog: "http://localhost:8000"': f'catalog: "{catalog}"',
    }

    kept = analysed(here("saxs.yaml", data_folder, **changes), raw)

    curves, less = (column(kept, key).astype(float) for key in ("det_I", "det_I_sub"))
    right = curves - numpy.array(buffer["saxs_mean"])
    assert less == pytest.approx(right, rel=1e-12, abs=1e-18, nan_ok=True)
    (reference,) = kept.stop["analysis"]["references"]
    assert (reference["role"], reference["uid"]) == ("background", buffer.analysis_uid)


def test_the_commands_in_the_comments_of_powder_work_with_simulated_frames(heated, at_beamline, catalog, capsys):
    line, raw = heated

    check_commands("powder", raw, line.folder, catalog, capsys)


def test_frames_that_are_not_in_the_folders_that_a_configuration_names_are_not_read(heated, at_beamline):
    _, raw = heated

    kept = analysed(here("powder.yaml", "/nowhere"), raw)

    assert kept.stop["exit_status"] == "fail"
    assert "wanted a file in one of the folders" in kept.stop["reason"]

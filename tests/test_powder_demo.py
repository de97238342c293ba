"""The demo of powder diffraction: it runs as a command, what it prints is true, and what it leaves is as replayed."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy
import pytest
import yaml
from scipy.optimize import curve_fit

from pipeline.cli import main
from pipeline.config import load
from pipeline.powder_config import powder_config
from pipeline.simulation import Phase, Powder
from pipeline.sources import read_jsonl

CEO2, LAB6 = 3.12441816, 4.15682600  # angstrom: the first spacing of each, as NIST certifies it


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder in which the command ran, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "demo", "powder"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "BLUESKY_PIPELINE_CATALOG_LINGER": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def there(demo, monkeypatch):
    """In the folder of the demo."""
    monkeypatch.chdir(demo[0])
    return demo[1]


def rows():
    """What stands in the ledger of each frame of the powder."""
    for path in Path("demo/analysis").glob("*.jsonl"):
        documents = list(read_jsonl(path))
        if documents[0][1]["analysis"]["node"] == "powder":
            (uid,) = (doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == "primary")
            return [doc["data"] for name, doc in documents if name == "event" and doc["descriptor"] == uid]
    return []


def ring(spacing, expansion, temperature):
    return 2 * math.pi / (spacing * (1 + expansion * (temperature - 300)))


def share(temperature):
    return 1 / (1 + math.exp((600 - temperature) / 30))


def gaussian(x, center, sigma, height, level, slope):
    return height * numpy.exp(-(((x - center) / sigma) ** 2) / 2) + level + slope * x


def table(printed):
    """The numbers of the table, a row a temperature; None where there is no ring."""
    lines = [line for line in printed.splitlines() if re.match(r"\d+ K ", line)]
    for line in lines:
        temperature, _, found, right, *rings = line.replace("%", "").split()
        cold, hot = (rings[:2], rings[2:]) if rings[0] != "-" else (None, rings[1:])
        hot = None if hot[0] == "-" else hot
        yield [
            float(temperature),
            float(found) / 100,
            float(right) / 100,
            *(r and [*map(float, r)] for r in (cold, hot)),
        ]


def test_what_it_says_was_simulated_was_simulated(there):
    printed = list(table(there))

    assert [row[0] for row in printed] == [300 + 60 * i for i in range(11)]
    for temperature, _, right, cold, hot in printed:
        assert right == pytest.approx(share(temperature), abs=1e-4)
        if cold is not None:
            assert cold[1] == pytest.approx(ring(CEO2, 1.1e-5, temperature), abs=1e-5)
        if hot is not None:
            assert hot[1] == pytest.approx(ring(LAB6, 7e-6, temperature), abs=1e-5)
    assert sum(row[3] is not None for row in printed) >= 6
    assert sum(row[4] is not None for row in printed) >= 6


def test_what_it_says_was_found_is_in_the_ledger_and_is_near_the_truth(there):
    found = {row["temperature"]: row for row in rows()}

    assert len(found) == 61
    for temperature, changed, right, cold, hot in table(there):
        row = found[temperature]
        assert changed == pytest.approx(row["hot_share"], abs=1e-4)
        assert changed == pytest.approx(right, abs=0.01)
        for name, pair in (("cold", cold), ("hot", hot)):
            if pair is not None:
                assert pair[0] == pytest.approx(row[f"{name}_fit_center"], abs=1e-5)
                assert pair[0] == pytest.approx(pair[1], abs=5e-4)


def test_what_it_says_it_is_off_by_is_what_it_is_off_by(there):
    found = rows()
    off = max(abs(row["hot_share"] - share(row["temperature"])) for row in found)

    assert f"is off by {off:.2%} at most" in there
    for name, spacing, expansion in (("cold", CEO2, 1.1e-5), ("hot", LAB6, 7e-6)):
        there_is = [row for row in found if abs((name == "cold") - row["hot_share"]) >= 0.05]
        told = [row for row in there_is if row[f"{name}_fit_success"]]
        error = [row[f"{name}_fit_center"] - ring(spacing, expansion, row["temperature"]) for row in told]
        mean, most, n = re.search(
            rf"The {name} ring is off by ([\d.]+) in the mean, ([\d.]+) at most, in the (\d+) frames", there
        ).groups()
        assert float(mean) == pytest.approx(math.sqrt(numpy.mean(numpy.square(error))), abs=1e-5)
        assert (float(most), int(n)) == (pytest.approx(max(map(abs, error)), abs=1e-5), len(told))
    slopes = re.findall(r"expands by ([\d.]+)e-6 / K; simulated was ([\d.]+)e-6", there)
    for measured, simulated in slopes:
        assert float(measured) == pytest.approx(float(simulated), rel=0.02)
    assert [simulated for _, simulated in slopes] == ["11.00", "7.00"]


def test_pyfai_and_scipy_find_the_same_rings_in_the_frames_that_it_leaves(there):
    import pyFAI

    *_, dark_file, light_file = sorted(Path("demo/frames").glob("*.h5"))
    with h5py.File(dark_file) as file:
        dark = file["entry/data/data"][()].mean(0)
    integrator, mask = pyFAI.load("demo/det.poni"), numpy.load("demo/mask.npy")
    found = rows()
    for index in (0, 20, 60):
        with h5py.File(light_file) as file:
            image = file["entry/data/data"][index] - dark
        q, intensity = integrator.integrate1d(
            image, 500, unit="q_A^-1", radial_range=(0.4, 4.4), mask=mask, polarization_factor=0.99
        )
        name, center = ("hot", 1.506) if index == 60 else ("cold", 2.008)
        near = abs(q - center) < 0.06
        fit, _ = curve_fit(gaussian, q[near], intensity[near], [center, 0.015, intensity[near].max(), 30, 0])
        assert fit[0] == pytest.approx(found[index][f"{name}_fit_center"], abs=1e-4)


def test_what_it_leaves_is_as_replayed_and_the_commands_that_it_names_work(there, capsys):
    config = load("demo/powder.yaml")
    lines = [line.strip().partition("  ")[0] for line in there.splitlines() if line.startswith("  bluesky-pipeline ")]
    asked = [line.split()[1:] for line in lines]

    for command in asked:
        assert main(command) == 0

    out = capsys.readouterr().out
    assert [command[0] for command in asked] == ["show", "verify", "replay"]
    assert [node.name for node in config.nodes] == ["empty", "powder"]
    assert "2 analysis runs: 2 as replayed, 0 not." in out
    assert "hot_share" in out
    assert sorted(path.name for path in Path("demo").iterdir()) == [
        *("analysis", "catalog", "det.poni", "empty.csv", "frames", "mask.npy", "powder.yaml", "raw"),
    ]


def test_it_says_how_far_it_is_and_what_the_catalog_has(there):
    last = rows()[-1]["hot_share"]

    assert "['hot_share'] are 61 numbers, the last" in there
    assert f"\n{last:.4f}, of raw run" in there
    with h5py.File(sorted(Path("demo/frames").glob("*.h5"))[-1]) as file:
        assert f"is its last frame, of {file['entry/data/data'][-1].sum(dtype=int)} counts in all" in there
    assert "81 frames of 512 x 512 pixels, and 20 dark ones" in there


def test_its_configuration_is_plain_yaml_that_begins_with_the_empty_furnace():
    powder = Powder(Phase("a", [3.0, 2.0], [2, 1]), Phase("b", [4.0], [1]))
    both, empty = (yaml.safe_load(powder_config(Path("d"), powder, is_empty=is_empty)) for is_empty in (False, True))

    assert [node["name"] for node in both["nodes"]] == ["empty", "powder"]
    assert empty["nodes"] == both["nodes"][:1]
    assert json.dumps(both["sinks"]) == '[{"JSONLSink": "d/analysis"}]'


@pytest.mark.parametrize(("call", "says"), [(["nope", "there"], "there is no demo 'nope'; wanted `powder`")])
def test_a_demo_that_is_none_is_refused(call, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert main(["demo", *call]) == 2

    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

"""The simulated powder: its rings are where pyFAI has them, and its detector does what ophyd-async's do."""

import asyncio
import math
import subprocess
import sys
from pathlib import Path

import event_model
import h5py
import numpy
import pytest
from bluesky import RunEngine, plan_stubs
from bluesky.protocols import Configurable, Readable, Stageable, Triggerable, WritesStreamAssets
from bluesky.utils import FailedStatus

from pipeline import Node, Pipeline
from pipeline.errors import PipelineOSError, PipelineRuntimeError, PipelineValueError
from pipeline.reductions import Regions
from pipeline.simulation import AreaDetector, Beam, Diffraction, FrameFile, Phase, Powder, Sensor, Setting, ramp

PONI = """\
poni_version: 2.1
Detector: Detector
Detector_config: {"pixel1": 3e-4, "pixel2": 3e-4, "max_shape": [256, 256], "orientation": 3}
Distance: 0.236
Poni1: 0.012
Poni2: 0.010
Rot1: 0.01
Rot2: -0.005
Rot3: 0.0
Wavelength: 4e-11
"""
TEMPERATURES = [300.0, 600.0, 900.0]


@pytest.fixture
def poni(tmp_path):
    path = tmp_path / "a.poni"
    path.write_text(PONI)
    return path


def powder():
    return Powder(Phase.of("CeO2", 1.1e-5), Phase.of("LaB6", 7e-6), change_at=600.0)


class Beamline:
    """The devices, made anew."""

    def __init__(self, folder, poni, **options):
        self.furnace, self.beam = Setting("temperature", 300.0, "K"), Beam()
        self.diffraction = Diffraction(poni, powder(), self.furnace, self.beam, **options)
        self.det = AreaDetector("det", folder, self.diffraction, self.diffraction.sensor.shape)

    def ramp(self, **metadata):
        return ramp([self.det], self.furnace, self.beam, TEMPERATURES, n_dark=2, **metadata)


def frames(file):
    with h5py.File(file) as opened:
        return opened["entry/data/data"][()]


# the powder --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CeO2", "LaB6"])
def test_the_rings_of_a_phase_are_those_of_the_calibrant_at_300_kelvin_and_move_inward_as_it_expands(name):
    from pyFAI.calibrant import get_calibrant

    phase = Phase.of(name, expansion=1e-5)
    peaks = get_calibrant(name, wavelength=1e-12).get_peaks("q_A^-1")[: len(phase.spacings)]

    assert phase.rings(300.0) == pytest.approx(peaks, rel=1e-9)
    assert phase.rings(800.0) == pytest.approx(peaks / 1.005, rel=1e-9)
    assert phase.intensities.max() == 1.0


def test_the_pattern_of_a_powder_is_the_sum_of_what_its_phases_share():
    there = powder()
    q = numpy.linspace(1.0, 4.0, 3001)

    def by_hand(temperature):
        share = 1 / (1 + math.exp((600 - temperature) / 20))
        curve = 0.04 + 0.25 * numpy.exp(-0.7 * q)
        for phase, part in ((there.cold, 1 - share), (there.hot, share)):
            for ring, height in zip(phase.rings(temperature), phase.intensities, strict=True):
                curve = curve + part * height * numpy.exp(-0.5 * ((q - ring) / 0.015) ** 2)
        return curve

    for temperature in (300.0, 590.0, 600.0, 640.0, 1000.0):
        assert there.pattern(q, temperature) == pytest.approx(by_hand(temperature), abs=3e-4)
    assert there.fraction(600.0) == 0.5
    assert [there.fraction(t) for t in (500, 700)] == pytest.approx([0.0067, 0.9933], abs=1e-4)


def test_pyfai_finds_the_rings_in_the_frames_where_the_powder_has_them(tmp_path, poni):
    import pyFAI
    from scipy.optimize import curve_fit

    line = Beamline(tmp_path, poni, photons=2000.0)
    sensor, integrator = line.diffraction.sensor, pyFAI.load(str(poni))
    line.furnace.set(900.0)
    image = line.diffraction(0) - sensor.level

    q, intensity = integrator.integrate1d(
        image, 1500, unit="q_A^-1", mask=sensor.mask, correctSolidAngle=True, polarization_factor=0.99
    )

    def shape(x, center, sigma, height, slope, level):
        return height * numpy.exp(-(((x - center) / sigma) ** 2) / 2) + slope * (x - center) + level

    share = line.beam.read()["i0"]["value"] / line.beam.counts
    hot = line.diffraction.powder.hot
    for ring, height in zip(hot.rings(900.0)[:5], hot.intensities[:5], strict=True):
        near = abs(q - ring) < 0.08
        found, _ = curve_fit(shape, q[near], intensity[near], [ring, 0.015, height * 2000, 0, 100])
        assert found[0] == pytest.approx(ring, abs=3e-4)
        assert found[2] * abs(found[1]) == pytest.approx(height * 0.015 * 2000 * share, rel=0.02)


def test_a_spelling_that_is_no_calibrant_and_spacings_without_intensities_are_refused():
    with pytest.raises(PipelineValueError, match="no calibrant 'CeO3'; did you mean 'CeO2'"):
        Phase.of("CeO3")
    with pytest.raises(PipelineValueError, match="2 spacings, 1 intensities"):
        Phase("a", [1.0, 2.0], [1.0])


def test_what_needs_a_geometry_says_which_file_is_not_there(tmp_path):
    with pytest.raises(PipelineOSError, match=r"wanted a .poni file at '.*nope.poni'"):
        Diffraction(tmp_path / "nope.poni", powder(), Setting("t", 300.0, "K"), Beam())


# the sensor and the beam -------------------------------------------------------------------------------------------


def test_counts_scatter_as_counts_do_about_light_and_dark():
    sensor = Sensor((100, 100), dark=50.0, n_hot=0, n_dead=0)
    stack = numpy.array([sensor.counts(200.0, number) for number in range(40)], float)

    assert stack.mean() == pytest.approx(250, abs=4 * math.sqrt(250 / stack.size))
    assert stack.var(axis=0, ddof=1).mean() == pytest.approx(250, rel=0.01)
    assert numpy.corrcoef(stack[0].ravel() - sensor.level.ravel(), stack[1].ravel() - sensor.level.ravel())[
        0, 1
    ] == pytest.approx(0, abs=0.04)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_hot_and_dead_pixels_are_so_in_the_dark_and_counts_stay_in_their_range(dtype):
    sensor = Sensor((50, 60), dtype, n_hot=4, n_dead=5)
    dark, bright = sensor.counts(0.0, 0), sensor.counts(1e12, 1)
    largest = numpy.iinfo(dtype).max

    assert dark.dtype == bright.dtype == numpy.dtype(dtype)
    assert sensor.mask.sum() == 9
    assert (dark[sensor.mask] > 0.8 * largest).sum() == 4
    assert (dark[sensor.mask] == 0).sum() == 5
    assert set(bright[~sensor.mask].tolist()) == {largest}


def test_a_beam_decays_flickers_and_is_not_there_behind_a_closed_shutter():
    beam = Beam(life=100.0, flicker=0.01)
    shares = numpy.array([beam.expose(number) for number in range(300)])
    rest = shares / numpy.exp(-numpy.arange(300) / 100)

    beam.shutter.set(0)

    assert rest.std() == pytest.approx(0.01, rel=0.2)
    assert rest.mean() == pytest.approx(1.0, abs=0.003)
    assert (beam.expose(0), beam.read()["i0"]["value"]) == (0.0, 0.0)


# the detector ------------------------------------------------------------------------------------------------------


def test_the_detector_has_the_protocols_of_a_device_that_writes_streams(tmp_path):
    det = AreaDetector("det", tmp_path, lambda number: numpy.zeros((2, 3)), (2, 3))

    for protocol in (Readable, Triggerable, Stageable, Configurable, WritesStreamAssets):
        assert isinstance(det, protocol)


def test_a_run_has_dark_frames_and_light_in_streams_of_their_own_and_every_document_is_valid(RE, kept, tmp_path, poni):
    RE.subscribe(kept)

    RE(Beamline(tmp_path, poni).ramp(sample="powder"))

    for name, doc in kept:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(event_model.sanitize_doc(doc))
    assert kept.stop["num_events"] == {"dark": 2, "primary": 3}
    assert [row["temperature"] for row in kept.events("primary")] == TEMPERATURES
    files = [doc["uri"].removeprefix("file://localhost") for doc in kept.named("stream_resource")]
    dark, light = map(frames, files)
    assert (dark.shape, light.shape, light.dtype) == ((2, 256, 256), (3, 256, 256), numpy.uint16)
    assert dark.mean() < 70 < light.mean()


def test_each_stream_datum_is_there_before_its_event_and_its_frame_in_the_file_before_it(RE, tmp_path, poni):
    seen = []

    def look(name, doc):
        if name == "stream_resource":
            seen.append(doc["uri"].removeprefix("file://localhost"))
        elif name == "stream_datum":
            with h5py.File(seen[-1], "r", libver="latest", swmr=True) as file:
                assert len(file["entry/data/data"]) >= doc["indices"]["stop"]
            seen.append(doc["seq_nums"]["start"])
            seen.append(seen[-2])
        elif name == "event":
            assert doc["seq_num"] == seen[-2]

    RE.subscribe(look)
    RE(Beamline(tmp_path, poni).ramp())

    assert len(seen) == 2 + 2 * 5


def test_the_documents_have_the_form_of_those_of_ophyd_async(RE, kept, tmp_path):
    """Those of its own simulated detector, in a run of the same messages."""
    from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider
    from ophyd_async.sim import SimBlobDetector

    def count(det):
        yield from plan_stubs.stage(det)
        yield from plan_stubs.open_run()
        for _ in range(2):
            yield from plan_stubs.trigger_and_read([det])
        yield from plan_stubs.close_run()
        yield from plan_stubs.unstage(det)

    async def theirs():
        return SimBlobDetector(StaticPathProvider(UUIDFilenameProvider(), tmp_path), name="det")

    RE.subscribe(kept)
    their_det = asyncio.run_coroutine_threadsafe(theirs(), RE.loop).result(10)
    RE(count(their_det))
    RE(count(AreaDetector("det", tmp_path, lambda number: numpy.full((240, 320), number), (240, 320), "uint8")))
    them, us = kept.by_run().values()

    for name in ("stream_resource", "stream_datum", "event"):
        their_docs = [doc for doc in them.named(name) if not doc.get("data_key", "det").endswith("-sum")]
        for their_doc, our_doc in zip(their_docs, us.named(name), strict=False):
            assert their_doc.keys() == our_doc.keys()
    (their_key,), (our_key,) = ([doc["data_keys"]["det"] for doc in run.named("descriptor")] for run in (them, us))
    for key in ("dtype", "dtype_numpy", "shape", "external"):
        assert our_key[key] == their_key[key]
    assert us.named("stream_resource")[0]["parameters"] == {"dataset": "/entry/data/data", "chunk_shape": (1, 240, 320)}
    assert [doc["indices"] for doc in us.named("stream_datum")] == [
        doc["indices"] for doc in them.named("stream_datum")[:: len(them.named("stream_resource"))]
    ]


def test_a_run_of_devices_made_anew_has_the_same_frames(tmp_path, poni):
    stacks = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        engine = RunEngine({}, call_returns_result=False)
        engine(Beamline(folder, poni).ramp())
        stacks.append([frames(file) for file in sorted(folder.glob("*.h5"))])

    assert len(stacks[0]) == 2
    for one, other in zip(*stacks, strict=True):
        assert (one == other).all()


def test_no_two_frames_have_the_same_noise(RE, tmp_path, poni):
    RE(Beamline(tmp_path, poni).ramp())

    dark, light = (frames(file) for file in sorted(tmp_path.glob("*.h5")))
    rest = dark[0].astype(float) - dark[1]
    assert rest.std() > 5
    assert (light[0] != light[1]).mean() > 0.9


def test_what_is_read_live_from_the_growing_file_is_what_is_in_it(RE, kept, tmp_path, poni):
    RE.subscribe(Pipeline([Node("box", Regions("det", {"a": [10, 90, 20, 60]}, statistic="sum"))], [kept]))

    RE(Beamline(tmp_path, poni).ramp())

    light = frames(sorted(tmp_path.glob("*.h5"))[1])
    assert [row["det_a_sum"] for row in kept.events("primary")] == light[:, 10:90, 20:60].sum((1, 2)).tolist()


READER = """
import sys, h5py
with h5py.File(sys.argv[1], "r", libver="latest", swmr=True) as file:
    frames = file["entry/data/data"]
    for line in sys.stdin:
        frames.refresh()
        print(len(frames), int(frames[-1].sum()) if len(frames) else 0, flush=True)
"""


def test_another_process_reads_frames_as_they_are_written(tmp_path):
    file = FrameFile(tmp_path / "a.h5", (3, 4), "uint32")
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, file.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    told = []

    for number in range(4):
        reader.stdin.write("look\n")
        reader.stdin.flush()
        told.append(reader.stdout.readline().split())
        file.write(numpy.full((3, 4), number + 1, "uint32"))
    reader.communicate(timeout=20)
    file.close()

    assert told == [["0", "0"], ["1", "12"], ["2", "24"], ["3", "36"]]


def test_an_exposure_that_fails_fails_the_plan_and_says_why(RE, kept, tmp_path):
    def broken(number):
        raise OSError("no light")

    det = AreaDetector("det", tmp_path, broken, (2, 3))
    RE.subscribe(kept)

    with pytest.raises(FailedStatus):
        RE(ramp([det], Setting("temperature", 300.0, "K"), Beam(), [300.0], n_dark=1))

    assert kept.stop["exit_status"] == "fail"


def test_a_detector_that_is_not_staged_and_a_file_that_is_there_are_refused(tmp_path):
    det = AreaDetector("det", tmp_path, lambda number: numpy.zeros((2, 3)), (2, 3))
    with pytest.raises(PipelineRuntimeError, match="det is not staged"):
        det.trigger()

    det.stage()
    det.unstage()
    det.stage()
    det.unstage()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["det_0001.h5", "det_0002.h5"]
    with pytest.raises(PipelineOSError, match="wanted a new file at"):
        FrameFile(tmp_path / "det_0001.h5", (2, 3), "uint16")


def test_an_exposure_takes_its_time_and_the_descriptor_tells_it(RE, kept, tmp_path):
    det = AreaDetector("det", tmp_path, lambda number: numpy.zeros((2, 3)), (2, 3), exposure=0.05)
    RE.subscribe(kept)

    RE(ramp([det], Setting("temperature", 300.0, "K"), Beam(), [300.0, 310.0], n_dark=1))

    configuration = kept.named("descriptor")[1]["configuration"]["det"]
    assert configuration["data"] == {"det_exposure_time": 0.05}
    assert configuration["data_keys"]["det_exposure_time"]["units"] == "s"
    first, second = (doc["time"] for doc in kept.named("event")[1:])
    assert second - first > 0.05
    assert Path(kept.named("stream_resource")[0]["uri"].removeprefix("file://localhost")).parent == tmp_path

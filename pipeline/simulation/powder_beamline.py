"""A beamline that heats a powder before an area detector, ready to be run."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy

from pipeline.simulation.area_detector import AreaDetector
from pipeline.simulation.beam import Beam
from pipeline.simulation.diffraction import Diffraction
from pipeline.simulation.phase import Phase
from pipeline.simulation.powder import Powder
from pipeline.simulation.ramp import ramp
from pipeline.simulation.setting import Setting

PONI = """\
# Where the simulated detector is, as pyFAI has it: the beam meets it near a corner.
poni_version: 2.1
Detector: Detector
Detector_config: {{"pixel1": {pixel}, "pixel2": {pixel}, "max_shape": [{n}, {n}], "orientation": 3}}
Distance: 0.236
Poni1: 0.012
Poni2: 0.010
Rot1: 0.01
Rot2: -0.005
Rot3: 0.0
Wavelength: 4e-11
"""
SIDE = 0.0768  # of the detector, in m


class PowderBeamline:
    """A powder with the rings of CeO2 that turns into one with those of LaB6, in a furnace before a square detector.

    The two stand for two phases of one substance; they were chosen since everyone knows their rings.

    Parameters
    ----------
    folder
        Where `det.poni`, `mask.npy` (the hot and the dead pixels) and the folder `frames` are made.
    n
        How many pixels a side of the detector has.

    Attributes
    ----------
    poni, mask
        The files.
    powder
        What is true of it: where its rings are, and how much of it is hot.
    furnace, beam, det
        The devices: `temperature`, `i0`, `det`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     line = PowderBeamline(folder, n=64)
    ...     names = []
    ...     line.run([300.0, 310.0], [lambda name, doc: names.append(name)], n_dark=1, sample="powder")
    >>> names.count("event"), round(line.powder.cold.rings(300.0)[0], 3)
    (3, np.float64(2.011))
    """

    def __init__(self, folder: str | os.PathLike[str], n: int = 512) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.poni, self.mask = self.folder / "det.poni", self.folder / "mask.npy"
        self.poni.write_text(PONI.format(pixel=SIDE / n, n=n))
        self.powder = Powder(Phase.of("CeO2", 1.1e-5), Phase.of("LaB6", 7e-6), change_at=600.0, change_width=30.0)
        self.furnace, self.beam = Setting("temperature", 300.0, "K"), Beam()
        self._diffraction = Diffraction(self.poni, self.powder, self.furnace, self.beam)
        sensor = self._diffraction.sensor
        numpy.save(self.mask, sensor.mask)
        self.det = AreaDetector("det", self.folder / "frames", self._diffraction, sensor.shape, sensor.dtype)
        self._engine: Any = None

    def run(
        self, temperatures: Sequence[float], subscribers: Iterable[Any], *, n_dark: int = 10, **metadata: Any
    ) -> None:
        """Run the ramp on a RunEngine; where the metadata say `sample="empty"`, without a powder."""
        from bluesky import RunEngine

        self._diffraction.is_empty = metadata.get("sample") == "empty"
        self._engine = engine = self._engine or RunEngine({}, call_returns_result=False)
        tokens = [engine.subscribe(subscriber) for subscriber in subscribers]
        try:
            engine(ramp([self.det], self.furnace, self.beam, temperatures, n_dark, **metadata))
        finally:
            for token in tokens:
                engine.unsubscribe(token)

"""The beam, with a shutter, and the monitor that counts it."""

import time
from typing import Any

import numpy
from bluesky.protocols import Reading
from event_model import DataKey

from pipeline.simulation.setting import Setting


class Beam:
    """A beam that decays slowly and flickers, behind a shutter; as a device, the monitor of the last exposure.

    What it gives to an exposure follows from the seed and the number of the exposure alone.

    Parameters
    ----------
    name
        Of the monitor, and of its field.
    counts
        How many the monitor counts in the first exposure.
    life
        After how many exposures the beam is down to 37 %.
    flicker
        By which share it differs from one exposure to the next.
    seed
        What all chance follows from.

    Attributes
    ----------
    shutter
        A device: 1 is open, 0 is closed.

    >>> beam = Beam(counts=1000.0, flicker=0.0, life=100.0)
    >>> beam.expose(0), round(beam.expose(100), 3)
    (1.0, 0.368)
    >>> _ = beam.shutter.set(0)
    >>> beam.expose(1), beam.read()["i0"]["value"]
    (0.0, 0.0)
    """

    parent = None

    def __init__(
        self, name: str = "i0", counts: float = 1e6, life: float = 500.0, flicker: float = 0.02, seed: int = 1
    ) -> None:
        self.name, self.counts, self.life, self.flicker, self.seed = name, counts, life, flicker, seed
        self.shutter = Setting("shutter", 1.0, "dimensionless")
        self._last = 0.0

    def expose(self, number: int) -> float:
        """Return how much beam an exposure of this number has, as a share of the beam at the beginning."""
        chance = numpy.random.default_rng((self.seed, number, 1))
        share = numpy.exp(-number / self.life) * (1 + self.flicker * chance.standard_normal())
        share = float(max(share, 0.0)) if self.shutter.value else 0.0
        self._last = self.counts * share
        return share

    def read(self) -> dict[str, Reading[float]]:
        """Return what the monitor counted in the last exposure."""
        return {self.name: {"value": self._last, "timestamp": time.time()}}

    def describe(self) -> dict[str, DataKey]:
        """Return what the value is."""
        key: DataKey = {"source": f"sim://{self.name}", "dtype": "number", "shape": [], "units": "count"}
        return {self.name: {**key, "dtype_numpy": "<f8"}}

    @property
    def hints(self) -> dict[str, Any]:
        """What of it is worth a look."""
        return {"fields": [self.name]}

"""The frames that a powder makes on an area detector."""

import logging
import os
from typing import Any

import numpy

from pipeline.errors import PipelineImportError, PipelineOSError
from pipeline.simulation.beam import Beam
from pipeline.simulation.powder import Powder
from pipeline.simulation.sensor import Sensor
from pipeline.simulation.setting import Setting

Array = numpy.ndarray


class Diffraction:
    """The frames of a powder in a furnace: called with the number of an exposure, it gives the frame.

    What each pixel sees of the rings depends on its solid angle and on the polarisation of the beam, so an integration
    that corrects both gives `photons * powder.pattern(q, temperature)`, over the share of the beam that there was.

    Parameters
    ----------
    poni
        A .poni file of pyFAI: where the detector is, what pixels it has, the wavelength.
    powder, furnace, beam
        What is before the detector. Of the furnace, its temperature, in K.
    photons
        How many a pixel is expected to have in a ring of the height 1, of the beam at the beginning.
    polarization
        Of the beam, as pyFAI's `polarization_factor`.
    is_empty
        Whether there is no powder in the furnace.
    sensor
        What makes counts of photons; by default one of the shape that the .poni file tells.

    Raises
    ------
    PipelineImportError
        If pyFAI is not installed.
    PipelineOSError
        If there is no such geometry.

    References
    ----------
    J. Kieffer et al., J. Appl. Cryst. 58 (2025) 138 (pyFAI: geometry, solid angle, polarisation).
    """

    def __init__(
        self,
        poni: str | os.PathLike[str],
        powder: Powder,
        furnace: Setting,
        beam: Beam,
        *,
        photons: float = 400.0,
        polarization: float = 0.99,
        is_empty: bool = False,
        sensor: Sensor | None = None,
    ) -> None:
        geometry = _geometry(os.fspath(poni))
        self.powder, self.furnace, self.beam = powder, furnace, beam
        self.photons, self.is_empty = photons, is_empty
        self.sensor = sensor or Sensor(geometry.detector.max_shape)
        shape = self.sensor.shape
        self.q: Array = geometry.array_from_unit(shape, "center", "q_A^-1")
        self._seen: Array = geometry.solidAngleArray(shape) * geometry.polarization(shape, polarization)

    def __call__(self, number: int) -> Array:
        """Return the frame of this exposure, at the temperature that the furnace has."""
        share = self.beam.expose(number)
        return self.sensor.counts(share * self.expected() if share else 0.0, number)

    def expected(self) -> Array:
        """Return the photons that each pixel is expected to have of the whole beam, as things are."""
        powder = self.powder
        pattern = powder.background(self.q) if self.is_empty else powder.pattern(self.q, self.furnace.value)
        return self.photons * pattern * self._seen


def _geometry(poni: str) -> Any:
    logging.getLogger("silx.opencl").setLevel(logging.ERROR)  # which warns of what is not wanted here
    try:
        import pyFAI
    except ImportError:
        raise PipelineImportError(
            "A .poni file is read by pyFAI, which is not installed: pip install bluesky-pipeline[frames]."
        ) from None
    if not os.path.exists(poni):
        raise PipelineOSError(f"wanted a .poni file at {poni!r}, there is none.")
    return pyFAI.load(poni)

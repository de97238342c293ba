"""One crystalline phase: where its rings are, and how strong."""

import math
from collections.abc import Sequence
from typing import Any

import numpy

from pipeline.errors import PipelineImportError, PipelineValueError, near

Array = numpy.ndarray

COLD = 300.0  # K, where spacings are as they are told


class Phase:
    """The rings of one crystalline phase, which expands as it is heated.

    Parameters
    ----------
    name
        What it is called.
    spacings
        The distances of lattice planes at 300 K, in angstrom.
    intensities
        Of their rings, in any units.
    expansion
        How much longer a distance is for each kelvin over 300 K, as a share of it.

    >>> phase = Phase("alpha", [3.0, 2.0], [50, 100], expansion=1e-5)
    >>> phase.rings(300.0).round(4), phase.intensities
    (array([2.0944, 3.1416]), array([0.5, 1. ]))
    >>> bool(phase.rings(700.0)[0] < phase.rings(300.0)[0])
    True
    """

    def __init__(
        self, name: str, spacings: Sequence[float], intensities: Sequence[float], expansion: float = 0.0
    ) -> None:
        self.name, self.expansion = name, expansion
        self.spacings, strengths = numpy.array(spacings, float), numpy.array(intensities, float)
        if not len(strengths) or len(self.spacings) != len(strengths) or not (self.spacings > 0).all():
            raise PipelineValueError(
                f"Phase {name!r} has {len(self.spacings)} spacings, {len(strengths)} intensities; wanted one for one."
            )
        self.intensities = strengths / strengths.max()

    @classmethod
    def of(cls, calibrant: str, expansion: float = 0.0) -> "Phase":
        """Return a phase with the rings of a calibrant that pyFAI knows, as strong as it tells.

        Raises
        ------
        PipelineImportError
            If pyFAI is not installed.
        PipelineValueError
            If it knows no such calibrant, or not how strong any of its rings is.

        >>> Phase.of("CeO2").rings(300.0)[:2].round(4)
        array([2.011 , 2.3221])
        """
        try:
            from pyFAI.calibrant import get_calibrant, names
        except ImportError:
            raise PipelineImportError(
                "Calibrants are told by pyFAI, which is not installed: pip install bluesky-pipeline[frames]."
            ) from None
        if calibrant not in names():
            raise PipelineValueError(f"pyFAI has no calibrant {calibrant!r}{near(calibrant, names())}")
        found: Any = get_calibrant(calibrant)
        reflections = [each for each in found.config.reflections if each.intensity] if found.dspacing else []
        return cls(calibrant, [r.dspacing for r in reflections], [r.intensity for r in reflections], expansion)

    def rings(self, temperature: float) -> Array:
        """Return where the rings are at this temperature (K): q in angstrom^-1, in the order of the spacings."""
        return 2 * math.pi / (self.spacings * (1 + self.expansion * (temperature - COLD)))

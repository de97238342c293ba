"""A powder that changes from one phase to another as it is heated."""

import math

import numpy

from pipeline.simulation.phase import Phase

Array = numpy.ndarray

_STEP = 5e-4  # angstrom^-1, over which a pattern is taken for straight


class Powder:
    """A powder of one phase that becomes another at some temperature, in air that scatters, too.

    A ring is a Gaussian in q. A ring of intensity 1 has the height 1 where the powder is all of its phase, so its area
    is `ring_width * sqrt(2 pi)`. What is under the rings does not depend on the temperature.

    Parameters
    ----------
    cold, hot
        The phases before and after the change.
    change_at
        The temperature at which half is changed, in K.
    change_width
        Over how many K it changes: from 27 to 73 % within one of it at either side.
    ring_width
        The standard deviation of a ring, in angstrom^-1.

    >>> powder = Powder(Phase("a", [3.0], [1]), Phase("b", [2.5], [1]), change_at=600.0, change_width=10.0)
    >>> powder.fraction(300.0) < 1e-9, powder.fraction(600.0)
    (True, 0.5)
    >>> ring = 2 * math.pi / 3
    >>> float((powder.pattern(ring, 300.0) - powder.background(ring)).round(3))
    1.0
    """

    def __init__(
        self,
        cold: Phase,
        hot: Phase,
        change_at: float = 600.0,
        change_width: float = 20.0,
        ring_width: float = 0.015,
    ) -> None:
        self.cold, self.hot = cold, hot
        self.change_at, self.change_width, self.ring_width = change_at, change_width, ring_width

    def fraction(self, temperature: float) -> float:
        """Return which share of it is in the hot phase, 0 to 1."""
        return 1 / (1 + math.exp((self.change_at - temperature) / self.change_width))

    def background(self, q: Array | float) -> Array:
        """Return what is scattered without a powder, at q in angstrom^-1, as a share of the height of a ring."""
        return 0.04 + 0.25 * numpy.exp(numpy.multiply(q, -0.7))

    def pattern(self, q: Array | float, temperature: float) -> Array:
        """Return what is scattered to q, in angstrom^-1, in the units of the height of a ring; in the shape of q."""
        grid = numpy.arange(0, numpy.max(q) + 2 * _STEP, _STEP)
        fraction = self.fraction(temperature)
        curve = self.background(grid)
        for phase, share in ((self.cold, 1 - fraction), (self.hot, fraction)):
            for center, height in zip(phase.rings(temperature), phase.intensities, strict=True):
                curve += share * height * numpy.exp(-(((grid - center) / self.ring_width) ** 2) / 2)
        return numpy.asarray(numpy.interp(q, grid, curve))

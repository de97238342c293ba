"""What an area detector makes of light: counts with noise, a dark level, hot and dead pixels."""

from collections.abc import Sequence

import numpy

Array = numpy.ndarray


class Sensor:
    """Turn the expected photons of each pixel into counts, always the same for the same frame.

    A frame has Poisson noise, of its own seed and number alone, on photons and dark level together. The dark level
    differs from pixel to pixel by a tenth. Hot pixels count near the end of their range and dead ones nothing, light
    or not. Counts do not leave the range of the dtype.

    Parameters
    ----------
    shape
        Rows and columns.
    dtype
        Of the counts: `"uint16"`, `"uint32"`.
    dark
        The mean dark level, in counts.
    n_hot, n_dead
        How many pixels are.
    seed
        What all chance follows from.

    Attributes
    ----------
    level
        The dark level of each pixel, float64.
    mask
        True for hot and dead pixels.

    >>> sensor = Sensor((4, 5), n_hot=1, n_dead=1)
    >>> frame = sensor.counts(numpy.full((4, 5), 100.0), number=0)
    >>> frame.dtype, frame.shape, bool((frame == sensor.counts(numpy.full((4, 5), 100.0), number=0)).all())
    (dtype('uint16'), (4, 5), True)
    >>> sorted(frame[sensor.mask] > 50000)
    [np.False_, np.True_]
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: str = "uint16",
        dark: float = 40.0,
        n_hot: int = 6,
        n_dead: int = 6,
        seed: int = 1,
    ) -> None:
        self.shape, self.dtype, self.seed = tuple(shape), numpy.dtype(dtype), seed
        chance = numpy.random.default_rng(seed)
        self.level = numpy.maximum(dark * (1 + 0.1 * chance.standard_normal(self.shape)), 0.0)
        bad = chance.permutation(self.level.size)[: n_hot + n_dead]
        self._hot, self._dead = (numpy.unravel_index(each, self.shape) for each in (bad[:n_hot], bad[n_hot:]))
        self.mask = numpy.zeros(self.shape, bool)
        self.mask[self._hot] = self.mask[self._dead] = True

    def counts(self, photons: Array | float, number: int) -> Array:
        """Return a frame.

        Parameters
        ----------
        photons
            How many are expected in each pixel.
        number
            Of the frame, from 0.
        """
        largest = numpy.iinfo(self.dtype).max
        expected = self.level + photons
        expected[self._hot] += 0.9 * largest
        frame = numpy.random.default_rng((self.seed, number)).poisson(expected)
        frame[self._dead] = 0
        return numpy.minimum(frame, largest).astype(self.dtype)

"""Sums over pairs of frames, by lag and region: what a correlation function is made of."""

from collections.abc import Sequence

import numpy

Array = numpy.ndarray


class PairSums:
    """Sums over pairs of frames and the pixels of each region: of the products, of the earlier, and of the later ones.

    Attributes
    ----------
    products, past, future
        float64 [n_lag, n_region].
    n_pairs
        int64 [n_lag].

    >>> sums = PairSums(1, 2)
    >>> sums.add([0], numpy.array([[6.0, 0.0]]), numpy.array([[2.0, 0.0]]), numpy.array([3.0, 0.0]))
    >>> sums.correlation(numpy.array([1, 5]))
    array([[ 1., nan]])
    """

    def __init__(self, n_lags: int, n_regions: int) -> None:
        self.products, self.past, self.future = (numpy.zeros((n_lags, n_regions)) for _ in range(3))
        self.n_pairs: Array = numpy.zeros(n_lags, numpy.int64)

    def add(self, rows: Array | slice | Sequence[int], products: Array, past: Array, future: Array) -> None:
        """Add one pair to each of these rows."""
        self.products[rows] += products
        self.past[rows] += past
        self.future[rows] += future
        self.n_pairs[rows] += 1

    def put(self, start: int, part: "PairSums") -> int:
        """Put sums in from a row on, and return the row after them."""
        stop = start + len(part.n_pairs)
        for mine, its in zip(vars(self).values(), vars(part).values(), strict=True):
            mine[start:stop] = its
        return stop

    def correlation(self, counts: Array) -> Array:
        """Return the mean product over the product of the means; NaN where there is none, or a mean is 0.

        Parameters
        ----------
        counts
            How many pixels each region has.
        """
        with numpy.errstate(over="ignore", invalid="ignore", divide="ignore"):
            found = self.products * (self.n_pairs[:, None] * counts) / (self.past * self.future)
        return numpy.where(numpy.isfinite(found), found, numpy.nan)

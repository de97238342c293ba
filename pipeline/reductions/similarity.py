"""Whether a curve is the same as the first ones: what has bubbles in it, or is damaged by the beam, is not."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy

from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions.curve_window import CurveWindow
from pipeline.reductions.event_reduction import EventReduction
from pipeline.reductions.reduction import Data, Result
from pipeline.reductions.sums import total

Array = numpy.ndarray


class Similarity(EventReduction):
    """Whether a curve differs from the first ones by no more than noise, event by event.

    The signs of what lies between two curves that differ by noise are those of a fair coin. How long the longest run
    of equal signs is tells how probable that is; no errors need be known for it. Points must be independent of their
    neighbours: an integration that splits pixels between bins makes them not so, and more curves look different.

    An average without outliers is a `FrameAverage` after this one, with its `_similar` for weights.

    Parameters
    ----------
    y
        The field of the curve: an array of one dimension. Curves are compared as they are, so what the beam does to
        them is to be divided out before.
    x, range
        Its axis, and the first and the last x that are compared; see `CurvePeak`.
    n
        Of how many curves, the first that come, the mean is what others are compared with. These are taken for similar.
    level
        How improbable a run must be for a curve that differs: of curves that are alike, no larger share than this
        is taken to differ.
    scale
        Whether a factor is fitted before, so that the form alone is compared.
    name
        What stands in the results' names; by default the name of the field.

    Results
    -------
    `{name}_similar`: whether the curve is like the first ones.
    `{name}_p`: float64, how probable it is that curves that are alike have as long a run; 1 of the first ones.
    `{name}_run`: int64, how many points the longest run has.

    References
    ----------
    D. Franke, C. M. Jeffries, D. I. Svergun, Nature Methods 12 (2015) 419 (correlation maps); M. F. Schilling, College
    Math. J. 21 (1990) 196 (longest runs).

    >>> similarity = Similarity("I", level=0.1)
    >>> for curve in ([5, 5, 5, 5, 5, 5, 5], [6, 4, 6, 4, 4, 6, 4], [6, 7, 8, 7, 6, 7, 8]):
    ...     similarity.update({"I": curve})
    ...     print(similarity.result())
    {'I_similar': True, 'I_p': 1.0, 'I_run': 0}
    {'I_similar': True, 'I_p': 0.984375, 'I_run': 2}
    {'I_similar': False, 'I_p': 0.015625, 'I_run': 7}
    """

    constants = ("_curve",)

    def __init__(
        self,
        y: str,
        x: str | Sequence[float] | None = None,
        range: Sequence[float] | None = None,
        n: int = 1,
        level: float = 0.01,
        scale: bool = False,
        name: str | None = None,
    ) -> None:
        if n < 1 or not 0 < level < 1:
            raise PipelineValueError(f"Similarity: n is {n!r}, level {level!r}; wanted 1 or more, and a probability.")
        self._curve = CurveWindow(y, x, range)
        self.fields = self._curve.fields
        self.n, self.level, self.scale, self.key = n, level, scale, name or y
        self._sum: Array | None = None  # of the first curves
        self._n_first = 0

    def reduce(self, data: Data) -> Result:
        """Compare one curve with the first ones."""
        y = self._curve.whole(data)
        if self._sum is not None and self._sum.shape != y.shape:
            raise RejectedValue(f"wanted {len(self._sum)} points, as before; there are {len(y)}.")
        if self._n_first < self.n:
            self._sum = y if self._sum is None else self._sum + y
            self._n_first += 1
            return self._told(0, 1.0)
        assert self._sum is not None
        return self._told(*self._compared(y, self._sum / self._n_first))

    def _told(self, run: int, p: float) -> Result:
        return {f"{self.key}_similar": p >= self.level, f"{self.key}_p": p, f"{self.key}_run": run}

    def _compared(self, y: Array, first: Array) -> tuple[int, float]:
        """Return the longest run, and how probable one as long is."""
        known = numpy.isfinite(y) & numpy.isfinite(first)
        y, first = y[known], first[known]
        if self.scale:
            square = total(first * first)
            first = first * (total(first * y) / square if square > 0 else 1.0)
        above = numpy.sign(y - first)
        above = above[above != 0]
        run = longest_run(above)
        return run, probability_of_run(run, len(above))

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: a probability has none."""
        return {f"{self.key}_p": {"units": "dimensionless"}}


def longest_run(values: Array) -> int:
    """Return how many equal values follow each other at most.

    >>> longest_run(numpy.array([1, 1, -1, -1, -1, 1]))
    3
    """
    if not len(values):
        return 0
    ends = numpy.flatnonzero(values[1:] != values[:-1]) + 1
    return int(numpy.diff(ends, prepend=0, append=len(values)).max())


@lru_cache(4096)
def probability_of_run(run: int, n: int) -> float:
    """Return how probable it is that n tosses of a fair coin have a run of equal ones as long as this, or longer.

    A toss is the same as the one before or not, with even chance: a run of `run` equal ones is one of `run - 1` sames.

    >>> probability_of_run(2, 2), probability_of_run(3, 4)
    (0.5, 0.375)
    """
    length, tosses = run - 1, n - 1
    if length <= 0:
        return 1.0
    if length > tosses:
        return 0.0
    without = [1.0] * length + [1.0 - 0.5**length]  # by the number of tosses: that there is no run yet
    for i in range(length + 1, tosses + 1):
        without.append(without[-1] - 0.5 ** (length + 1) * without[i - length - 1])
    return 1.0 - without[tosses]

"""Integers of any size, an array of them, to which numbers are added."""

import math
from itertools import pairwise
from typing import Any

import numpy

Array = numpy.ndarray

_BITS = 32  # of a limb; the rest of int64 takes up what is not carried yet
_MASK = 2**_BITS - 1
_ROOM = 2**28  # how many times something is added before it is carried: each time less than 2**34
_FEW = 16  # that are rounded faster one by one


class WideIntegers:
    """An array of integers without bounds, in rows of limbs of 32 bits: to add to them loses nothing.

    Carries wait until a limb might overflow, so that adding is a few vectorised steps. There are as many rows as the
    sizes of the numbers span, three for numbers of one size: memory grows with that span, not with how many numbers
    are added. It is Kulisch's long accumulator, one for each element.

    Parameters
    ----------
    size
        How many integers there are; they begin at 0.

    References
    ----------
    U. Kulisch, W. L. Miranker, SIAM Review 28 (1986) 1.

    >>> totals = WideIntegers(2)
    >>> totals.add(0, 3, shift=100)
    >>> totals.add_array(numpy.array([0, 1, 1]), numpy.array([-1, 5, 6]), numpy.array([100, 0, 0]))
    >>> totals.integers([0, 1]) == [2 * 2**100, 11]
    True
    """

    def __init__(self, size: int) -> None:
        self._first = 0  # the place of the lowest limb that there is
        self._limbs: Array = numpy.zeros((0, size), numpy.int64)
        self._n_added = 0

    def add(self, i: int, value: int, shift: int) -> None:
        """Add `value * 2**shift` to the element `i`."""
        place, bits = divmod(shift, _BITS)
        rest = abs(value) << bits
        row = self._row(place, place + -(-rest.bit_length() // _BITS), 1)
        while rest:
            piece = rest & _MASK
            self._limbs[row, i] += piece if value > 0 else -piece
            rest >>= _BITS
            row += 1

    def add_array(self, i: Array, values: Array, shifts: Array) -> None:
        """Add `values * 2**shifts` (int64; values less than 2**55) to the elements `i`; one may be there repeatedly."""
        if not len(i):
            return
        places, bits = shifts >> 5, shifts & 31
        self._row(int(places.min()), int(places.max()) + 3, len(i))
        size = self._limbs.shape[1]
        at = (places - self._first) * size + i
        sizes, sign, flat = numpy.abs(values), numpy.sign(values), self._limbs.reshape(-1)
        low, high = (sizes & _MASK) << bits, (sizes >> _BITS) << bits
        for piece in (low & _MASK, (low >> _BITS) + (high & _MASK), high >> _BITS):
            numpy.add.at(flat, at, piece * sign)
            at += size

    def _row(self, first: int, end: int, n: int) -> int:
        """Make room to add `n` times to the limbs from `first` to before `end`; return the row of the first."""
        self._n_added += n
        if self._n_added > _ROOM:
            self._reach(self._first, self._first + len(self._limbs) + 1)
            self._limbs = _carried(self._limbs)
            self._n_added = n + 1
        if first < self._first or end > self._first + len(self._limbs):
            self._reach(first, end)
        return first - self._first

    def _reach(self, first: int, end: int) -> None:
        if not len(self._limbs):
            self._first = first
        below = max(0, self._first - first)
        above = max(0, end - self._first - len(self._limbs))
        self._limbs = numpy.pad(self._limbs, ((below, above), (0, 0)))
        self._first -= below

    def merge(self, other: Any) -> None:
        """Add the elements of the other."""
        n = len(other._limbs)
        if n:
            row = self._row(other._first, other._first + n, other._n_added)
            self._limbs[row : row + n] += other._limbs

    def integers(self, i: Any) -> list[int]:
        """Return the elements at the places `i`."""
        totals = []
        for limbs in self._limbs[::-1, i].T.tolist():
            total = 0
            for limb in limbs:
                total = (total << _BITS) + limb
            totals.append(total << (_BITS * self._first))
        return totals

    def rounded(self, i: Any, unit: int) -> Array:
        """Return the elements at the places `i`, in units of `2**-unit`, correctly rounded; NaN if that is no float."""
        if len(i) <= _FEW:
            return numpy.array([_quotient(total, unit) for total in self.integers(i)])
        limbs = _carried(numpy.pad(self._limbs[:, i], ((3, 2), (0, 0))))
        sign = numpy.where(limbs[-1] < 0, -1, 1)
        significant, exponent = _leading(_carried(limbs * sign))
        with numpy.errstate(over="ignore"):
            values = sign * numpy.ldexp(significant, exponent + (_BITS * (self._first - 3) - unit))
        return numpy.where(numpy.isfinite(values), values, numpy.nan)


def _quotient(total: int, unit: int) -> float:
    try:
        return total / (1 << unit)  # which Python rounds correctly
    except OverflowError:
        return math.nan


def _carried(limbs: Array) -> Array:
    """Return the same numbers by limbs from 0 to before 2**32, but for the last, which has the sign."""
    limbs = limbs.copy()
    for below, above in pairwise(limbs):
        above += below >> _BITS
        below &= _MASK
    return limbs


def _leading(limbs: Array) -> tuple[Array, Array]:
    """Return whole floats and exponents: the number of these limbs (none negative, the first three 0), rounded."""
    rows, columns = numpy.arange(len(limbs)), numpy.arange(limbs.shape[1])
    top = numpy.maximum(len(limbs) - 1 - (limbs[::-1] != 0).argmax(axis=0), 3)
    a, b, c = (limbs[top - k, columns].astype(numpy.uint64) for k in range(3))
    zeros = _BITS - numpy.frexp(a.astype(float))[1]  # before the first bit of the highest limb
    left = zeros.astype(numpy.uint64)
    bits = ((a << numpy.uint64(_BITS) | b) << left) | (c >> (numpy.uint64(_BITS) - left))
    is_more = ((c << left) & numpy.uint64(_MASK) != 0) | (limbs * (rows[:, None] < top - 2)).any(axis=0)
    # 64 bits, of which the last stands for all below it: so they are rounded once, where they become a float.
    return (bits | is_more.astype(numpy.uint64)).astype(float), _BITS * (top - 1) - zeros

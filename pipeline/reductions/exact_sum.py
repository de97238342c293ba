"""Exact sums of floats and of their squares: the same bits in any order, however they are split."""

from typing import Any

import numpy

_UNIT = 1074  # every float is a whole number of 2**-1074
_CHUNK = 256  # rows whose sums fit in int64, see _add_chunk


class ExactSum:
    """A sum of floats without any rounding: a whole number of 2**-1074.

    Every finite float is such a number, so sums are exact, and so independent of order and of grouping;
    rounding happens once, when the value is asked for.

    >>> total = ExactSum()
    >>> for x in (1e16, 1.0, -1e16): total.add(x)
    >>> total.value()
    1.0
    """

    def __init__(self) -> None:
        self.n = 0
        self.total = 0  # in units of 2**-1074

    def add(self, x: float) -> None:
        """Take in one finite number."""
        numerator, denominator = x.as_integer_ratio()
        self.n += 1
        self.total += numerator << (_UNIT + 1 - denominator.bit_length())

    def add_array(self, x: numpy.ndarray) -> None:
        """Take in a float64 array of finite numbers, shape `(n,)`."""
        self.n += len(x)
        for start in range(0, len(x), _CHUNK):
            self._add_chunk(*_by_exponent(x[start : start + _CHUNK]))

    def _add_chunk(self, mantissas: numpy.ndarray, starts: numpy.ndarray, shifts: list[int]) -> None:
        sums = numpy.add.reduceat(mantissas, starts).tolist()  # 256 * 2**53 < 2**63
        self.total += sum(_shifted(part, shift) for part, shift in zip(sums, shifts, strict=True))

    def merge(self, other: Any) -> None:
        """Take in another sum."""
        self.n += other.n
        self.total += other.total

    def value(self) -> float:
        """Return the sum, correctly rounded."""
        return _ratio(self.total, 1 << _UNIT)

    def mean(self) -> float:
        """Return the mean, correctly rounded; NaN of nothing."""
        return _ratio(self.total, self.n << _UNIT)


class ExactMoments(ExactSum):
    """An `ExactSum` with the sum of squares, in units of 2**-2148.

    >>> moments = ExactMoments()
    >>> moments.add_array(numpy.array([1e9 + 1, 1e9 + 2, 1e9 + 3]))
    >>> moments.mean(), moments.variance(ddof=1)
    (1000000002.0, 1.0)
    """

    def __init__(self) -> None:
        super().__init__()
        self.squares = 0

    def add(self, x: float) -> None:
        """Take in one finite number."""
        numerator, denominator = x.as_integer_ratio()
        shift = _UNIT + 1 - denominator.bit_length()
        self.n += 1
        self.total += numerator << shift
        self.squares += (numerator * numerator) << (2 * shift)

    def _add_chunk(self, mantissas: numpy.ndarray, starts: numpy.ndarray, shifts: list[int]) -> None:
        super()._add_chunk(mantissas, starts, shifts)
        high, low = mantissas >> 26, mantissas & (2**26 - 1)  # of 28 and 26 bits: 256 squares fit in int64
        sums = [numpy.add.reduceat(part, starts).tolist() for part in (high * high, high * low, low * low)]
        for high2, cross, low2, shift in zip(*sums, shifts, strict=True):
            self.squares += _shifted((high2 << 52) + (cross << 27) + low2, 2 * shift)

    def merge(self, other: Any) -> None:
        """Take in other moments."""
        super().merge(other)
        self.squares += other.squares

    def variance(self, ddof: int) -> float:
        """Return the variance, correctly rounded; NaN of `ddof` numbers or fewer."""
        if self.n <= ddof:
            return float("nan")
        return _ratio(self.n * self.squares - self.total**2, (self.n * (self.n - ddof)) << 2 * _UNIT)


def _by_exponent(x: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray, list[int]]:
    """Return the mantissas as int64 in groups of one exponent, where each group starts, and its shift to the unit."""
    fractions, exponents = numpy.frexp(x)
    order = numpy.argsort(exponents, kind="stable")
    exponents = exponents[order]
    starts = numpy.concatenate(([0], numpy.flatnonzero(exponents[1:] != exponents[:-1]) + 1))
    mantissas = (fractions[order] * 2.0**53).astype(numpy.int64)
    return mantissas, starts, (exponents[starts] + (_UNIT - 53)).tolist()


def _shifted(value: int, shift: int) -> int:
    return value << shift if shift >= 0 else value >> -shift  # subnormals end in as many zeros


def _ratio(numerator: int, denominator: int) -> float:
    """Return the quotient, correctly rounded (as Python's `/` of integers is); NaN where it is no finite float."""
    try:
        return numerator / denominator
    except (ZeroDivisionError, OverflowError):
        return float("nan")

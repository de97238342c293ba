"""Sums of integer arrays, element by element: exact, and narrow as long as they fit."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy

from pipeline.reductions.compiled import WORTH, compiled, readable

Array = numpy.ndarray

BLOCK = 2**15  # elements that go over to wide sums together
_SUM_ROOM = 2**15 - 1
_MASK = 2**32 - 1


class DeviationSums:
    """Sums of the deviations of integer arrays of one dtype from the first of them, and of their squares.

    What is added is small that way, whatever the offset, the dead elements and the bright ones of a detector, and two
    or four bytes hold it for many arrays: to add one costs little more than to read it. Of each block of elements is
    known how large its sums may have become; one that is full goes over to 64 bits. Nothing is ever rounded.

    Parameters
    ----------
    first
        The first array, flat: booleans, or integers of up to 32 bits. It is copied.
    has_squares
        Whether squares are summed too.

    >>> sums = DeviationSums(numpy.array([65535, 7], "u2"), has_squares=True)
    >>> sums.add(numpy.array([65535, 4], "u2"))
    >>> sums.totals(slice(0, 2)), sums.squares(slice(0, 2))
    (array([131070,     11]), (array([0, 0]), array([8589672450,         65])))
    """

    def __init__(self, first: Array, has_squares: bool) -> None:
        frame, flip = _unsigned(first)
        size, n_blocks = frame.size, -(-frame.size // BLOCK)
        self.n = 1
        self.kind = _kind(first)
        self._first = frame ^ flip
        self._sums = numpy.zeros(size, numpy.int16)
        self._squares = numpy.zeros(size if has_squares else 0, numpy.uint16)
        self._peaks = numpy.zeros(n_blocks, numpy.int64)  # the largest deviations in the last array
        self._loads = self._loads_of(self._peaks)  # how large a sum, and one of squares, may be by now
        self._wide = numpy.zeros((self._n_rows, 0), numpy.int64)  # of size 0 until there is something in it

    @property
    def _n_rows(self) -> int:
        """Sums, and squares in one part, or in two: the lower 32 bits, and the rest."""
        return 1 if not self._squares.size else 2 if self._first.itemsize < 4 else 3

    def takes(self, value: Array) -> bool:
        """Tell whether an array is of the dtype that it is for."""
        return _kind(value) == self.kind

    @property
    def is_far(self) -> bool:
        """Whether arrays have come to differ from the first one too much; looked at after 2, 4, 8, 16 ... of them."""
        is_asked = self.n > 1 and self.n & (self.n - 1) == 0
        return is_asked and 2 * int(numpy.count_nonzero(self._is_narrow(numpy.uint32))) < len(self._peaks)

    def add(self, value: Array) -> None:
        """Take in one array, flat, of the dtype and the size of the first."""
        frame, flip = _unsigned(value)
        add, spill = _ways(frame, bool(self._squares.size))
        self._widen()
        room, is_narrow = self._room(self._squares.dtype), self._is_narrow(self._squares.dtype)
        arrays = frame, flip, self._first, self._sums, self._squares
        peaks = self._peaks.copy()
        add(numpy.flatnonzero(is_narrow), *arrays, 1, peaks)
        loads = self._loads + self._loads_of(peaks)
        is_full = ~is_narrow | (loads > room).any(0)
        if is_full.any():
            add(numpy.flatnonzero(is_full & is_narrow), *arrays, -1, peaks)
            spill(numpy.flatnonzero(is_full), *arrays, self._widened(), peaks)
            loads[:, is_full] = 0
        self._loads, self._peaks = loads, peaks
        self.n += 1

    def _room(self, dtype: Any) -> Array:
        """Return how large a sum, and one of squares in this dtype, may become."""
        return numpy.array([[_SUM_ROOM], [numpy.iinfo(dtype).max]])[: len(self._loads)]

    def _is_narrow(self, dtype: Any) -> Array:
        """Return of which blocks the next array will fit into what is narrow, if it is like the last one."""
        return numpy.all(2 * self._loads_of(self._peaks) <= self._room(dtype), axis=0)

    def _loads_of(self, peaks: Array) -> Array:
        """Return the most that arrays with these largest deviations add to a sum, and to one of squares."""
        bounded = numpy.minimum(peaks, 2**30)  # larger ones are too large anyway, and their squares for int64
        return numpy.array([bounded, bounded * bounded])[: 2 if self._squares.size else 1]

    def _widen(self) -> None:
        """Have four bytes for the sums of squares, if two are soon full again in most blocks."""
        if not self._squares.size or self._squares.dtype == numpy.uint32:
            return
        is_soon_full = 8 * self._loads_of(self._peaks)[1] >= 2**16
        if 2 * numpy.count_nonzero(is_soon_full) > len(is_soon_full):
            self._squares = self._squares.astype(numpy.uint32)

    def _widened(self) -> Array:
        if not self._wide.size:
            self._wide = numpy.zeros((self._n_rows, self._first.size), numpy.int64)
        return self._wide

    def totals(self, part: slice) -> Array:
        """Return the sums of the arrays."""
        return self._deviations(part) + self.n * self._origin(part)

    def squares(self, part: slice) -> tuple[Array, Array]:
        """Return the sums of the squares of the arrays in two parts: `high * 2**32 + low`."""
        low = self._squares[part].astype(numpy.int64)
        high = numpy.zeros_like(low)
        for sums, wide in zip((low, high), self._wide[1:, part], strict=False):
            if wide.size:
                sums += wide
        origin, deviations = self._origin(part), self._deviations(part)
        return less(high, low, -origin, self.n * origin + 2 * deviations)

    def _origin(self, part: slice) -> Array:
        return self._first[part].astype(numpy.int64) - _offset(self.kind)

    def _deviations(self, part: slice) -> Array:
        sums = self._sums[part].astype(numpy.int64)
        return sums + self._wide[0, part] if self._wide.size else sums


def less(high: Array, low: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Return `high * 2**32 + low - x * y` in two such parts, exactly: up to 96 bits.

    What int64 holds on the way: `|low| < 2**61`, `|x| <= 2**32`, `|y| < 2**62`.

    >>> high, low = less(numpy.array([0]), numpy.array([5]), numpy.array([-(2**32)]), numpy.array([2**60]))
    >>> int(high[0]) * 2**32 + int(low[0]) == 2**92 + 5
    True
    """
    if _size(x) * _size(y) < 2**61:
        return high, low - x * y
    x_high, x_low, y_high, y_low = x >> 16, x & 0xFFFF, y >> 24, y & 0xFFFFFF
    parts = (x_high * y_high, 40), (x_high * y_low, 16), (x_low * y_high, 24), (x_low * y_low, 0)
    for part, shift in parts:
        high = high - (part << (shift - 32) if shift > 32 else part >> (32 - shift))
        low = low - ((part & (2 ** (32 - shift) - 1)) << shift if shift < 32 else 0)
    return high, low


def _size(values: Array) -> int:
    return max(-int(values.min()), int(values.max())) if values.size else 0


def _kind(value: Array) -> str:
    return f"{value.dtype.kind}{value.dtype.itemsize}"


def _offset(kind: str) -> int:
    """Return what is added to arrays of a dtype to have none below 0."""
    return 2 ** (8 * int(kind[1]) - 1) if kind[0] == "i" else 0


def _unsigned(value: Array) -> tuple[Array, Any]:
    """Return an array as unsigned integers, and what to flip of each so that their order is right."""
    frame = readable(value)
    unsigned = numpy.dtype(f"u{frame.itemsize}")
    return frame.view(unsigned), unsigned.type(_offset(_kind(value)))


def _ways(frame: Array, has_squares: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return what adds to narrow sums, and to wide ones: kernels, or for a few elements and without numba arrays."""
    add, spill = (compiled(_add_loop), compiled(_spill_loop)) if frame.size >= WORTH else (None, None)
    if add is None or spill is None:
        return _add_arrays, _spill_arrays
    _compile(add, spill, frame.dtype.name, ("u2", "u4") if has_squares else ("u2",))
    return add, spill


@cache
def _compile(add: Callable[..., None], spill: Callable[..., None], name: str, dtypes: tuple[str, ...]) -> None:
    """Have all kernels that frames of a dtype will ever need, so that no later one waits for them."""
    frame, nothing = readable(numpy.zeros(0, name)), numpy.zeros(0, numpy.int64)
    for dtype in dtypes:
        arrays = frame, frame.dtype.type(0), frame.copy(), numpy.zeros(0, "i2"), numpy.zeros(0, dtype)
        add(nothing, *arrays, 1, nothing)
        spill(nothing, *arrays, numpy.zeros((1, 0), numpy.int64), nothing)


# Each takes the blocks it is for, the frame and what to flip of it, the first frame, and the sums.


def _add_loop(
    blocks: Array, frame: Array, flip: Any, first: Array, sums: Array, squares: Array, sign: int, peaks: Array
) -> None:
    """Add the deviations of a frame to narrow sums, or take them back: they wrap around, and nothing is lost."""
    for b in blocks:
        begin, end = b * BLOCK, (b + 1) * BLOCK
        x, k, s, q = frame[begin:end], first[begin:end], sums[begin:end], squares[begin:end]
        peak = x.dtype.type(0)
        for i in range(x.size):
            u = x.dtype.type(x[i] ^ flip)
            d = x.dtype.type(max(u, k[i]) - min(u, k[i]))
            peak = max(peak, d)
            s[i] += sign * numpy.int16(u - k[i])
            if q.size:
                e = q.dtype.type(d)
                q[i] += q.dtype.type(sign) * e * e
        peaks[b] = peak


def _add_arrays(
    blocks: Array, frame: Array, flip: Any, first: Array, sums: Array, squares: Array, sign: int, peaks: Array
) -> None:
    change = numpy.add if sign > 0 else numpy.subtract
    for b in blocks:
        part = slice(b * BLOCK, (b + 1) * BLOCK)
        x, k, s, q = frame[part] ^ flip if flip else frame[part], first[part], sums[part], squares[part]
        d = numpy.maximum(x, k)
        d -= numpy.minimum(x, k)
        peaks[b] = d.max()
        change(s, _as_int16(numpy.subtract(x, k, dtype=numpy.promote_types(x.dtype, "u2"))), out=s)
        if q.size:
            e = d.astype(q.dtype, copy=False)
            change(q, e * e, out=q)


def _as_int16(values: Array) -> Array:
    return values.view(numpy.int16) if values.itemsize == 2 else values.astype(numpy.int16)


def _spill_loop(
    blocks: Array, frame: Array, flip: Any, first: Array, sums: Array, squares: Array, wide: Array, peaks: Array
) -> None:
    """Add the deviations of a frame to wide sums, with what there is in the narrow ones, which are empty then."""
    for b in blocks:
        begin, end = b * BLOCK, (b + 1) * BLOCK
        x, k, s, q, w = frame[begin:end], first[begin:end], sums[begin:end], squares[begin:end], wide[:, begin:end]
        peak = 0
        for i in range(x.size):
            d = numpy.int64(x[i] ^ flip) - numpy.int64(k[i])
            peak = max(peak, abs(d))
            w[0, i] += s[i] + d
            s[i] = 0
            if q.size:
                e = numpy.uint64(abs(d)) * numpy.uint64(abs(d))
                w[1, i] += numpy.int64(q[i]) + numpy.int64(e & numpy.uint64(_MASK))
                q[i] = 0
                if w.shape[0] > 2:
                    w[2, i] += numpy.int64(e >> numpy.uint64(32))
        peaks[b] = peak


def _spill_arrays(
    blocks: Array, frame: Array, flip: Any, first: Array, sums: Array, squares: Array, wide: Array, peaks: Array
) -> None:
    for b in blocks:
        part = slice(b * BLOCK, (b + 1) * BLOCK)
        s, q, w = sums[part], squares[part], wide[:, part]
        d = (frame[part] ^ flip).astype(numpy.int64) - first[part]
        peaks[b] = abs(d).max()
        w[0] += s + d
        s[:] = 0
        if q.size:
            e = abs(d).astype(numpy.uint64) ** 2
            w[1] += q + (e & _MASK).astype(numpy.int64)
            q[:] = 0
            w[2:] += (e >> 32).astype(numpy.int64)

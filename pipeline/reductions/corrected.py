"""A frame less its dark, over its flat: as an image when it is asked for one, and in parts for those who do without."""

from functools import cached_property
from types import EllipsisType
from typing import Any

import numpy

from pipeline.errors import RejectedValue
from pipeline.reductions.compiled import WORTH, compiled, readable
from pipeline.reductions.values import as_numbers

Array = numpy.ndarray

_CHUNK = 2**16  # elements at a time, which stay in the cache
_GAIN_MAX = 1e18  # with it no integer gets infinite in float32


class Correction:
    """What is taken from each element of a frame, and what the rest is multiplied by: dark, flat and mask in one.

    Attributes
    ----------
    offset, gain
        float32, of the shape of the frame; NaN where an element cannot be used. The gain is None where it is 1.
    clip, log
        Whether what is under 0 becomes 0 then, and whether minus the logarithm is taken.
    """

    def __init__(self, offset: Array, gain: Array | None = None, clip: bool = False, log: bool = False) -> None:
        self.offset, self.gain, self.clip, self.log = offset, gain, clip, log

    @cached_property
    def n_bad(self) -> int:
        """How many elements cannot be used."""
        return self.offset.size - int(numpy.count_nonzero(self.is_usable))

    @property
    def is_linear(self) -> bool:
        """Whether it is no more than offset and gain."""
        return not (self.clip or self.log)

    @property
    def is_usable(self) -> Array:
        """Which elements can be used."""
        known = numpy.isfinite(self.offset)
        return known if self.gain is None else known & numpy.isfinite(self.gain)

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse what is no frame of this shape, nor a series of them."""
        n_axes = len(shape) - self.offset.ndim
        if n_axes not in (0, 1) or shape[n_axes:] != self.offset.shape:
            raise RejectedValue(
                f"wanted a frame of shape {list(self.offset.shape)}, or a series; there is {list(shape)}."
            )

    def part(self, rows: slice, columns: slice) -> "Correction":
        """Return what corrects some rows and columns of a frame."""
        gain = None if self.gain is None else self.gain[rows, columns]
        return Correction(self.offset[rows, columns], gain, self.clip, self.log)

    def apply(self, raw: Array, out: Array) -> None:
        """Put (raw - offset) * gain into a float32 array, in float32 throughout; NaN where that is not finite.

        It is rounded as float32 three times: of raw, offset and gain each by 6e-8 of itself.
        """
        shape = self.offset.shape
        for frame, image in zip(raw.reshape(-1, *shape), out.reshape(-1, *shape), strict=True):
            _apply(readable(frame).ravel(), self.offset.ravel(), self.gain, image.ravel())
        if self.clip:
            numpy.maximum(out, 0, out=out)
        if self.log:
            with numpy.errstate(divide="ignore", invalid="ignore"):
                numpy.negative(numpy.log(out, out=out), out=out)
            out[~numpy.isfinite(out)] = numpy.nan


def correction_of(
    shape: tuple[int, ...],
    dark: Array | None = None,
    flat: Array | None = None,
    mask: Array | None = None,
    pedestal: float = 0.0,
    mode: str = "subtract",
    clip: bool = False,
) -> Correction:
    """Return what corrects frames of this shape; see `Correct` for what each is.

    Raises
    ------
    RejectedValue
        If dark, flat or mask are of another shape.

    >>> correction = correction_of((2,), numpy.array([2.0, 2.0]), numpy.array([4.0, 1.0]), mode="transmission")
    >>> correction.offset, correction.gain, correction.n_bad
    (array([2., 2.], dtype=float32), array([0.5, nan], dtype=float32), 1)
    """
    for name, array in (("dark", dark), ("flat", flat), ("mask", mask)):
        if array is not None and array.shape != shape:
            raise RejectedValue(f"wanted a {name} of shape {list(shape)}, there is {list(array.shape)}.")
    offset = numpy.full(shape, float(pedestal)) + (0.0 if dark is None else dark)
    gain = None if flat is None else _inverse(flat if mode == "subtract" else flat - offset)
    if mask is not None:
        offset[mask] = numpy.nan
    return Correction(_narrow(offset), None if gain is None else _narrow(gain), clip, mode == "absorbance")


def _inverse(light: Array) -> Array:
    """Return 1 / light; NaN where there is none."""
    gain = numpy.full(light.shape, numpy.nan)
    numpy.divide(1.0, light, out=gain, where=light > 1 / _GAIN_MAX)
    return gain


def _narrow(values: Array) -> Array:
    """Return float32, which no kernel changes; NaN where it would be infinite."""
    narrow = numpy.where(abs(values) < numpy.finfo(numpy.float32).max, values, numpy.nan).astype(numpy.float32)
    narrow.setflags(write=False)
    return narrow


# kernels and their twins: the same float32 operations in the same order, so the same bits --------------------


def _apply(raw: Array, offset: Array, gain: Array | None, out: Array) -> None:
    scale = numpy.empty(0, numpy.float32) if gain is None else gain.ravel()
    kernel = compiled(_apply_loop) if raw.size >= WORTH else None
    (kernel or _apply_by_chunks)(raw, offset, scale, out)


def _apply_loop(raw: Array, offset: Array, gain: Array, out: Array) -> None:
    largest = numpy.float32(numpy.finfo(numpy.float32).max)
    unknown = numpy.float32(numpy.nan)
    if gain.size:
        for i in range(raw.size):
            x = (numpy.float32(raw[i]) - offset[i]) * gain[i]
            out[i] = x if abs(x) <= largest else unknown
    else:
        for i in range(raw.size):
            x = numpy.float32(raw[i]) - offset[i]
            out[i] = x if abs(x) <= largest else unknown


def _apply_by_chunks(raw: Array, offset: Array, gain: Array, out: Array) -> None:
    with numpy.errstate(over="ignore", invalid="ignore"):
        for start in range(0, raw.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            image = out[part]
            numpy.copyto(image, raw[part], casting="unsafe")
            numpy.subtract(image, offset[part], out=image)
            if gain.size:
                numpy.multiply(image, gain[part], out=image)
            if raw.dtype.kind == "f":
                numpy.copyto(image, numpy.nan, where=~numpy.isfinite(image))


# lazy images -------------------------------------------------------------------------------------------------------


class Buffer:
    """An array that is used again and again: to get new memory for a frame takes longer than to correct it."""

    def __init__(self) -> None:
        self._array: Array | None = None
        self._user: Corrected | None = None

    def lend(self, user: "Corrected") -> Array:
        """Return the array; who had it before has it no more."""
        if self._user is not None:
            self._user.forget()
        if self._array is None or self._array.shape != user.shape:
            self._array = numpy.empty(user.shape, numpy.float32)
        self._user = user
        return self._array


class Corrected:
    """A corrected frame, or series of frames, that becomes an image when numpy asks for an array.

    The image is worked out once, and is valid until that of the next event is asked for: what keeps it takes a copy.
    Of a frame, or a series of frames, `[..., rows, columns]` gives a part, which is worked out alone if it is small.

    Attributes
    ----------
    raw
        The frame as it was read; not to be changed, and not to be kept.
    correction
        What corrects it.

    Raises
    ------
    RejectedValue
        If that is for frames of another shape.

    >>> frame = Corrected(numpy.array([5, 7], "u2"), Correction(numpy.array([7, 5], "f4")))
    >>> frame.shape, numpy.asarray(frame), numpy.asarray(frame, float)
    ((2,), array([-2.,  2.], dtype=float32), array([-2.,  2.]))
    >>> frame = Corrected(numpy.array([[5, 7], [3, 4], [6, 6]], "u2"), Correction(numpy.ones((3, 2), "f4")))
    >>> frame[..., 1:2, :]
    array([[2., 3.]], dtype=float32)
    """

    dtype = numpy.dtype(numpy.float32)

    def __init__(self, raw: Array, correction: Correction, buffer: Buffer | None = None) -> None:
        correction.check(raw.shape)
        self.raw, self.correction = raw, correction
        self._buffer = buffer or Buffer()
        self._image: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the frame or series."""
        return self.raw.shape

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return self.raw.ndim

    @property
    def size(self) -> int:
        """How many elements there are."""
        return self.raw.size

    def __len__(self) -> int:
        return len(self.raw)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        is_other = dtype is not None and numpy.dtype(dtype) != self.dtype
        if is_other and copy is False:
            raise ValueError(f"A corrected frame is float32; wanted {numpy.dtype(dtype)} without a copy.")
        if self._image is None:
            image = self._buffer.lend(self)
            self.correction.apply(self.raw, image)
            self._image = image.view()
            self._image.flags.writeable = False
        if is_other:
            return self._image.astype(dtype)
        return self._image.copy() if copy else self._image

    def __getitem__(self, where: Any) -> Array:
        """Return a part of the image; of a small one that is `[..., rows, columns]`, no more is worked out than it."""
        if self._image is None and _is_box(where) and self.correction.offset.ndim == 2:
            raw = self.raw[where]
            if 0 < raw.size <= self.raw.size // 2:
                image = numpy.empty(raw.shape, numpy.float32)
                self.correction.part(*where[1:]).apply(raw, image)
                return image
        return numpy.asarray(self)[where]

    def forget(self) -> None:
        """Work the image out anew, if it is asked for once more."""
        self._image = None


def _is_box(where: Any) -> bool:
    return isinstance(where, tuple) and [type(each) for each in where] == [EllipsisType, slice, slice]


def as_frames(value: Any) -> Array | Corrected:
    """Return a value as an array of numbers, or as the corrected frames that it is, for those who ask for parts.

    Raises
    ------
    RejectedValue
        If it is neither.

    >>> as_frames([[1, 2]])
    array([[1, 2]])
    """
    return value if isinstance(value, Corrected) else as_numbers(value)

"""An instrument that frames come from: where its pixels are, which are left out, and how their counts become curves."""

import ctypes
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock
from typing import Any

import numpy

from pipeline.errors import RejectedValue
from pipeline.reductions.frame_integrator import FrameIntegrator
from pipeline.reductions.geometry import Geometry
from pipeline.reductions.pixel_splitting import split_pixels

Array = numpy.ndarray

_KEPT = 2  # geometries whose shares of pixels are kept


class Instrument:
    """What integrates the frames of an instrument, for its geometry and their shape: worked out once, for all runs.

    Parameters
    ----------
    geometry
        Of the instrument.
    mask
        True for the pixels that are left out, besides those that pyFAI knows of the detector.
    options
        What `split_pixels` is told besides.
    """

    def __init__(self, geometry: Geometry, mask: Array | None, options: Mapping[str, Any]) -> None:
        self._geometry, self._mask, self._options = geometry, mask, options
        self._known: dict[Any, FrameIntegrator] = {}
        self._lock = Lock()

    def shape(self) -> tuple[int, int] | None:
        """Return the shape of frames, if the geometry tells it before there are any."""
        return None if self._geometry.fields else _shape(self._geometry.integrator({}))

    def integrator(self, values: Mapping[str, float], shape: tuple[int, int]) -> FrameIntegrator:
        """Return what integrates frames of this shape, where fields tell these values of the geometry.

        Raises
        ------
        RejectedValue
            If detector or mask are of another shape.
        """
        key = shape, tuple(values.items())
        with self._lock:
            if key not in self._known:
                made = self._made(values, shape)
                _give_back()
                while len(self._known) >= _KEPT:
                    del self._known[next(iter(self._known))]
                self._known[key] = made
            return self._known[key]

    def _made(self, values: Mapping[str, float], shape: tuple[int, int]) -> FrameIntegrator:
        geometry = self._geometry.integrator(values)
        detector = geometry.detector
        wanted = {"detector": _shape(geometry), "mask": None if self._mask is None else self._mask.shape}
        for what, known in wanted.items():
            if known not in (None, shape):
                raise RejectedValue(f"wanted a frame of shape {list(known)}, as the {what}; there is {list(shape)}.")
        masks = [each.astype(bool) for each in (self._mask, detector.mask) if each is not None]
        mask = numpy.logical_or.reduce(masks) if masks else None
        splitting = split_pixels(geometry, shape, mask=mask, **self._options)
        return FrameIntegrator(splitting, _missing(detector))


def _give_back() -> None:
    """Give the system the memory that is free again: to work shares out takes many times what they take."""
    with suppress(OSError, AttributeError):  # it is glibc that would keep it
        ctypes.CDLL(None).malloc_trim(0)


def _missing(detector: Any) -> tuple[float, float] | None:
    """Return the range of values under 0 that stand for none, as pyFAI knows the detector."""
    if detector.dummy is None or detector.dummy >= 0:
        return None
    width = float(detector.delta_dummy or 0)
    return float(detector.dummy) - width, float(detector.dummy) + width


def _shape(geometry: Any) -> tuple[int, int] | None:
    shape = geometry.detector.shape
    return None if shape is None else (int(shape[0]), int(shape[1]))

"""Frames less their dark, over their flat, without the pixels of a mask."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy

from pipeline.errors import PipelineValueError, RejectedValue, near
from pipeline.reductions.corrected import Buffer, Corrected, Correction, correction_of
from pipeline.reductions.event_reduction import EventReduction
from pipeline.reductions.pixel_mask import read_mask
from pipeline.reductions.reduction import Data, Result, units_of
from pipeline.reductions.reference import Reference
from pipeline.reductions.values import NAN, as_numbers

Array = numpy.ndarray
Frames = str | Mapping[str, Any]
Mode = Literal["subtract", "transmission", "absorbance"]

MODES = ("subtract", "transmission", "absorbance")


class Correct(EventReduction):
    """Frames less their dark, over their flat, without the pixels of a mask; for the reductions after it in a node.

    These read `{field}_corrected`: float32 images, which are worked out when one of them asks, of a row or a box alone
    where it asks for no more, as `Sinogram` does, and not at all where the algebra goes into its own, as
    `AzimuthalIntegration` does. A series of frames stays one.
    Nothing is subtracted in unsigned integers, and nothing is clipped unless that is asked for: clipping at 0 makes a
    dark field too bright (1.2 counts a pixel where the noise is 3).

    Parameters
    ----------
    field
        The field to read: a frame, a spectrum, or a series of them.
    dark, flat
        Where they come from: the name of a .npy or .npz file, or `{stream: dark, n: 10}`, `{when: {image_key: 2}, n:
        50}` for frames among those of the field itself, `{run: <uid>, stream: primary}`; with `per: gain` one for each
        gain, with `late: wait`, `pass` or `fail` for what becomes of frames that come before it. See `Reference`.
    mask
        A .npy or .npz file of the shape of the frame; pixels that are not 0 there are left out.
    pedestal
        What each pixel reads besides the dark.
    clip
        Whether what is under 0 becomes 0.
    mode
        `"subtract"`: raw - dark - pedestal; with a flat over the flat, which is a response near 1 then.
        `"transmission"`: (raw - dark - pedestal) / (flat - dark - pedestal), of a flat that is a frame itself.
        `"absorbance"`: minus its logarithm.
    emit
        Whether the image goes into the results too.
    sha256
        Of the files, by `dark`, `flat` and `mask`. It becomes part of the recipe, whether given or not; a file that was
        changed is refused.

    Results
    -------
    `{field}_is_dark_subtracted`: whether a dark was taken off; false where it may be late, and is.
    `{field}_n_bad`: int64, how many pixels of a frame the mask, the dark and the flat leave out: those where flat or
    flat - dark is not over 0, too.
    `{field}_corrected`: float32, in the shape of the field, in its units, or dimensionless; NaN where a pixel is left
    out, is not finite, or has no logarithm. Only with `emit`; reductions after this one always have it. The array that
    they see is valid until the next event, and so long the frame is kept.

    Frames that are themselves a dark or a flat of these (`when`) are rejected.

    >>> correct = Correct("det", dark={"when": {"shutter": "closed"}})
    >>> (dark,) = correct.references
    >>> dark.offer({"det": numpy.array([[7, 7]], "u2"), "shutter": "closed"})
    >>> correct.update({"det": numpy.array([[5, 9]], "u2"), "shutter": "open"})
    >>> correct.result(), numpy.asarray(correct.feed()["det_corrected"])
    ({'det_is_dark_subtracted': True, 'det_n_bad': 0}, array([[-2.,  2.]], dtype=float32))
    """

    constants = ("references", "_mask", "_known", "_buffer", "_corrected")  # the last is of one event alone

    def __init__(
        self,
        field: str,
        dark: Frames | None = None,
        flat: Frames | None = None,
        mask: str | None = None,
        pedestal: float = 0.0,
        clip: bool = False,
        mode: Mode = "subtract",
        emit: bool = False,
        sha256: Mapping[str, str] | None = None,
    ) -> None:
        self.field, self.pedestal, self.clip, self.mode, self.emit = field, float(pedestal), clip, mode, emit
        self.fields = (field,)
        _check(dark, flat, mask, pedestal, mode)
        known = sha256 or {}
        specs = {"dark": dark, "flat": flat}
        self.references = [
            Reference.of(role, spec, field, known.get(role)) for role, spec in specs.items() if spec is not None
        ]
        for each in self.references:
            if each.role == "flat" and each.late == "pass" and mode != "subtract":
                raise PipelineValueError(f"mode is {mode!r}; wanted a flat that is waited for, there is late: 'pass'.")
        self._mask = None
        digests = {each.role: each.sha256 for each in self.references if each.file is not None}
        if mask is not None:
            self._mask, digests["mask"] = read_mask(mask, known.get("mask"))
        if digests:
            self._pin(sha256=digests)
        self._known: list[tuple[Array | None, Array | None, Correction]] = []  # by dark and flat
        self._buffer = Buffer()
        self._corrected: Corrected | None = None

    def begin(self, start: Mapping[str, Any]) -> None:
        """Make the references of this run; what is made of files alone is that of all runs."""
        self.references = [each.anew() for each in self.references]
        if any(each.file is None for each in self.references):
            self._known = []
        self._buffer, self._corrected = Buffer(), None

    def update(self, data: Data) -> None:
        """Take in one event, in place of the one before."""
        self._corrected = None
        super().update(data)

    def reduce(self, data: Data) -> Result:
        """Return whether the dark of one event was taken off, and how many pixels are left out."""
        for reference in self.references:
            if reference.is_among and reference.is_of(data):
                raise RejectedValue(f"{self.field!r}: this is a {reference.role} frame itself.")
        raw = as_numbers(data[self.field])
        frames = {reference.role: reference.frame(data) for reference in self.references}
        dark, flat = frames.get("dark"), frames.get("flat")
        correction = self._correction(dark, flat, raw)
        corrected = Corrected(raw, correction, self._buffer)
        result: Result = {
            f"{self.field}_is_dark_subtracted": dark is not None,
            f"{self.field}_n_bad": correction.n_bad,
        }
        if self.emit:
            result[f"{self.field}_corrected"] = numpy.array(corrected)
        self._corrected = corrected
        return result

    def _correction(self, dark: Array | None, flat: Array | None, raw: Array) -> Correction:
        """Return what corrects this frame, worked out once for each dark and flat."""
        like = next((each for each in (dark, flat, self._mask) if each is not None), None)
        shape = raw.shape[-2:] if like is None else like.shape
        for known_dark, known_flat, correction in self._known:
            if known_dark is dark and known_flat is flat and correction.offset.shape == shape:
                return correction
        correction = correction_of(shape, dark, flat, self._mask, self.pedestal, self.mode, self.clip)
        self._known.append((dark, flat, correction))
        return correction

    def feed(self) -> Result:
        """Return the result with the corrected frame, as something that numpy makes an image of; NaN without one."""
        image = NAN if self._corrected is None else self._corrected
        return {**(self.result() or {}), f"{self.field}_corrected": image}

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: those of the field, or none of what is divided; and the dims of the image."""
        units = units_of(data_keys, self.field) if self.mode == "subtract" else "dimensionless"
        dims = data_keys.get(self.field, {}).get("dims")
        image = {"units": units, "dims": dims}
        return {f"{self.field}_corrected": {key: value for key, value in image.items() if value}}


def _check(dark: Any, flat: Any, mask: Any, pedestal: float, mode: str) -> None:
    if mode not in MODES:
        raise PipelineValueError(f"mode is {mode!r}{near(str(mode), MODES)}")
    if mode != "subtract" and flat is None:
        raise PipelineValueError(f"mode is {mode!r}; wanted a flat for that.")
    if dark is None and flat is None and mask is None and not pedestal:
        raise PipelineValueError("Correct has nothing to correct with; wanted a dark, a flat, a mask or a pedestal.")

"""Azimuthal integration: the mean of a frame on rings around the beam."""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, Literal

import numpy

from pipeline.errors import PipelineTypeError, PipelineValueError, RejectedValue, near
from pipeline.reductions.corrected import Corrected, as_frames
from pipeline.reductions.event_reduction import EventReduction
from pipeline.reductions.frame_integrator import Bounds, FrameIntegrator, Sums
from pipeline.reductions.frame_series import HOW, check_series
from pipeline.reductions.geometry import Geometry, are_same
from pipeline.reductions.instrument import Instrument
from pipeline.reductions.pixel_mask import read_mask
from pipeline.reductions.pixel_splitting import SPLITS, UNITS
from pipeline.reductions.reduction import Data, Result, ratio_units, units_of
from pipeline.reductions.values import NAN, as_number

Array = numpy.ndarray


class AzimuthalIntegration(EventReduction):
    """The mean of a frame on rings around the beam, as a curve over q, the angle or the radius, frame by frame.

    pyFAI tells the geometry, and what share of each pixel is in each bin: once for a geometry and shape, in seconds for
    large frames. That is applied here to frames as they were read, in one pass. What `Correct` before it tells of dark,
    flat and mask goes into the shares, so that its image is never made; but where it takes logarithms, or clips.

    A curve is sum(c x) / sum(c w) over the pixels, with x their values, c their shares in a bin, and w the light they
    see: solid angle and polarization. A pixel that the mask, its value or the detector excludes is in neither sum.
    Shares are float32, as pyFAI's; sums are in float64, and without numba differ by less than 1e-8.

    Parameters
    ----------
    field
        The field to read: a frame, or a series of frames; `"{field}_corrected"` after `Correct`.
    poni
        The geometry: a .poni file, or a dict of numbers, or of arithmetic over fields; see `Geometry`. Fields are read
        from the first event; one whose geometry differs then by more than 1e-4 is rejected.
    npt
        How many bins there are.
    unit
        Of the axis: `q_A^-1`, `q_nm^-1`, `2th_deg`, `2th_rad`, `r_mm` or `r_m`.
    split
        How pixels are shared among bins: by their bounding box, `"bbox"`; by their corners, `"full"`; `"no"`: not.
    mask
        A .npy or .npz file of the shape of a frame; pixels that are not 0 there are left out, with those that pyFAI
        knows of the detector.
    polarization_factor
        Of the beam: 1 if it is polarized horizontally, 0 if not at all; None: no correction.
    solid_angle
        Whether values are divided by the solid angle of their pixel.
    error_model
        `"poisson"`: what was read are counts, and there are errors: the variance of a count is the count, of 0 it is 1,
        as in pyFAI; a dark adds none of its own.
    norm
        The field of a monitor that curves are divided by; not finite, or 0 and less: no result.
    npt_azim
        If there is to be a cake: how many bins there are around the beam.
    frames
        What becomes of a series: the `"mean"` or the `"sum"` of its frames is taken, or `"each"` has its curve.
    radial_range
        Where the axis begins and ends, in its unit: by default with the pixels.
    azimuth_range
        Which part of the rings counts, in degrees from -180 to 180: from the first angle on to the second, over 180 if
        that is smaller.
    valid_range
        The least and the largest value that counts, of the frame as it was read. By default that is what pyFAI knows of
        the detector: of a Pilatus or an Eiger -1 and -2 do not.
    sha256
        Of the files, by `poni` and `mask`. It becomes part of the recipe, whether given or not; a file that was changed
        is refused.

    Results
    -------
    `{field}_I`: float64 [npt], of a cake [npt_azim, npt], with `"each"` one for each frame; in the units of the field,
    over those of the monitor. NaN where a bin is empty (pyFAI gives 0).
    `{field}_I_err`: float64, its standard error; only with an error model.
    `{field}_I_sum`: float64, what the pixels hold that count, in all, over the monitor.
    `{field}_n_frames`: int64, how many there were; only of a series.
    `norm_ok`: whether the monitor was good; only with one.
    Axes: `{field}_q`, `{field}_2theta` or `{field}_r`, and `{field}_chi` of a cake: float64, centres of bins. The
    reductions after this one in a node may read them, too.

    Memory: 10 bytes for each share of a pixel, of which it has one where it is no wider than a bin (npt up to the
    number of pixels from the beam to the corner), else one for each bin it is in; and 4 to 12 bytes a pixel.

    References
    ----------
    G. Ashiotis et al., J. Appl. Cryst. 48 (2015) 510: pyFAI, and how pixels are split.

    >>> poni = {"dist": 0.1, "poni1": 2e-3, "poni2": 2e-3, "pixel1": 1e-3, "pixel2": 1e-3}
    >>> integration = AzimuthalIntegration("det", poni, npt=2, unit="r_mm", split="no", solid_angle=False)
    >>> integration.update({"det": numpy.array([[1, 1, 1, 1], [1, 3, 3, 1], [1, 3, 3, 1], [1, 1, 1, 1]], "u2")})
    >>> integration.result(), integration.axes()["det_r"].round(2)
    ({'det_I': array([3., 1.]), 'det_I_sum': 24.0}, array([1.06, 1.77]))
    """

    constants = ("_geometry", "_instrument")

    def __init__(
        self,
        field: str,
        poni: str | Mapping[str, Any],
        npt: int = 1000,
        unit: str = "q_A^-1",
        split: str = "bbox",
        mask: str | None = None,
        polarization_factor: float | None = None,
        solid_angle: bool = True,
        error_model: Literal["poisson"] | None = None,
        norm: str | None = None,
        npt_azim: int | None = None,
        frames: Literal["mean", "sum", "each"] = "mean",
        radial_range: Sequence[float] | None = None,
        azimuth_range: Sequence[float] | None = None,
        valid_range: Sequence[float] | None = None,
        sha256: Mapping[str, str] | None = None,
    ) -> None:
        self.field, self.unit, self.norm, self.frames = field, unit, norm, frames
        _check("unit", unit, UNITS)
        _check("split", split, SPLITS)
        _check("frames", frames, HOW)
        _check("error_model", error_model, (None, "poisson"))
        self._has_error = error_model is not None
        self._bins = _bins(npt, npt_azim)
        self._bounds = _pair("valid_range", valid_range)
        known = sha256 or {}
        self._geometry = Geometry(poni, known.get("poni"))
        excluded, digest = (None, None) if mask is None else read_mask(mask, known.get("mask"))
        digests = {"poni": self._geometry.sha256, "mask": digest}
        if any(digests.values()):
            self._pin(sha256={name: each for name, each in digests.items() if each is not None})
        options = {"bins": self._bins, "unit": unit, "split": split}
        options |= {"polarization_factor": polarization_factor, "solid_angle": solid_angle}
        options |= {"radial_range": _pair("radial_range", radial_range)}
        options |= {"azimuth_range": _pair("azimuth_range", azimuth_range)}
        self._instrument = Instrument(self._geometry, excluded, options)
        self.fields = tuple(name for name in (field, norm, *self._geometry.fields) if name is not None)
        self._shape: tuple[int, int] | None = None  # of the first frame
        self._values: dict[str, float] = {}  # of the geometry, as the first event tells them

    def begin(self, start: Mapping[str, Any]) -> None:
        """Work out the shares of pixels before the first point, if the geometry tells the shape of frames."""
        shape = self._instrument.shape()
        if shape is None:
            return
        integrator = self._instrument.integrator({}, shape)
        for dtype in (numpy.uint16, numpy.int32):  # as most detectors have: what sums them is compiled by that
            integrator.sums(numpy.zeros(shape, dtype), None, integrator.bounds(numpy.dtype(dtype)), self._has_error)

    def reduce(self, data: Data) -> Result:
        """Return the curve of one event."""
        norm = as_number(data[self.norm]) if self.norm is not None else 1.0
        norm_ok = math.isfinite(norm) and norm > 0
        frame = as_frames(data[self.field])
        sums = self._sums(frame, self._integrator(data, frame.shape))
        row = self._row(sums, norm if norm_ok else NAN, is_series=frame.ndim == 3)
        if frame.ndim == 3:
            row[f"{self.field}_n_frames"] = len(sums)
        return row if self.norm is None else {**row, "norm_ok": norm_ok}

    def _integrator(self, data: Data, shape: tuple[int, ...]) -> FrameIntegrator:
        """Return what integrates frames of this shape, if it and the geometry are those of the first event."""
        values = self._geometry.values(data)
        if len(shape) not in (2, 3) or self._shape not in (None, shape[-2:]):
            wanted = "h, w" if self._shape is None else str(list(self._shape))[1:-1]
            raise RejectedValue(
                f"{self.field!r}: wanted a frame of shape [{wanted}], or a series; there is {list(shape)}."
            )
        if self._shape is not None and not are_same(values, self._values):
            raise RejectedValue(f"The geometry was {self._values} at first and is {values}; wanted one in a stream.")
        if self._shape is None:
            integrator = self._instrument.integrator(values, (shape[-2], shape[-1]))
            self._shape, self._values = integrator.shape, values
        return self._known_integrator()

    def _known_integrator(self) -> FrameIntegrator:
        assert self._shape is not None
        return self._instrument.integrator(self._values, self._shape)

    def _sums(self, frame: Corrected | Array, integrator: FrameIntegrator) -> list[Sums]:
        """Return the sums of each frame of a series, or of the one there is."""
        raw, correction = (frame.raw, frame.correction) if isinstance(frame, Corrected) else (frame, None)
        bounds = self._bounds or integrator.bounds(raw.dtype)
        if correction is not None and correction.offset.shape != integrator.shape:
            raise RejectedValue(f"{self.field!r}: wanted dark and flat of shape {list(integrator.shape)}.")
        if correction is not None and not correction.is_linear:
            raw, correction, bounds = self._image(frame, raw, bounds), None, None
        frames = [raw] if raw.ndim == 2 else list(raw)
        check_series(frames)
        return [integrator.sums(each, correction, bounds, self._has_error) for each in frames]

    def _image(self, frame: Any, raw: Array, bounds: Bounds | None) -> Array:
        """Return the image of a correction that is no sum, where the frame as it was read counts."""
        if self._has_error:
            raise PipelineTypeError(
                f"{self.field!r} is clipped, or a logarithm, whose error is not that of counts; wanted no error_model."
            )
        image = numpy.asarray(frame)
        return image if bounds is None else numpy.where((raw >= bounds[0]) & (raw <= bounds[1]), image, numpy.nan)

    def _row(self, sums: list[Sums], norm: float, *, is_series: bool) -> Result:
        if is_series and self.frames == "each":
            rows = [self._of(each, norm) for each in sums]
            return {key: numpy.array([row[key] for row in rows]) for key in rows[0]}
        return self._of(reduce(add, sums), norm, len(sums))

    def _of(self, sums: Sums, norm: float, n: int = 1) -> Result:
        """Return the curve of the sums of this many frames: of their mean, or of their sum."""
        scale = n if self.frames == "sum" else 1
        row: Result = {f"{self.field}_I": self._arranged(sums.curve(), scale, norm)}
        if self._has_error:
            row[f"{self.field}_I_err"] = self._arranged(sums.error(), scale, norm)
        total = float(sums.signal.sum()) * scale / n / norm
        return {**row, f"{self.field}_I_sum": total if math.isfinite(total) else NAN}

    def _arranged(self, values: Array, scale: int, norm: float) -> Array:
        """Return values by bin as a curve, or as a cake: a row for each angle around the beam."""
        with numpy.errstate(over="ignore"):
            found = values * scale / norm
        found[~numpy.isfinite(found)] = NAN
        return found if len(self._bins) == 1 else numpy.ascontiguousarray(found.reshape(self._bins).T)

    def feed(self) -> Result | None:
        """Return the result with the axes, for the reductions after this one."""
        result = self.result()
        return result if result is None else {**result, **self.axes()}

    def axes(self) -> Result:
        """Return the centres of the bins, once the first frame has told the shape."""
        if self._shape is None:
            return {}
        return dict(zip(self._axis_names(), self._known_integrator().axes, strict=True))

    def _axis_names(self) -> list[str]:
        return [f"{self.field}_{UNITS[self.unit][0]}", f"{self.field}_chi"][: len(self._bins)]

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units: of curves those of the field, over those of the monitor; of the axes; and the dims."""
        names = self._axis_names()
        dims = [*([f"{self.field}_frame"] if self.frames == "each" else []), *reversed(names)]
        units = self._units(data_keys)
        curve: dict[str, Any] = {**({"units": units} if units else {}), "dims": dims}
        described = {f"{self.field}_I": curve, f"{self.field}_I_err": curve}
        described |= {f"{self.field}_I_sum": {"units": units}} if units else {}
        return described | {
            name: {"units": unit} for name, unit in zip(names, (UNITS[self.unit][1], "deg"), strict=False)
        }

    def _units(self, data_keys: Mapping[str, Any]) -> str | None:
        units = units_of(data_keys, self.field)
        return units if self.norm is None else ratio_units(units, units_of(data_keys, self.norm))


def _check(what: str, value: Any, known: Collection[Any]) -> None:
    if value not in known:
        hint = near(str(value), [str(each) for each in known if each is not None])
        raise PipelineValueError(f"{what} is {value!r}{hint}")


def _bins(npt: Any, npt_azim: Any) -> tuple[int, ...]:
    bins = (npt,) if npt_azim is None else (npt, npt_azim)
    if any(type(n) is not int or n < 1 for n in bins):
        raise PipelineValueError(f"npt is {npt!r} and npt_azim {npt_azim!r}; wanted 1 or more.")
    return bins


def _pair(what: str, given: Any) -> tuple[float, float] | None:
    if given is None:
        return None
    are_two = isinstance(given, list | tuple) and len(given) == 2 and all(type(each) in (int, float) for each in given)
    is_angle = what == "azimuth_range"
    if not are_two or not (max(map(abs, given)) <= 180 if is_angle else given[0] <= given[1]):
        raise PipelineValueError(f"{what} is {given!r}; wanted where it begins and where it ends.")
    return float(given[0]), float(given[1])

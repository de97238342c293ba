"""Which bins the counts of each pixel go to, and in which shares."""

from typing import Any, NamedTuple

import numpy

from pipeline.errors import PipelineValueError

Array = numpy.ndarray

UNITS = {  # of pyFAI -> the name of the axis, and its units as pint reads them
    "q_A^-1": ("q", "angstrom^-1"),
    "q_nm^-1": ("q", "nm^-1"),
    "2th_deg": ("2theta", "deg"),
    "2th_rad": ("2theta", "rad"),
    "r_mm": ("r", "mm"),
    "r_m": ("r", "m"),
}
SPLITS = "bbox", "full", "no"


class Splitting(NamedTuple):
    """The shares of pixels in bins, as pyFAI works them out, and how much light each pixel sees.

    Attributes
    ----------
    shape
        Of a frame.
    bins
        How many bins there are: along the radius, and around the beam if that is asked for.
    shares, pixels, starts
        A sparse matrix by rows (CSR): float32 shares, int32 pixels, and where the row of each bin begins. A bin's
        number is `radial * n_azimuthal + azimuthal`.
    axes
        Centres of the bins, in the unit asked for; around the beam in degrees.
    light
        float32, by pixel: its solid angle and polarization, relative to where the beam meets the detector's plane.
    """

    shape: tuple[int, int]
    bins: tuple[int, ...]
    shares: Array
    pixels: Array
    starts: Array
    axes: tuple[Array, ...]
    light: Array

    @property
    def n_bins(self) -> int:
        """How many bins there are in all."""
        return len(self.starts) - 1


def split_pixels(
    integrator: Any,
    shape: tuple[int, int],
    bins: tuple[int, ...],
    unit: str = "q_A^-1",
    split: str = "bbox",
    mask: Array | None = None,
    polarization_factor: float | None = None,
    solid_angle: bool = True,
    radial_range: tuple[float, float] | None = None,
    azimuth_range: tuple[float, float] | None = None,
) -> Splitting:
    """Return the shares of the pixels of frames of this shape; see `AzimuthalIntegration` for what is asked for.

    Parameters
    ----------
    integrator
        pyFAI's AzimuthalIntegrator. What it remembers is dropped afterwards: hundreds of megabytes of large frames.

    Raises
    ------
    PipelineValueError
        If pyFAI refuses: there is no wavelength for q, say.
    """
    is_radial = len(bins) == 1
    if azimuth_range is not None and azimuth_range[0] > azimuth_range[1]:
        integrator.setChiDiscAtZero()  # angles go from 0 to 360 then, and not through 180 to -180
    try:
        engine = integrator.setup_sparse_integrator(
            shape,
            bins[0] if is_radial else bins,
            mask=None if mask is None else mask.astype(numpy.int8),
            unit=unit if is_radial else (unit, "chi_deg"),
            split=split,
            algo="CSR",
            pos0_range=None if radial_range is None else tuple(each / _scale(unit) for each in radial_range),
            pos1_range=None if azimuth_range is None else integrator.normalize_azimuth_range(azimuth_range),
            scale=False,
        )
        light = _light(integrator, shape, polarization_factor, solid_angle)
    except (ValueError, RuntimeError) as error:
        raise PipelineValueError(f"pyFAI cannot integrate frames of shape {list(shape)}: {error}.") from None
    axes = _axes(engine, unit, is_radial)
    integrator.reset()
    shares, pixels, starts = (numpy.asarray(part) for part in (engine.data, engine.indices, engine.indptr))
    return Splitting(shape, bins, shares, pixels, starts, axes, light)


def _light(integrator: Any, shape: tuple[int, int], polarization_factor: float | None, solid_angle: bool) -> Array:
    light = numpy.ones(shape, numpy.float32)
    if solid_angle:
        light *= integrator.solidAngleArray(shape).astype(numpy.float32)
    if polarization_factor is not None:
        light *= integrator.polarization(shape, polarization_factor)
    return light.ravel()


def _scale(unit: str) -> float:
    """Return what pyFAI multiplies its own unit by."""
    from pyFAI.units import to_unit

    known: Any = to_unit(unit)
    return float(known.scale)


def _axes(engine: Any, unit: str, is_radial: bool) -> tuple[Array, ...]:
    if is_radial:
        return (numpy.asarray(engine.bin_centers, float) * _scale(unit),)
    degrees = numpy.degrees(numpy.asarray(engine.bin_centers1, float))
    return numpy.asarray(engine.bin_centers0, float) * _scale(unit), degrees

"""X-ray absorption spectra, normalised as they are measured."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy

from pipeline.errors import PipelineValueError
from pipeline.reductions.absorption_edge import Edge, find_edge, glitches, resampled
from pipeline.reductions.points import Array, Points, float_columns, number
from pipeline.reductions.reduction import Data, Reduction, Result, ratio_units, units_of, with_units

NAN = math.nan
Span = Sequence[float]

_GRID = ((-150, -20, 5), (-20, 50, 0.5), (50, 600, 2.5))


class XAS(Reduction):
    """The absorption edge of a spectrum, and the spectrum normalised by it, from all points so far.

    Points may come in any order, and of several scans: they are taken as one, those of one energy by their mean. So
    scans of one sample are averaged by `merge`, on one grid. It keeps two numbers of every event, 16 bytes.

    Parameters
    ----------
    energy
        The field of the photon energy, in eV.
    mu
        The field of the absorption; with a `monitor`, of the detector behind the sample, or of its fluorescence.
    monitor
        The field of the detector before the sample, if `mu` is not yet divided by it. Where it is not above zero, the
        point is left out and counted.
    mode
        With a monitor: `"transmission"`, ln(monitor/mu), or `"fluorescence"`, mu/monitor.
    e0
        The energy of the edge, or `"auto"`: that of the point at which mu rises most steeply, by lines through the
        points up to 0.75 eV away, or farther where there are none.
    pre, norm
        Ranges relative to e0, in eV, of the line before the edge and of the polynomial after it; what the points do not
        reach is left out.
    degree
        Of the polynomial; `None`: 2 where the points of `norm` cover more than 350 eV, 1 where more than 50, else 0.
    n_sigma
        Points that lie farther from the median of seven than this many times their scatter, and than 1 % of the range
        of mu, are glitches, and are left out (Hampel); 0 keeps all. Real scans without a glitch have none by 5.
    grid
        Energies of the normalised spectrum relative to e0, as regions `[start, stop, step]`, in order.
    name
        What stands in the results' names; for two of one field.

    Results
    -------
    `{mu}_{name}_e0`: float64, the energy of the edge. `{mu}_{name}_edge_step`: its height, in the units of mu.
    `{mu}_{name}_norm`: float64, on `axes()`: (mu - line) / step, means of the points about each energy and lines
    between; NaN beyond the points. The axis is relative to e0, so it is constant while e0 is not known yet.
    `{mu}_{name}_n`, `_n_nan`, `_n_glitch`: int64, how many points were taken, how many were left out since they are not
    finite or their monitor is not above zero, and how many energies are glitches.
    `{mu}_{name}_success`: whether there is an edge: ten points or more, both ranges covered, a step of more than eight
    standard errors and four times the scatter about line and polynomial, and a rise within 30 eV. If not, NaN.

    >>> xas = XAS("energy", "mu")
    >>> for i in range(400):
    ...     e = 6950.0 + 2 * i
    ...     xas.update({"energy": e, "mu": math.atan((e - 7112) / 2) / math.pi + 1.5})
    >>> result = xas.result()
    >>> result["mu_xas_e0"], round(result["mu_xas_edge_step"], 2), result["mu_xas_success"]
    (7112.0, 0.97, True)
    >>> result["mu_xas_norm"].shape == xas.axes()["mu_xas_energy"].shape
    True
    """

    mergeable = "exact"
    constants = ("_grid",)

    def __init__(
        self,
        energy: str,
        mu: str,
        monitor: str | None = None,
        mode: Literal["transmission", "fluorescence"] = "transmission",
        e0: float | Literal["auto"] = "auto",
        pre: Span = (-150, -30),
        norm: Span = (100, 600),
        degree: int | None = None,
        n_sigma: float = 5.0,
        grid: Sequence[Span] = _GRID,
        name: str = "xas",
    ) -> None:
        self.energy, self.mu, self.monitor, self.mode = energy, mu, monitor, mode
        self.fields = (energy, mu) if monitor is None else (energy, mu, monitor)
        self.e0, self.pre, self.norm, self.degree, self.n_sigma, self.key = e0, pre, norm, degree, n_sigma, name
        self._check()
        self._grid = _regions(grid)
        self._points = Points()  # of energy, and mu or its ratio to the monitor

    def _check(self) -> None:
        if self.mode not in ("transmission", "fluorescence"):
            raise PipelineValueError(f"XAS: mode is {self.mode!r}; wanted 'transmission' or 'fluorescence'.")
        if self.e0 != "auto" and (isinstance(self.e0, str) or not math.isfinite(self.e0)):
            raise PipelineValueError(f"XAS: e0 is {self.e0!r}; wanted 'auto' or an energy in eV.")
        if self.degree not in (None, 0, 1, 2, 3):
            raise PipelineValueError(f"XAS: degree is {self.degree!r}; wanted 0 to 3, or None.")
        for what, span, least, most in (("pre", self.pre, -math.inf, 0), ("norm", self.norm, 0, math.inf)):
            if len(span) != 2 or not least <= span[0] < span[1] <= most:
                side = "below" if most == 0 else "above"
                raise PipelineValueError(f"XAS: {what} is {span!r}; wanted two energies {side} e0, in order.")

    def update(self, data: Data) -> None:
        """Take in one point."""
        energy, mu = number(data[self.energy]), number(data[self.mu])
        if self.monitor is not None:
            mu = _ratio(mu, number(data[self.monitor]), self.mode)
        self._points.add(energy, mu)

    def update_page(self, columns: Mapping[str, Sequence[Any]]) -> int:
        """Take in columns of the fields."""
        arrays = float_columns(*(columns[field] for field in self.fields))
        if arrays is None:
            return super().update_page({field: columns[field] for field in self.fields})
        if self.monitor is not None:
            arrays[1] = _ratios(arrays[1], arrays[2], self.mode)
        finite = numpy.isfinite(arrays[0]) & numpy.isfinite(arrays[1])
        self._points.n_nan += len(finite) - int(finite.sum())
        self._points.add_finite(arrays[0][finite], arrays[1][finite])
        return 0

    def merge(self, other: "XAS") -> None:
        """Take in the points of the other: another part of the scan, or another scan of the sample."""
        self._points.merge(other._points)

    def result(self) -> Result | None:
        """Return the edge and the spectrum so far; `None` before the first event."""
        points, stem = self._points, f"{self.mu}_{self.key}"
        if not len(points) and not points.n_nan:
            return None
        with numpy.errstate(all="ignore"):  # what overflows is no edge
            energy, mu, n_glitch = self._spectrum()
            edge = self._edge(energy, mu)
            curve = self._curve(energy, edge)
        return {
            f"{stem}_e0": edge.e0 if edge else NAN,
            f"{stem}_edge_step": edge.step if edge else NAN,
            f"{stem}_norm": curve,
            f"{stem}_n": len(points),
            f"{stem}_n_nan": points.n_nan,
            f"{stem}_n_glitch": n_glitch,
            f"{stem}_success": edge is not None,
        }

    def _spectrum(self) -> tuple[Array, Array, int]:
        """Return energies, each once, their mean mu, and how many were left out as glitches."""
        energy, mu = self._points.ordered()
        if not len(energy):
            return energy, mu, 0
        if self.monitor is not None and self.mode == "transmission":
            mu = numpy.log(mu)
        starts = numpy.flatnonzero(numpy.diff(energy, prepend=-numpy.inf))
        energy, mu = energy[starts], numpy.add.reduceat(mu, starts) / numpy.diff(starts, append=len(mu))
        bad = glitches(mu, self.n_sigma)
        return energy[~bad], mu[~bad], int(bad.sum())

    def _edge(self, energy: Array, mu: Array) -> Edge | None:
        if len(energy) < 10:
            return None
        e0 = None if isinstance(self.e0, str) else self.e0
        return find_edge(energy, mu, e0, self.pre, self.norm, self.degree)

    def _curve(self, energy: Array, edge: Edge | None) -> Array:
        if edge is None:
            return numpy.full(len(self._grid), NAN)
        curve = resampled(energy - edge.e0, edge.normalised, self._grid)
        return numpy.where(numpy.isfinite(curve), curve, NAN)

    def axes(self) -> Result:
        """Return the energies of the normalised spectrum, relative to e0."""
        return {f"{self.mu}_{self.key}_energy": self._grid.copy()}

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the units, and the dims of the spectrum."""
        stem = f"{self.mu}_{self.key}"
        units = with_units(
            {f"{stem}_e0": units_of(data_keys, self.energy) or "eV", f"{stem}_edge_step": self._units(data_keys)}
        )
        return {**units, f"{stem}_norm": {"units": "dimensionless", "dims": [f"{stem}_energy"]}}

    def _units(self, data_keys: Mapping[str, Any]) -> str | None:
        if self.monitor is None:
            return units_of(data_keys, self.mu)
        if self.mode == "transmission":
            return "dimensionless"
        return ratio_units(units_of(data_keys, self.mu), units_of(data_keys, self.monitor))


def _ratio(mu: float, monitor: float, mode: str) -> float:
    """Return what mu is made of; NaN where the monitor, or what has a logarithm, is not above zero."""
    if not monitor > 0 or not math.isfinite(monitor) or (mode == "transmission" and not mu > 0):
        return NAN
    return mu / monitor if mode == "fluorescence" else monitor / mu


def _ratios(mu: Array, monitor: Array, mode: str) -> Array:
    good = (monitor > 0) & numpy.isfinite(monitor) & ((mu > 0) | (mode == "fluorescence"))
    above, below = (mu, monitor) if mode == "fluorescence" else (monitor, mu)
    with numpy.errstate(over="ignore", under="ignore"):
        return numpy.divide(above, below, out=numpy.full(len(mu), NAN), where=good)


def _regions(grid: Sequence[Span]) -> Array:
    """Return the energies of the regions, each without its end but the last."""
    steps = [region[2] if len(region) == 3 else 0 for region in grid]
    if not grid or min(steps) <= 0:
        raise PipelineValueError(f"XAS: grid is {grid!r}; wanted regions [start, stop, step], with steps above zero.")
    counts = [round((stop - start) / step) for start, stop, step in grid]
    parts = [start + step * numpy.arange(n) for (start, _, step), n in zip(grid, counts, strict=True)]
    energies = numpy.concatenate([*parts, [float(grid[-1][1])]])
    if not (numpy.diff(energies) > 0).all():
        raise PipelineValueError(f"XAS: grid is {grid!r}; wanted regions in ascending order, none in another.")
    return energies

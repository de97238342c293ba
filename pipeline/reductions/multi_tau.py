"""Intensity correlation over many decades of lags (XPCS, DLS)."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy

from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions.correlator import Correlator
from pipeline.reductions.files import read_array
from pipeline.reductions.labelled_pixels import LabelledPixels, check_labels
from pipeline.reductions.rectangle import Rectangle
from pipeline.reductions.reduction import Data, Reduction, Result, units_of
from pipeline.reductions.values import NAN, as_number, as_numbers

Array = numpy.ndarray

_ALIKE = 0.01  # how far, as a share, the time between two frames may be off that of the first event


class MultiTau(Reduction):
    """Correlate the intensity of each pixel with itself, at lags that grow with their distance, averaged over regions.

    It is the multiple-tau scheme: the lags 0 to `buffers - 1` frames; then, level by level, of sums of two frames of
    the level below, the lags `buffers / 2` to `buffers - 1` of those. What is averaged over pixels and pairs of frames
    is normalised symmetrically, by the mean of the earlier frames of the pairs and by that of the later ones:
    g2 = <I(t) I(t + lag)> / (<I(t)> <I(t + lag)>). So a smooth decay of the beam cancels, a distribution of intensity
    within a region does not: regions are to be uniform.

    Frames count one by one, in order: an event with a series of them, [n, h, w], has n consecutive ones. A bad frame
    keeps its place in time, and the pairs that it would be in are left out, at all levels: one that has NaN or inf in
    a region; one of another shape, or of a time between frames that is more than 1 % off the first event's, which is
    rejected too; one that is missing in its event (as many as the event before had). Frames that never became events
    are not known of.

    It keeps the pixels of the regions alone, `levels * buffers` times, in integers of 16 or 32 bits where these hold
    what there was so far, in float64 else. Integers are summed exactly up to 2**53; all sums are in one order.

    Parameters
    ----------
    field
        The field to read: a frame, or a series of them.
    labels
        A .npy file with an array of the shape of the frame, whose whole numbers over 0 are regions; or rectangles
        `[[y0, y1, x0, x1], ...]`, half-open and clipped at the edges, which may overlap: regions 1, 2, ...
    dt
        The time between two frames, in s; or the field or the configuration that tells it.
    levels
        How many levels there are.
    buffers
        How many lags the first level has; even.
    sha256
        Of the file of labels. It becomes part of the recipe, whether given or not; a file that was changed is refused.

    Results
    -------
    `{field}_g2`: float64 [n_lag, n_region], with `(levels + 1) * buffers / 2` lags; NaN where there is no pair, no
    pixel or no intensity.
    `{field}_n_pairs`: int64 [n_lag], of how many pairs of frames.
    `{field}_n_bad`: int64, how many frames were bad.
    Axes: `{field}_lag`, in s; `{field}_region`, the labels.

    References
    ----------
    K. Schätzel, M. Drewel, S. Stimac, J. Mod. Opt. 35 (1988) 711; L. Cipelletti, D. A. Weitz, Rev. Sci. Instrum. 70
    (1999) 3214; D. Lumma, L. B. Lurio, S. G. J. Mochrie, M. Sutton, Rev. Sci. Instrum. 71 (2000) 3274.

    >>> correlation = MultiTau("cam", [[0, 1, 0, 2]], dt=0.1, levels=2, buffers=2)
    >>> for frame in ([[1, 3]], [[3, 1]], [[1, 3]]): correlation.update({"cam": numpy.array(frame, "u2")})
    >>> correlation.result()["cam_g2"][:, 0], correlation.result()["cam_n_pairs"], correlation.axes()["cam_lag"]
    (array([1.25, 0.75,  nan]), array([3, 2, 0]), array([0. , 0.1, 0.2]))
    """

    constants = ("_labels", "_rectangles", "_pixels", "_lags")

    def __init__(
        self,
        field: str,
        labels: str | Sequence[Sequence[int]],
        dt: float | str,
        levels: int = 7,
        buffers: int = 8,
        sha256: str | None = None,
    ) -> None:
        if levels < 1 or buffers < 2 or buffers % 2:
            raise PipelineValueError(
                f"levels is {levels!r} and buffers {buffers!r}; wanted 1 or more, and an even number."
            )
        self.field, self.dt = field, dt
        self.fields = (field, dt) if isinstance(dt, str) else (field,)
        self._time = NAN if isinstance(dt, str) else _time(dt)
        is_file = isinstance(labels, str)
        self._labels = self._read(labels, sha256) if is_file else None
        self._rectangles = [] if is_file else _rectangles(labels)
        self._pixels: LabelledPixels | None = None  # once the shape is known
        self._shape = None if self._labels is None else self._labels.shape
        self._correlator = Correlator(levels, buffers)
        self._lags = self._correlator.lags
        self._n_bad, self._n_frames = 0, 1  # in all; in the last event that had some
        self._is_new = True

    def _read(self, path: str, sha256: str | None) -> Array:
        labels, digest = read_array(path, sha256)
        self._pin(sha256=digest)
        check_labels(labels, path)
        return labels

    def update(self, data: Data) -> None:
        """Take in the frames of one event, in order."""
        try:
            self._learn_time(data)
            frames = self._frames(data[self.field])
        except (KeyError, RejectedValue):
            self._pass_over()
            raise
        for frame in frames:
            self._n_bad += not self._correlator.add(frame, self.pixels)
        self._n_frames, self._is_new = len(frames), False

    def _learn_time(self, data: Data) -> None:
        if not isinstance(self.dt, str):
            return
        time = as_number(data[self.dt])
        if not (isfinite(time) and time > 0):
            raise RejectedValue(f"{self.dt!r}: wanted a time between frames over 0, in s; there is {time!r}.")
        if not isfinite(self._time):
            self._time = time
        elif abs(time - self._time) > _ALIKE * self._time:
            raise RejectedValue(f"{self.dt!r}: wanted {self._time!r} s as in the first event, there is {time!r}.")

    def _frames(self, value: Any) -> Array:
        values = as_numbers(value)
        frames = values[numpy.newaxis] if values.ndim == 2 else values
        if frames.ndim != 3 or not frames.size or self._shape not in (None, frames.shape[1:]):
            raise RejectedValue(
                f"{self.field!r}: wanted a frame{f' of {list(self._shape)}' if self._shape else ''}, or a series of "
                f"them; there is the shape {list(values.shape)}."
            )
        self._shape = frames.shape[1:]
        return frames

    def _pass_over(self) -> None:
        pixels = None if self._shape is None else self.pixels
        for _ in range(self._n_frames):
            self._correlator.skip(pixels)
        self._n_bad += self._n_frames

    @property
    def pixels(self) -> LabelledPixels:
        """The pixels of the regions, once the shape of the frames is known."""
        assert self._shape is not None
        if self._pixels is None:
            if self._labels is None:
                self._pixels = LabelledPixels.of_rectangles(self._rectangles, self._shape)
            else:
                self._pixels = LabelledPixels.of_labels(self._labels)
        return self._pixels

    def result(self) -> Result | None:
        """Return the correlation so far; `None` before the first frame."""
        if self._is_new:
            return None
        counts = self.pixels.counts
        sums = self._correlator.sums(len(counts))
        return {
            f"{self.field}_g2": sums.correlation(counts),
            f"{self.field}_n_pairs": sums.n_pairs,
            f"{self.field}_n_bad": self._n_bad,
        }

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the dims, and the units of the lags: those of `dt` where a field tells it and its units, else s."""
        units = units_of(data_keys, self.dt) if isinstance(self.dt, str) else None
        lag, region = f"{self.field}_lag", f"{self.field}_region"
        return {
            f"{self.field}_g2": {"units": "dimensionless", "dims": [lag, region]},
            f"{self.field}_n_pairs": {"dims": [lag]},
            lag: {"units": units or "s"},
        }

    def axes(self) -> Result:
        """Return the lags, and the labels of the regions."""
        return {f"{self.field}_lag": self._lags * self._time, f"{self.field}_region": self.pixels.names}


def _rectangles(labels: Any) -> list[Rectangle]:
    if not isinstance(labels, list | tuple) or not labels:
        raise PipelineValueError(f"labels is {labels!r}; wanted a .npy file, or a list of [y0, y1, x0, x1].")
    return [Rectangle.of(bounds, "labels") for bounds in labels]


def _time(dt: Any) -> float:
    if isinstance(dt, bool) or not isinstance(dt, int | float) or not (isfinite(dt) and dt > 0):
        raise PipelineValueError(f"dt is {dt!r}; wanted the time between two frames in s, over 0, or a field.")
    return float(dt)

"""Where the axis is about which one image is the mirror image of another."""

import math

import numpy

from pipeline.reductions.values import NAN

Array = numpy.ndarray

_TOP = 0.9  # of its maximum: points of a curve that are taken for the top of it
_OVERLAP = 0.5  # of the width: at least so much of the images has to be compared


def mirror_axis(one: Array, other: Array) -> tuple[float, float]:
    """Return the column about which an image has to be mirrored to be another, and how alike they are then.

    The images are registered along the columns by their normalised cross-correlation, of the elements that are finite
    in both and overlap, at least half of the width; so offset and scale do not matter, nor do the edges. The maximum is
    that of the parabola that fits the points around it best, as far as they reach 9/10 of it on both sides.

    Parameters
    ----------
    one, other
        Float64 [n_row, n_column], of one shape. The mean of each row does not matter.

    Returns
    -------
    tuple of float
        The column, from 0, between a quarter and three quarters of the width, and the correlation, up to 1; NaN where
        there is no maximum.

    References
    ----------
    D. Padfield, IEEE Trans. Image Process. 21 (2012) 2706.

    >>> x = numpy.arange(40.0)
    >>> peak = numpy.exp(-((x - 16) ** 2) / 18)[None]
    >>> column, score = mirror_axis(peak, peak)
    >>> round(column, 2), round(score, 3)
    (16.0, 1.0)
    """
    n = one.shape[1]
    shifts, score = _correlation(one, other[:, ::-1])
    place, height = _maximum(score)
    return (n - 1 + float(shifts[0]) + place) / 2, height


def _maximum(curve: Array) -> tuple[float, float]:
    """Return where a curve has its maximum, by a parabola around the largest point, and this; NaN without one."""
    best = int(numpy.argmax(numpy.where(numpy.isfinite(curve), curve, -2.0)))
    reach = 0
    while reach < min(best, len(curve) - 1 - best):
        points = curve[best - reach - 1 : best + reach + 2]
        if not (curve[best] > 0 and numpy.isfinite(points).all()) or (reach and points.min() < _TOP * curve[best]):
            break
        reach += 1
    if not reach:
        return NAN, NAN
    x, y = numpy.arange(-reach, reach + 1), curve[best - reach : best + reach + 1]
    squares = x * x - (x * x).mean()
    slope, bend = float((x * y).sum() / (x * x).sum()), float((squares * y).sum() / (squares * squares).sum())
    return (best - slope / (2 * bend), float(curve[best])) if bend < 0 else (NAN, NAN)


def _correlation(one: Array, other: Array) -> tuple[Array, Array]:
    """Return the shifts, and at each the normalised correlation of `one` there with `other`."""
    n = one.shape[1]
    most = math.floor(n * (1 - _OVERLAP))
    shifts = numpy.arange(-most, most + 1)
    size = 1 << (2 * n - 1).bit_length()
    (a, b), (in_a, in_b) = (_centered(image) for image in (one, other)), (numpy.isfinite(i) for i in (one, other))

    def correlated(x: Array, y: Array) -> Array:
        spectrum = (numpy.fft.rfft(x, size) * numpy.fft.rfft(y, size).conj()).sum(0)
        return numpy.fft.irfft(spectrum, size)[shifts]

    both = numpy.round(correlated(in_a, in_b))
    sum_a, sum_b = correlated(a, in_b), correlated(in_a, b)
    with numpy.errstate(invalid="ignore", divide="ignore", over="ignore"):
        spread_a = correlated(a * a, in_b) - sum_a**2 / both
        spread_b = correlated(in_a, b * b) - sum_b**2 / both
        score = (correlated(a, b) - sum_a * sum_b / both) / numpy.sqrt(spread_a * spread_b)
    is_flat = (spread_a < 1e-9 * (a * a).sum()) | (spread_b < 1e-9 * (b * b).sum())
    return shifts, numpy.where(is_flat | (both < 1), numpy.nan, score)


def _centered(image: Array) -> Array:
    """Return an image less the mean of each row, scaled to about 1, 0 where it is not finite."""
    is_known = numpy.isfinite(image)
    filled = numpy.where(is_known, image, 0.0)
    n = is_known.sum(1, keepdims=True)
    filled = numpy.where(is_known, filled - filled.sum(1, keepdims=True) / numpy.maximum(n, 1), 0.0)
    largest = float(abs(filled).max()) if filled.size else 0.0
    return filled / largest if largest else filled

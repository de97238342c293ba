"""Which pixels of a frame belong to which region, in the order in which their values are summed."""

from collections.abc import Sequence

import numpy

from pipeline.errors import PipelineValueError
from pipeline.reductions.rectangle import Rectangle

Array = numpy.ndarray

LANES = 32  # partial sums of a region: the element k of it goes into the sum k % 32


class LabelledPixels:
    """The pixels of some regions, region by region, each filled up to whole rows of `LANES`.

    Parameters
    ----------
    names
        The number of each region.
    regions
        For each region, the places of its pixels in the frame, counted row by row.

    Attributes
    ----------
    starts
        int64, in which row each region begins, and where the last one ends.
    counts
        int64, how many pixels each region has.
    places, targets
        uint32, from where in a frame to where in these rows its pixels go, in the order of the frame; a region keeps
        that order, too.

    >>> pixels = LabelledPixels.of_labels(numpy.array([[0, 4, 1], [0, 1, 0]]))
    >>> pixels.names, pixels.counts, pixels.starts
    (array([1, 4]), array([2, 1]), array([0, 1, 2]))
    >>> pixels.places, pixels.targets
    (array([1, 2, 4], dtype=uint32), array([32,  0,  1], dtype=uint32))
    """

    def __init__(self, names: Sequence[int], regions: Sequence[Array]) -> None:
        self.names = numpy.array(names, numpy.int64)
        self.counts = numpy.array([region.size for region in regions], numpy.int64)
        self.starts = numpy.concatenate([[0], numpy.cumsum(-(-self.counts // LANES))])
        places = numpy.concatenate(regions)
        targets = numpy.concatenate(
            [first * LANES + numpy.arange(n) for first, n in zip(self.starts[:-1], self.counts, strict=True)]
        )
        order = numpy.argsort(places, kind="stable")
        self.places, self.targets = (each[order].astype(numpy.uint32) for each in (places, targets))

    @classmethod
    def of_labels(cls, labels: Array) -> "LabelledPixels":
        """Return the pixels of each label over 0."""
        names = numpy.unique(labels[labels > 0]).tolist()
        return cls(names, [numpy.flatnonzero(labels == name) for name in names])

    @classmethod
    def of_rectangles(cls, rectangles: Sequence[Rectangle], shape: tuple[int, int]) -> "LabelledPixels":
        """Return the pixels of rectangles of a frame; they are numbered from 1."""
        places = numpy.arange(shape[0] * shape[1]).reshape(shape)
        regions = [places[rectangle.slices(shape)].ravel() for rectangle in rectangles]
        return cls(range(1, len(regions) + 1), regions)

    @property
    def n_rows(self) -> int:
        """How many rows of `LANES` there are."""
        return int(self.starts[-1])


def check_labels(labels: Array, path: str) -> None:
    """Refuse what are no labels of a frame: whole numbers, in two dimensions, some over 0."""
    if labels.dtype.kind not in "iu" or labels.ndim != 2 or not (labels > 0).any():
        raise PipelineValueError(
            f"{path!r} has {labels.dtype} of shape {list(labels.shape)}; wanted whole numbers of a frame, some over 0."
        )

"""How the rows of a stored array belong to events."""

import math
from collections.abc import Sequence

import numpy

from pipeline.errors import PipelineOSError

Shape = tuple[int, ...]


class RowShape:
    """What one event has of an array that is stored for all.

    The stored array may have a row for each event, `(n, *shape)`, or the frames of all events one behind the other,
    `(n * shape[0], *shape[1:])`, as area detectors write them.

    Parameters
    ----------
    shape
        Of the value of one event, as the data key has it; sizes that are not known are None.
    is_number
        Whether that value is one number: then `[1]` stands for no axis at all, and so does an axis of 1 in what is
        stored.

    >>> RowShape([1, 22, 26]).per_event((3201, 22, 26)), RowShape([5, 22, 26]).per_event((40, 22, 26))
    (1, 5)
    """

    def __init__(self, shape: Sequence[int | None], is_number: bool = False) -> None:
        self.is_number = is_number and math.prod(n or 1 for n in shape) == 1
        self.shape = () if self.is_number else tuple(shape)

    def per_event(self, stored: Shape) -> int:
        """Return how many rows of an array of this shape are of one event; 0 if it has an axis for events alone.

        Raises
        ------
        PipelineOSError
            If the shapes do not fit.

        >>> RowShape([22, 26]).per_event((3201, 22, 26))
        0
        """
        if _fit(self.shape, stored[1:]) or (self.is_number and math.prod(stored[1:]) == 1):
            return 0
        if self.shape and _fit(self.shape[1:], stored[1:]) and self.shape[0]:
            return self.shape[0]
        raise PipelineOSError(f"wanted rows of shape {list(self.shape)}, there is an array of shape {list(stored)}")

    def fitted(self, parts: Sequence[numpy.ndarray]) -> numpy.ndarray:
        """Return the value of one event, from one array or several that it is made of, axes of 1 aside.

        Raises
        ------
        PipelineOSError
            If the shapes do not fit.

        >>> RowShape([1, 2, 3]).fitted([numpy.zeros((2, 3))]).shape
        (1, 2, 3)
        >>> RowShape([4, 2]).fitted([numpy.zeros((2, 2)), numpy.zeros((2, 2))]).shape
        (4, 2)
        """
        for joined in (numpy.stack(parts), numpy.concatenate([numpy.atleast_1d(part) for part in parts])):
            sizes = iter([size for size in joined.shape if size != 1])
            full = [next(sizes, 1) if n != 1 else 1 for n in self.shape]
            if _fit(self.shape, tuple(full)) and next(sizes, None) is None:
                return joined.reshape(full)
        raise PipelineOSError(
            f"wanted the shape {list(self.shape)}, there is {list(parts[0].shape)} in each of {len(parts)} files"
        )


def _fit(wanted: Sequence[int | None], there: Shape) -> bool:
    return len(wanted) == len(there) and all(n in (None, size) for n, size in zip(wanted, there, strict=True))

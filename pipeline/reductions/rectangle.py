"""A rectangle of a frame."""

from typing import Any, NamedTuple

from pipeline.errors import PipelineValueError


class Rectangle(NamedTuple):
    """Rows from y0 to y1 and columns from x0 to x1, half-open; clipped at the edges, never counted from the end.

    >>> Rectangle.of([-2, 2, 1, 99], "region").slices((3, 4))
    (slice(0, 2, None), slice(1, 4, None))
    """

    y0: int
    y1: int
    x0: int
    x1: int

    @classmethod
    def of(cls, bounds: Any, what: str) -> "Rectangle":
        """Return the rectangle with these bounds, as they are written.

        Raises
        ------
        PipelineValueError
            If they are no bounds; it says what they are of.
        """
        are_whole = isinstance(bounds, list | tuple) and len(bounds) == 4 and all(type(each) is int for each in bounds)
        if not are_whole or bounds[0] > bounds[1] or bounds[2] > bounds[3]:
            raise PipelineValueError(f"{what}: wanted [y0, y1, x0, x1], whole numbers, in order; there is {bounds!r}.")
        return cls(*bounds)

    def slices(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """Return what of a frame of this shape is in it."""
        return _clipped(self.y0, self.y1, shape[0]), _clipped(self.x0, self.x1, shape[1])


def _clipped(start: int, stop: int, size: int) -> slice:
    return slice(min(max(start, 0), size), min(max(stop, 0), size))

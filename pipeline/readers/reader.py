"""What a reader is: the rows of one asset, as many as there are by now."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy

from pipeline.readers.roots import Roots
from pipeline.readers.row_shape import RowShape

Array = numpy.ndarray


class Reader(Protocol):
    """Reads an asset that `stream_datum` documents tell of; it is made anew after a fault.

    It is called on one thread at a time, and never waits: who wants more than there is asks again.
    """

    def __init__(self, path: str, shape: RowShape, parameters: Mapping[str, Any], roots: Roots) -> None: ...

    def read(self, start: int, stop: int) -> Array:
        """Return the values of these events, `(n, *shape)`: fewer than wanted, or none, if there are no more yet.

        Raises
        ------
        OSError, KeyError, ValueError
            If there is no such file, or no such array in it, or it is damaged; all of it may pass.
        PipelineError
            If the asset is another than the documents say, or must not be read.
        """
        ...

    def close(self) -> None:
        """Let the files go."""
        ...

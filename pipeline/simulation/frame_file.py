"""An HDF5 file of frames, which can be read while it is written."""

import os
from collections.abc import Sequence
from typing import Any

import numpy

from pipeline.errors import PipelineImportError, PipelineOSError

DATASET = "/entry/data/data"


class FrameFile:
    """Write frames into an HDF5 file, each a chunk of its own, flushed before the call returns (SWMR).

    Parameters
    ----------
    path
        Of the file, which must not be there.
    shape, dtype
        Of a frame.

    Raises
    ------
    PipelineOSError
        If it cannot be made, or is there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = FrameFile(f"{folder}/a.h5", (2, 3), "uint16")
    ...     file.write(numpy.ones((2, 3), "uint16"))
    ...     file.close()
    ...     file.n_frames
    1
    """

    def __init__(self, path: str | os.PathLike[str], shape: Sequence[int], dtype: str | numpy.dtype) -> None:
        self.path, self.chunk_shape, self.n_frames = os.path.abspath(path), (1, *shape), 0
        self._file = _made(self.path)
        self._frames = self._file.create_dataset(
            DATASET, (0, *shape), dtype, maxshape=(None, *shape), chunks=self.chunk_shape
        )
        self._file.swmr_mode = True

    def write(self, frame: numpy.ndarray) -> None:
        """Add one frame at the end."""
        self._frames.resize(self.n_frames + 1, 0)
        self._frames[self.n_frames] = frame
        self._frames.flush()
        self.n_frames += 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _made(path: str) -> Any:
    try:
        import h5py
    except ImportError:
        raise PipelineImportError(
            "HDF5 files are written by h5py, which is not installed: pip install bluesky-pipeline[frames]."
        ) from None
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return h5py.File(path, "x", libver="latest")
    except OSError as error:
        raise PipelineOSError(f"wanted a new file at {path!r}: {error}.") from None

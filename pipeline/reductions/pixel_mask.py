"""Masks: which pixels of frames are left out."""

import numpy

from pipeline.errors import PipelineValueError
from pipeline.reductions.files import read_array


def read_mask(path: str, sha256: str | None = None) -> tuple[numpy.ndarray, str]:
    """Return where the array of a .npy or .npz file is not 0, and the SHA-256 of the file; see `read_array`.

    Raises
    ------
    PipelineValueError
        If it is no array of integers or booleans.
    """
    mask, digest = read_array(path, sha256)
    if mask.dtype.kind not in "biu" or not mask.ndim:
        raise PipelineValueError(f"{path!r} has {mask.dtype} of shape {list(mask.shape)}; wanted a mask: 0, or not.")
    return mask != 0, digest

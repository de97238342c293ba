"""What reads the assets of classic `resource` documents, by spec: event-model's handlers."""

import os
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

import numpy

from pipeline.errors import PipelineOSError
from pipeline.readers.hdf5 import HDF5Reader
from pipeline.readers.hdf5_parts import check_file
from pipeline.readers.roots import Roots
from pipeline.readers.row_shape import RowShape

Handler = Callable[..., Any]
HDF5_SPECS = ("AD_HDF5", "AD_HDF5_SWMR", "AD_HDF5_STREAM", "AD_HDF5_SWMR_STREAM")


class HDF5Handler:
    """Read the frames of one point from an area detector's HDF5 file, also while it is written.

    It does what the handlers of area-detector-handlers do, without dask between file and array, and follows no link
    to where files must not be read.

    Parameters
    ----------
    path
        Of the file.
    frame_per_point
        How many frames there are for each point.
    parameters
        What else the resource says; the dataset is `/entry/data/data` if neither it nor the datum says otherwise.
    """

    roots = Roots()

    def __init__(self, path: str, frame_per_point: int = 1, **parameters: Any) -> None:
        self._path, self._per_point, self._parameters = path, frame_per_point, parameters
        self._readers: dict[str, HDF5Reader] = {}

    def __call__(self, point_number: int | None = None, frame: int | None = None, dataset: str = "") -> numpy.ndarray:
        """Return the frames of one point, `(frame_per_point, ...)`."""
        first = point_number if point_number is not None else frame
        if first is None:
            raise ValueError("the datum tells neither point_number nor frame")
        found = self._reader(dataset).read(first * self._per_point, (first + 1) * self._per_point)
        if len(found) < self._per_point:
            raise OSError(f"wanted {self._per_point} frames of point {first}, there are {len(found)}")
        found.setflags(write=False)
        return found

    def _reader(self, dataset: str) -> HDF5Reader:
        if dataset not in self._readers:
            parameters = self._parameters | ({"dataset": dataset} if dataset else {})
            self._readers[dataset] = HDF5Reader(self._path, _AnyRow(), parameters, self.roots)
        return self._readers[dataset]

    def close(self) -> None:
        """Close the file."""
        for reader in self._readers.values():
            reader.close()


class _AnyRow(RowShape):
    """Rows of whatever shape: what a resource has is not told before it is read."""

    def __init__(self) -> None:
        super().__init__(())

    def per_event(self, stored: tuple[int, ...]) -> int:
        return 0


def handler_registry(roots: Roots, more: Mapping[str, Handler]) -> dict[str, Handler]:
    """Return the handlers by spec: ours, those of installed packages, and more, which stand in place of these.

    Installed packages say theirs by entry points of the group `databroker.handlers`, as area-detector-handlers does;
    one is imported when it is first asked for.
    """
    ours = type("HDF5Handler", (HDF5Handler,), {"roots": roots})
    installed = {point.name: _later(point, roots) for point in entry_points(group="databroker.handlers")}
    return {**installed, "NPY_SEQ": _npy_seq, **dict.fromkeys(HDF5_SPECS, ours), **more}


def _later(point: Any, roots: Roots) -> Handler:
    def handler(path: str, **kwargs: Any) -> Any:
        if roots.are_limited and os.path.isfile(path):
            check_file(path, roots)
        made = point.load()(path, **kwargs)
        if roots.are_limited and not hasattr(made, "get_file_list"):
            raise PipelineOSError(f"the handler of {point.name!r} does not tell what it reads; wanted get_file_list.")
        return made

    return handler


def _npy_seq(path: str, **kwargs: Any) -> Any:
    from ophyd.sim import NumpySeqHandler

    return NumpySeqHandler(path, **kwargs)

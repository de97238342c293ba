"""An area detector that writes HDF5."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from bluesky.protocols import Reading, StreamAsset
from event_model import ComposeStreamResource, ComposeStreamResourceBundle, DataKey

from pipeline.errors import PipelineRuntimeError
from pipeline.simulation.frame_file import DATASET, FrameFile

Array = numpy.ndarray


class AreaDetector:
    """A detector for a real RunEngine: each trigger writes a frame into an HDF5 file.

    It emits what the detectors of ophyd-async do: its field is external (`"STREAM:"`, shape `[1, h, w]`), its
    `stream_resource` and `stream_datum` come before the event that they are of, and the file can be read while it is
    written. There is a new file each time that it is staged.

    Parameters
    ----------
    name
        Of the device, and of its field.
    folder
        Where the files go: `{name}_0001.h5` and so on.
    frames
        Called on a thread with the number of the exposure, from 0 for the life of the device; returns the frame.
    shape, dtype
        Of the frames.
    exposure
        How many seconds an exposure takes at least.
    configuration
        What else the device is set to, by key: value and units.

    References
    ----------
    bluesky.protocols: `Readable`, `Triggerable`, `Stageable`, `Configurable`, `WritesStreamAssets`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     det = AreaDetector("det", folder, lambda number: numpy.full((2, 3), number), (2, 3))
    ...     _ = det.stage()
    ...     det.trigger().wait(10)
    ...     told = [name for name, _ in det.collect_asset_docs()]
    ...     _ = det.unstage()
    >>> told, det.describe()["det"]["shape"]
    (['stream_resource', 'stream_datum'], [1, 2, 3])
    """

    parent = None

    def __init__(
        self,
        name: str,
        folder: str | os.PathLike[str],
        frames: Callable[[int], Array],
        shape: Sequence[int],
        dtype: str | numpy.dtype = "uint16",
        exposure: float = 0.0,
        configuration: Mapping[str, tuple[float, str]] | None = None,
    ) -> None:
        self.name, self.folder, self.frames = name, Path(folder), frames
        self.shape, self.dtype, self.exposure = tuple(shape), numpy.dtype(dtype), exposure
        self._configuration = {"exposure_time": (exposure, "s"), **(configuration or {})}
        self._open: FrameFile | None = None
        self._bundle: ComposeStreamResourceBundle | None = None
        self._n_told = self._n_exposures = 0

    # a scan

    def stage(self) -> list[Any]:
        """Open a file."""
        self._open = file = FrameFile(self._next_path(), self.shape, self.dtype)
        self._bundle = ComposeStreamResource()(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{Path(file.path).as_uri().removeprefix('file://')}",
            data_key=self.name,
            parameters={"dataset": DATASET, "chunk_shape": file.chunk_shape},
        )
        self._n_told = 0
        return [self]

    def _next_path(self) -> Path:
        number = 1
        while (path := self.folder / f"{self.name}_{number:04d}.h5").exists():
            number += 1
        return path

    def unstage(self) -> list[Any]:
        """Close the file."""
        if self._open is not None:
            self._open.close()
        self._open = self._bundle = None
        return [self]

    def trigger(self) -> Any:
        """Take a frame; the status is done when it can be read in the file."""
        from ophyd.status import Status

        status, file = Status(self), self._file
        threading.Thread(target=self._expose, args=(file, status), name=f"exposes {self.name}", daemon=True).start()
        return status

    def _expose(self, file: FrameFile, status: Any) -> None:
        end = time.monotonic() + self.exposure
        try:
            file.write(self.frames(self._n_exposures))
        except Exception as error:  # noqa: BLE001 - whoever waits for the status is told
            status.set_exception(error)
            return
        self._n_exposures += 1
        time.sleep(max(0.0, end - time.monotonic()))
        status.set_finished()

    @property
    def _file(self) -> FrameFile:
        if self._open is None:
            raise PipelineRuntimeError(f"{self.name} is not staged; wanted it staged before it is used.")
        return self._open

    # documents

    def read(self) -> dict[str, Reading[Any]]:
        """Return nothing: its field is external."""
        return {}

    def describe(self) -> dict[str, DataKey]:
        """Return what its field is."""
        key: DataKey = {"source": f"sim://{self.name}", "dtype": "array", "shape": [1, *self.shape]}
        return {self.name: {**key, "dtype_numpy": self.dtype.str, "external": "STREAM:", "units": "count"}}

    def get_index(self) -> int:
        """Return how many frames are written."""
        return self._file.n_frames

    def collect_asset_docs(self, index: int | None = None) -> Iterator[StreamAsset]:
        """Yield where the frames are that were not told of yet, up to this many in all."""
        n_frames = self.get_index() if index is None else min(index, self.get_index())
        if n_frames <= self._n_told or self._bundle is None:
            return
        if not self._n_told:
            yield "stream_resource", self._bundle.stream_resource_doc
        indices = {"start": self._n_told, "stop": n_frames}
        self._n_told = n_frames
        yield "stream_datum", self._bundle.compose_stream_datum(indices=indices)  # type: ignore[arg-type]

    def read_configuration(self) -> dict[str, Reading[Any]]:
        """Return what it is set to."""
        now = time.time()
        return {
            f"{self.name}_{key}": {"value": value, "timestamp": now} for key, (value, _) in self._configuration.items()
        }

    def describe_configuration(self) -> dict[str, DataKey]:
        """Return what that is."""
        return {
            f"{self.name}_{key}": {
                "source": f"sim://{self.name}_{key}",
                "dtype": "number",
                "dtype_numpy": "<f8",
                "shape": [],
                "units": units,
            }
            for key, (_, units) in self._configuration.items()
        }

    @property
    def hints(self) -> dict[str, Any]:
        """What of it is worth a look."""
        return {"fields": [self.name]}

"""Where the assets of runs are, and how they are read."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Literal

from pipeline.documents import Document
from pipeline.errors import PipelineKeyError, PipelineValueError
from pipeline.readers.file_sequence import NPYSequence, TIFFSequence
from pipeline.readers.handlers import Handler, handler_registry
from pipeline.readers.hdf5 import HDF5Reader
from pipeline.readers.reader import Reader
from pipeline.readers.roots import Roots
from pipeline.readers.run_assets import RunAssets
from pipeline.readers.zarr import ZarrReader

READERS: dict[str, type[Reader]] = {
    "application/x-hdf5": HDF5Reader,
    "multipart/related;type=image/tiff": TIFFSequence,
    "multipart/related;type=application/x-npy": NPYSequence,
    "application/x-zarr": ZarrReader,
    "application/zarr": ZarrReader,
}


class Assets:
    """Where the assets of runs are, and how they are read: external fields reach reductions as arrays.

    Each frame is read once for all nodes, when the first reduction asks for it, and never before it is announced by a
    `datum` or `stream_datum`. One that is announced and not there yet is waited for.

    Parameters
    ----------
    root_map
        Folders as documents name them, and where each is here: `{"/data": "/mnt/beamline"}`.
    roots
        The folders that may be read from, also by links within files; None: all.
    timeout
        How many seconds a frame is waited for that is announced and not there. After one that did not come, those of
        the same asset are not waited for; stored runs that are replayed never are.
    missing
        What an asset that is missing, truncated or damaged does: `"fail"` ends the analysis that wanted it, `"skip"`
        leaves the event out of it.
    in_flight
        How many frames of one field are in memory at a time, the one that is read ahead included; small ones count by
        4 MB.
    handlers
        What reads classic assets, by spec, besides the installed ones: `handler(path, **resource_kwargs)` returns
        a function of the datum's arguments. See event-model's `Filler`.
    readers
        What reads streamed assets, by MIME type, besides HDF5, TIFF and NPY sequences, and zarr; see
        `pipeline.readers.Reader`.
    run
        Returns the documents of another run by its uid, for references that are taken from it.

    >>> Assets(root_map={"/data": "/mnt/beamline"}, roots=["/mnt/beamline"], timeout=5.0)
    Assets(roots=['/mnt/beamline'], timeout=5.0, missing='fail')
    """

    def __init__(
        self,
        *,
        root_map: Mapping[str, str] | None = None,
        roots: Sequence[str] | None = None,
        timeout: float = 10.0,
        missing: Literal["fail", "skip"] = "fail",
        in_flight: int = 3,
        handlers: Mapping[str, Handler] | None = None,
        readers: Mapping[str, type[Reader]] | None = None,
        run: Callable[[str], Iterable[tuple[str, Document]]] | None = None,
    ) -> None:
        if missing not in ("fail", "skip"):
            raise PipelineValueError(f"missing is {missing!r}; wanted 'fail' or 'skip'.")
        if not timeout >= 0 or in_flight < 2:
            raise PipelineValueError(
                f"timeout is {timeout!r}, in_flight {in_flight!r}; wanted seconds from 0 on, and 2 frames or more."
            )
        self.roots = Roots(root_map, roots)
        self.timeout, self.missing, self.in_flight = timeout, missing, in_flight
        self.handlers = handler_registry(self.roots, handlers or {})
        self.readers: dict[str, type[Reader]] = READERS | dict(readers or {})
        self._allowed = roots
        self._run = run
        self._executor: Executor | None = None

    def of_run(self, *, is_stored: bool = False) -> RunAssets:
        """Return the assets of one raw run, which is given its documents; those of a stored run are not waited for."""
        return RunAssets(self, is_stored=is_stored)

    def documents(self, run: str) -> Iterable[tuple[str, Document]]:
        """Return the documents of another run.

        Raises
        ------
        PipelineKeyError
            If there is nobody to ask.
        """
        if self._run is None:
            raise PipelineKeyError(
                f"wanted frames of run {run!r}, and no catalog is told to ask for it; give Assets(run=...)."
            )
        return self._run(run)

    @property
    def executor(self) -> Executor:
        """The thread that reads ahead."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="reads frames ahead")
        return self._executor

    def __repr__(self) -> str:
        return f"Assets(roots={self._allowed}, timeout={self.timeout}, missing={self.missing!r})"

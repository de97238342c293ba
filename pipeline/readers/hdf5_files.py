"""HDF5 files that are read while others may write them."""

import os
from contextlib import suppress
from typing import Any

from pipeline.errors import PipelineImportError

FOLLOWED = 3  # the version of the superblock from which on a file says whether it is being written


class HDF5Files:
    """Open HDF5 files so that who writes them notices nothing: without a lock, which would refuse them their own file.

    A file in the way of single writer, multiple readers is followed while it is written. Any other is read between two
    times that it is written: it is refused while another process has locked it, and `are_changed` says when it was
    written since.

    Parameters
    ----------
    follow
        False for files that are not to be followed.
    """

    def __init__(self, *, follow: bool = True) -> None:
        self._ways = [{"libver": "latest", "swmr": True}, {}] if follow else [{}]
        self._files: list[Any] = []
        self._stamps: dict[str, tuple[int, ...]] = {}  # path of a file that cannot be followed -> as it was

    def open(self, path: str) -> Any:
        """Return an open file.

        Raises
        ------
        OSError
            If it is not there, not whole, or being written.
        """
        h5py = _h5py()
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no file {path}")
        if _is_locked(path):
            raise BlockingIOError(f"{path} is being written by a process that has locked it")
        stamp = _stamp(path)
        file = self._open(h5py, path)
        self._files.append(file)
        if file.id.get_create_plist().get_version()[0] < FOLLOWED:
            self._stamps[path] = stamp
        return file

    def _open(self, h5py: Any, path: str) -> Any:
        faults: list[OSError] = []
        for way in self._ways:
            try:
                return h5py.File(path, "r", locking=False, **way)
            except OSError as error:
                faults.append(error)
            if "locking flag" in str(faults[-1]):  # this process has it open: there is nobody to keep out
                with suppress(OSError):
                    return h5py.File(path, "r", **way)
        raise faults[0]

    @property
    def are_changed(self) -> bool:
        """Whether one that cannot be followed was written to since it was opened."""
        return any(_stamp(path) != stamp for path, stamp in self._stamps.items())

    def close(self) -> None:
        """Close them."""
        for file in self._files:
            file.close()
        self._files, self._stamps = [], {}


def _stamp(path: str) -> tuple[int, ...]:
    """Return what is another once a file was written to."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _is_locked(path: str) -> bool:
    """Tell whether another process has locked a file for writing, as HDF5 does; looked up where Linux lists locks.

    To try a lock of one's own, however briefly, is to refuse the writer his.
    """
    status = os.stat(path)
    name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        with open("/proc/locks") as locks:
            held = [line.split() for line in locks if name in line and "WRITE" in line]
    except OSError:
        return False
    return any(words[-3] == name and words[-4] != str(os.getpid()) for words in held)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise PipelineImportError(
            "HDF5 files are read by h5py, which is not installed: pip install bluesky-pipeline[frames]."
        ) from None
    with suppress(ImportError):
        import hdf5plugin  # noqa: F401 - registers the filters that detectors compress with
    return h5py

"""One writer for a file."""

import contextlib
import fcntl
import os
from pathlib import Path

from pipeline.errors import PipelineOSError


class FileLock:
    """Keep a file to one writer, by a file beside it; the kernel gives it back for the dead.

    It is not the file itself that is locked: HDF5 would refuse it to who reads.

    Raises
    ------
    PipelineOSError
        If another has it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lock = FileLock(Path(folder, "a.h5"))
    ...     names = os.listdir(folder)
    ...     lock.release()
    ...     names, os.listdir(folder)
    (['.a.h5.lock'], [])
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f".{path.name}.lock")
        self._fd = -1
        while self._fd < 0:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise PipelineOSError(f"{path} is being written by another process; wanted it alone.") from None
            if self._is_there(fd):
                self._fd = fd
            else:  # who had it has just taken it away
                os.close(fd)

    def _is_there(self, fd: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(fd), os.stat(self._path))
        return False

    def release(self) -> None:
        """Let others write."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(fd)

"""Large arrays of one stream, in an HDF5 file that others may read while it grows."""

import errno
import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy

from pipeline.errors import PipelineError, PipelineOSError, PipelineValueError
from pipeline.file_lock import FileLock
from pipeline.hdf5_rows import (
    FAULTS,
    WHOLE,
    Layout,
    add_row,
    is_open_here,
    make_file,
    n_whole_rows,
    open_for_reading,
    open_for_writing,
    shorten,
)
from pipeline.superblock import close_abandoned

logger = logging.getLogger(__name__)

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE)  # nothing is wrong with the file


class ArrayFile:
    """The rows of one or more arrays, each a dataset of an HDF5 file that grows while others read it.

    A row is in the file, and there for who reads, before `put` returns, so it survives the end of the process. It
    survives the loss of power after `sync`. A file that was left by a process that was killed is gone on with, from
    its last whole row: see `Superblock`.

    A row that is there is compared: what is the same is left as it is. What differs is written again, and told, as
    long as the file is not whole; of a file that is whole it is refused. A file that cannot be read is kept beside,
    as `<name>.damaged`, and made anew.

    A file is written by one process at a time, and has its name only when it can be read.

    Parameters
    ----------
    path
        Of the file.
    layout
        What it holds.
    digest
        Of the start document of the run, which the file keeps as `start_sha256`.
    n_rows
        How many rows there are to be, of a run that goes on in the middle.
    compression
        As h5py takes it: `"gzip"` or `"lzf"`, of a file that is made now; None: none.

    Raises
    ------
    PipelineOSError
        If another process writes to the file, or it cannot be written.
    PipelineValueError
        If it is of another start document, whole and of other arrays, or has fewer rows.

    >>> import tempfile
    >>> layout = Layout.of("final", {"x": {"shape": [2], "dtype_numpy": "<f8"}})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = ArrayFile(Path(folder, "a.h5"), layout, "digest")
    ...     file.put("x", 0, [numpy.array([1.0, 2.0])])
    ...     file.close(is_whole=True)
    ...     open_for_reading(file.path)["final/x"][:].tolist()
    [[1.0, 2.0]]
    """

    def __init__(
        self, path: Path, layout: Layout, digest: str, n_rows: int = 0, compression: str | None = None
    ) -> None:
        self.path = path
        self.is_whole = False
        self._layout, self._digest, self._compression = layout, digest, compression
        self._n_there = dict.fromkeys(layout.rows, 0)  # rows that the file has
        self._n_given = dict.fromkeys(layout.rows, n_rows)
        self._file: Any = None
        self._datasets: dict[str, Any] = {}
        self._is_writing = self._is_dirty = self._has_told = self._is_over = False
        self._guard = threading.Lock()  # of the descriptor, which is synced by a thread of the ledger
        self._fd = -1
        self._lock = FileLock(path)
        try:
            if path.exists():
                self._adopt(n_rows)
            self._check_rows(n_rows)
        except BaseException:
            self.let_go()
            raise

    # what is there

    def _adopt(self, n_rows: int) -> None:
        """Take over the file that is there."""
        try:
            close_abandoned(self.path)
            self._use(open_for_reading(self.path))
            digest, is_whole = str(self._file.attrs["start_sha256"]), bool(self._file[WHOLE][()])
            n_there = {key: n_whole_rows(each) for key, each in self._datasets.items()}
        except FAULTS as error:
            self._close_file()
            is_forbidden = isinstance(error, OSError) and error.errno in _FORBIDDEN
            if is_forbidden or is_open_here(self.path):
                raise self._cannot_write(error) from None
            self._set_aside(error, n_rows)
        else:
            self._refuse_other(digest, is_whole)
            self.is_whole = is_whole
            self._n_there |= n_there

    def _use(self, file: Any) -> None:
        self._file = file
        self._datasets = dict(file[self._layout.group].items()) if self._layout.is_of(file) else {}

    def _refuse_other(self, digest: str, is_whole: bool) -> None:
        if digest != self._digest:
            raise PipelineValueError(
                f"{self.path}: the file has arrays of a run with the same uid and another start document "
                f"(sha256 {digest[:12]}; wanted {self._digest[:12]}); it is left as it is."
            )
        if self._datasets:
            return
        if is_whole:
            raise PipelineValueError(
                f"{self.path}: the file is whole and has other arrays; wanted {self._layout.rows}. It is left as it is."
            )
        logger.warning("%s: the run was not over, and its arrays are others now; it is made anew.", self.path)
        self._close_file()
        self.path.unlink()

    def _set_aside(self, error: Exception, n_rows: int) -> None:
        """Keep a file that cannot be read, under another name."""
        if n_rows:
            raise PipelineValueError(f"{self.path}: wanted {n_rows} rows, it cannot be read: {_words(error)}") from None
        logger.error("%s: cannot be read (%s); it is kept as .damaged, and made anew.", self.path, _words(error))
        os.replace(self.path, f"{self.path}.damaged")

    def _check_rows(self, n_rows: int) -> None:
        for key, n in self._n_there.items():
            if n < n_rows:
                raise PipelineValueError(f"{self.path}: wanted {n_rows} rows of {key!r}, there are {n}.")

    # rows

    def put(self, key: str, first: int, rows: Sequence[Any]) -> None:
        """Add rows, of which the first is number `first`, or see that they are there.

        Raises
        ------
        PipelineOSError
            If they cannot be written, the disk being full for instance.
        PipelineValueError
            If the file is whole, and has others.
        """
        if self._is_over:
            raise PipelineOSError(f"{self.path} is closed; wanted it open for rows.")
        shape, dtype = self._layout.rows[key]
        try:
            for i, row in enumerate(rows, first):
                array = numpy.ascontiguousarray(row, dtype).reshape(shape)
                if i >= self._n_there[key] or not self._is_there(key, i, array):
                    self._write(key, i, array)
            if self._is_writing:
                self._datasets[key].flush()
        except PipelineError:
            raise
        except FAULTS as error:
            raise self._cannot_write(error) from error
        self._n_given[key] = first + len(rows)

    def _is_there(self, key: str, i: int, array: numpy.ndarray) -> bool:
        if is_same(self._datasets[key][i], array):
            return True
        if self.is_whole:
            raise PipelineValueError(
                f"{self.path}, {key!r}, row {i}: the file is whole and has other values than came; it is left as it is."
            )
        if not self._has_told:
            self._has_told = True
            logger.warning("%s, %r, row %d: has other values than came, and is written again.", self.path, key, i)
        return False

    def _write(self, key: str, i: int, array: numpy.ndarray) -> None:
        self._begin_writing()
        self._is_dirty = True
        add_row(self._datasets[key], i, array)
        self._n_there[key] = max(i + 1, self._n_there[key])

    # the file

    def _begin_writing(self) -> None:
        if self._is_writing:
            return
        self._close_file()
        if self.path.exists():
            self._use(open_for_writing(self.path))
        else:
            self._use(make_file(self.path, self._layout, self._digest, self._compression))
        self._is_writing = True
        with self._guard:
            self._fd = os.open(self.path, os.O_RDONLY)

    def sync(self) -> None:
        """Make what was written survive the loss of power."""
        with self._guard:
            if self._is_dirty and self._fd >= 0:
                self._is_dirty = False
                os.fsync(self._fd)
                _sync_directory(self.path.parent)

    def close(self, *, is_whole: bool) -> None:
        """Close the file; if it is whole, nothing in it is changed any more.

        Raises
        ------
        PipelineOSError
            If it cannot be written.
        """
        try:
            if is_whole and not self.is_whole and any(self._n_given.values()):
                self._make_whole()
            else:
                self._close_file()
        except FAULTS as error:
            raise self._cannot_write(error) from error
        finally:
            self.let_go()

    def _make_whole(self) -> None:
        self._begin_writing()
        self.sync()  # or it might say so, after a loss of power, and have less
        self._file[WHOLE][()] = 1
        self._is_dirty = True
        self._close_file()
        if any(n > self._n_given[key] for key, n in self._n_there.items()):  # of a run that was not over
            shorten(self.path, self._layout.group, self._n_given)
        self.sync()
        self.is_whole = True

    def _close_file(self) -> None:
        file, self._file, self._datasets, self._is_writing = self._file, None, {}, False
        if file is not None:
            file.close()

    def let_go(self) -> None:
        """Leave the file as it is, for another to go on with."""
        self._is_over = True
        with suppress(*FAULTS):  # of a full disk; it is told where something is lost by it
            self._close_file()
        with self._guard:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)
        self._lock.release()

    def _cannot_write(self, error: Exception) -> PipelineOSError:
        return PipelineOSError(
            f"{self.path}: cannot write ({_words(error)}); there are {max(self._n_given.values())} rows. "
            "Give the run again when there is room."
        )


def is_same(one: numpy.ndarray, other: numpy.ndarray) -> bool:
    """Tell whether two arrays of one dtype are the same; NaN is NaN.

    >>> nan = float("nan")
    >>> is_same(numpy.array([1.0, nan]), numpy.array([1.0, -nan])), is_same(numpy.array([1.0]), numpy.array([2.0]))
    (True, False)
    """
    size = one.dtype.itemsize
    if size in (1, 2, 4, 8) and bool((one.view(f"u{size}") == other.view(f"u{size}")).all()):
        return True
    return one.dtype.kind == "f" and numpy.array_equal(one, other, equal_nan=True)


def _words(error: Exception) -> str:
    """Return what there is to say of an error of h5py, which says a lot."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""Where the large arrays of runs are: in HDF5 files beside the ledger's."""

import math
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote, unquote

import numpy

from pipeline.array_file import ArrayFile
from pipeline.documents import Document, file_stem
from pipeline.hdf5_rows import Layout


class ArrayFiles:
    """Keep arrays above a size in HDF5 files of their own: `<run>.<stream>.h5`, one for each stream.

    A stream that is described anew has another file: `<run>.<stream>.1.h5`.

    Documents tell of a file by its place here, `file://localhost/...`. Where the folder has been moved to, a reader is
    told by a root map (`Assets(root_map=...)`); to be written to again, it belongs where it was.

    Parameters
    ----------
    directory
        Of the ledger.
    above
        How many bytes an array has at most that stands in events. It is part of what the documents say: of the same
        run, with another size, come other documents.
    compression
        `"gzip"` or `"lzf"`; None: none.
    tell
        Called with what the disk refuses.

    >>> files = ArrayFiles("/data/ledger", above=1000)
    >>> image = {"dtype": "array", "dtype_numpy": "<f8", "shape": [100, 100]}
    >>> files.is_external("7f3c", "final", "det_mean", image), files.uri("7f3c", "final", 0)
    (True, 'file://localhost/data/ledger/7f3c.final.h5')
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        above: int,
        compression: str | None = None,
        tell: Callable[[OSError], None] = lambda error: None,
    ) -> None:
        self.directory = Path(directory).resolve()
        self.tell = tell
        self._above, self._compression = above, compression
        self._open: weakref.WeakSet[ArrayFile] = weakref.WeakSet()
        self._lock = threading.Lock()

    def is_external(self, run: str, stream: str, key: str, data_key: Document) -> bool:
        """Tell whether an array stands in a file: as its data key alone says."""
        return n_bytes(data_key) > self._above

    def path(self, run: str, stream: str, number: int) -> Path:
        """Return the file of a stream's arrays, by how often it was described before."""
        return self.directory / ".".join([file_stem(run), file_stem(stream), *([str(number)] if number else []), "h5"])

    def uri(self, run: str, stream: str, number: int) -> str:
        """Return the file as documents tell of it."""
        return f"file://localhost{''.join(map(_escaped, str(self.path(run, stream, number))))}"

    def open(
        self, run: str, digest: str, stream: str, number: int, data_keys: Mapping[str, Document], n_rows: int
    ) -> ArrayFile:
        """Return the file of a stream's arrays, which is to be closed; see `ArrayFile`."""
        layout = Layout.of(file_stem(stream), data_keys)
        file = ArrayFile(self.path(run, stream, number), layout, digest, n_rows, self._compression)
        with self._lock:
            self._open.add(file)
        return file

    def sync(self) -> None:
        """Make what was written survive the loss of power."""
        with self._lock:
            files = list(self._open)
        for file in files:
            file.sync()

    def close(self) -> None:
        """Sync, and leave all files as they are."""
        with self._lock:
            files = list(self._open)
        for file in files:
            file.sync()
            file.let_go()


def path_of(uri: str) -> Path:
    """Return the path of a file that documents tell of.

    >>> path_of("file://localhost/data/a b%231.h5")
    PosixPath('/data/a b#1.h5')
    """
    return Path(unquote(uri.removeprefix("file://localhost")))


def _escaped(letter: str) -> str:
    """Return a letter of a path as it stands in a URI: most as they are, since Tiled reads no escapes."""
    return quote(letter) if letter in "%?#" else letter


def n_bytes(data_key: Document) -> int:
    """Return how many bytes the array of one event has; 0 if it is none that HDF5 holds as it is.

    Text is none, nor are arrays of changing shape, nor those that are in files already.

    >>> n_bytes({"dtype": "array", "dtype_numpy": "<u2", "shape": [1000, 500]})
    1000000
    >>> n_bytes({"dtype": "array", "dtype_numpy": "<u2", "shape": [None]}), n_bytes({"dtype": "number", "shape": []})
    (0, 0)
    """
    shape, dtype = data_key.get("shape") or (), data_key.get("dtype_numpy")
    is_array = data_key["dtype"] == "array" and isinstance(dtype, str) and numpy.dtype(dtype).kind in "biuf"
    if not is_array or data_key.get("external") or None in shape or math.prod(shape) <= 1:
        return 0
    return math.prod(shape) * numpy.dtype(dtype).itemsize

"""One classic asset: what its handler gives for a datum, each read once."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy

from pipeline.errors import AssetError, PipelineError
from pipeline.readers.hdf5_parts import check_file
from pipeline.readers.patience import awaited
from pipeline.readers.roots import Roots

Array = numpy.ndarray


class DatumAsset:
    """Read what the datums of one `resource` tell of, by its handler; the last values are kept.

    Parameters
    ----------
    name
        What errors call it.
    open_handler
        Makes its handler.
    n_kept
        How many values are kept.
    roots
        Where files may be read: what a handler says that it reads is held against it.
    """

    def __init__(self, name: str, open_handler: Callable[[], Any], n_kept: int, roots: Roots) -> None:
        self.name = name
        self._open_handler, self._n_kept, self._roots = open_handler, n_kept, roots
        self._handler: Any = None
        self._kept: OrderedDict[str, Array] = OrderedDict()
        self._checked: set[str] = set()  # files without links to where none may be read
        self._has_failed = False

    def value(self, arguments: Mapping[str, Any], n_frames: int, timeout: float) -> Array:
        """Return what a datum tells of, which cannot be written to; wait for it, if it is not there yet.

        Parameters
        ----------
        arguments
            Of the datum.
        n_frames
            How many frames it is to have, along its first axis of three; 0 if that is not told.
        timeout
            How many seconds to wait.

        Raises
        ------
        AssetError
            If it cannot be read.
        """
        key = repr(sorted(arguments.items()))
        if key not in self._kept:
            self._kept[key] = self._read(arguments, n_frames, timeout)
            while len(self._kept) > self._n_kept:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _read(self, arguments: Mapping[str, Any], n_frames: int, timeout: float) -> Array:
        seconds = 0.0 if self._has_failed else timeout
        try:
            value, fault = awaited(lambda: self._look(arguments, n_frames), seconds)
        except PipelineError as error:
            raise AssetError(f"{self.name}, {dict(arguments)}: {error}") from None
        self._has_failed = value is None
        if value is None:
            raise AssetError(f"{self.name}, {dict(arguments)}: wanted what was announced, there is none: {fault}")
        return value

    def _look(self, arguments: Mapping[str, Any], n_frames: int) -> Array:
        try:
            self._handler = self._handler or self._open_handler()
            self._check(arguments)
            return _whole(self._handler(**arguments), n_frames)
        except BaseException:
            self.close()
            raise

    def _check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse what a handler of others would read where none may be read, by itself or by links in its files."""
        files = getattr(self._handler, "get_file_list", None)
        for path in map(str, files([arguments]) if files is not None else ()):
            self._roots.checked(path)
            if self._roots.are_limited and path not in self._checked:
                check_file(path, self._roots)
                self._checked.add(path)

    def forget(self) -> None:
        """Keep no values."""
        self._kept.clear()

    def close(self) -> None:
        """Close the files."""
        handler, self._handler = self._handler, None
        if hasattr(handler, "close"):
            handler.close()


def _whole(given: Any, n_frames: int) -> Array:
    """Return what a handler gave as an array that cannot be written to, by the handler neither."""
    value = numpy.array(given, copy=None)
    there = len(value) if value.ndim == 3 else 1
    if value.dtype.kind not in "biufc" or (value.ndim <= 3 and there < n_frames):
        raise OSError(f"wanted {n_frames or 'any'} frames, there is {value.dtype} of shape {list(value.shape)}")
    is_its_own = value is given and value.flags.writeable
    value = value.astype(value.dtype.newbyteorder("="), copy=is_its_own or not value.flags.owndata)
    value.setflags(write=False)
    return value

"""Where files may be read, and where those that have moved are now."""

import os
import stat
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit

from pipeline.errors import PipelineOSError, PipelineValueError


class Roots:
    """Find the files that documents name: moved ones where they are now, and none outside the allowed folders.

    Parameters
    ----------
    moved
        Folders as documents name them, and where each is here: `{"/data": "/mnt/beamline"}`. The longest that fits
        counts.
    allowed
        The folders that may be read from, links followed; None: all.

    >>> roots = Roots({"/data": "/mnt/beamline"}, ["/mnt"])
    >>> roots.path("file://localhost/data/a%20b.h5")
    '/mnt/beamline/a b.h5'
    """

    def __init__(self, moved: Mapping[str, str] | None = None, allowed: Sequence[str] | None = None) -> None:
        pairs = [(os.path.normpath(_plain(there)), _plain(here)) for there, here in (moved or {}).items()]
        self._moved = sorted(pairs, key=lambda pair: -len(pair[0]))
        self._allowed = None if allowed is None else [os.path.realpath(folder) for folder in allowed]

    @property
    def are_limited(self) -> bool:
        """Whether there are folders that may not be read from."""
        return self._allowed is not None

    def path(self, uri: str) -> str:
        """Return where the file is that a URI or a path names; one of a folder ends in `/` still.

        Raises
        ------
        PipelineValueError
            If it is no file of this or any machine.
        PipelineOSError
            If it is outside the allowed folders, or neither a file nor a folder.
        """
        if "://" not in uri and not uri.startswith("file:"):
            return self.here(uri)
        try:
            parts = urlsplit(uri)
        except ValueError as error:
            raise PipelineValueError(f"{uri}: wanted a file, file://localhost/...; {error}.") from None
        if parts.scheme != "file":
            raise PipelineValueError(f"{uri}: wanted a file, file://localhost/...; there is {parts.scheme}.")
        return self.here(unquote(parts.path))

    def here(self, path: str) -> str:
        """Return where the file is now that a path names; errors are those of `path`."""
        path = _plain(path)
        for there, here in self._moved:
            if path == there or path.startswith(f"{there.rstrip('/')}/"):
                tail = path.removeprefix(there)
                return self.checked(_plain(f"{here}/{tail}") if tail else here)
        return self.checked(path)

    def checked(self, path: str) -> str:
        """Return the path, if it may be read.

        Raises
        ------
        PipelineValueError
            If no file can have that name.
        PipelineOSError
            If it is outside the allowed folders, or neither a file nor a folder: to open a pipe would wait for ever.
        """
        _check_name(path)
        self._check_place(path)
        if _is_special(path):
            raise PipelineOSError(f"{path}: wanted a file, there is a pipe, a socket or a device.")
        return path

    def _check_place(self, path: str) -> None:
        if self._allowed is None:
            return
        real = os.path.realpath(path)
        if not any(os.path.commonpath((real, folder)) == folder for folder in self._allowed):
            told = (
                f"in one of the folders {self._allowed}"
                if self._allowed
                else "in a folder that `roots` names; it names none"
            )
            raise PipelineOSError(f"{path}: wanted a file {told}.")


def _plain(path: str) -> str:
    """Return a path without `..`, `.` and doubled slashes; that of a folder may end in one."""
    _check_name(path)
    plain = os.path.normpath(path)
    plain = plain[1:] if plain.startswith("//") else plain
    return f"{plain}/" if path.endswith("/") and plain != "/" else plain


def _check_name(path: str) -> None:
    try:
        is_possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        is_possible = False
    if not is_possible:
        raise PipelineValueError(f"{path!r}: wanted the name of a file; none can have this one.")


def _is_special(path: str) -> bool:
    """Tell whether there is something by this name, but neither a file nor a folder."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))

"""Where files may be read, and where those that have moved are now."""

import os
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
        pairs = [(_plain(there), _plain(here)) for there, here in (moved or {}).items()]
        self._moved = sorted(pairs, key=lambda pair: -len(pair[0]))
        self._allowed = None if allowed is None else [os.path.realpath(folder) for folder in allowed]

    @property
    def are_limited(self) -> bool:
        """Whether there are folders that may not be read from."""
        return self._allowed is not None

    def path(self, uri: str) -> str:
        """Return where the file is that a URI or a path names.

        Raises
        ------
        PipelineValueError
            If it is no file of this or any machine.
        PipelineOSError
            If it is outside the allowed folders.
        """
        if "://" not in uri and not uri.startswith("file:"):
            return self.checked(self._here(uri))
        parts = urlsplit(uri)
        if parts.scheme != "file":
            raise PipelineValueError(f"{uri}: wanted a file, file://localhost/...; there is {parts.scheme}.")
        return self.checked(self._here(unquote(parts.path)))

    def _here(self, path: str) -> str:
        path = _plain(path)
        for there, here in self._moved:
            if path == there or path.startswith(f"{there.rstrip('/')}/"):
                return os.path.normpath(f"{here}/{path[len(there) :]}")
        return path

    def checked(self, path: str) -> str:
        """Return the path, if it may be read.

        Raises
        ------
        PipelineOSError
            If it is outside the allowed folders.
        """
        if self._allowed is None:
            return path
        real = os.path.realpath(path)
        if not any(os.path.commonpath((real, folder)) == folder for folder in self._allowed):
            told = (
                f"in one of the folders {self._allowed}"
                if self._allowed
                else "in a folder that `roots` names; it names none"
            )
            raise PipelineOSError(f"{path}: wanted a file {told}.")
        return path


def _plain(path: str) -> str:
    """Return a path without `..`, `.` and doubled slashes."""
    plain = os.path.normpath(path)
    return plain[1:] if plain.startswith("//") else plain

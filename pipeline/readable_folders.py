"""The folders whose files a catalog's server may read."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class ReadableFolders(dict[str, Any]):
    """Tiled's storage that may be read, and the folders that a file names, a line each, as it stands when it is asked.

    A ledger's folder is known when its first run with large arrays comes, and the server runs already.

    Parameters
    ----------
    storage
        Tiled's own, by URI.
    path
        Of the file; it need not be there.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     storage = ReadableFolders({}, Path(file.name))
    ...     before = list(storage.values())
    ...     _ = file.write(b"/data/ledger\\n"); file.flush()
    ...     before, [each.path for each in storage.values()]
    ([], [PosixPath('/data/ledger')])
    """

    def __init__(self, storage: Mapping[str, Any], path: Path) -> None:
        super().__init__(storage)
        self._path = path
        self._stamp = (0, 0)  # of the file, when it was read
        self._folders: list[Any] = []

    def values(self) -> Any:
        """Return all storage."""
        return [*super().values(), *self._named()]

    def _named(self) -> list[Any]:
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return []
        stamp = status.st_mtime_ns, status.st_size
        if stamp != self._stamp:
            self._folders = [_storage(line) for line in self._path.read_bytes().splitlines() if line]
            self._stamp = stamp
        return self._folders


def _storage(line: bytes) -> Any:
    from tiled.storage import FileStorage

    return FileStorage(uri=f"file://localhost{os.fsdecode(line)}")

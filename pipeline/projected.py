"""What is known to be in a catalog already: remembered to save time, and worth nothing else."""

import contextlib
import sqlite3
import time
from itertools import takewhile
from pathlib import Path

from pipeline.ledger_tail import Stamp

SETTLE_SECONDS = 60.0  # a server that loses power may lose what it has just confirmed

_TABLES = """
CREATE TABLE IF NOT EXISTS level (name TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS abandoned (uid TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class Projected:
    """Remember which ledger files the catalog is level with, in a file that may be lost at any time.

    Parameters
    ----------
    path
        Of the SQLite file; None: in memory. One that is damaged is made anew.

    >>> projected = Projected(None)
    >>> projected.remember("a.jsonl", Stamp(10, 1))
    >>> projected.is_level("a.jsonl", Stamp(10, 1)), projected.is_level("a.jsonl", Stamp(20, 2))
    (True, False)
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fresh: dict[str, tuple[float, Stamp]] = {}  # by name, not written yet, the oldest first
        try:
            self._database = self._open()
        except sqlite3.DatabaseError:
            self._remove()
            self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(":memory:" if self._path is None else self._path, check_same_thread=False)
        try:
            database.execute("PRAGMA synchronous = OFF")
            database.executescript(_TABLES)
        except sqlite3.DatabaseError:
            database.close()
            raise
        return database

    def _remove(self) -> None:
        if self._path is not None:
            for suffix in ("", "-journal", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def is_level(self, name: str, stamp: Stamp) -> bool:
        """Say whether the catalog is level with this file."""
        if name in self._fresh:
            return self._fresh[name][1] == stamp
        rows = self._ask("SELECT size, mtime_ns FROM level WHERE name = ?", name)
        return bool(rows) and Stamp(*rows[0]) == stamp

    def remember(self, name: str, stamp: Stamp) -> None:
        """Note that the catalog is level with this file; it is written down a minute later."""
        self._fresh.pop(name, None)
        self._fresh[name] = time.monotonic(), stamp
        self.save(SETTLE_SECONDS)

    def count(self) -> int:
        """Return of how many files it is written down that the catalog is level with them."""
        rows = self._ask("SELECT count(*) FROM level")
        return rows[0][0] if rows else 0

    def doubt(self) -> list[str]:
        """Forget the files of the last minute, and return their names."""
        names = list(self._fresh)
        self._fresh.clear()
        return names

    def clear(self) -> None:
        """Forget all files."""
        self._fresh.clear()
        self._ask("DELETE FROM level")
        self._commit()

    def note_abandoned(self, uid: str) -> None:
        """Note that a run was given up: what comes if it goes on may differ from what the catalog has of it."""
        self._ask("INSERT OR IGNORE INTO abandoned VALUES (?)", uid)
        self._commit()

    def was_abandoned(self, uid: str) -> bool:
        """Say whether a run was given up once, and is not whole yet."""
        return bool(self._ask("SELECT uid FROM abandoned WHERE uid = ?", uid))

    def forget_abandoned(self, uid: str) -> None:
        """Note that a run that was given up is whole."""
        if self.was_abandoned(uid):
            self._ask("DELETE FROM abandoned WHERE uid = ?", uid)
            self._commit()

    def save(self, older_than: float = 0.0) -> None:
        """Write down what was remembered so many seconds ago."""
        now = time.monotonic()
        settled = list(takewhile(lambda item: now - item[1][0] >= older_than, self._fresh.items()))
        for name, (_, stamp) in settled:
            self._ask("INSERT OR REPLACE INTO level VALUES (?, ?, ?)", name, *stamp)
            del self._fresh[name]
        if settled:
            self._commit()

    def close(self) -> None:
        """Write everything down, and let the file go."""
        self.save()
        self._database.close()

    def _ask(self, statement: str, *values: object) -> list[tuple[int, ...]]:
        with contextlib.suppress(sqlite3.Error):  # a full disk, a damaged file: it only costs time
            return self._database.execute(statement, values).fetchall()
        return []

    def _commit(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._database.commit()

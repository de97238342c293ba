"""What a service needs to go on after a restart: in one SQLite file, each change whole or not at all."""

import json
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import PipelineOSError, PipelineRuntimeError, PipelineValueError

VERSION = 1
KEPT_OVER = 100_000  # runs that are over, and are known when they come again
KEPT_POISON = 1000
KEPT_SEEN = 86400.0  # seconds for which it is known when a process was seen last

_LISTED = "uid, lane, before, parked, since, updated, n_documents"
_PARKED = "WHERE parked != ''"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS lanes (lane TEXT PRIMARY KEY, owner TEXT, position TEXT);
CREATE TABLE IF NOT EXISTS owners (owner TEXT PRIMARY KEY, seen REAL);
CREATE TABLE IF NOT EXISTS runs (
    uid TEXT PRIMARY KEY, lane TEXT, before TEXT, parked TEXT, since REAL, updated REAL, n_documents INTEGER,
    snapshot BLOB
);
CREATE TABLE IF NOT EXISTS owned (uid TEXT PRIMARY KEY, run TEXT);
CREATE INDEX IF NOT EXISTS owned_by ON owned (run);
CREATE TABLE IF NOT EXISTS over (number INTEGER PRIMARY KEY, uid TEXT UNIQUE, ended REAL, failed TEXT);
CREATE TABLE IF NOT EXISTS poison (number INTEGER PRIMARY KEY, time REAL, place TEXT, reason TEXT);
CREATE TABLE IF NOT EXISTS requests (number INTEGER PRIMARY KEY, verb TEXT, run TEXT, time REAL);
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value BLOB);
"""


class StoredRun(NamedTuple):
    """An open raw run as it is stored.

    Attributes
    ----------
    before
        The position behind which its start document stands; None if it was the first of its lane.
    parked
        Why it cannot end; empty if nothing is in its way.
    since, updated
        When it began, and when it was stored last, in seconds since 1970.
    snapshot
        What it goes on from; None if it is to be read again from its start.
    owned
        The uids of its descriptors and resources.
    """

    uid: str
    lane: str
    before: Any
    parked: str
    since: float
    updated: float
    n_documents: int
    snapshot: bytes | None = None
    owned: Sequence[str] = ()


class Ended(NamedTuple):
    """A raw run that is over: why an analysis of it failed, if so, the uids of its descriptors, and where it began."""

    failed: str
    owned: Sequence[str] = ()
    lane: str = ""
    before: Any = None


class LaneLost(PipelineRuntimeError):
    """Another process has taken over lanes of the source: what is of them here counts no more."""

    def __init__(self, lanes: Sequence[str]) -> None:
        super().__init__(f"The lanes {list(lanes)} are another process's by now; wanted them alone.")
        self.lanes = list(lanes)


class StateStore:
    """Open runs, positions and requests of a service, in one file that other processes may look into.

    A change is durable when the call returns. Each lane of the source has one owner, the process that claimed it last:
    what another writes for it is refused.

    Parameters
    ----------
    path
        Of the file; it is made, with its directory, if it is not there.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> store = StateStore(Path(folder.name) / "state.db")
    >>> store.claim("journal")
    >>> store.save({"journal": 41}, [StoredRun("a", "journal", None, "", 0.0, 1.0, 7)])
    >>> store.positions(), store.run("a").n_documents
    ({'journal': 41}, 7)
    >>> store.close(); folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.owner = secrets.token_hex(8)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def _open(self) -> None:
        with self._told():
            self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
            self._check_version()
        self._file = _identity(self.path)

    @property
    def is_there(self) -> bool:
        """Whether the file is still the one that was opened, and was not removed meanwhile."""
        return _identity(self.path) == self._file

    def reopen(self) -> None:
        """Open the file that is there now, or make one, if its directory is there."""
        self._db.close()
        self._open()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say of which file an error is."""
        try:
            yield
        except sqlite3.Error as error:
            raise PipelineOSError(f"{self.path}: {error}.") from error

    def _check_version(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            raise PipelineValueError(f"{self.path}: wanted a state of version {VERSION}, there is {version}.")
        self._db.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._told():
            return self._db.execute(statement, values).fetchall()

    # lanes -----------------------------------------------------------------------------------------------------

    def claim(self, lane: str) -> None:
        """Make a lane this process's own."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO lanes VALUES (?, ?, NULL) ON CONFLICT (lane) DO UPDATE SET owner = excluded.owner",
                (lane, self.owner),
            )
            self._note_seen(db)

    def _note_seen(self, db: sqlite3.Connection) -> None:
        now = time.time()
        db.execute("INSERT OR REPLACE INTO owners VALUES (?, ?)", (self.owner, now))
        db.execute("DELETE FROM owners WHERE seen < ?", (now - KEPT_SEEN,))

    def is_tended(self, lane: str, seconds: float) -> bool:
        """Tell whether a lane is another process's that has claimed or stored something within so many seconds."""
        owners = "SELECT 1 FROM lanes JOIN owners USING (owner) WHERE lane = ? AND owner != ? AND seen > ?"
        return bool(self._rows(owners, lane, self.owner, time.time() - seconds))

    def reset(self, lane: str) -> None:
        """Forget the position of a lane."""
        with self._transaction() as db:
            db.execute("UPDATE lanes SET position = NULL WHERE lane = ?", (lane,))

    def positions(self) -> dict[str, Any]:
        """Return the positions up to which everything is taken in, by lane."""
        rows = self._rows("SELECT lane, position FROM lanes WHERE position IS NOT NULL")
        return {lane: _index(text) for lane, text in rows}

    # runs ------------------------------------------------------------------------------------------------------

    def save(
        self,
        positions: Mapping[str, Any],
        runs: Iterable[StoredRun] = (),
        over: Mapping[str, Ended] | None = None,
        poison: Iterable[tuple[str, str]] = (),
        notes: Mapping[str, bytes] | None = None,
    ) -> None:
        """Store all of this, or nothing.

        Parameters
        ----------
        positions
            By lane: up to where everything is taken in, or is in a snapshot.
        runs
            Those that are open and have changed.
        over
            Those that are over, by uid.
        poison
            Place and reason of what could not be read.
        notes
            What else there is to keep, by name.

        Raises
        ------
        LaneLost
            If a lane is another process's.
        PipelineOSError
            If it cannot be written.
        """
        runs, over = list(runs), over or {}
        if not self.is_there:
            raise PipelineOSError(f"{self.path} is gone, or is another file by now.")
        with self._transaction() as db:
            self._check_owned({*positions, *(run.lane for run in runs), *(each.lane for each in over.values())} - {""})
            self._note_seen(db)
            db.executemany(
                "UPDATE lanes SET position = ? WHERE lane = ?",
                [(json.dumps(position), lane) for lane, position in positions.items()],
            )
            for run in runs:
                self._save_run(db, run)
            self._save_over(db, over)
            now = time.time()
            db.executemany(
                "INSERT INTO poison (time, place, reason) VALUES (?, ?, ?)",
                [(now, _plain(place), _plain(reason)) for place, reason in poison],
            )
            db.execute("DELETE FROM poison WHERE number <= (SELECT max(number) FROM poison) - ?", (KEPT_POISON,))
            db.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?)", list((notes or {}).items()))

    def _check_owned(self, lanes: set[str]) -> None:
        owners = dict(self._db.execute("SELECT lane, owner FROM lanes"))
        if lost := sorted(lane for lane in lanes if owners.get(lane) != self.owner):
            raise LaneLost(lost)

    def _save_run(self, db: sqlite3.Connection, run: StoredRun) -> None:
        before = None if run.before is None else json.dumps(run.before)
        row = (run.uid, run.lane, before, _plain(run.parked), run.since, run.updated, run.n_documents, run.snapshot)
        db.execute(f"INSERT OR REPLACE INTO runs VALUES ({', '.join('?' * len(row))})", row)
        db.execute("DELETE FROM owned WHERE run = ?", (run.uid,))
        db.executemany("INSERT OR REPLACE INTO owned VALUES (?, ?)", [(uid, run.uid) for uid in run.owned])

    def _save_over(self, db: sqlite3.Connection, over: Mapping[str, Ended]) -> None:
        now = time.time()
        for uid, ended in over.items():
            db.execute("DELETE FROM runs WHERE uid = ?", (uid,))
            row = (uid, now, _plain(ended.failed))
            db.execute("INSERT OR REPLACE INTO over (uid, ended, failed) VALUES (?, ?, ?)", row)
            db.executemany("INSERT OR REPLACE INTO owned VALUES (?, ?)", [(owned, uid) for owned in ended.owned])
        if over:
            oldest = "SELECT uid FROM over WHERE number <= (SELECT max(number) FROM over) - ?"
            db.execute(f"DELETE FROM owned WHERE run IN ({oldest})", (KEPT_OVER,))
            db.execute(f"DELETE FROM over WHERE uid IN ({oldest})", (KEPT_OVER,))

    def run(self, uid: str) -> StoredRun | None:
        """Return an open run, if it is stored."""
        rows = self._rows("SELECT * FROM runs WHERE uid = ?", uid)
        if not rows:
            return None
        owned = [owned for (owned,) in self._rows("SELECT uid FROM owned WHERE run = ?", uid)]
        return _stored(rows[0])._replace(snapshot=rows[0][-1], owned=owned)

    def run_of(self, uid: str) -> str:
        """Return the uid of the open run that this is the uid of, or of a descriptor or resource; empty if none."""
        owner = "SELECT run FROM owned WHERE uid = ?"
        rows = self._rows(f"SELECT uid FROM runs WHERE uid = ? OR uid = ({owner})", uid, uid)
        return rows[0][0] if rows else ""

    def runs(self) -> list[StoredRun]:
        """Return the open runs, without their snapshots, in the order in which they began."""
        return [_stored(row) for row in self._rows(f"SELECT {_LISTED} FROM runs ORDER BY since, uid")]

    def count(self) -> tuple[int, int, int]:
        """Return how many runs are open, how many of these are parked, and of how many an analysis failed."""
        (n_open,), (n_parked,) = (self._rows(f"SELECT count(*) FROM runs {which}")[0] for which in ("", _PARKED))
        ((n_failed,),) = self._rows("SELECT count(*) FROM over WHERE failed != ''")
        return n_open, n_parked, n_failed

    def parked(self, limit: int = 100) -> list[StoredRun]:
        """Return runs that are parked, without their snapshots, the first to begin first."""
        return [
            _stored(row) for row in self._rows(f"SELECT {_LISTED} FROM runs {_PARKED} ORDER BY since LIMIT ?", limit)
        ]

    def silent(self, before: float, parked: bool) -> list[str]:
        """Return the uids of runs that are parked, or not, and of which nothing was stored since this time."""
        which = "!=" if parked else "="
        rows = self._rows(f"SELECT uid FROM runs WHERE parked {which} '' AND updated < ? LIMIT 100", before)
        return [uid for (uid,) in rows]

    def is_over(self, uid: str) -> bool:
        """Tell whether this is the uid of a run that was taken in to its end, or of a descriptor or resource of one."""
        return bool(
            self._rows("SELECT 1 FROM over WHERE uid = ? OR uid = (SELECT run FROM owned WHERE uid = ?)", uid, uid)
        )

    def failed(self, limit: int = 100) -> list[tuple[str, float, str]]:
        """Return runs whose analysis failed, the last first: uid, when it ended, and the reason."""
        rows = self._rows("SELECT uid, ended, failed FROM over WHERE failed != '' ORDER BY number DESC LIMIT ?", limit)
        return [(uid, ended, reason) for uid, ended, reason in rows]

    def poison(self, limit: int = 100) -> list[tuple[float, str, str]]:
        """Return what could not be read, the last first: when it came, where it stood, and the reason."""
        rows = self._rows("SELECT time, place, reason FROM poison ORDER BY number DESC LIMIT ?", limit)
        return [(when, place, reason) for when, place, reason in rows]

    def note(self, name: str) -> bytes | None:
        """Return what was kept under this name."""
        rows = self._rows("SELECT value FROM notes WHERE name = ?", name)
        return rows[0][0] if rows else None

    # requests --------------------------------------------------------------------------------------------------

    def ask(self, verb: str, run: str) -> None:
        """Leave a request to the service, which looks for them."""
        with self._transaction() as db:
            db.execute("INSERT INTO requests (verb, run, time) VALUES (?, ?, ?)", (verb, run, time.time()))

    def requests(self) -> list[tuple[int, str, str]]:
        """Return the requests that are not done yet: number, verb and run."""
        rows = self._rows("SELECT number, verb, run FROM requests ORDER BY number")
        return [(number, verb, run) for number, verb, run in rows]

    def done(self, number: int) -> None:
        """Take note that a request is done."""
        with self._transaction() as db:
            db.execute("DELETE FROM requests WHERE number = ?", (number,))

    def close(self) -> None:
        """Close the file; what this process has claimed, another may have at once."""
        with suppress(sqlite3.Error):
            self._db.execute("DELETE FROM owners WHERE owner = ?", (self.owner,))
        self._db.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _stored(row: tuple[Any, ...]) -> StoredRun:
    uid, lane, before, parked, since, updated, n_documents = row[:7]
    return StoredRun(uid, lane, _index(before), parked, since, updated, n_documents)


def _plain(text: str) -> str:
    """Return a text as a database takes it: half of a surrogate pair, which JSON may hold, is told as its number."""
    return text.encode("utf-8", "backslashreplace").decode()


def _index(text: str | None) -> Any:
    """Return an index from JSON, which has tuples as lists."""
    value = None if text is None else json.loads(text)
    return tuple(value) if isinstance(value, list) else value

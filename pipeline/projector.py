"""The projector: brings a catalog level with the ledger, and keeps it so."""

import fcntl
import hashlib
import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.catalog import default_path, let_read, try_lock
from pipeline.catalogs import runs_of
from pipeline.errors import (
    PipelineError,
    PipelineKeyError,
    PipelineOSError,
    PipelineTimeoutError,
    PipelineTypeError,
    PipelineValueError,
)
from pipeline.ledger_tail import LOOK_SECONDS, LedgerFile, LedgerTail
from pipeline.projected import Projected
from pipeline.projection import Ahead, Runs, Writer, documents_in, documents_of, runs_in, uid_in

logger = logging.getLogger(__name__)

STATE = ".state"  # the folder, in the ledger's, of what is worth nothing if it is lost
MAX_LINES = 1000  # of one run that are read before they are written
MAX_IN_HAND = 64  # runs that are open at once; another is compared again when it goes on
MAX_REFUSED = 1000  # remembered: memory does not grow with the number of runs
MAX_DELAY = 15.0  # seconds between two tries
TURN_SECONDS = 0.25  # after which the files that grow have their turn again
AHEAD_SECONDS = 5.0  # between two looks at a run of which the catalog has more than the ledger
PATIENCE = 3  # times that a run may fail, with nothing written in between, before it is refused


class Projector:
    """Write into a catalog what the ledger has and the catalog lacks.

    The ledger's files are read as they grow, and only as far as they can be written: so an outage costs nothing but
    delay. Nothing that the catalog has is written again, nothing else than the ledger says is taken for it, and a
    run's stop document is written last: so the projector may be killed at any time, as may the catalog's server.

    A run of which the catalog has a part is compared with it first, row by row, and then completed. One that is
    another in the catalog is refused, told, and left as it is. One that was given up and went on is brought level.

    Parameters
    ----------
    ledger
        The folder of `<uid>.jsonl` files. Beside them, in `.state`, it is noted what is level already.
    target
        The catalog: a path (the embedded catalog there), a URI (with the key from `TILED_API_KEY`), the name of a
        profile, a client of Tiled, or a databroker catalog; see `runs_of`. None: the embedded catalog of
        `open_catalog()`.
    container
        Which one, of a catalog that has several.
    flush_seconds
        How long an event may wait before it is written.

    >>> import databroker, tempfile
    >>> from pipeline.sinks import JSONLSink
    >>> from pipeline.testing import make_run
    >>> catalog = databroker.temp()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with JSONLSink(folder) as ledger:
    ...         for name, doc in make_run({"det": [1.0]}): ledger(name, doc)
    ...     Projector(folder, catalog).sync()["runs_level"], len(list(catalog.v2))
    (1, 1)
    """

    def __init__(
        self,
        ledger: str | os.PathLike[str],
        target: Any = None,
        *,
        container: str = "analysis",
        flush_seconds: float = 0.2,
    ) -> None:
        if not flush_seconds > 0:
            raise PipelineValueError(f"Projector: flush_seconds is {flush_seconds}; wanted it above zero.")
        self.ledger = Path(ledger)
        self.target = target_name(target, container)
        self._target = target
        self._container = container
        self._flush_seconds = flush_seconds
        self._runs: Runs | None = None
        self._hands: dict[str, _Hand] = {}  # by file name
        self._refused: dict[str, str] = {}  # run uid -> why
        self._outage = ""
        self._next_try = 0.0
        self._delay = 0.0
        self._began_outage = 0.0
        self._tail: LedgerTail | None = None
        self._projected = Projected(None)
        self._parked: set[str] = set()  # names of files that were refused
        self._is_behind = False

    def sync(
        self, *, timeout: float = 60.0, progress: Callable[[int, int], object] = lambda done, of: None
    ) -> dict[str, Any]:
        """Bring the catalog level with what the ledger has now, and return the report.

        Parameters
        ----------
        timeout
            How many seconds a catalog may be away.
        progress
            Called with how many of how many files are done.

        Raises
        ------
        PipelineTimeoutError
            If the catalog cannot be written to for so long. What was written stays, and is not written again.
        PipelineOSError
            If another projector writes to this catalog.
        """
        with self._open() as tail:
            while (has_advanced := self._turn(tail)) or self._is_behind or self._outage or tail.n_waiting:
                progress(tail.n_finished, tail.n_finished + len(tail.files) + tail.n_waiting)
                if self._outage and time.monotonic() - self._began_outage > timeout:
                    raise PipelineTimeoutError(
                        f"{self.target} could not be written to for {timeout:g} s: {self._outage}. "
                        "What is in the ledger stays there; the same call again goes on."
                    )
                if self._outage or not has_advanced:
                    time.sleep(LOOK_SECONDS)
            progress(tail.n_finished, tail.n_finished + len(tail.files))
            return self.report()

    def follow(self, stop: threading.Event) -> None:
        """Keep the catalog level with the ledger until `stop` is set; a catalog that is away is waited for.

        Raises
        ------
        PipelineOSError
            If another projector writes to this catalog, or the ledger is gone.
        """
        with self._open() as tail:
            while not stop.is_set():
                if not self._turn(tail):
                    stop.wait(LOOK_SECONDS)

    def report(self) -> dict[str, Any]:
        """Tell how things stand; may be called from any thread.

        Returns
        -------
        dict
            `behind_lines` and `behind_bytes`: what the ledger has and the catalog lacks (lines that were not read
            are reckoned by their bytes); `runs_level`: how many files are finished; `runs_open`: how many are
            followed; `refused`: why, by run uid; `outage`: why the catalog cannot be written to, or "".
        """
        tail, hands = self._tail, list(self._hands.values())
        files = {} if tail is None else dict(tail.files)
        written = {hand.file.path.name: hand.n_bytes_written for hand in hands}
        n_bytes = sum(max(0, file.stamp.size - written.get(name, 0)) for name, file in files.items())
        n_bytes += 0 if tail is None else tail.n_bytes_waiting
        n_read = sum(hand.n_bytes_written for hand in hands)
        n_lines = sum(hand.n_lines_written for hand in hands)
        return {
            "target": self.target,
            "behind_lines": -(-n_bytes * n_lines // n_read) if n_read else n_bytes // 300,
            "behind_bytes": n_bytes,
            "runs_level": 0 if tail is None else tail.n_finished - len(self._parked),
            "runs_open": len(files) + (0 if tail is None else tail.n_waiting),
            "refused": dict(self._refused),
            "outage": self._outage,
        }

    # opening

    @contextmanager
    def _open(self) -> Iterator[LedgerTail]:
        state = self.ledger / STATE
        if not self.ledger.is_dir():
            raise PipelineOSError(f"{self.ledger}: wanted the folder of a ledger, there is none.")
        state.mkdir(exist_ok=True)
        lock = self._lock(state)
        try:
            path = state / f"projected-{target_hash(self.target)}.db" if self._is_named else None
            self._projected = Projected(path)
            self._let_read()
            self._tail = LedgerTail(self.ledger, self._projected.is_level)
            yield self._tail
        finally:
            self._projected.close()
            self._let_go()
            if lock is not None:
                os.close(lock)

    def _let_read(self) -> None:
        """Let an embedded catalog read the files of large arrays."""
        directory = _embedded_directory(self._target)
        if directory is not None or hasattr(self._target, "context"):
            let_read(directory or self._target, self.ledger)

    @property
    def _is_named(self) -> bool:
        """Whether the target is told by its name, and opened here; else it is a client of the caller's."""
        return self._target is None or isinstance(self._target, str | os.PathLike)

    def _lock(self, state: Path) -> int | None:
        """Hold the lock of a target that is named: it has one projector."""
        if not self._is_named:
            return None
        directory = _embedded_directory(self._target)
        path = state / f"projector-{target_hash(self.target)}.lock"
        if directory is not None:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = directory / "projector.lock"
        lock = try_lock(path, fcntl.LOCK_EX)
        if lock is None:
            raise PipelineOSError(f"{self.target} is being written to by another projector; wanted it alone ({path}).")
        return lock

    # a turn

    def _turn(self, tail: LedgerTail) -> bool:
        """Bring some of what is behind nearer; return whether there was something to do."""
        if time.monotonic() < self._next_try:
            tail.poll()  # so that the report tells how far behind it is
            return False
        try:
            if self._runs is None:
                self._connect(tail)
            return self._advance_some(tail)
        except _ServerFault as fault:
            self._lose(fault)
            return False

    def _connect(self, tail: LedgerTail) -> None:
        try:
            runs = runs_in(runs_of(self._target, self._container))
            n_there = len(runs)
        except (PipelineKeyError, PipelineTypeError, PipelineValueError):
            raise
        except Exception as error:
            raise _ServerFault(error) from error
        if n_there < self._projected.count():
            logger.warning("%s holds fewer runs than it did; all are compared again.", self.target)
            self._projected.clear()
            self._parked.clear()
            tail.forget()
        self._runs = runs
        self._recover(tail)

    def _advance_some(self, tail: LedgerTail) -> bool:
        began = time.monotonic()
        ready = [self._hand(file) for file in tail.poll()]
        due = [hand for hand in ready if hand.is_due(self._flush_seconds)]
        for i, hand in enumerate(due[:-1]):
            if i and time.monotonic() - began > TURN_SECONDS:
                break
            self._advance(hand, tail)
        if due:
            self._advance(due[-1], tail)  # so none waits for ever
        self._trim(tail)
        self._is_behind = any(not hand.is_ahead for hand in ready)
        return bool(due)

    def _hand(self, file: LedgerFile) -> "_Hand":
        hand = self._hands.get(file.path.name)
        if hand is None or hand.file is not file:
            hand = self._hands[file.path.name] = _Hand(file)
            self._parked.discard(file.path.name)
        return hand

    def _trim(self, tail: LedgerTail) -> None:
        """Let go of what is finished, and of runs that have not grown for long if there are too many."""
        for name in [name for name in self._hands if name not in tail.files]:
            del self._hands[name]
        in_hand = [hand for hand in self._hands.values() if hand.writer is not None]
        for hand in sorted(in_hand, key=lambda hand: hand.written)[: max(0, len(in_hand) - MAX_IN_HAND)]:
            hand.writer = None

    def _advance(self, hand: "_Hand", tail: LedgerTail) -> None:
        """Write the next lines of one file."""
        assert self._runs is not None
        try:
            self._advance_run(hand, tail)
        except Ahead as error:
            hand.begin_again(pause=AHEAD_SECONDS)
            hand.is_ahead = True
            self._refuse(hand, error)
        except Exception as error:
            if _is_of_server(error, hand):
                raise _ServerFault(error) from error
            hand.n_faults += 1
            if isinstance(error, PipelineError) or hand.n_faults >= PATIENCE:
                self._refuse(hand, error)
                self._parked.add(hand.file.path.name)
                tail.finish(hand.file)
            else:
                logger.warning("%s, run %s: %s; it is compared again.", self.target, hand.uid, _words(error))
                hand.begin_again(pause=0.2 * hand.n_faults)

    def _advance_run(self, hand: "_Hand", tail: LedgerTail) -> None:
        if hand.writer is None or hand.file.is_cut:
            hand.begin_again()
            if not self._begin(hand):
                return
        if hand.writer is not None:
            self._write(hand, hand.writer)
        if hand.writer is None or hand.writer.is_finished:
            self._finish(hand, tail)

    def _write(self, hand: "_Hand", writer: Writer) -> None:
        """Read some lines, and write them."""
        assert self._runs is not None
        first = hand.file.n_lines + 1
        lines = hand.file.read(MAX_LINES)
        if not lines:
            return
        if _is_abandoned(hand.file.last):
            self._projected.note_abandoned(hand.uid)
        for name, doc in documents_of(lines, hand.file.path, first):
            writer(name, doc)
        writer.write(self._runs.client)
        hand.note_written()
        for loss in writer.losses:
            logger.error("%s, run %s: %s.", self.target, hand.uid, loss)
        writer.losses.clear()

    def _begin(self, hand: "_Hand") -> bool:
        """Find out what the catalog has of the run; return whether there is a run yet."""
        assert self._runs is not None
        uid = uid_in(hand.file.path)
        if not uid:
            hand.file.read(1)  # and not again before it has grown
            return False
        hand.uid = uid
        seen = LedgerFile(hand.file.path)
        may_replace = self._projected.was_abandoned(hand.uid)
        hand.writer = self._runs.begin(hand.uid, lambda: documents_in(seen), may_replace=may_replace)
        if hand.writer is None:
            seen.look()
            hand.file.skip_to(seen)
            hand.note_written()
        hand.is_ahead = False
        return True

    def _finish(self, hand: "_Hand", tail: LedgerTail) -> None:
        """Let go of a run that is whole; one that was given up may go on."""
        hand.writer = None
        self._refused.pop(hand.uid, None)
        hand.file.look()
        if hand.file.is_cut or _is_abandoned(hand.file.last):
            return
        if hand.file.offset < hand.file.stamp.size:
            raise PipelineValueError(f"{hand.file.path}: wanted the stop document last; the file goes on behind it.")
        self._projected.forget_abandoned(hand.uid)
        self._projected.remember(hand.file.path.name, hand.file.stamp)
        tail.finish(hand.file)

    def _refuse(self, hand: "_Hand", error: Exception) -> None:
        uid = hand.uid or hand.file.path.stem
        reason = _words(error)
        if self._refused.get(uid) != reason:
            logger.error("%s, run %s: %s", self.target, uid, reason)
        while len(self._refused) >= MAX_REFUSED:
            self._refused.pop(next(iter(self._refused)), None)
        self._refused[uid] = reason

    # outages

    def _lose(self, fault: "_ServerFault") -> None:
        """Let everything go; what was not answered is looked up in the catalog once it is back."""
        self._let_go()
        words = fault.words
        if not self._outage:
            self._began_outage = time.monotonic()
            logger.error("%s cannot be written to, and is tried again: %s.", self.target, words)
        self._outage = words
        self._delay = min(MAX_DELAY, 2 * self._delay or 0.2)
        self._next_try = time.monotonic() + self._delay * random.uniform(0.5, 1.0)

    def _recover(self, tail: LedgerTail) -> None:
        if self._outage:
            seconds = time.monotonic() - self._began_outage
            logger.warning("%s can be written to again, after %.1f s.", self.target, seconds)
            for name in self._projected.doubt():
                tail.follow(name)
        self._outage, self._next_try = "", 0.0

    def _let_go(self) -> None:
        for hand in self._hands.values():
            hand.begin_again()
        runs, self._runs = self._runs, None
        if runs is not None and self._is_named:
            with suppress(Exception):
                runs.client.context.close()


class _Hand:
    """A file, and the run that is being written from it."""

    def __init__(self, file: LedgerFile) -> None:
        self.file = file
        self.uid = ""
        self.writer: Writer | None = None
        self.is_ahead = False  # the catalog has more of it
        self.n_faults = 0
        self.n_refusals = 0  # answers 500, with nothing written in between
        self.n_bytes_written = self.n_lines_written = 0
        self.written = 0.0
        self._not_before = 0.0

    def is_due(self, flush_seconds: float) -> bool:
        """Say whether it is time to write; what comes after a silence does not wait."""
        now = time.monotonic()
        if now < self._not_before:
            return False
        mean = self.n_bytes_written / self.n_lines_written if self.n_lines_written else 1.0
        return now >= self.written + flush_seconds or self.file.n_bytes_behind >= MAX_LINES * mean

    def note_written(self) -> None:
        """Note that all that was read is in the catalog."""
        self.written = time.monotonic()
        self.n_bytes_written, self.n_lines_written = self.file.offset, self.file.n_lines
        self.n_faults = self.n_refusals = 0

    def begin_again(self, pause: float = 0.0) -> None:
        """Let go of the run; it is read from its start, and compared, when there is something to write."""
        self.writer = None
        self.file.rewind()
        self._not_before = time.monotonic() + pause


def _is_abandoned(line: bytes) -> bool:
    """Say whether this is the stop document of a run that was given up, and may go on."""
    return line.startswith(b'["stop"') and b'"abandoned":true' in line


# faults ------------------------------------------------------------------------------------------------------------


class _ServerFault(Exception):
    """The catalog cannot be reached, or refuses everybody."""

    def __init__(self, error: Exception) -> None:
        self.words = _words(error)


def _is_of_server(error: Exception, hand: _Hand) -> bool:
    """Say whether a fault is the server's; where it says 500 again and again to one run, it is the run's."""
    import httpx

    status = getattr(getattr(error, "response", None), "status_code", 0)
    if status == 500:
        hand.n_refusals += 1
        return hand.n_refusals <= PATIENCE
    return isinstance(error, httpx.TransportError) or status in (401, 403, 408, 429) or status > 500


def _words(error: Exception) -> str:
    """Return what there is to say of an error: no URL, which may hold a key."""
    if isinstance(error, PipelineError):
        return str(error)
    response = getattr(error, "response", None)
    if response is not None:
        return f"{type(error).__name__}: HTTP {response.status_code}"
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text and "://" not in text else type(error).__name__


# targets -----------------------------------------------------------------------------------------------------------


def target_name(target: Any, container: str = "analysis") -> str:
    """Return what a target is called in logs and reports; two names of one embedded catalog are one.

    Raises
    ------
    PipelineValueError
        If a URI holds a key or a password: others would see it.

    >>> target_name("https://tiled.example.org/api/v1")
    'https://tiled.example.org/api/v1 (analysis)'
    """
    if isinstance(target, str) and target.startswith(("http://", "https://")):
        if "api_key=" in target or "@" in target:
            raise PipelineValueError("wanted a URI without a key; the key is taken from TILED_API_KEY.")
        return f"{target.rstrip('/')} ({container})"
    directory = _embedded_directory(target)
    if directory is not None:
        return f"{directory} ({container})"
    return f"profile {target}" if isinstance(target, str) else f"a {type(target).__name__}"


def target_hash(name: str) -> str:
    """Return the hash by which the files of a target are named.

    >>> target_hash("a"), target_hash("a") == target_hash("b")
    ('ca978112ca1b', False)
    """
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def report_path(ledger: str | os.PathLike[str], target: Any = None, container: str = "analysis") -> Path:
    """Return the path of the file in which the process that projects tells its report.

    >>> report_path("ledger", "https://tiled.example.org").parent
    PosixPath('ledger/.state')
    """
    return Path(ledger) / STATE / f"projector-{target_hash(target_name(target, container))}.json"


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report, whole or not at all."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({**report, "time": time.time(), "pid": os.getpid()}) + "\n")
    new.rename(path)


def _embedded_directory(target: Any) -> Path | None:
    """Return the directory of an embedded catalog, and None for any other catalog."""
    if target is None:
        return default_path().expanduser().resolve()
    if isinstance(target, os.PathLike):
        return Path(target).expanduser().resolve()
    if not isinstance(target, str) or "://" in target:
        return None
    if "/" in target or target.startswith((".", "~")) or (Path(target).exists() and target not in _profiles()):
        return Path(target).expanduser().resolve()
    return None


def _profiles() -> set[str]:
    from tiled.profiles import list_profiles

    return {"temp", *list_profiles()}

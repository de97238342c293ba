"""An embedded catalog: a Tiled server of one's own, on disk, that nobody has to start."""

import atexit
import contextlib
import fcntl
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.errors import PipelineOSError

if TYPE_CHECKING:
    from pipeline.catalog_client import Catalog

CONTAINERS = ("raw", "analysis")
NICE = 10  # of the processes that serve a catalog and write to it: a scan on the same machine goes first
SERVER = "server.json"  # where the server is: url, api_key, pid; for its user's eyes only
SERVER_LOCK = "server.lock"  # held by the server while it lives
START_LOCK = "start.lock"  # held by whoever starts a server
READABLE = "readable"  # the folders whose files the server may read besides its own, one a line
USERS_LOCK = "users.lock"  # shared by the processes that use the catalog; the kernel gives it back for the dead

_users: dict[Path, int] = {}  # directory -> our share of its users.lock
_guard = threading.Lock()


def open_catalog(path: str | os.PathLike[str] | None = None, *, linger: float | None = None) -> "Catalog":
    """Open the catalog in this directory, and make it if there is none.

    It is a Tiled catalog on disk, with a server process of its own on the loopback interface. The first to open it
    starts the server; it goes on for as long as any process uses the catalog, and `linger` seconds more. So other
    processes may read and write at the same time, and a scan pays nothing for it.

    Parameters
    ----------
    path
        The catalog's directory. By default `$BLUESKY_PIPELINE_CATALOG`, else `bluesky-pipeline/catalog` where the
        user's data are (`$XDG_DATA_HOME`, `~/.local/share`).
    linger
        How many seconds a server that is started here stays when nobody uses it; by default
        `$BLUESKY_PIPELINE_CATALOG_LINGER`, else 600.

    Returns
    -------
    Catalog
        A Tiled client. `catalog["raw"]` and `catalog["analysis"]` are catalogs of Bluesky runs (`[-1]`, `[scan_id]`,
        `[uid]`, `.v1`); `catalog.v1` is that of `analysis`, where a pipeline's results go.

    Raises
    ------
    PipelineOSError
        If the server does not start or does not answer; it tells what its log says.
    """
    from tiled.client.constructors import from_uri

    from pipeline.catalog_client import Catalog

    url, api_key = connect(path, linger=linger)
    root = from_uri(url, api_key=api_key, trust_env=False, remember_me=False)
    return Catalog(root.context, item=root.item, structure_clients=root.structure_clients)


def connect(
    path: str | os.PathLike[str] | None = None, *, linger: float | None = None, timeout: float = 60.0
) -> tuple[str, str]:
    """Return the URL and the API key of the server of this catalog, and start one if there is none.

    This process counts as a user of the catalog from now on, until it ends or calls `leave`.
    """
    directory = _directory(path)
    _make_private(directory)
    _join(directory)
    with contextlib.suppress(FileNotFoundError):
        if connection := _living_server(directory):
            return connection["url"], connection["api_key"]
    connection = _start(directory, _linger(linger), time.monotonic() + timeout)
    return connection["url"], connection["api_key"]


def leave(path: str | os.PathLike[str] | None = None) -> None:
    """Count this process as a user of the catalog no more; its clients may find the server gone from now on."""
    with _guard:
        lock = _users.pop(_directory(path), None)
    if lock is not None:
        os.close(lock)


def stop_server(path: str | os.PathLike[str] | None = None, *, timeout: float = 15.0) -> bool:
    """End the server of this catalog, whoever uses it. Return whether there was one.

    The data stay; the next to open the catalog starts another.
    """
    directory = _directory(path)
    leave(directory)
    if not _has_server(directory):
        return False
    pid = _pid(directory, time.monotonic() + timeout)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if _wait_until_gone(directory, time.monotonic() + timeout):
            return True
    raise PipelineOSError(f"The server of the catalog {directory} (process {pid}) cannot be ended.")


def let_read(catalog: Any, folder: str | os.PathLike[str]) -> None:
    """Let the server of an embedded catalog read the files of a folder, that runs in it refer to.

    Parameters
    ----------
    catalog
        As for `embedded_in`. Nothing is done for other catalogs: who runs them tells what they may read.
    folder
        With all that is in it; a line in the catalog's file `readable`, which may be edited.
    """
    directory = embedded_in(catalog)
    if directory is None:
        return
    _make_private(directory)
    line = os.fsencode(Path(folder).resolve()) + b"\n"
    with open(directory / READABLE, "ab+") as file:
        file.seek(0)
        if line not in file:
            file.write(line)


def embedded_in(catalog: Any) -> Path | None:
    """Return the directory of an embedded catalog; None of any other, or of one that this process does not use yet.

    Parameters
    ----------
    catalog
        Its directory, a client of it, or a URI.

    >>> embedded_in("https://tiled.example.org"), embedded_in("/data/catalog")
    (None, PosixPath('/data/catalog'))
    """
    if catalog is None or (isinstance(catalog, str | os.PathLike) and "://" not in str(catalog)):
        return _directory(catalog)
    client: Any = catalog
    url = catalog if isinstance(catalog, str) else str(client.context.api_uri)
    for directory in list(_users):
        with contextlib.suppress(FileNotFoundError):
            if urlsplit(json.loads((directory / SERVER).read_bytes())["url"]).netloc == urlsplit(url).netloc:
                return directory
    return None


def default_path() -> Path:
    """Return the directory of the catalog that is meant when none is named."""
    if path := os.environ.get("BLUESKY_PIPELINE_CATALOG"):
        return Path(path)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "bluesky-pipeline" / "catalog"


def python_module(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs this module in a process of its own, and its environment.

    The package is found there as it was here, and nothing that lies about in the working directory is imported.
    """
    home = str(Path(__file__).resolve().parent.parent)
    environment = dict(os.environ)
    if not home.endswith(("site-packages", "dist-packages")):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    return [sys.executable, "-P", "-m", module, *arguments], environment


# files and locks ---------------------------------------------------------------------------------------------------


def try_lock(path: Path, kind: int) -> int | None:
    """Return a descriptor that holds this lock, or None if others do."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_same_file(descriptor: int, path: Path) -> bool:
    """Say whether this descriptor is still that of the file at this path: the directory may have been removed."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def answers(url: str, timeout: float = 2.0) -> bool:
    """Say whether a Tiled server answers at this URL."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=timeout)
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        return response.status == 200 and json.load(response).get("status") == "ready"
    except (OSError, http.client.HTTPException, ValueError, AttributeError):
        return False
    finally:
        connection.close()


def _directory(path: str | os.PathLike[str] | None) -> Path:
    return Path(default_path() if path is None else path).expanduser().resolve()


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        if not directory.is_dir():
            raise PipelineOSError(f"A catalog is a directory; {directory} is none.") from None
        if directory.stat().st_uid != os.geteuid():
            raise PipelineOSError(f"The catalog {directory} belongs to another user; wanted one of your own.") from None
        directory.chmod(0o700)


def _join(directory: Path) -> None:
    """Take a share of users.lock for the life of this process; wait for a server that is about to end."""
    with _guard:
        if directory not in _users or not is_same_file(_users[directory], directory / USERS_LOCK):
            if directory in _users:
                os.close(_users.pop(directory))  # of a directory that was removed
            lock = os.open(directory / USERS_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_SH)
            _users[directory] = lock
        os.utime(directory / USERS_LOCK)


@atexit.register
def _leave_all() -> None:
    for directory in list(_users):
        leave(directory)


# the server --------------------------------------------------------------------------------------------------------


def _living_server(directory: Path) -> dict[str, Any] | None:
    """Return where the server is; None if there is none or it does not answer."""
    if not _has_server(directory):
        return None
    connection = json.loads((directory / SERVER).read_bytes())
    return connection if answers(connection["url"]) else None


def _has_server(directory: Path) -> bool:
    if not (directory / SERVER_LOCK).exists():
        return False
    lock = try_lock(directory / SERVER_LOCK, fcntl.LOCK_SH)
    if lock is not None:
        os.close(lock)
    return lock is None


def _start(directory: Path, linger: float, deadline: float) -> dict[str, Any]:
    """Return where the server is once it answers; start one if there is none, or if the one there is dying."""
    with open(directory / START_LOCK, "w") as start_lock:
        fcntl.flock(start_lock, fcntl.LOCK_EX)
        spawned = False
        while True:
            with contextlib.suppress(FileNotFoundError):
                if connection := _living_server(directory):
                    return connection
            if not _has_server(directory):
                if spawned:
                    raise PipelineOSError(f"The server of the catalog {directory} has ended{_last_words(directory)}")
                _spawn(directory, linger)
                spawned = True
            if time.monotonic() > deadline:
                raise PipelineOSError(f"The server of the catalog {directory} does not answer{_last_words(directory)}")
            time.sleep(0.02)


def _spawn(directory: Path, linger: float) -> None:
    (directory / SERVER).unlink(missing_ok=True)  # that of a dead one: its pid and port may be others' by now
    command, environment = python_module("pipeline.catalog_server", str(directory), "--linger", str(linger))
    with open(os.open(directory / "server.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as log:
        subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in a terminal is not meant for it
            check=False,  # what counts is whether there is a server afterwards
        )


def _last_words(directory: Path) -> str:
    words = (directory / "server.log").read_text(errors="replace").strip()[-2000:]
    return f"; its log says:\n{words}" if words else "."


def _pid(directory: Path, deadline: float) -> int | None:
    """Return the server's process id; wait for it if the server is about to start; None if it is about to end."""
    while _has_server(directory) and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            return json.loads((directory / SERVER).read_bytes())["pid"]
        time.sleep(0.02)
    return None


def _wait_until_gone(directory: Path, deadline: float) -> bool:
    while _has_server(directory):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _linger(seconds: float | None) -> float:
    return float(os.environ.get("BLUESKY_PIPELINE_CATALOG_LINGER", "600")) if seconds is None else seconds

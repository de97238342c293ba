"""The process that serves one embedded catalog: `python -m pipeline.catalog_server DIRECTORY`.

It stands apart from the processes that use it, so that they pay neither its memory nor its imports, and any of them
may end first. Nobody starts it by hand: `pipeline.catalog.open_catalog` does.
"""

import argparse
import contextlib
import fcntl
import gc
import json
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from pipeline.catalog import (
    CONTAINERS,
    NICE,
    READABLE,
    SERVER,
    SERVER_LOCK,
    USERS_LOCK,
    answers,
    is_same_file,
    try_lock,
)
from pipeline.readable_folders import ReadableFolders

SPECS = [{"name": "CatalogOfBlueskyRuns", "version": "3.0"}]


def main(argv: list[str] | None = None) -> int:
    """Become the server of a catalog, unless it has one; return as soon as it is certain which."""
    options = _parser().parse_args(argv)
    directory = Path(options.directory).resolve()
    lock = try_lock(directory / SERVER_LOCK, fcntl.LOCK_EX)
    if lock is None:
        return 1
    if os.fork():  # The lock lives on in the child: whoever sees it free knows that the server is no more.
        os._exit(0)
    os.chdir(directory)
    try:
        _serve(directory, options.linger, lock)
    except Exception:  # noqa: BLE001 - the last door of a process that nobody waits for
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(0)  # The locks go with the process, and nothing is left to say goodbye to.


def _give_way() -> None:
    """Let others have the processor first: those of this session, and, where Linux shares it by session, of others.

    Not before the server answers: somebody waits for that.
    """
    with contextlib.suppress(OSError):  # Linux has it thread by thread
        for thread in Path("/proc/self/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), NICE)
        Path("/proc/self/autogroup").write_text(f"{NICE}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.catalog_server", description=__doc__)
    parser.add_argument("directory")
    parser.add_argument("--linger", type=float, default=600.0, help="seconds to stay when nobody uses the catalog")
    return parser


def _serve(directory: Path, linger: float, lock: int) -> None:
    server, listener, api_key = _build(directory)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1"
    connection = {"url": url, "api_key": api_key, "pid": os.getpid()}
    threading.Thread(target=_announce, args=(server, directory, connection), daemon=True).start()
    threading.Thread(target=_leave_when_unused, args=(server, directory, linger, lock), daemon=True).start()
    server.run(sockets=[listener])


def _build(directory: Path) -> tuple[Any, socket.socket, str]:
    gc.disable()  # Half a million objects are made here, and none of them is garbage: a fifth of the time.
    import uvicorn
    from tiled.config import Authentication
    from tiled.server.app import build_app

    api_key = secrets.token_hex(32)
    app = build_app(_tree(directory), authentication=Authentication(single_user_api_key=api_key))
    # Named as TCP, or asyncio leaves Nagle's algorithm on, and every request takes 40 ms longer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, loop="asyncio", log_level="warning", access_log=False, timeout_graceful_shutdown=3)
    )
    gc.freeze()
    gc.enable()
    return server, listener, api_key


def _tree(directory: Path) -> Any:
    from bluesky_tiled_plugins.exporters import json_seq_exporter
    from sqlalchemy.pool import QueuePool
    from tiled.catalog import from_uri
    from tiled.config import StreamingCacheConfig
    from tiled.media_type_registration import default_serialization_registry
    from tiled.storage import parse_storage

    default_serialization_registry.register("BlueskyRun", "application/json-seq", json_seq_exporter)
    _initialize(directory / "catalog.db")
    (directory / "data").mkdir(exist_ok=True)
    storage: Any = parse_storage(f"duckdb:///{directory / 'storage.duckdb'}")
    # Tiled would give one and the same connection to all threads, and with it one transaction: who reads then undoes
    # what another is about to write.
    storage.__dict__["_connection_pool"] = QueuePool(storage._adbc_connection.adbc_clone, pool_size=5, max_overflow=10)
    tree = from_uri(
        directory / "catalog.db",
        writable_storage=[directory / "data", storage.uri],
        cache_config=StreamingCacheConfig(uri="memory").model_dump(),
    )
    tree.context.readable_storage = ReadableFolders(tree.context.readable_storage, directory / READABLE)
    return tree


def _initialize(path: Path) -> None:
    """Make the catalog's database, whole or not at all.

    Here and not by `init_if_not_exists`, which starts another interpreter for it and takes 8 s.
    """
    if path.exists():
        return
    import asyncio

    from tiled.alembic_utils import stamp_head
    from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH

    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    asyncio.run(_fill(new))
    stamp_head(Path(ALEMBIC_INI_TEMPLATE_PATH), Path(ALEMBIC_DIR), f"sqlite+aiosqlite:///{new}")
    new.rename(path)


async def _fill(path: Path) -> None:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.catalog.core import initialize_database

    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    await initialize_database(engine)
    async with engine.connect() as connection:
        await connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
    await engine.dispose()


def _announce(server: Any, directory: Path, connection: dict[str, Any]) -> None:
    """Tell where the server is, as soon as it answers and the containers are there."""
    while not (server.started and answers(connection["url"])):
        time.sleep(0.02)
    try:
        for name in CONTAINERS:
            _make_container(connection, name)
    except OSError:
        traceback.print_exc()
        server.should_exit = True
        return
    new = directory / f"{SERVER}.new"
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(connection, file)
    _give_way()
    new.rename(directory / SERVER)


def _make_container(connection: dict[str, Any], name: str) -> None:
    from urllib.error import HTTPError
    from urllib.request import ProxyHandler, Request, build_opener

    body = {"id": name, "structure_family": "container", "data_sources": [], "metadata": {}, "specs": SPECS}
    headers = {"Authorization": f"Apikey {connection['api_key']}", "Content-Type": "application/json"}
    request = Request(f"{connection['url']}/metadata/", json.dumps(body).encode(), headers)
    try:
        build_opener(ProxyHandler({})).open(request, timeout=30).close()
    except HTTPError as error:
        with error:
            if error.code != 409:  # it is there already
                raise


def _leave_when_unused(server: Any, directory: Path, linger: float, server_lock: int) -> None:
    """End the server when nobody has held `users.lock` for `linger` seconds, or its directory was removed.

    An opener takes its share of the lock before it looks for a server. So while the lock is held here, whoever
    opens waits; when it gets the lock, this process is gone, and it starts another.
    """
    path = directory / USERS_LOCK
    since = time.time()
    while is_same_file(server_lock, directory / SERVER_LOCK):  # else what is there belongs to another server
        time.sleep(min(1.0, linger / 4 + 0.01))
        try:
            lock = try_lock(path, fcntl.LOCK_EX)
            touched = path.stat().st_mtime  # by openers, even ones that have left again
        except FileNotFoundError:
            continue
        if lock is None or touched > since:
            since = time.time()
        if lock is not None and time.time() - since >= linger:
            (directory / SERVER).unlink(missing_ok=True)
            break  # and keep the lock until the process is gone
        if lock is not None:
            os.close(lock)
    server.should_exit = True


if __name__ == "__main__":
    sys.exit(main())

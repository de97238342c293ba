"""Servers for tests, each a real one in a process of its own: PostgreSQL, and a Tiled server that keeps runs in it."""

import asyncio
import contextlib
import getpass
import glob
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import asyncpg
import yaml
from tiled.client import from_uri
from tiled.structures.core import Spec

from pipeline.catalog import CONTAINERS, answers

RUNS = [Spec("CatalogOfBlueskyRuns", version="3.0")]
EXPORTER = {"BlueskyRun": {"application/json-seq": "bluesky_tiled_plugins.exporters:json_seq_exporter"}}
PATIENCE = 90


class NoPostgres(Exception):
    """There is no PostgreSQL, and none can be started."""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# PostgreSQL --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def postgres():
    """Give the URI of a PostgreSQL server, without a database: one that answers on loopback, else one of our own."""
    if uri := _on_loopback():
        yield uri
    else:
        with _own_cluster() as uri:
            yield uri


def _on_loopback():
    host, port = os.environ.get("PGHOST", "127.0.0.1"), os.environ.get("PGPORT", "5432")
    for user in dict.fromkeys((os.environ.get("PGUSER") or getpass.getuser(), "postgres")):
        password = f":{quote(os.environ['PGPASSWORD'], safe='')}" if "PGPASSWORD" in os.environ else ""
        uri = f"postgresql://{quote(user, safe='')}{password}@{host}:{port}"
        with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError):
            if ask(uri, "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"):
                return uri
    return None


@contextlib.contextmanager
def _own_cluster():
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if not found:
        raise NoPostgres("no PostgreSQL answers on loopback, and Debian's package postgresql is not installed")
    binaries, port = Path(found[-1]).parent, free_port()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    as_other = _as_other(folder)
    data, log = folder / "data", folder / "log"
    control = [*as_other, str(binaries / "pg_ctl"), "-D", str(data), "-w", "-t", str(PATIENCE)]
    options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off"
    try:
        _run([*as_other, str(binaries / "initdb"), "-A", "trust", "-U", "postgres", "-E", "UTF8", "-D", str(data)])
        _run([*control, "-l", str(log), "-o", options, "start"])
        yield f"postgresql://postgres@127.0.0.1:{port}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _as_other(folder):
    """Return the command that runs another as a user who is not root, for whom the folder is: initdb refuses root."""
    if os.geteuid() != 0:
        return []
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            os.chown(folder, user.pw_uid, user.pw_gid)
            return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    raise NoPostgres("initdb refuses root, and there is neither a user postgres nor nobody")


def _run(command):
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    if done.returncode:
        raise NoPostgres(f"{' '.join(command)}: {done.stderr[-1000:]}")


def ask(uri, statement, database="postgres"):
    """Run one statement, and return the first value that it gives."""

    async def run():
        connection = await asyncpg.connect(f"{uri}/{database}", timeout=5)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


@contextlib.contextmanager
def databases(uri, n):
    """Give the names of so many new databases; drop them afterwards."""
    names = [f"pipeline_{secrets.token_hex(6)}" for _ in range(n)]
    try:
        for name in names:
            ask(uri, f"CREATE DATABASE {name}")
        yield names
    finally:
        for name in names:
            ask(uri, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


# Tiled -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def tiled_on_postgres(folder):
    """Give the URI and the API key of a Tiled server on loopback, whose catalog and tables are in PostgreSQL."""
    with postgres() as uri, databases(uri, 2) as (catalog, storage):
        args = {
            "uri": f"{uri}/{catalog}".replace("postgresql:", "postgresql+asyncpg:"),
            "writable_storage": [str(folder / "data"), f"{uri}/{storage}"],
            "readable_storage": [str(folder)],
            "init_if_not_exists": True,
        }
        with tiled_server(folder, [{"path": "/", "tree": "catalog", "args": args}]) as server:
            yield server


@contextlib.contextmanager
def tiled_server(folder, trees):
    """Give the URI and the API key of a Tiled server with these trees; the first has the containers of runs."""
    key, port = secrets.token_hex(16), free_port()
    config = folder / "config.yml"
    config.write_text(yaml.safe_dump({"media_types": EXPORTER, "trees": trees}))
    command = [
        sys.executable,
        "-m",
        "tiled",
        "serve",
        "config",
        str(config),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = {**os.environ, "TILED_SINGLE_USER_API_KEY": key}
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    uri = f"http://127.0.0.1:{port}/api/v1"
    try:
        _wait(process, uri, folder / "server.log")
        root = from_uri(uri, api_key=key, remember_me=False)
        for name in CONTAINERS:
            root.create_container(key=name, specs=RUNS)
        root.context.close()
        yield uri, key
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process, uri, log):
    deadline = time.monotonic() + PATIENCE
    while not answers(uri):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the Tiled server does not answer; its log says:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)


# Redis and NATS ----------------------------------------------------------------------------------------------------


class NoServer(Exception):
    """There is no such server, and none can be started."""


class OwnServer:
    """A server of our own on a free port, that can be killed and started again on what it wrote to its folder."""

    def __init__(self, folder, binary, *arguments):
        self.port, self._folder = free_port(), Path(folder)
        if (found := shutil.which(binary, path=f"{os.environ.get('PATH', '')}:/usr/sbin")) is None:
            raise NoServer(f"{binary} is not installed")
        self._command = [found, *(each.format(port=self.port, folder=folder) for each in arguments)]
        self._process = None

    def start(self):
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while not listens(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoServer((self._folder / "server.log").read_text()[-2000:])
            time.sleep(0.02)
        return self

    def kill(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def own_redis(folder):
    """A Redis of our own, that has on its disk all that it acknowledges."""
    options = "--port {port} --bind 127.0.0.1 --dir {folder} --save  --appendonly yes --appendfsync always"
    return OwnServer(folder, "redis-server", *options.split(" "))


def own_nats(folder):
    """A NATS server of our own, with JetStream."""
    return OwnServer(folder, "nats-server", "-a", "127.0.0.1", "-p", "{port}", "-js", "-sd", "{folder}")


@contextlib.contextmanager
def on_port(port, own):
    """Give the port of the server that listens on this one of loopback, else of one of our own."""
    if listens(port):
        yield port
        return
    with tempfile.TemporaryDirectory() as folder, own(folder) as server:
        yield server.port

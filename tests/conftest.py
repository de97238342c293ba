"""What the tests share: a RunEngine, a sink that keeps, a folder of real runs, a Tiled server on PostgreSQL."""

import logging
import os
import socket
from pathlib import Path

import pytest
import servers
from bluesky import RunEngine
from kept import Kept
from tiled.client import from_uri


def pytest_configure():
    """Two ledgers that differ are told apart by where they begin to: pytest would look an hour for all of it on CI."""
    for name in ("CI", "BUILD_NUMBER"):
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def own_log():
    """A command that a test runs sets up the log of this process; the next test has its own."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [each for each in root.handlers if each not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """What was logged may hold halves of surrogate pairs, which no worker can send."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture
def kept():
    return Kept()


@pytest.fixture
def RE():
    engine = RunEngine({}, call_returns_result=False)
    yield engine
    engine.loop.call_soon_threadsafe(engine.loop.stop)
    engine._th.join(5)
    engine.loop.close()


@pytest.fixture(scope="session")
def data_folder():
    """The folder of real runs: `$BLUESKY_PIPELINE_DATA`, or beside the checkout."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("BLUESKY_PIPELINE_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"the folder of real runs is not here ({folder}); BLUESKY_PIPELINE_DATA tells where it is")
    return folder


@pytest.fixture
def dead_uri():
    """The address of a server that was closed."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1"


@pytest.fixture(scope="session")
def postgres_folder(tmp_path_factory):
    """A folder whose files the Tiled server on PostgreSQL may read."""
    return tmp_path_factory.mktemp("postgres")


@pytest.fixture(scope="session")
def postgres_server(postgres_folder):
    """URI and API key of a Tiled server that keeps all it has in PostgreSQL, in databases of its own."""
    try:
        with servers.tiled_on_postgres(postgres_folder) as server:
            yield server
    except servers.NoPostgres as reason:
        pytest.skip(f"no PostgreSQL: {reason}")


@pytest.fixture
def on_postgres(postgres_server, monkeypatch):
    """The root of a Tiled catalog on PostgreSQL, with containers `raw` and `analysis`; its key is in TILED_API_KEY."""
    uri, key = postgres_server
    monkeypatch.setenv("TILED_API_KEY", key)
    root = from_uri(uri, remember_me=False)
    yield root
    root.context.close()

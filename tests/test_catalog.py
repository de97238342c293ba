"""The embedded catalog: real server processes, real files."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest

from pipeline.catalog import connect, default_path, open_catalog, python_module, stop_server
from pipeline.errors import PipelineOSError

OPEN = """
import sys, time
began = time.perf_counter()
from pipeline.catalog import open_catalog
catalog = open_catalog(sys.argv[1], linger=float(sys.argv[2]))
print(time.perf_counter() - began, ",".join(sorted(catalog)), flush=True)
"""


def in_another_process(code, *arguments):
    _, environment = python_module("pipeline.catalog")
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("catalogs") / "catalog"
    yield path
    stop_server(path)


@pytest.fixture(scope="module")
def opened():
    """Open catalogs whose connections are closed in the end."""
    catalogs = []

    def open_it(path):
        catalogs.append(open_catalog(path))
        return catalogs[-1]

    yield open_it
    for catalog in catalogs:
        catalog.close()


@pytest.fixture(scope="module")
def catalog(opened, directory):
    return opened(directory)


def pid_of(directory):
    return json.loads((directory / "server.json").read_bytes())["pid"]


def add_run(container, uid):
    container.create_container(key=uid, metadata={"start": {"uid": uid, "time": 1.0, "scan_id": 7}})


def test_the_first_open_makes_a_catalog_of_two_parts(catalog):
    assert sorted(catalog) == ["analysis", "raw"]
    assert catalog["raw"].is_sql
    assert catalog.analysis.is_sql
    assert catalog.v1.v2.uri == catalog["analysis"].uri


def test_the_directory_and_the_key_are_for_their_owner_alone(catalog, directory):
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "server.json").stat().st_mode) == 0o600
    key = json.loads((directory / "server.json").read_bytes())["api_key"]
    assert len(key) == 64
    assert key not in (directory / "server.log").read_text()
    with open(f"/proc/{pid_of(directory)}/cmdline") as file:
        assert key not in file.read()


def test_a_second_process_opens_a_living_catalog_in_under_two_seconds(catalog, directory):
    with in_another_process(OPEN, str(directory), "600") as other:
        seconds, names = other.communicate(timeout=30)[0].split()

    assert float(seconds) < 2
    assert names == "analysis,raw"


def test_the_data_outlive_the_server(catalog, opened, directory):
    before = pid_of(directory)
    add_run(catalog["raw"], "0b6c9a4e-1a55-4a12-a7a9-1a53a1b8ed3f")

    assert stop_server(directory)
    assert not stop_server(directory)
    again = opened(directory)

    assert pid_of(directory) != before
    assert list(again["raw"]) == ["0b6c9a4e-1a55-4a12-a7a9-1a53a1b8ed3f"]
    assert len(again["analysis"]) == 0


def test_a_server_that_was_killed_is_replaced(opened, directory):
    catalog = opened(directory)
    before = pid_of(directory)
    add_run(catalog["raw"], "1b6c9a4e-1a55-4a12-a7a9-1a53a1b8ed3f")

    os.kill(before, signal.SIGKILL)
    again = opened(directory)

    assert pid_of(directory) != before
    assert "1b6c9a4e-1a55-4a12-a7a9-1a53a1b8ed3f" in list(again["raw"])


def test_two_that_open_at_once_share_one_server_which_leaves_when_both_have(tmp_path):
    path = tmp_path / "catalog"
    others = [in_another_process(OPEN, str(path), "1") for _ in range(2)]

    names = [other.communicate(timeout=60)[0].split()[1] for other in others]
    deadline = time.monotonic() + 10
    while (path / "server.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)

    assert names == ["analysis,raw"] * 2
    assert (path / "server.log").read_text().count("Tiled version") <= 1
    assert not (path / "server.json").exists()


def test_a_server_whose_directory_is_removed_ends(tmp_path):
    path = tmp_path / "catalog"
    connect(path)
    pid = pid_of(path)

    shutil.rmtree(path)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.1)

    assert not os.path.exists(f"/proc/{pid}")


def test_what_cannot_be_a_catalog_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("")

    with pytest.raises(PipelineOSError, match="is a directory"):
        open_catalog(file)


def test_a_server_that_ends_at_once_says_why(tmp_path):
    path = tmp_path / "catalog"
    path.mkdir()
    (path / "catalog.db").write_text("this is no database, and long enough to be told from one" * 50)

    with pytest.raises(PipelineOSError, match="has ended; its log says:\n"):
        open_catalog(path)


def test_the_default_path_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("BLUESKY_PIPELINE_CATALOG", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_path() == tmp_path / "bluesky-pipeline" / "catalog"

    monkeypatch.setenv("BLUESKY_PIPELINE_CATALOG", str(tmp_path / "mine"))
    assert default_path() == tmp_path / "mine"

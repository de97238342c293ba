"""The projector: real catalogs, real processes, and what kills them."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from statistics import median

import databroker
import numpy
import pytest
from servers import RUNS, free_port

from pipeline.audit import audit
from pipeline.catalog import open_catalog, python_module, stop_server
from pipeline.catalogs import find
from pipeline.documents import dumps
from pipeline.errors import PipelineOSError, PipelineTimeoutError, PipelineValueError
from pipeline.projector import Projector, report_path
from pipeline.sinks.jsonl import JSONLSink
from pipeline.testing import make_run

TIMEOUT = 40

KILLED = """
import os, random, signal, sys, time
from pipeline import projector_process
from pipeline.projector import Projector
import pipeline.sinks.run_comparison, tiled.client.constructors, pipeline.catalog_client
n, seed, arguments = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
ledger, _, directory, _, container, *_ = arguments
moments = random.Random(seed)
began = time.monotonic()
child = os.fork()
if not child:
    Projector(ledger, directory, container=container).sync()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
longest = max(0.8, 2 * (time.monotonic() - began))  # where a process begins and writes slowly, it lives longer
print(longest, flush=True)
for _ in range(n):
    child = os.fork()
    if not child:
        os._exit(projector_process.main(arguments))
    time.sleep(moments.uniform(0.05, longest))
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


TEXTS = {}  # uid of a run -> the text that it follows from


def scan(n=10, uid=None, scale=1.0, **metadata):
    """A run with scalars, text, and I(q) for each event."""
    q = numpy.linspace(0.1, 1.0, 16)
    columns = {
        "x": [scale * i for i in range(n)],
        "n": list(range(n)),
        "s": [f"point {i}" for i in range(n)],
        "iq": [scale * numpy.exp(-q * i) + i for i in range(n)],
    }
    text = uid or str(uuid.uuid4())
    documents = make_run(columns, uid=text, **metadata)
    TEXTS[uid_of(documents)] = text
    return documents


def uid_of(documents):
    return documents[0][1]["uid"]


def put(ledger, *runs):
    with JSONLSink(ledger) as sink:
        for documents in runs:
            for name, doc in documents:
                sink(name, doc)


def append(ledger, run, first=0, last=None):
    """Write some lines of a run at the end of its file, as they would be written one by one."""
    with open(ledger / f"{uid_of(run)}.jsonl", "ab", buffering=0) as file:
        file.write(b"".join(dumps(name, doc) for name, doc in run[first:last]))


def grow(ledger, runs, seconds):
    """Write runs side by side, line by line, in about so many seconds."""
    for i in range(longest := max(map(len, runs))):
        for run in runs:
            append(ledger, run, i, i + 1)
        time.sleep(seconds / longest)


def differences(ledger, catalog, container):
    return {run.uid: run.difference for run in audit(ledger, catalog, container=container) if run.difference}


def rows(runs, documents):
    stream = find(find(runs, uid_of(documents)), "primary").base
    return stream["internal"].read()["n"].tolist(), stream["iq"].shape[0]


def wait_until(true, timeout=TIMEOUT):
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


@contextlib.contextmanager
def following(projector):
    stop = threading.Event()
    thread = threading.Thread(target=projector.follow, args=(stop,), daemon=True)
    thread.start()
    try:
        yield projector
    finally:
        stop.set()
        thread.join(TIMEOUT)
        assert not thread.is_alive()


@contextlib.contextmanager
def projecting(*arguments):
    command, environment = python_module("pipeline.projector_process", *map(str, arguments))
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("catalogs") / "catalog"
    yield path
    stop_server(path)


@pytest.fixture(scope="module")
def catalog(directory):
    with open_catalog(directory) as catalog:
        yield catalog


@pytest.fixture
def runs(catalog):
    """A container of the embedded catalog that is this test's own."""
    return catalog.create_container(key=f"c{uuid.uuid4().hex[:8]}", specs=RUNS)


@pytest.fixture
def container(runs):
    """Its name."""
    return runs.path_parts[-1]


@pytest.fixture
def ledger(tmp_path):
    path = tmp_path / "ledger"
    path.mkdir()
    return path


@pytest.fixture
def writes(runs):
    """The requests of this client that write."""
    seen = []
    client = runs.context.http_client
    hooks = client.event_hooks
    note = [lambda request: seen.append(request) if request.method != "GET" else None]
    client.event_hooks = {**hooks, "request": [*hooks["request"], *note]}
    yield seen
    client.event_hooks = hooks


# level -------------------------------------------------------------------------------------------------------------


def test_what_the_ledger_has_is_brought_in_and_a_second_time_nothing_is_written(ledger, runs, writes):
    documents = [scan(30), scan(0), scan(2500)]
    put(ledger, *documents)

    report = Projector(ledger, runs).sync()

    assert report["runs_level"] == 3
    assert (report["behind_bytes"], report["behind_lines"], report["refused"], report["outage"]) == (0, 0, {}, "")
    assert rows(runs, documents[2]) == (list(range(2500)), 2500)
    assert differences(ledger, runs, None) == {}
    n_writes = len(writes)
    assert n_writes > 0
    assert Projector(ledger, runs).sync()["runs_level"] == 3
    assert len(writes) == n_writes


def test_rows_are_readable_within_a_second_while_the_ledger_grows(ledger, runs):
    run = scan(80)
    delays = []

    with following(Projector(ledger, runs)) as projector:
        append(ledger, run, 0, 3)
        wait_until(lambda: n_rows(runs, run) == 1)
        for i in range(3, len(run) - 1):
            append(ledger, run, i, i + 1)
            time.sleep(0.01)
            if i % 20 == 0:
                began = time.monotonic()
                wait_until(lambda n=i - 1: n_rows(runs, run) == n)
                delays.append(time.monotonic() - began)
        append(ledger, run, -1)
        wait_until(lambda: projector.report()["runs_level"] == 1)

    assert differences(ledger, runs, None) == {}
    assert median(delays) < 1.0


def n_rows(runs, documents):
    try:
        return len(find(find(runs, uid_of(documents)), "primary").base["internal"].read(["seq_num"]))
    except (AttributeError, KeyError):
        return 0


@pytest.mark.parametrize("n_lines", [1, 2, 3, 8])
def test_a_run_that_is_there_by_half_is_completed_and_not_written_anew(ledger, runs, writes, n_lines):
    run = scan(10)
    append(ledger, run, 0, n_lines)
    Projector(ledger, runs).sync()
    append(ledger, run, n_lines)

    Projector(ledger, runs).sync()

    assert rows(runs, run) == (list(range(10)), 10)
    assert differences(ledger, runs, None) == {}
    assert not [request for request in writes if request.method == "DELETE" and "/metadata/" in request.url.path]


def test_an_array_that_is_longer_than_the_table_is_put_right(ledger, runs):
    run = scan(10)
    append(ledger, run, 0, 6)
    Projector(ledger, runs).sync()
    array = find(find(runs, uid_of(run)), "primary").base["iq"]
    array.patch(numpy.full((3, 16), 7.0), offset=(4,), extend=True)
    append(ledger, run, 6)

    Projector(ledger, runs).sync()

    assert differences(ledger, runs, None) == {}


def test_an_array_that_is_longer_than_the_whole_run_is_cut(ledger, runs):
    run = scan(6)
    append(ledger, run, 0, -1)
    Projector(ledger, runs).sync()
    find(find(runs, uid_of(run)), "primary").base["iq"].patch(numpy.ones((3, 16)), offset=(6,), extend=True)
    append(ledger, run, -1)

    Projector(ledger, runs).sync()

    assert rows(runs, run) == (list(range(6)), 6)
    assert differences(ledger, runs, None) == {}


@pytest.mark.parametrize("torn", ["gone", "never filled"])
def test_an_array_that_is_shorter_than_the_table_is_put_right(ledger, runs, torn):
    run = scan(10)
    append(ledger, run, 0, 8)
    Projector(ledger, runs).sync()
    stream = find(find(runs, uid_of(run)), "primary").base
    if torn == "gone":
        stream["iq"].delete(external_only=False)
    else:
        stream["iq"].patch(numpy.zeros((3, 16)), offset=(3,))
    append(ledger, run, 8)

    Projector(ledger, runs).sync()

    assert rows(runs, run) == (list(range(10)), 10)
    assert differences(ledger, runs, None) == {}


def test_arrays_of_several_shapes_and_columns_that_widen_go_on_where_they_were(ledger, runs):
    run = make_run({"a": [[1.0, 2.0]] * 4, "m": [0, 1, 2, 3]}, uid=str(uuid.uuid4()))
    for i, a, m in ((3, [3.0], 0.5), (4, [4.0, 5.0, 6.0], "text"), (5, [7.0], 3)):
        run[i][1]["data"].update(a=a, m=m)
    for first, last in ((0, 3), (3, 4), (4, 5), (5, None)):
        append(ledger, run, first, last)
        Projector(ledger, runs).sync()

    stream = find(find(runs, uid_of(run)), "primary").base
    assert [list(map(float, row)) for row in stream["a"].read()] == [[1, 2], [3], [4, 5, 6], [7]]
    assert [float(value) for value in stream["internal"].read()["m"] if value != "text"] == [0, 0.5, 3]
    assert differences(ledger, runs, None) == {}


def test_a_run_that_was_given_up_and_went_on_is_brought_level(ledger, runs):
    run = scan(10)
    given_up = ("stop", {**run[-1][1], "exit_status": "abort", "analysis": {"abandoned": True}})
    with following(Projector(ledger, runs)) as projector:
        put(ledger, [*run[:5], given_up])
        wait_until(lambda: "stop" in (getattr(find(runs, uid_of(run)), "metadata", None) or {}))

        put(ledger, run)
        wait_until(lambda: projector.report()["runs_level"] == 1)

    assert rows(runs, run) == (list(range(10)), 10)
    assert differences(ledger, runs, None) == {}
    assert "analysis" not in find(runs, uid_of(run)).metadata["stop"]


def test_a_file_that_is_cut_is_begun_again(ledger, runs):
    run = scan(10)
    with following(Projector(ledger, runs)) as projector:
        append(ledger, run, 0, 8)
        wait_until(lambda: n_rows(runs, run) == 6)
        path = ledger / f"{uid_of(run)}.jsonl"
        os.truncate(path, sum(len(dumps(*item)) for item in run[:5]))
        append(ledger, run, 5)
        wait_until(lambda: projector.report()["runs_level"] == 1)

    assert differences(ledger, runs, None) == {}
    assert rows(runs, run) == (list(range(10)), 10)


# refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["start", "rows", "stop", "fewer rows", "rows of an open run"])
def test_another_run_of_the_same_uid_is_refused_and_the_catalog_left_as_it_is(ledger, runs, other, tmp_path):
    run = scan(5)
    put(tmp_path / "there", run[:-1] if other == "rows of an open run" else run)
    Projector(tmp_path / "there", runs).sync()
    if other == "start":
        put(ledger, scan(5, uid=uid_of_text(run), sample="another"))
    elif other == "stop":
        put(ledger, [*run[:-1], ("stop", {**run[-1][1], "exit_status": "abort"})])
    elif other == "fewer rows":
        put(ledger, [*run[:5], run[-1]])
    else:
        event = run[4][1]
        put(ledger, [*run[:4], ("event", {**event, "data": {**event["data"], "x": -1.0}}), *run[5:]])
    good = scan(3)
    put(ledger, good)

    report = Projector(ledger, runs).sync()

    assert list(report["refused"]) == [uid_of(run)]
    assert "same uid, other content" in report["refused"][uid_of(run)]
    assert report["runs_level"] == 1
    assert differences(ledger, runs, None).keys() == {uid_of(run)}
    assert set(differences(tmp_path / "there", runs, None).values()) == {"the ledger has no such run"}


def uid_of_text(run):
    return TEXTS[uid_of(run)]


def test_a_line_that_cannot_be_read_ends_its_own_run_and_no_other(ledger, runs):
    bad, good = scan(3), scan(3)
    put(ledger, good)
    append(ledger, bad, 0, 3)
    (ledger / f"{uid_of(bad)}.jsonl").open("ab").write(b"{no JSON}\n")

    report = Projector(ledger, runs).sync()

    assert "line 4: wanted a document as JSON" in report["refused"][uid_of(bad)]
    assert rows(runs, good) == ([0, 1, 2], 3)


def test_one_projector_writes_to_a_catalog(ledger, directory, container):
    with following(Projector(ledger, directory, container=container)) as first:
        wait_until(lambda: first._tail is not None)
        with pytest.raises(PipelineOSError, match="by another projector"):
            Projector(ledger, directory, container=container).sync()


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(PipelineValueError, match="TILED_API_KEY"):
        Projector(tmp_path, "http://localhost:8000?api_key=secret")
    with pytest.raises(PipelineValueError, match="above zero"):
        Projector(tmp_path, flush_seconds=0)
    with pytest.raises(PipelineOSError, match="there is none"):
        Projector(tmp_path / "nowhere").sync()


# what is remembered ------------------------------------------------------------------------------------------------


def test_what_is_level_is_remembered_and_compared_again_when_that_is_lost(ledger, directory, container, runs):
    put(ledger, scan(3), scan(4))
    assert Projector(ledger, directory, container=container).sync()["runs_level"] == 2
    (database,) = (ledger / ".state").glob("projected-*.db")
    extra = scan(2)
    append(ledger, extra, 0, -1)
    Projector(ledger, directory, container=container).sync()
    append(ledger, extra, -1)

    database.write_bytes(b"no database")

    assert Projector(ledger, directory, container=container).sync()["runs_level"] == 3
    assert differences(ledger, runs, None) == {}


def test_a_catalog_that_was_emptied_is_filled_again(ledger, directory, container, runs):
    run = scan(3)
    put(ledger, run)
    Projector(ledger, directory, container=container).sync()
    find(runs, uid_of(run)).delete(recursive=True, external_only=False)

    Projector(ledger, directory, container=container).sync()

    assert differences(ledger, runs, None) == {}


# outages -----------------------------------------------------------------------------------------------------------


def test_a_catalog_that_does_not_answer_ends_a_sync_with_a_clear_error(ledger, dead_uri):
    put(ledger, scan(3))

    with pytest.raises(PipelineTimeoutError, match=r"could not be written to for 0.5 s: .*Connection refused"):
        Projector(ledger, dead_uri).sync(timeout=0.5)


def test_a_server_that_comes_late_and_goes_is_waited_for(ledger, directory, container, runs, monkeypatch, caplog):
    server = json.loads((directory / "server.json").read_bytes())
    port = free_port()
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_ATTEMPTS", 1)  # as in the projector's process
    monkeypatch.setenv("TILED_API_KEY", server["api_key"])
    early, late = scan(50), scan(50)
    put(ledger, early)

    with following(Projector(ledger, f"http://127.0.0.1:{port}/api/v1", container=container)) as projector:
        wait_until(lambda: projector.report()["outage"] and projector.report()["behind_bytes"])
        with forwarding(port, server["url"]):
            wait_until(lambda: projector.report()["runs_level"] == 1)
        append(ledger, late, 0, 20)
        wait_until(lambda: projector.report()["outage"])
        append(ledger, late, 20)
        with forwarding(port, server["url"]):
            wait_until(lambda: projector.report()["runs_level"] == 2)

    assert differences(ledger, runs, None) == {}
    assert sum("is tried again" in record.message for record in caplog.records) == 2
    assert sum("can be written to again" in record.message for record in caplog.records) == 2
    assert server["api_key"] not in caplog.text + json.dumps(projector.report())


@contextlib.contextmanager
def forwarding(port, url):
    """Forward a port to the server of this URL, for a while."""
    there = int(url.split(":")[2].partition("/")[0])
    command = [sys.executable, "-c", FORWARD, str(port), str(there)]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.kill()


FORWARD = """
import asyncio, sys

async def pump(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()

async def forward(reader, writer):
    there = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
    await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

async def main():
    async with await asyncio.start_server(forward, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()

asyncio.run(main())
"""


# killed ------------------------------------------------------------------------------------------------------------


def test_a_projector_that_is_killed_again_and_again_loses_and_doubles_nothing(ledger, directory, container, runs):
    put(ledger, scan())
    documents = [scan(400) for _ in range(3)]
    arguments = [str(ledger), "--to", str(directory), "--container", container, "--flush-seconds", "0.01"]
    command, environment = [sys.executable, "-c", KILLED, "14"], python_module("pipeline")[1]
    seed = random.randrange(1 << 30)
    writer = threading.Thread(target=grow, args=(ledger, documents, 6.0))

    with subprocess.Popen(
        [*command, str(seed), *arguments],
        env={**environment, "TILED_RETRY_ATTEMPTS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as killed:
        assert killed.stdout.readline(), killed.stderr.read()
        writer.start()
        _, errors = killed.communicate(timeout=300)
    writer.join()
    n_between = sum(n_rows(runs, run) for run in documents)
    report = Projector(ledger, directory, container=container).sync()

    assert killed.returncode == 0, errors
    assert n_between > 0
    assert report["refused"] == {}, seed
    assert [rows(runs, run) for run in documents] == [(list(range(400)), 400)] * 3, seed
    assert differences(ledger, runs, None) == {}, seed


def test_the_process_tells_its_report_and_ends_when_it_is_told_to(ledger, directory, container):
    run = scan(5)
    put(ledger, run)
    path = report_path(ledger, directory, container)

    with projecting(ledger, "--to", directory, "--container", container) as process:
        wait_until(lambda: path.exists() and json.loads(path.read_text())["runs_level"] == 1)
        began = time.monotonic()
        process.terminate()
        assert process.wait(10) == 0
        assert time.monotonic() - began < 5.0

    assert json.loads(path.read_text())["behind_bytes"] == 0


def test_the_process_ends_when_its_parent_is_gone(ledger, directory, container):
    command, environment = python_module(
        "pipeline.projector_process", str(ledger), "--to", str(directory), "--container", container
    )
    starter = f"import subprocess, sys, time; print(subprocess.Popen({command!r}).pid, flush=True); time.sleep(3)"
    path = report_path(ledger, directory, container)
    with subprocess.Popen([sys.executable, "-c", starter], env=environment, stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        wait_until(path.exists)
        parent.kill()

    wait_until(lambda: not is_alive(pid))


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# other catalogs ----------------------------------------------------------------------------------------------------


def test_tiled_on_postgresql_is_brought_level_by_uri_and_no_key_is_told(ledger, on_postgres, postgres_server, caplog):
    uri, key = postgres_server
    name = f"c{uuid.uuid4().hex[:8]}"
    on_postgres.create_container(key=name, specs=RUNS)
    half, whole = scan(300), scan(300)
    append(ledger, half, 0, 100)
    Projector(ledger, uri, container=name).sync()
    append(ledger, half, 100)
    put(ledger, whole)

    report = Projector(ledger, uri, container=name).sync()

    assert report["runs_level"] == 2
    assert rows(on_postgres[name], half) == (list(range(300)), 300)
    assert differences(ledger, on_postgres, name) == {}
    written = b"".join(path.read_bytes() for path in (ledger / ".state").iterdir())
    assert key not in caplog.text + json.dumps(report)
    assert key.encode() not in written


def test_a_mongo_backed_catalog_is_brought_level_and_no_event_is_doubled(ledger):
    catalog = databroker.temp()
    half, whole, other = scan(40), scan(5), scan(4)
    append(ledger, half, 0, 30)
    put(ledger, whole)
    Projector(ledger, catalog).sync()
    append(ledger, half, 30)
    put(ledger, [*other[:-1], ("stop", {**other[-1][1], "reason": "none"})])
    for name, doc in other:
        catalog.insert(name, doc)

    report = Projector(ledger, catalog).sync()
    again = Projector(ledger, catalog).sync()

    assert (report["runs_level"], list(report["refused"])) == (2, [uid_of(other)])
    assert again["runs_level"] == 2
    time.sleep(2.1)  # for so long the catalog shows an open run as it was when it was last looked at
    pages = [doc for name, doc in catalog.v2[uid_of(half)].documents(fill=False) if name == "event_page"]
    assert sorted(number for page in pages for number in page["seq_num"]) == list(range(1, 41))
    assert differences(ledger, catalog, "analysis").keys() == {uid_of(other)}


# the last, since it takes the server away from the others -------------------------------------------------------------


def test_a_server_that_is_killed_again_and_again_costs_nothing_but_time(ledger, directory, container):
    documents = [scan(400) for _ in range(2)]
    writer = threading.Thread(target=grow, args=(ledger, documents, 10.0))
    path = report_path(ledger, directory, container)
    arguments = (ledger, "--to", directory, "--container", container, "--flush-seconds", "0.01")

    with projecting(*arguments) as process:
        writer.start()
        wait_until(path.exists)
        for _ in range(4):
            time.sleep(random.uniform(0.0, 0.5))
            killed = server_of(directory)
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda killed=killed: server_of(directory) not in (None, killed))
        writer.join()
        wait_until(lambda: json.loads(path.read_text())["runs_level"] == 2)
        process.terminate()
        said = process.communicate(timeout=10)[1]

    with open_catalog(directory) as catalog:
        runs = find(catalog, container)
        assert [rows(runs, run) for run in documents] == [(list(range(400)), 400)] * 2
        assert differences(ledger, runs, None) == {}
    assert 1 <= said.count("is tried again") == said.count("can be written to again") <= 4  # one may follow at once


def server_of(directory):
    """The process id of the server of a catalog; None while there is none."""
    try:
        return json.loads((directory / "server.json").read_bytes())["pid"]
    except FileNotFoundError:
        return None

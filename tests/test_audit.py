"""The audit finds what differs between a ledger and a catalog; and the commands that sync and audit."""

import argparse
import uuid

import databroker
import pytest
from servers import RUNS

from pipeline.audit import audit
from pipeline.catalog import open_catalog, stop_server
from pipeline.catalogs import find
from pipeline.errors import ConfigError, PipelineOSError
from pipeline.projector import Projector
from pipeline.sinks.jsonl import JSONLSink
from pipeline.sync_commands import add_commands
from pipeline.testing import make_run


def scan(n=3):
    columns = {"x": [0.5 * i for i in range(n)], "s": ["a"] * n, "iq": [[1.0 * i, 2.0, 3.0] for i in range(n)]}
    return make_run(columns, uid=str(uuid.uuid4()))


def put(ledger, *runs):
    with JSONLSink(ledger) as sink:
        for documents in runs:
            for name, doc in documents:
                sink(name, doc)


def changed(documents, i, **data):
    """The run with another value in its document number `i`."""
    name, doc = documents[i]
    return [*documents[:i], (name, {**doc, "data": {**doc["data"], **data}}), *documents[i + 1 :]]


def uid_of(documents):
    return documents[0][1]["uid"]


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
    return catalog.create_container(key=f"c{uuid.uuid4().hex[:8]}", specs=RUNS)


CASES = {
    "nothing": (lambda run: run, lambda run: run, ""),
    "missing run": (lambda run: run, lambda run: [], "the catalog has no such run"),
    "extra run": (lambda run: [], lambda run: run, "the ledger has no such run"),
    "missing row": (lambda run: run, lambda run: run[:4], "wanted 3 rows, there are 2"),
    "extra row": (lambda run: run[:4], lambda run: run[:5], "wanted 2 rows, there are 3"),
    "missing stop": (lambda run: run, lambda run: run[:-1], "there is no stop document"),
    "extra stop": (lambda run: run[:-1], lambda run: run, "there is a stop document"),
    "missing stream": (lambda run: run, lambda run: run[:1], "there is no stream 'primary'"),
    "changed number": (lambda run: changed(run, 3, x=7.5), lambda run: run, "row 2, 'x': wanted 7.5, there is 0.5"),
    "changed text": (lambda run: changed(run, 2, s="b"), lambda run: run, "row 1, 's': wanted 'b', there is 'a'"),
    "changed array": (
        lambda run: changed(run, 4, iq=[2.0, 2.0, 9.0]),
        lambda run: run,
        "row 3, 'iq': wanted [2.0, 2.0, 9.0], there is [2.0, 2.0, 3.0]",
    ),
    "NaN": (lambda run: changed(run, 3, x=float("nan")), lambda run: run, "row 2, 'x': wanted None, there is 0.5"),
    "changed start": (
        lambda run: [("start", {**run[0][1], "plan_name": "other"}), *run[1:]],
        lambda run: run,
        "start['plan_name']: wanted 'other', there is none",
    ),
    "changed stop": (
        lambda run: [*run[:-1], ("stop", {**run[-1][1], "exit_status": "fail"})],
        lambda run: run,
        "stop['exit_status']: wanted 'fail', there is 'success'",
    ),
}


@pytest.fixture(scope="module")
def found(catalog, tmp_path_factory):
    """What the audit says of a run of each case, all of them in one catalog."""
    runs = catalog.create_container(key="cases", specs=RUNS)
    there, ledger = tmp_path_factory.mktemp("there"), tmp_path_factory.mktemp("ledger")
    uids = {}
    for case, (in_ledger, in_catalog, _) in CASES.items():
        run = scan()
        uids[case] = uid_of(run)
        put(there, in_catalog(run))
        put(ledger, in_ledger(run))
    Projector(there, runs).sync()
    differences = {each.uid: each.difference for each in audit(ledger, runs)}
    return {case: differences[uid] for case, uid in uids.items()}


@pytest.mark.parametrize("case", CASES)
def test_each_difference_is_found_and_told(found, case):
    told = CASES[case][2]

    assert told in found[case]
    assert bool(told) == bool(found[case])


def test_a_run_of_many_rows_is_compared_to_its_end(runs, tmp_path):
    run = scan(2500)
    put(tmp_path / "there", run)
    Projector(tmp_path / "there", runs).sync()
    put(tmp_path / "ledger", changed(run, 2 + 2499, iq=[0.0, 0.0, 1.0]))

    (found,) = audit(tmp_path / "ledger", runs)

    assert "row 2500, 'iq'" in found.difference


def test_a_mongo_backed_catalog_is_compared_document_by_document(tmp_path):
    catalog = databroker.temp()
    same, other, missing, extra = scan(), scan(), scan(), scan()
    put(tmp_path, same, changed(other, 3, x=7.5), missing)
    for documents in (same, other, extra):
        for name, doc in documents:
            catalog.insert(name, doc)

    found = {each.uid: each.difference for each in audit(tmp_path, catalog)}

    assert found == {
        uid_of(same): "",
        uid_of(other): "event 2['data']['x']: wanted 7.5, there is 0.5",
        uid_of(missing): "the catalog has no such run",
        uid_of(extra): "the ledger has no such run",
    }


def test_a_ledger_that_is_not_there_is_told(tmp_path):
    with pytest.raises(PipelineOSError, match="wanted the folder of a ledger"):
        list(audit(tmp_path / "nowhere", databroker.temp()))


# commands ----------------------------------------------------------------------------------------------------------


def run_command(*argv):
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)

    def command(name, work, text):
        added = commands.add_parser(name, help=text)
        added.set_defaults(work=work)
        return added

    add_commands(command)
    args = parser.parse_args([str(word) for word in argv])
    return args.work(args)


def test_the_commands_bring_level_and_show_it(directory, runs, tmp_path, capsys):
    container = ("--container", runs.path_parts[-1])
    run = scan()
    put(tmp_path, run)

    assert run_command("audit", tmp_path, "--catalog", directory, *container) == 1
    assert "the catalog has no such run" in capsys.readouterr().out
    assert run_command("sync", tmp_path, "--to", directory, *container) == 0
    assert "level" in capsys.readouterr().out
    assert run_command("audit", tmp_path, "--catalog", directory, *container) == 0
    assert "1 of 1 runs are the same" in capsys.readouterr().out
    assert find(runs, uid_of(run)).metadata["stop"]["exit_status"] == "success"


def test_a_sync_that_refuses_a_run_says_which_and_why(directory, runs, tmp_path, capsys):
    run = scan()
    put(tmp_path / "there", run)
    Projector(tmp_path / "there", runs).sync()
    put(tmp_path / "ledger", changed(run, 3, x=7.5))

    code = run_command("sync", tmp_path / "ledger", "--to", directory, "--container", runs.path_parts[-1])

    assert code == 1
    out = capsys.readouterr().out
    assert f"refused: {uid_of(run)}" in out
    assert "wanted 7.5, there is 0.5" in out


def test_a_key_in_the_address_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="TILED_API_KEY"):
        run_command("sync", tmp_path, "--to", "http://localhost:8000?api_key=secret")

"""The commands about stored runs: what a person sees of `store`, `export`, `find`, `lineage` and `show`."""

import json

import numpy
import pytest

from pipeline.catalog import open_catalog, stop_server
from pipeline.catalog_run import CatalogRun
from pipeline.cli import main
from pipeline.sources import read_jsonl


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    path = tmp_path_factory.mktemp("commands") / "catalog"
    yield path
    stop_server(path)


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("angle (deg),counts,label\n1.5,3,a\n2.5,4,\n")
    return path


@pytest.fixture
def say(capsys):
    """Run a command; return its exit code, what it printed, and what went wrong."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def stored_run(ledger):
    (path,) = ledger.glob("*.jsonl")
    return list(read_jsonl(path))


def test_a_file_is_stored_linked_to_its_raw_run_with_its_name_and_hash(say, results, catalog):
    code, out, _ = say(
        "store", results, "--raw", "raw-of-csv", "--metadata", "sample=Cu", "--metadata", "n=3", "--to", catalog
    )

    assert code == 0
    uid = out.splitlines()[1].split()[1]
    with open_catalog(catalog) as there:
        run = CatalogRun(there.analysis[uid])
        start = run.metadata["start"]
        read = run.primary.read()
    assert (start["original_run_uid"], start["sample"], start["n"]) == ("raw-of-csv", "Cu", 3)
    (reference,) = start["analysis"]["references"]
    assert (reference["name"], len(reference["sha256"])) == ("results.csv", 64)
    assert read["angle"].attrs == {"units": "deg"}
    assert read["label"].values.tolist() == ["a", None]


def test_the_same_file_again_is_the_same_run_and_other_metadata_make_another(say, results, tmp_path, catalog):
    def uid(*more):
        return say("store", results, "--to", catalog, *more)[1].splitlines()[1].split()[1]

    first = uid("--raw", "again")

    results.touch()
    assert uid("--raw", "again") == first
    assert uid("--raw", "again", "--metadata", "sample=Au") != first


def test_several_raw_runs_have_their_roles(say, results, tmp_path):
    code, _, _ = say(
        "store",
        results,
        "--raw",
        "sample=a",
        "--raw",
        "buffer=b",
        "--ledger",
        tmp_path / "l",
        "--to",
        tmp_path / "catalog",
    )
    stop_server(tmp_path / "catalog")

    assert code == 0
    assert stored_run(tmp_path / "l")[0][1]["analysis"]["parents"] == [
        {"uid": "a", "role": "sample"},
        {"uid": "b", "role": "buffer"},
    ]


def test_a_folder_is_stored_as_far_as_it_can_be_and_what_cannot_is_told(say, results, catalog):
    numpy.savez(results.with_name("good.npz"), x=[1.0, 2.0])
    results.with_name("bad.csv").write_bytes(b"x,y\n1,2\n3\x00,4,5,6\n")

    code, out, _ = say("store", results.parent, "--raw", "of-a-folder", "--to", catalog)

    rows = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert code == 1
    assert "not stored" in rows["bad.csv"]
    assert "bad.csv" in rows["bad.csv"].split("not stored")[1]
    assert "primary: 2 of x" in rows["good.npz"]
    _, out, _ = say("find", "of-a-folder", "--catalog", catalog, "--json")
    assert len(json.loads(out)) == 2


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet", "netcdf", "nexus"])
def test_what_is_exported_is_stored_again_equal(format, say, results, tmp_path, catalog):
    _, out, _ = say("store", results, "--raw", f"for-{format}", "--metadata", "sample={name: Cu}", "--to", catalog)
    uid = out.splitlines()[1].split()[1]

    assert say("export", uid, "--format", format, "--to", tmp_path / "out", "--catalog", catalog)[0] == 0
    assert say("store", tmp_path / "out", "--ledger", tmp_path / "again", "--to", catalog)[0] == 0

    with open_catalog(catalog) as there:
        first = CatalogRun(there.analysis[uid])
        again = CatalogRun(there.analysis[stored_run(tmp_path / "again")[0][1]["uid"]])
        assert again.primary.read().identical(first.primary.read())
        one, other = first.metadata["start"], again.metadata["start"]
    assert {key: other[key] for key in one if key not in ("uid", "time")} == {
        key: one[key] for key in one if key not in ("uid", "time")
    }


def test_lineage_is_drawn_in_each_format(say, results, catalog):
    _, out, _ = say("store", results, "--raw", "root", "--name", "peak", "--to", catalog)
    uid = out.splitlines()[1].split()[1]

    drawn = {
        format: say("lineage", uid, "--catalog", catalog, "--format", format)[1]
        for format in ("tree", "mermaid", "graphviz", "json", "prov")
    }

    assert drawn["tree"].splitlines()[0].startswith("root")
    assert drawn["tree"].splitlines()[1] == f"└─ {uid}  peak  <-- asked for"
    assert drawn["mermaid"].startswith("flowchart")
    assert drawn["graphviz"].startswith("digraph")
    assert uid in json.dumps(json.loads(drawn["json"]))
    assert "wasDerivedFrom" in json.loads(drawn["prov"])


def test_show_tells_programs_what_it_tells_people(say, results, tmp_path, catalog):
    say("store", results, "--raw", "shown", "--ledger", tmp_path / "l", "--to", catalog)
    (path,) = (tmp_path / "l").glob("*.jsonl")

    code, out, _ = say("show", path, "--json")

    (run,) = json.loads(out)
    assert code == 0
    assert run["streams"] == {"primary": {"events": 2, "fields": ["angle", "counts", "label"]}}
    assert "read       results.csv" in say("show", path)[1]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["store", "nowhere.csv"], 2, "nowhere.csv: wanted a file of results"),
        (["store", "README.md", "--metadata", "sample"], 2, "--metadata: wanted KEY=VALUE, there is 'sample'"),
        (["store", "README.md", "--to", "no-such"], 1, "no profile of"),
        (["find", "x", "--catalog", "no-such"], 1, "no profile of"),
        (
            ["show", "no-such-run", "--catalog", "./no/such/catalog"],
            2,
            "wanted a catalog in ./no/such/catalog, there is none",
        ),
        (["find", "x", "--catalog", "./no/such/catalog"], 2, "wanted a catalog in ./no/such/catalog"),
        (["lineage", "x", "--catalog", "./no/such/catalog"], 2, "wanted a catalog in ./no/such/catalog"),
    ],
)
def test_a_wrong_call_is_told_in_words(arguments, code, says, say):
    got, _, err = say(*arguments)

    assert says in err
    assert got == code


def test_nothing_found_is_said(say, catalog):
    assert say("find", "of-nothing", "--catalog", catalog)[:2] == (0, "No analysis of of-nothing is there.\n")

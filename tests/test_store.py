"""Results are stored with one call in any catalog, linked to their raw run, and read back as they were given."""

import copy
import json
import time

import databroker
import numpy
import pytest
import xarray
from kinds import TABLES, VALUES, same
from tiled.client import from_uri

from pipeline import Node, Pipeline, RunBuilder, build_simple_run, store
from pipeline.catalog import open_catalog, stop_server
from pipeline.catalog_run import CatalogRun
from pipeline.catalogs import runs_of
from pipeline.errors import PipelineError, PipelineRuntimeError
from pipeline.provenance import recipe_hash
from pipeline.reductions import Mean
from pipeline.sources import read_jsonl
from pipeline.store import Store
from pipeline.testing import make_run


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "catalog"
    yield path
    stop_server(path)


@pytest.fixture(scope="module", params=["embedded", "databroker.temp()", "PostgreSQL"])
def catalog(request, directory):
    if request.param == "embedded":
        with open_catalog(directory) as catalog:
            yield catalog
    elif request.param == "PostgreSQL":
        uri, key = request.getfixturevalue("postgres_server")
        catalog = from_uri(uri, api_key=key, remember_me=False)
        yield catalog
        catalog.context.close()
    else:
        yield databroker.temp()


def found(catalog, uid):
    return CatalogRun(runs_of(catalog)[uid])


# what is stored ----------------------------------------------------------------------------------------------------


def test_every_kind_of_value_of_every_kind_of_table_reads_back_equal(catalog):
    with Store(catalog, ledger=False) as stored:
        uids = {table: stored(make(VALUES)).uid for table, make in TABLES.items()}

    read = {table: found(catalog, uid).primary.read() for table, uid in uids.items()}
    cells = [(table, kind) for table in TABLES for kind in VALUES]
    assert [cell for cell in cells if not same(read[cell[0]][cell[1]].values, VALUES[cell[1]])] == []


def test_what_is_stored_is_identical_to_what_is_read_back(catalog):
    data = xarray.Dataset(
        {
            "intensity": (("angle", "q"), numpy.arange(6, dtype="f4").reshape(2, 3), {"units": "1/s", "of": "I(q)"}),
            "frames": (("angle", "y", "x"), numpy.ones((2, 3, 3), "u2")),
            "n": ("angle", numpy.array([1, 2], "i2")),
            "USAXS.a2rp": ("angle", [0.5, float("nan")], {"units": "deg"}),
            "N": ("angle", ["θ", "b"]),
            "at": ("angle", numpy.array(["2026-01-01T00:00:00.000000001", "NaT"], "M8[ns]")),
        },
        coords={"q": ("q", [0.1, 0.2, 0.3], {"units": "1/nm"}), "angle": ("angle", [10.0, 20.0], {"units": "deg"})},
        attrs={"detector": "Pilatus", "distance": 2.5},
    )
    run = build_simple_run(data)

    store(run, catalog, ledger=False)

    assert found(catalog, run.uid).primary.read().identical(run.primary.read())


@pytest.mark.parametrize("columns", [{"x": []}, {"x": numpy.zeros((0, 3), "u2"), "t": numpy.zeros(0, "M8[ns]")}])
def test_a_table_without_rows_is_a_run_without_events(catalog, columns):
    run = store(columns, catalog, ledger=False)

    read = found(catalog, run.uid)

    assert read.metadata["stop"]["num_events"] == {"primary": 0}
    assert read.primary.read().identical(run.primary.read())


def test_several_streams_are_read_back_each(catalog):
    with RunBuilder({"sample": {"name": "Cu"}}) as builder:
        builder.add_stream("primary", data={"x": [1, 2]})
        builder.add_stream("baseline", data={"z": [0.5]})

    store(builder.get_run(), catalog, ledger=False)

    read = found(catalog, builder.uid)
    assert sorted(read) == ["baseline", "primary"]
    assert read.metadata["start"]["sample"] == {"name": "Cu"}
    assert read.baseline.read()["z"].values.tolist() == [0.5]


# of which raw run --------------------------------------------------------------------------------------------------


def provenance(start):
    return start["original_run_uid"], start["parent_uids"], start["analysis"]["parents"]


def test_the_start_document_tells_of_the_raw_run_as_that_of_a_node_does(kept, catalog):
    raw = make_run({"det": [1.0]}, uid="raw", sample="Cu", scan_id=7, plan_name="count", data_session="pass-1")
    Pipeline([Node("mean", Mean("det"))], [kept]).replay(raw)

    stored = store({"x": [1.0]}, catalog, raw=raw[0][1], name="by hand", ledger=False)

    start, of_node = found(catalog, stored.uid).metadata["start"], kept.named("start")[0]
    assert start.keys() == of_node.keys()
    assert start["analysis"].keys() == of_node["analysis"].keys()
    assert provenance(start) == provenance(of_node)
    assert {key: start[key] for key in ("raw", "sample", "data_session")} == {
        key: of_node[key] for key in ("raw", "sample", "data_session")
    }
    assert start["analysis"]["node"] == "by hand"
    assert start["analysis"]["recipe_hash"] == recipe_hash(start["analysis"]["recipe"])


def test_raw_runs_are_given_as_uids_runs_or_documents_with_their_roles(catalog):
    sample, buffer = build_simple_run({"x": [1]}), build_simple_run({"x": [2]})

    by_role = store({"x": [1]}, catalog, raw={"sample": sample, "buffer": buffer.uid}, ledger=False).metadata["start"]
    listed = store({"x": [1]}, catalog, raw=[sample.uid, buffer.metadata["start"]], ledger=False).metadata["start"]

    parents = [{"uid": sample.uid, "role": "sample"}, {"uid": buffer.uid, "role": "buffer"}]
    assert provenance(by_role) == (sample.uid, [sample.uid, buffer.uid], parents)
    assert [parent["role"] for parent in listed["analysis"]["parents"]] == ["raw", "raw_2"]


def test_what_the_catalog_knows_of_the_raw_run_is_taken_over(catalog):
    raw = build_simple_run({"x": [1]}, {"sample": "Cu", "scan_id": 12, "plan_name": "count"})
    store(raw, catalog, ledger=False)

    start = store({"x": [1]}, catalog, raw=raw.uid, ledger=False).metadata["start"]

    assert (start["sample"], start["raw"]["scan_id"]) == ("Cu", 12)
    assert "scan_id" not in start


def test_an_analysis_of_an_analysis_is_of_the_same_raw_run(catalog):
    first = store({"x": [1]}, catalog, raw="the-raw-run", ledger=False)

    second = store({"x": [2]}, catalog, raw=first, ledger=False).metadata["start"]

    assert second["original_run_uid"] == "the-raw-run"
    assert second["parent_uids"] == [first.uid]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"raw": 7}, "wanted a uid, a run or a start document; there is a int"),
        ({"raw": []}, "wanted the runs that the results are of"),
        ({"raw": "a", "metadata": {"analysis": "mine"}}, "metadata says 'analysis'"),
        ({"metadata": {"n": 2**60}}, r"start\['n'\] is 1152921504606846976; wanted integers up to 2\*\*53"),
        ({"metadata": {"a.b": 1}}, "not valid"),
        ({"metadata": {"a": 1j}}, r"metadata\['a'\] is of type complex"),
    ],
)
def test_what_cannot_be_told_is_refused_before_anything_is_written(given, says, tmp_path):
    catalog = databroker.temp()

    with pytest.raises(PipelineError, match=says):
        store({"x": [1]}, catalog, ledger=tmp_path, **given)

    assert list(tmp_path.iterdir()) == []
    assert len(catalog.v2) == 0


# whatever is handed over -------------------------------------------------------------------------------------------


def test_documents_runs_and_builders_are_stored_alike(tmp_path):
    documents = make_run({"det": [1.0, 2.0]}, uid="raw")
    with RunBuilder() as builder:
        builder.add_stream("primary", data={"x": [1]})
    catalog, other = databroker.temp(), databroker.temp()

    uids = [store(run, catalog, ledger=tmp_path).uid for run in (documents, iter(documents), builder)]
    store(catalog.v2[uids[0]], other, ledger=False)

    assert (len(catalog.v2), len(other.v2)) == (2, 1)
    assert CatalogRun(other.v2[uids[0]])["primary"]["det"].values.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("documents", "says"),
    [
        (make_run({"det": [1.0]})[:-1], "wanted a whole run, its stop document last; run .* ends with 'event'"),
        (make_run({"det": [1.0]})[1:], "its start document first; there are"),
        (make_run({"det": [1.0]}) * 2, "wanted one run"),
        ([("start", {"uid": "a"}), ("stop", {})], "not valid"),
        ("results.csv", "wanted a dict of columns"),
    ],
)
def test_half_a_run_is_not_stored(documents, says, tmp_path):
    with pytest.raises(PipelineError, match=says):
        store(documents, databroker.temp(), ledger=tmp_path)

    assert list(tmp_path.iterdir()) == []


# again, and after faults -------------------------------------------------------------------------------------------


def test_the_same_run_twice_is_one(catalog, tmp_path):
    run = build_simple_run({"x": [1, 2]})

    for _ in range(2):
        store(run, catalog, ledger=tmp_path)

    assert list(runs_of(catalog)).count(run.uid) == 1
    assert found(catalog, run.uid).primary["x"].values.tolist() == [1, 2]
    assert len((tmp_path / f"{run.uid}.jsonl").read_bytes().splitlines()) == 4


def test_another_run_of_the_same_uid_is_refused(catalog, tmp_path):
    run = store({"x": [1]}, catalog, ledger=tmp_path)

    with pytest.raises(PipelineError, match="the file has another document of this run"):
        store({"x": [2]}, catalog, uid=run.uid, ledger=tmp_path)
    with pytest.raises(PipelineError, match="same uid, other content"):
        store({"x": [2]}, catalog, uid=run.uid, ledger=False)

    assert found(catalog, run.uid).primary["x"].values.tolist() == [1]


def test_the_ledger_is_first_and_the_other_catalogs_are_written_whatever_becomes_of_one(directory, tmp_path):
    run = build_simple_run({"x": [1, 2]})
    with open_catalog(directory) as gone:
        client = gone.analysis
    other = databroker.temp()

    with pytest.raises(
        PipelineRuntimeError, match=r"is whole in the ledger .* and in the catalog given as Broker; "
    ) as e:
        store(run, [client, other], ledger=tmp_path, timeout=1.0)

    assert "it is not in the catalog given as CatalogOfBlueskyRuns: " in str(e.value)
    assert [name for name, _ in read_jsonl(tmp_path)] == ["start", "descriptor", "event_page", "stop"]
    assert found(other, run.uid).primary["x"].values.tolist() == [1, 2]
    with open_catalog(directory) as catalog:
        store(run, [catalog, other], ledger=tmp_path)
        assert found(catalog, run.uid).primary["x"].values.tolist() == [1, 2]
    assert len(other.v2) == 1


def test_half_a_run_in_a_catalog_is_completed(catalog):
    run = build_simple_run({"x": [1, 2]})
    container = runs_of(catalog)
    for name, doc in list(run.documents())[:2]:
        container.v1.insert(name, doc)

    store(run, catalog, ledger=False)

    time.sleep(2.1)  # so long a catalog in memory remembers that the run was open
    read = found(catalog, run.uid)
    assert read.metadata["stop"]["exit_status"] == "success"
    assert read.primary["x"].values.tolist() == [1, 2]


def test_what_is_stored_is_not_what_was_given(tmp_path):
    documents = make_run({"det": [1.0]}, uid="raw")
    before = copy.deepcopy(documents)

    store(documents, databroker.temp(), raw="another", metadata={"sample": "Cu"}, ledger=tmp_path)

    assert documents == before


def test_a_path_is_the_embedded_catalog_there_with_its_ledger(directory):
    run = store({"x": [1]}, directory, raw="7f3c")

    (path,) = (directory / "ledger").glob(f"{run.uid}.jsonl")
    assert json.loads(path.read_bytes().splitlines()[0])[1]["original_run_uid"] == "7f3c"
    with open_catalog(directory) as catalog:
        assert found(catalog, run.uid).metadata["start"]["parent_uids"] == ["7f3c"]

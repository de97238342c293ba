"""Tables of real analyses are stored with their raw runs, found from them, exported, and stored again equal."""

import json

import pytest

from pipeline import analyses, build_simple_run, raw_runs, store
from pipeline.catalog import open_catalog, stop_server
from pipeline.files import export, read_results, result_files
from pipeline.sources import read_jsonl
from pipeline.store import Store
from pipeline.store_file import store_file

TABLES = {  # file -> its raw run
    "usaxs_fly/S10_Blank_beamline_reduced.npz": "usaxs_fly/S10_Blank.jsonl",
    "usaxs_fly/S11_GC_beamline_reduced.npz": "usaxs_fly/S11_GC.jsonl",
    "xas/NSLS6BM_2019.dat": "xas/NSLS6BM_2019_dat.jsonl",
    "xas/cu_metal_rt.xdi": "xas/cu_metal_rt_xdi.jsonl",
    "xas/v_foil.xdi": "xas/v_foil_xdi.jsonl",
    "xas/fexanes_a.001": "xas/fexanes_a_001.jsonl",
}
SAME = ("original_run_uid", "parent_uids", "analysis", "raw")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    path = tmp_path_factory.mktemp("real") / "catalog"
    with open_catalog(path) as catalog:
        yield catalog
    stop_server(path)


def same_data(one, other):
    assert sorted(one) == sorted(other)
    for stream in one:
        assert one[stream].read().identical(other[stream].read())


@pytest.mark.parametrize("table", TABLES)
def test_a_table_of_a_beamline_is_found_from_its_raw_run(table, data_folder, catalog):
    format = "text" if table.endswith(".001") else None
    raw = next(iter(read_jsonl(data_folder / TABLES[table])))[1]
    with Store(catalog, ledger=False) as into:
        (stored,) = store_file(data_folder / table, into, raw=raw, name="beamline", format=format)

    (found,) = analyses(catalog, raw["uid"], node="beamline")

    same_data(found, stored)
    for stream, given in read_results(data_folder / table, format=format).streams.items():
        read = found[stream].read()
        for name, column in given.data_vars.items():
            assert read[name].values.tolist() == column.values.tolist()
            assert read[name].attrs.get("units") == column.attrs.get("units")


@pytest.mark.parametrize("format", ["csv", "parquet", "netcdf", "nexus", "jsonl"])
def test_it_is_exported_and_stored_again_equal(format, data_folder, catalog, tmp_path):
    raw = list(read_jsonl(data_folder / "usaxs_fly/S11_GC.jsonl"))
    uid = raw[0][1]["uid"]
    with Store(catalog, ledger=False) as into:
        into(raw)
        (first,) = store_file(data_folder / "usaxs_fly/S11_GC_beamline_reduced.npz", into, raw=raw[0][1])
    (found,) = analyses(catalog, uid, node="store")
    (parent,) = raw_runs(catalog, found)
    assert parent.run is not None
    assert parent.run.uid == uid

    export(found, format, tmp_path)
    with Store([], ledger=tmp_path / "ledger") as into:
        again = [run for path in result_files(tmp_path) for run in store_file(path, into)]

    kept = [{key: run.metadata["start"][key] for key in SAME} for run in (first, *again)]
    assert all(each == kept[0] for each in kept)
    streams = {stream: run[stream] for run in again for stream in run}
    same_data({stream: first[stream] for stream in first}, streams)


def test_certified_results_are_stored_beside_what_was_computed(data_folder, catalog):
    raw = list(read_jsonl(data_folder / "nist_linear/Norris.jsonl"))
    reference = json.loads((data_folder / "nist_linear/reference.json").read_text())["Norris"]
    uid = raw[0][1]["uid"]

    for name in ("certified", "scipy"):
        table = build_simple_run({key: [value] for key, value in reference[name].items()})
        store(table, catalog, raw=raw[0][1], name=name, ledger=False)

    assert {run.metadata["start"]["analysis"]["node"] for run in analyses(catalog, uid)} == {"certified", "scipy"}
    (certified,) = analyses(catalog, uid, node="certified")
    assert certified.primary["B1"].item() == reference["certified"]["B1"]

"""A file of results becomes a run, the run a file again, and that the same run."""

import numpy
import pytest
from test_export import plainly

from pipeline import RunBuilder
from pipeline.files import export, read_results
from pipeline.files.table import Table

REAL = ["xas/fexanes_a.001", "xas/NSLS6BM_2019.dat", "usaxs_fly/S11_GC_beamline_reduced.npz", "xrd_ramp/reference.npz"]


def run_of(results):
    with RunBuilder(results.metadata, uid="7f3c", time=1.5) as builder:
        for name, data in results.streams.items():
            builder.add_stream(name, data=data)
    return builder.get_run()


def read(run, name):
    """A stream with None for missing texts: xarray puts NaN there when it makes a Dataset."""
    return Table.of(name, run[name].read()).dataset()


def check_the_way_there_and_back(path, format, folder):
    run = run_of(read_results(path))

    paths = [each for each in export(run, format, folder) if not each.name.endswith(".json")]
    found = {name: data for each in paths for name, data in read_results(each).streams.items()}

    assert len(run) > 0
    assert found.keys() == set(run)
    for name in run:
        assert plainly(found[name]) == plainly(read(run, name))
    again = RunBuilder(read_results(paths[0]).metadata, uid="7f3c", time=1.5)
    for name, data in found.items():
        again.add_stream(name, data=data)
        assert plainly(read(again.get_run(), name)) == plainly(read(run, name))


@pytest.mark.parametrize("format", ["csv", "parquet", "netcdf", "nexus"])
@pytest.mark.parametrize("name", REAL)
def test_a_real_file_becomes_a_run_and_a_file_and_the_same_run(data_folder, name, format, tmp_path):
    check_the_way_there_and_back(data_folder / name, format, tmp_path)


@pytest.mark.parametrize("format", ["csv", "parquet", "netcdf", "nexus"])
def test_a_csv_becomes_a_run_and_a_file_and_the_same_run(format, tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(
        "# sample: Cü\nx/mm [mm],label,ok,when,n,time\n"
        "1.5,a,true,2026-01-01T00:00:00,1152921504606846976,1\n,,,,2,2\nnan,NA,false,2026-01-02,3,3\n"
    )

    check_the_way_there_and_back(path, format, tmp_path / "out")


def test_a_run_that_was_exported_as_jsonl_is_the_same_documents(tmp_path):
    with RunBuilder({"sample": "Cu"}, uid="7f3c", time=1.5) as builder:
        builder.add_stream("primary", data={"x": numpy.array([1.5, numpy.nan]), "n": numpy.array([2**60, 1])}, time=2.0)

    (path,) = export(builder.get_run(), "jsonl", tmp_path)

    assert repr(read_results(path).documents) == repr(list(builder.get_run().documents()))

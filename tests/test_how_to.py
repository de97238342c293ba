"""The how-to "How to store analysis results", as its reader types it, in a fresh interpreter."""

import subprocess
import sys

import numpy
import pytest

from pipeline.catalog import stop_server

HOW_TO = """
from pipeline import build_simple_run

run = build_simple_run({"x": [1, 2, 3], "y": [4, 5, 6]}, metadata={"sample": "Cu"})
store(run)

import numpy

run = build_simple_run({"x": numpy.array([1, 2, 3]), "y": numpy.array([4, 5, 6])}, metadata={"sample": "Cu"})
store(run)

import pandas

df = pandas.DataFrame({"x": [1, 2, 3], "y": [4, 5, 6]})
run = build_simple_run(df, metadata={"sample": "Cu"})
store(run)

import xarray

ds = xarray.Dataset({"x": ("row", [1, 2, 3]), "y": ("row", [4, 5, 6])})
run = build_simple_run(ds, metadata={"sample": "Cu"})
store(run)

from pipeline import RunBuilder

with RunBuilder(metadata={"sample": "Cu"}) as builder:
    builder.add_stream("primary", data={"x": [1, 2, 3], "y": [4, 5, 6]})
    builder.add_stream("baseline", data={"z": [[0.5, 0.75], [1.0, 2.0]]})
run = builder.get_run()
store(run)

found = runs()[-1]
assert found.metadata["start"]["sample"] == "Cu", found.metadata
print(sorted(found), found["primary"].read()["y"].values.tolist(), found["baseline"].read()["z"].values.tolist())
print(len(runs()))
"""

CATALOGS = {
    "databroker.temp()": "import databroker; catalog = databroker.temp(); runs = lambda: catalog.v2",
    "the embedded catalog": (
        "import sys; from pipeline.catalog import open_catalog; catalog = open_catalog(sys.argv[1]);"
        "runs = lambda: catalog.analysis"
    ),
}

STORE = """
def store(run):
    for name, doc in run.documents():
        catalog.v1.insert(name, doc)
"""


@pytest.mark.parametrize("catalog", CATALOGS)
def test_the_how_to_typed_in_order_stores_its_runs_and_finds_them_again(catalog, tmp_path):
    text = f"{CATALOGS[catalog]}\n{STORE}\n{HOW_TO}"

    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", text, str(tmp_path / "catalog")],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        stop_server(tmp_path / "catalog")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["['baseline', 'primary'] [4, 5, 6] [[0.5, 0.75], [1.0, 2.0]]", "5"]


def test_code_for_bluesky_live_runs_with_the_name_of_the_package_changed():
    """Each call of `bluesky_live.run_builder`, its keywords as they were."""
    from pipeline.run_builder import RunBuilder, build_simple_run

    data_keys = {"x": {"source": "whatever", "dtype": "number", "shape": []}}
    with RunBuilder({"sample": "Cu"}, uid="a", time=1.0) as builder:
        run = builder.get_run()
        builder.add_stream(
            "primary",
            data_keys=data_keys,
            time=2.0,
            uid="d",
            object_keys={"det": ["x"]},
            hints={"det": {"fields": ["x"]}},
        )
        builder.add_data(
            "primary", data={"x": [1, 2, 3]}, time=[3.0] * 3, timestamps={"x": [3.0] * 3}, seq_num=[1, 2, 3]
        )
        builder.add_data("primary", {"x": numpy.array([4, 5, 6])}, seq_num=numpy.array([4, 5, 6]))
        builder.update_configuration("primary", {"det": {"data": {}, "timestamps": {}, "data_keys": {}}})
        builder.add_stream("baseline", data={"z": [1.0]}, time=4.0)
        assert not builder.closed
        builder.close(exit_status="success", reason="", uid="s", time=5.0)

    assert builder.closed
    assert run.primary.read()["x"].values.tolist() == [1, 2, 3, 4, 5, 6]
    assert run.metadata["stop"]["num_events"] == {"primary": 6, "baseline": 1}
    assert [doc["uid"] for _, doc in run.documents(fill="no")][:2] == ["a", "d"]
    failed = build_simple_run({"x": [1]}, {"sample": "Cu"}, uid="b", time=1.0, exit_status="fail", reason="a word")
    assert failed.metadata["stop"]["reason"] == "a word"

"""Files of results are read as they were meant, or refused: by file, place, what was wanted and what there is."""

import gzip
import hashlib
import json
import pickle
from contextlib import suppress

import h5py
import numpy
import pandas
import pyarrow
import pyarrow.parquet
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_run import StoredRun

from pipeline import RunBuilder
from pipeline.errors import PipelineError
from pipeline.files import export, read_results, result_files
from pipeline.testing import make_run


@pytest.fixture
def written(tmp_path):
    """Write a file and return its path."""

    def write(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def columns(results, stream="primary"):
    return {name: values.values.tolist() for name, values in results.streams[stream].variables.items()}


def units(results, stream="primary"):
    return {name: variable.attrs.get("units") for name, variable in results.streams[stream].variables.items()}


# real files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n", "first", "unit"),
    [
        ("cu_metal_rt.xdi", 408, {"energy": 8779.0, "i0": 149013.7, "mutrans": -1.3070486}, "eV"),
        ("v_foil.xdi", 463, {"energy": 5385.0, "i0": 118514.0, "i1": 197514.0}, "eV"),
        ("NSLS6BM_2019.dat", 352, {"energy": 5264.987, "xmu": 53.156379, "It": 0.000023}, "eV"),
        ("fexanes_a.001", 449, {"Energy": 7032.000244, "TSCALER": 49999089.0, "I1": 123378.0}, "eV"),
    ],
)
def test_real_xas_files_are_read_with_units_and_facts(data_folder, name, n, first, unit):
    results = read_results(data_folder / "xas" / name)

    data = results.streams["primary"]
    assert data.sizes == {"row": n}
    assert {key: float(data[key][0]) for key in first} == first
    assert next(iter(data.variables.values())).attrs["units"] == unit
    facts = results.metadata["xdi"]
    assert facts["XDI"]["version"] in ("1.0", "1.1")
    assert facts["Scan"]["start_time"]
    with RunBuilder(results.metadata, uid="a", time=0.0) as builder:
        builder.add_stream("primary", data={key: values.values for key, values in data.items()})


def test_real_xas_columns_are_what_the_beamline_recorded(data_folder):
    reference = json.loads((data_folder / "xas" / "reference.json").read_text())["fexanes_a.001"]

    data = read_results(data_folder / "xas" / "fexanes_a.001").streams["primary"]

    assert list(data) == reference["columns"]
    mu = sum(data[f"Fe_Ka_mca{i}"] * data[f"DTFactor_mca{i}"] for i in range(1, 8)) / data["I0"]
    assert float(mu.sum()) == pytest.approx(reference["mu_stats"]["sum"], rel=1e-12)
    assert data["I0"].attrs == {"units": "counts", "address": "13IDE:SIS1:mca2"}


def test_element_and_edge_of_a_real_file_can_stand_in_a_start_document(data_folder):
    facts = read_results(data_folder / "xas" / "v_foil.xdi").metadata["xdi"]

    assert facts["Element"] == {"symbol": "V", "edge": "K"}
    assert facts["Beamline"]["I0_sensitivity_value"] == ["1 || 13BMD:A3sens_num.VAL", "nA/V || 13BMD:A3sens_unit.VAL"]


def test_real_reduced_data_are_streams_by_group_and_length(data_folder):
    path = data_folder / "usaxs_fly" / "S10_Blank_beamline_reduced.npz"

    results = read_results(path)

    sizes = {name: dataset.sizes["row"] for name, dataset in results.streams.items()}
    assert sizes == {"flyScan_reduced_full": 7983, "flyScan_reduced_full_1": 1, "flyScan_reduced_250": 249}
    assert set(results.streams["flyScan_reduced_250"]) == {"Q", "R", "dR"}
    with numpy.load(path, allow_pickle=False) as archive:
        numpy.testing.assert_array_equal(
            results.streams["flyScan_reduced_250"]["dR"], archive["flyScan_reduced_250/dR"]
        )


def test_real_hdf5_frames_are_a_stream(data_folder):
    results = read_results(data_folder / "frames_k11_tomo" / "k11-18014-imaging.h5")

    assert list(results.streams["primary"]) == ["data"]  # linked to as `detector` too
    assert (results.streams["primary"]["data"].shape, results.streams["primary"]["data"].dtype) == (
        (3201, 22, 26),
        "uint16",
    )


def test_real_runs_as_jsonl_are_runs_already(data_folder):
    path = data_folder / "docs_interleaved" / "interleaved_2_runs.jsonl"

    results = read_results(path)

    assert [name for name, _ in results.documents].count("start") == 2
    assert results.streams == {}
    assert results.reference["size"] == path.stat().st_size


@pytest.mark.parametrize("name", ["nist_linear/Norris.dat", "nist_univariate/Lew.txt", "nist_nonlinear/Gauss1.dat"])
def test_a_report_that_is_no_table_is_refused(data_folder, name):
    with pytest.raises(PipelineError, match=r"line \d+: wanted \d cells"):
        read_results(data_folder / name)
    assert data_folder / name not in result_files((data_folder / name).parent)


def test_the_files_of_a_real_folder_are_those_that_can_be_read(data_folder):
    names = [path.name for path in result_files(data_folder / "xas")]

    assert {"cu_metal_rt.xdi", "NSLS6BM_2019.dat", "fexanes_a.001", "fexanes_a_001.jsonl"} <= set(names)
    assert "reference.json" not in names
    assert names == sorted(names)


# text --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted", "wanted_units"),
    [
        ("x (mm),I [counts],I(q)\n1,2,3\n", {"x": [1], "I": [2], "I(q)": [3]}, ["mm", "counts", None]),
        ("x,I\nmm,counts\n1,2.5\n", {"x": [1], "I": [2.5]}, ["mm", "counts"]),
        ("x;I\n1,5;2\n2,5;\n", {"x": [1.5, 2.5], "I": [2.0, None]}, [None, None]),
        ("x\tI\n1\t2\n", {"x": [1], "I": [2]}, [None, None]),
        ("x\n1\n2\n", {"x": [1, 2]}, [None]),
        (
            "name,ok,n\nCu,true,18446744073709551615\nNA,,0\n",
            {"name": ["Cu", "NA"], "ok": [True, None], "n": [2**64 - 1, 0]},
            [None] * 3,
        ),
        ('s,x\n"a\nb ""c""",1\n,2\n', {"s": ['a\nb "c"', None], "x": [1, 2]}, [None, None]),
        ("x,x,x_2\n1,2,3\n", {"x": [1], "x_2": [2], "x_2_2": [3]}, [None] * 3),
        ("x,y,\n1,2,\n", {"x": [1], "y": [2]}, [None, None]),
        ("\ufeffx,y\r\n1,2\r\n", {"x": [1], "y": [2]}, [None, None]),
        ("x,y\n1,nan\nNA,2\n", {"x": [1.0, None], "y": [None, 2.0]}, [None, None]),
        ("x (mm),x (deg)\n1,2\n", {"x (mm)": [1], "x (deg)": [2]}, [None, None]),
        ("x,y\n", {"x": [], "y": []}, [None, None]),
    ],
)
def test_a_csv_is_read_with_its_types_and_units(written, text, wanted, wanted_units):
    results = read_results(written("a.csv", text))

    found = {name: [None if value != value else value for value in values] for name, values in columns(results).items()}
    assert found == wanted
    assert list(units(results).values()) == wanted_units


def test_datetimes_are_read_in_utc(written):
    data = read_results(written("a.csv", "t,d\n2026-01-01T01:00:00.5+01:00,2026-01-02\n,\n")).streams["primary"]

    assert data["t"].values[0] == numpy.datetime64("2026-01-01T00:00:00.5")
    assert data["d"].values[0] == numpy.datetime64("2026-01-02")
    assert numpy.isnat(data["t"].values[1])


def test_comments_are_facts_and_their_last_line_may_name_the_columns(written):
    results = read_results(
        written("a.dat", "# sample: Cu\n# T/K = 300\n# by night\n#\n# q [1/nm]  I\n 0.1 2\n 0.2 3.5D+01\n")
    )

    assert columns(results) == {"q": [0.1, 0.2], "I": [2.0, 35.0]}
    assert units(results) == {"q": "1/nm", "I": None}
    assert results.metadata == {"text": {"sample": "Cu", "T_K": "300", "comments": ["by night"]}}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "x,y\n1,2\n3\n", r"a\.csv, line 3: wanted 2 cells, \['x', 'y'\]; there are 1"),
        ("a.csv", "x,y\n1,2\n3,4,5\n", r"a\.csv, line 3: wanted 2 cells, there are 3"),
        ("a.csv", "x,y\n1,2,3\n4,5,6\n", r"a\.csv, line 2: wanted 2 cells, there are more"),
        ("a.csv", "", r"a\.csv, line 1: wanted rows, there is none"),
        ("a.csv", "1,2\n3,4\n", r"a\.csv, line 1: wanted a line before it that names 2 columns"),
        ("a.csv", "x;y\n1,500;2\n", r"a\.csv, line 2: .*certain how they are written, there is '1,500'; `decimal="),
        (
            "a.csv",
            "x,y\n1152921504606846977,1\n,2\n",
            r"a\.csv, column 'x': wanted integers that a float can hold.*1152921504606846977",
        ),
        ("a.csv", b"x,y\n\xe5,1\n", r"a\.csv: wanted text in utf-8-sig: .*`encoding='latin-1'`"),
        ("a.csv", "x,,y\n1,2,3\n", r"a\.csv: wanted a name for each column, there is none for column 2"),
        ("a.csv", "n\n99999999999999999999999\n", r"a\.csv, column 'n': wanted integers of 64 bits, there is 9{23}"),
        ("a.csv", "t\n2500-01-01\n", r"a\.csv, column 't': wanted datetimes"),
        ("a.dat", "# q I\n1 2\n3\n", r"a\.dat, line 3: wanted 2 cells, \['q', 'I'\]; there are 1"),
        ("a.parquet", "PAR1", r"a\.parquet: wanted a Parquet file"),
        ("a.h5", "no", r"a\.h5: wanted an HDF5 file"),
        ("a.nc", "no", r"a\.nc: wanted an HDF5 file"),
        ("a.nc", b"CDF\x01", r"a\.nc: wanted a NetCDF file"),
        ("a.npz", "no", r"a\.npz: wanted an archive"),
        ("a.jsonl", "{", r"a\.jsonl, line 1: wanted a document"),
        ("a.png", b"\x89PNG\0", r"a\.png: wanted a file of .*, it begins like none; `format=` tells"),
    ],
)
def test_what_cannot_be_read_is_refused_with_file_and_place(written, name, text, says):
    with pytest.raises(PipelineError, match=says):
        read_results(written(name, text))


def test_what_does_not_show_can_be_told(written):
    told = read_results(
        written("a.csv", b"1,5;\xe5\n"), names=["x", "s"], decimal=",", delimiter=";", encoding="latin-1"
    )

    assert columns(told) == {"x": [1.5], "s": ["å"]}
    with pytest.raises(PipelineError, match=r"wanted \['names'\] for text alone, it is npz"):
        read_results(written("a.npz", ""), names=["x"])
    with pytest.raises(PipelineError, match=r"wanted a format of .*there is 'excel'"):
        read_results(written("a.csv", ""), format="excel")


def test_a_column_may_be_called_like_what_counts_the_rows(written, tmp_path):
    numpy.savez(tmp_path / "a.npz", row=numpy.zeros((2, 3)), time=numpy.arange(2))

    data = read_results(written("a.csv", "row,time,seq_num\n7,1,a\n9,2,\n")).streams["primary"]

    assert (list(data), data.sizes, list(data.coords)) == (["row", "time", "seq_num"], {"row_": 2}, [])
    assert read_results(tmp_path / "a.npz").streams["primary"]["row"].shape == (2, 3)


@given(
    st.lists(st.tuples(st.floats(allow_nan=False), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=9),
    st.sampled_from([",", ";", "\t", "|"]),
)
@settings(max_examples=60, deadline=None)
def test_numbers_of_a_csv_are_read_to_the_last_bit(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text("".join(f"{x}{delimiter}{n}\n" for x, n in [("x", "n"), *rows]))

    data = read_results(path).streams["primary"]

    assert [x.hex() for x in data["x"].values.astype(float).tolist()] == [x.hex() for x, _ in rows]
    assert data["n"].values.tolist() == [n for _, n in rows]


# CSV on the Web of another hand ------------------------------------------------------------------------------------


def sidecar(written, columns, **more):
    table = {"@context": "http://www.w3.org/ns/csvw", "url": "a.csv", "tableSchema": {"columns": columns}, **more}
    written("a.csv-metadata.json", json.dumps(table))


def test_a_sidecar_decides_how_a_csv_is_read(written):
    sidecar(
        written,
        [
            {"titles": "n", "datatype": "short", "schema:unitText": "mm"},
            {"name": "x", "datatype": {"base": "decimal", "format": {"decimalChar": ","}}, "null": "-"},
            {"name": "ok", "datatype": {"base": "boolean", "format": "Y|N"}},
            {"name": "s", "titles": {"en": ["s", "text"]}},
            {"name": "t", "datatype": "dateTime"},
            {"name": "a", "datatype": "json"},
        ],
        dialect={"delimiter": ";"},
        **{"dc:title": "A table"},
    )

    results = read_results(
        written("a.csv", "n;x;ok;text;t;a\n1;1,5;Y;007;2026-01-01T00:00:00;[1, 2]\n2;-;N;;;[3, 4]\n")
    )

    data = results.streams["primary"]
    assert {name: data[name].dtype.str for name in data} == {
        "n": "<i2",
        "x": "<f8",
        "ok": "|b1",
        "text": "|O",
        "t": "<M8[ns]",
        "a": "<i8",
    }
    assert data["n"].attrs == {"units": "mm"}
    assert data["text"].values.tolist() == ["007", None]
    assert data["a"].values.tolist() == [[1, 2], [3, 4]]
    assert numpy.isnan(data["x"].values[1])
    assert results.metadata == {"csv": {"dc:title": "A table"}}


@pytest.mark.parametrize(
    ("columns", "more", "says"),
    [
        ([{"name": "x", "datatype": "integer"}], {}, r"row 2: wanted what its metadata tell, there is 'b'"),
        ([{"name": "x", "datatype": "byte", "null": "b"}], {}, r"column 'x': wanted integers of int8.*there is 300"),
        ([{"name": "y"}], {}, r"column 'x': wanted one of the names \['y'\]"),
        ([{"name": "x"}, {"name": "y"}], {}, r"wanted 2 columns, as its metadata tell; there are \['x'\]"),
        (
            [{"name": "x", "datatype": {"base": "date", "format": "d.M.yyyy"}}],
            {},
            r"wanted a format of ISO dates.*'d.M.yyyy'",
        ),
        ([{"name": "x"}], {"dialect": {"escape": "!"}}, "wanted a dialect of"),
        ([{"name": "x", "datatype": "byte"}], {"url": "b.csv", "tables": []}, "metadata"),
    ],
)
def test_a_csv_that_is_not_what_its_sidecar_tells_is_refused(written, columns, more, says):
    sidecar(written, columns, **more)

    with pytest.raises(PipelineError, match=says):
        read_results(written("a.csv", "x\n300\nb\n"))


@pytest.mark.parametrize("datatype", ["byte", "unsignedByte", "integer", "unsignedLong"])
@given(n=st.integers(-(2**70), 2**70) | st.integers(-300, 300))
@settings(max_examples=40, deadline=None)
def test_an_integer_is_what_its_datatype_can_hold_or_is_refused(tmp_path_factory, datatype, n):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text(f"x\n{n}\n1\n")
    table = {"url": "a.csv", "tableSchema": {"columns": [{"name": "x", "datatype": datatype}]}}
    path.with_name("a.csv-metadata.json").write_text(json.dumps(table))
    dtype = {"byte": "int8", "unsignedByte": "uint8", "integer": "int64", "unsignedLong": "uint64"}[datatype]

    if numpy.iinfo(dtype).min <= n <= numpy.iinfo(dtype).max:
        values = read_results(path).streams["primary"]["x"].values
        assert (values.dtype, values.tolist()) == (dtype, [n, 1])
    else:
        with pytest.raises(PipelineError, match=f"column 'x': wanted .* there is '?{n}"):
            read_results(path)


def test_a_sidecar_that_is_no_json_is_refused(written):
    written("a.csv-metadata.json", "{")

    with pytest.raises(PipelineError, match=r"a\.csv-metadata\.json: wanted CSVW metadata of a\.csv"):
        read_results(written("a.csv", "x\n1\n"))


# binary files of other hands ---------------------------------------------------------------------------------------


def test_a_parquet_of_pandas_is_read_with_its_index(tmp_path):
    frame = pandas.DataFrame(
        {
            "x": [1.5, None],
            "n": pandas.array([1, None], "Int64"),
            "s": ["a", None],
            "c": pandas.Categorical(["u", "v"]),
        },
        index=pandas.Index([10, 20], name="scan"),
    )
    frame["t"] = pandas.to_datetime(["2026-01-01T01:00:00+01:00", None])
    frame.to_parquet(tmp_path / "a.parquet")

    data = read_results(tmp_path / "a.parquet").streams["primary"]

    assert data["scan"].values.tolist() == [10, 20]
    assert "scan" in data.coords
    assert data["n"].values.tolist()[0] == 1.0
    assert data["s"].values.tolist() == ["a", None]
    assert data["c"].values.tolist() == ["u", "v"]
    assert data["t"].values[0] == numpy.datetime64("2026-01-01")


def test_a_parquet_of_arrow_is_read_with_units_lists_and_structs(tmp_path):
    fields = [
        pyarrow.field("x", pyarrow.int16(), metadata={"units": "mm"}),
        pyarrow.field("curve", pyarrow.list_(pyarrow.float32())),
        pyarrow.field("rag", pyarrow.list_(pyarrow.int64())),
        pyarrow.field("pos", pyarrow.struct([("y", pyarrow.float64())])),
    ]
    data = [[1, 2], [[1.0, 2.0], [3.0, 4.0]], [[1], [2, 3]], [{"y": 1.0}, {"y": 2.0}]]
    schema = pyarrow.schema(fields, metadata={"sample": "Cu"})
    pyarrow.parquet.write_table(pyarrow.table(data, schema=schema), tmp_path / "a.parquet")

    results = read_results(tmp_path / "a.parquet")

    found = results.streams["primary"]
    assert (found["x"].dtype, found["x"].attrs) == ("int16", {"units": "mm"})
    assert (found["curve"].shape, found["curve"].dtype) == ((2, 2), "float32")
    assert [row.tolist() for row in found["rag"].values] == [[1], [2, 3]]
    assert found["pos.y"].values.tolist() == [1.0, 2.0]
    assert results.metadata == {"parquet": {"sample": "Cu"}}


def test_a_parquet_column_that_no_run_can_hold_is_refused(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"b": [b"xx"]}), tmp_path / "a.parquet")

    with pytest.raises(PipelineError, match=r"a\.parquet, column 'b': wanted numbers.*binary"):
        read_results(tmp_path / "a.parquet")


def test_netcdf_groups_are_streams_and_attributes_are_facts(tmp_path):
    path = tmp_path / "a.nc"
    first = xarray.Dataset({"I": ("q", [1.0, 2.0], {"units": "1/cm"})}, {"q": [0.1, 0.2]}, {"title": "a.b/c"})
    first.to_netcdf(path, engine="h5netcdf")
    xarray.Dataset({"s": ("row", ["a", "b"])}).to_netcdf(path, engine="h5netcdf", group="fits/late", mode="a")

    results = read_results(path)

    assert list(results.streams) == ["primary", "late"]
    assert results.streams["primary"]["I"].attrs["units"] == "1/cm"
    assert results.streams["primary"]["q"].values.tolist() == [0.1, 0.2]
    assert results.streams["late"]["s"].values.tolist() == ["a", "b"]
    assert results.metadata == {"netcdf": {"title": "a.b/c"}}


def test_a_classic_netcdf_is_read(tmp_path):
    xarray.Dataset({"x": ("row", [1.0, 2.0])}).to_netcdf(tmp_path / "a.nc", engine="scipy", format="NETCDF3_CLASSIC")

    assert columns(read_results(tmp_path / "a.nc")) == {"x": [1.0, 2.0]}


@pytest.fixture
def nexus(tmp_path):
    path = tmp_path / "scan.nxs"
    with h5py.File(path, "w") as file:
        file.attrs["default"] = "entry"
        entry = file.create_group("entry")
        entry.attrs.update({"NX_class": "NXentry", "default": "map"})
        entry["title"] = "a map"
        entry["sample/name"] = numpy.array([b"Cu\xe5"])
        line = entry.create_group("line")
        line.attrs.update({"NX_class": "NXdata"})
        line["counts"], line["x"] = [1, 2, 3], [0.1, 0.2, 0.3]
        line["counts"].attrs.update({"signal": 1, "axes": "x"})
        plot = entry.create_group("map")
        plot.attrs.update({"NX_class": "NXdata", "signal": "det", "axes": ["y", "x"], "y_indices": 0, "x_indices": 1})
        plot["det"] = numpy.arange(6.0).reshape(2, 3)
        plot["y"], plot["x"] = [1.0, 2.0], [0.1, 0.2, 0.3]
        plot["y"].attrs["units"] = "mm"
        plot["det_errors"] = numpy.ones((2, 3))
        entry["detector/data"] = numpy.zeros((2, 5))
        file["entry/detector/link"] = h5py.SoftLink("/entry/map/det")
    return path


def test_each_nxdata_is_a_stream_the_default_plot_first(nexus):
    results = read_results(nexus)

    assert list(results.streams) == ["map", "line"]
    data = results.streams["map"]
    assert list(data) == ["det", "det_errors"]
    assert (data["det"].dims, set(data.coords)) == (("row", "x"), {"x", "y"})
    assert (data["y"].dims, data["y"].attrs) == (("row",), {"units": "mm"})
    assert results.streams["line"]["x"].dims == ("row",)
    assert list(results.streams["line"]) == ["counts"]
    assert results.metadata["hdf5"]["entry"] == {"title": "a map", "sample": {"name": "Cuå"}}


def test_hdf5_without_nxdata_is_read_by_groups_of_equal_length(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["fit/x"], file["fit/y"], file["fit/image"] = [1, 2], [b"a", "bé".encode()], numpy.zeros((2, 3, 4), "u2")
        file["table"] = numpy.array([(1, 2.5)], [("n", "i4"), ("x", "f8")])
        file["fit/x"].attrs["units"] = "mm"
        file["n"] = 3
        file["fit"].attrs["kind"] = "gauss"
        ragged = file.create_dataset("fit/rag", (2,), h5py.vlen_dtype("f4"))
        ragged[0], ragged[1] = [1.0], [2.0, 3.0]

    results = read_results(tmp_path / "a.h5")

    assert set(results.streams) == {"fit", "table"}
    assert columns(results, "table") == {"n": [1], "x": [2.5]}
    fit = results.streams["fit"]
    assert fit["y"].values.tolist() == ["a", "bé"]
    assert (fit["image"].shape, fit["image"].dtype) == ((2, 3, 4), "uint16")
    assert [row.tolist() for row in fit["rag"].values] == [[1.0], [2.0, 3.0]]
    assert fit["x"].attrs == {"units": "mm"}
    assert results.metadata == {"hdf5": {"n": 3, "fit": {"kind": "gauss"}}}


def lead(kind, file, other):
    if kind == "external":
        file["a/link"] = h5py.ExternalLink(other, "/secret")
    if kind == "soft":
        file["a/out"], file["b"] = h5py.ExternalLink(other, "/"), h5py.SoftLink("/a/out/secret")
    if kind == "dangling":
        file["b"] = h5py.SoftLink("/nowhere")
    if kind == "endless":
        file["b"], file["c"] = h5py.SoftLink("/c"), h5py.SoftLink("/b")
    if kind == "storage":
        file.create_dataset("raw", (4,), "u1", external=[(other, 0, 4)])
    if kind == "virtual":
        layout = h5py.VirtualLayout((2,), "f8")
        layout[:] = h5py.VirtualSource(other, "secret", (2,))
        file.create_virtual_dataset("raw", layout)


@pytest.mark.parametrize("suffix", [".h5", ".nc"])
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("external", r"/a/link: wanted data of this file, there is a link to .*other\.h5:/secret"),
        ("soft", r"wanted data of this file, there is a link to .*other\.h5:/"),
        ("dangling", r"/b: wanted data, there is a link to nothing"),
        ("endless", r"wanted data, there are links without end"),
        ("storage", r"/raw: wanted data of this file, there are those of .*other\.h5"),
        ("virtual", r"/raw: wanted data of this file, there are those of .*other\.h5"),
    ],
)
def test_hdf5_that_leads_out_of_itself_is_refused(tmp_path, suffix, kind, says):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = [1.0, 2.0]
    with h5py.File(tmp_path / f"a{suffix}", "w") as file:
        file["a/x"] = [1.0]
        lead(kind, file, str(tmp_path / "other.h5"))

    with pytest.raises(PipelineError, match=says):
        read_results(tmp_path / f"a{suffix}")


class Evil:
    def __reduce__(self):
        return (open, ("/nonexistent/evil", "w"))


def test_a_pickle_is_refused_and_not_run(tmp_path):
    numpy.savez(tmp_path / "a.npz", good=numpy.zeros(2), evil=numpy.array([Evil()], object))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Evil()))

    with pytest.raises(PipelineError, match=r"a\.npz, evil: wanted a plain array"):
        read_results(tmp_path / "a.npz")
    with pytest.raises(PipelineError, match=r"b\.npz: wanted an archive of numpy arrays"):
        read_results(tmp_path / "b.npz")


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", ["a.nxs", "a.nc", "a.parquet", "a.npz"])
def test_a_file_that_is_cut_short_is_refused(tmp_path, name, cut):
    whole = tmp_path / name
    data = {"x": numpy.arange(5000.0), "y": numpy.arange(5000)}
    if name == "a.npz":
        numpy.savez(whole, **data)
    elif name == "a.parquet":
        pandas.DataFrame(data).to_parquet(whole)
    else:
        xarray.Dataset({key: ("row", values) for key, values in data.items()}).to_netcdf(whole, engine="h5netcdf")
    whole.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * cut)])

    with pytest.raises(PipelineError, match=name):
        read_results(whole)


# what is told of a file --------------------------------------------------------------------------------------------


def test_a_file_is_told_by_its_name_without_directory_its_hash_and_size(written):
    path = written("a.csv", "x\n1\n")

    assert read_results(path).reference == {
        "role": "file",
        "name": "a.csv",
        "sha256": hashlib.sha256(b"x\n1\n").hexdigest(),
        "size": 4,
    }


def test_the_format_shows_by_how_a_file_begins(tmp_path, written):
    frame = pandas.DataFrame({"x": [1.0]})
    frame.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "b").write_bytes((tmp_path / "a.parquet").read_bytes())

    assert columns(read_results(tmp_path / "b")) == {"x": [1.0]}
    assert columns(read_results(written("c", "# XDI/1.0\n# Column.1: e eV\n#---\n# e\n 1.0\n"))) == {"e": [1.0]}
    assert columns(read_results(written("d.007", "# x y\n1 2\n"))) == {"x": [1], "y": [2]}


def test_gzipped_jsonl_is_read(tmp_path):
    raw = make_run({"det": [1.0, float("nan")]})
    lines = "".join(json.dumps(item) + "\n" for item in raw)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))

    assert repr(read_results(tmp_path / "a.jsonl.gz").documents) == repr(raw)


def test_the_files_of_a_folder_are_found_below_it_and_hidden_ones_are_not(tmp_path):
    for name in ("b/a.csv", "a.nc", "b/a.csv-metadata.json", ".export-1/a.csv", "notes.txt", "a.work.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("Dear all,\nthank you.\n")
    (tmp_path / "table.txt").write_text("# x y\n1 2\n")

    assert [str(path.relative_to(tmp_path)) for path in result_files(tmp_path)] == ["a.nc", "b/a.csv", "table.txt"]
    assert [path.name for path in result_files(tmp_path / "*" / "*.csv")] == ["a.csv"]
    assert result_files(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    with pytest.raises(PipelineError, match="wanted a file of results"):
        result_files(tmp_path / "*.xdi")


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(PipelineError, match=r"a\.csv: wanted a file to read, there is: No such file"):
        read_results(tmp_path / "a.csv")


def test_a_gzip_that_is_cut_short_is_refused_at_its_line(tmp_path):
    lines = "".join(
        json.dumps(item) + "\n" for item in make_run({"det": numpy.random.default_rng(0).random(999).tolist()})
    )
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode())[:5000])

    with pytest.raises(PipelineError, match=r"a\.jsonl\.gz, line \d+: wanted gzipped lines"):
        read_results(tmp_path / "a.jsonl.gz")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(PipelineError, match="wanted a file to read, there is: a folder"):
        read_results(tmp_path)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.sampled_from(["", "x", "row", "<f8", "object", "ragged", "text"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["name", "dims", "dtype", "kind"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_layout_that_was_tampered_with_is_refused_or_read(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("tampered")
    run = StoredRun(
        {"primary": xarray.Dataset({"x": ("row", [1.0, 2.0]), "s": ("row", numpy.array(["a", "b"], object))})}
    )
    (path,) = export(run, "nexus", folder)
    with h5py.File(path, "a") as file:
        layouts = json.loads(file["entry/bluesky/layout"][()])
        place = data.draw(st.sampled_from([layouts[0], layouts[0]["columns"][0], layouts[0]["columns"][1]]))
        place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JUNK)
        del file["entry/bluesky/layout"]
        file["entry/bluesky/layout"] = json.dumps(layouts)

    with suppress(PipelineError):
        assert all(isinstance(dataset, xarray.Dataset) for dataset in read_results(path).streams.values())

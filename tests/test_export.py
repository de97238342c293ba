"""What is exported comes back as it was, from any format, or is refused; no file is left of what is refused."""

import json
import math
import os
import subprocess
import sys

import h5py
import hypothesis.extra.numpy as hnp
import numpy
import pandas
import pyarrow.parquet
import pytest
import xarray
from csvw.metadata import CSVW
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored_run import StoredRun, built_run

from pipeline.documents import dumps
from pipeline.errors import PipelineError
from pipeline.files import export, read_results
from pipeline.files.column import ragged
from pipeline.sources import read_jsonl

with numpy.printoptions():  # the import changes how numpy prints, for all that come after
    from nexusformat.nexus import nxload

TABLES = ["csv", "parquet", "netcdf", "nexus"]
START = {"sample": {"name": "Cü"}, "analysis": {"node": "peak", "recipe": [1, None, 2**60, 2**70]}, "title": "a scan"}


def plainly(dataset):
    """A Dataset as what can be compared with `==`, bit by bit but for what NaN has in it."""
    return {
        name: (variable.dims, _values(variable.values), dict(variable.attrs), name in dataset.coords)
        for name, variable in dataset.variables.items()
    } | {"attrs": dataset.attrs, "order": list(dataset.data_vars)}


def _values(values):
    if values.dtype == object:
        return (
            "object",
            values.shape,
            [_values(v) if isinstance(v, numpy.ndarray) else _text(v) for v in values.ravel()],
        )
    if values.dtype.kind in "fMm":
        return values.dtype, values.shape, ["nan" if value != value else _text(value) for value in values.ravel()]
    return values.dtype, values.shape, values.ravel().tolist()


def _text(value):
    if isinstance(value, float | numpy.floating):
        return float(value).hex()
    return value


def back(run, format, folder):
    streams = {}
    for path in export(run, format, folder):
        if not path.name.endswith(".json"):
            results = read_results(path)
            assert results.metadata == {
                key: value for key, value in run.metadata["start"].items() if key not in ("uid", "time")
            }
            assert (results.reference["name"], results.reference["uid"]) == (path.name, run.metadata["start"]["uid"])
            streams |= results.streams
    return streams


# every kind of value -----------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6) | st.sampled_from(
    ["x", "X", "I/I0", "x (mm)", "2-theta", "θ", "a,b", 'a"b', "..", "time_", "x_lengths", "start", "nan"]
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6) | st.sampled_from(
    ["", "NA", "nan", "null", "None", "1", "true", " a ", "\r", "\n", "2026-01-01", "[1]", "=1+1", "é", "\ufeff"]
)
SECONDS = st.integers(-(2**33), 2**33).map(lambda n: numpy.datetime64(n, "s"))  # of nanoseconds too
DTYPES = st.sampled_from(
    [
        "b1",
        "i1",
        "i2",
        "i4",
        "i8",
        "u1",
        "u2",
        "u4",
        "u8",
        "f2",
        "f4",
        "f8",
        ">i4",
        ">f8",
        "M8[ns]",
        "M8[s]",
        "m8[ns]",
        "U5",
    ]
)
ATTRS = st.dictionaries(
    st.sampled_from(["units", "long_name", "description", "kind", "_FillValue", "scale_factor"]),
    TEXTS
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.lists(st.booleans(), max_size=2),
    max_size=3,
)


@st.composite
def values(draw, n):
    kind = draw(st.sampled_from(["plain", "plain", "array", "text", "flag", "ragged", "texts"]))
    if kind == "text":
        return numpy.array([*draw(st.lists(st.none() | TEXTS, min_size=n, max_size=n)), ""], object)[:-1]
    if kind == "flag":
        return numpy.array(draw(st.lists(st.none() | st.booleans(), min_size=n, max_size=n)), object)
    dtype = numpy.dtype(draw(DTYPES))
    elements = {"<U5": TEXTS.map(lambda text: text[:5]), "<M8[s]": SECONDS}.get(dtype.str)
    if kind == "ragged":
        lengths = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
        return ragged(draw(hnp.arrays(dtype, length, elements=elements)) for length in lengths)
    if kind == "texts":
        return numpy.array(
            [*draw(st.lists(st.tuples(st.none() | TEXTS, TEXTS), min_size=n, max_size=n)), ("", "")], object
        )[:-1]
    shape = draw(st.sampled_from([(), (), (2, 3), (3,), (0,), (2, 0)])) if kind == "array" else ()
    return draw(hnp.arrays(dtype, (n, *shape), elements=elements))


@st.composite
def datasets(draw):
    n = draw(st.integers(0, 4))
    names = draw(st.lists(NAMES.filter(lambda name: name not in ("time", "q")), min_size=1, max_size=4, unique=True))
    variables, coordinates = {}, draw(st.lists(st.sampled_from(names), max_size=1))
    for i, name in enumerate(names):
        array = draw(values(n))
        dims = ("time", *(f"d{i}{k}" for k in range(1, array.ndim)))
        variables[name] = xarray.Variable(dims, array, draw(ATTRS), fastpath=True)
    times = draw(hnp.arrays("f8", n, elements=st.floats(0, 2e9)))
    seconds = {"units": "seconds since 1970-01-01", "standard_name": "time"}
    dataset = xarray.Dataset(variables, {"time": ("time", times, seconds)}, draw(ATTRS)).set_coords(coordinates)
    if draw(st.booleans()):
        dataset = dataset.assign_coords(q=("q", draw(hnp.arrays("f8", 3)), {"units": "1/nm"}))
    return dataset


@pytest.mark.parametrize("format", TABLES)
@given(
    st.dictionaries(st.sampled_from(["primary", "final", "a/b", "ü", "bluesky"]), datasets(), min_size=1, max_size=2)
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_exported_comes_back_as_it_was(format, tmp_path_factory, streams):
    folder = tmp_path_factory.mktemp("out")

    found = back(StoredRun(streams, START), format, folder)

    assert found.keys() == streams.keys()
    for name in streams:
        assert plainly(found[name]) == plainly(streams[name])


def streams_of(documents):
    """The streams of stored documents, as Datasets."""
    streams, columns = {}, {}
    for name, doc in documents:
        if name == "descriptor":
            streams[doc["uid"]] = doc["name"], doc["data_keys"]
            columns.setdefault(doc["name"], [])
        if name == "event":
            columns[streams[doc["descriptor"]][0]].append(doc)
    return {name: _dataset(events, dict(streams.values())[name]) for name, events in columns.items()}


def _dataset(events, data_keys):
    variables = {"time": ("time", [event["time"] for event in events])}
    for key, data_key in data_keys.items():
        rows = [event["data"][key] for event in events]
        attrs = {"units": data_key["units"]} if data_key.get("units") else {}
        if data_key["dtype"] == "array" and len({len(row) for row in rows}) > 1:
            variables[key] = ("time", ragged(map(numpy.array, rows)), attrs)
        else:
            array = numpy.array(rows, object if data_key["dtype"] == "string" else None)
            variables[key] = (("time", *(f"{key}_{i}" for i in range(1, array.ndim))), array, attrs)
    return xarray.Dataset(variables)


@pytest.mark.parametrize("format", TABLES)
@pytest.mark.parametrize(
    "name",
    [
        "docs_aps_usaxs_2019/ddffefc1_scan109_measure_USAXS_Transmission.jsonl",
        "docs_apstools_2025/26aac337_count.jsonl",
        "docs_spec_scans/CdOsO_S3_ascan_aborted.jsonl",
        "docs_aps_8id_2026/0001_4d77bd82_dscan_huber_y.jsonl",
        "xas/cu_metal_rt_xdi.jsonl",
        "xrd_ramp/nacl_crcl3_public.jsonl",
    ],
)
def test_a_real_run_comes_back_from_each_format(data_folder, format, name, tmp_path):
    documents = list(read_jsonl(data_folder / name))
    streams = streams_of(documents)

    found = back(StoredRun(streams, documents[0][1]), format, tmp_path)

    assert any(dataset.sizes["time"] for dataset in found.values())
    for stream, dataset in streams.items():
        assert plainly(found[stream]) == plainly(dataset)


# what other readers see --------------------------------------------------------------------------------------------


@pytest.fixture
def run():
    image = numpy.arange(18, dtype="u2").reshape(3, 2, 3)
    dataset = xarray.Dataset(
        {
            "det": ("time", [1.5, numpy.nan, 3.0], {"units": "counts"}),
            "n": ("time", numpy.array([2**60, 1, 2])),
            "image": (("time", "y", "x"), image),
            "curve": (("time", "q"), numpy.ones((3, 2)), {"units": "1/cm"}),
            "when": ("time", numpy.array(["2026-01-01T00:00:00.123456789", "NaT", "1980-01-01"], "M8[ns]")),
            "ok": ("time", [True, False, True]),
            "label": ("time", numpy.array(["å", "b,c", ""], object)),
        },
        {
            "time": ("time", [1.0, 2.0, 3.0], {"units": "seconds since 1970-01-01"}),
            "q": ("q", [0.1, 0.2], {"units": "1/nm"}),
            "motor": ("time", [0.0, 1.0, 2.0], {"units": "mm"}),
        },
    )
    return StoredRun({"primary": dataset, "final": dataset[["det"]].isel(time=slice(2, 3))}, START)


def test_a_csvw_reader_reads_the_csv_with_its_types(run, tmp_path):
    export(run, "csv", tmp_path)

    table = CSVW(str(tmp_path / "7f3c-primary.csv")).tables[0]
    rows = list(table)

    assert [row["det"] for row in rows][::2] == [1.5, 3.0]
    assert math.isnan(rows[1]["det"])
    assert rows[0]["n"] == 2**60
    assert [row["label"] for row in rows] == ["å", "b,c", ""]
    assert rows[1]["ok"] is False
    assert rows[2]["image"] == [[12, 13, 14], [15, 16, 17]]
    assert next(c for c in table.tableSchema.columns if c.name == "det").common_props["schema:unitText"] == "counts"


def test_pandas_reads_the_csv_without_its_metadata(run, tmp_path):
    export(run, "csv", tmp_path)

    frame = pandas.read_csv(tmp_path / "7f3c-primary.csv")

    assert frame["n"].tolist() == [2**60, 1, 2]
    assert frame["motor"].tolist() == [0.0, 1.0, 2.0]


def test_pandas_and_arrow_read_the_parquet(run, tmp_path):
    export(run, "parquet", tmp_path)

    stored = pyarrow.parquet.read_table(tmp_path / "7f3c-primary.parquet")

    assert stored.schema.field("det").metadata == {b"units": b"counts"}
    assert json.loads(stored.schema.metadata[b"bluesky_start"])["sample"] == {"name": "Cü"}
    frame = stored.to_pandas()
    assert frame["when"].isna().tolist() == [False, True, False]
    assert frame["label"].tolist() == ["å", "b,c", ""]
    assert [list(row) for row in frame["image"][0]] == [[0, 1, 2], [3, 4, 5]]


def test_xarray_reads_the_netcdf(run, tmp_path):
    export(run, "netcdf", tmp_path)

    with xarray.open_datatree(tmp_path / "7f3c.nc", engine="h5netcdf") as tree:
        found = tree["primary"].to_dataset().load()

    expected = run["primary"].read()
    assert set(found.dims) == {"time", "y", "x", "q"}
    assert found["image"].dtype == "uint16"
    numpy.testing.assert_array_equal(found["image"], expected["image"])
    numpy.testing.assert_array_equal(found["when"], expected["when"])
    numpy.testing.assert_array_equal(found["ok"], expected["ok"])
    assert found["time"].values[0] == numpy.datetime64(1, "s")
    assert found["q"].attrs["units"] == "1/nm"


def test_a_nexus_reader_finds_the_plot(run, tmp_path):
    export(run, "nexus", tmp_path)

    root = nxload(tmp_path / "7f3c.nxs")

    assert root.nxclass == "NXroot"
    plot = root.get_default()
    assert (plot.nxclass, plot.nxpath) == ("NXdata", "/entry/primary")
    assert plot.nxsignal.nxname == "det"
    assert [axis.nxname for axis in plot.nxaxes] == ["motor"]
    assert plot.nxsignal.attrs["units"] == "counts"
    assert plot["motor"].nxdata.tolist() == [0.0, 1.0, 2.0]
    assert root["entry/bluesky/metadata/sample/name"].nxvalue == "Cü"
    assert json.loads(root["entry/bluesky/start"].nxvalue)["analysis"]["recipe"] == [1, None, 2**60, 2**70]


def test_what_nexus_calls_data_is_numbers_under_names_of_nexus(run, tmp_path):
    export(run, "nexus", tmp_path)

    with h5py.File(tmp_path / "7f3c.nxs") as file:
        found = []
        file.visititems(lambda name, item: found.append(item))
        for data in (item for item in found if item.attrs.get("NX_class") == "NXdata"):
            assert all(item.dtype.kind in "biuf" for item in data.values())
            assert len(data.attrs["axes"]) == data[data.attrs["signal"]].ndim
            for axis in data.attrs["axes"]:
                assert data[axis].shape == (data[data.attrs["signal"]].shape[data.attrs[f"{axis}_indices"]],)


# JSONL -------------------------------------------------------------------------------------------------------------


def test_jsonl_is_the_documents_as_the_ledger_has_them(tmp_path):
    run = built_run({"x": [1.0, float("nan")], "image": numpy.zeros((2, 3, 4), "u2")}, sample="Cu")

    (path,) = export(run, "jsonl", tmp_path)

    assert path.name == "7f3c.jsonl"
    assert path.read_bytes() == b"".join(dumps(name, doc) for name, doc in run.documents())
    results = read_results(path)
    assert repr(results.documents) == repr(list(read_jsonl(path)))
    assert results.streams == {}


@pytest.mark.parametrize("value", [float("inf"), [1.0, -numpy.inf], numpy.array([[numpy.inf]])])
def test_an_infinity_is_refused_where_json_would_lose_it(value, tmp_path):
    event = {"descriptor": "d", "seq_num": 1, "data": {"s": "a", "x": value}}
    run = StoredRun({}, documents=[("start", {"uid": "7f3c", "time": 0.0}), ("event", event)])

    with pytest.raises(PipelineError, match=r"field 'x': wanted numbers that JSON can hold, there is an infinity"):
        export(run, "jsonl", tmp_path)

    assert list(tmp_path.iterdir()) == []


# what is refused, and where files go -------------------------------------------------------------------------------


@pytest.mark.parametrize("format", TABLES)
@pytest.mark.parametrize(
    ("values", "says"),
    [
        (numpy.array([1 + 2j]), "column 'bad': wanted numbers.*complex128"),
        (numpy.array([object()]), "column 'bad': wanted numbers.*'object'"),
        (numpy.array(["a", 1], object), r"column 'bad': .*\['int', 'str'\]"),
        (ragged([numpy.zeros((2, 2))]), "column 'bad': wanted an array of one dimension"),
        (ragged([numpy.zeros(1), numpy.zeros(2, "i4")]), "column 'bad': wanted rows of one dtype"),
        (numpy.array([numpy.float128(1)]), "column 'bad': wanted numbers.*128"),
    ],
)
def test_what_no_run_can_hold_is_refused_by_name_and_leaves_no_file(format, values, says, tmp_path):
    run = StoredRun({"primary": xarray.Dataset({"good": ("time", numpy.zeros(len(values))), "bad": ("time", values)})})

    with pytest.raises(PipelineError, match=f"stream 'primary', {says}"):
        export(run, format, tmp_path)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["csv", "netcdf", "nexus"])
def test_text_with_nul_is_refused_where_a_format_cannot_hold_it(format, tmp_path):
    run = StoredRun({"primary": xarray.Dataset({"s": ("time", numpy.array(["a\0b"], object))})})

    with pytest.raises(PipelineError, match=r"stream 'primary', .*'s': wanted text without NUL.*'a\\x00b'"):
        export(run, format, tmp_path)
    assert back(run, "parquet", tmp_path)["primary"]["s"].values.tolist() == ["a\0b"]


@pytest.mark.parametrize("format", ["jsonl", *TABLES])
def test_no_text_of_a_document_leads_out_of_the_directory(format, tmp_path):
    inside = tmp_path / "inside"
    dataset = xarray.Dataset({"../../x": ("time", [1.0])})
    documents = [("start", {"uid": "../../evil", "time": 0.0})]

    paths = export(StoredRun({"../../evil": dataset}, {"uid": "../../evil"}, documents), format, inside)

    assert {path.parent for path in paths} == {inside}
    assert list(tmp_path.iterdir()) == [inside]
    assert sorted(inside.iterdir()) == paths


def test_the_same_export_again_replaces_its_files(run, tmp_path):
    first = {path: path.read_bytes() for path in export(run, "csv", tmp_path)}

    assert {path: path.read_bytes() for path in export(run, "csv", tmp_path)} == first


def test_an_unknown_format_is_refused_with_those_there_are(run, tmp_path):
    with pytest.raises(PipelineError, match=r"wanted a format of \['jsonl', 'csv', .*there is 'xlsx'"):
        export(run, "xlsx", tmp_path)


def test_a_directory_that_cannot_be_written_to_is_told(run, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(PipelineError, match=r"file/out: cannot write"):
        export(run, "csv", tmp_path / "file" / "out")


def test_a_package_that_is_not_there_is_told_with_the_extra_that_brings_it(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    code = f"import sys; sys.modules['h5py'] = None; from pipeline.files import read_results; read_results({str(tmp_path / 'a.h5')!r})"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)

    assert "wanted the package 'h5py'" in done.stderr
    assert "bluesky-pipeline[files]" in done.stderr


FULL_DISK = """
import resource, signal, sys
import numpy, xarray
from stored_run import StoredRun
from pipeline.errors import PipelineError
from pipeline.files import export

run = StoredRun({"primary": xarray.Dataset({"x": ("time", numpy.random.default_rng(0).random(100_000))})})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    export(run, sys.argv[1], sys.argv[2])
except PipelineError as error:
    print(error)
"""


@pytest.mark.parametrize("format", TABLES)
def test_a_disk_that_is_full_is_told_and_leaves_no_file(format, tmp_path):
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])

    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, format, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )

    assert "cannot write" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_exported_csv_that_was_edited_is_read_by_what_its_metadata_tell(run, tmp_path):
    export(run, "csv", tmp_path)
    path = tmp_path / "7f3c-final.csv"

    path.write_text("time,motor,det\n3.0,2.0,7\n4.0,2.5,\n")
    data = read_results(path).streams["final"]

    assert (data["det"].dtype, data["det"].attrs) == ("float64", {"units": "counts"})
    assert data["time"].values.tolist() == [3.0, 4.0]
    assert data.coords.keys() == {"time", "motor", "q"} & set(run["final"].read().coords)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "time,det\n3.0,7\n",
            r"line 1: wanted the columns \['det', 'time', 'motor'\], as its metadata tell; there are",
        ),
        ("time,motor,det\n3.0,2.0,high\n", r"column 'det', row 1: wanted what its metadata tell, there is 'high'"),
        ("time,motor,det\n3.0,2.0,1,2\n", r"wanted 3 cells"),
    ],
)
def test_an_exported_csv_that_was_edited_wrongly_is_refused(run, text, says, tmp_path):
    export(run, "csv", tmp_path)
    (tmp_path / "7f3c-final.csv").write_text(text)

    with pytest.raises(PipelineError, match=rf"7f3c-final\.csv.*{says}"):
        read_results(tmp_path / "7f3c-final.csv")

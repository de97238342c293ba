"""Whatever table is handed over becomes a run that reads back equal, or is refused before a document goes out."""

import datetime
import math

import numpy
import pandas
import pyarrow
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import REFUSED, TABLES, VALUES, same

from pipeline import RunBuilder, build_simple_run
from pipeline.errors import PipelineError
from pipeline.schema import validate


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("table", TABLES)
def test_what_is_handed_over_reads_back_equal(table, kind):
    values = VALUES[kind]

    run = build_simple_run(TABLES[table]({"x": values}))

    assert same(run.primary.read()["x"].values, values)
    for name, doc in run.documents():
        validate(name, doc)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_kept_as_it_is_is_refused_before_a_document_goes_out(kind, kept):
    values, says = REFUSED[kind]
    builder = RunBuilder(emit=kept)

    for table in (TABLES["dict of lists"], TABLES["rows"]):
        with pytest.raises(PipelineError, match=f"'primary', field 'x': .*{says}"):
            builder.add_stream("primary", data=table({"x": values}))

    assert [name for name, _ in kept] == ["start"]


@pytest.mark.parametrize("dtype", ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", ">i4", ">f8"])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (0,), (0, 2)])
def test_every_dtype_of_numpy_comes_back(dtype, shape):
    column = numpy.ones(shape, dtype)

    read = build_simple_run({"x": column}).primary.read()["x"]

    assert read.dtype == column.dtype.newbyteorder("=")
    assert numpy.array_equal(read.values, column)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "wanted columns, there are none"),
        (pandas.DataFrame(), "wanted columns, there are none"),
        (xarray.Dataset(), "wanted variables, there are none"),
        ([], "wanted columns, there are none"),
        (3, "wanted a dict of columns, rows .* there is 3"),
        ("results.csv", "wanted a dict of columns"),
        ({"x": 3.0}, "field 'x': wanted a column, one element a row; there is 3.0"),
        ({"x": "abc"}, "field 'x': wanted a column"),
        ({"x": numpy.array(1.0)}, "field 'x': wanted a column"),
        ({"x": {"a": 1}}, "field 'x': wanted a column"),
        ({"x": [1, 2], "y": [1]}, "wanted columns of one length, there are {'x': 2, 'y': 1}"),
        ({1: [1], "1": [2]}, "wanted names that differ, there are two of '1'"),
        (pandas.DataFrame([[1, 2]], columns=["x", "x"]), "two of 'x'"),
        (xarray.Dataset({"a": ("row", [1]), "b": ("q", [1, 2])}), "share a dimension"),
        ({"x": pandas.Series([1], index=[0]), "y": pandas.Series([1], index=[1])}, "Series of one index"),
        (numpy.array([("a", 1j)], [("x", "U1"), ("y", "c16")]), "field 'y'.* there is complex128"),
        ({"x": numpy.ma.array([[1, 2]], mask=[[True, False]])}, "field 'x': wanted whole arrays"),
    ],
)
def test_a_table_that_is_none_is_refused_and_says_what_was_wanted(data, says):
    with pytest.raises(PipelineError, match=says):
        build_simple_run(data)


# names -------------------------------------------------------------------------------------------------------------


def test_names_that_catalogs_refuse_have_other_keys_and_come_back():
    names = ["x", "X", "2-theta", "USAXS.a2rp", "θ", "a/b"]

    run = build_simple_run({name: [i] for i, name in enumerate(names)})

    data_keys = run.primary.descriptors[0]["data_keys"]
    assert list(data_keys) == ["x", "X_2", "k_2-theta", "USAXS_a2rp", "k__", "a_b"]
    read = run.primary.read()
    assert {name: int(read[name][0]) for name in names} == dict(zip(names, range(6), strict=True))


def test_columns_called_time_and_seq_num_are_kept_beside_those_of_the_events():
    run = build_simple_run({"time": ["noon"], "seq_num": [7]}, time=1.0)

    read = run.primary.read()

    assert (read["time_"].item(), read["seq_num"].item()) == ("noon", 7)
    assert read["time"].attrs["units"] == "seconds since 1970-01-01"
    assert run.primary.descriptors[0]["data_keys"]["time_"]["original_name"] == "time"


def test_later_rows_are_given_by_the_same_names_whatever_their_keys():
    with RunBuilder() as builder:
        builder.add_stream("primary", data={"X": [1], "x": [2]})
        builder.add_data("primary", {"x": [20], "X": [10]})
        builder.add_event("primary", {"x": 200, "X": 100}, timestamps={"X": 1.0, "x": 2.0})

    read = builder.get_run().primary.read()

    assert (read["X"].values.tolist(), read["x"].values.tolist()) == ([1, 10, 100], [2, 20, 200])


# what a table says besides its columns -----------------------------------------------------------------------------


def test_units_attributes_and_axes_of_a_dataset_come_back():
    data = xarray.Dataset(
        {"intensity": (("angle", "q"), numpy.ones((2, 3)), {"units": "1/s", "long_name": "I(q)"})},
        coords={
            "q": ("q", [0.1, 0.2, 0.3], {"units": "1/nm"}),
            "angle": ("angle", [10.0, 20.0], {"units": "deg"}),
            "wavelength": ((), 1.54),
        },
        attrs={"detector": "Pilatus", "pixels": [487, 619]},
    )

    read = build_simple_run(data).primary.read()

    assert read["intensity"].dims == ("time", "q")
    assert read["intensity"].attrs == {"units": "1/s", "long_name": "I(q)"}
    assert read["q"].attrs == {"units": "1/nm"}
    assert read["q"].values.tolist() == [0.1, 0.2, 0.3]
    assert set(read.coords) == {"time", "q", "angle", "wavelength"}
    assert (read["angle"].dims, read["angle"].attrs) == (("time",), {"units": "deg"})
    assert read.attrs["detector"] == "Pilatus"
    assert read.attrs["pixels"].tolist() == [487, 619]


def test_what_was_read_from_a_run_makes_an_equal_run():
    first = build_simple_run({"x": [1, 2], "image": numpy.zeros((2, 3, 3), "u2"), "at": list(VALUES["datetimes"][:2])})

    again = build_simple_run(first.primary.read())

    assert again.primary.read().identical(first.primary.read())


def test_an_index_is_a_column_where_it_says_something():
    frame = pandas.DataFrame({"x": [1.0, 2.0]})

    assert list(build_simple_run(frame).primary) == ["x"]
    assert list(build_simple_run(frame.set_index(pandas.Index(["a", "b"]))).primary) == ["index", "x"]
    assert list(build_simple_run(frame.rename_axis("scan")).primary) == ["scan", "x"]
    by_two = frame.set_index(pandas.MultiIndex.from_tuples([(1, "a"), (2, "b")], names=["scan", None]))
    assert list(build_simple_run(by_two).primary) == ["scan", "level_1", "x"]


def test_times_with_a_zone_are_kept_as_the_instants_they_are():
    moment = datetime.datetime(2026, 7, 1, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    utc = numpy.datetime64("2026-07-01T10:00", "ns")

    for column in ([moment], pandas.Series([moment]), pyarrow.array([moment])):
        table = {"x": column} if not isinstance(column, pyarrow.Array) else pyarrow.table({"x": column})
        assert build_simple_run(table).primary.read()["x"].values[0] == utc
    with pytest.raises(PipelineError, match="a time zone, or none; there are both"):
        build_simple_run({"x": [moment, datetime.datetime(2026, 7, 1)]})


def test_categories_dictionaries_and_masks_are_what_they_stand_for():
    assert build_simple_run({"x": pandas.Series(["a", "b"], dtype="category")}).primary["x"].values.tolist() == [
        "a",
        "b",
    ]
    column = pyarrow.array(["a", "b"]).dictionary_encode()
    assert build_simple_run(pyarrow.table({"x": column})).primary["x"].values.tolist() == ["a", "b"]
    masked = numpy.ma.array([1, 2], mask=[True, False])
    assert numpy.array_equal(build_simple_run({"x": masked}).primary["x"].values, [math.nan, 2.0], equal_nan=True)


def test_a_fact_that_a_catalog_would_change_is_refused():
    with pytest.raises(PipelineError, match=r"'n' of all rows: wanted integers up to 2\*\*53"):
        build_simple_run(xarray.Dataset({"x": ("row", [1])}, attrs={"n": 2**60}))


# rows that come later ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "later", "says"),
    [
        ([1, 2], [2.5], "wanted an integer, there is 2.5"),
        ([1, 2], [None], "wanted an integer, there is None"),
        ([1.0], [2**60 + 1], "that a float can hold"),
        ([1.0], ["a"], "wanted a number, there is 'a'"),
        (["a"], [1], "wanted text, there is 1"),
        ([[1, 2]], [[1, 2, 3]], r"shape \[2\], there is <i8 of shape \[3\]"),
        (numpy.array([1], "i1"), [300], r"wanted what \|i1 can hold, there is 300"),
        (numpy.array([1], "f4"), [0.1], "wanted what <f4 can hold, there is 0.1"),
        (numpy.array([["a"]]), [["abc"]], "<U1 can hold"),
        (list(VALUES["datetimes"]), [5], "wanted datetime, there is integer"),
        ([5], list(VALUES["datetimes"]), "wanted integer, there is datetime"),
    ],
)
def test_rows_that_would_have_to_change_are_refused_and_nothing_goes_out(first, later, says, kept):
    builder = RunBuilder(emit=kept)
    builder.add_stream("primary", data={"x": first})
    n = len(kept)

    with pytest.raises(PipelineError, match=f"'primary', field 'x': .*({says})"):
        builder.add_data("primary", {"x": later})

    assert len(kept) == n


@pytest.mark.parametrize("first", ["a", True, 1.0])
def test_missing_values_may_come_later(first):
    with RunBuilder() as builder:
        builder.add_stream("primary", data={"x": [first]})
        builder.add_data("primary", {"x": [None, first]})
        builder.add_data("primary", {"x": [None]})

    assert same(builder.get_run().primary["x"].values, [first, None, first, None])


def test_missing_datetimes_may_come_later():
    with RunBuilder() as builder:
        builder.add_stream("primary", data={"x": VALUES["datetimes"][:1]})
        builder.add_data("primary", {"x": [None]})
        builder.add_event("primary", {"x": None})

    assert numpy.isnat(builder.get_run().primary["x"].values).tolist() == [False, True, True]


def test_rows_of_other_facts_are_refused():
    curves = xarray.Dataset({"y": (("row", "q"), [[1.0, 2.0]])}, coords={"q": [0.1, 0.2]})
    with RunBuilder() as builder:
        builder.add_stream("primary", data=curves)
        builder.add_data("primary", curves)

        with pytest.raises(PipelineError, match=r"'q' as .*0.2.*; there are rows with .*0.3"):
            builder.add_data("primary", curves.assign_coords(q=[0.1, 0.3]))


@given(st.lists(st.integers(0, 5), max_size=5), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_seq_num_goes_on_over_pages_and_events(sizes, step):
    with RunBuilder() as builder:
        builder.add_stream("primary", data={"x": numpy.arange(step, dtype="f8")})
        for size in sizes:
            builder.add_data("primary", {"x": numpy.arange(size, dtype="f8")})
            builder.add_event("primary", {"x": 0.0})

    seq_nums = [
        seq_num
        for name, doc in builder.documents()
        if name in ("event", "event_page")
        for seq_num in (doc["seq_num"] if name == "event_page" else [doc["seq_num"]])
    ]
    assert seq_nums == list(range(1, step + sum(sizes) + len(sizes) + 1))
    assert builder.documents()[-1][1]["num_events"] == {"primary": len(seq_nums)}


def test_a_long_table_goes_out_in_pages_of_bounded_size():
    run = build_simple_run({"x": numpy.arange(2500), "image": numpy.zeros((2500, 100, 100), "u1")})

    pages = [doc for name, doc in run.documents() if name == "event_page"]

    assert max(len(page["seq_num"]) for page in pages) == 1000
    assert [seq_num for page in pages for seq_num in page["seq_num"]] == list(range(1, 2501))
    assert numpy.array_equal(run.primary["x"].values, numpy.arange(2500))


# times -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "time", [5.0, 5, [5.0, 5.0], numpy.array([5, 5]), list(times_ := numpy.array([5, 5], "M8[s]"))]
)
def test_time_is_one_for_all_rows_or_a_column(time):
    with RunBuilder() as builder:
        builder.add_stream("primary", data={"x": [1, 2]}, time=time, timestamps={"x": [6.0, 7.0]})

    documents = dict(builder.documents())
    assert documents["descriptor"]["time"] == 5.0
    assert documents["event_page"]["time"] == [5.0, 5.0]
    assert documents["event_page"]["timestamps"] == {"x": [6.0, 7.0]}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"time": [1.0]}, "time: wanted 2 of them, one a row; there are 1"),
        ({"time": "noon"}, "time: wanted seconds since 1970, or datetimes; there is 'noon'"),
        ({"timestamps": {"y": 1.0}}, r"wanted \['x'\], there are \['y'\]"),
        ({"seq_num": [1, 2]}, r"wanted seq_num from \[3\] on"),
        ({"uid": ["a"]}, "wanted 2 uids"),
    ],
)
def test_times_uids_and_numbers_that_do_not_fit_are_refused(given, says):
    with RunBuilder() as builder:
        builder.add_stream("primary", data={"x": [1, 2]})

        with pytest.raises(PipelineError, match=says):
            builder.add_data("primary", {"x": [3, 4]}, **given)

    assert builder.documents()[-1][1]["num_events"] == {"primary": 2}

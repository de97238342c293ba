"""A run builder makes valid runs of whatever it is given, or refuses it before any document goes out."""

import event_model
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import RunBuilder
from pipeline.errors import PipelineError

KINDS = {
    "float": (1.5, "number", "<f8", []),
    "int": (3, "integer", "<i8", []),
    "bool": (True, "boolean", "|b1", []),
    "text": ("a", "string", "<U0", []),
    "float32": (numpy.float32(1), "number", "<f4", []),
    "int16": (numpy.int16(1), "integer", "<i2", []),
    "bool_": (numpy.True_, "boolean", "|b1", []),
    "zero_d": (numpy.array(2.0), "number", "<f8", []),
    "curve": (numpy.zeros(4), "array", "<f8", [4]),
    "image": (numpy.zeros((2, 3), "u2"), "array", "<u2", [2, 3]),
    "list": ([1, 2, 3], "array", "<i8", [3]),
    "texts": (["a", "bc"], "array", "<U2", [2]),
    "flags": (numpy.array([True]), "array", "|b1", [1]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_value_is_described_as_it_is(kind, kept):
    value, dtype, dtype_numpy, shape = KINDS[kind]

    with RunBuilder(emit=kept) as builder:
        builder.add_stream("primary", data={"x": [value]})
        builder.add_event("primary", {"x": value})

    data_key = kept.named("descriptor")[0]["data_keys"]["x"]
    assert (data_key["dtype"], data_key["dtype_numpy"], data_key["shape"]) == (dtype, dtype_numpy, shape)
    assert numpy.array_equal(kept.named("event")[0]["data"]["x"], value)
    assert type(kept.named("event")[0]["data"]["x"]) in (float, int, bool, str, numpy.ndarray)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 4), st.booleans()), max_size=12))
@settings(max_examples=50, deadline=None)
def test_seq_num_and_num_events_are_right_over_many_calls_and_streams(calls):
    documents = []
    with RunBuilder(emit=lambda *item: documents.append(item)) as builder:
        for name in "ab":
            builder.add_stream(name, {"x": {"source": "x", "dtype": "number", "shape": []}})
        for name, n, as_page in calls:
            if as_page:
                builder.add_data(name, {"x": [0.0] * n})
            else:
                builder.add_event(name, {"x": 1})

    streams = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
    seq_nums, uids = {"a": [], "b": []}, []
    for name, doc in documents:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
        if name == "event":
            seq_nums[streams[doc["descriptor"]]].append(doc["seq_num"])
            uids.append(doc["uid"])
        if name == "event_page":
            seq_nums[streams[doc["descriptor"]]].extend(doc["seq_num"])
            uids.extend(doc["uid"])
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in seq_nums.values())
    assert documents[-1][1]["num_events"] == {name: len(numbers) for name, numbers in seq_nums.items()}
    assert len(set(uids)) == len(uids)


def test_the_same_uid_and_data_give_the_same_documents():
    def build():
        with RunBuilder({"sample": "Cu"}, uid="a", time=1.0) as builder:
            builder.add_stream("primary", data={"x": [1.0]}, time=2.0)
            builder.close(time=3.0)
        return builder.documents()

    assert build() == build()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"x": 1.0}, r"'primary': wanted \['x', 'y'\], there are \['x'\]"),
        ({"x": 1.0, "y": 1, "z": 2}, r"wanted \['x', 'y'\], there are \['x', 'y', 'z'\]"),
        ({"x": "a", "y": 1}, r"field 'x': wanted a number, there is 'a'"),
        ({"x": 1.0, "y": 1.5}, r"field 'y': wanted an integer, there is 1.5"),
        ({"x": [1.0], "y": 1}, r"field 'x': wanted a number"),
        ({"x": 1j, "y": 1}, r"field 'x': wanted a number"),
        ({"x": True, "y": 1}, r"field 'x': wanted a number, there is True"),
    ],
)
def test_an_event_that_contradicts_its_descriptor_is_refused_before_it_goes_out(data, says, kept):
    builder = RunBuilder(emit=kept)
    builder.add_stream("primary", data={"x": [1.0], "y": [1]})
    n = len(kept)

    with pytest.raises(PipelineError, match=says):
        builder.add_event("primary", data)

    assert len(kept) == n
    builder.add_event("primary", {"x": 2, "y": 2})
    assert kept[-1][1]["seq_num"] == 2


def test_an_array_of_another_shape_is_refused(kept):
    builder = RunBuilder(emit=kept)
    builder.add_stream("primary", data={"image": numpy.zeros((1, 2, 3))})

    with pytest.raises(
        PipelineError, match=r"field 'image': wanted <f8 of shape \[2, 3\], there is <f8 of shape \[3, 2\]"
    ):
        builder.add_event("primary", {"image": numpy.zeros((3, 2))})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"x": [1.0, 2.0], "y": [1]}, "columns of one length"),
        ({"x": [object()], "y": [1]}, "field 'x'"),
        ({"x": [1], "y": [[1, [2]]]}, "field 'y': wanted an array .* in each row"),
        ({}, "wanted columns, there are none"),
    ],
)
def test_a_stream_that_cannot_be_stored_is_refused_before_its_descriptor_goes_out(data, says, kept):
    builder = RunBuilder(emit=kept)

    with pytest.raises(PipelineError, match=says):
        builder.add_stream("primary", data=data)

    assert [name for name, _ in kept] == ["start"]
    assert builder.streams == []


def test_a_new_configuration_is_a_new_descriptor_and_seq_num_goes_on(kept):
    with RunBuilder(emit=kept) as builder:
        builder.add_stream("primary", data={"x": [1.0]})
        builder.update_configuration("primary", {"det": {"data": {}, "timestamps": {}, "data_keys": {}}})
        builder.add_event("primary", {"x": 2.0})

    first, second = kept.named("descriptor")
    assert first["uid"] != second["uid"]
    assert kept.named("event")[0]["descriptor"] == second["uid"]
    assert kept.named("event")[0]["seq_num"] == 2
    assert kept.stop["num_events"] == {"primary": 2}


def test_an_error_in_the_context_ends_the_run_as_fail_with_the_reason(kept):
    with pytest.raises(ValueError, match="boom"), RunBuilder(emit=kept):
        raise ValueError("boom")

    assert (kept.stop["exit_status"], kept.stop["reason"]) == ("fail", "ValueError('boom')")


def test_a_closed_run_refuses_whatever_comes(kept):
    builder = RunBuilder(emit=kept)
    builder.add_stream("primary", data={"x": [1.0]})
    builder.close()
    n = len(kept)

    for call in (
        lambda: builder.add_stream("more", data={"x": [1.0]}),
        lambda: builder.add_event("primary", {"x": 1.0}),
        lambda: builder.add_data("primary", {"x": [1.0]}),
        lambda: builder.update_configuration("primary", {}),
        builder.close,
    ):
        with pytest.raises(PipelineError, match="is closed"):
            call()
    assert len(kept) == n


def test_a_stream_is_added_once_and_known_by_name(kept):
    builder = RunBuilder(emit=kept)
    builder.add_stream("primary", data={"x": [1.0]})

    with pytest.raises(PipelineError, match="there already"):
        builder.add_stream("primary", data={"x": [1.0]})
    with pytest.raises(KeyError, match=r"no stream 'baseline'; there are \['primary'\]"):
        builder.add_event("baseline", {"x": 1.0})


def test_metadata_that_no_document_can_hold_is_refused():
    with pytest.raises(PipelineError, match=r"start.* not valid"):
        RunBuilder({"a.b": 1})


def test_the_callers_arrays_are_not_aliased(kept):
    frame = numpy.zeros(3)
    with RunBuilder(emit=kept) as builder:
        builder.add_stream("primary", data={"x": [frame]})
        builder.add_event("primary", {"x": frame})
        frame[:] = 7

    assert kept.named("event")[0]["data"]["x"].tolist() == [0, 0, 0]
    assert kept.named("event_page")[0]["data"]["x"][0].tolist() == [0, 0, 0]

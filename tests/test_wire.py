"""What comes over a wire is a document, or is refused with one error; nothing in it is ever run."""

import io
import pickle
import time

import msgpack
import msgpack_numpy
import numpy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.documents import MAX_LINE, dumps
from pipeline.errors import PipelineTypeError, PipelineValueError
from pipeline.testing import make_run
from pipeline.wire import MAX_DESCRIPTORS, Decoder, encode


def packed(name, doc):
    """As bluesky-kafka's publisher writes it."""
    return msgpack_numpy.packb([name, doc])


RUN = make_run({"det": [1.0, float("nan")], "image": [numpy.arange(6, dtype="<u2").reshape(2, 3)] * 2})
START = RUN[0]


def same(a, b):
    """Whether these are the same values, of the same types of arrays."""
    if isinstance(b, numpy.ndarray):
        return (
            a.dtype == b.dtype.newbyteorder("=") and a.shape == b.shape and a.tobytes() == b.astype(a.dtype).tobytes()
        )
    if isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in b)
    if isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def test_a_run_comes_through_msgpack_as_it_was():
    decode = Decoder()

    come = [decode(packed(name, doc)) for name, doc in RUN]

    assert all(same(list(a), list(b)) for a, b in zip(come, RUN, strict=True))


def test_a_run_comes_through_json_of_both_dialects_with_its_nan():
    decode = Decoder()
    lines = [dumps(name, doc) for name, doc in RUN]
    other = [
        b'{"name": "%s", "doc": %s' % (name.encode(), line.split(b",", 1)[1][:-2] + b"}")
        for (name, _), line in zip(RUN, lines, strict=True)
    ]

    for messages in (lines, other):
        come = [decode(message) for message in messages]

        assert [name for name, _ in come] == [name for name, _ in RUN]
        assert [doc["data"]["det"] for name, doc in come if name == "event"] == [
            1.0,
            pytest.approx(float("nan"), nan_ok=True),
        ]


def test_what_is_encoded_needs_no_descriptor_to_have_its_nan():
    numbers = {"nan": numpy.nan, "inf": -numpy.inf, "none": None, "f4": numpy.array([[0.1, numpy.nan]], "f4")}
    others = {"at": numpy.datetime64("2024-01-01"), "n": numpy.int64(3), "tuple": (1, numpy.float32(0.1)), "é": "é"}

    name, come = Decoder()(encode("start", numbers | others))

    same_numbers = {"nan": float("nan"), "inf": -float("inf"), "none": None, "f4": [[0.1, float("nan")]]}
    assert same(come, same_numbers | {"at": "2024-01-01", "n": 3, "tuple": [1, 0.1], "é": "é"})
    assert encode("start", numbers | others) != dumps("start", numbers | others)
    assert encode(name, {"n": 3, "tuple": (1, 2)}) == dumps("start", {"n": 3, "tuple": (1, 2)}).rstrip()
    assert encode("start", {1: None}) == b'["start",{"1":null}]'
    with pytest.raises(PipelineTypeError, match=r"event\['x'\] is of type complex"):
        encode("event", {"x": 1j})


@pytest.mark.parametrize(
    "dtype",
    ["<f8", ">f8", "<f4", "<f2", "<i8", ">i2", "|u1", "|i1", "|b1", "<U3", ">U3", "|S2", "<c16"],
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (2, 3)])
def test_an_array_comes_owned_native_and_with_its_numbers(dtype, shape):
    array = numpy.array(numpy.arange(numpy.prod(shape, dtype=int)).reshape(shape) % 2, dtype)

    _, doc = Decoder()(packed("event", {"x": array, "fortran": array.copy(order="F")}))

    for key in doc:
        assert same(doc[key], array)
        assert doc[key].dtype.isnative
        assert doc[key].flags.owndata
        assert doc[key].flags.writeable


def test_numbers_of_numpy_and_complex_ones_come_as_they_were():
    doc = {
        "a": numpy.int16(-3),
        "b": numpy.float32(0.1),
        "c": numpy.bool_(True),
        "d": 1 + 2j,
        "e": numpy.complex128(3j),
        "f": b"raw",
    }

    _, come = Decoder()(packed("event", doc))

    assert same(come, doc)


def test_a_document_without_its_name_is_read_by_the_name_it_came_under():
    assert Decoder()(msgpack.packb({"uid": "a"}), "start") == ("start", {"uid": "a"})
    for name in ("", "bluesky"):
        with pytest.raises(PipelineValueError, match="wanted \\[name, document\\] as msgpack, there is dict"):
            Decoder()(msgpack.packb({"uid": "a"}), name)


def nd(**parts):
    """An array as msgpack-numpy writes it, with these parts instead."""
    array = {"nd": True, "type": "<f8", "kind": b"", "shape": [1], "data": bytes(8)} | parts
    return msgpack.packb(["event", {"x": {key.encode(): value for key, value in array.items()}}])


def nested(n):
    return msgpack.Packer().pack_array_header(2) + b"\xa5event" + b"\x81\xa1x" * (n - 2) + b"\x80"


class Runs:
    def __reduce__(self):
        return pytest.fail, ("a pickle was run",)


PICKLE = pickle.dumps(Runs())
HOSTILE = {
    "a pickle": (PICKLE, "wanted"),
    "a pickled document": (pickle.dumps(["start", {"uid": "a"}]), "wanted"),
    "an array of objects": (nd(kind=b"O", type="|O", data=PICKLE), "there is one of kind b'O'"),
    "an array of objects, of an old publisher": (nd(type="|O", data=PICKLE), r"there is '\|O'"),
    "a structured array": (nd(kind=b"V", type=[["a", "<f8"]]), "there is one of kind b'V'"),
    "a hidden structure": (nd(type="<f8,<f8", data=bytes(16)), "there is '<f8,<f8'"),
    "too few bytes": (nd(shape=[2]), r"wanted an array of shape \(2,\) and type float64, there are 8 bytes"),
    "too many bytes": (nd(data=bytes(9)), "there are 9 bytes"),
    "no bytes": (nd(data="12345678"), "there are a str"),
    "a negative shape": (nd(shape=[-1, -1]), r"wanted the shape of an array, there is \[-1, -1\]"),
    "a shape of floats": (nd(shape=[1.0]), "wanted the shape"),
    "no shape": (nd(shape=None), "wanted the shape"),
    "a shape beyond all memory": (nd(shape=[2**62, 2**62]), "there are 8 bytes"),
    "a shape of many dimensions": (nd(shape=[1] * 65), "wanted the shape"),
    "an array nested too deep": (nd(shape=[1] * 64), "nested at most 64 deep"),
    "elements without a size": (nd(type="<U0", shape=[2**40], data=b""), "whose elements have a size"),
    "an empty array that is huge": (nd(shape=[2**40, 0], data=b""), "there is an empty one of shape"),
    "a huge element": (nd(type="<U99999999"), "there are 8 bytes"),
    "no type of numpy": (nd(type="<f3"), "wanted a document"),
    "text that is no text": (nd(type="<U2"[:3], data=b"\xff" * 8, shape=[1]), "codes that are no letters"),
    "half a letter": (nd(type="<U1", data=b"\x00\xd8\x00\x00"), "codes that are no letters"),
    "a complex number that is text": (msgpack.packb(["event", {"x": {b"complex": True, b"data": "x"}}]), "complex"),
    "an extension": (msgpack.packb(["event", {"x": msgpack.ExtType(5, b"123")}]), "there is type 5 of 3 bytes"),
    "a timestamp": (msgpack.packb(["event", {"x": msgpack.Timestamp(1)}]), "there is a Timestamp"),
    "a timestamp alone": (msgpack.packb(msgpack.Timestamp(1)), "there is a Timestamp"),
    "keys that are numbers": (msgpack.packb(["start", {1: 2}]), "not allowed for map key"),
    "keys that are bytes": (msgpack.packb(["start", {b"a": 2}]), "wanted text as keys"),
    "nested too deep": (nested(65), "nested at most 64 deep"),
    "nested much too deep": (nested(100_000), "wanted a document"),
    "text that is not UTF-8": (b"\x92\xa5start\x81\xa1x\xa1\xff", "utf-8"),
    "a name that is no text": (msgpack.packb([1, {}]), r"there is \['int', 'dict'\]"),
    "a document that is none": (msgpack.packb(["start", []]), r"there is \['str', 'list'\]"),
    "three parts": (msgpack.packb(["start", {}, 1]), r"there is \['str', 'dict', 'int'\]"),
    "nothing": (b"", "wanted a document"),
    "half a message": (packed(*START)[:-1], "incomplete"),
    "a message and a half": (packed(*START) * 2, "extra data"),
    "a list longer than its message": (b"\xdd\xff\xff\xff\xff", "wanted a document"),
    "JSON nested too deep": (b'["start", {"x": ' + b"[" * 63 + b"]" * 63 + b"}]", "nested at most 64 deep"),
    "JSON that is no document": (b'["start"]', r"wanted \[name, document\]"),
    "half of JSON": (dumps(*START)[:-5], "wanted a document"),
    "a descriptor without a uid": (b'["descriptor", {"data_keys": {}}]', "'uid' is missing"),
    "data keys that are none": (b'["descriptor", {"uid": "d", "data_keys": {"x": 1}}]', "wanted a document"),
    "a uid that is none": (b'["descriptor", {"uid": [], "data_keys": {}}]', "unhashable"),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_is_no_document_is_refused_with_one_error(hostile):
    message, says = HOSTILE[hostile]

    with pytest.raises(PipelineValueError, match=says) as refusal:
        Decoder()(message)

    assert len(str(refusal.value)) < 300


def test_a_document_nested_as_deep_as_allowed_comes_through():
    name, doc = Decoder()(nested(64))

    assert name == "event"
    assert doc


@pytest.mark.parametrize("first", [b"[", b"\xc6\x04\x00\x00\x00"])
def test_a_message_that_is_too_long_is_refused_unread(first):
    before = time.perf_counter()

    with pytest.raises(PipelineValueError, match=f"at most {MAX_LINE} bytes"):
        Decoder()(first + bytes(MAX_LINE))

    assert time.perf_counter() - before < 1


def test_what_others_do_to_msgpack_does_not_make_it_unpickle(monkeypatch):
    """bluesky-kafka, when it is imported, lets msgpack-numpy replace all of msgpack."""
    for name in ("Packer", "Unpacker", "load", "loads", "dump", "dumps", "pack", "packb", "unpack", "unpackb"):
        monkeypatch.setattr(msgpack, name, getattr(msgpack, name))
    msgpack_numpy.patch()
    assert msgpack.unpackb is msgpack_numpy.unpackb

    with pytest.raises(PipelineValueError, match="there is one of kind b'O'"):
        Decoder()(HOSTILE["an array of objects"][0])


def test_of_descriptors_only_the_last_are_remembered():
    decode = Decoder()
    key = {"dtype": "number", "shape": [], "source": ""}
    for n in range(MAX_DESCRIPTORS + 1):
        decode(dumps("descriptor", {"uid": f"d{n}", "data_keys": {"x": key}}))

    old, new = (decode(dumps("event", {"descriptor": uid, "data": {"x": None}})) for uid in ("d0", "d1000"))

    assert old[1]["data"]["x"] is None
    assert new[1]["data"]["x"] != new[1]["data"]["x"]


# whatever comes ------------------------------------------------------------------------------------------------------

GOOD = [packed(*item) for item in RUN] + [dumps(*item) for item in RUN] + [nd(), nd(type="<U2"), nd(type="<M8[ns]")]


def refused_or_document(message, name=""):
    try:
        name, doc = Decoder()(message, name)
    except PipelineValueError:
        return
    assert type(name) is str
    assert type(doc) is dict


@settings(max_examples=300, deadline=2000)
@given(
    st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"\x92\xa5event" + tail),
    st.sampled_from(["", "event"]),
)
@example(b"\xde", "")
def test_random_bytes_are_refused_or_a_document(message, name):
    refused_or_document(message, name)


@settings(max_examples=500, deadline=2000)
@given(st.sampled_from(GOOD), st.data())
def test_a_message_with_bytes_changed_is_refused_or_a_document(message, data):
    message = bytearray(message)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(message) - 1))
        message[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4)) or b"\xc1"

    refused_or_document(bytes(message))


@settings(max_examples=200, deadline=2000)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "nd": st.booleans() | st.none() | st.integers(-2, 2),
            "type": st.text(alphabet="<>|=biufcSUmMOV0123456789[],()nsgeric", max_size=12)
            | st.lists(st.text(max_size=2)),
            "kind": st.binary(max_size=1) | st.none(),
            "shape": st.lists(st.integers(-2, 2**63), max_size=4) | st.text(max_size=2),
            "data": st.binary(max_size=32) | st.text(max_size=8) | st.none(),
        },
    )
)
def test_any_array_is_refused_or_can_be_used(parts):
    message = nd(**parts)

    refused_or_document(message)
    try:
        _, doc = Decoder()(message)
    except PipelineValueError:
        return
    io.StringIO().write(repr(doc["x"].tolist() if hasattr(doc["x"], "tolist") else doc["x"]))

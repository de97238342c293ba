"""What data have changed can be written, read, and gone on from; and what cannot is refused."""

import copy
import io
import math
from array import array
from collections import deque

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineTypeError, PipelineValueError
from pipeline.reductions import Mean, Reduction, Statistics
from pipeline.state import pack, state_from_bytes, state_to_bytes, unpack
from pipeline.testing import _equal, check_reduction

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**2000), 2**2000),
    st.floats(),
    st.text(max_size=5),
    st.builds(numpy.float32, st.floats(width=32)),
    st.lists(st.floats(), max_size=4).map(numpy.array),
    st.lists(st.floats(), max_size=4).map(lambda values: array("d", values)),
)
keys = st.one_of(st.text(max_size=5), st.integers(), st.just("!float"))
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(inner, max_size=4).map(lambda parts: deque(parts, 4)),
        st.dictionaries(keys, inner, max_size=4),
    ),
    max_leaves=12,
)


@given(values)
@settings(max_examples=300, deadline=None)
def test_a_value_comes_out_of_its_bytes_as_it_went_in(value):
    out = unpack(state_from_bytes(state_to_bytes(pack(value, "x", ""))), "")

    assert repr(out) == repr(value)  # kinds, signs of zero and NaN too
    assert not isinstance(value, numpy.ndarray) or out.dtype == value.dtype


@pytest.mark.parametrize("dtype", ["bool", "u1", ">i4", "f4", "c16", "U3", "M8[ns]", [("a", "i2"), ("b", "f8")]])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_an_array_keeps_dtype_and_shape(dtype, shape):
    value = numpy.zeros(shape, dtype)

    out = unpack(state_from_bytes(state_to_bytes(pack(value, "x", ""))), "")

    assert (out.dtype, out.shape, out.tobytes()) == (value.dtype, value.shape, value.tobytes())


@pytest.mark.parametrize(
    "value",
    [math.sqrt, lambda: 1, numpy, Mean, 1j, numpy.array([None]), numpy.random.default_rng(1), deque, b"ab", range(3)],
)
def test_what_no_state_can_hold_is_refused(value):
    with pytest.raises(PipelineTypeError, match="state"):
        pack([value], "x", "numpy")


def test_the_place_of_what_is_refused_is_told():
    mean = Mean("det")
    mean.parts = {"a": [1, math.sqrt]}

    with pytest.raises(PipelineTypeError, match=r"^Mean: parts\['a'\]\[1\] is builtin_function_or_method, which"):
        mean.state()


def test_a_state_is_bytes_without_a_pickle():
    statistics = Statistics("det")
    statistics.update({"det": numpy.arange(3.0)})

    content = state_to_bytes(statistics.state())

    assert content.split(b" ", 1)[0].isdigit()  # arrays, behind the line of JSON
    assert b"cpipeline" not in content
    with pytest.raises(PipelineValueError, match="are no state"):
        state_from_bytes(content[:-40])


def test_a_pickle_is_not_read():
    file = io.BytesIO()
    numpy.save(file, numpy.array([{}], dtype=object))

    with pytest.raises(PipelineValueError, match="are no state: ValueError: Object arrays cannot be loaded"):
        state_from_bytes(b'1 {"!ndarray":0}\n' + file.getvalue())


def test_what_follows_a_state_is_refused():
    with pytest.raises(PipelineValueError, match="something follows"):
        state_from_bytes(state_to_bytes({"n": 1}) + b"x")


@pytest.mark.parametrize("other", [Mean("x", skipna=False), Mean("y"), Statistics("x")])
def test_a_state_of_another_class_or_arguments_is_refused(other):
    before = other.result()

    with pytest.raises(PipelineValueError, match="wanted a state of"):
        other.restore(Mean("x").state())
    assert other.result() == before


def test_a_state_of_another_version_is_refused():
    class Later(Mean):
        version = 2
        name = "Mean"

    with pytest.raises(PipelineValueError, match="Mean: wanted a state of version 2, there is 1"):
        Later("x").restore(Mean("x").state())


def test_a_class_of_another_package_is_not_made():
    state = Mean("x").state()
    state["data"]["_taken"] = {"!object": ["subprocess:Popen", {}]}

    with pytest.raises(PipelineValueError, match="has an object of 'subprocess:Popen'"):
        Mean("x").restore(state)


def test_a_tag_that_is_not_known_is_refused():
    with pytest.raises(PipelineValueError, match="has the tag '!pickle'"):
        unpack({"!pickle": "x"}, "")


class Box:
    """Something of a user's own, of numbers."""

    def __init__(self):
        self.last = []
        self.total = 0


class Difference(Reduction):
    """As a user would write it: it knows nothing of states."""

    constants = ("function",)

    def __init__(self, field, start=0.0):
        self.field, self.start = field, start
        self.box = Box()
        self.function = math.sqrt

    def update(self, data):
        self.box.last.append(data[self.field])
        self.start += self.function(abs(data[self.field]))
        self.box.total = self.box.total * 3 + 10**30

    def result(self):
        return {"d": self.box.last[-1] - self.start, "t": float(self.box.total)} if self.box.last else None


def test_a_reduction_of_a_user_has_states_without_a_line_about_them():
    check_reduction(Difference("x"), [{"x": float(x)} for x in range(8)])


def test_constants_are_shared_by_copies_and_not_in_the_state():
    one = Difference("x")
    one.update({"x": 1.0})

    assert set(one.state()["data"]) == {"box", "start"}
    one.constants = ("function", "box")
    assert copy.deepcopy(one).box is one.box


def test_a_state_that_forgets_is_found_out():
    class Forgetful(Difference):
        def state(self):
            state = super().state()
            state["data"].pop("start", None)
            return state

    with pytest.raises(AssertionError, match="a state, restored after 1 events, gives another result"):
        check_reduction(Forgetful("x"), [{"x": 1.0}, {"x": 2.0}])


def test_a_state_that_is_shared_is_found_out():
    class Shared(Reduction):
        def state(self):
            return {**super().state(), "data": {"total": self.total}}

        def restore(self, state):
            self.total = state["data"]["total"]

        def __init__(self, field):
            self.total = numpy.zeros(1)

        def update(self, data):
            self.total += data["x"]

        def result(self):
            return {"t": self.total[0]}

    with pytest.raises(AssertionError, match="a state is changed by what comes after it"):
        check_reduction(Shared("x"), [{"x": 1.0}, {"x": 2.0}])


def test_states_of_equal_reductions_are_equal():
    one, other = Statistics("x"), Statistics("x")
    for value in (1.0, math.nan, 3):
        one.update({"x": value})
        other.update({"x": value})

    assert _equal(one.state(), other.state())

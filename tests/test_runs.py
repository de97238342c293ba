"""Sums over regions: Python's integers, and the same bits with and without numba."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.reductions import runs as module
from pipeline.reductions.compiled import NO_NUMBA
from pipeline.reductions.region import Box
from pipeline.reductions.runs import Runs, runs_of_labels

INTEGERS = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", ">u2", ">i8"]
FLOATS = ["f2", "f4", "f8", ">f4", "g"]
bound = st.integers(-3, 12)
boxes = st.lists(st.tuples(bound, bound, bound, bound).map(lambda b: (*sorted(b[:2]), *sorted(b[2:]))), max_size=4)


@pytest.fixture(params=["numba", "numpy"], autouse=True)
def way(request, monkeypatch):
    """Each test goes by the kernels, and by their twins, however few elements there are."""
    monkeypatch.setattr(module, "WORTH", 0)
    if request.param == "numba":
        pytest.importorskip("numba")
    else:
        monkeypatch.setenv(NO_NUMBA, "1")
    return request.param


def mask_of(runs, shape):
    mask = numpy.zeros(shape, bool)
    for y, begin, end in runs:
        assert not mask[y, begin:end].any()  # no element is in two runs
        mask[y, begin:end] = True
    return mask


def exact(frame, mask):
    """Counts, totals, largest and moments by Python, element by element."""
    places = [(int(y), int(x)) for y, x in zip(*numpy.nonzero(mask), strict=True) if math.isfinite(frame[y, x])]
    number = float if frame.dtype.kind == "f" else int
    values = [number(frame[place]) for place in places]
    add = math.fsum if frame.dtype.kind == "f" else sum
    return (
        len(places),
        float(add(values)),
        float(max(values, default=0)),
        float(add(v * y for v, (y, _) in zip(values, places, strict=True))),
        float(add(v * x for v, (_, x) in zip(values, places, strict=True))),
        float(sum(y for y, _ in places)),
        float(sum(x for _, x in places)),
    )


def check(frame, regions, rtol):
    kept = frame.copy()
    frame.setflags(write=False)

    found = Runs(regions).sums(frame)

    rows = zip(found.n, found.total, found.largest, *found.moments, *found.places, strict=True)
    for runs, row in zip(regions, rows, strict=True):
        want = exact(frame, mask_of(runs, frame.shape))
        assert [row[0], *row[5:]] == [want[0], *want[5:]]
        scale = max([1e-300, *(abs(float(v)) for v in frame[numpy.isfinite(frame)].reshape(-1))]) * 100
        assert numpy.allclose(row, want, rtol=rtol, atol=0 if rtol == 0 else scale * 1e-14)
    assert numpy.array_equal(frame, kept, equal_nan=frame.dtype.kind == "f")


@pytest.mark.parametrize("dtype", INTEGERS)
@given(data=st.data(), boxes=boxes)
@settings(max_examples=25, deadline=None)
def test_sums_of_integers_in_boxes_are_exact(dtype, data, boxes):
    frame = data.draw(arrays.arrays(dtype, (7, 9)))

    check(frame, [Box([box[:2], box[2:]], 1).runs((7, 9)) for box in boxes], 0)


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data(), boxes=boxes)
@settings(max_examples=25, deadline=None)
def test_sums_of_floats_in_boxes_are_those_of_the_finite_elements(dtype, data, boxes):
    values = st.floats(-1000, 1000, width=16) | st.sampled_from([math.nan, math.inf, -math.inf, -0.0])
    frame = numpy.array(data.draw(st.lists(values, min_size=63, max_size=63))).reshape(7, 9).astype(dtype)

    check(frame, [Box([box[:2], box[2:]], 1).runs((7, 9)) for box in boxes], 1e-13)


@pytest.mark.parametrize("dtype", ["u2", "i8", "f4"])
@given(arrays.arrays("i2", (6, 11), elements=st.integers(-1, 3)))
@settings(max_examples=25, deadline=None)
def test_labels_are_regions_of_any_form(dtype, labels):
    frame = numpy.arange(66).reshape(6, 11).astype(dtype)
    names = numpy.unique(labels[labels > 0])

    regions = runs_of_labels(labels)

    assert [mask_of(runs, labels.shape).tolist() for runs in regions] == [(labels == name).tolist() for name in names]
    check(frame, regions, 1e-13 if dtype == "f4" else 0)


@given(boxes, st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_a_border_is_what_a_wider_box_has_more(boxes, width):
    for box in boxes:
        inner, border = Box([box[:2], box[2:]], width).runs((7, 9)), Box([box[:2], box[2:]], width).border((7, 9))
        wide = [box[0] - width, box[1] + width, box[2] - width, box[3] + width]
        outer = Box([wide[:2], wide[2:]], 1).runs((7, 9))

        assert numpy.array_equal(mask_of(border, (7, 9)), mask_of(outer, (7, 9)) & ~mask_of(inner, (7, 9)))


@pytest.mark.parametrize("dtype", ["u4", "i4", "u8", "i8"])
def test_the_largest_integers_do_not_overflow(dtype):
    info = numpy.iinfo(dtype)
    for value in (info.max, info.min):
        frame = numpy.full((2, 2**15), value, dtype)

        found = Runs([numpy.array([[0, 0, 2**15], [1, 0, 2**15]])]).sums(frame)

        assert found.total[0] == float(2**16 * int(value))
        assert found.moments[:, 0].tolist() == [float(2**15 * int(value)), float((2**15 - 1) * 2**15 * int(value))]


@pytest.mark.parametrize("way", ["numba"], indirect=True)
@pytest.mark.parametrize("dtype", ["u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("is_box", [True, False])
def test_kernels_and_twins_give_the_same_bits(dtype, is_box, monkeypatch):
    rng = numpy.random.default_rng(0)
    for _ in range(30):
        height, width = rng.integers(1, 300, 2)
        frame = rng.normal(100, 1000, (height, width)).astype(dtype)
        if dtype[0] == "f":
            frame[rng.random(frame.shape) < 0.05] = math.nan
        labels = rng.integers(0, 3, frame.shape) * (rng.random((height, 1)) < 0.8)
        y, x = sorted(rng.integers(0, height + 1, 2)), sorted(rng.integers(0, width + 1, 2))
        regions = [Box([y, x], 1).runs((height, width))] if is_box else runs_of_labels(labels)

        one = Runs(regions).sums(frame)
        with monkeypatch.context() as context:
            context.setenv(NO_NUMBA, "1")
            two = Runs(regions).sums(frame)

        assert one.rows.tobytes() == two.rows.tobytes()


def test_a_frame_that_no_kernel_reads_is_read_all_the_same():
    frame = numpy.arange(600, dtype="u2").reshape(20, 30)
    regions = [Box([(2, 9), (1, 7)], 1).runs((15, 10))]

    found = Runs(regions).sums(frame.T[::2, ::2])

    want = Runs(regions).sums(frame.T[::2, ::2].copy())
    assert found.rows.tolist() == want.rows.tolist()

"""Moments of frames: exact for integers, Welford's and West's for floats, the same bits with and without numba."""

from copy import deepcopy
from fractions import Fraction

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.reductions.compiled import NO_NUMBA
from pipeline.reductions.deviation_sums import BLOCK, DeviationSums, less
from pipeline.reductions.element_moments import ElementMoments, IntegerMoments
from pipeline.reductions.weighted_moments import WeightedMoments

NAN = float("nan")
SIZE = BLOCK + 1000  # two blocks, and enough for a kernel
WHOLE = slice(0, SIZE)
SOME = numpy.r_[0:60, BLOCK - 30 : BLOCK + 30, SIZE - 30 : SIZE]  # that Python's integers are asked for
DTYPES = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", ">u2", ">i4"]


@pytest.fixture(params=["numba", "numpy"], autouse=True)
def way(request, monkeypatch):
    """Each test goes by the kernels, and by their twins."""
    if request.param == "numba":
        pytest.importorskip("numba")
    else:
        monkeypatch.setenv(NO_NUMBA, "1")
    return request.param


def limits(dtype):
    dtype = numpy.dtype(dtype)
    return (0, 1) if dtype.kind == "b" else (int(numpy.iinfo(dtype).min), int(numpy.iinfo(dtype).max))


@st.composite
def frames(draw):
    """Frames that are dark, bright, noisy, or jump from one end of the dtype to the other, part by part."""
    dtype = draw(st.sampled_from(DTYPES))
    least, largest = limits(dtype)
    rng = numpy.random.default_rng(draw(st.integers(0, 2**32)))
    middle = (least + largest) // 2
    kinds = draw(st.lists(st.sampled_from(["least", "largest", "noise", "few", "any"]), min_size=2, max_size=12))
    drawn = {
        "least": lambda: numpy.full(SIZE, least),
        "largest": lambda: numpy.full(SIZE, largest),
        "noise": lambda: numpy.clip(middle + rng.integers(-200, 200, SIZE), least, largest),
        "few": lambda: numpy.where(rng.random(SIZE) < 1e-4, largest, middle),
        "any": lambda: rng.integers(least, largest, SIZE, endpoint=True),
    }
    return [drawn[kind]().astype(dtype) for kind in kinds]


def exact(stack):
    columns = numpy.array([frame[SOME] for frame in stack]).astype(object)
    return columns.sum(0), (columns * columns).sum(0)


@given(frames(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_sums_of_integers_are_exact_whatever_comes(stack, has_squares):
    before = [frame.copy() for frame in stack]
    sums = DeviationSums(stack[0], has_squares)

    for frame in stack[1:]:
        sums.add(frame)

    totals, squares = exact(stack)
    assert (sums.totals(WHOLE)[SOME] == totals).all()
    if has_squares:
        high, low = (each[SOME].astype(object) for each in sums.squares(WHOLE))
        assert (high * 2**32 + low == squares).all()
    assert all((frame == kept).all() for frame, kept in zip(stack, before, strict=True))


@pytest.mark.parametrize("step", [90, 91, 181, 182, 255, 256, 32767, 32768, 65535])
def test_sums_that_are_full_go_over_and_lose_nothing(step):
    """Steps around those that two and four bytes hold, once and many times."""
    size = 2**14
    sums = DeviationSums(numpy.zeros(size, "u2"), True)
    frame = numpy.full(size, step, "u2")

    for n in range(1, 801):
        sums.add(frame)
        if n in (1, 2, 3, 7, 8, 9, 359, 360, 361, 800):
            (total,), ((high,), (low,)) = sums.totals(slice(0, 1)), sums.squares(slice(5, 6))
            assert (total, high * 2**32 + low) == (n * step, n * step**2)


@pytest.mark.parametrize("way", ["numba"], indirect=True)
def test_what_the_kernels_keep_is_what_their_twins_keep(monkeypatch):
    rng = numpy.random.default_rng(0)
    stack = [rng.poisson(scale, SIZE).astype("u2") for scale in (50, 50, 50, 3000, 60000, 50, 50)]
    kernels, twins = DeviationSums(stack[0], True), DeviationSums(stack[0], True)

    for frame in stack[1:]:
        kernels.add(frame)
    monkeypatch.setenv(NO_NUMBA, "1")
    for frame in stack[1:]:
        twins.add(frame)

    for name, value in vars(kernels).items():
        assert numpy.array_equal(value, getattr(twins, name)), name


def test_frames_that_are_much_the_same_take_few_bytes():
    rng = numpy.random.default_rng(0)
    moments = IntegerMoments((SIZE,))

    for _ in range(20):
        moments.add(rng.poisson(30, SIZE).astype("u2"))

    arrays = [value for value in vars(moments._recent).values() if isinstance(value, numpy.ndarray)]
    assert sum(array.nbytes for array in arrays) < 6.5 * SIZE


@pytest.mark.parametrize("n_dark", [1, 3])
def test_a_dark_frame_before_the_others_does_not_make_them_wide(n_dark):
    rng = numpy.random.default_rng(0)
    stack = [numpy.zeros(SIZE, "u2")] * n_dark + [rng.poisson(30000, SIZE).astype("u2") for _ in range(12)]
    moments = IntegerMoments((SIZE,))

    for frame in stack:
        moments.add(frame)

    assert moments._recent is not None
    assert moments._recent._is_narrow("u4").all()
    totals, _ = exact(stack)
    assert (moments.total()[SOME] == totals).all()
    assert numpy.allclose(moments.variance(1), numpy.var(stack, axis=0, ddof=1), rtol=1e-12)


@given(
    st.lists(st.integers(-(2**95), 2**95), min_size=1, max_size=4),
    st.integers(-(2**32), 2**32),
    st.integers(-(2**61), 2**61),
)
def test_a_product_is_taken_away_exactly(values, x, y):
    high = numpy.array([value >> 32 for value in values if abs(value >> 32) < 2**62] or [0])
    low = numpy.array([value & 0xFFFFFFFF for value in values if abs(value >> 32) < 2**62] or [0])

    found = less(high, low, numpy.full_like(low, x), numpy.full_like(low, y))

    for h, lo, found_high, found_low in zip(high, low, *found, strict=True):
        assert int(found_high) * 2**32 + int(found_low) == int(h) * 2**32 + int(lo) - x * y


def right(stack):
    """Mean and variance of each element, rounded once."""
    columns = list(zip(*[frame.tolist() for frame in stack], strict=True))
    means = [Fraction(sum(map(int, column)), len(stack)) for column in columns]
    squares = [sum((int(v) - mean) ** 2 for v in column) for column, mean in zip(columns, means, strict=True)]
    return [float(mean) for mean in means], [float(square / (len(stack) - 1)) for square in squares]


@given(frames(), st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_integer_moments_are_right_in_any_order_and_merged_in_any_way(stack, n_parts, random):
    stack = [frame[: 2**14] for frame in stack]
    whole, merged = IntegerMoments((2**14,)), IntegerMoments((2**14,))

    for frame in stack:
        whole.add(frame)
    shuffled = random.sample(stack, len(stack))
    for i in range(n_parts):
        part = IntegerMoments((2**14,))
        for frame in shuffled[i::n_parts]:
            part.add(frame)
        merged.merge(part)

    mean, variance = right([frame[:50] for frame in stack])
    assert whole.mean()[:50].tolist() == mean
    assert numpy.allclose(whole.variance(1)[:50], variance, rtol=1e-15, atol=0)
    assert numpy.array_equal(whole.mean(), merged.mean())
    assert numpy.array_equal(whole.variance(1), merged.variance(1))


@pytest.mark.parametrize("dtypes", [("u2", "u4", "i4"), ("i4", "u4", "u1"), ("bool", "i1", "u2")])
def test_integers_of_several_dtypes_are_summed_together(dtypes):
    rng = numpy.random.default_rng(1)
    stack = [rng.integers(*limits(dtype), 200, endpoint=True).astype(dtype) for dtype in dtypes for _ in range(3)]
    moments, other = IntegerMoments((200,)), IntegerMoments((200,))

    for frame in stack:
        moments.add(frame)
    for frame in reversed(stack):
        other.add(frame)

    mean, variance = right(stack)
    assert moments.mean().tolist() == other.mean().tolist() == mean
    assert numpy.allclose(moments.variance(1), variance, rtol=1e-15, atol=0)
    assert numpy.array_equal(moments.variance(1), other.variance(1))


@pytest.mark.parametrize(
    ("dtype", "values"), [("u2", (0, 65535)), ("u4", (0, 2**32 - 1)), ("i4", (-(2**31), 2**31 - 1))]
)
def test_sums_hold_a_billion_frames(dtype, values):
    """As many as it takes to double them, by merging what there is with itself."""
    moments = IntegerMoments((3,))
    for value in (*values, values[1]):
        moments.add(numpy.full(3, value, dtype))

    for _ in range(27):
        moments.merge(deepcopy(moments))

    n = 3 * 2**27
    mean = Fraction(values[0] + 2 * values[1], 3)
    square = n // 3 * ((values[0] - mean) ** 2 + 2 * (values[1] - mean) ** 2)
    assert moments.mean().tolist() == [float(mean)] * 3
    assert numpy.allclose(moments.variance(1), float(square / (n - 1)), rtol=1e-14, atol=0)


def test_what_comes_after_a_billion_frames_is_added_exactly():
    moments = IntegerMoments((SIZE,))
    moments.add(numpy.full(SIZE, 65535, "u2"))
    for _ in range(25):
        moments.merge(deepcopy(moments))

    moments.add(numpy.full(SIZE, 1, "u2"))
    moments.add(numpy.full(SIZE, 0, "u2"))

    total = 2**25 * 65535 + 1
    assert moments.total()[[0, -1]].tolist() == [total, total]
    assert moments.mean()[-1] == total / (2**25 + 2)


def random_floats(rng, dtype, has_bad):
    frame = rng.normal(1e3, 30, (SIZE,)).astype(dtype)
    if has_bad:
        frame[rng.random(SIZE) < 0.1] = NAN
        frame[7] = numpy.inf
    return frame


def numpys(stack, weights=None):
    """Mean and variance by two passes over the stack."""
    stack = numpy.array(stack, float)
    w = numpy.where(numpy.isfinite(stack), 1.0 if weights is None else numpy.array(weights)[:, None], 0.0)
    stack = numpy.where(numpy.isfinite(stack), stack, 0.0)
    total = w.sum(0)
    with numpy.errstate(invalid="ignore", divide="ignore"):
        mean = (w * stack).sum(0) / total
        freedom = total - (w * w).sum(0) / total
        variance = (w * (stack - mean) ** 2).sum(0) / freedom
    return mean, numpy.where(freedom > 1e-9, variance, NAN), (w > 0).sum(0)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", ">f4"])
@pytest.mark.parametrize("bad", [(), (0,), (3,), (0, 1, 2, 3, 4, 5)])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_moments_of_floats_are_numpys(dtype, bad, is_weighted):
    rng = numpy.random.default_rng(2)
    stack = [random_floats(rng, dtype, i in bad) for i in range(6)]
    weights = rng.random(6) + 0.5
    moments = WeightedMoments((SIZE,)) if is_weighted else ElementMoments((SIZE,))

    for frame, weight in zip(stack, weights, strict=True):
        moments.add(frame, weight) if is_weighted else moments.add(frame)

    mean, variance, n = numpys(stack, weights if is_weighted else None)
    assert numpy.allclose(moments.mean(), mean, rtol=1e-13, atol=0, equal_nan=True)
    assert numpy.allclose(moments.variance(1), variance, rtol=1e-9, atol=0, equal_nan=True)
    assert numpy.array_equal(moments.n, n)
    assert numpy.array_equal(moments.n_nan, 6 - n)


@pytest.mark.parametrize("way", ["numba"], indirect=True)
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_kernels_and_twins_give_the_same_bits(dtype, is_weighted, monkeypatch):
    rng = numpy.random.default_rng(3)
    stack = [random_floats(rng, dtype, has_bad) for has_bad in (False, False, True, False, True)]
    one, two = [(WeightedMoments if is_weighted else ElementMoments)((SIZE,)) for _ in range(2)]

    for moments in (one, two):
        for i, frame in enumerate(stack):
            moments.add(frame, 0.3 * i + 0.1) if is_weighted else moments.add(frame)
        monkeypatch.setenv(NO_NUMBA, "1")

    for name, value in vars(one).items():
        assert numpy.array_equal(value, getattr(two, name)), name


@pytest.mark.parametrize("split", [0, 2, 3, 6])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_merged_moments_of_floats_are_those_of_the_whole(split, is_weighted):
    rng = numpy.random.default_rng(4)
    stack = [random_floats(rng, "f8", i > 2) for i in range(6)]
    one, two = [(WeightedMoments if is_weighted else ElementMoments)((SIZE,)) for _ in range(2)]

    for i, frame in enumerate(stack):
        part = one if i < split else two
        part.add(frame, 2.0) if is_weighted else part.add(frame)
    one.merge(two)

    mean, variance, n = numpys(stack)
    assert numpy.allclose(one.mean(), mean, rtol=1e-13, atol=0, equal_nan=True)
    assert numpy.allclose(one.variance(1), variance, rtol=1e-9, atol=0, equal_nan=True)
    assert numpy.array_equal(one.n, n)


@pytest.mark.parametrize("kind", [IntegerMoments, ElementMoments, WeightedMoments])
def test_without_squares_the_means_are_the_same(kind):
    rng = numpy.random.default_rng(5)
    stack = rng.integers(0, 1000, (5, SIZE)).astype("u2")
    both, alone = kind((SIZE,)), kind((SIZE,), has_squares=False)

    for moments in (both, alone):
        for frame in stack:
            moments.add(frame, 1.0) if kind is WeightedMoments else moments.add(frame)
    alone.merge(deepcopy(alone))

    assert numpy.allclose(alone.mean(), both.mean(), rtol=1e-15, atol=0)
    assert alone.n[0] == 10


@pytest.mark.parametrize("kind", [IntegerMoments, ElementMoments, WeightedMoments])
@pytest.mark.parametrize("value", [numpy.zeros(4, "u2"), numpy.zeros((3, 1), "u2"), numpy.array(["a", "b", "c"])])
def test_what_is_no_such_array_is_rejected(kind, value):
    moments = kind((3,))
    arguments = (1.0,) if kind is WeightedMoments else ()

    with pytest.raises(RejectedValue, match=r"wanted numbers of shape \[3\]"):
        moments.add(value, *arguments)

    assert moments.n_events == 0


@pytest.mark.parametrize("kind", [IntegerMoments, ElementMoments, WeightedMoments])
@pytest.mark.parametrize("shape", [(4,), (1,), (3, 1)])
def test_moments_of_another_shape_are_not_merged(kind, shape):
    one, other = kind((3,)), kind(shape)
    arguments = (1.0,) if kind is WeightedMoments else ()
    for moments in (one, other):
        moments.add(numpy.ones(moments.shape, "u2"), *arguments)

    with pytest.raises(PipelineValueError, match=r"of shape \[3\], there are some"):
        one.merge(other)

    assert one.n_events == 1


@pytest.mark.parametrize("kind", [IntegerMoments, ElementMoments, WeightedMoments])
@pytest.mark.parametrize("shape", [(0,), (1,), (1, 1), (2, 0, 3), (2, 3, 4)])
def test_arrays_of_any_shape_keep_it(kind, shape):
    moments = kind(shape)
    arguments = (1.0,) if kind is WeightedMoments else ()

    for value in (1, 2, 3):
        moments.add(numpy.full(shape, value, "u2"), *arguments)

    assert moments.mean().tolist() == numpy.full(shape, 2.0).tolist()
    assert moments.variance(1).tolist() == numpy.full(shape, 1.0).tolist()
    assert moments.n.tolist() == numpy.full(shape, 3).tolist()


def test_results_are_not_the_state():
    moments = IntegerMoments((SIZE,))
    frame = numpy.ones(SIZE, "u2")
    moments.add(frame)

    frame[:] = 7
    moments.mean()[:] = 7
    moments.n[:] = 7

    assert (moments.mean()[0], moments.n[0]) == (1.0, 1)

"""Integers of any size, and the sums that are made of them, are exact."""

import math
from fractions import Fraction

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reductions import wide_integers
from pipeline.reductions.bin_sums import BinMoments, BinSums
from pipeline.reductions.wide_integers import WideIntegers

finite = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=True)
UNIT = 1074


def as_float(fraction):
    try:
        return float(fraction)
    except OverflowError:
        return math.nan


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-(2**54), 2**54), st.integers(0, 300)), max_size=30))
@settings(max_examples=200, deadline=None)
def test_numbers_added_one_by_one_and_as_arrays_make_the_integers_of_python(parts):
    single, array, wanted = WideIntegers(3), WideIntegers(3), [0, 0, 0]

    for i, value, shift in parts:
        single.add(i, value, shift)
        wanted[i] += value << shift
    array.add_array(*(numpy.array([part[k] for part in parts], numpy.int64) for k in range(3)))

    assert single.integers([0, 1, 2]) == wanted
    assert array.integers([0, 1, 2]) == wanted


@given(st.lists(st.one_of(st.integers(-(2**200), 2**200), st.integers(-(2**70), 2**70)), min_size=1, max_size=20))
@settings(max_examples=300, deadline=None)
def test_integers_are_rounded_as_python_rounds_them(values):
    wide = WideIntegers(40)

    for i, value in enumerate(values):
        wide.add(i, value, 40)

    wanted = [float(Fraction(value << 40, 2**60)) for value in values]
    assert wide.rounded(numpy.arange(40), 60).tolist() == wanted + [0.0] * (40 - len(values))
    assert wide.rounded(numpy.arange(len(values))[:16], 60).tolist() == wanted[:16]


@pytest.mark.parametrize(
    "value", [2**53 + 1, 2**54 + 2, 2**64 + 2**11, 2**64 + 2**11 + 1, 2**96 - 1, 2**96 + 2**43, -(2**64) - 2**11]
)
def test_ties_go_to_even_and_what_is_over_them_does_not(value):
    wide = WideIntegers(40)

    wide.add(7, value, 0)

    assert wide.rounded(numpy.arange(40), 0)[7] == float(value)
    assert wide.rounded(numpy.array([7]), 0)[0] == float(value)


def test_limbs_are_carried_before_they_overflow(monkeypatch):
    monkeypatch.setattr(wide_integers, "_ROOM", 5)
    wide, value = WideIntegers(1), -(2**54) + 1

    for _ in range(50):
        wide.add(0, value, 31)
        wide.add_array(numpy.array([0, 0]), numpy.array([value, 3]), numpy.array([31, 0]))
    other = WideIntegers(1)
    other.merge(wide)

    assert wide.integers([0]) == other.integers([0]) == [100 * (value << 31) + 150]
    assert wide._n_added <= 5 + 2


@pytest.mark.parametrize("size", [2, 40])
def test_a_sum_that_is_no_float_is_nan_and_its_mean_is_right(size):
    sums = BinSums(size)

    for x in (1.7e308, 1.7e308, 1.6e308):
        sums.add_array(numpy.arange(size), numpy.array([x] + [0.0] * (size - 1)))

    assert numpy.array_equal(sums.sum(), [math.nan] + [0.0] * (size - 1), equal_nan=True)
    assert sums.mean()[0] == float((Fraction(1.7e308) * 2 + Fraction(1.6e308)) / 3)


@given(st.lists(st.tuples(st.integers(0, 1), finite), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_sums_means_and_errors_are_those_of_fractions(points):
    single, array = BinMoments(2), BinMoments(2)

    for i, x in points:
        single.add(i, x)
    array.add_array(numpy.array([i for i, _ in points]), numpy.array([x for _, x in points]))

    for i in range(2):
        values = [Fraction(x) for j, x in points if j == i]
        n = len(values)
        total = as_float(sum(values))
        mean = (as_float(sum(values) / n) if math.isnan(total) else total / n) if n else math.nan
        variance = sum((v - sum(values) / n) ** 2 for v in values) / (n - 1) / n if n > 1 else None
        error = math.nan if variance is None else math.sqrt(as_float(variance))
        for bins in (single, array):
            have = [bins.n[i], bins.sum()[i], bins.mean()[i], bins.error()[i]]
            assert numpy.array_equal(have, [n, total, mean, error], equal_nan=True)


def test_memory_follows_the_span_of_sizes_and_not_how_many_numbers_there_are():
    rng = numpy.random.default_rng(0)
    near, wide = BinSums(10), BinSums(10)

    for _ in range(100):
        near.add_array(rng.integers(0, 10, 1000), rng.normal(1e3, 10, 1000))
    wide.add_array(numpy.array([0, 0]), numpy.array([1e-300, 1e300]))

    assert near._totals._limbs.shape[0] <= 4
    assert 60 < wide._totals._limbs.shape[0] <= 70

"""Arithmetic as text: what is in it is checked, its values are numpy's, and its errors follow from its derivatives."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineValueError
from pipeline.reductions.expression import _FUNCTIONS, Expression
from pipeline.reductions.units import units_of_expression


@pytest.mark.parametrize(
    "text",
    [
        "().__class__",
        "a.real",
        "a[0]",
        "a()",
        "__import__('os')",
        "eval('1')",
        "open('x')",
        "sqrt(a, out=b)",
        "sqrt(*a)",
        "sqrt()",
        "minimum(a)",
        "lambda: a",
        "[a for a in b]",
        "a if b else c",
        "a and b",
        "a < b",
        "a := 1",
        "f'{a}'",
        "{a}",
        "a @ b",
        "a // b",
        "a % b",
        "~a",
        "True",
        "1j",
        "1e999",
        f"1{'0' * 400}",
        "a; b",
        "a = 1",
        "",
        "a b",
        "power(a, b)",
        "count(a)",
        "\x00",
        "(" * 300 + "a" + ")" * 300,
        "-" * 400 + "a",
        "a" + " + a" * 160,
        "sin(" * 30 + "a" + ")" * 30,
        None,
        3,
    ],
)
def test_what_is_not_arithmetic_is_refused(text):
    with pytest.raises(PipelineValueError):
        Expression(text)


def test_a_function_that_is_not_known_is_answered_with_the_near_one():
    with pytest.raises(PipelineValueError, match=r"'sqr\(a\)' in '1 \+ sqr\(a\)' is not allowed.*did you mean 'sqrt'"):
        Expression("1 + sqr(a)")


def test_the_deepest_text_that_is_let_in_can_be_worked_out():
    text = "tan(" * 11 + "a * (a - 1)" + ") ** 2" * 11

    found = Expression(text, counts=["a"]).error([2.5])

    assert isinstance(found, float)


def test_fields_are_in_the_order_of_the_text_and_quotes_name_any_field():
    expression = Expression("'det-1' / i0 + 'det-1' * '2-theta'")

    assert expression.fields == ("det-1", "i0", "2-theta")
    assert expression.value([6.0, 2.0, 0.5]) == 6.0


CASES = {
    "a / b": lambda a, b: a / b,
    "-a + +b - 2.5": lambda a, b: -a + b - 2.5,
    "a ** 2 * b ** -0.5": lambda a, b: a**2 * b**-0.5,
    "a ** b": lambda a, b: a**b,
    "2 ** b": lambda a, b: 2**b + 0 * a,
    "log(a / b) - log10(b)": lambda a, b: numpy.log(a / b) - numpy.log10(b),
    "exp(-a) * sqrt(b)": lambda a, b: numpy.exp(-a) * numpy.sqrt(b),
    "abs(a - b) * sign(b - a)": lambda a, b: b - a,
    "sin(a) * cos(b) + tan(a / 9)": lambda a, b: numpy.sin(a) * numpy.cos(b) + numpy.tan(a / 9),
    "arcsin(a / 9) + arccos(b / 9) + arctan(a)": lambda a, b: (
        numpy.arcsin(a / 9) + numpy.arccos(b / 9) + numpy.arctan(a)
    ),
    "sinh(a) + cosh(b) + tanh(a - b)": lambda a, b: numpy.sinh(a) + numpy.cosh(b) + numpy.tanh(a - b),
    "radians(a) * degrees(b)": lambda a, b: numpy.radians(a) * numpy.degrees(b),
    "minimum(a, b) + 3 * maximum(a, 2 * b)": lambda a, b: numpy.minimum(a, b) + 3 * numpy.maximum(a, 2 * b),
}


@pytest.mark.parametrize("text", CASES)
@given(st.floats(0.5, 4), st.floats(0.5, 4))
@settings(max_examples=60, deadline=None)
def test_values_are_those_of_numpy_and_errors_those_of_differences(text, a, b):
    f = CASES[text]
    expression = Expression(text, counts=[field for field in "ab" if field in text.replace("tan", "")])
    order = [{"a": a, "b": b}[field] for field in expression.fields]
    h = 1e-6
    slopes = {"a": (f(a + h, b) - f(a - h, b)) / (2 * h), "b": (f(a, b + h) - f(a, b - h)) / (2 * h)}

    assert expression.value(order) == pytest.approx(float(f(a, b)), rel=1e-12, abs=1e-13)
    of_arrays = expression.value([numpy.array([x, x]) for x in order])
    assert of_arrays == pytest.approx(numpy.full(2, f(a, b)), rel=1e-12, abs=1e-13)
    if min(abs(a - b), abs(a - 2 * b)) > 1e-3:  # not in the corner of abs, minimum and maximum
        want = math.hypot(slopes["a"] * math.sqrt(a), slopes["b"] * math.sqrt(b))
        assert expression.error(order) == pytest.approx(want, rel=1e-5, abs=1e-6)
        errors = expression.error([numpy.array([x, x]) for x in order])
        assert errors == pytest.approx(numpy.full(2, want), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "a"),
    [
        ("1 / a", 0.0),
        ("log(a)", 0.0),
        ("log(a)", -1.0),
        ("sqrt(a)", -1.0),
        ("a ** 0.5", -8.0),
        ("exp(a)", 1e4),
        ("arcsin(a)", 2.0),
        ("a ** 9 ** 9", 9.0),
        ("0 * a", math.nan),
        ("a ** 0", math.inf),
        ("1 / a", math.inf),
        ("minimum(a, 1)", math.nan),
    ],
)
def test_what_is_no_finite_number_is_nan(text, a):
    expression = Expression(text, counts=["a"])

    assert math.isnan(expression.value([a]))
    assert numpy.isnan(expression.value([numpy.array([a, a])])).all()


def test_a_value_can_be_known_where_its_error_is_not():
    expression = Expression("sqrt(a)", counts=["a"])

    assert (expression.value([0.0]), math.isnan(expression.error([0.0]))) == (0.0, True)


def test_a_negative_count_has_no_error():
    expression = Expression("a - b", counts=["a", "b"])

    assert math.isnan(expression.error([-1.0, 5.0]))
    assert numpy.array_equal(expression.error([numpy.array([-1.0, 4.0]), 5.0]), [math.nan, 3.0], equal_nan=True)


def test_offsets_and_counts_of_other_fields_are_refused():
    for arguments in ({"offsets": {"c": 1.0}}, {"counts": ["c"]}):
        with pytest.raises(PipelineValueError, match=r"has 'c', but 'a / b' reads \['a', 'b'\]"):
            Expression("a / b", **arguments)


def test_every_function_has_a_derivative_and_is_numpys():
    for name in _FUNCTIONS:
        assert hasattr(numpy, name)
        arguments = "a, 2" if name in ("minimum", "maximum") else "a"
        assert math.isfinite(Expression(f"{name}({arguments})", counts=["a"]).error([0.4]))


@pytest.mark.parametrize(
    ("text", "units", "want"),
    [
        ("a / b", {"a": "count", "b": "count"}, "dimensionless"),
        ("a / b", {"a": "count", "b": "s"}, "count/second"),
        ("(a - 3) * b ** 2", {"a": "count", "b": "mm"}, "count*millimeter**2"),
        ("1 / a", {"a": "angstrom"}, "1/angstrom"),
        ("sqrt(a)", {"a": "mm ** 2"}, "millimeter"),
        ("log(a / b)", {"a": "count", "b": "count"}, "dimensionless"),
        ("abs(-a) + maximum(a, 0)", {"a": "eV"}, "electron_volt"),
        ("sin(radians(a))", {"a": "deg"}, "dimensionless"),
        ("degrees(arctan(a / b))", {"a": "mm", "b": "mm"}, "degree"),
        ("2 ** (a / a)", {"a": "mm"}, "dimensionless"),
        ("sign(a)", {"a": "mm"}, "dimensionless"),
        ("sin(a)", {"a": "deg"}, None),
        ("a + b", {"a": "mm", "b": "um"}, None),
        ("log(a)", {"a": "mm"}, None),
        ("2 ** a", {"a": "mm"}, "dimensionless or none"),
        ("a / b", {"a": "count"}, None),
        ("a / b", {"a": "count", "b": "furlongs per glub"}, None),
        ("a / b", {"a": "count", "b": ")("}, None),
    ],
)
def test_units_follow_the_arithmetic_or_are_none(text, units, want, caplog):
    found = units_of_expression(Expression(text), units)

    if want == "dimensionless or none":  # an exponent in mm
        want = found if found is None else "dimensionless"
    assert found == want
    assert (found is None) == ("are not known" in caplog.text)

"""Arithmetic over fields, as text: parsed, checked, and differentiated; nothing else can be written in it."""

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy

from pipeline.errors import PipelineValueError, near

MAX_LENGTH, MAX_NODES, MAX_DEPTH = 500, 150, 25

Arguments = tuple[str, ...]


class _Function(NamedTuple):
    of_floats: Callable[..., float]
    derivative: str  # by its arguments u and v, whose derivatives are du and dv


_FUNCTIONS = {
    "sqrt": _Function(math.sqrt, "0.5 / sqrt({u}) * {du}"),
    "log": _Function(math.log, "1.0 / {u} * {du}"),
    "log10": _Function(math.log10, f"{1 / math.log(10)!r} / {{u}} * {{du}}"),
    "exp": _Function(math.exp, "exp({u}) * {du}"),
    "abs": _Function(math.fabs, "sign({u}) * {du}"),
    "sign": _Function(lambda x: float((x > 0) - (x < 0)), "0.0 * {du}"),
    "sin": _Function(math.sin, "cos({u}) * {du}"),
    "cos": _Function(math.cos, "-sin({u}) * {du}"),
    "tan": _Function(math.tan, "(1.0 + tan({u}) * tan({u})) * {du}"),
    "arcsin": _Function(math.asin, "1.0 / sqrt(1.0 - {u} * {u}) * {du}"),
    "arccos": _Function(math.acos, "-1.0 / sqrt(1.0 - {u} * {u}) * {du}"),
    "arctan": _Function(math.atan, "1.0 / (1.0 + {u} * {u}) * {du}"),
    "sinh": _Function(math.sinh, "cosh({u}) * {du}"),
    "cosh": _Function(math.cosh, "sinh({u}) * {du}"),
    "tanh": _Function(math.tanh, "(1.0 - tanh({u}) * tanh({u})) * {du}"),
    "radians": _Function(math.radians, f"{math.pi / 180!r} * {{du}}"),
    "degrees": _Function(math.degrees, f"{180 / math.pi!r} * {{du}}"),
    "minimum": _Function(min, "(({u} <= {v}) * {du} + ({u} > {v}) * {dv})"),
    "maximum": _Function(max, "(({u} >= {v}) * {du} + ({u} < {v}) * {dv})"),
}
_TWO = ("minimum", "maximum")
_OPERATORS = {
    ast.Add: ("({u} + {v})", "({du} + {dv})"),
    ast.Sub: ("({u} - {v})", "({du} - {dv})"),
    ast.Mult: ("({u} * {v})", "({du} * {v} + {u} * {dv})"),
    ast.Div: ("({u} / {v})", "(({du} - {u} / {v} * {dv}) / {v})"),
    ast.Pow: ("power({u}, {v})", "power({u}, {v}) * ({dv} * log({u}) + {v} * {du} / {u})"),
}
_OF_FLOATS = {name: function.of_floats for name, function in _FUNCTIONS.items()} | {
    "power": math.pow,
    "count": lambda x: x if x >= 0 else math.nan,
}
_OF_ARRAYS = {name: getattr(numpy, name) for name in _FUNCTIONS} | {
    "power": numpy.power,
    "count": lambda x: numpy.where(x >= 0, x, math.nan),
}


class Expression:
    """A value that follows from fields by `+ - * / **` and functions of numpy, with its error.

    The text is Python's: names are fields, and text in quotes is a field whose name is no Python name. There are
    `sqrt log log10 exp abs sign sin cos tan arcsin arccos arctan sinh cosh tanh radians degrees minimum maximum`.
    Angles are in radians. Nothing else is let in: no attributes, no indices, no other calls.
    What runs is written anew from the checked tree; no text of the user's is ever evaluated.

    Parameters
    ----------
    text
        The arithmetic: at most 500 characters.
    offsets
        By field: what is taken from its value beforehand.
    counts
        The fields with an error: counted, so of variance N before the offset is taken.

    Raises
    ------
    PipelineValueError
        If the text is no such arithmetic; it says what in it is not.

    >>> expression = Expression("log(i0 / 'det-1')", counts=["det-1"])
    >>> expression.fields, expression.value([100.0, 50.0])
    (('i0', 'det-1'), 0.6931471805599453)
    >>> expression.error([100.0, 50.0])
    0.1414213562373095
    """

    def __init__(self, text: str, offsets: Mapping[str, float] | None = None, counts: Sequence[str] = ()) -> None:
        self.text = text
        self.tree = _parse(text)
        self._offsets = offsets or {}
        fields: dict[str, None] = {}
        _collect(self.tree, fields, text, MAX_DEPTH)
        self.fields: tuple[str, ...] = tuple(fields)
        self._check(self._offsets, "offsets")
        self._check(counts, "counts")
        self._value = _compiled(_value(self.tree, self._names()), len(self.fields))
        terms = [self._term(field) for field in counts]
        self._variance = _compiled(" + ".join(terms) or "0.0", len(self.fields))

    def _check(self, named: Sequence[str] | Mapping[str, float], what: str) -> None:
        for field in named:
            if field not in self.fields:
                raise PipelineValueError(f"{what} has {field!r}, but {self.text!r} reads {list(self.fields)}.")

    def _names(self) -> dict[str, str]:
        """Return what stands for each field: its place, less its offset."""
        offsets = {field: float(offset) for field, offset in self._offsets.items()}
        return {
            field: f"(x{i} - {offsets[field]!r})" if offsets.get(field) else f"x{i}"
            for i, field in enumerate(self.fields)
        }

    def _term(self, field: str) -> str:
        """Return the part of the variance that is this field's: the derivative squared, times the counts."""
        derivative = _derivative(self.tree, field, self._names())
        return f"power({derivative}, 2.0) * count(x{self.fields.index(field)})"

    def value(self, values: Sequence[Any]) -> Any:
        """Return the value at these values of `fields`, floats or float arrays; NaN where it is no finite number."""
        return _applied(self._value, values)

    def error(self, values: Sequence[Any]) -> Any:
        """Return the standard error of the value by the first derivatives (Gauss); NaN where a count is negative."""
        variance = _applied(self._variance, values)
        return math.sqrt(variance) if type(variance) is float else numpy.sqrt(variance)


def _parse(text: str) -> ast.expr:
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        raise PipelineValueError(f"wanted arithmetic of at most {MAX_LENGTH} characters, there is {str(text)[:60]!r}.")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise PipelineValueError(f"wanted arithmetic over fields, there is {text!r}: {error}.") from None
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        raise PipelineValueError(f"{text!r} has too many parts; wanted at most {MAX_NODES}.")
    return tree


def _collect(node: ast.AST, fields: dict[str, None], text: str, depth: int) -> None:
    """Check a node and what is under it; collect its fields in the order in which they stand."""
    if depth == 0:
        raise PipelineValueError(f"{text!r} is nested too deep; wanted at most {MAX_DEPTH} levels.")
    field = field_of(node)
    if field is not None:
        fields[field] = None
        return
    parts = operands(node)
    if parts is None:
        raise PipelineValueError(
            f"{ast.unparse(node)!r} in {text!r} is not allowed; wanted numbers, fields, + - * / ** "
            f"and functions of them{_hint(node)}"
        )
    for part in parts:
        _collect(part, fields, text, depth - 1)


def _hint(node: ast.AST) -> str:
    return near(_name_of(node), _FUNCTIONS)


def _name_of(node: ast.AST) -> str:
    """Return the name of the function that is called, if one is, by name."""
    return getattr(getattr(node, "func", None), "id", "")


def field_of(node: ast.AST) -> str | None:
    """Return the field that a node stands for, if it does: a name, or text in quotes."""
    if isinstance(node, ast.Name):
        return node.id
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return str(node.value) if is_text else None  # type: ignore[attr-defined]


def number_of(node: ast.AST) -> float | None:
    """Return the number that a node is, if it is a finite one."""
    if not isinstance(node, ast.Constant) or type(node.value) not in (int, float):
        return None
    try:
        number = float(node.value)  # type: ignore[arg-type]
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def operands(node: ast.AST) -> Sequence[ast.AST] | None:
    """Return the operands of an allowed node; `None` of any other."""
    if number_of(node) is not None:
        return ()
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return (node.operand,)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return node.left, node.right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        wanted = 2 if node.func.id in _TWO else 1
        return node.args if len(node.args) == wanted and not node.keywords else None
    return None


def _value(node: ast.AST, names: Mapping[str, str]) -> str:
    """Return the source of a checked node."""
    field, number = field_of(node), number_of(node)
    if field is not None:
        return names[field]
    if number is not None:
        return f"({number!r})"
    parts = [_value(part, names) for part in operands(node) or ()]
    if isinstance(node, ast.UnaryOp):
        return f"(-{parts[0]})" if isinstance(node.op, ast.USub) else parts[0]
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)][0].format(u=parts[0], v=parts[1])
    return f"{_name_of(node)}({', '.join(parts)})"


def _derivative(node: ast.AST, field: str, names: Mapping[str, str]) -> str:
    """Return the source of the derivative of a checked node by a field."""
    if field_of(node) is not None:
        return "1.0" if field_of(node) == field else "0.0"
    nodes = operands(node) or ()
    values = [_value(part, names) for part in nodes]
    slopes = [_derivative(part, field, names) for part in nodes]
    if all(slope == "0.0" for slope in slopes):
        return "0.0"
    known = dict(zip(("u", "v", "du", "dv"), (*_pair(values), *_pair(slopes)), strict=True))
    if isinstance(node, ast.UnaryOp):
        return f"(-{slopes[0]})" if isinstance(node.op, ast.USub) else slopes[0]
    if not isinstance(node, ast.BinOp):
        return f"({_FUNCTIONS[_name_of(node)].derivative.format(**known)})"
    if isinstance(node.op, ast.Pow) and slopes[1] == "0.0":
        return "({v} * power({u}, {v} - 1.0) * {du})".format(**known)
    return f"({_OPERATORS[type(node.op)][1].format(**known)})"


def _pair(parts: Sequence[str]) -> tuple[str, str]:
    return (parts[0], parts[1]) if len(parts) == 2 else (parts[0], "0.0")


class _Compiled(NamedTuple):
    of_floats: Callable[..., Any]
    of_arrays: Callable[..., Any]


def _compiled(source: str, n: int) -> _Compiled:
    code = compile(f"lambda {', '.join(f'x{i}' for i in range(n))}: {source}", "<expression>", "eval")
    return _Compiled(*(eval(code, {"__builtins__": {}, **names}) for names in (_OF_FLOATS, _OF_ARRAYS)))


def _applied(function: _Compiled, values: Sequence[Any]) -> Any:
    if all(type(value) is float for value in values):
        return _of_floats(function.of_floats, values)
    with numpy.errstate(all="ignore"):
        found = numpy.asarray(function.of_arrays(*values), float)
        known = numpy.isfinite(found)
        for value in values:
            known = known & numpy.isfinite(value)
        return numpy.where(known, found, math.nan)


def _of_floats(function: Callable[..., Any], values: Sequence[float]) -> float:
    try:
        found = function(*values)
    except (ValueError, ZeroDivisionError, OverflowError):
        return math.nan
    known = math.isfinite(found) and all(map(math.isfinite, values))
    return float(found) if known else math.nan

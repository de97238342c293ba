"""Units of what follows from fields by arithmetic, by pint."""

import ast
import logging
from collections.abc import Mapping
from typing import Any

from pipeline.errors import PipelineRuntimeError
from pipeline.reductions.expression import Expression, field_of, number_of, operands

logger = logging.getLogger(__name__)

_ALIKE = ("minimum", "maximum")
_SAME = ("abs",)
_OF_ANGLES = ("sin", "cos", "tan")
_TO_ANGLES = dict.fromkeys(("arcsin", "arccos", "arctan", "radians"), "radian") | {"degrees": "degree"}


class _Unknown(Exception):
    """Why the units cannot be told."""


def units_of_expression(expression: Expression, units: Mapping[str, str | None]) -> str | None:
    """Return the units of an expression, from those of its fields; `None`, and a line in the log, where unknown.

    Numbers in it take the units of what they are added to. Nothing is converted, so a sum of mm and um has no units,
    nor has the sine of degrees: numbers are taken as they are.

    Raises
    ------
    PipelineRuntimeError
        If pint is not installed.

    >>> units_of_expression(Expression("(det - 2) / time"), {"det": "count", "time": "s"})
    'count/second'
    """
    try:
        return f"{_units(expression.tree, units):C}"
    except _Unknown as reason:
        logger.warning("The units of %r are not known: %s", expression.text, reason)
        return None


def _registry() -> Any:
    try:
        import pint
    except ImportError:
        raise PipelineRuntimeError(
            "Units of an expression need pint; wanted `pip install bluesky-pipeline[units]`."
        ) from None
    return pint.get_application_registry()


def _units(node: ast.AST, units: Mapping[str, str | None]) -> Any:
    field = field_of(node)
    if field is not None:
        return _parsed(field, units.get(field))
    nodes = operands(node) or ()
    parts = [_units(part, units) for part in nodes]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _of_function(node.func.id, nodes, parts)
    if isinstance(node, ast.UnaryOp):
        return parts[0]
    return _of_operator(node.op, nodes, parts) if isinstance(node, ast.BinOp) else _registry().dimensionless


def _parsed(field: str, text: str | None) -> Any:
    if not text:
        raise _Unknown(f"{field!r} has none")
    try:
        return _registry().parse_units(text)
    except PipelineRuntimeError:
        raise
    except Exception as error:  # noqa: BLE001 - pint raises its own, AttributeError, TypeError, tokenize's ...
        raise _Unknown(f"{field!r} has {text!r}, which pint does not know ({error})") from None


def _of_operator(op: ast.operator, nodes: Any, parts: list[Any]) -> Any:
    if isinstance(op, ast.Mult):
        return parts[0] * parts[1]
    if isinstance(op, ast.Div):
        return parts[0] / parts[1]
    if isinstance(op, ast.Pow):
        return _power(parts, number_of(nodes[1]))
    return _alike(nodes, parts)


def _power(parts: list[Any], exponent: float | None) -> Any:
    if exponent is not None:
        return parts[0] ** exponent
    return _plain("**", parts[0])


def _alike(nodes: Any, parts: list[Any]) -> Any:
    """Return the one unit that they are all in; numbers are in any."""
    of_fields = [unit for node, unit in zip(nodes, parts, strict=True) if number_of(node) is None] or parts
    if of_fields[0] != of_fields[-1]:
        raise _Unknown(f"{of_fields[0]} and {of_fields[-1]} are added or compared as they are")
    return of_fields[0]


def _of_function(name: str, nodes: Any, parts: list[Any]) -> Any:
    if name in _ALIKE:
        return _alike(nodes, parts)
    if name in _SAME:
        return parts[0]
    if name == "sqrt":
        return parts[0] ** 0.5
    if name in _OF_ANGLES and parts[0] not in (_registry().radian, _registry().dimensionless):
        raise _Unknown(f"{name} is of radians, there is {parts[0]}; wanted {name}(radians(...)) of degrees")
    if name in _TO_ANGLES:
        return _registry().parse_units(_TO_ANGLES[name])
    return _plain(name, parts[0]) if name != "sign" else _registry().dimensionless


def _plain(name: str, unit: Any) -> Any:
    if not unit.dimensionless:
        raise _Unknown(f"{name} is of plain numbers, there is {unit}")
    return _registry().dimensionless

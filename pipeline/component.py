"""One component of a configuration: `Name: arguments`, the Python name and the Python arguments."""

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, get_type_hints

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from pipeline.errors import ConfigError, near


class Shelf(NamedTuple):
    """What a configuration may name in one place: ours by name, others by `package.module:Name`."""

    what: str
    ours: Mapping[str, Callable[..., Any]]
    base: type = object


class Component(NamedTuple):
    """A checked component: nothing is made before it is called."""

    name: str
    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self) -> Any:
        """Make it."""
        return self.target(*self.args, **self.kwargs)


def component(spec: Any, shelf: Shelf, place: str, allowed: Collection[str] = ()) -> Component:
    """Check one component: its name, and its arguments by the signature.

    Parameters
    ----------
    spec
        `Name`, or `{Name: arguments}`: a mapping for keyword arguments, a list for several, anything else for one.
    shelf
        What may stand here.
    place
        Of the component, for errors.
    allowed
        Installed packages that dotted names may come from.

    >>> from pipeline.reductions import Mean
    >>> component({"Mean": "det"}, Shelf("reduction", {"Mean": Mean}), "reductions[0]")().field
    'det'
    """
    name, arguments = _name_and_arguments(spec, shelf, place)
    target = _find(name, shelf, place, allowed)
    args, kwargs = _args(arguments)
    _check_arguments(name, target, args, kwargs, place)
    return Component(name, target, args, kwargs)


def _name_and_arguments(spec: Any, shelf: Shelf, place: str) -> tuple[str, Any]:
    if isinstance(spec, str):
        return spec, None
    if isinstance(spec, dict) and len(spec) == 1 and isinstance(next(iter(spec)), str):
        return next(iter(spec.items()))
    raise ConfigError(f"{place}: wanted a {shelf.what}, `Name: arguments`; there is {spec!r}.")


def _args(arguments: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(arguments, dict):
        return (), arguments
    if isinstance(arguments, list):
        return tuple(arguments), {}
    return (() if arguments is None else (arguments,)), {}


def _find(name: str, shelf: Shelf, place: str, allowed: Collection[str]) -> Callable[..., Any]:
    if ":" not in name:
        if name not in shelf.ours:
            raise ConfigError(f"{place}: no {shelf.what} {name!r}{near(name, shelf.ours)}")
        return shelf.ours[name]
    found = _import(name, place, allowed)
    if not isinstance(found, type) or not issubclass(found, shelf.base):
        raise ConfigError(f"{place}: wanted a {shelf.what}, a class; {name} is {found!r}.")
    return found


def function(name: Any, place: str, allowed: Collection[str]) -> Callable[..., Any]:
    """Return the function `package.module:name` of a package that the configuration allows.

    >>> function("math:sqrt", "nodes[0].flow", ["math"])(4.0)
    2.0
    """
    if not isinstance(name, str) or ":" not in name:
        raise ConfigError(f"{place}: wanted a function, `package.module:name`; there is {name!r}.")
    found = _import(name, place, allowed)
    if not callable(found):
        raise ConfigError(f"{place}: wanted a function; {name} is {found!r}.")
    return found


def _import(name: str, place: str, allowed: Collection[str]) -> Any:
    """Return what a dotted name stands for, if its package is allowed."""
    module, _, attribute = name.partition(":")
    package = module.partition(".")[0]
    if package not in allowed:
        raise ConfigError(
            f"{place}: {name!r} is of the package {package!r}, which this configuration does not allow; "
            f"wanted one of {sorted(allowed)}. Write `allow: [{package}]` if it is to be trusted."
        )
    try:
        return getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ConfigError(f"{place}: cannot import {module!r}: {error}") from None


def _check_arguments(
    name: str, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], place: str
) -> None:
    signature = inspect.signature(target)
    for key in kwargs:
        if key not in signature.parameters:
            raise ConfigError(f"{place}: {name} has no {key!r}{near(str(key), signature.parameters)}")
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ConfigError(f"{place}: {name}{signature}: {error}.") from None
    hints = _hints(target)
    for key, value in bound.arguments.items():
        _check_type(f"{place}: {name}: {key}", value, hints.get(key, Any))


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if isinstance(target, type) else target)
    except NameError:  # an annotation that is there for type checkers only
        return {}


def _check_type(place: str, value: Any, hint: Any) -> None:
    try:
        TypeAdapter(hint).validate_python(value, strict=True)
    except PydanticSchemaGenerationError:
        return  # not a type that can be told from data
    except ValidationError as error:
        wanted = getattr(hint, "__name__", None) or hint
        raise ConfigError(f"{place}: wanted {wanted}, there is {value!r}: {error.errors()[0]['msg']}.") from None

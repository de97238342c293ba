"""One component of a configuration: `Name: arguments`, the Python name and the Python arguments."""

import importlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from pipeline.errors import ConfigError, near

MAX_SHOWN = 200  # characters of a value in an error


class Shelf(NamedTuple):
    """What a configuration may name in one place: ours and those of installed distributions by name, others by module.

    Attributes
    ----------
    what
        What stands on it, in the words of errors.
    ours
        By name.
    base
        What a class from elsewhere must be derived from.
    group
        Of the entry points by which installed distributions add names. Only their metadata is read, until one is named
        that is not ours.
    """

    what: str
    ours: Mapping[str, Callable[..., Any]]
    base: type = object
    group: str = ""


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
    raise ConfigError(f"{place}: wanted a {shelf.what}, `Name: arguments`; there is {shown(spec)}.")


def _args(arguments: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(arguments, dict):
        return (), arguments
    if isinstance(arguments, list):
        return tuple(arguments), {}
    return (() if arguments is None else (arguments,)), {}


def _find(name: str, shelf: Shelf, place: str, allowed: Collection[str]) -> Callable[..., Any]:
    if name in shelf.ours:
        return shelf.ours[name]
    found = _import(name, place, allowed) if ":" in name else _installed(name, shelf, place)
    by_name = ":" not in name and shelf.base is object and callable(found)  # a source may be a function
    if not by_name and (not isinstance(found, type) or not issubclass(found, shelf.base)):
        raise ConfigError(f"{place}: wanted a {shelf.what}, a class; {name} is {shown(found)}.")
    return found


def _installed(name: str, shelf: Shelf, place: str) -> Any:
    """Return what an installed distribution has put on the shelf."""
    added = entry_points(group=shelf.group) if shelf.group else ()
    found = {each.value: each for each in added if each.name == name}
    if not found:
        raise ConfigError(
            f"{place}: no {shelf.what} {shown(name)}{near(name, {*shelf.ours, *(e.name for e in added)})}"
        )
    if len(found) > 1:
        told = " and ".join(sorted(f"{_distribution(each)} ({each.value})" for each in found.values()))
        raise ConfigError(f"{place}: more than one distribution has a {shelf.what} {name!r}: {told}.")
    ((value, entry),) = found.items()
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever happens as others' code is imported
        raise ConfigError(
            f"{place}: the {shelf.what} {name!r} ({value}, of {_distribution(entry)}) cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from None


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an installed distribution"


def function(name: Any, place: str, allowed: Collection[str]) -> Callable[..., Any]:
    """Return the function `package.module:name` of a package that the configuration allows.

    >>> function("math:sqrt", "nodes[0].flow", ["math"])(4.0)
    2.0
    """
    if not isinstance(name, str) or ":" not in name:
        raise ConfigError(f"{place}: wanted a function, `package.module:name`; there is {shown(name)}.")
    found = _import(name, place, allowed)
    if not callable(found):
        raise ConfigError(f"{place}: wanted a function; {name} is {shown(found)}.")
    return found


def _import(name: str, place: str, allowed: Collection[str]) -> Any:
    """Return what a dotted name stands for, if its package is allowed."""
    module, _, attribute = name.partition(":")
    package = module.partition(".")[0]
    if package not in allowed:
        raise ConfigError(
            f"{place}: {shown(name)} is of the package {shown(package)}, which this configuration does not allow; "
            f"wanted one of {sorted(allowed)}. Write it in `allow` if it is to be trusted."
        )
    try:
        return getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ConfigError(f"{place}: cannot import {shown(module)}: {error}") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever happens as others' code is imported
        raise ConfigError(f"{place}: cannot import {shown(module)}: {type(error).__name__}: {error}") from None


def _check_arguments(
    name: str, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], place: str
) -> None:
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{place}: {name} does not tell which arguments it takes; wanted a class in Python."
        ) from None
    takes_any = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    for key in kwargs:
        if key not in signature.parameters and not takes_any:
            raise ConfigError(f"{place}: {name} has no {key!r}{near(str(key), signature.parameters)}")
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ConfigError(f"{place}: {name}{signature}: {error}.") from None
    hints = _hints(target)
    for key, value in _given(bound):
        check_type(f"{place}: {name}: {key}", value, hints.get(key.partition("[")[0], Any))


def _given(bound: inspect.BoundArguments) -> Iterator[tuple[str, Any]]:
    """Yield the arguments, those that stand for many (`*args`, `**kwargs`) one by one."""
    for key, value in bound.arguments.items():
        kind = bound.signature.parameters[key].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((f"{key}[{i}]", each) for i, each in enumerate(value))
        elif kind is inspect.Parameter.VAR_KEYWORD:
            yield from ((f"{key}[{name!r}]", each) for name, each in value.items())
        else:
            yield key, value


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if isinstance(target, type) else target)
    except (NameError, AttributeError, TypeError, SyntaxError):  # annotations that are there for type checkers only
        return {}


@lru_cache(256)
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def check_type(place: str, value: Any, hint: Any) -> None:
    """Refuse a value that is not of this type, and say where it stands."""
    try:
        adapter = _adapter(hint)
    except (PydanticUserError, NameError, TypeError):
        return  # not a type that can be told from data
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        wanted = getattr(hint, "__name__", None) or hint
        raise ConfigError(f"{place}: wanted {wanted}, there is {shown(value)}: {error.errors()[0]['msg']}.") from None


def shown(value: Any) -> str:
    """Return a value as an error shows it: cut where it is long.

    >>> shown("a"), shown("a" * 1000)[-8:]
    ("'a'", 'aaaaa...')
    """
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."

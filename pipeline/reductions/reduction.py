"""What every reduction is: incremental numbers of one stream, knowing no document."""

import inspect
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal, Self

from pipeline.errors import PipelineValueError, RejectedValue
from pipeline.state import pack, unpack

if TYPE_CHECKING:
    from pipeline.reductions.reference import Reference

_OWN = "arguments", "_call"
_UNCHANGING = {str, int, float, bool, type(None)}

SHARED = "_n_frames"  # ends the key of how many frames a field had: whoever says it says the same

Data = Mapping[str, Any]
Result = dict[str, Any]


class Reduction:
    """Incremental numbers of one stream: `update` with the data of each event, ask for the `result` at any time.

    A subclass sets what differs from the defaults below, keeps its arguments as attributes, and needs no more than
    `update` and `result`. The arguments are part of the recipe: numbers, text, lists and dicts of them.

    Attributes
    ----------
    version
        Goes up whenever the same data give other numbers; it is part of the recipe.
    kind
        `"summary"`: the result stands for all events so far. `"event"`: it stands for the last event alone.
    mergeable
        `"exact"`: merged parts give the bits of the whole, in any order. `"rounding"`: they differ in the last bits.
        `None`: there is no `merge`.
    fields
        The raw fields it reads, as far as it knows: a stream without them is refused before its first event.
    is_copied
        Whether it can be copied while it works, so that a point that is taken again replaces the first take.
    references
        The frames that it wants to know before it can work (dark, flat), made anew in `begin` and listed in
        `constants`: the events of its stream wait until these are complete.
    constants
        The attributes that data do not change (a table, a compiled expression): copies share them, states leave them
        out.
    arguments
        What the reduction was made with, by parameter, defaults included.

    >>> class Largest(Reduction):
    ...     def __init__(self, field):
    ...         self.field, self.largest = field, None
    ...     def update(self, data):
    ...         self.largest = max(data[self.field], self.largest or data[self.field])
    ...     def result(self):
    ...         return {f"{self.field}_largest": self.largest}
    >>> largest = Largest("det")
    >>> largest.update_page({"det": [1.0, 3.0, 2.0]})
    0
    >>> largest.result(), largest.arguments
    ({'det_largest': 3.0}, {'field': 'det'})
    """

    version: int = 1
    kind: Literal["event", "summary"] = "summary"
    mergeable: Literal["exact", "rounding"] | None = None
    fields: Sequence[str] = ()
    constants: Sequence[str] = ()
    references: "Sequence[Reference]" = ()
    is_copied: bool = True
    arguments: dict[str, Any]
    _call: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
        bound.apply_defaults()
        self.arguments = dict(list(bound.arguments.items())[1:])
        self._call = (args, kwargs)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy what data have changed; the arguments are shared, and what cannot be changed is."""
        new = object.__new__(type(self))
        for key, value in vars(self).items():
            shared = key in _OWN or key in self.constants or type(value) in _UNCHANGING
            setattr(new, key, value if shared else deepcopy(value, memo))
        return new

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self._call  # one that comes out of a pickle is made as the original was

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in self.constants}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        if self.constants:
            type(self).__init__(self, *self._call[0], **self._call[1])
        vars(self).update(attributes)

    def _pin(self, **found: Any) -> None:
        """Make what was found out an argument, such as the SHA-256 of a file: recipes, states and pickles have it."""
        self.arguments |= found
        self._call = (), self.arguments

    @property
    def name(self) -> str:
        """What recipes, errors and configurations call it: `Mean`, or `package.module:Class` if it is not ours."""
        cls = type(self)
        is_ours = cls.__module__.startswith("pipeline.reductions.")
        return cls.__qualname__ if is_ours else f"{cls.__module__}:{cls.__qualname__}"

    def begin(self, start: Mapping[str, Any]) -> None:
        """Learn what the start document of the raw run tells, before its first event: by default nothing."""

    def update(self, data: Data) -> None:
        """Take in the data of one event.

        Raises
        ------
        RejectedValue
            If a value cannot be used: the event is left out and counted.
        KeyError
            If the event has no such field: it is left out and counted, too.
        """
        raise NotImplementedError(f"{self.name} has no update(data).")

    def update_page(self, columns: Mapping[str, Sequence[Any]]) -> int:
        """Take in many events: columns of equal length. The outcome is that of `update` with each row, bit by bit.

        Returns
        -------
        int
            How many rows were rejected.
        """
        n_rejected = 0
        for row in zip(*columns.values(), strict=True):
            try:
                self.update(dict(zip(columns, row, strict=True)))
            except RejectedValue:
                n_rejected += 1
        return n_rejected

    def result(self) -> Result | None:
        """Return what is known so far, by result key; `None` while nothing is. It changes nothing."""
        raise NotImplementedError(f"{self.name} has no result().")

    def feed(self) -> Result | None:
        """Return what the reductions after it in a node are given, if it is an `"event"`: by default its result."""
        return self.result()

    def merge(self, other: Any) -> None:
        """Take in what another reduction of the same arguments has taken in."""
        raise NotImplementedError(f"{self.name} cannot be merged.")

    def state(self) -> dict[str, Any]:
        """Return what data have changed, as JSON values and numpy arrays; with it, what it is a state of.

        By default that is every attribute but `constants` and those that are still an argument. It shares nothing with
        the reduction, and stays as it is.

        Raises
        ------
        PipelineTypeError
            If an attribute holds what no state can.

        >>> from pipeline.reductions import Mean
        >>> mean = Mean("det")
        >>> mean.update({"det": 1.5})
        >>> state = mean.state()
        >>> again = Mean("det")
        >>> again.restore(state)
        >>> again.result()
        {'det_n': 1, 'det_mean': 1.5}
        """
        package = _package(self)
        changed = {key: value for key, value in vars(self).items() if self._may_change(key, value)}
        data = {key: pack(value, f"{self.name}: {key}", package) for key, value in changed.items()}
        return {**self._identity(), "data": data}

    def _may_change(self, key: str, value: Any) -> bool:
        is_argument = key in self.arguments and self.arguments[key] is value
        return not (is_argument or key in _OWN or key in self.constants)

    def _identity(self) -> dict[str, Any]:
        arguments = json.loads(json.dumps(self.arguments, default=repr))
        return {"reduction": self.name, "version": self.version, "arguments": arguments}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: what a fresh reduction of the same arguments does as if it had never been interrupted.

        Raises
        ------
        PipelineValueError
            If it is a state of another class, version or arguments.
        """
        for what, want in self._identity().items():
            if state.get(what) != want:
                raise PipelineValueError(
                    f"{self.name}: wanted a state of {what} {want!r}, there is {state.get(what)!r}."
                )
        for key, value in state["data"].items():
            setattr(self, key, unpack(value, _package(self)))

    def describe(self, data_keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return what values cannot tell of the results (units, precision, dims), from the raw data keys."""
        return {}

    def axes(self) -> Result:
        """Return the constant axes of array results, by key; asked once, when the stream is described."""
        return {}


def _package(reduction: Reduction) -> str:
    return type(reduction).__module__.partition(".")[0]


def units_of(data_keys: Mapping[str, Any], field: str) -> str | None:
    """Return the units of a raw field, if it has any."""
    return data_keys.get(field, {}).get("units") or None


def ratio_units(above: str | None, below: str | None) -> str | None:
    """Return the units of one value over another; None if either has none.

    >>> ratio_units("count", "s"), ratio_units("count", "count"), ratio_units("count", None)
    ('count/(s)', 'dimensionless', None)
    """
    if not above or not below:
        return None
    return "dimensionless" if above == below else f"{above}/({below})"


def with_units(units: Mapping[str, str | None]) -> dict[str, dict[str, Any]]:
    """Return a description of these results by their units, leaving out those that have none.

    >>> with_units({"det_mean": "count", "det_n": None})
    {'det_mean': {'units': 'count'}}
    """
    return {key: {"units": unit} for key, unit in units.items() if unit}

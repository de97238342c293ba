"""Undo the last events: what the state was before them, and the data since."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain, groupby
from typing import Any, Generic, TypeVar

import numpy

from pipeline.data_keys import size_of
from pipeline.documents import Document
from pipeline.state import pack, unpack

BLOCK = 512  # events between two copies of the state
BLOCK_BYTES = 64 * 2**20  # fewer where their data are large
FRAMES = 64  # of large ones in files, which are read again when events are undone
LARGE = 2**20

State = TypeVar("State")
Data = Mapping[str, Any]
Columns = Mapping[str, Sequence[Any]]


class History(Generic[State]):
    """Keep the last one to two blocks of events, and a copy of the state before each block.

    How far back that reaches depends on the number of events and on the descriptor alone, so that the same raw run
    is undone alike live and in replay, from events and from pages.

    A block of 0 keeps nothing: the state is never copied, and nothing can be undone.

    >>> history = History([], block=512)
    >>> for seq_num in (1, 2, 3):
    ...     history.add(seq_num, {"x": seq_num})
    ...     history.state.append(seq_num)
    >>> history.rewind(3), history.state
    ([(1, {'x': 1}), (2, {'x': 2})], [])
    """

    def __init__(self, state: State, block: int = BLOCK) -> None:
        self.state = state
        self.block = block
        self._blocks: list[tuple[State, list[tuple[int | Sequence[int], Data]]]] = []
        self._n = block

    @property
    def room(self) -> int:
        """How many events may be added before the state is copied again."""
        return self.block - self._n or self.block or BLOCK

    def add(self, seq_num: int, data: Data) -> None:
        """Keep the data of an event that is about to change the state."""
        self._add(seq_num, data, 1)

    def add_page(self, seq_nums: Sequence[int], columns: Columns) -> None:
        """Keep the columns of no more events than there is `room` for."""
        self._add(seq_nums, columns, len(seq_nums))

    def _add(self, seq_num: int | Sequence[int], data: Data, n: int) -> None:
        if not self.block:
            return
        if self._n == self.block:
            self._blocks = [*self._blocks[-1:], (copy.deepcopy(self.state), [])]
            self._n = 0
        self._blocks[-1][1].append((seq_num, data))
        self._n += n

    def rewind(self, seq_num: int) -> list[tuple[int, Data]] | None:
        """Put the state back, and return the events to take in again; `None` if that is too long ago."""
        for i in reversed(range(len(self._blocks))):
            state, entries = self._blocks[i]
            events = [event for entry in entries for event in _events(*entry)]
            if events[0][0] <= seq_num:
                self._blocks, self.state, self._n = self._blocks[:i], state, self.block
                return [event for event in events if event[0] < seq_num]
        return None

    def packed(self, pack_state: Callable[[State], Any]) -> dict[str, Any]:
        """Return all this as JSON values and arrays, each state as `pack_state` gives it."""
        blocks = [[pack_state(state), _pack_entries(entries)] for state, entries in self._blocks]
        return {"state": pack_state(self.state), "block": self.block, "n": self._n, "blocks": blocks}

    @classmethod
    def unpacked(cls, packed: Mapping[str, Any], unpack_state: Callable[[Any], State]) -> "History[State]":
        """Return the history that was packed."""
        history = cls(unpack_state(packed["state"]), packed["block"])
        history._n = packed["n"]
        history._blocks = [(unpack_state(state), _unpack_entries(entries)) for state, entries in packed["blocks"]]
        return history


Entries = list[tuple[int | Sequence[int], Data]]


def _pack_entries(entries: Entries) -> list[Any]:
    """Return entries as columns, as long as they have the same fields."""
    parts: list[Any] = []
    for (is_page, fields), group in groupby(entries, lambda entry: (not isinstance(entry[0], int), tuple(entry[1]))):
        seq_nums, data = zip(*group, strict=True)
        if is_page:
            seq_nums = chain.from_iterable(seq_nums)
            columns = [list(chain.from_iterable(each[field] for each in data)) for field in fields]
        else:
            columns = map(list, zip(*(each.values() for each in data), strict=True))
        columns = {field: _pack_column(column) for field, column in zip(fields, columns, strict=True)}
        parts.append([_pack_column(list(seq_nums)), columns])
    return parts


def _pack_column(values: list[Any]) -> Any:
    """Return values as an array, if they are numbers of one kind that it holds as they are; else one by one."""
    kinds = set(map(type, values))
    if kinds <= {float, numpy.float64}:
        return numpy.array(values, float)
    if kinds == {int}:
        with suppress(OverflowError):
            return numpy.array(values, numpy.int64)
    return pack(values, "data", "")


def _unpack_entries(packed: list[Any]) -> Entries:
    return [
        (_unpack_column(seq_nums), {field: _unpack_column(column) for field, column in columns.items()})
        for seq_nums, columns in packed
    ]


def _unpack_column(column: Any) -> list[Any]:
    return column.tolist() if isinstance(column, numpy.ndarray) else unpack(column, "")


def _events(seq_num: int | Sequence[int], data: Data) -> list[tuple[int, Data]]:
    if isinstance(seq_num, int):
        return [(seq_num, data)]
    rows = zip(*data.values(), strict=True) if data else ((),) * len(seq_num)
    return [(n, dict(zip(data, row, strict=True))) for n, row in zip(seq_num, rows, strict=True)]


def block_size(data_keys: Mapping[str, Document]) -> int:
    """Return how many events make a block, by the size of their data.

    >>> block_size({"det": {"dtype": "number", "shape": []}})
    512
    >>> camera = {"dtype": "array", "shape": [2048, 2048], "dtype_numpy": "<u2"}
    >>> block_size({"cam": camera}), block_size({"cam": {**camera, "external": "STREAM:"}})
    (8, 64)
    """
    size = sum(size_of(key) for key in data_keys.values() if not key.get("external"))
    is_large = any(size_of(key) > LARGE for key in data_keys.values() if key.get("external"))
    return max(1, min(FRAMES if is_large else BLOCK, BLOCK_BYTES // max(size, 1)))

"""Rows that a Tiled catalog has, to be compared with those that are given."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import orjson

from pipeline.difference import short


class StoredTable:
    """The table of a stream; it is read once, and whole: the server knows no rows of a table.

    Parameters
    ----------
    node
        Its client; None: there is no table.
    """

    def __init__(self, node: Any) -> None:
        self._columns = {} if node is None else _columns(node.read())
        self._is_sorted = False

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), ()))

    def compare(self, first: int, rows: Mapping[str, Sequence[Any]]) -> str:
        """Compare with given columns, of which the first row is number `first`; return the first difference.

        Rows that are not there are no difference.
        """
        if not self._is_sorted and "seq_num" in rows and self._different_at(first, {"seq_num": rows["seq_num"]}):
            self._sort()
        different = self._different_at(first, rows)
        return _told(*different) if different else ""

    def _sort(self) -> None:
        """Put the rows in the order of `seq_num`: PostgreSQL promises none."""
        self._is_sorted = True
        if "seq_num" in self._columns:
            order = numpy.argsort(self._columns["seq_num"], kind="stable")
            self._columns = {name: column[order] for name, column in self._columns.items()}

    def _different_at(self, first: int, rows: Mapping[str, Sequence[Any]]) -> tuple[int, str, Any, Any] | None:
        found = None
        for name, values in rows.items():
            stored = self._columns.get(name)
            if stored is None:
                if self._columns:
                    return first, name, values[0] if values else None, "no such column"
                continue
            there = stored[first : first + len(values)]
            i = _first_different(there, values[: len(there)])
            if i is not None and (found is None or first + i < found[0]):
                found = first + i, name, values[i], there[i]
        return found


class StoredArrays:
    """The arrays of one data key, stacked along time; only those are read that are compared.

    Parameters
    ----------
    key
        The data key.
    node
        The client of the array; None: there is none.
    n_rows
        How many rows the table has: what an array has beyond is of a write that was never finished.
    """

    def __init__(self, key: str, node: Any, n_rows: int) -> None:
        self._key = key
        self._node = node
        self.is_ragged = node is not None and node.structure_family == "ragged"
        self.n_in_catalog = 0 if node is None else int(node.shape[0])
        self._n = min(self.n_in_catalog, n_rows)

    def __len__(self) -> int:
        """Return how many rows there are, up to one that was never filled."""
        return self._n

    def compare(self, first: int, rows: Sequence[Any]) -> str:
        """Compare with given rows, of which the first is number `first`; return the first difference."""
        rows = rows[: max(0, self._n - first)]
        if not rows:
            return ""
        there = self._node[first : first + len(rows)]
        if _are_equal(there, rows):
            return ""
        for i, row in enumerate(rows):
            stored = there[i].tolist()
            if _same_array(stored, _plain(row)):
                continue
            if _is_empty(stored):  # of a write that was never finished
                self._n = first + i
                return ""
            return _told(first + i, self._key, _plain(row), stored)
        return ""


def _columns(frame: Any) -> dict[str, numpy.ndarray]:
    return {name: _numpy(frame[name]) for name in frame.columns}


def _numpy(series: Any) -> numpy.ndarray:
    if isinstance(series.dtype, numpy.dtype):
        return series.to_numpy()
    return numpy.array([None if value != value else value for value in series.tolist()], object)


def _first_different(there: numpy.ndarray, values: Sequence[Any]) -> int | None:
    if there.dtype.kind == "f" and _equal_floats(there, values):
        return None
    pairs = zip(there.tolist(), values, strict=True)
    return next((i for i, (stored, value) in enumerate(pairs) if not _same(stored, value)), None)


def _equal_floats(there: numpy.ndarray, values: Sequence[Any]) -> bool:
    try:
        return numpy.array_equal(there, numpy.array(values, "f8"), equal_nan=True)
    except (TypeError, ValueError, OverflowError):
        return False


def _same(stored: Any, value: Any) -> bool:
    """Say whether a value is stored as this: a column may be wider than the value.

    >>> _same(1.0, 1), _same("1", 1), _same(float("nan"), None), _same(2.0, 1)
    (True, True, True, False)
    """
    if _is_missing(stored) or _is_missing(value):
        return _is_missing(stored) and _is_missing(value)
    if isinstance(stored, str) and not isinstance(value, str):
        return _same_text(stored, value)
    if isinstance(stored, float) and isinstance(value, int):
        return stored == float(value)
    return stored == value


def _same_text(stored: str, value: Any) -> bool:
    try:
        return stored == orjson.dumps(value).decode() or orjson.loads(stored) == value
    except (TypeError, ValueError):
        return False


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _are_equal(there: Any, rows: Sequence[Any]) -> bool:
    if not isinstance(there, numpy.ndarray):
        return False
    try:
        given = numpy.array(rows, there.dtype)
        return numpy.array_equal(there, given, equal_nan=there.dtype.kind == "f")
    except (TypeError, ValueError, OverflowError):
        return False


def _same_array(stored: Any, row: Any) -> bool:
    if row is None:  # a row without this key: filled up with NaN, or empty
        return all(_is_missing(value) for value in _flat(stored))
    if isinstance(row, list):
        return isinstance(stored, list) and len(stored) == len(row) and all(map(_same_array, stored, row))
    return _same(stored, row)


def _flat(value: Any) -> list[Any]:
    return [part for each in value for part in _flat(each)] if isinstance(value, list) else [value]


def _is_empty(stored: Any) -> bool:
    return all(value in (0, "", False) for value in _flat(stored))


def _plain(row: Any) -> Any:
    return row.tolist() if hasattr(row, "tolist") else row


def _told(row: int, name: str, want: Any, have: Any) -> str:
    return f"row {row + 1}, {name!r}: wanted {short(_plain(want))}, there is {short(_plain(have))}"

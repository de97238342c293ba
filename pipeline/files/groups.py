"""Arrays by their path in a file, as streams: those of a group that are equally long."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from pipeline.documents import Document
from pipeline.files.column import Column, kind_of
from pipeline.files.table import Table


def name_streams(paths: Sequence[str]) -> dict[str, str]:
    """Name a stream for each path: `primary` if there is one, else the last part of each, or all of it where needed.

    >>> name_streams(["entry/data"]), name_streams(["a/x", "b/x", "b/y"])
    ({'entry/data': 'primary'}, {'a/x': 'a_x', 'b/x': 'b_x', 'b/y': 'y'})
    """
    if len(paths) == 1:
        return {paths[0]: "primary"}
    last = [path.strip("/").rpartition("/")[2] or "primary" for path in paths]
    whole = [path.strip("/").replace("/", "_") or "primary" for path in paths]
    return {
        path: short if last.count(short) == 1 else long for path, short, long in zip(paths, last, whole, strict=True)
    }


def tables_of(arrays: Mapping[str, tuple[numpy.ndarray, Document]], place: str) -> tuple[list[Table], dict[str, Any]]:
    """Return tables of the arrays that stand in a group and are equally long, and the single values.

    Of a group with arrays of several lengths the most make the table of its name, the others such as end with their
    length.

    >>> tables, facts = tables_of({"a/x": (numpy.zeros(3), {}), "a/n": (numpy.array(3), {})}, "a.npz")
    >>> [(table.name, [column.name for column in table.columns]) for table in tables], facts
    ([('primary', ['x'])], {'a/n': array(3)})
    """
    facts = {path: values for path, (values, _) in arrays.items() if not values.ndim}
    groups: dict[tuple[str, int], dict[str, tuple[numpy.ndarray, Document]]] = {}
    for path, (values, attrs) in arrays.items():
        if values.ndim:
            group, _, name = path.rpartition("/")
            groups.setdefault((group, len(values)), {})[name] = values, attrs
    paths = _paths(groups)
    names = name_streams(list(paths.values()))
    tables = [
        Table(names[paths[key]], [_column(name, *item, f"{place}, {key[0]}/{name}") for name, item in columns.items()])
        for key, columns in groups.items()
    ]
    return tables, facts


def _paths(groups: Mapping[tuple[str, int], Mapping[str, Any]]) -> dict[tuple[str, int], str]:
    """Name each set of arrays by its group, and by its length if the group has a greater set."""
    largest: dict[str, int] = {}
    for (group, n), columns in groups.items():
        if group not in largest or len(columns) > len(groups[group, largest[group]]):
            largest[group] = n
    return {(group, n): group if n == largest[group] else f"{group or 'primary'}_{n}" for group, n in groups}


def _column(name: str, values: numpy.ndarray, attrs: Document, place: str) -> Column:
    kind, dtype = kind_of(values, place)
    dims = ("row", *(f"{name}_{i}" for i in range(1, values.ndim)))
    return Column(name, dims, kind, dtype, values, attrs)

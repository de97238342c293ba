"""What a file says of itself, as a start document can hold it."""

from collections.abc import Mapping
from typing import Any

from pipeline.documents import Document
from pipeline.files.column import plain

_OWN = ("uid", "time")  # of the run that was exported, not of one that is made of its file


def nested(facts: Mapping[str, Any]) -> Document:
    """Return facts by path as dicts within dicts.

    >>> nested({"entry/sample": "Cu foil", "entry/sample/name": "Cu", "n": 3})
    {'entry': {'sample': {'name': 'Cu', 'value': 'Cu foil'}}, 'n': 3}
    """
    result: Document = {}
    for path, value in sorted(facts.items(), key=lambda item: -item[0].count("/")):
        inner = result
        *groups, name = path.split("/")
        for group in groups:
            inner = inner.setdefault(group, {})
        if isinstance(inner.get(name), dict):
            inner, name = inner[name], "value"
        inner[name] = value
    return result


def storable(values: Mapping[str, Any], place: str) -> Document:
    """Return values as a document holds them: JSON, and no key with `.` or `/`, or without a letter.

    >>> storable({"Element.symbol": "V", "Element_symbol": float("nan")}, "a.xdi")
    {'Element_symbol': 'V', 'Element_symbol_2': None}
    """
    return _renamed(plain(values, place))


def _renamed(value: Any) -> Any:
    if isinstance(value, list):
        return [_renamed(each) for each in value]
    if not isinstance(value, dict):
        return value
    result: Document = {}
    for name, each in value.items():
        key = stem = name.replace(".", "_").replace("/", "_") or "_"
        number = 1
        while key in result:
            number += 1
            key = f"{stem}_{number}"
        result[key] = _renamed(each)
    return result


def metadata_of(start: Document) -> Document:
    """Return what a start document says besides uid and time.

    >>> metadata_of({"uid": "a", "time": 0.0, "sample": "Cu"})
    {'sample': 'Cu'}
    """
    return {key: value for key, value in start.items() if key not in _OWN}

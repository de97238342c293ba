"""Whether a document has the form that all who read it count on."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.documents import Document

MAX_SPAN = 10_000_000  # events that one stream_datum may tell of
_HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair: JSON may hold one, but no file and no database


def malformed(name: str, doc: Document) -> str:
    """Return what is wrong with the form of a document, in words; nothing if it will do.

    It is what a reader counts on, and costs a microsecond; event-model's schema asks for more, and takes a hundred.

    >>> malformed("event", {"uid": "e", "descriptor": "d", "seq_num": "1", "time": 0.0, "data": {}, "timestamps": {}})
    "event['seq_num']: wanted an integer from 0 on, there is '1'"
    """
    form = _FORMS.get(name)
    if form is None:
        return f"there is no kind of document called {_short(name)}"
    if not isinstance(doc, Mapping):
        return f"{name}: wanted a mapping, there is {_short(doc)}"
    for key, (test, wanted) in form.items():
        if key not in doc:
            return f"{name} has no {key!r}; wanted {wanted}"
        if not test(doc[key]):
            return f"{name}[{key!r}]: wanted {wanted}, there is {_short(doc[key])}"
    for key, (test, wanted) in _OPTIONAL.get(name, {}).items():
        if key in doc and not test(doc[key]):
            return f"{name}[{key!r}]: wanted {wanted}, there is {_short(doc[key])}"
    return _uneven(doc) if name == "event_page" else _undescribed(doc) if name == "descriptor" else ""


def refers_to(name: str, doc: Document) -> str:
    """Return the uid that tells which run a document is of: its run's, its descriptor's or its resource's.

    >>> refers_to("event", {"uid": "e", "descriptor": "d"}), refers_to("stop", {"run_start": "a"})
    ('d', 'a')
    """
    keys = _REFERRING.get(name, _ALL_REFERRING)  # and not any: what else a document says is its own affair
    return next((doc[key] for key in keys if doc.get(key)), "")


def is_text(value: Any) -> bool:
    """Tell whether this is a text that a uid or a name may be: one that files and databases hold, and not empty.

    >>> is_text("7f3c"), is_text(""), is_text(7), is_text("half a pair: \\ud800")
    (True, False, False, False)
    """
    if not isinstance(value, str) or not value:
        return False
    return value.isascii() or not _HALF.search(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_span(value: Any) -> bool:
    is_mapping = isinstance(value, Mapping) and _is_count(value.get("start")) and _is_count(value.get("stop"))
    return is_mapping and value["start"] <= value["stop"] <= value["start"] + MAX_SPAN


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _are_columns(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_column, value.values()))


def _is_column(value: Any) -> bool:
    return isinstance(value, list | tuple) or (hasattr(value, "dtype") and hasattr(value, "__len__"))


def _list_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(map(test, value))


def _or_none(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or test(value)


_TEXT = is_text, "text"
_NUMBER = _is_number, "a number"
_MAPPING = _is_mapping, "a mapping"
_FORMS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    "start": {"uid": _TEXT, "time": _NUMBER},
    "descriptor": {"uid": _TEXT, "run_start": _TEXT, "time": _NUMBER, "data_keys": _MAPPING},
    "event": {
        "uid": _TEXT,
        "descriptor": _TEXT,
        "seq_num": (_is_count, "an integer from 0 on"),
        "time": _NUMBER,
        "data": _MAPPING,
        "timestamps": _MAPPING,
    },
    "event_page": {
        "uid": (_list_of(is_text), "a list of texts"),
        "descriptor": _TEXT,
        "seq_num": (_list_of(_is_count), "a list of integers from 0 on"),
        "time": (_list_of(_is_number), "a list of numbers"),
        "data": (_are_columns, "columns"),
        "timestamps": (_are_columns, "columns"),
    },
    "resource": {"uid": _TEXT},
    "datum": {"datum_id": _TEXT, "resource": _TEXT},
    "datum_page": {"datum_id": (_list_of(is_text), "a list of texts"), "resource": _TEXT},
    "stream_resource": {"uid": _TEXT, "data_key": _TEXT, "uri": _TEXT},
    "stream_datum": {
        "uid": _TEXT,
        "descriptor": _TEXT,
        "stream_resource": _TEXT,
        "seq_nums": (_is_span, "a span"),
        "indices": (_is_span, "a span"),
    },
    "stop": {"run_start": _TEXT, "time": _NUMBER, "exit_status": _TEXT},
}
_OPTIONAL: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    "descriptor": {"name": _TEXT},
    "resource": {"run_start": (_or_none(is_text), "text")},
    "stream_resource": {"run_start": (_or_none(is_text), "text")},
    "stop": {"num_events": (_or_none(_is_mapping), "a mapping")},
}
_REFERRING = {
    "start": ("uid",),
    **dict.fromkeys(("descriptor", "resource", "stream_resource", "stop"), ("run_start",)),
    **dict.fromkeys(("event", "event_page", "stream_datum"), ("descriptor",)),
    **dict.fromkeys(("datum", "datum_page"), ("resource",)),
}
_ALL_REFERRING = ("run_start", "descriptor", "stream_resource", "resource")


def _uneven(page: Document) -> str:
    """Say which column of a page is of another length."""
    n = len(page["seq_num"])
    columns = {key: page[key] for key in ("uid", "time")}
    columns |= {f"{what}[{key!r}]": column for what in ("data", "timestamps") for key, column in page[what].items()}
    odd = next((key for key, column in columns.items() if len(column) != n), None)
    return f"event_page {odd}: wanted {n} rows, there are {len(columns[odd])}" if odd else ""


def _undescribed(descriptor: Document) -> str:
    """Say which data key is none."""
    for key, data_key in descriptor["data_keys"].items():
        if not isinstance(data_key, Mapping) or not isinstance(data_key.get("dtype"), str):
            return f"descriptor['data_keys'][{key!r}]: wanted a mapping with a dtype, there is {_short(data_key)}"
        shape = data_key.get("shape", [])
        if not isinstance(shape, list | tuple) or not all(n is None or _is_count(n) for n in shape):
            return f"descriptor['data_keys'][{key!r}]: wanted a shape of sizes, there is {_short(shape)}"
    return ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

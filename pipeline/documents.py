"""Documents as JSON lines, their uids and their names: what every floor above needs to know of a document."""

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterable
from datetime import date, time
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy
import orjson

from pipeline.errors import PipelineTypeError, PipelineValueError

Document = dict[str, Any]
Sink = Callable[[str, Document], Any]

RESERVED = frozenset({"time", "seq_num"})
MAX_KEY = 56  # PostgreSQL takes 63 bytes; some are needed to tell keys apart
MAX_LINE = 64 * 2**20  # bytes of one document: an image of 2048 by 2048, as text, has 25 million
MAX_DEPTH = 64  # of JSON: what is nested deeper is written to harm, and harms what comes after the reader
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_STRINGS = re.compile(rb'"[^"]*"')
_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
_STEM = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_- ")
_FAST = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
_THOROUGH = _FAST | orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS


# JSON lines --------------------------------------------------------------------------------------------------------


def dumps(name: str, doc: Document) -> bytes:
    r"""Return one line of strict JSON, `[name, doc]`, as suitcase-jsonl has it.

    One rule for what JSON does not know: NaN and the infinities become `null` (`NaNs` reads them back as NaN),
    datetimes their ISO 8601 text, arrays nested lists, tuples lists, paths text.

    Raises
    ------
    PipelineTypeError
        If a value has no place in JSON (complex, bytes, a set ...); it names the value and its place.

    >>> dumps("event", {"data": {"x": numpy.float64("nan"), "y": numpy.arange(2)}})
    b'["event",{"data":{"x":null,"y":[0,1]}}]\n'
    """
    try:
        return orjson.dumps([name, doc], _plain, _FAST)
    except TypeError:
        return _dumps_thoroughly(name, doc)


def _dumps_thoroughly(name: str, doc: Document) -> bytes:
    plain = plainly(doc, name)
    try:
        return orjson.dumps([name, plain], None, _THOROUGH)
    except TypeError:  # an integer of more than 64 bits: JSON holds it, orjson does not
        return json.dumps([name, plain], allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, numpy.ndarray | numpy.generic):
        return value.tolist()
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(type(value).__name__)


def plainly(value: Any, place: str) -> Any:
    """Return this value in Python's own types, as JSON holds it, or say which part of it JSON cannot hold, and where.

    >>> plainly({"a": numpy.int16(1), "b": (float("nan"),)}, "start")
    {'a': 1, 'b': [None]}
    """
    if isinstance(value, dict):
        return {str(key): plainly(part, f"{place}[{key!r}]") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plainly(part, f"{place}[{i}]") for i, part in enumerate(value)]
    if isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind in "biufUmMO":
        return plainly(value.astype(str).tolist() if value.dtype.kind in "mM" else value.tolist(), place)
    if isinstance(value, Enum):
        return plainly(value.value, place)
    if isinstance(value, float):
        return float(value) if numpy.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, date | time):
        return value.isoformat()
    raise PipelineTypeError(
        f"{place} is of type {type(value).__name__}, which JSON cannot hold; "
        "wanted a number, text, boolean, datetime, array, list or dict."
    )


def loads(line: bytes) -> tuple[str, Document]:
    """Read one line of either dialect: `[name, doc]` (suitcase) or `{"name": ..., "doc": ...}` (bluesky).

    Raises
    ------
    PipelineValueError
        If it is no document, longer than `MAX_LINE` bytes, or nested deeper than `MAX_DEPTH`.

    >>> loads(b'["stop", {"time": NaN}]')
    ('stop', {'time': nan})
    >>> loads(b'{"name": "stop", "doc": {}}')
    ('stop', {})
    >>> loads(b"[" * 100 + b"]" * 100)
    Traceback (most recent call last):
    pipeline.errors.PipelineValueError: wanted JSON nested at most 64 deep, there is more.
    """
    if len(line) > MAX_LINE:
        raise PipelineValueError(f"wanted a line of at most {MAX_LINE} bytes, there are {len(line)}.")
    try:
        item = orjson.loads(line)
    except orjson.JSONDecodeError:
        item = _loads_patiently(line)
    # Few brackets cannot be nested deep; most lines have no list but themselves, and that costs least to see.
    if (n := line.count(b"{")) >= MAX_DEPTH or (line.rfind(b"[") > 0 and n + line.count(b"[") > MAX_DEPTH):
        _refuse_deep(line)
    try:
        name, doc = item if type(item) is list else (item["name"], item["doc"])
    except (ValueError, KeyError, TypeError):
        raise PipelineValueError(f"wanted [name, document], there is another {type(item).__name__}.") from None
    if not isinstance(name, str) or not isinstance(doc, dict):
        raise PipelineValueError(f"wanted [name, document], there is [{type(name).__name__}, {type(doc).__name__}].")
    return name, doc


def _loads_patiently(line: bytes) -> Any:
    """Read what orjson refuses: bare NaN, as suitcase writes it, very long integers, half of a surrogate pair."""
    try:
        return json.loads(line)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise PipelineValueError(str(error)) from None


def _refuse_deep(line: bytes) -> None:
    """Refuse JSON, which was read, if it is nested too deep: peel off its innermost brackets, a level at a time."""
    if b"\\" in line:
        line = _ESCAPED.sub(b"", line)
    brackets = _STRINGS.sub(b"", line.translate(_SQUARE, _NO_BRACKETS))
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise _too_deep()


def _too_deep() -> PipelineValueError:
    return PipelineValueError(f"wanted JSON nested at most {MAX_DEPTH} deep, there is more.")


class NaNs:
    """Read back the NaN that JSON could not hold: a `null` where the descriptor says that numbers stand.

    >>> restore = NaNs()
    >>> _ = restore("descriptor", {"uid": "d", "data_keys": {"x": {"dtype": "number", "shape": []}}})
    >>> restore("event", {"descriptor": "d", "data": {"x": None}})
    {'descriptor': 'd', 'data': {'x': nan}}
    """

    def __init__(self) -> None:
        self._floats: dict[str, list[str]] = {}  # descriptor uid -> fields that hold floats

    def __call__(self, name: str, doc: Document) -> Document:
        """Return the document, or a copy of it that has its NaN again."""
        if name not in ("descriptor", "event", "event_page"):
            return doc
        part = "data_keys" if name == "descriptor" else "data"
        if not isinstance(doc[part], dict):
            raise PipelineValueError(f"{name}: wanted {part} as a dict, there is {type(doc[part]).__name__}.")
        if name == "descriptor":
            self._floats[doc["uid"]] = [key for key, data_key in doc[part].items() if _is_float(data_key)]
            return doc
        fields = [key for key in self._floats.get(doc["descriptor"], ()) if _has_none(doc["data"].get(key, 0))]
        return {**doc, "data": doc["data"] | {key: _with_nan(doc["data"][key]) for key in fields}} if fields else doc


def _is_float(data_key: Document) -> bool:
    if data_key["dtype"] == "array":
        return data_key.get("dtype_numpy", "<f8")[1:2] == "f"
    return data_key["dtype"] == "number"


def _has_none(value: Any) -> bool:
    return value is None or (isinstance(value, list) and any(map(_has_none, value)))


def _with_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_nan(part) for part in value]
    return float("nan") if value is None else value


# uids --------------------------------------------------------------------------------------------------------------


class Uids:
    """The uids that follow from one uid: `uuid.uuid5`, prepared so that one costs a microsecond.

    >>> uids = Uids("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
    >>> uids("a") == str(uuid.uuid5(uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8"), "a"))
    True
    """

    def __init__(self, namespace: str) -> None:
        self._sha1 = hashlib.sha1(_namespace(namespace).bytes, usedforsecurity=False)

    def __call__(self, name: str) -> str:
        sha1 = self._sha1.copy()
        sha1.update(name.encode())
        s = sha1.hexdigest()
        return f"{s[:8]}-{s[8:12]}-5{s[13:16]}-{'89ab'[int(s[16], 16) & 3]}{s[17:20]}-{s[20:32]}"


def _namespace(uid: str) -> uuid.UUID:
    try:
        return uuid.UUID(uid)
    except ValueError:  # a schema-valid uid may be any text
        return uuid.uuid5(uuid.NAMESPACE_OID, uid)


# names ------------------------------------------------------------------------------------------------------------


def safe_key(name: str) -> str:
    """Return this name as SQL takes it: letters, digits, `_`, `-`, space; a letter first; neither `time` nor `seq_num`.

    >>> safe_key("USAXS.a2rp"), safe_key("time"), safe_key("2-theta")
    ('USAXS_a2rp', 'time_', 'k_2-theta')
    """
    key = "".join(letter if letter in _ALLOWED else "_" for letter in name)[:MAX_KEY]
    key = key if key[:1].isalpha() else f"k_{key}"
    return f"{key}_" if key.lower() in RESERVED else key


def file_stem(name: str) -> str:
    """Return the part of a file's name that stands for this name: itself, or what follows from it if it is not plain.

    >>> file_stem("7f3c"), "/" in file_stem("../evil")
    ('7f3c', False)
    """
    return name if _STEM.fullmatch(name) else Uids(name)("file")


def safe_keys(names: Iterable[str]) -> dict[str, str]:
    """Map each name to a key that survives SQL and differs from every other one, lower-cased too.

    >>> safe_keys(["x", "X", "x.y", "x/y"])
    {'x': 'x', 'X': 'X_2', 'x.y': 'x_y', 'x/y': 'x_y_2'}
    """
    keys: dict[str, str] = {}
    taken = set()
    for name in names:
        key = stem = safe_key(name)
        number = 1
        while key.lower() in taken:
            number += 1
            key = f"{stem}_{number}"
        taken.add(key.lower())
        keys[name] = key
    return keys

"""Documents as messages of a broker: msgpack or JSON, decoded strictly, since anyone may have sent them."""

import json
import math
import re
from collections import OrderedDict
from typing import Any

import numpy
from event_model import DocumentNames
from msgpack.exceptions import UnpackException

from pipeline.documents import MAX_DEPTH, MAX_LINE, Document, NaNs, dumps, loads, plainly
from pipeline.errors import PipelineValueError

# Not msgpack.unpackb: bluesky-kafka lets msgpack-numpy replace it, for the whole process, by one that unpickles.
try:
    from msgpack._cmsgpack import unpackb  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
except ImportError:
    from msgpack.fallback import unpackb  # pyright: ignore[reportAttributeAccessIssue]

NAMES = frozenset(DocumentNames.__members__)
MAX_DESCRIPTORS = 1000  # that are remembered, to read NaN back
_JSON = b"[{"  # as msgpack, these are the numbers 91 and 123: no message
_TYPE = re.compile(r"[<>|=]?(?:[biufcSU]\d{1,9}|[mM]8(?:\[\d{0,9}[a-zA-Z]{1,7}\])?)")
_LEAVES = frozenset({str, int, float, bool, bytes, type(None)})
_MAX_EMPTY = 2**20  # how many empty lists an empty array may become


def encode(name: str, doc: Document) -> bytes:
    """Return a document as a message: the JSON of `pipeline.documents.dumps`, but with bare NaN and infinities.

    One who begins to read in the middle of a run, where he was before he was ended, has no descriptor at hand that
    tells where a `null` was NaN: so it is not made `null`.

    Raises
    ------
    PipelineTypeError
        If a value has no place in JSON; it names the value and its place.

    >>> encode("event", {"data": {"x": float("nan"), "y": None, "z": numpy.array([1, numpy.inf], "f4")}})
    b'["event",{"data":{"x":NaN,"y":null,"z":[1.0,Infinity]}}]'
    """
    line = dumps(name, doc).rstrip()
    if b"null" not in line:
        return line
    try:
        return json.dumps([name, doc], default=_with_nan, separators=(",", ":"), ensure_ascii=False).encode()
    except (TypeError, ValueError):  # keys that are no text
        return line


def _with_nan(value: Any) -> Any:
    if not isinstance(value, numpy.ndarray | numpy.generic) or value.dtype.kind != "f":
        return plainly(value, "")
    # as dumps has it: the shortest text that is this number in its own precision
    return value.tolist() if value.dtype.itemsize == 8 else value.astype(str).astype(float).tolist()


class Decoder:
    r"""Decode the messages of a source, one after the other, each to `(name, doc)`.

    What begins with `[` or `{` is JSON, of either dialect (see `pipeline.documents.loads`), and its NaN is read back
    from `null` by the descriptors that came before it. All else is msgpack of `[name, doc]`, as bluesky-kafka's
    publishers write it, with msgpack-numpy's arrays and numbers. Nothing that is decoded is ever run: no pickle.

    Parameters of a call are the message, and the name of its document for one who publishes documents without it, as
    bluesky-nats does.

    Raises
    ------
    PipelineValueError
        For whatever is no document: not msgpack nor JSON, longer than `MAX_LINE` bytes, nested deeper than `MAX_DEPTH`,
        an extension type, a structured array or one of objects, an array whose bytes do not fill its shape.

    >>> decode = Decoder()
    >>> decode(b'["start", {"uid": "a"}]'), decode(b"\x92\xa4stop\x80"), decode(b"\x80", "stop")
    (('start', {'uid': 'a'}), ('stop', {}), ('stop', {}))
    >>> decode(b"\x80\x04N.")
    Traceback (most recent call last):
    pipeline.errors.PipelineValueError: wanted a document as msgpack or JSON: unpack(b) received extra data.
    """

    def __init__(self) -> None:
        self._restore: OrderedDict[str, NaNs] = OrderedDict()  # descriptor uid -> what reads its NaN back

    def __call__(self, message: bytes, name: str = "") -> tuple[str, Document]:
        """Return the name and the document."""
        if message[:1] not in (b"[", b"{") or not message:
            return _loads_msgpack(message, name)
        try:
            name, doc = loads(message)
            return name, self._with_nan(name, doc) if name == "descriptor" or b"null" in message else doc
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _refusal(error) from None

    def _with_nan(self, name: str, doc: Document) -> Document:
        """Read NaN back, descriptor by descriptor, so that old ones can be forgotten."""
        if name == "descriptor":
            restore = self._restore[doc["uid"]] = NaNs()
            while len(self._restore) > MAX_DESCRIPTORS:
                self._restore.popitem(last=False)
        elif name in ("event", "event_page") and doc["descriptor"] in self._restore:
            restore = self._restore[doc["descriptor"]]
            self._restore.move_to_end(doc["descriptor"])
        else:
            return doc
        return restore(name, doc)


def _refusal(error: Exception) -> PipelineValueError:
    reason = f"{error} is missing" if type(error) is KeyError else str(error) or type(error).__name__
    return PipelineValueError(f"wanted a document as msgpack or JSON: {reason.rstrip('.')}.")


# msgpack -----------------------------------------------------------------------------------------------------------


def _loads_msgpack(message: bytes, name: str) -> tuple[str, Document]:
    if len(message) > MAX_LINE:
        raise PipelineValueError(f"wanted a message of at most {MAX_LINE} bytes, there are {len(message)}.")
    try:
        item: Any = unpackb(message, object_hook=_from_numpy, ext_hook=_refuse_extension)
        _check(item)
    except (ValueError, TypeError, OverflowError, RecursionError, UnpackException) as error:
        raise _refusal(error) from None
    if name in NAMES and type(item) is dict:
        return name, item
    if type(item) is not list or list(map(type, item)) != [str, dict]:
        kind = [type(part).__name__ for part in item[:3]] if type(item) is list else type(item).__name__
        raise PipelineValueError(f"wanted [name, document] as msgpack, there is {kind}.")
    return item[0], item[1]


def _refuse_extension(code: int, data: bytes) -> Any:
    raise PipelineValueError(f"wanted no extension type of msgpack, there is type {code} of {len(data)} bytes")


def _check(item: Any) -> None:
    """Go through a message, a level at a time: text as keys, not nested too deep, nothing that is no plain value."""
    level, depth = [[item]], -1  # the first list is ours
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise _too_deep()
        level = [part for parts in level for part in _deeper(parts, depth)]


def _deeper(parts: Any, depth: int) -> list[Any]:
    """Return the lists and dicts among these."""
    if type(parts) is dict:
        if parts and set(map(type, parts)) != {str}:
            raise PipelineValueError("wanted text as keys, there are others")
        parts = parts.values()
    if set(map(type, parts)) <= _LEAVES:
        return []
    found = []
    for part in parts:
        if type(part) in (list, dict):
            found.append(part)
        elif type(part) is numpy.ndarray:
            if depth + part.ndim > MAX_DEPTH:
                raise _too_deep()
        elif type(part) not in _LEAVES and not isinstance(part, numpy.generic | complex):
            raise PipelineValueError(f"wanted no extension type of msgpack, there is a {type(part).__name__}")
    return found


def _too_deep() -> PipelineValueError:
    return PipelineValueError(f"wanted a document nested at most {MAX_DEPTH} deep, there is more")


# what msgpack-numpy writes -------------------------------------------------------------------------------------------


def _from_numpy(part: dict[Any, Any]) -> Any:
    if b"nd" in part:
        return _array(part) if part[b"nd"] is True else _number(part)
    if b"complex" in part:
        return _complex(part.get(b"data"))
    return part


def _array(part: dict[Any, Any]) -> numpy.ndarray:
    if part.get(b"kind", b"") not in (b"", ""):
        raise PipelineValueError(f"wanted an array of numbers or text, there is one of kind {part[b'kind']!r:.20}")
    shape = part.get(b"shape")
    if type(shape) is not list or len(shape) > MAX_DEPTH or any(type(n) is not int or n < 0 for n in shape):
        raise PipelineValueError(f"wanted the shape of an array, there is {shape!r:.60}")
    if 0 in shape and math.prod(shape[: shape.index(0)]) > _MAX_EMPTY:
        raise PipelineValueError(f"wanted an array, there is an empty one of shape {shape!r:.60}")
    return _owned(part, tuple(shape))


def _number(part: dict[Any, Any]) -> Any:
    return _owned(part, ())[()]


def _owned(part: dict[Any, Any], shape: tuple[int, ...]) -> numpy.ndarray:
    """Return the array, as native numbers in memory of its own."""
    dtype, data = _dtype(part.get(b"type")), part.get(b"data")
    if type(data) is not bytes or len(data) != math.prod(shape) * dtype.itemsize:
        there = f"{len(data)} bytes" if type(data) is bytes else f"a {type(data).__name__}"
        raise PipelineValueError(f"wanted an array of shape {shape} and type {dtype}, there are {there}")
    if dtype.kind == "b":  # a byte other than 0 and 1 is a boolean to nobody
        return numpy.ndarray(shape, "u1", data) != 0 if shape else numpy.array(data != b"\0")
    array = numpy.ndarray(shape, dtype, data).astype(dtype.newbyteorder("="))
    if dtype.kind == "U":
        _check_text(array)
    return array


def _dtype(text: Any) -> numpy.dtype[Any]:
    if type(text) is not str or not _TYPE.fullmatch(text):
        raise PipelineValueError(f"wanted the type of an array of numbers or text, there is {text!r:.60}")
    dtype = numpy.dtype(text)
    if not dtype.itemsize:
        raise PipelineValueError(f"wanted an array whose elements have a size, there is type {text!r}")
    return dtype


def _check_text(array: numpy.ndarray) -> None:
    """Refuse what is no letter: Python fails when it is made text, wherever that be."""
    codes = numpy.frombuffer(array.tobytes(), "u4")
    if codes.size and (codes.max() > 0x10FFFF or ((codes >= 0xD800) & (codes < 0xE000)).any()):
        raise PipelineValueError("wanted an array of text, there are codes that are no letters")


def _complex(text: Any) -> complex:
    if type(text) not in (str, bytes) or len(text) > 100:
        raise PipelineValueError(f"wanted a complex number as text, there is a {type(text).__name__}")
    return complex(text if type(text) is str else text.decode())

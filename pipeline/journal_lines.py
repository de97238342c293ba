"""Documents as lines of a journal: what is read is what was given, to the type and the last bit."""

import base64
from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy

from pipeline.documents import MAX_LINE, Document, dumps
from pipeline.errors import PipelineError, PipelineValueError
from pipeline.npy_records import npy_parts, read_npy

Keep = Callable[[numpy.ndarray], Any]  # puts an array somewhere, returns as JSON where
Load = Callable[[Any], numpy.ndarray]  # gets it from there

LOST = "!lost"  # in the place of a document's name: documents are missing here that could not be written

_PLAIN = frozenset({str, bool, type(None)})
_TYPES = {numpy.dtype(code).str: numpy.dtype(code).type for code in "?bBhHiIqQefd"}
_CODES = {scalar_type: code for code, scalar_type in _TYPES.items()}


def line_of(name: str, doc: Document, keep: Keep) -> bytes:
    r"""Return one line of strict JSON, `[name, doc]`, from which `restored` makes the same document.

    What JSON does not know is a dict of one key, its tag: `{"!float": "nan"}`, `{"!int": "0x..."}` beyond 64 bits,
    `{"!tuple": [...]}`, `{"!scalar": ["<f4", 0.5]}`, and for an array `{"!npy": ...}`, where it is kept.
    For what else `dumps` knows (datetimes, paths, enumerations, keys that are no text) there is the text that it makes.

    Parameters
    ----------
    keep
        Called with each array; what it returns stands in the line.

    Raises
    ------
    PipelineTypeError
        If a value has no place in a line: bytes, sets, complex numbers in structures of objects ...
    PipelineValueError
        If the line is longer than `MAX_LINE`, which nobody would read.

    >>> line_of("event", {"x": numpy.float32(0.1), "y": (1, float("nan"))}, inline)
    b'["event",{"x":{"!scalar":["<f4",0.10000000149011612]},"y":{"!tuple":[1,{"!float":"nan"}]}}]\n'
    """
    line = dumps(name, _encoded(doc, keep))
    if len(line) > MAX_LINE:
        raise PipelineValueError(f"wanted a {name} of at most {MAX_LINE} bytes, there are {len(line)}.")
    return line


def restored(value: Any, load: Load) -> Any:
    """Return the document, or a part of it, that the JSON of a line tells of.

    Raises
    ------
    PipelineValueError
        If there is a tag that nobody gave, or something else behind it.

    >>> restored({"y": {"!tuple": [1, {"!float": "nan"}]}}, loaded_inline)
    {'y': (1, nan)}
    >>> restored({"x": {"!what": 1}}, loaded_inline)
    Traceback (most recent call last):
    pipeline.errors.PipelineValueError: wanted a tag of ['!dict', ..., '!tuple'], there is '!what'.
    """
    kind = type(value)
    if kind is dict:
        tag = _tag(value)
        if not tag:
            return {key: restored(part, load) for key, part in value.items()}
        return _untagged(tag, value[tag], load)
    if kind is list:
        return [restored(part, load) for part in value]
    return value


def inline(array: numpy.ndarray) -> str:
    """Keep an array in the line itself, as text.

    >>> loaded_inline(inline(numpy.arange(3)))
    array([0, 1, 2])
    """
    return base64.b64encode(b"".join(npy_parts(array))).decode()


def loaded_inline(text: str) -> numpy.ndarray:
    """Return the array that the line itself holds."""
    content = memoryview(base64.b64decode(text, validate=True))

    def read_into(buffer: memoryview, offset: int) -> int:
        part = content[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    return read_npy(read_into, 0, len(content))


# there -------------------------------------------------------------------------------------------------------------


def _encoded(value: Any, keep: Keep) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if isfinite(value) else {"!float": repr(value)}
    if kind is int:
        return value if -(2**63) <= value < 2**64 else {"!int": hex(value)}
    if kind is dict:
        return _encoded_dict(value, keep)
    if kind is list:
        return _encoded_list(value, keep)
    if kind is tuple:
        return {"!tuple": _encoded_list(value, keep)}
    if kind in _CODES:
        return {"!scalar": [_CODES[kind], _encoded(value.item(), keep)]}
    return _encoded_rarity(value, keep)


def _encoded_dict(value: dict[Any, Any], keep: Keep) -> dict[str, Any]:
    encoded = {key: _encoded(part, keep) for key, part in value.items()}
    return {"!dict": encoded} if _tag(encoded) else encoded


def _encoded_list(value: list[Any] | tuple[Any, ...], keep: Keep) -> Any:
    kinds = set(map(type, value))
    if kinds <= _PLAIN or (kinds == {float} and all(map(isfinite, value))):
        return value
    return [_encoded(part, keep) for part in value]


def _encoded_rarity(value: Any, keep: Keep) -> Any:
    if isinstance(value, numpy.ma.MaskedArray):
        return _encoded(value.tolist(), keep)
    if isinstance(value, numpy.ndarray):
        return _encoded_array(value, keep)
    if isinstance(value, numpy.generic) and not isinstance(value, str):
        return {"!scalar": {"!npy": keep(numpy.asarray(value))}}
    if isinstance(value, dict):
        return _encoded_dict(value, keep)
    if isinstance(value, list | tuple):
        return _encoded_list(list(value), keep)
    if isinstance(value, float):
        return _encoded(float(value), keep)
    return value  # JSON's own, or for `dumps` to turn into text or to refuse


def _encoded_array(value: numpy.ndarray, keep: Keep) -> Any:
    if value.dtype == object:
        return {"!objects": [list(value.shape), _encoded_list(value.ravel().tolist(), keep)]}
    return {"!npy": keep(value)}


# and back ----------------------------------------------------------------------------------------------------------


def _tag(value: dict[Any, Any]) -> str:
    """Return the key of a dict that has the form of a tag; nothing of any other."""
    if len(value) == 1:
        key = next(iter(value))
        if type(key) is str and key.startswith("!"):
            return key
    return ""


def _untagged(tag: str, value: Any, load: Load) -> Any:
    if tag == "!npy":
        return load(value)
    if tag not in _UNTAG:
        raise PipelineValueError(f"wanted a tag of {sorted([*_UNTAG, '!npy'])}, there is {tag!r}.")
    try:
        return _UNTAG[tag](value, load)
    except PipelineError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise PipelineValueError(f"wanted what stands behind {tag!r}: {type(error).__name__}: {error}.") from None


def _restored_list(value: Any, load: Load) -> list[Any]:
    if type(value) is not list:
        raise PipelineValueError(f"wanted a list, there is {type(value).__name__}.")
    return [restored(part, load) for part in value]


def _scalar(value: Any, load: Load) -> Any:
    if type(value) is dict:
        return restored(value, load)[()]
    code, plain = value
    return _TYPES[code](restored(plain, load))


def _objects(value: Any, load: Load) -> numpy.ndarray:
    shape, parts = value
    array = numpy.empty(len(parts), object)
    for i, part in enumerate(_restored_list(parts, load)):
        array[i] = part
    return array.reshape(shape)


_UNTAG: dict[str, Callable[[Any, Load], Any]] = {
    "!float": lambda text, load: float(text),
    "!int": lambda text, load: int(text, 16),
    "!tuple": lambda value, load: tuple(_restored_list(value, load)),
    "!dict": lambda value, load: {key: restored(part, load) for key, part in value.items()},
    "!scalar": _scalar,
    "!objects": _objects,
}

"""What data have changed, as JSON values and numpy arrays, and as bytes; never a pickle."""

import io
import json
import sys
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy
from numpy.lib.format import read_array, write_array

from pipeline.errors import PipelineTypeError, PipelineValueError


def pack(value: Any, place: str, package: str) -> Any:
    """Return a value as JSON values and numpy arrays, which are copies.

    What JSON does not know is a dict of one key, its tag: a NaN `{"!float": "nan"}`, a big integer `{"!int": "0x..."}`.
    An object is its class by name and its attributes.

    Parameters
    ----------
    value
        Numbers, text, lists, tuples, dicts, sets, deques, arrays, or objects of those.
    place
        Where it stands, for errors.
    package
        Besides this one, the package whose classes may be named: that of the reduction.

    Raises
    ------
    PipelineTypeError
        If there is something else in it.

    >>> pack((1, float("nan"), {"a": 2**60}), "x", "")
    {'!tuple': [1, {'!float': 'nan'}, {'a': {'!int': '0x1000000000000000'}}]}
    """
    packer = _PACKERS.get(type(value))
    if packer is not None:
        return packer(value, lambda part, of: pack(part, f"{place}{of}", package))
    if isinstance(value, numpy.generic):
        return {"!scalar": numpy.array(value)}
    name = f"{type(value).__module__}:{type(value).__qualname__}"
    if not _is_plain(value) or _find(name, package) is not type(value):
        raise PipelineTypeError(
            f"{place} is {type(value).__name__}, which no state can hold; wanted numbers, text, lists, dicts, arrays, "
            "or objects of those. What data do not change belongs into `constants`."
        )
    attributes = {key: pack(part, f"{place}.{key}", package) for key, part in vars(value).items()}
    return {"!object": [name, attributes]}


Packer = Callable[[Any, Callable[[Any, str], Any]], Any]


def _pack_float(value: float, pack_part: Any) -> Any:
    return value if numpy.isfinite(value) else {"!float": repr(value)}


def _pack_int(value: int, pack_part: Any) -> Any:
    return value if abs(value) <= 2**53 else {"!int": hex(value)}  # many readers of JSON hold no more


def _pack_list(value: Any, pack_part: Any) -> list[Any]:
    return [pack_part(part, f"[{i}]") for i, part in enumerate(value)]


def _pack_dict(value: dict[Any, Any], pack_part: Any) -> Any:
    if all(type(key) is str and not key.startswith("!") for key in value):
        return {key: pack_part(part, f"[{key!r}]") for key, part in value.items()}
    return {"!dict": [[pack_part(key, " key"), pack_part(part, f"[{key!r}]")] for key, part in value.items()]}


def _pack_ndarray(value: numpy.ndarray, pack_part: Any) -> numpy.ndarray:
    if value.dtype.hasobject:
        raise PipelineTypeError("An array of objects is in no state; wanted an array of numbers, booleans or text.")
    return numpy.array(value)


def _pack_array(value: Any, pack_part: Any) -> Any:
    return {"!array": [value.typecode, numpy.array(value)]}


def _pack_deque(value: Any, pack_part: Any) -> Any:
    return {"!deque": [value.maxlen, _pack_list(value, pack_part)]}


def _same(value: Any, pack_part: Any) -> Any:
    return value


_PACKERS: dict[type, Packer] = {
    type(None): _same,
    bool: _same,
    str: _same,
    int: _pack_int,
    float: _pack_float,
    list: _pack_list,
    tuple: lambda value, pack_part: {"!tuple": _pack_list(value, pack_part)},
    set: lambda value, pack_part: {"!set": _pack_list(value, pack_part)},
    dict: _pack_dict,
    deque: _pack_deque,
    array: _pack_array,
    numpy.ndarray: _pack_ndarray,
}


def _is_plain(value: Any) -> bool:
    """Tell whether an object is its attributes and nothing else."""
    cls = type(value)
    is_usual = cls.__reduce__ is object.__reduce__ and cls.__reduce_ex__ is object.__reduce_ex__
    try:
        return is_usual and hasattr(object.__new__(cls), "__dict__")
    except TypeError:
        return False


def _find(name: str, package: str) -> type | None:
    """Return the class of this name, of a module that is imported already."""
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module) if module.partition(".")[0] in ("pipeline", package) else None
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None


def unpack(value: Any, package: str) -> Any:
    """Return the value that was packed: equal, and sharing nothing with it.

    >>> unpack({"!tuple": [1, {"!float": "inf"}]}, "")
    (1, inf)
    """
    if isinstance(value, numpy.ndarray):
        return numpy.array(value)
    if isinstance(value, list):
        return [unpack(part, package) for part in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if not tag.startswith("!"):
        return {key: unpack(part, package) for key, part in value.items()}
    if tag == "!object":
        name, attributes = value[tag]
        return _unpack_object(name, attributes, package)
    if tag not in _UNPACKERS:
        raise PipelineValueError(f"A state has the tag {tag!r}; wanted one of {sorted(_UNPACKERS)}.")
    return _UNPACKERS[tag](unpack(value[tag], package))


_UNPACKERS: dict[str, Callable[[Any], Any]] = {
    "!float": float,
    "!int": lambda text: int(text, 16),
    "!tuple": tuple,
    "!set": set,
    "!dict": dict,
    "!scalar": lambda value: value[()],
    "!array": lambda value: array(value[0], value[1].tobytes()),
    "!deque": lambda value: deque(value[1], value[0]),
}


def _unpack_object(name: str, attributes: Mapping[str, Any], package: str) -> Any:
    cls = _find(name, package)
    if cls is None:
        raise PipelineValueError(f"A state has an object of {name!r}; wanted a class of 'pipeline' or {package!r}.")
    new = object.__new__(cls)
    vars(new).update({key: unpack(part, package) for key, part in attributes.items()})
    return new


# bytes -------------------------------------------------------------------------------------------------------------


def state_to_bytes(state: Any) -> bytes:
    """Return JSON values and numpy arrays, nested, as bytes: a line of JSON for the values, then each array as npy.

    Equal arrays are there once: the nodes of a pipeline remember the same raw events.

    >>> state_from_bytes(state_to_bytes({"n": 2, "mean": numpy.array([1.0, 2.0])}))
    {'n': 2, 'mean': array([1., 2.])}
    """
    arrays: dict[bytes, int] = {}  # as npy -> its number

    def numbered(value: Any) -> dict[str, int]:
        if not isinstance(value, numpy.ndarray):
            raise PipelineTypeError(f"{type(value).__name__} is in no state; wanted JSON values and arrays.")
        return {"!ndarray": arrays.setdefault(_npy(value), len(arrays))}

    text = json.dumps(state, allow_nan=False, separators=(",", ":"), default=numbered)
    return b"".join([f"{len(arrays)} {text}\n".encode(), *arrays])


def _npy(array: numpy.ndarray) -> bytes:
    file = io.BytesIO()
    write_array(file, array, allow_pickle=False)
    return file.getvalue()


def state_from_bytes(content: bytes) -> Any:
    """Return what `state_to_bytes` was given.

    Raises
    ------
    PipelineValueError
        If these bytes are not what it gave, whole.
    """
    file = io.BytesIO(content)
    try:
        n, _, text = file.readline().partition(b" ")
        arrays = [read_array(file, allow_pickle=False) for _ in range(int(n))]
        state = json.loads(text, object_hook=lambda each: arrays[each["!ndarray"]] if "!ndarray" in each else each)
    except (ValueError, KeyError, IndexError, TypeError, OSError, EOFError, MemoryError, RecursionError) as error:
        raise PipelineValueError(f"These {len(content)} bytes are no state: {type(error).__name__}: {error}.") from None
    if file.read(1):
        raise PipelineValueError(f"These {len(content)} bytes are no state: something follows the last array.")
    return state

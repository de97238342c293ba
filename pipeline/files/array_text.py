"""Arrays as JSON text: exact, and strict JSON."""

import json
from typing import Any

import numpy
import orjson

from pipeline.documents import Document
from pipeline.errors import PipelineValueError
from pipeline.files.column import OBJECT, dtype_of

_WORDS = (("-Infinity", "-1e999"), ("Infinity", "1e999"), ("NaN", "null"))  # numbers beyond a double read as infinite


def array_to_text(array: numpy.ndarray) -> str:
    """Return an array as JSON text: NaN is `null`, an infinity a number that no double can hold, a moment ISO 8601.

    >>> array_to_text(numpy.array([[1.5, numpy.nan], [-numpy.inf, 0.1]]))
    '[[1.5, null], [-1e999, 0.1]]'
    """
    kind = array.dtype.kind
    if kind == "f":
        array = array.astype("f8")  # a double reads back as it was, a narrower one is one
    if kind in "mM":
        array = array.astype("i8" if kind == "m" else str)
    if array.ndim and (kind in "biu" or (kind == "f" and not numpy.isinf(array).any())):
        native = numpy.ascontiguousarray(array, array.dtype.newbyteorder("="))
        return orjson.dumps(native, None, orjson.OPT_SERIALIZE_NUMPY).decode()
    return _text(array)


def _text(array: numpy.ndarray) -> str:
    text = json.dumps(array.tolist(), ensure_ascii=False)
    if array.dtype.kind == "f":
        for word, number in _WORDS:
            text = text.replace(word, number)
    return text


def array_from_text(text: str, description: Document) -> numpy.ndarray:
    """Return the array that `array_to_text` made this text of.

    >>> array_from_text("[1e999, null]", {"dtype": "<f4"})
    array([inf, nan], dtype=float32)
    """
    values = _loads(text)
    dtype = dtype_of(description)
    if description["dtype"] == OBJECT:
        return numpy.array(values, object)
    if dtype.kind in "mf":
        return numpy.array(values, "i8" if dtype.kind == "m" else "f8").astype(dtype)
    return numpy.array(values, dtype)


def _loads(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(text)  # it reads numbers beyond a double
    except (ValueError, RecursionError) as error:
        raise PipelineValueError(f"wanted an array as JSON, there is {text[:60]!r}: {error}") from None

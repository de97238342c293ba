"""Kinds of values and kinds of tables: what a scientist may hand over."""

import numpy
import pandas
import pyarrow
import xarray

NAN = float("nan")


def times(*texts):
    return numpy.array(texts, "datetime64[ns]")


VALUES = {  # three rows of each kind
    "floats": [1.5, -0.0, 2.5],
    "with NaN": [1.5, NAN, -2.5],
    "integers": [1, -2, 3],
    "large integers": [2**60 + 1, -(2**63), 2**63 - 1],
    "integers and floats": [1, 2.5, 3],
    "a first None": [None, 2.5, 3.5],
    "booleans": [True, False, True],
    "texts": ["a", "θ° 日本", "no. 3\n'\""],
    "texts with None": ["a", None, ""],
    "datetimes": list(times("2020-01-01T00:00:00.123456789", "1969-07-20", "NaT")),
    "curves": list(numpy.arange(12.0).reshape(3, 4)),
    "images": list(numpy.arange(36, dtype="u2").reshape(3, 3, 4)),
    "ragged rows": [numpy.array([1.0]), numpy.array([2.0, NAN]), numpy.array([])],
    "one row of arrays": [numpy.array([1, 2]), numpy.array([3, 4]), numpy.array([5, 6])],
}

REFUSED = {  # what the error says
    "an infinity": ([1.5, float("inf"), 2.5], "finite numbers, or NaN for none; there is an infinite one"),
    "complex": ([1j, 2.0, 3.0], "there is 1j"),
    "bytes": ([b"a", b"b", b"c"], "there is b'a'"),
    "a number and text": ([1, "a", 2], "one kind, there are 1 .integer. and 'a' .text."),
    "a boolean and a number": ([True, 2, 3], "one kind, there are True .boolean. and 2 .integer."),
    "an integer of 65 bits": ([2**64, 1, 2], "64 bits"),
    "an integer that no float holds": ([2**60 + 1, 0.5, 1], "that a float can hold"),
    "dicts": ([{"a": 1}, {"a": 2}, {"a": 3}], "there is {'a': 1}"),
    "an array that is missing": ([[1.0], None, [2.0]], "in each row, there is None"),
    "arrays of several dimensions": ([[1.0], [[2.0]], [1.0]], "as many dimensions"),
    "a date that nanoseconds do not reach": (list(numpy.array(["0001-01-01"] * 3, "M8[s]")), "1678 and 2262"),
}


def _array(values):
    """Return the column as numpy would have it."""
    if isinstance(values[0], numpy.ndarray):
        return numpy.array(values) if len({each.shape for each in values}) == 1 else _objects(values)
    return _objects(values) if None in values or isinstance(values[0], str) else numpy.array(values)


def _objects(values):
    array = numpy.empty(len(values), object)
    array[:] = values
    return array


def _variable(name, values):
    array = _array(values)
    return xarray.DataArray(array, dims=["row", f"{name} y", f"{name} x"][: array.ndim], attrs={"units": "mm"})


def _dataset(columns):
    return xarray.Dataset({name: _variable(name, values) for name, values in columns.items()})


def _frame(columns):
    return pandas.DataFrame({name: pandas.Series(list(values)) for name, values in columns.items()})


def _rows(columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _arrow(columns):
    return pyarrow.table({name: pyarrow.array(list(map(_plain, values))) for name, values in columns.items()})


def _plain(value):
    return value.tolist() if isinstance(value, numpy.ndarray) else value


def _structured(columns):
    arrays = {name: _array(values) for name, values in columns.items()}
    dtype = [(name, array.dtype, array.shape[1:]) for name, array in arrays.items()]
    return numpy.array(list(zip(*arrays.values(), strict=True)), dtype)


TABLES = {  # of columns by name
    "dict of lists": lambda columns: {name: list(values) for name, values in columns.items()},
    "dict of arrays": lambda columns: {name: _array(values) for name, values in columns.items()},
    "dict of Series": lambda columns: {name: pandas.Series(list(v), index=[7, 8, 9]) for name, v in columns.items()},
    "DataFrame": _frame,
    "DataFrame of nullable dtypes": lambda columns: _frame(columns).convert_dtypes(),
    "Dataset": _dataset,
    "Dataset of dask arrays": lambda columns: _dataset(columns).chunk({"row": 2}),
    "rows": _rows,
    "Arrow table": _arrow,
    "structured array": _structured,
}


def same(got, values):
    """Say whether this column, as it was read, is of these values; None among texts and booleans stays None."""
    got = list(got)
    are_numbers = not any(isinstance(value, str | bool) for value in values)
    return len(got) == len(values) and all(_same(*pair, are_numbers) for pair in zip(got, values, strict=True))


def _same(got, value, are_numbers):
    if isinstance(value, numpy.ndarray):
        return numpy.shape(got) == value.shape and numpy.array_equal(got, value, equal_nan=value.dtype.kind == "f")
    if isinstance(value, numpy.datetime64):
        return got == value or (numpy.isnat(got) and numpy.isnat(value))
    if are_numbers and (value is None or value != value):
        return got != got
    return got == value and isinstance(value, str | bool | None) == isinstance(got, str | bool | numpy.bool | None)

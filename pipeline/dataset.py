"""Streams as xarray Datasets, with what their descriptors say of them."""

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy

from pipeline.documents import Document
from pipeline.tables import EPOCH

if TYPE_CHECKING:
    import xarray


def build(columns: Mapping[str, Any], times: Any, descriptor: Document) -> "xarray.Dataset":
    """Return the events of a stream as a Dataset.

    Variables have the dtype, dimensions, units and attributes of their data keys, and their original names; datetimes
    are datetimes again. What the descriptor says of all rows are coordinates and attributes. The dimension of the rows
    is `time`, with the times of the events in seconds since 1970.

    Parameters
    ----------
    columns
        By key of the descriptor: one element a row.
    times
        Of the events.
    descriptor
        That of the stream, of several the last; `name`, `data_keys` and `configuration` are read.

    >>> data_keys = {"x": {"dtype": "number", "shape": [], "source": "", "units": "mm"}}
    >>> build({"x": [1.5]}, [0.0], {"name": "primary", "data_keys": data_keys})["x"].attrs
    {'units': 'mm'}
    """
    import xarray

    sizes = {"time": len(times)}
    data_keys = {key: descriptor["data_keys"][key] for key in columns}
    names = _names(data_keys)
    variables = {
        names[key]: xarray.Variable(*_variable(key, values_of(columns[key], data_key), data_key, sizes), fastpath=True)
        for key, data_key in data_keys.items()
    }
    epoch = {"units": EPOCH, "standard_name": "time"}
    dataset = xarray.Dataset(variables, coords={"time": ("time", numpy.asarray(times, "f8"), epoch)})
    dataset = dataset.set_coords([names[key] for key, data_key in data_keys.items() if data_key.get("coordinate")])
    return _with_facts(dataset, _facts(descriptor), sizes)


def restore(dataset: "xarray.Dataset", descriptor: Document) -> "xarray.Dataset":
    """Return the rows of a stream, as another reader gives them along `time`, as `build` does."""
    keys = [key for key in descriptor["data_keys"] if key in dataset]
    times = dataset["time"].values if "time" in dataset else numpy.full(dataset.sizes.get("time", 0), numpy.nan)
    return build({key: dataset[key].values for key in keys}, times, descriptor)


def _names(data_keys: Mapping[str, Document]) -> dict[str, str]:
    """Return the original name of each key, but where that is the name of something else."""
    names = {key: _name(key, data_key) for key, data_key in data_keys.items()}
    taken = {"time", *data_keys}
    return {key: key if name != key and name in taken else name for key, name in names.items()}


def _variable(key: str, values: numpy.ndarray, data_key: Document, sizes: dict[str, int]) -> Any:
    """Return dimensions, values and attributes; dimensions as the data key has them, unless others have their names.

    `fastpath` leaves the values as they are: without it, xarray makes NaN of None.
    """
    dims = list(data_key.get("dims") or ())
    own = dict(zip(dims, values.shape[1:], strict=False))
    if len(dims) != values.ndim - 1 or any(sizes.get(dim, size) != size for dim, size in own.items()):
        return ["time", *(f"{key}_dim_{axis}" for axis in range(values.ndim - 1))], values, _attrs(data_key)
    sizes |= own
    return ["time", *dims], values, _attrs(data_key)


def _attrs(data_key: Document) -> Document:
    units = {"units": data_key["units"]} if data_key.get("units") and "kind" not in data_key else {}
    return {**units, **(data_key.get("attrs") or {})}


def _name(key: str, data_key: Document) -> str:
    return data_key.get("original_name") or key


def _facts(descriptor: Document) -> Iterable[tuple[str, Document, Any]]:
    """Yield what a table said of all its rows: by name, data key and value."""
    owner = (descriptor.get("configuration") or {}).get(descriptor.get("name"), {})
    for key, data_key in owner.get("data_keys", {}).items():
        if key in owner.get("data", {}):
            yield _name(key, data_key), data_key, owner["data"][key]


def _with_facts(dataset: "xarray.Dataset", facts: Iterable[tuple[str, Document, Any]], sizes: dict[str, int]) -> Any:
    for name, data_key, value in facts:
        (values,) = values_of([value], data_key)
        dims = data_key.get("dims") or []
        if not data_key.get("coordinate"):
            dataset.attrs[name] = values.item() if isinstance(values, numpy.generic) else values
        elif all(sizes.setdefault(dim, size) == size for dim, size in zip(dims, numpy.shape(values), strict=True)):
            dataset = dataset.assign_coords({name: (dims, values, _attrs(data_key))})
    return dataset


# values ------------------------------------------------------------------------------------------------------------


def values_of(column: Any, data_key: Document) -> numpy.ndarray:
    """Return a column of a stream as the array that its data key tells of, one element a row.

    >>> values_of([1, 2], {"dtype": "integer", "dtype_numpy": "<u2", "shape": []})
    array([1, 2], dtype=uint16)
    >>> values_of(["a", None], {"dtype": "string", "shape": []})
    array(['a', None], dtype=object)
    """
    if data_key["dtype"] == "array":
        return _arrays(column, data_key)
    if isinstance(column, numpy.ndarray) and column.dtype.kind in "biuf":
        return _narrow(column, data_key)
    values = [_python(value) for value in column]
    try:
        return _SCALARS[data_key["dtype"]](values, data_key)
    except (TypeError, ValueError, OverflowError):  # of others, who did not keep to their descriptor
        return _objects(values)


def _texts(values: list[Any], data_key: Document) -> numpy.ndarray:
    return numpy.array(values, "U") if all(isinstance(value, str) for value in values) else _with_none(values)


def _booleans(values: list[Any], data_key: Document) -> numpy.ndarray:
    return numpy.array(values, "?") if all(isinstance(value, bool) for value in values) else _with_none(values)


def _with_none(values: list[Any]) -> numpy.ndarray:
    """Return objects, with None for what is missing: pandas has NaN for it."""
    return _objects([None if value != value else value for value in values])


def _numbers(values: list[Any], data_key: Document) -> numpy.ndarray:
    return _narrow(numpy.array(values, "f8"), data_key)


def _integers(values: list[Any], data_key: Document) -> numpy.ndarray:
    is_float = any(value is None or isinstance(value, float) for value in values)
    return _narrow(numpy.array(values, "f8" if is_float else "i8"), data_key)


def _objects(values: list[Any]) -> numpy.ndarray:
    array = numpy.empty(len(values), object)
    array[:] = values
    return array


_SCALARS = {"string": _texts, "boolean": _booleans, "number": _numbers, "integer": _integers}


def _python(value: Any) -> Any:
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    return value.item() if isinstance(value, numpy.generic | numpy.ndarray) else value


def _narrow(values: numpy.ndarray, data_key: Document) -> numpy.ndarray:
    """Return numbers in the dtype that they had, where it holds them."""
    dtype = _dtype(data_key)
    if dtype is not None and dtype.kind in "biuf":
        with numpy.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # NaN is no integer
            cast = values.astype(dtype)
        values = cast if numpy.array_equal(cast, values, equal_nan=True) else values
    return _timed(values, data_key) if values.dtype.kind == "i" else values


def _dtype(data_key: Document) -> numpy.dtype | None:
    text = data_key.get("dtype_numpy")
    return numpy.dtype(text) if isinstance(text, str) and text else None


def _arrays(column: Any, data_key: Document) -> numpy.ndarray:
    dtype = _dtype(data_key)
    if None in data_key["shape"]:
        return _objects([_timed(_floating(numpy.asarray(row), dtype), data_key) for row in column])
    array = column if isinstance(column, numpy.ndarray) else numpy.asarray(list(column))
    if not len(array):
        array = numpy.empty((0, *data_key["shape"]), dtype)
    return _timed(_floating(array, dtype), data_key)


def _floating(array: numpy.ndarray, dtype: numpy.dtype | None) -> numpy.ndarray:
    """Return the array in its dtype, with NaN for the None that JSON had for it."""
    if dtype is None or array.dtype == dtype or dtype.kind == "U":
        return array
    if array.dtype.kind == "O":
        array = array.astype("f8")
    return array.astype(dtype) if dtype.kind == "f" or array.dtype.kind != "f" or not array.size else array


def _timed(array: numpy.ndarray, data_key: Document) -> numpy.ndarray:
    return array.astype("i8").view(data_key["kind"]) if data_key.get("kind") else array

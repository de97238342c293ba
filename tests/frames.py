"""Raw runs whose frames are in real files, told of by documents of both forms."""

import zlib
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import h5py
import numpy
import tifffile

from pipeline.readers import Assets
from pipeline.readers.frame import Frame
from pipeline.reductions.event_reduction import EventReduction

TIME = 1_700_000_000.0
HDF5, ZARR = "application/x-hdf5", "application/x-zarr"
TIFF, NPY = "multipart/related;type=image/tiff", "multipart/related;type=application/x-npy"


class Stored(NamedTuple):
    """Where the values of a field are, as documents tell it."""

    uri: str
    mimetype: str
    parameters: dict[str, Any]
    shape: list[int | None]
    dtype: str

    @property
    def key(self):
        is_array = bool(self.shape) and self.shape != [1]
        kind = "array" if is_array else "integer" if self.dtype[1] in "biu" else "number"
        return {
            "source": self.uri,
            "dtype": kind,
            "dtype_numpy": self.dtype,
            "shape": list(self.shape),
            "external": "STREAM:",
        }


def uri_of(path):
    return f"file://localhost{quote(str(path))}"


def frames(n=6, shape=(1, 4, 5), dtype="u2", seed=0):
    """Rows that all differ, of any dtype."""
    kind = numpy.dtype(dtype)
    values = numpy.random.default_rng(seed).integers(0, 100, (n, *shape))
    values.reshape(n, -1)[:, 0] = numpy.arange(1, n + 1) % 100
    return values.astype(bool) if kind.kind == "b" else values.astype(kind)


def hdf5(path, rows, *, shape=None, dataset="/entry/data/data", libver=None, **kwargs):
    """Write rows as one dataset, as they are; `shape` is what one event has of it."""
    with h5py.File(path, "a", libver=libver) as file:
        file.create_dataset(dataset, data=rows, **kwargs)
    shape = list(rows.shape[1:]) if shape is None else shape
    return Stored(uri_of(path), HDF5, {"dataset": dataset}, shape, rows.dtype.str)


def tiffs(folder, rows, *, shape=None, template="{:05d}.tif", prefix="img_", **parameters):
    """Write each row as a TIFF file; the pages of one are those of its first axis."""
    names = [
        str(template).format(i) if "{" in template else template % (parameters.get("filename", ""), i)
        for i in range(len(rows))
    ]
    for name, row in zip(names, rows, strict=True):
        tifffile.imwrite(Path(folder) / f"{prefix}{name}", row, photometric="minisblack")
    told = {"template": template, **parameters}
    return Stored(f"{uri_of(folder)}/{prefix}", TIFF, told, shape or list(rows.shape[1:]), rows.dtype.str)


def npys(folder, rows, *, shape=None):
    for i, row in enumerate(rows):
        numpy.save(Path(folder) / f"img_{i}.npy", row)
    return Stored(f"{uri_of(folder)}/img", NPY, {}, shape or list(rows.shape[1:]), rows.dtype.str)


def zarrs(folder, rows, *, shape=None, dataset="", **kwargs):
    import zarr

    array = zarr.create_array(str(Path(folder) / dataset), shape=rows.shape, dtype=rows.dtype, **kwargs)
    array[:] = rows
    told = {"dataset": dataset} if dataset else {}
    return Stored(uri_of(folder), ZARR, told, list(rows.shape[1:]) if shape is None else shape, rows.dtype.str)


# documents ---------------------------------------------------------------------------------------------------------


def start(uid="raw", **metadata):
    return "start", {"uid": uid, "time": TIME, "scan_id": 1, "plan_name": "count", **metadata}


def descriptor(keys, uid="d", stream="primary", run="raw"):
    doc = {"uid": uid, "run_start": run, "name": stream, "time": TIME + 1, "data_keys": keys, "configuration": {}}
    return "descriptor", {**doc, "hints": {}, "object_keys": {key: [key] for key in keys}}


def stream_resource(field, stored, uid=None, run="raw"):
    doc = {"uid": uid or f"r-{field}", "run_start": run, "data_key": field, "uri": stored.uri}
    return "stream_resource", {**doc, "mimetype": stored.mimetype, "parameters": stored.parameters}


def stream_datum(field, first, after, row=None, resource=None, descriptor="d"):
    """Tell of the events from first on; row is the index of the first one."""
    row = first - 1 if row is None else row
    resource = resource or f"r-{field}"
    seq_nums, indices = {"start": first, "stop": after}, {"start": row, "stop": row + after - first}
    uid = f"{resource}/{row}-{first}-{after}"
    told = {"uid": uid, "stream_resource": resource, "descriptor": descriptor}
    return "stream_datum", {**told, "seq_nums": seq_nums, "indices": indices}


def resource(uid, spec, path, run="raw", **kwargs):
    path = Path(path)
    doc = {"uid": uid, "run_start": run, "spec": spec, "root": str(path.parent), "resource_path": path.name}
    return "resource", {**doc, "resource_kwargs": kwargs, "path_semantics": "posix"}


def datum(resource, i, **kwargs):
    return "datum", {"datum_id": f"{resource}/{i}", "resource": resource, "datum_kwargs": kwargs}


def event(seq_num, data=None, *, take=0, descriptor="d", filled=None):
    data = data or {}
    uid, time = f"e{seq_num}-{take}", TIME + 2 + seq_num + 0.25 * take
    told = {"uid": uid, "descriptor": descriptor, "seq_num": seq_num, "time": time}
    return "event", {**told, "data": data, "timestamps": dict.fromkeys(data, time), "filled": filled or {}}


def stop(n=None, run="raw", exit_status="success", **counts):
    doc = {"uid": f"{run}-stop", "run_start": run, "time": TIME + 1000, "exit_status": exit_status}
    return "stop", {**doc, "num_events": {"primary": n} if n is not None else counts}


def streamed(stored, n, *, batch=1, motor=True):
    """The documents of a run in the order of a RunEngine: each batch of frames is told of before its events.

    Parameters
    ----------
    stored
        By field.
    n
        How many events.
    batch
        How many events each `stream_datum` tells of.
    motor
        Whether events have a field `x`, too.
    """
    keys = {field: each.key for field, each in stored.items()}
    if motor:
        keys["x"] = {"source": "motor", "dtype": "number", "dtype_numpy": "<f8", "shape": []}
    documents = [start(), descriptor(keys), *(stream_resource(field, each) for field, each in stored.items())]
    for first in range(1, n + 1, batch):
        after = min(first + batch, n + 1)
        documents += [stream_datum(field, first, after) for field in stored]
        documents += [event(seq_num, {"x": float(seq_num)} if motor else {}) for seq_num in range(first, after)]
    return [*documents, stop(n)]


def classic(field, key, resources, datums, *, motor=True):
    """The documents of a run with `resource` and `datum`: each datum before its event."""
    keys = {field: {"source": "file", "external": "FILESTORE:", **key}}
    if motor:
        keys["x"] = {"source": "motor", "dtype": "number", "dtype_numpy": "<f8", "shape": []}
    documents = [start(), descriptor(keys), *resources]
    for seq_num, each in enumerate(datums, 1):
        data = {field: each[1]["datum_id"]} | ({"x": float(seq_num)} if motor else {})
        documents += [each, event(seq_num, data, filled={field: False})]
    return [*documents, stop(len(datums))]


# reading -----------------------------------------------------------------------------------------------------------


def values(documents, field="det", *, assets=None, is_stored=True):
    """What each event has in a field, as it is read from the assets."""
    run, keys, found = (assets or Assets()).of_run(is_stored=is_stored), {}, []
    try:
        for name, doc in documents:
            run(name, doc)
            if name == "descriptor":
                keys |= doc["data_keys"]
            elif name == "stream_datum" and (span := run.span(doc)).field == field:
                rows = range(span.first, span.after)
                found += [run.read(Frame(field, *span.place_of(row)), keys[field]) for row in rows]
            elif name == "event" and field in doc["data"]:
                found.append(run.read(run.frame(field, doc["data"][field]), keys[field]))
    finally:
        run.close()
    return found


class Checksum(EventReduction):
    """What tells one frame from another."""

    def __init__(self, field):
        self.field, self.fields = field, [field]

    def reduce(self, data):
        value = numpy.asarray(data[self.field])
        return {f"{self.field}_crc": crc(value), f"{self.field}_size": value.size}


def crc(value):
    return zlib.crc32(numpy.ascontiguousarray(value).tobytes())

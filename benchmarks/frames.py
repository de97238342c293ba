"""From an HDF5 file to I(q) in the ledger: against reading alone and integrating alone; and the memory of it."""

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy

from benchmarks.memory import resident
from pipeline import Node, Pipeline
from pipeline.sinks import JSONLSink

SIDE, FRAMES, ROUNDS, LONG = 2048, 60, 7, 1000
PONI = {"dist": 0.2, "poni1": 0.1, "poni2": 0.11, "wavelength": 1e-10, "pixel1": 1e-4, "pixel2": 1e-4}
DATASET = "entry"
KEY = {"source": "sim", "dtype": "array", "dtype_numpy": "<u2", "shape": [1, SIDE, SIDE], "external": "STREAM:"}


def write(path):
    """Write frames as a detector does: one a chunk, as they are."""
    import h5py

    rng = numpy.random.default_rng(1)
    with h5py.File(path, "w", libver="latest") as file:
        rows = file.create_dataset(DATASET, (FRAMES, SIDE, SIDE), "u2", chunks=(1, SIDE, SIDE))
        for i in range(FRAMES):
            rows[i] = rng.poisson(20, (SIDE, SIDE))


def documents(path, n, uid):
    """Return the documents of a scan whose frames are in the file, again and again if there are more."""
    yield "start", {"uid": uid, "time": 0.0}
    descriptor, resource = f"{uid}/d", f"{uid}/r"
    about = {"configuration": {}, "hints": {}, "object_keys": {"det": ["det"]}}
    about |= {"data_keys": {"det": KEY, "x": {"source": "sim", "dtype": "number", "shape": []}}}
    yield "descriptor", {"uid": descriptor, "run_start": uid, "time": 0.0, "name": "primary", **about}
    for first in range(0, n, FRAMES):
        uri = {"uri": f"file://localhost{path}", "mimetype": "application/x-hdf5", "parameters": {"dataset": DATASET}}
        yield "stream_resource", {"uid": f"{resource}{first}", "run_start": uid, "data_key": "det", **uri}
        for i in range(first, min(first + FRAMES, n)):
            spans = {
                "indices": {"start": i - first, "stop": i - first + 1},
                "seq_nums": {"start": i + 1, "stop": i + 2},
            }
            refers = {"descriptor": descriptor, "stream_resource": f"{resource}{first}"}
            yield "stream_datum", {"uid": f"{resource}/{i}", **refers, **spans}
            event = {"uid": f"{uid}/{i}", "descriptor": descriptor, "seq_num": i + 1, "time": float(i), "filled": {}}
            yield "event", {**event, "data": {"x": float(i)}, "timestamps": {"x": float(i)}}
    yield "stop", {"uid": f"{uid}/s", "run_start": uid, "time": float(n), "exit_status": "success", "reason": ""}


def reading(path):
    """Seconds a frame: h5py, into arrays of their own."""
    import h5py

    with h5py.File(path, "r", libver="latest", swmr=True) as file:
        rows, began = file[DATASET], time.perf_counter()
        for i in range(FRAMES):
            rows[i]
        return (time.perf_counter() - began) / FRAMES


def integrating(reduction, frames):
    began = time.perf_counter()
    for i in range(FRAMES):
        reduction.update({"det": frames[i % len(frames)]})
        reduction.result()
    return (time.perf_counter() - began) / FRAMES


def emitting(pipeline, path, number):
    began = time.perf_counter()
    pipeline.replay(documents(path, FRAMES, f"{number:08d}-0000-4000-8000-000000000000"))
    return (time.perf_counter() - began) / FRAMES


def frames():
    """How near the way from file to ledger comes to reading and integrating alone, and how much memory it takes."""
    from pipeline.reductions.azimuthal_integration import AzimuthalIntegration

    AzimuthalIntegration("det", PONI).update({"det": numpy.ones((1, 64, 64), "u2")})  # libraries, compiled kernels
    warm = resident()
    with tempfile.TemporaryDirectory() as folder, JSONLSink(Path(folder) / "ledger") as ledger:
        path = Path(folder) / "frames.h5"
        write(path)
        reduction = AzimuthalIntegration("det", PONI)
        pipeline = Pipeline([Node("I", reduction)], [ledger])
        some = [numpy.random.default_rng(i).poisson(20, (1, SIDE, SIDE)).astype("u2") for i in range(4)]
        emitting(pipeline, path, 0)  # the kernels are compiled, the file is in the page cache
        integrating(reduction, some)
        rounds = [(reading(path), integrating(reduction, some), emitting(pipeline, path, i)) for i in range(1, ROUNDS)]
        read, integrated, emitted = (1e3 * median(times) for times in zip(*rounds, strict=True))
        print(f"a frame of 4.2 Mpx: read {read:.2f} ms, integrated {integrated:.2f}, file to ledger {emitted:.2f}")
        share = median((r + i) / e for r, i, e in rounds)
        yield "file to I(q), of reading + integrating", share, 0.8, share >= 0.8
        del some
        before = resident()
        pipeline.replay(documents(path, LONG, "long"))
        yield f"memory, MB grown in {LONG:,} frames", (grown := resident() - before), 20.0, grown < 20
        yield "memory, MB above the libraries", (above := resident() - warm), 200.0, above < 200

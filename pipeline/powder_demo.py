"""A simulated powder that is heated: its frames are reduced as they are taken, and held against what is true."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
from tqdm import tqdm

from pipeline.catalog import let_read, open_catalog
from pipeline.config import load
from pipeline.documents import Document, Sink
from pipeline.powder_config import powder_config
from pipeline.show import table
from pipeline.simulation import Phase, Powder, PowderBeamline
from pipeline.sinks.jsonl import JSONLSink
from pipeline.sinks.tiled import TiledSink

EMPTY = [300.0] * 20  # K, a frame each
TEMPERATURES = [300.0 + 10 * i for i in range(61)]
N_DARK = 10  # frames, before each
SHOWN_FROM = 0.05  # the share of a phase from which on its ring is told


def powder_demo(directory: str, n_pixels: int = 512) -> None:
    """Heat a powder that changes its phase, and follow it by its rings.

    Leaves in the directory: `frames`, the HDF5 files of the detector; `raw` and `analysis`, the ledgers of the raw and
    the analysis runs; `catalog`, the embedded catalog with both; `det.poni` and `mask.npy`, the geometry and the bad
    pixels; `empty.csv`, the pattern of the furnace without a powder; `powder.yaml`, the configuration that does the
    same again.

    Parameters
    ----------
    directory
        Made if it is not there.
    n_pixels
        How many a side of the detector has.
    """
    folder = Path(directory)
    print(f"Opening the embedded catalog {folder / 'catalog'} (the first time takes some seconds more) ...")
    catalog = open_catalog(folder / "catalog")
    line = PowderBeamline(folder, n_pixels)
    raw = [TiledSink(folder / "catalog", container="raw"), JSONLSink(folder / "raw")]
    let_read(folder / "catalog", folder / "frames")
    results = [JSONLSink(folder / "analysis"), TiledSink(folder / "catalog")]
    began = time.monotonic()
    empty = _run(line, "empty", EMPTY, raw, results)
    _write_curve(folder / "empty.csv", empty.axes["det_corrected_q"], empty.final["det_corrected_I_mean"])
    powder = _run(line, "powder", TEMPERATURES, raw, results)
    _tell_time(len(EMPTY) + len(TEMPERATURES), n_pixels, time.monotonic() - began)
    _tell_truth(line, powder.rows)
    for sink in (*raw, *results):
        sink.flush()  # all is in the catalog then
        sink.close()
    _show_catalog(catalog)
    _say_more(folder, powder.uid)


def _run(
    line: PowderBeamline, sample: str, temperatures: Sequence[float], raw: Sequence[Sink], results: Sequence[Sink]
) -> "_Told":
    """Run the ramp with what `powder.yaml` says of this sample, and return what it gave."""
    path = line.folder / "powder.yaml"
    path.write_text(powder_config(line.folder, line.powder, is_empty=sample == "empty"))
    told = _Told(sample, len(temperatures))
    line.run(temperatures, [*raw, load(path).pipeline_into([*results, told])], n_dark=N_DARK, sample=sample)
    return told


class _Told:
    """A sink that tells results as they come, and keeps them."""

    inline = True

    def __init__(self, sample: str, n: int) -> None:
        self.uid = ""
        self.rows: list[Document] = []
        self.axes: Document = {}
        self.final: Document = {}
        self._streams: dict[str, str] = {}  # uid of a descriptor -> its stream
        self._bar = tqdm(total=n, desc=f"{sample:6}", unit="frame")

    def __call__(self, name: str, doc: Document) -> None:
        if name == "start":
            self.uid = doc["uid"]
        elif name == "descriptor":
            self._streams[doc["uid"]] = doc["name"]
        elif name == "event":
            self._take(self._streams[doc["descriptor"]], doc["data"])
        elif name == "stop":
            self._bar.close()
            if doc["exit_status"] != "success":
                print(f"The analysis failed: {doc['reason']}")

    def _take(self, stream: str, data: Document) -> None:
        if stream in ("axes", "final"):
            setattr(self, stream, data)
        elif stream == "primary":
            self.rows.append(data)
            self._bar.set_postfix_str(_progress(data), refresh=False)
            self._bar.update()


def _progress(data: Document) -> str:
    if "hot_share" not in data:
        return f"{data['temperature']:.0f} K"
    ring = f", ring at {data['cold_fit_center']:.4f} / angstrom" if data["cold_fit_success"] else ""
    return f"{data['temperature']:.0f} K, {data['hot_share']:.1%} changed{ring}"


def _write_curve(path: Path, q: Any, intensity: Any) -> None:
    numpy.savetxt(path, numpy.column_stack([q, intensity]), delimiter=",", header="q,I")


# what was found, and what is true ----------------------------------------------------------------------------------


def _tell_time(n: int, n_pixels: int, seconds: float) -> None:
    print(
        f"\n{n} frames of {n_pixels} x {n_pixels} pixels, and {2 * N_DARK} dark ones, were taken, written to HDF5,\n"
        f"read back while that grew, and reduced in {seconds:.1f} s, with what is compiled for it."
    )


def _tell_truth(line: PowderBeamline, rows: Sequence[Document]) -> None:
    powder = line.powder
    print("\nHow much has changed, where the first ring of each phase is (angstrom^-1), and what was simulated:\n")
    head = "temperature", "changed", "simulated", "cold ring", "simulated", "hot ring", "simulated"
    print(table(head, [tuple(_line(powder, row)) for row in rows[::6]], ""))
    shares = [row["hot_share"] - powder.fraction(row["temperature"]) for row in rows]
    print(f"\nOf all {len(rows)} frames, the share that has changed is off by {max(map(abs, shares)):.2%} at most.")
    for name, phase in (("cold", powder.cold), ("hot", powder.hot)):
        _tell_ring(name, phase, [row for row in rows if _has(row, name)])


def _has(row: Document, name: str) -> bool:
    """Tell whether there is enough of a phase to speak of its ring."""
    share = row["hot_share"] if name == "hot" else 1 - row["hot_share"]
    return bool(share >= SHOWN_FROM and row[f"{name}_fit_success"])


def _line(powder: Powder, row: Document) -> Iterator[str]:
    temperature = row["temperature"]
    yield f"{temperature:.0f} K"
    yield f"{row['hot_share']:7.2%}"
    yield f"{powder.fraction(temperature):7.2%}"
    for name, phase in (("cold", powder.cold), ("hot", powder.hot)):
        is_there = _has(row, name)
        yield f"{row[f'{name}_fit_center']:.5f}" if is_there else "-"
        yield f"{phase.rings(temperature)[0]:.5f}" if is_there else ""


def _tell_ring(name: str, phase: Phase, rows: Sequence[Document]) -> None:
    temperatures = numpy.array([row["temperature"] for row in rows])
    found = numpy.array([row[f"{name}_fit_center"] for row in rows])
    errors = numpy.array([row[f"{name}_fit_center_stderr"] for row in rows])
    off = found - [phase.rings(temperature)[0] for temperature in temperatures]
    print(
        f"The {name} ring is off by {numpy.sqrt(numpy.mean(off**2)):.5f} in the mean, {abs(off).max():.5f} at most, in "
        f"the {len(rows)} frames that have {SHOWN_FROM:.0%} of its phase,\n"
        f"which expands by {_expansion(temperatures, found, errors) * 1e6:.2f}e-6 / K; "
        f"simulated was {phase.expansion * 1e6:.2f}e-6."
    )


def _expansion(temperatures: numpy.ndarray, rings: numpy.ndarray, errors: numpy.ndarray) -> float:
    """Return how much longer a spacing is for each K over 300 K, by the straight line through 1 / q."""
    slope, cold = numpy.polyfit(temperatures - 300.0, 1 / rings, 1, w=rings**2 / errors)
    return float(slope / cold)


def _show_catalog(catalog: Any) -> None:
    raw, run = catalog["raw"][-1], catalog["analysis"][-1]
    share, frame = run["primary"]["hot_share"].read(), raw["primary"]["det"][-1]
    print(f"\nThe catalog has it: catalog['analysis'][-1]['primary']['hot_share'] are {len(share)} numbers, the last")
    print(f"{float(share[-1]):.4f}, of raw run {run.metadata['start']['original_run_uid']};")
    print(
        f"catalog['raw'][-1]['primary']['det'][-1] is its last frame, of {int(frame.sum(dtype=float))} counts in all."
    )


def _say_more(folder: Path, uid: str) -> None:
    print(
        f"""
To look further:
  bluesky-pipeline show {folder}/analysis/{uid}.jsonl
  bluesky-pipeline verify {folder}/powder.yaml {folder}/raw       what is stored is what a replay gives
  bluesky-pipeline replay {folder}/powder.yaml {folder}/raw       nothing changes: it is all there
  python -c "from pipeline.catalog import open_catalog; print(open_catalog('{folder}/catalog')['analysis'])"
"""
    )

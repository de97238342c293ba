"""A simulated scan, analysed live into a catalog and a ledger."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.catalog import open_catalog
from pipeline.documents import Document
from pipeline.node import Node
from pipeline.pipeline import Pipeline
from pipeline.reductions import Mean, PeakStatistics
from pipeline.serve import close_sinks
from pipeline.show import table
from pipeline.sinks.jsonl import JSONLSink
from pipeline.sinks.tiled import TiledSink

CENTERS = (-1.5, -0.2, 0.9, 2.1)
POINTS = 41
CONFIG = """\
# What the demo does: the peak of every scan.
nodes:
  - name: peak
    when: {{plan_name: scan}}
    reductions:
      - PeakStatistics: {{x: motor, y: det}}
      - Mean: det
sinks:
  - JSONLSink: {ledger}
"""


def demo(directory: str) -> None:
    """Scan a peak that moves, and follow it.

    Leaves in the directory: `raw` and `analysis`, the ledgers of the raw and the analysis runs; `catalog`, the
    embedded catalog with both; `peak.yaml`, the configuration that does the same again.

    Parameters
    ----------
    directory
        Made if it is not there.
    """
    folder = Path(directory)
    print(f"Opening the embedded catalog {folder / 'catalog'} (the first time takes some seconds more) ...")
    catalog = open_catalog(folder / "catalog")
    pipeline = Pipeline(
        [Node("peak", PeakStatistics("motor", "det"), Mean("det"), when={"plan_name": "scan"})],
        [JSONLSink(folder / "analysis"), TiledSink(folder / "catalog")],
    )
    raw = TiledSink(folder / "catalog", container="raw")
    raw_ledger = JSONLSink(folder / "raw")
    pipeline.subscribe(told := _Told())
    began = time.monotonic()
    _scan(pipeline, raw, raw_ledger)
    seconds = time.monotonic() - began
    pipeline.flush()
    raw.flush()
    print(f"\n{len(CENTERS)} scans of {POINTS} points in {seconds:.1f} s, analysed as they were measured:\n")
    print(told.text())
    _show_catalog(catalog)
    (folder / "peak.yaml").write_text(CONFIG.format(ledger=folder / "analysis"))
    _say_more(folder, told.uids[-1])
    close_sinks(pipeline)
    raw.close()
    raw_ledger.close()


def _scan(*subscribers: Any) -> None:
    """Run real plans, with simulated devices, on a real RunEngine."""
    from bluesky import RunEngine
    from bluesky.plans import scan
    from ophyd.sim import SynAxis, SynGauss

    motor: Any = SynAxis(name="motor")
    motor.delay = 0.01
    RE = RunEngine({}, call_returns_result=False)
    for subscriber in subscribers:
        RE.subscribe(subscriber)
    for center in CENTERS:
        det = SynGauss("det", motor, "motor", center=center, Imax=1000, sigma=0.6, noise="uniform", noise_multiplier=8)
        plan: Any = scan  # ophyd's devices are not typed as bluesky has it
        RE(plan([det], motor, -5, 5, POINTS), sample="demo", true_center=center)


class _Told:
    """A sink that tells results as they grow, and keeps the last."""

    inline = True

    def __init__(self) -> None:
        self.uids: list[str] = []
        self._starts: dict[str, Document] = {}
        self._streams: dict[str, tuple[str, str]] = {}  # descriptor uid -> run uid, stream
        self._final: dict[str, Document] = {}
        self._bar: Any = None

    def __call__(self, name: str, doc: Document) -> None:
        if name == "start":
            self._starts[doc["uid"]] = doc
            self.uids.append(doc["uid"])
            self._bar = tqdm(total=POINTS, desc=f"scan {doc['raw'].get('scan_id', '')}", unit="point", leave=True)
        elif name == "descriptor":
            self._streams[doc["uid"]] = doc["run_start"], doc["name"]
        elif name == "event":
            self._tell(*self._streams[doc["descriptor"]], doc["data"])
        elif name == "stop":
            self._bar.close()

    def _tell(self, run: str, stream: str, data: Document) -> None:
        if stream == "final":
            self._final[run] = data
        else:
            self._bar.set_postfix_str(f"centre {data['det_cen']:.3f}, width {data['det_fwhm']:.3f}", refresh=False)
            self._bar.update()

    def text(self) -> str:
        """Return the table of results."""
        return table(("raw run", "analysis run", "centre", "width", "peak"), self._rows(), "")

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for uid in self.uids:
            final = self._final[uid]
            numbers = f"{final['det_cen']:.3f}", f"{final['det_fwhm']:.3f}", "yes" if final["det_success"] else "no"
            yield self._starts[uid]["original_run_uid"], uid, *numbers


def _show_catalog(catalog: Any) -> None:
    run = catalog["analysis"][-1]
    centers = run["running"]["det_cen"].read()
    print(f"\nThe catalog has it: catalog['analysis'][-1]['running']['det_cen'] are {len(centers)} points,")
    print(f"the last {float(centers[-1]):.3f}, of raw run {run.metadata['start']['original_run_uid']}.")


def _say_more(folder: Path, uid: str) -> None:
    print(
        f"""
To look further:
  bluesky-pipeline show {folder}/analysis/{uid}.jsonl
  bluesky-pipeline verify {folder}/peak.yaml {folder}/raw         what is stored is what a replay gives
  bluesky-pipeline replay {folder}/peak.yaml {folder}/raw         nothing changes: it is all there
  python -c "from pipeline.catalog import open_catalog; print(open_catalog('{folder}/catalog')['analysis'])"
"""
    )

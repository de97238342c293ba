"""Run the benchmarks that are named, or all: `python -m benchmarks events pages`."""

import logging
import sys
from inspect import isgenerator

from benchmarks.catalogs import catalogs
from benchmarks.cells import cells
from benchmarks.event_reductions import event_reductions
from benchmarks.events import events, pages
from benchmarks.finding import finding
from benchmarks.fits import fits
from benchmarks.flows import flows
from benchmarks.frame_correlation import frame_correlation
from benchmarks.frame_integration import frame_integration
from benchmarks.frame_moments import frame_moments
from benchmarks.frames import frames
from benchmarks.imports import imports
from benchmarks.journal import journal
from benchmarks.memory import memory
from benchmarks.peers import peers
from benchmarks.projector import projector
from benchmarks.scans import scans
from benchmarks.service import attached, latency, restart, service_memory, throughput

ALL = (
    *(imports, events, pages, scans, catalogs, finding, memory, cells, event_reductions, fits, flows, peers),
    *(frames, journal, projector, attached, latency, throughput, restart, service_memory),
    *(frame_correlation, frame_integration, frame_moments),
)


def main(names):
    logging.basicConfig(level=logging.WARNING)
    missed = 0
    for benchmark in ALL:
        if names and benchmark.__name__ not in names:
            continue
        found = benchmark()
        for what, figure, aim, is_reached in found if isgenerator(found) else [found]:
            missed += not is_reached
            print(f"{what:36} {figure:12,.3f}   aim {aim:12,.3f}   {'reached' if is_reached else 'MISSED'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

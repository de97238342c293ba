"""The process that keeps one catalog level with a ledger: `python -m pipeline.projector_process LEDGER`.

It ends on SIGTERM, and when the process that started it is gone. It may be killed at any time.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from pipeline.catalog import NICE
from pipeline.errors import PipelineError
from pipeline.projector import Projector, report_path, write_report

REPORT_SECONDS = 1.0
GRACE = 3.0  # seconds in which a request that is on its way may end
OK, FAILED = 0, 1


def main(argv: list[str] | None = None) -> int:
    """Follow the ledger until it is to end."""
    options = _parser().parse_args(argv)
    os.environ["TILED_RETRY_ATTEMPTS"] = "1"  # It is tried again here, where it is known what has been written.
    os.nice(NICE)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _end(stop))
    try:
        projector = Projector(
            options.ledger, options.to, container=options.container, flush_seconds=options.flush_seconds
        )
        path = report_path(options.ledger, options.to, options.container)
        watch = threading.Thread(target=_watch, args=(projector, path, stop, os.getppid()), daemon=True)
        watch.start()
        projector.follow(stop)
        watch.join(GRACE)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return FAILED
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.projector_process", description=__doc__)
    parser.add_argument("ledger", help="the folder of JSONL files")
    parser.add_argument("--to", metavar="CATALOG", help="a path, a URI or a profile (default: the embedded catalog)")
    parser.add_argument("--container", default="analysis", help="of the catalog (default: %(default)s)")
    parser.add_argument("--flush-seconds", type=float, default=0.2, help="how long an event may wait")
    return parser


def _end(stop: threading.Event) -> None:
    """End soon, whatever the server does: what is half written is completed next time."""
    stop.set()
    timer = threading.Timer(GRACE, os._exit, (OK,))
    timer.daemon = True
    timer.start()


def _watch(projector: Projector, path: Path, stop: threading.Event, parent: int) -> None:
    """Tell the report, and see whether anybody is there who wants it."""
    while not stop.wait(REPORT_SECONDS):
        _tell(path, projector.report())
        if os.getppid() != parent:
            _end(stop)
    _tell(path, projector.report())


def _tell(path: Path, report: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a full disk is no reason to stop
        write_report(path, report)


if __name__ == "__main__":
    sys.exit(main())

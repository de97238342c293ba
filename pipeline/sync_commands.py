"""The commands about ledger and catalog: sync, audit."""

import argparse
import os
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from tqdm import tqdm

from pipeline.errors import ConfigError, PipelineValueError
from pipeline.show import table

OK, FAILED = 0, 1
SHOWN = 100  # rows of a table at most

Command = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]

_CATALOG = "a folder, a URI, or the name of a profile (default: the embedded catalog)"


def add_commands(command: Command) -> None:
    """Add these commands to a parser."""
    synced = command("sync", _sync, "bring a catalog level with the ledger, once")
    synced.add_argument("ledger", help="the folder of JSONL files")
    synced.add_argument("--to", metavar="CATALOG", help=_CATALOG)
    synced.add_argument("--container", default="analysis", help="of the catalog (default: %(default)s)")
    synced.add_argument("--timeout", type=float, default=60.0, help="seconds that a catalog may be away")
    audited = command("audit", _audit, "compare a catalog with the ledger, run by run and row by row")
    audited.add_argument("ledger", help="the folder of JSONL files")
    audited.add_argument("--catalog", help=_CATALOG)
    audited.add_argument("--container", default="analysis", help="of the catalog (default: %(default)s)")


def _sync(args: argparse.Namespace) -> int:
    os.environ.setdefault("TILED_RETRY_ATTEMPTS", "1")  # read when Tiled's client is imported; it is tried again here
    from pipeline.projector import Projector

    try:
        projector = Projector(args.ledger, args.to, container=args.container)
    except PipelineValueError as error:
        raise ConfigError(str(error)) from None
    with _bar("sync") as bar:
        report = projector.sync(timeout=args.timeout, progress=partial(_advance, bar))
    rows = [("level", report["runs_level"], ""), ("open", report["runs_open"], "their stop document is still to come")]
    rows += [(f"refused: {uid}", "", reason) for uid, reason in islice(report["refused"].items(), SHOWN)]
    print(table(("runs", "number", "why"), [row for row in rows if row[1] != 0], ""))
    return FAILED if report["refused"] else OK


def _audit(args: argparse.Namespace) -> int:
    from pipeline.audit import audit

    different, n = [], 0
    with _bar("audit") as bar:
        for run in audit(args.ledger, args.catalog, container=args.container, progress=partial(_advance, bar)):
            n += 1
            different += [] if run.is_level else [run]
    if different:
        print(table(("run", "difference"), different[:SHOWN], ""))
    print(f"{n - len(different)} of {n} runs are the same in the ledger and the catalog.")
    return FAILED if different else OK


def _bar(what: str) -> "tqdm[Any]":
    return tqdm(desc=what, unit="run", disable=None)


def _advance(bar: "tqdm[Any]", done: int, of: int) -> None:
    bar.total = of
    bar.update(done - bar.n)

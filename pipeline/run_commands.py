"""The commands about runs that are stored: show, store, export, find, lineage."""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from pipeline.catalog import default_path
from pipeline.catalog_run import CatalogRun
from pipeline.catalogs import runs_of
from pipeline.documents import Document, plainly
from pipeline.errors import ConfigError, PipelineError
from pipeline.files import export, result_files
from pipeline.lineage import FORMATS, analyses, lineage
from pipeline.run import BlueskyRun
from pipeline.run_of import by_run
from pipeline.show import show, summaries, table
from pipeline.sources.jsonl import read_jsonl
from pipeline.store import Store
from pipeline.store_file import store_file

OK, FAILED = 0, 1

Command = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def add_commands(command: Command) -> None:
    """Add these commands to a parser."""
    shown = command("show", _show, "tell what a run holds, and of which raw run it is")
    _add_run(shown)
    stored = command("store", _store, "store results that are in files as runs, linked to their raw runs")
    stored.add_argument(
        "files", nargs="+", metavar="file", help="CSV, TSV, Parquet, NetCDF, NeXus, XDI, JSONL; folders"
    )
    stored.add_argument("--raw", action="append", metavar="[ROLE=]UID", help="the raw run that they are of; repeatable")
    stored.add_argument("--metadata", action="append", metavar="KEY=VALUE", help="for the start document; repeatable")
    stored.add_argument("--name", default="store", help="what the analysis is called (default: %(default)s)")
    stored.add_argument("--to", action="append", metavar="CATALOG", help=f"{_CATALOG}; repeatable")
    stored.add_argument("--ledger", help="the folder of the JSONL files (default: beside the embedded catalog)")
    stored.add_argument("--format", help="of the files, where their suffix does not tell")
    exported = command("export", _export, "write a run into files")
    _add_run(exported)
    exported.add_argument("--format", default="csv", help="jsonl, csv, parquet, netcdf or nexus (default: %(default)s)")
    exported.add_argument("--to", default=".", metavar="DIR", help="the folder (default: here)")
    found = command("find", _find, "list the analysis runs of a raw run, newest first")
    found.add_argument("run", metavar="UID", help="of the raw run")
    found.add_argument("--catalog", help=_CATALOG)
    for name, text in (("node", "of this node"), ("recipe", "whose hash begins so"), ("reduction", "with this one")):
        found.add_argument(f"--{name}", help=f"only those {text}")
    found.add_argument("--json", action="store_true", help="for programs")
    kin = command("lineage", _lineage, "draw what a run was made of, and what was made of it")
    kin.add_argument("run", metavar="UID", help="of the run")
    kin.add_argument("--catalog", help=_CATALOG)
    kin.add_argument("--format", default="tree", choices=FORMATS, help="(default: %(default)s)")


_CATALOG = "a folder, a URI, or the name of a profile (default: the embedded catalog)"


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="UID|FILE", help="a JSONL file, or the uid of a run")
    parser.add_argument("--ledger", default="analysis", help="where uids are looked for first (default: %(default)s)")
    parser.add_argument("--catalog", help=f"where uids are looked for next: {_CATALOG}")
    if parser.prog.endswith("show"):
        parser.add_argument("--json", action="store_true", help="for programs")


# show --------------------------------------------------------------------------------------------------------------


def _show(args: argparse.Namespace) -> int:
    documents = (item for run in _runs(args) for item in run.documents())
    print(_json(summaries(documents)) if args.json else show(documents))
    return OK


def _runs(args: argparse.Namespace) -> Iterator[BlueskyRun | CatalogRun]:
    """Yield the runs that are meant: those of a file, or the one of a uid."""
    if Path(args.run).is_file():
        yield from _of_file(Path(args.run))
        return
    in_ledger = sorted(Path(args.ledger).glob(f"{Path(args.run).name}*.jsonl"))
    if len(in_ledger) == 1:
        yield from _of_file(in_ledger[0])
        return
    if args.catalog is not None or default_path().exists():
        runs = runs_of(_there(args.catalog))
        with suppress(KeyError, ValueError):  # Tiled refuses too short a part of a uid
            yield CatalogRun(runs[args.run])
            return
    raise ConfigError(
        f"no run {args.run!r}: wanted a file, or the uid of a run in the ledger {args.ledger!r} or the catalog."
    )


def _there(catalog: str | None) -> str | None:
    """Return this catalog, unless it is a path where there is none: to look for a run makes no catalog."""
    path = default_path() if catalog is None else Path(catalog).expanduser()
    is_path = catalog is None or ("://" not in catalog and ("/" in catalog or catalog.startswith((".", "~"))))
    if is_path and not path.exists():
        raise ConfigError(f"wanted a catalog in {catalog or path}, there is none.")
    return catalog


def _of_file(path: Path) -> Iterator[BlueskyRun]:
    for documents in by_run(read_jsonl(path)):
        yield BlueskyRun(lambda documents=documents: documents)


def _json(value: Any) -> str:
    return json.dumps(plainly(value, "result"), indent=1)


# store and export --------------------------------------------------------------------------------------------------


def _store(args: argparse.Namespace) -> int:
    files = _files(args.files)
    told = {"raw": _raw(args.raw), "metadata": _pairs(args.metadata, "--metadata"), "name": args.name}
    rows: list[tuple[str, ...]] = []
    failed = False
    with Store(args.to or None, ledger=args.ledger) as into:
        for path in tqdm(files, desc="store", unit="file", disable=None if len(files) > 1 else True):
            try:
                runs = store_file(path, into, format=args.format, **told)
                rows += [(path.name, run.uid, _told(run)) for run in runs]
            except (PipelineError, OSError) as error:
                failed = True
                rows.append((path.name, "not stored", str(error)))
    print(table(("file", "run", "holds"), rows, ""))
    return FAILED if failed else OK


def _files(names: Sequence[str]) -> list[Path]:
    try:
        return list(dict.fromkeys(path for name in names for path in result_files(name)))
    except PipelineError as error:
        raise ConfigError(str(error)) from None


def _raw(texts: Sequence[str] | None) -> Any:
    """Return uids, by role if they are several or have one."""
    if not texts:
        return None
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    roles = (
        text.partition("=") if "=" in text else (f"raw_{i + 1}" if i else "raw", "", text)
        for i, text in enumerate(texts)
    )
    return {role: uid for role, _, uid in roles}


def _pairs(texts: Sequence[str] | None, option: str) -> dict[str, Any]:
    pairs = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise ConfigError(f"{option}: wanted KEY=VALUE, there is {text!r}.")
        pairs[key] = yaml.safe_load(value)
    return pairs


def _told(run: BlueskyRun) -> str:
    n_events = (run.metadata["stop"] or {}).get("num_events", {})
    return ", ".join(f"{name}: {n_events.get(name, 0)} of {', '.join(run[name])}" for name in run)


def _export(args: argparse.Namespace) -> int:
    for run in _runs(args):
        for path in export(run, args.format, args.to):
            print(path)
    return OK


# find and lineage --------------------------------------------------------------------------------------------------


def _find(args: argparse.Namespace) -> int:
    runs = analyses(_there(args.catalog), args.run, node=args.node, recipe=args.recipe, reduction=args.reduction)
    found = [_found(run) for run in runs]
    if args.json:
        print(_json(found))
    elif found:
        print(table(tuple(found[0]), [tuple(each.values()) for each in found], ""))
    else:
        print(f"No analysis of {args.run} is there.")
    return OK


def _found(run: CatalogRun) -> dict[str, str]:
    start, stop = run.metadata["start"], run.metadata["stop"]
    analysis = start.get("analysis") or {}
    recipe = analysis.get("recipe") or {}
    return {
        "run": run.uid,
        "time": datetime.fromtimestamp(start["time"]).isoformat(" ", "seconds"),
        "node": str(analysis.get("node", "")),
        "reductions": _names(recipe.get("reductions", ())),
        "ended": (stop or {}).get("exit_status", "open"),
    }


def _names(reductions: Iterable[Document]) -> str:
    return ", ".join(str(each.get("name")) for each in reductions)


def _lineage(args: argparse.Namespace) -> int:
    print(lineage(_there(args.catalog), args.run, format=args.format))
    return OK

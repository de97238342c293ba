"""The command: `bluesky-pipeline`."""

import argparse
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.catalogs import runs_of
from pipeline.config import Config, load
from pipeline.documents import Document
from pipeline.errors import ConfigError, PipelineError, PipelineOSError
from pipeline.logs import setup_logging
from pipeline.operation import Operation
from pipeline.run_commands import add_commands as add_run_commands
from pipeline.schema import faults
from pipeline.serve import close_sinks, serve
from pipeline.service_commands import add_commands as add_service_commands
from pipeline.show import table
from pipeline.sources.journal import JournalSource
from pipeline.sources.jsonl import jsonl_files, read_jsonl
from pipeline.sources.position import PositionedSource
from pipeline.sync_commands import add_commands as add_sync_commands
from pipeline.verify import verify

OK, FAILED, WRONG = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code: 0, 1 where the work failed, 2 where the call was wrong.

    >>> main(["check", "configs/peak.yaml"])
    configs/peak.yaml is right: nodes peak; sinks JSONLSink, TiledSink; source ZMQSource.
    0
    """
    args = _parser().parse_args(argv)
    level = logging.INFO if args.verbose else logging.WARNING
    setup_logging(getattr(args, "log_json", False), level)
    try:
        return args.work(args)
    except ConfigError as error:
        return _say(error, WRONG)
    except (PipelineError, OSError) as error:
        return _say(error, FAILED)
    except KeyboardInterrupt:
        return _say("interrupted", FAILED)


def _say(error: object, code: int) -> int:
    print(f"bluesky-pipeline: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bluesky-pipeline", description="Live analysis of Bluesky runs.")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell more")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, work: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(work=work)
        return added

    demo = command("demo", _demo, "a simulated scan, or powder diffraction, analysed live into a catalog and a ledger")
    demo.usage = "bluesky-pipeline demo [powder] [directory]"
    demo.add_argument("powder", nargs="?", help="`powder`: frames of an area detector, instead of a scan")
    demo.add_argument("directory", nargs="?", help="where to put it (default: demo)")
    command("check", _check, "say whether a configuration is right; nothing connects").add_argument(
        "config", help="a YAML file"
    )
    run = command("run", _run, "follow the configured source until it ends, or is ended: as a service, where it can be")
    run.add_argument("config", help="a YAML file")
    run.add_argument("--journal", metavar="DIR", help="the source: a journal, instead of what is configured")
    run.add_argument("--listen", metavar="HOST:PORT", help="where to show a page, metrics and probes")
    run.add_argument("--log-json", action="store_true", help="log a JSON object a line")
    run.add_argument("--until-released", action="store_true", help="end when standard input does, and all is done")
    for name, work, text in (
        ("replay", _replay, "analyse stored runs"),
        ("verify", _verify, "replay stored runs and compare with what the ledger, or the catalog, holds"),
    ):
        added = command(name, work, text)
        added.add_argument("config", help="a YAML file")
        added.add_argument("files", nargs="+", metavar="file", help="JSONL files of raw runs, folders, or globs")
    for add in (add_run_commands, add_sync_commands, add_service_commands):
        add(command)
    return parser


def _demo(args: argparse.Namespace) -> int:
    if args.powder == "powder":
        from pipeline.powder_demo import powder_demo

        powder_demo(args.directory or "demo")
    elif args.directory is None:
        from pipeline.demo import demo

        demo(args.powder or "demo")
    else:
        raise ConfigError(f"there is no demo {args.powder!r}; wanted `powder`, or a directory and nothing else.")
    return OK


def _check(args: argparse.Namespace) -> int:
    config = load(args.config)
    parts = {
        "nodes": [node.name for node in config.nodes],
        "sinks": [sink.name for sink in config.sinks],
        "source": [config.source_name] if config.source_name else [],
    }
    told = "; ".join(f"{what} {', '.join(names)}" for what, names in parts.items() if names)
    print(f"{args.config} is right: {told}.")
    return OK


def _run(args: argparse.Namespace) -> int:
    config = load(args.config)
    source = JournalSource(args.journal) if args.journal else config.source()
    if isinstance(source, PositionedSource) and config.ledger is not None:
        return _operate(config, source, args)
    pipeline = config.pipeline()
    summary = _Summary()
    pipeline.subscribe(summary)
    serve(pipeline, source)
    print(summary.text())
    return FAILED if pipeline.counts["faults"] else OK


def _operate(config: Config, source: PositionedSource, args: argparse.Namespace) -> int:
    operation = Operation(config, source, args.listen)
    if args.until_released:
        threading.Thread(target=_wait_for_release, args=(operation, source), daemon=True).start()
    operation.run()
    report = operation.report()
    told = ", ".join(f"{report['runs'][what]} {what}" for what in ("open", "parked", "failed"))
    print(f"{report['counts'].get('runs', 0)} raw runs came; by now there are {told}.")
    return OK


def _wait_for_release(operation: Operation, source: Any) -> None:
    """End when nobody holds the other side of standard input any more, and everything is taken in."""
    while os.read(0, 4096):
        pass
    end = getattr(source, "end_when_level", None)
    end() if callable(end) else operation.service.stop()


def _replay(args: argparse.Namespace) -> int:
    config, files = load(args.config), _files(args.files)
    pipeline, summary = config.pipeline(), _Summary()
    pipeline.subscribe(summary)
    failed = False
    try:
        for path, documents in _with_progress(files, "replay"):
            found: list[str] = []
            try:
                pipeline.replay(faults(documents, found))
            except PipelineError as error:
                failed = bool(_say(error, FAILED))
            for fault in found:
                failed = bool(_say(f"{path}: {fault}", FAILED))
    finally:
        close_sinks(pipeline)
    print(summary.text())
    return FAILED if failed or pipeline.counts["faults"] else OK


def _verify(args: argparse.Namespace) -> int:
    config, files = load(args.config), _files(args.files)
    where: dict[str, Any] = {"ledger": config.ledger} if config.ledger else {"catalog": _catalog_of(config)}
    n = n_different = 0
    for _, documents in _with_progress(files, "verify"):
        for verdict in verify(config.nodes, documents, assets=config.assets, **where):
            n += 1
            n_different += bool(verdict.difference)
            if verdict.difference:
                tqdm.write(f"{verdict.uid} ({verdict.node} of {verdict.raw_uid}): {verdict.difference}")
    print(f"{n} analysis runs: {n - n_different} as replayed, {n_different} not.")
    return FAILED if n_different else OK


def _catalog_of(config: Config) -> Any:
    targets = [(*sink.args, *sink.kwargs.values(), None)[0] for sink in config.sinks if sink.name == "TiledSink"]
    if not targets:
        raise ConfigError(f"{config.path}: wanted a JSONLSink or a TiledSink to compare with; there is none.")
    target = targets[0]
    return runs_of(target if target is None or "://" in target else Path(target))


def _files(names: Sequence[str]) -> list[Path]:
    try:
        return list(dict.fromkeys(path for name in names for path in jsonl_files(name)))
    except PipelineOSError as error:
        raise ConfigError(str(error)) from None


def _with_progress(files: Sequence[Path], what: str) -> Iterator[tuple[Path, Iterator[tuple[str, Document]]]]:
    """Yield each file and its documents, and show how much of all files is read."""
    total = sum(path.stat().st_size for path in files)
    with tqdm(total=total, unit="B", unit_scale=True, desc=what, disable=None) as bar:
        done = 0
        for path in files:
            bar.set_postfix_str(path.name[:32], refresh=False)
            yield path, read_jsonl(path, progress=lambda n, done=done: bar.update(done + n - bar.n))
            done += path.stat().st_size
            bar.update(done - bar.n)


class _Summary:
    """A sink that keeps a line of each analysis run."""

    inline = True

    def __init__(self) -> None:
        self._rows: dict[str, list[str]] = {}

    def __call__(self, name: str, doc: Document) -> None:
        if name == "start":
            self._rows[doc["uid"]] = [doc["original_run_uid"], doc["uid"], doc["analysis"]["node"], "open", ""]
        elif name == "stop":
            self._rows[doc["run_start"]][3:] = [doc["exit_status"], doc.get("reason", "")]

    def text(self) -> str:
        """Return the table."""
        if not self._rows:
            return "No run was analysed: no node wanted one."
        return table(("raw run", "analysis run", "node", "ended", "reason"), self._rows.values(), "")

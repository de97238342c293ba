"""The commands about a service: status, resume, give-up, sweep."""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.show import table
from pipeline.state_store import StateStore, StoredRun

OK = 0
FRESH = 15.0  # seconds after which the report of a service that is gone counts no more

Command = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def add_commands(command: Command) -> None:
    """Add these commands to a parser."""
    status = command("status", _status, "list open, parked and failed runs of a service, and why nothing came out")
    status.add_argument("--json", action="store_true", help="for programs")
    resume = command("resume", _resume, "have a service look again for what parked runs lack")
    give_up = command("give-up", _give_up, "have a service end runs with what there is of them")
    for each in (resume, give_up):
        each.add_argument("runs", nargs="+", metavar="UID", help="of raw runs, or how they begin")
    sweep = command("sweep", _sweep, "have a service end the runs of which nothing has come for long")
    sweep.add_argument("--older", type=float, default=86400.0, metavar="SECONDS", help="(default: a day)")
    for each in (status, resume, give_up, sweep):
        each.add_argument("--ledger", default="analysis", metavar="LEDGER|CONFIG", help="(default: %(default)s)")


@contextmanager
def _store(args: argparse.Namespace) -> Iterator[StateStore]:
    ledger = Path(args.ledger)
    if ledger.is_file():
        ledger = Path(load(ledger).ledger or "")
    path = ledger / ".state" / "state.db"
    if not path.exists():
        raise ConfigError(f"{ledger}: wanted the ledger of a service, there is no {path}.")
    store = StateStore(path)
    try:
        yield store
    finally:
        store.close()


def _reports(store: StateStore) -> list[dict[str, Any]]:
    """Return what the services that run now tell."""
    found = []
    for path in sorted(store.path.parent.glob("service-*.json")):
        try:
            report = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if time.time() - report.get("time", 0.0) < FRESH:
            found.append(report)
    return found


# status ------------------------------------------------------------------------------------------------------------


def _status(args: argparse.Namespace) -> int:
    with _store(args) as store:
        told = {
            "services": _reports(store),
            "runs": [_run(run) for run in store.runs()],
            "failed": [{"uid": uid, "ended": ended, "reason": reason} for uid, ended, reason in store.failed()],
            "unread": [{"time": when, "place": place, "reason": why} for when, place, why in store.poison()],
        }
    print(json.dumps(told, indent=1) if args.json else _text(told))
    return OK


def _run(run: StoredRun) -> dict[str, Any]:
    state = "parked" if run.parked else "open"
    about = {"uid": run.uid, "state": state, "reason": run.parked, "since": run.since, "last": run.updated}
    return {**about, "n_documents": run.n_documents, "lane": run.lane}


def _text(told: dict[str, Any]) -> str:
    parts = [_of_services(told["services"])]
    rows = [(r["uid"], r["state"], _ago(r["last"]), r["n_documents"], r["reason"]) for r in told["runs"]]
    parts.append(_listed(("run", "is", "last stored", "documents", "why"), rows, "No run is open."))
    failed = [(r["uid"], _ago(r["ended"]), r["reason"]) for r in told["failed"]]
    parts.append(_listed(("failed", "ended", "why"), failed, "No analysis has failed."))
    unread = [(r["place"], _ago(r["time"]), r["reason"]) for r in told["unread"]]
    parts.append(_listed(("could not be read", "came", "why"), unread, "Everything that came could be read."))
    return "\n\n".join(parts)


def _of_services(reports: Sequence[dict[str, Any]]) -> str:
    if not reports:
        return "No service runs on this ledger now."
    lines = []
    for report in reports:
        source, lag = report["source"]["name"], report["source"]["lag_seconds"]
        ready = "ready" if report["ready"] else f"not ready: {report['why_not_ready']}"
        lines.append(f"A service reads from {source} ({ready}; behind: {'-' if lag is None else f'{lag:.1f} s'}).")
        rows = [
            (name, n["begun"], n["ended"], n["faults"], n["events"], n["why"]) for name, n in report["nodes"].items()
        ]
        lines.append(table(("node", "begun", "ended", "failed", "events", "why nothing came out"), rows, ""))
        lines += [f"Catalog {p['target']}: {_of_projector(p)}" for p in report["projectors"]]
    return "\n".join(lines)


def _of_projector(report: dict[str, Any]) -> str:
    level = f"{report['runs_level']} runs level, {report['behind_bytes']} bytes behind, {report['refused']} refused"
    return f"{level}; away: {report['outage']}" if report["outage"] else f"{level}."


def _listed(head: tuple[str, ...], rows: Sequence[tuple[Any, ...]], nothing: str) -> str:
    return table(head, rows, "") if rows else nothing


def _ago(when: float) -> str:
    seconds = max(0.0, time.time() - when)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


# requests ----------------------------------------------------------------------------------------------------------


def _resume(args: argparse.Namespace) -> int:
    return _ask(args, "resume", args.runs)


def _give_up(args: argparse.Namespace) -> int:
    return _ask(args, "give-up", args.runs)


def _ask(args: argparse.Namespace, verb: str, names: Sequence[str]) -> int:
    with _store(args) as store:
        runs = [run.uid for run in store.runs()]
        for uid in [_uid(name, runs) for name in names]:
            store.ask(verb, uid)
            print(f"{verb} {uid}: asked for.")
        _say_when(store)
    return OK


def _sweep(args: argparse.Namespace) -> int:
    with _store(args) as store:
        old = [run.uid for run in store.runs() if time.time() - run.updated > args.older]
        for uid in old:
            store.ask("give-up", uid)
            print(f"give-up {uid}: asked for.")
        print(f"{len(old)} runs of which nothing has come for {args.older:g} s.")
        _say_when(store)
    return OK


def _uid(name: str, runs: Sequence[str]) -> str:
    found = [uid for uid in runs if uid.startswith(name)]
    if len(found) != 1:
        raise ConfigError(f"wanted the uid of an open run, or how one begins; {name!r} is that of {len(found)}.")
    return found[0]


def _say_when(store: StateStore) -> None:
    if not _reports(store):
        print("No service runs on this ledger now: it is done when one does.")

"""Store results that are in a file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.documents import Uids
from pipeline.files import Results, read_results
from pipeline.run import BlueskyRun
from pipeline.run_builder import RunBuilder
from pipeline.run_of import by_run
from pipeline.store import Store
from pipeline.tables import tabulate


def store_file(
    path: str | os.PathLike[str],
    into: Store,
    *,
    raw: Any = None,
    name: str = "store",
    metadata: Mapping[str, Any] | None = None,
    format: str | None = None,
) -> list[BlueskyRun]:
    """Store the results in a file as a run, or the runs that it holds.

    The name and the SHA-256 of the file stand in the provenance, and the uid of the run follows from them and from
    what else is told of it: so the same file, stored again, is the same run.

    Parameters
    ----------
    path
        A file of any format that `pipeline.files.read_results` reads.
    into
        Where to.
    raw, name, metadata
        As for `store`.
    format
        Of the file, where its suffix does not tell.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Store([], ledger=folder) as into:
    ...     _ = Path(folder, "results.csv").write_text("x (mm),y\\n1.5,2\\n")
    ...     (run,) = store_file(Path(folder, "results.csv"), into, raw="7f3c")
    >>> run.primary.read()["x"].attrs, run.metadata["start"]["analysis"]["references"][0]["name"]
    ({'units': 'mm'}, 'results.csv')
    """
    results = read_results(path, format=format)
    told = {"raw": raw, "name": name, "references": [results.reference]}
    if results.documents is not None:
        return [into(run, metadata=metadata, **told) for run in by_run(results.documents)]
    metadata = {**results.metadata, **(metadata or {})}
    uid = _uid(results, raw, name, metadata)
    if known := into.held(uid):
        return [into(known)]
    return [into(_built(results, uid, Path(path).stat().st_mtime), metadata=metadata, **told)]


def _built(results: Results, uid: str, time: float) -> BlueskyRun:
    with RunBuilder(uid=uid, time=time) as builder:
        for name, data in results.streams.items():
            table = tabulate(data, name)
            builder.add_stream(name, data=table, time=time if table.times is None else table.times)
        builder.close(time=time)
    return builder.get_run()


def _uid(results: Results, raw: Any, name: str, metadata: Mapping[str, Any]) -> str:
    """Return the uid that follows from the file and what is told of it."""
    told = json.dumps([_uids(raw), name, metadata], sort_keys=True, default=str)
    return Uids(results.reference["sha256"])(told)


def _uids(raw: Any) -> Any:
    if isinstance(raw, Mapping) and "uid" not in raw and not isinstance(raw, BlueskyRun):
        return {role: _uids(each) for role, each in raw.items()}
    if isinstance(raw, list | tuple):
        return [_uids(each) for each in raw]
    return raw["uid"] if isinstance(raw, dict) else getattr(raw, "uid", raw)

"""Show that a catalog holds what the ledger holds: run by run, row by row."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.catalogs import runs_of
from pipeline.errors import PipelineError, PipelineOSError, PipelineValueError
from pipeline.ledger_tail import ENDING, LedgerFile
from pipeline.projection import Runs, documents_in, runs_in, uid_in


class Audited(NamedTuple):
    """What became of one run: its uid, and the first place where ledger and catalog differ; nothing if they do not.

    >>> Audited("7f3c", "").is_level
    True
    """

    uid: str
    difference: str

    @property
    def is_level(self) -> bool:
        """Whether ledger and catalog hold the same."""
        return not self.difference


def audit(
    ledger: str | os.PathLike[str],
    catalog: Any = None,
    *,
    container: str = "analysis",
    progress: Callable[[int, int], object] = lambda done, of: None,
) -> Iterator[Audited]:
    """Compare each run of the ledger with the catalog, and tell which runs the ledger does not have.

    Start and stop documents, descriptors, and every row are compared, in blocks: memory does not grow with the number
    of runs, nor (but for a table, which Tiled gives whole) with that of the events. Nothing is written.

    Parameters
    ----------
    ledger
        The folder of `<uid>.jsonl` files.
    catalog
        As for `runs_of`.
    container
        Which one, of a catalog that has several.
    progress
        Called with how many of how many files are compared.

    Raises
    ------
    PipelineOSError
        If there is no such ledger, or the catalog does not answer.

    >>> import databroker, tempfile
    >>> from pipeline.sinks import JSONLSink
    >>> from pipeline.testing import make_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with JSONLSink(folder) as ledger:
    ...         for name, doc in make_run({"det": [1.0]}): ledger(name, doc)
    ...     [run.difference for run in audit(folder, databroker.temp())]
    ['the catalog has no such run']
    """
    if not Path(ledger).is_dir():
        raise PipelineOSError(f"{ledger}: wanted the folder of a ledger, there is none.")
    paths = sorted(path for path in Path(ledger).iterdir() if path.name.endswith(ENDING) and path.name[0] != ".")
    runs = runs_in(runs_of(catalog, container))
    seen = set()
    for n, path in enumerate(paths):
        progress(n, len(paths))
        audited = _audited(path, runs)
        seen.add(audited.uid)
        yield audited
    progress(len(paths), len(paths))
    for uid in runs.uids():
        if uid not in seen:
            yield Audited(uid, "the ledger has no such run")


def _audited(path: Path, runs: Runs) -> Audited:
    uid = path.name.removesuffix(ENDING)
    try:
        uid = _uid(path)
        return Audited(uid, runs.difference(uid, documents_in(LedgerFile(path))))
    except PipelineError as error:
        return Audited(uid, str(error))


def _uid(path: Path) -> str:
    if uid := uid_in(path):
        return uid
    raise PipelineValueError(f"{path}, line 1: wanted a start document with a uid, there is nothing.")

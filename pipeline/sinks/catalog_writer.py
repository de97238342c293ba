"""Many runs on their way into one Tiled catalog: each to its own writer, each with its own faults."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.documents import Document, loads

if TYPE_CHECKING:
    from pipeline.sinks.run_writer import RunWriter

SERVER = "server"  # in the place of a run's uid: what is wrong concerns all runs
REFUSALS_BORNE = 5  # answers 5xx to the same write: then it is the data that the server cannot take


class Report(Protocol):
    """Told of what goes wrong with a run (or with the server), and, without a reason, that it is well again."""

    def __call__(self, run: str, reason: str | None) -> None: ...


class CatalogWriter:
    """Write documents of any number of runs, given as lines, into a catalog.

    Parameters
    ----------
    connect
        Returns the client of the container to write to; called again when the server was lost.
    report
        Told of faults.
    uploads
        Whether arrays that are in files beside a ledger are put into the catalog: its server cannot read them.
    keep_trying
        Asked, while the server cannot be reached, whether to try once more.
    flush_seconds, flush_count
        How long, and how many documents, may wait before they are written together.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        report: Report,
        *,
        uploads: bool = False,
        keep_trying: Callable[[], bool] = lambda: True,
        flush_seconds: float,
        flush_count: int,
    ) -> None:
        self._connect = connect
        self._report = report
        self._uploads = uploads
        self._keep_trying = keep_trying
        self._flush_seconds = flush_seconds
        self._flush_count = flush_count
        self._client: Any = None
        self._trouble = ""  # why the server cannot be used, if so
        self._runs: dict[str, RunWriter] = {}
        self._owners: dict[str, str] = {}  # uid of a descriptor or resource -> run uid
        self._n_waiting = 0
        self._due = 0.0
        self._at_once = False

    def serve(self, receive: Callable[[float | None], list[bytes] | None], ack: Callable[[int], None]) -> None:
        """Write what is received until None comes; acknowledge how many lines have been dealt with.

        Parameters
        ----------
        receive
            Returns the next lines; an empty list if none come within so many seconds.
        ack
            Called with the number of lines, from the first on, that are readable in the catalog, or reported lost.
        """
        n = 0
        while (lines := receive(self._seconds_left())) is not None:
            for line in lines:
                n += 1
                self._take(line)
                if self._at_once or self._n_waiting >= self._flush_count:
                    self.write()
                    ack(n)
            if self._n_waiting and self._is_due():
                self.write()
                ack(n)
        self.write()
        ack(n)

    def _seconds_left(self) -> float | None:
        return max(0.0, self._due - time.monotonic()) if self._n_waiting else None

    def _is_due(self) -> bool:
        return self._at_once or self._n_waiting >= self._flush_count or time.monotonic() >= self._due

    def _take(self, line: bytes) -> None:
        if not self._n_waiting:
            # All together, the first ones too: a short scan is written when it is over, and pays for none of it.
            self._due = time.monotonic() + self._flush_seconds
        self._n_waiting += 1
        name, doc = loads(line)
        if name == "flush":
            self._at_once = True
        elif name == "cut":
            self._cut(doc["run_start"])
        else:
            self._give(name, doc)

    def _give(self, name: str, doc: Document) -> None:
        uid = self._run_of(name, doc)
        if name == "start":
            self._begin(uid)
        run = self._runs.get(uid)
        if run is None and name in ("descriptor", "stop"):
            self._report(uid, f"its start document was not given before its {name} document")
        if run is None:
            return
        try:
            run(name, doc)
        except Exception as error:  # noqa: BLE001 - contained: it ends the writing of this run and nothing else
            self._fail(uid, error)
        if name == "event_page":
            self._n_waiting += len(doc["seq_num"])

    def _run_of(self, name: str, doc: Document) -> str:
        if name == "start":
            return doc["uid"]
        owner = doc.get("descriptor") or doc.get("resource")
        uid = doc.get("run_start") or self._owners.get(owner or "") or self._only_run()
        if name in ("descriptor", "resource") and uid in self._runs:
            self._owners[doc["uid"]] = uid
        return uid

    def _only_run(self) -> str:
        """Return the run of a document that does not tell: old resources do not."""
        return next(iter(self._runs)) if len(self._runs) == 1 else ""

    def _begin(self, uid: str) -> None:
        from pipeline.sinks.run_writer import RunWriter

        self._forget(uid)
        self._runs[uid] = RunWriter(uploads=self._uploads)

    def _cut(self, uid: str) -> None:
        """Write what there is of a run of which no more will come."""
        if uid in self._runs:
            self._write_run(uid)
            self._forget(uid)

    def _forget(self, uid: str) -> None:
        self._runs.pop(uid, None)
        self._owners = {owner: of for owner, of in self._owners.items() if of != uid}

    def _fail(self, uid: str, error: Exception) -> None:
        self._report(uid, f"{type(error).__name__}: {error}")
        self._forget(uid)

    # writing

    def write(self) -> None:
        """Write all that waits; return when it is readable, or reported lost."""
        for uid in list(self._runs):
            self._write_run(uid)
        self._n_waiting = 0
        self._at_once = False

    def _write_run(self, uid: str) -> None:
        run = self._runs[uid]
        try:
            self._persist(run)
        except Exception as error:  # noqa: BLE001 - contained, as above
            self._fail(uid, error)
        for loss in run.losses:
            self._report(uid, loss)
        run.losses.clear()
        if run.is_finished:
            self._forget(uid)

    def _persist(self, run: "RunWriter") -> None:
        """Write this run; while it is the server's fault that this cannot be done, try again."""
        refusals, delay = 0, 0.1
        while True:
            try:
                self._client = self._client or self._connected()
                run.write(self._client)
            except Exception as error:
                refusals += _status(error) >= 500
                if not _is_of_server(error) or refusals > REFUSALS_BORNE or not self._keep_trying():
                    raise
                self._lose(error)
                time.sleep(delay)
                delay = min(2 * delay, 10.0)
            else:
                return self._recover()

    def _connected(self) -> Any:
        try:
            return self._connect()
        except Exception as error:
            raise NoConnection(f"{type(error).__name__}: {error}") from error

    def _lose(self, error: Exception) -> None:
        self._client = None
        for run in self._runs.values():
            run.detach()
        kind = f"{type(error).__name__} {_status(error)}"
        if kind != self._trouble:
            self._trouble = kind
            self._report(SERVER, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)

    def _recover(self) -> None:
        if self._trouble:
            self._trouble = ""
            self._report(SERVER, None)


class NoConnection(Exception):
    """The server cannot be reached, or refuses."""


def _status(error: Exception) -> int:
    return getattr(getattr(error, "response", None), "status_code", 0)


def _is_of_server(error: Exception) -> bool:
    """Say whether a fault is the server's, so that it is worth while to try again."""
    import httpx

    return isinstance(error, NoConnection | httpx.TransportError) or (
        _status(error) in (401, 403, 408, 429) or _status(error) >= 500
    )

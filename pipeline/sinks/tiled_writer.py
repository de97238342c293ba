"""The process that writes to Tiled: `python -m pipeline.sinks.tiled_writer`.

It reads lines on its standard input: first where to write to, then documents. It writes lines on its standard output:
how many lines it has dealt with, and what went wrong. The process that measures pays only for the pipe.
"""

import argparse
import contextlib
import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from pipeline.catalog import NICE, connect
from pipeline.documents import Document, loads
from pipeline.sinks.catalog_writer import CatalogWriter

PATIENCE = 60.0  # seconds that a server is waited for when nobody sends any more


def main(argv: list[str] | None = None) -> int:
    """Write what comes on standard input until it ends."""
    options = _parser().parse_args(argv)
    os.environ["TILED_RETRY_ATTEMPTS"] = "1"  # It is tried again here, where it is known what has been written.
    os.nice(NICE)
    lines, tell = _own_pipes()
    _, target = loads(lines.readline())
    threading.Thread(target=_prepare, args=(target,), daemon=True).start()
    writer = CatalogWriter(
        lambda: _client(target),
        lambda run, reason: tell({"run": run, "fault": reason}),
        uploads=target.get("uploads", False),
        keep_trying=lines.is_worth_waiting,
        flush_seconds=0.0,  # what comes was waited for where it comes from
        flush_count=options.flush_count,
    )
    import pipeline.sinks.run_writer  # noqa: F401 - while the server starts

    writer.serve(lines.receive, lambda n: tell({"acked": n}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.sinks.tiled_writer", description=__doc__)
    parser.add_argument("--flush-count", type=int, required=True)
    return parser


def _own_pipes() -> tuple["PipedLines", Callable[[Document], None]]:
    """Keep both pipes from whatever is imported here, that may print or ask."""
    stdin, stdout = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return PipedLines(stdin), lambda message: _tell(stdout, message)


def _tell(descriptor: int, message: Document) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more; what is left is written all the same
        os.write(descriptor, json.dumps(message).encode() + b"\n")


def _prepare(target: Document) -> None:
    """Have the server of an embedded catalog started while this process imports."""
    if "path" in target:
        with contextlib.suppress(OSError):  # told when the catalog is needed
            connect(target["path"])


def _client(target: Document) -> Any:
    from tiled.client.constructors import from_uri

    if "uri" in target:
        client = from_uri(target["uri"], api_key=target["api_key"], remember_me=False)
    else:
        url, api_key = connect(target["path"])
        url = url.replace("/api/v1", f"/api/v1/metadata/{target['container']}")
        client = from_uri(url, api_key=api_key, remember_me=False, trust_env=False)
    return client.include_data_sources()


class PipedLines:
    """The lines that come out of a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest: list[bytes] = []  # of a line that is not whole
        self._lines: list[bytes] = []
        self._deadline: float | None = None
        self._hangup = select.poll()
        self._hangup.register(descriptor, 0)

    def readline(self) -> bytes:
        """Return the first line."""
        while not self._lines:
            if not self._read():
                raise EOFError("wanted a line that says where to write to, there is none.")
        return self._lines.pop(0)

    def receive(self, timeout: float | None) -> list[bytes] | None:
        """Return the lines that have come; none if none come within `timeout` seconds; None at the end."""
        if not self._lines:
            ready, _, _ = select.select([self._descriptor], [], [], timeout)
            if ready and not self._read():
                return None
        lines, self._lines = self._lines, []
        return lines

    def _read(self) -> bool:
        chunk = os.read(self._descriptor, 1 << 20)
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._rest, lines[0]])
            self._rest.clear()
        self._rest.append(rest)
        self._lines += lines
        return bool(chunk)

    def is_worth_waiting(self) -> bool:
        """Say whether somebody still sends, or has not stopped long ago."""
        if self._deadline is None and any(event & select.POLLHUP for _, event in self._hangup.poll(0)):
            self._deadline = time.monotonic() + PATIENCE
        return self._deadline is None or time.monotonic() < self._deadline


if __name__ == "__main__":
    sys.exit(main())

"""The other process that writes to Tiled, seen from here."""

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from typing import IO, Any

from pipeline.catalog import python_module
from pipeline.documents import Document, dumps
from pipeline.sinks.outbox import Outbox

PIPE_SIZE = 1 << 20
F_SETPIPE_SZ = 1031


class WriterProcess:
    """Send what is in an outbox to a writer in a process of its own; start another when it dies.

    Parameters
    ----------
    outbox
        What to send.
    target
        Where the writer is to write to; goes through the pipe, since it may hold a key.
    options
        Arguments of the command.
    pause
        How many seconds what comes may wait, so as to be sent together: the scan's thread is hardly ever disturbed.
    report
        Called with a run's uid and what is wrong with it (None: nothing any more).
    died
        Called with how many lines had been sent when a writer died, and how it died.
    """

    def __init__(
        self,
        outbox: Outbox,
        target: Document,
        options: list[str],
        *,
        pause: float,
        report: Callable[[str, str | None], None],
        died: Callable[[int, str], None],
    ) -> None:
        self._outbox = outbox
        self._first = dumps("target", target)
        self._options = options
        self._pause = pause
        self._report = report
        self._died = died
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._n_sent = 0
        self._ending = False
        self._delay = 0.5
        self._spawn()
        self._sender = threading.Thread(target=self._send_all, name="sends to Tiled's writer", daemon=True)
        self._sender.start()

    def end(self, timeout: float) -> None:
        """Let the writer finish what it has, and end it; after `timeout` seconds, whatever it does."""
        self._ending = True
        self._outbox.close()
        self._sender.join(timeout)
        process = self._process
        if process is not None:
            try:
                process.wait(timeout if not self._sender.is_alive() else 0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._sender.join(5.0)
        self._receiver.join(5.0)

    def _spawn(self) -> None:
        command, environment = python_module("pipeline.sinks.tiled_writer", *self._options)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - read when the writer has ended
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            # Ctrl-C pauses the scan, and is not meant for the writer. No session of its own: Linux gives each session
            # an equal share of the processor, whatever the niceness in it.
            process_group=0,
        )
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.fcntl(_stdin(self._process), F_SETPIPE_SZ, PIPE_SIZE)
        self._receiver = threading.Thread(
            target=self._receive, args=(self._process, self._n_sent), name="hears Tiled's writer", daemon=True
        )
        self._receiver.start()
        with contextlib.suppress(BrokenPipeError):
            _write(self._process, self._first)

    def _send_all(self) -> None:
        while True:
            self._outbox.wait_for_lines()
            self._outbox.linger(self._pause)
            lines = self._outbox.take()
            if lines:
                self._send(lines)
            elif self._outbox.closed:
                break
        self._close_stdin()

    def _close_stdin(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _send(self, lines: list[bytes]) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            process = self._replace()
        self._n_sent += len(lines)
        with contextlib.suppress(OSError):  # broken: the receiver sees the end, and tells
            _write(process, b"".join(lines))

    def _replace(self) -> Any:
        self._receiver.join()
        if self._ending:
            return self._process
        self._close_stdin()
        time.sleep(self._delay)
        self._delay = min(2 * self._delay, 30.0)
        self._spawn()
        return self._process

    def _receive(self, process: "subprocess.Popen[bytes]", n_before: int) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                message = json.loads(line)
                if "acked" in message:
                    self._outbox.ack(n_before + message["acked"])
                    self._delay = 0.5
                else:
                    self._report(message["run"], message["fault"])
        status, words = process.wait(), self._last_words()
        if status != 0 and not self._ending:
            self._died(self._n_sent, f"the writing process ended with status {status}{words}")
            self._outbox.ack(self._n_sent)

    def _last_words(self) -> str:
        assert self._stderr is not None
        with self._stderr as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 1000))
            words = file.read().decode(errors="replace").strip()
        return f": {words}" if words else ""


def _stdin(process: "subprocess.Popen[bytes]") -> int:
    assert process.stdin is not None
    return process.stdin.fileno()


def _write(process: "subprocess.Popen[bytes]", data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(_stdin(process), view) :]

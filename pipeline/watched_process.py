"""A process that is started again whenever it ends."""

import contextlib
import logging
import os
import random
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)

LONGEST = 30.0  # seconds between an end and the next start
LAST_STARTS = 3  # of one that is to finish, and dies
NICE = 10  # below the priority of the process that watches
SETTLED = 60.0  # seconds after which one that ends has done well


class WatchedProcess:
    """Keep a process running: it is started again, with a back-off, until it is told to end.

    It ends by itself when its standard input does; so it does not outlive the process that watches it. It gives way to
    that one, where they want the same core: a scan goes before its analysis.

    Parameters
    ----------
    name
        What the log calls it.
    command, environment
        Of the process.

    Attributes
    ----------
    n_starts
        How often it was started.

    >>> import os, sys
    >>> with WatchedProcess("cat", [sys.executable, "-c", "input()"], os.environ) as process:
    ...     process.is_running
    True
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.n_starts = 0
        self._command, self._environment = list(command), dict(environment)
        self._ending = threading.Event()  # now
        self._finishing = threading.Event()  # when all is done
        self._process = self._start()
        self._thread = threading.Thread(target=self._watch, name=f"watches {name}", daemon=True)
        self._thread.start()

    def _start(self) -> "subprocess.Popen[bytes]":
        self.n_starts += 1
        self._began = time.monotonic()
        # A group of its own: Ctrl-C in a terminal is meant for the process that watches. Not a session: Linux gives
        # each session its share of the cores, and priorities count within one alone.
        process = subprocess.Popen(self._command, env=self._environment, stdin=subprocess.PIPE, process_group=0)
        with contextlib.suppress(OSError):  # it may have ended already
            os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
        return process

    def _watch(self) -> None:
        delay = 0.5
        n_last = 0  # starts since it is to finish
        while True:
            status = self._process.wait()
            if self._ending.is_set() or (self._finishing.is_set() and (status == 0 or n_last >= LAST_STARTS)):
                return
            delay = 0.5 if time.monotonic() - self._began > SETTLED else min(2 * delay, LONGEST)
            logger.error("%s has ended with status %s; it is started again in %.0f s.", self.name, status, delay)
            self._finishing.wait(delay * random.uniform(0.5, 1.0))
            if self._ending.is_set():
                return
            n_last += self._finishing.is_set()
            self._close_stdin()
            self._process = self._start()
            if self._finishing.is_set():
                self._close_stdin()

    @property
    def is_running(self) -> bool:
        """Whether the process is there now."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id, or that of the last one."""
        return self._process.pid

    def let_end(self) -> None:
        """Close its standard input: it is to end when all is done, and is started again if it dies before."""
        self._finishing.set()
        self._close_stdin()

    def _close_stdin(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def wait(self, timeout: float) -> bool:
        """Return whether it has ended, for good, within so many seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def end(self, timeout: float = 10.0) -> None:
        """End it now: by SIGTERM, and after `timeout` seconds whatever it does."""
        self._ending.set()
        self._finishing.set()
        self._process.terminate()
        if not self.wait(timeout):
            logger.error("%s does not end, and is killed.", self.name)
            self._process.kill()
            self.wait(5.0)
        self._close_stdin()

    def __enter__(self) -> "WatchedProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

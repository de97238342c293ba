"""A process that is watched is out of the way of the one that watches it."""

import os
import sys

from pipeline.watched_process import WatchedProcess

WAIT = [sys.executable, "-c", "input()"]


def test_it_gives_way_to_the_process_that_watches_it():
    with WatchedProcess("waits", WAIT, os.environ) as process:
        niceness = os.getpriority(os.PRIO_PROCESS, process.pid)
        group, session = os.getpgid(process.pid), os.getsid(process.pid)

    assert niceness == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
    assert session == os.getsid(0)  # priorities count within a session
    assert group != os.getpgid(0)  # Ctrl-C in a terminal is not meant for it

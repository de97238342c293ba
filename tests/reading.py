"""Read from a source that can be read again: in this process, or in one of its own that can be killed."""

import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from pipeline.sources.position import POISON

PATIENCE = 30


def read(source, n, timeout=PATIENCE):
    """The next n items, in order; fewer if they do not come in time."""
    items, deadline = [], time.monotonic() + timeout
    while len(items) < n and time.monotonic() < deadline:
        items += source.read(0.2)
    return items


def nothing_more(source, seconds=0.5):
    return not read(source, 1, seconds)


def documents(items):
    return [(item.name, item.doc) for item in items]


def last(items):
    """The position up to which each lane has been read."""
    return {item.position.lane: item.position.index for item in items}


def in_order(items):
    """Whether positions grow within each lane."""
    lanes = {item.position.lane for item in items}
    indices = [[item.position.index for item in items if item.position.lane == lane] for lane in lanes]
    return all(each == sorted(set(each)) for each in indices)


class Reader:
    """A source in a process of its own: what it reads stands in a file, an item a line."""

    def __init__(self, path, process):
        self._path, self._process = Path(path), process

    def lines(self):
        return [json.loads(line) for line in self._path.read_bytes().splitlines() if line.endswith(b"]")]

    def items(self):
        return [line for line in self.lines() if line[0] == "item"]

    def uids(self):
        return [line[3] for line in self.items()]

    def lost(self):
        return [line[1] for line in self.lines() if line[0] == "lost"]

    def told(self):
        """What it logged for somebody to read."""
        return [line[1] for line in self.lines() if line[0] == "told"]

    def wait(self, until, timeout=PATIENCE):
        deadline = time.monotonic() + timeout
        while not until(self):
            assert self._process.poll() is None, "the reader ended"
            assert time.monotonic() < deadline, f"it has {len(self.lines())} lines"
            time.sleep(0.05)
        return self

    def kill(self):
        self._process.kill()
        self._process.wait()

    def end(self):
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(PATIENCE) == 0


@contextmanager
def reader(path, kind, *args, commit_every=0, **kwargs):
    """Give a reader of `kind`, a class like `pipeline.sources.kafka:KafkaSource`; it commits every so many items."""
    path.touch()
    spec = json.dumps([str(path), kind, args, kwargs, commit_every])
    with subprocess.Popen([sys.executable, __file__, spec], stdin=subprocess.DEVNULL) as process:
        try:
            yield Reader(path, process)
        finally:
            process.kill()


def main(path, kind, args, kwargs, commit_every):
    module, _, name = kind.partition(":")
    source = getattr(importlib.import_module(module), name)(*args, **kwargs)
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    ended, positions, n = [], {}, 0

    def tell(*line):
        os.write(file, json.dumps(line).encode() + b"\n")

    def on_lost(lanes):
        tell("lost", sorted(lanes))
        source.commit({lane: positions[lane] for lane in lanes if lane in positions})

    class Told(logging.Handler):
        def emit(self, record):
            tell("told", record.getMessage())

    logging.getLogger("pipeline").addHandler(Told(logging.WARNING))
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    source.open({}, on_lost)
    while not ended:
        for item in source.read(0.1):
            uid = "" if item.name == POISON else item.doc["uid"]
            tell("item", item.position.lane, item.position.index, uid)
            positions[item.position.lane] = item.position.index
            n += 1
            if commit_every and n % commit_every == 0:
                source.commit(positions)
    source.close()


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))

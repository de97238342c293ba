"""Kill a service at every step, and see what comes out: fail points at each write, sync and rename, in forked children.

A trial runs the same service again and again, each time in a process that ends at some step, until one comes to its
end; then its ledger must be, byte for byte, that of a service that nothing ever happened to.
"""

import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path
from unittest.mock import patch

from pipeline import Node, Pipeline
from pipeline.intake import Intake
from pipeline.lanes import Lanes
from pipeline.reductions import Mean, Normalize, PeakStatistics, Statistics
from pipeline.service import Service
from pipeline.sinks import jsonl
from pipeline.sources.position import Item, Position
from pipeline.state_store import StateStore
from pipeline.testing import make_run

KILLED = 137
PATIENCE = 10  # seconds for a child, which needs a fraction of one
LANE = "broker"
MAX_ARRAY_BYTES = jsonl.MAX_ARRAY_BYTES


def nodes():
    return [
        Node("peak", PeakStatistics("x", "y"), every=2),
        Node("mean", Mean("y"), Statistics("x")),
        Node("mu", Normalize("y", "x", name="mu"), Mean("mu")),
    ]


def documents(seed, n_runs=3, n_events=24):
    """Documents of interleaved runs, a tenth of them twice, and a tenth of them late."""
    chance = random.Random(seed)
    runs = []
    for i in range(n_runs):
        data = {
            "x": [1.0 + each for each in range(n_events)],
            "y": [chance.gauss(5, 2) for _ in range(n_events)],
        }
        runs.append(make_run(data, uid=f"{seed}-{i}"))
    mixed = []
    while any(runs):
        run = chance.choice([run for run in runs if run])
        mixed.append(run.pop(0))
    placed = []
    for place, item in enumerate(mixed):
        placed.append((place + (chance.uniform(1, 15) if chance.random() < 0.1 else 0.0), item))
        if chance.random() < 0.1:
            placed.append((place + chance.uniform(0, 30), item))
    return [item for _, item in sorted(placed, key=lambda each: each[0])]


class Broker:
    """Documents in one lane; what was committed is in a file, and may be gone for good."""

    name, may_lose, is_stored, assigns_lanes = "Broker", False, False, False

    def __init__(self, items, path, keeps=True, batch=4):
        self._items, self._path, self._keeps, self._batch = items, Path(path), keeps, batch
        self._next = 0
        self.ended = False

    def _committed(self):
        return json.loads(self._path.read_text()) if self._path.exists() else -1

    def open(self, begin, on_lost=None):
        self._next = self._committed() + 1

    def read(self, timeout):
        part = self._items[self._next : self._next + self._batch]
        found = [Item(Position(LANE, self._next + i), *item) for i, item in enumerate(part)]
        self._next += len(part)
        self.ended = not found
        return found

    def rewind(self, lane, index):
        index = -1 if index is None else index
        if not self._keeps and index < self._committed():
            return False
        self._next = index + 1
        return True

    def commit(self, positions):
        if LANE in positions:
            new = self._path.with_suffix(".new")
            new.write_text(json.dumps(positions[LANE]))
            new.rename(self._path)

    def close(self):
        self._next = 0


class FailPoints:
    """Count the steps at which something reaches the disk, and end the process at one of them.

    Before it, after it, or in the middle of a write. With `power`, what was not synced may be lost in part.
    """

    def __init__(self, at, chance, ledger, power=False):
        self.n, self._at, self._chance, self._ledger, self._power = 0, at, chance, ledger, power
        self._synced = {}

    def step(self, do, half=None):
        self.n += 1
        if self.n != self._at:
            return do()
        how = self._chance.choice(["before", "after", "half"])
        if how == "half" and half is not None:
            half()
        elif how == "after":
            do()
        return self.die()

    def die(self):
        if self._power:
            for path in self._ledger.glob("*.jsonl"):
                kept = self._synced.get(path.stat().st_ino, self._known(path))
                os.truncate(path, self._chance.randint(min(kept, path.stat().st_size), path.stat().st_size))
        os._exit(KILLED)

    def _known(self, path):
        return int(path.with_suffix(".synced").read_text()) if path.with_suffix(".synced").exists() else 0

    def install(self, stack):
        pwrite, fsync, truncate, rename = os.pwrite, os.fsync, os.ftruncate, os.rename
        save, commit = StateStore.save, Broker.commit

        def failing_pwrite(fd, data, offset):
            cut = self._chance.randrange(len(data))
            return self.step(lambda: pwrite(fd, data, offset), lambda: pwrite(fd, data[:cut], offset))

        def failing_fsync(fd):
            result = self.step(lambda: fsync(fd))
            self._synced[os.fstat(fd).st_ino] = os.fstat(fd).st_size
            for path in self._ledger.glob("*.jsonl"):
                if self._power and path.stat().st_ino == os.fstat(fd).st_ino:
                    path.with_suffix(".synced").write_text(str(path.stat().st_size))
            return result

        stack(patch.object(os, "pwrite", failing_pwrite))
        stack(patch.object(os, "fsync", failing_fsync))
        stack(patch.object(os, "ftruncate", lambda *args: self.step(lambda: truncate(*args))))
        stack(patch.object(os, "rename", lambda *args, **kwargs: self.step(lambda: rename(*args, **kwargs))))
        stack(patch.object(StateStore, "save", lambda *args, **kwargs: self.step(lambda: save(*args, **kwargs))))
        stack(patch.object(Broker, "commit", lambda *args: self.step(lambda: commit(*args))))


# mutants: the crash logic with one thing left out ------------------------------------------------------------------


def no_truncation(stack):
    """What follows the last newline stays."""
    stack(patch.object(jsonl, "_cut_torn_line", lambda fd: os.fstat(fd).st_size))


def no_dedup(stack):
    """An event that comes again counts again."""
    stack(patch.object(Intake, "_again", lambda self, doc: self._take(doc)))


def commit_before_snapshot(stack):
    """What was taken in is committed, whatever is stored."""
    checkpoint = Service.checkpoint

    def mutant(self):
        self._source.commit({lane: taken for lane, taken in self._lanes.taken.items() if taken is not None})
        checkpoint(self)

    stack(patch.object(Service, "checkpoint", mutant))


def no_guard(stack):
    """A snapshot ahead of the ledger is gone on from."""

    def mutant(self, lines, size):
        self._n_lines, self._offset = lines, size
        if self._there is not None:
            self._there.seek(size)

    stack(patch.object(jsonl._LedgerFile, "resume", mutant))


def no_sync(stack):
    """The ledger is never synced, before snapshots neither."""
    stack(patch.object(jsonl._LedgerFile, "sync", lambda self: None))


def waiting_is_covered(stack):
    """What waits for its start or descriptor is committed."""
    from pipeline.waiting import WaitingRoom

    stack(patch.object(WaitingRoom, "positions", lambda self: []))


def snapshots_while_read_again(stack):
    """What is read again is stored before it has come to where it was."""
    stack(patch.object(Lanes, "is_read_again", lambda self, lane: False))


# trials ------------------------------------------------------------------------------------------------------------


def serve(items, folder, keeps):
    ledger = folder / "ledger"
    pipeline = Pipeline(nodes(), [jsonl.JSONLSink(ledger, max_array_bytes=MAX_ARRAY_BYTES)])
    source = Broker(items, folder / "committed", keeps)
    Service(pipeline, source, hold_seconds=1e9, snapshot_seconds=0.0).run()


def child(work):
    """Do this in a forked process, and return its status."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(PATIENCE)  # one that never ends is one that went wrong
        try:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 2)
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - whatever it is, the child ends here
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def undisturbed(items, folder):
    """Return the ledger of a service that nothing happens to, and how many steps it takes."""
    folder.mkdir(parents=True)
    points = FailPoints(0, random.Random(0), folder / "ledger")

    def work():
        keep = []
        points.install(lambda each: keep.append(each.start()))
        serve(items, folder, keeps=True)
        (folder / "steps").write_text(str(points.n))

    if child(work):
        raise AssertionError("a service that nothing happens to does not come to its end")
    return contents(folder / "ledger"), int((folder / "steps").read_text())


def contents(ledger):
    return {path.name: path.read_bytes() for path in sorted(ledger.glob("*.jsonl"))}


def trial(items, folder, n_steps, seed, *, power=False, set_back=False, keeps=True, mutant=None, most=60):
    """Crash until it comes to its end; return how often it did, or -1 if it never ended."""
    folder.mkdir(parents=True)
    chance = random.Random(seed)
    for n_crashes in range(most):
        at = chance.randint(1, max(2, n_steps // 3)) if n_crashes < 5 else chance.randint(1, 2 * n_steps)
        chance_of_child = random.Random(chance.random())

        def work(at=at, chance=chance_of_child):
            keep = []
            FailPoints(at, chance, folder / "ledger", power).install(lambda each: keep.append(each.start()))
            if mutant is not None:
                mutant(lambda each: keep.append(each.start()))
            serve(items, folder, keeps)

        status = child(work)
        if status == 0:
            return n_crashes
        if status not in (KILLED, -signal.SIGKILL):
            return -1
        if set_back:
            cut_back(folder / "ledger", chance)
    return -1


def cut_back(ledger, chance):
    """Take away the end of files of open runs, as if the disk were one of yesterday's."""
    for path in ledger.glob("*.jsonl"):
        if chance.random() < 0.3 and b'\n["stop",' not in path.read_bytes():
            os.truncate(path, chance.randint(0, path.stat().st_size))


def main(n, folder):
    """Run until there were so many crashes; print what became of them."""
    n_crashes = n_trials = n_wrong = 0
    while n_crashes < n:
        items = documents(n_trials)
        home = Path(folder) / str(n_trials)
        wanted, n_steps = undisturbed(items, home / "undisturbed")
        for kind, options in {
            "kill": {},
            "power": {"power": True, "keeps": False},
            "set back": {"set_back": True},
        }.items():
            crashed = trial(items, home / kind, n_steps, n_trials, **options)
            n_crashes += max(0, crashed)
            n_wrong += crashed < 0 or contents(home / kind / "ledger") != wanted
        n_trials += 1
        print(f"{n_crashes} crashes in {3 * n_trials} trials, {n_wrong} wrong", flush=True)
    return n_wrong


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        sys.exit(bool(main(int(sys.argv[1]), folder)))

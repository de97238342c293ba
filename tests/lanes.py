"""A source that is a list: for tests of what takes from any source."""

from pipeline.sources.position import POISON, Item, Position


class Lanes:
    """Documents of some lanes, given in turn; it remembers what was committed, as a broker does."""

    name, may_lose, is_stored, assigns_lanes = "Lanes", False, False, False

    def __init__(self, batch=7, **lanes):
        self._lanes = {lane: list(items) for lane, items in lanes.items()}
        self._batch = batch
        self.committed = {}
        self._next = {}
        self.ended = False

    def open(self, begin, on_lost=None):
        self._next = {lane: self.committed.get(lane, -1) + 1 for lane in self._lanes}
        self.ended = False

    def read(self, timeout):
        found = []
        for lane, items in self._lanes.items():
            first = self._next[lane]
            for i in range(first, min(first + self._batch, len(items))):
                name, doc = items[i]
                found.append(Item(Position(lane, i), name, doc))
            self._next[lane] = min(first + self._batch, len(items))
        self.ended = not found
        return found

    def rewind(self, lane, index):
        self._next[lane] = 0 if index is None else index + 1
        self.ended = False
        return True

    def commit(self, positions):
        self.committed |= positions

    def close(self):
        self._next = {}


def bad(reason="no JSON", run_start=""):
    return POISON, {"reason": reason, "run_start": run_start}

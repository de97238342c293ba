"""Which runs of a Tiled container are new."""

from collections import deque
from collections.abc import Iterable, Iterator

from pipeline.sources.tiled_api import MAX_PAGE, Api, Item, metadata_of, path_of
from pipeline.sources.tiled_place import Mark, Place, code_of, mark

N_NEWEST = 10  # keys that a poll lists
MAX_KNOWN = 10_000  # keys that are remembered
AT_ONCE = 10  # runs that are begun together: an index names each
EPSILON = 1e-5  # seconds: what a time may lose between a document and a query


class Listing:
    """Give the runs of a container in the order in which they were stored, each once.

    Asked again and again, it has the server list the keys of the ten newest: this costs the same whatever the archive
    holds, and a run that was stored late, with a time before that of others, is found all the same.

    Parameters
    ----------
    place
        Where to begin; None if nothing was committed.
    since
        The time at which to begin, if there is no place.
    live
        Whether, if there is neither, only runs are wanted that are open or begin later; else all are.
    """

    def __init__(self, place: Place | None, since: float | None, live: bool) -> None:
        self.newest = Mark(0, 0)
        self.is_from_now = False  # whether `newest` is where this began
        self._place, self._since, self._live = place, since, live
        self._known: dict[str, None] = {}
        self._waiting: deque[tuple[Item, bool]] = deque()  # whether an item is newer than those before it
        self._has_begun = False

    @property
    def n_waiting(self) -> int:
        """How many runs are listed, and not given."""
        return len(self._waiting)

    def next(self, api: Api) -> Iterator[tuple[Item, bool]]:
        """Yield what the server says of the next runs, and whether the run is the newest so far."""
        if not self._has_begun:
            self._find_first(api)
        elif not self._waiting:
            self._list(api)
        n_again = sum(not is_newest for _, is_newest in self._waiting)
        for _ in range(min(max(AT_ONCE, n_again), len(self._waiting))):
            item, is_newest = self._waiting[0]
            item = item if "start" in metadata_of(item) else api.item([*path_of(api.client.item), item["id"]])
            self._waiting.popleft()
            if item is not None:
                yield item, is_newest

    def _find_first(self, api: Api) -> None:
        recent = next(api.newest(path_of(api.client.item), MAX_PAGE, whole=self._place is None), [])
        if self._place is not None:
            again = [item for each in self._place.open if (item := _with_mark(api, each)) is not None]
            new = _after(api, self._place.newest)
        elif self._since is not None:
            again, new = [], _began_between(api, self._since)
        elif self._live:
            again, new = [item for item in reversed(recent) if not metadata_of(item).get("stop")], []
            self.is_from_now = True
            self.newest = _mark(recent[0]) if recent else self.newest
        else:
            again, new = [], [item for page in api.newest(path_of(api.client.item), MAX_PAGE) for item in page][::-1]
        self._remember(reversed(recent))
        self._add(again, is_newest=False)
        self._add(new, is_newest=True)
        self._has_begun = True

    def _list(self, api: Api) -> None:
        new: list[Item] = []
        for page in api.newest(path_of(api.client.item), N_NEWEST):
            unknown = [item for item in page if item["id"] not in self._known]
            new += unknown
            if len(unknown) < len(page):
                break
        self._add(new[::-1], is_newest=True)

    def _add(self, items: list[Item], *, is_newest: bool) -> None:
        there = {item["id"] for item, _ in self._waiting}
        self._waiting.extend((item, is_newest) for item in items if item["id"] not in there)
        self._remember(items)

    def _remember(self, items: Iterable[Item]) -> None:
        self._known |= dict.fromkeys(item["id"] for item in items)
        while len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]


def _began_between(api: Api, since: float, until: float | None = None) -> list[Item]:
    from tiled.queries import Key

    found = api.client.search(Key("start.time") >= since)
    found = found if until is None else found.search(Key("start.time") <= until)
    return [client.item for client in found.values()]


def _with_mark(api: Api, wanted: Mark) -> Item | None:
    time = wanted.time / 1e9
    items = _began_between(api, time - EPSILON, time + EPSILON)
    return next((item for item in items if code_of(item["id"]) == wanted.code), None)


def _after(api: Api, newest: Mark) -> list[Item]:
    """Return the runs that were stored after this one; if it is there no more, those that began later."""
    if newest.code and _with_mark(api, newest) is None:
        return _began_between(api, newest.time / 1e9)
    found: list[Item] = []
    for page in api.newest(path_of(api.client.item), N_NEWEST):
        for item in page:
            if code_of(item["id"]) == newest.code:
                return found[::-1]
            found.append(item)
    return found[::-1]


def _mark(item: Item) -> Mark:
    start = metadata_of(item).get("start") or {}
    return mark(item["id"], start) if "time" in start else Mark(0, code_of(item["id"]))

"""Histories that a service may live through: raw runs, what becomes of their documents on the way, and restarts."""

import copy
from typing import NamedTuple

from hypothesis import strategies as st

from pipeline.documents import Uids
from pipeline.sources.position import POISON
from pipeline.testing import make_run

HOSTILE_UIDS = (
    "../../evil",
    "/etc/passwd",
    "..",
    "a" * 5000,
    "run\x00uid",
    "'; DROP TABLE runs; --",
    '"quoted"',
    "läuft ☃ \u202e",
    "with spaces\nand lines",
    "%s{0}",
)
GARBAGE = (
    None,
    True,
    -1,
    0,
    2**53,
    2**70,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "nobody",
    "\x00",
    "\ud800",
    "../../out",
    "'; DROP TABLE runs; --",
    [],
    ["nobody"],
    [[[[[[[[[[]]]]]]]]]],
    {},
    {"": {"": {"": [None, {"": "\ud800"}]}}},
    {"start": 2, "stop": 10_000_002},
    b"\xff",
    1j,
)
HOW = ("ended", "killed", "set back")
NAMES = ("start", "descriptor", "event", "event_page", "resource", "datum", "stream_resource", "stream_datum", "stop")


def nested(depth):
    """A value that is nested so deep."""
    value = "deep"
    for i in range(depth):
        value = [value] if i % 2 else {"a": value}
    return value


METADATA = (
    {},
    {"plan_name": "scan", "scan_id": 7, "sample": {"name": "Cu"}},
    {"sample": {"a.b": 1, "c/d": {"e.f": 2}}},
    {"key.with.dots": 1, "slash/ed": 2},
    {"sample": nested(60)},
    {"plan_name": nested(61)},
    {"hints": {"dimensions": [[["x"], "primary"]]}},
    {"hints": "none"},
    {"owner": "\x00", "group": "☃" * 1000},
    {"uid ": "almost", "!tag": 1, "__proto__": {}},
)


class Run(NamedTuple):
    """A raw run as it was, and the documents of it that come, in the order in which they come.

    `is_whole` tells whether all of it comes, and nothing else; `is_ordered` whether it comes in order, since it must: what
    was taken again can be told from what it replaces by nothing else.
    """

    whole: list
    comes: list
    is_whole: bool
    is_ordered: bool

    @property
    def uid(self):
        return self.whole[0][1]["uid"]

    @property
    def uids(self):
        """The uids by which something may be said of it."""
        return {doc["uid"] for name, doc in self.whole if name in ("start", "descriptor")}


class History(NamedTuple):
    """What a service lives through.

    `items` are `(lane, name, doc)`. `ends` tell after how many of these it is ended, and how: as it should be; killed, so
    that what was not stored is lost; or killed, and its ledger set back to what it was some bytes before.
    """

    runs: list
    items: list
    ends: list
    batch: int

    def __repr__(self):
        told = [f"{lane}: {self._told(name, doc)}" for lane, name, doc in self.items]
        for place, how in sorted(self.ends, reverse=True):
            told.insert(place, f"-- {how}")
        return "\n".join([f"{len(self.runs)} runs, {self.batch} items at once", *told])

    def _told(self, name, doc):
        for n, run in enumerate(self.runs):
            for place, item in enumerate(run.whole):
                if item == (name, doc):
                    return f"run {n}, [{place}] {name} {doc.get('seq_num', doc.get('name', ''))}"
        return f"{name} {doc!r:.300}"


# raw runs ----------------------------------------------------------------------------------------------------------


@st.composite
def raw_runs(draw, number, metadata):
    """The documents of a raw run, in order, and whether their order matters."""
    n = draw(st.integers(0, 7))
    pages = draw(st.sampled_from([0, 0, 2, 3]))
    values = st.sampled_from([0.0, 1.0, -2.5, 3.0, 1e100, float("nan")])
    data = {"x": [float(i) for i in range(n)], "y": draw(st.lists(values, min_size=n, max_size=n))}
    run = make_run(data, uid=f"run-{number}", pages=pages)
    if n and draw(st.booleans()):
        run = described_twice(run, draw(st.integers(2, len(run) - 1)))
    if n and not pages and draw(st.integers(0, 3)) == 0:
        run, is_ordered = retaken(run, draw(st.integers(0, n - 1)), draw(st.integers(0, 3))), True
    else:
        is_ordered = False
    if draw(st.booleans()):
        run = with_baseline(run, f"run-{number}")
    uid = draw(st.sampled_from([None, None, *HOSTILE_UIDS]))
    return named(run, draw(metadata), run[0][1]["uid"] if uid is None else f"{uid}{number}"), is_ordered


def described_twice(run, place):
    """The run, with a second descriptor of its stream before this place: events behind it are of that."""
    descriptor = run[1][1]
    second = {**descriptor, "uid": Uids(descriptor["uid"])("again"), "configuration": {"dev": configuration()}}
    behind = [(name, {**doc, "descriptor": second["uid"]} if name != "stop" else doc) for name, doc in run[place:]]
    return [*run[:place], ("descriptor", second), *behind]


def configuration():
    return {"data": {"gain": 2}, "timestamps": {"gain": 0.0}, "data_keys": {"gain": {"dtype": "integer", "shape": []}}}


def retaken(run, first, more):
    """The run, with events taken again from `first` on: as after a pause, when a RunEngine goes back to a checkpoint."""
    places = [i for i, (name, _) in enumerate(run) if name == "event"]
    chosen = places[first : first + more + 1]
    again = [("event", {**run[i][1], "uid": f"{run[i][1]['uid']} again", "data": {"x": 9.0, "y": 9.5}}) for i in chosen]
    return [*run[: chosen[-1] + 1], *again, *run[chosen[-1] + 1 :]]


def with_baseline(run, uid):
    """The run, with a stream `baseline` around all the others."""
    _, descriptor, first, last, stop = make_run({"x": [1.0, 2.0]}, uid=uid, stream="baseline")
    num_events = run[-1][1]["num_events"] | stop[1]["num_events"]
    return [run[0], descriptor, first, *run[1:-1], last, ("stop", {**run[-1][1], "num_events": num_events})]


def named(run, metadata, uid):
    """The run, with this uid and these metadata."""
    start = {**run[0][1], **metadata, "uid": uid}
    rest = [(name, {**doc, "run_start": uid} if "run_start" in doc else doc) for name, doc in run[1:]]
    return [("start", start), *rest]


# what happens on the way -------------------------------------------------------------------------------------------


@st.composite
def harm(draw, item):
    """What came in the place of a document."""
    name, doc = copy.deepcopy(item)
    kind = draw(st.sampled_from(["without", "other", "extra", "name", "rubbish", "poison", "uneven"]))
    if kind == "poison":
        whose = draw(st.sampled_from(["", doc.get("run_start", ""), "nobody", "\ud800"]))
        return POISON, {"reason": draw(st.sampled_from(["no JSON", "\ud800\x00"])), "run_start": whose}
    if kind == "rubbish":
        return name, draw(st.sampled_from(GARBAGE))
    if kind == "name":
        return draw(st.sampled_from([*NAMES, "bulk_events", "", "\ud800"])), doc
    key = draw(st.sampled_from(sorted(doc)))
    if kind == "without":
        del doc[key]
    elif kind == "extra":
        doc[draw(st.sampled_from(["run_start", "descriptor", "num_events", "filled", "name"]))] = draw(garbage)
    elif kind == "uneven" and name == "event_page":
        doc[draw(st.sampled_from(["uid", "time", "seq_num"]))].pop()
    elif isinstance(doc[key], dict) and doc[key] and draw(st.booleans()):
        doc[key][draw(st.sampled_from(sorted(doc[key])))] = draw(garbage)
    else:
        doc[key] = draw(garbage)
    return name, doc


garbage = st.sampled_from(GARBAGE)


@st.composite
def runs(draw, number, metadata):
    """A raw run, and what comes of it: some twice, some late, some not at all, some harmed."""
    whole, is_ordered = draw(raw_runs(number, metadata))
    places = st.integers(0, len(whole) - 1)
    comes = list(enumerate(whole))  # each with its place
    n_odd = draw(st.sampled_from([0, 0, 1, 2]))
    lost = set(draw(st.lists(places, max_size=n_odd)))
    comes = [(place, item) for place, item in comes if place not in lost]
    for place in draw(st.lists(places, max_size=n_odd)):
        comes.append((place + 0.5, draw(harm(whole[place]))))
    for place, later in draw(st.lists(st.tuples(places, st.integers(0, 9)), max_size=3)):
        if place not in lost:
            comes.append((place + later + 0.25, whole[place]))
    if not is_ordered:
        late = dict(draw(st.lists(st.tuples(places, st.integers(1, 12)), max_size=4)))
        comes = [(place + late.get(place, 0), item) for place, item in comes]
    harmed = any(place % 1 == 0.5 for place, _ in comes)
    comes = [item for _, item in sorted(comes, key=lambda each: each[0])]
    return Run(whole, comes, not lost and not harmed, is_ordered)


@st.composite
def histories(draw):
    """Interleaved runs, from one lane or two, and where the service is ended or killed meanwhile."""
    may_stray = draw(st.integers(0, 4)) == 0
    metadata = st.sampled_from(METADATA[:2] if may_stray else METADATA)
    chosen = [draw(runs(number, metadata)) for number in range(draw(st.integers(1, 3)))]
    lanes = [draw(st.sampled_from(["a", "b"])) for _ in chosen]
    left = [list(run.comes) for run in chosen]
    turns = draw(st.lists(st.tuples(st.integers(0, len(chosen) - 1), st.integers(1, 5)), max_size=8))
    items = []
    for number, n in [*turns, *((number, 1000) for number in range(len(chosen)))]:
        items += [(lanes[number], *item) for item in left[number][:n]]
        del left[number][:n]
    strays = may_stray and items and not any(run.is_ordered for run in chosen)
    if strays:  # one comes by another lane than its run; so the run must not have to be read again from its start
        place = draw(st.integers(0, len(items) - 1))
        items[place] = ("b" if items[place][0] == "a" else "a", *items[place][1:])
    how = st.sampled_from(HOW[:2] if strays else HOW)
    ends = draw(st.lists(st.tuples(st.integers(0, len(items)), how), max_size=4))
    return History(chosen, items, sorted(ends), draw(st.sampled_from([1, 3, 8])))

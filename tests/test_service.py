"""A service takes in each document once, whatever comes, and says what it could not."""

import logging
import random

import databroker
import pytest
from lanes import Lanes, bad

from pipeline import Node, Pipeline, group_by
from pipeline.errors import PipelineValueError
from pipeline.reductions import Mean, PeakStatistics, Statistics
from pipeline.service import Service
from pipeline.sinks import JSONLSink
from pipeline.sources import Refill, read_jsonl
from pipeline.sources.position import POISON
from pipeline.state_store import LaneLost
from pipeline.testing import make_run


def nodes():
    return [Node("peak", PeakStatistics("x", "y"), every=3), Node("mean", Mean("y"))]


def raw_run(uid, n=8, **metadata):
    return make_run({"x": [float(i) for i in range(n)], "y": [float(i * i % 7) for i in range(n)]}, uid=uid, **metadata)


def uid_of(run):
    return run[0][1]["uid"]


def ledger_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}


def replayed(runs, folder):
    with JSONLSink(folder) as ledger:
        for run in runs:
            Pipeline(nodes(), [ledger]).replay(run)
    return ledger_bytes(folder)


def service(source, folder, pipeline=None, **options):
    return Service(pipeline or Pipeline(nodes(), [JSONLSink(folder)]), source, **options)


def served(source, folder, **options):
    one = service(source, folder, **options)
    one.run()
    return one


def stops(folder):
    """The stop documents of all analysis runs, by node and raw run."""
    found = {}
    for path in folder.glob("*.jsonl"):
        documents = list(read_jsonl(path))
        start, stop = documents[0][1], documents[-1][1]
        if documents[-1][0] == "stop":
            found[start["analysis"]["node"], start["original_run_uid"]] = stop
    return found


def test_what_it_makes_is_what_a_replay_makes(tmp_path):
    runs = [raw_run("a"), raw_run("b")]
    mixed = [item for pair in zip(*runs, strict=True) for item in pair]

    served(Lanes(one=mixed), tmp_path / "served")

    assert ledger_bytes(tmp_path / "served") == replayed(runs, tmp_path / "replayed")


@pytest.mark.parametrize("seed", range(10))
def test_any_order_gives_the_same(seed, tmp_path):
    run = raw_run("a", 12)
    shuffled = random.Random(seed).sample(run, len(run))

    served(Lanes(one=shuffled), tmp_path / "served")

    assert ledger_bytes(tmp_path / "served") == replayed([run], tmp_path / "replayed")


def test_what_comes_twice_counts_once(tmp_path):
    run = raw_run("a")
    twice = [item for item in run for _ in range(2)] + run

    one = served(Lanes(one=twice), tmp_path / "served")

    assert ledger_bytes(tmp_path / "served") == replayed([run], tmp_path / "replayed")
    assert one.runs.counts["runs"] == 1


def test_a_gap_parks_the_run_until_it_is_filled(tmp_path):
    run = raw_run("a")
    lacking = [*run[:4], *run[5:]]

    first = Lanes(one=lacking)
    served(first, tmp_path)
    assert stops(tmp_path) == {}
    store = service(first, tmp_path)._store
    assert [each.parked for each in store.runs()] == ["stream 'primary' lacks 1 of 8 events: seq_num 3"]

    late = Lanes(one=[*lacking, run[4]])
    late.committed = first.committed
    served(late, tmp_path)
    assert ledger_bytes(tmp_path) == replayed([run], tmp_path / "replayed")


def test_a_parked_run_can_be_given_up(tmp_path):
    run = raw_run("a")
    source = Lanes(one=[*run[:4], *run[5:]])
    served(source, tmp_path)
    again = service(source, tmp_path)
    again._store.ask("give-up", uid_of(run))

    again.run()

    counts = stops(tmp_path)["mean", uid_of(run)]["analysis"]
    assert (counts["n_raw"], counts["n_missing"]) == (7, 1)


def test_events_missing_at_the_end_are_counted_too(tmp_path):
    run = raw_run("a")
    source = Lanes(one=[*run[:7], run[-1]])
    again = service(source, tmp_path, patience=0.0, snapshot_seconds=0.0)
    source.is_stored = True

    again.run()

    counts = stops(tmp_path)["mean", uid_of(run)]["analysis"]
    assert (counts["n_raw"], counts["n_missing"]) == (5, 3)


def test_what_cannot_be_read_parks_its_run_and_nothing_else(tmp_path, caplog):
    good, spoiled = raw_run("good"), raw_run("spoiled")
    malformed = {**spoiled[3][1], "seq_num": "two"}
    items = [*spoiled[:3], ("event", malformed), bad("no JSON", uid_of(spoiled)), *spoiled[3:], *good, bad("rubbish")]

    one = service(Lanes(one=items), tmp_path)
    with caplog.at_level(logging.CRITICAL):
        one.run()

    assert {raw for _, raw in stops(tmp_path)} == {uid_of(good)}
    store = service(Lanes(), tmp_path)._store
    assert [run.uid for run in store.runs()] == [uid_of(spoiled)]
    assert store.runs()[0].parked == "event['seq_num']: wanted an integer from 0 on, there is 'two'"
    assert next(reason for _, _, reason in store.poison()) == "rubbish"
    assert len(store.poison()) == 3


def test_a_run_without_its_start_is_left_out_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.service.HOUSE_SECONDS", 0.0)
    headless, whole = raw_run("headless"), raw_run("whole")

    one = served(Lanes(one=[*headless[2:], *whole], batch=9), tmp_path, hold_seconds=0.0)

    assert {raw for _, raw in stops(tmp_path)} == {uid_of(whole)}
    assert one.runs.counts["left_out"] == 9
    assert [reason for _, _, reason in service(Lanes(), tmp_path)._store.poison()] == [
        f"{uid_of(headless)} never came, which these refer to: 1 stop. They are left out",
        f"{headless[1][1]['uid']} never came, which these refer to: 8 event. They are left out",
    ]


def test_stored_runs_without_a_stop_end_as_abort(tmp_path):
    run = raw_run("a")
    source = Lanes(one=run[:-1])
    source.is_stored = True

    served(source, tmp_path)

    assert stops(tmp_path)["mean", uid_of(run)]["exit_status"] == "abort"


def test_open_runs_go_on_after_a_restart_and_idle_ones_leave_the_memory(tmp_path):
    runs = [raw_run(f"run-{i}") for i in range(12)]
    halves = [item for run in runs for item in run[:5]] + [item for run in runs for item in run[5:]]
    source = Lanes(one=halves, batch=5)

    one = service(source, tmp_path / "served", max_open=2, snapshot_seconds=0.0)
    one._snapshot_seconds = 0.0
    most = []
    evict = one.runs.evict
    one.runs.evict = lambda n: (evict(n), most.append(len(one.runs.runs)))
    one.run()

    assert max(most) <= 2
    assert ledger_bytes(tmp_path / "served") == replayed(runs, tmp_path / "replayed")


def test_a_snapshot_that_cannot_be_used_has_its_run_read_again(tmp_path):
    runs = [raw_run("a"), raw_run("b")]
    mixed = [item for pair in zip(*runs, strict=True) for item in pair]
    source = Lanes(one=mixed[:11])
    served(source, tmp_path / "served")
    for path in (tmp_path / "served").glob("*.jsonl"):
        path.write_bytes(path.read_bytes()[:-50])

    rest = Lanes(one=mixed)
    rest.committed = source.committed
    served(rest, tmp_path / "served")

    assert ledger_bytes(tmp_path / "served") == replayed(runs, tmp_path / "replayed")


def test_another_recipe_begins_the_run_anew(tmp_path):
    run = raw_run("a")
    source = Lanes(one=run[:5])
    served(source, tmp_path)
    rest = Lanes(one=run)
    rest.committed = source.committed
    other = Pipeline([Node("other", Statistics("y"))], [JSONLSink(tmp_path)])

    service(rest, tmp_path, other).run()

    assert stops(tmp_path)["other", uid_of(run)]["analysis"]["n_raw"] == 8


def test_a_ledger_that_has_another_run_of_this_uid_is_told(tmp_path):
    run = raw_run("a")
    served(Lanes(one=run), tmp_path)
    for path in tmp_path.glob("*.jsonl"):
        path.write_bytes(path.read_bytes().replace(b'"peak"', b'"PEAK"'))
    (tmp_path / ".state" / "state.db").unlink()

    served(Lanes(one=run), tmp_path)

    ((uid, _, reason),) = service(Lanes(), tmp_path)._store.failed()
    assert uid == uid_of(run)
    assert "peak: start: PipelineValueError" in reason
    assert "the file has another document of this run" in reason


def test_it_wants_a_ledger():
    with pytest.raises(PipelineValueError, match="wanted one JSONLSink, there are 0"):
        Service(Pipeline(nodes()), Lanes())


def test_what_another_process_has_taken_over_counts_no_more(tmp_path):
    run = raw_run("a")
    source = Lanes(one=run, batch=3)
    one = service(source, tmp_path / "served")
    read, lost = source.read, []

    def read_and_lose(timeout):
        items = read(timeout)
        if items and items[0].position.index == 3 and not lost:
            lost.append(1)
            other = service(Lanes(), tmp_path / "served")._store
            other.claim("one")
            other.close()
        return items

    source.read = read_and_lose
    one.run()

    source.read = read
    assert ledger_bytes(tmp_path / "served") == replayed([run], tmp_path / "replayed")


def test_what_was_lost_to_another_process_is_not_committed(tmp_path):
    run = raw_run("a")
    source = Lanes(one=run, batch=3)
    one = service(source, tmp_path / "served")
    other = service(Lanes(), tmp_path / "served")
    one._open()
    one._turn()
    one.checkpoint()
    other._store.claim("one")
    one._take_in(source.read(0))

    with pytest.raises(LaneLost, match="another process's"):
        one.checkpoint()
    assert source.committed == {"one": 2}
    one._end()
    served(Lanes(one=run), tmp_path / "served")
    assert ledger_bytes(tmp_path / "served") == replayed([run], tmp_path / "replayed")


def test_a_lane_whose_indices_begin_again_is_followed(tmp_path):
    first, second = raw_run("a"), raw_run("b")
    source = Lanes(one=first)
    served(source, tmp_path / "served")
    anew = Lanes(one=[(POISON, {"reason": "begun anew", "run_start": "", "begins_anew": True}), *second])
    served(anew, tmp_path / "served")

    assert ledger_bytes(tmp_path / "served") == replayed([first, second], tmp_path / "replayed")
    assert anew.committed["one"] == len(second)


class Kept:
    """Raw runs that somebody keeps; nothing of them is there before they are added."""

    def __init__(self, *runs):
        self.runs = {uid_of(run): run for run in runs}

    def documents(self, uid):
        return self.runs.get(uid)

    def events_of(self, uid, stream, seq_nums):
        events = [doc for name, doc in self.runs.get(uid, ()) if name == "event"]
        return [doc for doc in events if doc["seq_num"] in seq_nums]


def test_a_gap_is_filled_from_who_keeps_raw_runs(tmp_path):
    run = raw_run("a")

    source = Lanes(one=[*run[:4], *run[6:9], run[-1]])
    source.is_stored = True
    served(source, tmp_path / "served", refill=Kept(run))

    assert ledger_bytes(tmp_path / "served") == replayed([run], tmp_path / "replayed")


def test_a_run_that_was_joined_in_the_middle_is_fetched(tmp_path):
    run, other = raw_run("a"), raw_run("b")

    source = Lanes(one=[*run[4:], *other])
    source.is_stored = True
    served(source, tmp_path / "served", refill=Kept(run))

    assert ledger_bytes(tmp_path / "served") == replayed([run, other], tmp_path / "replayed")


def test_a_catalog_of_raw_runs_fills_gaps_and_gives_runs_that_were_joined_in_the_middle(tmp_path):
    catalog = databroker.temp()
    lacking, headless = raw_run("lacking"), raw_run("headless")
    for item in [*lacking, *headless]:
        catalog.v1.insert(*item)
    source = Lanes(one=[*lacking[:4], *lacking[7:], *headless[5:]])
    source.is_stored = True

    served(source, tmp_path / "served", refill=Refill(catalog))

    assert ledger_bytes(tmp_path / "served") == replayed([lacking, headless], tmp_path / "replayed")


def test_a_node_that_cannot_begin_is_among_what_failed(tmp_path):
    run = raw_run("a")
    run[0] = "start", {**run[0][1], "sample": {"a.b": 1}}

    one = served(Lanes(one=run), tmp_path)

    ((uid, _, reason),) = service(Lanes(), tmp_path)._store.failed()
    assert uid == uid_of(run)
    assert "peak: PipelineValueError: start['sample'] is not valid" in reason
    assert one.report()["nodes"]["peak"]["faults"] == 1
    assert "start['sample'] is not valid" in one.report()["nodes"]["peak"]["why"]


def test_every_stored_run_without_a_stop_ends_however_many_there_are(tmp_path):
    runs = [raw_run(f"run-{i}", 3)[:-1] for i in range(9)]
    source = Lanes(one=[item for run in runs for item in run], batch=2)
    source.is_stored = True

    served(source, tmp_path, max_open=2, snapshot_seconds=1e-6)

    assert {raw for node, raw in stops(tmp_path) if node == "mean"} == {uid_of(run) for run in runs}
    assert service(Lanes(), tmp_path)._store.runs() == []


def grouped(folder, *reductions):
    node = Node("group", *(reductions or (Statistics("y"),)), over=group_by("sample"))
    return Pipeline([node], [JSONLSink(folder)])


def test_groups_of_runs_go_on_after_a_restart_and_a_reload(tmp_path):
    runs = [raw_run(f"{i}", sample="Cu") for i in range(3)]
    service(Lanes(one=runs[0]), tmp_path, grouped(tmp_path)).run()
    again = service(Lanes(one=runs[1], two=runs[2], batch=100), tmp_path, grouped(tmp_path))
    again.reload(Pipeline(grouped(tmp_path / "other").nodes, again.sinks))
    again.run()

    parents = [next(iter(read_jsonl(path)))[1]["parent_uids"] for path in tmp_path.glob("*.jsonl")]
    assert sorted(map(len, parents)) == [1, 2, 3]


def test_groups_of_another_recipe_begin_anew(tmp_path):
    first, second = (raw_run(f"{i}", sample="Cu") for i in range(2))
    service(Lanes(one=first), tmp_path, grouped(tmp_path)).run()

    service(Lanes(two=second), tmp_path, grouped(tmp_path, Mean("x"), Statistics("y"))).run()

    parents = [next(iter(read_jsonl(path)))[1]["parent_uids"] for path in tmp_path.glob("*.jsonl")]
    assert sorted(map(len, parents)) == [1, 1]

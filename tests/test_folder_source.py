"""JSONL files that appear in a folder, and grow there."""

import gzip
import json
import os
import time

import pytest

from pipeline.documents import dumps
from pipeline.errors import PipelineOSError
from pipeline.sources.folder import FolderSource
from pipeline.sources.position import PositionedSource
from pipeline.testing import make_run

RAW = make_run({"det": [1.0, float("nan"), 4.0]})
LINES = [dumps(*each) for each in RAW]
OTHER = make_run({"det": [7.0]}, uid="other")


def source_of(folder, begin=None, **options):
    source = FolderSource(folder, **{"poll_seconds": 0.01, "settle": 0.0, **options})
    source.open(begin or {})
    return source


def read(source, timeout=0.3):
    items, end = [], time.monotonic() + timeout
    while not source.ended:
        new = source.read(0.02)
        items += new
        if not new and time.monotonic() > end:
            break
    return items


def documents(items):
    return b"".join(dumps(item.name, item.doc) for item in items)


@pytest.mark.parametrize("dialect", ["suitcase", "bluesky", "gzip", "two gzips", "no last newline"])
def test_each_dialect_gives_the_same_documents(tmp_path, dialect):
    name, text = "a.jsonl", b"".join(LINES)
    if dialect == "bluesky":
        text = b"".join(json.dumps({"name": name, "doc": doc}).encode() + b"\n" for name, doc in RAW)
    elif dialect == "gzip":
        name, text = "a.jsonl.gz", gzip.compress(text)
    elif dialect == "two gzips":
        name, text = "a.jsonl.gz", gzip.compress(b"".join(LINES[:2])) + gzip.compress(b"".join(LINES[2:]))
    elif dialect == "no last newline":
        text = text[:-1]
    (tmp_path / name).write_bytes(text)

    source = source_of(tmp_path, follow=False)
    items = read(source)

    assert documents(items) == b"".join(LINES)
    assert source.ended
    assert isinstance(source, PositionedSource)
    assert not source.may_lose
    assert {item.position.lane for item in items} == {name}
    if dialect not in ("bluesky", "no last newline"):
        assert [item.position.index for item in items] == [len(b"".join(LINES[: i + 1])) for i in range(len(LINES))]


def test_files_that_grow_are_followed_by_whole_lines(tmp_path):
    source = source_of(tmp_path, settle=60.0)

    with open(tmp_path / "a.jsonl", "ab", buffering=0) as a, open(tmp_path / "b.jsonl", "ab", buffering=0) as b:
        a.write(LINES[0] + LINES[1][:30])
        b.write(dumps(*OTHER[0]))
        first = read(source)
        a.write(LINES[1][30:] + b"".join(LINES[2:]))
        b.write(b"".join(dumps(*each) for each in OTHER[1:]))
        second = read(source)

    assert sorted((item.position.lane, item.name) for item in first) == [("a.jsonl", "start"), ("b.jsonl", "start")]
    for lane, run in (("a.jsonl", RAW), ("b.jsonl", OTHER)):
        mine = [item for item in (*first, *second) if item.position.lane == lane]
        assert documents(mine) == b"".join(dumps(*each) for each in run)


def test_a_gzipped_file_that_is_being_copied_is_read_as_it_comes(tmp_path):
    whole = gzip.compress(b"".join(LINES) * 50)
    source = source_of(tmp_path, settle=60.0)

    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    items = read(source)
    with open(tmp_path / "a.jsonl.gz", "ab") as file:
        file.write(whole[len(whole) // 2 :])
    items += read(source)

    assert documents(items) == b"".join(LINES) * 50


def test_files_come_in_the_order_in_which_they_appeared(tmp_path):
    for age, name in enumerate(["b.jsonl", "a.jsonl", "c.jsonl"]):
        (tmp_path / name).write_bytes(LINES[0])
        os.utime(tmp_path / name, (1000 - age, 1000 - age))

    lanes = [item.position.lane for item in read(source_of(tmp_path, follow=False))]

    assert lanes == ["c.jsonl", "a.jsonl", "b.jsonl"]


@pytest.mark.parametrize("bad", [b"{\n", b'"start"\n', b'["descriptor", {}]\n', b"\x00\n", b"[" * 5000 + b"\n"])
def test_a_bad_line_is_poison_and_the_rest_of_the_file_goes_on(tmp_path, bad):
    (tmp_path / "a.jsonl").write_bytes(LINES[0] + bad + b"".join(LINES[1:]))

    items = read(source_of(tmp_path, follow=False))

    assert [item.name for item in items] == ["start", "poison", "descriptor", "event", "event", "event", "stop"]
    assert items[1].doc["run_start"] == RAW[0][1]["uid"]
    assert "a.jsonl, line before byte" in items[1].doc["reason"]


def test_what_is_no_gzip_is_poison_and_other_files_go_on(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"".join(LINES)) + b"no gzip at all, and long enough")
    (tmp_path / "b.jsonl").write_bytes(LINES[0])

    items = read(source_of(tmp_path, follow=False))

    assert [item.name for item in items if item.position.lane == "a.jsonl.gz"] == [*(n for n, _ in RAW), "poison"]
    assert [item.name for item in items if item.position.lane == "b.jsonl"] == ["start"]


def test_after_a_restart_it_goes_on_behind_what_was_committed(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"".join(LINES))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(LINES)))
    (tmp_path / "c.jsonl").write_bytes(b"".join(LINES))
    source = source_of(tmp_path)
    items = read(source)
    third = [item for item in items if item.position.lane == "a.jsonl"][3]
    lasts = {item.position.lane: item.position.index for item in items}
    source.commit({**lasts, "a.jsonl": third.position.index})
    source.close()

    again = read(source_of(tmp_path))

    assert documents(again) == b"".join(LINES[4:])
    assert documents(read(source_of(tmp_path, begin={"a.jsonl": len(LINES[0])}))) == b"".join(LINES[1:])


def test_nan_is_nan_after_a_restart_in_the_middle_of_a_run(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"".join(LINES))

    items = read(source_of(tmp_path, begin={"a.jsonl": len(LINES[0] + LINES[1] + LINES[2])}))

    assert str(items[0].doc["data"]["det"]) == "nan"


def test_rewind_goes_back_in_one_file(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"".join(LINES))
    source = source_of(tmp_path)
    items = read(source)

    assert source.rewind("a.jsonl", items[3].position.index)
    assert documents(read(source)) == b"".join(LINES[4:])
    assert not source.rewind("nope.jsonl", 0)
    assert not source.rewind("a.jsonl", 1 << 40)


def test_positions_may_be_kept_elsewhere(tmp_path):
    folder, state = tmp_path / "raw", tmp_path / "state"
    folder.mkdir()
    state.mkdir()
    (folder / "a.jsonl").write_bytes(b"".join(LINES))

    source = source_of(folder, state=state)
    source.commit({item.position.lane: item.position.index for item in read(source)})

    assert os.listdir(folder) == ["a.jsonl"]
    assert read(source_of(folder, state=state)) == []
    assert len(read(source_of(folder))) == len(LINES)


def test_a_file_that_is_replaced_or_removed_is_told(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(LINES[:4]))
    source = source_of(tmp_path)
    read(source)

    path.write_bytes(LINES[0])
    replaced = read(source)
    path.unlink()
    removed = read(source)

    assert [item.name for item in replaced] == ["poison", "start"]
    assert "it is another file" in replaced[0].doc["reason"]
    assert [item.name for item in removed] == ["poison"]
    assert "was removed before its run was over" in removed[0].doc["reason"]
    assert removed[0].doc["run_start"] == RAW[0][1]["uid"]


def test_a_run_that_is_appended_to_a_file_that_was_done_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.sources.folder.RESCAN", 0.05)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(LINES))
    source = source_of(tmp_path)
    read(source)

    with open(path, "ab") as file:
        file.write(b"".join(dumps(*each) for each in OTHER))

    assert documents(read(source)) == b"".join(dumps(*each) for each in OTHER)


def test_a_folder_of_ten_thousand_files_that_are_done_costs_little(tmp_path):
    for i in range(10_000):
        (tmp_path / f"{i}.jsonl").write_bytes(LINES[0] + LINES[-1])
    os.utime(tmp_path, (1000, 1000))
    source = source_of(tmp_path)
    items = read(source, 0.0)
    source.commit({item.position.lane: item.position.index for item in items})
    os.utime(tmp_path, (1000, 1000))
    read(source, 0.2)

    began = time.process_time()
    assert read(source, 1.0) == []
    spent = time.process_time() - began
    began = time.process_time()
    assert read(source_of(tmp_path), 0.0) == []

    assert spent < 0.3
    assert time.process_time() - began < 3.0


def test_there_must_be_a_folder(tmp_path):
    with pytest.raises(PipelineOSError, match="wanted a folder"):
        source_of(tmp_path / "nope")

"""A folder of files, as it is followed."""

import os
import time

import pytest

from pipeline.errors import PipelineOSError
from pipeline.ledger_tail import LedgerFile, LedgerTail, Stamp

LINE = b'["event",{"seq_num":%d}]\n'


def lines(first, last):
    return b"".join(LINE % i for i in range(first, last))


def numbers(read):
    return [int(line[line.index(b":") + 1 : line.index(b"}")]) for line in read]


def names(files):
    return [file.path.name for file in files]


def poll(tail, n, seconds=3.0):
    """Poll until so many files have something to read."""
    deadline = time.monotonic() + seconds
    while len(found := tail.poll()) < n and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_files_are_found_as_they_are_made_and_as_they_grow(tmp_path):
    tail = LedgerTail(tmp_path)
    assert tail.poll() == []

    for i in range(5):
        (tmp_path / f"{i}.jsonl").write_bytes(lines(0, 2))
        (file,) = poll(tail, 1)
        assert file.path.name == f"{i}.jsonl"
        assert numbers(file.read(10)) == [0, 1]
    with (tmp_path / "3.jsonl").open("ab") as grown:
        grown.write(lines(2, 4))

    (file,) = poll(tail, 1)
    assert (file.path.name, numbers(file.read(10))) == ("3.jsonl", [2, 3])


def test_only_whole_lines_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(0, 2)[:-5])
    tail = LedgerTail(tmp_path)
    (file,) = poll(tail, 1)

    assert numbers(file.read(10)) == [0]
    assert tail.poll() == [], "what is not whole is not there"
    path.write_bytes(lines(0, 2))
    poll(tail, 1)
    assert numbers(file.read(10)) == [1]


def test_no_more_is_read_than_asked_for_but_one_line_however_long(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(0, 5) + b"x" * 5000 + b"\n" + lines(6, 7))
    file = LedgerFile(path)

    assert numbers(file.read(3)) == [0, 1, 2]
    assert len(file.read(10, max_bytes=100)) == 3
    assert numbers(file.read(10)) == [6]
    assert file.n_lines == 7


@pytest.mark.parametrize("how", ["cut", "cut and longer than before", "replaced", "replaced by one of the same size"])
def test_a_file_that_is_cut_or_replaced_is_begun_again(tmp_path, how):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(0, 4))
    tail = LedgerTail(tmp_path)
    (file,) = poll(tail, 1)
    assert numbers(file.read(10)) == [0, 1, 2, 3]

    if how == "cut":
        os.truncate(path, len(lines(0, 2)))
    elif how == "cut and longer than before":
        path.write_bytes(lines(0, 2) + lines(7, 9) + lines(4, 6))
    else:
        (tmp_path / "new").write_bytes(lines(5, 9) if how.endswith("size") else lines(5, 8))
        (tmp_path / "new").rename(path)
    (file,) = poll(tail, 1)

    assert file.is_cut
    file.rewind()
    assert file.read(10) == path.read_bytes().splitlines(keepends=True)


def test_a_file_that_was_cut_since_it_was_looked_at_is_not_read_on(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(0, 4))
    file = LedgerFile(path)
    file.look()
    file.read(2)

    path.write_bytes(lines(10, 20))

    assert file.read(10) == []
    assert file.is_cut


def test_a_finished_file_is_not_followed_unless_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.ledger_tail.SWEEP_SECONDS", 0.2)
    (tmp_path / "a.jsonl").write_bytes(lines(0, 2))
    (tmp_path / "b.jsonl").write_bytes(lines(0, 2))
    tail = LedgerTail(tmp_path, lambda name, stamp: name == "b.jsonl" and stamp.size == len(lines(0, 2)))
    (file,) = poll(tail, 1)
    file.read(10)
    tail.finish(file)
    assert (tail.files, tail.n_finished) == ({}, 2)

    (tmp_path / "b.jsonl").write_bytes(lines(0, 3))

    assert names(poll(tail, 1)) == ["b.jsonl"]
    assert tail.n_finished == 1


def test_the_file_that_changed_last_comes_first_and_others_wait(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.ledger_tail.AT_ONCE", 3)
    for i in range(6):
        path = tmp_path / f"{i}.jsonl"
        path.write_bytes(lines(0, 1))
        os.utime(path, (i, i))
    tail = LedgerTail(tmp_path)

    assert names(tail.poll()) == ["5.jsonl", "4.jsonl", "3.jsonl"]
    assert (tail.n_waiting, tail.n_bytes_waiting) == (3, 3 * len(lines(0, 1)))


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(PipelineOSError, match="wanted the folder of a ledger"):
        LedgerTail(tmp_path / "nowhere")


def test_a_file_that_was_removed_is_let_go(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(0, 1))
    tail = LedgerTail(tmp_path)
    (file,) = poll(tail, 1)
    assert file.read(5)
    path.unlink()

    deadline = time.monotonic() + 3
    while tail.files and time.monotonic() < deadline:
        tail.poll()
        time.sleep(0.01)

    assert tail.files == {}
    assert file.read(5) == []
    assert file.stamp != Stamp(0, 0)

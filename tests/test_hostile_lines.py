"""Lines that are written to harm are refused with a word, and what is only odd is read."""

import gzip
import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.documents import MAX_DEPTH, MAX_LINE, dumps, loads
from pipeline.errors import PipelineError, PipelineValueError
from pipeline.sources import read_jsonl
from pipeline.testing import make_run

RAW = make_run({"det": [1.0, float("nan"), 4.0]})
DEEP = f"nested at most {MAX_DEPTH} deep"


def nested(opened, closed, depth):
    return b'["start", {"uid": "a", "time": 0, "x": ' + opened * (depth - 2) + b"1" + closed * (depth - 2) + b"}]"


LISTS, DICTS = (b"[", b"]"), (b'{"k":', b"}")


@pytest.mark.parametrize("kind", [LISTS, DICTS], ids=["lists", "dicts"])
def test_what_is_nested_64_deep_is_read_and_one_more_is_refused(kind):
    assert loads(nested(*kind, MAX_DEPTH))[0] == "start"
    for depth in (MAX_DEPTH + 1, 300, 1000, 1100, 100_000):
        with pytest.raises(PipelineValueError, match=DEEP):
            loads(nested(*kind, depth))


def test_lists_and_dicts_by_turns_count_alike():
    turns = b'[{"k":', b"}]"

    assert loads(b'{"name": "start", "doc": {"x": ' + turns[0] * 31 + b"1" + turns[1] * 31 + b"}}")[0] == "start"
    with pytest.raises(PipelineValueError, match=DEEP):
        loads(b'{"name": "start", "doc": {"x": ' + turns[0] * 32 + b"1" + turns[1] * 32 + b"}}")


@pytest.mark.parametrize("text", ["[" * 500, "{[" * 500, "\\" * 99 + '"[' * 99, '"' * 99 + "{" * 99, "]" * 70 + "\\"])
def test_brackets_in_texts_and_brackets_side_by_side_are_not_depth(text):
    doc = {"uid": text, text: [[]] * 200, "more": [{"a": {}}] * 200}

    assert loads(json.dumps(["start", doc]).encode()) == ("start", doc)


def test_what_is_bare_nan_and_deep_is_refused_too():
    with pytest.raises(PipelineValueError, match=DEEP):
        loads(nested(b"[NaN,", b"]", MAX_DEPTH + 1))


def test_a_line_of_more_than_64_mebibytes_is_refused():
    line = b'["start", {"uid": "' + b"a" * MAX_LINE + b'"}]'

    with pytest.raises(PipelineValueError, match=f"at most {MAX_LINE} bytes, there are {len(line)}"):
        loads(line)


def test_an_integer_of_more_digits_than_python_reads_is_refused_and_one_of_fewer_is_read():
    with pytest.raises(PipelineValueError, match="4300 digits"):
        loads(b'["start", {"scan_id": ' + b"9" * 5000 + b"}]")
    assert loads(b'["start", {"scan_id": ' + b"9" * 4000 + b"}]")[1]["scan_id"] == int("9" * 4000)


def test_half_of_a_surrogate_pair_is_read_and_written_again():
    line = b'["start", {"sample": "\\ud800"}]'

    name, doc = loads(line)

    assert doc == {"sample": "\ud800"}
    assert loads(dumps(name, doc)) == (name, doc)


def test_of_a_key_that_stands_twice_the_last_is_read():
    assert loads(b'["start", {"uid": "a", "uid": "b"}]') == ("start", {"uid": "b"})


HOSTILE = [
    b"",
    b"null",
    b"7",
    b'"start"',
    b'"ab"',
    b"[]",
    b'["start"]',
    b'["start", {}, {}]',
    b'["start", []]',
    b"[1, {}]",
    b"{}",
    b'{"name": "start"}',
    b'{"name": ["start"], "doc": {}}',
    b"\x00",
    b"\xff\xfe[\x00",
    b'["start", {"a": "\xff"}]',
    b'["start", {"a": \x00}]',
    b'["start", {"a": 1e999999, }]',
    b'["start", {"a": ' + b"1" * 5000 + b"}]",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    b'["start", {"a": "' + b"\\" * 5001 + b'"}]',
    b'["descriptor", {"uid": "d"}]',
    b'["descriptor", {"uid": "d", "data_keys": null}]',
    b'["descriptor", {"uid": "d", "data_keys": ["x"]}]',
    b'["descriptor", {"uid": "d", "data_keys": {"x": "y"}}]',
    b'["descriptor", {"uid": "d", "data_keys": {"x": {"dtype": "array", "dtype_numpy": 5}}}]',
    b'["descriptor", {"uid": [], "data_keys": {}}]',
    b'["event", {"descriptor": [], "data": {"x": null}}]',
    b'["event", {"descriptor": "d", "data": [null]}]',
    b'["event_page", {"descriptor": "d", "data": null}]',
]


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: repr(line[:24]))
def test_a_hostile_line_is_an_error_with_file_and_line(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(dumps(*RAW[0]) + line + b"\n")

    with pytest.raises(PipelineValueError, match=r"a\.jsonl, line 2: wanted a document") as error:
        list(read_jsonl(path))

    assert len(str(error.value)) < 1000


def test_a_hostile_line_is_refused_at_once(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"[" * 2_000_000 + b'"\\"' * 100_000 + b"]" * 2_000_000 + b"\n")
    began = time.monotonic()

    with pytest.raises(PipelineValueError, match="line 1"):
        list(read_jsonl(path))

    assert time.monotonic() - began < 5


def test_gzip_that_is_cut_is_an_error_with_file_and_line(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(dumps(*item) for item in RAW))[:-20])

    with pytest.raises(PipelineValueError, match=r"a\.jsonl\.gz, line \d+: wanted gzipped lines"):
        list(read_jsonl(path))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
DEPTHS = st.recursive(SCALARS, lambda of: st.lists(of) | st.dictionaries(st.text(), of), max_leaves=20)
LINES = (
    st.binary(max_size=60)
    | st.builds(lambda name, doc: json.dumps([name, doc]).encode(), st.sampled_from(["start", "event", ""]), DEPTHS)
    | st.builds(lambda doc: json.dumps({"name": "descriptor", "doc": doc}).encode(), DEPTHS)
    | st.builds(lambda parts: b"".join(parts), st.lists(st.sampled_from([*HOSTILE, b"[", b"{", b'"', b"\\", b":"])))
)


@given(st.lists(LINES.map(lambda line: line.replace(b"\n", b" ")), max_size=4))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_lines_are_read_or_refused_by_name_and_nothing_else_comes_out(tmp_path, lines):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))

    said = ""
    try:
        n_read = len(list(read_jsonl(path)))
    except PipelineError as error:
        said = str(error)

    assert said.startswith(f"{path}, line ") if said else n_read == len(lines)

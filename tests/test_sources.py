"""Sources read what others write, put it in order, and say where it is wrong."""

import gzip
import json
import threading
import time

import databroker
import numpy
import pytest
from bluesky.callbacks.zmq import Proxy, Publisher
from kept import Kept

from pipeline import Node, Pipeline
from pipeline.errors import PipelineError
from pipeline.reductions import Mean
from pipeline.sources import read_catalog, read_jsonl
from pipeline.sources.jsonl import jsonl_files
from pipeline.sources.zmq import ZMQSource, serialize
from pipeline.testing import make_run

RAW = make_run({"det": [1.0, float("nan"), 4.0]})


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines))


def test_both_dialects_and_gzip_read_the_same(tmp_path):
    write(tmp_path / "a.jsonl", [json.dumps([name, doc]) for name, doc in RAW])
    write(tmp_path / "b.jsonl", [json.dumps({"name": name, "doc": doc}) for name, doc in RAW])
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))

    a, b, c = (list(read_jsonl(tmp_path / name)) for name in ("a.jsonl", "b.jsonl", "c.jsonl.gz"))

    assert repr(a) == repr(b) == repr(c) == repr(RAW)
    assert len(list(read_jsonl(tmp_path))) == 3 * len(RAW)
    assert len(list(read_jsonl(tmp_path / "*.jsonl"))) == 2 * len(RAW)


def test_nan_in_arrays_is_read_back(tmp_path):
    raw = make_run({"curve": [numpy.array([1.0, numpy.nan])]})
    from pipeline.documents import dumps

    (tmp_path / "a.jsonl").write_bytes(b"".join(dumps(*item) for item in raw))

    curve = next(doc["data"]["curve"] for name, doc in read_jsonl(tmp_path) if name == "event")
    assert numpy.array_equal(curve, [1.0, numpy.nan], equal_nan=True)


@pytest.mark.parametrize(
    "bad", ["{", '"start"', '["start"]', '["start", 1]', "[1, {}]", '["descriptor", {}]', "", "\x00", "[" * 5000]
)
def test_a_bad_line_names_file_and_line(tmp_path, bad):
    write(tmp_path / "a.jsonl", [json.dumps(RAW[0]), bad])

    with pytest.raises(PipelineError, match=r"a\.jsonl, line 2: wanted a document"):
        list(read_jsonl(tmp_path))


def test_a_bad_line_leaves_no_run_open(tmp_path, kept):
    write(tmp_path / "a.jsonl", [*map(json.dumps, RAW[:3]), "{"])

    with pytest.raises(PipelineError, match="line 4"):
        Pipeline([Node("mean", Mean("det"))], [kept]).replay(read_jsonl(tmp_path))

    assert kept.stop["exit_status"] == "abort"


def test_no_file_is_an_error_that_says_so(tmp_path):
    for name in ("nope.jsonl", "", "*.jsonl"):
        with pytest.raises(PipelineError, match="wanted a JSONL file"):
            jsonl_files(tmp_path / name)


def analysed(documents):
    kept = Kept()
    Pipeline([Node("mean", Mean("det"))], [kept]).replay(documents)
    return kept


def test_a_databroker_run_gives_what_the_run_gave():
    catalog = databroker.temp()
    for name, doc in RAW:
        catalog.v1.insert(name, doc)
    uid = RAW[0][1]["uid"]

    for run in (catalog.v2[uid], catalog.v1[uid]):
        assert analysed(read_catalog(run)).bytes() == analysed(RAW).bytes()


class Archive:
    """A run as archives give it: of any order."""

    def __init__(self, documents):
        self._documents = documents

    def documents(self, fill=False):
        yield from self._documents


def test_an_archive_out_of_order_is_put_in_order():
    raw = [*RAW[:2], *reversed(RAW[2:-1]), RAW[-1]]

    assert [doc["seq_num"] for name, doc in read_catalog(Archive(raw)) if name == "event"] == [1, 2, 3]
    assert analysed(read_catalog(Archive(list(reversed(raw))))).bytes() == analysed(RAW).bytes()


def test_an_open_run_has_no_stop():
    assert [name for name, _ in read_catalog(Archive([*RAW[:3], ("stop", {})]))] == ["start", "descriptor", "event"]


def test_what_is_no_run_is_refused():
    with pytest.raises(PipelineError, match="wanted a run of a catalog"):
        list(read_catalog({}))


def test_documents_over_0mq_are_analysed_and_pickles_refused(kept, caplog):
    proxy = Proxy("127.0.0.1", "127.0.0.1")
    threading.Thread(target=proxy.start, daemon=True).start()
    in_port, out_port = (str(port).rpartition(":")[2] for port in (proxy.in_port, proxy.out_port))
    source = ZMQSource(f"127.0.0.1:{out_port}")
    source.subscribe(Pipeline([Node("mean", Mean("det"))], [kept]))
    thread = threading.Thread(target=source.start)
    thread.start()
    publisher, pickles = (Publisher(f"127.0.0.1:{in_port}", **how) for how in ({"serializer": serialize}, {}))
    time.sleep(0.5)

    pickles("start", {"uid": "evil"})
    pickles("start", {"uid": "evil"})
    for name, doc in RAW:
        publisher(name, doc)
    end = time.monotonic() + 10
    while not kept.named("stop") and time.monotonic() < end:
        time.sleep(0.02)
    source.stop()
    thread.join(5)

    assert kept.bytes() == analysed(RAW).bytes()
    assert source.n_refused == 2
    assert len([r for r in caplog.records if "serializer=" in r.getMessage()]) == 1
    publisher.close()
    pickles.close()

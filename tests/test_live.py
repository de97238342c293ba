"""A scan, its analysis in a catalog, and whoever reads it: three processes at once."""

import subprocess
import sys
import textwrap
import time

import pytest
from bluesky.plans import scan
from kept import Kept
from ophyd.sim import hw

from pipeline import Node, Pipeline
from pipeline.catalog import open_catalog, stop_server
from pipeline.reductions import Mean, PeakStatistics
from pipeline.sinks import JSONLSink, TiledSink
from pipeline.sources import read_catalog, read_jsonl
from pipeline.verify import verify

NODES = [Node("peak", PeakStatistics("motor", "det"), Mean("det"))]

READER = """
    import sys, time
    from pipeline.catalog import open_catalog
    analysis = open_catalog(sys.argv[1])["analysis"]
    print("ready", flush=True)
    while True:
        try:
            run = analysis[-1]
            rows = run["running"].base["internal"].read()
            print(len(rows), rows["det_n"].max(), "stop" in (run.metadata or {}) and bool(run.metadata["stop"]), flush=True)
        except (KeyError, IndexError):
            time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("live")
    yield path
    stop_server(path / "catalog")


@pytest.fixture(scope="module")
def devices():
    return hw()


def slowly(plan, seconds):
    """The plan, with a pause before each point, so that another process can look."""
    for message in plan:
        if message.command == "save":
            time.sleep(seconds)
        yield message


def test_a_second_process_reads_the_results_while_the_scan_goes_on(RE, devices, folder):
    with TiledSink(folder / "catalog") as sink:
        pipeline = Pipeline(NODES, [JSONLSink(folder / "analysis"), sink])
        RE.subscribe(pipeline)
        RE.subscribe(JSONLSink(folder / "raw"))
        RE(scan([devices.det], devices.motor, -1, 1, 3))  # the catalog and its writer are up after this
        pipeline.flush()
        reader = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(READER), str(folder / "catalog")], stdout=subprocess.PIPE, text=True
        )
        assert reader.stdout.readline() == "ready\n"

        RE(slowly(scan([devices.det], devices.motor, -5, 5, 41), 0.15))
        reader.kill()
        seen = [line.split() for line in reader.communicate()[0].splitlines()]

    growing = sorted({int(n) for n, _, is_over in seen if is_over == "False"} - {3})
    assert len(growing) >= 3, "the reader saw the run grow"
    odd = [line for line in seen if len(line) == 3 and line[0] != "0" and float(line[0]) != float(line[1])]
    assert odd == []


def test_what_the_catalog_holds_is_what_a_replay_gives(folder):
    with open_catalog(folder / "catalog") as catalog:
        verdicts = list(verify(NODES, read_jsonl(folder / "raw"), catalog=catalog["analysis"]))
        uid = verdicts[0].uid
        run = catalog["analysis"][uid]
        kinds = [name for name, _ in read_catalog(run)]
        by_raw = catalog["analysis"][-1].metadata["start"]["original_run_uid"]

    assert [verdict.difference for verdict in verdicts] == ["", ""]
    assert kinds[0] == "start"
    assert kinds[-1] == "stop"
    assert by_raw in {verdict.raw_uid for verdict in verdicts}


def test_a_server_that_is_not_there_does_not_end_the_scan_and_is_told(RE, devices, caplog):
    kept, raw = Kept(), Kept()
    sink = TiledSink("http://127.0.0.1:9/api/v1")
    RE.subscribe(Pipeline(NODES, [sink, kept]))
    RE.subscribe(raw)

    RE(scan([devices.det], devices.motor, -1, 1, 5))
    end = time.monotonic() + 60
    while "server" not in sink.faults and time.monotonic() < end:
        time.sleep(0.1)
    RE(scan([devices.det], devices.motor, -1, 1, 5))

    with pytest.raises(TimeoutError, match="documents wait"):
        sink.close(timeout=1)
    first, second = kept.by_run().values()
    assert [doc["exit_status"] for doc in raw.named("stop")] == ["success", "success"]
    assert first.stop["exit_status"] == second.stop["exit_status"] == "success"
    assert first.final()["det_n"] == second.final()["det_n"] == 5
    assert list(second.stop["analysis"]["sinks"]) == ["TiledSink"], "by then it was known"
    assert len([record for record in caplog.records if "will try again" in record.getMessage()]) == 1

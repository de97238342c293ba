"""Darks and flats come from streams, from events, from other runs; what waits for them loses nothing."""

import h5py
import numpy
import pytest
from kept import Kept

from pipeline import Node, Pipeline
from pipeline.readers import Assets
from pipeline.reductions.event_reduction import EventReduction
from pipeline.reductions.reference import Reference
from pipeline.sinks import JSONLSink
from pipeline.state import state_from_bytes, state_to_bytes

N = 6
FRAMES = numpy.arange(N * 6, dtype="u2").reshape(N, 2, 3)
DARKS = numpy.array([[[1, 1, 1], [1, 1, 1]], [[3, 1, 1], [1, 1, 1]]], "u2")


class Darkened(EventReduction):
    """The sum of a frame less its dark."""

    constants = ("references", "fields")

    def __init__(self, field, dark):
        self.field, self.dark = field, dark
        self.fields = (field,)
        self.references = [Reference.of("dark", dark, field)]

    def begin(self, start):
        self.references = [Reference.of("dark", self.dark, self.field)]

    def reduce(self, data):
        dark = self.references[0].frame(data)
        frame = numpy.asarray(data[self.field], float)
        return {"sum": float((frame - (0 if dark is None else dark)).sum()), "is_dark": dark is not None}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "frames.h5"
    with h5py.File(path, "w") as file:
        file["det"], file["dark"] = FRAMES, DARKS
        file["mixed"] = numpy.concatenate([DARKS, FRAMES])
    return path


KEY = {"source": "sim", "dtype": "array", "dtype_numpy": "<u2", "shape": [2, 3], "external": "STREAM:"}
NUMBER = {"source": "sim", "dtype": "integer", "dtype_numpy": "<i8", "shape": []}


def start(uid="raw"):
    return "start", {"uid": uid, "time": 0.0}


def stop(uid="raw", **num_events):
    return "stop", {
        "uid": f"{uid}/stop",
        "run_start": uid,
        "time": 99.0,
        "exit_status": "success",
        "reason": "",
        "num_events": num_events,
    }


def stream(name, path, n, dataset, *, run="raw", fields=None, gain=None, first=0, part=""):
    """Descriptor, resource, and for each event a stream_datum and the event."""
    fields = fields or {}
    descriptor = {
        "uid": f"{run}/{name}{part}",
        "run_start": run,
        "time": 1.0,
        "name": name,
        "data_keys": {"det": KEY, **dict.fromkeys(fields, NUMBER)},
        "configuration": {"det": {"data": {"det_gain": gain}, "timestamps": {"det_gain": 1.0}, "data_keys": {}}},
        "hints": {},
        "object_keys": {"det": ["det", *fields]},
    }
    resource = {
        "uid": f"{run}/{name}/resource{part}",
        "run_start": run,
        "data_key": "det",
        "mimetype": "application/x-hdf5",
        "uri": f"file://localhost{path}",
        "parameters": {"dataset": dataset, "chunk_shape": [1, 2, 3]},
    }
    documents = [("descriptor", descriptor), ("stream_resource", resource)]
    for i in range(first, first + n):
        datum = {
            "uid": f"{resource['uid']}/{i}",
            "descriptor": descriptor["uid"],
            "stream_resource": resource["uid"],
            "indices": {"start": i, "stop": i + 1},
            "seq_nums": {"start": i + 1, "stop": i + 2},
        }
        data = {field: values[i] for field, values in fields.items()}
        event = {
            "uid": f"{descriptor['uid']}/{i}",
            "descriptor": descriptor["uid"],
            "seq_num": i + 1,
            "time": 2.0 + i,
            "data": data,
            "timestamps": dict.fromkeys(data, 2.0 + i),
            "filled": {},
        }
        documents += [("stream_datum", datum), ("event", event)]
    return documents


def analyse(documents, *nodes, **assets):
    kept = Kept()
    Pipeline(nodes, [kept], assets=Assets(**assets)).replay(documents)
    kept.check_valid()
    return kept


def sums(frames, dark):
    return [float((frame.astype(float) - dark).sum()) for frame in frames]


def test_a_dark_stream_may_come_before_among_or_after_the_frames(path):
    frames, darks = stream("primary", path, N, "det"), stream("dark", path, 2, "dark")
    node = Node("n", Darkened("det", {"stream": "dark", "n": 2}))
    orders = [
        [*darks, *frames],
        [*frames, *darks],
        [*frames[:6], *darks[:4], *frames[6:9], *darks[4:], *frames[9:]],
    ]

    kept = [analyse([start(), *order, stop(primary=N, dark=2)], node) for order in orders]

    assert [row["sum"] for row in kept[0].events("primary")] == sums(FRAMES, DARKS.mean(0))
    assert kept[0].bytes() == kept[1].bytes() == kept[2].bytes()
    (told,) = kept[0].stop["analysis"]["references"]
    assert told["role"] == "dark"
    assert len(told["sha256"]) == 64


def test_darks_among_the_frames_are_known_by_a_field(path):
    keys = [2, 2, *[0] * N]
    documents = [start(), *stream("primary", path, N + 2, "mixed", fields={"key": keys}), stop(primary=N + 2)]
    late = [*documents[:3], *documents[7:-1], *documents[3:7], documents[-1]]  # the darks come last: archives do that

    kept = analyse(documents, Node("n", Darkened("det", {"when": {"key": 2}, "n": 2})))

    assert [row["sum"] for row in kept.events("primary")][2:] == sums(FRAMES, DARKS.mean(0))
    assert analyse(late, Node("n", Darkened("det", {"when": {"key": 2}, "n": 2}))).bytes() == kept.bytes()


def test_a_dark_that_never_comes_ends_the_analysis_and_says_what_was_wanted(path):
    documents = [start(), *stream("primary", path, N, "det"), stop(primary=N)]

    kept = analyse(documents, Node("n", Darkened("det", {"stream": "dark", "n": 2})))

    assert kept.stop["exit_status"] == "fail"
    assert kept.stop["reason"] == (
        "6 events of stream 'primary' wait: dark of 'det' has 0 of 2 events of stream 'dark'."
    )


def test_fewer_darks_than_wanted_are_enough_when_the_run_is_over(path):
    documents = [start(), *stream("primary", path, N, "det"), *stream("dark", path, 2, "dark"), stop(primary=N, dark=2)]

    kept = analyse(documents, Node("n", Darkened("det", {"stream": "dark", "n": 100})))

    assert [row["sum"] for row in kept.events("primary")] == sums(FRAMES, DARKS.mean(0))


def test_a_dark_that_may_be_late_is_done_without(path):
    documents = [start(), *stream("primary", path, N, "det"), stop(primary=N)]

    kept = analyse(documents, Node("n", Darkened("det", {"stream": "dark", "late": "pass"})))

    assert [row["sum"] for row in kept.events("primary")] == sums(FRAMES, 0)
    assert not any(row["is_dark"] for row in kept.events("primary"))


def test_a_dark_of_another_run_is_read_from_the_catalog_once_and_named(path):
    other = [start("other"), *stream("dark", path, 2, "dark", run="other"), stop("other", dark=2)]
    documents = [start(), *stream("primary", path, N, "det"), stop(primary=N)]
    asked = []

    def run(uid):
        asked.append(uid)
        return other

    kept = analyse(documents, Node("n", Darkened("det", {"run": "other", "stream": "dark", "n": 2})), run=run)

    assert asked == ["other"]
    assert [row["sum"] for row in kept.events("primary")] == sums(FRAMES, DARKS.mean(0))
    assert kept[0][1]["parent_uids"] == ["raw", "other"]
    assert {"uid": "other", "role": "dark"} in kept[0][1]["analysis"]["parents"]
    (told,) = kept.stop["analysis"]["references"]
    assert told["uid"] == "other"


def test_a_run_that_nobody_can_be_asked_for_ends_the_analysis(path):
    documents = [start(), *stream("primary", path, N, "det"), stop(primary=N)]

    kept = analyse(documents, Node("n", Darkened("det", {"run": "other", "stream": "dark"})))

    assert "wanted frames of run 'other'" in kept.stop["reason"]


def test_each_gain_has_a_dark_of_its_own(path):
    documents = [
        start(),
        *stream("dark", path, 1, "dark", gain=1),
        *stream("dark", path, 1, "dark", gain=2, first=1, part="2"),
        *stream("primary", path, 3, "det", gain=2),
        *stream("primary", path, 3, "det", gain=1, first=3, part="2"),
        stop(primary=N, dark=2),
    ]

    kept = analyse(documents, Node("n", Darkened("det", {"stream": "dark", "per": "det_gain"})))

    assert [row["sum"] for row in kept.events("primary")] == [
        *sums(FRAMES[:3], DARKS[1]),
        *sums(FRAMES[3:], DARKS[0]),
    ]
    assert [told["det_gain"] for told in kept.stop["analysis"]["references"]] == [1, 2]


def test_a_frame_that_cannot_be_read_ends_the_analyses_that_want_it_and_no_other(path):
    documents = [start(), *stream("primary", path, N, "nothing", fields={"x": list(range(N))}), stop(primary=N)]

    kept = analyse(
        documents,
        Node("dark", Darkened("det", {"stream": "dark", "late": "pass"})),
        Node("x", Darkened("x", {"stream": "dark", "late": "pass"})),
    )

    assert kept.of_node("dark").stop["exit_status"] == "fail"
    assert f"{path} nothing, row 0" in kept.of_node("dark").stop["reason"]
    assert kept.of_node("x").stop["exit_status"] == "success"


def test_a_frame_that_cannot_be_read_may_be_left_out(path):
    documents = [start(), *stream("primary", path, N + 1, "det"), stop(primary=N + 1)]

    kept = analyse(documents, Node("n", Darkened("det", {"stream": "dark", "late": "pass"})), missing="skip")

    assert kept.stop["exit_status"] == "success"
    assert kept.stop["analysis"]["n_skipped"] == 1
    assert numpy.isnan(kept.events("primary")[-1]["sum"])


# restarts ----------------------------------------------------------------------------------------------------------


def of_stream(path):
    frames, darks = stream("primary", path, N, "det", gain=1), stream("dark", path, 2, "dark", gain=1)
    again = [(name, {**doc, "uid": f"{doc['uid']}/again"}) for name, doc in frames[6:8]]
    again[0][1]["indices"] = {"start": 5, "stop": 6}  # the point was taken again, and is a later row
    return [start(), *frames[:8], *again, *darks[:5], *frames[8:], *darks[5:], stop(primary=N, dark=2)]


def of_datum(path):
    """The same, in classic form, and without the point that was taken again."""
    documents = []
    for name, doc in of_stream(path):
        if name == "descriptor":
            keys = {"det": {**KEY, "external": "FILESTORE:"}}
            documents.append((name, {**doc, "data_keys": keys}))
        elif name == "stream_resource":
            classic = {"spec": "AD_HDF5_SWMR_STREAM", "root": "/", "resource_path": str(path)[1:]}
            kwargs = {"resource_kwargs": {"dataset": doc["parameters"]["dataset"]}, "path_semantics": "posix"}
            documents.append(("resource", {"uid": doc["uid"], "run_start": doc["run_start"], **classic, **kwargs}))
        elif name == "stream_datum" and not doc["uid"].endswith("again"):
            frame = {"frame": doc["indices"]["start"]}
            documents.append(
                ("datum", {"datum_id": doc["uid"], "resource": doc["stream_resource"], "datum_kwargs": frame})
            )
        elif name == "event" and not doc["uid"].endswith("again"):
            datum = f"{doc['descriptor']}/resource/{doc['seq_num'] - 1}"
            stamps = {"det": doc["time"]}
            documents.append((name, {**doc, "data": {"det": datum}, "timestamps": stamps, "filled": {"det": False}}))
        elif name in ("start", "stop"):
            documents.append((name, doc))
    return documents


def nodes():
    return [Node("n", Darkened("det", {"stream": "dark", "n": 2, "per": "det_gain"}))]


@pytest.mark.parametrize("documents_of", [of_stream, of_datum])
def test_a_run_with_frames_goes_on_from_any_document(documents_of, path, tmp_path):
    documents = documents_of(path)
    whole = analyse(documents, *nodes())
    wanted = sums(FRAMES, DARKS.mean(0))
    if documents_of is of_stream:
        assert [row["sum"] for row in whole.events("primary") if row["raw_seq_num"] == 3][-1] == wanted[5]
    else:
        assert [row["sum"] for row in whole.events("primary")] == wanted

    for cut in range(1, len(documents)):
        with JSONLSink(tmp_path / f"{cut}") as ledger:
            pipeline = Pipeline(nodes(), [ledger])
            for item in documents[:cut]:
                pipeline(*item)
            ledger.flush()
            state = state_from_bytes(state_to_bytes(pipeline.state("raw")))
            pipeline.let_go("raw")
            again = Pipeline(nodes(), [ledger])
            again.resume(state)
            for item in documents[cut:]:
                again(*item)
        (kept,) = ledger.directory.glob("*.jsonl")
        assert kept.read_bytes() == whole.bytes(), cut

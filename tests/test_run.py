"""A run in memory is what a catalog gives, also while it grows."""

import numpy
import pytest

from pipeline import BlueskyRun, RunBuilder, build_simple_run
from pipeline.errors import PipelineError


def test_a_run_grows_as_its_builder_is_given_more():
    builder = RunBuilder({"sample": "Cu"})
    run = builder.get_run()
    assert (list(run), run.metadata["stop"]) == ([], None)

    builder.add_stream("primary", data={"x": [1]})
    assert run.primary.read()["x"].values.tolist() == [1]
    builder.add_event("primary", {"x": 2})
    assert run.primary.read()["x"].values.tolist() == [1, 2]
    builder.close()

    assert run.metadata["stop"]["exit_status"] == "success"
    assert [name for name, _ in run.documents()] == ["start", "descriptor", "event_page", "event", "stop"]


@pytest.mark.parametrize("fill", [{}, {"fill": "no"}, {"fill": "yes"}, {"fill": "delayed"}, {"fill": False}])
def test_documents_are_given_with_and_without_fill(fill):
    run = build_simple_run({"x": [1]})

    assert [name for name, _ in run.documents(**fill)] == ["start", "descriptor", "event_page", "stop"]


def test_another_fill_is_refused():
    with pytest.raises(PipelineError, match="fill is 'maybe'; wanted 'no', 'yes', 'delayed'"):
        list(build_simple_run({"x": [1]}).documents(fill="maybe"))


def test_what_is_done_to_documents_and_data_does_not_come_back():
    image, column, metadata = numpy.zeros((1, 2, 2)), [1], {"sample": {"name": "Cu"}}
    run = build_simple_run({"x": column, "image": image}, metadata)

    column.append(2)
    image += 1
    metadata["sample"]["name"] = "Au"
    for _, doc in run.documents():
        if "data" in doc:
            doc["data"]["x"].append(7)
            doc["data"]["image"][0][:] = 7
    run.metadata["start"]["sample"]["name"] = "Ag"
    run.primary.read()["image"].values[:] = 9

    assert run.primary.read()["x"].values.tolist() == [1]
    assert run.primary.read()["image"].values.sum() == 0
    assert run.metadata["start"]["sample"] == {"name": "Cu"}


def test_streams_are_items_and_attributes():
    with RunBuilder(uid="a") as builder:
        builder.add_stream("primary", data={"x": [1], "y": [2.0]})
        builder.add_stream("documents", data={"z": [3]})
    run = builder.get_run()

    assert isinstance(run, BlueskyRun)
    assert (list(run), len(run), run.uid) == (["primary", "documents"], 2, "a")
    assert "primary" in dir(run)
    assert list(run.primary) == ["x", "y"]
    assert run["documents"]["z"].item() == 3
    assert list(run.primary.read(["y"])) == ["y"]
    assert run.primary.to_dask()["x"].chunks == ((1,),)
    with pytest.raises(KeyError, match=r"no stream 'baseline'; there are \['documents', 'primary'\]"):
        run["baseline"]
    with pytest.raises(AttributeError, match="baseline"):
        _ = run.baseline
    with pytest.raises(KeyError, match=r"no field 'q'; there are \['x', 'y'\]"):
        run.primary.read(["q"])


def test_a_stream_that_is_configured_anew_is_read_as_one():
    with RunBuilder() as builder:
        builder.add_stream("primary", data={"x": [1]})
        builder.update_configuration("primary", {"det": {"data": {}, "timestamps": {}, "data_keys": {}}})
        builder.add_data("primary", {"x": [2]})
    run = builder.get_run()

    assert len(run.primary.descriptors) == 2
    assert run.primary.metadata["stream_name"] == "primary"
    assert run.primary.read()["x"].values.tolist() == [1, 2]


def test_a_builder_that_hands_its_documents_on_has_no_run_to_give(kept):
    with RunBuilder(emit=kept) as builder, pytest.raises(PipelineError, match="went to `emit` and are not kept"):
        builder.get_run()


@pytest.mark.parametrize("key", ["uid", "time"])
def test_metadata_does_not_say_what_the_run_has_itself(key):
    with pytest.raises(PipelineError, match=f"metadata says '{key}', which the run has itself; give it as {key}="):
        RunBuilder({key: "a"})


def test_uids_that_are_given_are_honoured():
    with RunBuilder(uid="run") as builder:
        builder.add_stream("primary", data={"x": [1]}, uid="descriptor")
        builder.add_data("primary", {"x": [2]}, seq_num=[2], uid=["event"])
        builder.close(uid="stop")

    uids = [doc["uid"] for _, doc in builder.documents()]
    assert uids[:2] == ["run", "descriptor"]
    assert uids[3:] == [["event"], "stop"]


def test_a_run_tells_itself_in_ipython():
    class Printer:
        def text(self, text):
            self.told = text

    run, printer = build_simple_run({"x": [1]}, uid="a", time=0.0), Printer()
    run._repr_pretty_(printer, cycle=False)

    assert printer.told.splitlines()[0] == "<BlueskyRun uid='a'>"
    assert "success" in printer.told
    assert "* primary" in printer.told
    assert repr(run.primary) == "<BlueskyEventStream 'primary' ['x']>"

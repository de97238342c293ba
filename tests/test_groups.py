"""Raw runs of a kind are taken together: after each there is an analysis of all of them, with all of them as parents."""

import numpy
import pytest

from pipeline import Node, Pipeline, analyses, group_by
from pipeline.config import load
from pipeline.errors import PipelineError
from pipeline.reductions import Drift, Histogram, Map, Mean, Normalize, Statistics
from pipeline.testing import make_run

DET = {k: [10.0 * k + i for i in range(4)] for k in range(1, 5)}


def run(k, sample="Cu", **metadata):
    return make_run({"det": DET[k]}, uid=f"run-{k}", sample=sample, **metadata)


def uid(k):
    return run(k)[0][1]["uid"]


def results(kept):
    """The parents and the final summaries of each analysis run, in order."""
    told = []
    for documents in kept.by_run().values():
        parents = [parent["uid"] for parent in documents[0][1]["analysis"]["parents"]]
        final = documents.events("final")
        told.append((parents, final[0] if final else None))
    return told


def feed(pipeline, *runs):
    for documents in runs:
        for name, doc in documents:
            pipeline(name, doc)


def test_after_each_run_there_is_an_analysis_of_all_so_far_with_all_as_parents(kept):
    feed(
        Pipeline([Node("sum", Statistics("det"), over=group_by("sample"))], [kept]),
        run(1),
        run(2),
        run(3, "Au"),
        run(4),
    )

    told = results(kept)
    assert [parents for parents, _ in told] == [[uid(1)], [uid(2), uid(1)], [uid(3)], [uid(4), uid(1), uid(2)]]
    for (_, final), of in zip(told, ([1], [1, 2], [3], [1, 2, 4]), strict=True):
        values = numpy.concatenate([DET[k] for k in of])
        assert final["det_mean"] == values.mean()
        assert final["det_std"] == pytest.approx(values.std(ddof=1), rel=1e-14)
        assert final["n_events"] == len(values)
    starts = kept.named("start")
    assert starts[1]["parent_uids"] == [uid(2), uid(1)]
    assert [parent["role"] for parent in starts[3]["analysis"]["parents"]] == ["raw", "before_1", "before_2"]
    assert len({start["uid"] for start in starts}) == 4


def test_the_same_runs_again_give_the_same_documents(kept):
    again = type(kept)()

    for sink in (kept, again):
        feed(Pipeline([Node("sum", Statistics("det"), over=group_by("sample"))], [sink]), run(1), run(2))

    assert repr(list(kept)) == repr(list(again))


def test_a_run_that_comes_twice_counts_once(kept):
    node = Node("sum", Mean("det"), over=group_by("sample"))

    feed(Pipeline([node], [kept]), run(1), run(1))
    feed(Pipeline([node], [kept]), run(1), run(2))

    assert [parents for parents, _ in results(kept)] == [[uid(1)], [uid(2), uid(1)]]
    assert results(kept)[-1][1]["det_n"] == 8


def test_interleaved_runs_of_a_group_are_each_of_what_had_ended_before(kept):
    one, two = run(1), run(2)
    pipeline = Pipeline([Node("sum", Mean("det"), over=group_by("sample"))], [kept])

    for items in zip(one, two, strict=True):
        for name, doc in items:
            pipeline(name, doc)
    feed(pipeline, run(3))

    assert [(parents, final["det_n"]) for parents, final in results(kept)] == [
        ([uid(1)], 4),
        ([uid(2)], 4),
        ([uid(3), uid(1), uid(2)], 12),
    ]


def test_a_run_that_failed_has_what_was_before_and_is_not_taken_in(kept):
    aborted = make_run({"det": DET[2]}, uid="run-2", sample="Cu", exit_status="abort")

    feed(Pipeline([Node("sum", Mean("det"), over=group_by("sample"))], [kept]), run(1), aborted, run(3))

    assert [(parents, final["det_n"]) for parents, final in results(kept)] == [
        ([uid(1)], 4),
        ([uid(2), uid(1)], 8),
        ([uid(3), uid(1)], 8),
    ]
    assert [stop["exit_status"] for stop in kept.named("stop")] == ["success", "abort", "success"]


def test_a_run_that_lacks_a_key_is_of_no_group(kept):
    feed(Pipeline([Node("sum", Mean("det"), over=group_by("sample", "edge"))], [kept]), run(1))

    assert list(kept) == []


@pytest.mark.parametrize(
    ("rule", "times", "n_events"),
    [
        (group_by("sample", count=2), [0, 1, 2, 3], [4, 8, 4, 8]),
        (group_by("sample", seconds=60), [0, 50, 100, 200], [4, 8, 12, 4]),
    ],
)
def test_a_group_is_closed_by_count_or_by_time(rule, times, n_events, kept):
    pipeline = Pipeline([Node("sum", Mean("det"), over=rule)], [kept])

    for k, time in enumerate(times, 1):
        documents = run(k)
        documents[0] = ("start", {**documents[0][1], "time": 1e9 + time})
        feed(pipeline, documents)

    assert [final["n_events"] for _, final in results(kept)] == n_events


def test_a_group_is_closed_by_hand(kept):
    node = Node("sum", Mean("det"), over=group_by("sample"))
    pipeline = Pipeline([node], [kept])
    feed(pipeline, run(1), run(2, "Au"))

    assert node.over.close(sample="Cu") == 1
    feed(pipeline, run(3), run(4, "Au"))

    assert [final["n_events"] for _, final in results(kept)] == [4, 4, 4, 8]
    assert node.over.close() == 2


def test_maps_and_histograms_of_runs_add_up_and_what_is_normalised_does(kept):
    node = Node(
        "all",
        Normalize("det", "i0", name="mu"),
        Histogram("mu", {"start": 0, "stop": 4, "n": 4}),
        Map("x", "y", "mu", shape=[1, 2], extents=[[0, 0], [0, 1]]),
        over=group_by("sample"),
    )
    data = {"x": [0.0, 1.0], "y": [0.0, 0.0], "det": [2.0, 6.0], "i0": [2.0, 2.0]}

    pipeline = Pipeline([node], [kept])
    feed(pipeline, make_run(data, uid="a", sample="Cu"), make_run({**data, "det": [4.0, 6.0]}, uid="b", sample="Cu"))

    final = results(kept)[-1][1]
    assert final["mu_hist"].tolist() == [0, 1, 1, 2]
    assert final["mu_map"].tolist() == [[1.5, 3.0]]
    assert pipeline.result("all")["mu_hist"].tolist() == [0, 1, 1, 2]


def test_what_cannot_be_merged_or_is_no_rule_is_refused():
    with pytest.raises(PipelineError, match="wanted reductions that can be merged, Drift cannot"):
        Node("drift", Drift(["det"]), over=group_by("sample"))
    for keys, how in (((), {}), (("sample",), {"count": 1}), (("sample",), {"seconds": 0})):
        with pytest.raises(PipelineError, match="group_by: wanted"):
            group_by(*keys, **how)


def test_runs_of_other_shapes_end_their_own_analysis_and_are_not_taken_in(kept):
    spectra = {
        uid: make_run({"mca": [numpy.ones(n)] * 2}, uid=uid, sample="Cu") for uid, n in (("a", 3), ("b", 4), ("c", 3))
    }

    feed(Pipeline([Node("mean", Mean("mca"), over=group_by("sample"))], [kept]), *spectra.values())

    assert [stop["exit_status"] for stop in kept.named("stop")] == ["success", "fail", "success"]
    assert results(kept)[-1][1]["n_events"] == 4


def test_a_group_in_yaml_is_the_group_in_python(tmp_path):
    path = tmp_path / "group.yaml"
    for text, over in (
        ("[sample, edge]", group_by("sample", "edge")),
        ("{keys: [sample], count: 3}", group_by("sample", count=3)),
    ):
        path.write_text(f"nodes:\n  - {{name: sum, over: {text}, reductions: [{{Mean: det}}]}}\n")
        (node,) = load(path).nodes
        assert node.recipe == Node("sum", Mean("det"), over=over).recipe
    path.write_text("nodes:\n  - {name: sum, over: {keys: []}, reductions: [{Mean: det}]}\n")
    with pytest.raises(PipelineError, match=r"nodes\[0\].over: group_by: wanted keys"):
        load(path)


def test_each_parent_leads_to_the_analysis(kept):
    import databroker

    catalog = databroker.temp()
    feed(Pipeline([Node("sum", Mean("det"), over=group_by("sample"))], [kept]), run(1), run(2))
    for name, doc in kept:
        catalog.insert(
            name, {**doc, **({"data": {k: float(v) for k, v in doc["data"].items()}} if "data" in doc else {})}
        )

    assert len(analyses(catalog, uid(1))) == 2
    assert len(analyses(catalog, uid(2))) == 1

"""The kin of a run are found in every kind of catalog, whoever wrote them."""

import json
import uuid

import catalog_kinds
import prov.model
import pytest

from pipeline.catalogs import runs_of
from pipeline.errors import PipelineKeyError, PipelineTypeError, PipelineValueError
from pipeline.family import Family, Link
from pipeline.kin import parents_of
from pipeline.lineage import analyses, lineage, raw_runs
from pipeline.provenance import linked_metadata

RECIPE = {
    "node": "peak",
    "stream": "primary",
    "reductions": [{"name": "PeakStatistics", "version": 1, "arguments": {"x": "motor", "y": "det"}}],
}


@pytest.fixture(scope="module", params=catalog_kinds.KINDS)
def catalog(request, tmp_path_factory):
    with catalog_kinds.catalog_of(request.param, request, tmp_path_factory.mktemp("lineage")) as catalog:
        yield catalog


@pytest.fixture
def add(catalog):
    def add(uid=None, time=1.0, container="analysis", **metadata):
        start = {"uid": uid or str(uuid.uuid4()), "time": time, **metadata}
        stop = {"uid": str(uuid.uuid4()), "time": time + 1, "run_start": start["uid"], "exit_status": "success"}
        return catalog_kinds.add(catalog, start, stop, container)

    return add


@pytest.fixture
def raw(add):
    return add(container="raw", plan_name="scan", scan_id=7)


def analysis_of(raw, node="peak", **recipe):
    return linked_metadata({"raw": {"uid": raw, "time": 1.0}}, {**RECIPE, "node": node, **recipe})


def uids(runs):
    return [run.uid for run in runs]


def test_analyses_of_a_raw_run_come_newest_first(catalog, add, raw):
    made = [add(time=time, **analysis_of(raw)) for time in (1.0, 3.0, 2.0, 3.0)]
    add(**analysis_of(add(container="raw")))

    assert uids(analyses(catalog, raw)) == [made[3], made[1], made[2], made[0]]
    assert uids(analyses(catalog, raw, limit=2)) == [made[3], made[1]]
    assert analyses(catalog, str(uuid.uuid4())) == []


def test_analyses_are_found_by_node_recipe_and_reduction(catalog, add, raw):
    peak = add(**analysis_of(raw))
    mean = add(**analysis_of(raw, "mean", reductions=[{"name": "Mean", "version": 1, "arguments": {"field": "det"}}]))
    add(original_run_uid=raw, analysis="somebody else's")

    digest = analysis_of(raw)["analysis"]["recipe_hash"]
    assert uids(analyses(catalog, raw, node="mean")) == [mean]
    assert uids(analyses(catalog, raw, recipe=digest)) == uids(analyses(catalog, raw, recipe=digest[:6])) == [peak]
    assert uids(analyses(catalog, raw, reduction="Mean")) == [mean]
    assert analyses(catalog, raw, node="mean", reduction="PeakStatistics") == []
    assert len(analyses(catalog, raw)) == 3


@pytest.mark.parametrize(
    "words",
    [
        lambda uid: {"original_run_uid": uid},
        lambda uid: {"raw_run_uid": uid},
        lambda uid: {"raw_uid": uid},
        lambda uid: {"original_start_uid": uid},
        lambda uid: {"parent_uid": uid},
        lambda uid: {"parent_uids": ["another", uid]},
        lambda uid: {"analysis": {"parents": [{"uid": "another", "role": "dark"}, {"uid": uid, "role": "raw"}]}},
    ],
)
def test_kin_are_known_by_the_words_of_others(catalog, add, raw, words):
    made = add(**words(raw))
    add(note=f"not made of {raw}", sample={"uid": raw})

    assert uids(analyses(catalog, raw)) == [made]
    assert raw in [parent.uid for parent in raw_runs(catalog, made)]


def test_a_raw_run_may_be_given_as_uid_document_or_run(catalog, add, raw):
    made = add(**analysis_of(raw))
    (parent,) = raw_runs(catalog, made)

    for each in (raw, {"uid": raw, "time": 1.0}, parent.run, parent.run.client):
        assert uids(analyses(catalog, each)) == [made]
    (run,) = analyses(catalog, raw)
    for each in (run, run.client, run.metadata["start"]):
        assert uids(parent.run for parent in raw_runs(catalog, each)) == [raw]


def test_parents_come_in_order_with_their_roles_even_those_that_are_not_there(catalog, add, raw):
    dark = add(container="raw")
    parents = [{"uid": dark, "role": "dark"}, {"uid": raw, "role": "raw"}, {"uid": "elsewhere", "role": "flat"}]
    made = add(original_run_uid=raw, parent_uids=[dark, raw, "elsewhere"], analysis={"parents": parents})

    found = raw_runs(catalog, made)

    assert [(parent.uid, parent.role) for parent in found] == [(dark, "dark"), (raw, "raw"), ("elsewhere", "flat")]
    assert [parent.run and parent.run.uid for parent in found] == [dark, raw, None]
    assert raw_runs(catalog, raw) == []


def test_a_raw_run_in_the_container_of_analyses_is_found(catalog, add):
    raw = add()
    made = add(**analysis_of(raw))

    assert raw_runs(catalog, made)[0].run.uid == raw


def test_either_container_stands_for_both(catalog, add, raw):
    made = add(**analysis_of(raw))

    for each in (runs_of(catalog, "raw"), runs_of(catalog)):
        assert uids(analyses(each, raw)) == [made]
        assert uids(parent.run for parent in raw_runs(each, made)) == [raw]


def test_the_lineage_goes_both_ways_over_generations(catalog, add, raw):
    peak = add(time=2.0, **analysis_of(raw))
    fit = add(time=3.0, original_run_uid=raw, parent_uids=[peak], analysis={"node": "fit"})
    other = add(time=4.0, raw_uid=raw, plan_name="by others")

    for asked, marks in ((raw, [1, 0, 0, 0]), (peak, [0, 1, 0])):
        lines = lineage(catalog, asked, format="tree").splitlines()
        assert ["<-- asked for" in line for line in lines] == marks
    assert lineage(catalog, raw).tree() == (
        f"{raw}  scan  scan 7  <-- asked for\n├─ {peak}  peak\n│  └─ {fit}  fit\n└─ {other}  by others"
    )
    assert set(lineage(catalog, fit).runs) == {raw, peak, fit}
    assert lineage(catalog, fit).links == [Link(fit, peak, "parent"), Link(peak, raw, "raw")]


def test_a_raw_run_that_is_away_stays_in_the_lineage(catalog, add):
    made = add(original_run_uid="raw-far", parent_uids=["peak-far"])

    family = lineage(catalog, made)

    assert family.runs["raw-far"] is family.runs["peak-far"] is None
    assert "raw-far  not in this catalog\n└─ " in str(family)


def test_a_circle_ends(catalog, add):
    a, b = str(uuid.uuid4()), str(uuid.uuid4())
    add(a, parent_uids=[b, a])
    add(b, parent_uids=[a])

    family = lineage(catalog, a)

    assert set(family.runs) == {a, b}
    assert family.tree().count("(above)") == 1


def test_prov_is_read_by_others(catalog, add, raw):
    made = add(time=2.0, sample={"name": "Cu"}, **analysis_of(raw))

    text = lineage(catalog, made, format="prov")
    document = prov.model.ProvDocument.deserialize(content=text, format="json")

    kinds_of = [type(record).__name__ for record in document.get_records()]
    assert kinds_of.count("ProvEntity") == 2
    assert kinds_of.count("ProvActivity") == kinds_of.count("ProvUsage") == kinds_of.count("ProvGeneration") == 1
    assert kinds_of.count("ProvDerivation") == 1
    assert kinds_of.count("ProvAgent") == kinds_of.count("ProvAssociation") == 3
    again = prov.model.ProvDocument.deserialize(content=document.serialize(format="json"), format="json")
    assert again == document
    (activity,) = document.get_records(prov.model.ProvActivity)
    assert activity.get_startTime().timestamp() == 2.0
    assert activity.get_endTime().timestamp() == 3.0
    assert f"run:{raw}" in text
    assert json.loads(lineage(catalog, made, format="json"))["links"] == [{"uid": made, "parent": raw, "role": "raw"}]


def test_what_is_asked_wrongly_is_refused(catalog, raw):
    with pytest.raises(PipelineValueError, match="6 letters or more of a recipe's hash, there is 'ab'"):
        analyses(catalog, raw, recipe="ab")
    with pytest.raises(PipelineValueError, match="limit of 1 or more, there is 0"):
        analyses(catalog, raw, limit=0)
    with pytest.raises(PipelineTypeError, match="wanted the uid of a run"):
        analyses(catalog, 7)
    with pytest.raises(PipelineTypeError, match="wanted the uid of a run"):
        analyses(catalog, "")
    with pytest.raises(PipelineKeyError, match="wanted the run nowhere"):
        raw_runs(catalog, "nowhere")
    with pytest.raises(PipelineKeyError, match="wanted the run nowhere"):
        lineage(catalog, "nowhere")
    with pytest.raises(PipelineValueError, match=r"format is 'svg'; wanted one of \['tree', 'mermaid'"):
        lineage(catalog, raw, format="svg")


def test_a_uid_of_odd_letters_is_found(catalog, add):
    odd = f'a/b "c" 100% _\'é\\ {uuid.uuid4()}'
    made = add(original_run_uid=odd)
    add(original_run_uid=odd[:-1] + "x")

    assert uids(analyses(catalog, odd)) == [made]


# without a catalog -------------------------------------------------------------------------------------------------


def test_nothing_is_kin_that_is_no_text():
    assert parents_of({"uid": "a", "original_run_uid": None, "parent_uids": [1, None, ""], "analysis": "x"}) == []
    assert parents_of({"uid": "a", "original_run_uid": "a", "analysis": {"parents": ["b", {"uid": 3}]}}) == []


EVIL = 'x"]; click n0 "javascript:alert(1)" <script>\n`#\\"\x1b[31m%%'


def evil_family():
    runs = {EVIL: {"start": {"uid": EVIL, "plan_name": EVIL, "scan_id": EVIL}}, "b": None}
    return Family("b", runs, [Link("b", EVIL, EVIL)])


def test_text_of_documents_does_nothing_in_a_terminal():
    tree = evil_family().tree()

    assert len(tree.splitlines()) == 2
    assert tree.replace("\n", "").isprintable()


def test_text_of_documents_ends_no_label_of_mermaid():
    lines = evil_family().mermaid().splitlines()

    assert len(lines) == 5
    for line in lines[1:4]:
        inside = line.partition('"')[2].rpartition('"')[0]
        assert not set(inside.replace("<br/>", "")) & set('"<>`[]\x1b')


def test_text_of_documents_ends_no_label_of_graphviz():
    lines = evil_family().graphviz().splitlines()

    assert len(lines) == 5
    for line in lines[1:4]:
        plain = line.replace("\\\\", "").replace('\\"', "")
        assert plain.count('"') == 2
        assert "\x1b" not in line


def test_prov_of_any_text_is_read_by_others():
    text = json.dumps(evil_family().prov())

    document = prov.model.ProvDocument.deserialize(content=text, format="json")

    assert len(list(document.get_records(prov.model.ProvEntity))) == 2

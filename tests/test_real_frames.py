"""Real frames, each set in both forms that documents have, give what independent programs gave."""

import shutil

import numpy
import pytest
from kept import Kept
from lanes import Lanes

from pipeline import Node, Pipeline
from pipeline.catalog import open_catalog
from pipeline.readers import Assets
from pipeline.reductions import FrameAverage, Quality, Regions
from pipeline.service import Service
from pipeline.sinks import JSONLSink, TiledSink
from pipeline.sources import read_jsonl
from pipeline.sources.catalog import read_catalog

K11 = "frames_k11_tomo/k11_stream.jsonl", "frames_k11_tomo/k11_resource_pages.jsonl"
CERIA = "frame_ceria_dexela/frame_ceria_dexela_stream.jsonl", "frame_ceria_dexela/frame_ceria_dexela_resource.jsonl"
AGBH = "frames_synth_agbh_pilatus300k/async_stream.jsonl", "frames_synth_agbh_pilatus300k/legacy_resource.jsonl"
XPCS = ("frames_synth_xpcs/xpcs_stream.jsonl",)
FIELDS = {**dict.fromkeys(K11, "imaging"), **dict.fromkeys(CERIA, "det_image"), **dict.fromkeys(XPCS, "det")}
FIELDS |= {AGBH[0]: "det", AGBH[1]: "det_image"}


def in_place(value, folder):
    """The documents name files below `__DATA_ROOT__`."""
    if isinstance(value, dict):
        return {key: in_place(part, folder) for key, part in value.items()}
    if isinstance(value, list):
        return [in_place(part, folder) for part in value]
    return value.replace("__DATA_ROOT__", str(folder)) if isinstance(value, str) else value


def raw_run(folder, file):
    return [(name, in_place(doc, folder)) for name, doc in read_jsonl(folder / file)]


def analyse(documents, *nodes, **assets):
    kept = Kept()
    Pipeline(nodes, [kept], assets=Assets(**assets)).replay(documents)
    kept.check_valid()
    return kept


def column(kept, key):
    return numpy.array([row[key] for row in kept.events("primary")])


@pytest.mark.parametrize("file", K11)
def test_a_tomography_scan_has_the_sums_that_integers_give(data_folder, file):
    reference = numpy.load(data_folder / "frames_k11_tomo" / "k11_reference.npz")
    nodes = Node("frames", Quality("imaging"), Regions("imaging", {"roi": [5, 15, 8, 20]}), every=0)

    kept = analyse(raw_run(data_folder, file), nodes, roots=[str(data_folder)])

    assert kept.stop["analysis"]["n_skipped"] == 0
    assert column(kept, "imaging_total").tolist() == reference["frame_sum"].tolist()
    assert column(kept, "imaging_roi_sum").tolist() == reference["roi_5_15_8_20_sum"].tolist()
    assert column(kept, "gts_theta")[100:3101] == pytest.approx(reference["theta_projection"], abs=1e-9)


@pytest.mark.parametrize("file", K11)
def test_flats_darks_and_projections_have_the_means_that_integers_give(data_folder, file):
    reference = numpy.load(data_folder / "frames_k11_tomo" / "k11_reference.npz")
    average = FrameAverage("imaging", group_by={"image_key": [0, 1, 2]})

    final = analyse(raw_run(data_folder, file), Node("means", average, every=0)).final()

    for name, mean, variance in zip(("proj", "flat", "dark"), final["imaging_mean"], final["imaging_var"], strict=True):
        assert mean.reshape(22, 26) == pytest.approx(reference[f"{name}_mean"], rel=1e-14)
        assert numpy.sqrt(variance).reshape(22, 26) == pytest.approx(reference[f"{name}_std"], rel=2e-2)


@pytest.mark.parametrize("files", [K11, CERIA, AGBH])
def test_both_forms_give_the_same(data_folder, files):
    kept = [
        analyse(raw_run(data_folder, file), Node("n", Quality(field), FrameAverage(field), every=0))
        for file, field in ((file, FIELDS[file]) for file in files)
    ]

    for stream in ("primary", "final"):
        rows = [
            [
                [numpy.asarray(value) for key, value in row.items() if key.startswith(FIELDS[file])]
                for row in each.events(stream)
            ]
            for file, each in zip(files, kept, strict=True)
        ]
        assert len(rows[0]) > 0
        assert all(
            numpy.array_equal(one, other, equal_nan=True)
            for first, second in zip(*rows, strict=True)
            for one, other in zip(first, second, strict=True)
        )


@pytest.mark.parametrize("file", FIELDS)
def test_a_service_makes_of_frames_what_a_replay_makes(data_folder, tmp_path, file):
    documents, field = raw_run(data_folder, file), FIELDS[file]
    nodes = [Node("n", Quality(field), FrameAverage(field, variance=False), every=0)]
    whole = analyse(documents, *nodes)
    source = Lanes(one=documents, batch=50)
    source.is_stored = True

    Service(Pipeline(nodes, [JSONLSink(tmp_path, max_array_bytes=None)]), source).run()

    (path,) = tmp_path.glob("*.jsonl")
    assert path.read_bytes() == whole.bytes()


def test_a_catalog_gives_the_frames_back(data_folder, tmp_path):
    """A Tiled catalog turns classic resources into streamed ones, and gives all `stream_datum` at the end, as one."""
    open_catalog(tmp_path)
    runs = {file: raw_run(data_folder, file) for file in (*AGBH, CERIA[1], *XPCS)}
    with TiledSink(tmp_path, container="raw") as sink:
        for documents in runs.values():
            for item in documents:
                sink(*item)
        sink.flush(60)
        catalog = open_catalog(tmp_path)["raw"]

        for file, documents in runs.items():
            node = Node("n", Quality(FIELDS[file]), every=0)
            stored = analyse(list(read_catalog(catalog[documents[0][1]["uid"]])), node)
            assert column(stored, f"{FIELDS[file]}_total").tolist() == (
                column(analyse(documents, node), f"{FIELDS[file]}_total").tolist()
            )


def test_frames_are_found_where_they_have_moved(data_folder, tmp_path):
    documents = [(name, in_place(doc, "/data/of/the/beamline")) for name, doc in read_jsonl(data_folder / XPCS[0])]
    shutil.copytree(data_folder / "frames_synth_xpcs", tmp_path / "frames_synth_xpcs")
    node = Node("n", Quality("det"), every=0)

    moved = analyse(documents, node, root_map={"/data/of/the/beamline": str(tmp_path)}, roots=[str(tmp_path)])

    assert moved.events("primary") == analyse(raw_run(data_folder, XPCS[0]), node).events("primary")
    assert "wanted what was announced" in analyse(documents, node).stop["reason"]


@pytest.mark.parametrize("file", ["external_assets", "external_assets_legacy", "external_assets_single_key"])
def test_files_that_do_not_exist_are_told(data_folder, file):
    documents = raw_run(data_folder, f"docs_peer_examples/bluesky-tiled-plugins_{file}.jsonl")

    kept = analyse(documents, Node("n", Quality("det-key2")))

    assert kept.stop["exit_status"] == "fail"
    assert kept.stop["reason"].startswith("field 'det-key2': ")
    assert f"there is no file {data_folder}/peer_assets/dataset.h5" in kept.stop["reason"]

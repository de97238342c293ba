"""What `resource` and `datum` documents tell of is what their handlers give, read once and kept from all hands."""

import threading
import weakref

import dask.array
import numpy
import pytest
import tifffile
from area_detector_handlers.handlers import AreaDetectorHDF5Handler
from bluesky.plans import scan
from frames import Checksum, classic, crc, datum, descriptor, event, frames, hdf5, resource, start, stop, values
from kept import Kept
from ophyd.sim import NumpySeqHandler, hw

from pipeline import Node, Pipeline
from pipeline.errors import AssetError
from pipeline.readers import Assets
from pipeline.reductions import FrameAverage, Mean
from pipeline.sources import read_jsonl

ROWS = frames(12, (4, 5))
KEY = {"dtype": "array", "shape": [4, 5]}
SERIES = {"dtype": "array", "shape": [3, 4, 5]}


def run_of(spec, path, *datums, key=KEY, uid="r", **kwargs):
    told = [datum(uid, i, **each) for i, each in enumerate(datums)]
    return classic("det", key, [resource(uid, spec, path, **kwargs)], told)


def points(n, name="point_number"):
    return [{name: i} for i in range(n)]


# area detectors and ophyd.sim, beside the handlers of others ------------------------------------------------------


@pytest.mark.parametrize("spec", ["AD_HDF5", "AD_HDF5_SWMR", "AD_HDF5_STREAM", "AD_HDF5_SWMR_STREAM"])
@pytest.mark.parametrize("per_point", [1, 3])
def test_frames_of_an_area_detector_are_those_its_handler_gives(spec, per_point, tmp_path):
    hdf5(tmp_path / "a.h5", ROWS, chunks=(1, 4, 5))
    theirs = AreaDetectorHDF5Handler(str(tmp_path / "a.h5"), frame_per_point=per_point)

    got = values(
        run_of(spec, tmp_path / "a.h5", *points(4), key=SERIES if per_point == 3 else KEY, frame_per_point=per_point)
    )

    for i, value in enumerate(got):
        assert value.shape == (per_point, 4, 5)
        assert numpy.array_equal(value, numpy.asarray(theirs(point_number=i)))
        assert not value.flags.writeable
    theirs.close()


def test_an_area_detector_may_say_which_dataset_and_frame(tmp_path):
    hdf5(tmp_path / "a.h5", ROWS, dataset="/entry/data/data_2")
    by_datum = run_of(
        "AD_HDF5_SWMR_STREAM",
        tmp_path / "a.h5",
        *({"frame": i, "dataset": "/entry/data/data_2"} for i in range(3)),
        chunk_shape=[100, 4, 5],
    )
    by_resource = run_of("AD_HDF5", tmp_path / "a.h5", *points(3), dataset="/entry/data/data_2")

    for documents in (by_datum, by_resource):
        assert [crc(value) for value in values(documents)] == [crc(row) for row in ROWS[:3]]


@pytest.mark.parametrize("per_point", [1, 3])
def test_tiff_files_of_an_area_detector_are_read_by_its_handler(per_point, tmp_path):
    for i, row in enumerate(ROWS):
        tifffile.imwrite(tmp_path / f"scan_{i:05d}.tiff", row)
    told = {"template": "%s%s_%5.5d.tiff", "filename": "scan", "frame_per_point": per_point}

    got = values(run_of("AD_TIFF", tmp_path, *points(4), key=SERIES if per_point == 3 else KEY, **told))

    assert [value.shape for value in got] == [(per_point, 4, 5)] * 4
    assert numpy.array_equal(numpy.concatenate(got), ROWS[: 4 * per_point])


def test_npy_files_of_ophyd_sim_are_read_by_its_handler(tmp_path):
    for i, row in enumerate(ROWS):
        numpy.save(tmp_path / f"img_{i}.npy", row)
    theirs = NumpySeqHandler(str(tmp_path / "img"))

    got = values(run_of("NPY_SEQ", tmp_path / "img", *points(12, "index")))

    assert numpy.array_equal(got, [theirs(i) for i in range(12)])


def test_a_resource_may_have_no_root(tmp_path):
    hdf5(tmp_path / "a.h5", ROWS)
    documents = run_of("AD_HDF5", tmp_path / "a.h5", *points(2))
    doc = documents[2][1]
    doc["root"], doc["resource_path"] = "", str(tmp_path / "a.h5")

    assert numpy.array_equal(numpy.concatenate(values(documents)), ROWS[:2])
    del doc["root"]
    assert numpy.array_equal(numpy.concatenate(values(documents)), ROWS[:2])


def test_a_run_may_have_several_resources_and_datums_in_pages(tmp_path):
    for i in range(2):
        hdf5(tmp_path / f"{i}.h5", ROWS[6 * i : 6 * i + 6])
    resources = [resource(f"r{i}", "AD_HDF5", tmp_path / f"{i}.h5") for i in range(2)]
    pages = [
        (
            "datum_page",
            {
                "resource": f"r{i}",
                "datum_id": [f"r{i}/{n}" for n in range(6)],
                "datum_kwargs": {"point_number": list(range(6))},
            },
        )
        for i in range(2)
    ]
    told = [(None, {"datum_id": f"r{i}/{n}"}) for i in range(2) for n in range(6)]
    documents = [each for each in classic("det", KEY, [*resources, *pages], told) if each[0] is not None]

    assert numpy.array_equal(numpy.concatenate(values(documents)), ROWS)


# one's own ---------------------------------------------------------------------------------------------------------


class Newton:
    """Newton's rings, by the formula of the collection's README."""

    def __init__(self, path, radius=30.0, wave_number=2.0, **others):
        self.radius, self.wave_number = others.get("R", radius), wave_number

    def __call__(self, gap):
        x, y = numpy.ogrid[-10:10:128j, -10:10:128j]
        d = numpy.hypot(x, y)
        height = d * numpy.tan(numpy.pi / 2 - numpy.arcsin(d / self.radius))
        return 1 + numpy.cos(2 * self.wave_number * (gap + height))


def test_runs_of_the_tutorials_are_read_by_a_handler_of_ones_own(data_folder):
    (file, *_) = sorted(data_folder.glob("docs_tutorials_2020/2ecb9b67*.jsonl"))
    documents = list(read_jsonl(file))
    (told,) = [doc for name, doc in documents if name == "resource"]
    gaps = [gap for name, doc in documents if name == "datum_page" for gap in doc["datum_kwargs"]["gap"]]

    kept = Kept()
    Pipeline(
        [Node("rings", Checksum("ns_image"), FrameAverage("ns_image"), every=0)],
        [kept],
        assets=Assets(handlers={"newton": Newton}),
    ).replay(documents)

    newton = Newton("", **told["resource_kwargs"])
    frames = [newton(gap) for gap in gaps]
    assert len(gaps) == 25
    assert [row["ns_image_crc"] for row in kept.events("primary")] == [crc(each) for each in frames]
    numpy.testing.assert_allclose(kept.final()["ns_image_mean"], numpy.mean(frames, axis=0), rtol=1e-6)


def own(handler, n=3, key=KEY, **kwargs):
    """What is read through a handler, which may be a function."""
    return values(run_of("own", "/nowhere/a", *points(n), key=key), assets=Assets(handlers={"own": handler}, **kwargs))


def test_a_handler_may_be_a_function_of_the_path():
    assert [
        value.tolist() for value in own(lambda path: lambda point_number: [point_number, path == "/nowhere/a"])
    ] == [[0, 1], [1, 1], [2, 1]]


def test_a_handler_may_give_dask_arrays_lists_numbers_and_other_byte_orders():
    gives = [
        dask.array.from_array(ROWS[0]),
        ROWS[1].tolist(),
        7,
        ROWS[2].astype(">u2"),
        ROWS[3][::-1, ::2],
        memoryview(ROWS[4]),
    ]

    got = own(lambda path: lambda point_number: gives[point_number], n=6)

    wanted = [ROWS[0], ROWS[1], numpy.array(7), ROWS[2], ROWS[3][::-1, ::2], ROWS[4]]
    assert all(numpy.array_equal(*pair) for pair in zip(got, wanted, strict=True))
    assert all(value.dtype.isnative and not value.flags.writeable for value in got)


def test_a_handler_may_use_its_array_again():
    buffer = numpy.zeros((4, 5))

    def handler(path):
        def read(point_number):
            buffer[:] = point_number
            return buffer

        return read

    got = own(handler)

    assert [value.max() for value in got] == [0, 1, 2]
    buffer[:] = 9
    assert [value.max() for value in got] == [0, 1, 2]


FAULTS = {
    "raises": (lambda point_number: 1 / 0, "ZeroDivisionError: division by zero"),
    "text": (lambda point_number: "frame", "wanted any frames, there is <U5"),
    "objects": (lambda point_number: [None, {}], "there is object"),
    "nothing": (lambda point_number: None, "there is object"),
    "ragged": (lambda point_number: [[1], [1, 2]], "ValueError"),
    "arguments": (lambda: 1, "TypeError"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_handler_that_cannot_read_is_told_with_what_it_says(name):
    read, says = FAULTS[name]

    with pytest.raises(AssetError, match=f"field 'det': own /nowhere/a, .'point_number': 0.: wanted .*{says}"):
        own(lambda path: read)


@pytest.mark.parametrize(("gives", "shape"), [(ROWS[:2], [3, 4, 5]), (ROWS[0], [3, 4, 5]), (ROWS[:0], [1, 4, 5])])
def test_too_few_frames_are_refused(gives, shape):
    with pytest.raises(AssetError, match=f"wanted {shape[0]} frames, there is uint16 of shape"):
        own(lambda path: lambda point_number: gives, key={"dtype": "array", "shape": shape})


@pytest.mark.parametrize("shape", [[4, 5], [1, 4, 5], [4, 5, 3], [0, 4, 5], [None, 4, 5], [5, 4, 0], []])
@pytest.mark.parametrize("gives", [ROWS[0], ROWS[:1], numpy.zeros((1, 4, 5, 3))])
def test_whatever_shape_an_old_descriptor_says_one_frame_is_read(shape, gives):
    if shape == [4, 5, 3] and gives.ndim < 4:
        gives = numpy.zeros((4, 5, 3))

    (got,) = own(lambda path: lambda point_number: gives, n=1, key={"dtype": "array", "shape": shape})

    assert numpy.array_equal(got, gives)


def test_an_unknown_spec_is_told_with_the_nearest():
    with pytest.raises(AssetError, match=r"no handler for resources of spec 'AD_HDF'; did you mean 'AD_HDF5'\?"):
        values(run_of("AD_HDF", "/nowhere/a", *points(1)))


def test_a_handler_that_cannot_be_made_is_told_with_what_it_says(tmp_path):
    def handler(path):
        raise OSError("no such beamline")

    with pytest.raises(AssetError, match=r"own /nowhere/a, .*OSError: no such beamline"):
        own(handler)
    with pytest.raises(AssetError, match=r"TypeError"):
        values(run_of("AD_TIFF", tmp_path, *points(1)))


def test_a_handler_is_closed_with_its_run_and_made_anew_after_a_fault():
    made, closed = [], []

    class Handler:
        def __init__(self, path):
            made.append(self)

        def __call__(self, point_number):
            if point_number == 1:
                raise OSError("not now")
            return ROWS[point_number]

        def close(self):
            closed.append(self)

    kept = Kept()
    documents = run_of("own", "/nowhere/a", *points(4))
    assets = Assets(handlers={"own": Handler}, missing="skip", timeout=0.0)
    Pipeline([Node("each", Checksum("det"), every=0)], [kept], assets=assets).replay(documents)

    assert [row["det_crc"] for row in kept.events("primary")] == [
        crc(row) if i != 1 else 0 for i, row in enumerate(ROWS[:4])
    ]
    assert closed == made
    assert len(made) == 2


def test_of_resources_that_follow_one_another_few_values_and_handlers_are_there():
    """As of a camera that writes a file for each point; and of all fields that a file has."""
    values, handlers, most = [], [], []

    class Handler:
        def __init__(self, path):
            handlers.append(self)
            self.is_open = True

        def __call__(self, point_number):
            most.append((_n_there(values), sum(each.is_open for each in handlers)))
            value = ROWS[point_number].copy()
            values.append(weakref.ref(value))
            return value

        def close(self):
            self.is_open = False

    keys = {field: {"source": "", "external": "OLD:", **KEY} for field in ("one", "two")}
    documents = [start(), descriptor(keys)]
    for i in range(10):
        documents.append(resource(f"r{i}", "own", f"/nowhere/{i}"))
        documents += [datum(f"r{i}", n, point_number=(i + n) % 12) for n in range(6)]
        for n in (0, 2, 4):
            data = {"one": f"r{i}/{n}", "two": f"r{i}/{n + 1}"}
            documents.append(event(3 * i + n // 2 + 1, data, filled=dict.fromkeys(keys, False)))
    kept, node = Kept(), Node("each", Checksum("one"), Checksum("two"), every=0)
    Pipeline([node], [kept], assets=Assets(handlers={"own": Handler})).replay([*documents, stop(30)])

    wanted = [[crc(ROWS[(i + n + k) % 12]) for k in (0, 1)] for i in range(10) for n in (0, 2, 4)]
    assert [[row["one_crc"], row["two_crc"]] for row in kept.events("primary")] == wanted
    assert len(handlers) == 10
    assert max(n_values for n_values, _ in most) <= 2 * 3
    assert max(n_open for _, n_open in most) <= 5


def _n_there(references):
    return sum(reference() is not None for reference in references)


def test_a_datum_that_many_events_name_is_read_once_for_all_nodes():
    read = []

    def handler(path):
        return lambda point_number: read.append(point_number) or ROWS[point_number]

    documents = [
        start(),
        descriptor({"det": {"source": "", "external": "OLD:", **KEY}}),
        resource("r", "own", "/nowhere/a"),
        datum("r", 0, point_number=5),
    ]
    documents += [event(n, {"det": "r/0"}, filled={"det": False}) for n in range(1, 9)]
    kept, nodes = Kept(), [Node(name, Checksum("det"), every=0) for name in ("one", "two")]
    Pipeline(nodes, [kept], assets=Assets(handlers={"own": handler})).replay([*documents, stop(8)])

    assert read == [5]
    for name in ("one", "two"):
        assert [row["det_crc"] for row in kept.of_node(name).events("primary")] == [crc(ROWS[5])] * 8


def test_a_dark_that_all_events_name_is_known_however_many_there_are():
    documents = [
        start(),
        descriptor(
            {field: {"source": "", "external": "OLD:", "dtype": "array", "shape": []} for field in ("dark", "det")}
        ),
    ]
    documents += [resource("r", "own", "/nowhere/a"), datum("r", "dark", point_number=-1)]
    run = Assets(handlers={"own": lambda path: lambda point_number: point_number}).of_run()
    run.want()
    for name, doc in documents:
        run(name, doc)

    for i in range(15_000):
        run(*datum("r", i, point_number=i))
        assert run.frame("det", f"r/{i}") is not None
        assert run.frame("dark", "r/dark") is not None


def test_files_that_come_late_are_waited_for(tmp_path):
    def write():
        for i, row in enumerate(ROWS[:3]):
            numpy.save(tmp_path / f"part_{i}.npy", row)
            (tmp_path / f"part_{i}.npy").rename(tmp_path / f"img_{i}.npy")

    timer = threading.Timer(0.2, write)
    timer.start()
    got = values(run_of("NPY_SEQ", tmp_path / "img", *points(3, "index")), assets=Assets(timeout=20.0), is_stored=False)
    timer.join()

    assert numpy.array_equal(got, ROWS[:3])


# live --------------------------------------------------------------------------------------------------------------


def test_images_of_ophyd_sim_are_reduced_live_as_in_replay(RE, tmp_path):
    devices = hw(save_path=str(tmp_path))
    nodes = [Node("each", Checksum("img"), FrameAverage("img")), Node("motor", Mean("motor"), every=0)]
    live, raw = Kept(), Kept()
    RE.subscribe(Pipeline(nodes, [live], assets=Assets(roots=[str(tmp_path)])))
    RE.subscribe(raw)

    RE(scan([devices.img], devices.motor, 0, 4, 5))

    again = Kept()
    Pipeline(nodes, [again]).replay(raw)
    written = [numpy.load(path) for path in sorted(tmp_path.glob("*.npy"))]
    assert sorted(row["img_crc"] for row in live.of_node("each").events("primary")) == sorted(map(crc, written))
    assert len(written) == 5
    assert again.bytes() == live.bytes()
    live.check_valid()

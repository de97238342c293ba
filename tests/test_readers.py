"""What is in files is read as h5py, tifffile, numpy and zarr read it, and as nothing else."""

import threading
import time

import h5py
import hdf5plugin
import numpy
import pytest
import tifffile
from frames import (
    HDF5,
    TIFF,
    Stored,
    descriptor,
    frames,
    hdf5,
    npys,
    start,
    stream_datum,
    stream_resource,
    streamed,
    tiffs,
    uri_of,
    values,
    zarrs,
)
from hdf5_writer import Writer, frame

from pipeline.errors import AssetError
from pipeline.readers import Assets

INTEGERS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"]
ALL = [*INTEGERS, "f2", "f4", "f8", ">u2", ">i4", ">f4", ">f8"]
KINDS = {"hdf5": hdf5, "tiff": tiffs, "npy": npys, "zarr": zarrs}


def store(kind, folder, rows, **kwargs):
    folder.mkdir(exist_ok=True)
    return KINDS[kind](folder / "frames.h5" if kind == "hdf5" else folder, rows, **kwargs)


def check(got, wanted):
    """Each is an array like the one that was wanted, in the byte order of this machine, that cannot be written to."""
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype.newbyteorder("=")
        assert one.dtype.isnative
        assert not one.flags.writeable
        numpy.testing.assert_array_equal(one, other, strict=one.dtype == other.dtype)


# as they are -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("kind", KINDS)
def test_frames_of_any_dtype_are_read_as_they_are(kind, dtype, tmp_path):
    rows = frames(4, (4, 5), dtype)
    stored = store(kind, tmp_path, rows)

    check(values(streamed({"det": stored}, 4)), rows)


@pytest.mark.parametrize("kind", ["hdf5", "npy", "zarr"])
@pytest.mark.parametrize("dtype", ["?", "c8", "c16"])
def test_masks_and_complex_numbers_are_read_as_they_are(kind, dtype, tmp_path):
    rows = frames(3, (4, 5), dtype)

    check(values(streamed({"det": store(kind, tmp_path, rows)}, 3)), rows)


def test_values_that_are_not_finite_are_read_as_they_are(tmp_path):
    rows = numpy.array([[numpy.nan, numpy.inf], [-numpy.inf, -0.0], [5e-324, 1.0]])
    (got, *_) = [
        values(streamed({"det": store(kind, tmp_path / kind, rows, shape=[2])}, 3)) for kind in ("hdf5", "zarr")
    ]

    assert numpy.array(got).tobytes() == rows.tobytes()


LAYOUTS = {  # shape of one event, shape of what is stored for 6
    "a frame": ([4, 5], (6, 4, 5)),
    "a series of one": ([1, 4, 5], (6, 1, 4, 5)),
    "a series of one, one behind the other": ([1, 4, 5], (6, 4, 5)),
    "a series": ([3, 4, 5], (6, 3, 4, 5)),
    "a series, one behind the other": ([3, 4, 5], (18, 4, 5)),
    "sizes that are not known": ([None, 4, None], (6, 3, 4, 5)),
    "a curve": ([7], (6, 7)),
    "a cube": ([2, 3, 4, 5], (6, 2, 3, 4, 5)),
}


@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
@pytest.mark.parametrize(("shape", "stored"), LAYOUTS.values(), ids=LAYOUTS)
def test_rows_are_stacked_or_one_behind_the_other(kind, shape, stored, tmp_path):
    rows = frames(stored[0], stored[1:])
    told = store(kind, tmp_path, rows, shape=shape)

    wanted = rows.reshape(6, *(n or stored[i + 1] for i, n in enumerate(shape)))
    check(values(streamed({"det": told}, 6)), wanted)


@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
@pytest.mark.parametrize("shape", [[], [1]])
@pytest.mark.parametrize("stored", [(6,), (6, 1), (6, 1, 1)])
def test_numbers_are_read_as_numbers(kind, shape, stored, tmp_path):
    rows = numpy.arange(6, dtype="i8").reshape(stored)

    got = values(streamed({"sum": store(kind, tmp_path, rows, shape=shape)}, 6), "sum")

    assert got == [0, 1, 2, 3, 4, 5]
    assert {numpy.ndim(value) for value in got} == {0}


CHUNKS = [(1, 4, 5), (4, 4, 5), (100, 4, 5), (2, 2, 3), (1, 4, 2)]


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("batch", [1, 3, 10])
def test_chunks_and_batches_of_any_size_give_the_same_rows(chunks, batch, tmp_path):
    rows = frames(10, (4, 5))
    stored = hdf5(tmp_path / "a.h5", rows, shape=[1, 4, 5], chunks=chunks, maxshape=(None, 4, 5))

    check(values(streamed({"det": stored}, 10, batch=batch)), rows[:, None])


FILTERS = {
    "gzip": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "bitshuffle-lz4": hdf5plugin.Bitshuffle(),
    "bitshuffle-zstd": hdf5plugin.Bitshuffle(cname="zstd"),
    "blosc": hdf5plugin.Blosc(cname="zstd"),
    "blosc2": hdf5plugin.Blosc2(),
    "lz4": hdf5plugin.LZ4(),
    "zstd": hdf5plugin.Zstd(),
}


@pytest.mark.parametrize("compression", FILTERS.values(), ids=FILTERS)
def test_what_detectors_compress_with_is_read(compression, tmp_path):
    rows = frames(5, (64, 65), "u4")
    kwargs = compression if isinstance(compression, dict) else {"compression": compression}
    stored = hdf5(tmp_path / "a.h5", rows, chunks=(1, 64, 65), **kwargs)

    check(values(streamed({"det": stored}, 5)), rows)


def test_large_frames_are_read_one_by_one_and_small_ones_together(tmp_path):
    large, small = frames(3, (2000, 1200)), numpy.arange(20_000.0)
    stored = {"det": hdf5(tmp_path / "a.h5", large), "sum": hdf5(tmp_path / "b.h5", small, shape=[], chunks=(1000,))}

    check(values(streamed({"det": stored["det"]}, 3, batch=3)), large)
    assert values(streamed({"sum": stored["sum"]}, 20_000, batch=20_000), "sum") == small.tolist()


def test_a_zarr_array_may_have_any_format_and_codec(tmp_path):
    rows = frames(5, (8, 9), "i4")
    for i, kwargs in enumerate(
        [{}, {"zarr_format": 2}, {"chunks": (2, 8, 9)}, {"chunks": (1, 4, 9), "shards": (1, 8, 9)}]
    ):
        stored = store("zarr", tmp_path / str(i), rows, dataset="a/b" if i else "", **kwargs)
        check(values(streamed({"det": stored}, 5)), rows)


# sequences of files ------------------------------------------------------------------------------------------------

TEMPLATES = {
    "{:05d}.tif": {},
    "{:d}.tif": {},
    "{}.tif": {},
    "%s_%05d.tif": {"filename": "scan"},
    "%s%s_%6.6d.tif": {"filename": "scan"},
    "%d.tif": {},
    "/under/{:03d}.tif": {},
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_are_of_both_styles(template, tmp_path):
    rows, told = frames(3, (4, 5)), TEMPLATES[template]
    name = told.get("filename", "")
    names = {
        "%s%s_%6.6d.tif": [f"{name}_{i:06d}.tif" for i in range(3)],
        "%s_%05d.tif": [f"{name}_{i:05d}.tif" for i in range(3)],
        "%d.tif": [f"{i}.tif" for i in range(3)],
    }.get(template) or [template.format(i) for i in range(3)]
    (tmp_path / "under").mkdir()
    for each, row in zip(names, rows, strict=True):
        tifffile.imwrite(f"{tmp_path}/{each}", row)
    stored = Stored(f"{uri_of(tmp_path)}/", TIFF, {"template": template, **told}, [4, 5], "<u2")

    check(values(streamed({"det": stored}, 3)), rows)


@pytest.mark.parametrize("kind", ["tiff", "npy"])
@pytest.mark.parametrize("parameters", [{}, {"files_per_datum": 3}])
def test_several_files_make_a_series(kind, parameters, tmp_path):
    rows = frames(12, (4, 5))
    stored = store(kind, tmp_path, rows, shape=[3, 4, 5])
    stored = stored._replace(parameters=stored.parameters | parameters)

    check(values(streamed({"det": stored}, 4)), rows.reshape(4, 3, 4, 5))
    check(values([*streamed({"det": stored}, 4)[:3], stream_datum("det", 3, 5)]), rows.reshape(4, 3, 4, 5)[2:])


def test_files_have_several_pages(tmp_path):
    rows = frames(6, (4, 5))
    pages = store("tiff", tmp_path / "a", rows.reshape(3, 2, 4, 5), shape=[2, 4, 5])
    both = store("tiff", tmp_path / "b", rows.reshape(3, 2, 4, 5), shape=[6, 4, 5])

    check(values(streamed({"det": pages}, 3)), rows.reshape(3, 2, 4, 5))
    check(values(streamed({"det": both}, 1)), rows.reshape(1, 6, 4, 5))


def test_a_file_is_a_series_of_one_frame(tmp_path):
    rows = frames(3, (4, 5))
    for kind in ("tiff", "npy"):
        check(values(streamed({"det": store(kind, tmp_path / kind, rows, shape=[1, 4, 5])}, 3)), rows[:, None])


@pytest.mark.parametrize("shape", [[5, 4], [2, 10], [20], [4, 6], [2, 4, 5]])
def test_a_file_of_another_shape_is_refused_though_it_has_as_many_values(shape, tmp_path):
    stored = store("tiff", tmp_path, frames(1, (4, 5)), shape=shape)

    with pytest.raises(AssetError, match=r"wanted .*there is"):
        values(streamed({"det": stored}, 1))


def test_files_that_differ_in_dtype_keep_their_own(tmp_path):
    stored = store("tiff", tmp_path, frames(2, (4, 5), "u1"))
    tifffile.imwrite(tmp_path / "img_00001.tif", frames(1, (4, 5), "f4")[0])

    assert [value.dtype for value in values(streamed({"det": stored}, 2, batch=2))] == ["u1", "f4"]


def test_a_name_with_the_letters_of_a_pattern_is_a_name(tmp_path):
    folder = tmp_path / "a[1]*?"
    stored = store("tiff", folder, frames(2, (4, 5)))

    check(values(streamed({"det": stored}, 2)), frames(2, (4, 5)))


BAD_TEMPLATES = [
    "",
    "a.tif",
    "{:05d}{:05d}.tif",
    "{:05x.tif",
    "{:>9999999999d}.tif",
    "{0.__class__}",
    "{a}",
    "{:{}d}",
    "%(a)d",
    "{{:d}}",
    "{:.3d}",
]


@pytest.mark.parametrize("template", BAD_TEMPLATES)
def test_a_template_has_one_number(template, tmp_path):
    stored = Stored(f"{uri_of(tmp_path)}/", TIFF, {"template": template}, [4, 5], "<u2")

    with pytest.raises(AssetError, match="wanted a template with one number"):
        values(streamed({"det": stored}, 1), is_stored=False)


# several files -----------------------------------------------------------------------------------------------------


def two_files(tmp_path, starts):
    """Three rows in each of two files; where their indices start."""
    rows = frames(6, (4, 5))
    stored = [hdf5(tmp_path / f"{i}.h5", rows[3 * i : 3 * i + 3]) for i in range(2)]
    documents = [start(), descriptor({"det": stored[0].key})]
    for i in range(2):
        documents += [
            stream_resource("det", stored[i], f"r{i}"),
            stream_datum("det", 3 * i + 1, 3 * i + 4, starts[i], f"r{i}"),
        ]
    return documents, rows


@pytest.mark.parametrize("starts", [(0, 3), (0, 0)], ids=["over all files", "in each file"])
def test_rows_are_counted_over_all_files_or_in_each(starts, tmp_path):
    documents, rows = two_files(tmp_path, starts)

    check(values(documents), rows)


def test_a_file_that_is_told_of_again_goes_on(tmp_path):
    rows = frames(6, (4, 5))
    stored = hdf5(tmp_path / "a.h5", rows)
    documents = [start(), descriptor({"det": stored.key}), stream_resource("det", stored, "r0")]
    documents += [
        stream_datum("det", 1, 4, 0, "r0"),
        stream_resource("det", stored, "r1"),
        stream_datum("det", 4, 7, 3, "r1"),
    ]

    check(values(documents), rows)


def test_two_fields_are_in_one_file(tmp_path):
    rows, sums = frames(4, (4, 5)), numpy.arange(4)
    stored = {
        "det": hdf5(tmp_path / "a.h5", rows),
        "sum": hdf5(tmp_path / "a.h5", sums, shape=[1], dataset="entry/sum"),
    }

    check(values(streamed(stored, 4)), rows)
    assert values(streamed(stored, 4), "sum") == [0, 1, 2, 3]


# while they are written --------------------------------------------------------------------------------------------


def live(path, n, timeout=20.0):
    """The documents of n frames in this file, and a way to ask for one after the other, waiting."""
    stored = Stored(uri_of(path), HDF5, {"dataset": "/entry/data/data"}, [1, 4, 5], "<u2")
    return values(streamed({"det": stored}, n), assets=Assets(timeout=timeout), is_stored=False)


def later(writer, *steps, after=0.15):
    """Have it done in a while, by the other process."""

    def tell():
        for step in steps:
            time.sleep(after)
            writer.tell(*step)

    thread = threading.Thread(target=tell)
    thread.start()
    return thread


def test_frames_that_are_announced_before_they_are_there_are_waited_for(tmp_path):
    with Writer(tmp_path / "a.h5") as writer:
        for step in ("create", "dataset", "swmr"):
            writer(step)
        thread = later(writer, ("frames", 1, 6, 0.05))
        got = live(tmp_path / "a.h5", 5)
        thread.join()

    check(got, [frame(i)[None] for i in range(1, 6)])


def test_a_row_that_is_there_and_not_written_yet_is_waited_for(tmp_path):
    with Writer(tmp_path / "a.h5") as writer:
        for step in [("create",), ("dataset",), ("swmr",), ("frame", 1), ("extend",), ("flush",)]:
            writer(*step)
        thread = later(writer, ("write", 1, 2), ("flush",))
        got = live(tmp_path / "a.h5", 2)
        thread.join()

    check(got, [frame(1)[None], frame(2)[None]])


def test_a_row_that_was_never_written_is_no_row_of_zeros(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("entry/data/data", (3, 4, 5), "u2", chunks=(1, 4, 5))
        data[0], data[2] = 1, 0

    got = []
    for i in range(3):
        try:
            got += values(
                [
                    *streamed({"det": Stored(uri_of(tmp_path / "a.h5"), HDF5, {}, [4, 5], "<u2")}, 3)[:3],
                    stream_datum("det", i + 1, i + 2),
                ]
            )
        except AssetError as error:
            got.append(str(error))

    assert [each if isinstance(each, str) else each.max() for each in got] == [1, got[1], 0]
    assert "row 1 of '/entry/data/data' was never written" in got[1]


@pytest.mark.parametrize("libver", ["latest", "earliest"])
def test_a_file_and_its_dataset_may_come_later(libver, tmp_path):
    with Writer(tmp_path / "a.h5") as writer:
        steps = ("create", libver), ("dataset",), ("flush",), ("frames", 1, 3), ("close",)
        thread = later(writer, *steps, after=0.05)
        got = live(tmp_path / "a.h5", 2)
        thread.join()

    check(got, [frame(1)[None], frame(2)[None]])


@pytest.mark.parametrize("libver", ["latest", "earliest"])
def test_a_file_that_cannot_be_followed_is_waited_for_until_it_is_closed(libver, tmp_path):
    with Writer(tmp_path / "a.h5") as writer:
        for step in [("create", libver), ("dataset",), ("frames", 1, 3)]:
            writer(*step)
        with pytest.raises(AssetError, match=r"being written|already open for write|not already open for SWMR"):
            live(tmp_path / "a.h5", 2, timeout=0.05)
        writer("close")

    check(live(tmp_path / "a.h5", 2), [frame(1)[None], frame(2)[None]])


@pytest.mark.parametrize("libver", ["latest", "earliest"])
def test_a_file_that_is_opened_and_closed_for_each_frame_is_read_between(libver, tmp_path):
    stored = Stored(uri_of(tmp_path / "a.h5"), HDF5, {}, [1, 4, 5], "<u2")
    documents = streamed({"det": stored}, 40)
    run, got = Assets(timeout=20.0).of_run(), []
    with Writer(tmp_path / "a.h5") as writer:
        for step in [("create", libver), ("dataset",), ("close",)]:
            writer(*step)
        for name, doc in documents:
            if name == "stream_datum":
                for step in [("append", libver), ("frame", doc["seq_nums"]["start"]), ("close",)]:
                    writer(*step)  # which fails, if the reader keeps the file from it
            run(name, doc)
            if name == "stream_datum":
                got.append(read_one(run, doc, stored))
    run.close()

    check(got, [frame(i)[None] for i in range(1, 41)])


def read_one(run, doc, stored, field="det"):
    from pipeline.readers.frame import Frame

    span = run.span(doc)
    return run.read(Frame(field, *span.place_of(span.first)), stored.key)


def test_who_waits_for_a_file_does_not_keep_its_writer_from_it(tmp_path):
    path, is_over = tmp_path / "a.h5", threading.Event()

    def look_on():
        while not is_over.is_set():
            try:
                live(path, 1, timeout=0.0)
            except AssetError:
                continue

    threads = [threading.Thread(target=look_on) for _ in range(2)]
    with Writer(path) as writer:
        for thread in threads:
            thread.start()
        for _ in range(40):
            for step in [
                ("create", "earliest"),
                ("dataset",),
                ("frame", 1),
                ("close",),
                ("append", "earliest"),
                ("frame", 2),
                ("close",),
            ]:
                writer(*step)
        is_over.set()
        for thread in threads:
            thread.join()

    check(live(path, 2), [frame(1)[None], frame(2)[None]])

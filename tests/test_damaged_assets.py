"""What is damaged, missing, another thing or elsewhere is said to be so, in our words; it is never read as zeros."""

import json
import os
import pickle
import re
import socket
from pathlib import Path

import h5py
import numpy
import pytest
import zarr
from frames import (
    HDF5,
    NPY,
    TIFF,
    ZARR,
    Stored,
    frames,
    hdf5,
    npys,
    stream_datum,
    streamed,
    tiffs,
    uri_of,
    values,
    zarrs,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import AssetError, RejectedValue
from pipeline.readers import Assets

U = h5py.h5s.UNLIMITED


def fault(stored, n=3):
    """What is said of a run whose frames cannot be read."""
    with pytest.raises(AssetError) as caught:
        values(streamed({"det": stored}, n))
    assert "field 'det'" in str(caught.value)
    return str(caught.value)


def at_once(stored, n=3):
    """What is said of what no time can help, and that is not waited for."""
    says = fault(stored, n)
    assert "wanted what was announced" not in says
    return says


def each_row(stored, n):
    """The rows that can be read, each by itself, and None in place of those that cannot."""
    found = []
    for i in range(1, n + 1):
        try:
            found += values([*streamed({"det": stored}, n)[:3], stream_datum("det", i, i + 1)])
        except AssetError:
            found.append(None)
    return found


# damaged -----------------------------------------------------------------------------------------------------------


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_off_is_refused(share, tmp_path):
    rows = frames(3, (64, 65))
    stored = {
        "a.h5": hdf5(tmp_path / "a.h5", rows),
        "img_00001.tif": tiffs(tmp_path, rows),
        "img_1.npy": npys(tmp_path, rows),
    }
    for name, each in stored.items():
        cut(tmp_path / name, share)
        assert "wanted what was announced" in fault(each)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 10_000,
        b"II*\0" + b"\xff" * 400,
        b"\x93NUMPY\x01\0" + b"\xff" * 400,
        b"\x89HDF\r\n\x1a\n" + b"\0" * 4000,
        b"text\n" * 100,
    ],
)
@pytest.mark.parametrize(
    "told", [(HDF5, "a", {}), (TIFF, "", {"template": "a{:d}"}), (NPY, "", {"template": "a{:d}"}), (ZARR, "a", {})]
)
def test_a_file_of_anything_is_refused(told, content, tmp_path):
    mimetype, name, parameters = told
    for each in ("a", "a0", "a1"):
        (tmp_path / each).write_bytes(content)

    assert "wanted what was announced" in fault(
        Stored(f"{uri_of(tmp_path)}/{name}", mimetype, parameters, [4, 5], "<u2")
    )


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_whatever_bytes_are_changed_a_file_gives_values_or_an_error_of_ours(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("bytes")
    rows = frames(3, (4, 5))
    kind = data.draw(st.sampled_from([hdf5, tiffs, npys]))
    stored = (
        kind(folder / "a.h5", rows, chunks=(1, 4, 5), compression="gzip", fletcher32=True)
        if kind is hdf5
        else kind(folder, rows)
    )
    (path, *_) = sorted(folder.iterdir())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(content) - 1, 2000)))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)

    try:
        got = values(streamed({"det": stored}, 3))
    except AssetError:
        return
    assert [value.shape for value in got] == [(4, 5)] * 3


def test_a_damaged_chunk_is_that_row_alone_whatever_was_announced_together(tmp_path):
    rows = frames(6, (64, 65))
    stored = hdf5(tmp_path / "a.h5", rows, chunks=(1, 64, 65), compression="gzip", fletcher32=True)
    with h5py.File(tmp_path / "a.h5") as file:
        place = file["entry/data/data"].id.get_chunk_info(2).byte_offset
    with open(tmp_path / "a.h5", "r+b") as file:
        file.seek(place + 10)
        file.write(b"\xff" * 20)

    for batch in (1, 3, 6):
        got, documents = [], streamed({"det": stored}, 6, batch=batch)
        run = Assets(missing="skip").of_run(is_stored=True)
        got = skipped_rows(run, documents, stored)
        assert [value is not None for value in got] == [True, True, False, True, True, True]
        for value, row in zip(got, rows, strict=True):
            assert value is None or numpy.array_equal(value, row)


def skipped_rows(run, documents, stored):
    from pipeline.readers.frame import Frame

    found, spans = [], []
    for name, doc in documents:
        run(name, doc)
        spans += [run.span(doc)] if name == "stream_datum" else []
    for span in spans:
        for seq_num in range(span.first, span.after):
            try:
                found.append(run.read(Frame("det", *span.place_of(seq_num)), stored.key))
            except RejectedValue:
                found.append(None)
    run.close()
    return found


# another thing -----------------------------------------------------------------------------------------------------


def file_of(path, **others):
    """A file with an array where detectors have it, and others."""
    stored = hdf5(path, frames(3, (4, 5)))
    with h5py.File(path, "a") as file:
        for name, make in others.items():
            make(file, name)
    return stored


def told(stored, dataset):
    return stored._replace(parameters={"dataset": dataset})


OTHERS = {
    "group": (lambda file, name: file.create_group(name), "wanted an array at '/group', there is a group"),
    "number": (
        lambda file, name: file.create_dataset(name, data=1.5),
        r"wanted an array of numbers, there is the shape \(\)",
    ),
    "text": (lambda file, name: file.create_dataset(name, data=["a", "b"]), "wanted an array of numbers"),
    "bytes": (lambda file, name: file.create_dataset(name, data=numpy.array([b"a"] * 3)), "wanted an array of numbers"),
    "ragged": (lambda file, name: file.create_dataset(name, (3,), h5py.vlen_dtype("i4")), "wanted an array of numbers"),
    "records": (
        lambda file, name: file.create_dataset(name, data=numpy.zeros(3, "i4,f8")),
        "wanted an array of numbers",
    ),
    "references": (lambda file, name: file.create_dataset(name, (3,), h5py.ref_dtype), "wanted an array of numbers"),
    "none": (lambda file, name: file.create_dataset(name, data=h5py.Empty("f8")), "wanted an array of numbers"),
    "type": (lambda file, name: file.__setitem__(name, numpy.dtype("f8")), "there is a type"),
    "flat": (
        lambda file, name: file.create_dataset(name, data=numpy.zeros(60)),
        r"wanted rows of shape \[4, 5\], there is an array of shape \[60\]",
    ),
    "turned": (lambda file, name: file.create_dataset(name, data=numpy.zeros((3, 5, 4))), "wanted rows of shape"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_thing_than_an_array_of_this_shape_is_refused_at_once(name, tmp_path):
    make, says = OTHERS[name]
    stored = told(file_of(tmp_path / "a.h5", **{name: make}), name)

    assert re.search(says, at_once(stored))


def test_a_dataset_that_is_not_there_is_told_with_those_that_are(tmp_path):
    stored = file_of(tmp_path / "a.h5")

    assert "wanted 'dat' in '/entry/data', there are ['data']" in fault(told(stored, "/entry/data/dat"))
    assert "wanted a group at '/entry/data/data', there is an array" in at_once(told(stored, "/entry/data/data/more"))
    assert "wanted an array at '/', there is a group" in at_once(told(stored, "//./"))
    values(streamed({"det": told(stored, "entry/./data//data")}, 3))


@pytest.mark.parametrize("key", ["slice", "squeeze"])
def test_parts_of_rows_are_refused(key, tmp_path):
    stored = hdf5(tmp_path / "a.h5", frames(3, (4, 5)))
    stored.parameters[key] = True

    assert f"with '{key}' cannot be read; wanted whole rows" in at_once(stored)


def test_objects_in_npy_files_are_never_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "done"),)

    numpy.save(tmp_path / "img_0.npy", numpy.array([Evil()] * 20, object).reshape(4, 5), allow_pickle=True)
    with open(tmp_path / "img_1.npy", "wb") as file:
        pickle.dump(Evil(), file)
    numpy.savez(tmp_path / "img_2.npy", a=numpy.zeros((4, 5)))
    os.rename(tmp_path / "img_2.npy.npz", tmp_path / "img_2.npy")

    stored = Stored(f"{uri_of(tmp_path)}/img", NPY, {}, [4, 5], "<u2")
    for seq_num in (1, 2, 3):
        with pytest.raises(AssetError, match="is no whole file of its kind"):
            values([*streamed({"det": stored}, 3)[:3], stream_datum("det", seq_num, seq_num + 1)])
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("filters", "compressor"),
    [
        ([{"id": "pickle", "protocol": 5}], None),
        (None, {"id": "pickle", "protocol": 5}),
        ([{"id": "delta", "dtype": "<u2"}, {"id": "pickle"}], None),
    ],
)
@pytest.mark.parametrize("dtype", ["<u2", "|O"])
def test_objects_in_zarr_folders_are_never_unpickled(dtype, filters, compressor, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "done"),)

    told = {"zarr_format": 2, "shape": [3, 4, 5], "chunks": [1, 4, 5], "dtype": dtype, "order": "C", "fill_value": 0}
    (tmp_path / ".zarray").write_text(json.dumps({**told, "filters": filters, "compressor": compressor}))
    for i in range(3):
        (tmp_path / f"{i}.0.0").write_bytes(pickle.dumps(Evil()))

    fault(Stored(uri_of(tmp_path), ZARR, {}, [4, 5], "<u2"))

    assert not (tmp_path / "done").exists()


def test_another_thing_in_a_zarr_folder_is_refused(tmp_path):
    zarr.create_group(str(tmp_path / "a"))
    zarrs(tmp_path, frames(3, (4, 5)), dataset="a/frames")
    zarr.create_array(str(tmp_path / "a/number"), shape=(), dtype="f8")
    zarr.create_array(str(tmp_path / "a/text"), shape=(3,), dtype="S4", zarr_format=2)
    says = {
        "a": "there is a group",
        "a/number": "wanted an array of numbers",
        "a/text": "wanted an array of numbers",
        "a/frames/../../b": "wanted an array within the folder",
    }

    for name, say in says.items():
        assert say in at_once(Stored(uri_of(tmp_path), ZARR, {"dataset": name}, [4, 5], "<u2"))
    assert "wanted rows of shape" in at_once(Stored(uri_of(tmp_path), ZARR, {"dataset": "a/frames"}, [5, 4], "<u2"))
    assert "wanted what was announced" in fault(Stored(uri_of(tmp_path), ZARR, {"dataset": "a/none"}, [4, 5], "<u2"))


def test_an_unknown_kind_of_asset_is_told_with_the_nearest(tmp_path):
    stored = hdf5(tmp_path / "a.h5", frames(3, (4, 5)))._replace(mimetype="application/hdf5")

    assert "no reader for assets of 'application/hdf5'; did you mean 'application/x-hdf5'?" in at_once(stored)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: os.mkfifo(path),
        lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
        lambda path: os.symlink("/dev/zero", path),
    ],
    ids=["pipe", "socket", "device"],
)
def test_what_is_no_file_is_not_opened(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "a0"):
        make(Path(name))

    for told in [(HDF5, "a", {}), (TIFF, "", {"template": "a{:d}"}), (NPY, "", {"template": "a{:d}"}), (ZARR, "a", {})]:
        mimetype, name, parameters = told
        assert "there is a pipe, a socket or a device" in at_once(
            Stored(f"{uri_of(tmp_path)}/{name}", mimetype, parameters, [4, 5], "<u2")
        )


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("")

    assert "there is no file" in fault(Stored(uri_of(tmp_path / "a"), HDF5, {}, [4, 5], "<u2"))
    assert "wanted what was announced" in fault(Stored(uri_of(tmp_path / "b"), ZARR, {}, [4, 5], "<u2"))


# links -------------------------------------------------------------------------------------------------------------


def linked(path, link, name="link"):
    with h5py.File(path, "a") as file:
        file[name] = link
    return Stored(uri_of(path), HDF5, {"dataset": name}, [4, 5], "<u2")


def test_links_are_followed(tmp_path):
    rows = frames(3, (4, 5))
    (tmp_path / "other").mkdir()
    hdf5(tmp_path / "a.h5", rows)
    hdf5(tmp_path / "other" / "b.h5", rows)
    links = {
        "soft": h5py.SoftLink("/entry/data/data"),
        "relative": h5py.SoftLink("entry/data/data"),
        "group": h5py.SoftLink("/entry/data"),
        "external": h5py.ExternalLink("other/b.h5", "/entry/data/data"),
        "whole": h5py.ExternalLink(str(tmp_path / "other" / "b.h5"), "entry/data/data"),
        "file": h5py.ExternalLink("other/b.h5", "/"),
        "twice": h5py.SoftLink("/external"),
    }
    for name, link in links.items():
        stored = linked(tmp_path / "a.h5", link, name)
        tail = {"group": "/data", "file": "/entry/data/data"}.get(name, "")
        assert numpy.array_equal(values(streamed({"det": told(stored, name + tail)}, 3)), rows)


def test_links_that_lead_nowhere_or_in_circles_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    hdf5(path, frames(3, (4, 5)))
    linked(path, h5py.SoftLink("/b"), "a")
    linked(path, h5py.ExternalLink("a.h5", "/circle"), "circle")

    assert "more than 16 links" in at_once(linked(path, h5py.SoftLink("/a"), "b"))
    assert "more than 16 links" in at_once(told(linked(path, h5py.SoftLink("/c"), "d"), "circle"))
    assert "wanted 'none'" in fault(linked(path, h5py.SoftLink("/none"), "dangling"))
    assert "there is no file" in fault(linked(path, h5py.ExternalLink("none.h5", "/a"), "away"))


# parts that are elsewhere ------------------------------------------------------------------------------------------


def virtual(path, shape, *sources, maxshape=None):
    """Make a virtual dataset of sources: (rows, file, dataset, shape of the source, its rows)."""
    layout = h5py.VirtualLayout(shape, "u2", maxshape=maxshape)
    for rows, name, dataset, source_shape, of in sources:
        source = h5py.VirtualSource(str(name), dataset, source_shape, maxshape=(None, *source_shape[1:]))
        layout[rows] = source[of]
    with h5py.File(path, "a", libver="latest") as file:
        file.create_virtual_dataset("entry/data/data", layout)
    return Stored(uri_of(path), HDF5, {}, [4, 5], "<u2")


def n_there(stored, n):
    """How many rows can be read, one by one, from the first on; that each is right."""
    got = each_row(stored, n)
    there = [value is not None for value in got]
    assert there == sorted(there, reverse=True)
    return sum(there)


def source(path, rows):
    with h5py.File(path, "w") as file:
        file.create_dataset("d", data=rows, maxshape=(None, *rows.shape[1:]), chunks=(1, *rows.shape[1:]))


def test_a_virtual_dataset_is_read_as_far_as_its_sources_are_there(tmp_path):
    rows = frames(6, (4, 5))
    stored = virtual(
        tmp_path / "v.h5",
        (6, 4, 5),
        (numpy.s_[0:3], "a.h5", "d", (3, 4, 5), numpy.s_[0:3]),
        (numpy.s_[3:6], tmp_path / "b.h5", "d", (3, 4, 5), numpy.s_[0:3]),
    )
    assert "there is no file" in fault(stored)
    source(tmp_path / "a.h5", rows[:2])
    assert n_there(stored, 6) == 2
    source(tmp_path / "a.h5", rows[:3])
    assert n_there(stored, 6) == 3
    (tmp_path / "b.h5").write_bytes(b"\0" * 3000)
    assert n_there(stored, 6) == 3
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["other"] = rows
    assert n_there(stored, 6) == 3
    source(tmp_path / "b.h5", rows[3:])

    assert numpy.array_equal(values(streamed({"det": stored}, 6, batch=6)), rows)


def test_sources_may_be_mapped_row_by_row_in_turn_or_frame_by_frame(tmp_path):
    rows = frames(6, (4, 5))
    for i in range(2):
        source(tmp_path / f"{i}.h5", rows[i::2])
    for i, row in enumerate(rows):
        source(tmp_path / f"f{i}.h5", row)
    in_turn = virtual(
        tmp_path / "v.h5", (6, 4, 5), *((numpy.s_[i::2], f"{i}.h5", "d", (3, 4, 5), numpy.s_[0:3]) for i in range(2))
    )
    by_frame = virtual(
        tmp_path / "w.h5", (6, 4, 5), *((numpy.s_[i], f"f{i}.h5", "d", (4, 5), numpy.s_[:, :]) for i in range(6))
    )
    halves = virtual(
        tmp_path / "x.h5",
        (3, 4, 5),
        *((numpy.s_[:, 2 * i : 2 * i + 2], f"{i}.h5", "d", (3, 4, 5), numpy.s_[:, 0:2]) for i in range(2)),
    )

    for stored in (in_turn, by_frame):
        assert numpy.array_equal(values(streamed({"det": stored}, 6)), rows)
    joined = numpy.concatenate([rows[0::2, 0:2], rows[1::2, 0:2]], axis=1)
    assert numpy.array_equal(values(streamed({"det": halves}, 3)), joined)
    source(tmp_path / "1.h5", rows[1:4:2])
    (tmp_path / "f4.h5").unlink()
    assert [n_there(each, n) for each, n in [(in_turn, 6), (by_frame, 6), (halves, 3)]] == [5, 4, 2]


def test_sources_may_go_on_without_end(tmp_path):
    rows = frames(5, (4, 5))
    source(tmp_path / "a.h5", rows[:2])
    stored = virtual(
        tmp_path / "v.h5", (1, 4, 5), (numpy.s_[0:U], "a.h5", "d", (1, 4, 5), numpy.s_[0:U]), maxshape=(None, 4, 5)
    )

    assert n_there(stored, 5) == 2
    source(tmp_path / "a.h5", rows)
    assert numpy.array_equal(values(streamed({"det": stored}, 5)), rows)


def test_sources_may_be_counted_by_their_names(tmp_path):
    rows = frames(6, (4, 5))
    with h5py.File(tmp_path / "v.h5", "w", libver="latest") as file:
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        space = h5py.h5s.create_simple((2, 4, 5), (U, 4, 5))
        space.select_hyperslab((0, 0, 0), (U, 1, 1), (2, 1, 1), (2, 4, 5))
        made.set_virtual(space, b"s%b.h5", b"d", h5py.h5s.create_simple((2, 4, 5)))
        h5py.h5d.create(file.id, b"d", h5py.h5t.STD_U16LE, h5py.h5s.create_simple((2, 4, 5), (U, 4, 5)), made)
    stored = Stored(uri_of(tmp_path / "v.h5"), HDF5, {"dataset": "d"}, [4, 5], "<u2")

    for i in range(3):
        assert n_there(stored, 6) == 2 * i
        source(tmp_path / f"s{i}.h5", rows[2 * i : 2 * i + 2])
    assert numpy.array_equal(values(streamed({"det": stored}, 6)), rows)
    (tmp_path / "s0.h5").unlink()
    assert n_there(stored, 6) == 0


def test_virtual_datasets_of_virtual_datasets_are_read_and_circles_refused(tmp_path):
    rows = frames(3, (4, 5))
    source(tmp_path / "a.h5", rows)
    mapping = numpy.s_[0:3], (3, 4, 5), numpy.s_[0:3]
    virtual(tmp_path / "v.h5", (3, 4, 5), (mapping[0], "a.h5", "d", *mapping[1:]))
    stored = virtual(tmp_path / "w.h5", (3, 4, 5), (mapping[0], "v.h5", "entry/data/data", *mapping[1:]))
    circle = virtual(tmp_path / "x.h5", (3, 4, 5), (mapping[0], "x.h5", "entry/data/data", *mapping[1:]))

    assert numpy.array_equal(values(streamed({"det": stored}, 3)), rows)
    (tmp_path / "a.h5").unlink()
    assert "a.h5" in fault(stored)
    assert "virtual datasets, each a part" in at_once(circle)


def test_raw_files_are_read_when_they_are_whole(tmp_path, monkeypatch):
    rows = frames(3, (4, 5))
    monkeypatch.chdir("/")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, raw in {"d": "raw.bin", "e": str(tmp_path / "raw.bin")}.items():
            file.create_dataset(name, (3, 4, 5), "u2", external=[(raw, 8, U)])
    stored = Stored(uri_of(tmp_path / "a.h5"), HDF5, {"dataset": "d"}, [4, 5], "<u2")
    assert "raw.bin" in fault(stored)
    (tmp_path / "raw.bin").write_bytes(b"\0" * 8 + rows[:2].tobytes())
    assert "raw.bin: wanted 128 bytes, there are 88" in fault(stored)
    (tmp_path / "raw.bin").write_bytes(b"\0" * 8 + rows.tobytes())

    assert numpy.array_equal(values(streamed({"det": stored}, 3)), rows)
    assert numpy.array_equal(values(streamed({"det": told(stored, "e")}, 3)), rows)

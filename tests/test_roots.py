"""Nothing outside the folders that are allowed is read, by whatever way; moved files are found."""

import os
from pathlib import Path

import h5py
import numpy
import pytest
import tifffile
from frames import (
    HDF5,
    NPY,
    TIFF,
    ZARR,
    Stored,
    classic,
    datum,
    frames,
    hdf5,
    npys,
    resource,
    streamed,
    tiffs,
    uri_of,
    values,
    zarrs,
)
from hypothesis import given
from hypothesis import strategies as st
from opened import opened

from pipeline.errors import AssetError, PipelineOSError, PipelineValueError
from pipeline.readers import Assets, Roots

ROWS = frames(3, (4, 5))
U = h5py.h5s.UNLIMITED


@pytest.fixture
def inside(tmp_path):
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside"


@pytest.fixture
def outside(tmp_path):
    """A folder that must not be read, with frames of every kind."""
    folder = tmp_path / "outside"
    folder.mkdir()
    hdf5(folder / "a.h5", ROWS)
    tiffs(folder, ROWS)
    npys(folder, ROWS)
    zarrs(folder / "z", ROWS)
    ROWS.tofile(folder / "raw.bin")
    return folder


# names -------------------------------------------------------------------------------------------------------------

NAMES = {
    "/data/a.h5": "/data/a.h5",
    "/data//a.h5": "/data/a.h5",
    "//data/./b/../a.h5": "/data/a.h5",
    "file:///data/a.h5": "/data/a.h5",
    "file:/data/a.h5": "/data/a.h5",
    "file://localhost/data/a%20b%23c%25.h5": "/data/a b#c%.h5",
    "file://localhost//data//a.h5": "/data/a.h5",
    "file://beamline.facility.org/data/a.h5": "/data/a.h5",
    "file://localhost/data/%2e%2e/a.h5": "/a.h5",
    "file://localhost/data/folder/": "/data/folder/",
    "/data/%20.h5": "/data/%20.h5",
    "/old/a.h5": "/new/place/a.h5",
    "file://localhost/old/b/../a.h5": "/new/place/a.h5",
    "/old": "/new/place",
    "/old/": "/new/place/",
    "/older/a.h5": "/older/a.h5",
    "/old/deep/a.h5": "/deep/a.h5",
    "/a/old/a.h5": "/a/old/a.h5",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_found_where_it_is_now(name):
    roots = Roots({"/old": "/new/place", "/old/deep/": "/deep/"})

    assert roots.path(name) == NAMES[name]


def test_all_may_have_moved():
    assert Roots({"/": "/mnt"}).path("/data/a.h5") == "/mnt/data/a.h5"


@pytest.mark.parametrize("uri", ["http://localhost/a.h5", "s3://bucket/a.h5", "data://a", "ftp://a/b", "file://[/a.h5"])
def test_what_is_no_file_is_refused(uri):
    with pytest.raises(PipelineValueError, match="wanted a file"):
        Roots().path(uri)


@pytest.mark.parametrize("name", ["/data/a\0.h5", "file://localhost/data/a%00.h5", "/data/\ud800.h5"])
@pytest.mark.parametrize("allowed", [None, ["/data"]])
def test_what_no_file_can_be_called_is_refused(name, allowed):
    with pytest.raises(PipelineValueError, match="wanted the name of a file; none can have this one"):
        Roots(allowed=allowed).path(name)


@pytest.mark.parametrize("name", ["/data/" + 300 * "a", "/data/" + 3000 * "a/"], ids=["name", "path"])
def test_a_name_that_is_too_long_is_no_file(name):
    with pytest.raises(AssetError, match="wanted what was announced"):
        values(streamed({"det": Stored(name, HDF5, {}, [4, 5], "<u2")}, 1), assets=Assets(roots=["/data"]))


PARTS = ["..", ".", "", "a", "inside", "outside", "link", "%2e%2e", "back", "a.h5"]


@given(st.lists(st.sampled_from(PARTS), max_size=8), st.sampled_from(["", "file://localhost", "file:"]))
def test_whatever_a_name_is_made_of_it_is_inside_or_refused(tmp_path_factory, parts, scheme):
    base = tmp_path_factory.getbasetemp() / "names"
    if not base.exists():
        for folder in ("inside/a", "outside"):
            (base / folder).mkdir(parents=True)
        (base / "inside" / "link").symlink_to(base / "outside")
        (base / "outside" / "back").symlink_to(base / "inside" / "a")
    roots = Roots(allowed=[str(base / "inside")])

    try:
        path = roots.path("/".join([f"{scheme}{base}/inside", *parts]))
    except PipelineOSError:
        return
    assert Path(path).resolve().is_relative_to(base / "inside")


def test_no_roots_at_all_is_nothing():
    with pytest.raises(PipelineOSError, match="it names none"):
        Roots(allowed=[]).path("/data/a.h5")


def test_a_folder_whose_name_begins_alike_is_another():
    with pytest.raises(PipelineOSError, match=r"wanted a file in one of the folders \['/data'\]"):
        Roots(allowed=["/data"]).path("/database/a.h5")


# nothing outside is opened -----------------------------------------------------------------------------------------


def refused(documents, inside, outside):
    """Read it, live and stored, with the roots inside: nothing outside is opened."""
    for is_stored in (True, False):
        with opened(outside, outside / "z") as names, pytest.raises(AssetError) as caught:
            values(documents, assets=Assets(roots=[str(inside)], timeout=0.05), is_stored=is_stored)
        assert names == []
    return str(caught.value)


def told(uri, mimetype=HDF5, **parameters):
    return streamed({"det": Stored(str(uri), mimetype, parameters, [4, 5], "<u2")}, 3)


def test_a_uri_outside_is_refused(inside, outside):
    for uri, mimetype, parameters in [
        (outside / "a.h5", HDF5, {}),
        (inside / "../outside/a.h5", HDF5, {}),
        (f"{uri_of(inside)}/%2e%2e/outside/a.h5", HDF5, {}),
        (f"{uri_of(outside)}/img_", TIFF, {"template": "{:05d}.tif"}),
        (f"{uri_of(outside)}/img", NPY, {}),
        (outside / "z", ZARR, {}),
    ]:
        assert "wanted a file in one of the folders" in refused(told(uri, mimetype, **parameters), inside, outside)


def test_a_template_that_leads_outside_is_refused(inside, outside):
    for template in ("/../outside/img_{:05d}.tif", "x/../../outside/img_{:05d}.tif", "%s/../outside/img_%05d.tif"):
        says = refused(told(f"{uri_of(inside)}", TIFF, template=template), inside, outside)
        assert "wanted a file in one of the folders" in says
    says = refused(told(uri_of(inside), TIFF, template="%s%05d.tif", filename="/../outside/img_"), inside, outside)
    assert "wanted a file in one of the folders" in says


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_symbolic_links_that_lead_outside_are_refused(kind, inside, outside):
    if kind == "folder":
        (inside / "link").symlink_to(outside)
        there = inside / "link"
    else:
        there = inside
        for name in ("a.h5", "img_00000.tif", "img_0.npy", "z"):
            (inside / name).symlink_to(outside / name)

    refused(told(there / "a.h5"), inside, outside)
    refused(told(f"{there}/img_", TIFF, template="{:05d}.tif"), inside, outside)
    refused(told(there / "img", NPY), inside, outside)
    refused(told(there / "z", ZARR), inside, outside)


def test_symbolic_links_that_lead_inside_are_followed(inside, outside):
    hdf5(inside / "a.h5", ROWS)
    (inside / "b.h5").symlink_to(inside / "a.h5")
    (outside / "c.h5").symlink_to(inside / "a.h5")

    for path in (inside / "b.h5", outside / "c.h5"):
        assert numpy.array_equal(values(told(path), assets=Assets(roots=[str(inside)])), ROWS)


def test_chunks_and_arrays_of_a_zarr_folder_that_are_elsewhere_are_refused(inside, outside):
    zarrs(inside / "z", ROWS, chunks=(1, 4, 5))
    os.rename(inside / "z/c/1/0/0", outside / "chunk")
    (inside / "z/c/1/0/0").symlink_to(outside / "chunk")
    (inside / "y").mkdir()
    (inside / "y" / "link").symlink_to(outside / "z")

    refused(told(inside / "z", ZARR), inside, outside)
    refused(told(inside / "y", ZARR, dataset="link"), inside, outside)
    refused(told(inside / "y", ZARR, dataset="../../outside/z"), inside, outside)


LINKS = {
    "external": lambda outside: h5py.ExternalLink(str(outside / "a.h5"), "/entry/data/data"),
    "relative": lambda outside: h5py.ExternalLink("../outside/a.h5", "/entry/data/data"),
    "file": lambda outside: h5py.ExternalLink("file://localhost" + str(outside / "a.h5"), "/entry/data/data"),
    "nothing": lambda outside: h5py.ExternalLink("../outside/a.h5", "/none"),
    "missing": lambda outside: h5py.ExternalLink("../outside/none.h5", "/none"),
}


@pytest.mark.parametrize("name", LINKS)
def test_links_in_files_that_lead_outside_are_refused(name, inside, outside):
    with h5py.File(inside / "l.h5", "w") as file:
        file["link"] = LINKS[name](outside)
        file["soft"] = h5py.SoftLink("/link")
        file["group"] = h5py.ExternalLink(str(outside / "a.h5"), "/entry")

    for dataset in ("link", "soft", "group/data/data", "none"):
        says = refused(told(inside / "l.h5", dataset=dataset), inside, outside)
        assert "none" in (dataset, name) or name == "file" or "wanted a file in one of the folders" in says


def test_parts_of_virtual_datasets_that_are_outside_are_refused(inside, outside):
    layout = h5py.VirtualLayout((3, 4, 5), "u2")
    layout[:] = h5py.VirtualSource("../outside/a.h5", "entry/data/data", (3, 4, 5))
    hidden = h5py.VirtualLayout((3, 4, 5), "u2")
    hidden[:] = h5py.VirtualSource("link.h5", "link", (3, 4, 5))
    nested = h5py.VirtualLayout((3, 4, 5), "u2")
    nested[:] = h5py.VirtualSource(".", "plain", (3, 4, 5))
    with h5py.File(inside / "link.h5", "w") as file:
        file["link"] = h5py.ExternalLink("../outside/a.h5", "/entry/data/data")
    with h5py.File(inside / "v.h5", "w", libver="latest") as file:
        for name, each in {"plain": layout, "hidden": hidden, "nested": nested}.items():
            file.create_virtual_dataset(name, each)
        made, space = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5s.create_simple((3, 4, 5), (U, 4, 5))
        space.select_hyperslab((0, 0, 0), (U, 1, 1), (3, 1, 1), (3, 4, 5))
        made.set_virtual(space, b"../outside/%b.h5", b"entry/data/data", h5py.h5s.create_simple((3, 4, 5)))
        space = h5py.h5s.create_simple((3, 4, 5), (U, 4, 5))
        h5py.h5d.create(file.id, b"counted", h5py.h5t.STD_U16LE, space, made)
    hdf5(outside / "0.h5", ROWS)

    for name in ("plain", "hidden", "nested", "counted"):
        assert "wanted a file in one of the folders" in refused(told(inside / "v.h5", dataset=name), inside, outside)


def test_raw_files_that_are_outside_are_refused(inside, outside, monkeypatch):
    with h5py.File(inside / "a.h5", "w") as file:
        for name, raw in {"whole": outside / "raw.bin", "relative": "../outside/raw.bin", "here": "raw.bin"}.items():
            file.create_dataset(name, (3, 4, 5), "u2", external=[(str(raw), 0, 120)])

    monkeypatch.chdir(outside)  # where HDF5 would look for it
    for name in ("whole", "relative", "here"):
        refused(told(inside / "a.h5", dataset=name), inside, outside)


def test_a_tiff_file_that_names_others_is_read_by_itself(inside, outside):
    text = f"""<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">
    <Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="5" SizeY="4" SizeC="1" SizeZ="2" SizeT="1">
    <TiffData IFD="0" FirstZ="0" PlaneCount="1"><UUID FileName="img_00000.tif">urn:uuid:1</UUID></TiffData>
    <TiffData IFD="0" FirstZ="1" PlaneCount="1"><UUID FileName="../{outside.name}/img_00001.tif">urn:uuid:2</UUID></TiffData>
    </Pixels></Image></OME>"""
    for i, row in enumerate(ROWS):
        tifffile.imwrite(inside / f"img_{i:05d}.tif", row, description=text, metadata=None)

    with opened(outside) as names:
        got = values(told(f"{inside}/img_", TIFF, template="{:05d}.tif"), assets=Assets(roots=[str(inside)]))

    assert names == []
    assert numpy.array_equal(got, ROWS)


# classic -----------------------------------------------------------------------------------------------------------


def by_handler(spec, path, *datums, **kwargs):
    told = [datum("r", i, **each) for i, each in enumerate(datums)]
    return classic("det", {"dtype": "array", "shape": [4, 5]}, [resource("r", spec, path, **kwargs)], told)


def test_resources_and_what_they_lead_to_are_refused_outside(inside, outside):
    with h5py.File(inside / "l.h5", "w") as file:
        file.create_group("entry/data")["data"] = h5py.ExternalLink("../../outside/a.h5", "/entry/data/data")
    template = {"template": "%s%s_%05d.tif", "filename": "../outside/img"}
    for documents in [
        by_handler("AD_HDF5", outside / "a.h5", {"point_number": 0}),
        by_handler("AD_HDF5", inside / ".." / "outside" / "a.h5", {"point_number": 0}),
        by_handler("AD_HDF5_SWMR", inside / "l.h5", {"point_number": 0}),
        by_handler("AD_TIFF", inside, {"point_number": 0}, **template),
        by_handler("AD_TIFF", outside, {"point_number": 0}, **template | {"filename": "img"}),
        by_handler("NPY_SEQ", outside / "img", {"index": 0}),
        by_handler("NPY_SEQ", inside / "img", {"index": "/../../outside/img_0"}),
    ]:
        refused(documents, inside, outside)


def test_a_handler_of_others_follows_no_link_outside(inside, outside):
    layout = h5py.VirtualLayout((3, 4, 5), "u2")
    layout[:] = h5py.VirtualSource("../outside/a.h5", "entry/data/data", (3, 4, 5))
    with h5py.File(inside / "l.h5", "w") as file:
        file.create_group("entry/instrument/detector")["data"] = h5py.ExternalLink(
            "../outside/a.h5", "/entry/data/data"
        )
    with h5py.File(inside / "v.h5", "w") as file:
        file.create_virtual_dataset("entry/instrument/detector/data", layout)
    with h5py.File(inside / "a.h5", "w") as file:
        file["entry/instrument/detector/data"] = ROWS[:, None]

    for name in ("l.h5", "v.h5"):
        says = refused(by_handler("XSP3", inside / name, {"frame": 0, "channel": 1}), inside, outside)
        assert "wanted a file in one of the folders" in says
        refused(by_handler("XSP3_FLY", inside / name, {}), inside, outside)
    got = values(by_handler("XSP3", inside / "a.h5", {"frame": 0, "channel": 1}), assets=Assets(roots=[str(inside)]))
    assert numpy.array_equal(got[0], ROWS[0])

"""Whatever a person calls a catalog leads to the runs in it."""

import uuid

import databroker
import pytest
import tiled.profiles
from bluesky_tiled_plugins.clients.catalog_of_bluesky_runs import CatalogOfBlueskyRuns
from tiled.structures.core import Spec

from pipeline.catalog import open_catalog, stop_server
from pipeline.catalogs import find, kind_of, runs_of
from pipeline.errors import PipelineError, PipelineKeyError, PipelineOSError, PipelineTypeError, PipelineValueError


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("catalogs") / "catalog"
    yield path
    stop_server(path)


@pytest.fixture(scope="module")
def catalog(directory):
    with open_catalog(directory) as catalog:
        yield catalog


@pytest.fixture(scope="module")
def uid(catalog):
    """Of a run in `analysis`: whoever finds it has found the container."""
    uid = str(uuid.uuid4())
    start = {"uid": uid, "time": 1.0}
    specs = [Spec("BlueskyRun", version="3.0")]
    catalog["analysis"].create_container(key=uid, metadata={"start": start}, specs=specs)
    return uid


@pytest.fixture
def key(catalog, monkeypatch):
    key = catalog.context.api_key
    monkeypatch.setenv("TILED_API_KEY", key)
    return key


@pytest.fixture
def profiles(tmp_path, monkeypatch, catalog):
    """A folder of profiles, with one that is of the embedded catalog's server."""
    (tmp_path / "p.yml").write_text(f"beamline: {{uri: {catalog.context.api_uri}}}\n")
    monkeypatch.setattr(tiled.profiles, "paths", [tmp_path])
    tiled.profiles.load_profiles.cache_clear()
    yield
    tiled.profiles.load_profiles.cache_clear()


def test_every_way_to_an_embedded_catalog_leads_to_its_analysis_runs(catalog, directory, uid, monkeypatch):
    monkeypatch.setenv("BLUESKY_PIPELINE_CATALOG", str(directory))
    monkeypatch.chdir(directory.parent)

    for each in (catalog, catalog["analysis"], catalog["analysis"].v1, directory, str(directory)):
        assert find(runs_of(each), uid) is not None
    for each in (None, "./catalog", "catalog"):
        assert find(runs_of(each), uid) is not None


def test_the_raw_runs_are_another_container(catalog, uid):
    assert find(runs_of(catalog, "raw"), uid) is None
    assert runs_of(catalog["raw"], "analysis").uri == catalog["raw"].uri


def test_a_served_catalog_is_found_by_its_uri_and_by_a_profile(catalog, uid, key, profiles):
    for each in (catalog.context.api_uri, catalog["analysis"].uri, "beamline"):
        assert find(runs_of(str(each)), uid) is not None


def test_a_key_that_is_wrong_is_told_and_not_shown(catalog, monkeypatch):
    uri = str(catalog.uri)
    monkeypatch.delenv("TILED_API_KEY", raising=False)
    with pytest.raises(PipelineOSError, match=r"the Tiled server at http://127.0.0.1.*TILED_API_KEY"):
        runs_of(uri)
    monkeypatch.setenv("TILED_API_KEY", "5ec4e7")
    with pytest.raises(PipelineOSError, match="HTTP 401") as caught:
        runs_of(uri)
    assert "5ec4e7" not in str(caught.value)
    with pytest.raises(PipelineOSError) as caught:
        runs_of(f"{uri}?api_key=5ec4e7")
    assert "5ec4e7" not in str(caught.value)


def test_databroker_catalogs_are_those_of_mongo_and_those_of_sql(catalog):
    broker = databroker.temp()

    assert runs_of(broker) is runs_of(broker.v2)
    assert kind_of(runs_of(broker)) == kind_of(runs_of("temp")) == "mongo"
    assert kind_of(runs_of(catalog)) == kind_of(catalog) == "sql"
    assert isinstance(runs_of(catalog), CatalogOfBlueskyRuns)


def test_a_plain_container_of_runs_is_one(catalog):
    plain = catalog.create_container(key="plain")
    plain.create_container(key="a-run", metadata={"start": {"uid": "a-run", "time": 1.0}})

    assert find(runs_of(plain), "a-run") is not None


def test_what_is_no_catalog_is_refused(catalog, uid, profiles, tmp_path):
    with pytest.raises(PipelineTypeError, match=r"wanted a catalog: a client of Tiled.*there is a dict"):
        runs_of({})
    with pytest.raises(PipelineTypeError, match="there is the run"):
        runs_of(find(catalog["analysis"], uid))
    with pytest.raises(PipelineKeyError, match=r"'nowhere', which is no profile of \['beamline', 'temp'\]"):
        runs_of("nowhere")
    with pytest.raises(PipelineValueError, match="empty"):
        runs_of("")
    with pytest.raises(PipelineKeyError, match=r"wanted the container 'other' .*; has \['analysis', 'raw'\]"):
        runs_of(catalog, "other")
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(PipelineError, match="there is a folder of JSONL files"):
        runs_of(tmp_path)
    assert not (tmp_path / "catalog.db").exists()


def test_a_server_that_is_away_is_told_at_once(dead_uri):
    with pytest.raises(PipelineOSError, match=r"wanted the Tiled server at http://127.0.0.1:\d+/api/v1: "):
        runs_of(dead_uri)

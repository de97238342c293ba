"""Catalogs of every kind, for tests of what must be the same in all of them."""

import contextlib

import databroker
from tiled.client import from_uri
from tiled.structures.core import Spec

from pipeline.catalog import open_catalog, stop_server
from pipeline.catalogs import kind_of, runs_of

KINDS = ("embedded", "plain", "mongo", "postgres")
RUN = [Spec("BlueskyRun", version="3.0")]


@contextlib.contextmanager
def catalog_of(kind, request, folder):
    """Give a catalog of this kind: embedded, a plain container in it, `databroker.temp()`, Tiled on PostgreSQL."""
    if kind == "mongo":
        yield databroker.temp()
    elif kind == "postgres":
        uri, key = request.getfixturevalue("postgres_server")
        root = from_uri(uri, api_key=key, remember_me=False)
        yield root
        root.context.close()
    else:
        with open_catalog(folder / "catalog") as catalog:
            yield catalog if kind == "embedded" else catalog.create_container(key="plain")
        stop_server(folder / "catalog")


def add(catalog, start, stop=None, container="analysis"):
    """Put a run without streams into a catalog, as TiledSink and databroker do."""
    runs = runs_of(catalog, container)
    if kind_of(runs) == "mongo":
        runs.post_document("start", start)
        if stop:
            runs.post_document("stop", stop)
    else:
        metadata = {"start": start, **({"stop": stop} if stop else {})}
        runs.create_container(key=start["uid"], metadata=metadata, specs=RUN)
    return start["uid"]

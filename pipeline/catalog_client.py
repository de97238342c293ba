"""The client of an embedded catalog: a Tiled container that holds `raw` and `analysis`."""

from functools import cached_property
from typing import Any

from tiled.client.container import Container


class Catalog(Container):
    """What `open_catalog` gives.

    It is a plain container and not itself a catalog of Bluesky runs, since one of these takes every name for a part
    of a run's uid: `catalog["analysis"]` would be a search.
    """

    @cached_property
    def raw(self) -> Any:
        """The runs that were measured."""
        return self["raw"]

    @cached_property
    def analysis(self) -> Any:
        """The runs that were computed."""
        return self["analysis"]

    @cached_property
    def v1(self) -> Any:
        """The databroker interface of `analysis`, where a pipeline's results go.

        Its `insert` is databroker's, but that small arrays stay arrays.
        """
        from bluesky_tiled_plugins import TiledWriter

        broker = self.analysis.v1
        broker.insert = TiledWriter(self.analysis, max_array_size=0)
        return broker

    def close(self) -> None:
        """Close the connections; this client and those that came from it cannot be used any more."""
        self.context.close()

    def __enter__(self) -> "Catalog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""What a stream has in files, on its way into a Tiled node: the node is told which files, and how many rows of them."""

from collections.abc import Callable
from typing import Any

from bluesky_tiled_plugins.writing.consolidators import consolidator_factory
from tiled.client.utils import ClientError, handle_error
from tiled.utils import safe_json_dump

from pipeline.catalogs import find
from pipeline.difference import first_difference
from pipeline.documents import Document


class ExternalPart:
    """The node of a data key whose values are in files.

    Nothing is read or copied. The node knows the files and the shape of what is in them by now; both are told anew as
    they grow, and told again after any fault of the server.

    Parameters
    ----------
    key
        Of the node.
    descriptor
        The first of its stream.
    tell
        Called with what the run's notes should say, and with whether something is lost by it.
    """

    def __init__(self, key: str, descriptor: Document, tell: Callable[[str, bool], None]) -> None:
        self.key = key
        self.node: Any = None
        self.n_there = 0  # rows that the catalog has, once they have been compared
        self.n_given = 0  # rows that documents told of
        self._data_keys = descriptor["data_keys"]
        self._tell = tell
        self._consolidator: Any = None
        self._resources: dict[str, bool] = {}  # uid -> whether it is of this array
        self._patches: list[Any] = []  # what is not told yet
        self._adopts = False  # the node that the catalog has, if any
        self._n_kept = 0

    # taking in

    def take(self, datum: Document, resource: Document, data_key: Document) -> None:
        """Take in that there are rows, of a file of this resource; of a descriptor with this data key."""
        uid = resource["uid"]
        try:
            if uid not in self._resources:
                self._resources[uid] = self._has_taken(resource, data_key)
            if self._resources[uid]:
                self._patches.append(self._consolidator.consume_stream_datum(datum))
                self.n_given += datum["indices"]["stop"] - datum["indices"]["start"]
        except (ValueError, KeyError, NotImplementedError) as error:  # of the documents, not of the server
            self._resources[uid] = False
            self._tell(f"data key {self.key!r} cannot be read by the server ({error}); it is left out", True)

    def _has_taken(self, resource: Document, data_key: Document) -> bool:
        if self._consolidator is None:
            self._consolidator = consolidator_factory(resource, {"data_keys": self._data_keys | {self.key: data_key}})
            self._data_keys = {**self._data_keys, self.key: data_key}
            return True
        if _kind(data_key) != _kind(self._data_keys[self.key]):
            self._tell(
                f"data key {self.key!r} has arrays of another shape or type from {resource['uri']} on; "
                "they are left out, and stand there",
                True,
            )
            return False
        self._consolidator.update_from_stream_resource(resource)
        return True

    # comparing

    def compare(self, parent: Any) -> str:
        """Compare with what the catalog has; return the first difference."""
        node = None if parent is None else find(parent, self.key)
        if node is None or self._consolidator is None:
            return ""
        want, have = self._consolidator.get_data_source(), node.data_sources()[0]
        is_array = node.structure_family == "array"
        self.n_there = int(node.shape[0]) if is_array else len(have.assets)
        shape, dtype = (node.shape, node.dtype) if is_array else ((), None)
        n_files = min(len(want.assets), len(have.assets))
        return first_difference(self._told(want, n_files), _told(have, n_files, shape, dtype), repr(self.key))

    def _told(self, source: Any, n_files: int) -> Document:
        structure = source.structure
        if not hasattr(structure, "data_type"):
            return _told(source, n_files, (), None)
        return _told(source, n_files, structure.shape, structure.data_type.to_numpy_dtype())

    @property
    def n_kept(self) -> int:
        """How many rows need not be told again."""
        return min(self.n_there, self.n_given)

    @property
    def n_lacking(self) -> int:
        """How many rows the catalog does not know of."""
        return max(0, self.n_given - self.n_there)

    @property
    def n_beyond(self) -> int:
        """How many rows the catalog knows of that no document told."""
        return max(0, self.n_there - self.n_given) if self._consolidator is not None else 0

    # writing

    def keep(self, n: int) -> None:
        """Go on behind the first `n` rows, which the catalog knows."""
        self._adopts, self._n_kept = True, n

    def write(self, parent: Any, access_tags: list[str] | None) -> None:
        """Tell what is not told yet; if it fails, call it again."""
        if self._consolidator is None:
            return
        if self._adopts and self.node is None:
            self.node = find(parent, self.key)
        if self.n_given > self._n_kept and self._patches:
            if self.node is None:
                self.node = self._create(parent, access_tags)
            self._update()
        elif self.n_given <= self._n_kept:
            self._patches.clear()

    def _create(self, parent: Any, access_tags: list[str] | None) -> Any:
        source = self._consolidator.get_data_source()
        try:
            return parent.new(
                key=self.key,
                structure_family=source.structure_family,
                data_sources=[source],
                metadata={},
                specs=[],
                access_tags=access_tags,
            )
        except ClientError as error:
            if error.response.status_code != 409:  # a request that was done but never answered
                raise
            return find(parent, self.key)

    def _update(self) -> None:
        source = self._consolidator.get_data_source()
        source.id = self.node.data_sources()[0].id
        patch = type(self._patches[0]).combine_patches(self._patches) if self._patches else None
        numbers = {"patch_shape": patch.shape, "patch_offset": patch.offset} if patch else {}
        context = self.node.context
        handle_error(
            context.http_client.put(
                self.node.uri.replace("/metadata/", "/data_source/", 1),
                content=safe_json_dump({"data_source": source}),
                params={name: ",".join(map(str, each)) for name, each in numbers.items()},
            )
        )
        self._patches.clear()

    def shorten(self) -> None:
        """Tell that there are no more rows than documents told of."""
        if self.node is not None and self._n_kept > self.n_given:
            self._update()

    def detach(self) -> None:
        """Forget the client of a server that is gone."""
        self.node, self._adopts = None, True

    @property
    def consolidator(self) -> Any:
        """What knows the files; None if there are none."""
        return self._consolidator


def _kind(data_key: Document) -> tuple[Any, ...]:
    return data_key["dtype"], data_key.get("dtype_numpy"), tuple(data_key.get("shape") or ())


def _told(source: Any, n_files: int, shape: tuple[int, ...], dtype: Any) -> Document:
    """Return what is said of the first files."""
    return {
        "mimetype": source.mimetype,
        "parameters": {key: value for key, value in source.parameters.items() if value is not None},
        "files": [asset.data_uri for asset in source.assets][:n_files],
        "shape": list(shape[1:]),
        "dtype": str(dtype),
    }

"""A run in memory, as a catalog gives one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipeline.dataset import build
from pipeline.documents import Document
from pipeline.errors import PipelineKeyError, PipelineValueError
from pipeline.filled import ASSETS, filled

if TYPE_CHECKING:
    import xarray

    from pipeline.readers.assets import Assets

FILL = (None, False, True, "no", "yes", "delayed")
FILLED = (True, "yes")


class BlueskyRun(Mapping[str, "BlueskyEventStream"]):
    """A run whose documents are in memory; it grows as they come.

    Streams are its items, and its attributes where their names allow it.

    Parameters
    ----------
    documents
        Returns the documents so far, the same list as long as none comes.
    assets
        Where the files are that they refer to; where they say by default.

    >>> from pipeline import build_simple_run
    >>> run = build_simple_run({"x": [1, 2, 3]}, {"sample": "Cu"}, uid="a")
    >>> run, list(run), run.metadata["start"]["sample"]
    (<BlueskyRun uid='a'>, ['primary'], 'Cu')
    >>> run.primary.read()["x"].values
    array([1, 2, 3])
    """

    def __init__(self, documents: Callable[[], Sequence[tuple[str, Document]]], assets: "Assets | None" = None) -> None:
        self._documents, self._assets = documents, assets

    @property
    def uid(self) -> str:
        """The uid of the run."""
        return self.metadata["start"]["uid"]

    @property
    def metadata(self) -> dict[str, Any]:
        """The start document, and the stop document or None while the run is open."""
        found = {name: doc for name, doc in self._documents() if name in ("start", "stop")}
        return {"start": _copy(found["start"]), "stop": _copy(found.get("stop"))}

    def documents(self, fill: Any = None) -> Iterator[tuple[str, Document]]:
        """Yield the documents, from start to stop, or as far as the run has come.

        Parameters
        ----------
        fill
            `"yes"` or True: events have the values that are in files, and what tells of files is left out. Else the
            documents are as they are.
        """
        if fill not in FILL:
            raise PipelineValueError(f"documents: fill is {fill!r}; wanted 'no', 'yes', 'delayed' or nothing.")
        documents = list(self._documents())
        for name, doc in filled(documents, self._assets) if fill in FILLED else documents:
            yield name, _copy(doc)

    def _descriptors(self) -> dict[str, list[Document]]:
        found: dict[str, list[Document]] = {}
        for name, doc in list(self._documents()):
            if name == "descriptor":
                found.setdefault(doc["name"], []).append(doc)
        return found

    def __getitem__(self, name: str) -> "BlueskyEventStream":
        streams = self._descriptors()
        if name not in streams:
            raise PipelineKeyError(f"Run {self.uid} has no stream {name!r}; there are {sorted(streams)}.")
        return BlueskyEventStream(name, self._documents, self._assets)

    def __iter__(self) -> Iterator[str]:
        return iter(self._descriptors())

    def __len__(self) -> int:
        return len(self._descriptors())

    def __getattr__(self, name: str) -> "BlueskyEventStream":
        if not name.startswith("_") and name in self:
            return self[name]
        raise AttributeError(f"{type(self).__name__} has no attribute or stream {name!r}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in self if name.isidentifier())]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} uid={self.uid!r}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Tell more in IPython."""
        start, stop = self.metadata["start"], self.metadata["stop"] or {}
        times = [datetime.fromtimestamp(doc["time"]).isoformat(" ", "seconds") for doc in (start, stop) if doc]
        lines = [f"  exit_status={stop.get('exit_status')!r}", f"  {' -- '.join(times)}", "  Streams:"]
        printer.text("\n".join([repr(self), *lines, *(f"    * {name}" for name in self)]))


class BlueskyEventStream:
    """One stream of a run in memory."""

    def __init__(
        self,
        name: str,
        documents: Callable[[], Sequence[tuple[str, Document]]],
        assets: "Assets | None" = None,
    ) -> None:
        self.name = name
        self._documents, self._assets = documents, assets

    @property
    def descriptors(self) -> list[Document]:
        """What describes the stream: more than one, if it was configured anew."""
        return [
            _copy(doc) for name, doc in list(self._documents()) if name == "descriptor" and doc["name"] == self.name
        ]

    @property
    def metadata(self) -> dict[str, Any]:
        """The stream's name and descriptors."""
        return {"stream_name": self.name, "descriptors": self.descriptors}

    def read(self, variables: Sequence[str] | None = None) -> "xarray.Dataset":
        """Return the events as a Dataset, along `time`; see `pipeline.dataset.restore`.

        What is in files is read; of an open run, the events are those that are whole.

        Parameters
        ----------
        variables
            Names of fields; all by default.
        """
        descriptors = {doc["uid"]: doc for doc in self.descriptors}
        last = list(descriptors.values())[-1]
        keys = {data_key.get("original_name") or key: key for key, data_key in last["data_keys"].items()}
        wanted = dict.fromkeys(keys.values() if variables is None else (self._key(name, keys) for name in variables))
        columns: dict[str, list[Any]] = {key: [] for key in wanted}
        times: list[float] = []
        in_files = any(last["data_keys"][key].get("external") for key in wanted)
        for name, doc in self._filled(descriptors) if in_files else list(self._documents()):
            if (
                name in ("event", "event_page")
                and doc["descriptor"] in descriptors
                and wanted.keys() <= doc["data"].keys()
            ):
                rows = doc["data"] if name == "event_page" else {key: [value] for key, value in doc["data"].items()}
                times += doc["time"] if name == "event_page" else [doc["time"]]
                for key in wanted:
                    columns[key] += rows[key]
        return build(columns, times, last)

    def _filled(self, descriptors: Mapping[str, Document]) -> Iterator[tuple[str, Document]]:
        """Yield the events of this stream with what is in files."""
        mine = [(name, doc) for name, doc in self._documents() if name in ASSETS or _is_of(name, doc, descriptors)]
        return filled(mine, self._assets)

    def _key(self, name: str, keys: Mapping[str, str]) -> str:
        if name not in keys and name not in keys.values():
            raise PipelineKeyError(f"Stream {self.name!r} has no field {name!r}; there are {sorted(keys)}.")
        return keys.get(name, name)

    def to_dask(self) -> "xarray.Dataset":
        """Return the events as `read` does, in chunks of dask."""
        return self.read().chunk()

    def __iter__(self) -> Iterator[str]:
        return iter(self.descriptors[-1]["data_keys"])

    def __getitem__(self, name: str) -> "xarray.DataArray":
        return self.read([name])[name]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {list(self)}>"


def _is_of(name: str, doc: Document, descriptors: Mapping[str, Document]) -> bool:
    return (doc["uid"] if name == "descriptor" else doc.get("descriptor")) in descriptors


def _copy(value: Any) -> Any:
    """Return a copy, so that what is done to it does not come back."""
    if isinstance(value, dict):
        return {key: _copy(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_copy(part) if isinstance(part, dict | list) or hasattr(part, "copy") else part for part in value]
    return value.copy() if hasattr(value, "copy") else value

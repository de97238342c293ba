"""One run on its way into a Tiled catalog."""

import math
from collections.abc import Mapping
from typing import Any, cast

import orjson
from bluesky_tiled_plugins.utils import truncate_json_overflow
from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer, _RunWriter
from event_model import unpack_datum_page, unpack_event_page
from event_model.documents import DatumPage, EventPage, RunStop
from tiled.client.utils import ClientError
from tiled.structures.core import Spec

from pipeline.catalogs import find
from pipeline.documents import Document, safe_key
from pipeline.errors import PipelineKeyError, PipelineRuntimeError
from pipeline.sinks.stream_writer import StreamWriter, column_names
from pipeline.uploads import Uploads

_NOT_STORED = ("tiled_access_tags", "tiled_specs")


class RunWriter(_RunWriter):
    """Write one run, and bring the catalog level with it whenever asked.

    Documents are only taken in; `write` writes. It may be called again after any fault of the server, with the
    client of another server on the same data too, and goes on where it was.

    A run that the catalog holds whole is left as it is. One that it holds half of is deleted and written anew, unless
    it is `there` and has been compared: then what is missing is added.

    Differs from the writer that it builds upon (`bluesky_tiled_plugins.TiledWriter`) in that rows are written when
    asked and not by number, that columns have the types of the descriptor, that small arrays are arrays, that names
    which SQL refuses are mapped, and that a fault of the server ends nothing.

    Parameters
    ----------
    there
        The client of the run in the catalog, if it has been compared with what will come.
    kept
        How many rows of it stay as they are: by stream and part, as `RunComparison` found. None: the catalog is not
        known, and half a run in it is replaced.
    uploads
        Whether arrays that are in files beside a ledger are put into the catalog: its server cannot read them.
    """

    def __init__(
        self, there: Any = None, kept: Mapping[str, dict[str, int]] | None = None, *, uploads: bool = False
    ) -> None:
        super().__init__(client=None, max_array_size=0)  # type: ignore[arg-type]  # `write` is given it
        self.root_node = there
        self._kept = kept
        self.is_level = False  # with a run that was there, whole
        self.is_finished = False  # nothing is left to do
        self._reopen = False  # the run in the catalog is this one, half written
        self.losses: list[str] = []  # what could not be kept
        self._start: Document = {}
        self._stop: Document | None = None
        self._streams: dict[str, StreamWriter] = {}  # stream name -> its writer
        self._names: dict[str, dict[str, str]] = {}  # stream name -> data key -> column
        self._stream_of: dict[str, StreamWriter] = {}  # descriptor uid -> the writer of its stream
        self._names_of: dict[str, dict[str, str]] = {}  # descriptor uid -> data key -> column, where one differs
        self._data_keys_of: dict[str, Document] = {}  # descriptor uid -> its data keys, where some are external
        self._resources: dict[str, Document] = {}  # stream_resource uid -> the document
        self._normalizer = _Normalizer(self._take)
        self._uploads = Uploads() if uploads else None

    # taking in

    def __call__(self, name: str, doc: Document, validate: bool = False) -> tuple[str, Document]:
        """Take in one document of the run."""
        if self.is_level and name != "stop":
            return name, doc
        for each in self._uploads(name, doc) if self._uploads else [(name, doc)]:
            self._take_in(*each)
        return name, doc

    def _take_in(self, name: str, doc: Document) -> None:
        if name == "event":
            self._take_event(doc)
        elif name == "event_page":
            for event in unpack_event_page(cast(EventPage, doc)):
                self._take_event(cast(Document, event))
        elif name == "datum_page":
            for datum in unpack_datum_page(cast(DatumPage, doc)):
                self._normalizer("datum", datum)
        elif name == "descriptor":
            self._normalizer(name, self._with_columns(doc))
        elif name == "start":
            self._start = doc
        else:
            self._normalizer(name, doc)

    def _take_event(self, event: Document) -> None:
        descriptor = event["descriptor"]
        if names := self._names_of.get(descriptor):
            event = _renamed(event, names)
        if descriptor not in self._data_keys_of:  # a tenth of the normalizer's time
            self._stream_of[descriptor].take(event)
        else:
            self._normalizer("event", event)

    def _take(self, name: str, doc: Document) -> None:
        """Take a document from the normalizer."""
        if name == "descriptor":
            self._take_descriptor(doc)
        elif name == "event":
            self._stream_of[doc["descriptor"]].take(doc)
        elif name == "stream_resource":
            self._resources[doc["uid"]] = doc
        elif name == "stream_datum":
            self._take_datum(doc)
        elif name == "stop":
            self.notes[:0] = doc.pop("_run_normalizer_notes", [])
            self._stop = doc

    def _take_datum(self, doc: Document) -> None:
        descriptor, resource = doc["descriptor"], self._resources.get(doc["stream_resource"])
        if resource is None:
            raise PipelineKeyError(
                f"a stream_datum of {doc['stream_resource']!r}, of which there is no stream_resource"
            )
        names, key = self._names_of.get(descriptor, {}), str(resource["data_key"])
        key = names.get(key, key)
        data_key = self._data_keys_of[descriptor][key]
        self._stream_of[descriptor].take_datum(doc, {**resource, "data_key": key}, data_key)

    def _with_columns(self, doc: Document) -> Document:
        """Return the descriptor with names that SQL takes, each with its `original_name`."""
        names = self._names.setdefault(doc["name"], column_names(doc["data_keys"]))
        if all(name == column for name, column in names.items()):
            return doc
        self._names_of[doc["uid"]] = names
        return {
            **doc,
            "data_keys": {
                names.get(name, name): data_key if names.get(name) == name else {**data_key, "original_name": name}
                for name, data_key in doc["data_keys"].items()
            },
            "object_keys": {
                device: [names.get(name, name) for name in keys] for device, keys in doc.get("object_keys", {}).items()
            },
            "hints": {device: _renamed_hints(hints, names) for device, hints in doc.get("hints", {}).items()},
        }

    def _take_descriptor(self, doc: Document) -> None:
        name = doc["name"]
        self.data_keys.update(doc["data_keys"])
        if name not in self._streams:
            self._streams[name] = self._new_stream(name, doc)
        else:
            update = {"uid": doc["uid"], "time": doc["time"], "configuration": doc.get("configuration")}
            self._streams[name].updates.append({key: value for key, value in update.items() if value})
        self._stream_of[doc["uid"]] = self._streams[name]
        if any("external" in data_key for data_key in doc["data_keys"].values()):
            self._data_keys_of[doc["uid"]] = doc["data_keys"]

    def _new_stream(self, name: str, descriptor: Document) -> StreamWriter:
        taken = {stream.key for stream in self._streams.values()}
        key = stem = safe_key(name)
        number = 1
        while key in taken:
            number += 1
            key = f"{stem}_{number}"
        if key != name:
            self._tell(f"stream {name!r} is stored as {key!r}", False)
        stream = StreamWriter(key, descriptor, tell=self._tell, dims=_Dims())
        if self._kept is not None and key in self._kept:
            stream.keep(self._kept[key])
        return stream

    def _tell(self, sentence: str, lost: bool) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)
            self.losses += [sentence] * lost

    @property
    def streams(self) -> dict[str, StreamWriter]:
        """The streams that were taken in, by name."""
        return self._streams

    # writing

    @property
    def n_pending(self) -> int:
        """The most rows that wait in any stream."""
        return max((stream.n_pending for stream in self._streams.values()), default=0)

    def write(self, client: Any) -> None:
        """Bring the catalog level with what was taken in.

        Raises
        ------
        PipelineRuntimeError
            If the catalog holds another run of this uid.
        """
        if self.root_node is None and not self.is_level:
            self._open(client)
        if self.is_level:
            return self._compare(client)
        for stream in self._streams.values():
            self._write_stream(stream)
        if self._stop is not None:
            self._close()
        return None

    def detach(self) -> None:
        """Forget the clients of a server that is gone."""
        if self.root_node is not None:
            self._reopen = True
        self.root_node = None
        self._desc_nodes.clear()
        for stream in self._streams.values():
            stream.detach()

    def _open(self, client: Any) -> None:
        if self._reopen and (node := find(client, self._start["uid"])) is not None:
            self.root_node = node
            return
        try:
            self.root_node = self._create(client)
        except ClientError as error:
            if error.response.status_code != 409:
                raise
            self._replace(client, find(client, self._start["uid"]))

    def _create(self, client: Any) -> Any:
        start = {key: value for key, value in self._start.items() if key not in _NOT_STORED}
        self.access_tags = self._start.get("tiled_access_tags")
        specs = [Spec(spec) if isinstance(spec, str) else Spec(**spec) for spec in self._start.get("tiled_specs") or ()]
        return client.create_container(
            key=start["uid"],
            metadata={"start": truncate_json_overflow(start)},
            specs=[*specs, Spec("BlueskyRun", version="3.0")],
            access_tags=self.access_tags,
        )

    def _replace(self, client: Any, there: Any) -> None:
        """Deal with a run of this uid that the catalog has: leave it if it is whole, or begin again."""
        if there is not None and self._kept is not None:  # our own: a request that was done but never answered
            self.root_node = there
            return
        if there is not None and is_whole(there.metadata):
            self.is_level = True
            return
        if there is not None:
            there.delete(recursive=True, external_only=False)
        self.root_node = self._create(client)

    def _compare(self, client: Any) -> None:
        if self._stop is None:
            return
        there = find(client, self._start["uid"])
        have = {} if there is None else there.metadata
        for name, doc in (("start", self._start), ("stop", self._stop)):
            if stored_form(doc) != stored_form(dict(have.get(name) or {})):
                raise PipelineRuntimeError(
                    f"same uid, other content: the catalog has run {self._start['uid']} with another {name} document; "
                    "what it has is left as it is"
                )
        self.is_finished = True

    def _write_stream(self, stream: StreamWriter) -> None:
        if stream.node is None:
            stream.node = self._stream_node(stream)
            for uid, of in self._stream_of.items():
                if of is stream:
                    self._desc_nodes[uid] = stream.node
            self._desc_nodes[stream.key] = stream.node
        if stream.n_updates_written < len(stream.updates):
            stream.node.update_metadata(
                metadata={"_config_updates": truncate_json_overflow(stream.updates)}, drop_revision=True
            )
            stream.n_updates_written = len(stream.updates)
            self._desc_nodes.update({update["uid"]: stream.node for update in stream.updates})
        stream.write(self.access_tags)

    def _stream_node(self, stream: StreamWriter) -> Any:
        metadata = {k: v for k, v in stream.descriptor.items() if k not in ("name", "object_keys", "run_start")}
        if stream.key != stream.descriptor["name"]:
            metadata["stream_name"] = stream.descriptor["name"]  # where Tiled's own clients look for it
        run: Any = self.root_node
        try:
            return run.create_container(
                key=stream.key,
                metadata=truncate_json_overflow(metadata),
                specs=[Spec("BlueskyEventStream", version="3.0"), Spec("composite")],
                access_tags=self.access_tags,
            ).base
        except ClientError as error:
            if error.response.status_code != 409:  # a request that was done but never answered
                raise
            return find(run, stream.key).base

    def _close(self) -> None:
        """Write the stop document, last: a run that has one is whole."""
        if self._kept:
            for stream in self._streams.values():
                stream.shorten(self.access_tags)
        parts = {
            f"{stream.key}/{key}": part for stream in self._streams.values() for key, part in stream.external.items()
        }
        self._sres_nodes = {name: part.node for name, part in parts.items() if part.node is not None}
        self._consolidators = {name: part.consolidator for name, part in parts.items()}
        super().stop(cast(RunStop, truncate_json_overflow(self._stop)))
        self.is_finished = True

    def _close_stream_tree(self) -> None:
        self._internal_tables = {
            f"{stream.key}/{part.key}": part.node
            for stream in self._streams.values()
            for part in stream.parts()
            if part.node is not None and part.key not in stream.external
        }
        super()._close_stream_tree()


class _Dims:
    """Names the dimensions of a stream's arrays: those of one size alike, but never two of one array.

    The names that Tiled's own writer gives make xarray warn of every square image.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[int, int], str] = {}  # size, how many of it stand before in the same array -> name

    def __call__(self, shape: tuple[int | None, ...]) -> tuple[str, ...]:
        """Return the names of the dimensions of an array of this shape, of which the first is time."""
        dims = ["time"]
        for axis, size in enumerate(shape[1:], start=1):
            if size is None:
                dims.append(f"dim_rgd_{axis}")
            else:
                place = size, shape[1:axis].count(size)
                dims.append(self._names.setdefault(place, f"dim_int_{len(self._names) + 1}"))
        return tuple(dims)


class _Normalizer(RunNormalizer):
    """Brings documents to their latest schema; without validating each, and without a dispatcher that hides faults."""

    def __init__(self, take: Any) -> None:
        super().__init__()
        self._take = take

    def emit(self, name: Any, doc: Any) -> None:
        self._take(name.name, doc)


def is_whole(metadata: Any) -> bool:
    """Say whether a run in the catalog has its stop document, and was not given up."""
    stop = metadata.get("stop")
    return bool(stop) and not (stop.get("analysis") or {}).get("abandoned")


def stored_form(doc: Document) -> Any:
    """Return the document as the catalog keeps it."""
    kept = {key: value for key, value in doc.items() if key not in (*_NOT_STORED, "_run_normalizer_notes")}
    return orjson.loads(orjson.dumps(truncate_json_overflow(_finite(kept)), option=orjson.OPT_SERIALIZE_NUMPY))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _renamed(event: Document, names: dict[str, str]) -> Document:
    changed = {
        place: {names.get(name, name): value for name, value in event[place].items()}
        for place in ("data", "timestamps", "filled")
        if place in event
    }
    return {**event, **changed}


def _renamed_hints(hints: Document, names: dict[str, str]) -> Document:
    return {**hints, "fields": [names.get(name, name) for name in hints["fields"]]} if "fields" in hints else hints

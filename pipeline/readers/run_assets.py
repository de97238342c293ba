"""The assets of one raw run."""

import os
import sys
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy
from event_model import EventModelError, Filler, unpack_datum_page

from pipeline.documents import Document
from pipeline.errors import AssetError, PipelineError, PipelineKeyError, RejectedValue, near
from pipeline.readers.datum_asset import DatumAsset
from pipeline.readers.frame import Frame, Span
from pipeline.readers.row_shape import RowShape
from pipeline.readers.stream_asset import StreamAsset

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from event_model.documents import Resource

    from pipeline.readers.handlers import Handler
    from pipeline.readers.roots import Roots

OPEN = 4  # assets of a field that stay open
REMEMBERED = 10_000  # datums that were read, and may be wanted again: a dark that each event names


class Settings(Protocol):
    """How assets are read: what `Assets` has."""

    roots: "Roots"
    timeout: float
    missing: str
    in_flight: int
    handlers: "dict[str, Handler]"
    readers: dict[str, Any]

    @property
    def executor(self) -> "Executor":
        """What reads ahead."""
        ...

    def documents(self, run: str) -> Iterable[tuple[str, Document]]:
        """Return the documents of another run."""
        ...


class RunAssets:
    """Know the assets of one raw run by its documents, and read what events have in them.

    Parameters
    ----------
    settings
        How they are read.
    is_stored
        Whether the run is over: then its frames are all there, none is waited for, and the next are read ahead.
    """

    def __init__(self, settings: Settings, *, is_stored: bool = False) -> None:
        self._settings, self._is_stored = settings, is_stored
        self._timeout = 0.0 if is_stored else settings.timeout
        self._keys: dict[str, dict[str, Document]] = {}  # uid of a descriptor -> its data keys
        self._resources: dict[str, Document] = {}  # classic and streamed
        self._offsets: dict[str, int] = {}  # uid of a stream_resource -> the index of its first row
        self._announced: dict[str, tuple[str, int]] = {}  # uid of a stream_resource -> descriptor, rows so far
        self._n_rows: dict[str, int] = {}  # field -> how many rows its assets have together
        self._datums: OrderedDict[str, tuple[str, Document]] = OrderedDict()  # datum_id -> resource, arguments
        self._read: OrderedDict[str, None] = OrderedDict()  # datum_ids that were asked for
        self._assets: dict[str, StreamAsset | DatumAsset] = {}
        self._recent: dict[str, list[str]] = {}  # field -> its open assets, that of the last value last
        self._filler = Filler(settings.handlers, inplace=False, retry_intervals=[])
        self._are_wanted = False

    def __call__(self, name: str, doc: Document) -> None:
        """Take in a document; those that tell of no asset are left alone."""
        method = getattr(self, f"_{name}", None)
        if method is not None:
            method(doc)

    def _descriptor(self, doc: Document) -> None:
        self._keys[doc["uid"]] = {key: value for key, value in doc["data_keys"].items() if value.get("external")}

    def _resource(self, doc: Document) -> None:
        self._resources[doc["uid"]] = doc

    _stream_resource = _resource

    def _datum_page(self, doc: Document) -> None:
        for datum in unpack_datum_page(doc):  # type: ignore[arg-type]  # a document is a dict here
            self._datum(dict(datum))

    def _datum(self, doc: Document) -> None:
        self._datums[doc["datum_id"]] = doc["resource"], dict(doc.get("datum_kwargs") or {})
        if not self._are_wanted and len(self._datums) > REMEMBERED:
            self._datums.popitem(last=False)

    def want(self) -> None:
        """Know that somebody reads: until then, what was told first is forgotten when there is much of it."""
        self._are_wanted = True

    def _stream_datum(self, doc: Document) -> None:
        resource = self._resources.get(doc["stream_resource"])
        if resource is None:
            return
        uid, field, indices = doc["stream_resource"], resource["data_key"], doc["indices"]
        before = self._n_rows.get(field, 0)
        if uid not in self._offsets:
            goes_on = indices["start"] >= before and not self._is_same_file(uid, field)
            self._offsets[uid] = before if goes_on else 0
        self._n_rows[field] = max(before, indices["stop"])
        stop = indices["stop"] - self._offsets[uid]
        self._announced[uid] = doc["descriptor"], max(stop, self._announced.get(uid, ("", 0))[1])

    def _is_same_file(self, uid: str, field: str) -> bool:
        """Tell whether an asset before has this field in the same file: then its rows are counted on."""
        uris = [self._resources[other]["uri"] for other in self._offsets if self._resources[other]["data_key"] == field]
        return self._resources[uid]["uri"] in uris

    # what events refer to

    def span(self, doc: Document) -> Span | None:
        """Return which events a `stream_datum` that came tells of; None if its resource is not known."""
        uid = doc["stream_resource"]
        if uid not in self._offsets:
            return None
        field, seq_nums = self._resources[uid]["data_key"], doc["seq_nums"]
        row = doc["indices"]["start"] - self._offsets[uid]
        return Span(uid, doc["descriptor"], field, seq_nums["start"], seq_nums["stop"], row)

    def frame(self, field: str, datum_id: str) -> Frame | None:
        """Return where the value of a datum is; None if it has not come."""
        if datum_id not in self._datums:
            return None
        resource, arguments = self._datums[datum_id]
        self._read[datum_id] = None
        self._read.move_to_end(datum_id)
        while len(self._read) > REMEMBERED:
            self._datums.pop(self._read.popitem(last=False)[0], None)
        return Frame(field, resource, None, arguments)

    def read(self, frame: Frame, data_key: Document) -> Any:
        """Return a value, as an array that cannot be written to, or a number.

        Raises
        ------
        AssetError
            If it cannot be read, and that is to end the analysis; else a `RejectedValue`.
        """
        try:
            value = self._value(frame, data_key)
        except AssetError as error:
            if self._settings.missing == "skip":
                raise RejectedValue(str(error)) from None
            raise
        is_number = data_key["dtype"] != "array" and value.size == 1
        return value.reshape(())[()] if is_number else value

    def _value(self, frame: Frame, data_key: Document) -> numpy.ndarray:
        try:
            if frame.row is not None:
                return self._stream_asset(frame).row(frame.row, self._timeout)
            shape = data_key.get("shape") or ()
            n_frames = (shape[0] or 0) if len(shape) == 3 and 0 not in shape else 0
            return self._datum_asset(frame).value(frame.datum or {}, n_frames, self._timeout)
        except PipelineError as error:
            raise AssetError(f"field {frame.field!r}: {error}") from None

    # assets

    def _stream_asset(self, frame: Frame) -> StreamAsset:
        descriptor, n_rows = self._announced[frame.resource]
        asset = self._assets.get(frame.resource)
        if asset is None:
            key = self._keys[descriptor][frame.field]
            asset = self._assets[frame.resource] = self._streamed(self._resources[frame.resource], key)
        self._use(frame)
        assert isinstance(asset, StreamAsset)
        asset.announce(sys.maxsize if self._is_stored else n_rows)
        return asset

    def _streamed(self, resource: Document, key: Document) -> StreamAsset:
        parameters = resource.get("parameters") or {}
        name = " ".join(filter(None, [resource["uri"], parameters.get("dataset", "")]))
        shape = RowShape(key.get("shape") or (), is_number=key["dtype"] != "array")

        def open_reader() -> Any:
            reader = _known("reader", "assets of", resource.get("mimetype", ""), self._settings.readers)
            return reader(self._settings.roots.path(resource["uri"]), shape, parameters, self._settings.roots)

        return StreamAsset(name, open_reader, self._settings.in_flight, self._settings.executor)

    def _datum_asset(self, frame: Frame) -> DatumAsset:
        asset = self._assets.get(frame.resource)
        if asset is None:
            asset = self._assets[frame.resource] = self._classic(self._resources[frame.resource])
        self._use(frame)
        assert isinstance(asset, DatumAsset)
        return asset

    def _classic(self, resource: Document) -> DatumAsset:
        root, tail = str(resource.get("root") or ""), str(resource.get("resource_path") or "")
        name = os.path.join(root, tail.lstrip("/")) if root else tail

        def open_handler() -> Any:
            _known("handler", "resources of spec", resource.get("spec", ""), self._settings.handlers)
            path = self._settings.roots.path(name)
            try:
                return self._filler.get_handler(cast("Resource", {**resource, "root": "", "resource_path": path}))
            except EventModelError as error:
                raise error.__cause__ or error from None

        title = f"{resource.get('spec')} {name}"
        return DatumAsset(title, open_handler, self._settings.in_flight, self._settings.roots)

    def _use(self, frame: Frame) -> None:
        """Let the assets before this one of a field keep no values, and soon no open files."""
        recent = self._recent.setdefault(frame.field, [])
        if recent[-1:] == [frame.resource]:
            return
        before = [uid for uid in recent if uid != frame.resource]
        recent[:] = [*before[1 - OPEN :], frame.resource]
        in_use = {uids[-1] for uids in self._recent.values()}
        for uid in set(before) - in_use:
            self._assets[uid].forget()
        for uid in set(before).difference(*self._recent.values()):
            self._assets.pop(uid).close()

    # restarts

    def state(self) -> dict[str, Any]:
        """Return what its documents told, besides its definitions, as JSON values."""
        return {
            "offsets": dict(self._offsets),
            "announced": {uid: list(told) for uid, told in self._announced.items()},
            "n_rows": dict(self._n_rows),
            "datums": [[datum, *told] for datum, told in self._datums.items()],
            "read": list(self._read),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the definitions have come."""
        self._offsets, self._n_rows = dict(state["offsets"]), dict(state["n_rows"])
        self._announced = {uid: (descriptor, n) for uid, (descriptor, n) in state["announced"].items()}
        self._datums = OrderedDict((datum, (resource, told)) for datum, resource, told in state["datums"])
        self._read = OrderedDict.fromkeys(state["read"])

    # other runs

    def of_another(self) -> "RunAssets":
        """Return the assets of another run, one that is stored."""
        return RunAssets(self._settings, is_stored=True)

    def documents(self, run: str) -> Iterable[tuple[str, Document]]:
        """Return the documents of another run."""
        return self._settings.documents(run)

    def close(self) -> None:
        """Close all files."""
        for asset in self._assets.values():
            asset.close()
        self._assets, self._recent = {}, {}


def _known(what: str, of: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise PipelineKeyError(f"no {what} for {of} {name!r}{near(name, known)}")
    return known[name]

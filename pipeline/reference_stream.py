"""One raw stream whose events hold the frames of references: darks, flats."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.alignment import Alignment
from pipeline.documents import Document
from pipeline.errors import RejectedValue
from pipeline.event_data import EventData, configuration_of
from pipeline.intake import Intake
from pipeline.readers.run_assets import RunAssets
from pipeline.reductions.reference import Reference
from pipeline.run_builder import iter_events


class ReferenceStream:
    """Offer the events of one stream to references, in order.

    Parameters
    ----------
    stream
        Its name.
    references
        That may want its events.
    assets
        Of the run; they are given each document before this is.
    """

    def __init__(self, stream: str, references: Sequence[Reference], assets: RunAssets) -> None:
        self._stream, self._references, self._assets = stream, references, assets
        self._intake = Intake(self._take, lambda seq_num: False)
        self._alignment = Alignment(assets, fields_of(references), self._intake.uid_of, self._intake.event)
        self._data_keys: dict[str, Document] = {}
        self._configured: dict[str, dict[str, Any]] = {}  # uid of a descriptor -> its configuration

    def __call__(self, name: str, doc: Document) -> None:
        """Take in a document of the run; those of other streams are left alone."""
        if name == "descriptor" and doc.get("name", "primary") == self._stream:
            self._data_keys |= doc["data_keys"]
            self._configured[doc["uid"]] = configuration_of(doc)
            self._alignment.descriptor(doc)
        elif name == "event" and doc["descriptor"] in self._configured:
            self._alignment.event(doc)
        elif name == "event_page" and doc["descriptor"] in self._configured:
            for event in iter_events(doc):
                self._alignment.event(event)
        elif name == "stream_datum":
            self._alignment.stream_datum(doc)
        elif name in ("datum", "datum_page"):
            self._alignment.look()

    def finish(self) -> None:
        """Offer what still waits: no more will come."""
        self._alignment.finish()
        self._intake.finish()

    def _take(self, doc: Document) -> None:
        data = EventData({**self._configured[doc["descriptor"]], **doc["data"]}, self._data_keys, self._assets.read)
        offer(self._references, self._stream, data)

    def state(self) -> dict[str, Any]:
        """Return how far this is, as JSON values and arrays."""
        return {
            "intake": self._intake.state(),
            "alignment": self._alignment.state(),
            "data_keys": self._data_keys,
            "configured": self._configured,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._data_keys, self._configured = dict(state["data_keys"]), dict(state["configured"])
        self._alignment.restore(state["alignment"])
        self._intake.restore(state["intake"])


def offer(references: Sequence[Reference], stream: str, data: Mapping[str, Any]) -> None:
    """Offer an event to each reference that wants it; one that cannot be read is no part of it, if so told."""
    for reference in references:
        try:
            if reference.wants(stream, data):
                reference.offer(data)
        except (RejectedValue, KeyError):
            continue


def fields_of(references: Iterable[Reference]) -> set[str]:
    """Return the fields that are read for references."""
    return {field for each in references for field in (each.field, each.per, *each.when) if field}

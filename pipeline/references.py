"""The references of one analysis: what tells of them, and the events that wait for them."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline.documents import Document
from pipeline.errors import PipelineRuntimeError
from pipeline.readers.run_assets import RunAssets
from pipeline.reductions.reference import Reference
from pipeline.reference_stream import ReferenceStream, fields_of, offer
from pipeline.state import pack, unpack

Data = Mapping[str, Any]


class References:
    """Offer events to the references of an analysis, and hold back those of its own stream until these are complete.

    Held events are handed on in order, each when nothing is lacking that it wants. They hold no frames.

    Parameters
    ----------
    stream
        The stream that the analysis reads.
    assets
        Of the raw run; they are given each document before this is.
    data
        Returns the data of an event.
    give
        Called with each event of the stream that lacks nothing.
    """

    def __init__(
        self, stream: str, assets: RunAssets, data: Callable[[Document], Data], give: Callable[[Document], None]
    ) -> None:
        self._stream, self._assets, self._data, self._give = stream, assets, data, give
        self._all: list[Reference] = []
        self._streams: dict[str, ReferenceStream] = {}
        self._held: deque[Document] = deque()

    def __bool__(self) -> bool:
        return bool(self._all)

    @property
    def fields(self) -> set[str]:
        """The fields that are read for references."""
        return fields_of(self._all)

    @property
    def holds_events(self) -> bool:
        """Whether there are events that wait."""
        return bool(self._held)

    def add(self, references: Iterable[Reference]) -> None:
        """Know what is wanted."""
        self._all = list(references)
        elsewhere = [each for each in self._all if each.run is None and each.stream not in (None, self._stream)]
        for stream in dict.fromkeys(each.stream for each in elsewhere if each.stream):
            wanting = [each for each in elsewhere if each.stream == stream]
            self._streams[stream] = ReferenceStream(stream, wanting, self._assets)

    def read_runs(self) -> None:
        """Read the references that are of other runs.

        Raises
        ------
        PipelineError
            If a run cannot be read.
        """
        for run in dict.fromkeys(each.run for each in self._all if each.run is not None):
            self._read_run(run, [each for each in self._all if each.run == run])

    def _read_run(self, uid: str, references: list[Reference]) -> None:
        assets = self._assets.of_another()
        streams = [
            ReferenceStream(stream, [each for each in references if (each.stream or self._stream) == stream], assets)
            for stream in dict.fromkeys(each.stream or self._stream for each in references)
        ]
        for name, doc in self._assets.documents(uid):
            assets(name, doc)
            for stream in streams:
                stream(name, doc)
        for stream in streams:
            stream.finish()
        for reference in references:
            reference.end()
        assets.close()

    # documents

    def __call__(self, name: str, doc: Document) -> None:
        """Take in a document of the raw run, which may be of another stream."""
        for stream in self._streams.values():
            stream(name, doc)
        if self._held:
            self._release()

    def take(self, doc: Document) -> None:
        """Take in an event of the analysis's own stream, in its turn."""
        offer([each for each in self._all if each.run is None], self._stream, self._data(doc))
        self._held.append(doc)
        self._release()

    def _release(self) -> None:
        while self._held and not self._lacks(self._held[0]):
            self._give(self._held.popleft())

    def _lacks(self, doc: Document) -> str:
        data = self._data(doc)
        return next((lack for each in self._all if (lack := each.lacks(data))), "")

    def drop_from(self, seq_num: int) -> None:
        """Drop the events that wait from this one on: they are taken again."""
        self._held = deque(doc for doc in self._held if doc["seq_num"] < seq_num)

    def finish(self) -> None:
        """Hand on what still waits: no more references will come.

        Raises
        ------
        PipelineRuntimeError
            If an event wants one that did not come.
        """
        for stream in self._streams.values():
            stream.finish()
        for reference in self._all:
            reference.end()
        self._release()
        if self._held:
            raise PipelineRuntimeError(
                f"{len(self._held)} events of stream {self._stream!r} wait: {self._lacks(self._held[0])}."
            )

    @property
    def provenance(self) -> list[Document]:
        """What is known of the references by now: role, uid of the run, SHA-256."""
        return [each for reference in self._all for each in reference.provenance()]

    # restarts

    def state(self) -> dict[str, Any]:
        """Return how far this is, as JSON values and arrays."""
        return {
            "all": [reference.state() for reference in self._all],
            "streams": {name: stream.state() for name, stream in self._streams.items()},
            "held": [pack(doc, "event", "") for doc in self._held],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same references."""
        for reference, each in zip(self._all, state["all"], strict=True):
            reference.restore(each)
        for name, stream in self._streams.items():
            stream.restore(state["streams"][name])
        self._held = deque(unpack(doc, "") for doc in state["held"])

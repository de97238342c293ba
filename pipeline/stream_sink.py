"""Derived events as a streamz stream."""

from typing import Any

from pipeline.documents import Document


class StreamSink:
    """Emit the events of one node into a streamz stream: the data of each, with its `time`.

    Parameters
    ----------
    source
        The `streamz.Stream` to emit into.
    node, stream
        The name of the node, and of the stream of its runs.
    """

    takes_arrays = True

    def __init__(self, source: Any, node: str, stream: str) -> None:
        self.name = f"stream of {node}"
        self._source, self._node, self._stream = source, node, stream
        self._runs: set[str] = set()
        self._descriptors: dict[str, str] = {}  # descriptor uid -> run uid

    def __call__(self, name: str, doc: Document) -> None:
        """Take one document of an analysis run."""
        if name == "event":
            if doc["descriptor"] in self._descriptors:
                self._source.emit({**doc["data"], "time": doc["time"]})
        elif name == "start":
            if (doc.get("analysis") or {}).get("node") == self._node:
                self._runs.add(doc["uid"])
        elif name == "descriptor":
            if doc["run_start"] in self._runs and doc["name"] == self._stream:
                self._descriptors[doc["uid"]] = doc["run_start"]
        elif name == "stop":
            self._runs.discard(doc["run_start"])
            self._descriptors = {uid: run for uid, run in self._descriptors.items() if run != doc["run_start"]}

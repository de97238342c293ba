"""A run as it is given, beside the same run as a Tiled catalog has it."""

from typing import Any, NamedTuple

from bluesky_tiled_plugins.utils import truncate_json_overflow

from pipeline.catalogs import find
from pipeline.difference import first_difference
from pipeline.documents import Document
from pipeline.sinks.run_writer import RunWriter, is_whole, stored_form
from pipeline.sinks.stream_writer import StreamWriter

BLOCK = 1000  # documents taken in between two comparisons
_OF_PLUGINS = ("name", "object_keys", "run_start", "stream_name", "_config_updates")


class Standing(NamedTuple):
    """How a run in a catalog stands to the documents that were given.

    Attributes
    ----------
    difference
        The first place where what both have is not the same.
    missing
        The first thing that the catalog lacks.
    surplus
        The first thing that the catalog has, and that was not given.
    kept
        How many rows the catalog may keep, by stream and part.

    >>> Standing("", "", "", {}).is_level
    True
    """

    difference: str
    missing: str
    surplus: str
    kept: dict[str, dict[str, int]]

    @property
    def is_level(self) -> bool:
        """Whether the catalog has what was given, no less, no more and nothing else."""
        return not (self.difference or self.missing or self.surplus)


class RunComparison:
    """Compare a run, given document by document, with what a Tiled catalog has of it.

    Nothing is written. Data in files of their own are not read: only what the documents say is compared.

    Parameters
    ----------
    node
        The client of the run.
    uploads
        Whether arrays that are in files beside a ledger are to be in the catalog: its server cannot read them.
    """

    def __init__(self, node: Any, *, uploads: bool = False) -> None:
        self._node = node
        self._metadata = dict(node.metadata)
        self._taken = RunWriter(uploads=uploads)
        self._stop: Document | None = None
        self._n_waiting = 0
        self._difference = ""

    def __call__(self, name: str, doc: Document) -> None:
        """Take in one document."""
        if self._difference:
            return
        if name == "start":
            have = dict(self._metadata.get("start") or {})
            self._note(first_difference(stored_form(doc), stored_form(have), "start"))
        elif name == "stop":
            self._stop = doc
        self._taken(name, doc)
        self._n_waiting += len(doc["seq_num"]) if name == "event_page" else 1
        if self._n_waiting >= BLOCK:
            self._compare()

    def finish(self) -> Standing:
        """Return how the run stands."""
        self._compare()
        streams = list(self._taken.streams.values())
        missing = next(filter(None, map(self._missing, streams)), "")
        surplus = next(filter(None, map(self._surplus, streams)), "")
        kept = {stream.key: stream.standing() for stream in streams if stream.node is not None}
        return self._with_stop(Standing(self._difference, missing, surplus, kept))

    def _note(self, difference: str) -> None:
        self._difference = self._difference or difference

    def _compare(self) -> None:
        self._n_waiting = 0
        for stream in self._taken.streams.values():
            if stream.node is None and (node := find(self._node, stream.key)) is not None:
                stream.node = node.base
                self._note(self._of_descriptor(stream))
            self._note(stream.compare())

    def _of_descriptor(self, stream: StreamWriter) -> str:
        have = {key: value for key, value in dict(stream.node.metadata).items() if key not in _OF_PLUGINS}
        want = {key: value for key, value in stream.descriptor.items() if key not in _OF_PLUGINS}
        return first_difference(stored_form(want), stored_form(have), f"descriptor of {stream.key!r}")

    def _missing(self, stream: StreamWriter) -> str:
        if stream.node is None:
            return f"there is no stream {stream.key!r}"
        updates = truncate_json_overflow(stream.updates)
        have = list(stream.node.metadata.get("_config_updates") or [])
        if len(have) < len(updates):
            return f"stream {stream.key!r} lacks its descriptor {len(have) + 2}"
        for part in stream.parts():
            if part.n_lacking:
                return f"stream {stream.key!r}, {part.key!r}: wanted {part.n_given} rows, there are {part.n_there}"
            if part.n_beyond:
                return f"stream {stream.key!r}, {part.key!r}: there are {part.n_beyond} rows too many"
        return ""

    def _surplus(self, stream: StreamWriter) -> str:
        table = stream.parts()[-1]
        if table.n_there > table.n_given:
            return f"stream {stream.key!r}: wanted {table.n_given} rows, there are {table.n_there}"
        return ""

    def _with_stop(self, standing: Standing) -> Standing:
        have = self._metadata.get("stop")
        if self._stop is None:
            return standing._replace(surplus=standing.surplus or "there is a stop document") if have else standing
        if not have:
            return standing._replace(missing=standing.missing or "there is no stop document")
        if difference := first_difference(stored_form(self._stop), stored_form(dict(have)), "stop"):
            return standing._replace(difference=standing.difference or difference)
        return standing

    @property
    def has_stop(self) -> bool:
        """Whether a stop document was given."""
        return self._stop is not None

    @property
    def is_abandoned(self) -> bool:
        """Whether the catalog has a run that was given up, and may have gone on since."""
        return bool(self._metadata.get("stop")) and not is_whole(self._metadata)

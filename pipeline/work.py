"""A node at work on one raw run."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy

from pipeline.alignment import Alignment
from pipeline.analysis_result import AnalysisResult
from pipeline.chain import Chain, Links
from pipeline.documents import Document, Sink
from pipeline.errors import PipelineError, PipelineKeyError, PipelineTypeError
from pipeline.event_data import EventData, configuration_of
from pipeline.group import Total
from pipeline.history import History, block_size
from pipeline.intake import Intake
from pipeline.output import Output, Point
from pipeline.readers.run_assets import RunAssets
from pipeline.reductions.reduction import Data, Reduction
from pipeline.references import References
from pipeline.run_builder import RunBuilder, iter_events
from pipeline.state import pack, unpack

logger = logging.getLogger(__name__)


class Work:
    """One analysis of one raw run: takes its documents, and hands on those of the analysis run.

    It never raises: a fault ends this analysis, is logged once and stands in the stop document
    (`BLUESKY_DEBUG_CALLBACKS=1` raises instead, as in bluesky).

    Parameters
    ----------
    name, stream
        Of the node, and of the raw stream that it reads.
    reductions
        Prototypes: never touched, copied.
    every
        How many events there are between two of stream `running`; 0 for none.
    raw
        The start document of the raw run.
    builder
        Of the analysis run, begun.
    emit
        What the builder hands its documents to. What it has in `faults`, by sink, is told in the stop document.
    assets
        Of the raw run: what reads external fields.
    """

    def __init__(
        self,
        name: str,
        stream: str,
        reductions: Sequence[Reduction],
        every: int,
        raw: Document,
        builder: RunBuilder,
        emit: Sink,
        assets: RunAssets,
    ) -> None:
        self.name, self.stream, self.uid = name, stream, builder.uid
        self.intake = Intake(self._take, self._rewind)
        self.reason = ""  # what went wrong first
        self.is_over = False
        self._prototypes, self._every = reductions, every
        self._raw, self._assets = raw, assets
        self._begun: list[Reduction] | None = None  # copies that know the start document
        self._references = References(stream, assets, self._data, self._take_in)
        self._frames = Alignment(assets, None, self.intake.uid_of, self.intake.event)
        self.emit: Any = emit
        self._builder = builder
        self._streams_seen: list[str] = []
        self._descriptors: set[str] = set()  # uids of the descriptors of our stream
        self._chain = Chain(stream)
        self._later: dict[str, dict[str, Document]] = {}  # uid of a descriptor -> data keys, once its events come
        self._configured: dict[str, dict[str, Any]] = {}  # uid of a descriptor -> configuration that is read
        self._expected = 0  # events of our stream, as the stop document tells
        self._before = Total()  # of a group of runs
        self._add: Callable[[Document, Sequence[Reduction], int], None] | None = None
        self._arrays: dict[str, Any] = {}  # fields of arrays in the events -> their dtypes
        self._carried: list[str] = []  # fields that were scanned
        self._history = History(Links([], raw["time"]))
        self._events: Output | None = None  # one event for each raw event
        self._running: Output | None = None
        self._final: Output | None = None

    def join(self, before: Total, add: Callable[[Document, Sequence[Reduction], int], None]) -> None:
        """Let the summaries be of the runs before, too; `add` is called with what this run gave, if it ends well."""
        self._before, self._add = before, add

    def __call__(self, name: str, doc: Document) -> None:
        """Take in a document of the raw run."""
        method = getattr(self, f"_{name}", None)
        if method is None or (self.reason and name != "stop"):
            return
        try:
            if not self.reason:
                self._prepare()
                self._references(name, doc)
            method(doc)
        except Exception as error:  # noqa: BLE001 - contained: a fault ends its own analysis and nothing else
            self.fail(error)

    def event(self, doc: Document) -> None:
        """Take in an event: what a call does, without the way round."""
        if self.reason:
            return
        try:
            if doc["descriptor"] not in self._descriptors:
                self._references("event", doc)
            elif self._frames.wants_frames:
                self._frames.event(doc)
            else:
                self.intake.event(doc)
        except Exception as error:  # noqa: BLE001 - contained: a fault ends its own analysis and nothing else
            self.fail(error)

    _event = event

    def fail(self, error: Exception) -> None:
        """End this analysis, for this reason: what comes is left alone, until the raw run stops."""
        if debugs_callbacks():
            raise error
        if not self.reason:
            is_ours = isinstance(error, PipelineError)
            self.reason = str(error) if is_ours else f"{type(error).__name__}: {error}"
            logger.error("Node %s, raw run %s: %s", self.name, self._raw["uid"], self.reason, exc_info=not is_ours)

    # descriptors -----------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Have reductions that know the start document, and what they refer to."""
        if self._begun is not None:
            return
        self._begun = deepcopy(list(self._prototypes))
        for reduction in self._begun:
            reduction.begin(self._raw)
        self._references.add(each for reduction in self._begun for each in reduction.references)
        self._frames.fields = self._fields_read()

    def _fields_read(self) -> set[str] | None:
        """Return the fields that are read; None if a reduction does not say."""
        if not all(reduction.fields for reduction in self._prototypes):
            return None
        fields = {field for reduction in self._prototypes for field in reduction.fields}
        return fields | set(_scanned(self._raw, self.stream)) | self._references.fields

    def _start(self, doc: Document) -> None:
        self._references.read_runs()

    def _descriptor(self, doc: Document) -> None:
        stream = doc.get("name", "primary")
        if stream not in self._streams_seen:
            self._streams_seen.append(stream)
        if stream != self.stream:
            return
        self._descriptors.add(doc["uid"])
        self._frames.descriptor(doc)
        self._configured[doc["uid"]] = self._configuration_read(doc)
        if _kinds(doc["data_keys"]) == _kinds(self._chain.data_keys):
            return
        if self._frames.waits or self._references.holds_events:
            self._later[doc["uid"]] = doc["data_keys"]
        else:
            self._begin(doc["data_keys"], self._configured[doc["uid"]])

    def _configuration_read(self, doc: Document) -> dict[str, Any]:
        """Return what reductions read that is no field, but how an object is set."""
        fields = self._frames.fields or ()
        return {
            key: value for key, value in configuration_of(doc).items() if key in fields and key not in doc["data_keys"]
        }

    def _begin(self, data_keys: dict[str, Document], configured: Mapping[str, Any]) -> None:
        """Start with fresh reductions, that read these fields."""
        self._describe(data_keys)
        self._chain.check(self._prototypes, configured)
        reductions = self._fresh()
        block = block_size(data_keys) if all(reduction.is_copied for reduction in reductions) else 0
        self._history = History(Links(reductions, self._raw["time"]), block)

    def _fresh(self) -> list[Reduction]:
        self._prepare()
        return deepcopy(self._begun or [])

    def _describe(self, data_keys: dict[str, Document]) -> None:
        """Know what the fields are, and what comes out."""
        self._chain.begin(data_keys)
        self._arrays = {field: dtype for field, key in data_keys.items() if (dtype := _array_dtype(key))}
        self._carried = carried = [
            field for field in _scanned(self._raw, self.stream) if _is_number(data_keys.get(field))
        ]
        by_event = [i for i, reduction in enumerate(self._prototypes) if reduction.kind == "event"]
        summaries = [i for i, reduction in enumerate(self._prototypes) if reduction.kind != "event"]
        self._events = self._output(self.stream, by_event, carried)
        self._running = self._output("running", summaries, carried) if self._every else None
        self._final = self._output("final", summaries)

    def _output(self, name: str, chosen: list[int], carried: Sequence[str] = ()) -> Output | None:
        return Output(self._builder, name, self.name, chosen, self._chain.data_keys, carried) if chosen else None

    # events ----------------------------------------------------------------------------------------------------

    def _event_page(self, doc: Document) -> None:
        if doc["descriptor"] not in self._descriptors:
            return
        takes_pages = self._events is None and self._running is None and not self._is_read(doc["descriptor"])
        if takes_pages and not doc.get("filled") and self.intake.is_next(doc):
            self._take_page(doc)
        else:
            for event in iter_events(doc):
                self.event(event)

    def _is_read(self, descriptor: str) -> bool:
        """Tell whether an event has more to it than its data: frames, configuration, references."""
        return bool(self._frames.wants_frames or self._references or self._configured[descriptor])

    def _stream_datum(self, doc: Document) -> None:
        self._frames.stream_datum(doc)

    def _datum_page(self, doc: Document) -> None:
        self._frames.look()

    _datum = _datum_page

    def _data(self, doc: Document) -> Data:
        """Return the data of an event, whose frames are read when they are asked for."""
        data, filled = doc["data"], doc.get("filled")
        if filled and not all(filled.values()):
            data = {field: value for field, value in data.items() if filled.get(field, True)}
        if self._arrays:
            data = {field: self._as_described(field, value) for field, value in data.items()}
        if configured := self._configured[doc["descriptor"]]:
            data = {**configured, **data}
        return self._readable(data)

    def _readable(self, data: Data) -> Data:
        return EventData(data, self._chain.data_keys, self._assets.read) if self._frames.wants_frames else data

    def _take(self, doc: Document) -> None:
        if self._references:
            self._references.take(doc)
        else:
            self._take_in(doc)

    def _take_in(self, doc: Document) -> None:
        if self._later and doc["descriptor"] in self._later:
            self._begin(self._later.pop(doc["descriptor"]), self._configured[doc["descriptor"]])
        data = self._data(doc)
        self._history.add(doc["seq_num"], data.unread if isinstance(data, EventData) else data)
        state = self._history.state
        is_whole = self._chain.update(state, data)
        carried = {field: data.get(field) for field in self._carried}
        state.last = point = Point(doc["seq_num"], doc["time"], doc["timestamps"], carried)
        if self._events is not None and is_whole:
            self._events.write(state.reductions, point)
        if self._running is not None and state.n_events % self._every == 0:
            self._running.write(state.reductions, point, state.n_events)

    def _as_described(self, field: str, value: Any) -> Any:
        """Return an array in its dtype: JSON had it as nested lists, and live and replay are to give the same bits."""
        dtype = self._arrays.get(field)
        if dtype is None or getattr(value, "dtype", None) == dtype:
            return value
        try:
            return numpy.asarray(value).astype(dtype, casting="same_kind" if hasattr(value, "dtype") else "unsafe")
        except (TypeError, ValueError):  # it contradicts its descriptor: the reduction that reads it says so
            return value

    def _rewind(self, seq_num: int) -> bool:
        self._references.drop_from(seq_num)
        if self._references and self._history.state.last.seq_num < seq_num:
            return True
        events = self._history.rewind(seq_num)
        for before, data in events or ():
            self._history.add(before, data)
            self._chain.update(self._history.state, self._readable(data))
        return events is not None

    def _take_page(self, doc: Document) -> None:
        """Take in a page by columns, in parts, so that the history is that of single events."""
        seq_nums, start = doc["seq_num"], 0
        while start < len(seq_nums):
            part = slice(start, start + self._history.room)
            columns = {field: column[part] for field, column in doc["data"].items()}
            for field in self._arrays.keys() & columns.keys():
                columns[field] = [self._as_described(field, value) for value in columns[field]]
            self._history.add_page(seq_nums[part], columns)
            self._chain.update_page(self._history.state, columns, len(seq_nums[part]))
            start = part.stop
        self.intake.has_taken(seq_nums, doc["uid"])
        stamps = {field: column[-1] for field, column in doc["timestamps"].items()}
        carried = {field: doc["data"][field][-1] for field in self._carried if field in doc["data"]}
        self._history.state.last = Point(seq_nums[-1], doc["time"][-1], stamps, carried)

    # the end ---------------------------------------------------------------------------------------------------

    def _stop(self, doc: Document) -> None:
        n_events = (doc.get("num_events") or {}).get(self.stream)
        self._expected = n_events if isinstance(n_events, int) else 0
        self.close(doc.get("exit_status", "success"), doc.get("reason") or "", doc["time"])

    def abandon(self) -> None:
        """End the analysis of a raw run whose stop document never came."""
        time = self._history.state.last.time
        self.close("abort", "The stop document of the raw run never came.", time, abandoned=True)

    def close(self, exit_status: str, reason: str, time: float, abandoned: bool = False) -> None:
        """End the analysis run as its raw run has ended: take in what still waits, give the last summaries."""
        self.is_over = True
        if not self.reason:
            try:
                self._finish(exit_status)
            except Exception as error:  # noqa: BLE001 - contained: a fault ends its own analysis and nothing else
                self.fail(error)
        analysis: Document = self.counts() | ({"abandoned": True} if abandoned else {})
        if self._references:
            analysis["references"] = self._references.provenance
        faults = getattr(self.emit, "faults", None)
        if faults:
            analysis["sinks"] = faults
        exit_status, reason = ("fail", self.reason) if self.reason else (exit_status, reason)
        self._builder.close(exit_status, reason, time=time, metadata={"analysis": analysis})

    def _finish(self, exit_status: str) -> None:
        self._frames.finish()
        self.intake.finish()
        self._references.finish()
        if self._frames.lost and self.intake.n_taken:
            raise PipelineKeyError(
                f"Node {self.name!r} reads {self._frames.lost} of stream {self.stream!r}, and no document told of any "
                "value: wanted datum or stream_datum documents."
            )
        state = self._history.state
        if self._final is not None and state.n_events:
            total = self._total(state)
            self._final.write(total.reductions, state.last, total.n_events)
        if not self._descriptors and self._streams_seen and exit_status == "success":
            raise PipelineKeyError(
                f"Node {self.name!r} reads stream {self.stream!r}, but the run has {self._streams_seen}."
            )
        if self._add is not None and exit_status == "success" and state.n_events:
            self._add(self._raw, state.reductions, state.n_events)

    def _total(self, state: Links) -> Links | Total:
        """Return what the summaries are of: this run, and those of its group before it."""
        if self._add is None:
            return state
        return self._before.with_run(self._raw, state.reductions, state.n_events)

    def result(self) -> AnalysisResult:
        """Return what is known by now; what was not written just before is worked out."""
        state = self._history.state
        data: dict[str, Any] = {}
        total = self._total(state)
        for output in (self._events, self._final):
            if output is not None and state.n_events:
                data |= output.results(total.reductions, state.last)
        about = (self.name, self._raw["uid"], self.uid)
        return AnalysisResult(data, *about, total.n_events, state.last.seq_num, is_final=self.is_over)

    @property
    def needs(self) -> str:
        """What has to come before anything goes out, in words; nothing if something has."""
        run = f"run {self._raw['uid']}"
        if not self._descriptors:
            return f"{run} has streams {self._streams_seen}, and no {self.stream!r} yet"
        if not self._history.state.n_events:
            return f"stream {self.stream!r} of {run} has no events yet"
        if not self._builder.streams and not self.is_over and (self._events or self._running):
            return f"of {self._history.state.n_events} events of {run} the reductions know nothing yet"
        return ""

    # states ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any] | None:
        """Return how far this is, as JSON values and arrays; None if a reduction cannot tell its state."""
        if not all(reduction.is_copied for reduction in self._prototypes):
            return None
        try:
            return {
                "reason": self.reason,
                "streams_seen": list(self._streams_seen),
                "descriptors": sorted(self._descriptors),
                "data_keys": pack(self._chain.data_keys, "data_keys", ""),
                "derived": dict(self._chain.derived),
                "later": pack(self._later, "data_keys", ""),
                "configured": pack(self._configured, "configuration", ""),
                "frames": self._frames.state(),
                "references": self._references.state(),
                "intake": self.intake.state(),
                "history": self._history.packed(self._pack_state),
                "outputs": {name: output.state() for name, output in self._outputs()},
                "builder": self._builder.state(),
                "before": self._before.state(),
            }
        except PipelineTypeError as error:
            logger.warning("Node %s keeps what no state can hold; a restart reads its runs again: %s", self.name, error)
            return None

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same recipe and raw run, with a builder that was resumed from it.

        Raises
        ------
        PipelineValueError
            If it is a state of other reductions.
        """
        self.reason = state["reason"]
        self._streams_seen = list(state["streams_seen"])
        self._descriptors = set(state["descriptors"])
        self._later, self._configured = unpack(state["later"], ""), unpack(state["configured"], "")
        if not self.reason:
            self._prepare()
            self._references.restore(state["references"])
        self._frames.restore(state["frames"])
        if state["data_keys"]:
            self._describe(unpack(state["data_keys"], ""))
        self._chain.derived = dict(state["derived"])
        self._history = History.unpacked(state["history"], self._unpack_state)
        self.intake.restore(state["intake"])
        for name, output in self._outputs():
            output.restore(state["outputs"][name])
        self._before = Total.restored(state["before"], self._prototypes)

    def _outputs(self) -> list[tuple[str, Output]]:
        outputs = {"events": self._events, "running": self._running, "final": self._final}
        return [(name, output) for name, output in outputs.items() if output is not None]

    def _pack_state(self, state: Links) -> dict[str, Any]:
        """Return a state without its reductions, if they have failed: they are not asked again."""
        return {
            "reductions": [] if self.reason else [reduction.state() for reduction in state.reductions],
            "n_events": state.n_events,
            "n_skipped": state.n_skipped,
            "last": pack(tuple(state.last), "event", ""),
        }

    def _unpack_state(self, packed: Mapping[str, Any]) -> Links:
        reductions = self._fresh() if packed["reductions"] else []
        for reduction, each in zip(reductions, packed["reductions"], strict=True):
            reduction.restore(each)
        state = Links(reductions, self._raw["time"])
        state.n_events, state.n_skipped = packed["n_events"], packed["n_skipped"]
        state.last = Point(*unpack(packed["last"], ""))
        return state

    def counts(self) -> dict[str, int]:
        """Return how many raw events there were, and what became of them."""
        intake = self.intake
        return {
            "n_raw": intake.n_taken + intake.n_superseded,
            "n_superseded": intake.n_superseded,
            "n_retaken": intake.n_retaken,
            "n_missing": intake.n_missing + max(0, self._expected - intake.n_seen),
            "n_skipped": self._history.state.n_skipped,
        }


def debugs_callbacks() -> bool:
    """Tell whether faults are raised, as bluesky's own callbacks do then, for who looks for one."""
    return os.environ.get("BLUESKY_DEBUG_CALLBACKS", "0") == "1"


def _kinds(data_keys: Mapping[str, Document]) -> dict[str, tuple[Any, ...]]:
    """Return what of the data keys matters to the state of a reduction."""
    return {key: (k["dtype"], k.get("dtype_numpy"), tuple(k.get("shape") or ())) for key, k in data_keys.items()}


def _array_dtype(data_key: Document) -> Any:
    """Return the dtype of an array that stands in the events; None of all else."""
    if data_key["dtype"] != "array" or data_key.get("external"):
        return None
    text = data_key.get("dtype_numpy")
    return numpy.dtype(text) if isinstance(text, str) and text[1:2] in tuple("biuf") else None


def _scanned(raw: Document, stream: str) -> list[str]:
    """Return the fields that were scanned, as the hints of the raw run tell."""
    dimensions = raw.get("hints", {}).get("dimensions", [])
    return [field for fields, of in dimensions if of == stream for field in fields if field != "time"]


def _is_number(data_key: Document | None) -> bool:
    return data_key is not None and data_key["dtype"] in ("number", "integer")

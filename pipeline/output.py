"""One stream of an analysis run: what its reductions give, event by event."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.data_keys import caster, describe
from pipeline.documents import Document, safe_keys
from pipeline.reductions.reduction import SHARED, Reduction, Result
from pipeline.run_builder import RunBuilder, configuration

COUNTERS = ("raw_seq_num", "n_events")

Descriptions = dict[str, Document]


class Point(NamedTuple):
    """What a derived event takes over from the raw event it follows."""

    seq_num: int
    time: float
    timestamps: Mapping[str, float]
    data: Mapping[str, Any]


class Output:
    """Write the results of some of a node's reductions to one stream.

    The stream is described by its first row: not before every reduction knows something, but for `final`, which takes
    what is known.

    Parameters
    ----------
    builder
        Of the analysis run.
    name
        Of the stream: that of the raw one, `running` or `final`.
    node
        The name of the node, which the data keys are of.
    chosen
        Which of the node's reductions it is of, by place.
    data_keys
        Of the raw stream.
    carried
        Raw fields that stand beside the results: what was scanned.
    """

    def __init__(
        self,
        builder: RunBuilder,
        name: str,
        node: str,
        chosen: Sequence[int],
        data_keys: Mapping[str, Document],
        carried: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._builder, self._node, self._chosen = builder, node, chosen
        self._raw_keys, self._carried = data_keys, carried
        self._keys: dict[str, str] = {}  # name of a result -> its key in the documents
        self._is_renamed = False
        self._last: Result = {}  # what was written last, by key in the documents
        self._at: Point | None = None  # what that followed

    def state(self) -> dict[str, Any]:
        """Return what is known of the stream since its first row."""
        return {"keys": self._keys, "is_renamed": self._is_renamed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._keys, self._is_renamed = dict(state["keys"]), state["is_renamed"]

    def write(self, reductions: Sequence[Reduction], point: Point, n_events: int | None = None) -> None:
        """Add an event with what the reductions give now; `n_events` is how many raw events a summary is of."""
        row: dict[str, Any] = {}
        stamps: dict[str, float] = {}
        for i in self._chosen:
            result = reductions[i].result()
            if result is not None:
                if not row.keys().isdisjoint(result):
                    result = _distinct(result, row)
                row |= result
                stamps |= dict.fromkeys(result, _stamp(reductions[i], point))
            elif self.name != "final":
                return
        if row:
            self._add(reductions, row, stamps, point, n_events)

    def _add(
        self,
        reductions: Sequence[Reduction],
        row: dict[str, Any],
        stamps: dict[str, float],
        point: Point,
        n_events: int | None,
    ) -> None:
        for key in self._carried:
            row[key] = point.data.get(key)
            stamps[key] = point.timestamps.get(key, point.time)
        row["raw_seq_num"], stamps["raw_seq_num"] = point.seq_num, point.time
        if n_events is not None:
            row["n_events"], stamps["n_events"] = n_events, point.time
        if not self._keys:
            self._describe(reductions, row, point.time)
        if self._is_renamed:
            row, stamps = ({self._keys[name]: part[name] for name in part} for part in (row, stamps))
        self._builder.add_event(self.name, row, time=point.time, timestamps=stamps)
        self._last, self._at = row, point

    def results(self, reductions: Sequence[Reduction], point: Point) -> Result:
        """Return what the reductions give at this point, as it stands in the stream or would; write nothing."""
        row = self._last if self._at is point else self._row(reductions)
        others = {self._keys.get(name, name) for name in (*self._carried, *COUNTERS)}
        return {key: _stored(value) for key, value in row.items() if key not in others}

    def _row(self, reductions: Sequence[Reduction]) -> Result:
        row: Result = {}
        for i in self._chosen:
            row |= _distinct(reductions[i].result() or {}, row)
        keys = self._keys or safe_keys(row)
        return {keys.get(name, name): value for name, value in row.items()}

    def _describe(self, reductions: Sequence[Reduction], row: Mapping[str, Any], time: float) -> None:
        self._keys = safe_keys(row)
        self._is_renamed = any(name != key for name, key in self._keys.items())
        told = self._ask(reductions)
        known = self._describe_results(reductions, told) | {key: self._describe_carried(key) for key in self._carried}
        data_keys = {self._keys[name]: self._data_key(name, row[name], known.get(name, {})) for name in row}
        axes = _axes([reductions[i] for i in self._chosen])
        settings = configuration(self._node, axes, time) if axes else None
        if self.name in self._builder.streams:
            self._builder.redescribe(self.name, data_keys, configuration=settings, time=time)
            return
        self._write_axes(axes, {key: about for i in self._chosen for key, about in told[i].items()}, time)
        hints = {self._node: {"fields": [key for key in data_keys if key not in COUNTERS]}}
        self._builder.add_stream(
            self.name, data_keys, configuration=settings, object_name=self._node, hints=hints, time=time
        )

    def _describe_results(self, reductions: Sequence[Reduction], told: Sequence[Descriptions]) -> Descriptions:
        """Return what is known of the results."""
        known: Descriptions = {}
        for i in self._chosen:
            about, source = told[i], _source(reductions[i])
            keys = {key: {"source": source, **about.get(key, {})} for key in reductions[i].result() or {}}
            known |= _distinct(keys, known)
        return known

    def _ask(self, reductions: Sequence[Reduction]) -> list[Descriptions]:
        """Return what each reduction says of its results and axes, once it is told what those before it give."""
        data_keys, told = dict(self._raw_keys), []
        for reduction in reductions:
            about = reduction.describe(data_keys)
            told.append(about)
            if reduction.kind == "event":
                source, fed = _source(reduction), (reduction.feed() or {}).items()
                data_keys |= {key: {**describe(value, source), **about.get(key, {})} for key, value in fed}
        return told

    def _describe_carried(self, field: str) -> Document:
        raw = self._raw_keys[field]
        kept = {name: raw[name] for name in ("source", "units", "precision") if raw.get(name) is not None}
        return {**kept, "dtype": "number", "dtype_numpy": "<f8", "shape": []}

    def _data_key(self, name: str, value: Any, known: Document) -> Document:
        value = 0.0 if name in self._carried else value
        data_key = {**describe(value, self._node), **known}
        return data_key if self._keys[name] == name else {**data_key, "original_name": name}

    def _write_axes(self, axes: Result, known: Mapping[str, Document], time: float) -> None:
        if axes and "axes" not in self._builder.streams:
            data_keys = {key: {**describe(value, self._node), **known.get(key, {})} for key, value in axes.items()}
            self._builder.add_stream("axes", data_keys, object_name=self._node, time=time)
            self._builder.add_event("axes", axes, time=time)


def _source(reduction: Reduction) -> str:
    return f"{reduction.name}({', '.join(map(repr, reduction.arguments.values()))})"


def _distinct(result: Result, row: Mapping[str, Any]) -> Result:
    """Return the result with names that are not in the row: what two reductions call alike is kept of both.

    >>> _distinct({"det_n": 1, "det_mean": 2.0, "det_n_frames": 1}, {"det_n": 3, "det_n_frames": 1})
    {'det_n_2': 1, 'det_mean': 2.0, 'det_n_frames': 1}
    """
    distinct: Result = {}
    for key, value in result.items():
        name, number = key, 1
        while (name in row and not key.endswith(SHARED)) or name in distinct:
            number += 1
            name = f"{key}_{number}"
        distinct[name] = value
    return distinct


def _axes(reductions: Sequence[Reduction]) -> Result:
    axes: Result = {}
    for reduction in reductions:
        axes |= reduction.axes()
    return {key: axes[name] for name, key in safe_keys(axes).items()}


def _stored(value: Any) -> Any:
    """Return a value as documents have it, and never the reduction's own."""
    return float("nan") if value is None else caster(describe(value, ""))(value)


def _stamp(reduction: Reduction, point: Point) -> float:
    """Return the time of the latest of the fields that the reduction reads."""
    fields, timestamps = reduction.fields, point.timestamps
    if len(fields) == 1:
        return timestamps.get(fields[0], point.time)
    return max((timestamps[field] for field in fields if field in timestamps), default=point.time)

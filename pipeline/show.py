"""Tell, in text, what a run holds, and of which raw run it is."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy

from pipeline.documents import Document


def show(documents: Iterable[tuple[str, Document]]) -> str:
    """Return a description of each run among these documents.

    >>> from pipeline.testing import make_run
    >>> print(show(make_run({"det": [1.0, 2.0]}, uid="a", plan_name="count")))
    raw run d720e32d-4765-5177-b65b-42dd7f6e6445
      plan       count
      ended      success
    <BLANKLINE>
      stream   events  fields
      primary  2       det
    """
    return "\n\n".join(run.text() for run in _shown(documents))


def summaries(documents: Iterable[tuple[str, Document]]) -> list[Document]:
    """Return what `show` tells of each run, for programs.

    >>> from pipeline.testing import make_run
    >>> summaries(make_run({"det": [1.0, 2.0]}, uid="a"))[0]["streams"]
    {'primary': {'events': 2, 'fields': ['det']}}
    """
    return [run.summary() for run in _shown(documents)]


def _shown(documents: Iterable[tuple[str, Document]]) -> Iterable["_Shown"]:
    runs: dict[str, _Shown] = {}
    owners: dict[str, tuple[_Shown, str]] = {}
    resources: dict[str, Document] = {}
    for name, doc in documents:
        if name == "start":
            runs[doc["uid"]] = _Shown(doc)
        elif name == "descriptor":
            owners[doc["uid"]] = runs[doc["run_start"]], doc["name"]
            runs[doc["run_start"]].describe(doc)
        elif name in ("event", "event_page"):
            run, stream = owners[doc["descriptor"]]
            run.count(stream, doc)
        elif name == "stream_resource":
            resources[doc["uid"]] = doc
        elif name == "stream_datum" and doc["stream_resource"] in resources:
            run, stream = owners[doc["descriptor"]]
            run.locate(stream, resources[doc["stream_resource"]])
        elif name == "stop":
            runs[doc["run_start"]].stop = doc
    return runs.values()


class _Shown:
    """One run, as it is told."""

    def __init__(self, start: Document) -> None:
        self.start = start
        self.stop: Document = {}
        self._fields: dict[str, list[str]] = {}
        self._units: dict[str, str] = {}
        self._n_events: dict[str, int] = {}
        self._final: Document = {}
        self._shapes: dict[str, Any] = {}
        self._files: Document = {}  # of arrays of the last event of `final`

    def describe(self, doc: Document) -> None:
        self._fields[doc["name"]] = list(doc["data_keys"])
        self._n_events.setdefault(doc["name"], 0)
        self._shapes |= {key: data_key.get("shape") for key, data_key in doc["data_keys"].items()}
        self._units |= {key: data_key.get("units") or "" for key, data_key in doc["data_keys"].items()}

    def count(self, stream: str, doc: Document) -> None:
        is_page = isinstance(doc["seq_num"], list)
        self._n_events[stream] += len(doc["seq_num"]) if is_page else 1
        if stream == "final" and not is_page:
            self._final = {**doc["data"], **self._files}

    def locate(self, stream: str, resource: Document) -> None:
        """Know that a field of the event that comes is in a file."""
        if stream == "final":
            key = resource["data_key"]
            self._files[key] = {"shape": self._shapes.get(key), "uri": resource["uri"]}

    def summary(self) -> Document:
        """Return it for programs."""
        return {
            "uid": self.start["uid"],
            "start": self.start,
            "stop": self.stop or None,
            "streams": {name: {"events": n, "fields": self._fields[name]} for name, n in self._n_events.items()},
            "final": {key: {"value": value, "units": self._units.get(key)} for key, value in self._final.items()},
        }

    def text(self) -> str:
        streams = [(name, n, ", ".join(self._fields[name])) for name, n in self._n_events.items()]
        parts = [self._head(), table(("stream", "events", "fields"), streams) if streams else "  no streams"]
        if self._final:
            final = [(key, number(value), self._units.get(key, "")) for key, value in self._final.items()]
            parts.append(table(("result", "value", "units"), final))
        return "\n\n".join(parts)

    def _head(self) -> str:
        analysis = self.start.get("analysis")
        kind = "analysis run" if analysis else "raw run"
        lines = [("of raw run", self.start.get("original_run_uid")), ("plan", self._plan())]
        if analysis:
            lines += [("node", analysis["node"]), ("reductions", _recipe(analysis)), ("counts", self._counts())]
            lines += [("read", ", ".join(str(each.get("name") or each.get("uid")) for each in analysis["references"]))]
        lines += [("ended", self._end())]
        told = [f"  {name:<10} {value}" for name, value in lines if value]
        return "\n".join([f"{kind} {self.start['uid']}", *told])

    def _plan(self) -> Any:
        raw = self.start.get("raw", self.start)
        scan_id = f", scan {raw['scan_id']}" if "scan_id" in raw else ""
        return f"{raw.get('plan_name', '')}{scan_id}"

    def _counts(self) -> str:
        counts = self.stop.get("analysis", {})
        return ", ".join(f"{key} {value}" for key, value in counts.items() if value)

    def _end(self) -> str:
        reason = self.stop.get("reason")
        return self.stop.get("exit_status", "not yet") + (f": {reason}" if reason else "")


def _recipe(analysis: Document) -> str:
    reductions = analysis["recipe"]["reductions"]
    return ", ".join(f"{each['name']}({', '.join(map(repr, each['arguments'].values()))})" for each in reductions)


def number(value: Any) -> str:
    """Return a value as a person reads it.

    >>> number(0.1 + 0.2), number([1, 2, 3]), number({"shape": [2, 3], "uri": "file://localhost/data/7f3c.final.h5"})
    ('0.3', 'array (3,)', 'array (2, 3) in 7f3c.final.h5')
    """
    if isinstance(value, dict):
        return f"array {tuple(value['shape'])} in {value['uri'].rpartition('/')[2]}"
    if isinstance(value, list | numpy.ndarray):
        return f"array {numpy.shape(value)}"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], indent: str = "  ") -> str:
    """Return a table in text.

    >>> print(table(("a", "b"), [(1, "x"), (22, "y")], ""))
    a   b
    1   x
    22  y
    """
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(f"{indent}{line}".rstrip() for line in lines)

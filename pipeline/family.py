"""A run and its kin, to be shown: as a tree, a drawing, JSON, or W3C PROV."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.documents import Document
from pipeline.prov import prov_json

MARK = "<-- asked for"
AWAY = "not in this catalog"


class Link(NamedTuple):
    """One run, one that it was made of, and what that was read as."""

    uid: str
    parent: str
    role: str


@dataclass(frozen=True)
class Family:
    """A run, the runs that it was made of, and the runs that were made of it; `lineage` finds them.

    Parameters
    ----------
    asked
        The uid of the run that was asked for.
    runs
        By uid: start and stop document; None where the catalog does not hold the run.
    links
        Who was made of whom.

    >>> family = Family("b", {"a": {"start": {"uid": "a", "plan_name": "scan"}}, "b": None}, [Link("b", "a", "raw")])
    >>> print(family)
    a  scan
    └─ b  not in this catalog  <-- asked for
    """

    asked: str
    runs: Mapping[str, Document | None]
    links: Sequence[Link]

    def tree(self) -> str:
        """Return the family as text for a terminal; a run of several parents is told in full once."""
        made = {link.uid for link in self.links}
        first = [uid for uid in self._in_order(self.runs) if uid not in made]
        told: set[str] = set()
        lines: list[str] = []
        for uid in [*first, self.asked, *self.runs]:  # in a circle, nobody is first
            if uid not in told:
                lines += self._branch(uid, told)
        return "\n".join(lines)

    __str__ = tree

    def _branch(self, uid: str, told: set[str]) -> Iterator[str]:
        """Yield the lines of a run and of what was made of it."""
        if uid in told:
            yield f"{_printable(uid)}  (above)"
            return
        told.add(uid)
        mark = [MARK] if uid == self.asked else []
        yield "  ".join(_printable(part) for part in (uid, *self._label(uid), *mark))
        below = self._in_order(link.uid for link in self.links if link.parent == uid)
        for i, child in enumerate(below):
            first, rest = ("└─ ", "   ") if i == len(below) - 1 else ("├─ ", "│  ")
            for j, line in enumerate(self._branch(child, told)):
                yield f"{rest if j else first}{line}"

    def mermaid(self) -> str:
        """Return a Mermaid flowchart.

        >>> print(Family("a", {"a": {"start": {"uid": "a", "plan_name": '<b>"'}}}, []).mermaid())
        flowchart TD
            n0["a<br/>#60;b#62;#34;"]
            style n0 stroke-width:4px
        """
        ids = self._ids()
        lines = [f'{ids[uid]}["{"<br/>".join(map(_mermaid, (uid, *self._label(uid))))}"]' for uid in self.runs]
        lines += [f'{ids[link.parent]} -->|"{_mermaid(link.role)}"| {ids[link.uid]}' for link in self.links]
        lines += [f"style {ids[self.asked]} stroke-width:4px"]
        return "\n    ".join(["flowchart TD", *lines])

    def graphviz(self) -> str:
        r"""Return a graph for Graphviz's `dot`.

        >>> print(Family("a", {"a": {"start": {"uid": "a", "plan_name": '"\\N'}}}, []).graphviz())
        digraph {
            n0 [label="a\n\"\\N" shape=box penwidth=3]
        }
        """
        ids = self._ids()
        lines = []
        for uid in self.runs:
            label = r"\n".join(map(_graphviz, (uid, *self._label(uid))))
            lines.append(f'{ids[uid]} [label="{label}" shape=box{" penwidth=3" * (uid == self.asked)}]')
        lines += [f'{ids[link.parent]} -> {ids[link.uid]} [label="{_graphviz(link.role)}"]' for link in self.links]
        return "\n    ".join(["digraph {", *lines]) + "\n}"

    def as_dict(self) -> Document:
        """Return what is known, as JSON has it."""
        return {
            "asked": self.asked,
            "runs": {uid: None if run is None else _documents(run) for uid, run in self.runs.items()},
            "links": [link._asdict() for link in self.links],
        }

    def prov(self) -> Document:
        """Return W3C PROV-JSON: runs as entities, analyses as activities, software as agents."""
        return prov_json(self.runs, self.links)

    def _ids(self) -> dict[str, str]:
        return {uid: f"n{i}" for i, uid in enumerate(self.runs)}

    def _in_order(self, uids: Any) -> list[str]:
        times = {uid: ((run or {}).get("start") or {}).get("time", 0.0) for uid, run in self.runs.items()}
        return sorted(dict.fromkeys(uids), key=lambda uid: (times[uid], uid))

    def _label(self, uid: str) -> list[str]:
        """Return what tells a person which run this is."""
        run = self.runs[uid]
        if run is None:
            return [AWAY]
        start, stop = _documents(run).values()
        analysis = start.get("analysis")
        kind = analysis.get("node") if isinstance(analysis, Mapping) else start.get("plan_name")
        scan = [f"scan {start['scan_id']}"] if "scan_id" in start else []
        status = (stop or {}).get("exit_status", "success")
        return [*([str(kind)] if kind else []), *scan, *([str(status)] if status != "success" else [])]


def _documents(run: Document) -> Document:
    return {"start": run.get("start") or {}, "stop": run.get("stop") or None}


def _printable(text: str) -> str:
    r"""Return the text without what a terminal would obey.

    >>> _printable("a\x1b[2J")
    'a\\x1b[2J'
    """
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _mermaid(text: str) -> str:
    return re.sub(r"[^\w .,:/()-]", lambda letter: f"#{ord(letter[0])};", text)


def _graphviz(text: str) -> str:
    return _printable(text).replace("\\", "\\\\").replace('"', '\\"')

"""Of which run a document is."""

from collections.abc import Iterable

from pipeline.documents import Document


class RunOf:
    """Tell of which run each document is, as documents of many runs go by; empty where that cannot be told.

    >>> run_of = RunOf()
    >>> run_of("descriptor", {"uid": "d", "run_start": "a"}), run_of("event", {"uid": "e", "descriptor": "d"})
    ('a', 'a')
    >>> run_of.forget("a")
    >>> run_of("event", {"uid": "f", "descriptor": "d"})
    ''
    """

    def __init__(self) -> None:
        self._runs: dict[str, str] = {}  # descriptor uid -> run uid, of runs that are open

    def __call__(self, name: str, doc: Document) -> str:
        """Return the uid of the run."""
        if name == "start":
            return doc["uid"]
        if name == "descriptor":
            self._runs[doc["uid"]] = doc["run_start"]
        return doc.get("run_start") or self._runs.get(doc.get("descriptor", ""), "")

    def forget(self, run: str) -> None:
        """Let the descriptors of a run that is over go."""
        for descriptor in [uid for uid, of in self._runs.items() if of == run]:
            del self._runs[descriptor]


def by_run(documents: Iterable[tuple[str, Document]]) -> list[list[tuple[str, Document]]]:
    """Return the documents of each run among these, in the order in which the runs begin.

    >>> [[name for name, _ in run] for run in by_run([("start", {"uid": "a"}), ("start", {"uid": "b"})])]
    [['start'], ['start']]
    """
    run_of = RunOf()
    runs: dict[str, list[tuple[str, Document]]] = {}
    for name, doc in documents:
        runs.setdefault(run_of(name, doc), []).append((name, doc))
    return list(runs.values())

"""One analysis: of which runs, which stream, by which reductions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.documents import Document, Sink
from pipeline.errors import PipelineTypeError, PipelineValueError
from pipeline.group import GroupBy, Total, group_uid, parents
from pipeline.provenance import analysis_uid, is_raw, linked_metadata, recipe_hash
from pipeline.readers.assets import Assets
from pipeline.readers.run_assets import RunAssets
from pipeline.reductions.flow import Flow
from pipeline.reductions.reduction import Reduction
from pipeline.run_builder import RunBuilder
from pipeline.work import Work

When = Callable[[Document], bool] | Mapping[str, Any] | None


class Node:
    """One analysis: the reductions of one stream, for every raw run that it is asked to analyse.

    Parameters
    ----------
    name
        Of the analysis; it stands in every run that it makes.
    reductions
        At least one; they stay as they are: each run is given copies.
    when
        Which runs: a test of the start document, or the values it must have (see `matches`). By default every raw run;
        analysis runs only where `when` is a test, or asks for `analysis`.
    stream
        The raw stream to read.
    every
        How many events there are between two summaries in the stream `running`; 0: only the last one, in `final`.
    over
        Which raw runs are taken together, by `group_by`: then there is an analysis of all of them after each. The
        reductions must be such as can be merged; there is no stream `running`.
    flow
        A function from a `streamz.Stream` of the data of events to one of results; it stands before the reductions,
        and feeds them. See `pipeline.reductions.Flow`.

    >>> from pipeline.reductions import Mean
    >>> node = Node("mean", Mean("det"), when={"plan_name": "count"})
    >>> node.recipe["reductions"]
    [{'name': 'Mean', 'version': 1, 'arguments': {'field': 'det', 'skipna': True}}]
    """

    def __init__(
        self,
        name: str,
        *reductions: Reduction,
        when: When = None,
        stream: str = "primary",
        every: int = 1,
        over: GroupBy | None = None,
        flow: Callable[[Any], Any] | None = None,
    ) -> None:
        if flow is not None:
            reductions = (Flow(flow), *reductions)
        if not reductions:
            raise PipelineValueError(f"Node {name!r}: wanted at least one reduction, there is none.")
        for reduction in reductions:
            if not isinstance(reduction, Reduction):
                raise PipelineTypeError(f"Node {name!r}: wanted reductions, there is {reduction!r}.")
        if not isinstance(every, int) or every < 0:
            raise PipelineValueError(f"Node {name!r}: every is {every!r}; wanted a number of events, or 0.")
        if over is not None:
            _check_mergeable(name, reductions)
        self.name, self.stream, self.every, self.over = name, stream, every if over is None else 0, over
        self.reductions = reductions
        self.recipe: Document = {
            "node": name,
            "stream": stream,
            "every": self.every,
            **({"over": over.recipe} if over is not None else {}),
            "reductions": [
                {"name": reduction.name, "version": reduction.version, "arguments": reduction.arguments}
                for reduction in reductions
            ],
        }
        self.recipe_hash = recipe_hash(self.recipe)
        self._wants = _test(when)
        references = [each for reduction in reductions for each in reduction.references]
        self._referred = {each.role: {"uid": each.run} for each in references if each.run is not None}
        self._packages = tuple(dict.fromkeys(map(_package, reductions)))

    def wants(self, start: Document) -> bool:
        """Tell whether this node analyses the run with this start document."""
        return self._wants(start) and (self.over is None or self.over.wants(start))

    def begin(self, raw: Document, emit: Sink, uid: str | None = None, assets: RunAssets | None = None) -> Work:
        """Return the node at work on a raw run: an object of its own, which emits the start document at once.

        Parameters
        ----------
        raw
            The start document of the raw run.
        emit
            Called with each document of the analysis run.
        uid
            Of the analysis run; by default the one that follows from the raw run and the recipe.
        assets
            Of the raw run, which are given its documents before the work is.
        """
        assets = assets or Assets().of_run()
        if self.over is None:
            uid = uid or analysis_uid(raw["uid"], self.recipe_hash)
            metadata = linked_metadata({"raw": raw, **self._referred}, self.recipe, self._packages)
            return self._work(raw, RunBuilder(metadata, uid, raw["time"], emit=emit), emit, assets)
        total = self.over.before(raw)
        uid = uid or group_uid(raw, self.recipe_hash, total)
        metadata = linked_metadata({**parents(raw, total), **self._referred}, self.recipe, self._packages)
        work = self._work(raw, RunBuilder(metadata, uid, raw["time"], emit=emit), emit, assets)
        work.join(total, self.over.add)
        return work

    def resume(self, raw: Document, emit: Sink, state: Mapping[str, Any], assets: RunAssets) -> Work:
        """Return the node at work as it was when `Work.state` told this; nothing is emitted by it.

        Raises
        ------
        PipelineValueError
            If it is a state of other reductions.
        """
        work = self._work(raw, RunBuilder.resumed(state["builder"], emit), emit, assets)
        if self.over is not None:
            work.join(Total(), self.over.add)
        work.restore(state)
        return work

    def _work(self, raw: Document, builder: RunBuilder, emit: Sink, assets: RunAssets) -> Work:
        return Work(self.name, self.stream, self.reductions, self.every, raw, builder, emit, assets)

    def __repr__(self) -> str:
        return f"Node({self.name!r}, {', '.join(reduction.name for reduction in self.reductions)})"


def _check_mergeable(name: str, reductions: Sequence[Reduction]) -> None:
    for reduction in reductions:
        if reduction.kind != "event" and reduction.mergeable is None:
            raise PipelineTypeError(
                f"Node {name!r} takes runs together; wanted reductions that can be merged, {reduction.name} cannot."
            )


def matches(**wanted: Any) -> Callable[[Document], bool]:
    """Return a test for raw runs whose start document has these values.

    >>> scans = matches(plan_name="scan")
    >>> scans({"uid": "a", "plan_name": "scan"}), scans({"uid": "b"})
    (True, False)
    """

    def test(start: Document) -> bool:
        has_all = all(key in start and _listed(start[key]) == _listed(value) for key, value in wanted.items())
        return has_all and (is_raw(start) or "analysis" in wanted)

    return test


def _listed(value: Any) -> Any:
    """Return tuples as lists: JSON makes lists of a RunEngine's tuples."""
    return list(map(_listed, value)) if isinstance(value, list | tuple) else value


def _test(when: When) -> Callable[[Document], bool]:
    if when is None:
        return is_raw
    return when if callable(when) else matches(**when)


def _package(reduction: Reduction) -> str:
    package = type(reduction).__module__.partition(".")[0]
    return "bluesky-pipeline" if package == "pipeline" else package

"""A streamz graph as a reduction: from the data of each event to results."""

import hashlib
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineTypeError, PipelineValueError
from pipeline.reductions.reduction import Data, Reduction, Result

if TYPE_CHECKING:
    from streamz import Stream


class Flow(Reduction):
    """Let the data of each event flow through a streamz graph that is built anew for each run.

    A node makes it of `Node(name, flow=function)`. What the graph emits, a dict for at most each event, is a result;
    an event for which it emits nothing, as before a window is full, has none. A reduction takes its place in a graph
    by `.reduce(Mean("det"))`: it takes in each dict, and emits what is known.

    Since a graph cannot be copied, a point that is taken again after a pause counts beside the first take
    (`n_retaken` tells how often), and a graph has no state to go on from.

    Parameters
    ----------
    function
        Takes the `streamz.Stream` of the data of events, and returns the stream of results. It is called once a run,
        on the thread that the documents come on, so that no two runs share anything. The recipe has its dotted name
        and the SHA-256 of its source; an attribute `version` of it stands for the source.

    Raises
    ------
    PipelineValueError
        If a part of the graph works on a thread or an event loop of its own (`timed_window`, `buffer`, `rate_limit`,
        `map_async`), where order and results depend on the hour, or on dask.

    >>> def pairs(raw):
    ...     return raw.pluck("det").sliding_window(2, return_partial=False).map(lambda pair: {"sum": sum(pair)})
    >>> flow = Flow(pairs)
    >>> for det in (1.0, 2.0, 4.0):
    ...     flow.update({"det": det})
    ...     print(flow.result())
    None
    {'sum': 3.0}
    {'sum': 6.0}
    """

    kind = "event"
    is_copied = False

    def __init__(self, function: "Callable[[Stream], Stream]") -> None:
        if not callable(function):
            raise PipelineTypeError(f"a flow is a function from a streamz.Stream to another; there is {function!r}.")
        self.function = function
        self.arguments = {"function": _name(function), "version": _version(function)}
        self._source: Any = None
        self._emitted: list[Result] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Flow":
        """Return one that has seen nothing, of one that has seen nothing."""
        if self._source is not None:
            raise PipelineTypeError("a flow that data have gone through cannot be copied: streamz graphs cannot.")
        return Flow(self.function)

    def update(self, data: Data) -> None:
        """Let the data of one event flow through the graph."""
        if self._source is None:
            self._source = self._build()
        self._emitted.clear()
        self._source.emit(dict(data) if isinstance(data, dict) else data)  # else one whose frames are read when asked
        if len(self._emitted) > 1:
            raise PipelineValueError(
                f"the flow {self.arguments['function']} gives {len(self._emitted)} results for one event; "
                "wanted one at most: collect or combine them."
            )

    def result(self) -> Result | None:
        """Return what the graph emitted for the last event; `None` if nothing."""
        return dict(self._emitted[-1]) if self._emitted else None

    def _build(self) -> "Stream":
        from streamz import Stream

        import pipeline.reductions.streamz_reduce  # noqa: F401 - registers `.reduce`

        source = Stream()
        end = self.function(source)
        if not isinstance(end, Stream):
            raise PipelineTypeError(f"the flow {self.arguments['function']} returns {end!r}; wanted a streamz.Stream.")
        _check_parts(list(_parts(source)))
        end.sink(self._take)  # type: ignore[attr-defined]  # registered, as all of streamz' parts are
        return source

    def _take(self, result: Any) -> None:
        if not isinstance(result, dict):
            raise PipelineTypeError(
                f"the flow {self.arguments['function']} emits {result!r}; wanted a dict of results by name."
            )
        self._emitted.append(result)


def _parts(stream: Any) -> Iterator[Any]:
    """Yield a stream and all that is below it, each once."""
    seen, waiting = set(), [stream]
    while waiting:
        part = waiting.pop()
        if id(part) not in seen:
            seen.add(id(part))
            waiting.extend(part.downstreams)
            yield part


def _check_parts(parts: list[Any]) -> None:
    """Refuse a graph that works elsewhere than on this thread."""
    if any(type(part).__module__.startswith("streamz.dask") for part in parts):
        raise PipelineValueError(
            "streamz.dask is refused in a flow: one error of a task, or a lost worker, hangs it for ever. "
            "Work in other processes belongs into a service of its own."
        )
    if any(part.loop is not None or part.asynchronous for part in parts):
        raise PipelineValueError(
            f"a flow of {[type(part).__name__ for part in parts[1:]]} is refused: one of them works on an event loop "
            "of its own, so what comes out depends on the hour, and a replay would not give what live gave. "
            "Windows and partitions by number are right."
        )


def _name(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", None) or type(function).__module__
    return f"{module}:{getattr(function, '__qualname__', type(function).__qualname__)}".replace("<", "").replace(
        ">", ""
    )


def _version(function: Callable[..., Any]) -> Any:
    """Return what tells this function from another of its name."""
    if (version := getattr(function, "version", None)) is not None:
        return version
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # typed at a prompt, or compiled
        code = getattr(function, "__code__", None)
        source = repr((code.co_code, code.co_consts, code.co_names)) if code is not None else repr(type(function))
    return hashlib.sha256(source.encode()).hexdigest()

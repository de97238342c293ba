"""Help to test reductions and pipelines: raw runs, and the laws that every reduction keeps."""

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy

from pipeline.data_keys import describe
from pipeline.documents import RESERVED, Document, Uids
from pipeline.reductions.reduction import Reduction, Result
from pipeline.run_builder import RunBuilder
from pipeline.state import state_from_bytes, state_to_bytes

TIME = 1_700_000_000.0


def make_run(
    data: Mapping[str, Sequence[Any]] | None = None,
    *,
    uid: str = "raw",
    stream: str = "primary",
    pages: int = 0,
    exit_status: str = "success",
    data_keys: Mapping[str, Document] | None = None,
    **metadata: Any,
) -> list[tuple[str, Document]]:
    """Return the documents of a raw run: one event a second, always the same for the same arguments.

    Parameters
    ----------
    data
        Columns of equal length.
    uid
        Text that the uid of the run follows from.
    stream
        The name of the stream.
    pages
        How many rows a page has; 0: single events.
    exit_status
        Of the stop document.
    data_keys
        What there is to say of a field besides its dtype and shape, such as units.
    metadata
        What the start document says besides.

    >>> [name for name, doc in make_run({"det": [1.0, 2.0]}, plan_name="count")]
    ['start', 'descriptor', 'event', 'event', 'stop']
    """
    data = data or {}
    n = len(next(iter(data.values()), ()))
    builder = RunBuilder(metadata, Uids("6ba7b812-9dad-11d1-80b4-00c04fd430c8")(uid), TIME)
    if n:
        keys = {key: {**describe(column[0], key), **(data_keys or {}).get(key, {})} for key, column in data.items()}
        builder.add_stream(stream, keys, time=TIME)
        _add_rows(builder, stream, data, n, pages)
    builder.close(exit_status, time=TIME + n + 1)
    return builder.documents()


def _add_rows(builder: RunBuilder, stream: str, data: Mapping[str, Sequence[Any]], n: int, pages: int) -> None:
    for first in range(0, n, pages or 1):
        rows = range(first, min(first + (pages or 1), n))
        if pages:
            columns = {key: [column[i] for i in rows] for key, column in data.items()}
            builder.add_data(stream, columns, time=[TIME + 1 + i for i in rows])
        else:
            builder.add_event(stream, {key: column[first] for key, column in data.items()}, time=TIME + 1 + first)


def check_reduction(
    reduction: Reduction,
    events: Sequence[Mapping[str, Any]],
    oracle: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]] | None = None,
    *,
    split: int | None = None,
    rtol: float = 1e-12,
) -> None:
    """Check that a reduction keeps the laws, on these events.

    At every prefix it agrees with the oracle; to ask early changes nothing; the input stays untouched; a page gives
    the bits that its events give; merged parts give the whole (bit by bit, in either order, where it says `"exact"`);
    restored from its state, after every event, it goes on with the same bits; keys are legal, and nothing is infinite.

    Parameters
    ----------
    reduction
        A prototype; it is copied.
    events
        The data of each event, all with the same fields.
    oracle
        Gives, for a prefix of the events, what is right for some or all results. NaN equals NaN.
    split
        Where the parts for `merge` are divided; in the middle by default.
    rtol
        How near the oracle, and merged parts that round, must be.

    Raises
    ------
    AssertionError
        If a law is broken; it says which.

    >>> from pipeline.reductions import Mean
    >>> check_reduction(Mean("x"), [{"x": 1.0}, {"x": 4.0}], lambda es: {"x_mean": sum(e["x"] for e in es) / len(es)})
    """
    before = copy.deepcopy(list(events))
    asked, restored = copy.deepcopy(reduction), _restored(reduction, reduction)
    for n, data in enumerate(events, 1):
        asked.update(data)
        result = asked.result()
        _check_result(result)
        restored.update(data)
        restored = _restored(reduction, restored)
        _same(restored.result(), result, f"a state, restored after {n} events, gives another result")
        if oracle is not None:
            _check_oracle(result, oracle(events[:n]), n, rtol)
    _same(list(events), before, "the events were changed")
    _same(_fed(reduction, events).result(), asked.result(), "to ask early changes the result")
    _check_page(reduction, events)
    split = len(events) // 2 if split is None else split
    _check_restored(reduction, events, split)
    if reduction.mergeable is not None:
        _check_merge(reduction, events, split, rtol)


def _fed(reduction: Reduction, events: Sequence[Mapping[str, Any]]) -> Reduction:
    fresh = copy.deepcopy(reduction)
    for data in events:
        fresh.update(data)
    return fresh


def _check_page(reduction: Reduction, events: Sequence[Mapping[str, Any]]) -> None:
    if not events:
        return
    fresh = copy.deepcopy(reduction)
    fresh.update_page({key: [data[key] for data in events] for key in events[0]})
    _same(fresh.result(), _fed(reduction, events).result(), "a page gives other bits than its events")


def _restored(fresh: Reduction, reduction: Reduction) -> Reduction:
    """Return one that has gone on from the state of the other, which was written and read."""
    new = copy.deepcopy(fresh)
    new.restore(state_from_bytes(state_to_bytes(reduction.state())))
    return new


def _check_restored(reduction: Reduction, events: Sequence[Mapping[str, Any]], split: int) -> None:
    first = _fed(reduction, events[:split])
    state = first.state()
    kept = copy.deepcopy(state)
    again = copy.deepcopy(reduction)
    again.restore(state)
    for one in (first, again):
        for data in events[split:]:
            one.update(data)
        _same(state, kept, "a state is changed by what comes after it")
    _same(again.result(), first.result(), "a state, restored, goes on with other bits")
    _same(again.state(), first.state(), "a state, restored, goes on to another state")


def _check_merge(reduction: Reduction, events: Sequence[Mapping[str, Any]], split: int, rtol: float) -> None:
    whole = _fed(reduction, events)
    for first, second in ((events[:split], events[split:]), (events[split:], events[:split])):
        merged, part = _fed(reduction, first), _fed(reduction, second)
        kept = copy.deepcopy(part.result())
        merged.merge(part)
        _same(part.result(), kept, "merge changes the part that is taken in")
        if whole.mergeable == "exact":
            _same(merged.result(), whole.result(), "merged parts give other bits than the whole")
        else:
            _check_oracle(merged.result(), whole.result() or {}, len(events), rtol)
        if whole.mergeable != "exact":
            return


def _check_result(result: Result | None) -> None:
    for key, value in (result or {}).items():
        assert re.fullmatch(r"[^./]+", key), f"{key!r} holds '.' or '/'"
        assert key.lower() not in RESERVED, f"{key!r} is reserved"
        array = numpy.asarray(value)
        assert array.dtype.kind not in "f" or not numpy.isinf(array).any(), f"{key} is infinite"


def _check_oracle(result: Result | None, right: Mapping[str, Any], n: int, rtol: float) -> None:
    for key, value in right.items():
        have = (result or {}).get(key)
        assert have is not None, f"there is no {key} after {n} events"
        assert numpy.allclose(have, value, rtol=rtol, atol=0, equal_nan=True), (
            f"{key} after {n} events is {have!r}; wanted {value!r}"
        )


def _same(have: Any, want: Any, law: str) -> None:
    assert _equal(have, want), f"{law}: {have!r} is not {want!r}"


def _equal(a: Any, b: Any) -> bool:
    """Tell whether two values are the same bits; NaN equals NaN."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, numpy.ndarray) or isinstance(b, numpy.ndarray):
        a, b = numpy.asarray(a), numpy.asarray(b)
        return numpy.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return bool(a == b)

"""Feed a pipeline from a source that is not read again, until it ends or someone ends it."""

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.pipeline import Pipeline

logger = logging.getLogger(__name__)


def serve(pipeline: Pipeline, source: Any) -> None:
    """Give the pipeline what the source has, then close it and its sinks: all is in when this returns.

    Parameters
    ----------
    pipeline
        Is closed at the end: raw runs that are open then end as `abort`.
    source
        A live one, with `subscribe(callback)`, `start()` and `stop()`, which SIGINT and SIGTERM end; or a stored one,
        an iterable of `(name, doc)`.

    >>> from pipeline.testing import make_run
    >>> from pipeline import Node
    >>> from pipeline.reductions import Mean
    >>> names = []
    >>> pipeline = Pipeline([Node("mean", Mean("x"), every=0)], [lambda name, doc: names.append(name)])
    >>> serve(pipeline, make_run({"x": [1]}))
    >>> names
    ['start', 'descriptor', 'event', 'stop']
    """
    try:
        if hasattr(source, "subscribe"):
            source.subscribe(pipeline)
            with _stopped_by_signals(source.stop):
                source.start()
        else:
            pipeline.replay(source)
    finally:
        pipeline.close()
        close_sinks(pipeline)


def close_sinks(pipeline: Pipeline) -> None:
    """Close every sink that can be closed; what one cannot is logged."""
    for sink in pipeline.sinks:
        close = getattr(sink, "close", None)
        try:
            if callable(close):
                close()
        except Exception as error:  # noqa: BLE001 - contained: the other sinks are closed all the same
            logger.error("Sink %s: %s", type(sink).__name__, error)


@contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGINT and SIGTERM call this, so that what came is still stored."""
    kept = {each: signal.signal(each, lambda *_: stop()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in kept.items():
            signal.signal(each, handler)

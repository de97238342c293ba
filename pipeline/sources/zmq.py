"""Live runs over 0MQ, from bluesky's proxy."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import orjson

from pipeline.documents import Document, NaNs, Sink, dumps
from pipeline.errors import PipelineRuntimeError, PipelineValueError

logger = logging.getLogger(__name__)

POLL_MS = 200


def serialize(doc: Document) -> bytes:
    """Return a document as JSON: the `serializer` of the bluesky Publisher whose documents a `ZMQSource` reads.

    >>> serialize({"uid": "a"})
    b'{"uid":"a"}'
    """
    return dumps("", doc)[4:-2]


class ZMQSource:
    """Documents from a bluesky 0MQ proxy: `Publisher(address, RE=RE, serializer=pipeline.sources.zmq.serialize)`.

    0MQ may lose documents, and joins a run in the middle: use it where a lost point is no harm. Documents come as
    JSON; bluesky's default, pickle, would run whatever code comes in, and is refused.

    It needs the extra `bluesky-pipeline[zmq]`.

    Parameters
    ----------
    address
        Of the proxy's output: `"localhost:5578"`, or with a scheme, `"ipc:///run/bluesky"`.
    prefix
        Take only documents published with this prefix.

    Attributes
    ----------
    n_refused
        How many messages were no documents; the first is logged.
    """

    def __init__(self, address: str, prefix: str = "") -> None:
        self.address = address if "://" in address else f"tcp://{address}"
        self.n_refused = 0
        self._prefix = prefix.encode()
        self._callbacks: list[Sink] = []
        self._stopped = threading.Event()
        self._restore = NaNs()

    def subscribe(self, callback: Callable[[str, Document], Any]) -> None:
        """Call this with each document, from `start` on."""
        self._callbacks.append(callback)

    def start(self) -> None:
        """Take in documents, on this thread, until `stop`."""
        import zmq

        if self._stopped.is_set():
            raise PipelineRuntimeError(f"The source at {self.address} was stopped; wanted a new one.")
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.connect(self.address)
            while not self._stopped.is_set():
                if socket.poll(POLL_MS):
                    self._give(socket.recv())

    def stop(self) -> None:
        """End `start`, within 0.2 s; from any thread, or a signal handler."""
        self._stopped.set()

    def _give(self, message: bytes) -> None:
        try:
            prefix, name, doc = _decode(message)
        except (ValueError, KeyError) as error:
            self._refuse(error)
            return
        if self._prefix in (b"", prefix):
            doc = self._restore(name, doc)
            for callback in self._callbacks:
                callback(name, doc)

    def _refuse(self, error: Exception) -> None:
        self.n_refused += 1
        if self.n_refused == 1:
            logger.error(
                "%s: a message is no JSON document (%s). The publisher must use "
                "serializer=pipeline.sources.zmq.serialize; more of them are only counted.",
                self.address,
                error,
            )


def _decode(message: bytes) -> tuple[bytes, str, Document]:
    prefix, name, text = message.split(b" ", 2)
    doc = orjson.loads(text)
    if not isinstance(doc, dict):
        raise PipelineValueError(f"wanted a document, there is {type(doc).__name__}")
    return prefix, name.decode(), doc

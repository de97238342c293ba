"""Live runs over 0MQ, from bluesky's proxy."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.documents import Document, NaNs, Sink, dumps, loads
from pipeline.errors import PipelineRuntimeError, PipelineValueError
from pipeline.sources.position import Index, Item, OnLost, Position, _ignore, poison

logger = logging.getLogger(__name__)

POLL_MS = 200
BATCH = 1000
MAX_BYTES = 1 << 28


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

    It is used in one of two ways. Either `subscribe` and `start`, which calls back on the thread that started it. Or
    `open` and `read`: a thread receives, and what is not read in time waits. What finds no place is lost, counted, and
    told where it would have stood, as poison; what 0MQ itself has lost, only a gap in `seq_num` tells. There is one
    lane, the address; an index is the number of messages since `open`, and nothing can be read again.

    It needs the extra `bluesky-pipeline[zmq]`.

    Parameters
    ----------
    address
        Of the proxy's output: `"localhost:5578"`, or with a scheme, `"ipc:///run/bluesky"`.
    prefix
        Take only documents published with this prefix.
    maxsize
        How many messages may wait to be read; at most 256 MiB of them.
    name
        What the log and the metrics call it.

    Attributes
    ----------
    n_refused
        How many messages were no documents; the first is logged.
    n_lost
        How many messages found no place.

    >>> source = ZMQSource("localhost:5578")
    >>> source.address, source.may_lose
    ('tcp://localhost:5578', True)
    """

    may_lose = True
    is_stored = False
    assigns_lanes = False

    def __init__(self, address: str, prefix: str = "", *, maxsize: int = 100_000, name: str = "ZMQSource") -> None:
        if not maxsize > 0:
            raise PipelineValueError(f"ZMQSource: maxsize is {maxsize}; wanted more than 0.")
        self.address = address if "://" in address else f"tcp://{address}"
        self.name = name
        self.n_refused = self.n_lost = 0
        self._maxsize = maxsize
        self._waiting: deque[tuple[int, bytes]] = deque()  # number of a message, and what it says
        self._n_received = self._n_bytes = 0
        self._lost: dict[int, tuple[int, int]] = {}  # number of a message -> how many behind it are lost, the last
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._prefix = prefix.encode()
        self._callbacks: list[Sink] = []
        self._stopped = threading.Event()
        self._restore = NaNs()

    def subscribe(self, callback: Callable[[str, Document], Any]) -> None:
        """Call this with each document, from `start` on."""
        self._callbacks.append(callback)

    def start(self) -> None:
        """Take in documents, on this thread, until `stop`."""
        if self._stopped.is_set():
            raise PipelineRuntimeError(f"The source at {self.address} was stopped; wanted a new one.")
        self._receive(self._stopped, self._give)

    def _receive(self, stopped: threading.Event, give: Callable[[bytes], Any]) -> None:
        import zmq

        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.SUBSCRIBE, self._prefix + b" " if self._prefix else b"")
            socket.connect(self.address)
            while not stopped.is_set():
                if socket.poll(POLL_MS):
                    give(socket.recv())

    def stop(self) -> None:
        """End `start`, or what `open` began, within 0.2 s; from any thread, or a signal handler."""
        self._stopped.set()

    # with positions ----------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether it was stopped, and all that waited was read."""
        return self._stopped.is_set() and not self._waiting

    def open(self, begin: Mapping[str, Index], on_lost: OnLost = _ignore) -> None:
        """Begin to receive; what was sent before is gone."""
        self.close()
        self._stopped = threading.Event()
        self._waiting.clear()
        self._lost.clear()
        self._n_received = self._n_bytes = 0
        self._thread = threading.Thread(
            target=self._receive, args=(self._stopped, self._put), name=self.name, daemon=True
        )
        self._thread.start()

    def _put(self, message: bytes) -> None:
        with self._condition:
            self._n_received += 1
            if len(self._waiting) >= self._maxsize or self._n_bytes + len(message) > MAX_BYTES:
                self._lose()
                return
            self._waiting.append((self._n_received, message))
            self._n_bytes += len(message)
            self._condition.notify()

    def _lose(self) -> None:
        if not self.n_lost:
            logger.error("%s: messages come faster than they are read, and some are lost.", self.name)
        self.n_lost += 1
        last = self._waiting[-1][0] if self._waiting else 0
        self._lost[last] = self._lost.get(last, (0, 0))[0] + 1, self._n_received

    def read(self, timeout: float) -> Sequence[Item]:
        """Return what has come, in the order in which it came."""
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._stopped.is_set(), timeout)
            taken = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            self._n_bytes -= sum(len(message) for _, message in taken)
            lost = {number: self._lost.pop(number) for number, _ in [(0, b""), *taken] if number in self._lost}
        items = [self._loss(*lost[0])] if 0 in lost else []
        for number, message in taken:
            items.append(self._item(number, message))
            if number in lost:
                items.append(self._loss(*lost[number]))
        return items

    def _loss(self, n: int, number: int) -> Item:
        return poison(Position(self.address, number), f"{n} messages lost: they came faster than they were read")

    def _item(self, number: int, message: bytes) -> Item:
        position = Position(self.address, number)
        try:
            _, name, doc = _decode(message)
            doc = self._restore(name, doc)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._refuse(error)
            return poison(position, f"no JSON document: {error}")
        return Item(position, name, doc)

    def rewind(self, lane: str, index: Index) -> bool:
        """Return False: what was sent is gone."""
        return False

    def commit(self, positions: Mapping[str, Index]) -> None:
        """Do nothing: what was sent is gone."""

    def close(self) -> None:
        """Receive no more."""
        if self._thread is not None:
            self._stopped.set()
            self._thread.join(5)
            self._thread = None

    # with callbacks ----------------------------------------------------------------------------------------------

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
    _, doc = loads(b'["",%b]' % text)  # within the limits of every document
    return prefix, name.decode(), doc

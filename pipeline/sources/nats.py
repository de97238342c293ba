"""Live runs from a stream of NATS JetStream."""

import json
import logging
import queue
import socket
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.errors import PipelineRuntimeError, PipelineValueError
from pipeline.nats_client import NATSThread, nats_servers
from pipeline.sources.link import Link
from pipeline.sources.position import Index, Item, OnLost, Position, poison
from pipeline.wire import Decoder

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js.api import ConsumerConfig, ConsumerInfo

logger = logging.getLogger(__name__)

RUN = "run_id"
ACK_WAIT = 24 * 3600.0  # what is not committed for so long is sent again, and dropped; nothing hangs on it
PULL_SECONDS = 5.0
GRACE_SECONDS = 2.0


class NATSSource:
    """Documents from a stream of NATS JetStream, as `pipeline.sinks.NATSSink` writes them.

    A message is one document, `[name, doc]` as JSON, which begins with `[` or `{`, or as msgpack. What bluesky-nats
    publishes is read as well: the document alone as msgpack, under a subject that ends with its name.

    What is committed is acknowledged to a durable consumer, so the server keeps it: what was not acknowledged comes
    again, at once and in order, when the source is opened again. One process reads with a durable consumer. If another
    one opens it, this one says so and gives nothing more.

    It needs the extra `bluesky-pipeline[nats]`.

    Parameters
    ----------
    stream
        The stream; it must be there (`nats stream add`).
    subject
        Take only messages under this subject, `"beamline.>"` for instance; all by default.
    servers
        One or several, with commas between them, without a password: `pipeline.nats_client.NATSThread` tells from
        where it comes.
    durable
        The name of the consumer; it is made if it is not there, at the first message that the stream has.
    batch
        How many documents `read` returns at most.
    idle
        How many seconds without a document end the source; None: it does not end.

    >>> NATSSource("bluesky", "bluesky.>")
    NATSSource('bluesky', 'bluesky.>', durable='bluesky-pipeline')
    """

    may_lose = False
    is_stored = False
    assigns_lanes = False

    def __init__(
        self,
        stream: str,
        subject: str = "",
        servers: str | Sequence[str] = "nats://127.0.0.1:4222",
        durable: str = "bluesky-pipeline",
        *,
        batch: int = 500,
        idle: float | None = None,
    ) -> None:
        self.stream, self.subject, self.servers, self.durable = stream, subject, nats_servers(servers), durable
        self.name = f"NATS {stream}"
        self._batch = batch
        self._link = Link(self.name, idle)
        self._decode = Decoder()
        self._thread: NATSThread | None = None
        self._client: Client | None = None
        self._on_lost: OnLost = lambda lanes: None
        self._owner = ""  # what the consumer is described by while it is ours
        self._has_begun = self._is_taken = self._is_told = False
        self._inbox, self._come = "", queue.SimpleQueue["Msg"]()
        self._pulls_until: float | None = None  # by then the server has answered that it has nothing
        self._left = 0  # how many messages the server may still send for what it was asked
        self._next = 1  # which message of the consumer comes next
        self._last = 0  # the sequence in the stream of the last message that was given
        self._first = 0  # the sequence of the first message that was given
        self._committed = 0
        self._is_anew = False  # the stream, so that its sequences have begun again
        self._held: deque[tuple[int, str]] = deque()  # sequence, where to acknowledge it; of this consumer

    def __repr__(self) -> str:
        return f"NATSSource({self.stream!r}, {self.subject!r}, durable={self.durable!r})"

    @property
    def ended(self) -> bool:
        """Whether nothing came for `idle` seconds."""
        return self._link.is_idle

    def open(self, begin: Mapping[str, Index], on_lost: OnLost = lambda lanes: None) -> None:
        """Begin behind what is acknowledged; of `begin` only if there is no such consumer yet.

        Raises
        ------
        PipelineImportError
            If nats-py is not installed.
        """
        self._committed, self._on_lost = _sequence(begin.get(self.stream, 0)), on_lost
        self._last, self._first = 0, 0
        self._has_begun = self._is_taken = self._is_told = self._is_anew = False
        self._owner = f"bluesky-pipeline on {socket.gethostname()}, {uuid.uuid4()}"
        self._thread = NATSThread()
        self._link.came()

    @property
    def _nats(self) -> NATSThread:
        if self._thread is None:
            raise PipelineRuntimeError(f"{self.name} is not open; wanted open() first.")
        return self._thread

    # what comes ----------------------------------------------------------------------------------------------------

    def read(self, timeout: float) -> Sequence[Item]:
        """Return what comes next, at once when something comes."""
        thread = self._nats
        if self._is_told or not self._link.is_due:
            (time.sleep if self._is_told else self._link.wait)(timeout)
            return []
        items: list[Item] = []
        try:
            self._read(thread, timeout, items)
        except Exception as error:  # noqa: BLE001 - nats-py and its socket fail in many ways; all mean: connect again
            self._drop(error)
        if self._is_taken:
            self._tell_taken()
        if items:
            self._link.came()
        return items

    def _drop(self, reason: object) -> None:
        self._link.lost(reason)
        self._nats.disconnect(self._client)
        self._client = None

    def _read(self, thread: NATSThread, timeout: float, items: list[Item]) -> None:
        """Add what comes, also what came before a fault."""
        if self._client is None:
            self._client = thread.connect(self.servers)
            self._start(thread, self._client)
            self._link.back()
        if self._is_taken:
            return
        if self._client.is_closed:
            raise ConnectionError("the connection was closed")
        if self._is_anew:
            self._is_anew = False
            items.append(poison(Position(self.stream, 0), "the stream was made anew", begins_anew=True))
        for message in self._messages(thread, timeout):
            if (item := self._take(message)) is not None:
                items.append(item)  # noqa: PERF401 - the next one may raise
        self._acknowledge()

    def _messages(self, thread: NATSThread, timeout: float) -> "list[Msg]":
        """Return what has come, as soon as something has; ask for more, and see that the server answers."""
        self._pull(thread)
        messages: list[Msg] = []
        try:
            messages.append(self._come.get(timeout=min(timeout, PULL_SECONDS)))
            while len(messages) < self._batch:
                messages.append(self._come.get_nowait())
        except queue.Empty:
            pass
        return messages

    def _pull(self, thread: NATSThread) -> None:
        now = time.monotonic()
        if self._pulls_until is not None:
            if now > self._pulls_until and self._come.empty():
                raise TimeoutError("the server does not answer")
            return
        assert self._client is not None
        if not self._is_still_ours(thread, self._client):
            return
        request = {"batch": self._batch, "expires": int(PULL_SECONDS * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.durable}"
        thread.run(self._client.publish(subject, json.dumps(request).encode(), self._inbox))
        self._pulls_until, self._left = now + PULL_SECONDS + GRACE_SECONDS, self._batch

    def _take(self, message: "Msg") -> Item | None:
        """Return what a message is; None of what was given before, and of what only says how the server is."""
        if not message.reply:
            self._note(message.headers or {})
            return None
        self._left -= 1
        if not self._left:
            self._pulls_until = None
        sequence, number = _numbers(message.reply)
        if number != self._next:  # one was lost on its way, or another process reads too
            raise ConnectionError(f"wanted message {self._next} of the consumer, there is {number}")
        self._next += 1
        self._held.append((sequence, message.reply))
        if sequence <= self._last:
            return None
        self._last, self._first = sequence, self._first or sequence
        return self._item(Position(self.stream, sequence), message)

    def _note(self, headers: Mapping[str, str]) -> None:
        self._pulls_until = None
        if headers.get("Status") not in ("404", "408"):  # nothing is there; nothing came in time
            raise ConnectionError(f"the server says {headers.get('Status')} {headers.get('Description', '')}")

    def _item(self, position: Position, message: "Msg") -> Item:
        try:
            return Item(position, *self._decode(message.data, message.subject.rpartition(".")[2]))
        except PipelineValueError as error:
            return poison(position, str(error), str((message.headers or {}).get(RUN, "")))

    # the consumer ---------------------------------------------------------------------------------------------------

    def _start(self, thread: NATSThread, client: "Client", behind: int | None = None) -> None:
        """Let the consumer go on behind what is committed, or behind this message, if that is earlier.

        What was sent and not acknowledged comes again only after a long time, and behind what is new: so the consumer
        is made anew, unless it stands just there.
        """
        thread.run(self._subscribe(client))
        info = thread.run(self._info(client))
        if info is not None and not self._has_begun:
            self._committed = _floor(info)
        elif info is not None and not self._is_ours(info):
            return
        config = self._consumer(min(self._committed, self._committed if behind is None else behind) + 1)
        if info is not None and behind is None and _stands(info, config):
            config = replace(info.config, description=self._owner)
        elif info is not None:
            thread.run(client.jetstream().delete_consumer(self.stream, self.durable))
        info = thread.run(client.jetstream().add_consumer(self.stream, config))
        self._has_begun = True
        self._next = (info.delivered.consumer_seq if info.delivered else 0) + 1
        self._pulls_until = None
        self._held.clear()

    def _is_ours(self, info: "ConsumerInfo | None") -> bool:
        """Tell whether no other process has made the consumer its own."""
        self._is_taken = info is not None and info.config.description != self._owner
        return not self._is_taken

    def _is_still_ours(self, thread: NATSThread, client: "Client") -> bool:
        if (info := thread.run(self._info(client))) is None:
            raise ConnectionError("the consumer is gone")
        return self._is_ours(info)

    async def _subscribe(self, client: "Client") -> None:
        """Take in messages on a subject of our own, in a queue of its own: what is of before goes nowhere."""
        come: queue.SimpleQueue[Msg] = queue.SimpleQueue()

        async def put(message: "Msg") -> None:
            come.put(message)

        self._come, self._inbox = come, client.new_inbox()
        await client.subscribe(self._inbox, cb=put, pending_bytes_limit=0)

    async def _info(self, client: "Client") -> "ConsumerInfo | None":
        from nats.js.errors import NotFoundError

        newest = (await client.jetstream().stream_info(self.stream)).state.last_seq
        if newest < max(self._committed, self._last):
            logger.warning("%s: the stream was made anew; it is read from its beginning.", self.name)
            self._committed = self._last = self._first = 0
            self._is_anew = True
        try:
            return await client.jetstream().consumer_info(self.stream, self.durable)
        except NotFoundError:
            return None

    def _tell_taken(self) -> None:
        logger.error("%s: another process reads with %r; this one gives nothing more.", self.name, self.durable)
        self._is_told = True
        self._held.clear()
        self._on_lost([self.stream])

    def _consumer(self, first: int) -> "ConsumerConfig":
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        return ConsumerConfig(
            durable_name=self.durable,
            description=self._owner,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=first,
            ack_policy=AckPolicy.ALL,
            ack_wait=ACK_WAIT,
            max_ack_pending=-1,
            filter_subject=self.subject or None,
        )

    # positions -----------------------------------------------------------------------------------------------------

    def rewind(self, lane: str, index: Index | None) -> bool:
        """Go back to behind this message, or before the first; False if the server has let the next one go."""
        behind, client = max(0, self._first - 1) if index is None else _sequence(index), self._client
        if lane != self.stream or client is None or self._is_taken:
            return False
        try:
            if self._nats.run(client.jetstream().stream_info(self.stream)).state.first_seq > behind + 1:
                return False
            self._start(self._nats, client, behind)
            if self._is_taken:
                return False
        except Exception as error:  # noqa: BLE001 - as in read
            self._drop(error)
            return False
        self._last = behind
        return True

    def commit(self, positions: Mapping[str, Index]) -> None:
        """Acknowledge all up to this message; what the server does not get is acknowledged when it is back."""
        if self.stream in positions and not self._is_taken:
            self._committed = max(self._committed, _sequence(positions[self.stream]))
            try:
                self._acknowledge()
            except Exception as error:  # noqa: BLE001 - as in read
                self._drop(error)

    def _acknowledge(self) -> None:
        reply = None
        while self._held and self._held[0][0] <= self._committed:
            reply = self._held.popleft()[1]
        if reply is not None and self._client is not None and self._is_still_ours(self._nats, self._client):
            self._nats.run(self._client.publish(reply, b"+ACK"))  # that, and all before it

    def close(self) -> None:
        """Let the server have what is acknowledged, and the connection go."""
        if self._thread is None:
            return
        try:
            if self._client is not None and not self._client.is_closed:
                self._thread.run(self._client.flush())
        except Exception as error:  # noqa: BLE001 - as in read
            logger.warning("%s: an acknowledgement may be lost: %s", self.name, error)
        self._thread.disconnect(self._client)
        self._thread.close()
        self._client = self._thread = None


def _floor(info: "ConsumerInfo | None") -> int:
    """Return the message up to which all is acknowledged."""
    if info is None:
        return 0
    return max((info.ack_floor and info.ack_floor.stream_seq) or 0, (info.config.opt_start_seq or 1) - 1)


def _stands(info: "ConsumerInfo", config: "ConsumerConfig") -> bool:
    """Tell whether the consumer is as we want it, and has sent nothing that was not acknowledged."""
    wanted = {"ack_policy": config.ack_policy, "filter_subject": config.filter_subject, "max_ack_pending": -1}
    is_like = all(getattr(info.config, key) == value for key, value in wanted.items())
    sent = info.delivered.stream_seq if info.delivered else 0
    return is_like and not info.num_ack_pending and sent < (config.opt_start_seq or 1)


def _numbers(reply: str) -> tuple[int, int]:
    """Return which message it is of the stream, and of the consumer: `$JS.ACK.<stream>.<consumer>.<n>.<s>.<c>...`."""
    parts = reply.split(".")
    parts = parts[2:] if len(parts) == 9 else parts[4:]  # newer servers tell domain and account first
    return int(parts[3]), int(parts[4])


def _sequence(index: Index) -> int:
    return index if isinstance(index, int) else index[0]

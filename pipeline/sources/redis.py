"""Live runs from a stream of Redis."""

import logging
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineRuntimeError, PipelineValueError
from pipeline.redis_client import ANSWER_SECONDS, redis_client
from pipeline.secret import without_password
from pipeline.sources.link import Link
from pipeline.sources.position import Index, Item, OnLost, Position, poison
from pipeline.wire import Decoder

if TYPE_CHECKING:
    from redis import Redis

logger = logging.getLogger(__name__)

Entry = tuple[bytes, dict[bytes, bytes] | None]
FIELD, RUN = b"doc", b"run"
LOOK_SECONDS = 1.0  # how often, at least, it is seen who else holds something
CHUNK = 1000
NEVER = (2**63, 0)  # an index that no entry has


class RedisSource:
    """Documents from a stream of Redis, as `pipeline.sinks.RedisSink` writes them.

    An entry has a field `doc`, one document as JSON, which begins with `[` or `{`, or as msgpack, and may have a field
    `run`, the uid of its run. What is committed is acknowledged, and Redis keeps that for the consumer group: what was
    not acknowledged comes again. One process of a group reads at a time. While another one holds what it has not
    acknowledged, this one waits; if that one has not been heard of for `min_idle` seconds, what it holds is taken over.

    Redis loses what it did not write to its disk before it went: use `appendonly yes`.

    It needs the extra `bluesky-pipeline[redis]`.

    Parameters
    ----------
    stream
        The key of the stream.
    url
        Of Redis, without a password: that comes from `REDIS_PASSWORD`, or the file that `REDIS_PASSWORD_FILE` names.
    group
        The consumer group; it is made if it is not there, at the first entry that the stream has.
    consumer
        What this process is called in the group, the same after it was started again. By default the host's name.
    min_idle
        After how many seconds without a word another consumer is taken for dead.
    batch
        How many documents `read` returns at most.
    idle
        How many seconds without a document end the source; None: it does not end.

    >>> RedisSource("beamline")
    RedisSource('beamline', 'redis://127.0.0.1:6379', group='bluesky-pipeline')
    """

    may_lose = False
    is_stored = False
    assigns_lanes = False

    def __init__(
        self,
        stream: str,
        url: str = "redis://127.0.0.1:6379",
        group: str = "bluesky-pipeline",
        consumer: str | None = None,
        *,
        min_idle: float = 60.0,
        batch: int = 500,
        idle: float | None = None,
    ) -> None:
        self.stream, self.url, self.group = stream, without_password(url, "REDIS_PASSWORD"), group
        self.consumer = consumer or socket.gethostname()
        self.name = f"Redis {stream}"
        self._min_idle, self._batch = min_idle, batch
        self._link = Link(self.name, idle)
        self._decode = Decoder()
        self._client: Redis | None = None
        self._begin: tuple[int, ...] = (0, 0)  # behind this a new group begins
        self._has_group = False
        self._held: dict[tuple[int, ...], bytes] = {}  # index -> id, of what was given and is not committed
        self._acks: list[bytes] = []  # ids of what is committed, of which Redis has not said that it is
        self._last: tuple[int, ...] = (0, 0)  # the highest index that was given
        self._backlog: bytes | None = b"0"  # behind this id, what is ours from before is to be read
        self._again: tuple[int, ...] | None = None  # behind this index, up to `_last`, all is to be read again
        self._looked, self._look_seconds, self._waits = 0.0, min(LOOK_SECONDS, min_idle / 4), False

    def __repr__(self) -> str:
        return f"RedisSource({self.stream!r}, {self.url!r}, group={self.group!r})"

    @property
    def ended(self) -> bool:
        """Whether nothing came for `idle` seconds."""
        return self._link.is_idle

    def open(self, begin: Mapping[str, Index], on_lost: OnLost = lambda lanes: None) -> None:
        """Begin with what is not acknowledged; of `begin` only if there is no such group yet.

        Raises
        ------
        PipelineImportError
            If redis is not installed.
        PipelineValueError
            If the URL is none.
        """
        self._begin = _index(begin.get(self.stream, (0, 0)))
        self._has_group, self._backlog, self._again, self._looked = False, b"0", None, 0.0
        self._held, self._acks, self._last = {}, [], (0, 0)
        self._client = redis_client(self.url)
        self._link.came()

    @property
    def _redis(self) -> "Redis":
        if self._client is None:
            raise PipelineRuntimeError(f"{self.name} is not open; wanted open() first.")
        return self._client

    # what comes ----------------------------------------------------------------------------------------------------

    def read(self, timeout: float) -> Sequence[Item]:
        """Return what comes next, at once when something comes."""
        from redis.exceptions import RedisError

        redis = self._redis
        if not self._link.is_due:
            self._link.wait(timeout)
            return []
        try:
            items = self._read(redis, timeout)
        except RedisError as error:
            self._fault(error)
            return []
        self._link.back()
        if items:
            self._link.came()
        return items

    def _fault(self, error: Exception) -> None:
        """Note a fault. What Redis gave us and did not reach us is ours now: it is read first when Redis is back."""
        self._backlog, self._looked = b"0", 0.0
        if str(error).startswith("NOGROUP"):  # Redis is there, but has forgotten: the stream was deleted, or was lost
            logger.warning("%s: the group %r is gone; it is made again.", self.name, self.group)
            self._has_group = False
        else:
            self._link.lost(error)

    def _read(self, redis: "Redis", timeout: float) -> list[Item]:
        self._make_group(redis)
        self._acknowledge(redis)
        if not self._is_alone(redis):
            time.sleep(min(timeout, self._look_seconds))
            return []
        if self._again is not None and (entries := self._read_again(redis)):
            return self._items(entries)
        if self._backlog is not None and (entries := self._read_backlog(redis)):
            return self._items(entries)
        return self._items(self._read_group(redis, b">", timeout))

    def _read_again(self, redis: "Redis") -> list[Entry]:
        assert self._again is not None
        entries: Any = redis.xrange(self.stream, b"(" + _id(self._again), _id(self._last), self._batch)
        self._again = _parsed(entries[-1][0]) if entries else None
        return entries

    def _read_backlog(self, redis: "Redis") -> list[Entry]:
        """Return what is ours already, but for what was given."""
        while self._backlog is not None:
            entries = self._read_group(redis, self._backlog)
            self._backlog = entries[-1][0] if entries else None
            if new := [entry for entry in entries if _parsed(entry[0]) not in self._held]:
                return new
        return []

    def _read_group(self, redis: "Redis", behind: bytes, timeout: float = 0.0) -> list[Entry]:
        block = int(1000 * min(timeout, ANSWER_SECONDS / 2, self._min_idle / 4))
        streams: Any = {self.stream: behind}
        come: Any = redis.xreadgroup(self.group, self.consumer, streams, self._batch, block or None)
        return come[0][1] if come else []

    def _items(self, entries: Iterable[Entry]) -> list[Item]:
        return [self._item(_parsed(entry), entry, fields or {}) for entry, fields in entries]

    def _item(self, index: tuple[int, ...], entry: bytes, fields: Mapping[bytes, bytes]) -> Item:
        self._last = max(self._last, index)
        self._held.setdefault(index, entry)
        position = Position(self.stream, index)
        if FIELD not in fields:
            there = f"there are {sorted(fields)!r:.60}" if fields else "it was deleted before it was read"
            return poison(position, f"wanted an entry with a field 'doc', {there}.", _text(fields.get(RUN)))
        try:
            return Item(position, *self._decode(fields[FIELD]))
        except PipelineValueError as error:
            return poison(position, str(error), _text(fields.get(RUN)))

    # the group -----------------------------------------------------------------------------------------------------

    def _make_group(self, redis: "Redis") -> None:
        from redis.exceptions import ResponseError

        if self._has_group:
            return
        try:
            # What is behind the end of the stream is of another one: this one was made anew, by an earlier clock.
            is_anew = redis.exists(self.stream) and _parsed(_last_id(redis, self.stream)) < self._begin
            begin = (0, 0) if is_anew else self._begin
            redis.xgroup_create(self.stream, self.group, _id(begin), mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        self._has_group = True

    def _is_alone(self, redis: "Redis") -> bool:
        """Tell, as of a moment ago, whether no other consumer holds anything; take over what a dead one holds."""
        if time.monotonic() - self._looked < self._look_seconds:
            return not self._waits
        self._looked, living = time.monotonic(), []
        self._show_life(redis)
        consumers: Any = redis.xinfo_consumers(self.stream, self.group)
        for other in consumers:
            if other["name"] == self.consumer.encode() or not other["pending"]:
                continue
            if other["idle"] >= 1000 * self._min_idle:
                self._take_over(redis, other["name"])
            else:
                living.append(_text(other["name"]))
        if living and not self._waits:
            logger.warning("%s: waits, since %s holds documents that are not acknowledged.", self.name, living)
        self._waits = bool(living)
        return not living

    def _take_over(self, redis: "Redis", other: bytes) -> None:
        behind, n = b"-", 0
        while True:
            held: Any = redis.xpending_range(self.stream, self.group, behind, b"+", CHUNK, other)
            if not held:
                break
            ids = [each["message_id"] for each in held]
            claimed: Any = redis.xclaim(
                self.stream, self.group, self.consumer, int(1000 * self._min_idle), ids, justid=True
            )
            behind, n = b"(" + ids[-1], n + len(claimed)
        self._backlog = b"0"
        logger.warning("%s: %d documents are taken over from %s, which is silent.", self.name, n, _text(other))

    def _show_life(self, redis: "Redis") -> None:
        """Read nothing of what is ours: by that the others see that we live, but not by waiting for what is new."""
        redis.xreadgroup(self.group, self.consumer, {self.stream: _id(NEVER)}, 1)

    # positions -----------------------------------------------------------------------------------------------------

    def rewind(self, lane: str, index: Index | None) -> bool:
        """Go back to behind this entry, or before the first; False if entries behind it may have been deleted."""
        from redis.exceptions import RedisError

        back = (0, 0) if index is None else _index(index)
        if lane != self.stream:
            return False
        try:
            there: Any = self._redis.xrange(self.stream, _id(back), _id(back), 1)
            info: Any = self._redis.xinfo_stream(self.stream)
        except RedisError as error:
            self._fault(error)
            return False
        if not there and info.get("entries-added") != info["length"]:
            return False
        self._again = back
        return True

    def commit(self, positions: Mapping[str, Index]) -> None:
        """Acknowledge all that was given up to this entry; what Redis does not take is tried again by `read`."""
        from redis.exceptions import RedisError

        if self.stream not in positions:
            return
        up_to = _index(positions[self.stream])
        done = []
        for index in self._held:
            if index > up_to:
                break
            done.append(index)
        self._acks += [self._held.pop(index) for index in done]
        self._begin = max(self._begin, up_to)
        try:
            self._acknowledge(self._redis)
        except RedisError as error:
            self._fault(error)

    def _acknowledge(self, redis: "Redis") -> None:
        while self._acks:
            redis.xack(self.stream, self.group, *self._acks[:CHUNK])
            del self._acks[:CHUNK]

    def close(self) -> None:
        """Acknowledge what is committed, and let the connection go."""
        from redis.exceptions import RedisError

        if self._client is None:
            return
        try:
            self._acknowledge(self._client)
        except RedisError as error:
            logger.warning("%s: %d acknowledgements are lost: %s", self.name, len(self._acks), error)
        self._client.close()
        self._client = None


def _last_id(redis: "Redis", stream: str) -> bytes:
    info: Any = redis.xinfo_stream(stream)
    return info["last-generated-id"]


def _index(index: Index) -> tuple[int, ...]:
    return (index, 0) if isinstance(index, int) else tuple(index)


def _id(index: tuple[int, ...]) -> bytes:
    return b"%d-%d" % index


def _parsed(entry: bytes) -> tuple[int, ...]:
    ms, _, seq = entry.partition(b"-")
    return int(ms), int(seq)


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")

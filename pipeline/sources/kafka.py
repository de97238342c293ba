"""Live runs from Kafka."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineImportError, PipelineRuntimeError, PipelineValueError
from pipeline.secret import secret
from pipeline.sources.link import Link
from pipeline.sources.position import Index, Item, OnLost, Position, poison
from pipeline.wire import Decoder

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

logger = logging.getLogger(__name__)

SECRETS = {  # setting of librdkafka -> environment variable
    "sasl.username": "KAFKA_SASL_USERNAME",
    "sasl.password": "KAFKA_SASL_PASSWORD",
    "ssl.key.password": "KAFKA_SSL_KEY_PASSWORD",
    "sasl.oauthbearer.client.secret": "KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET",
}
RETRY_SECONDS = 1.0
ANSWER_SECONDS = 10.0


class KafkaSource:
    """Documents from Kafka, as bluesky-kafka's `Publisher` writes them: `[name, doc]` as msgpack, or as JSON.

    What is committed, the broker keeps, for the group: the next process of the group goes on from there, and what was
    not committed comes again. Several processes of a group share the partitions; all documents of a run must be in one,
    so its uid (or another text that is the same for the whole run) must be the key of its messages.

    It needs the extra `bluesky-pipeline[kafka]`.

    Parameters
    ----------
    topics
        A topic, or several; one that begins with `^` is a regular expression.
    bootstrap
        Brokers to begin with: `"localhost:9092"`, several with commas between them.
    group
        The consumer group.
    config
        Further settings of librdkafka, of a user, TLS or SASL for instance. Passwords are not among them: they come
        from the environment, `KAFKA_SASL_USERNAME`, `KAFKA_SASL_PASSWORD`, `KAFKA_SSL_KEY_PASSWORD`, or from the files
        that `KAFKA_SASL_PASSWORD_FILE` and so on name.
    batch
        How many documents `read` returns at most.
    idle
        How many seconds without a document end the source; None: it does not end.

    >>> KafkaSource("bl.bluesky.runengine.documents")
    KafkaSource('bl.bluesky.runengine.documents', 'localhost:9092', group='bluesky-pipeline')
    """

    may_lose = False
    is_stored = False
    assigns_lanes = True  # to one process of the group each: who has one may take it from whoever had it

    def __init__(
        self,
        topics: str | Sequence[str],
        bootstrap: str = "localhost:9092",
        group: str = "bluesky-pipeline",
        *,
        config: Mapping[str, Any] | None = None,
        batch: int = 500,
        idle: float | None = None,
    ) -> None:
        self.topics = [topics] if isinstance(topics, str) else list(topics)
        if not self.topics:
            raise PipelineValueError("KafkaSource: there are no topics; wanted at least one.")
        if found := sorted(SECRETS.keys() & set(config or ())):
            raise PipelineValueError(f"KafkaSource: config has {found[0]!r}; it is taken from {SECRETS[found[0]]}.")
        self.bootstrap, self.group = bootstrap, group
        self.name = f"Kafka {', '.join(self.topics)}"
        self._config, self._batch = dict(config or {}), batch
        self._link = Link(self.name, idle)
        self._decode = Decoder()
        self._consumer: Consumer | None = None
        self._on_lost: OnLost = lambda lanes: None
        self._begin: Mapping[str, Index] = {}
        self._next: dict[str, int | None] = {}  # lane -> the offset that comes next, of lanes that are ours
        self._first: dict[str, int] = {}  # lane -> the first offset that was given
        self._ends: dict[str, int] = {}  # lane -> the offset behind the one that it has been read to before
        self._uncommitted: dict[str, int] = {}  # lane -> the offset to commit, of which Kafka has not said that it is
        self._tried, self._is_refused = 0.0, False

    def __repr__(self) -> str:
        topics = self.topics[0] if len(self.topics) == 1 else self.topics
        return f"KafkaSource({topics!r}, {self.bootstrap!r}, group={self.group!r})"

    @property
    def ended(self) -> bool:
        """Whether nothing came for `idle` seconds."""
        return self._link.is_idle

    def open(self, begin: Mapping[str, Index], on_lost: OnLost = lambda lanes: None) -> None:
        """Join the group, and go on from what it has committed; of `begin` only where it never committed.

        Raises
        ------
        PipelineImportError
            If confluent-kafka is not installed.
        PipelineValueError
            If librdkafka refuses a setting.
        """
        self._begin, self._on_lost = dict(begin), on_lost
        self._ends = {lane: _after(index) for lane, index in begin.items()}
        self._consumer = _consumer(self._settings())
        self._consumer.subscribe(self.topics, on_assign=self._assign, on_revoke=self._revoke, on_lost=self._lose)
        self._link.came()

    def _settings(self) -> dict[str, Any]:
        found = {setting: value for setting, name in SECRETS.items() if (value := secret(name))}
        return {
            "bootstrap.servers": self.bootstrap,
            "group.id": self.group,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "cooperative-sticky",
            "topic.metadata.refresh.interval.ms": 10_000,  # a topic that appears is found as quickly
            **self._config,
            **found,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": False,
            "error_cb": self._fault,
            "on_commit": self._committed,
            "logger": _Quiet(),
        }

    @property
    def _open(self) -> "Consumer":
        if self._consumer is None:
            raise PipelineRuntimeError(f"{self.name} is not open; wanted open() first.")
        return self._consumer

    def read(self, timeout: float) -> Sequence[Item]:
        """Return what comes next, at once when something comes; rebalances of the group happen in here."""
        consumer = self._open
        self._commit_again()
        messages = consumer.consume(1, timeout)
        if messages and self._batch > 1:
            messages += consumer.consume(self._batch - 1, 0)
        items = [item for message in messages for item in self._items(message)]
        if items:
            self._link.back()
            self._link.came()
        return items

    def _items(self, message: "Message") -> list[Item]:
        """Return what a message is; nothing if it only tells an error, or is of a partition that has gone meanwhile."""
        if (error := message.error()) is not None:
            self._link.lost(error)
            return []
        lane, offset = _lane(message), message.offset() or 0
        if lane not in self._next:
            return []
        items = [] if not self._is_anew(lane, offset) else [_anew(lane, offset)]
        self._next[lane] = offset + 1
        self._first.setdefault(lane, offset)
        return [*items, self._item(Position(lane, offset), message)]

    def _item(self, position: Position, message: "Message") -> Item:
        try:
            return Item(position, *self._decode(message.value() or b""))
        except PipelineValueError as error:
            return poison(position, str(error), _text(message.key()))

    def _is_anew(self, lane: str, offset: int) -> bool:
        """Tell whether the offsets of a topic have begun again: it was deleted, and made anew."""
        expected = self._next[lane]
        if expected is not None:
            is_anew = offset < expected
        else:
            is_anew = offset < self._ends.get(lane, 0) and self._end(lane) < self._ends[lane]
        if is_anew:
            self._first.pop(lane, None)
        self._ends.pop(lane, None)
        return is_anew

    def _end(self, lane: str) -> int:
        """Return the offset that the next message of a partition will have."""
        from confluent_kafka import KafkaException

        try:
            return self._open.get_watermark_offsets(_partition(lane), ANSWER_SECONDS)[1]
        except KafkaException as error:
            self._link.lost(error)
            return self._ends[lane]

    def _fault(self, error: "KafkaError") -> None:
        """Tell what librdkafka tells; not that one broker closed a connection, which it does for no reason."""
        if error.code() not in (error._TRANSPORT, error._RESOLVE):
            self._link.lost(error)

    # partitions come and go, within `read` -------------------------------------------------------------------------

    def _assign(self, consumer: "Consumer", partitions: "list[TopicPartition]") -> None:
        for partition in self._never_committed(consumer, partitions):
            partition.offset = _after(self._begin[_lane(partition)])
        if _is_cooperative(self._config):
            consumer.incremental_assign(partitions)
        else:
            consumer.assign(partitions)
        self._next.update({_lane(partition): None for partition in partitions})

    def _never_committed(self, consumer: "Consumer", partitions: "list[TopicPartition]") -> "Sequence[TopicPartition]":
        """Return which of these the group has committed nothing of, among those that we know where to begin."""
        from confluent_kafka import KafkaException

        asked = [partition for partition in partitions if _lane(partition) in self._begin]
        try:
            committed = consumer.committed(asked, ANSWER_SECONDS) if asked else []
        except KafkaException as error:
            self._link.lost(error)
            return []  # they begin earlier than they need to, and lose nothing
        never = {_lane(partition) for partition in committed if partition.offset < 0}
        return [partition for partition in asked if _lane(partition) in never]

    def _revoke(self, consumer: "Consumer", partitions: "list[TopicPartition]") -> None:
        lanes = [lane for lane in map(_lane, partitions) if lane in self._next]
        try:
            if lanes:
                self._on_lost(lanes)
                self._commit_now(lanes)
        finally:
            self._forget(lanes)

    def _lose(self, consumer: "Consumer", partitions: "list[TopicPartition]") -> None:
        """Tell that partitions are with another process already: what we commit of them no longer counts."""
        lanes = [lane for lane in map(_lane, partitions) if lane in self._next]
        self._forget(lanes)
        if lanes:
            self._on_lost(lanes)

    def _forget(self, lanes: Sequence[str]) -> None:
        for lane in lanes:
            self._next.pop(lane, None)
            self._uncommitted.pop(lane, None)

    # positions -----------------------------------------------------------------------------------------------------

    def rewind(self, lane: str, index: Index | None) -> bool:
        """Go back to behind this offset, or before the first; False if it is not ours, or Kafka has let the next go."""
        from confluent_kafka import KafkaException

        after = self._first.get(lane, 0) if index is None else _after(index)
        if lane not in self._next:
            return False
        try:
            low, _ = self._open.get_watermark_offsets(_partition(lane), ANSWER_SECONDS)
            if low > after:
                return False
            self._open.seek(_partition(lane, after))
        except KafkaException as error:
            self._link.lost(error)
            return False
        self._next[lane] = after
        return True

    def commit(self, positions: Mapping[str, Index]) -> None:
        """Commit these offsets, of partitions that are ours; what Kafka does not take is tried again by `read`."""
        ours = {lane: _after(index) for lane, index in positions.items() if lane in self._next}
        self._uncommitted.update(ours)
        self._send(asynchronous=True)

    def _send(self, *, asynchronous: bool) -> None:
        from confluent_kafka import KafkaException

        self._tried = time.monotonic()
        if not self._uncommitted:
            return
        offsets = [_partition(lane, offset) for lane, offset in self._uncommitted.items()]
        try:
            if asynchronous:
                self._open.commit(offsets=offsets, asynchronous=True)
            else:
                self._committed(None, self._open.commit(offsets=offsets, asynchronous=False))
        except KafkaException as error:
            self._refused(error.args[0])

    def _refused(self, error: "KafkaError") -> None:
        """Tell once that a commit was refused, in the middle of a rebalance for instance; it is made again."""
        if not self._is_refused:
            logger.warning("%s: a commit is refused (%s); what is not committed comes again.", self.name, error.str())
        self._is_refused = True

    def _commit_now(self, lanes: Sequence[str]) -> None:
        """Commit, and see that it is done, before others go on from there."""
        if not self._uncommitted.keys().isdisjoint(lanes):
            self._send(asynchronous=False)

    def _commit_again(self) -> None:
        if self._uncommitted and time.monotonic() - self._tried > RETRY_SECONDS:
            self._send(asynchronous=True)

    def _committed(self, error: Any, partitions: "Sequence[TopicPartition]") -> None:
        """Note what Kafka has committed; by librdkafka, when it answers."""
        if (error := error or next((each.error for each in partitions if each.error), None)) is not None:
            self._refused(error)
            return
        self._is_refused = False
        for partition in partitions:
            if self._uncommitted.get(_lane(partition)) == partition.offset:
                del self._uncommitted[_lane(partition)]

    def close(self) -> None:
        """Commit what is to be committed, and leave the group."""
        if self._consumer is not None:
            self._on_lost = lambda lanes: None
            self._send(asynchronous=False)
            self._consumer.close()
            self._consumer = None
            self._forget(list(self._next))


class _Quiet:
    """Where librdkafka logs: what matters of it is told by the source, once."""

    level = logging.DEBUG

    def log(self, level: int, message: str, *args: object) -> None:
        """Keep it for those who look closely."""
        logger.debug(message, *args)


def _consumer(settings: dict[str, Any]) -> "Consumer":
    try:
        from confluent_kafka import Consumer, KafkaException
    except ImportError as error:
        raise PipelineImportError("KafkaSource needs confluent-kafka: pip install 'bluesky-pipeline[kafka]'") from error
    try:
        return Consumer(settings)
    except (KafkaException, TypeError, ValueError) as error:
        raise PipelineValueError(f"KafkaSource: librdkafka refuses its settings: {error}") from None


def _is_cooperative(config: Mapping[str, Any]) -> bool:
    return "cooperative" in config.get("partition.assignment.strategy", "cooperative")


def _lane(where: "Message | TopicPartition") -> str:
    topic, partition = where.topic, where.partition
    return f"{topic() if callable(topic) else topic}[{partition() if callable(partition) else partition}]"


def _partition(lane: str, offset: int | None = None) -> "TopicPartition":
    from confluent_kafka import TopicPartition

    topic, _, partition = lane[:-1].rpartition("[")
    return TopicPartition(topic, int(partition)) if offset is None else TopicPartition(topic, int(partition), offset)


def _anew(lane: str, offset: int) -> Item:
    return poison(Position(lane, offset - 1), "the topic was made anew", begins_anew=True)


def _after(index: Index) -> int:
    return (index if isinstance(index, int) else index[0]) + 1


def _text(key: bytes | str | None) -> str:
    return key.decode(errors="replace") if isinstance(key, bytes) else key or ""

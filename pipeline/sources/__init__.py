"""Where documents come from: stored ones are iterables of `(name, doc)`, live ones have `subscribe(callback)`.

Those that can be read again are `PositionedSource`: they give positions with documents, and take `commit`.
"""

from pipeline.sources.archive import ArchiveSource as ArchiveSource
from pipeline.sources.catalog import read_catalog as read_catalog
from pipeline.sources.folder import FolderSource as FolderSource
from pipeline.sources.journal import JournalSource as JournalSource
from pipeline.sources.jsonl import read_jsonl as read_jsonl
from pipeline.sources.kafka import KafkaSource as KafkaSource
from pipeline.sources.nats import NATSSource as NATSSource
from pipeline.sources.redis import RedisSource as RedisSource
from pipeline.sources.refill import Refill as Refill
from pipeline.sources.tiled import TiledSource as TiledSource
from pipeline.sources.zmq import ZMQSource as ZMQSource

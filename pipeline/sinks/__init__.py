"""Where documents go: any callable `(name, doc)` is a sink."""

from pipeline.sinks.databroker import DatabrokerSink as DatabrokerSink
from pipeline.sinks.journal import Journal as Journal
from pipeline.sinks.jsonl import JSONLSink as JSONLSink
from pipeline.sinks.nats import NATSSink as NATSSink
from pipeline.sinks.redis import RedisSink as RedisSink
from pipeline.sinks.tiled import TiledSink as TiledSink

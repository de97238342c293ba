"""Where documents come from: stored ones are iterables of `(name, doc)`, live ones have `subscribe(callback)`."""

from pipeline.sources.catalog import read_catalog as read_catalog
from pipeline.sources.journal import JournalSource as JournalSource
from pipeline.sources.jsonl import read_jsonl as read_jsonl
from pipeline.sources.zmq import ZMQSource as ZMQSource

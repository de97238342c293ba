"""Columns of real runs, as arrays, for oracles that take the whole."""

import numpy

from pipeline.run_builder import iter_events
from pipeline.sources import read_jsonl


def columns(file, *fields, stream="primary"):
    """The columns of these fields of a stream, by `seq_num`."""
    events, uids = [], set()
    for name, doc in read_jsonl(file):
        if name == "descriptor" and doc["name"] == stream:
            uids.add(doc["uid"])
        elif name in ("event", "event_page") and doc["descriptor"] in uids:
            events += iter_events(doc) if name == "event_page" else [doc]
    events.sort(key=lambda doc: doc["seq_num"])
    return [numpy.array([doc["data"][field] for doc in events]) for field in fields]

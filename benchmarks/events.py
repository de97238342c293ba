"""Scalar raw events to a mean for each, in the ledger; against bluesky's LiveDispatcher, without a sink."""

import tempfile
import time
from statistics import median

from bluesky.callbacks.stream import LiveDispatcher

from pipeline import Node, Pipeline
from pipeline.reductions import Mean, Statistics
from pipeline.sinks.jsonl import JSONLSink
from pipeline.testing import make_run

N_PIPELINE, N_PEER, ROUNDS = 40_000, 8_000, 7


class LiveMean(LiveDispatcher):
    """The same mean, as bluesky's documentation would have it made."""

    def start(self, doc):
        self.n = self.total = 0
        return super().start(doc)

    def event(self, doc, **kwargs):
        self.n += 1
        self.total += doc["data"]["det"]
        self.process_event({**doc, "data": {"det_mean": self.total / self.n, "det_n": self.n}}, **kwargs)
        return doc


def run(n, pages=0):
    return make_run({"det": [1.1 * i for i in range(n)]}, pages=pages)


def seconds(callback, documents):
    began = time.perf_counter()
    for name, doc in documents:
        callback(name, doc)
    return time.perf_counter() - began


def per_event(documents, n):
    with tempfile.TemporaryDirectory() as folder, JSONLSink(folder) as ledger:
        return n / seconds(Pipeline([Node("mean", Mean("det"))], [ledger]), documents)


def per_event_of_peer(documents, n):
    return n / seconds(LiveMean(), documents)


def events():
    """Events a second, and the ratio to LiveDispatcher, round by round."""
    ours, theirs = run(N_PIPELINE), run(N_PEER)
    rounds = [(per_event(ours, N_PIPELINE), per_event_of_peer(theirs, N_PEER)) for _ in range(ROUNDS + 1)][1:]
    ratio = median(a / b for a, b in rounds)
    print(f"events: {median(a for a, _ in rounds):,.0f}/s; LiveDispatcher {median(b for _, b in rounds):,.0f}/s")
    return "events, times LiveDispatcher", ratio, 8.0, ratio >= 8


def pages():
    """Rows a second of pages of 1000 into Statistics, the last summary alone, into the ledger."""
    n = 400_000
    documents = run(n, 1000)
    rates = []
    for _ in range(ROUNDS + 1):
        with tempfile.TemporaryDirectory() as folder, JSONLSink(folder) as ledger:
            rates.append(n / seconds(Pipeline([Node("all", Statistics("det"), every=0)], [ledger]), documents))
    rate = median(rates[1:])
    return "pages, rows a second", rate, 1e6, rate >= 1e6

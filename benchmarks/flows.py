"""What a flow of five streamz operators costs, alone and in a pipeline with a ledger."""

import tempfile
import time
from statistics import median

from pipeline import Node, Pipeline
from pipeline.reductions import Flow
from pipeline.sinks import JSONLSink
from pipeline.testing import make_run

N, ROUNDS = 10_000, 7


def five(raw):
    numbers = raw.pluck("det").map(lambda x: 2 * x).filter(lambda x: x >= 0)
    return numbers.sliding_window(3, return_partial=False).map(lambda last: {"smooth": sum(last) / 3})


def seconds_alone(events):
    flow = Flow(five)
    began = time.perf_counter()
    for event in events:
        flow.update(event)
        flow.result()
    return time.perf_counter() - began


def seconds_in_a_pipeline(documents):
    with tempfile.TemporaryDirectory() as folder, JSONLSink(folder) as ledger:
        pipeline = Pipeline([Node("smooth", flow=five)], [ledger])
        began = time.perf_counter()
        for name, doc in documents:
            pipeline(name, doc)
        return time.perf_counter() - began


def flows():
    """Events a second through a flow of five operators, aim 20,000; and from raw event to ledger."""
    events = [{"det": float(i)} for i in range(N)]
    rate = N / median(seconds_alone(events) for _ in range(ROUNDS))
    yield "flow of five operators, events/s", rate, 20_000.0, rate >= 20_000
    documents = make_run({"det": [float(i) for i in range(N)]})
    whole = N / median(seconds_in_a_pipeline(documents) for _ in range(ROUNDS))
    print(f"flows: {whole:,.0f} events/s from raw event to ledger")

"""Reductions beside the peers that do the same work: in turns, in one run, medians."""

import time
from statistics import median

import numpy

from pipeline.reductions import Histogram, PeakStatistics, Statistics

ROUNDS, POINTS, ROWS = 9, 1000, 1_000_000


def seconds(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ratio(peer, ours):
    """How many times as long the peer takes."""
    rounds = [(seconds(peer), seconds(ours)) for _ in range(ROUNDS)]
    return median(a for a, _ in rounds) / median(b for _, b in rounds)


def peaks():
    """A scan of 1000 points, taken in event by event, and its peak."""
    from bluesky.callbacks.fitting import PeakStats

    x = numpy.linspace(-5, 5, POINTS)
    y = 1000 * numpy.exp(-((x - 0.3) ** 2) / 2) + 5
    events = [{"motor": a, "det": b} for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    documents = [{"data": event, "seq_num": i, "descriptor": "d"} for i, event in enumerate(events, 1)]

    def peer():
        stats = PeakStats("motor", "det")
        stats.start({"uid": "a"})
        stats.descriptor({"uid": "d", "name": "primary", "data_keys": {}, "run_start": "a"})
        for doc in documents:
            stats.event(doc)
        stats.compute()

    def ours():
        peak = PeakStatistics("motor", "det")
        for event in events:
            peak.update(event)
        peak.result()

    return ratio(peer, ours)


def histograms():
    """A million numbers, in pages of 10,000, into 200 bins."""
    import boost_histogram

    pages = numpy.random.default_rng(0).normal(size=ROWS).reshape(-1, 10_000)

    def peer():
        histogram = boost_histogram.Histogram(boost_histogram.axis.Regular(200, -4, 4))
        for page in pages:
            histogram.fill(page)

    def ours():
        histogram = Histogram("x", {"start": -4, "stop": 4, "n": 200})
        for page in pages:
            histogram.update_page({"x": page})

    return ratio(peer, ours)


def moments():
    """20,000 numbers, one by one: mean and variance, exact by us."""
    from river import stats

    numbers = numpy.random.default_rng(0).normal(size=20_000).tolist()

    def peer():
        mean, variance = stats.Mean(), stats.Var()
        for number in numbers:
            mean.update(number)
            variance.update(number)

    def ours():
        statistics = Statistics("x")
        for number in numbers:
            statistics.update({"x": number})

    return ratio(peer, ours)


def peers():
    """The time of a peer over ours; an aim only where the work is the same: the others are compiled, and round."""
    for what, measure in (("boost-histogram", histograms), ("river's Mean and Var", moments)):
        print(f"peers: {what} takes {measure():.2f} of our time")
    found = peaks()
    yield "PeakStats of bluesky, its time over ours", found, 1.0, found >= 1

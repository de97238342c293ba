"""A run made of Datasets, with the face that a stored run has."""

from pipeline import RunBuilder


class StoredStream:
    def __init__(self, dataset):
        self._dataset = dataset

    def read(self):
        return self._dataset


class StoredRun:
    def __init__(self, streams, start=None, documents=()):
        self.metadata = {"start": {"uid": "7f3c", "time": 1.5, **(start or {})}, "stop": None}
        self._streams = streams
        self._documents = documents

    def __iter__(self):
        return iter(self._streams)

    def __getitem__(self, name):
        return StoredStream(self._streams[name])

    def documents(self):
        yield from self._documents


def built_run(data, **start):
    """A run of documents alone, as `RunBuilder` makes it."""
    with RunBuilder(start, uid="7f3c", time=1.5) as builder:
        builder.add_stream("primary", data=data, time=2.0)
    return StoredRun({}, builder.documents()[0][1], builder.documents())

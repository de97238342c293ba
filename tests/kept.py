"""A sink that keeps what it is given, and can be asked about it."""

from collections import defaultdict

import event_model

from pipeline.documents import dumps
from pipeline.run_of import RunOf


class Kept(list):
    """A sink that keeps what it is given."""

    inline = True
    __hash__ = object.__hash__  # a RunEngine keeps its subscribers by hash

    def __call__(self, name, doc):
        self.append((name, doc))

    def named(self, name):
        return [doc for each, doc in self if each == name]

    def by_run(self):
        runs, run_of = defaultdict(Kept), RunOf()
        for name, doc in self:
            runs[run_of(name, doc)].append((name, doc))
        return dict(runs)

    def of_node(self, node):
        """The documents of the only run of this node."""
        runs = [run for run in self.by_run().values() if run[0][1]["analysis"]["node"] == node]
        assert len(runs) == 1
        return runs[0]

    def events(self, stream):
        """The data of the events of a stream."""
        uids = {doc["uid"] for doc in self.named("descriptor") if doc["name"] == stream}
        return [doc["data"] for doc in self.named("event") if doc["descriptor"] in uids]

    def final(self):
        (data,) = self.events("final")
        return data

    @property
    def stop(self):
        (doc,) = self.named("stop")
        return doc

    def bytes(self):
        return b"".join(dumps(name, doc) for name, doc in self)

    def check_valid(self):
        """Every document is valid by the schema, and every event of a descriptor that is there."""
        for run in self.by_run().values():
            run._check_run()

    def _check_run(self):
        streams, counts = {}, defaultdict(int)
        for name, doc in self:
            event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
            if name == "descriptor":
                streams[doc["uid"]] = doc["name"], set(doc["data_keys"])
            if name == "event":
                stream, keys = streams[doc["descriptor"]]
                counts[stream] += 1
                assert doc["seq_num"] == counts[stream]
                assert set(doc["data"]) == set(doc["timestamps"]) == keys
        assert {name: n for name, n in self.stop["num_events"].items() if n} == dict(counts)

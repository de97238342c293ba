"""A reduction that raises where it is told to."""

from pipeline import Reduction


class Faulty(Reduction):
    def __init__(self, where):
        self.where, self.n = where, 0

    def update(self, data):
        self.n += 1
        if self.where == "event" and self.n == 3:
            raise RuntimeError("boom in event")

    def result(self):
        if self.where == "result":
            raise RuntimeError("boom in result")
        if self.where == "final" and self.n >= 4:
            raise RuntimeError("boom in final")
        return {"n": self.n}

    def describe(self, data_keys):
        if self.where == "describe":
            raise RuntimeError("boom in describe")
        return {}

    def __deepcopy__(self, memo):
        if self.where == "descriptor":
            raise RuntimeError("boom in descriptor")
        return Faulty(self.where)

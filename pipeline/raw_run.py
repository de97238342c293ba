"""A raw run that is open: the works on it."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from event_model import RunRouter

from pipeline.delivery import Delivery, Outlet
from pipeline.documents import Document
from pipeline.errors import PipelineError
from pipeline.node import Node
from pipeline.readers.run_assets import RunAssets
from pipeline.state import pack, unpack
from pipeline.work import Work

DEFINING = ("start", "descriptor", "resource", "stream_resource")  # what later documents refer to


class RawRun:
    """An open raw run: the works on it, behind a RunRouter of its own, which goes when the run goes.

    One router for all runs keeps the resources of each for ever, and loses a run's documents once a callback raises.

    Parameters
    ----------
    start
        The start document of the run.
    works
        On it, begun.
    unbegun
        By node, why it could not begin.
    assets
        Of the run.

    Attributes
    ----------
    owned
        The uids of its descriptors and resources.
    last
        When a document of it came last, by the monotonic clock.
    """

    def __init__(
        self, start: Document, works: Sequence[Work], unbegun: Mapping[str, str] | None, assets: RunAssets
    ) -> None:
        self.uid: str = start["uid"]
        self.works = list(works)
        self._assets = assets
        self._unbegun = dict(unbegun or {})
        self.owned: list[str] = []
        self.last = time.monotonic()
        self._definitions: list[tuple[str, Document]] = []
        self._is_resuming = False
        self._router = RunRouter([lambda name, doc: ([self._give_all], [])])
        self.route("start", start)

    @property
    def faults(self) -> dict[str, str]:
        """By node, why an analysis failed, was not begun, or could not be kept."""
        found = {work.name: work.reason or "; ".join(work.emit.faults.values()) for work in self.works}
        return self._unbegun | {name: reason for name, reason in found.items() if reason}

    def route(self, name: str, doc: Document) -> None:
        """Give a document to every work."""
        self.last = time.monotonic()
        if name in DEFINING:
            self._definitions.append((name, doc))
        self._assets(name, doc)
        self._router(name, doc)

    def _give_all(self, name: str, doc: Document) -> None:
        if not self._is_resuming:
            for work in self.works:
                work(name, doc)

    def give(self, name: str, doc: Document) -> None:
        """Give events to every work, not by way of the router, which packs each into a page and copies each page."""
        self.last = time.monotonic()
        for work in self.works:
            if name == "event":
                work.event(doc)
            else:
                work(name, doc)

    # restarts

    def state(self) -> Document | None:
        """Return how far the works are, as JSON values and arrays; None if that cannot be told."""
        works = [_state(work) for work in self.works]
        if None in works:
            return None
        definitions = pack(self._definitions, "definitions", "")
        return {"definitions": definitions, "assets": self._assets.state(), "works": works}

    @classmethod
    def resumed(
        cls, state: Mapping[str, Any], nodes: Sequence[Node], outlets: Sequence[Outlet], assets: RunAssets
    ) -> Self:
        """Return the run that goes on from a state, by the nodes that it is of."""
        definitions = unpack(state["definitions"], "")
        works: list[Work] = []
        try:
            for node, each in zip(nodes, state["works"], strict=True):
                works.append(_resumed(node, definitions[0][1], outlets, each, assets))
        except BaseException:
            for work in works:
                work.emit.let_go()
            raise
        run = cls(definitions[0][1], [], None, assets)
        run._is_resuming = True
        for name, doc in definitions[1:]:
            run.route(name, doc)
            run.owned.append(doc["uid"])
        assets.restore(state["assets"])
        run._is_resuming = False
        run.works = works
        return run

    def close(self) -> None:
        """Close the files that were read: the run is over."""
        self._assets.close()

    def let_go(self) -> None:
        """Let the works go, and close nothing."""
        for work in self.works:
            work.emit.let_go()


def _state(work: Work) -> Document | None:
    try:
        delivered = work.emit.state()
    except PipelineError:  # a sink that has failed is not as far as the work is
        return None
    state = work.state()
    return state and delivered and {**state, "delivery": delivered}


def _resumed(
    node: Node, start: Document, outlets: Sequence[Outlet], state: Mapping[str, Any], assets: RunAssets
) -> Work:
    delivery = Delivery(outlets)
    work = node.resume(start, delivery, state, assets)
    try:
        delivery.resume(state["delivery"])
    except BaseException:
        delivery.let_go()
        raise
    return work

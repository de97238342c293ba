"""A configuration: YAML, checked, made into a pipeline."""

import os
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from pipeline import reductions
from pipeline.assets_config import assets_of
from pipeline.component import Component, Shelf, check_type, component, function, shown
from pipeline.documents import Sink
from pipeline.errors import ConfigError, PipelineError, near
from pipeline.group import GroupBy
from pipeline.node import Node
from pipeline.pipeline import Pipeline
from pipeline.plain_yaml import PlainYAML, parse, with_line
from pipeline.readers.assets import Assets
from pipeline.reductions.reduction import Reduction
from pipeline.sinks.databroker import DatabrokerSink
from pipeline.sinks.journal import Journal
from pipeline.sinks.jsonl import JSONLSink
from pipeline.sinks.nats import NATSSink
from pipeline.sinks.redis import RedisSink
from pipeline.sinks.tiled import TiledSink
from pipeline.sources.archive import ArchiveSource
from pipeline.sources.folder import FolderSource
from pipeline.sources.journal import JournalSource
from pipeline.sources.jsonl import read_jsonl
from pipeline.sources.kafka import KafkaSource
from pipeline.sources.nats import NATSSource
from pipeline.sources.redis import RedisSource
from pipeline.sources.tiled import TiledSource
from pipeline.sources.zmq import ZMQSource

MAX_SIZE = 1_000_000

NOT_NAMED = (Reduction, reductions.Flow)  # a flow stands in its own key
REDUCTIONS = Shelf(
    "reduction",
    {name: cls for name, cls in vars(reductions).items() if isinstance(cls, type) and cls not in NOT_NAMED},
    Reduction,
    "bluesky_pipeline.reductions",
)
SINKS = Shelf(
    "sink",
    {cls.__name__: cls for cls in (JSONLSink, TiledSink, DatabrokerSink, Journal, RedisSink, NATSSink)},
    group="bluesky_pipeline.sinks",
)
PROJECTED = (TiledSink, DatabrokerSink)  # a service brings these level with the ledger
SERVICE = {
    "state": str,
    "snapshot_seconds": float,
    "hold_seconds": float,
    "patience": float | None,
    "max_open": int,
    "listen": str,
    "refill": str,
}
SOURCES = Shelf(
    "source",
    {
        "read_jsonl": read_jsonl,
        **{cls.__name__: cls for cls in (JournalSource, FolderSource, ArchiveSource, TiledSource, ZMQSource)},
        **{cls.__name__: cls for cls in (KafkaSource, RedisSource, NATSSource)},
    },
    group="bluesky_pipeline.sources",
)
REMOTE = (TiledSource, ZMQSource, KafkaSource, RedisSource, NATSSource)  # who writes there may name any file


class Config:
    """A checked configuration: nothing is connected, and no file made, before `pipeline()` or `source()`.

    Attributes
    ----------
    path
        Of the file.
    nodes
        As configured, ready.
    sinks
        Checked, not yet made.
    assets
        Where external assets are, and how they are read.
    service
        How a service is to be run, as `Service` takes it.
    listen
        Where a service shows its page; None: nowhere.
    """

    def __init__(
        self,
        path: str,
        nodes: list[Node],
        sinks: list[Component],
        source: Component | None,
        assets: Assets,
        timeout: float | None,
        service: Mapping[str, Any],
    ) -> None:
        self.path = path
        self.nodes = nodes
        self.sinks = sinks
        self.assets = assets
        self.service = {key: value for key, value in service.items() if key not in ("listen", "refill")}
        self.listen: str | None = service.get("listen")
        if timeout is not None:
            self.service["timeout"] = timeout
        self._source = source
        self._timeout = timeout
        self._refill = service.get("refill")

    def pipeline(self, *, projected: bool = False) -> Pipeline:
        """Make the pipeline, and connect its sinks; not the catalogs, if these are `projected` from the ledger."""
        sinks = [sink for sink in self.sinks if not (projected and sink.target in PROJECTED)]
        return self.pipeline_into([sink() for sink in sinks])

    def pipeline_into(self, sinks: Sequence[Sink]) -> Pipeline:
        """Make the pipeline, into other sinks than those of the configuration."""
        return Pipeline(self.nodes, sinks, assets=self.assets, timeout=self._timeout)

    @property
    def catalogs(self) -> list[tuple[Any, str]]:
        """Target and container of the catalogs among the sinks."""
        sinks = [sink for sink in self.sinks if sink.target in PROJECTED]
        told = [signature(sink.target).bind(*sink.args, **sink.kwargs).arguments for sink in sinks]
        return [(each.get("target", each.get("catalog")), each.get("container", "analysis")) for each in told]

    def refill(self) -> Any:
        """Return who knows what a raw run lacks, if the configuration names a catalog of raw runs."""
        if self._refill is None:
            return None
        from pipeline.sources.refill import Refill

        return Refill(self._refill)

    def source(self) -> Any:
        """Make the source."""
        if self._source is None:
            raise ConfigError(f"{self.path}: wanted a source, one of {sorted(SOURCES.ours)}; there is none.")
        return self._source()

    @property
    def source_name(self) -> str:
        """What the source is; nothing if there is none."""
        return self._source.name if self._source else ""

    @property
    def ledger(self) -> str | None:
        """The directory of the ledger, if there is one."""
        for sink in self.sinks:
            if sink.target is JSONLSink:
                return str(signature(JSONLSink).bind(*sink.args, **sink.kwargs).arguments["directory"])
        return None


def load(path: str | os.PathLike[str]) -> Config:
    """Read and check a configuration; nothing connects.

    Raises
    ------
    ConfigError
        If anything is wrong: it names the file, the line and the place, what was wanted and what there is.

    >>> load("configs/peak.yaml").nodes
    [Node('peak', PeakStatistics, Mean)]
    """
    text = _read(Path(path))
    read = PlainYAML(None, {})
    try:
        read = parse(text)
        return _config(str(path), read.data)
    except ConfigError as error:
        line = read.line(str(error).partition(": ")[0])  # an error begins with its place
        raise ConfigError(f"{path}: {with_line(str(error), line)}") from None


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_SIZE + 1)
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError, and so is what is not UTF-8
        raise ConfigError(f"{path}: cannot be read: {error}.") from None
    if len(content) > MAX_SIZE:
        raise ConfigError(f"{path}: wanted at most {MAX_SIZE} bytes, there are more.")
    return text


def _config(path: str, data: Any) -> Config:
    data = _mapping(data, "the file", ("source", "nodes", "sinks", "assets", "timeout", "allow", "service"))
    allowed = _list(data, "allow", str)
    nodes = [_node(spec, f"nodes[{i}]", allowed) for i, spec in enumerate(_list(data, "nodes", object))]
    if not nodes:
        raise ConfigError("nodes: wanted at least one, there is none.")
    sinks = [component(spec, SINKS, f"sinks[{i}]", allowed) for i, spec in enumerate(_list(data, "sinks", object))]
    source = component(data["source"], SOURCES, "source", allowed) if "source" in data else None
    timeout = data.get("timeout")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0):
        raise ConfigError(f"timeout: wanted seconds, there is {shown(timeout)}.")
    _made(lambda: Pipeline(nodes), "nodes")
    is_remote = source is not None and source.target in REMOTE
    assets = assets_of(data.get("assets", {}), allowed, is_remote=is_remote)
    return Config(path, nodes, sinks, source, assets, timeout, _service(data.get("service", {})))


def _service(spec: Any) -> Mapping[str, Any]:
    spec = _mapping(spec, "service", tuple(SERVICE))
    for key, value in spec.items():
        check_type(
            f"service.{key}", float(value) if type(value) is int and SERVICE[key] is not int else value, SERVICE[key]
        )
        if isinstance(value, int | float) and value <= 0:
            raise ConfigError(f"service.{key}: wanted a number above 0, there is {shown(value)}.")
    return spec


def _node(spec: Any, place: str, allowed: list[str]) -> Node:
    spec = _mapping(spec, place, ("name", "when", "stream", "every", "reductions", "over", "flow"))
    if not isinstance(spec.get("name"), str) or not spec["name"].strip():
        raise ConfigError(f"{place}.name: wanted text, there is {shown(spec.get('name'))}.")
    if "when" in spec:
        _mapping(spec["when"], f"{place}.when", None)
    if not isinstance(spec.get("stream", ""), str) or spec.get("stream") == "":
        raise ConfigError(f"{place}.stream: wanted the name of a stream, there is {shown(spec['stream'])}.")
    if isinstance(spec.get("every"), bool):
        raise ConfigError(f"{place}.every: wanted a number of events, or 0; there is {spec['every']}.")
    parts = [
        _made(component(each, REDUCTIONS, f"{place}.reductions[{i}]", allowed), f"{place}.reductions[{i}]")
        for i, each in enumerate(_list(spec, "reductions", object, place))
    ]
    options = {key: spec[key] for key in ("when", "stream", "every") if key in spec}
    if "over" in spec:
        options["over"] = _over(spec["over"], f"{place}.over")
    if "flow" in spec:
        options["flow"] = function(spec["flow"], f"{place}.flow", allowed)
    return _made(lambda: Node(spec["name"], *parts, **options), place)


def _over(spec: Any, place: str) -> GroupBy:
    spec = {"keys": spec} if isinstance(spec, list) else _mapping(spec, place, ("keys", "count", "seconds"))
    return _made(lambda: GroupBy(**spec), place)


def _made(make: Callable[[], Any], place: str) -> Any:
    """Make it, and say where, if it refuses."""
    try:
        return make()
    except PipelineError as error:
        raise ConfigError(f"{place}: {error}") from None
    except Exception as error:  # noqa: BLE001 - others' classes are made here too, and may raise whatever they like
        raise ConfigError(f"{place}: {type(error).__name__}: {error}") from None


def _mapping(data: Any, place: str, keys: tuple[str, ...] | None) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise ConfigError(f"{place}: wanted a mapping, `key: value`; there is {shown(data)}.")
    for key in data if keys is not None else ():
        if key not in (keys or ()):
            raise ConfigError(f"{place}: no key {key!r}{near(str(key), keys or ())}")
    return data


def _list(data: Mapping[str, Any], key: str, kind: type, place: str = "") -> list[Any]:
    items = data.get(key) or []
    if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
        raise ConfigError(f"{place}{'.' if place else ''}{key}: wanted a list, there is {shown(items)}.")
    return items

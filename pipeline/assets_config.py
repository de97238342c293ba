"""How a configuration says where assets are, and how they are read."""

from collections.abc import Collection, Mapping
from typing import Any

from pipeline.component import check_type, function, shown
from pipeline.documents import Document
from pipeline.errors import ConfigError, PipelineError, PipelineKeyError, near
from pipeline.readers.assets import Assets

KEYS: dict[str, Any] = {
    "root_map": dict[str, str],
    "roots": list[str],
    "timeout": float,
    "missing": str,
    "in_flight": int,
    "handlers": dict[str, str],
    "readers": dict[str, str],
    "catalog": str,
}


def assets_of(spec: Any, allowed: Collection[str], *, is_remote: bool = False) -> Assets:
    """Return the assets that a configuration tells of.

    Parameters
    ----------
    spec
        What stands under `assets`.
    allowed
        Installed packages that dotted names may come from.
    is_remote
        Whether documents come over a network: then no folder is read from that `roots` does not name.

    Raises
    ------
    ConfigError
        If anything is wrong: it names the place, what was wanted and what there is.

    >>> assets_of({"root_map": {"/data": "/mnt"}, "timeout": 5}, [])
    Assets(roots=None, timeout=5.0, missing='fail')
    >>> assets_of({}, [], is_remote=True)
    Assets(roots=[], timeout=10.0, missing='fail')
    """
    if not isinstance(spec, Mapping):
        raise ConfigError(f"assets: wanted a mapping, `key: value`; there is {shown(spec)}.")
    given = {key: _checked(key, value) for key, value in spec.items()}
    for key in {"handlers", "readers"} & given.keys():
        given[key] = {name: function(each, f"assets.{key}", allowed) for name, each in given[key].items()}
    catalog = given.pop("catalog", None)
    if is_remote:
        given.setdefault("roots", [])
    try:
        return Assets(**given, run=None if catalog is None else _Runs(catalog))
    except PipelineError as error:
        raise ConfigError(f"assets: {error}") from None


def _checked(key: Any, value: Any) -> Any:
    if key not in KEYS:
        raise ConfigError(f"assets: no key {key!r}{near(str(key), KEYS)}")
    value = float(value) if KEYS[key] is float and type(value) is int else value
    check_type(f"assets.{key}", value, KEYS[key])
    return value


class _Runs:
    """Ask a catalog for the documents of another run, raw or analysed; it is connected with the first."""

    def __init__(self, catalog: str) -> None:
        self._catalog = catalog

    def __call__(self, uid: str) -> list[tuple[str, Document]]:
        from pipeline.sources.refill import Refill

        for container in ("raw", "analysis"):
            documents = Refill(self._catalog, container=container).documents(uid)
            if documents is not None:
                return documents
        raise PipelineKeyError(f"catalog {self._catalog} has no run {uid!r} that is whole; wanted it for reference.")

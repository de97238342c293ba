"""Whatever a person calls a catalog, as the Tiled client of a container of runs."""

import os
import socket
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

from pipeline.catalog import CONTAINERS, open_catalog
from pipeline.errors import PipelineError, PipelineKeyError, PipelineOSError, PipelineTypeError, PipelineValueError

KINDS = (
    "a client of Tiled, a databroker catalog, the path of an embedded catalog, "
    "the URI of a Tiled server, or the name of a profile"
)


def runs_of(catalog: Any = None, container: str = "analysis") -> Any:
    """Return the client of the container that holds the runs of this catalog.

    Parameters
    ----------
    catalog
        What `open_catalog` gives, or any other client of a Tiled container: one that holds runs, or one that holds
        `raw` and `analysis`. A databroker catalog (`databroker.temp()`, a `Broker`, `databroker.v2`). A path, or text
        that is one (it has a separator, begins with `.` or `~`, or is there): the embedded catalog in this directory.
        A URI (`http...`), with the key from `TILED_API_KEY`. The name of a profile. None: the embedded catalog of
        `open_catalog()`.
    container
        Which one, of a catalog that has several.

    Raises
    ------
    PipelineTypeError, PipelineValueError
        If it is no catalog.
    PipelineKeyError
        If there is no such profile, or no such container.
    PipelineOSError
        If its server does not answer, or refuses.

    >>> import databroker
    >>> kind_of(runs_of(databroker.temp()))
    'mongo'
    """
    client = _client(catalog)
    if _is_of_runs(client):
        return client
    child = _child(client, container)
    if child is None and (there := [name for name in sorted(CONTAINERS) if _child(client, name) is not None]):
        raise PipelineKeyError(f"wanted the container {container!r} of the catalog {_shown(client.uri)}; has {there}.")
    return client if child is None else child


def containers_of(catalog: Any = None) -> list[Any]:
    """Return the clients of all containers of runs that belong together: `analysis` and `raw`, or one alone.

    Parameters
    ----------
    catalog
        As for `runs_of`. Where it is one of the two, the other is looked for beside it.

    >>> import databroker
    >>> len(containers_of(databroker.temp()))
    1
    """
    client = _client(catalog)
    name = client.path_parts[-1] if client.path_parts else ""
    if not _is_of_runs(client):
        children = {name: _child(client, name) for name in reversed(CONTAINERS)}
    elif name in CONTAINERS:
        children = {each: client if each == name else _beside(client, each) for each in reversed(CONTAINERS)}
    else:
        children = {}
    return [child for child in children.values() if child is not None] or [client]


def _is_of_runs(client: Any) -> bool:
    names = {spec.name for spec in client.specs}
    if "BlueskyRun" in names:
        raise PipelineTypeError(f"wanted a catalog: {KINDS}; there is the run {client.item['id']!r}.")
    return "CatalogOfBlueskyRuns" in names


def _child(client: Any, name: str) -> Any:
    """Return the client of this child, and None if there is none; what was found once is kept with the parent."""
    known = vars(client).setdefault("_pipeline_children", {})
    if name not in known and (child := find(client, name)) is not None:
        known[name] = child
    return known.get(name)


def _beside(client: Any, name: str) -> Any:
    """Return the client of the container of this name beside that one; None if it is not there, or not for us."""
    from tiled.client.constructors import from_context
    from tiled.client.utils import ClientError

    path = [*client.path_parts[:-1], name]
    try:
        return from_context(client.context, client.structure_clients, path)
    except (KeyError, ClientError):
        return None


def kind_of(client: Any) -> Literal["sql", "mongo"]:
    """Tell what a container of runs is kept in; the same questions are asked of the two in other words."""
    is_sql = getattr(client, "is_sql", True)  # a plain container is one of Tiled's own, and these are SQL
    return "sql" if is_sql else "mongo"


def find(parent: Any, key: str) -> Any:
    """Return the client of this child, and None if there is no such child.

    Not `parent[key]`: a catalog of Bluesky runs would search, and a stream would look for a column.
    """
    from tiled.client.container import Container

    try:
        return Container.__getitem__(parent, key)
    except KeyError:
        return None


def _client(catalog: Any) -> Any:
    if isinstance(catalog, str):
        return _named(catalog)
    if catalog is None or isinstance(catalog, os.PathLike):
        return _embedded(catalog)
    client = getattr(catalog, "v2", None) if hasattr(catalog, "insert") else catalog  # of a Broker
    from tiled.client.container import Container

    if not isinstance(client, Container):
        raise PipelineTypeError(f"wanted a catalog: {KINDS}; there is a {type(catalog).__name__}.")
    return client


def _named(text: str) -> Any:
    if not text:
        raise PipelineValueError(f"wanted a catalog: {KINDS}; there is an empty text.")
    if text.startswith(("http://", "https://")):
        return _at(text)
    if os.sep in text or "/" in text or text.startswith((".", "~")):
        return _embedded(text)
    if text in _profiles():
        return _profile(text)
    if Path(text).exists():
        return _embedded(text)
    raise PipelineKeyError(
        f"wanted a catalog: {KINDS}; there is {text!r}, which is no profile of {_profiles()}, and no path "
        f"(the directory {text!r} here would be './{text}')."
    )


def _embedded(path: str | os.PathLike[str] | None) -> Any:
    if path is not None and _is_ledger(Path(path).expanduser()):
        raise PipelineValueError(f"{path}: wanted a catalog, there is a folder of JSONL files.")
    return open_catalog(path)


def _is_ledger(directory: Path) -> bool:
    return any(directory.glob("*.jsonl*")) and not (directory / "catalog.db").exists()


def _at(uri: str) -> Any:
    from tiled.client.constructors import from_uri

    what = f"the Tiled server at {_shown(uri)}"
    _knock(what, urlsplit(uri))
    return _connected(what, lambda: from_uri(uri, remember_me=False))


def _knock(what: str, uri: SplitResult) -> None:
    """Refuse at once where nobody listens; Tiled's client would try for 45 s."""
    if getproxies():
        return
    try:
        socket.create_connection((uri.hostname or "", uri.port or {"https": 443}.get(uri.scheme, 80)), 5.0).close()
    except OSError as error:
        raise PipelineOSError(f"wanted {what}: {error}.") from None


def _profiles() -> list[str]:
    from tiled.profiles import list_profiles

    return sorted({"temp", *list_profiles()})


def _profile(name: str) -> Any:
    if name == "temp":
        from databroker.v2 import temp

        return temp()
    from tiled.client.constructors import from_profile

    return _connected(f"the catalog of the profile {name!r}", lambda: from_profile(name))


def _connected(what: str, connect: Any) -> Any:
    """Return the client; say what was wanted if there is none, but no URL, which may hold a key."""
    import httpx

    try:
        return connect()
    except PipelineError:
        raise
    except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
        response = getattr(error, "response", None)
        why = f"HTTP {response.status_code}" if response is not None else str(error).partition("\n")[0]
        raise PipelineOSError(
            f"wanted {what}: {type(error).__name__}: {why}; the API key is taken from TILED_API_KEY."
        ) from None


def _shown(uri: str) -> str:
    """Return the URI without what may be secret.

    >>> _shown("http://me:secret@host:8000/api/v1?api_key=secret")
    'http://host:8000/api/v1'
    """
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

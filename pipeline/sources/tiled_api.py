"""What a Tiled server says of its nodes, asked for by HTTP.

Tiled's own client would read a table by way of dask, which makes text of the small arrays in it and floats of the
integers, and would try for 45 s if the server is away.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    import pyarrow

JSON = {"Accept": "application/json"}
ARROW = {"Accept": "application/vnd.apache.arrow.file"}
MAX_PAGE = 100

Item = dict[str, Any]  # of the server's answers: id, attributes, links
Path = Sequence[str]


def path_of(item: Item) -> list[str]:
    """Return the path of a node.

    >>> path_of({"id": "primary", "attributes": {"ancestors": ["raw", "a"]}})
    ['raw', 'a', 'primary']
    """
    return [*item["attributes"]["ancestors"], item["id"]]


def family_of(item: Item) -> str:
    """Return what kind of node it is: container, table, array, ragged ..."""
    return item["attributes"]["structure_family"]


def metadata_of(item: Item) -> Item:
    """Return the metadata of a node."""
    return item["attributes"]["metadata"] or {}


class Api:
    """Ask a server; what it says of a node that is gone is nothing.

    Parameters
    ----------
    client
        A Tiled client, for its connection. Another may be put in its place: paths stay, where the server does not.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def item(self, path: Path) -> Item | None:
        """Return what the server says of a node."""
        answer = self._get("metadata", path)
        return answer.json()["data"] if answer else None

    def children(self, path: Path) -> list[Item]:
        """Return what lies below a node, in the order in which it was made."""
        found: list[Item] = []
        while True:
            answer = self._get("search", path, {"page[offset]": len(found), "page[limit]": MAX_PAGE})
            page = answer.json()["data"] if answer else []
            found += page
            if len(page) < MAX_PAGE:
                return found

    def newest(self, path: Path, n: int, *, whole: bool = False) -> Iterator[list[Item]]:
        """Yield pages of what was made last below a node, the newest first: keys, unless whole."""
        offset = 0
        while True:
            params = {"sort": "-", "page[offset]": offset, "page[limit]": n} | ({} if whole else {"fields": ""})
            answer = self._get("search", path, params)
            page = answer.json()["data"] if answer else []
            if page:
                yield page
            if len(page) < n:
                return
            offset, n = offset + n, MAX_PAGE

    def table(self, path: Path, columns: list[str] | None = None) -> "pyarrow.Table | None":
        """Return the rows of a table as they are stored."""
        import pyarrow

        params = {"partition": 0} | ({"column": columns} if columns else {})
        answer = self._get("table/partition", path, params, ARROW)
        return pyarrow.ipc.open_file(answer.read()).read_all() if answer else None

    def rows(self, item: Item, first: int, last: int) -> list[Any]:
        """Return rows of an array: arrays, or lists where it is ragged."""
        from tiled.client.utils import client_for_item

        rows = client_for_item(self.client.context, self.client.structure_clients, item)[first:last]
        return list(rows) if family_of(item) == "array" else rows.tolist()

    def _get(self, what: str, path: Path, params: Item | None = None, headers: Item = JSON) -> Any:
        from tiled.client.utils import handle_error

        context = self.client.context
        url = f"{str(context.api_uri).rstrip('/')}/{what}/{'/'.join(quote(part, safe='') for part in path)}"
        answer = context.http_client.get(url, params=params, headers=headers)
        return None if answer.status_code == 404 else handle_error(answer)


def schema(item: Item) -> "pyarrow.Schema":
    """Return the types of a table's columns in the storage; what comes of integers with a gap is floats."""
    from tiled.structures.table import TableStructure

    structure: Any = TableStructure.from_json(item["attributes"]["structure"])
    return structure.arrow_schema_decoded

"""The data of one event: frames are read when they are first asked for."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.documents import Document
from pipeline.readers.frame import Frame


class EventData(Mapping[str, Any]):
    """The fields of an event: frames are read when they are first asked for, by name.

    Who goes through all fields does not meet arrays that are to be read.

    Parameters
    ----------
    data
        Of the event; a `Frame` stands for a value that is to be read, None for one that was never announced.
    data_keys
        Of the stream.
    read
        Reads a frame.

    Attributes
    ----------
    unread
        The data as they were given.

    >>> frames = {"x": 1.0, "det": Frame("det", "resource", 0)}
    >>> data = EventData(frames, {"det": {"dtype": "array"}}, lambda frame, key: 7)
    >>> list(data), data["det"]
    (['x'], 7)
    """

    def __init__(
        self, data: Mapping[str, Any], data_keys: Mapping[str, Document], read: Callable[[Frame, Document], Any]
    ) -> None:
        self.unread, self._data = data, dict(data)
        self._data_keys, self._read = data_keys, read

    def __getitem__(self, field: str) -> Any:
        value = self._data[field]
        if type(value) is Frame:
            value = self._data[field] = self._read(value, self._data_keys[field])
        return value

    def add(self, result: Mapping[str, Any]) -> None:
        """Have what a reduction gave, for those after it."""
        self._data |= result

    def __contains__(self, field: object) -> bool:
        return field in self._data

    def __iter__(self) -> Iterator[str]:
        return (field for field in self._data if not self._is_array(field))

    def _is_array(self, field: str) -> bool:
        return type(self.unread.get(field)) is Frame and self._data_keys[field]["dtype"] == "array"

    def __len__(self) -> int:
        return sum(1 for _ in self)


def configuration_of(descriptor: Document) -> dict[str, Any]:
    """Return what the objects of a descriptor are set to, by key.

    >>> configuration_of({"configuration": {"det": {"data": {"det_gain": 2}}}})
    {'det_gain': 2}
    """
    objects = (descriptor.get("configuration") or {}).values()
    return {key: value for each in objects for key, value in (each.get("data") or {}).items()}

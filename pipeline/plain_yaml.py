"""YAML as plain data: mappings, lists, text, numbers, yes or no, and nothing; whatever else YAML can do is refused."""

import math
import re
from typing import Any, NamedTuple

import yaml

from pipeline.errors import ConfigError

MAX_DEPTH = 32
MAX_NODES = 10_000
MAX_KEY = 200  # characters
MAX_INTEGER = 2**63

_UNWANTED = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][-+][0-9]+)?|[-+]?\.[0-9]+([eE][-+][0-9]+)?|0x[0-9a-fA-F]+")
_PREFIX = "tag:yaml.org,2002:"
_REFUSED = {
    "timestamp": "YAML takes {!r} for a date; put it in quotes if it is text.",
    "merge": "merge keys ({!r}) are not read; write out what is meant.",
    "value": "YAML takes {!r} for something else; put it in quotes.",
}


class PlainYAML(NamedTuple):
    """What was read, and on which line each part of it begins.

    Attributes
    ----------
    data
        What was read.
    lines
        By place, such as `nodes[0].name`; the first is 1.
    """

    data: Any
    lines: dict[str, int]

    def line(self, place: str) -> int | None:
        """Return the line of a place, or of the nearest thing around it.

        >>> read = parse("nodes:\\n- name: peak\\n")
        >>> read.line("nodes[0].name"), read.line("nodes[0].stream"), read.line("the file")
        (2, 2, 1)
        """
        while place and place not in self.lines:
            place = place[: max(place.rfind("."), place.rfind("["), 0)]
        return self.lines.get(place)


def parse(text: str) -> PlainYAML:
    """Read YAML.

    No alias (a few bytes of them make gigabytes), no tag, no merge key, no date, no key twice, no number that is not a
    finite decimal (or 0x...) one of at most 64 bits, nothing that cannot be seen; at most `MAX_NODES` parts, nested at
    most `MAX_DEPTH` deep.

    Raises
    ------
    ConfigError
        If it is something else: it names the line and, where there is one, the place.

    >>> parse("a: [1, {b: x}]").data
    {'a': [1, {'b': 'x'}]}
    >>> parse("a:\\n- .inf")
    Traceback (most recent call last):
    pipeline.errors.ConfigError: a[0]: wanted a plain number, or text in quotes; there is '.inf' (line 2).
    """
    if found := _UNWANTED.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigError(f"line {line}: wanted text, there is the character {found.group()!a}; save it as UTF-8.")
    read = PlainYAML(None, {})
    node = _node(text)
    return read if node is None else PlainYAML(_data(node, "", read.lines), read.lines)


def _node(text: str) -> yaml.Node | None:
    loader = _Composer(text)
    try:
        return loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{where}this is not YAML: {getattr(error, 'problem', None) or error}.") from None
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"line {loader.line + 1}: this is not YAML: {error}.") from None
    finally:
        loader.dispose()


class _Composer(yaml.SafeLoader):
    """Nodes, as long as they are few, shallow and plain."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._n = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if self.check_event(yaml.AliasEvent):
            self._refuse(event, "YAML aliases (*name) are not read.")
        if event.tag is not None:
            self._refuse(event, f"this is not YAML of plain data alone: tags ({_short(event.tag)}) are not read.")
        self._n += 1
        self._depth += 1
        if self._n > MAX_NODES:
            self._refuse(event, f"wanted at most {MAX_NODES} keys and values, there are more.")
        if self._depth > MAX_DEPTH:
            self._refuse(event, f"wanted at most {MAX_DEPTH} levels, there are more.")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refuse(self, event: Any, why: str) -> None:
        raise ConfigError(f"line {event.start_mark.line + 1}: {why}")


def _data(node: Any, place: str, lines: dict[str, int]) -> Any:
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return [_data(part, f"{place}[{i}]", lines) for i, part in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, place, lines)
    return _scalar(node, place)


def _mapping(node: Any, place: str, lines: dict[str, int]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key_node, value in node.value:
        key = _key(key_node, place)
        if key in data:
            raise _wrong(key_node, place, f"the key {key!r} stands twice.")
        within = f"{place}.{key}" if place else key
        data[key] = _data(value, within, lines)
        lines[within] = key_node.start_mark.line + 1
    return data


def _key(node: Any, place: str) -> str:
    key = _scalar(node, place) if isinstance(node, yaml.ScalarNode) else node.value
    if not isinstance(key, str):
        raise _wrong(node, place, f"wanted a key that is text, there is {_short(key)}; put it in quotes.")
    if len(key) > MAX_KEY:
        raise _wrong(node, place, f"wanted keys of at most {MAX_KEY} characters, there are {len(key)}.")
    return key


def _scalar(node: Any, place: str) -> Any:
    kind, text = node.tag.removeprefix(_PREFIX), node.value
    if kind == "null":
        return None
    if kind == "bool":
        return yaml.SafeLoader.bool_values[text.lower()]
    if kind in ("int", "float"):
        return _number(node, place)
    if kind in _REFUSED:
        raise _wrong(node, place, _REFUSED[kind].format(text))
    if found := next((letter for letter in text if letter == "\0" or "\ud800" <= letter <= "\udfff"), ""):
        raise _wrong(node, place, f"wanted text, there is the character {found!a} in it.")
    return text


def _number(node: Any, place: str) -> int | float:
    text = node.value
    if len(text) <= 40 and _NUMBER.fullmatch(text):
        is_float = node.tag.endswith("float")
        value = float(text) if is_float else int(text, 16 if text.startswith("0x") else 10)
        if math.isfinite(value) and (is_float or -MAX_INTEGER <= value < MAX_INTEGER):
            return value
    raise _wrong(node, place, f"wanted a plain number, or text in quotes; there is {_short(text)}.")


def _wrong(node: Any, place: str, why: str) -> ConfigError:
    line = node.start_mark.line + 1
    return ConfigError(with_line(f"{place}: {why}", line) if place else f"line {line}: {why}")


def with_line(message: str, line: int | None) -> str:
    """Return what is wrong, and on which line.

    >>> with_line("timeout: wanted seconds, there is 'soon'.", 7)
    "timeout: wanted seconds, there is 'soon' (line 7)."
    """
    return message if line is None else f"{message.removesuffix('.')} (line {line})."


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, list) else "a list or a mapping"
    return text if len(text) <= 60 else f"{text[:57]}..."

"""Where two documents differ."""

from typing import Any


def first_difference(want: Any, have: Any, place: str) -> str:
    """Return where two values of JSON differ first, and how; nothing if they do not.

    >>> first_difference({"a": [1, 2]}, {"a": [1, 3]}, "start")
    "start['a'][1]: wanted 2, there is 3"
    >>> first_difference({"a": 1}, {"a": 1}, "start")
    ''
    """
    if isinstance(want, dict) and isinstance(have, dict):
        return _of_dicts(want, have, place)
    if isinstance(want, list) and isinstance(have, list) and len(want) == len(have):
        pairs = enumerate(zip(want, have, strict=True))
        return next(filter(None, (first_difference(w, h, f"{place}[{i}]") for i, (w, h) in pairs)), "")
    return "" if want == have else f"{place}: wanted {short(want)}, there is {short(have)}"


def _of_dicts(want: dict[str, Any], have: dict[str, Any], place: str) -> str:
    for key in sorted({*want, *have}):
        where = f"{place}[{key!r}]"
        if key not in have:
            return f"{where}: wanted {short(want[key])}, there is none"
        if key not in want:
            return f"{where}: wanted none, there is {short(have[key])}"
        if found := first_difference(want[key], have[key], where):
            return found
    return ""


def short(value: Any) -> str:
    """Return a value as a difference shows it: cut where it is long.

    >>> short("a"), short("a" * 1000)[-8:]
    ("'a'", 'aaaaa...')
    """
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

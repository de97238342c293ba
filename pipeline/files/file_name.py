"""Names of files and of what is in them, made of text that a document brings."""

import hashlib
import re
from collections.abc import Iterable

from pipeline.documents import Uids

_SAFE = re.compile(r"[A-Za-z0-9_-]{1,128}")
_MEMBER = re.compile(r"[^A-Za-z0-9_]+")


def run_stem(uid: str) -> str:
    """Return the stem of the files of a run: its uid, or one that follows from it if that is no plain name.

    >>> run_stem("7f3c"), "/" in run_stem("../evil")
    ('7f3c', False)
    """
    return uid if _SAFE.fullmatch(uid) else Uids(uid)("file")


def stream_stem(name: str) -> str:
    """Return a stream's part of a file name.

    >>> stream_stem("primary"), stream_stem("../evil")
    ('primary', 'evil-2d6afc71')
    """
    if _SAFE.fullmatch(name):
        return name
    return f"{member(name)[:64]}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def member(name: str) -> str:
    """Return a name as NeXus has it: letters, digits and `_`.

    >>> member("I/I0 (a.u.)"), member("θ")
    ('I_I0_a_u', 'unnamed')
    """
    return _MEMBER.sub("_", name).strip("_") if _MEMBER.sub("", name).strip("_") else "unnamed"


def members(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Map each name to one of its own that NeXus takes.

    >>> members(["x", "X.", "x/"])
    {'x': 'x', 'X.': 'X_2', 'x/': 'x_3'}
    """
    result: dict[str, str] = {}
    used = {name.lower() for name in taken}
    for name in names:
        stored = stem = name if name and not _MEMBER.search(name) else member(name)
        number = 1
        while stored.lower() in used:
            number += 1
            stored = f"{stem}_{number}"
        used.add(stored.lower())
        result[name] = stored
    return result

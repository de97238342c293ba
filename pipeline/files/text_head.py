"""How a text file of columns begins: comments, names, units, delimiter."""

import csv
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mode

from pipeline.errors import PipelineError, PipelineValueError

SPACES = r"\s+"
DELIMITERS = {
    "csv": (",", ";", "\t", "|"),
    "tsv": ("\t",),
    "text": ("\t", ",", ";", SPACES),
    "xdi": (SPACES, "\t", ","),
}
MARKS = {"csv": "#", "tsv": "#", "text": "#%!", "xdi": "#"}
SAMPLE = 200
NUMBER = re.compile(r"\s*[+-]?((\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?|inf(inity)?|nan)\s*", re.ASCII | re.IGNORECASE)
COMMA_NUMBER = re.compile(r"\s*[+-]?(\d+,?\d*|,\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_THOUSANDS = re.compile(r"\s*[+-]?\d{1,3}(,\d{3})+\s*", re.ASCII)
_WITH_UNITS = re.compile(
    r"(?P<name>.*\S)"
    r"(\s+\((?P<round>[^()\[\]]{1,40})\)"  # I(q) has no unit
    r"|\s*\[(?P<square>[^()\[\]]*[^()\[\]\d][^()\[\]]*)\])"  # nor has roi[0]
)


@dataclass(frozen=True)
class TextHead:
    """What the beginning of a text file tells of its columns.

    Parameters
    ----------
    comments
        The commented lines, without their mark, but for the one that names the columns.
    names, units
        Of the columns; no unit is an empty text.
    delimiter, decimal
        As pandas has them.
    skip
        How many lines there are before the first row.
    """

    comments: list[str]
    names: list[str]
    units: list[str]
    delimiter: str
    decimal: str
    skip: int


def read_head(
    lines: Iterable[str],
    format: str = "csv",
    *,
    delimiter: str | None = None,
    decimal: str | None = None,
    names: Sequence[str] | None = None,
) -> TextHead:
    """Read the beginning of a text file.

    Raises
    ------
    PipelineValueError
        If no line names the columns, or it is not certain how the numbers are written: it names the line.

    >>> head = read_head(["x (mm);I [counts]", "1,5;2"])
    >>> head.names, head.units, head.delimiter, head.decimal, head.skip
    (['x', 'I'], ['mm', 'counts'], ';', ',', 1)
    """
    comments, body, n = _comments(lines, MARKS[format])
    if not body:
        raise PipelineValueError(f"line {n + 1}: wanted rows, there is none.")
    delimiter = delimiter or _delimiter(body, DELIMITERS[format])
    rows = split(body, delimiter)
    comments, header, used = _header(comments, rows, delimiter, names, n)
    data = rows[used:]
    units = [""] * len(header)
    if used and _are_units(data):
        units, data, used = data[0], data[1:], used + 1
    decimal = decimal or _decimal(data, delimiter, n + used)
    header, units = _with_units(header, [unit.strip() for unit in units])
    return TextHead(comments, header, units, delimiter, decimal, n + _lines_of(body, delimiter, used))


def _comments(lines: Iterable[str], marks: str) -> tuple[list[str], list[str], int]:
    """Return the commented lines, a sample of the others, and how many lines there are before these."""
    comments, n = [], 0
    numbered = enumerate(lines)
    for n, line in numbered:
        text = line.strip()
        if text and text[0] not in marks:
            rest = [each for _, each in itertools.islice(numbered, SAMPLE)]
            return comments, [line, *rest], n
        if text:
            comments.append(text.lstrip(marks).strip() if text.strip(marks) else "")
    return comments, [], n


def split(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """Return the cells of each line that is not blank.

    >>> split(["a,'b'", "", '1,"2,3"'], ",")
    [['a', "'b'"], ['1', '2,3']]
    """
    if delimiter == SPACES:
        return [line.split() for line in lines if line.strip()]
    ended = (line if line.endswith("\n") else f"{line}\n" for line in lines)
    return [row for row in csv.reader(ended, delimiter=delimiter) if row]


def _lines_of(lines: Sequence[str], delimiter: str, n: int) -> int:
    """Return how many lines the first n rows take: a quoted cell may hold several."""
    if not n or delimiter == SPACES:
        return n
    reader = csv.reader((line if line.endswith("\n") else f"{line}\n" for line in lines), delimiter=delimiter)
    found = 0
    while found < n:
        found += bool(next(reader))
    return reader.line_num


def _delimiter(lines: Sequence[str], candidates: Sequence[str]) -> str:
    """Return the candidate that gives rows of one length, and of these the one that gives most numbers."""
    tables = {each: split(lines, each) for each in candidates}
    scores = {each: _score(rows, each) for each, rows in tables.items() if _width(rows) > 1}
    if not scores:
        return candidates[-1] if candidates[-1] == SPACES else candidates[0]
    return max(scores, key=lambda each: scores[each])


def _width(rows: list[list[str]]) -> int:
    widths = {len(row) for row in rows}
    return widths.pop() if len(widths) == 1 else 0


def _score(rows: list[list[str]], delimiter: str) -> float:
    cells = [cell for row in rows[1:] or rows for cell in row]
    return sum(_is_number(cell, delimiter) for cell in cells) / len(cells)


def _is_number(cell: str, delimiter: str = ",") -> bool:
    return bool(NUMBER.fullmatch(cell) or (delimiter != "," and COMMA_NUMBER.fullmatch(cell)))


def _header(
    comments: list[str], rows: list[list[str]], delimiter: str, names: Sequence[str] | None, n: int
) -> tuple[list[str], list[str], int]:
    """Return the comments that are left, the names, and how many rows they took."""
    width = mode(map(len, rows))
    if names is not None:
        if len(names) != width:
            raise PipelineValueError(f"line {n + 1}: wanted {len(names)} columns, {list(names)}; there are {width}.")
        return comments, list(names), 0
    if _names_columns(rows, delimiter):
        return comments, [cell.strip() for cell in rows[0]], 1
    titles = [i for i, text in enumerate(comments) if re.search(r"\w", text)]
    found = _split_title(comments[titles[-1]], width, delimiter) if titles else None
    if found is None:
        raise PipelineValueError(
            f"line {n + 1}: wanted a line before it that names {width} columns, there is none; `names=[...]` does."
        )
    return comments[: titles[-1]] + comments[titles[-1] + 1 :], found, 0


def _names_columns(rows: list[list[str]], delimiter: str) -> bool:
    """Tell whether the first row is of names: none of it is a number, or some stand above nothing but numbers."""
    are_numbers = [_is_number(cell, delimiter) for cell in rows[0]]
    if not any(are_numbers):
        return any(cell.strip() for cell in rows[0])
    columns = zip(*(row for row in rows[1:] if len(row) == len(rows[0])), strict=True)
    pairs = zip(are_numbers, rows[0], columns, strict=False)
    return any(
        cell.strip() and not is_number and all(_is_number(each, delimiter) for each in column)
        for is_number, cell, column in pairs
    )


def _split_title(title: str, width: int, delimiter: str) -> list[str] | None:
    """Return the names in a commented line, split in the first way that gives as many as there are columns."""
    for pattern in (re.escape(delimiter) if delimiter != SPACES else "\t", "\t", r"\s{2,}", SPACES, r"\s*,\s*"):
        names = [name.strip() for name in re.split(pattern, title.strip())]
        if len(names) == width and all(names) and not all(map(_is_number, names)):
            return names
    return None


def _are_units(rows: list[list[str]]) -> bool:
    """Tell whether the first of these rows is of units: no number in it, and numbers alone below what it has."""
    if len(rows) < 2 or any(_is_number(cell, ";") for cell in rows[0]) or not any(cell.strip() for cell in rows[0]):
        return False
    columns = zip(*(row for row in rows[1:] if len(row) == len(rows[0])), strict=True)
    filled = [(cell, column) for cell, column in zip(rows[0], columns, strict=False) if cell.strip(" -")]
    return bool(filled) and all(
        any(map(str.strip, column)) and all(_is_number(each, ";") or not each.strip() for each in column)
        for _, column in filled
    )


def _decimal(rows: list[list[str]], delimiter: str, n: int) -> str:
    if delimiter == ",":
        return "."
    cells = [cell for row in rows for cell in row if _is_number(cell, delimiter)]
    with_comma = [cell for cell in cells if "," in cell]
    if not with_comma:
        return "."
    if all(map(_THOUSANDS.fullmatch, with_comma)) or any("." in cell for cell in cells):
        raise PipelineValueError(
            f"line {n + 1}: wanted numbers of which it is certain how they are written, there is {with_comma[0]!r}; "
            "`decimal=','` or `decimal='.'` tells."
        )
    return ","


def _with_units(names: list[str], units: list[str]) -> tuple[list[str], list[str]]:
    """Split the units off the names, unless two names would be one."""
    matches = [_WITH_UNITS.fullmatch(name) for name in names]
    bare = [match["name"] if match else name for match, name in zip(matches, names, strict=True)]
    if len(set(bare)) != len(set(names)):
        return names, units
    found = [(match["round"] or match["square"]).strip() if match else "" for match in matches]
    return bare, [unit or other for unit, other in zip(found, units, strict=True)]


def is_table(text: str) -> bool:
    r"""Tell whether this text begins as a table of numbers does, with a line that names its columns.

    >>> is_table("# energy i0\n 8779.0 149013.7\n"), is_table("Dear all,\n thank you.\n")
    (True, False)
    """
    lines = text.splitlines()[: None if text.endswith("\n") else -1]
    try:
        head = read_head(lines, "text")
    except PipelineError:
        return False
    rows = split(lines[head.skip : head.skip + SAMPLE], head.delimiter)
    return bool(rows) and _width(rows) == len(head.names) > 1 and _score(rows, head.delimiter) > 0.5

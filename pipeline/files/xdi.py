"""XDI: the XAFS Data Interchange format, and what instruments write in its manner."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.documents import Document
from pipeline.files.column import Column
from pipeline.files.table import Table
from pipeline.files.text_head import TextHead
from pipeline.files.text_table import head_of, read_columns

_VERSION = re.compile(r"XDI/(?P<version>\S+)\s*(?P<applications>.*)")
_FIELD = re.compile(r"(?P<family>[A-Za-z]\w*)\.(?P<member>[^:\s]+)\s*:\s*(?P<value>.*)", re.ASCII)
_COLUMN = re.compile(r"(?P<label>\S+)\s*(?P<units>.*?)\s*(\|\|\s*(?P<address>.*))?")
_LINE = re.compile(r"[-/\s]*")


def read_xdi(path: Path, *, encoding: str = "utf-8-sig", **options: Any) -> tuple[Table, Document]:
    r"""Read an XDI file: its columns, with units, and its fields by family.

    A field that stands there twice is a list. What follows `||` in the description of a column is its `address`.

    Parameters
    ----------
    path
        Of the file.
    encoding
        Of the text.
    options
        As `read_head` has them.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w+") as file:
    ...     _ = file.write("# XDI/1.0\n# Element.symbol: V\n# Column.1: energy eV\n#---\n# e\n 5465.0\n"); file.flush()
    ...     table, facts = read_xdi(Path(file.name))
    >>> table.columns[0].name, table.columns[0].attrs, facts["Element"]
    ('energy', {'units': 'eV'}, {'symbol': 'V'})
    """
    head = head_of(path, "xdi", encoding, **options)
    fields = [match for match in map(_FIELD.fullmatch, head.comments) if match]
    columns = read_columns(path, replace(head, units=[""] * len(head.names)), "xdi", encoding)
    described = _described(fields)
    if len(described) == len(columns):
        columns = [_labelled(column, described[i]) for i, column in enumerate(columns, 1)]
    return Table("primary", columns), _facts(head, fields)


def _described(fields: Sequence[re.Match[str]]) -> dict[int, re.Match[str]]:
    columns = [field for field in fields if field["family"].lower() == "column" and field["member"].isdigit()]
    matches = {int(field["member"]): _COLUMN.fullmatch(field["value"]) for field in columns}
    return {number: match for number, match in matches.items() if match}


def _labelled(column: Column, match: re.Match[str]) -> Column:
    attrs = {"units": match["units"], "address": match["address"]}
    return replace(column, name=match["label"], attrs={key: value for key, value in attrs.items() if value})


def _facts(head: TextHead, fields: Sequence[re.Match[str]]) -> Document:
    facts: Document = {}
    if version := _VERSION.match(head.comments[0]):
        facts["XDI"] = version.groupdict()
    for field in fields:
        if field["family"].lower() != "column":
            _add(facts.setdefault(field["family"], {}), field["member"], field["value"])
    comments = [each for each in head.comments[1:] if not _FIELD.fullmatch(each) and not _LINE.fullmatch(each)]
    return facts | ({"user comments": comments} if comments else {})


def _add(family: Document, member: str, value: str) -> None:
    if member not in family:
        family[member] = value
    elif isinstance(family[member], list):
        family[member].append(value)
    else:
        family[member] = [family[member], value]

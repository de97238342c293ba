"""Tables of text: CSV, TSV, and columns between spaces."""

import csv
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy

from pipeline.documents import Document
from pipeline.errors import PipelineValueError
from pipeline.files.cells import values_of
from pipeline.files.column import Column, kind_of
from pipeline.files.formats import require
from pipeline.files.table import Table
from pipeline.files.text_head import SPACES, TextHead, read_head

_FACT = re.compile(r"(?P<name>[^:=]{1,64}?)\s*[:=]\s*(?P<value>.*)")


def read_text(path: Path, format: str, *, encoding: str = "utf-8-sig", **options: Any) -> tuple[Table, Document]:
    r"""Read a table of text, its types inferred, and what its comments say.

    An empty cell is missing; `NA`, `nan`, `null` and the like are so among numbers alone, and text among text.

    Parameters
    ----------
    path
        Of the file.
    format
        `csv`, `tsv` or `text`.
    encoding
        Of the text.
    options
        As `read_head` has them.

    Raises
    ------
    PipelineValueError
        If a line has more or fewer cells than there are names, or cannot be read: it names file and line.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w+") as file:
    ...     _ = file.write("# sample: Cu\nx [mm],s\n1,a\n2,\n"); file.flush()
    ...     table, facts = read_text(Path(file.name), "csv")
    >>> [column.values.tolist() for column in table.columns], facts
    ([[1, 2], ['a', None]], {'sample': 'Cu'})
    """
    head = head_of(path, format, encoding, **options)
    return Table("primary", read_columns(path, head, format, encoding)), facts_of(head.comments)


def head_of(path: Path, format: str, encoding: str, **options: Any) -> TextHead:
    """Return how the file begins; see `read_head`."""
    try:
        with open(path, encoding=encoding, newline="") as file:
            return read_head(file, format, **options)
    except UnicodeError as error:
        raise _undecodable(path, encoding, error) from None
    except (PipelineValueError, csv.Error) as error:
        raise PipelineValueError(f"{path}, {error}") from None


def _undecodable(path: Path, encoding: str, error: UnicodeError) -> PipelineValueError:
    return PipelineValueError(f"{path}: wanted text in {encoding}: {error}; `encoding='latin-1'`, say, tells another.")


def read_columns(path: Path, head: TextHead, format: str, encoding: str) -> list[Column]:
    """Read the rows below the head, by pandas."""
    names = _unlike(head.names)
    how: dict[str, Any] = {
        "encoding": encoding,
        "sep": head.delimiter,
        "decimal": head.decimal,
        "header": None,
        "names": range(len(names)),
        "skiprows": head.skip,
        "comment": None if format in ("csv", "tsv") else "#",
        "keep_default_na": False,
        "na_values": [""],
    }
    frame = read_frame(path, **how)
    _refuse_short_rows(path, frame, head, encoding)
    if rounded := [i for i in frame if _may_be_rounded(frame[i])]:
        frame[rounded] = read_frame(path, dtype=dict.fromkeys(rounded, object), **how)[rounded]
    columns = zip(names, head.names, head.units, frame.items(), strict=True)
    return [_column(path, *column) for column in columns if column[1] or not column[3][1].isna().all()]


def _may_be_rounded(series: Any) -> bool:
    """Tell whether these may be integers which pandas made floats, since some are missing."""
    return series.dtype.kind == "f" and bool(series.isna().any()) and bool((series.abs() > 2**53).any())


def read_frame(path: Path, **how: Any) -> Any:
    """Read a DataFrame by pandas' C parser, or say where it cannot."""
    pandas = require("pandas")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            return pandas.read_csv(path, engine="c", index_col=False, low_memory=False, **how)
    except UnicodeError as error:
        raise _undecodable(path, how["encoding"], error) from None
    except (pandas.errors.ParserError, pandas.errors.ParserWarning, pandas.errors.EmptyDataError) as error:
        raise _wrong_rows(path, how, str(error).strip()) from None


def _wrong_rows(path: Path, how: dict[str, Any], error: str) -> PipelineValueError:
    wanted = f"wanted {len(how['names'])} cells"
    if found := re.search(r"Expected \d+ fields in line (\d+), saw (\d+)", error):
        return PipelineValueError(f"{path}, line {found[1]}: {wanted}, there are {found[2]}.")
    if "Length of header or names" in error:
        return PipelineValueError(f"{path}, line {how.get('skiprows', 0) + 1}: {wanted}, there are more.")
    return PipelineValueError(f"{path}: {wanted} in each row: {error}")


def _unlike(names: Sequence[str]) -> list[str]:
    """Return names of which no two are the same."""
    result: list[str] = []
    for name in names:
        unlike, number = name, 1
        while unlike in result:
            number += 1
            unlike = f"{name}_{number}"
        result.append(unlike)
    return result


def _refuse_short_rows(path: Path, frame: Any, head: TextHead, encoding: str) -> None:
    """Refuse rows of too few cells, which pandas fills: only where the last cell of a row is missing."""
    n = len(head.names)
    if n == 1 or not frame[n - 1].isna().any():
        return
    with open(path, encoding=encoding, newline="") as file:
        for _ in range(head.skip):
            next(file)
        try:
            found = next(((line, row) for line, row in _rows(file, head.delimiter) if row and len(row) != n), None)
        except csv.Error as error:
            raise PipelineValueError(f"{path}: wanted rows of {n} cells: {error}") from None
    if found:
        place = f"{path}, line {head.skip + found[0]}"
        raise PipelineValueError(f"{place}: wanted {n} cells, {head.names}; there are {len(found[1])}.")


def _rows(file: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    if delimiter == SPACES:
        yield from enumerate((line.partition("#")[0].split() for line in file), 1)
        return
    reader = csv.reader(file, delimiter=delimiter)
    for row in reader:
        yield reader.line_num, row


def _column(path: Path, name: str, title: str, units: str, item: tuple[Any, Any]) -> Column:
    place = f"{path}, column {name!r}"
    if not name:
        raise PipelineValueError(f"{path}: wanted a name for each column, there is none for column {item[0] + 1}.")
    values = _values(item[1], place)
    kind, dtype = kind_of(values, place)
    attrs = {"units": units} if units else {}
    return Column(name, ("row",), kind, dtype, values, attrs if name == title else attrs | {"long_name": title})


def _values(series: Any, place: str) -> numpy.ndarray:
    values = series.to_numpy()
    if values.dtype.kind in "biuf":
        return values
    cells = [None if missing else str(value) for value, missing in zip(values, series.isna(), strict=True)]
    return values_of(cells, place)


def facts_of(comments: Sequence[str]) -> Document:
    """Return what comments say: `name: value` and `name = value` as such, the others as they are.

    >>> facts_of(["sample: Cu", "T = 300 K", "measured at night"])
    {'sample': 'Cu', 'T': '300 K', 'comments': ['measured at night']}
    """
    matches = [_FACT.fullmatch(comment) for comment in comments]
    facts: Document = {match["name"]: match["value"] for match in matches if match}
    rest = [
        comment for comment, match in zip(comments, matches, strict=True) if not match and re.search(r"\w", comment)
    ]
    return facts | ({"comments": rest} if rest else {})

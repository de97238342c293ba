"""Cells of text as values: numbers, booleans, moments, or text as it is."""

import re
from collections.abc import Sequence
from typing import Any

import numpy

from pipeline.errors import PipelineValueError
from pipeline.files.text_head import NUMBER

Cells = Sequence[str | None]

NO_NUMBER = frozenset({"nan", "na", "n/a", "#n/a", "null", "none"})
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(?P<zone>Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
_BOOLEANS = {"true": True, "false": False}


def values_of(cells: Cells, place: str) -> numpy.ndarray:
    """Return cells as what all of them can be: numbers, booleans, moments, or text; None is a missing cell.

    >>> values_of(["1", "2.5", "NA"], "a.csv").tolist()
    [1.0, 2.5, nan]
    >>> values_of(["NA", "Cu"], "a.csv").tolist(), values_of(["2026-01-02T03:04:05Z"], "a.csv").dtype
    (['NA', 'Cu'], dtype('<M8[ns]'))
    """
    present = [cell.strip() for cell in cells if cell is not None]
    if not present:
        return numpy.full(len(cells), numpy.nan)
    numbers = [cell for cell in present if cell.lower() not in NO_NUMBER]
    if numbers and all(map(NUMBER.fullmatch, numbers)):
        return numbers_of(
            [None if cell is None or cell.strip().lower() in NO_NUMBER else cell for cell in cells], place
        )
    if all(cell.lower() in _BOOLEANS for cell in present):
        return booleans_of(cells)
    matches = [_MOMENT.fullmatch(cell) for cell in present]
    if all(matches) and len({bool(match and match["zone"]) for match in matches}) == 1:
        return moments_of(cells, place)
    return numpy.array(list(cells), object)


def numbers_of(cells: Cells, place: str) -> numpy.ndarray:
    """Return cells as integers, if all are, else as floats; a missing one is NaN.

    Raises
    ------
    PipelineValueError
        If a float cannot hold an integer that stands beside missing ones.

    >>> numbers_of(["1", "-2"], "a.csv"), numbers_of(["1", None, "1.5D+01"], "a.csv")
    (array([ 1, -2]), array([ 1., nan, 15.]))
    """
    integers = [cell is None or _INTEGER.fullmatch(cell.strip()) is not None for cell in cells]
    if all(integers):
        return with_gaps([None if cell is None else int(cell) for cell in cells], place)
    floats = [numpy.nan if cell is None else float(re.sub("[dD]", "e", cell)) for cell in cells]
    return numpy.array(floats)


def with_gaps(integers: Sequence[int | None], place: str) -> numpy.ndarray:
    """Return integers as an array; as floats if some are missing, if a float can hold all.

    >>> with_gaps([1, None], "a.csv, column 'x'")
    array([ 1., nan])
    >>> with_gaps([2**60 + 1, None], "a.csv, column 'x'")
    Traceback (most recent call last):
    pipeline.errors.PipelineValueError: a.csv, column 'x': wanted integers that a float can hold, since some are
    missing; there is 1152921504606846977.
    """
    bounds = [value for value in integers if value is not None]
    if len(bounds) == len(integers):
        dtype = "i8" if not bounds or (min(bounds) >= -(2**63) and max(bounds) < 2**63) else "u8"
        if dtype == "u8" and not (min(bounds) >= 0 and max(bounds) < 2**64):
            raise PipelineValueError(f"{place}: wanted integers of 64 bits, there is {max(bounds, key=abs)}.")
        return numpy.array(integers, dtype)
    bad = next((value for value in bounds if abs(value) > 2**53 and int(float(value)) != value), None)
    if bad is not None:
        raise PipelineValueError(
            f"{place}: wanted integers that a float can hold, since some are missing; there is {bad}."
        )
    return numpy.array([numpy.nan if value is None else float(value) for value in integers])


def booleans_of(cells: Sequence[Any]) -> numpy.ndarray:
    """Return cells as booleans; as objects if some are missing.

    >>> booleans_of(["true", None, "False"]).tolist()
    [True, None, False]
    """
    values = [None if cell is None else _BOOLEANS[str(cell).strip().lower()] for cell in cells]
    return numpy.array(values, object if None in values else bool)


def moments_of(cells: Cells, place: str) -> numpy.ndarray:
    """Return cells of ISO 8601 as datetimes, in UTC if they have a zone; a missing one is NaT.

    >>> moments_of(["2026-01-02T03:04:05+01:00", None], "a.csv").astype(str).tolist()
    ['2026-01-02T02:04:05.000000000', 'NaT']
    """
    import pandas

    texts = [None if cell is None else cell.strip() for cell in cells]
    try:
        moments = pandas.to_datetime(pandas.Series(texts, dtype=object), format="ISO8601", utc=True)
    except (ValueError, OverflowError) as error:
        raise PipelineValueError(f"{place}: wanted datetimes as ISO 8601 has them: {error}") from None
    return nanoseconds(moments.dt.tz_localize(None).to_numpy(), place)


def nanoseconds(moments: numpy.ndarray, place: str) -> numpy.ndarray:
    """Return datetimes in nanoseconds, or refuse those that these cannot tell.

    >>> nanoseconds(numpy.array(["2500-01-01"], "M8[s]"), "a.csv")
    Traceback (most recent call last):
    pipeline.errors.PipelineValueError: a.csv: wanted datetimes of the years 1678 to 2262, there is 2500-01-01T00:00:00.
    """
    fine = moments.astype("M8[ns]")
    changed = ~numpy.isnat(moments) & (fine.astype(moments.dtype) != moments)
    if changed.any():
        raise PipelineValueError(
            f"{place}: wanted datetimes of the years 1678 to 2262, there is {moments[changed][0]}."
        )
    return fine

"""Datetimes and time differences as the integers that documents hold: nanoseconds."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy

from pipeline.errors import PipelineValueError

UNITS = {
    "datetime64[ns]": "nanoseconds since 1970-01-01",
    "timedelta64[ns]": "nanoseconds",
}


def nanoseconds(times: numpy.ndarray) -> tuple[str, numpy.ndarray]:
    """Return the kind of these times, and their nanoseconds; NaT is the least integer, as numpy has it.

    Raises
    ------
    PipelineValueError
        If 64 bits do not hold them: they reach from 1678 to 2262.

    >>> nanoseconds(numpy.array(["1970-01-01T00:00:01"], "datetime64[s]"))
    ('datetime64[ns]', array([1000000000]))
    """
    kind = f"{'datetime' if times.dtype.kind == 'M' else 'timedelta'}64[ns]"
    fine = times.astype(kind)
    if not numpy.array_equal(fine.astype(times.dtype), times, equal_nan=True):
        raise PipelineValueError("wanted times between the years 1678 and 2262, to the nanosecond; there are others.")
    return kind, fine.view("i8")


def moment(value: Any) -> Any:
    """Return a moment or time difference of Python or pandas as numpy's, of UTC if it has a time zone.

    >>> moment(timedelta(milliseconds=1))
    np.timedelta64(1000,'us')
    """
    if is_missing(value):
        return numpy.datetime64("NaT")
    if hasattr(value, "asm8"):  # pandas
        return (value.tz_convert("UTC").tz_localize(None) if getattr(value, "tzinfo", None) else value).asm8
    if isinstance(value, datetime):
        naive = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        return numpy.datetime64(naive, "us")
    return numpy.timedelta64(value, "us") if isinstance(value, timedelta) else value


def is_missing(value: Any) -> bool:
    """Say whether this stands for a value that is not there: None, or what pandas and numpy have for it.

    >>> is_missing(None), is_missing(numpy.ma.masked), is_missing(float("nan"))
    (True, True, False)
    """
    return value is None or type(value).__name__ in ("NAType", "NaTType", "MaskedConstant")

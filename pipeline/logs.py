"""Logging of a service: plain lines, or a JSON object a line; no secret is ever in them."""

import logging
import os
import re
import sys
from collections.abc import Collection
from datetime import UTC, datetime
from json import dumps
from typing import IO, Any
from urllib.parse import quote

SECRETS = ("TILED_API_KEY", "BLUESKY_PIPELINE_TOKEN")  # environment variables, beside all that end with _PASSWORD
RUNS = ("run", "analysis_run")
BLANK = "***"
MIN_SECRET = 4  # characters: a shorter one would blank half of what is said

_IN_URL = re.compile(r"(?i)\b((?:api_?key|(?:access_|refresh_)?token|password|secret)=)[^&\s'\"<>]+")
_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,20}://[^\s:/@'\"]*:)[^\s/@'\"]+(?=@)")
_HEADER = re.compile(r"(?i)\b((?:authorization['\"]?[:=]\s*['\"]?)?\b(?:bearer|apikey)\s+)[\w.~+/=-]{8,}")
_CONTROL = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


def setup_logging(json: bool = False, level: int | str = logging.INFO, stream: IO[str] | None = None) -> None:
    """Log to a stream, from now on, and no more to the one that was set up here before.

    Handlers of others stay; what they write is theirs.

    Parameters
    ----------
    json
        One JSON object a line: `time` (ISO 8601, UTC), `level`, `logger`, `message`, and where they are known `run`
        and `analysis_run` (uids, given by `extra=`) and `exception`. Otherwise plain lines of the same.
    level
        Of the least that is logged.
    stream
        By default stderr.

    >>> import sys
    >>> setup_logging(json=True, level="WARNING", stream=sys.stdout)
    >>> logging.getLogger("pipeline.work").warning("node %s: a gap", "peak", extra={"run": "7f3c"})
    {"time": "...Z", "level": "WARNING", "logger": "pipeline.work", "message": "node peak: a gap", "run": "7f3c"}
    >>> _ = logging.getLogger().handlers.pop()
    """
    handler = _Handler(stream)
    handler.addFilter(Blank())
    handler.setFormatter(_JSON() if json else _Plain())
    root = logging.getLogger()
    for before in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(before)
    root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger("silx.opencl").setLevel(logging.ERROR)  # it warns that there is no OpenCL, which nobody uses here
    logging.captureWarnings(True)


class _Handler(logging.StreamHandler[IO[str]]):
    """The one that is set up here; without a stream, it writes to what stderr is when a record comes."""

    def __init__(self, stream: IO[str] | None) -> None:
        super().__init__(stream or sys.stderr)
        self._is_stderr = stream is None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        if self._is_stderr:
            self.stream = sys.stderr
        super().emit(record)


class Blank(logging.Filter):
    """Blank what is secret in every record: the values of some environment variables, keys in URLs and in headers.

    Secret are `TILED_API_KEY`, `BLUESKY_PIPELINE_TOKEN` and every `*_PASSWORD`, as they are when a record comes, also
    as a URL quotes them; those of less than four characters are left, since they stand in too many words.

    >>> record = logging.makeLogRecord({"msg": "http://a/?api_key=%s", "args": ("abcdef",)})
    >>> Blank().filter(record), record.getMessage()
    (True, 'http://a/?api_key=***')
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Compose the message, and blank it; the record stays."""
        secrets = _secrets()
        record.msg, record.args = blanked(_message(record), secrets), None
        if record.exc_info and not record.exc_text:
            record.exc_text = _PLAIN.formatException(record.exc_info)
        record.exc_info = None  # its text is kept: a formatter would make it anew, with what was blanked
        if record.exc_text:
            record.exc_text = blanked(record.exc_text, secrets)
        if record.stack_info:
            record.stack_info = blanked(record.stack_info, secrets)
        for name in RUNS:
            if value := getattr(record, name, None):
                setattr(record, name, blanked(str(getattr(value, "uid", value)), secrets))
        return True


def blanked(text: str, secrets: Collection[str] = ()) -> str:
    """Return a text without these secrets, and without what looks like one.

    >>> blanked("postgresql://me:hidden@db/runs with hunter2", ["hunter2"])
    'postgresql://me:***@db/runs with ***'
    """
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, BLANK)
    for pattern in (_IN_URL, _USER, _HEADER):
        text = pattern.sub(rf"\g<1>{BLANK}", text)
    return text


def _secrets() -> set[str]:
    values = [value for name, value in os.environ.items() if name in SECRETS or name.upper().endswith("_PASSWORD")]
    known = {value.strip() for value in values if len(value.strip()) >= MIN_SECRET}
    return known | {quote(value, safe="") for value in known} | {repr(value)[1:-1] for value in known}


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - arguments that do not fit their text are logged as they are
        return f"{record.msg!r} {record.args!r} ({type(error).__name__})"


class _Plain(logging.Formatter):
    """`time level logger: message [run uid]`, on one line, and what an exception tells below it."""

    def format(self, record: logging.LogRecord) -> str:
        # A message may hold text of documents: a line break in it must not look like another line of the log.
        message = record.getMessage().translate(_CONTROL)
        runs = " ".join(f"{name}={value}".translate(_CONTROL) for name, value in _runs(record).items())
        line = f"{_time(record)} {record.levelname} {record.name}: {message}{f' [{runs}]' if runs else ''}"
        below = [text for text in (record.exc_text, record.stack_info) if text]
        return _encodable("\n".join([line, *(text.replace("\n", "\n    ") for text in below)]))


class _JSON(logging.Formatter):
    """One JSON object, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_runs(record),
        }
        if record.exc_text:
            told["exception"] = record.exc_text
        if record.stack_info:
            told["stack"] = record.stack_info
        return dumps(told)


_PLAIN = logging.Formatter()


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _runs(record: logging.LogRecord) -> dict[str, str]:
    return {name: value for name in RUNS if isinstance(value := getattr(record, name, None), str) and value}


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()

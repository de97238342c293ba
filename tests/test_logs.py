"""A log is read by people and by machines, and holds no secret."""

import io
import json
import logging
import re
import time
import warnings

import pytest

from pipeline.logs import Blank, setup_logging

SECRET, PASSWORD = "s3cret-k3y/of+tiled", 'pass"word\\1'


@pytest.fixture
def log(monkeypatch):
    """Set up a log and return what it is written to; afterwards it is as before."""
    monkeypatch.setenv("TILED_API_KEY", SECRET)
    monkeypatch.setenv("BLUESKY_PIPELINE_TOKEN", "token-of-the-monitor")
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    monkeypatch.setenv("SHORT_PASSWORD", "a")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()

    def setup(**options):
        setup_logging(stream=stream, **options)
        return stream

    yield setup
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


logger = logging.getLogger("pipeline.test_logs")


def test_a_plain_line_tells_time_level_logger_message_and_runs(log):
    stream = log()

    logger.info("node %s: a gap", "peak", extra={"run": "7f3c", "analysis_run": "0b6e"})
    logger.debug("not this")

    (line,) = stream.getvalue().splitlines()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO pipeline.test_logs: node peak: a gap \[run=7f3c analysis_run=0b6e\]",
        line,
    )


def test_a_json_line_is_one_object_whatever_is_in_it(log):
    stream = log(json=True, level="DEBUG")

    logger.debug('a "quote", a line\nbreak, \ud800 and \x1b[2J')
    try:
        raise ValueError("boom")
    except ValueError:
        logger.exception("it failed", extra={"run": "7f3c"})

    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["message"] == 'a "quote", a line\nbreak, \ud800 and \x1b[2J'
    assert set(first) == {"time", "level", "logger", "message"}
    assert second["run"] == "7f3c"
    assert second["level"] == "ERROR"
    assert second["exception"].startswith("Traceback")
    assert second["exception"].endswith("ValueError: boom")


def test_the_uid_of_a_run_that_is_an_object_is_found(log):
    class Run:
        uid = "7f3c"

    stream = log(json=True)

    logger.warning("a gap", extra={"run": Run()})

    assert json.loads(stream.getvalue())["run"] == "7f3c"


def test_text_of_documents_cannot_forge_a_line_of_the_log(log):
    stream = log()

    logger.warning("sample %s", "x\n2026-01-01T00:00:00.000Z ERROR root: forged\r\x1b[2J\u2028\x85\ud800")

    assert len(stream.getvalue().splitlines()) == 1
    assert "\\n2026" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f"http://tiled:8000/api?api_key={SECRET}&x=1",
        "http://tiled:8000/api?x=1&api_key=0123abcdef",
        "https://host/a?token=0123abcdef",
        "https://host/a?access_token=0123abcdef#x",
        "postgresql://me:0123abcdef@db:5432/runs",
        "{'Authorization': 'Bearer 0123abcdef'}",
        "Authorization: Apikey 0123abcdef",
        "the token is token-of-the-monitor",
        f"with {PASSWORD} in it",
        "quoted s3cret-k3y%2Fof%2Btiled",
        repr({"password": PASSWORD}),
    ],
)
def test_no_secret_is_in_any_part_of_a_record(log, as_json, text):
    stream = log(json=as_json)

    logger.warning("said: %s", text, extra={"run": text})
    logger.warning(text, stack_info=True)
    try:
        raise ConnectionError(text)
    except ConnectionError:
        logger.exception("no connection")

    logged = stream.getvalue() + "".join(str(v) for v in map(_loads, stream.getvalue().splitlines()))
    # the source lines of a traceback hold names, not values
    for secret in (SECRET, "0123abcdef", "token-of-the-monitor", PASSWORD, "s3cret", 'pass"word', 'pass\\"word'):
        assert secret not in logged
    assert logged.count("***") >= 4
    assert "s" in logged


def _loads(line):
    try:
        return json.loads(line)
    except ValueError:
        return line


def test_a_short_password_blanks_nothing(log):
    stream = log()

    logger.warning("a bad gap")

    assert "a bad gap" in stream.getvalue()


def test_a_secret_that_is_set_later_is_blanked_too(log, monkeypatch):
    stream = log()
    monkeypatch.setenv("TILED_API_KEY", "another-key")

    logger.warning("another-key")

    assert "another-key" not in stream.getvalue()


def test_a_message_whose_arguments_do_not_fit_is_kept_all_the_same():
    record = logging.makeLogRecord({"msg": "%d runs, %s", "args": ("no number",)})

    assert Blank().filter(record)
    assert record.getMessage() == "'%d runs, %s' ('no number',) (TypeError)"


def test_setting_up_again_replaces_what_was_set_up_and_leaves_others(log, caplog):
    stream = log()
    log(json=True)

    logger.warning("once")

    assert len(stream.getvalue().splitlines()) == 1
    assert json.loads(stream.getvalue())["message"] == "once"
    assert "once" in caplog.text


def test_warnings_are_lines_of_the_log(log):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        stream = log(json=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    assert json.loads(stream.getvalue())["logger"] == "py.warnings"


@pytest.mark.parametrize(
    "text", ["a=", "://", "a.", "a://", "a://b:", "bearer ", "token=", "a-b://:", "\\", "Bearer\t"]
)
def test_a_long_record_is_blanked_in_little_time(text):
    record = logging.makeLogRecord({"msg": text * 50_000})
    began = time.monotonic()

    Blank().filter(record)

    assert time.monotonic() - began < 2

"""Keys and passwords: from the environment or from a file, never from a configuration."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import PipelineOSError, PipelineValueError


def secret(name: str) -> str | None:
    """Return the value of this environment variable, else what is in the file that `<name>_FILE` names.

    Raises
    ------
    PipelineOSError
        If that file cannot be read.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w") as file:
    ...     os.environ["EXAMPLE_PASSWORD_FILE"] = file.name
    ...     _ = file.write("abc\\n"); file.flush()
    ...     secret("EXAMPLE_PASSWORD")
    'abc'
    >>> del os.environ["EXAMPLE_PASSWORD_FILE"]
    """
    if value := os.environ.get(name):
        return value
    if not (path := os.environ.get(f"{name}_FILE")):
        return None
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineOSError(f"{name}_FILE names {path}; wanted a file that can be read: {error}") from None


def without_password(uri: str, instead: str) -> str:
    """Return this URI, if it holds no password; others would see it.

    Raises
    ------
    PipelineValueError
        If it does: it tells which environment variable holds it instead.

    >>> without_password("redis://ada@localhost:6379", "REDIS_PASSWORD")
    'redis://ada@localhost:6379'
    >>> without_password("redis://ada:secret@localhost:6379", "REDIS_PASSWORD")
    Traceback (most recent call last):
    pipeline.errors.PipelineValueError: wanted a URI without a password; it is taken from REDIS_PASSWORD.
    """
    parts = urlsplit(uri)
    if parts.password is not None or "password=" in parts.query:
        raise PipelineValueError(f"wanted a URI without a password; it is taken from {instead}.")
    return uri

"""A connection to Redis, for what reads from it and what writes to it."""

from typing import TYPE_CHECKING

from pipeline.errors import PipelineImportError, PipelineValueError
from pipeline.secret import secret, without_password

if TYPE_CHECKING:
    from redis import Redis

ANSWER_SECONDS = 10.0


def redis_client(url: str) -> "Redis":
    """Return a client of this Redis; it connects when it is used, and tries nothing a second time.

    Raises
    ------
    PipelineValueError
        If the URL is none, or holds a password: that comes from `REDIS_PASSWORD`, or the file `REDIS_PASSWORD_FILE`.
    PipelineImportError
        If redis is not installed.

    >>> redis_client("redis://127.0.0.1:6379").connection_pool.connection_kwargs["port"]
    6379
    >>> redis_client("127.0.0.1")
    Traceback (most recent call last):
    pipeline.errors.PipelineValueError: wanted a URL of Redis, redis://host:port, there is '127.0.0.1'.
    """
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise PipelineImportError("Redis needs redis-py: pip install 'bluesky-pipeline[redis]'") from error
    options = {"password": password} if (password := secret("REDIS_PASSWORD")) else {}
    try:
        return redis.Redis.from_url(
            without_password(url, "REDIS_PASSWORD"),
            socket_connect_timeout=ANSWER_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            **options,
        )
    except PipelineValueError:
        raise
    except ValueError:
        raise PipelineValueError(f"wanted a URL of Redis, redis://host:port, there is {url!r}.") from None

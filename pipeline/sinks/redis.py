"""Documents to a stream of Redis, for a pipeline in another process."""

from typing import Any

from pipeline.documents import Document
from pipeline.redis_client import redis_client
from pipeline.run_of import RunOf
from pipeline.secret import without_password
from pipeline.sinks.patience import Patience
from pipeline.wire import encode


class RedisSink:
    """Add each document to a stream of Redis, as `pipeline.sources.RedisSource` reads it.

    `RE.subscribe(Buffered(RedisSink("beamline")))`: it waits for Redis, so it wants a thread of its own.
    An entry has two fields: `doc`, the document as JSON (see `pipeline.wire.encode`), and `run`, the uid of its
    run. When the call returns, Redis has it; whether that survives Redis, its `appendonly` and `appendfsync` decide.
    A document whose answer an outage swallows is added again: it may be there twice, which harms no pipeline.

    It needs the extra `bluesky-pipeline[redis]`.

    Parameters
    ----------
    stream
        The key of the stream.
    url
        Of Redis, without a password: that comes from `REDIS_PASSWORD`, or the file that `REDIS_PASSWORD_FILE` names.
    maxlen
        About how many documents the stream keeps, the newest; None: all.
    patience
        For how many seconds a document is tried again while Redis is away.

    Raises
    ------
    PipelineOSError
        If Redis is away for longer.
    PipelineTypeError
        If JSON cannot hold a value.

    >>> RedisSink("beamline").name
    'Redis beamline'
    """

    def __init__(
        self, stream: str, url: str = "redis://127.0.0.1:6379", *, maxlen: int | None = None, patience: float = 60.0
    ) -> None:
        self.stream, self.url, self.maxlen = stream, without_password(url, "REDIS_PASSWORD"), maxlen
        self.name = f"Redis {stream}"
        self._client = redis_client(self.url)
        self._run_of = RunOf()
        self._patience = Patience(self.name, patience, _away())

    def __call__(self, name: str, doc: Document) -> None:
        """Add the document."""
        run = self._run_of(name, doc)
        entry: Any = {"doc": encode(name, doc), "run": run}
        self._patience(lambda: self._client.xadd(self.stream, entry, maxlen=self.maxlen))
        if name == "stop":
            self._run_of.forget(run)

    def close(self) -> None:
        """Let the connection go."""
        self._client.close()


def _away() -> tuple[type[Exception], ...]:
    from redis.exceptions import ConnectionError, TimeoutError

    return (ConnectionError, TimeoutError)

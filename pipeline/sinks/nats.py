"""Documents to a stream of NATS JetStream, for a pipeline in another process."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.documents import Document
from pipeline.errors import PipelineOSError
from pipeline.nats_client import NATSThread, nats_servers
from pipeline.run_of import RunOf
from pipeline.sinks.patience import Patience
from pipeline.wire import encode

if TYPE_CHECKING:
    from nats.aio.client import Client


class NATSSink:
    """Publish each document under a subject of a stream, as `pipeline.sources.NATSSource` reads it.

    `RE.subscribe(Buffered(NATSSink("bluesky.documents")))`: it waits for NATS, so it wants a thread of its own.
    A message is `[name, doc]` as JSON (see `pipeline.wire.encode`), with the uid of its run in the header `run_id`.
    When the call returns, the stream has it; what is published again, since the answer was lost, it keeps once.
    A stream that takes the subject must be there (`nats stream add`). A server takes messages of at most 1 MB, unless
    its `max_payload` says otherwise.

    It needs the extra `bluesky-pipeline[nats]`.

    Parameters
    ----------
    subject
        Without wildcards.
    servers
        One or several, with commas between them, without a password: `pipeline.nats_client.NATSThread` tells from
        where it comes.
    patience
        For how many seconds a document is tried again while NATS is away.

    Raises
    ------
    PipelineOSError
        If NATS is away for longer, or refuses the message.
    PipelineTypeError
        If JSON cannot hold a value.

    >>> sink = NATSSink("bluesky.documents")
    >>> sink.name
    'NATS bluesky.documents'
    >>> sink.close()
    """

    def __init__(
        self, subject: str, servers: str | Sequence[str] = "nats://127.0.0.1:4222", *, patience: float = 60.0
    ) -> None:
        self.subject, self.servers = subject, nats_servers(servers)
        self.name = f"NATS {subject}"
        self._thread = NATSThread()
        self._client: Client | None = None
        self._run_of = RunOf()
        self._patience = Patience(self.name, patience, _away())

    def __call__(self, name: str, doc: Document) -> None:
        """Publish the document."""
        from nats.errors import Error

        run, message = self._run_of(name, doc), encode(name, doc)
        try:
            self._patience(lambda: self._publish(message, run))
        except Error as error:
            raise PipelineOSError(f"{self.name} refuses a {name!r} of {len(message)} bytes: {error}") from None
        if name == "stop":
            self._run_of.forget(run)

    def _publish(self, message: bytes, run: str) -> None:
        if self._client is None or self._client.is_closed:
            self._client = self._thread.connect(self.servers)
        # Of two messages with the same id the stream keeps one.
        headers = {"Nats-Msg-Id": hashlib.sha1(message, usedforsecurity=False).hexdigest(), "run_id": run}
        self._thread.run(self._client.jetstream().publish(self.subject, message, headers=headers))

    def close(self) -> None:
        """Let the connection go."""
        self._thread.disconnect(self._client)
        self._thread.close()


def _away() -> tuple[type[Exception], ...]:
    from nats.errors import ConnectionClosedError, NoServersError, StaleConnectionError
    from nats.js.errors import NoStreamResponseError, ServiceUnavailableError

    gone = (OSError, TimeoutError, ConnectionClosedError, NoServersError, StaleConnectionError)
    return (*gone, NoStreamResponseError, ServiceUnavailableError)

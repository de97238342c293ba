"""A connection to NATS, on a thread of its own, for what reads from it and what writes to it."""

import asyncio
import os
import threading
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import PipelineImportError
from pipeline.secret import secret, without_password

if TYPE_CHECKING:
    from nats.aio.client import Client

T = TypeVar("T")
ANSWER_SECONDS = 5.0


def nats_servers(servers: str | Sequence[str]) -> list[str]:
    """Return these servers, if none holds a password.

    >>> nats_servers("nats://a:4222, nats://b:4222")
    ['nats://a:4222', 'nats://b:4222']
    """
    each = servers.split(",") if isinstance(servers, str) else servers
    return [without_password(server.strip(), "NATS_PASSWORD") for server in each]


class NATSThread:
    """Run what talks to NATS on an event loop in a thread of its own.

    The user and what he proves himself by come from the environment: `NATS_USER` and `NATS_PASSWORD`, `NATS_TOKEN` (or
    the files that `NATS_PASSWORD_FILE` and `NATS_TOKEN_FILE` name), or `NATS_CREDS`, a file of credentials.

    Raises
    ------
    PipelineImportError
        If nats-py is not installed.

    >>> thread = NATSThread()
    >>> thread.run(asyncio.sleep(0, "done"))
    'done'
    >>> thread.close()
    """

    def __init__(self) -> None:
        try:
            import nats  # noqa: F401 # pyright: ignore[reportUnusedImport]
        except ImportError as error:
            raise PipelineImportError("NATS needs nats-py: pip install 'bluesky-pipeline[nats]'") from error
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="NATS", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float = 2 * ANSWER_SECONDS) -> T:
        """Return what this gives."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, timeout), self._loop).result()

    def connect(self, servers: list[str]) -> "Client":
        """Return a connection. It does not connect again by itself: who has it sees that it is closed."""
        return self.run(_connect(servers))

    def disconnect(self, client: "Client | None") -> None:
        """Close a connection, whatever state it is in."""
        if client is not None and not client.is_closed:
            try:
                self.run(client.close())
            except Exception:  # noqa: BLE001 - it is thrown away
                return

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ANSWER_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()


async def _connect(servers: list[str]) -> "Client":
    import nats

    async def ignore(error: Exception) -> None:
        """Leave the telling to those who know what it was for."""

    return await nats.connect(
        servers,
        name="bluesky-pipeline",
        allow_reconnect=False,
        max_reconnect_attempts=1,
        reconnect_time_wait=0,
        connect_timeout=int(ANSWER_SECONDS),
        error_cb=ignore,
        user=os.environ.get("NATS_USER"),
        password=secret("NATS_PASSWORD"),
        token=secret("NATS_TOKEN"),
        user_credentials=os.environ.get("NATS_CREDS"),
    )

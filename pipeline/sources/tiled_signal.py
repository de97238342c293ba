"""When to look at a Tiled server: its websockets say that something has come, whatever it is."""

import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from pipeline.sources.tiled_api import Item, family_of, path_of

logger = logging.getLogger(__name__)


class Signal:
    """Wait until one of the watched nodes has something new, or some time has passed.

    What a message holds is left alone: it may be cut, or never come. Where the server has no stream, nothing is ever
    signalled.

    Parameters
    ----------
    client
        The Tiled client.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._has_stream = getattr(client.context.http_client, "app", None) is None
        self._watched: dict[str, tuple[str, Any]] = {}  # path -> run, subscription
        self._news: set[str] = set()
        self._condition = threading.Condition()

    def watch(self, item: Item, run: str) -> bool:
        """Signal this run when something comes to this node; return whether that is new."""
        path = path_of(item)
        name = "/".join(path)
        if not self._has_stream or name in self._watched:
            return False
        subscription, hear = self._subscription(item, path, run)
        self._watched[name] = run, subscription
        arguments = (name, subscription, hear)
        threading.Thread(target=self._receive, args=arguments, name=f"watches {name}", daemon=True).start()
        return True

    def _subscription(self, item: Item, path: list[str], run: str) -> tuple[Any, Callable[[Any], None]]:
        from tiled.client.stream import ContainerSubscription, TableSubscription

        def hear(_: Any) -> None:
            self.tell(run)

        if family_of(item) == "table":
            table = TableSubscription(self._client.context, path, _AtOnce())
            table.new_data.add_callback(hear)
            return table, hear
        context, clients = self._client.context, self._client.structure_clients
        container = ContainerSubscription(context, path, _AtOnce(), clients)
        container.child_created.add_callback(hear)
        container.child_metadata_updated.add_callback(hear)
        return container, hear

    def _receive(self, name: str, subscription: Any, hear: Any) -> None:
        """Stay with a subscription until it ends; `hear` is here because Tiled holds it weakly."""
        from websockets.exceptions import InvalidStatus

        try:
            subscription.start(max_size=None)
        except InvalidStatus as error:
            if self._has_stream and error.response.status_code != 404:
                self._has_stream = False
                logger.info("The Tiled server has no stream (HTTP %d): it is polled.", error.response.status_code)
        except Exception as error:  # noqa: BLE001 - contained: it is polled all the same
            logger.info("The stream of %s is not to be had: %s: %s", name, type(error).__name__, error)
        finally:
            self._watched.pop(name, None)  # and may be watched again

    def forget(self, run: str) -> None:
        """Watch the nodes of this run no more."""
        for name, (of, subscription) in list(self._watched.items()):
            if of == run:
                self._watched.pop(name, None)
                threading.Thread(target=_end, args=[subscription], daemon=True).start()

    def tell(self, run: str) -> None:
        """Signal a run."""
        with self._condition:
            self._news.add(run)
            self._condition.notify()

    def wait(self, timeout: float) -> set[str]:
        """Return the runs that were signalled since the last time; wait for one, so many seconds at most."""
        with self._condition:
            self._condition.wait_for(lambda: bool(self._news), timeout)
            news, self._news = self._news, set()
        return news

    def close(self) -> None:
        """Watch nothing any more."""
        self._has_stream = False
        for run in {run for run, _ in list(self._watched.values())}:
            self.forget(run)


class _AtOnce(Executor):
    """An executor that has no thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do it now."""
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def _end(subscription: Any) -> None:
    with contextlib.suppress(Exception):
        subscription.disconnect()

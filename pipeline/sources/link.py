"""Whether what a source is connected to is there."""

import logging
import time

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


class Link:
    """Tell once when what a source is connected to goes, and once when it is back; try again with a back-off.

    It also knows how long nothing has come: a source that is to end ends by that.

    Parameters
    ----------
    name
        What the log calls the source.
    idle
        How many seconds without a document are the end; None: it does not end.

    >>> link = Link("beamline", idle=0.0)
    >>> link.lost("refused"), link.is_lost, link.is_due
    (None, True, False)
    >>> link.back()
    >>> link.is_lost, link.is_idle
    (False, True)
    """

    def __init__(self, name: str, idle: float | None = None) -> None:
        self.name = name
        self.is_lost = False
        self._idle = idle
        self._came = self._due = self._went = time.monotonic()
        self._pause = FIRST_PAUSE

    def lost(self, reason: object) -> None:
        """Note that it is not there; the log tells the first time, until it is back."""
        now = time.monotonic()
        if not self.is_lost:
            self.is_lost, self._went, self._pause = True, now, FIRST_PAUSE
            logger.warning("%s is not there: %s. It is tried again until it is.", self.name, _short(reason))
        else:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._due = now + self._pause

    def back(self) -> None:
        """Note that it is there."""
        if self.is_lost:
            self.is_lost = False
            logger.info("%s is there again, after %.1f s.", self.name, time.monotonic() - self._went)

    @property
    def is_due(self) -> bool:
        """Whether it is time to try again."""
        return not self.is_lost or time.monotonic() >= self._due

    def wait(self, timeout: float) -> None:
        """Wait until it is time to try again, but no longer than this."""
        time.sleep(max(0.0, min(timeout, self._due - time.monotonic())))

    def came(self) -> None:
        """Note that something came."""
        self._came = time.monotonic()

    @property
    def is_idle(self) -> bool:
        """Whether nothing has come for so long that it is the end."""
        return self._idle is not None and time.monotonic() - self._came >= self._idle


def _short(reason: object) -> str:
    text = " ".join(str(reason).split()) or type(reason).__name__
    return (text if len(text) <= 200 else f"{text[:197]}...").rstrip(".")

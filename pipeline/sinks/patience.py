"""Try again while what a sink writes to is away."""

import logging
import time
from collections.abc import Callable
from typing import Any

from pipeline.errors import PipelineOSError

logger = logging.getLogger(__name__)

PAUSES = (0.1, 0.2, 0.5, 1.0)


class Patience:
    """Call something until it does not fail for want of a connection, for so many seconds.

    Who was waited for in vain is not waited for again: until it is back, each call is tried once.

    Parameters
    ----------
    name
        What the log calls the one who waits.
    seconds
        How long.
    away
        The errors that tell that it is away; all others are raised at once.

    >>> answers = iter([ConnectionError("refused"), "there"])
    >>> def ask():
    ...     if isinstance(answer := next(answers), Exception):
    ...         raise answer
    ...     return answer
    >>> Patience("sink", 5.0, (ConnectionError,))(ask)
    'there'
    """

    def __init__(self, name: str, seconds: float, away: tuple[type[Exception], ...]) -> None:
        self._name, self._seconds, self._away = name, seconds, away
        self._is_over = False

    def __call__(self, attempt: Callable[[], Any]) -> Any:
        """Return what it returns.

        Raises
        ------
        PipelineOSError
            If it is away for too long.
        """
        began, pauses = time.monotonic(), iter(PAUSES)
        while True:
            try:
                answer = attempt()
            except self._away as error:
                self._wait(error, began, next(pauses, PAUSES[-1]))
            else:
                self._is_over = False
                return answer

    def _wait(self, error: Exception, began: float, pause: float) -> None:
        if self._is_over or time.monotonic() + pause > began + self._seconds:
            self._is_over = True
            raise PipelineOSError(f"{self._name} is not there: {error}; the document is not in it.") from None
        if pause == PAUSES[0]:
            logger.warning("%s is not there: %s. It is tried again for %g s.", self._name, error, self._seconds)
        time.sleep(pause)

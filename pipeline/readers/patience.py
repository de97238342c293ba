"""Wait for what is announced and not there yet."""

import time
from collections.abc import Callable
from typing import Any

from pipeline.errors import PipelineError

FIRST, LONGEST = 0.001, 0.2  # seconds between two looks


def awaited(look: Callable[[], Any], seconds: float) -> tuple[Any, str]:
    """Return what `look` finds, or why it found nothing in this time; None means: not yet.

    An error of the package goes through at once; any other may pass.

    >>> awaited(lambda: 7, 0.0), awaited(lambda: {}["a"], 0.0)
    ((7, ''), (None, "KeyError: 'a'"))
    """
    deadline, pause = time.monotonic() + seconds, FIRST
    while True:
        found, fault = _look(look)
        if found is not None or time.monotonic() + pause > deadline:
            return found, fault
        time.sleep(pause)
        pause = min(2 * pause, LONGEST)


def _look(look: Callable[[], Any]) -> tuple[Any, str]:
    try:
        found = look()
        return found, "" if found is not None else "it is not there yet"
    except PipelineError:
        raise
    except Exception as error:  # noqa: BLE001 - readers and handlers of others raise whatever they like
        return None, f"{type(error).__name__}: {error}"

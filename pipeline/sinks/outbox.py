"""A bounded queue of lines, cheap for those who put."""

import threading
from collections import deque

MANY = 1000  # lines, which do not wait for more


class Outbox:
    """Lines that wait to be sent.

    Putting a line costs half a microsecond and wakes nobody, as long as the other side is awake; that side lets some
    time pass, and takes everything at once. So a scan is hardly disturbed.

    Parameters
    ----------
    maxsize, maxbytes
        How many lines, and how many bytes, may wait or be on their way.

    >>> outbox = Outbox(maxsize=2, maxbytes=100)
    >>> [outbox.put(line) for line in (b"a", b"b", b"c")]
    [True, True, False]
    >>> outbox.take()
    [b'a', b'b']
    """

    def __init__(self, *, maxsize: int, maxbytes: int) -> None:
        self.n_put = 0
        self.n_acked = 0
        self.closed = False
        self._maxsize = maxsize
        self._maxbytes = maxbytes
        self._n_bytes = 0
        self._lines: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._filled = threading.Event()
        self._hurried = threading.Event()
        self._emptied = threading.Condition()

    def put(self, line: bytes, *, always: bool = False) -> bool:
        """Put a line, if there is a place for it (or `always`); return whether it is in."""
        with self._lock:
            full = self.n_put - self.n_acked >= self._maxsize or self._n_bytes >= self._maxbytes
            if full and not always:
                self._hurried.set()
                return False
            self._lines.append(line)
            self.n_put += 1
            self._n_bytes += len(line)
            are_many = len(self._lines) == MANY
        if are_many:
            self._hurried.set()
        if not self._filled.is_set():
            self._filled.set()
        return True

    def wait_for_place(self, timeout: float) -> None:
        """Wait until something was acknowledged, or for `timeout` seconds."""
        with self._emptied:
            self._emptied.wait(timeout)

    def wait_until_acked(self, n: int, timeout: float) -> bool:
        """Return whether the first `n` lines have been acknowledged; wait for it for `timeout` seconds."""
        with self._emptied:
            return self._emptied.wait_for(lambda: self.n_acked >= n, timeout)

    def wait_for_lines(self, timeout: float | None = None) -> None:
        """Wait until there is something to take, or the box is closed."""
        self._filled.wait(timeout)

    def hurry(self) -> None:
        """Have what is in the box taken now."""
        self._hurried.set()

    def linger(self, timeout: float) -> None:
        """Wait for what else may come, unless somebody is in a hurry."""
        self._hurried.wait(timeout)

    def take(self) -> list[bytes]:
        """Take all lines that wait."""
        with self._lock:
            if not self.closed:
                self._filled.clear()
                self._hurried.clear()
            lines, self._lines = self._lines, deque()
            self._n_bytes = 0
        return list(lines)

    def ack(self, n: int) -> None:
        """Take note that the first `n` lines have been dealt with."""
        with self._emptied:
            self.n_acked = max(self.n_acked, n)
            self._emptied.notify_all()

    def close(self) -> None:
        """Wake whoever waits for lines: there will be no more."""
        with self._lock:  # a take that is under way is not to undo it
            self.closed = True
            self._filled.set()
            self._hurried.set()

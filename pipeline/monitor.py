"""What an operator and a supervisor ask a service by HTTP: whether it lives, is ready, and what it does."""

import hmac
import ipaddress
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from pipeline.documents import plainly
from pipeline.errors import ConfigError, PipelineOSError
from pipeline.metrics import exposition
from pipeline.monitor_page import CONTENT_SECURITY_POLICY, PAGE
from pipeline.report import Report

logger = logging.getLogger(__name__)

TOKEN = "BLUESKY_PIPELINE_TOKEN"
MIN_TOKEN = 16  # characters
MAX_REQUEST = 16_384  # bytes
MAX_SECONDS = 10.0  # of one request, from first to last byte
MAX_CONNECTIONS = 32
TEXT, HTML, JSON = "text/plain; charset=utf-8", "text/html; charset=utf-8", "application/json"
OK, UNAVAILABLE = 200, 503


class Monitor:
    """An HTTP server, in a thread of its own, that tells what a service does.

    | path | answers |
    | --- | --- |
    | `/` | a page for an operator, which asks `/status` again every two seconds |
    | `/status` | the report, as JSON |
    | `/metrics` | the report, for Prometheus: see `pipeline.metrics` |
    | `/healthz` | 200 while the main loop goes round, else 503 and why |
    | `/readyz` | 200 if the service is ready, else 503 and why |

    It answers on loopback unless told otherwise, and there only to those who call it by a name of loopback, so that no
    page from elsewhere can read it by way of an operator's browser. On any other address it wants a token: of every
    request but `/`, which holds nothing and asks for it, as `Authorization: Bearer TOKEN`. It speaks HTTP without TLS:
    beyond one's own network, put a proxy in front that does. Nothing can be changed through it.

    It needs the extra `bluesky-pipeline[service]`.

    Parameters
    ----------
    report
        Returns what there is to tell; it is called on threads of the server.
    listen
        Address and port: `"127.0.0.1:8090"`, `"[::1]:8090"`, `"0.0.0.0:8090"`. Port 0: one that is free.
    token
        By default that of the environment variable `BLUESKY_PIPELINE_TOKEN`, if there is one; of 16 characters at
        least. Where it is given, it is wanted on loopback too.
    patience
        After how many seconds without a round the main loop is held for dead.

    Attributes
    ----------
    url
        Where it answers.

    Raises
    ------
    ConfigError
        If the address is none, or is not of loopback and there is no token.
    PipelineOSError
        If the address cannot be had.

    >>> from urllib.request import urlopen
    >>> from pipeline.report import empty_report
    >>> with Monitor(lambda: empty_report("0.1.0", "ZMQSource"), "127.0.0.1:0") as monitor:
    ...     urlopen(f"{monitor.url}/healthz").read()
    b'ok\\n'
    """

    def __init__(
        self,
        report: Callable[[], Report],
        listen: str = "127.0.0.1:8090",
        token: str | None = None,
        *,
        patience: float = 30.0,
    ) -> None:
        family, address, is_loopback = _address(listen)
        token = token or os.environ.get(TOKEN) or None
        _check_token(listen, token, is_loopback)
        answers = _Answers(report, patience)
        try:
            self._server = _Server(family, address, answers, token)
        except OSError as error:
            raise PipelineOSError(f"wanted to listen on {listen}: {error.strerror or error}.") from None
        host, port = self._server.server_address[:2]
        self.url = f"http://[{host}]:{port}" if family == socket.AF_INET6 else f"http://{host}:{port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="monitor", daemon=True)
        self._thread.start()
        logger.info("The page of the service is at %s", self.url)

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _address(listen: str) -> tuple[socket.AddressFamily, tuple[Any, ...], bool]:
    """Return family and address to bind, and whether it is one of loopback, by what the name stands for."""
    host, _, port = listen.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError(f"wanted an address and a port, such as '127.0.0.1:8090'; there is {listen!r}.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"wanted an address of this machine, there is {listen!r}: {error}.") from None
    return family, address, ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback


def _check_token(listen: str, token: str | None, is_loopback: bool) -> None:
    if token is None and not is_loopback:
        raise ConfigError(f"{listen} can be reached by others; wanted a token in {TOKEN}, there is none.")
    if token is not None and (len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable()):
        raise ConfigError(f"{TOKEN}: wanted at least {MIN_TOKEN} letters, digits and signs of ASCII.")


class _Answers:
    """What there is to answer, by path: status, content type and content."""

    def __init__(self, report: Callable[[], Report], patience: float) -> None:
        self._report = report
        self._patience = patience
        self._metrics = exposition(report)
        self.routes: dict[str, Callable[[], tuple[int, str, bytes]]] = {
            "/": lambda: (OK, HTML, PAGE),
            "/status": self._status,
            "/metrics": self._metrics_text,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }

    def _status(self) -> tuple[int, str, bytes]:
        plain = plainly(self._report(), "report")  # NaN is not JSON
        # Half of a surrogate pair, which a document may hold, is no UTF-8; Chromium falls over it when it dumps a page.
        return OK, JSON, json.dumps(plain, ensure_ascii=False).encode("utf-8", "replace")

    def _metrics_text(self) -> tuple[int, str, bytes]:
        content, kind = self._metrics()
        return OK, kind, content

    def _healthz(self) -> tuple[int, str, bytes]:
        age = time.time() - self._report()["time"]
        if age > self._patience:
            return _said(f"the main loop has not gone round for {age:.0f} s; wanted at most {self._patience:g} s")
        return _said("")

    def _readyz(self) -> tuple[int, str, bytes]:
        report = self._report()
        return _said("" if report["ready"] else report["why_not_ready"] or "it is not ready")


def _said(why: str) -> tuple[int, str, bytes]:
    return (UNAVAILABLE if why else OK), TEXT, f"{why or 'ok'}\n".encode("utf-8", "replace")


class _Server(ThreadingHTTPServer):
    """Few connections at a time, each for a short while."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(
        self, family: socket.AddressFamily, address: tuple[Any, ...], answers: _Answers, token: str | None
    ) -> None:
        self.address_family = family
        self.answers = answers
        self.token = None if token is None else token.encode()
        self._since: dict[socket.socket, float] = {}  # open connections
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind, without asking a name server what this machine is called, as HTTPServer does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Take in so many connections, and no more."""
        with self._lock:
            free = len(self._since) < MAX_CONNECTIONS
            if free:
                self._since[request] = time.monotonic()
        return free

    def shutdown_request(self, request: Any) -> None:
        """Let a connection go."""
        with self._lock:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End the connections that take too long, by however little they send."""
        too_old = time.monotonic() - MAX_SECONDS
        with self._lock:
            late = [request for request, since in self._since.items() if since < too_old]
        for request in late:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell the log, and go on."""
        logger.debug("A request was not answered: %s", sys.exc_info()[1])


class _TooLarge(ConnectionError):
    """A request of more bytes than anyone needs."""


class _Few:
    """A file of which only so many bytes are read."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._left = MAX_REQUEST

    def readline(self, size: int) -> bytes:
        line = self._file.readline(min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise _TooLarge(f"of more than {MAX_REQUEST} bytes")
        return line

    def close(self) -> None:
        self._file.close()


class _Handler(BaseHTTPRequestHandler):
    """One request: who asks, what for, and the answer."""

    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]  # no other makes one
    timeout = 5.0
    server_version, sys_version = "bluesky-pipeline", ""

    def setup(self) -> None:
        super().setup()
        self.rfile = _Few(self.rfile)  # pyright: ignore[reportAttributeAccessIssue]  # of a file, only what is called

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        route = self.server.answers.routes.get(path)
        if not self._is_called_rightly():
            self._say(403, "wanted a name of loopback as the host")
        elif path != "/" and not self._is_allowed():
            self._say(401, f"wanted the token of {TOKEN}, as `Authorization: Bearer TOKEN`")
        elif route is None:
            self._say(404, f"there are {', '.join(self.server.answers.routes)}")
        else:
            self._answer(*_contained(route))

    do_HEAD = do_GET

    def _refuse_method(self) -> None:
        self._say(405, "wanted GET or HEAD")

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse_method

    def _is_called_rightly(self) -> bool:
        """Say whether this is no page from elsewhere whose name was made to stand for loopback (DNS rebinding)."""
        host = self.headers.get("Host")
        if self.server.token is not None or host is None:  # a browser always sends one
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name == "localhost" or ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    def _is_allowed(self) -> bool:
        if self.server.token is None:
            return True
        kind, _, given = self.headers.get("Authorization", "").partition(" ")
        given = given.strip().encode("utf-8", "replace")
        return kind.lower() == "bearer" and hmac.compare_digest(given, self.server.token)

    def _say(self, status: int, text: str) -> None:
        self._answer(status, TEXT, f"{text}\n".encode("utf-8", "replace"))

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        if status == 405:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no request in plain text, without repeating it."""
        self.close_connection = True
        self._say(code, "wanted GET or HEAD, and a path")

    def end_headers(self) -> None:
        """Send, with every answer, what keeps browsers from doing more with it than is meant."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log that there was a request, but nothing that is in it: no header, no query."""
        logger.debug("%s %s", self.client_address[0], getattr(self, "command", None))


_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def _contained(route: Callable[[], tuple[int, str, bytes]]) -> tuple[int, str, bytes]:
    """Return the answer, or that there is none: a report that fails is a service that does not do what it should."""
    try:
        return route()
    except Exception as error:
        logger.exception("The service cannot tell how it is")
        return UNAVAILABLE, TEXT, f"the service cannot tell how it is: {type(error).__name__}\n".encode()


def probe(url: str, timeout: float = 5.0) -> str:
    """Ask a monitor, with the token of `BLUESKY_PIPELINE_TOKEN` if there is one; return why it says no, or nothing.

    `python -m pipeline.monitor http://127.0.0.1:8090/healthz` does this, for a container that is to know its health.

    >>> probe("http://127.0.0.1:1/healthz")
    'http://127.0.0.1:1/healthz does not answer: ...'
    """
    token = os.environ.get(TOKEN)
    request = Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urlopen(request, timeout=timeout):
            return ""
    except HTTPError as error:
        with error:
            return error.read(1000).decode(errors="replace").strip() or f"{url} answers {error.code}"
    except (URLError, OSError) as error:
        return f"{url} does not answer: {getattr(error, 'reason', error)}"


if __name__ == "__main__":
    sys.exit(probe(sys.argv[1]) or 0)

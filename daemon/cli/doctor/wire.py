"""Reaches the public URL step by step: its name, a connection, TLS, one request.

Rule: every step has a time-out and fails in words. Look-ups run on a thread that is left behind,
for no resolver can be interrupted. The token goes only where TLS was verified, or none is asked.
"""

import http.client
import json
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar
from urllib.parse import urlsplit

from daemon.config.endpoints import bracket
from daemon.rules.certificate import read_validity

RESOLVE_SECONDS: Final = 5.0
CONNECT_SECONDS: Final = 5.0
HANDSHAKE_SECONDS: Final = 5.0
BODY_SHOWN: Final = 200
REFUSED: Final = {"error": {"code": "404", "message": "refused"}}
"""What the daemon says to everything that does not exist at its callback listener."""

T = TypeVar("T")


class Deadline:
    """The end of the whole diagnosis; no step is given more than is left."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def left(self, most: float) -> float:
        """Return how long a step may take, at least a moment."""
        return max(0.1, min(most, self._until - time.monotonic()))

    @property
    def is_over(self) -> bool:
        """Whether nothing more is begun."""
        return time.monotonic() >= self._until


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart; `path` is unix socket's where `host` is empty."""

    scheme: str
    host: str
    port: int
    path: str
    socket_path: str = ""

    @property
    def place(self) -> str:
        """Name host and port for people."""
        return self.socket_path or f"{bracket(self.host)}:{self.port}"


def read_target(url: str) -> Target:
    """Take a public URL apart; it was checked when the configuration was read."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Target(parts.scheme, parts.hostname or "", port, parts.path.rstrip("/"))


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer: status, what stands in Location, and the beginning of its body."""

    status: int
    location: str
    server: str
    body: str
    seconds: float

    @property
    def is_redirect(self) -> bool:
        """Whether it leads elsewhere."""
        return 300 <= self.status < 400  # noqa: PLR2004 - the redirects

    @property
    def is_refusal(self) -> bool:
        """Whether it is the daemon's own answer to what does not exist there."""
        try:
            return self.status == http.client.NOT_FOUND and bool(json.loads(self.body) == REFUSED)
        except ValueError:
            return False

    def shown(self) -> str:
        """Return status and body in a few words."""
        body = " ".join(self.body.split())[:80]
        return f"{self.status}" + (f", {body!r}" if body else "")


def within(seconds: float, function: Callable[..., T], *given: object) -> T:
    """Return what a function gives that cannot be interrupted.

    Raises:
        TimeoutError: it did not come back in time.
    """
    results: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((function(*given), None))
        except Exception as error:  # noqa: BLE001 - carried over to who waits
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value] # there was no error


def resolve(host: str, port: int, seconds: float) -> list[str]:
    """Return the addresses of a name.

    Raises:
        OSError: it has none, or nobody says.
    """
    found = within(seconds, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def connect(target: Target, address: str, seconds: float) -> socket.socket:
    """Connect to one address of the target.

    Raises:
        OSError: it does not come about.
    """
    if target.socket_path:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(seconds)
        try:
            sock.connect(target.socket_path)
        except OSError:
            sock.close()
            raise
        return sock
    return socket.create_connection((address, target.port), timeout=seconds)


def look_at_certificate(target: Target, address: str, seconds: float) -> datetime | None:
    """Return until when the shown certificate is valid, whoever signed it; None: nobody knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is sent over this connection: it only shows the certificate that did not verify.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            connect(target, address, seconds) as sock,
            context.wrap_socket(sock, server_hostname=target.host) as secured,
        ):
            return read_validity(secured.getpeercert(binary_form=True) or b"")[1]
    except (OSError, ValueError):
        return None


def days_left(until: datetime) -> float:
    """Return how many days there are until then."""
    return (until - datetime.now(UTC)).total_seconds() / 86_400


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket that is open already."""

    def __init__(self, sock: socket.socket, target: Target, seconds: float) -> None:
        super().__init__(target.host or "localhost", target.port, timeout=seconds)
        self.default_port = 443 if target.scheme == "https" else 80
        sock.settimeout(seconds)
        self.sock = sock


def ask(
    target: Target,
    address: str,
    path: str,
    seconds: float,
    *,
    method: str = "POST",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Heard:
    """Send one request on a connection of its own, TLS verified, and return the answer.

    Raises:
        OSError: there was none in time.
        http.client.HTTPException: what came is no HTTP.
    """
    began = time.monotonic()
    sock = connect(target, address, seconds)
    try:
        if target.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=target.host)
        connection = _Connection(sock, target, seconds)
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        text = answer.read(BODY_SHOWN).decode("utf-8", "replace")
        return Heard(
            answer.status,
            answer.headers.get("Location", ""),
            answer.headers.get("Server", ""),
            text,
            time.monotonic() - began,
        )
    finally:
        sock.close()

"""A load generator that costs little: all requests are bytes before the clock starts.

Rule: one request is on its way on each connection, and only answers of 200 count; any other is an
error. It is one thread with epoll and no event loop; `acks` measures how fast it can go at all, so
that nobody takes its limit for a server's.
"""

import json
import select
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

from tests.benchmarks.table import quantile
from tests.stories.stage import failure, success

QUIET_SECONDS: Final = 30.0
"""So long without any answer is an error."""
OK: Final = b"HTTP/1.1 200 "
_READ_BYTES: Final = 16_384
_NEVER_SECONDS: Final = 1e9


class WrongAnswer(Exception):
    """A server answered with something else than 200."""


@dataclass(slots=True)
class Heard:
    """What came of a round."""

    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    """The seconds that each acknowledged callback took."""

    @property
    def per_second(self) -> float:
        """How many callbacks were acknowledged in a second."""
        return len(self.waits) / self.seconds

    @property
    def p99_ms(self) -> float:
        """What 99 of 100 callbacks waited at most."""
        return quantile(self.waits, 0.99) * 1000


def encode(url: str, body: object) -> bytes:
    """Return a whole POST request as an HTTP client with keep-alive sends it."""
    parts, data = urlsplit(url), json.dumps(body).encode()
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def failures(url: str, name: str, count: int) -> list[bytes]:
    """Return callbacks of as many tasks, each unique, after which nothing is downloaded."""
    # All are equally long, so one request is the pattern of all.
    before, _, after = encode(url, failure(f"{name}-{0:08}")).rpartition(b"%08d" % 0)
    return [b"%b%08d%b" % (before, number, after) for number in range(count)]


def successes(url: str, links: Sequence[tuple[str, str]]) -> list[bytes]:
    """Return callbacks of (task id, link)."""
    return [encode(url, success(task_id, link)) for task_id, link in links]


def call(
    url: str,
    requests: Sequence[bytes],
    connections: int,
    seconds: float | None = None,
    *,
    pause_seconds: float = 0.0,
) -> Heard:
    """Send requests over kept connections, until all are answered or the time is over.

    Each connection sends its next request when it has the last answer, or `pause_seconds` later.

    Raises:
        WrongAnswer: something else than 200 came, or the server hung up or fell silent.
    """
    with _connected(url, min(connections, len(requests)), requests[0]) as (sockets, tail):
        return _Round(sockets, requests[1:], tail, pause_seconds).run(seconds)


@contextmanager
def _connected(
    url: str, connections: int, first: bytes
) -> Iterator[tuple[list[socket.socket], bytes]]:
    """Open the connections; yield them and how every good answer ends."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    place = parts.hostname, parts.port
    sockets = [socket.create_connection(place, QUIET_SECONDS) for _ in range(connections)]
    try:
        sockets[0].sendall(first)
        tail = _learn(sockets[0])
        for one in sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.settimeout(0)
        yield sockets, tail
    finally:
        for one in sockets:
            one.close()


def _learn(connection: socket.socket) -> bytes:
    """Read one answer by the rules of HTTP; return its end, which is the same for all."""
    heard = b""
    while b"\r\n\r\n" not in heard:
        heard += _more(connection)
    head, _, body = heard.partition(b"\r\n\r\n")
    if not heard.startswith(OK):
        raise WrongAnswer(heard[:300].decode(errors="replace"))
    (length,) = (
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        body += _more(connection)
    return b"\r\n\r\n" + body


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(_READ_BYTES)
    if not data:
        raise WrongAnswer("the server hung up")
    return data


class _Round:
    """The requests that are on their way, and those that are still to be sent."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        requests: Sequence[bytes],
        tail: bytes,
        pause_seconds: float,
    ) -> None:
        self._sockets = {one.fileno(): one for one in sockets}
        self._left = iter(requests)
        self._tail = tail
        self._pause_seconds = pause_seconds
        self._sent: dict[int, float] = {}
        self._partly: dict[int, bytes] = {}
        self._resting: deque[tuple[float, int]] = deque()
        self._waits: list[float] = []

    def run(self, seconds: float | None) -> Heard:
        """Send until nothing is left or the time is over, and hear every answer."""
        with select.epoll() as poll:
            for number in self._sockets:
                poll.register(number, select.EPOLLIN)
            began = perf_counter()
            until = began + (seconds if seconds is not None else _NEVER_SECONDS)
            for number in self._sockets:
                self._send(number)
            while self._sent or self._resting:
                wait = self._resting[0][0] - perf_counter() if self._resting else QUIET_SECONDS
                ready = poll.poll(max(0.0, wait))
                if not ready and not self._resting:
                    raise WrongAnswer(f"no answer within {QUIET_SECONDS:g} s")
                for number, _ in ready:
                    self._hear(number, until)
                while self._resting and self._resting[0][0] <= perf_counter():
                    _, number = self._resting.popleft()
                    if perf_counter() < until:
                        self._send(number)
            return Heard(perf_counter() - began, self._waits)

    def _hear(self, number: int, until: float) -> None:
        data = _more(self._sockets[number])
        if number in self._partly:
            data = self._partly.pop(number) + data
        if not data.startswith(OK):
            raise WrongAnswer(data[:300].decode(errors="replace"))
        if not data.endswith(self._tail):
            self._partly[number] = data
            return
        now = perf_counter()
        self._waits.append(now - self._sent.pop(number))
        if now >= until:
            return
        if self._pause_seconds:
            self._resting.append((now + self._pause_seconds, number))
        else:
            self._send(number)

    def _send(self, number: int) -> None:
        request = next(self._left, None)
        if request is not None:
            self._sent[number] = perf_counter()
            self._sockets[number].send(request)

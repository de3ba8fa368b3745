"""Opens the sockets that we listen on, and closes them without losing who already knocked.

Rule: `web.run_app` is not used: signals and the order of stopping are ours.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from aiohttp import web

from daemon.config.endpoints import bracket
from daemon.config.sections import Endpoint, TcpEndpoint
from daemon.connections import BODY_LIMIT_BYTES, Connections

BACKLOG = 4096
CROWD = 256
MOST_CONNECTIONS = 2048
MOST_CONNECTIONS_TLS = 1024
"""Half a MiB is what a stranger can make of one, with headers that never end or with TLS."""
MOST_PRIVATE_CONNECTIONS = 256
KEEPALIVE_SECONDS = 15.0
LINGER_SECONDS = 2.0
ACCEPT_SECONDS = 0.001
PAUSE_SECONDS = 0.2
"""Between closing the door and the last answers: what the kernel had accepted is read by then."""
DRAIN_SECONDS = 10.0

R = TypeVar("R", bound=web.BaseRequest)
Handler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Visits:
    """The requests that are being answered.

    aiohttp's own cleanup drops what still comes on a connection, so a callback whose body is on its
    way would be lost; it is waited for before.
    """

    def __init__(self) -> None:
        self.last = False
        """Whether the door is shut, so that each answer is the last one on its connection."""
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def begin(self) -> None:
        self._count += 1
        self._none.clear()

    def end(self) -> None:
        self._count -= 1
        if self._count == 0:
            self._none.set()

    async def wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._none.wait()


@dataclass(frozen=True, slots=True)
class _Door:
    """What belongs to one runner: its connections, its visits and its open sockets."""

    connections: Connections
    visits: _Visits = field(default_factory=_Visits)
    servers: list[asyncio.Server] = field(default_factory=list)
    waits: bool = True
    """Whether its last requests are waited for."""

    async def attend(
        self, handler: Callable[[R], Awaitable[web.StreamResponse]], request: R
    ) -> web.StreamResponse:
        """Let `handler` answer; until then this is a visit, and its connection is safe."""
        self.visits.begin()
        self.connections.answer_begins(request)
        try:
            response = await handler(request)
            if self.visits.last:
                # `Connection: close` (RFC 9112, 9.6): the next callback goes to the next process.
                response.force_close()
            return response
        finally:
            self.connections.answer_ended(request)
            self.visits.end()


class PublicRunner(web.ServerRunner):
    """Serves one handler, without the routes and middlewares of an application.

    Those would take as long as a callback's way to the disk.
    """

    def __init__(self, handler: Handler, door: _Door, **settings: Any) -> None:
        self.door = door
        server = web.Server(partial(door.attend, handler), request_factory=_request_factory())
        super().__init__(server, handle_signals=False, **settings)


class PrivateRunner(web.AppRunner):
    """Serves an application."""

    def __init__(self, app: web.Application, door: _Door, **settings: Any) -> None:
        self.door = door

        @web.middleware
        async def attend(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            return await door.attend(handler, request)

        # The outermost: a body that is read by another middleware is a visit too.
        app.middlewares.insert(0, attend)
        super().__init__(app, handle_signals=False, **settings)


Runner: TypeAlias = PublicRunner | PrivateRunner


def _request_factory() -> Callable[..., web.BaseRequest]:
    loop = asyncio.get_running_loop()

    def make(*parts: Any) -> web.BaseRequest:
        return web.BaseRequest(*parts, loop, client_max_size=BODY_LIMIT_BYTES)  # type: ignore[misc, arg-type]

    return make


class ListenFailed(Exception):
    """A socket cannot be opened; the text names it and says why."""


def public_runner(handler: Handler, most: int = MOST_CONNECTIONS) -> PublicRunner:
    """Return a runner with limits for strangers, and room for `most` connections."""
    connections = Connections(
        min(CROWD, most),
        most,
        keepalive_timeout=KEEPALIVE_SECONDS,
        lingering_time=LINGER_SECONDS,
        max_line_size=4096,
        max_field_size=4096,
        max_headers=64,
        auto_decompress=False,
    )
    return PublicRunner(handler, _Door(connections), shutdown_timeout=DRAIN_SECONDS)


def private_runner(app: web.Application) -> PrivateRunner:
    """Return a runner for the owner."""
    connections = Connections(
        MOST_PRIVATE_CONNECTIONS // 2,
        MOST_PRIVATE_CONNECTIONS,
        keepalive_timeout=KEEPALIVE_SECONDS,
        lingering_time=LINGER_SECONDS,
        auto_decompress=False,
    )
    # Who hangs up is not worked for any more: a wish that waits for its turn is withdrawn.
    return PrivateRunner(
        app, _Door(connections, waits=False), handler_cancellation=True, shutdown_timeout=1.0
    )


async def listen(
    runner: Runner, endpoint: Endpoint, mode: int, tls: ssl.SSLContext | None = None
) -> str:
    """Open one listener and return its address as a URL; `mode` is for a unix socket, `tls` is not.

    Raises:
        ListenFailed: the address is taken, not ours, or forbidden.
    """
    if isinstance(endpoint, TcpEndpoint):
        return await _listen_tcp(runner, endpoint, tls)
    path, protocol = endpoint.path, await _open(runner, None)
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_unix_server(protocol, path, backlog=BACKLOG)
    except OSError as error:
        raise ListenFailed(f"unix:{path}: {error.strerror or error}") from error
    runner.door.servers.append(server)
    await asyncio.to_thread(path.chmod, mode)
    return f"unix:{path}"


async def _listen_tcp(runner: Runner, endpoint: TcpEndpoint, tls: ssl.SSLContext | None) -> str:
    shown, protocol = bracket(endpoint.host), await _open(runner, tls)
    try:
        server = await asyncio.get_running_loop().create_server(
            protocol, endpoint.host, endpoint.port, backlog=BACKLOG
        )
    except OSError as error:
        raise ListenFailed(f"{shown}:{endpoint.port}: {error.strerror or error}") from error
    runner.door.servers.append(server)
    port = endpoint.port or server.sockets[-1].getsockname()[1]
    return f"{_scheme(tls)}://{shown}:{port}"


async def listen_on(
    runner: Runner, passed: socket.socket, tls: ssl.SSLContext | None = None
) -> str:
    """Serve a socket that somebody else bound and keeps; return its address as a URL.

    A unix socket has a proxy in front, which speaks TLS itself.
    """
    if passed.family == socket.AF_UNIX:
        tls = None
    # asyncio calls listen() once more, and a smaller backlog would shrink the queue.
    server = await asyncio.get_running_loop().create_server(
        await _open(runner, tls), sock=passed, backlog=BACKLOG
    )
    runner.door.servers.append(server)
    address = passed.getsockname()
    if passed.family == socket.AF_UNIX:
        # A name in the abstract namespace is bytes with a leading zero (unix(7)).
        path = address if isinstance(address, str) else f"@{address[1:].decode(errors='replace')}"
        return f"unix:{path}"
    return f"{_scheme(tls)}://{bracket(address[0])}:{address[1]}"


async def _open(runner: Runner, tls: ssl.SSLContext | None) -> Callable[[], asyncio.BaseProtocol]:
    """Start the application if it was not, and return what makes its connections."""
    if runner.server is None:
        await runner.setup()
    server = runner.server
    assert server is not None  # noqa: S101 - setup() makes it
    return lambda: runner.door.connections.protocol(server, tls)


def _scheme(tls: ssl.SSLContext | None) -> str:
    return "https" if tls else "http"


async def close(runners: Sequence[Runner]) -> None:
    """Stop accepting, give accepted connections a moment to be read, answer them, close.

    A passed socket is closed here only: who keeps it goes on queueing for the next process.
    """
    doors = [runner.door for runner in runners]
    for door in doors:
        # Who asks us whether we are ready is told, on the connection that he has, that we are not.
        door.visits.last = door.waits
    # A connection that asyncio has accepted gets its protocol one step later, and is dropped
    # without a word when its server was closed in between. A timer runs after those steps.
    await asyncio.sleep(ACCEPT_SECONDS)
    for door in doors:
        for server in door.servers:
            server.close()
    for door in doors:
        await door.connections.settle()
    await asyncio.sleep(PAUSE_SECONDS)
    for door in doors:
        if door.waits:
            await door.visits.wait(DRAIN_SECONDS)
    for runner in runners:
        await runner.cleanup()


def remove_socket(path: Path) -> None:
    """Remove our socket file, so that nobody knocks at a door that is gone."""
    path.unlink(missing_ok=True)

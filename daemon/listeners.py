"""Opens the sockets that we listen on, and closes them without losing who already knocked.

Rule: `web.run_app` is not used: signals and the order of stopping are ours.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aiohttp import web

from daemon.config.sections import Endpoint, TcpEndpoint

BACKLOG = 4096
KEEPALIVE_SECONDS = 15.0
LINGER_SECONDS = 2.0
ACCEPT_SECONDS = 0.001
PAUSE_SECONDS = 0.2
"""Between closing the door and the last answers: what the kernel had accepted is read by then."""
DRAIN_SECONDS = 10.0


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

    @contextmanager
    def one(self) -> Iterator[None]:
        self._count += 1
        self._none.clear()
        try:
            yield
        finally:
            self._count -= 1
            if self._count == 0:
                self._none.set()

    async def wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._none.wait()


_VISITS = web.AppKey("visits", _Visits)


@web.middleware
async def _attend(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    visits = request.app[_VISITS]
    with visits.one():
        response = await handler(request)
        if visits.last:
            # `Connection: close` (RFC 9112, 9.6): the next callback goes to the next process.
            response.force_close()
        return response


class ListenFailed(Exception):
    """A socket cannot be opened; the text names it and says why."""


def public_runner(app: web.Application) -> web.AppRunner:
    """Return a runner with limits for strangers (limits: security, not taste)."""
    app[_VISITS] = _Visits()
    app.middlewares.append(_attend)
    return web.AppRunner(
        app,
        handle_signals=False,
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        lingering_time=LINGER_SECONDS,
        max_line_size=4096,
        max_field_size=4096,
        max_headers=64,
        auto_decompress=False,
        shutdown_timeout=DRAIN_SECONDS,
    )


def private_runner(app: web.Application) -> web.AppRunner:
    """Return a runner for the owner."""
    return web.AppRunner(
        app,
        handle_signals=False,
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        # Who hangs up is not worked for any more: a wish that waits for its turn is withdrawn.
        handler_cancellation=True,
        shutdown_timeout=1.0,
    )


async def listen(runner: web.AppRunner, endpoint: Endpoint, mode: int) -> str:
    """Open one listener and return its address as a URL; `mode` is for a unix socket.

    Raises:
        ListenFailed: the address is taken, not ours, or forbidden.
    """
    await _prepare(runner)
    if isinstance(endpoint, TcpEndpoint):
        return await _listen_tcp(runner, endpoint)
    path = endpoint.path
    try:
        await web.UnixSite(runner, path, backlog=BACKLOG).start()
    except OSError as error:
        raise ListenFailed(f"unix:{path}: {error.strerror or error}") from error
    await asyncio.to_thread(path.chmod, mode)
    return f"unix:{path}"


async def listen_on(runner: web.AppRunner, passed: socket.socket) -> str:
    """Serve a socket that somebody else bound and keeps; return its address as a URL."""
    await _prepare(runner)
    # asyncio calls listen() once more, and a smaller backlog would shrink the queue.
    await web.SockSite(runner, passed, backlog=BACKLOG).start()
    address = passed.getsockname()
    if passed.family == socket.AF_UNIX:
        # A name in the abstract namespace is bytes with a leading zero (unix(7)).
        path = address if isinstance(address, str) else f"@{address[1:].decode(errors='replace')}"
        return f"unix:{path}"
    return f"http://{_show(address[0])}:{address[1]}"


async def _prepare(runner: web.AppRunner) -> None:
    if runner.server is None:
        await runner.setup()


def _show(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _listen_tcp(runner: web.AppRunner, endpoint: TcpEndpoint) -> str:
    shown = _show(endpoint.host)
    site = web.TCPSite(runner, endpoint.host, endpoint.port, backlog=BACKLOG)
    try:
        await site.start()
    except OSError as error:
        raise ListenFailed(f"{shown}:{endpoint.port}: {error.strerror or error}") from error
    port = endpoint.port or runner.addresses[-1][1]
    return f"http://{shown}:{port}"


async def close(runners: list[web.AppRunner]) -> None:
    """Stop accepting, give accepted connections a moment to be read, answer them, close.

    A passed socket is closed here only: who keeps it goes on queueing for the next process.
    """
    visited = [runner.app[_VISITS] for runner in runners if _VISITS in runner.app]
    for visits in visited:
        visits.last = True
    # A connection that asyncio has accepted gets its protocol one step later, and is dropped
    # without a word when its server was closed in between. A timer runs after those steps.
    await asyncio.sleep(ACCEPT_SECONDS)
    for runner in runners:
        for site in list(runner.sites):
            await site.stop()
    await asyncio.sleep(PAUSE_SECONDS)
    for visits in visited:
        await visits.wait(DRAIN_SECONDS)
    for runner in runners:
        await runner.cleanup()


def remove_socket(path: Path) -> None:
    """Remove our socket file, so that nobody knocks at a door that is gone."""
    path.unlink(missing_ok=True)

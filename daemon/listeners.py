"""Opens the sockets that we listen on, and closes them without losing who already knocked.

Rule: `web.run_app` is not used: signals and the order of stopping are ours.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aiohttp import web

from daemon.config.sections import Endpoint, TcpEndpoint

BACKLOG = 4096
KEEPALIVE_SECONDS = 15.0
LINGER_SECONDS = 2.0
PAUSE_SECONDS = 0.2
"""Between closing the door and the last answers: what the kernel had accepted is read by then."""
DRAIN_SECONDS = 10.0


class _Visits:
    """The requests that are being answered.

    aiohttp's own cleanup drops what still comes on a connection, so a callback whose body is on its
    way would be lost; it is waited for before.
    """

    def __init__(self) -> None:
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
    with request.app[_VISITS].one():
        return await handler(request)


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
        shutdown_timeout=1.0,
    )


async def listen(runner: web.AppRunner, endpoint: Endpoint, mode: int) -> str:
    """Open one listener and return its address as a URL; `mode` is for a unix socket.

    Raises:
        ListenFailed: the address is taken, not ours, or forbidden.
    """
    if runner.server is None:
        await runner.setup()
    if isinstance(endpoint, TcpEndpoint):
        return await _listen_tcp(runner, endpoint)
    path = endpoint.path
    try:
        await web.UnixSite(runner, path, backlog=BACKLOG).start()
    except OSError as error:
        raise ListenFailed(f"unix:{path}: {error.strerror or error}") from error
    await asyncio.to_thread(path.chmod, mode)
    return f"unix:{path}"


async def _listen_tcp(runner: web.AppRunner, endpoint: TcpEndpoint) -> str:
    shown = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    site = web.TCPSite(runner, endpoint.host, endpoint.port, backlog=BACKLOG)
    try:
        await site.start()
    except OSError as error:
        raise ListenFailed(f"{shown}:{endpoint.port}: {error.strerror or error}") from error
    port = endpoint.port or runner.addresses[-1][1]
    return f"http://{shown}:{port}"


async def close(runners: list[web.AppRunner]) -> None:
    """Stop accepting, give accepted connections a moment to be read, answer them, close."""
    for runner in runners:
        for site in list(runner.sites):
            await site.stop()
    await asyncio.sleep(PAUSE_SECONDS)
    for runner in runners:
        visits = runner.app.get(_VISITS)
        if visits is not None:
            await visits.wait(DRAIN_SECONDS)
        await runner.cleanup()


def remove_socket(path: Path) -> None:
    """Remove our socket file, so that nobody knocks at a door that is gone."""
    path.unlink(missing_ok=True)

"""The connections of one listener: how many there may be, who gives way, what garbage is told.

Rule: a stranger costs a bounded amount of memory. In a crowd those who send nothing give way, the
longest silent first, so that a flood of idle connections shuts nobody out; who is being answered
stays. No answer says what software gave it.
"""

# mypy: disable-error-code="explicit-override"
# typing.override came with Python 3.12.

import asyncio
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from daemon.strikes import Strikes

SERVER: Final = "suno-videod"
HANDSHAKE_SECONDS: Final = 5.0
"""For TLS; asyncio's own default is a minute."""
FAREWELL_SECONDS: Final = 2.0
"""How long the end of TLS is waited for, from somebody who may be gone."""
PATIENCE_SECONDS: Final = 2.0
"""Nobody gives way before that: of a burst of callbacks most are connected and not read yet."""

_log = structlog.get_logger()


class Connections:
    """The connections of one listener; `protocol` is what asyncio's servers call for each.

    Beyond `crowd` connections the longest silent one is closed for each that comes, and beyond
    `most` there is no room for any more. `limits` go to aiohttp's request handler.
    """

    def __init__(self, crowd: int, most: int, **limits: Any) -> None:
        self._crowd = crowd
        self._most = most
        self._limits = limits
        self.garbled = Strikes(time.monotonic)
        self._coming: set[asyncio.BaseProtocol] = set()
        self._open: set[_Connection] = set()
        self._silent: dict[_Connection, float] = {}

    def protocol(self, server: web.Server, tls: ssl.SSLContext | None) -> asyncio.BaseProtocol:
        """Make the protocol of a connection that was just accepted."""
        loop = asyncio.get_running_loop()
        if len(self._open) + len(self._coming) >= self._most:
            return _TurnedAway()
        if len(self._open) >= self._crowd:
            self._make_room(loop.time() - PATIENCE_SECONDS)
        connection = _Connection(self, server, loop=loop, **self._limits)
        self._coming.add(connection)
        return connection if tls is None else _Handshake(connection, tls)

    def _make_room(self, before: float) -> None:
        """Close the connection that has been silent for longest, if it is since `before`."""
        longest = next(iter(self._silent), None)
        if longest is not None and self._silent[longest] <= before:
            self.remove(longest)
            transport = longest.transport
            longest.force_close()
            if transport is not None:
                # Not politely: over TLS the farewell of somebody silent takes its time.
                transport.abort()

    def add(self, connection: "_Connection") -> None:
        """Count a connection that stands."""
        self._coming.discard(connection)
        self._open.add(connection)
        self._silent[connection] = asyncio.get_running_loop().time()

    def remove(self, connection: "_Connection") -> None:
        """Forget a connection that ended, or never came about."""
        self._coming.discard(connection)
        self._open.discard(connection)
        self._silent.pop(connection, None)

    @contextmanager
    def answering(self, request: web.Request) -> Iterator[None]:
        """Let nobody close the connection of this request for somebody else."""
        connection = request.protocol
        assert isinstance(connection, _Connection)  # noqa: S101 - `protocol` makes no other
        self._silent.pop(connection, None)
        try:
            yield
        finally:
            if connection in self._open:
                self._silent[connection] = asyncio.get_running_loop().time()


class _Connection(web.RequestHandler):
    """One connection: aiohttp's, counted, and with answers of ours to what it cannot parse."""

    def __init__(self, connections: Connections, server: web.Server, **limits: Any) -> None:
        super().__init__(server, access_log=None, **limits)  # type: ignore[arg-type] # no log at all
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.add(self)
        super().connection_made(transport)

    def remove(self) -> None:
        """Give the place free."""
        self._connections.remove(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.remove()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - the parser's words hold the line it met
    ) -> web.StreamResponse:
        """Answer what no handler answered; aiohttp's own answer carries its name and version.

        Raises:
            ConnectionError: an answer is half sent.
        """
        client = request.remote or ""
        if isinstance(exc, HttpProcessingError):
            # Scanners send such things all day, and the line of the request may hold a token.
            if not self._connections.garbled.count(client):
                _log.info("http.malformed", remote=client, why=type(exc).__name__)
        else:
            _log.error("http.failed", remote=client, status=status, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("half of an answer was sent already")
        response = web.Response(status=status, headers={"Server": SERVER})
        response.force_close()
        return response


class _Handshake(asyncio.Protocol):
    """A connection that is to speak TLS first.

    asyncio's own TLS servers hand a connection over after its handshake, and nobody could count
    those that hang in it.
    """

    def __init__(self, connection: _Connection, tls: ssl.SSLContext) -> None:
        self._connection = connection
        self._tls = tls
        self._early = bytearray()
        self._lost = False
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a socket's is
        transport.pause_reading()
        self._task = asyncio.get_running_loop().create_task(self._shake(transport))

    def data_received(self, data: bytes) -> None:
        self._early += data

    def connection_lost(self, _: BaseException | None) -> None:
        self._lost = True

    async def _shake(self, transport: asyncio.Transport) -> None:
        try:
            secured = await asyncio.get_running_loop().start_tls(
                *(transport, self, self._tls),
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=FAREWELL_SECONDS,
            )
        except OSError:
            secured = None
        if secured is None or self._lost:
            self._connection.remove()
            transport.abort()
            return
        secured.set_protocol(self._connection)
        self._connection.connection_made(secured)
        if self._early:
            self._connection.data_received(bytes(self._early))


class _TurnedAway(asyncio.Protocol):
    """A connection for which there is no room."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a socket's is
        transport.abort()


async def hide_software(_: web.Request, response: web.StreamResponse) -> None:
    """Name no library and no version; for `on_response_prepare`."""
    response.headers["Server"] = SERVER

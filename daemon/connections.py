"""The connections of one listener: how many there may be, who gives way, what garbage is told.

Rule: a stranger costs a bounded amount of memory. In a crowd somebody silent gives way to each that
comes: of the client that has most of them, the longest silent, so that no flood from one place
shuts others out. Who is being answered stays. No answer says what software gave it.
"""

# mypy: disable-error-code="explicit-override"
# typing.override came with Python 3.12.

import asyncio
import math
import ssl
import time
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from typing import Any, Final, cast

import structlog
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError

from daemon.rules.forwarded import group_client
from daemon.strikes import STRIKES_SECONDS, Strikes

SERVER: Final = "suno-videod"
BODY_LIMIT_BYTES: Final = 64 << 10
"""Of a callback."""
HANDSHAKE_SECONDS: Final = 5.0
"""For TLS; asyncio's own default is a minute."""
FAREWELL_SECONDS: Final = 2.0
"""How long the end of TLS is waited for, from somebody who may be gone."""
SETTLE_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 1.0
"""Who comes from the same place gives way no sooner: of a burst of callbacks most are connected and
not read yet."""

_log = structlog.get_logger()


class Connections:
    """The connections of one listener; `protocol` is what asyncio's servers call for each.

    Beyond `crowd` silent connections one gives way to each that comes, and the others when their
    patience is over. Beyond `most` who finds nobody to give way is turned away. `limits` go to
    aiohttp's request handler.
    """

    def __init__(self, crowd: int, most: int, **limits: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._crowd = crowd
        self._most = most
        self._limits = limits
        self.garbled = Strikes(time.monotonic)
        self.tell: Callable[[str, str], None] = lambda _cause, _client: None
        """Told of everybody who gets no answer of a handler: why, and who."""
        self._open: set[_Connection] = set()
        self._silent: dict[str, dict[_Connection, float]] = {}
        """Of each client, the longest silent first."""
        self._silent_count = 0
        self._thinning: asyncio.TimerHandle | None = None
        self._shaking: set[asyncio.Task[None]] = set()
        self._turned_away_at = -math.inf

    def protocol(self, server: web.Server, tls: ssl.SSLContext | None) -> asyncio.BaseProtocol:
        """Make the protocol of a connection that was just accepted."""
        connection = _Connection(self, server, **self._limits)
        return connection if tls is None else _Handshake(connection, tls)

    def admit(self, connection: "_Connection", transport: asyncio.Transport) -> bool:
        """Let a connection in, or abort it; before TLS begins, for a handshake takes room too."""
        peer = transport.get_extra_info("peername")
        connection.client = group_client(str(peer[0])) if isinstance(peer, tuple) else ""
        connection.carrier = transport
        if self._silent_count >= self._crowd or len(self._open) >= self._most:
            self._make_room(connection.client)
        if len(self._open) >= self._most:
            transport.abort()
            self.tell("crowded", connection.client)
            self._say_turned_away()
            return False
        self._open.add(connection)
        self._hush(connection)
        return True

    def begin(self, shaking: Coroutine[Any, Any, None]) -> None:
        """Let a handshake run."""
        task = asyncio.get_running_loop().create_task(shaking)
        self._shaking.add(task)
        task.add_done_callback(self._shaking.discard)

    async def settle(self) -> None:
        """Wait a moment for those who are shaking hands: a callback comes behind it."""
        if self._shaking:
            await asyncio.wait(self._shaking, timeout=SETTLE_SECONDS)

    def _make_room(self, newcomer: str) -> None:
        """Close the longest silent connection of the client that has most of them.

        A client's own have a moment of patience; others' have not, or a burst would keep him out.
        """
        if not self._silent:
            return
        client = max(self._silent, key=lambda one: len(self._silent[one]))
        connection, since = next(iter(self._silent[client].items()))
        patient = client == newcomer or len(self._silent[client]) == 1
        if not patient or self._loop.time() - since >= PATIENCE_SECONDS:
            self._close(connection)

    def _thin(self) -> None:
        """Close those beyond the crowd whose patience is over, also when nobody comes."""
        self._thinning = None
        before = self._loop.time() - PATIENCE_SECONDS
        oldest = sorted(
            ((since, one) for of in self._silent.values() for one, since in of.items()),
            key=lambda pair: pair[0],
        )
        for since, connection in oldest[: max(0, self._silent_count - self._crowd)]:
            if since <= before:
                self._close(connection)
        self._watch_crowd()

    def _watch_crowd(self) -> None:
        if self._silent_count > self._crowd and self._thinning is None:
            loop = asyncio.get_running_loop()
            self._thinning = loop.call_later(PATIENCE_SECONDS / 2, self._thin)

    def _close(self, connection: "_Connection") -> None:
        self.remove(connection)
        connection.force_close()
        if connection.carrier is not None:
            # Not politely: over TLS the farewell of somebody silent takes its time.
            connection.carrier.abort()

    def _say_turned_away(self) -> None:
        """Once a minute: it is a flood, and the log need not be one."""
        if self._loop.time() - self._turned_away_at >= STRIKES_SECONDS:
            self._turned_away_at = self._loop.time()
            _log.warning("http.crowded", connections=len(self._open))

    def _hush(self, connection: "_Connection") -> None:
        self._silent.setdefault(connection.client, {})[connection] = self._loop.time()
        self._silent_count += 1
        self._watch_crowd()

    def _rouse(self, connection: "_Connection") -> None:
        of_client = self._silent.get(connection.client, {})
        if of_client.pop(connection, None) is not None:
            self._silent_count -= 1
        if not of_client:
            self._silent.pop(connection.client, None)

    def remove(self, connection: "_Connection") -> None:
        """Forget a connection that ended, or never came about."""
        self._open.discard(connection)
        self._rouse(connection)

    def answer_begins(self, request: web.BaseRequest) -> None:
        """Let nobody close the connection of this request for somebody else."""
        connection = request.protocol
        assert isinstance(connection, _Connection)  # noqa: S101 - `protocol` makes no other
        self._rouse(connection)

    def answer_ended(self, request: web.BaseRequest) -> None:
        """Its connection may be closed again."""
        connection = request.protocol
        if isinstance(connection, _Connection) and connection in self._open:
            self._hush(connection)


class _Connection(web.RequestHandler):
    """One connection: aiohttp's, counted, and with answers of ours to what it cannot parse."""

    def __init__(self, connections: Connections, server: web.Server, **limits: Any) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, access_log=None, **limits)  # type: ignore[arg-type] # no log
        self.connections = connections
        self.client = ""
        self.carrier: asyncio.Transport | None = None
        """What carries it, below TLS."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Another event loop's need not be a subclass: it only has the same methods.
        transport = cast("asyncio.Transport", transport)
        if self.carrier is None and not self.connections.admit(self, transport):
            return
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.connections.remove(self)
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
            self.connections.tell("malformed", client)
            if not self.connections.garbled.count(client):
                _log.info("http.malformed", remote=client, why=type(exc).__name__)
        else:
            _log.error("http.failed", remote=client, status=status, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("half of an answer was sent already")
        response = web.Response(status=status, headers={"Server": SERVER})
        response.force_close()
        return response


class Prepared:
    """The bytes of an answer 200, made once a second: its date is all that ever changes."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self._second = -1
        self._whole = b""

    def whole(self) -> bytes:
        """Return head and body, for a connection of HTTP/1.1 that stays open."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._whole = (
                f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(self.body)}\r\nServer: {SERVER}\r\n"
                f"Date: {formatdate(second, usegmt=True)}\r\n\r\n"
            ).encode() + self.body
        return self._whole


class PreparedResponse(web.StreamResponse):
    """Sends an answer that was prepared, where it fits; aiohttp makes one of its own where not."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__()
        self.prepared_answer = prepared
        self.fits = False

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection stays open; None: as the request wishes."""
        return True if self.fits else super().keep_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send all of it at once, or begin as aiohttp does."""
        # `force_close` was called when it is False.
        stays = request.keep_alive and super().keep_alive is not False
        if stays and request.version == HttpVersion11:
            self.fits = True
            await request.writer.write(self.prepared_answer.whole())
            return None
        self.content_type = "application/json"
        self.content_length = len(self.prepared_answer.body)
        self.headers["Server"] = SERVER
        return await super().prepare(request)

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the body, where it was not sent yet."""
        if not self.fits:
            await super().write_eof(data or self.prepared_answer.body)


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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        transport.pause_reading()
        if self._connection.connections.admit(self._connection, transport):
            self._connection.connections.begin(self._shake(transport))

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
        except OSError as failed:
            # Its frames hold the buffers of a connection that is gone, in a circle.
            failed.__traceback__ = None
            secured = None
        if secured is None or self._lost:
            self._connection.connections.remove(self._connection)
            transport.abort()
            return
        secured.set_protocol(self._connection)
        self._connection.connection_made(secured)
        if self._early:
            self._connection.data_received(bytes(self._early))


async def invite(request: web.BaseRequest) -> None:
    """Ask for the body where the sender waits to be asked: RFC 9110, 10.1.1.

    HTTP/1.0 knows no such answer, and would take it for the last one.
    """
    if "Expect" in request.headers and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # It is no half of an answer: what goes wrong from here on can still be told.
        request.writer.output_size = 0


def read_encoding(request: web.BaseRequest) -> str:
    """Return all Content-Encoding headers as one, `identity` for a body as it is."""
    if "Content-Encoding" not in request.headers:
        return "identity"
    return ",".join(request.headers.getall("Content-Encoding")).strip().lower()


async def hide_software(_: web.Request, response: web.StreamResponse) -> None:
    """Name no library and no version; for `on_response_prepare`."""
    response.headers["Server"] = SERVER

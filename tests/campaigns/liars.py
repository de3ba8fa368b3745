"""A file host that writes its own bytes on the socket, and so can misbehave in any way.

Rule: what is sent is built honestly first and bent by a `Lie` afterwards; the host itself decides
nothing. It counts what it sends, so that a waste of bytes can be seen.
"""

import array
import asyncio
import fcntl
import ssl
import struct
import termios
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from socket import SHUT_WR, SO_LINGER, SOL_SOCKET
from typing import Final, Literal

import trustme

Framing = Literal["length", "chunked", "close"]
Scheme = Literal["http", "https"]
How = Literal["fin", "unsaid fin", "reset", "stall", "drip"]
"""How a stream goes on behind its break; `unsaid fin` is a TLS end without close_notify."""

CHUNK_BYTES: Final = 64 << 10
DRIP_BYTES: Final = 50
DRIP_SECONDS: Final = 0.02
READ_SECONDS: Final = 0.02
"""How long before a break its bytes arrive: aiohttp forgets what it has not handed out by then."""
READ_TURNS: Final = 30
LEAVE_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    path: str
    headers: Mapping[str, str]

    @property
    def start(self) -> int | None:
        """The first byte that is asked for, None when the whole file is."""
        value = self.headers.get("range")
        return None if value is None else int(value.removeprefix("bytes=").partition("-")[0])

    @property
    def probes(self) -> bool:
        """Whether only the total is asked for."""
        return self.headers.get("range") == "bytes=0-0"


@dataclass(slots=True)
class Answer:
    """What is about to be sent; a lie changes it."""

    status: str
    headers: dict[str, str]
    body: bytes
    framing: Framing
    raw: bytes | None = None
    """Sent in place of all this."""
    wrong_frame: Callable[[bytes], bytes] | None = None
    """Spoils the finished body, chunk headers included."""

    def render(self) -> "Wire":
        """Return the bytes that stand for it."""
        if self.raw is not None:
            return Wire(len(self.raw), self.raw, 0, None)
        headers, body, starts = dict(self.headers), self.body, None
        if self.framing == "length":
            headers.setdefault("Content-Length", str(len(body)))
        elif self.framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
            body, starts = _cut_into_chunks(body)
        if self.wrong_frame is not None:
            body = self.wrong_frame(body)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {self.status}\r\nConnection: close\r\n{lines}\r\n".encode()
        return Wire(len(head), head + body, len(self.body), starts)


@dataclass(frozen=True, slots=True)
class Wire:
    """An answer as bytes, and where things are in it."""

    head_bytes: int
    content: bytes
    body_bytes: int
    chunk_starts: list[int] | None
    """Where in the framed body each chunk's data begin; None when it is not chunked."""

    def place(self, position: int) -> int:
        """Return where the stream is when `position` bytes of the body have been sent."""
        position = min(position, self.body_bytes)
        if not self.chunk_starts:
            return self.head_bytes + position
        chunk = max(0, position - 1) // CHUNK_BYTES
        return self.head_bytes + self.chunk_starts[chunk] + position - chunk * CHUNK_BYTES


def _cut_into_chunks(body: bytes) -> tuple[bytes, list[int]]:
    framed, starts = bytearray(), list[int]()
    for start in range(0, len(body), CHUNK_BYTES):
        chunk = body[start : start + CHUNK_BYTES]
        framed += b"%x\r\n" % len(chunk)
        starts.append(len(framed))
        framed += chunk + b"\r\n"
    return bytes(framed) + b"0\r\n\r\n", starts


Place = Callable[[Wire], int]
Bend = Callable[["Scene", Answer], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lie:
    """One way to misbehave, and how an attempt that meets it has to end.

    `fresh` and `resumed` hold the allowed ends by framing; a framing that is not in there is not
    played. `requests` is how many requests of an attempt are lied to; `hasty` makes the daemon
    lose patience soon, for hosts that go silent. `waits` are the bounds of the pause afterwards,
    in seconds.
    """

    name: str
    fresh: Mapping[Framing, tuple[str, ...]]
    resumed: Mapping[Framing, tuple[str, ...]]
    bend: Bend | None = None
    breaks_at: Place | None = None
    how: How = "fin"
    requests: int = 1
    probes: bool = False
    schemes: tuple[Scheme, ...] = ("http", "https")
    hasty: bool = False
    large: bool = False
    saves: bool = False
    """Whether the host only breaks off, so that all it sent can be kept."""
    waits: tuple[float, float] | None = None


@dataclass(slots=True, kw_only=True)
class Scene:
    """What a host has to say about one film, and what it was asked."""

    key: str
    film: bytes
    framing: Framing
    etag: str = '"v1"'
    lie: Lie | None = None
    lies_left: int = 0
    asked: list[tuple[Asked, str]] = field(default_factory=list)
    """The requests of the present attempt, with the status of their answers."""
    sent_bytes: int = 0
    lies_told: int = 0
    path: str = ""
    """What is being asked for."""
    host: "Liar | None" = None
    scheme: Scheme = "http"

    def begin(self, lie: Lie | None) -> None:
        """Play `lie`, or none, in the next attempt."""
        self.lie, self.lies_left = lie, lie.requests if lie else 0
        self.asked.clear()

    def answer(self, asked: Asked) -> tuple[Answer, Lie | None]:
        """Answer a request, honestly or not."""
        self.path = asked.path
        answer = self._answer_honestly(asked)
        lie = self.lie
        if lie is None or (asked.probes and not lie.probes) or self.lies_left == 0:
            lie = None
        else:
            self.lies_left -= 1
            self.lies_told += 1
            if lie.bend is not None:
                lie.bend(self, answer)
        self.asked.append((asked, answer.status))
        return answer, lie

    def _answer_honestly(self, asked: Asked) -> Answer:
        total, start = len(self.film), asked.start
        headers = {"Content-Type": "video/mp4", "Accept-Ranges": "bytes", "ETag": self.etag}
        if start is None or asked.headers.get("if-range", self.etag) != self.etag:
            return Answer("200 OK", headers, self.film, self.framing)
        last = 0 if asked.probes else total - 1
        headers["Content-Range"] = f"bytes {start}-{last}/{total}"
        return Answer("206 Partial Content", headers, self.film[start : last + 1], self.framing)


class Liar:
    """The host: an honest door for each scheme, and some whose certificates are no good."""

    def __init__(self) -> None:
        self.scenes: dict[str, Scene] = {}
        self.doors: dict[str, str] = {}
        self.context = ssl.create_default_context()
        self._visits: set[asyncio.Task[None]] = set()

    def link(self, key: str, scheme: Scheme, number: int = 0) -> str:
        """Return a link to a film; every number is another link."""
        return f"{self.doors[scheme]}/{key}/film.mp4?signature={number}"

    async def open_door(self, name: str, context: ssl.SSLContext | None) -> asyncio.Server:
        """Listen under a name."""
        server = await asyncio.start_server(self._welcome, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        self.doors[name] = f"{'https' if context else 'http'}://127.0.0.1:{port}"
        return server

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = asyncio.create_task(self._visit(reader, writer))
        self._visits.add(visit)
        visit.add_done_callback(self._visits.discard)

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Who asked may have left at any moment: that ends a visit, and is no failure of ours.
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.split("\r\n")[:-2]
            pairs = (line.split(": ", 1) for line in lines)
            asked = Asked(first.split(" ")[1], {name.lower(): value for name, value in pairs})
            scene = self.scenes[asked.path.split("/")[1]]
            answer, lie = scene.answer(asked)
            async with asyncio.timeout(LEAVE_SECONDS):
                await _play(reader, writer, scene, answer.render(), lie)
        if not writer.transport.is_closing():
            writer.transport.abort()

    async def close(self) -> None:
        """Send everybody home."""
        visits = list(self._visits)
        for visit in visits:
            visit.cancel()
        await asyncio.gather(*visits, return_exceptions=True)


async def _play(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    scene: Scene,
    wire: Wire,
    lie: Lie | None,
) -> None:
    """Send an answer as far as the lie lets it come, and do what the lie does then."""
    breaks = lie is not None and lie.breaks_at is not None
    end = lie.breaks_at(wire) if lie and lie.breaks_at else len(wire.content)
    for start in range(0, end, CHUNK_BYTES * 4):
        piece = wire.content[start : min(end, start + CHUNK_BYTES * 4)]
        writer.write(piece)
        await writer.drain()
        scene.sent_bytes += len(piece)
    scene.sent_bytes -= min(end, wire.head_bytes)
    how: How = lie.how if lie is not None and breaks else "fin"
    if how == "drip":
        for start in range(end, len(wire.content), DRIP_BYTES):
            writer.write(wire.content[start : start + DRIP_BYTES])
            await writer.drain()
            await asyncio.sleep(DRIP_SECONDS)
    if breaks:
        await _until_sent(writer)
        await asyncio.sleep(READ_SECONDS)
        # On a busy machine this is no time at all: whoever reads has to have had a turn, too.
        for _ in range(READ_TURNS):
            await asyncio.sleep(0)
    if writer.transport.is_closing():
        return
    if how == "reset":
        door = writer.get_extra_info("socket")
        door.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    elif how == "unsaid fin":
        writer.get_extra_info("socket").shutdown(SHUT_WR)
        await reader.read()
    elif how == "stall":
        await reader.read()
    else:
        writer.close()
        await writer.wait_closed()


async def _until_sent(writer: asyncio.StreamWriter) -> None:
    """Wait until the other side's kernel has everything."""
    transport = writer.transport
    protocol = getattr(transport, "_ssl_protocol", None)
    plain = transport if protocol is None else protocol._transport
    queued = array.array("i", [0])
    while not transport.is_closing():
        fcntl.ioctl(writer.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
        held = 0 if protocol is None else protocol._get_write_buffer_size()
        if queued[0] == 0 and plain.get_write_buffer_size() + held == 0:
            return
        await asyncio.sleep(0.001)


@asynccontextmanager
async def liar() -> AsyncIterator[Liar]:
    """Run the host, and an authority that `Liar.context` trusts."""
    host, authority, stranger = Liar(), trustme.CA(), trustme.CA()
    authority.configure_trust(host.context)
    past = datetime.now(UTC) - timedelta(days=30)
    certificates = {
        "https": authority.issue_cert("127.0.0.1"),
        "expired": authority.issue_cert(
            "127.0.0.1", not_before=past, not_after=past + timedelta(days=1)
        ),
        "unknown authority": stranger.issue_cert("127.0.0.1"),
        "another name": authority.issue_cert("files.example.com"),
    }
    async with AsyncExitStack() as stack:
        stack.push_async_callback(host.close)
        stack.callback((await host.open_door("http", None)).close)
        for name, certificate in certificates.items():
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            certificate.configure_cert(context)
            stack.callback((await host.open_door(name, context)).close)
        yield host

"""A client that says whatever bytes it likes, for tests of what a listener bears."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back until the other side hung up, or nothing more came in time."""

    text: str
    closed: bool
    seconds: float

    @property
    def status(self) -> int:
        """The status of the first answer, 0 when there was none."""
        return int(self.text.split(" ", 2)[1]) if self.text.startswith("HTTP/") else 0

    @property
    def statuses(self) -> list[int]:
        """The status of each answer."""
        return [int(part.split(" ", 1)[0]) for part in self.text.split("HTTP/1.1 ")[1:]]


def place(url: str) -> tuple[str, int]:
    """Return host and port of a URL."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


async def say(
    url: str, *pieces: bytes, pause: float = 0.0, patience: float = 10.0, end: bool = False
) -> Heard:
    """Send the pieces, `pause` seconds apart, and listen meanwhile; `end` hangs up our half."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(*place(url))
    sending = asyncio.create_task(_send(writer, pieces, pause, end=end))
    heard, closed = bytearray(), False
    try:
        async with asyncio.timeout(patience):
            while piece := await reader.read(65_536):
                heard += piece
            closed = True
    except TimeoutError:
        pass
    except ConnectionError:
        closed = True
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.transport.abort()
    return Heard(heard.decode("latin-1"), closed, time.monotonic() - began)


async def _send(
    writer: asyncio.StreamWriter, pieces: Iterable[bytes], pause: float, *, end: bool
) -> None:
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause)
    if end:
        writer.write_eof()


def request(
    line: str, *headers: str, host: str | None = "h", body: bytes = b"", framed: bool = True
) -> bytes:
    """Write a request; `framed` adds its Content-Length."""
    lines = [f"{line} HTTP/1.1"]
    lines += [f"Host: {host}"] if host is not None else []
    lines += [f"Content-Length: {len(body)}"] if framed and body else []
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body

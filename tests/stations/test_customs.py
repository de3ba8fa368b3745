"""Every trouble of the network leaves `outbound` as one of ours, and without a link in it."""

import asyncio
import errno
import gzip
import socket
import struct
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network

import aiohttp
import pytest
from aiohttp.http_exceptions import TransferEncodingError

from daemon.outbound import api_session, customs, file_session, get_file, read_answer, read_chunk
from daemon.rules.address import AddressPolicy, AddressRefused
from daemon.rules.failure import Reason, StepFailed, Trouble

LOOPBACK = AddressPolicy(allow_http=True, allow_private=(ip_network("127.0.0.0/8"),))
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfilm\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfilm"
RESET, STALL = b"<reset>", b"<stall>"
SIGNED = "?sig=" + "5ec" + "ret"  # in parts, for a traceback prints the source as well


async def perform(act: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a packet, or arrange a reset at the end, or wait until the client gives up."""
    if act is STALL:
        await reader.read()
    elif act is RESET:
        plug = writer.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        writer.write(act)
        await asyncio.sleep(0.03)


@asynccontextmanager
async def host(*acts: bytes) -> AsyncIterator[int]:
    """Run a raw server that performs `acts` for whoever asks and hangs up; yield its port."""
    visits: set[asyncio.Task[None]] = set()

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            for act in acts:
                await perform(act, reader, writer)
        writer.close()

    def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.add(asyncio.create_task(visit(reader, writer)))

    server = await asyncio.start_server(welcome, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*visits), 5)


async def fetch(port: int) -> bytes:
    """Get a whole file behind a signed link."""
    link = f"http://127.0.0.1:{port}/a{SIGNED}"
    body = b""
    async with (
        file_session(lambda: LOOPBACK, 0.3, 0.3, 1) as session,
        get_file(session, link, LOOPBACK, {}) as response,
    ):
        while chunk := await read_chunk(response, 0.5):
            body += chunk
    return body


def assert_says_no_link(error: BaseException) -> None:
    """Hold that neither the message nor a printed traceback shows the signature."""
    printed = "".join(traceback.format_exception(error))
    assert SIGNED not in f"{error}{error!r}{printed}"


@pytest.mark.parametrize(
    ("acts", "reason", "words"),
    [
        ([], Reason.NETWORK, "hung up"),
        ([RESET], Reason.NETWORK, "connection broke: Connection reset"),
        ([f"nonsense {SIGNED}\r\n\r\n".encode()], Reason.NETWORK, "not proper HTTP"),
        ([b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000], Reason.NETWORK, "not proper HTTP"),
        ([b"HTTP/1.1 200 OK\r\n"], Reason.NETWORK, "hung up"),
        ([SIZED], Reason.NETWORK, "body broke off"),
        ([SIZED, RESET], Reason.NETWORK, "body broke off"),
        ([CHUNKED], Reason.NETWORK, "body broke off"),
        ([CHUNKED + b"zz\r\n"], Reason.NETWORK, "not proper HTTP"),
        ([CHUNKED, b"zz\r\n", STALL], Reason.STALLED, "silent"),
        ([STALL], Reason.STALLED, "silent"),
        ([b"HTTP/1.1 200 OK\r\n", STALL], Reason.STALLED, "silent"),
        ([SIZED, STALL], Reason.STALLED, "silent"),
    ],
)
async def test_a_failing_host_is_trouble(acts: Sequence[bytes], reason: Reason, words: str) -> None:
    """Cut, reset, malformed or silent: the step may be tried again, and never hangs."""
    async with host(*acts) as port:
        with pytest.raises(Trouble, match=words) as caught:
            await asyncio.wait_for(fetch(port), 5)
    assert caught.value.reason is reason
    assert_says_no_link(caught.value)


async def test_a_host_that_is_down_is_trouble() -> None:
    """A refused connection is told with place and cause."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(Trouble, match=f"{port} cannot be connected: .* failed") as caught:
            await fetch(port)
    assert caught.value.reason is Reason.NETWORK
    assert_says_no_link(caught.value)


async def test_a_connection_that_takes_too_long_is_the_networks_fault() -> None:
    """A full backlog answers nothing: that is no stalled download, for none had begun."""
    with socket.socket() as busy, socket.socket() as first, socket.socket() as second:
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)  # noqa: FBT003 - the standard library's own signature
            waiting.connect_ex(busy.getsockname())
        with pytest.raises(Trouble, match="too long") as caught:
            await fetch(busy.getsockname()[1])
    assert caught.value.reason is Reason.NETWORK
    assert_says_no_link(caught.value)


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (TimeoutError(), Reason.STALLED, "silent"),
        (TransferEncodingError(SIGNED), Reason.NETWORK, "not proper HTTP"),
        (aiohttp.InvalidURL(f"https://a.com/{SIGNED}"), Reason.NETWORK, "InvalidURL"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), Reason.NETWORK, "unreachable"),
        (OSError(f"https://a.com/{SIGNED}"), Reason.NETWORK, "OSError"),
    ],
)
def test_a_foreign_error_is_translated(error: Exception, reason: Reason, words: str) -> None:
    """What aiohttp lets through from deeper down is translated too."""
    with pytest.raises(Trouble, match=words) as caught, customs():
        raise error
    assert caught.value.reason is reason
    assert_says_no_link(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        RuntimeError("Session is closed"),
        asyncio.CancelledError(),
        AddressRefused("ours already"),
        StepFailed(Reason.DAMAGED, "ours already"),
    ],
)
def test_bugs_and_our_own_errors_pass_through(error: BaseException) -> None:
    """A bug is not the host's fault, and a refusal is not made a trouble."""
    with pytest.raises(type(error)) as caught, customs():
        raise error
    assert caught.value is error


async def test_an_answer_is_read_to_its_limit_and_no_further() -> None:
    """A body of the permitted size is whole; one byte more is trouble."""
    async with (
        host(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234", b"56789") as port,
        api_session(f"http://127.0.0.1:{port}", lambda: None) as session,
    ):
        assert await read_answer(await session.get("a"), 9) == b"123456789"
        with pytest.raises(Trouble, match="longer than 8 bytes"):
            await read_answer(await session.get("a"), 8)


async def test_a_compressed_flood_is_cut_off() -> None:
    """The limit counts what comes out of the decompression."""
    flood = gzip.compress(bytes(64 * 1024 * 1024))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(flood)}\r\n\r\n"
    async with (
        host(head.encode() + flood) as port,
        api_session(f"http://127.0.0.1:{port}/", lambda: None) as session,
    ):
        with pytest.raises(Trouble, match="longer than 1048576 bytes"):
            await read_answer(await session.get("a"))


@pytest.mark.parametrize(
    ("acts", "reason"),
    [
        ([SIZED], Reason.NETWORK),
        ([b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nfilm"], Reason.NETWORK),
        ([SIZED, STALL], Reason.STALLED),
    ],
)
async def test_an_answer_that_breaks_off_is_trouble(acts: Sequence[bytes], reason: Reason) -> None:
    """Half an answer is none, and the whole call has one time limit."""
    async with (
        host(*acts) as port,
        api_session(f"http://127.0.0.1:{port}/", lambda: None, 0.3) as session,
    ):
        with pytest.raises(Trouble) as caught:
            await read_answer(await session.get(f"a{SIGNED}"))
    assert caught.value.reason is reason
    assert_says_no_link(caught.value)

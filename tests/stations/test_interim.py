"""What a host says before it answers: a little is borne, no more."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest

from daemon.interim import MOST
from daemon.outbound import post_session

INTERIM = b"HTTP/1.1 103 Early Hints\r\n\r\n"
LAST = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"

Talk = Callable[[asyncio.StreamWriter], None]


@asynccontextmanager
async def talking(talk: Talk) -> AsyncIterator[str]:
    """Run a host that says something to everybody who asks."""
    answering: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        talk(writer)
        # Until the other side hangs up.
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    await asyncio.gather(*(task for task in answering if task))


@pytest.mark.parametrize("count", [0, 1, MOST])
async def test_a_host_may_say_that_it_is_still_at_work(count: int) -> None:
    """The answer behind that is the answer; the next one begins anew."""
    async with (
        talking(lambda writer: writer.write(INTERIM * count + LAST)) as url,
        post_session() as session,
    ):
        for _ in range(2):
            async with session.get(url) as response:
                assert await response.read() == b"ok"


@pytest.mark.parametrize("count", [MOST + 1, 10_000])
async def test_a_host_that_says_nothing_else_is_left(count: int) -> None:
    """It is a failure of the network, and no answer, also where one follows."""
    async with (
        talking(lambda writer: writer.write(INTERIM * count + LAST)) as url,
        post_session() as session,
        asyncio.timeout(10),
    ):
        with pytest.raises(aiohttp.ServerDisconnectedError, match="interim"):
            await session.get(url)

"""How many connections a listener has: who is counted, who gives way, and what is logged."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from daemon import connections, listeners
from daemon.config.endpoints import TcpEndpoint
from daemon.config.tls import load_tls
from daemon.listeners import close, listen, listen_on, public_runner
from tests.security.wire import place, request, say

Talk = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Room = Callable[..., Coroutine[None, None, str]]

ASK = request("GET /")
LAST = request("GET /", "Connection: close")


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    """Open a listener with room for so many, which answers all with 404; closed at the end."""
    async with AsyncExitStack() as stack:

        async def refuse(request: web.BaseRequest) -> web.Response:
            if request.path == "/broken":
                answer = web.StreamResponse()
                await answer.prepare(request)
                await answer.write(b"half of it")
                raise RuntimeError("a bug of this test")
            if request.path == "/slow":
                await asyncio.sleep(0.2)
            if request.path == "/bug":
                raise RuntimeError("another bug of this test")
            return web.Response(status=404)

        async def make(most: int, tls: ssl.SSLContext | None = None) -> str:
            runner = public_runner(refuse, most)
            stack.push_async_callback(close, [runner])
            return await listen(runner, TcpEndpoint("127.0.0.1", 0), 0o660, tls)

        yield make


async def ask(talk: Talk) -> bytes:
    """Ask once; return the first line of the answer, empty where the connection is shut."""
    reader, writer = talk
    try:
        writer.write(ASK)
        line = await asyncio.wait_for(reader.readline(), 5)
        if line:
            await reader.readuntil(b"\r\n\r\n")
    except ConnectionError:
        return b""
    return line[:12]


async def test_who_left_takes_no_place(room: Room) -> None:
    """Ten come and go, answered or silent, where there is room for two."""
    url = await room(2)
    for number in range(10):
        talk = await asyncio.open_connection(*place(url))
        if number % 2:
            assert await ask(talk) == b"HTTP/1.1 404"
        else:
            # Accepted before it is gone: the next one would be answered before it otherwise.
            assert (await say(url, LAST)).status == 404
        talk[1].close()
        await talk[1].wait_closed()
    first, second = [await asyncio.open_connection(*place(url)) for _ in range(2)]
    assert await ask(first) == await ask(second) == b"HTTP/1.1 404"
    assert (await say(url, LAST, patience=2)).status == 0
    first[1].close()
    second[1].close()


async def test_who_left_does_not_give_way_for_others(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those who are there the longest silent goes, however many went before by themselves."""
    monkeypatch.setattr(listeners, "CROWD", 2)
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.0)
    url = await room(100)
    for _ in range(3):
        assert (await say(url, LAST)).status == 404
        assert (await say(url, ASK, b"", pause=0.05, patience=0.2)).status == 404
    # Answered, and then shut by us in the middle of it: among the silent for ever, if anywhere.
    _, writer = await asyncio.open_connection(*place(url))
    writer.write(ASK)
    writer.transport.abort()
    await asyncio.sleep(0.1)
    first, second = [await asyncio.open_connection(*place(url)) for _ in range(2)]
    assert await ask(second) == b"HTTP/1.1 404"
    assert await ask(first) == b"HTTP/1.1 404"
    third = await asyncio.open_connection(*place(url))
    assert await ask(third) == b"HTTP/1.1 404"
    # The second has been silent for longer than the first, which spoke after it.
    assert await asyncio.wait_for(second[0].read(), 2) == b""
    assert await ask(first) == b"HTTP/1.1 404"
    for _, opened in (first, second, third):
        opened.close()


async def test_who_was_answered_too_late_is_not_there_any_more(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer has nobody to go to, and it stands before nobody in the order of giving way."""
    monkeypatch.setattr(listeners, "CROWD", 1)
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.0)
    url = await room(100)
    _, gone = await asyncio.open_connection(*place(url))
    gone.write(request("GET /slow"))
    await asyncio.sleep(0.1)
    gone.transport.abort()
    await asyncio.sleep(0.3)
    idle = await asyncio.open_connection(*place(url))
    await asyncio.sleep(0.05)
    assert (await say(url, LAST)).status == 404
    assert await ask(idle) == b""
    idle[1].close()


async def test_each_that_comes_takes_the_place_of_another(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where many are accepted in one breath."""
    monkeypatch.setattr(listeners, "CROWD", 4)
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.0)
    url = await room(100)
    idle = [await asyncio.open_connection(*place(url)) for _ in range(4)]
    await asyncio.sleep(0.05)
    # The loop runs none of its steps between these.
    fresh = [socket.create_connection(place(url)) for _ in range(4)]
    talks = [await asyncio.open_connection(sock=one) for one in fresh]
    assert [await ask(talk) for talk in talks] == [b"HTTP/1.1 404"] * 4
    assert [await ask(talk) for talk in idle] == [b""] * 4
    for _, writer in (*idle, *talks):
        writer.close()


async def test_in_a_crowd_of_exactly_so_many_one_gives_way(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The crowd is never larger than its limit, one connection for each that comes."""
    monkeypatch.setattr(listeners, "CROWD", 3)
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.1)
    url = await room(100)
    idle = [await asyncio.open_connection(*place(url)) for _ in range(3)]
    await asyncio.sleep(0.2)
    fresh = await asyncio.open_connection(*place(url))
    assert await ask(fresh) == b"HTTP/1.1 404"
    assert [await ask(talk) for talk in idle] == [b"", b"HTTP/1.1 404", b"HTTP/1.1 404"]
    for _, writer in (*idle, fresh):
        writer.close()


async def test_garbage_is_logged_so_often_and_no_more(
    room: Room, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five lines a minute and client, and none of them holds a byte of what was sent."""
    url = await room(100)
    for _ in range(8):
        heard = await say(url, b"GET /a-token-of-this-test\x00 HTTP/1.1\r\n\r\n", patience=3)
        assert (heard.status, heard.closed) == (400, True)
    said = capsys.readouterr().out
    assert said.count("http.malformed") == 5
    assert "a-token-of-this-test" not in said


async def test_half_an_answer_is_not_followed_by_another(
    room: Room, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever reads it would take the second for the rest of the first."""
    url = await room(100)
    heard = await say(url, request("GET /broken"), patience=3)
    assert heard.closed
    assert heard.statuses == [200]
    assert heard.text.endswith("half of it\r\n")
    assert "a bug of this test" in capsys.readouterr().out


async def test_after_a_bug_of_ours_the_connection_ends(room: Room) -> None:
    """Nobody knows in what state it was left."""
    url = await room(100)
    heard = await say(url, request("GET /bug"), patience=3)
    assert (heard.statuses, heard.closed) == ([500], True)
    assert "Connection: close" in heard.text


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context, and that of a client who trusts it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    for chain in issued.cert_chain_pems:
        chain.write_to_path(tmp_path / "chain.pem", append=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return load_tls(tmp_path / "chain.pem", tmp_path / "key.pem"), trusting


async def test_a_request_may_come_with_the_end_of_the_handshake(
    room: Room, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """A client of TLS 1.3 sends both in one piece; not a byte of it is lost."""
    server, trusting = tls
    url = await room(100, server)
    reader, writer = await asyncio.open_connection(*place(url))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    writer.write(outgoing.read())
    while True:
        incoming.write(await asyncio.wait_for(reader.read(65_536), 5))
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            continue
        break
    client.write(ASK)
    writer.write(outgoing.read())
    heard = b""
    while not heard:
        incoming.write(await asyncio.wait_for(reader.read(65_536), 5))
        try:
            heard = client.read(100)
        except ssl.SSLWantReadError:
            continue
    assert heard.startswith(b"HTTP/1.1 404 ")
    writer.transport.abort()


async def test_who_fails_in_the_handshake_takes_no_place(
    room: Room, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Garbage, a hang-up at once or in the middle, a client that trusts nobody: room for two."""
    server, trusting = tls
    url = await room(2, server)
    for _ in range(3):
        assert (await say(url, b"GET / HTTP/1.1\r\n\r\n", patience=3)).closed
        assert (await say(url, end=True, patience=3)).closed
        assert (await say(url, b"\x16\x03\x01\x02\x00", end=True, patience=3)).closed
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection(*place(url), ssl=ssl.create_default_context())
    await asyncio.sleep(0.1)
    talks = [await asyncio.open_connection(*place(url), ssl=trusting) for _ in range(2)]
    for talk in talks:
        assert await ask(talk) == b"HTTP/1.1 404"
        talk[1].transport.abort()


async def test_a_unix_socket_that_was_passed_speaks_no_tls(
    tmp_path: Path, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """The proxy in front of it does."""

    async def refuse(_: web.BaseRequest) -> web.Response:
        return web.Response(status=404)

    runner = public_runner(refuse)
    path = str(tmp_path / "door")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen()
        try:
            assert await listen_on(runner, door, tls[0]) == f"unix:{path}"
            reader, writer = await asyncio.open_unix_connection(path)
            assert await ask((reader, writer)) == b"HTTP/1.1 404"
            writer.close()
        finally:
            await close([runner])

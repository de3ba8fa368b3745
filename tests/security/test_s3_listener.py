"""S3: what strangers can do to the public listener, and what it costs them and us."""

import asyncio
import gzip
import itertools
import resource
import ssl
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from daemon import callback, connections, listeners
from daemon.config.endpoints import TcpEndpoint
from daemon.config.tls import load_tls
from daemon.listeners import Runner, close, listen, public_runner
from tests.security.wire import place, request, say
from tests.stations.listening import TOKEN, open_desk, success
from tests.stories.stage import Stage

POST = f"POST /video-callback/{TOKEN}"


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let limits of many seconds be limits of one."""
    monkeypatch.setattr(listeners, "KEEPALIVE_SECONDS", 1.0)
    monkeypatch.setattr(listeners, "LINGER_SECONDS", 0.5)
    monkeypatch.setattr(callback, "BODY_SECONDS", 0.7)


async def test_s3_02_requests_beyond_the_limits_are_refused(tmp_path: Path) -> None:
    """Long lines, long headers and many headers are a 400, and none of them names our software."""
    cases = [
        request(f"GET /{'x' * 5000}"),
        request("GET /", f"X-Long: {'x' * 5000}"),
        request("GET /", *(f"X-{number}: 1" for number in range(70))),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: \x00\r\n\r\n",
    ]
    async with open_desk(tmp_path) as desk:
        for case in cases:
            heard = await say(desk.url, case)
            assert (heard.status, heard.closed) == (400, True), case[:40]
            assert "Server: suno-videod\r\n" in heard.text
            for name in ("aiohttp", "Python", "Traceback"):
                assert name not in heard.text


@pytest.mark.usefixtures("hurry")
async def test_s3_03_slow_clients_are_cut_off(tmp_path: Path) -> None:
    """Who sends nothing, drips headers, or drips a body, is gone within the limits."""
    drip = [POST.encode(), b" HTTP/1.1\r\nHost: h\r\n", *(b"X: y\r\n" for _ in range(40))]
    body = request(POST, "Content-Length: 60000", framed=False)
    async with open_desk(tmp_path) as desk:
        silent, headers, bodies, after = await asyncio.gather(
            say(desk.url),
            say(desk.url, *drip, pause=0.2),
            say(desk.url, body, *(b"{" for _ in range(40)), pause=0.2),
            say(desk.url, request("GET /")),
        )
        assert (silent.text, silent.closed) == ("", True)
        assert headers.closed
        assert 200 not in headers.statuses
        assert (bodies.status, bodies.closed) == (408, True)
        assert (after.status, after.closed) == (404, True)
        for heard in (silent, headers, bodies, after):
            assert heard.seconds < 4
        assert await desk.post(success("t1")) == (200, '{"status":"received"}')


async def test_s3_03_smuggling_shapes_are_refused(tmp_path: Path) -> None:
    """Two readers of one request must never see two requests in it."""
    length = "Content-Length: 4"
    cases = [
        request(POST, length, "Transfer-Encoding: chunked", body=b"0\r\n\r\n", framed=False),
        request(POST, length, "Content-Length: 5", body=b"null", framed=False),
        request(POST, "Content-Length: +4", body=b"null", framed=False),
        request(POST, "Content-Length: 4, 4", body=b"null", framed=False),
        request(POST, "Transfer-Encoding: xchunked", body=b"null", framed=False),
        request(POST, "X: a\r\n folded", body=b"null"),
        request(POST, "Content-Length : 4", body=b"null", framed=False),
        request("GET /", "Host: other"),
        request("GET /", host=None),
        request(POST, "Transfer-Encoding: chunked", body=b"zz\r\nnull\r\n0\r\n\r\n", framed=False),
    ]
    async with open_desk(tmp_path) as desk:
        for case in cases:
            heard = await say(desk.url, case, patience=2)
            assert 200 not in heard.statuses, case
            assert heard.status == 400, case
        assert sum((await desk.store.counts()).values()) == 0


@pytest.mark.parametrize("line", ["GET http://evil.example{}", "POST http://evil.example{}"])
async def test_s3_06_an_absolute_target_counts_for_its_path_alone(
    tmp_path: Path, line: str
) -> None:
    """RFC 9112, 3.2.2: a server takes it; whatever host it names, only path and token decide."""
    body = b'{"code":200,"data":{"task_id":"t1"}}'
    async with open_desk(tmp_path) as desk:
        wrong = await say(desk.url, request(line.format("/"), "Connection: close"))
        right = line.format(f"/video-callback/{TOKEN}")
        heard = await say(desk.url, request(right, "Connection: close", body=body))
    assert wrong.status == 404
    assert heard.status == (200 if line.startswith("POST") else 404)


async def test_s3_03_a_pipeline_is_answered_in_order_in_little_memory(tmp_path: Path) -> None:
    """Thousands of requests at once on one connection are a queue that is read as it empties."""
    body = b'{"code":200,"data":{"task_id":"t%d"}}'
    first = b"".join(request(POST, body=body % number) for number in range(50))
    flood = request("GET /") * 5000
    last = request("GET /", "Connection: close")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with open_desk(tmp_path) as desk:
        heard = await say(desk.url, first + flood + last, patience=60)
        assert sum((await desk.store.counts()).values()) == 50
    assert heard.statuses == [200] * 50 + [404] * 5001
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


async def _lines_of(opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> list[bytes]:
    """Ask once on each connection; return the first line of each answer, empty where it is shut."""
    lines = []
    for reader, writer in opened:
        try:
            writer.write(request("GET /"))
            lines.append((await asyncio.wait_for(reader.readline(), 5))[:12])
        except ConnectionError:
            lines.append(b"")
        writer.transport.abort()
    return lines


async def _refuse(_: web.BaseRequest) -> web.Response:
    return web.Response(status=404)


async def _open_room(most: int) -> tuple[Runner, str]:
    runner = public_runner(_refuse, most)
    return runner, await listen(runner, TcpEndpoint("127.0.0.1", 0), 0o660)


async def test_s3_04_there_is_room_for_so_many_and_no_more() -> None:
    """Of six connections to room for three, three are answered and three are shut."""
    runner, url = await _open_room(3)
    opened = [await asyncio.open_connection(*place(url)) for _ in range(6)]
    lines = await _lines_of(opened)
    await close([runner])
    assert lines == [b"HTTP/1.1 404"] * 3 + [b""] * 3


async def test_s3_04_in_a_crowd_the_silent_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of idle connections keeps nobody out: the oldest of them are closed instead."""
    monkeypatch.setattr(listeners, "CROWD", 4)
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.2)
    runner, url = await _open_room(100)
    idle = [await asyncio.open_connection(*place(url)) for _ in range(8)]
    await asyncio.sleep(0.3)
    fresh = [await asyncio.open_connection(*place(url)) for _ in range(3)]
    assert await _lines_of(fresh) == [b"HTTP/1.1 404"] * 3
    lines = await _lines_of(idle)
    await close([runner])
    # Four were too many, and three gave way.
    assert lines == [b""] * 7 + [b"HTTP/1.1 404"]


async def test_s3_04_a_burst_from_one_place_keeps_nobody_else_out() -> None:
    """All places are taken within a moment, and who comes from elsewhere has one at once."""
    runner, url = await _open_room(50)
    flood = [await asyncio.open_connection(*place(url)) for _ in range(60)]
    elsewhere = [
        await asyncio.open_connection(*place(url), local_addr=("127.0.0.2", 0)) for _ in range(5)
    ]
    assert await _lines_of(elsewhere) == [b"HTTP/1.1 404"] * 5
    lines = await _lines_of(flood)
    await close([runner])
    # Ten found no room, and five of those that did gave way.
    assert lines == [b""] * 5 + [b"HTTP/1.1 404"] * 45 + [b""] * 10


async def test_s3_04_who_keeps_his_place_by_asking_gives_way_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request now and then on each of many connections is no way to hold the door."""
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.3)
    runner, url = await _open_room(20)
    holders = [await asyncio.open_connection(*place(url)) for _ in range(20)]
    for reader, writer in holders:
        writer.write(request("GET /"))
        await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.4)
    for _ in range(10):
        heard = await say(url, request("GET /", "Connection: close"))
        assert heard.status == 404
    for _, writer in holders:
        writer.transport.abort()
    await close([runner])


async def test_s3_04_who_is_being_answered_never_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callback whose commit takes long is not closed for somebody who says nothing."""
    monkeypatch.setattr(listeners, "CROWD", 1)
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(callback, "COMMIT_SECONDS", 1.0)
    async with open_desk(tmp_path, run_intake=False) as desk:
        waiting = asyncio.create_task(desk.post(success("t1")))
        await asyncio.sleep(0.2)
        idle = [await asyncio.open_connection(*place(desk.url)) for _ in range(20)]
        await asyncio.sleep(0.2)
        assert not waiting.done()
        status, _ = await waiting
        for _, writer in idle:
            writer.transport.abort()
    assert status == 503


@pytest.mark.parametrize("members", [1, 20_000])
async def test_s3_05_nothing_is_unpacked(tmp_path: Path, members: int) -> None:
    """A bomb, or thousands of empty archives, is a 415 before a byte of it is unpacked."""
    bomb = gzip.compress(bytes(50 << 20)) if members == 1 else gzip.compress(b"") * members
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with open_desk(tmp_path) as desk:
        for encoding in ("gzip", "deflate", "br", "gzip, identity", "x"):
            heard = await say(
                desk.url,
                request(POST, f"Content-Encoding: {encoding}", "Connection: close", body=bomb),
                patience=4,
            )
            assert heard.status == 415, encoding
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000


async def test_s3_07_a_forwarded_address_counts_from_a_proxy_alone(tmp_path: Path) -> None:
    """The last entry that no trusted proxy wrote is the client; what it put in front never wins."""
    numbers = itertools.count()

    async def seen(toml: str, *lines: str) -> str | None:
        folder = tmp_path / str(next(numbers))
        await asyncio.to_thread(folder.mkdir)
        async with open_desk(folder, toml) as desk:
            headers = [f"X-Forwarded-For: {line}" for line in lines]
            await say(desk.url, request(POST, *headers, "Connection: close", body=b"null"))
            (held,) = await desk.store.quarantine.page(1)
            return held.remote

    nobody = "[callback]\ntrusted_proxies = []"
    assert await seen("", "203.0.113.7") == "203.0.113.7"
    assert await seen("", "1.2.3.4, 203.0.113.7") == "203.0.113.7"
    assert await seen("", "203.0.113.7, 127.0.0.1") == "203.0.113.7"
    assert await seen("", "203.0.113.7", "1.2.3.4") == "127.0.0.1"
    assert await seen("", "203.0.113.7, nonsense") == "127.0.0.1"
    assert await seen("", ", ".join(["203.0.113.7"] * 11)) == "127.0.0.1"
    assert await seen(nobody, "203.0.113.7") == "127.0.0.1"


async def test_s3_08_guessers_wait_and_a_good_token_does_not(tmp_path: Path) -> None:
    """Five wrong tokens a minute and client; the addresses of one IPv6 network are one client."""
    async with open_desk(tmp_path) as desk:

        async def guess(client: str) -> int:
            headers = {"X-Forwarded-For": client}
            return (await desk.post("{}", path="/video-callback/guess", headers=headers))[0]

        assert [await guess(f"2001:db8::{number}") for number in range(6)] == [404] * 5 + [429]
        assert await guess("2001:db8:0:1::1") == 404
        assert await guess("203.0.113.7") == 404
        good = {"X-Forwarded-For": "2001:db8::1"}
        assert (await desk.post(success("t1"), headers=good))[0] == 200


@pytest.mark.parametrize(
    "line", ["GET /", "TRACE /", "OPTIONS *", "CONNECT h:1", "PRI *", POST, f"{POST}?x=1"]
)
async def test_s3_09_no_answer_names_our_software(tmp_path: Path, line: str) -> None:
    """Nor a redirect, nor a list of methods, nor another protocol; and one word for the server."""
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: eA==")
    cases: list[tuple[str, ...]] = [(), upgrade, ("Expect: 100-continue",), ("Expect: magic",)]
    async with open_desk(tmp_path) as desk:
        talks = (say(desk.url, request(line, *headers), patience=1) for headers in cases)
        for heard, headers in zip(await asyncio.gather(*talks), cases, strict=True):
            assert heard.status in {100, 200, 400, 404, 417}, (line, headers)
            servers = [one for one in heard.text.split("\r\n") if one.lower().startswith("server:")]
            assert set(servers) <= {"Server: suno-videod"}
            for word in ("aiohttp", "Python", "Allow:", "Location:", "101 "):
                assert word not in heard.text


async def test_s3_09_a_bug_of_ours_shows_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever makes us stumble learns that we did, and the log learns where."""

    async def stumble(_: web.BaseRequest) -> web.Response:
        raise RuntimeError("a secret of this house")

    runner = public_runner(stumble)
    url = await listen(runner, TcpEndpoint("127.0.0.1", 0), 0o660)
    asyncio.get_running_loop().set_debug(True)
    try:
        heard = await say(url, request("GET /", "Accept: text/html"))
    finally:
        asyncio.get_running_loop().set_debug(False)
    await close([runner])
    assert heard.status == 500
    assert "secret of this house" not in heard.text
    assert "Traceback" not in heard.text
    assert "secret of this house" in capsys.readouterr().out


async def test_s3_10_no_websocket_and_no_form_is_read(tmp_path: Path) -> None:
    """Parts of HTTP that nobody needs here are parts that nobody can attack."""
    form = b"--b\r\nContent-Disposition: form-data; name=a; filename=x\r\n\r\nx\r\n--b--\r\n"
    async with open_desk(tmp_path) as desk:
        for headers, body in (
            (("Content-Type: multipart/form-data; boundary=b",), form),
            (("Cookie: " + "; ".join(f"c{number}=1" for number in range(300)),), b"null"),
            (("Connection: Upgrade", "Upgrade: websocket"), b"null"),
        ):
            heard = await say(desk.url, request(POST, *headers, body=body), patience=1)
            assert heard.status == 200
            assert "Set-Cookie" not in heard.text
        assert len(await desk.store.quarantine.page(9)) == 2


@pytest.fixture
def tls(tmp_path: Path) -> tuple[trustme.CA, ssl.SSLContext]:
    """A certificate authority, and a certificate of its for this machine as a daemon loads it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    for chain in issued.cert_chain_pems:
        chain.write_to_path(tmp_path / "chain.pem", append=True)
    return authority, load_tls(tmp_path / "chain.pem", tmp_path / "key.pem")


async def test_s3_03_a_handshake_that_hangs_is_ended(
    tls: tuple[trustme.CA, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who connects and does not shake hands is gone, and meanwhile takes one of the places."""
    assert connections.HANDSHAKE_SECONDS == 5.0
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 1.0)
    authority, context = tls
    runner = public_runner(_refuse, 2)
    url = await listen(runner, TcpEndpoint("127.0.0.1", 0), 0o660, context)
    assert url.startswith("https://")
    hanging = [asyncio.create_task(say(url, patience=5)) for _ in range(2)]
    await asyncio.sleep(0.3)
    turned_away = await say(url, patience=2)
    assert (turned_away.closed, turned_away.seconds < 0.5) == (True, True)
    for task in hanging:
        heard = await task
        assert (heard.closed, heard.seconds < 3) == (True, True)
    await asyncio.sleep(0.5)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    host, port = place(url)
    reader, writer = await asyncio.open_connection(host, port, ssl=trusting)
    writer.write(request("GET /"))
    assert await reader.readline() == b"HTTP/1.1 404 Not Found\r\n"
    assert writer.get_extra_info("ssl_object").version() in {"TLSv1.2", "TLSv1.3"}
    writer.close()
    await close([runner])


async def test_s3_09_debug_mode_of_the_environment_changes_nothing(stage: Stage) -> None:
    """PYTHONDEVMODE puts tracebacks into the answers of other programs."""
    daemon = await stage.daemon(None, start=False)
    await asyncio.to_thread(daemon.start, PYTHONASYNCIODEBUG="1", PYTHONDEVMODE="1")
    heard = await say(daemon.url, request("GET /", "Connection: close"))
    assert heard.status == 404
    assert not daemon.log("library.message")

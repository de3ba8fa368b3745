"""S3, S5, S8: what a review of the listeners, of the folder and of the audit found."""

import asyncio
import json
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from daemon import connections, listeners
from daemon.config.endpoints import TcpEndpoint
from daemon.config.tls import load_tls
from daemon.folder import open_own_file, open_own_folder
from daemon.listeners import Runner, close, listen, public_runner
from tests.security.wire import place, request, say
from tests.stories.harness import TOKEN
from tests.stories.stage import Stage, success

Room = Callable[..., Coroutine[None, None, tuple[Runner, str]]]

LAST = request("GET /", "Connection: close")


@pytest.fixture
def authority() -> trustme.CA:
    """Whoever signs the certificates of these tests."""
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
    """A chain of certificates for this machine, and its key."""
    issued = authority.issue_cert("127.0.0.1")
    paths = tmp_path / "chain.pem", tmp_path / "key.pem"
    for chain in issued.cert_chain_pems:
        chain.write_to_path(paths[0], append=True)
    issued.private_key_pem.write_to_path(paths[1])
    paths[1].chmod(0o600)
    return paths


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """What a client needs who trusts the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    """Open a listener with room for so many, which answers all with 404; closed at the end."""
    async with AsyncExitStack() as stack:

        async def refuse(_: web.BaseRequest) -> web.Response:
            return web.Response(status=404, body=b"x" * 4000)

        async def make(most: int, tls: ssl.SSLContext | None = None) -> tuple[Runner, str]:
            runner = public_runner(refuse, most)
            stack.push_async_callback(close, [runner])
            return runner, await listen(runner, TcpEndpoint("127.0.0.1", 0), 0o660, tls)

        yield make


def dial(url: str, trusting: ssl.SSLContext) -> ssl.SSLSocket:
    """Connect, ask once, read the answer, and never say another word."""
    opened = socket.create_connection(place(url))
    mute = trusting.wrap_socket(opened, server_hostname=place(url)[0])
    mute.sendall(request("GET /"))
    assert mute.recv(100).startswith(b"HTTP/1.1 404")
    return mute


async def hung_up(runner: Runner, most: int) -> None:
    """Wait until no more than `most` connections hold a socket."""
    assert runner.server is not None
    async with asyncio.timeout(5):
        while len(runner.server.connections) > most:  # noqa: ASYNC110 - a socket's end has no event
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(("crowd", "most"), [(4, 8), (512, 3)])
async def test_s3_04_the_silent_give_way_in_a_full_room_too(
    room: Room, monkeypatch: pytest.MonkeyPatch, crowd: int, most: int
) -> None:
    """A burst that takes all places shuts others out for as long as nobody gives way, no longer."""
    monkeypatch.setattr(listeners, "CROWD", crowd)
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.5)
    _, url = await room(most)
    idle = [await asyncio.open_connection(*place(url)) for _ in range(most)]
    assert (await say(url, LAST, patience=2)).status == 0
    await asyncio.sleep(0.6)
    assert (await say(url, LAST, patience=2)).status == 404
    for _, writer in idle:
        writer.transport.abort()


async def test_s3_04_who_gives_way_without_reading_is_gone(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that nobody reads keep no socket open behind the count."""
    monkeypatch.setattr(listeners, "CROWD", 1)
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.0)
    runner, url = await room(100)
    loop = asyncio.get_running_loop()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(place(url))
        deaf.settimeout(0)
        with suppress(TimeoutError):
            async with asyncio.timeout(3):
                while True:
                    await loop.sock_sendall(deaf, request("GET /") * 500)
        assert (await say(url, LAST)).status == 404
        await hung_up(runner, 0)


async def test_s3_04_who_was_being_closed_already_is_gone_too(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle connection ends politely, which waits for a deaf reader; giving way does not."""
    monkeypatch.setattr(listeners, "KEEPALIVE_SECONDS", 0.5)
    monkeypatch.setattr(listeners, "CROWD", 1)
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.0)
    runner, url = await room(100)
    assert runner.server is not None
    loop = asyncio.get_running_loop()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(place(url))
        deaf.settimeout(0)
        await loop.sock_sendall(deaf, request("GET /"))
        async with asyncio.timeout(20):
            while not runner.server.connections:  # noqa: ASYNC110 - an accept has no event
                await asyncio.sleep(0.01)
            (connection,) = runner.server.connections
            line = connection.transport
            assert line is not None
            while line.get_write_buffer_size() == 0:
                await loop.sock_sendall(deaf, request("GET /") * 5)
                await asyncio.sleep(0.005)
            while connection.transport is not None:  # noqa: ASYNC110 - aiohttp tells nobody
                await asyncio.sleep(0.05)
        assert line.get_write_buffer_size() > 0
        assert (await say(url, LAST)).status == 404
        await hung_up(runner, 0)


async def test_s3_04_who_gives_way_without_a_farewell_is_gone(
    room: Room,
    certificate: tuple[Path, Path],
    trusting: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TLS ends with a word from both sides; who never says it keeps no socket open."""
    monkeypatch.setattr(listeners, "CROWD", 1)
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.0)
    runner, url = await room(100, load_tls(*certificate))

    mute = [await asyncio.to_thread(dial, url, trusting) for _ in range(4)]
    try:
        await hung_up(runner, 1)
    finally:
        for connection in mute:
            connection.close()


async def test_s3_03_an_idle_tls_connection_ends_in_time(
    room: Room,
    certificate: tuple[Path, Path],
    trusting: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when the other side does not answer our farewell."""
    monkeypatch.setattr(listeners, "KEEPALIVE_SECONDS", 0.3)
    runner, url = await room(100, load_tls(*certificate))

    mute = await asyncio.to_thread(dial, url, trusting)
    try:
        await hung_up(runner, 0)
    finally:
        mute.close()


async def test_s3_03_a_stop_waits_for_who_is_shaking_hands(
    stage: Stage, certificate: tuple[Path, Path], trusting: ssl.SSLContext
) -> None:
    """A callback from far away, whose handshake the stop meets half-way, is taken all the same."""
    daemon = await stage.daemon(
        None,
        callback={
            "tls_certificate": str(certificate[0]),
            "tls_private_key": str(certificate[1]),
        },
    )
    reader, writer = await asyncio.open_connection(*place(daemon.url))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    writer.write(outgoing.read())
    await writer.drain()
    incoming.write(await asyncio.wait_for(reader.read(65_536), 5))
    daemon.process.terminate()
    await asyncio.sleep(0.4)
    client.do_handshake()
    body = json.dumps(success("far-away", "https://files.example.com/a.mp4")).encode()
    client.write(request(f"POST /video-callback/{TOKEN}", body=body))
    heard = b""
    try:
        writer.write(outgoing.read())
        while not heard and (piece := await asyncio.wait_for(reader.read(65_536), 5)):
            incoming.write(piece)
            try:
                heard = client.read(1000)
            except ssl.SSLWantReadError:
                continue
    except (ConnectionError, ssl.SSLError):
        pass
    writer.transport.abort()
    assert heard.startswith(b"HTTP/1.1 200 ")


async def test_s8_04_an_origin_that_is_no_url_is_foreign(stage: Stage) -> None:
    """Whatever stands in the header is compared, never an error of ours."""
    daemon = await stage.daemon(None, admin={"listen": "127.0.0.1:0"})
    url = daemon.ready["admin_tcp"]
    told = ("Origin: http://[", "Connection: close")
    body = b'{"task_ids": ["by-a-page"]}'
    heard = await say(
        url, request("POST /v1/tasks", *told, host=url.removeprefix("http://"), body=body)
    )
    assert heard.status == 403


async def test_s8_08_who_hangs_up_is_written_down_too(stage: Stage) -> None:
    """What was changed is in the log, whether somebody waited for the answer or not."""
    daemon = await stage.daemon(None, admin={"listen": "127.0.0.1:0"})
    url = daemon.ready["admin_tcp"]
    host = url.removeprefix("http://")
    for number in range(40):
        _, writer = await asyncio.open_connection(*place(url))
        body = json.dumps({"task_ids": [f"hung-{number}"]}).encode()
        writer.write(request("POST /v1/tasks", host=host, body=body))
        await writer.drain()
        # Early, late, and in the middle of the commit.
        await asyncio.sleep(number / 2500)
        writer.transport.abort()
    await daemon.track("last")
    await daemon.says("admin.acted", who=f"uid {os.geteuid()}")
    tasks = await daemon.tasks()
    assert tasks
    assert len(daemon.log("admin.acted")) >= len(tasks)


async def test_s3_09_no_answer_of_the_private_listener_is_kept(stage: Stage) -> None:
    """By no browser and no proxy: whatever the answer is, it says so."""
    daemon = await stage.daemon(None, admin={"listen": "127.0.0.1:0"})
    url = daemon.ready["admin_tcp"]
    for line, host in (
        ("GET /v1/status", url.removeprefix("http://")),
        ("GET /nothing", url.removeprefix("http://")),
        ("GET /healthz", url.removeprefix("http://")),
        ("GET /v1/status", "elsewhere.example"),
    ):
        heard = await say(url, request(line, "Connection: close", host=host))
        assert "Cache-Control: no-store\r\n" in heard.text, line
        assert "X-Content-Type-Options: nosniff\r\n" in heard.text, line


async def test_s8_08_what_was_named_is_written_down_in_plain_signs(stage: Stage) -> None:
    """The id stands in the path, and a path may hold anything."""
    daemon = await stage.daemon(None, admin={"listen": "127.0.0.1:0"})
    url = daemon.ready["admin_tcp"]
    line = f"POST /v1/tasks/%1b%5b2J%e2%80%ae{'x' * 300}/forget"
    host = url.removeprefix("http://")
    assert (await say(url, request(line, "Connection: close", host=host))).status >= 400
    acted = await daemon.says("admin.acted")
    assert "\x1b" not in acted["task_id"]
    assert "\u202e" not in acted["task_id"]
    assert len(acted["task_id"]) < 300


async def test_s3_04_as_many_files_may_be_open_as_the_hard_limit_says(stage: Stage) -> None:
    """A shell gives 1,024, which a crowd of strangers fills."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    daemon = await stage.daemon(None, start=False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        await asyncio.to_thread(daemon.start)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    allowed = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    assert resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE) == (allowed, hard)


def test_s5_02_a_partial_file_of_ours_survives_in_a_folder_of_the_mounts_owner(
    tmp_path: Path,
) -> None:
    """Root in a folder of another user's goes on where it was; nothing is fetched twice."""
    if os.geteuid():
        pytest.skip("needs root, to be another user")
    folder = tmp_path / "videos" / ".partial"
    folder.mkdir(parents=True)
    for path in (folder.parent, folder):
        os.chown(path, 65534, 65534)
    with open_own_folder(folder) as opened:
        descriptor = open_own_file(opened, "a.part")
        os.write(descriptor, b"half")
        os.close(descriptor)
        descriptor = open_own_file(opened, "a.part")
        assert os.fstat(descriptor).st_size == 4
        os.close(descriptor)


def test_s3_03_a_key_of_another_kind_is_called_another_key(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """RSA beside ECDSA: both files are good, and do not belong together."""
    one = authority.issue_cert("x", key_type=trustme.KeyType.ECDSA)
    other = authority.issue_cert("x", key_type=trustme.KeyType.RSA)
    one.cert_chain_pems[0].write_to_path(tmp_path / "chain.pem")
    other.private_key_pem.write_to_path(tmp_path / "key.pem")
    with pytest.raises(ValueError, match=r"key\.pem: not the key of .*chain\.pem"):
        load_tls(tmp_path / "chain.pem", tmp_path / "key.pem")


def test_s3_03_a_key_with_a_passphrase_is_refused_without_asking(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """Nobody sits at the terminal of a daemon."""
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "chain.pem")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"a passphrase"),
        )
    )
    with pytest.raises(ValueError, match="expected a private key without a passphrase"):
        load_tls(tmp_path / "chain.pem", tmp_path / "key.pem")

"""S3-11, the proxy examples: the real nginx and the real Caddy in front of the real daemon.

Rule: of an example only names of files and addresses are changed, and each change must fit.
"""

import asyncio
import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
import trustme

from daemon.callback import COMMIT_SECONDS
from daemon.config import environment
from daemon.connections import BODY_LIMIT_BYTES
from tests.stories.harness import PATIENCE_SECONDS, TOKEN, Daemon
from tests.stories.stage import Stage, failure

EXAMPLES: Final = Path(__file__).parents[2] / "systemd"
NAME: Final = "mv.example.com"
PROVIDER_SECONDS: Final = 15
CLIENT: Final = "127.0.0.2"
"""Not one of the daemon's trusted proxies, so its address is what the daemon should log."""
SPOOFED: Final = "203.0.113.9"
TARGET: Final = f"/video-callback/{TOKEN}"
REFUSED: Final = b'"message":"refused"'
PROXIES: Final = {"nginx": "needs the package nginx", "caddy": "needs the package caddy"}
NGINX_AROUND: Final = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 2048; }}
http {{
    access_log {folder}/access-of-other-sites.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/suno-videod.conf;
}}
"""


def changed(text: str, *changes: tuple[str, str]) -> str:
    """Return an example with changes, each of which must fit at exactly one place."""
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


class Proxy:
    """A proxy of one test: its folder, its port, and whom its callers trust."""

    def __init__(self, folder: Path, name: str, upstream: str, *changes: tuple[str, str]) -> None:
        folder.mkdir()
        self.folder = folder
        program = shutil.which(name)
        if program is None:
            pytest.skip(PROXIES[name])
        authority = trustme.CA()
        certificate = authority.issue_cert(NAME)
        self.pem, self.key = folder / "certificate.pem", folder / "key.pem"
        certificate.cert_chain_pems[0].write_to_path(self.pem)
        certificate.private_key_pem.write_to_path(self.key)
        self.trust = ssl.create_default_context()
        authority.configure_trust(self.trust)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        write = self._for_nginx if name == "nginx" else self._for_caddy
        self.command = [program, *write(upstream, changes)]

    def _for_nginx(self, upstream: str, changes: tuple[tuple[str, str], ...]) -> list[str]:
        certificates = f"/etc/letsencrypt/live/{NAME}"
        text = changed(
            (EXAMPLES / "nginx.conf").read_text(encoding="utf-8"),
            ("listen 443 ssl;", f"listen 127.0.0.1:{self.port} ssl;"),
            ("    listen [::]:443 ssl;\n", ""),
            (f"{certificates}/fullchain.pem", str(self.pem)),
            (f"{certificates}/privkey.pem", str(self.key)),
            ("/var/log/nginx/suno-videod.log", f"{self.folder}/suno-videod.log"),
            ("/var/log/nginx/suno-videod.error.log", f"{self.folder}/suno-videod.error.log"),
            *changes,
            ("    server 127.0.0.1:8080;", f"    server {upstream};"),
        )
        (self.folder / "suno-videod.conf").write_text(text)
        whole = self.folder / "nginx.conf"
        whole.write_text(NGINX_AROUND.format(folder=self.folder))
        return ["-e", "stderr", "-p", str(self.folder), "-c", str(whole)]

    def _for_caddy(self, upstream: str, changes: tuple[tuple[str, str], ...]) -> list[str]:
        # Certificates from files in place of those that Caddy would fetch, and no admin listener.
        text = changed(
            (EXAMPLES / "Caddyfile").read_text(encoding="utf-8"),
            ("{\n\tservers {", "{\n\tadmin off\n\tauto_https off\n\tservers {"),
            (
                f"{NAME} {{\n\ttls {{",
                f"https://{NAME}:{self.port} {{\n\ttls {self.pem} {self.key} {{",
            ),
            ("\n:443 {", f"\nhttps://:{self.port} {{"),
            *changes,
            ("reverse_proxy 127.0.0.1:8080 {", f"reverse_proxy {upstream} {{"),
        )
        path = self.folder / "Caddyfile"
        path.write_text(text)
        return ["run", "--config", str(path), "--adapter", "caddyfile"]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the proxy until it listens; what it says goes to files."""
        homes = {name: str(self.folder) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        with (self.folder / "said.txt").open("wb") as said:
            process = subprocess.Popen(  # noqa: S603 - a proxy of the distribution
                self.command, stdout=said, stderr=said, env={**environment(), **homes}
            )
        try:
            until = time.monotonic() + PATIENCE_SECONDS
            while True:
                assert process.poll() is None, self.said()
                assert time.monotonic() < until, self.said()
                with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                    break
                time.sleep(0.02)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def said(self) -> str:
        """Return all that the proxy wrote, into whatever file."""
        ours = {"certificate.pem", "key.pem", "nginx.conf", "suno-videod.conf", "Caddyfile"}
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return "\n".join(
            path.read_text(errors="replace") for path in sorted(files) if path.name not in ours
        )

    @asynccontextmanager
    async def connection(
        self, source: str = CLIENT
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Connect as a caller from somewhere else."""
        reader, writer = await asyncio.open_connection(
            *("127.0.0.1", self.port),
            ssl=self.trust,
            server_hostname=NAME,
            local_addr=(source, 0),
        )
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    async def send(self, raw: bytes, source: str = CLIENT) -> tuple[int, bytes]:
        """Send one request as it stands; return the status and all that was answered."""
        async with self.connection(source) as (reader, writer), asyncio.timeout(PATIENCE_SECONDS):
            writer.write(raw)
            heard = b""
            with suppress(ConnectionError, ssl.SSLError):
                while piece := await reader.read(65_536):
                    heard += piece
        return int(heard.split(b" ", 2)[1]), heard

    async def post(
        self,
        body: bytes,
        target: str = TARGET,
        host: str = NAME,
        *headers: str,
        source: str = CLIENT,
    ) -> tuple[int, bytes]:
        """Post a callback on a connection of its own."""
        head = [f"POST {target} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
        head += ["Connection: close", *headers, "", ""]
        return await self.send("\r\n".join(head).encode() + body, source)


def callback(task_id: str) -> bytes:
    """Return the body of a callback."""
    return json.dumps(failure(task_id)).encode()


async def recorder(stage: Stage, listen: str = "127.0.0.1:0") -> tuple[Daemon, str]:
    """Start a daemon that only records callbacks; return it and its address for a proxy."""
    daemon = await stage.daemon(
        None,
        callback={"listen": listen, "trust": "callback"},
        provider={"api_key": None},
        log={"level": "info"},
    )
    place = daemon.callback.removesuffix("/video-callback")
    return daemon, place.removeprefix("http://")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("name", PROXIES)
async def test_s3_11_the_proxy_says_who_called_and_the_caller_does_not(
    stage: Stage, tmp_path: Path, name: str, kind: str
) -> None:
    """Whatever a caller claims to be, the daemon logs the address that the proxy saw."""
    listen = "127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/callback.sock"
    daemon, upstream = await recorder(stage, listen)
    if kind == "unix":
        path = tmp_path / "callback.sock"
        upstream = f"unix:{path}" if name == "nginx" else f"unix/{path}"
    proxy = Proxy(tmp_path / name, name, upstream)
    claims = (
        f"X-Forwarded-For: {SPOOFED}",
        f"X-Forwarded-For: {SPOOFED}, 127.0.0.1",
        f"Forwarded: for={SPOOFED}",
        f"X-Real-IP: {SPOOFED}",
    )
    # Through an appended header a caller at a trusted address would be believed.
    told = [(claim, source) for claim in claims for source in (CLIENT, "127.0.0.1")]
    with proxy.running():
        for number, (claim, source) in enumerate(told):
            task_id = f"spoofed-{number}"
            heard = await proxy.post(callback(task_id), TARGET, NAME, claim, source=source)
            assert heard[0] == 200, proxy.said()
            logged = await daemon.says("callback.received", task_id=task_id)
            assert logged["remote"] == source


@pytest.mark.parametrize("name", PROXIES)
async def test_s3_11_only_callbacks_pass(stage: Stage, tmp_path: Path, name: str) -> None:
    """Another path or name is 404 by the proxy; the daemon's own 404 comes from below the path."""
    _, upstream = await recorder(stage)
    proxy = Proxy(tmp_path / name, name, upstream)
    body = callback("elsewhere")
    elsewhere = (
        *(("/", NAME), ("/video-callback", NAME), ("/v1/tasks", NAME), ("/api/v1/x", NAME)),
        *(("/metrics", NAME), ("/../v1/status", NAME), (TARGET, "evil.example")),
        (f"https://evil.example{TARGET}", NAME),
    )
    with proxy.running():
        for target, host in elsewhere:
            status, heard = await proxy.post(body, target, host)
            # A path that leads out of the root is refused for its form.
            assert status == 404 or (status == 400 and ".." in target), (target, heard)
            assert REFUSED not in heard, target
        status, heard = await proxy.post(body, "/video-callback/wrong")
        assert (status, REFUSED in heard) == (404, True)
        # RFC 9112, 3.2.2: the name in the request line counts, and the daemon gets the path alone.
        assert (await proxy.post(body, f"https://{NAME}{TARGET}", "evil.example"))[0] == 200


@pytest.mark.parametrize("name", PROXIES)
async def test_s3_11_a_large_body_is_refused(stage: Stage, tmp_path: Path, name: str) -> None:
    """The largest body that the daemon takes passes, one byte more is 413."""
    daemon, upstream = await recorder(stage)
    proxy = Proxy(tmp_path / name, name, upstream)
    body = callback("large")
    with proxy.running():
        assert (await proxy.post(body.ljust(BODY_LIMIT_BYTES)))[0] == 200
        assert (await proxy.post(body.ljust(BODY_LIMIT_BYTES + 1)))[0] == 413
        assert (await proxy.post(body.ljust(3 * BODY_LIMIT_BYTES)))[0] == 413
        endless = b"10000\r\n" + b" " * 65_536 + b"\r\n"
        head = f"POST {TARGET} HTTP/1.1\r\nHost: {NAME}\r\nTransfer-Encoding: chunked\r\n\r\n"
        # Caddy 2.6 may call what it cuts off a bad gateway; then the answer of the daemon was late.
        cut = {413} if name == "nginx" else {413, 502}
        assert (await proxy.send(head.encode() + endless * 3))[0] in cut
    assert (await daemon.task("large"))["callbacks"] == 1


@pytest.mark.parametrize("name", PROXIES)
async def test_s3_11_a_slow_caller_is_sent_away(stage: Stage, tmp_path: Path, name: str) -> None:
    """Headers or a body that never end are cut off, or answered, in seconds."""
    _, upstream = await recorder(stage)
    proxy = Proxy(tmp_path / name, name, upstream)
    head = f"POST {TARGET} HTTP/1.1\r\nHost: {NAME}\r\n"

    async def wait(raw: str) -> float:
        async with proxy.connection() as (reader, writer):
            writer.write(raw.encode())
            began = time.monotonic()
            with suppress(ConnectionError, ssl.SSLError):
                # A proxy that has answered may keep what is left of a connection for a while.
                await reader.read(65_536)
            return time.monotonic() - began

    with proxy.running():
        async with asyncio.timeout(PATIENCE_SECONDS):
            both = await asyncio.gather(wait(head), wait(f"{head}Content-Length: 99\r\n\r\n{{"))
    assert max(both) < PROVIDER_SECONDS, both


@pytest.mark.parametrize("name", PROXIES)
async def test_s3_11_the_proxy_gives_up_before_the_provider(tmp_path: Path, name: str) -> None:
    """A daemon that says nothing is a 504 in the time that the example sets, and is asked once."""
    seconds = {
        found: float(number)
        for found, number in re.findall(
            r"^\s*(proxy_connect_timeout|proxy_read_timeout|dial_timeout|response_header_timeout)"
            r" (\d+)s;?$",
            (EXAMPLES / ("nginx.conf" if name == "nginx" else "Caddyfile")).read_text(),
            re.MULTILINE,
        )
    }
    waits = max(seconds.values())
    queue = 200 / 100 if name == "nginx" else 0
    assert waits > COMMIT_SECONDS
    assert sum(seconds.values()) + queue < PROVIDER_SECONDS
    asked = 0

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        while await reader.read(65_536):
            pass
        writer.close()

    async with await asyncio.start_server(hear, "127.0.0.1", 0) as mute:
        upstream = f"127.0.0.1:{mute.sockets[0].getsockname()[1]}"
        proxy = Proxy(tmp_path / name, name, upstream, (f"_timeout {waits:g}s", "_timeout 1s"))
        with proxy.running():
            began = time.monotonic()
            assert (await proxy.post(callback("unheard")))[0] == 504
            assert 0.9 < time.monotonic() - began < 5
    assert asked == 1


async def test_s3_11_a_crowd_waits_its_turn(stage: Stage, tmp_path: Path) -> None:
    """Many videos that are ready at once get through nginx; a flood does nobody else harm."""
    daemon, upstream = await recorder(stage)
    proxy = Proxy(tmp_path / "nginx", "nginx", upstream)

    async def crowd(name: str, size: int) -> Counter[int]:
        posts = (proxy.post(callback(f"{name}-{number}")) for number in range(size))
        return Counter(status for status, _ in await asyncio.gather(*posts))

    with proxy.running():
        began = time.monotonic()
        assert await crowd("ready", 150) == {200: 150}
        assert time.monotonic() - began < PROVIDER_SECONDS
        heard = await crowd("flood", 300)
        assert set(heard) <= {200, 429}, heard
        assert (await proxy.post(callback("other"), source="127.0.0.3"))[0] == 200
    assert len(await daemon.tasks()) == 151 + heard[200]


async def test_s3_11_one_address_gets_so_many_requests(stage: Stage, tmp_path: Path) -> None:
    """However fast they are answered, nginx takes a hundred a second on one connection."""
    _, upstream = await recorder(stage)
    proxy = Proxy(tmp_path / "nginx", "nginx", upstream)
    guess = f"POST /video-callback/guess HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 0\r\n\r\n"
    with proxy.running():
        async with proxy.connection() as (reader, writer), asyncio.timeout(PATIENCE_SECONDS):
            began = time.monotonic()
            for _ in range(101):
                writer.write(guess.encode())
                await reader.readuntil(REFUSED + b"}}")
        assert time.monotonic() - began > 0.95


async def test_s3_11_one_address_gets_so_many_connections(stage: Stage, tmp_path: Path) -> None:
    """Who holds 250 requests open with bodies that do not come is refused the next one."""
    _, upstream = await recorder(stage)
    proxy = Proxy(tmp_path / "nginx", "nginx", upstream)
    head = f"POST {TARGET} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 2\r\n\r\n"
    with proxy.running():
        async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(250):
                _, writer = await stack.enter_async_context(proxy.connection())
                writer.write(head.encode())
            until = time.monotonic() + 4
            while (await proxy.post(callback("next")))[0] != 429:
                assert time.monotonic() < until
            assert (await proxy.post(callback("other"), source="127.0.0.3"))[0] == 200


@pytest.mark.parametrize("name", PROXIES)
async def test_s3_11_the_secret_is_in_no_log_of_the_proxy(
    stage: Stage, tmp_path: Path, name: str
) -> None:
    """Whether a callback is taken, refused or meets no daemon at all: nothing names its path."""
    daemon, upstream = await recorder(stage)
    proxy = Proxy(tmp_path / name, name, upstream)
    body = callback("logged")
    with proxy.running():
        assert (await proxy.post(body))[0] == 200
        assert (await proxy.post(body.ljust(BODY_LIMIT_BYTES + 1)))[0] == 413
        assert (await proxy.post(body, TARGET, "evil.example"))[0] == 404
        assert (await proxy.post(body, TARGET, NAME, f"Referer: https://{NAME}{TARGET}"))[0] == 200
        head = f"POST {TARGET} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n"
        await proxy.send(f"{head}bad header\r\n\r\n".encode())
        await proxy.send(f"{head}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}".encode())
        await proxy.send(f"{head}Long: {'x' * 70_000}\r\n\r\n".encode())
        assert await daemon.stop() == 0
        assert (await proxy.post(body))[0] == 502
    assert TOKEN not in proxy.said()


def test_s3_11_old_tls_is_refused() -> None:
    """Both examples name what they speak; the rest of the world may have other defaults."""
    nginx, caddy = ((EXAMPLES / name).read_text() for name in ("nginx.conf", "Caddyfile"))
    assert re.findall(r"^ *ssl_protocols (.+);$", nginx, re.MULTILINE) == ["TLSv1.2 TLSv1.3"]
    assert re.findall(r"^\t*protocols (.+)$", caddy, re.MULTILINE) == ["tls1.2 tls1.3"]

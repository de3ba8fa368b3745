"""`doctor` and `test-callback` try the public URL, and name what stands in the way."""

import asyncio
import json
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from tests.stories.doctors import Findings, examine, free_port, hand_on, proxy, public
from tests.stories.harness import TOKEN, Daemon
from tests.stories.stage import Stage, failure

OURS = "/video-callback"
NAME = "127.0.0.1"


def issue(folder: Path, *, days: float, authority: trustme.CA | None = None) -> dict[str, object]:
    """Write a certificate for this machine that ends in so many days; return its settings."""
    end = datetime.now(UTC) + timedelta(days=days)
    begin = min(end, datetime.now(UTC)) - timedelta(days=1)
    issued = (authority or trustme.CA()).issue_cert(NAME, not_before=begin, not_after=end)
    issued.cert_chain_pems[0].write_to_path(folder / "chain.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "key.pem").chmod(0o600)
    return {
        "tls_certificate": str(folder / "chain.pem"),
        "tls_private_key": str(folder / "key.pem"),
    }


async def secure(
    stage: Stage, folder: Path, *, days: float, trusted: bool = True
) -> tuple[Daemon, str]:
    """Start a daemon that speaks TLS itself; return it, and a file with who is trusted."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "trusted.pem")
    settings = issue(folder, days=days, authority=authority if trusted else None)
    callback = public(free_port(), "https") | settings
    return await stage.daemon(await stage.provider(), callback=callback), str(
        folder / "trusted.pem"
    )


async def both(daemon: Daemon) -> tuple[Findings, Findings]:
    """Return what both verbs find."""
    return await examine(daemon), await examine(daemon, verb="test-callback")


async def behind(stage: Stage, port: int, **changes: object) -> Daemon:
    """Start a daemon whose public URL leads to a proxy on `port`."""
    callback = {"public_url": f"http://127.0.0.1:{port}{OURS}", **changes}
    return await stage.daemon(await stage.provider(), callback=callback)


async def test_a_good_chain_is_verified_and_its_days_are_counted(
    stage: Stage, tmp_path: Path
) -> None:
    """Over TLS the whole test works too."""
    daemon, trust = await secure(stage, tmp_path, days=60.5)
    found = await examine(daemon, trust=trust)
    assert found.code == 0
    assert "the chain verifies; it ends in 60 days" in found.of("TLS", "ok")["measured"]
    assert "ends in 60 days" in found.of("own certificate", "ok")["measured"]
    assert "200 from this daemon" in found.of("test callback", "ok")["measured"]


@pytest.mark.parametrize(("days", "verdict"), [(20, "warning"), (2, "problem")])
async def test_a_certificate_that_ends_soon_is_named(
    stage: Stage, tmp_path: Path, days: float, verdict: str
) -> None:
    """Three weeks before there is time; three days before there is none."""
    daemon, trust = await secure(stage, tmp_path, days=days)
    found = await examine(daemon, trust=trust)
    assert found.code == (1 if verdict == "problem" else 0)
    for check in ("TLS", "own certificate"):
        assert "certbot renew" in found.of(check, verdict)["mend"]


async def test_an_expired_certificate_gets_no_token(stage: Stage, tmp_path: Path) -> None:
    """Nothing secret is sent where TLS does not verify."""
    daemon, trust = await secure(stage, tmp_path, days=-1)
    found = await examine(daemon, trust=trust)
    assert found.code == 1
    assert found.bad() == {"TLS", "own certificate"}
    found.problem("TLS", "the certificate has ended", "certbot renew")
    assert found.of("test callback")["verdict"] == "not checked"
    assert not daemon.log("callback.tested")


async def test_a_chain_to_nobody_is_named(stage: Stage, tmp_path: Path) -> None:
    """Of an authority that is not trusted, and self-signed."""
    daemon, trust = await secure(stage, tmp_path, days=60, trusted=False)
    (await examine(daemon, trust=trust)).problem("TLS", "leads to nobody", "fullchain.pem")


async def test_a_self_signed_certificate_is_named(stage: Stage, tmp_path: Path) -> None:
    """With the way to one that everybody trusts."""
    key, chain = tmp_path / "own.key", tmp_path / "own.pem"
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the package openssl")
    await asyncio.to_thread(
        subprocess.run,
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-keyout", str(key), "-out", str(chain), "-days", "60"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    key.chmod(0o600)
    settings = {"tls_certificate": str(chain), "tls_private_key": str(key)}
    daemon = await stage.daemon(None, callback=public(free_port(), "https") | settings)
    (await examine(daemon)).problem("TLS", "is self-signed", "Let's Encrypt")


async def test_a_certificate_for_another_name_is_named(stage: Stage, tmp_path: Path) -> None:
    """The name in the URL counts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "trusted.pem")
    settings = issue(tmp_path, days=60, authority=authority)
    callback = public(free_port(), "https", "localhost") | settings
    daemon = await stage.daemon(None, callback=callback)
    found = await examine(daemon, trust=str(tmp_path / "trusted.pem"))
    found.problem("TLS", "is for another name", "callback.public_url")


async def test_a_name_that_does_not_resolve_is_named(stage: Stage) -> None:
    """Exit 6 of both verbs."""
    daemon = await behind(stage, 443, public_url="https://mv.invalid/video-callback")
    for found in await both(daemon):
        assert (found.code, found.bad()) == (6, {"DNS"})
        found.problem("DNS", "mv.invalid does not resolve", "A record")


async def test_a_closed_port_is_named(stage: Stage) -> None:
    """Exit 6: something has to listen there."""
    for found in await both(await behind(stage, free_port())):
        assert (found.code, found.bad()) == (6, {"connection"})
        found.problem("connection", "Connection refused", "start what is to listen")


async def test_silence_is_called_a_firewall(stage: Stage) -> None:
    """A connection that is neither taken nor refused, with the commands for it."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for one in (first, second):
            one.settimeout(0)
            with suppress(BlockingIOError):
                one.connect(full.getsockname())
        port = full.getsockname()[1]
        found = await examine(await behind(stage, port), verb="test-callback")
    assert found.code == 6
    found.problem("connection", "timed out", f"ufw allow {port}/tcp")


async def test_a_redirect_is_named(stage: Stage) -> None:
    """The provider does not follow it, and the token is not repeated."""

    async def answer(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMovedPermanently(f"https://elsewhere.example{request.path}")

    async with proxy(answer) as port:
        daemon = await behind(stage, port)
        for found in await both(daemon):
            assert found.code == 1
            found.problem("test callback", "301, a redirect to", "callback.public_url")
            assert "elsewhere.example" in found.of("test callback")["measured"]
            assert TOKEN not in json.dumps(found.told)


async def test_a_path_that_the_proxy_strips_is_named(stage: Stage) -> None:
    """With the path as it arrived."""
    daemon: Daemon | None = None

    def base() -> str:
        assert daemon is not None
        return daemon.callback.removesuffix(OURS)

    async with proxy(hand_on(base, lambda path: path.removeprefix(OURS))) as port:
        daemon = await behind(stage, port)
        for found in await both(daemon):
            assert found.code == 1
            found.problem("test callback", "reached this daemon as /***", "proxy_pass")


async def test_another_token_in_the_daemon_is_named(stage: Stage) -> None:
    """The configuration was changed, and nobody told the daemon."""
    daemon = await stage.daemon(await stage.provider(), callback=public(free_port()))
    text = daemon.config.read_text().replace(TOKEN, "a-newer-token-of-this-story")
    daemon.config.write_text(text)
    for found in await both(daemon):
        assert found.code == 1
        found.problem("test callback", "another token", "reload")


@pytest.mark.parametrize("program", ["small", "nginx"])
async def test_somebody_elses_200_is_found(stage: Stage, tmp_path: Path, program: str) -> None:
    """It is the worst of all: callbacks are acknowledged and thrown away."""
    if program == "nginx":
        async with _nginx(tmp_path) as port:
            await _find_the_other(await behind(stage, port))
    else:

        async def answer(_: web.Request) -> web.StreamResponse:
            return web.json_response({"status": "received"})

        async with proxy(answer) as port:
            await _find_the_other(await behind(stage, port))


async def _find_the_other(daemon: Daemon) -> None:
    found, tested = await both(daemon)
    assert found.code == tested.code == 1
    for one in (found, tested):
        one.problem("test callback", "it was not this daemon", "systemd/nginx.conf")
    found.problem("wrong token", "something else answers", "hand all below")
    found.problem("plain GET", "something else answers", "hand all below")


class _nginx:  # noqa: N801 - it reads as the program
    """A real nginx that answers 200 itself."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("nginx")
        if program is None:
            pytest.skip("needs the package nginx")
        self.port = free_port()
        temporary = " ".join(
            f"{name}_temp_path {folder}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        path = folder / "nginx.conf"
        path.write_text(
            f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\n"
            f"events {{}}\nhttp {{ access_log off; {temporary}\n"
            f"server {{ listen 127.0.0.1:{self.port}; return 200 ok; }} }}\n"
        )
        self._command = [program, "-e", "stderr", "-p", str(folder), "-c", str(path)]

    async def __aenter__(self) -> int:
        self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - a proxy of the distribution
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return self.port
            await asyncio.sleep(0.02)
        await self.__aexit__()
        raise AssertionError("nginx does not listen")

    async def __aexit__(self, *_: object) -> None:
        self._process.terminate()
        await asyncio.to_thread(self._process.wait, 10)


@pytest.mark.parametrize(
    ("status", "measured"), [(502, "does not reach the daemon"), (403, "not this daemon's answer")]
)
async def test_an_answer_of_the_proxy_is_named(stage: Stage, status: int, measured: str) -> None:
    """Its own words are shown shortly."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="<html>Bad \x1b[31m luck</html>")

    async with proxy(answer) as port:
        for found in await both(await behind(stage, port)):
            assert found.code == 1
            found.problem("test callback", measured, "127.0.0.1:")
            assert "Bad" in found.of("test callback")["measured"]


async def behind_once(stage: Stage, port: int) -> Daemon:
    """Start a daemon behind a proxy."""
    return await behind(stage, port)


async def test_a_late_answer_is_a_warning(stage: Stage) -> None:
    """More than a third of the time that the provider has is a sign."""
    daemon: Daemon | None = None

    def base() -> str:
        assert daemon is not None
        return daemon.callback.removesuffix(OURS)

    on = hand_on(base)

    async def answer(request: web.Request) -> web.StreamResponse:
        heard = await on(request)
        await asyncio.sleep(5.2)
        return heard

    async with proxy(answer) as port:
        daemon = await behind(stage, port)
        found = await examine(daemon, verb="test-callback")
    assert found.code == 0
    found.warning("test callback", "but only after 5.", "speed")


async def test_no_answer_in_time_is_transient(stage: Stage) -> None:
    """Exit 6 after the 15 s of the provider."""

    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(20)
        return web.Response()

    async with proxy(answer) as port:
        daemon = await behind(stage, port)
        began = time.monotonic()
        found = await examine(daemon, verb="test-callback")
    assert 14 < time.monotonic() - began < 25
    assert found.code == 6
    found.problem("test callback", "no answer within 15 s", "the daemon runs")


async def test_what_is_no_http_is_named(stage: Stage) -> None:
    """Some other program listens there."""

    async def chat(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(chat, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        found = await examine(await behind(stage, port), verb="test-callback")
    assert found.code in {1, 6}
    assert found.of("test callback", "problem")["mend"]


async def look(daemon: Daemon) -> object:
    """Return how many tasks there are, and what is in quarantine."""
    counts = (await daemon.get("/v1/status"))["counts"]
    return counts, await daemon.get("/v1/quarantine")


@pytest.mark.parametrize("keys", [[], ["the-key-of-this-story"]])
async def test_a_test_leaves_nothing_but_a_number(stage: Stage, keys: list[str]) -> None:
    """No task, nothing in quarantine, also when the daemon is killed between two tests."""
    settings = public(free_port()) | {"hmac_keys": keys}
    daemon = await stage.daemon(await stage.provider(), callback=settings)
    await daemon.track("t1")
    await daemon.until("t1", "expected")
    before = await look(daemon)
    for number in range(3):
        if number:
            daemon.kill()
            await daemon.restart()
        found = await examine(daemon, verb="test-callback")
        assert (found.code, found.bad()) == (0, set())
        assert found.told["url"].endswith("/video-callback/***")
        line = await daemon.says("callback.tested")
        assert (line["level"], line["remote"]) == ("info", "127.0.0.1")
    assert (
        (await daemon.get("/v1/status"))["counts"],
        await daemon.get("/v1/quarantine"),
    ) == before
    tallied = {
        one["cause"]: one["count"] for one in (await daemon.get("/v1/diagnosis"))["callbacks"]
    }
    # Each was committed before it was answered: no kill takes it back.
    assert tallied == {"test": 3}


async def test_without_a_public_url_the_listener_is_tried(stage: Stage) -> None:
    """With a warning, and on whatever port it has."""
    daemon = await stage.daemon(await stage.provider())
    for found in await both(daemon):
        assert found.code == 0
        found.warning("public URL", "callback.public_url is not set", "https address")
        assert "200 from this daemon" in found.of("test callback")["measured"]


async def test_a_unix_socket_is_tried_too(stage: Stage) -> None:
    """Without a public URL, the socket that the proxy uses."""
    daemon = await stage.daemon(await stage.provider(), callback={"listen": "unix:in.sock"})
    for found in await both(daemon):
        assert found.code == 0
        assert "200 from this daemon" in found.of("test callback")["measured"]


async def test_a_test_without_a_daemon_is_transient(stage: Stage) -> None:
    """Exit 6, also where something else answers 200: nobody can say who."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text="fine")

    async with proxy(answer) as port:
        callback = {"public_url": f"http://127.0.0.1:{port}{OURS}"}
        daemon = await stage.daemon(None, start=False, callback=callback)
        found = await examine(daemon, verb="test-callback")
    assert found.code == 6
    assert "no daemon can be asked" in found.of("test callback", "not checked")["measured"]


async def test_a_test_counts_for_nobody_elses_callbacks(stage: Stage) -> None:
    """Beside real ones, it changes none of their numbers."""
    daemon = await stage.daemon(await stage.provider(), callback=public(free_port()))
    testing = asyncio.create_task(examine(daemon, verb="test-callback"))
    statuses = {(await daemon.post(failure(f"t{number}"))).status for number in range(50)}
    assert (await testing).code == 0
    assert statuses == {200}
    assert sum((await daemon.get("/v1/status"))["counts"].values()) == 50

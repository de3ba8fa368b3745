"""S8: the private listener, and texts of strangers in front of people."""

import asyncio
import base64
import json
import os
import subprocess
import sys
import time

import pytest

from daemon.rules.redaction import escape_control
from tests.security.wire import request, say
from tests.stories.harness import ask, run_on_terminal
from tests.stories.stage import Stage, failure, success

ADMIN_TOKEN = "token-of-the-admin-in-these-tests"
BEARER = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
TCP = {"listen": "127.0.0.1:0", "token": ADMIN_TOKEN}
TRACK = '{"task_ids": ["by-a-page"]}'


async def test_s8_01_nothing_of_it_is_on_the_public_listener(stage: Stage) -> None:
    """Each path of the admin API is the same 404 there, with any token."""
    daemon = await stage.daemon(None, admin=TCP)
    document = await daemon.get("/openapi.json")
    root = daemon.callback.removesuffix("/video-callback")
    answers = set()
    for path in (*document["paths"], "/", "/openapi.json", "/healthz", "/readyz", "/metrics"):
        for method in ("GET", "POST"):
            answer = await ask(method, root + path, headers=BEARER)
            answers.add((answer.status, answer.body))
    assert len(answers) == 1
    assert answers.pop()[0] == 404


async def test_s8_01_the_socket_asks_the_kernel_who_it_is(stage: Stage) -> None:
    """Even where the file's mode lets another user connect, he is refused."""
    if os.geteuid():
        pytest.skip("needs root, to be another user")
    daemon = await stage.daemon(None)
    assert await daemon.get("/healthz") == {"status": "ok"}
    for path in (daemon.folder, daemon.folder / "state", daemon.folder / "state" / "admin.sock"):
        path.chmod(0o777)
    for parent in daemon.folder.parents:
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(0o755)
    program = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "with socket.socket(socket.AF_UNIX) as peer:\n"
        "    peer.connect(sys.argv[1])\n"
        "    peer.sendall(b'GET /v1/tasks HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n')\n"
        "    print(peer.recv(100).decode())\n"
    )
    where = str(daemon.folder / "state" / "admin.sock")
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-I", "-c", program, where],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.stdout.split()[1] == "403", done


async def test_s8_02_only_our_own_names_at_our_own_port_lead_here(stage: Stage) -> None:
    """A page that points its own name at this machine is told from us by the Host alone."""
    daemon = await stage.daemon(None, admin={**TCP, "hosts": ["suno.example"]})
    url = daemon.ready["admin_tcp"]
    port = url.rpartition(":")[2]
    for host, status in (
        ("evil.example", 421),
        (f"evil.example:{port}", 421),
        (f"127.0.0.1.evil.example:{port}", 421),
        ("localhost.evil.example", 421),
        (f"127.0.0.1:{int(port) + 1}", 421),
        ("127.0.0.1:", 200),
        (f"127.0.0.1:{port}", 200),
        (f"localhost:{port}", 200),
        (f"LocalHost:{port}", 200),
        (f"[::1]:{port}", 200),
        ("[::1", 421),
        (f"127.1:{port}", 421),
        (f"2130706433:{port}", 421),
        (f"localhost.:{port}", 421),
        (f"user@localhost:{port}", 421),
        ("suno.example", 200),
        ("SUNO.example:8443", 200),
        ("x.suno.example", 421),
        ("", 421),
    ):
        for line in ("GET /v1/status", "GET /healthz", "POST /v1/tasks", "OPTIONS /v1/tasks"):
            told = [f"Authorization: Bearer {ADMIN_TOKEN}", "Connection: close"]
            heard = await say(url, request(line, *told, host=host))
            wanted = {"P": {422}, "O": {404, 405}}.get(line[0], {200}) if status == 200 else {421}
            assert heard.status in wanted, (host, line)
    for raw in (
        request("GET /v1/status", host=None),
        request("GET /v1/status", f"Host: localhost:{port}", host="localhost"),
        b"GET /v1/status HTTP/1.0\r\n\r\n",
    ):
        assert (await say(url, raw)).status == 400


async def test_s8_03_guessing_the_token_is_slow(stage: Stage) -> None:
    """Header only, compared as bytes; after five wrong ones in a minute the answer is 429."""
    daemon = await stage.daemon(None, admin=TCP)
    basic = base64.b64encode(f"anybody:{ADMIN_TOKEN}".encode()).decode()
    for headers in (BEARER, {"Authorization": f"Basic {basic}"}):
        assert (await daemon.call("/v1/status", headers)).status == 200
    assert (await daemon.call(f"/v1/status?token={ADMIN_TOKEN}", {})).status == 401
    for wrong in ("Bearer x", "Basic eDp5", "Bearer t\u00f6ken", "Digest x", ADMIN_TOKEN):
        assert (await daemon.call("/v1/status", {"Authorization": wrong})).status == 401
    for _ in range(3):
        answer = await daemon.call("/v1/status", {"Authorization": "Bearer x"})
        assert (answer.status, answer.headers["Retry-After"]) == (429, "60")
    assert (await daemon.call("/v1/status", BEARER)).status == 200
    assert (await daemon.call("/healthz", {})).status == 200
    # Those that were too many are not written down.
    until = time.monotonic() + 5
    while len(refused := daemon.log("admin.refused")) < 5:
        assert time.monotonic() < until, daemon.tell()
        await asyncio.sleep(0.02)
    assert [one["remote"] for one in refused] == ["127.0.0.1"] * 5


async def test_s8_04_pages_of_other_sites_change_nothing(stage: Stage) -> None:
    """What a browser adds to a request tells them apart, and no answer invites them."""
    daemon = await stage.daemon(None, admin=TCP)
    url = daemon.ready["admin_tcp"]
    for extra, status in (
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "nonsense"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"{url}.evil.example"}, 403),
        ({"Origin": "http://localhost:1", "Sec-Fetch-Site": "same-origin"}, 403),
        ({"Origin": url, "Sec-Fetch-Site": "same-origin"}, 202),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({}, 200),
    ):
        answer = await daemon.call("/v1/tasks", {**BEARER, **extra}, "POST", TRACK)
        assert answer.status == status, extra
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        assert "Set-Cookie" not in answer.headers
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = await daemon.call("/v1/tasks", preflight, "OPTIONS")
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert answer.status >= 400


HOSTILE = {
    "escape": "\x1b[2J\x1b]0;owned\x07",
    "return": "good\rbad",
    "line": 'x\n{"event":"task.moved","to":"done"}',
    "c1": "\x9b31m",
    "bidi": "\u202egnp.exe\u2066",
    "invisible": "a\u200b\u2060\ufeffb",
    "separators": "a\u2028b\u2029c",
    "delete": "a\x7fb",
    "markup": "<img src=x onerror=alert(1)>",
}
DANGEROUS = {
    sign
    for text in HOSTILE.values()
    for sign in text
    if escape_control(sign) != sign and sign != "\n"
}


@pytest.mark.parametrize("form", ["json", "console"])
async def test_s8_05_no_text_of_a_stranger_moves_a_cursor(stage: Stage, form: str) -> None:
    """Not in the log, in a table, in JSON, on a terminal or off it; and a line stays a line."""
    daemon = await stage.daemon(
        None,
        start=False,
        provider={"api_key": None},
        callback={"trust": "callback"},
        log={"format": "json"},
    )
    if form == "console":
        daemon.config.write_text(daemon.config.read_text().replace('"json"', '"console"'))
        await asyncio.to_thread(daemon.spawn)
        async with asyncio.timeout(20):
            while "daemon.ready" not in (log := next(daemon.folder.glob("log-*")).read_text()):  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.05)
        daemon.callback = next(
            word.partition("=")[2] for word in log.split() if word.startswith("callback=")
        )
    else:
        await asyncio.to_thread(daemon.start)
    for name, text in HOSTILE.items():
        told = {**failure(name), "msg": text}
        assert (await daemon.post(told)).status == 200
        assert (await daemon.post({"data": {"task_id": text}})).status == 200
        link = f"https://host.example/{text}?x"
        assert (await daemon.post(success(f"link-{name}", link))).status == 200
    await asyncio.to_thread(daemon.client.post, "/v1/tasks", {"task_ids": ["t"], "label": "<b>"})
    said = {"log": next(daemon.folder.glob("log-*")).read_text()}
    for verb in (["list"], ["list", "--json"], ["show", "escape"], ["show", "bidi", "--json"]):
        said[" ".join(verb)] = (await daemon.run(*verb)).output
        if form == "json":
            said[f"{verb} on a terminal"] = await asyncio.to_thread(run_on_terminal, daemon, *verb)
    for verb in (["check"], ["report"], ["export"], ["status"]):
        ended = await daemon.run(*verb)
        said[verb[0]] = ended.output + ended.errors
    for where, text in said.items():
        found = DANGEROUS & set(text.replace("\r\n", "\n"))
        if "terminal" in where or (form == "console" and where == "log"):
            found -= {"\x1b"}
        assert not found, (where, found)
    if form == "json":
        for line in said["log"].splitlines():
            assert "timestamp" in json.loads(line)
    else:
        # The harness reads JSON.
        assert await daemon.stop() == 0
        next(daemon.folder.glob("log-*")).write_text("")


async def test_s8_08_who_changed_what_is_in_the_log(stage: Stage) -> None:
    """Each attempt to change something, with the user or the address that made it."""
    daemon = await stage.daemon(None, admin=TCP)
    await daemon.track("one")
    await daemon.get("/v1/tasks")
    assert (await daemon.call("/v1/tasks/one/forget", BEARER, "POST")).status == 200
    assert (await daemon.call("/v1/tasks/nobody/retry", BEARER, "POST")).status == 404
    await daemon.says("admin.acted", status=404)
    acted = daemon.log("admin.acted")
    assert [(one["who"], one["path"], one["status"]) for one in acted] == [
        (f"uid {os.geteuid()}", "/v1/tasks", 202),
        ("token from 127.0.0.1", "/v1/tasks/{task_id}/forget", 200),
        ("token from 127.0.0.1", "/v1/tasks/{task_id}/retry", 404),
    ]
    assert [one.get("task_id") for one in acted] == [None, "one", "nobody"]
    daemon.process.send_signal(1)
    await daemon.says("config.reloaded")


async def test_s8_08_no_endpoint_takes_a_link_or_a_path(stage: Stage) -> None:
    """A caller names tasks; where bytes come from and go to he cannot say."""
    daemon = await stage.daemon(None, admin=TCP)
    for body in (
        {"task_ids": ["a"], "video_url": "http://127.0.0.1:9/a.mp4"},
        {"task_ids": ["a"], "path": "/etc/passwd"},
        {"music_task_id": "m", "audio_id": "a", "callBackUrl": "http://127.0.0.1:9/"},
    ):
        answer = await daemon.call("/v1/tasks", BEARER, "POST", json.dumps(body))
        assert answer.status == 422
    document = json.dumps(await daemon.get("/openapi.json"))
    schemas = json.loads(document)["components"]["schemas"]
    for name in ("TrackRequest", "SubmitRequest", "RetryRequest"):
        assert not {"path", "url", "link", "video_url"} & set(schemas[name]["properties"])

"""The private listener over TCP, and that no secret leaves the process by any way."""

import asyncio
import base64
import json
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from daemon.rules.notice import sign
from daemon.simulator.faults import ApiFaults, Faults, FileFault, Reply
from daemon.simulator.simulator import Simulator
from tests.stories.harness import API_KEY, TOKEN, Daemon, Heard, ask
from tests.stories.stage import Stage, failure, success

ADMIN_TOKEN = "story-token-of-the-admin"


async def call(
    daemon: Daemon, path: str, headers: Mapping[str, str], method: str = "GET", body: str = ""
) -> Heard:
    """Ask the admin listener over TCP."""
    return await ask(method, daemon.ready["admin_tcp"] + path, data=body.encode(), headers=headers)


async def test_admin_over_tcp_needs_the_token_and_its_own_name(stage: Stage) -> None:
    """Bearer or Basic opens it; a foreign Host, or a page of another site, stays outside."""
    admin = {"listen": "127.0.0.1:0", "token": ADMIN_TOKEN, "hosts": ["suno.example"]}
    daemon = await stage.daemon(None, admin=admin)
    basic = base64.b64encode(f"anybody:{ADMIN_TOKEN}".encode()).decode()
    bearer = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    for path in ("/healthz", "/readyz"):
        assert (await call(daemon, path, {})).status == 200
    wrong_basic = base64.b64encode(b"anybody:wrong").decode()
    for path, wrong in (
        *((path, "") for path in ("/v1/status", "/v1/tasks", "/v1/quarantine", "/nothing")),
        ("/v1/status", f"Bearer {ADMIN_TOKEN}x"),
        ("/v1/tasks", ADMIN_TOKEN),
        ("/nothing", "Basic !"),
        ("/v1/status", f"Basic {wrong_basic}"),
        ("/v1/quarantine", f"Bearer {TOKEN}"),
    ):
        refused = await call(daemon, path, {"Authorization": wrong} if wrong else {})
        assert refused.status == 401, (path, wrong)
        assert refused.headers["WWW-Authenticate"].startswith("Basic ")
        assert json.loads(refused.body)["error"]["code"] == "unauthorized"
    guess = await call(daemon, "/v1/status", {"Authorization": "Bearer one-guess-too-many"})
    assert (guess.status, guess.headers["Retry-After"]) == (429, "60")
    for right in (bearer, {"Authorization": f"Basic {basic}"}):
        assert (await call(daemon, "/v1/status", right)).status == 200
    port = daemon.ready["admin_tcp"].rpartition(":")[2]
    for host, status in (
        ("evil.example", 421),
        (f"evil.example:{port}", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("localhost", 200),
        (f"LOCALHOST:{port}", 200),
        (f"[::1]:{port}", 200),
        ("suno.example", 200),
    ):
        answer = await call(daemon, "/v1/status", {**bearer, "Host": host})
        assert answer.status == status, host
    track = '{"task_ids": ["by-browser"]}'
    for site, status in (
        ("cross-site", 403),
        ("same-site", 403),
        ("same-origin", 202),
        ("none", 200),
    ):
        posted = await call(daemon, "/v1/tasks", {**bearer, "Sec-Fetch-Site": site}, "POST", track)
        assert posted.status == status, site
    assert (
        await call(daemon, "/v1/status", {**bearer, "Sec-Fetch-Site": "cross-site"})
    ).status == 200


async def test_admin_over_loopback_works_without_a_token(stage: Stage) -> None:
    """On loopback a token is optional; a rebinding page is still outside."""
    daemon = await stage.daemon(None, admin={"listen": "127.0.0.1:0"})
    assert (await call(daemon, "/v1/status", {})).status == 200
    assert (await call(daemon, "/v1/status", {"Host": "evil.example"})).status == 421


async def test_no_request_to_the_admin_makes_a_server_error(stage: Stage) -> None:
    """Odd queries, paths, bodies and methods are 4xx with a code and a message."""
    daemon = await stage.daemon(None, admin={"listen": "127.0.0.1:0"})
    odd = ("0", "-1", "1e3", "", "x", "9" * 20, "9" * 5_000, "0" * 19 + "1" + "9" * 30, "%D9%A3")
    paths = ("tasks/%00", "tasks/%ff", "tasks/a%2Fb", "tasks/", "nothing", "/", "")
    gets = [
        *(f"/v1/tasks?limit={value}" for value in odd),
        *(f"/v1/tasks?after={value}" for value in odd),
        *(f"/v1/quarantine?after={value}" for value in odd),
        *(f"/v1/tasks?state={value}" for value in ("dnoe", "done,dnoe", "%00", "")),
        *(f"/v1/{path}" for path in paths),
    ]
    bodies = (
        *("", "null", "[]", "{}", '{"task_ids": "a"}', '{"task_ids": []}', '{"task_ids": [1]}'),
        *('{"task_ids": ["a"], "labell": "x"}', '{"task_ids": ["a"], "label": "\\ud800"}'),
        *('{"task_ids": ["a"], "label": ""}', json.dumps({"task_ids": ["a"] * 1_001})),
        *("[" * 99_999, '{"task_ids": ["a"]' + " " * (1 << 20) + "}"),
    )
    requests = [
        *(("GET", path, "") for path in gets),
        *(("POST", "/v1/tasks", body) for body in bodies),
        *((method, "/v1/tasks", "") for method in ("PUT", "DELETE", "PATCH")),
        *(("POST", path, "") for path in ("/v1/status", "/v1/tasks/nobody/retry", "/healthz")),
    ]
    for method, path, body in requests:
        answer = await call(daemon, path, {}, method, body)
        assert 400 <= answer.status < 500, (method, path[:99], body[:99])
        problem = json.loads(answer.body)["error"]
        assert problem["code"]
        assert problem["message"]
    assert (await daemon.tasks()) == {}


SECRETS = {
    "api key": API_KEY,
    "token": TOKEN,
    "old token": "the-old-token-of-this-story",
    "signing key": "the-signing-key-of-this-story",
    "admin token": ADMIN_TOKEN,
    "query": "Signature=AbC-secret-query",
}
QUERY = f"?Expires=1&{SECRETS['query']}&x"


async def make_trouble(daemon: Daemon, provider: Simulator) -> None:
    """Let everything go wrong at once that could make a program talk about a link, key or token."""

    async def call_back(task_id: str, body: object) -> None:
        at = int(time.time())
        signature = sign(SECRETS["signing key"], task_id, at)
        seal = {"X-Webhook-Timestamp": str(at), "X-Webhook-Signature": signature}
        assert (await daemon.post(body, headers=seal)).status == 200

    faults = (
        FileFault(),
        FileFault(html=True),
        FileFault(redirect_to=f"http://10.0.0.1/film.mp4{QUERY}"),
        FileFault(redirect_to=QUERY, lasts="always"),
        FileFault(cut_after_bytes=100_000),
        FileFault(status=503, lasts=3),
        FileFault(truncate_to_bytes=50_000),
    )
    for fault in faults:
        task_id = provider.add_task(Faults(callbacks=(), files=(fault,)))
        await call_back(task_id, success(task_id, provider.tasks[task_id].video_url + QUERY))
    for number, start in enumerate(
        (
            "http://127.0.0.1:9/film.mp4",
            "http://10.0.0.1/a",
            "http://[::1/a",
            f"{provider.base_url}/a",
        )
    ):
        await call_back(f"bad-link-{number}", success(f"bad-link-{number}", start + QUERY))
    told = {**failure("told-too-much"), "msg": f"see https://h.example/{QUERY} key {API_KEY}"}
    await call_back("told-too-much", told)
    assert (await daemon.post(success("unsigned", f"https://h.example/{QUERY}"))).status == 401
    root = daemon.callback.removesuffix("/video-callback")
    for path in (
        f"{daemon.callback}/{TOKEN}x",
        f"{root}/{TOKEN}",
        f"{daemon.callback}/{ADMIN_TOKEN}",
    ):
        assert (await ask("POST", path)).status == 404
    place = urlsplit(daemon.callback)
    for line in (
        f"POST {place.path}/{TOKEN}{QUERY} HTTP/9",
        f"GET /{SECRETS['old token']}\x01 HTTP/1.1",
    ):
        _, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(f"{line}\r\n\r\n".encode())
        await writer.drain()
        writer.close()
    refusal = Reply(raw=json.dumps({"code": 401, "msg": f"no such key: {API_KEY}", "data": None}))
    provider.script_api(ApiFaults(codes=(refusal,)))
    await call_back("asked", {"code": 201, "data": {"task_id": "asked"}})


async def test_no_secret_leaves_the_process(stage: Stage) -> None:
    """Keys, tokens and signed queries are in no log, answer or output, whatever goes wrong."""
    provider = await stage.provider(kind="kie")
    daemon = await stage.daemon(
        provider,
        provider={"kind": "kie"},
        callback={
            "trust": "callback",
            "tokens": [TOKEN, SECRETS["old token"]],
            "hmac_keys": [SECRETS["signing key"]],
        },
        admin={"listen": "127.0.0.1:0", "token": ADMIN_TOKEN},
    )
    await make_trouble(daemon, provider)
    await daemon.says("gate.closed", gate="key")
    await daemon.says("download.failed", reason="address_refused")
    await daemon.says("task.moved", to="done")
    await asyncio.sleep(1)
    said = {}
    task_ids = list(await daemon.tasks())
    for path in ("/v1/status", "/v1/tasks", *(f"/v1/tasks/{task_id}" for task_id in task_ids)):
        said[path] = json.dumps(await daemon.get(path))
    for verb in (
        ["list"],
        ["status"],
        ["check"],
        ["config", "show"],
        ["config", "check"],
        ["show", "told-too-much"],
        ["show", "bad-link-1"],
        ["retry", *task_ids],
    ):
        ended = await daemon.run(*verb)
        said[" ".join(verb)] = ended.output + ended.errors
    assert await daemon.stop() == 0
    said["log"] = "".join(path.read_text() for path in daemon.folder.glob("*-*.txt"))
    leaks = [
        (name, where)
        for name, secret in SECRETS.items()
        for where, text in said.items()
        if secret in text
    ]
    assert leaks == []
    assert "***" in said["log"]

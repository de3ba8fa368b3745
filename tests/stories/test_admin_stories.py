"""The private listener over TCP: who may enter, and what odd requests get."""

import base64
import json
from collections.abc import Mapping

from tests.stories.harness import TOKEN, Daemon, Heard, ask
from tests.stories.stage import Stage

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

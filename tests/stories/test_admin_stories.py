"""The private listener over TCP: who may enter, and what odd requests get."""

import json

from tests.stories.stage import Stage

ADMIN_TOKEN = "story-token-of-the-admin"


async def test_admin_over_loopback_works_without_a_token(stage: Stage) -> None:
    """On loopback a token is optional; a rebinding page is still outside."""
    daemon = await stage.daemon(None, admin={"listen": "127.0.0.1:0"})
    assert (await daemon.call("/v1/status", {})).status == 200
    assert (await daemon.call("/v1/status", {"Host": "evil.example"})).status == 421


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
        answer = await daemon.call(path, {}, method, body)
        assert 400 <= answer.status < 500, (method, path[:99], body[:99])
        problem = json.loads(answer.body)["error"]
        assert problem["code"]
        assert problem["message"]
    assert (await daemon.tasks()) == {}

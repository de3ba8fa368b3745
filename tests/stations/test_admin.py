"""The private listener: shapes, errors and who may enter."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from daemon import admin
from daemon.admin import admin_app, guard_socket, guard_tcp
from daemon.client import Client, DaemonRefused, NoDaemon
from daemon.config.sections import TcpEndpoint, UnixEndpoint
from daemon.disk import Disk
from daemon.gates import Gates
from daemon.listeners import Runner, close, listen, private_runner
from daemon.office import Office
from daemon.outbound import api_session, file_session, post_session
from daemon.provider import Provider
from daemon.rules.address import AddressPolicy
from daemon.rules.lifecycle import Cause
from daemon.rules.schedule import Pace
from daemon.rules.submission import Wish
from daemon.rules.task import Tidings
from daemon.rules.verdict import Terms
from daemon.store import Store, open_store
from daemon.submitter import Submitter
from daemon.targets import Targets
from tests.security.wire import request, say
from tests.stations.holding import hold
from tests.stories.harness import TASK_FIELDS

NOW = 1_766_000_000_000
DAY_MS = 86_400_000
POLICY = AddressPolicy()
DECLINED = Tidings(
    task_id="t1",
    cause=Cause.DECLINED,
    now=NOW - 1000,
    deadline_at=NOW + DAY_MS,
    ask_at=None,
    reason="provider_error",
    message="sorry",
    code=500,
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A real ledger."""
    async with open_store(tmp_path / "state") as opened:
        yield opened


@pytest.fixture
async def office(store: Store, tmp_path: Path) -> AsyncIterator[Office]:
    """What the handlers work with."""
    disk = Disk(tmp_path / "videos", workers=1, file_mode=0o640, directory_mode=0o750)
    await disk.prepare()
    gates = Gates(lambda: NOW, lambda *_: None)
    terms = Terms(Pace(1000, 1000, 1000), 1000, 1000, has_key=True)
    async with (
        api_session("http://127.0.0.1:9", lambda: None) as session,
        file_session(lambda: POLICY, 1, 1, 1) as files,
    ):
        submitter = Submitter(
            *(store, Provider(session, "sunoapi", gates, lambda: NOW, 1), files, gates),
            policy=lambda: POLICY,
            terms=lambda: terms,
            retention_ms=lambda: 14 * DAY_MS,
            callback_url=lambda: "https://mv.example.com/video-callback/token",
            now=lambda: NOW,
            ring=lambda: None,
            ring_credits=lambda: None,
        )
        yield Office(
            store=store,
            gates=gates,
            disk=disk,
            submitter=submitter,
            targets=Targets(session, tuple, lambda: NOW),
            min_free_bytes=lambda: 1,
            terms=lambda: terms,
            retention_ms=lambda: 14 * DAY_MS,
            now=lambda: NOW,
            ring=lambda: None,
            answered_at=lambda: NOW - 5,
        )
    disk.close()


Call = Callable[..., Any]


@pytest.fixture
async def call(office: Office, tmp_path: Path) -> AsyncIterator[Call]:
    """Call a method of the command line's client against the unix socket."""
    runner = private_runner(admin_app(office, guard_socket))
    path = tmp_path / "admin.sock"
    await listen(runner, UnixEndpoint(path), 0o600)
    client = Client(path)

    async def call(name: str, *arguments: Any) -> Any:
        return await asyncio.to_thread(getattr(client, name), *arguments)

    yield call
    await close([runner])


async def test_a_task_has_exactly_the_fields_of_the_contract(call: Call) -> None:
    """Programs rely on every name; unknown values are null, times end in Z."""
    status, answer = await call("post", "/v1/tasks", {"task_ids": ["t1"], "label": "mine"})
    assert status == 202
    (task,) = answer["tasks"]
    assert list(task) == TASK_FIELDS
    assert task["label"] == "mine"
    assert task["created_at"] == "2025-12-17T19:33:20.000Z"
    assert task["deadline_at"] == "2025-12-31T19:33:20.000Z"
    assert (task["path"], task["unconfirmed"], task["received_bytes"]) == (None, False, 0)


async def test_track_takes_the_good_ids_and_names_the_others(call: Call) -> None:
    """Known ids give 200, new ones 202, and nothing good is lost to a bad neighbour."""
    status, answer = await call("post", "/v1/tasks", {"task_ids": ["good", "../bad", "good"]})
    assert status == 202
    assert [task["task_id"] for task in answer["tasks"]] == ["good"]
    assert [one["id"] for one in answer["rejected"]] == ["../bad"]
    status, answer = await call("post", "/v1/tasks", {"task_ids": ["good"]})
    assert status == 200
    assert "rejected" not in answer


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {"task_ids": []},
        {"task_ids": ["x"] * 1001},
        {"task_ids": [1]},
        {"task_ids": ["x"], "label": ""},
        {"task_ids": ["x"], "label": "a\nb"},
        {"task_ids": ["x"], "unknown": 1},
        {"music_task_id": "m"},
        {"music_task_id": "m", "audio_id": 1},
        {"music_task_id": "m", "audio_id": "a b"},
        {"music_task_id": "m", "audio_id": "a", "author": "x" * 51},
        {"music_task_id": "m", "audio_id": "a", "domain_name": "x" * 51},
        {"music_task_id": "m", "audio_id": "a", "label": ""},
    ],
)
async def test_bad_input_is_a_422_with_a_sentence(call: Call, body: object) -> None:
    """A mistake gets a message and changes nothing."""
    with pytest.raises(DaemonRefused) as refused:
        await call("post", "/v1/tasks", body)
    assert refused.value.status == 422
    assert str(refused.value)
    assert [task async for task in _all(call)] == []


async def _all(call: Call) -> AsyncIterator[Any]:
    for task in (await call("get", "/v1/tasks"))["tasks"]:
        yield task


async def test_pages_come_newest_first_and_meet_without_gap(call: Call) -> None:
    """The cursor walks through all tasks once."""
    ids = [f"t{number}" for number in range(7)]
    await call("post", "/v1/tasks", {"task_ids": ids})
    page = await call("get", "/v1/tasks", [("limit", "3")])
    seen = [task["task_id"] for task in page["tasks"]]
    while page["next"]:
        page = await call("get", "/v1/tasks", [("limit", "3"), ("after", page["next"])])
        seen += [task["task_id"] for task in page["tasks"]]
    assert seen == ids[::-1]
    found = await call("get", "/v1/tasks", [("state", "expected"), ("state", "done")])
    assert len(found["tasks"]) == 7
    found = await call("get", "/v1/tasks", [("state", "done,lost")])
    assert found == {"tasks": [], "next": None}


@pytest.mark.parametrize(
    "query", [("state", "null"), ("limit", "0"), ("limit", "1001"), ("after", "x"), ("limit", "²")]
)
async def test_a_bad_query_is_a_422(call: Call, query: tuple[str, str]) -> None:
    """A filter that is misspelt is said, not ignored."""
    with pytest.raises(DaemonRefused) as refused:
        await call("get", "/v1/tasks", [query])
    assert refused.value.status == 422


async def test_one_task_comes_with_its_history(call: Call, store: Store) -> None:
    """What happened to a task is told in order, with causes."""
    await store.receive([DECLINED])
    task = await call("task", "t1")
    assert (task["state"], task["reason"], task["message"]) == ("failed", "provider_error", "sorry")
    assert task["history"] == [
        {
            "at": "2025-12-17T19:33:19.000Z",
            "from": None,
            "to": "failed",
            "cause": "declined",
            "reason": "provider_error",
        }
    ]
    with pytest.raises(DaemonRefused) as refused:
        await call("task", "nobody")
    assert (refused.value.status, refused.value.code) == (404, "unknown_task")


async def test_retry_reopens_what_failed_and_is_honest_about_the_rest(
    call: Call, store: Store
) -> None:
    """A failed task is asked about again at once; an unknown id is a 404."""
    await store.receive([DECLINED])
    status, task = await call("post", "/v1/tasks/t1/retry")
    assert status == 202
    assert (task["state"], task["reason"], task["message"]) == ("expected", None, None)
    assert task["next_attempt_at"] == "2025-12-17T19:33:20.000Z"
    with pytest.raises(DaemonRefused) as refused:
        await call("retry", "nobody")
    assert refused.value.status == 404


async def test_status_shows_counts_gates_disk_and_quarantine(
    call: Call, office: Office, store: Store
) -> None:
    """One look tells how it stands."""
    await call("post", "/v1/tasks", {"task_ids": ["t1", "t2"]})
    await hold(store, b"\xffodd", now=NOW)
    office.gates.close("key", "wrong key")
    office.remember_credits(12.5)
    status = await call("get", "/v1/status")
    assert status["counts"] == {
        "expected": 2,
        "wanted": 0,
        "verified": 0,
        "stored": 0,
        "done": 0,
        "failed": 0,
        "lost": 0,
        "pruned": 0,
    }
    assert status["gates"] == [
        {"name": "key", "since": "2025-12-17T19:33:20.000Z", "reason": "wrong key"}
    ]
    assert status["disk"]["free_bytes"] > 0
    assert (status["quarantined"], status["credits"]) == (1, 12.5)
    assert status["provider_answered_at"] == "2025-12-17T19:33:19.995Z"
    page = await call("get", "/v1/quarantine")
    (held,) = page["quarantine"]
    assert (held["reason"], held["size_bytes"], held["body"]) == ("not JSON", 4, "\\xffodd")


async def test_status_names_an_application_that_was_not_told(call: Call, office: Office) -> None:
    """By its host alone, with the last error; the URL may hold what is nobody's business."""
    await office.store.commits.connection.execute_fetchall(
        """
        INSERT INTO outbox (id, target, type, task_id, created_at, error)
        VALUES ('i', 'https://app.example/cb?order=hush', 'task.lost', 't', 1, 'answered HTTP 500')
        """
    )
    name = "the application at https://app.example/"
    lost = {"target": name, "count": 1, "last_error": "answered HTTP 500"}
    assert (await call("get", "/v1/status"))["undelivered"] == [lost]


async def test_status_survives_a_download_folder_that_is_gone(call: Call, office: Office) -> None:
    """The ledger is still shown when the disk cannot be read."""
    await asyncio.to_thread((office.disk.directory / ".partial").rmdir)
    await asyncio.to_thread(office.disk.directory.rmdir)
    assert (await call("get", "/v1/status"))["disk"] is None


async def test_health_is_about_the_process_and_readiness_about_the_store(
    call: Call, office: Office
) -> None:
    """Gates never make us unready; stopping does."""
    office.gates.close("api", "down")
    assert await call("get", "/healthz") == {"status": "ok"}
    assert await call("get", "/readyz") == {"status": "ok"}
    office.stopping = True
    with pytest.raises(DaemonRefused) as refused:
        await call("get", "/readyz")
    assert refused.value.status == 503
    assert await call("get", "/healthz") == {"status": "ok"}


async def test_what_does_not_exist_is_a_json_404(call: Call) -> None:
    """Later issues' paths do not exist before they work."""
    for path in ("/", "/metrics", "/v1/events", "/v1/tasks/a/b/c"):
        with pytest.raises(DaemonRefused) as refused:
            await call("get", path)
        assert refused.value.status == 404
    with pytest.raises(DaemonRefused) as refused:
        await call("post", "/v1/status")
    assert refused.value.status == 405


async def test_a_body_beyond_a_mebibyte_is_refused(call: Call) -> None:
    """Memory is not at a caller's mercy."""
    with pytest.raises(DaemonRefused) as refused:
        await call("post", "/v1/tasks", {"task_ids": ["x" * (1 << 20)]})
    assert refused.value.status == 413


async def test_nobody_there_is_told_apart_from_a_refusal(tmp_path: Path) -> None:
    """Without a daemon the client says which socket it tried."""
    with pytest.raises(NoDaemon, match="no such socket"):
        await asyncio.to_thread(Client(tmp_path / "none.sock").get, "/v1/status")


async def _tcp(office: Office, token: str | None) -> tuple[Runner, str]:
    guard = guard_tcp(
        lambda: frozenset({"127.0.0.1", "[::1]"}),
        lambda: frozenset({"box.example"}),
        lambda: token,
    )
    runner = private_runner(admin_app(office, guard))
    return runner, await listen(runner, TcpEndpoint("127.0.0.1", 0), 0o600)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Digest secret-token"}, 401),
        ({"Authorization": "Basic !!!"}, 401),
        ({"Authorization": "Bearer secret-token"}, 200),
        ({"Authorization": "bearer  secret-token "}, 200),
        ({"Authorization": f"Basic {base64.b64encode(b'any:secret-token').decode()}"}, 200),
        ({"Authorization": f"Basic {base64.b64encode(b'any:wrong').decode()}"}, 401),
        ({"Authorization": "Bearer secret-token", "Host": "evil.example"}, 421),
        ({"Authorization": "Bearer secret-token", "Host": "127.0.0.1.evil.example"}, 421),
        ({"Authorization": "Bearer secret-token", "Host": "BOX.example:99"}, 200),
        ({"Authorization": "Bearer secret-token", "Host": "[::1]:99"}, 421),
        ({"Authorization": "Bearer secret-token", "Host": "[::1]"}, 200),
        ({"Authorization": "Bearer secret-token", "Host": "[::2]:99"}, 421),
    ],
)
async def test_tcp_takes_its_own_names_and_the_token(
    office: Office, headers: dict[str, str], expected: int
) -> None:
    """A foreign Host is DNS rebinding and comes before the token."""
    runner, url = await _tcp(office, "secret-token")
    async with post_session() as session:
        async with session.get(f"{url}/v1/status", headers=headers) as response:
            assert response.status == expected
            assert response.headers["Server"] == "suno-videod"
            if expected == 401:
                assert response.headers["WWW-Authenticate"].startswith("Basic ")
        async with session.get(f"{url}/healthz") as response:
            assert response.status == 200
    await close([runner])


@pytest.mark.parametrize(
    ("site", "expected"),
    [(None, 202), ("same-origin", 202), ("none", 202), ("cross-site", 403), ("same-site", 403)],
)
async def test_pages_of_other_sites_change_nothing(
    office: Office, site: str | None, expected: int
) -> None:
    """A browser that is led astray says so in Sec-Fetch-Site; reading is another matter."""
    runner, url = await _tcp(office, None)
    headers = {} if site is None else {"Sec-Fetch-Site": site}
    async with post_session() as session:
        async with session.post(
            f"{url}/v1/tasks", data=b'{"task_ids":["t1"]}', headers=headers
        ) as response:
            assert response.status == expected
        async with session.get(f"{url}/v1/tasks", headers=headers) as response:
            assert response.status == 200
    await close([runner])


async def test_an_admin_socket_answers_only_its_owner(call: Call, tmp_path: Path) -> None:
    """The socket file lets nobody else connect at all."""
    mode = (await asyncio.to_thread((tmp_path / "admin.sock").stat)).st_mode
    assert mode & 0o777 == 0o600
    assert await call("get", "/healthz") == {"status": "ok"}


async def test_a_wish_that_is_being_sent_cannot_be_forgotten(call: Call, store: Store) -> None:
    """Nobody would look for a video that may be paid for at this very moment."""
    wish = Wish(music_task_id="m", audio_id="a")
    intent = await store.intents.record(
        "submit-1", wish, source="submit", label=None, now=NOW, deadline_at=NOW + DAY_MS
    )
    assert await store.intents.begin(intent) is not None
    with pytest.raises(DaemonRefused, match="right now") as refused:
        await call("forget", "submit-1")
    assert refused.value.status == 409
    await store.intents.postpone(intent, None, doubts=2, unheard=2)
    assert (await call("forget", "submit-1"))["forgotten_at"] is not None


async def test_a_body_has_its_time_and_its_form(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A packed one is refused before it is read, a dripping one when its time is over."""
    assert admin.BODY_SECONDS == 10.0
    monkeypatch.setattr(admin, "BODY_SECONDS", 0.5)
    runner, url = await _tcp(office, None)
    host = url.removeprefix("http://")
    packed = request("POST /v1/tasks", "Content-Encoding: gzip", host=host, body=b"x")
    assert (await say(url, packed, patience=0.3)).status == 415
    slow = request("POST /v1/tasks", "Content-Length: 99", host=host, framed=False)
    heard = await say(url, slow, patience=8)
    assert (heard.status, heard.closed) == (408, True)
    await close([runner])


async def test_a_foreign_page_makes_no_call_with_our_key(office: Office) -> None:
    """Below the gateway's prefix a GET is no harmless request either, nor is a diagnosis."""

    async def relay(_: web.Request) -> web.Response:
        return web.Response(text="relayed")

    app = admin_app(office, lambda _: None, [web.get("/api/v1/{path:.*}", relay)])
    runner = private_runner(app)
    url = await listen(runner, TcpEndpoint("127.0.0.1", 0), 0o600)
    try:
        async with post_session() as session:
            for site, status in (("cross-site", 403), ("same-origin", 200), (None, 200)):
                headers = {"Sec-Fetch-Site": site} if site else {}
                async with session.get(f"{url}/api/v1/x", headers=headers) as response:
                    assert response.status == status
                for path in ("/v1/diagnosis", "/v1/tasks/x/diagnosi%73"):
                    async with session.get(f"{url}{path}", headers=headers) as response:
                        assert (response.status == 403) == (status == 403)
    finally:
        await close([runner])

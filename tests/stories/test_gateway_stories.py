"""An application that changed nothing but its base URL, and what it hears."""

import asyncio
import hashlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from aiohttp import web

from daemon.rules.notice import check_signature
from daemon.simulator.faults import Faults
from daemon.simulator.provider import Kind
from tests.stories.harness import API_KEY, PATIENCE_SECONDS, Daemon
from tests.stories.stage import Stage, check_film

ADMIN_TOKEN: Final = "story-token-of-the-admin"
HMAC_KEY: Final = "story-key-of-the-signature"
ADMIN: Final = {"listen": "127.0.0.1:0", "token": ADMIN_TOKEN}
TRACK: Final = {"taskId": "music", "audioId": "audio", "author": "A", "domainName": "d.example"}


class Answered(NamedTuple):
    """What the application heard."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def call(
    daemon: Daemon, method: str, path: str, body: bytes | None = None, key: str = API_KEY
) -> Answered:
    """Ask as an application does that knows a base URL and its key, and no more."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(  # noqa: S310 - http on loopback
        daemon.ready["admin_tcp"] + path, data=body, headers=headers, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310
            return Answered(answer.status, dict(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answered(error.status or 0, dict(error.headers), error.read())


async def generate(daemon: Daemon, **fields: object) -> Any:
    """Ask for a video and return the decoded answer."""
    body = json.dumps(TRACK | fields).encode()
    answer = await asyncio.to_thread(call, daemon, "POST", "/api/v1/mp4/generate", body)
    assert answer.status == 200, answer
    return json.loads(answer.body)


class Ear:
    """Where the application is called back."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/cb?order=1"
        self.heard: list[Any] = []
        self.headers: list[Mapping[str, str]] = []
        self.deaf = False

    async def answer(self, request: web.Request) -> web.Response:
        """Note one callback; who is deaf does not answer."""
        assert request.path_qs == "/cb?order=1"
        self.heard.append(await request.json())
        self.headers.append(request.headers)
        if self.deaf:
            await asyncio.Event().wait()
        return web.json_response({"status": "received"})

    async def hears(self, count: int) -> None:
        """Wait until so many callbacks came."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.heard) < count:  # noqa: ASYNC110 - the wait is short, and of a test
                await asyncio.sleep(0.02)


def hash_of(path: Path) -> str:
    """Return what a file hashes to."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@asynccontextmanager
async def listening(ear: Ear, port: int) -> AsyncIterator[None]:
    """Listen for callbacks while the block runs."""
    app = web.Application()
    app.router.add_post("/cb", ear.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("kind", ["sunoapi", "apibox", "kie"])
async def test_an_application_changes_only_its_base_url(stage: Stage, kind: Kind) -> None:
    """It generates, asks and is called back in the provider's shape once the file is there."""
    provider = await stage.provider(kind=kind)
    callback: dict[str, object] = {"hmac_keys": [HMAC_KEY]} if kind == "kie" else {}
    daemon = await stage.daemon(provider, admin=ADMIN, provider={"kind": kind}, callback=callback)
    port = free_port()
    ear = Ear(port)
    async with listening(ear, port):
        answer = await generate(daemon, callBackUrl=ear.url)
        task_id = answer["data"]["taskId"]
        assert answer == {"code": 200, "msg": "success", "data": {"taskId": task_id}}
        await ear.hears(1)
        path = Path((await daemon.task(task_id))["path"])
        told = ear.heard[0]
        assert told == {
            "code": 200,
            "msg": "success",
            "data": {
                "task_id": task_id,
                "video_url": provider.tasks[task_id].video_url,
                "path": str(path),
                "sha256": hash_of(path),
            },
        }
        check_film(daemon, provider, task_id)
        seal = ear.headers[0].get("X-Webhook-Signature")
        stamp = ear.headers[0].get("X-Webhook-Timestamp")
        assert (seal is not None) == (kind == "kie")
        if stamp is not None:
            assert check_signature([HMAC_KEY], task_id, stamp, seal, int(stamp))
        question = f"/api/v1/mp4/record-info?taskId={task_id}"
        record = await asyncio.to_thread(call, daemon, "GET", question)
        assert json.loads(record.body)["data"]["successFlag"] == "SUCCESS"
        await daemon.until(task_id, source="gateway", music_task_id="music", audio_id="audio")
        again = await generate(daemon, callBackUrl=ear.url)
        assert again["code"] == (422 if kind == "kie" else 409)
        await asyncio.sleep(0.3)
        assert len(ear.heard) == 1


async def test_a_failure_is_told_as_the_provider_tells_it(stage: Stage) -> None:
    """Code 500, the reason, and no link."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, admin=ADMIN)
    port = free_port()
    ear = Ear(port)
    async with listening(ear, port):
        answer = await generate(daemon, audioId="sim-failure", callBackUrl=ear.url)
        task_id = answer["data"]["taskId"]
        await ear.hears(1)
    data = {"task_id": task_id, "video_url": None}
    assert ear.heard == [{"code": 500, "msg": "generate_failed", "data": data}]
    assert (await daemon.task(task_id))["state"] == "failed"


async def test_a_lost_answer_is_the_applications_first_success(stage: Stage) -> None:
    """The call is repeated behind its back, and it hears what it would have heard."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, admin=ADMIN)
    port = free_port()
    ear = Ear(port)
    async with listening(ear, port):
        answer = await generate(daemon, audioId="sim-lost-answer", callBackUrl=ear.url)
        (task_id,) = provider.tasks
        assert answer == {"code": 200, "msg": "success", "data": {"taskId": task_id}}
        await ear.hears(1)
        assert ear.heard[0]["data"]["task_id"] == task_id


async def test_who_was_down_hears_it_later_even_over_a_restart(stage: Stage) -> None:
    """One warning, no loss, and one delivery."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, admin=ADMIN)
    port = free_port()
    ear = Ear(port)
    task_id = (await generate(daemon, callBackUrl=ear.url))["data"]["taskId"]
    delayed = await daemon.says("notify.delayed")
    assert delayed["task_id"] == task_id
    assert "order" not in json.dumps(daemon.log())
    assert await daemon.stop() == 0
    await daemon.restart()
    async with listening(ear, port):
        await ear.hears(1)
        await daemon.says("notify.sent", task_id=task_id)
        assert await daemon.stop() == 0
        await daemon.restart()
        await asyncio.sleep(0.5)
    assert [heard["data"]["task_id"] for heard in ear.heard] == [task_id]


async def test_a_kill_loses_no_callback(stage: Stage) -> None:
    """Neither between the provider's answer and the file, nor while the application is told."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, admin=ADMIN)
    port = free_port()
    ear = Ear(port)
    ear.deaf = True
    async with listening(ear, port):
        provider.next_faults = Faults(callbacks=())
        task_id = (await generate(daemon, callBackUrl=ear.url))["data"]["taskId"]
        daemon.kill()
        assert ear.heard == []
        await daemon.restart()
        await ear.hears(1)
        daemon.kill()
        ear.deaf = False
        await daemon.restart()
        await ear.hears(2)
        await daemon.says("notify.sent", task_id=task_id)
    assert ear.heard[0] == ear.heard[1]
    assert ear.heard[0]["data"]["task_id"] == task_id
    check_film(daemon, provider, task_id)


async def test_a_task_made_elsewhere_is_tracked_when_asked_about(stage: Stage) -> None:
    """Its film comes to disk; a mistyped id is nobody's task."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, admin=ADMIN)
    task_id = provider.add_task(Faults(callbacks=()))
    for asked in (task_id, f"{task_id}x"):
        question = f"/api/v1/mp4/record-info?taskId={asked}"
        assert (await asyncio.to_thread(call, daemon, "GET", question)).status == 200
    await daemon.until(task_id, source="gateway")
    assert set(await daemon.tasks()) == {task_id}
    check_film(daemon, provider, task_id)


async def test_the_key_opens_the_gateway_and_nothing_else(stage: Stage) -> None:
    """The admin token opens both, a wrong key neither."""
    daemon = await stage.daemon(await stage.provider(), admin=ADMIN)
    for key, path, status in (
        (API_KEY, "/api/v1/generate/credit", 200),
        (ADMIN_TOKEN, "/api/v1/generate/credit", 200),
        ("wrong", "/api/v1/generate/credit", 401),
        (API_KEY, "/v1/status", 401),
        (API_KEY, "/api/v1/../../v1/status", 404),
        (ADMIN_TOKEN, "/v1/status", 200),
    ):
        answer = await asyncio.to_thread(call, daemon, "GET", path, key=key)
        assert answer.status == status, (key, path)


async def test_a_refusal_of_ours_has_the_providers_shape(stage: Stage) -> None:
    """Also when nobody is there to ask."""
    daemon = await stage.daemon(None, admin=ADMIN)
    path = "/api/v1/mp4/generate"
    odd = await asyncio.to_thread(call, daemon, "POST", path, b"{")
    assert odd.status == 200
    assert json.loads(odd.body)["code"] == 400
    unsent = await asyncio.to_thread(call, daemon, "POST", path, json.dumps(TRACK).encode())
    told = json.loads(unsent.body)
    assert (unsent.status, told["code"], told["data"]) == (503, 503, None)
    assert "Nothing was sent" in told["msg"]
    (task,) = (await daemon.tasks()).values()
    assert (task["state"], task["source"]) == ("failed", "gateway")


SUBMITS: Final = (
    *("generate", "generate/extend", "generate/upload-cover", "generate/upload-extend"),
    *("generate/add-vocals", "generate/add-instrumental", "generate/replace-section"),
    *("generate/mashup", "generate/sounds", "wav/generate", "vocal-removal/generate"),
    *("midi/generate", "suno/cover/generate", "lyrics", "voice/validate", "voice/generate"),
    *("jobs/createTask", "common/download-url"),
)
QUESTIONS: Final = (
    *("generate/record-info", "wav/record-info", "vocal-removal/record-info"),
    *("midi/record-info", "suno/cover/record-info", "lyrics/record-info", "voice/validate-info"),
    *("voice/record-info", "jobs/recordInfo", "mp4/record-info"),
    *("generate/credit", "chat/credit", "get-credits"),
)


class Recorder:
    """An upstream that knows no HTTP library: it keeps the bytes of each request."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""

    async def hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep requests of one connection until it ends."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *fields = head[:-4].split("\r\n")
                headers = dict(field.split(": ", 1) for field in fields)
                length = int(headers.get("Content-Length", "0"))
                self.requests.append((line, headers, await reader.readexactly(length)))
                body = b'{"code":200,"msg":"success","data":77}'
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n".encode())
                writer.write(b"Content-Type: application/json;charset=UTF-8\r\n\r\n" + body)
                await writer.drain()
        writer.close()

    def marked(self) -> list[tuple[str, dict[str, str], bytes]]:
        """Return what the application sent, without the daemon's own questions."""
        return [request for request in self.requests if "story=%2f1" in request[0]]


@asynccontextmanager
async def recording() -> AsyncIterator[Recorder]:
    """Run a recorder on a free port."""
    recorder = Recorder()
    server = await asyncio.start_server(recorder.hear, "127.0.0.1", 0)
    recorder.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield recorder
    finally:
        server.close()


@pytest.mark.parametrize("kind", ["sunoapi", "kie"])
async def test_the_whole_api_is_passed_on_byte_for_byte(stage: Stage, kind: str) -> None:
    """Every documented call arrives as it was sent, with our key in place of theirs."""
    async with recording() as recorder:
        settings = {"kind": kind, "base_url": recorder.url}
        daemon = await stage.daemon(None, admin=ADMIN, provider=settings)
        body = '{ "callBackUrl":"https://app.example/cb?a=1", "prompt": "é\\u00e9" }\n'.encode()
        calls = [*((path, body) for path in SUBMITS), *((path, None) for path in QUESTIONS)]
        for path, sent in calls:
            method = "GET" if sent is None else "POST"
            target = f"/api/v1/{path}?story=%2f1&taskId=a+b%20c"
            answer = await asyncio.to_thread(call, daemon, method, target, sent, key=ADMIN_TOKEN)
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "application/json;charset=UTF-8"
            assert answer.body == b'{"code":200,"msg":"success","data":77}'
            line, headers, heard = recorder.marked()[-1]
            assert line == f"{method} {target} HTTP/1.1"
            assert heard == (sent or b"")
            assert headers["Authorization"] == f"Bearer {API_KEY}"
            assert headers["Content-Type"] == "application/json"
            assert headers["Host"] == recorder.url.partition("//")[2]
            assert ADMIN_TOKEN not in str(headers)
        assert len(recorder.marked()) == len(calls)
        assert await daemon.tasks() == {}


@pytest.mark.parametrize("kind", ["sunoapi", "kie"])
async def test_only_the_callback_url_of_a_new_video_is_ours(stage: Stage, kind: str) -> None:
    """All other fields reach the provider as the application wrote them."""
    async with recording() as recorder:
        settings = {"kind": kind, "base_url": recorder.url}
        daemon = await stage.daemon(None, admin=ADMIN, provider=settings)
        body = json.dumps(TRACK | {"callBackUrl": "https://app.example.com/cb"}).encode()
        await asyncio.to_thread(call, daemon, "POST", "/api/v1/mp4/generate", body)
        sent = [request for request in recorder.requests if "mp4/generate" in request[0]]
        told = json.loads(sent[0][2])
        assert told.pop("callBackUrl") != "https://app.example.com/cb"
        assert told == TRACK
        assert sent[0][1]["Authorization"] == f"Bearer {API_KEY}"

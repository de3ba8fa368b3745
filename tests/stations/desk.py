"""A gateway that listens, between an application that asks and a provider that records."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from ipaddress import ip_network
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from daemon.config.secret import Secret
from daemon.gates import Gates
from daemon.gateway import Gateway
from daemon.outbound import api_session
from daemon.provider import Provider, Reply
from daemon.rules.dialect import Outcome
from daemon.rules.outgoing import application_policy
from daemon.rules.submission import Decision, Fate, Next, Receipt, Wish
from daemon.rules.task import Task
from daemon.store import Store, StoreFailed

WEEK = 7 * 86_400_000
START = 1_790_000_000_000
TAKEN = Receipt(fate=Fate.TAKEN, outcome=Outcome.ANSWERED, task_id="video")
NAMED = Decision(next=Next.NAME, doubts=0)
MIB = 1 << 20
TRACK = {"taskId": "music", "audioId": "audio"}

Break = Callable[..., Awaitable[None]]
Now = Callable[[], int]
Plant = Callable[..., Awaitable[Task]]


class Upstream:
    """A provider that records what reaches it, and answers with what it is told."""

    def __init__(self) -> None:
        self.base_url = ""
        self.requests: list[tuple[str, str, bytes]] = []
        self.headers: list[Mapping[str, str]] = []
        self.status = 200
        self.body = b'{"code":200,"msg":"success","data":null}'
        self.answer_headers = {"Content-Type": "application/json;charset=UTF-8"}
        self.wait = 0.0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Record one request."""
        self.requests.append((request.method, request.raw_path, await request.read()))
        self.headers.append(request.headers)
        await asyncio.sleep(self.wait)
        return web.Response(status=self.status, body=self.body, headers=self.answer_headers)


@dataclass
class Submitted:
    """What the submitter of a test says."""

    task: Task
    receipt: Receipt | None = None
    reply: Reply | None = None
    decision: Decision | None = None


@dataclass
class Desk:
    """A gateway that listens, what is behind it, and what was handed to the submitter."""

    url: str
    upstream: Upstream
    gateway: Gateway
    outcome: Submitted | StoreFailed
    wishes: list[tuple[Wish, str, str | None, bool]] = field(default_factory=list)
    rings: int = 0
    key: str | None = "key"

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send one request and return status, headers and body."""
        target = URL(self.url + path, encoded=True)
        async with aiohttp.request(
            method, target, data=BytesIO(body) if body else None, headers=headers
        ) as response:
            return response.status, response.headers, await response.read()

    async def generate(self, body: object) -> tuple[int, Mapping[str, str], Any]:
        """Ask for a video and return status, headers and the decoded answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, headers, answer = await self.ask("POST", "/api/v1/mp4/generate", data)
        return status, headers, json.loads(answer)


Open = Callable[..., AbstractAsyncContextManager[Desk]]


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    """Serve an application on a free port; yield its base URL."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def make_desks(store: Store, gates: Gates, now: Now, plant: Plant) -> Open:
    """Return what opens a gateway, as (kind, path of base_url)."""

    @asynccontextmanager
    async def start(kind: str = "sunoapi", below: str = "") -> AsyncIterator[Desk]:
        upstream = Upstream()
        desk: Desk | None = None
        behind = web.Application(client_max_size=8 * MIB)
        behind.router.add_route("*", "/{path:.*}", upstream.answer)
        task = await plant("video")

        async def submit(wish: Wish, *, source: str, label: str | None, patient: bool) -> Submitted:
            assert desk is not None
            desk.wishes.append((wish, source, label, patient))
            if isinstance(desk.outcome, StoreFailed):
                raise desk.outcome
            return desk.outcome

        def ring() -> None:
            assert desk is not None
            desk.rings += 1

        async with (
            listening(behind) as base_url,
            api_session(base_url + below, lambda: Secret("key"), 2) as session,
        ):
            door = Gateway(
                *(store, Provider(session, kind, gates, now, 1000), gates, submit),
                kind=kind,
                api_key=lambda: desk.key if desk else None,
                policy=lambda: application_policy([ip_network("10.1.0.0/16")]),
                retention_ms=lambda: WEEK,
                now=now,
                ring=ring,
            )
            app = web.Application(client_max_size=1024)
            app.add_routes(door.routes())
            async with listening(app) as url:
                upstream.base_url = base_url
                desk = Desk(url, upstream, door, Submitted(task))
                yield desk

    return start


def reply(body: bytes = b"{}", status: int = 200, wish: float | None = None) -> Reply:
    """Return an answer as the provider's client hands it on."""
    return Reply(status, "application/json;charset=UTF-8", body, wish)


def place(url: str) -> tuple[str, int]:
    """Return host and port of a URL."""
    host, _, port = url.partition("//")[2].partition(":")
    return host, int(port)


def record(task_id: str) -> bytes:
    """Return what record-info says about a task that it knows."""
    data = {"taskId": task_id, "successFlag": "PENDING", "response": None}
    return json.dumps({"code": 200, "msg": "success", "data": data}, indent=3).encode()


def say(desk: Desk, said: Reply | None, **receipt: Any) -> Submitted:
    """Return what the submitter says: this answer, about a call that was taken."""
    assert isinstance(desk.outcome, Submitted)
    return Submitted(desk.outcome.task, replace(TAKEN, **receipt), said, NAMED)

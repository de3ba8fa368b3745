"""A dashboard with a ledger, a disk and a stream of events that a test holds in its hands.

Rule: ledger, files, sockets and browser are real; only what would happen is said by the test.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from aiohttp_sse import sse_response
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from daemon.admin import admin_app, guard_tcp
from daemon.config.sections import TcpEndpoint
from daemon.dashboard.site import Site
from daemon.disk import Disk
from daemon.gates import Gates
from daemon.listeners import Runner, close, listen, private_runner
from daemon.office import Office
from daemon.outbound import api_session, file_session
from daemon.provider import Provider
from daemon.rules.address import AddressPolicy
from daemon.rules.lifecycle import Cause, State
from daemon.rules.schedule import Pace
from daemon.rules.task import Task, Tidings
from daemon.rules.verdict import Terms
from daemon.store import Store, open_store
from daemon.targets import Targets
from tests.stations.examining import make_submitter
from tests.stories.harness import Heard, ask

TOKEN: Final = "token-of-the-dashboard-in-these-tests"
DAY: Final = 86_400_000
HOUR: Final = 3_600_000
CLIPS: Final = Path(__file__).parents[2] / "daemon" / "clips"
JPEG: Final = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb004300080606070605080707070909080a0c140d0c0b0b0c19"
    "12130f141d1a1f1e1d1a1c1c20242e2720222c231c1c2837292c30313434341f27393d38323c2e333432ffc0000b08"
    "000100010101110000ffc40014000100000000000000000000000000000009ffc4001410010000000000000000000000"
    "0000000000ffda0008010100003f0054dfffd9"
)
"""A grey picture of one pixel."""

_POLICY: Final = AddressPolicy()


@dataclass(slots=True)
class Scene:
    """One dashboard and all that stands behind it."""

    store: Store
    gates: Gates
    disk: Disk
    office: Office
    site: Site
    clock: Callable[[], int]
    url: str = ""
    onlookers: set[asyncio.Queue[tuple[str, str] | None]] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    """The path and query of every request."""
    runner: Runner | None = None

    async def open(self) -> None:
        """Open the door, at the same port as before."""
        guard = guard_tcp(lambda: frozenset({"127.0.0.1"}), frozenset, lambda: TOKEN)

        def count(request: web.Request) -> web.Response | None:
            refused = guard(request)
            if refused is None:
                self.asked.append(request.path_qs)
            return refused

        routes = [*self.site.routes(), web.get("/v1/events", self._stream)]
        self.runner = private_runner(admin_app(self.office, count, routes))
        port = int(self.url.rpartition(":")[2] or 0) if self.url else 0
        self.url = await listen(self.runner, TcpEndpoint("127.0.0.1", port), 0o600)

    async def shut(self) -> None:
        """Close the door: nobody answers."""
        if self.runner is not None:
            for queue in self.onlookers:
                queue.put_nowait(None)
            await close([self.runner])
            self.runner = None

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue()
        async with sse_response(request) as stream:
            self.onlookers.add(queue)
            try:
                while (news := await queue.get()) is not None:
                    await stream.send(news[1], event=news[0])
            finally:
                self.onlookers.discard(queue)
        return stream

    def say(self, event: str, **fields: object) -> None:
        """Tell everybody who looks on what happened."""
        line = json.dumps({"level": "info", "event": event, **fields})
        for queue in self.onlookers:
            queue.put_nowait((event, line))

    async def plant(self, task_id: str, state: State = State.EXPECTED, **columns: object) -> Task:
        """Put a task into the ledger, whatever led to it."""
        at = self.clock()
        values: dict[str, object] = {"state": state}
        if state is not State.EXPECTED:
            values |= {"link": "https://files.example.com/a.mp4", "fetch_at": at}
        if state in {State.VERIFIED, State.STORED, State.DONE, State.PRUNED}:
            path = str(self.disk.directory / f"video_{task_id}.mp4")
            values |= {"size_bytes": 9, "sha256": "00", "path": path}
        if state in {State.STORED, State.DONE, State.PRUNED}:
            values |= {"stored_at": at}
        values |= columns
        birth = Tidings(
            task_id=task_id, cause=Cause.HINTED, now=at, deadline_at=at + 14 * DAY, ask_at=at
        )
        await self.store.receive([birth])
        await self.change(task_id, **values)
        task = await self.store.task(str(columns.get("task_id", task_id)))
        assert task is not None
        return task

    async def change(self, task_id: str, **columns: object) -> None:
        """Change a row behind the daemon's back."""
        sets = ", ".join(f"{name} = :{name}" for name in columns)
        await self.store.commits.connection.execute_fetchall(
            f"UPDATE task SET {sets} WHERE task_id = :key",  # noqa: S608 - only column names
            {**columns, "key": task_id},
        )

    async def film(self, task_id: str, *, picture: bool = False, **columns: object) -> Task:
        """Put a finished video into the ledger and onto the disk."""
        content = await asyncio.to_thread((CLIPS / "faststart.mp4").read_bytes)
        path = self.disk.directory / f"video_{task_id}.mp4"
        await asyncio.to_thread(path.write_bytes, content)
        if picture:
            await asyncio.to_thread(path.with_suffix(".jpg").write_bytes, JPEG)
        values = {"duration_seconds": 2.0, "width": 320, "height": 180, "video_codec": "avc1"}
        values |= {"audio_codec": "mp4a", "audio_sample_rate": 48_000, "sha256": "5e" * 32}
        whole = {**values, "size_bytes": len(content), **columns}
        return await self.plant(task_id, State.DONE, **whole)


@asynccontextmanager
async def open_scene(folder: Path, *, clock: Callable[[], int]) -> AsyncIterator[Scene]:
    """Build everything, open the door, and clear it all away afterwards."""
    disk = Disk(folder / "videos", workers=4, file_mode=0o640, directory_mode=0o750)
    await disk.prepare()
    gates = Gates(clock, lambda *_: None)
    terms = Terms(Pace(1000, 1000, 1000), 1000, 1000, has_key=True)
    async with (
        open_store(folder / "state") as store,
        api_session("http://127.0.0.1:9", lambda: None) as session,
        file_session(lambda: _POLICY, 1, 1, 1) as files,
    ):
        submitter = make_submitter(
            store,
            Provider(session, "sunoapi", gates, clock, 1),
            files,
            gates,
            policy=_POLICY,
            now=clock,
        )
        office = Office(
            store=store,
            gates=gates,
            disk=disk,
            submitter=submitter,
            targets=Targets(session, tuple, clock),
            min_free_bytes=lambda: 1 << 30,
            terms=lambda: terms,
            retention_ms=lambda: 14 * DAY,
            now=clock,
            ring=lambda: None,
            answered_at=clock,
        )
        scene = Scene(store, gates, disk, office, Site(office, lambda: 20), clock)
        await scene.open()
        try:
            yield scene
        finally:
            await scene.shut()
            disk.close()


def find_chromium() -> str:
    """Return the system's browser, or skip the test that needs it."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs the package chromium")
    return path


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """Start the system's Chromium, which asks nobody on the internet for anything."""
    quiet = ("background-networking", "component-update", "sync")
    arguments = [*(f"--disable-{name}" for name in quiet), "--no-first-run"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    async with AsyncExitStack() as stack:
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=arguments)
        stack.push_async_callback(browser.close)
        yield browser


@dataclass(slots=True)
class Visitor:
    """Somebody with a browser; `complaints` is what the browser wrote to its console."""

    browser: Browser
    scene: Scene
    complaints: list[str] = field(default_factory=list)
    _contexts: list[BrowserContext] = field(default_factory=list)

    async def open(self, path: str = "/", **options: Any) -> Page:
        """Go to a page; `options` are those of a browser's context."""
        size = {"width": 1100, "height": 800}
        context = await self.browser.new_context(**{**credentials(), "viewport": size, **options})
        self._contexts.append(context)
        page = await context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda said: self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        await page.goto(self.scene.url + path)
        if options.get("java_script_enabled", True):
            await expect(page.locator("#live:not([hidden], .off)")).to_be_visible()
        return page

    async def leave(self) -> None:
        """Close all pages."""
        for context in self._contexts:
            await context.close()


def credentials() -> dict[str, Any]:
    """Return the options of a browser's context whose owner types the token in."""
    return {"http_credentials": {"username": "any", "password": TOKEN}}


BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}


async def see(
    scene: Scene, path: str, method: str = "GET", body: str = "", **headers: str
) -> Heard:
    """Ask the dashboard without a browser; underscores in names of headers are hyphens."""
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    if body:
        told.setdefault("Content-Type", "application/x-www-form-urlencoded")
    return await ask(method, scene.url + path, data=body.encode(), headers=BEARER | told)

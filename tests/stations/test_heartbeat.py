"""The heartbeat beats while all goes well, and says once when it stops and once when it goes on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from daemon.bell import Bell
from daemon.config.sections import Heartbeat as Section
from daemon.config.sections import Secret
from daemon.heartbeat import Heartbeat
from daemon.hooks import hook_session
from daemon.store import Store, StoreFailed
from tests.stations.desk import listening

Break = Callable[..., Awaitable[None]]


class Monitor:
    """Who waits for the heartbeat, and what is overdue meanwhile."""

    def __init__(self) -> None:
        self.url = ""
        self.heard: list[str] = []
        self.status = 200
        self.overdue: list[str] = []
        self.failure: StoreFailed | None = None

    async def answer(self, request: web.Request) -> web.Response:
        """Note one beat."""
        self.heard.append(f"{request.method} {request.path_qs}")
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})

    async def find_overdue(self) -> list[str]:
        """Return what is overdue, or fail as a ledger does."""
        if self.failure:
            raise self.failure
        return self.overdue


@pytest.fixture
async def monitor() -> AsyncIterator[Monitor]:
    """Run one."""
    made = Monitor()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    async with listening(app) as url:
        made.url = f"{url}/ping/hush?rid=hush"
        yield made


@asynccontextmanager
async def beating(store: Store, monitor: Monitor, **section: Any) -> AsyncIterator[Heartbeat]:
    """Make a heartbeat for this monitor."""
    made = Section(**{"url": Secret(monitor.url), **section})
    async with hook_session() as session:
        yield Heartbeat(store, session, lambda: made, monitor.find_overdue, bell=Bell())


def lines(logs: Any) -> list[str]:
    """Return what was logged of the heartbeat."""
    return [line["event"] for line in logs if line["event"].startswith("heartbeat.")]


async def test_it_beats_while_nothing_is_overdue(store: Store, monitor: Monitor) -> None:
    """With a plain GET, and without a line; without a URL nobody is asked."""
    with capture_logs() as logs:
        async with beating(store, monitor) as heart:
            await heart.beat()
            await heart.beat()
        async with beating(store, monitor, url=None) as heart:
            await heart.beat()
    assert monitor.heard == ["GET /ping/hush?rid=hush"] * 2
    assert lines(logs) == []


async def test_it_is_withheld_while_something_is_overdue(store: Store, monitor: Monitor) -> None:
    """One line with what is overdue, one when it goes on."""
    with capture_logs() as logs:
        async with beating(store, monitor) as heart:
            monitor.overdue = ["gate key has been shut for 2 h"]
            for _ in range(3):
                await heart.beat()
            assert monitor.heard == []
            monitor.overdue = []
            await heart.beat()
            await heart.beat()
    assert len(monitor.heard) == 2
    assert lines(logs) == ["heartbeat.withheld", "heartbeat.resumed"]
    assert logs[0]["overdue"] == ["gate key has been shut for 2 h"]


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_one_that_is_not_heard_is_said_once(
    store: Store, monitor: Monitor, status: int
) -> None:
    """It is sent again at the next beat; the line holds no part of the URL."""
    monitor.status = status
    with capture_logs() as logs:
        async with beating(store, monitor) as heart:
            await heart.beat()
            await heart.beat()
            monitor.overdue = ["late"]
            await heart.beat()
            monitor.overdue, monitor.status = [], 200
            await heart.beat()
    assert lines(logs) == ["heartbeat.failed", "heartbeat.withheld", "heartbeat.resumed"]
    assert f"HTTP {status}" in logs[0]["error"]
    assert "hush" not in str(logs)
    assert len(monitor.heard) == 3


async def test_a_ledger_in_trouble_withholds_it(
    store: Store, monitor: Monitor, break_ledger: Break
) -> None:
    """Whether it cannot be read or only not be written; the loop outlives both."""
    with capture_logs() as logs:
        async with beating(store, monitor) as heart:
            monitor.failure = StoreFailed("locked")
            await heart.beat()
            monitor.failure = None
            await break_ledger(broken=True)
            await heart.beat()
            await break_ledger(broken=False)
            await heart.beat()
            monitor.failure = StoreFailed("broken", fatal=True)
            with pytest.raises(StoreFailed):
                await heart.beat()
    assert lines(logs) == ["heartbeat.withheld", "heartbeat.resumed"]
    assert len(monitor.heard) == 1


async def test_it_goes_on_by_itself_and_at_a_reload(store: Store, monitor: Monitor) -> None:
    """At once, then every interval; the bell of a reload makes it look at the new one."""
    section = [Section(url=Secret(monitor.url), interval=timedelta(milliseconds=50))]
    bell = Bell()
    async with hook_session() as session:
        heart = Heartbeat(store, session, lambda: section[0], monitor.find_overdue, bell=bell)
        running = asyncio.create_task(heart.run())
        async with asyncio.timeout(5):
            while len(monitor.heard) < 3:  # noqa: ASYNC110 - a monitor has no event
                await asyncio.sleep(0.01)
            section[0] = Section(url=Secret(monitor.url), interval=timedelta(hours=1))
            await asyncio.sleep(0.2)
            count = len(monitor.heard)
            bell.ring()
            while len(monitor.heard) == count:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert running.cancelled()

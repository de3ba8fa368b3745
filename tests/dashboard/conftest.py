"""What the tests of the dashboard share: one browser for a file of tests, a scene for each test."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from playwright.async_api import Browser

from tests.dashboard.scene import Scene, Visitor, open_browser, open_scene


def _now() -> int:
    return time.time_ns() // 1_000_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """The system's Chromium."""
    async with open_browser() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A dashboard of a ledger that is still empty."""
    async with open_scene(tmp_path, clock=_now) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def visitor(browser: Browser, scene: Scene) -> AsyncIterator[Visitor]:
    """Somebody who looks at it, and whose browser must have nothing to complain about."""
    visiting = Visitor(browser, scene)
    yield visiting
    await visiting.leave()

"""Everybody can use the dashboard: axe finds no violation, in any colours, on any page."""

from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe  # type: ignore[import-untyped]
from playwright.async_api import Page, expect

from daemon.rules.lifecycle import State
from tests.dashboard.scene import DAY, HOUR, Scene, Visitor
from tests.stations.holding import hold

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONTRAST = {"runOnly": ["color-contrast", "link-in-text-block"]}
PHONE = {"width": 320, "height": 640}


async def complain(page: Page, options: dict[str, Any] | None = None) -> list[str]:
    """Return what axe finds on a page."""
    found = await Axe().run(page, options=options)
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found.response["violations"]]


async def look(page: Page) -> list[str]:
    """Return what axe finds on a page in light, and what changes in dark."""
    await page.emulate_media(color_scheme="light", reduced_motion="reduce")
    found = await complain(page)
    await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    return found + await complain(page, CONTRAST)


async def test_axe_finds_nothing(scene: Scene, visitor: Visitor) -> None:
    """A page with all that it may show, a task, a list, a callback, an error; and on a phone."""
    now = scene.clock()
    await scene.film("one", picture=True, label="Song")
    await scene.film("two", stored_at=now - 3 * DAY)
    await scene.plant("gone", State.LOST, reason="deadline", message="HTTP 404")
    await scene.plant("no", State.FAILED, reason="create_failed", message="no", provider_code=500)
    await scene.plant("w", State.WANTED, size_bytes=100, spans="0-50", claimed_at=now)
    await scene.plant("u", State.WANTED, claimed_at=now)
    await scene.plant("e", deadline_at=now + HOUR)
    held = await hold(scene.store, b"\xff", now=now)
    scene.gates.close("key", "401")
    scene.gates.close("rate", "429")
    page = await visitor.open()
    for path in ("/tasks", "/tasks/gone", "/tasks/one", f"/quarantine/{held.id}", "/tasks/x", "/"):
        await page.goto(scene.url + path)
        await expect(page.locator("#live")).to_be_visible()
        assert await look(page) == [], path
    await page.set_viewport_size(PHONE)  # type: ignore[arg-type] # two numbers
    assert await complain(page) == []


async def test_axe_finds_nothing_where_nothing_is(scene: Scene, visitor: Visitor) -> None:
    """The empty page, the calm one, and the one that is not live."""
    page = await visitor.open()
    assert await look(page) == []
    await scene.film("one")
    await page.reload()
    await expect(page.locator("#live")).to_be_visible()
    assert await look(page) == []
    await scene.shut()
    await expect(page.locator("#lost")).to_contain_text("Not live since")
    assert await look(page) == []

"""The dashboard in a real browser: live, by keyboard, on a phone, and without JavaScript.

The browser has nothing to complain about in any of these tests, unless it says so.
"""

import asyncio
from collections import Counter

import pytest
from playwright.async_api import Page, Route, expect

from daemon.rules.lifecycle import State
from tests.dashboard.scene import HOUR, Scene, Visitor

pytestmark = pytest.mark.asyncio(loop_scope="module")
MIB = 1 << 20
SEEK = """film => new Promise((done, fail) => {
    film.mark = 1;
    film.onerror = () => fail(new Error(film.error.message));
    film.onseeked = () => done();
    const seek = () => { film.currentTime = film.duration / 2; };
    if (film.readyState >= 1) seek(); else film.onloadedmetadata = seek;
})"""


async def mark(page: Page) -> None:
    """Leave a mark that is gone when the page is loaded again."""
    await page.evaluate("window.marked = true")


async def is_same(page: Page) -> bool:
    """Tell whether it is still the page that was marked."""
    return bool(await page.evaluate("window.marked === true"))


async def test_progress_moves_without_loading_anything(scene: Scene, visitor: Visitor) -> None:
    """Bytes, share, speed and time left; nothing is asked of the server for it."""
    now = scene.clock()
    await scene.plant("one", State.WANTED, size_bytes=40 * MIB, spans="", claimed_at=now)
    page = await visitor.open()
    await mark(page)
    bar, told = page.locator("#task-one progress"), page.locator("#task-one .told")
    await expect(told).to_contain_text("0 Bytes of 40.0 MiB · 0 %")
    await asyncio.sleep(0.3)  # The page brings itself up to date once, when it is connected.
    asked = len(scene.asked)
    for part in (10, 30):
        scene.say(
            "download.progress",
            task_id="one",
            received_bytes=part * MIB,
            size_bytes=40 * MIB,
            bytes_per_second=2 * MIB,
        )
        percent = part * 100 // 40
        left = (40 - part) // 2
        wanted = f"{part}.0 MiB of 40.0 MiB · {percent} % · 2.0 MiB/s · {left} s left"
        await expect(told).to_have_text(wanted)
        assert await bar.evaluate("bar => bar.value") == part * MIB
    assert await is_same(page)
    assert len(scene.asked) == asked
    assert visitor.complaints == []


async def test_a_task_that_moves_takes_its_place(scene: Scene, visitor: Visitor) -> None:
    """The answer, the lists and the shelf follow, and the page is not loaded anew."""
    await scene.plant("one", State.WANTED, size_bytes=40 * MIB, label="Song")
    page = await visitor.open()
    await mark(page)
    await expect(page.locator("h1")).to_have_text("1 video is not safe yet")
    await page.locator("summary").click()
    await scene.film("two", label="Second")
    path = str(scene.disk.directory / "video_one.mp4")
    whole = {"stored_at": scene.clock(), "sha256": "00", "path": path}
    await scene.change("one", state=State.DONE, **whole)
    scene.say("task.moved", task_id="one", **{"from": "stored"}, to="done")
    await expect(page.locator("h1")).to_have_text("Everything you paid for is safe")
    await expect(page.locator(".films .title")).to_have_text(["Song", "Second"])
    assert await is_same(page)
    # What somebody opened stays open.
    assert await page.locator("details").evaluate("one => one.open")
    assert visitor.complaints == []


async def test_a_flood_of_events_is_a_handful_of_requests(scene: Scene, visitor: Visitor) -> None:
    """A thousand moves within a second cost one request for each part, and one behind it."""
    await scene.plant("one", State.WANTED)
    page = await visitor.open()
    await asyncio.sleep(0.3)
    scene.asked.clear()
    for _ in range(20):
        for number in range(50):
            scene.say("task.moved", task_id=f"n{number}", to="done")
        await asyncio.sleep(0.05)
    await scene.change("one", label="At the end")
    await expect(page.locator("#task-one h3")).to_contain_text("At the end")
    asked = Counter(scene.asked)
    assert asked["/?part=now"] <= 2
    assert asked["/?part=shelf"] <= 2
    assert sum(asked.values()) <= 4


async def test_retry_by_keyboard(scene: Scene, visitor: Visitor) -> None:
    """The button is reached by Tab and pressed by Enter; the focus goes to what came of it."""
    await scene.plant("gone", State.LOST, reason="deadline", label="Last train")
    page = await visitor.open()
    await mark(page)
    for _ in range(20):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.id") == "retry-gone":
            break
    button = page.get_by_role("button", name="Retry Last train")
    await expect(button).to_be_focused()
    await page.keyboard.press("Enter")
    notice = page.locator("#notice")
    await expect(notice).to_contain_text("Last train: asked for again. It is expected now")
    await expect(page.locator("#person")).to_have_count(0)
    await expect(notice).to_be_focused()
    assert await is_same(page)
    task = await scene.store.task("gone")
    assert task is not None
    assert task.state == "expected"
    assert visitor.complaints == []


async def test_forget_on_the_page_of_a_task(scene: Scene, visitor: Visitor) -> None:
    """The part that changes is replaced, the rest stays."""
    await scene.plant("gone", State.LOST, reason="deadline")
    page = await visitor.open("/tasks/gone")
    await page.get_by_role("button", name="Forget gone").click()
    await expect(page.locator("#notice")).to_contain_text("gone: forgotten")
    await expect(page.locator(".head")).to_contain_text("somebody has seen it", ignore_case=True)
    await expect(page.get_by_role("button", name="Forget")).to_have_count(0)
    assert visitor.complaints == []


async def test_without_javascript_everything_is_read_and_done(
    scene: Scene, visitor: Visitor
) -> None:
    """The browser's own form passes the check against pages of other sites."""
    await scene.plant("gone", State.LOST, reason="deadline", label="Last train")
    await scene.film("one", label="Song")
    page = await visitor.open(java_script_enabled=False)
    await expect(page.locator("h1")).to_have_text("1 video is not safe yet")
    await expect(page.locator("#live")).to_be_hidden()
    await page.get_by_role("button", name="Retry Last train").click()
    await expect(page.locator("#notice")).to_contain_text("asked for again")
    assert page.url == f"{scene.url}/?about=gone"
    await page.get_by_role("link", name="Song").click()
    await expect(page.locator("h1")).to_have_text("Song")
    await expect(page.locator("video")).to_have_count(1)
    await page.get_by_role("link", name="All tasks").click()
    await expect(page.locator("tbody tr")).to_have_count(2)


async def test_nothing_is_wider_than_the_window(scene: Scene, visitor: Visitor) -> None:
    """Also not a long word of a stranger; and fingers find the buttons."""
    word = "w" * 180
    await scene.plant("gone", State.LOST, reason="deadline", message=word, label=word)
    await scene.plant("a" * 128, State.WANTED, size_bytes=1 << 40, claimed_at=1, message=word)
    await scene.plant("no", State.FAILED, reason="create_failed", message=word, label=word)
    await scene.film("one", label=word)
    scene.gates.close("key", word)
    page = await visitor.open()
    for path in ("/", "/tasks", "/tasks/gone", "/tasks/one", "/tasks/nobody"):
        await page.goto(scene.url + path)
        for width in (320, 768, 1600):
            await page.set_viewport_size({"width": width, "height": 700})
            found = await page.evaluate("document.documentElement.scrollWidth")
            assert found <= width, path
            for one in await page.locator("button").all():
                box = await one.bounding_box()
                assert box is not None
                assert min(box["width"], box["height"]) >= 24


async def test_a_page_that_is_not_live_says_so_until_it_is_again(
    scene: Scene, visitor: Visitor
) -> None:
    """And is brought up to date when the daemon is back."""
    await scene.plant("one", State.WANTED)
    page = await visitor.open()
    await mark(page)
    lost, live = page.locator("#lost"), page.locator("#live")
    await expect(lost).to_be_empty()
    await scene.shut()
    await expect(lost).to_contain_text("Not live since")
    await expect(live).to_have_text("Not live")
    await scene.change("one", label="Meanwhile")
    await scene.open()
    await expect(lost).to_be_empty()
    await expect(live).to_have_text("Live")
    await expect(page.locator("#task-one h3")).to_contain_text("Meanwhile")
    assert await is_same(page)
    # A browser writes down each connection that failed; nothing else may stand there.
    assert all("ERR_CONNECTION_REFUSED" in one or "ERR_" in one for one in visitor.complaints)


async def test_a_stop_is_told_as_a_stop(scene: Scene, visitor: Visitor) -> None:
    """The daemon says so itself, before it is gone."""
    await scene.plant("one", State.WANTED)
    page = await visitor.open()
    scene.say("daemon.stopping")
    await expect(page.locator("#lost")).to_contain_text("the daemon is stopping")


async def test_the_player_plays_and_goes_on_while_the_page_changes(
    scene: Scene, visitor: Visitor
) -> None:
    """A part that is fetched again does not take the film away from who looks at it."""
    await scene.film("one", picture=True, stored_at=scene.clock() - HOUR)
    page = await visitor.open("/tasks/one")
    video = page.locator("video")
    await video.evaluate(SEEK)
    await scene.change("one", message="news")
    scene.say("task.moved", task_id="one", to="done")
    await expect(page.locator("#said")).to_be_visible()
    assert await video.evaluate("film => film.mark === 1 && film.currentTime > 0")
    assert visitor.complaints == []


async def test_what_happens_while_an_answer_is_on_its_way_is_seen(
    scene: Scene, visitor: Visitor
) -> None:
    """The answer may be older than the event: the part is asked for once more."""
    await scene.plant("one", State.WANTED, label="Before")
    page = await visitor.open()
    held = 0

    async def hold(route: Route) -> None:
        nonlocal held
        held += 1
        answer = await route.fetch()
        if held == 1:
            await scene.change("one", label="Meanwhile")
            scene.say("task.moved", task_id="one", to="wanted")
            await asyncio.sleep(0.5)
        await route.fulfill(response=answer)

    await page.route("**/?part=now", hold)
    scene.say("task.moved", task_id="one", to="wanted")
    await expect(page.locator("#task-one h3")).to_contain_text("Meanwhile")
    assert held == 2
    assert visitor.complaints == []

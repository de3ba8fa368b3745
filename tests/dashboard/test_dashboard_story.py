"""The dashboard of the real program: from the first look to the film in the browser."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from playwright.async_api import expect

from daemon.simulator.faults import Faults
from tests.dashboard.scene import TOKEN, credentials, open_browser
from tests.stories.stage import Stage, success

BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """Give a story its stage, and clear it afterwards."""
    async with AsyncExitStack() as stack:
        yield Stage(tmp_path, stack)


def memory(process_id: int) -> int:
    """Return how many bytes a process has in memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process_id}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


async def hang_up(url: str, path: str) -> None:
    """Ask for a film as a player does that seeks a moment later."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", f"Authorization: Bearer {TOKEN}"]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    assert (await reader.readline()).split()[1] == b"200"
    writer.transport.abort()


async def test_from_the_first_look_to_the_film(stage: Stage) -> None:
    """What comes is on the page, what is stored can be played, and a look costs little memory."""
    provider = await stage.provider(file_size_bytes=8 << 20)
    daemon = await stage.daemon(provider, admin={"listen": "127.0.0.1:0", "token": TOKEN})
    before = await asyncio.to_thread(memory, daemon.process.pid)
    first = await daemon.call("/", BEARER)
    assert b"Ready for your first video" in first.body
    assert await asyncio.to_thread(memory, daemon.process.pid) - before < 12 << 20
    task_id = provider.add_task(Faults(callbacks=()))
    await daemon.post(success(task_id, provider.tasks[task_id].video_url))
    await daemon.until(task_id, "done")
    page = (await daemon.call("/", BEARER)).body.decode()
    assert "Everything you paid for is safe" in page
    film = provider.tasks[task_id].film
    whole = await daemon.call(f"/v1/tasks/{task_id}/video", BEARER)
    assert whole.body == b"".join(film.read(0, film.size_bytes))
    part = await daemon.call(f"/v1/tasks/{task_id}/video", {**BEARER, "Range": "bytes=100-199"})
    assert (part.status, part.body) == (206, whole.body[100:200])
    form = {**BEARER, "Content-Type": "application/x-www-form-urlencoded"}
    done = await daemon.call(f"/tasks/{task_id}/retry", form, "POST", "page=home")
    assert (done.status, done.headers["Location"]) == (303, f"/?about={task_id}")
    acted = await daemon.says("admin.acted")
    assert (acted["path"], acted["task_id"]) == ("/tasks/{task_id}/retry", task_id)
    for _ in range(5):
        await hang_up(daemon.ready["admin_tcp"], f"/v1/tasks/{task_id}/video")
    assert (await daemon.call("/", BEARER)).status == 200
    # Without a word to the log: nobody has to read who looked at what, and who had enough of it.
    assert not [line for line in daemon.log() if line["event"].startswith("http.")]
    assert await daemon.stop() == 0


async def test_a_daemon_that_nobody_looks_at_does_not_load_the_pages(stage: Stage) -> None:
    """The API alone needs no templates."""
    daemon = await stage.daemon(None, admin={"listen": "127.0.0.1:0", "token": TOKEN})
    loaded = Path(f"/proc/{daemon.process.pid}/maps")
    assert (await daemon.call("/v1/status", BEARER)).status == 200
    assert "markupsafe" not in await asyncio.to_thread(loaded.read_text)
    assert (await daemon.call("/", BEARER)).status == 200
    assert "markupsafe" in await asyncio.to_thread(loaded.read_text)


async def test_a_real_download_is_seen_to_its_end(stage: Stage) -> None:
    """Speed and share while it runs, its place on the shelf afterwards; nothing is reloaded."""
    provider = await stage.provider()
    daemon = await stage.daemon(
        provider,
        admin={"listen": "127.0.0.1:0", "token": TOKEN},
        download={"rate_limit": "40K", "connections": 1},
    )
    async with open_browser() as browser:
        visitor = await browser.new_context(**credentials())
        page = await visitor.new_page()
        page.set_default_timeout(20_000)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        await page.goto(daemon.ready["admin_tcp"])
        await expect(page.locator("#live")).to_have_text("Live")
        await expect(page.locator("h1")).to_have_text("Ready for your first video")
        await page.evaluate("window.marked = true")
        task_id = provider.add_task(Faults(callbacks=()))
        await daemon.post(success(task_id, provider.tasks[task_id].video_url))
        told = page.locator(f"#task-{task_id} .told")
        await expect(told).to_contain_text("KiB/s", timeout=20_000)
        await expect(told).to_contain_text("of 195.3 KiB")
        safe = "Everything you paid for is safe"
        await expect(page.locator("h1")).to_have_text(safe, timeout=20_000)
        await expect(page.locator(".films .title")).to_have_text(task_id)
        assert await page.evaluate("window.marked === true")
        assert await daemon.stop() == 0
        await expect(page.locator("#lost")).to_contain_text("Not live since")
        assert not [line for line in said if "ERR_" not in line]

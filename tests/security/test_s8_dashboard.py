"""S8: the dashboard, where the texts of strangers meet a browser that trusts us; S4: its player."""

# mypy: disable-error-code="explicit-override"
# typing.override came with Python 3.12.

import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.async_api import expect

from daemon.rules.lifecycle import State
from tests.dashboard.scene import Scene, Visitor, open_browser, open_scene, see
from tests.security.test_s8_admin import ADMIN_TOKEN, BEARER, TCP
from tests.stations.holding import hold
from tests.stories.harness import Heard, ask
from tests.stories.stage import Stage

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SNAPSHOT = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "suno-videod",
    "X-Content-Type-Options": "nosniff",
}
EVIL = '<img src=x onerror="alert(1)"><script>alert(2)</script>\u202e\x1b[31m\u2028{{ 7 * 7 }}'
SPELLED = EVIL.translate({0x202E: "\\u202e", 0x1B: "\\x1b", 0x2028: "\\u2028"})


def _now() -> int:
    return time.time_ns() // 1_000_000


async def test_s8_06_every_answer_tells_the_browser_what_it_may_do(stage: Stage) -> None:
    """Pages, parts of pages, errors, JSON and refusals alike; films and files may be stricter."""
    daemon = await stage.daemon(None, admin=TCP)
    await daemon.track("known")
    page = await daemon.call("/", BEARER)
    for path in (
        *("/", "/?part=now", "/?part=shelf", "/tasks", "/tasks/known", "/tasks/nobody"),
        *("/v1/status", "/v1/tasks/nobody", "/healthz", "/openapi.json", "/not/there"),
    ):
        heard = await daemon.call(path, BEARER)
        assert {name: heard.headers.get(name) for name in SNAPSHOT} == SNAPSHOT, path
    refused = await daemon.call("/", {})
    assert refused.status == 401
    assert {name: refused.headers.get(name) for name in SNAPSHOT} == SNAPSHOT
    files = re.findall(r'"(/static/[^"]+)"', page.body.decode())
    assert files
    for path in files:
        heard = await daemon.call(path, BEARER)
        assert {name: heard.headers.get(name) for name in SNAPSHOT} == {
            **SNAPSHOT,
            "Cache-Control": "private, max-age=31536000, immutable",
        }
    assert ADMIN_TOKEN not in page.body.decode()


async def test_s8_06_no_page_needs_more_than_it_may(tmp_path: Path) -> None:
    """No inline script, no inline style, no handler, nothing from anywhere else."""
    async with open_scene(tmp_path, clock=_now) as scene:
        await _fill(scene)
        held = await hold(scene.store, EVIL.encode(), now=_now())
        for path in ("/", "/tasks", "/tasks/one", f"/quarantine/{held.id}", "/tasks/nobody"):
            tags = _Tags()
            tags.feed((await see(scene, path)).body.decode())
            assert tags.links
            assert not tags.forbidden, path


class _Tags(HTMLParser):
    """Collects what a strict policy forbids, and every address that a page names."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.forbidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one tag."""
        told = dict(attrs)
        if tag == "style" or (tag == "script" and not (told.get("src") or "").startswith("/")):
            self.forbidden.append(tag)
        for name, value in attrs:
            if name in {"style", "srcdoc"} or name.startswith(("on", "hx-on")):
                self.forbidden.append(f"{tag} {name}")
            if name in {"href", "src", "action", "poster", "hx-post", "data-part"}:
                link = value or ""
                self.links.append(link)
                if not re.match(r"(/(?!/)|#)", link):
                    self.forbidden.append(link)


async def _fill(scene: Scene) -> None:
    await scene.film("one", label=EVIL, message=EVIL, finish_error=EVIL)
    for state in (State.WANTED, State.LOST, State.FAILED):
        await scene.plant(f"a.{state.value}:b", state, label=EVIL, message=EVIL, source="track")
    scene.gates.close("key", EVIL)


async def test_s8_05_the_words_of_strangers_are_text_in_the_browser(tmp_path: Path) -> None:
    """Markup, templates, bidi and control characters in message, label and gate run nothing."""
    async with (
        open_scene(tmp_path, clock=_now) as scene,
        open_browser() as browser,
    ):
        await _fill(scene)
        held = await hold(scene.store, EVIL.encode(), now=_now())
        visitor = Visitor(browser, scene)
        page = await visitor.open()
        dialogs: list[str] = []
        page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        for path, places in (
            ("/", ["#now .problem h3", "#now .row h3", "#now .quote", "#shelf .title"]),
            ("/tasks", ["tbody th"]),
            ("/tasks/one", ["h1", "#task .quote", "#task dd"]),
            (f"/quarantine/{held.id}", ["main pre"]),
        ):
            await page.goto(scene.url + path)
            for place in places:
                found = page.locator(place).filter(has_text=SPELLED)
                await expect(found.first).to_be_attached()
            text = await page.locator("body").inner_text()
            assert not re.search("[\x1b\u202e\u2028]", text)
            assert await page.locator("img[onerror]").count() == 0
        # What comes over the live wire is text as well.
        await page.goto(scene.url)
        await expect(page.locator("#live")).to_have_text("Live")
        scene.say("task.moved", task_id=EVIL, to=EVIL)
        scene.say("download.progress", task_id=EVIL, received_bytes=1, size_bytes=None)
        await page.wait_for_timeout(500)
        assert dialogs == []
        assert visitor.complaints == []
        await visitor.leave()


def _protected(heard: Heard) -> None:
    assert heard.headers["X-Content-Type-Options"] == "nosniff"
    assert heard.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert re.fullmatch(r'inline; filename="[A-Za-z0-9._-]+"', heard.headers["Content-Disposition"])


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-9"}])
async def test_s4_07_a_file_is_served_as_what_it_is_and_nothing_else(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    """A fixed type, no guessing, a name of ours in plain letters, and no script in its page."""
    async with open_scene(tmp_path, clock=_now) as scene:
        await scene.film("one", picture=True)
        video = await see(scene, "/v1/tasks/one/video", **headers)
        assert video.headers["Content-Type"] == "video/mp4"
        _protected(video)
        picture = await see(scene, "/v1/tasks/one/thumbnail", **headers)
        assert picture.headers["Content-Type"] == "image/jpeg"
        _protected(picture)
        odd = scene.disk.directory / 'na"me\u00e9\r\n.mp4'
        (scene.disk.directory / "video_one.mp4").rename(odd)
        await scene.change("one", path=str(odd))
        _protected(await see(scene, "/v1/tasks/one/video", **headers))


async def test_s4_07_no_path_comes_from_the_request(stage: Stage) -> None:
    """Whatever stands where the id belongs: there is such a task, or there is nothing."""
    daemon = await stage.daemon(None, admin=TCP)
    root = daemon.ready["admin_tcp"]
    for name in ("..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "..", "video_one.mp4", "%00"):
        for what in ("video", "thumbnail"):
            heard = await ask("GET", f"{root}/v1/tasks/{name}/{what}", headers=BEARER)
            assert heard.status in {400, 404}
            assert b"root:" not in heard.body

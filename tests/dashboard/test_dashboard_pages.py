"""The pages as the server makes them: what they say, and what their buttons do."""

import asyncio
import re
from sqlite3 import SQLITE_DENY  # noqa: TID251 - a ledger is broken from outside

import pytest

from daemon.dashboard.board import Tally
from daemon.dashboard.site import PATHS
from daemon.rules.lifecycle import State
from daemon.rules.submission import Wish
from tests.dashboard.scene import DAY, HOUR, Scene, see
from tests.stations.holding import hold

pytestmark = pytest.mark.asyncio(loop_scope="module")


def words(html: bytes) -> str:
    """Return the text of a page, its blanks made one."""
    text = re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", html.decode(), flags=re.DOTALL)
    return " ".join(text.split())


def sections(html: bytes) -> list[str]:
    """Return the headings of the second level, without their numbers."""
    return re.findall(r'<h2 id="(\w+)"', html.decode())


async def test_a_fresh_installation_is_told_what_to_do_next(scene: Scene) -> None:
    """Three ways to the first video, and no empty charts."""
    page = await see(scene, "/")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    told = words(page.body)
    assert "Ready for your first video" in told
    for verb in ("callback-url", "track TASK_ID", "submit --task-id"):
        assert f"suno-videod {verb}" in told
    assert sections(page.body) == ["start"]


async def test_everything_is_safe_when_it_is(scene: Scene) -> None:
    """What failed by the provider's word and what was forgotten is nothing to worry about."""
    await scene.film("one", label="First song")
    await scene.plant("made-no-video", State.FAILED, reason="create_failed")
    await scene.plant("seen", State.LOST, reason="deadline", forgotten_at=scene.clock())
    page = await see(scene, "/")
    told = words(page.body)
    assert "Everything you paid for is safe" in told
    assert "1 video on disk" in told
    assert "First song" in told
    assert sections(page.body) == ["refused", "stored", "charts"]


async def test_what_is_on_its_way_is_told_with_its_deadline(scene: Scene) -> None:
    """The nearest first; nothing to do is said only where there is nothing to do."""
    await scene.plant("later")
    await scene.plant("sooner", State.WANTED, deadline_at=scene.clock() + 5 * DAY + HOUR)
    told = words((await see(scene, "/")).body)
    assert "2 videos are not safe yet 2 on their way, nothing to do" in told
    assert told.index("sooner") < told.index("later")
    assert "deadline in 5 days" in told


async def test_of_hundreds_on_their_way_fifty_are_shown(scene: Scene) -> None:
    """By deadline, and the page says how many more there are."""
    for number in range(60):
        task_id = f"many-{number:03}"
        await scene.plant(task_id, deadline_at=scene.clock() + 10 * DAY + number * HOUR)
    page = await see(scene, "/?part=now")
    assert page.body.count(b'<li id="task-') == 50
    told = words(page.body)
    assert "and there are 10 more" in told
    assert "many-049" in told
    assert "many-050" not in told
    rows = await see(scene, "/tasks?state=expected,wanted,verified")
    assert rows.body.count(b"<tr>") == 51


async def test_what_needs_a_person_is_told_with_what_to_do(scene: Scene) -> None:
    """Lost, unknown to the provider, an open submit, an unreadable callback; each has a button."""
    await scene.plant("gone", State.LOST, reason="deadline")
    await scene.plant("mistyped", State.FAILED, reason="unknown_task")
    now = scene.clock()
    intent = await scene.store.intents.record(
        "submit-1",
        Wish(music_task_id="m", audio_id="a"),
        source="submit",
        label=None,
        now=now,
        deadline_at=now + DAY,
    )
    assert await scene.store.intents.begin(intent) is not None
    await scene.store.intents.postpone(intent, None, doubts=2, unheard=2)
    held = await hold(scene.store, b"\xff", now=now)
    page = await see(scene, "/")
    told = words(page.body)
    assert "3 videos are not safe yet" in told
    assert "4 need you" in told
    assert "can no longer be fetched" in told
    assert "there is no such task; check the id" in told
    assert "nobody knows whether the provider makes this video" in told.lower()
    assert "Callback that could not be read" in told
    for action in (
        *("/tasks/gone/retry", "/tasks/gone/forget", "/tasks/submit-1/retry"),
        f"/quarantine/{held.id}/forget",
    ):
        assert f'action="{action}"'.encode() in page.body
    assert "moving" not in sections(page.body)
    body = await see(scene, f"/quarantine/{held.id}")
    assert "\\xff" in words(body.body)


async def test_a_shut_gate_is_told_with_its_meaning_and_a_remedy(scene: Scene) -> None:
    """Once, although `status` calls it overdue too after an hour."""
    scene.gates.close("key", "401: the key is wrong")
    shut = scene.gates._shut["key"]
    object.__setattr__(shut, "since", shut.since - 3 * HOUR)
    scene.gates.close("host:files.example.com", "429")
    scene.office.remember_credits(3)
    told = words((await see(scene, "/")).body)
    assert told.count("401: the key is wrong") == 1
    assert "callbacks are taken and known links are fetched" in told
    assert "Since 3 hours ago" in told
    assert "systemctl reload suno-videod" in told
    assert "downloads from there wait" in told
    assert "3 credits are left" in told


async def test_what_costs_credits_says_so_on_its_button(scene: Scene) -> None:
    """A refused submit is bought by its retry; what the provider knows is only asked about."""
    await scene.plant("one", State.FAILED, reason="generate_failed")
    await scene.plant("submit-01J0", State.FAILED, reason="unauthorized")
    told = words((await see(scene, "/")).body)
    assert told.count("Submit again, costs credits") == 1
    assert told.count(" Retry ") == 2


async def test_a_task_page_tells_everything(scene: Scene) -> None:
    """State, meaning, message, history, player and details; an unknown id is a page too."""
    await scene.film("one", label="First song", message="late", provider_code=200, picture=True)
    page = await see(scene, "/tasks/one")
    told = words(page.body)
    for fact in ("First song", "done Safe on disk.", "late", "5e5e", "video_one.mp4", "hinted"):
        assert fact in told
    assert b'src="/v1/tasks/one/video" poster="/v1/tasks/one/thumbnail"' in page.body
    nobody = await see(scene, "/tasks/nobody")
    assert nobody.status == 404
    assert "The ledger has no task nobody" in words(nobody.body)


async def test_a_film_that_is_gone_has_no_player(scene: Scene) -> None:
    """The page says so, and what looks after it."""
    await scene.plant("one", State.DONE)
    page = await see(scene, "/tasks/one")
    assert b"<video" not in page.body
    assert "suno-videod verify one" in words(page.body)


async def test_lists_go_on_page_after_page(scene: Scene) -> None:
    """Every task once, also with a filter; a filter that is misspelt is a page that says so."""
    for number in range(120):
        await scene.plant(f"n{number:03}", State.EXPECTED if number % 2 else State.DONE)
    for query, expected in (("", 120), ("?state=done", 60)):
        path, seen = f"/tasks{query}", list[str]()
        while path:
            html = (await see(scene, path)).body.decode()
            seen += re.findall(r'<th scope="row"><a href="/tasks/(n\d+)">', html)
            more = re.search(r'rel="next" href="([^"]+)"', html)
            path = more[1].replace("&amp;", "&") if more else ""
        assert len(seen) == len(set(seen)) == expected
    assert (await see(scene, "/tasks?after=x")).status == 422


async def test_buttons_work_as_plain_forms(scene: Scene) -> None:
    """303 to the page that one was on, which says how the task stands; a refusal is told."""
    await scene.plant("gone", State.LOST, reason="deadline")
    done = await see(scene, "/tasks/gone/retry", "POST", "page=home")
    assert (done.status, done.headers["Location"]) == (303, "/?about=gone")
    told = words((await see(scene, "/?about=gone")).body)
    assert "gone : asked for again. It is expected now" in told
    await scene.plant("coming", State.WANTED)
    done = await see(scene, "/tasks/coming/forget", "POST", "page=task")
    assert done.status == 409
    assert "nothing was changed, for coming is wanted: only what is expected" in words(done.body)
    await scene.plant("other", State.LOST, reason="deadline")
    done = await see(scene, "/tasks/other/forget", "POST", "page=task")
    assert (done.status, done.headers["Location"]) == (303, "/tasks/other?about=other")
    task = await scene.store.task("other")
    assert task is not None
    assert task.forgotten_at is not None
    held = await hold(scene.store, b"\xff", now=scene.clock())
    done = await see(scene, f"/quarantine/{held.id}/forget", "POST", "x=1")
    assert (done.status, done.headers["Location"]) == (303, "/")
    assert (await see(scene, "/quarantine/nothing/forget", "POST", "x=1")).status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
    ],
)
async def test_a_form_of_another_site_changes_nothing(
    scene: Scene, headers: dict[str, str]
) -> None:
    """A browser says where a form stands, and `null` is no place of ours."""
    await scene.plant("gone", State.LOST, reason="deadline")
    for verb in ("retry", "forget"):
        refused = await see(scene, f"/tasks/gone/{verb}", "POST", "page=home", **headers)
        assert refused.status == 403
    task = await scene.store.task("gone")
    assert task is not None
    assert (task.state, task.forgotten_at) == ("lost", None)


async def test_a_ledger_that_cannot_be_read_is_said_on_a_page(scene: Scene) -> None:
    """And the page is there again when the ledger is."""
    await scene.film("one")
    assert (await see(scene, "/")).status == 200
    await scene.store._reader.set_authorizer(lambda *_: SQLITE_DENY)
    for path in ("/", "/?part=now", "/tasks"):
        page = await see(scene, path)
        assert page.status == 503
        assert "The ledger cannot be read right now" in words(page.body)
    await scene.store._reader.set_authorizer(None)
    assert "Everything you paid for is safe" in words((await see(scene, "/")).body)


async def test_a_daemon_that_stops_says_so(scene: Scene) -> None:
    """In the last moment in which it answers."""
    scene.office.stopping = True
    assert "The daemon is stopping" in words((await see(scene, "/")).body)


async def test_a_download_folder_that_is_gone_is_said(scene: Scene) -> None:
    """The ledger is shown all the same."""
    await scene.plant("one", State.DONE)
    await asyncio.to_thread((scene.disk.directory / ".partial").rmdir)
    await asyncio.to_thread(scene.disk.directory.rmdir)
    told = words((await see(scene, "/")).body)
    assert "The download folder does not answer" in told
    assert "Newest videos" in told


async def test_days_are_drawn_and_stand_in_a_table(scene: Scene) -> None:
    """A bar for each day with something, and every number as text."""
    today = scene.clock() // DAY
    for number, day in enumerate((0, 0, 3)):
        at = (today - day) * DAY + 1
        await scene.plant(f"v{number}", State.DONE, stored_at=at, size_bytes=1 << 20)
    page = (await see(scene, "/?part=shelf")).body.decode()
    heights = re.findall(r'class="day" x="[\d.]+" y="[\d.]+" width="8" height="([\d.]+)"', page)
    assert heights == ["50.0", "100.0", "50.0", "100.0"]
    assert page.count('<th scope="row">20') == 30
    assert '<td class="num">2</td><td class="num">2.0 MiB</td>' in page
    assert "style=" not in page


async def test_only_the_files_of_the_table_are_served(scene: Scene) -> None:
    """Each under the hash of its content, to be kept for ever; nothing beside and above them."""
    html = (await see(scene, "/")).body.decode()
    urls = set(re.findall(r'"(/static/[^"]+)"', html))
    assert len(urls) == 4
    for url in urls:
        heard = await see(scene, url)
        assert heard.status == 200
        assert "immutable" in heard.headers["Cache-Control"]
    tag = min(urls).split("/")[2]
    for path in (
        *(f"/static/{tag}/README.md", f"/static/{tag}/%2e%2e%2fsite.py", "/static/0/app.css"),
        *("/static/app.css", f"/static/{tag}/../../site.py"),
    ):
        assert (await see(scene, path)).status == 404


async def test_who_looks_needs_the_token(scene: Scene) -> None:
    """Pages, files and films alike; a browser is asked for it."""
    await scene.film("one", picture=True)
    for told in PATHS:
        method, path = told.split()
        filled = re.sub(r"\{\w+\}", "one", path)
        heard = await see(scene, filled, method, Authorization="Bearer wrong")
        assert heard.status in {401, 429}


async def test_a_number_that_takes_long_does_not_hold_up_a_page() -> None:
    """The last one stands meanwhile, and nothing is asked twice at once."""
    going, asked = asyncio.Event(), 0

    async def count() -> int:
        nonlocal asked
        asked += 1
        await going.wait()
        return asked

    tally = Tally[int | None](count, None)
    assert await tally.get() is None
    assert await tally.get() is None
    assert asked == 1
    going.set()
    assert await tally.get() == 1


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", "x"),
        ("multipart/form-data; boundary=a", "no part"),
        ("application/x-www-form-urlencoded; charset=none", "page=task"),
        ("application/x-www-form-urlencoded", "page=%ff&" * 3000),
    ],
)
async def test_a_form_that_is_none_is_pressed_all_the_same(
    scene: Scene, kind: str, body: str
) -> None:
    """What cannot be read says nothing of the page; it is no error of ours."""
    await scene.plant("gone", State.LOST, reason="deadline")
    done = await see(scene, "/tasks/gone/retry", "POST", body, Content_Type=kind)
    assert done.status == 303

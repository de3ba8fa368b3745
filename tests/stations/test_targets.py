"""Targets are told in their own way: signed over HTTP, in words through Apprise, never for ever."""

import asyncio
import base64
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from daemon import targets as module
from daemon.config.sections import Notify, Secret
from daemon.hooks import Unwelcome, call_hook, hook_session
from daemon.logs import hide
from daemon.rules.failure import Trouble
from daemon.targets import Note, Targets
from tests.stations.desk import listening
from tests.stations.receiving import Application, serving

SECRET = f"whsec_{base64.b64encode(b'0123456789abcdef01234567').decode()}"
NOTE = Note("id-1", "gate.closed", 1_790_000_000_123, {"name": "key", "reason": "HTTP 401"})

Make = Callable[..., Targets]


def entry(url: str, secret: str | None = None, **more: tuple[str, ...]) -> Notify:
    """Return one `[[notify]]`."""
    return Notify(url=Secret(url), secret=Secret(secret) if secret else None, **more)


@pytest.fixture
async def application() -> AsyncIterator[Application]:
    """One receiver."""
    async with serving() as receiver:
        yield receiver


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Build the targets of these entries, with a clock that goes."""
    async with hook_session() as session:
        yield lambda *entries: Targets(session, lambda: entries, wall_clock)


def wall_clock() -> int:
    """Return a time that a receiver takes for its own."""
    return time.time_ns() // 1_000_000


async def test_a_receiver_can_check_the_seal(make: Make, application: Application) -> None:
    """By the scheme's own library; time and body are the event's, and any change is noticed."""
    targets = make(entry(application.url + "?token=hush", SECRET))
    (target,) = targets.all()
    assert await targets.tell(target, NOTE) == 200
    (request,) = application.heard
    body = await request.read()
    told = Webhook(SECRET).verify(body, dict(request.headers))
    assert told == {
        "type": "gate.closed",
        "timestamp": "2026-09-21T14:13:20.123Z",
        "data": {"name": "key", "reason": "HTTP 401"},
    }
    assert request.headers["webhook-id"] == "id-1"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["User-Agent"].startswith("suno-videod/")
    assert (request.method, request.path_qs) == ("POST", "/cb?token=hush")
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", dict(request.headers))


async def test_without_a_secret_nothing_is_signed(make: Make, application: Application) -> None:
    """The other headers are there."""
    targets = make(entry(application.url))
    await targets.tell(targets.all()[0], NOTE)
    headers = application.heard[0].headers
    assert "webhook-signature" not in headers
    assert headers["webhook-id"] == "id-1"
    assert abs(int(headers["webhook-timestamp"]) - wall_clock() / 1000) < 60


@pytest.mark.parametrize(
    ("status", "words"),
    [(302, "a redirect, and none is followed"), (410, "answered HTTP 410"), (500, "HTTP 500")],
)
async def test_anything_but_2xx_is_a_failure(
    make: Make, application: Application, status: int, words: str
) -> None:
    """Its status is known, and a redirect is not followed."""
    application.status = status
    targets = make(entry(application.url))
    with pytest.raises(Unwelcome, match=words) as caught:
        await targets.tell(targets.all()[0], NOTE)
    assert caught.value.status == status
    assert len(application.heard) == 1


async def test_who_is_silent_is_left_in_time(application: Application) -> None:
    """The words say how long it took, and nothing of the URL."""
    application.open.clear()
    async with hook_session() as session:
        with pytest.raises(Trouble, match=r"^no answer within 0\.1 s$"):
            await call_hook(session, "POST", application.url, 0.1, b"{}")
        with pytest.raises(Trouble, match=r"127\.0\.0\.1:9 cannot be connected") as caught:
            await call_hook(session, "GET", "http://127.0.0.1:9/hush?hush", 1)
    assert "hush" not in str(caught.value)


async def test_a_target_is_found_by_its_key_as_long_as_it_is_configured(make: Make) -> None:
    """Two on one host are two; each subscribes to its own events."""
    first = entry("https://h.example/1", events=("task.lost",))
    second = entry("https://h.example/2", events=("task.lost", "gate.closed"))
    targets = make(first, second)
    one, two = targets.all()
    assert (one.name, two.name) == ("notify[1] https://h.example", "notify[2] https://h.example")
    assert targets.find(two.key) == two
    assert targets.subscriptions() == {
        ("task.lost", one.key),
        ("task.lost", two.key),
        ("gate.closed", two.key),
    }
    assert make(second).find(one.key) is None


class Phone:
    """A service that Apprise speaks to; it notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[dict[str, object]] = []
        self.status = 200
        self.open = asyncio.Event()
        self.open.set()

    async def answer(self, request: web.Request) -> web.Response:
        """Note one message."""
        self.heard.append({"path": request.path, **await request.json()})
        await self.open.wait()
        return web.json_response({}, status=self.status)


@pytest.fixture
async def phone() -> AsyncIterator[tuple[Phone, str]]:
    """Run such a service; yield it and where it is."""
    service = Phone()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", service.answer)
    async with listening(app) as url:
        yield service, url.removeprefix("http://")


@pytest.mark.parametrize("kind", ["json", "ntfy"])
async def test_people_are_told_in_words(make: Make, phone: tuple[Phone, str], kind: str) -> None:
    """Through Apprise, in a process of its own: this one never imports it."""
    service, place = phone
    targets = make(entry(f"{kind}://{place}/videos"))
    assert await targets.tell(targets.all()[0], NOTE) is None
    (told,) = service.heard
    assert told["title"] == "Gate key is shut"
    text = str(told["message"])
    assert "refuses the API key (HTTP 401)" in text
    assert "Do: put a valid key" in text
    assert "apprise" not in sys.modules


async def test_a_service_that_refuses_is_a_failure_in_its_words(
    make: Make, phone: tuple[Phone, str]
) -> None:
    """Without the token, though Apprise may repeat it."""
    service, place = phone
    service.status = 403
    hide(["a-token-in-the-path-77"])
    targets = make(entry(f"json://{place}/a-token-in-the-path-77"))
    (trial,) = await targets.test()
    assert trial.error is not None
    assert "403" in trial.error
    assert "a-token" not in trial.error
    assert (trial.status, trial.target.name) == (None, "notify[1] json")
    assert "check the url" in (trial.advice or "")


async def test_no_word_of_a_service_shows_a_token(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though some repeat the whole URL."""
    hide(["json://127.0.0.1:9/a-token-in-the-path-78", "a-token-in-the-path-78"])
    script = "import json, sys; print(json.dumps({'said': 'no ' + json.load(sys.stdin)['url']}))"
    monkeypatch.setattr(module, "HERALD", (sys.executable, "-I", "-c", script))
    (trial,) = await make(entry("json://127.0.0.1:9/a-token-in-the-path-78")).test()
    assert trial.error == "no ***"


async def test_a_service_that_hangs_is_ended(
    make: Make, phone: tuple[Phone, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The process that waits for it is gone, and the loop went on meanwhile."""
    _, place = phone
    mark = tmp_path / "pid"
    script = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    monkeypatch.setattr(module, "HERALD", (sys.executable, "-I", "-c", script))
    monkeypatch.setattr(module, "HERALD_SECONDS", 0.5)
    targets = make(entry(f"json://{place}/x"))
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    turning = asyncio.create_task(turn())
    with pytest.raises(Trouble, match=r"^not told within 0\.5 s"):
        await targets.tell(targets.all()[0], NOTE)
    turning.cancel()
    assert turns > 10
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


@pytest.mark.parametrize("program", ["/bin/false", "/no/such/program"])
async def test_apprise_that_is_broken_is_a_failure(
    make: Make, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """Like any other: it is tried again."""
    monkeypatch.setattr(module, "HERALD", (program,))
    targets = make(entry("json://127.0.0.1:9/x"))
    with pytest.raises(Trouble, match=r"Apprise ended|cannot be started"):
        await targets.tell(targets.all()[0], NOTE)


async def test_a_test_reaches_all_at_once(make: Make, application: Application) -> None:
    """What came of each, in their order, with what to do; one that is silent delays no other."""
    async with serving() as deaf:
        deaf.status = 404
        targets = make(
            entry(application.url, SECRET), entry(deaf.url), entry("http://127.0.0.1:9/x")
        )
        good, bad, gone = await targets.test()
    assert (good.error, good.advice, good.status) == (None, None, 200)
    assert application.bodies[0]["type"] == "test"
    assert (bad.status, bad.error) == (404, "answered HTTP 404")
    assert "path" in (bad.advice or "")
    assert gone.status is None
    assert "nobody answers" in (gone.advice or "")
    assert max(trial.seconds for trial in (good, bad, gone)) < 5

"""Who is told what happens hears it once, signed, whatever dies; and nobody learns a token."""

import asyncio
import base64
import json
import signal
import sqlite3  # noqa: TID251 - a task near its end is put into the ledger of a stopped daemon
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any, Final

from aiohttp import web
from standardwebhooks import Webhook

from daemon.simulator.faults import Faults
from tests.stories.harness import API_KEY, PATIENCE_SECONDS, Daemon, read_lines
from tests.stories.stage import Stage

SECRET: Final = f"whsec_{base64.b64encode(b'a-secret-of-a-story-32-bytes-lon').decode()}"
TOKEN: Final = "t0ken-in-the-path-of-a-story"
HOUR: Final = 3_600_000


class Ear:
    """A receiver that can be closed and opened again on its port."""

    def __init__(self) -> None:
        self.port = 0
        self.status = 200
        self.heard: list[tuple[str, Mapping[str, str], bytes]] = []

    @property
    def url(self) -> str:
        """Where it listens, with a token."""
        return f"http://127.0.0.1:{self.port}/{TOKEN}?key={TOKEN}"

    async def answer(self, request: web.Request) -> web.Response:
        """Note one message."""
        assert request.path_qs.startswith(f"/{TOKEN}")
        self.heard.append((request.method, request.headers, await request.read()))
        return web.Response(status=self.status)

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the events that it heard, each of which has a good seal."""
        found = [Webhook(SECRET).verify(body, dict(head)) for _, head, body in self.heard]
        return [event for event in found if kind in {None, event["type"]}]

    def ids(self) -> list[str]:
        """Return the ids of what it heard, in order."""
        return [head["webhook-id"] for _, head, _ in self.heard]

    async def hears(self, count: int) -> None:
        """Wait until so much was heard."""
        until = time.monotonic() + PATIENCE_SECONDS
        while len(self.heard) < count:
            assert time.monotonic() < until, self.heard
            await asyncio.sleep(0.02)


@asynccontextmanager
async def listening(ear: Ear) -> AsyncIterator[None]:
    """Listen while the block runs, the second time on the same port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", ear.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", ear.port).start()
        ear.port = runner.addresses[0][1]
        yield
    finally:
        await runner.cleanup()


def write_targets(daemon: Daemon, plain: str, *targets: Mapping[str, object]) -> None:
    """Write a configuration with these targets."""
    text = plain
    for target in targets:
        text += "\n[[notify]]\n"
        text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in target.items())
    daemon.config.write_text(text)


async def tell(
    stage: Stage, *targets: Mapping[str, object], start: bool = True, **changes: Any
) -> tuple[Daemon, Any, str]:
    """Start a daemon with targets; return it, its provider and its configuration without them."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, start=False, **changes)
    plain = daemon.config.read_text()
    write_targets(daemon, plain, *targets)
    if start:
        await asyncio.to_thread(daemon.start)
    return daemon, provider, plain


async def check_secrets(daemon: Daemon, *shown: str, hidden: Sequence[str] = (TOKEN,)) -> None:
    """Assert that no file but the configuration, and nothing that was shown, holds a secret."""
    shown = (*shown, (await daemon.run("config", "show")).output)
    for secret in (*hidden, SECRET, SECRET.removeprefix("whsec_")):
        for path in daemon.folder.rglob("*"):
            if path.is_file() and path != daemon.config:
                assert secret.encode() not in path.read_bytes(), (path, secret)
        for text in shown:
            assert secret not in text


def plant_hopeless(daemon: Daemon, task_id: str) -> None:
    """Put a task into a stopped ledger whose video was proved to be gone."""
    now = time.time_ns() // 1_000_000
    with closing(sqlite3.connect(daemon.folder / "state" / "ledger.sqlite3")) as ledger, ledger:
        ledger.execute(
            """
            INSERT INTO task (task_id, state, cause, source, created_at, updated_at, deadline_at,
                              ask_at, answered_at, questions, questioned_at)
            VALUES (?, 'expected', 'adopted', 'track', ?, ?, ?, ?, ?, 9, ?)
            """,
            (task_id, now - 400 * HOUR, now, now - HOUR, now + HOUR, now - HOUR, now - HOUR),
        )


async def test_a_program_hears_what_becomes_of_every_task(stage: Stage) -> None:
    """Stored, done, failed, near its end, lost: each once, signed, with the task in JSON."""
    ear = Ear()
    async with listening(ear):
        daemon, provider, _ = await tell(stage, {"url": ear.url, "secret": SECRET})
        good = provider.add_task(Faults(callbacks=()))
        await daemon.track(good, label="mine")
        await daemon.until(good)
        await ear.hears(2)
        assert await daemon.stop() == 0
        plant_hopeless(daemon, "hopeless")
        await daemon.restart()
        await daemon.until("hopeless", "lost")
        await ear.hears(4)
        await daemon.says("notify.sent", type="task.lost")
        await check_secrets(daemon)
    stored, done, near, lost = ear.events()
    assert [one["type"] for one in (stored, done)] == ["task.stored", "task.done"]
    task = await daemon.task(good)
    for name in ("task_id", "label", "path", "sha256", "size_bytes", "stored_at"):
        assert stored["data"][name] == task[name]
    assert (stored["data"]["state"], done["data"]["state"]) == ("stored", "done")
    assert (near["type"], near["data"]["task_id"]) == ("deadline.near", "hopeless")
    assert near["data"]["hours_left"] < 0
    assert (lost["type"], lost["data"]["state"]) == ("task.lost", "lost")
    assert lost["data"]["reason"] == "deadline"
    assert len(set(ear.ids())) == 4


async def test_an_event_outlives_its_receiver_and_the_daemon(stage: Stage) -> None:
    """Refused, then deaf, then the daemon is killed: it arrives once, under one id."""
    ear = Ear()
    ear.status = 503
    target = {"url": ear.url, "secret": SECRET, "events": ["task.stored"]}
    async with listening(ear):
        target["url"] = ear.url
        daemon, provider, _ = await tell(stage, target)
        task_id = provider.add_task(Faults(callbacks=()))
        await daemon.track(task_id)
        await daemon.until(task_id)
        await daemon.says("notify.delayed", target=f"notify[1] http://127.0.0.1:{ear.port}")
        await ear.hears(1)
    daemon.kill()
    ear.status = 200
    tries = len(ear.heard)
    async with listening(ear):
        await daemon.restart()
        await ear.hears(tries + 1)
        await daemon.says("notify.sent")
        assert await daemon.stop() == 0
        await daemon.restart()
        await daemon.says("daemon.ready")
        assert len(ear.heard) == tries + 1
    assert len(set(ear.ids())) == 1
    assert {event["data"]["task_id"] for event in ear.events()} == {task_id}
    await check_secrets(daemon)


async def test_a_dead_target_does_not_matter_to_the_others(stage: Stage) -> None:
    """They hear in time; `test-notify` says who does not, and what to do."""
    ear, phone = Ear(), Ear()
    async with listening(ear), listening(phone):
        daemon, provider, plain = await tell(
            stage,
            {"url": f"http://127.0.0.1:9/{TOKEN}"},
            {"url": ear.url, "secret": SECRET, "events": ["task.done"]},
            {"url": f"json://127.0.0.1:{phone.port}/{TOKEN}", "events": ["task.stored"]},
        )
        task_id = provider.add_task(Faults(callbacks=()))
        await daemon.track(task_id)
        task = await daemon.until(task_id)
        await ear.hears(1)
        await phone.hears(1)
        told = json.loads(phone.heard[0][2])
        assert told["title"] == "Video stored"
        assert task["path"] in told["message"]
        tried = await daemon.run("test-notify")
        assert (tried.code, tried.errors) == (5, "")
        lines = tried.output.splitlines()
        assert lines[0].startswith("notify[1] http://127.0.0.1:9: did NOT take the test event")
        assert "cannot be connected" in lines[1]
        assert "do: nobody answers: check host and port" in lines[2]
        assert lines[3].startswith(f"notify[2] http://127.0.0.1:{ear.port}: took the test event")
        assert lines[4].startswith("notify[3] json: took the test event")
        assert json.loads(phone.heard[1][2])["title"] == "suno-videod: a test"
        rows = read_lines((await daemon.run("test-notify", "--json")).output)
        assert [row["delivered"] for row in rows] == [False, True, True]
        write_targets(daemon, plain, {"url": ear.url, "secret": SECRET})
        daemon.process.send_signal(signal.SIGHUP)
        assert (await daemon.says("config.reloaded"))["changed"] == ["notify"]
        again = await daemon.run("test-notify")
        assert (again.code, len(again.output.splitlines())) == (0, 1)
        assert len(ear.events("test")) == 3
        await check_secrets(daemon, tried.output, json.dumps(rows))


async def test_a_reload_adds_and_removes_targets(stage: Stage) -> None:
    """From then on who is new hears, and who is gone does not; a mistake changes nothing."""
    old, new = Ear(), Ear()
    async with listening(old), listening(new):
        # A rejected configuration is a line of level error.
        daemon, provider, plain = await tell(stage, expect_errors=True)
        nobody = await daemon.run("test-notify")
        assert (nobody.code, nobody.output) == (3, "")
        assert "[[notify]]" in nobody.errors
        for count, ear in enumerate((old, new), 1):
            events = ["task.done"]
            write_targets(daemon, plain, {"url": ear.url, "secret": SECRET, "events": events})
            daemon.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(daemon.log("config.reloaded")) < count:  # noqa: ASYNC110 - a log has no event
                    await asyncio.sleep(0.02)
            task_id = provider.add_task(Faults(callbacks=()))
            await daemon.track(task_id)
            await daemon.until(task_id)
            await ear.hears(1)
            assert ear.events()[0]["data"]["task_id"] == task_id
        assert (len(old.heard), len(new.heard)) == (1, 1)
        write_targets(daemon, plain, {"url": f"discord://{TOKEN}"})
        daemon.process.send_signal(signal.SIGHUP)
        told = await daemon.says("config.rejected")
        assert "Apprise does not understand this discord URL" in told["message"]
        assert (await daemon.run("test-notify")).code == 0
        write_targets(daemon, plain, {"url": new.url, "secret": SECRET})
        await check_secrets(daemon)


async def test_what_was_given_up_is_shown_until_it_can_be_told_again(stage: Stage) -> None:
    """`status` names the target without its token and says what to do; a good test clears it."""
    ear = Ear()
    async with listening(ear):
        ear.status = 500
        target = {"url": ear.url, "secret": SECRET, "events": ["task.done"]}
        daemon, provider, _ = await tell(stage, target)
        task_id = provider.add_task(Faults(callbacks=()))
        await daemon.track(task_id)
        await daemon.until(task_id)
        await daemon.says("notify.delayed")
        assert await daemon.stop() == 0
        # As if it had been made three days ago.
        with closing(sqlite3.connect(daemon.folder / "state" / "ledger.sqlite3")) as ledger, ledger:
            ledger.execute(
                "UPDATE outbox SET created_at = created_at - ?, due_at = 0", (72 * HOUR,)
            )
        await daemon.restart()
        await daemon.says("notify.failed")
        status = await daemon.get("/v1/status")
        name = f"notify[1] http://127.0.0.1:{ear.port}"
        lost = {"target": name, "count": 1, "last_error": "answered HTTP 500"}
        assert status["undelivered"] == [lost]
        shown = (await daemon.run("status")).output
        assert f"not told:        1 events to {name} were given up" in shown
        assert "suno-videod test-notify" in shown
        ear.status = 200
        assert (await daemon.run("test-notify")).code == 0
        assert (await daemon.get("/v1/status"))["undelivered"] == []
        assert "not told" not in (await daemon.run("status")).output
        await check_secrets(daemon, shown)


async def test_gates_and_credits_are_told(stage: Stage) -> None:
    """A wrong key, the mended key, and how much is left, each with its data."""
    ear = Ear()
    async with listening(ear):
        provider = {"api_key": "a-mistyped-api-key", "credits_low": 5_000}
        target = {"url": ear.url, "secret": SECRET}
        daemon, _, plain = await tell(stage, target, provider=provider)
        await ear.hears(1)
        write_targets(daemon, plain.replace("a-mistyped-api-key", API_KEY), target)
        daemon.process.send_signal(signal.SIGHUP)
        await ear.hears(3)
        await check_secrets(daemon)
    closed, opened, low = ear.events()
    assert (closed["type"], opened["type"]) == ("gate.closed", "gate.opened")
    assert list(closed["data"]) == ["name", "since", "reason"]
    assert closed["data"]["name"] == opened["data"]["name"] == "key"
    assert closed["data"]["since"].endswith("Z")
    assert low["type"] == "credits.low"
    assert low["data"] == {"credits": 1_000.0, "limit": 5_000}


async def test_the_heart_beats_only_while_nothing_is_overdue(stage: Stage) -> None:
    """It stops when a video is near its end and not here, and goes on when somebody has seen it."""
    ear = Ear()
    async with listening(ear):
        beat = {"url": ear.url, "interval": "100ms"}
        daemon, _, _ = await tell(stage, heartbeat=beat, provider={"retention": "1h"})
        await ear.hears(3)
        assert {method for method, _, _ in ear.heard} == {"GET"}
        await daemon.track("a-task-that-is-late")
        told = await daemon.says("heartbeat.withheld")
        assert "near the provider's deadline" in told["overdue"][0]
        count = len(ear.heard)
        await asyncio.sleep(0.5)
        assert len(ear.heard) == count
        assert (await daemon.run("forget", "a-task-that-is-late")).code == 0
        await daemon.says("heartbeat.resumed")
        await ear.hears(count + 2)
        ear.status = 404
        assert "HTTP 404" in (await daemon.says("heartbeat.failed"))["error"]
        ear.status = 200
        await asyncio.sleep(0.3)
        assert len(daemon.log("heartbeat.resumed")) == 2
        assert len(daemon.log("heartbeat.withheld")) == 1
        await check_secrets(daemon)

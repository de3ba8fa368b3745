"""SIGHUP: what the owner changed holds from now on, and nobody is disturbed by it."""

import asyncio
import signal
import time
from typing import Any, Final

from daemon.simulator.faults import Faults, FileFault
from daemon.simulator.simulator import Simulator
from tests.stories.harness import API_KEY, PATIENCE_SECONDS, TOKEN, Daemon, Section, ask, configure
from tests.stories.stage import Stage, check_film, downloads, failure, questions

WORDS: Final = ("config.reloaded", "config.rejected")
ADMIN_TOKEN: Final = "story-token-of-the-admin"


def answers(daemon: Daemon) -> list[dict[str, Any]]:
    """Return what was said about reloads so far."""
    return [line for line in daemon.log() if line["event"] in WORDS]


async def signalled(daemon: Daemon) -> dict[str, Any]:
    """Send SIGHUP and return what the daemon says to it."""
    before, until = len(answers(daemon)), time.monotonic() + PATIENCE_SECONDS
    daemon.process.send_signal(signal.SIGHUP)
    while len(found := answers(daemon)) == before:
        assert time.monotonic() < until, daemon.tell()
        await asyncio.sleep(0.01)
    return found[before]


async def counted(daemon: Daemon, event: str, count: int) -> None:
    """Wait until so many lines of an event are in the log."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(daemon.log(event)) < count:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.01)


async def reload(daemon: Daemon, provider: Simulator, /, **changes: Section) -> dict[str, Any]:
    """Write a whole new configuration and have it read."""
    daemon.config.write_text(configure(provider.base_url, **changes))
    return await signalled(daemon)


async def test_tokens_and_keys_are_rotated(stage: Stage) -> None:
    """The new ones hold at once, the old ones no more; a mended API key opens its gate."""
    provider = await stage.provider()
    wrong = {"api_key": "a-mistyped-api-key"}
    daemon = await stage.daemon(provider, provider=wrong)
    task_id = provider.add_task(Faults(callbacks=()))
    await daemon.track(task_id)
    await daemon.says("gate.closed", gate="key")
    new = "story-token-that-is-newer"
    told = await reload(daemon, provider, callback={"tokens": [new, TOKEN]}, provider=wrong)
    assert (told["changed"], told["needs_restart"]) == (["callback.tokens"], [])
    assert [(await daemon.post(failure("a"), token=token)).status for token in (new, TOKEN)] == [
        200,
        200,
    ]
    began = time.monotonic()
    told = await reload(daemon, provider, callback={"tokens": [new]})
    assert told["changed"] == ["callback.tokens", "provider.api_key"]
    await daemon.until(task_id)
    assert time.monotonic() - began < 5
    assert await daemon.gates() == []
    assert (await daemon.post(failure("a"), token=new)).status == 200
    assert (await daemon.post(failure("a"))).status == 404
    await daemon.post(f"<{API_KEY}>".encode(), token=new)
    (held,) = (await daemon.get("/v1/quarantine"))["quarantine"]
    assert held["body"] == "<***>"
    logged = str(daemon.history())
    for secret in (new, TOKEN, API_KEY, "a-mistyped-api-key"):
        assert secret not in logged


async def test_the_callback_url_follows_the_first_token(stage: Stage) -> None:
    """What is submitted after a rotation is called back under the new token."""
    provider = await stage.provider(render_seconds=600)
    daemon = await stage.daemon(provider)
    new = "story-token-that-is-newer"
    public = "https://mv.example.com/video-callback"
    await reload(daemon, provider, callback={"tokens": [new], "public_url": public})
    wish = {"music_task_id": "m", "audio_id": "a", "check": False}
    await asyncio.to_thread(daemon.client.submit, wish)
    (task,) = provider.tasks.values()
    assert task.callback_url == f"{public}/{new}"


async def test_a_key_that_is_added_later_asks_about_everything(stage: Stage) -> None:
    """Tasks that were adopted without a key waited for callbacks; now they are asked about."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, provider={"api_key": None})
    task_id = provider.add_task(Faults(callbacks=()))
    await daemon.track(task_id)
    assert "without provider.api_key" in (await daemon.run("show", task_id)).output
    await asyncio.sleep(0.3)
    assert not provider.requests
    told = await reload(daemon, provider)
    assert {"provider.api_key", "callback.trust"} <= set(told["changed"])
    await daemon.until(task_id)
    told = await reload(daemon, provider, provider={"api_key": None})
    second_id = provider.add_task(Faults(callbacks=()))
    await daemon.track(second_id)
    await asyncio.sleep(0.3)
    assert questions(provider, second_id) == 0


async def test_rates_hosts_and_the_log_level_change(stage: Stage) -> None:
    """`allowed_hosts`, `poll.interval` and `log.level` hold at the next use."""
    provider = await stage.provider()
    rare = {"first_after": "1h", "interval": "1h"}
    strict = {"allowed_hosts": ["files.example.com"]}
    daemon = await stage.daemon(provider, poll=rare, download=strict)
    task_id = provider.add_task(Faults(callbacks=()))
    waiting = provider.add_task(Faults(callbacks=()), finished=False)
    await daemon.track(task_id, waiting)
    await daemon.says("download.failed", reason="address_refused")
    told = await reload(daemon, provider, poll=rare)
    assert told["changed"] == ["download.allowed_hosts"]
    await daemon.retry(task_id)
    await daemon.until(task_id)
    assert questions(provider, waiting) == 1
    told = await reload(daemon, provider, log={"level": "info"})
    assert told["changed"] == ["poll.first_after", "poll.interval", "log.level"]
    await daemon.retry(waiting)
    count = len(daemon.log("poll.asked"))
    await asyncio.sleep(1)
    assert questions(provider, waiting) >= 4
    assert len(daemon.log("poll.asked")) == count
    provider.finish(waiting)
    await daemon.until(waiting)
    assert daemon.log("task.moved", task_id=waiting, to="done")


async def test_the_number_of_downloads_changes_while_they_run(stage: Stage) -> None:
    """More begin at once; fewer let the running ones end. None is restarted, none is too many."""
    provider = await stage.provider()
    slow = FileFault(bytes_per_second=300_000, lasts="always")
    daemon = await stage.daemon(provider, download={"concurrency": 1})
    ids = [provider.add_task(Faults(callbacks=(), files=(slow,))) for _ in range(9)]
    await daemon.track(*ids)
    await daemon.says("download.started")
    await reload(daemon, provider, download={"concurrency": 4})
    await counted(daemon, "download.started", 4)
    assert not daemon.log("download.finished")
    await reload(daemon, provider, download={"concurrency": 1})
    await counted(daemon, "download.finished", 4)
    await asyncio.sleep(0.3)
    await reload(daemon, provider, download={"concurrency": 3})
    await daemon.until_all(set(ids))
    running, before, most = set[str](), set[str](), [0]
    for line in daemon.log():
        if line["event"] == "config.reloaded":
            before = set(running)
            most.append(0)
        elif line["event"] == "download.started":
            running.add(line["task_id"])
            most[-1] = max(most[-1], len(running - before))
        elif line["event"] == "download.finished":
            running.remove(line["task_id"])
    assert most[:3] == [1, 3, 1]
    assert 2 <= most[3] <= 3
    for task_id in ids:
        assert [first for _, first in downloads(provider, task_id)] == [0]
        check_film(daemon, provider, task_id)


async def test_a_mistaken_file_changes_nothing(stage: Stage) -> None:
    """It is said with its line; the old values hold, and a good file is taken afterwards."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, expect_errors=True)
    good = daemon.config.read_text()
    for bad, why in (
        (good.replace(TOKEN, "another-token-altogether") + "\n[pol]\n", "pol"),
        (good.replace('level = "debug"', 'level = "loud"'), "log.level"),
        ("[callback\n", "not valid TOML"),
        ("\udcff\udcfe", "not UTF-8"),
    ):
        daemon.config.write_bytes(bad.encode(errors="surrogateescape"))
        told = await signalled(daemon)
        assert (told["event"], told["level"]) == ("config.rejected", "error")
        assert why in told["message"]
        assert (await daemon.post(failure("a"))).status == 200
    daemon.config.unlink()
    assert "No such file" in (await signalled(daemon))["message"]
    assert (await daemon.run("status")).code == 3
    daemon.config.write_text(good)
    assert (await signalled(daemon))["changed"] == []


async def test_what_needs_a_restart_is_named_and_kept(stage: Stage) -> None:
    """Listeners, folders and the provider stay as they are until then."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    told = await reload(
        daemon,
        provider,
        callback={"path": "/elsewhere", "trusted_proxies": []},
        download={"directory": "others", "stall_timeout": "5s"},
        admin={"listen": "127.0.0.1:0"},
        log={"format": "console"},
    )
    assert told["changed"] == ["callback.trusted_proxies"]
    assert set(told["needs_restart"]) == {
        *("callback.path", "download.directory", "download.stall_timeout"),
        *("admin.listen", "log.format"),
    }
    assert (await daemon.post(failure("a"))).status == 200
    task_id = provider.add_task(Faults(callbacks=()))
    await daemon.track(task_id)
    await daemon.until(task_id)
    check_film(daemon, provider, task_id)
    assert (await signalled(daemon))["changed"] == []


async def test_who_may_enter_changes(stage: Stage) -> None:
    """`admin.token` and `admin.hosts` hold at once; a door for everyone never loses its token."""
    provider = await stage.provider()
    admin: dict[str, object] = {"listen": "0.0.0.0:0", "token": ADMIN_TOKEN}
    daemon = await stage.daemon(provider, admin=admin, expect_errors=True)
    url = f"{daemon.ready['admin_tcp']}/v1/status".replace("0.0.0.0", "127.0.0.1")  # noqa: S104

    async def enter(token: str | None, host: str = "localhost") -> int:
        headers = {"Host": host} | ({"Authorization": f"Bearer {token}"} if token else {})
        return (await ask("GET", url, headers=headers)).status

    assert [await enter(ADMIN_TOKEN), await enter(None)] == [200, 401]
    assert await enter(ADMIN_TOKEN, "box.example") == 421
    new = "story-token-that-is-newer"
    told = await reload(daemon, provider, admin=admin | {"token": new, "hosts": ["box.example"]})
    assert told["changed"] == ["admin.token", "admin.hosts"]
    assert [await enter(new, "box.example"), await enter(ADMIN_TOKEN)] == [200, 401]
    told = await reload(daemon, provider)
    assert told["event"] == "config.rejected"
    assert "admin.token" in told["message"]
    assert [await enter(new, "box.example"), await enter(None)] == [200, 401]


async def test_no_callback_is_refused_while_reloading(stage: Stage) -> None:
    """Twenty reloads under load: every callback gets its 200 and is in the ledger."""
    provider = await stage.provider()
    daemon = await stage.daemon(None, provider={"api_key": None}, log={"level": "info"})
    acknowledged, over = set[str](), asyncio.Event()

    async def call(caller: int) -> None:
        number = 0
        while not over.is_set():
            task_id = f"task-{caller}-{number}"
            assert (await daemon.post(failure(task_id))).status == 200
            acknowledged.add(task_id)
            number += 1

    async with asyncio.TaskGroup() as callers:
        for caller in range(4):
            callers.create_task(call(caller))
        for number in range(20):
            tokens = {"tokens": [f"a-rotating-token-{number}", TOKEN]}
            told = await reload(daemon, provider, callback=tokens)
            assert told["event"] == "config.reloaded"
        over.set()
    assert len(acknowledged) > 50
    assert acknowledged <= set(await daemon.tasks())


async def test_the_newest_file_wins(stage: Stage) -> None:
    """Two signals in quick succession: the second file is read, whenever it was written."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    for turn in range(15):
        tokens = [f"a-token-of-turn-{turn}-{half}" for half in ("first", "second")]
        for token in tokens:
            text = configure(provider.base_url, callback={"tokens": [token]})
            daemon.config.write_text(text)
            daemon.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.002)
        until = time.monotonic() + 1
        while (await daemon.post(failure("a"), token=tokens[-1])).status != 200:
            assert time.monotonic() < until, turn
            await asyncio.sleep(0.2)

"""Kills the daemon while videos are asked for, and looks whether any was forgotten or paid twice.

Rule: at the end every video that the provider was paid for is on the disk, no track was paid for
twice, whoever was told an id has that video, and every application that was told one was called
back about it. A wish that waits for a person after two kills is sent again, as a person would.

    python -m tests.campaigns.wishes --size 50 --seed 1
"""

import asyncio
import hashlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from daemon.client import DaemonRefused, NoDaemon
from daemon.simulator.faults import Faults
from daemon.simulator.simulator import Simulator
from tests.campaigns.campaign import PromiseBroken, command
from tests.stories.harness import PATIENCE_SECONDS, Daemon, Section, configure
from tests.stories.stage import check_film, simulated_provider

CALLERS: Final = 4
LOST: Final = 0.1
"""The share of answers of the provider that break off."""
DELAY_SECONDS: Final = 0.3
"""The longest that the provider thinks before it answers."""
LIFE_SECONDS: Final = (0.1, 1.2)
SETTINGS: Final[Mapping[str, Section]] = {
    # The callbacks of this campaign never arrive: what the daemon knows, it knows by itself.
    "callback": {"public_url": "http://127.0.0.1:9/video-callback"},
    "log": {"level": "info"},
}


@dataclass(slots=True)
class Tally:
    """What the callers were told, and what was done to the daemon."""

    told: set[str] = field(default_factory=set)
    """Ids of tasks that somebody was told."""
    applications: set[str] = field(default_factory=set)
    """Those that an application was told, which waits to be called back."""
    called: dict[str, Any] = field(default_factory=dict)
    """Task id -> what its application was called with."""
    wishes: int = 0
    kills: int = 0


async def run_campaign(folder: Path, kills: int, seed: int) -> Tally:
    """Kill a daemon `kills` times and return the count of what was kept.

    Raises:
        PromiseBroken: with the seed that shows it.
    """
    luck, tally = random.Random(seed), Tally()
    async with (
        simulated_provider(render_seconds=0.2, credits=1e9) as provider,
        _application(tally) as hook,
    ):
        daemon = Daemon(folder, configure(provider.base_url, **SETTINGS))
        try:
            await asyncio.to_thread(daemon.start)
            while tally.kills < kills:
                await _ask_and_kill(daemon, provider, hook, luck, tally)
            await _settle(daemon)
            await _judge(daemon, provider, tally)
        except PromiseBroken as broken:
            raise PromiseBroken(f"seed {seed}, kill {tally.kills}: {broken}") from broken
        finally:
            await asyncio.to_thread(daemon.end)
    return tally


@asynccontextmanager
async def _application(tally: Tally) -> AsyncIterator[str]:
    """Be an application that is called back; yield its URL."""

    async def hear(request: web.Request) -> web.Response:
        body = await request.json()
        tally.called[body["data"]["task_id"]] = body
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", hear)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()


async def _ask_and_kill(
    daemon: Daemon, provider: Simulator, hook: str, luck: random.Random, tally: Tally
) -> None:
    callers = [
        asyncio.create_task(_ask(daemon, provider, hook, random.Random(luck.random()), tally))
        for _ in range(CALLERS)
    ]
    await asyncio.sleep(luck.uniform(*LIFE_SECONDS))
    await asyncio.to_thread(daemon.kill)
    tally.kills += 1
    await asyncio.gather(*callers)
    await asyncio.to_thread(daemon.start)


async def _ask(
    daemon: Daemon, provider: Simulator, hook: str, luck: random.Random, tally: Tally
) -> None:
    """Ask for videos, as the owner and as an application in turn, until nobody answers."""
    while True:
        tally.wishes += 1
        audio_id = f"track-{luck.getrandbits(64):016x}"
        provider.next_faults = Faults(
            callbacks=(),
            answer_delay_seconds=luck.uniform(0, DELAY_SECONDS),
            answer_lost=luck.random() < LOST,
        )
        try:
            if luck.random() < 0.5:
                wish = {"music_task_id": "music", "audio_id": audio_id, "check": False}
                task = await asyncio.to_thread(daemon.client.submit, wish)
                task_id = task["task_id"]
            else:
                task_id = await _ask_as_application(daemon, audio_id, hook)
                if task_id is not None:
                    tally.applications.add(task_id)
        except (NoDaemon, DaemonRefused):
            return
        if task_id is not None and not task_id.startswith("submit-"):
            tally.told.add(task_id)


async def _ask_as_application(daemon: Daemon, audio_id: str, hook: str) -> str | None:
    """Ask through the gateway; return the id that the provider's answer names."""
    body = {"taskId": "music", "audioId": audio_id, "callBackUrl": hook}
    post = daemon.client.post
    _, answer = await asyncio.to_thread(post, "/api/v1/mp4/generate", body, PATIENCE_SECONDS)
    return str(answer["data"]["taskId"]) if answer["code"] == 200 else None


async def _settle(daemon: Daemon) -> None:
    """Wait until nothing is on its way; send again what waits for a person."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        open_ones = [task for task in (await daemon.tasks()).values() if task["state"] != "done"]
        if not open_ones:
            return
        for task in open_ones:
            if task["task_id"].startswith("submit-") and task["next_attempt_at"] is None:
                await daemon.retry(task["task_id"])
        if time.monotonic() > until:
            raise PromiseBroken(f"still open: {open_ones[:3]}")
        await asyncio.sleep(0.2)


async def _judge(daemon: Daemon, provider: Simulator, tally: Tally) -> None:
    ledger = await daemon.tasks()
    paid = Counter(task.track for task in provider.tasks.values())
    twice = [track for track, count in paid.items() if count > 1]
    if twice:
        raise PromiseBroken(f"paid for twice: {twice}")
    forgotten = (provider.tasks.keys() | tally.told) - ledger.keys()
    if forgotten:
        raise PromiseBroken(f"paid for, or told to somebody, and not in the ledger: {forgotten}")
    for task_id in provider.tasks:
        check_film(daemon, provider, task_id)
    until = time.monotonic() + PATIENCE_SECONDS
    while silent := tally.applications - tally.called.keys():
        if time.monotonic() > until:
            raise PromiseBroken(f"never called back: {silent}")
        await asyncio.sleep(0.1)
    for task_id in tally.applications:
        film = provider.tasks[task_id].film
        whole = hashlib.sha256(b"".join(film.read(0, film.size_bytes))).hexdigest()
        if tally.called[task_id]["data"]["sha256"] != whole:
            raise PromiseBroken(f"{task_id}: the application was told of another film")


def _tell(tally: Tally) -> str:
    return (
        f"{tally.kills} kills, {tally.wishes} wishes, {len(tally.told)} ids told, "
        f"{len(tally.called)} applications called, nothing forgotten or paid twice"
    )


if __name__ == "__main__":
    command(run_campaign, _tell, size=50, unit="kills")()

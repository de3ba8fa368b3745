"""Kills the serving daemon again and again under callbacks, and looks for what it had promised.

Rule: a callback that was answered with 200 is in the ledger after every restart, a film that it
named ends up on the disk, and no file ever stands under a finished name that is not whole. Killing
a process proves nothing about a power cut: what the kernel has taken, it keeps.

    python -m tests.campaigns.kills --size 50 --seed 1
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from daemon.simulator.simulator import Simulator
from tests.campaigns.callers import (
    CALLBACKS_ALONE,
    check_acknowledged,
    is_acknowledged,
    write_callback,
)
from tests.campaigns.campaign import PromiseBroken, command
from tests.stories.harness import Daemon, configure
from tests.stories.stage import check_film, simulated_provider

CALLERS: Final = 8
FILMS: Final = 0.1
"""The share of callbacks that name a film."""
AGAIN: Final = 0.2
"""The share of answered callbacks that are sent once more."""
LIFE_SECONDS: Final = (0.02, 0.6)
"""How long a daemon may serve before it is killed."""
BIRTH_SECONDS: Final = (0.1, 0.5)
"""How long one may start that is killed before it serves."""


@dataclass(slots=True)
class Tally:
    """What the callers were told, and what was done to the daemon."""

    answered: Counter[str] = field(default_factory=Counter)
    """How many callbacks of each task were answered with 200."""
    films: set[str] = field(default_factory=set)
    seen: set[Path] = field(default_factory=set)
    """Finished files that were found whole."""
    kills: int = 0
    cut_off: int = 0
    """Callbacks that got no answer."""


async def run_campaign(folder: Path, kills: int, seed: int) -> Tally:
    """Kill a daemon `kills` times and return the count of what was kept.

    Raises:
        PromiseBroken: with the seed that shows it.
    """
    luck, tally = random.Random(seed), Tally()
    async with simulated_provider() as provider:
        daemon = Daemon(folder, configure(provider.base_url, **CALLBACKS_ALONE))
        try:
            await asyncio.to_thread(daemon.start)
            while tally.kills < kills:
                await _serve_and_kill(daemon, provider, luck, tally)
                await _check(daemon, provider, tally)
            await daemon.until_all(tally.films)
            for task_id in tally.films:
                check_film(daemon, provider, task_id)
        except PromiseBroken as broken:
            raise PromiseBroken(f"seed {seed}, kill {tally.kills}: {broken}") from broken
        finally:
            await asyncio.to_thread(daemon.end)
    return tally


async def _serve_and_kill(
    daemon: Daemon, provider: Simulator, luck: random.Random, tally: Tally
) -> None:
    """Let callers call, kill in the middle of it, perhaps once more at the start, start again."""
    callers = [
        asyncio.create_task(_call(daemon.url, provider, random.Random(luck.random()), tally))
        for _ in range(CALLERS)
    ]
    await asyncio.sleep(luck.uniform(*LIFE_SECONDS))
    await asyncio.to_thread(daemon.kill)
    tally.kills += 1
    await asyncio.gather(*callers)
    if luck.random() < 0.25:
        daemon.spawn()
        await asyncio.sleep(luck.uniform(*BIRTH_SECONDS))
        await asyncio.to_thread(daemon.kill)
        tally.kills += 1
    await asyncio.to_thread(daemon.start)


async def _call(url: str, provider: Simulator, luck: random.Random, tally: Tally) -> None:
    """Send callbacks until nobody answers any more."""
    while True:
        task_id, body = write_callback(provider, luck, FILMS)
        for _ in range(2 if luck.random() < AGAIN else 1):
            if not await is_acknowledged(url, body):
                tally.cut_off += 1
                return
            tally.answered[task_id] += 1
            if body["code"] == 200:
                tally.films.add(task_id)


async def _check(daemon: Daemon, provider: Simulator, tally: Tally) -> None:
    """Compare the ledger and the folder of a daemon that came back with what was promised."""
    check_acknowledged(await daemon.tasks(), tally.answered)
    for path in daemon.videos.glob("*.mp4"):
        if path not in tally.seen:
            film = provider.tasks[path.stem.removeprefix("video_")].film
            if path.read_bytes() != b"".join(film.read(0, film.size_bytes)):
                raise PromiseBroken(f"{path} has a finished name and is not whole")
            tally.seen.add(path)


def _tell(tally: Tally) -> str:
    return (
        f"{tally.kills} kills, {tally.answered.total()} callbacks acknowledged, "
        f"{tally.cut_off} cut off, {len(tally.films)} films fetched, nothing lost"
    )


if __name__ == "__main__":
    command(run_campaign, _tell, size=50, unit="kills")()

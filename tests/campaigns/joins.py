"""Kills and stops the daemon while films come over several connections, and compares every byte.

Rule: no file stands under a finished name that is not the film; every film is there in the end.

    python -m tests.campaigns.joins --size 30 --seed 1
"""

import asyncio
import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from daemon.simulator.faults import Faults, FileFault
from daemon.simulator.simulator import Simulator
from tests.campaigns.campaign import PromiseBroken, command
from tests.stories.harness import Daemon, configure
from tests.stories.stage import check_film, simulated_provider

FILM_BYTES = 6_000_000
FILMS = 2
PACE = 1_000_000


@dataclass(slots=True)
class Tally:
    """What was done, and over how many connections films came."""

    ends: Counter[str] = field(default_factory=Counter)
    connections: Counter[int] = field(default_factory=Counter)
    parts: int = 0
    films: int = 0
    resumed: int = 0


def _faults(luck: random.Random) -> Faults:
    slow = FileFault(bytes_per_second=PACE)
    choices = [
        slow,
        slow,
        replace(slow, cut_after_bytes=luck.randrange(1, 2_000_000), reset=luck.random() < 0.5),
        replace(slow, stall_after_bytes=luck.randrange(1, 2_000_000)),
        FileFault(status=503, retry_after="1"),
        replace(slow, ignore_ranges=True),
        replace(slow, other_film=True),
    ]
    drawn = [luck.choice(choices) for _ in range(luck.randrange(4))]
    return Faults(callbacks=(), files=(slow, *drawn, replace(slow, lasts="always")))


async def run_campaign(folder: Path, size: int, seed: int) -> Tally:
    """End a daemon `size` times in the middle of it.

    Raises:
        PromiseBroken: with the seed that shows it.
    """
    luck, tally = random.Random(seed), Tally()
    # One film at a time: a film that is one of several has less to gain from more connections.
    download = {
        "concurrency": 1,
        "connections": 4,
        "min_segment": "64K",
        "stall_timeout": "2s",
    }
    async with simulated_provider(file_size_bytes=FILM_BYTES) as provider:
        daemon = Daemon(folder, configure(provider.base_url, download=download))
        try:
            await asyncio.to_thread(daemon.start)
            done: set[str] = set()
            tasks: set[str] = set()
            while tally.ends.total() < size:
                while len(tasks - done) < FILMS:
                    tasks.add(provider.add_task(_faults(luck)))
                await daemon.track(*(tasks - done))
                await asyncio.sleep(luck.uniform(0.1, 3.5))
                if luck.random() < 0.6:
                    await asyncio.to_thread(daemon.kill)
                    tally.ends["kill"] += 1
                else:
                    code = await daemon.stop(signal.SIGTERM)
                    tally.ends["stop" if code == 0 else f"exit {code}"] += 1
                _look(daemon, provider)
                _count(daemon, tally)
                await asyncio.to_thread(daemon.start)
                states = await daemon.tasks()
                done = {name for name, task in states.items() if task["state"] == "done"}
            await daemon.until_all(tasks)
            for task_id in tasks:
                check_film(daemon, provider, task_id)
            _count(daemon, tally)
            tally.films = len(tasks)
            tally.parts = sum(1 for one in provider.requests if one.range)
        except PromiseBroken as broken:
            raise PromiseBroken(f"seed {seed}: {broken}") from broken
        finally:
            await asyncio.to_thread(daemon.end)
    return tally


def _look(daemon: Daemon, provider: Simulator) -> None:
    for path in daemon.videos.glob("*.mp4"):
        film = provider.tasks[path.stem.removeprefix("video_")].film
        if path.read_bytes() != b"".join(film.read(0, film.size_bytes)):
            raise PromiseBroken(f"{path} has a finished name and is not whole")


def _count(daemon: Daemon, tally: Tally) -> None:
    for line in daemon.log("download.finished"):
        tally.connections[line["connections"]] += 1
        tally.resumed += line["resumed_bytes"] > 0


def _tell(tally: Tally) -> str:
    return (
        f"{dict(tally.ends)}; {tally.films} films, all whole, {tally.parts} requests for parts, "
        f"{tally.resumed} films resumed, connections {dict(sorted(tally.connections.items()))}"
    )


if __name__ == "__main__":
    command(run_campaign, _tell, size=30, unit="ends")()

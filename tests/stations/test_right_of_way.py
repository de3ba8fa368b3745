"""Who waits for too long goes first, and nobody stands back for ever."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from daemon import right_of_way
from daemon.download import Downloader
from daemon.right_of_way import LONGEST_SECONDS, PATIENCE_SECONDS, RightOfWay
from daemon.rules.task import Task
from daemon.simulator.faults import Faults
from daemon.simulator.films import Film
from daemon.simulator.simulator import Simulator
from tests.stations.listening import open_desk, success

Make = Callable[..., Downloader]
Want = Callable[..., Awaitable[Task]]


class Clock:
    """A clock that goes when it is told."""

    now = 0.0

    def __call__(self) -> float:
        """Return what time it is."""
        return self.now


async def test_nobody_stands_back_for_who_just_came() -> None:
    """Most callbacks are answered before anybody has to."""
    clock = Clock()
    way = RightOfWay(clock)
    await way.give_way()
    with way.taken():
        clock.now = PATIENCE_SECONDS
        async with asyncio.timeout(LONGEST_SECONDS / 2):
            await way.give_way()


async def test_who_waits_for_long_is_let_pass() -> None:
    """Everybody stands back until the one who waited is answered, and then goes on at once."""
    clock = Clock()
    way = RightOfWay(clock)
    with way.taken():
        clock.now = 2 * PATIENCE_SECONDS
        standing = [asyncio.create_task(way.give_way()) for _ in range(3)]
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in standing)
    async with asyncio.timeout(LONGEST_SECONDS / 2):
        await asyncio.gather(*standing)


async def test_who_came_behind_him_does_not_prolong_it() -> None:
    """Only waiting for long counts, not that there is always somebody."""
    clock = Clock()
    way = RightOfWay(clock)
    with way.taken():
        first = way.taken()
        with first:
            clock.now = 2 * PATIENCE_SECONDS
            standing = asyncio.create_task(way.give_way())
            await asyncio.sleep(0.01)
        assert not standing.done()
    with way.taken():
        async with asyncio.timeout(LONGEST_SECONDS / 2):
            await standing


async def test_nobody_stands_back_for_ever() -> None:
    """A sender who takes his time with a body holds up a piece of a film for a moment."""
    clock = Clock()
    way = RightOfWay(clock)
    with way.taken():
        clock.now = 99.0
        began = time.monotonic()
        await way.give_way()
        assert LONGEST_SECONDS * 0.9 < time.monotonic() - began < LONGEST_SECONDS * 3


async def test_a_download_stands_back_between_its_pieces(
    simulator: Simulator, make_downloader: Make, want: Want, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the film is whole in the end."""
    monkeypatch.setattr(right_of_way, "LONGEST_SECONDS", 30.0)
    clock = Clock()
    way = RightOfWay(clock)
    film = Film("way", 3_000_000)
    task_id = simulator.add_task(Faults(callbacks=()), film=film)
    task = await want(simulator.tasks[task_id].video_url)
    with way.taken():
        clock.now = 1.0
        fetching = asyncio.create_task(make_downloader(way=way).fetch(task))
        await asyncio.sleep(0.3)
        assert not fetching.done()
    assert (await fetching).sha256 == film.sha256()


async def test_a_callback_has_it_until_it_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the moment its token was found right; a stranger has no way to hold anybody up."""
    monkeypatch.setattr("daemon.callback.COMMIT_SECONDS", 1.0)
    async with open_desk(tmp_path, run_intake=False) as desk:
        posting = asyncio.create_task(desk.post(success("a")))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await desk.way.give_way()
        assert time.monotonic() - began > LONGEST_SECONDS * 0.9
        assert (await posting)[0] == 503
        assert (await desk.post(success("a"), path="/video-callback/wrong"))[0] == 404
        began = time.monotonic()
        await desk.way.give_way()
        assert time.monotonic() - began < LONGEST_SECONDS / 2

"""The bell wakes who listened before it rang, and nobody sleeps for ever."""

import asyncio

import pytest

from daemon.bell import Bell, Spaced, sleep_until


async def test_a_ring_between_listening_and_sleeping_is_heard() -> None:
    """That is why one listens first: work that came in meanwhile is not slept over."""
    bell = Bell()
    heard = bell.listen()
    bell.ring()
    async with asyncio.timeout(1):
        await sleep_until(heard, 30)


async def test_everybody_is_woken_and_then_listens_anew() -> None:
    """One ring is not heard twice."""
    bell = Bell()
    sleepers = [asyncio.create_task(sleep_until(bell.listen(), 30)) for _ in range(3)]
    await asyncio.sleep(0)
    bell.ring()
    async with asyncio.timeout(1):
        await asyncio.gather(*sleepers)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await sleep_until(bell.listen(), 30)


@pytest.mark.parametrize("seconds", [0.02, 0, -5])
async def test_silence_ends_after_its_time(seconds: float) -> None:
    """A time that has passed already is no error."""
    async with asyncio.timeout(1):
        await sleep_until(Bell().listen(), seconds)


async def test_nobody_sleeps_longer_than_half_a_minute() -> None:
    """The monotonic clock stands still while a machine is suspended, due times do not."""
    loop = asyncio.get_running_loop()
    sleeper = asyncio.create_task(sleep_until(Bell().listen(), 1e9))
    await asyncio.sleep(0)
    due = min(handle.when() for handle in loop._scheduled if not handle.cancelled())  # type: ignore[attr-defined]
    assert due - loop.time() <= 30
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper


async def test_the_first_of_many_rings_is_passed_on_at_once() -> None:
    """A flood wakes somebody at its beginning and once more behind it, not a thousand times."""
    rings: list[float] = []
    loop = asyncio.get_running_loop()
    spaced = Spaced(lambda: rings.append(loop.time()), 0.1)
    spaced.ring()
    assert len(rings) == 1
    for _ in range(1000):
        spaced.ring()
    assert len(rings) == 1
    async with asyncio.timeout(5):
        while len(rings) < 2:  # noqa: ASYNC110 - the end of a space has no event
            await asyncio.sleep(0.01)
    assert rings[1] - rings[0] >= 0.09
    await asyncio.sleep(0.25)
    assert len(rings) == 2


async def test_a_ring_after_silence_waits_for_nothing() -> None:
    """Each callback that comes alone wakes who is to ask or to fetch before anything else runs."""
    rings: list[int] = []
    spaced = Spaced(lambda: rings.append(1), 0.02)
    for count in range(1, 4):
        spaced.ring()
        assert len(rings) == count
        await asyncio.sleep(0.05)
    assert len(rings) == 3

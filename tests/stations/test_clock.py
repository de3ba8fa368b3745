"""The wall clock: a jump is noticed, a wrong one is told, and neither lets anything expire."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from structlog.testing import capture_logs

from daemon.clock import Clock, boot_clock, watch_clock
from daemon.rules.schedule import HOUR, MINUTE
from daemon.store import StoreFailed

START = 1_790_000_000_000
DAY = 24 * HOUR


class Hands:
    """Two clocks that a test moves."""

    def __init__(self) -> None:
        self.wall = START
        self.boot = 5_000

    def go(self, ms: int) -> None:
        """Let time pass."""
        self.wall += ms
        self.boot += ms


@pytest.fixture
def hands() -> Hands:
    """Clocks that agree."""
    return Hands()


@pytest.fixture
def clock(hands: Hands) -> Clock:
    """What is known about them."""
    return Clock(lambda: hands.wall, lambda: hands.boot)


@pytest.mark.parametrize("jump", [MINUTE + 1, -MINUTE - 1, 20 * DAY, -365 * DAY])
def test_after_a_jump_nothing_expires_for_six_hours(clock: Clock, hands: Hands, jump: int) -> None:
    """Whichever way; it is said once, and the steady hours after it count, not the day it shows."""
    hands.go(HOUR)
    assert clock.look() == 0
    assert clock.is_sane()
    hands.wall += jump
    with capture_logs() as logs:
        assert clock.look() == jump
        assert clock.look() == 0
    assert [(line["event"], line["seconds"]) for line in logs] == [
        ("clock.jumped", round(jump / 1000))
    ]
    hands.go(6 * HOUR - 1)
    assert not clock.is_sane()
    hands.go(1)
    assert clock.is_sane()


def test_small_corrections_and_sleep_are_no_jumps(clock: Clock, hands: Hands) -> None:
    """A time server nudges the clock; a suspended machine wakes up, and its boot clock went on."""
    with capture_logs() as logs:
        for nudge in (MINUTE, -MINUTE, 30_000):
            hands.wall += nudge
            hands.go(10_000)
            assert clock.look() == 0
        hands.go(3 * DAY)
        assert clock.look() == 0
    assert clock.is_sane()
    assert not logs


def dated(at: int) -> str:
    """Return a time as the header Date has it."""
    return format_datetime(datetime.fromtimestamp(at / 1000, UTC), usegmt=True)


def test_the_provider_knows_what_time_it_is(clock: Clock, hands: Hands) -> None:
    """A clock that differs from its answers by more than an hour ends nothing."""
    with capture_logs() as logs:
        for off in (0, HOUR - 2_000, 2 - HOUR):
            clock.compare(dated(hands.wall + off))
            assert clock.is_sane()
        for off in (HOUR + 2_000, -20 * DAY):
            clock.compare(dated(hands.wall + off))
            assert not clock.is_sane()
        for told in (None, "", "yesterday", "Mon, 99 Nov 2026 99:00:00 GMT"):
            clock.compare(told)
            assert not clock.is_sane()
        clock.compare(dated(hands.wall))
        assert clock.is_sane()
    assert [line["event"] for line in logs] == ["clock.wrong", "clock.right"]


async def test_what_was_put_off_is_mended_after_a_jump(clock: Clock, hands: Hands) -> None:
    """At once, and again when the ledger could not be written."""
    calls: list[int] = []
    mended = asyncio.Event()

    async def mend() -> None:
        calls.append(hands.wall)
        if len(calls) == 1:
            raise StoreFailed("full")
        mended.set()

    watching = asyncio.create_task(watch_clock(clock, mend, 0.01))
    await asyncio.sleep(0.05)
    assert not calls
    hands.wall -= DAY
    async with asyncio.timeout(5):
        await mended.wait()
    await asyncio.sleep(0.05)
    watching.cancel()
    assert len(calls) == 2


def test_the_boot_clock_counts_milliseconds() -> None:
    """From a clock that nobody sets."""
    before: Callable[[], int] = boot_clock
    assert 0 < before() <= boot_clock()

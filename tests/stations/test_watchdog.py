"""The watchdog: fed while everything here goes on, and hungry when something has stopped."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from daemon import watchdog
from daemon.disk import Disk
from daemon.pulse import BEAT_SECONDS, Pulse, beat, listen, rest, resting
from daemon.store import Store
from daemon.systemd import Notifier
from daemon.watchdog import Watchdog

WATCHDOG_SECONDS = 1.0
"""A quarter of it is what the ledger has to answer, also on a busy machine."""


class Manager:
    """Systemd's end of the socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(path))
        self.path = path

    def hear(self) -> list[str]:
        """Return all that was said since the last time, the words of a datagram as one text."""
        heard = []
        while True:
            try:
                heard.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return heard


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """Somebody who listens."""
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.socket.close()


class Seconds:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    """A clock."""
    return Seconds()


@pytest.fixture
def pulse(seconds: Seconds) -> Pulse:
    """The pulse of the process."""
    return Pulse(seconds)


Watching = Callable[[], Any]


@pytest.fixture
def watching(manager: Manager, store: Store, disk: Disk, pulse: Pulse) -> Watching:
    """Let the watchdog run beside the block."""

    @asynccontextmanager
    async def run() -> AsyncIterator[None]:
        environ = {
            "NOTIFY_SOCKET": str(manager.path),
            "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6)),
        }
        dog = asyncio.create_task(Watchdog(Notifier(environ), store, disk, pulse).run())
        try:
            yield
        finally:
            dog.cancel()
            await asyncio.gather(dog, return_exceptions=True)

    return run


def named(name: str, pulse: Pulse, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start a loop of the process."""
    listen(pulse)
    return asyncio.create_task(work, name=name)


async def test_a_loop_is_late_when_it_neither_beats_nor_rests(
    pulse: Pulse, seconds: Seconds
) -> None:
    """Each beat is good for a while, a rest for ever, and a process that stood still is excused."""
    go_on = asyncio.Event()

    async def loop() -> None:
        beat()
        await go_on.wait()
        with resting():
            await asyncio.sleep(0.02)
        beat(5)
        rest()

    listen(pulse)
    task = asyncio.create_task(loop(), name="poller")
    await asyncio.sleep(0)
    seconds.now += BEAT_SECONDS
    assert pulse.late() == []
    seconds.now += 0.1
    assert pulse.late() == ["poller"]
    pulse.excuse(1)
    assert pulse.late() == []
    seconds.now += 10
    assert pulse.late() == ["poller"]
    go_on.set()
    await asyncio.sleep(0)
    assert pulse.late() == []
    await task
    seconds.now += 10 * BEAT_SECONDS
    assert pulse.late() == []


async def test_it_is_fed_while_all_goes_on(
    manager: Manager, watching: Watching, pulse: Pulse
) -> None:
    """Several times within its limit, with a line of status."""

    async def loop() -> None:
        beat()
        await asyncio.sleep(60)

    task = named("poller", pulse, loop())
    async with watching():
        await asyncio.sleep(2 * WATCHDOG_SECONDS)
    task.cancel()
    heard = manager.hear()
    assert 5 <= len(heard) <= 12
    assert set(heard) == {"STATUS=no tasks yet\nWATCHDOG=1"}


async def test_a_loop_that_stops_is_shown_and_starves_it(
    manager: Manager, watching: Watching, pulse: Pulse, seconds: Seconds, capfd: Any
) -> None:
    """Once in the log, with the place where it hangs; the dump of all threads follows."""

    async def stuck_here() -> None:
        await asyncio.Event().wait()

    async def loop() -> None:
        beat()
        await stuck_here()

    task = named("poller", pulse, loop())
    async with watching():
        await asyncio.sleep(WATCHDOG_SECONDS / 2)
        assert manager.hear()
        seconds.now += 2 * BEAT_SECONDS
        with capture_logs() as logs:
            await asyncio.sleep(2 * WATCHDOG_SECONDS)
        said = manager.hear()
        seconds.now -= 2 * BEAT_SECONDS
        await asyncio.sleep(WATCHDOG_SECONDS)
        assert "WATCHDOG=1" in manager.hear()[-1], "what goes on again is fed again"
    task.cancel()
    assert not [words for words in said[1:] if "WATCHDOG=1" in words]
    (line,) = [line for line in logs if line["event"] == "watchdog.hungry"]
    assert "poller" in line["message"]
    assert "stuck_here" in line["stacks"]["poller"][1]
    assert "most recent call first" in capfd.readouterr().err


async def test_a_loop_that_does_not_turn_is_dumped_by_another_thread(
    watching: Watching, capfd: Any, manager: Manager
) -> None:
    """Nothing else can say anything then; afterwards it is told how long it was."""
    async with watching():
        await asyncio.sleep(0.05)
        manager.hear()
        time.sleep(2 * WATCHDOG_SECONDS)  # noqa: ASYNC251 - the fault that is to be seen
        assert not manager.hear()
    assert "test_a_loop_that_does_not_turn" in capfd.readouterr().err


async def test_a_process_that_stood_still_is_excused(
    watching: Watching, pulse: Pulse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGSTOP, or a machine that was frozen, nobody is late."""
    monkeypatch.setattr(watchdog, "LAG_SECONDS", 0.1)
    excused: list[float] = []
    monkeypatch.setattr(pulse, "excuse", excused.append)
    async with watching():
        await asyncio.sleep(0.05)
        with capture_logs() as logs:
            time.sleep(0.6)  # noqa: ASYNC251 - the fault that is to be seen
            await asyncio.sleep(0.1)
    assert [line["event"] for line in logs if line["event"] == "loop.blocked"] == ["loop.blocked"]
    assert len(excused) == 1
    assert excused[0] > 0.1


async def test_a_database_that_hangs_starves_it(
    manager: Manager, watching: Watching, store: Store
) -> None:
    """Its thread waits for ever: callbacks would be, too."""
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(_: object) -> int:
        return asyncio.run_coroutine_threadsafe(_wait(release), loop).result()

    await store.commits.connection.create_function("hang", 1, hang)
    async with watching():
        await asyncio.sleep(WATCHDOG_SECONDS / 2)
        assert "WATCHDOG=1" in manager.hear()[-1]
        hanging = asyncio.create_task(store.commits.connection.execute_fetchall("SELECT hang(1)"))
        await asyncio.sleep(2 * WATCHDOG_SECONDS)
        said = manager.hear()
        release.set()
        await hanging
    assert said == ["STATUS=no progress of store: the watchdog is not fed"]


async def _wait(event: asyncio.Event) -> int:
    await event.wait()
    return 1


async def test_a_full_disk_does_not_starve_it(
    manager: Manager, watching: Watching, break_ledger: Callable[..., Awaitable[None]]
) -> None:
    """A restart would cure nothing, and refuse callbacks meanwhile."""
    await break_ledger(broken=True)
    async with watching():
        await asyncio.sleep(WATCHDOG_SECONDS)
    heard = manager.hear()
    assert len(heard) >= 3
    assert all("WATCHDOG=1" in words for words in heard)
    assert "did not commit" in heard[0]


async def test_a_hanging_mount_does_not_starve_it(
    *,
    manager: Manager,
    watching: Watching,
    pulse: Pulse,
    seconds: Seconds,
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that waits for it is late by no fault of its own."""
    monkeypatch.setattr(watchdog, "DISK_SECONDS", 0.1)
    ours, theirs = os.pipe()

    async def loop() -> None:
        beat()
        await disk.run(os.read, ours, 1)

    task = named("worker 1", pulse, loop())
    await asyncio.sleep(0.2)
    seconds.now += 2 * BEAT_SECONDS
    assert disk.hanging_seconds() > 0.1
    async with watching():
        await asyncio.sleep(WATCHDOG_SECONDS)
    os.write(theirs, b"x")
    await task
    os.close(ours)
    os.close(theirs)
    assert disk.hanging_seconds() < 0.1
    assert all("WATCHDOG=1" in words for words in manager.hear())

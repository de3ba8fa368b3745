"""Hostile programs: whatever they do, they end in time, and nothing of them is left.

Rule: after every test nothing lives that was started with a file of its folder, and this process
has neither a child nor a descriptor more than before.
"""

import asyncio
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.child import Cut, Ended, Limits
from tests.stations.launching import (
    ESCAPED,
    LINGER,
    ROOT,
    descriptors,
    launchers,
    program,
    run,
    survivors,
    until,
)


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    before = descriptors()
    yield
    left = survivors(tmp_path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    gc.collect()
    assert not left
    assert not launchers()
    assert descriptors() == before


def shell(text: str) -> list[str]:
    """Return how to call a line of shell, of which the test knows every word."""
    return ["/bin/sh", "-c", text]


async def test_a_program_that_takes_too_long_is_asked_to_end(tmp_path: Path) -> None:
    """It may tidy up, and what it says then is still heard."""
    text = """
def leave(*_):
    print("tidied", flush=True)
    sys.exit(4)
signal.signal(signal.SIGTERM, leave)
time.sleep(60)
"""
    began = time.monotonic()
    ended = await run(program(tmp_path, text), tmp_path, seconds=0.5, grace_seconds=10)
    assert ended == Ended(4, None, Cut.TIME, b"tidied\n", b"", 0)
    assert not ended.ok
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("text", [LINGER, ESCAPED + LINGER])
async def test_a_program_that_is_deaf_is_killed(text: str, tmp_path: Path) -> None:
    """After the grace, and not before."""
    began = time.monotonic()
    ended = await run(program(tmp_path, text), tmp_path, seconds=1, grace_seconds=0.7)
    assert (ended.signal, ended.cut) == (signal.SIGKILL, Cut.TIME)
    assert 1.7 < time.monotonic() - began < 4


async def test_without_a_grace_time_is_the_end(tmp_path: Path) -> None:
    """A decoder has nothing to tidy."""
    ended = await run(["/bin/sleep", "60"], tmp_path, seconds=0.3, grace_seconds=0)
    assert (ended.signal, ended.cut) == (signal.SIGKILL, Cut.TIME)


async def test_no_time_at_all_is_also_a_time(tmp_path: Path) -> None:
    """The launcher is still starting when the program is to end."""
    for grace_seconds in (0, 0.3):
        argv = ["/bin/sleep", "60"]
        ended = await run(argv, tmp_path, seconds=0, grace_seconds=grace_seconds)
        assert ended.cut is Cut.TIME
        assert ended.status is None


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"if os.fork() == 0:\n  exec({LINGER!r})", id="holds the output"),
        pytest.param("if os.fork() == 0:\n  time.sleep(50)", id="sleeps"),
        pytest.param(ESCAPED, id="escaped"),
        pytest.param(ESCAPED.replace("mark(", "os.closerange(0, 9); mark("), id="holds nothing"),
    ],
)
async def test_what_a_program_leaves_behind_is_ended(text: str, tmp_path: Path) -> None:
    """Its own end is what counts; nobody waits for the output that a grandchild holds open."""
    began = time.monotonic()
    ended = await run(
        program(tmp_path, f"{text}\nprint('done', flush=True)\nos._exit(5)"), tmp_path
    )
    assert (ended.status, ended.cut, ended.output) == (5, None, b"done\n")
    assert time.monotonic() - began < 4


async def test_a_stranger_who_holds_the_output_holds_up_nobody(tmp_path: Path) -> None:
    """A descriptor can be handed to a process that is no child of the program at all."""
    text = """
import socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
    sender.connect("stranger")
    socket.send_fds(sender, [b"x"], [1])
print("handed over")
"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.bind(str(tmp_path / "stranger"))
        began = time.monotonic()
        ended = await run(program(tmp_path, text), tmp_path)
        assert ended == Ended(0, None, None, b"handed over\n", b"", 0)
        assert time.monotonic() - began < 5


async def test_what_is_left_behind_may_tidy_up(tmp_path: Path) -> None:
    """It is asked first, wherever it went."""
    text = ESCAPED.replace("signal.SIG_IGN", "lambda *_: (mark('asked'), os._exit(0))")
    began = time.monotonic()
    await run(program(tmp_path, text), tmp_path, grace_seconds=10)
    assert (tmp_path / "asked").read_text() == (tmp_path / "lingers").read_text()
    assert time.monotonic() - began < 5


async def test_orphans_are_reaped_while_the_program_runs(tmp_path: Path) -> None:
    """A long program that daemonises helpers does not fill the machine with zombies."""
    text = """
for _ in range(30):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
until = time.monotonic() + 5
path = f"/proc/{os.getppid()}/task/{os.getppid()}/children"
while len(open(path).read().split()) > 1 and time.monotonic() < until:
    time.sleep(0.01)
print(open(path).read().split() == [str(os.getpid())])
"""
    assert (await run(program(tmp_path, text), tmp_path)).output == b"True\n"


async def test_a_program_that_always_moves_on_is_caught(tmp_path: Path) -> None:
    """It forks, leaves the session and ends, over and over: no list of processes shows it long."""
    text = """
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mark("moves")
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if os.fork():
            os._exit(0)
else:
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.001)
"""
    argv = [*program(tmp_path, text), str(tmp_path / "moves")]
    ended = await run(argv, tmp_path)
    assert ended.status == 0


@pytest.mark.parametrize("text", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
async def test_a_flood_is_stopped(text: str, tmp_path: Path) -> None:
    """Soon after 16 MiB, and without a grace in which it would go on."""
    flood = f"{text}\nwhile True:\n    os.write(1, bytes(65536))"
    began = time.monotonic()
    ended = await run(program(tmp_path, flood), tmp_path, grace_seconds=10)
    assert (ended.signal, ended.cut) == (signal.SIGKILL, Cut.FLOOD)
    assert 0 <= len(ended.output) + ended.dropped_bytes - (16 << 20) <= 8192
    assert len(ended.output) == 65_536
    assert time.monotonic() - began < 8


async def test_a_flood_by_two_pipes_is_one_flood(tmp_path: Path) -> None:
    """Errors count as well, also when they come apart."""
    argv = shell("yes & exec yes >&2")
    ended = await run(argv, tmp_path, errors_apart=True, limits=Limits(output_bytes=1 << 20))
    assert ended.cut is Cut.FLOOD
    assert len(ended.output) + len(ended.errors) + ended.dropped_bytes <= (1 << 20) + 8192


async def test_a_flood_in_the_grace_is_stopped_too(tmp_path: Path) -> None:
    """Who answers the request to end with a flood has no more time for it."""
    text = """
def flood(*_):
    while True:
        os.write(1, bytes(65536))
signal.signal(signal.SIGTERM, flood)
time.sleep(60)
"""
    began = time.monotonic()
    ended = await run(program(tmp_path, text), tmp_path, seconds=0.5, grace_seconds=30)
    assert (ended.signal, ended.cut) == (signal.SIGKILL, Cut.TIME)
    assert time.monotonic() - began < 10


async def test_a_flood_does_not_starve_the_daemon(tmp_path: Path) -> None:
    """While one program floods, whatever else the daemon does goes on."""
    limits = Limits(output_bytes=1 << 30)
    flooding = asyncio.create_task(run(["/usr/bin/yes"], tmp_path, seconds=1.5, limits=limits))
    longest = 0.0
    while not flooding.done():
        began = time.monotonic()
        await asyncio.sleep(0)
        longest = max(longest, time.monotonic() - began)
    assert (await flooding).dropped_bytes > 1 << 20
    assert longest < 0.5


@pytest.mark.parametrize("text", [LINGER, ESCAPED + LINGER])
async def test_whoever_cancels_waits_until_all_is_gone(text: str, tmp_path: Path) -> None:
    """And nobody lives on when the cancellation is through."""
    task = asyncio.create_task(run(program(tmp_path, text), tmp_path))
    await until((tmp_path / "lingers").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not survivors(tmp_path)


async def test_cancelling_again_does_not_wait_for_the_grace(tmp_path: Path) -> None:
    """A second signal to the daemon means that nobody is in the mood to wait."""
    task = asyncio.create_task(run(program(tmp_path, LINGER), tmp_path, grace_seconds=60))
    await until((tmp_path / "lingers").exists)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=0.3)
    assert not done
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 3


async def test_cancelling_does_not_wait_for_what_is_left_behind(tmp_path: Path) -> None:
    """The program has ended and the grace is that of its leftovers; the cancellation is heard."""
    argv = program(tmp_path, ESCAPED + "mark('leaves')")
    task = asyncio.create_task(run(argv, tmp_path, grace_seconds=60))
    await until((tmp_path / "leaves").exists)
    done, _ = await asyncio.wait([task], timeout=0.5)
    assert not done
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=5)
    assert done
    assert task.cancelled()


async def test_a_time_limit_around_it_works_as_usual(tmp_path: Path) -> None:
    """`asyncio.timeout` is a cancellation too, and stays recognisable as itself."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await run(program(tmp_path, LINGER), tmp_path)
    assert not survivors(tmp_path)


async def test_it_may_be_cancelled_at_any_moment(tmp_path: Path) -> None:
    """Before the launcher runs, while it starts, while it ends: nothing is left."""
    luck = random.Random(20_261_122)
    argv = program(tmp_path, ESCAPED)
    outcomes = set()
    for number in range(40):
        (tmp_path / "lingers").unlink(missing_ok=True)
        task = asyncio.create_task(run(argv, tmp_path, stdin=b"x" * 100_000, grace_seconds=0.05))
        for _ in range(1 + number % 2):
            await asyncio.sleep(luck.random() * 0.2)
            task.cancel()
        outcomes.add((await asyncio.gather(task, return_exceptions=True))[0].__class__)
        assert not survivors(tmp_path)
        assert not launchers()
    assert asyncio.CancelledError in outcomes


DAEMON = """
import asyncio, sys
from pathlib import Path
from daemon.child import run_child
folder = Path(sys.argv[1])
argv = [sys.executable, "-I", "-S", str(folder / "program.py")]
asyncio.run(run_child(argv, environment={}, directory=folder, seconds=60))
"""


async def test_nothing_outlives_the_daemon(tmp_path: Path) -> None:
    """Killed as it may be, its programs are gone within a second, those that escaped as well."""
    program(tmp_path, ESCAPED + "mark('ready')" + LINGER)
    daemon = subprocess.Popen(  # noqa: ASYNC220, S603 - our own program
        [sys.executable, "-c", DAEMON, tmp_path], cwd=ROOT
    )
    try:
        await until((tmp_path / "ready").exists)
        await until(lambda: (tmp_path / "lingers").read_text().count("\n") == 2)
        assert len(survivors(tmp_path)) == 3
    finally:
        daemon.kill()
        daemon.wait()
    assert await until(lambda: not survivors(tmp_path)) < 1


async def test_the_launcher_hears_the_signal_of_a_service_that_stops(tmp_path: Path) -> None:
    """All processes of a service get a SIGTERM from systemd, if it is not told otherwise."""
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    text = ESCAPED + deaf + "os.kill(os.getppid(), signal.SIGTERM)" + LINGER
    ended = await run(program(tmp_path, text), tmp_path)
    assert (ended.signal, ended.cut) == (signal.SIGKILL, None)


async def test_a_program_that_kills_its_launcher_kills_itself(tmp_path: Path) -> None:
    """That is the kernel's doing, and how it ended is not known."""
    text = "print('shoot', flush=True)\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(50)"
    began = time.monotonic()
    ended = await run(program(tmp_path, text), tmp_path)
    assert ended == Ended(None, None, Cut.LOST, b"shoot\n", b"", 0)
    await until(lambda: not survivors(tmp_path), 2)
    assert time.monotonic() - began < 4


async def test_a_program_that_stops_its_launcher_gains_nothing(tmp_path: Path) -> None:
    """It is woken when time is up, and ends everything."""
    text = ESCAPED + "os.kill(os.getppid(), signal.SIGSTOP)" + LINGER
    began = time.monotonic()
    ended = await run(program(tmp_path, text), tmp_path, seconds=1)
    assert (ended.signal, ended.cut) == (signal.SIGKILL, Cut.TIME)
    assert time.monotonic() - began < 6


async def test_a_program_that_keeps_stopping_its_launcher_gains_seconds(tmp_path: Path) -> None:
    """The launcher is killed in the end, and the program with it."""
    text = """
parent = os.getppid()
for _ in range(3):
    if os.fork() == 0:
        break
while True:
    os.kill(parent, signal.SIGSTOP)
"""
    began = time.monotonic()
    ended = await run(program(tmp_path, text), tmp_path, seconds=0.5, grace_seconds=0)
    assert ended.cut in {Cut.LOST, Cut.TIME}
    await until(lambda: not survivors(tmp_path), 2)
    assert time.monotonic() - began < 12


async def test_a_launcher_that_hangs_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a disk call, say, from which nothing but that ends a wait; the daemon goes on."""
    program(tmp_path, "time.sleep(50)")
    monkeypatch.setattr("daemon.child.LAUNCHER", tmp_path / "program.py")
    monkeypatch.setattr("daemon.child._KILL_SECONDS", 0.3)
    began = time.monotonic()
    ended = await run(["/bin/true"], tmp_path, seconds=0.3)
    assert ended.cut is Cut.LOST
    assert time.monotonic() - began < 5


async def test_a_program_that_kills_its_launcher_ends_all_the_same(tmp_path: Path) -> None:
    """Even when it gave up its own signal of that death before."""
    text = """
import ctypes
ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(60)
"""
    ended = await run(program(tmp_path, text), tmp_path)
    assert ended.cut is Cut.LOST
    await until(lambda: not survivors(tmp_path), 5)

"""A restart behind a socket that systemd keeps: nobody is refused, nothing acknowledged is lost."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from daemon.config import environment
from tests.stories.harness import PATIENCE_SECONDS, TOKEN, Daemon
from tests.stories.stage import Stage, failure

CALLERS: Final = 20
RESTARTS: Final = 5
SERVE: Final = (sys.executable, "-m", "daemon", "-c")

# $0 is the folder. The descriptor stays open here while the program comes and goes, and the
# variable must name the process that becomes the program.
LOOP: Final = """
export run=0
while [ ! -e "$0/over" ]; do
  run=$((run + 1))
  sh -c '
    echo $$ >"$0/pid-$run"
    LISTEN_PID=$$ exec "$@" >"$0/log-$run.txt" 2>"$0/errors-$run.txt"
  ' "$0" "$@"
done
"""
ONCE: Final = 'exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
"""Passes standard input on, as systemd would a socket."""


@dataclass
class Tally:
    """What the callers sent and heard."""

    place: tuple[str, int]
    numbers: Iterator[int] = field(default_factory=count)
    acknowledged: set[str] = field(default_factory=set)
    broken: int = 0
    over: bool = False

    async def grow(self, by: int) -> None:
        """Wait until so many more were acknowledged."""
        goal, until = len(self.acknowledged) + by, time.monotonic() + PATIENCE_SECONDS
        while len(self.acknowledged) < goal:
            assert time.monotonic() < until, len(self.acknowledged)
            await asyncio.sleep(0.02)


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def post(connection: Connection, task_id: str) -> bool:
    """Send a callback, which must be acknowledged; return whether the connection is kept."""
    reader, writer = connection
    body = json.dumps(failure(task_id)).encode()
    head = f"POST /video-callback/{TOKEN} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}\r\n".encode() + body)
    heard = await reader.readuntil(b'{"status":"received"}')
    assert heard.startswith(b"HTTP/1.1 200 "), heard
    return b"\r\nConnection: close\r\n" not in heard


async def call(tally: Tally, *, keeps: bool, breaks: bool) -> None:
    """Send callbacks without pause; an acknowledgement that does not come is an error.

    With `keeps` a connection is used until the daemon ends it in words, else for one callback. With
    `breaks` an open connection may break, and a new one is still never refused.
    """
    while not tally.over:
        connection = await asyncio.open_connection(*tally.place)
        try:
            kept = True
            while kept and not tally.over:
                task_id = f"restart-{next(tally.numbers)}"
                async with asyncio.timeout(PATIENCE_SECONDS):
                    kept = await post(connection, task_id) and keeps
                tally.acknowledged.add(task_id)
        except (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError):
            if not breaks:
                raise
            tally.broken += 1
        finally:
            connection[1].close()
            with suppress(OSError):
                await connection[1].wait_closed()


@asynccontextmanager
async def called(place: tuple[str, int], *, breaks: bool = False) -> AsyncIterator[Tally]:
    """Let all callers send; at the end each waits for its last answer."""
    tally = Tally(place)
    async with asyncio.TaskGroup() as callers:
        for number in range(CALLERS):
            callers.create_task(call(tally, keeps=number % 2 == 0, breaks=breaks))
        yield tally
        tally.over = True


@contextmanager
def kept_socket(daemon: Daemon) -> Iterator[tuple[str, int]]:
    """Keep a socket as systemd does, and start the daemon again whenever it ended."""
    activate = shutil.which("systemd-socket-activate")
    if activate is None:
        pytest.skip("needs the package systemd")
    with socket.create_server(("127.0.0.1", 0)) as free:
        place: tuple[str, int] = free.getsockname()
    command = [activate, f"--listen={place[0]}:{place[1]}", "--fdname=callback"]
    command += [f"--setenv={name}={value}" for name, value in environment().items()]
    command += ["sh", "-c", LOOP, str(daemon.folder), *SERVE, str(daemon.config), "serve"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - our own
    try:
        yield place
        (daemon.folder / "over").touch()
        os.kill(pid_of(daemon), signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
    finally:
        # The session holds the loop and the daemon, and nobody else.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def pid_of(daemon: Daemon) -> int:
    """Return the id of the newest process."""
    return int((daemon.folder / f"pid-{daemon._runs}").read_text())


async def started(daemon: Daemon) -> None:
    """Wait until the loop has started the next process and that one is ready."""
    daemon._runs += 1
    await asyncio.to_thread(exists, daemon.folder / f"log-{daemon._runs}.txt")
    await daemon.says("daemon.ready")


def exists(path: Path) -> None:
    """Wait until there is such a file."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.02)


async def knock(place: tuple[str, int]) -> None:
    """Connect once: the first connection is what starts the program."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with suppress(ConnectionRefusedError):
                _, writer = await asyncio.open_connection(*place)
                writer.close()
                return
            await asyncio.sleep(0.02)


async def recorder(stage: Stage) -> Daemon:
    """Make a daemon that only records callbacks, and opens no listener of its own for them."""
    return await stage.daemon(
        None,
        start=False,
        callback={"listen": "", "trust": "callback"},
        provider={"api_key": None},
        log={"level": "info"},
    )


async def check_ledger(daemon: Daemon, tally: Tally) -> None:
    """Assert that whatever was acknowledged is there."""
    lost = tally.acknowledged - set(await daemon.tasks())
    assert not lost, f"{len(lost)} lost of {len(tally.acknowledged)}"


async def test_five_restarts_refuse_no_callback(stage: Stage) -> None:
    """Every callback, on a new connection or a kept one, is answered with 200 and recorded once."""
    daemon = await recorder(stage)
    with kept_socket(daemon) as place:
        await knock(place)
        await started(daemon)
        async with called(place) as tally:
            for _ in range(RESTARTS):
                await tally.grow(200)
                os.kill(pid_of(daemon), signal.SIGTERM)
                await daemon.says("daemon.stopped")
                await started(daemon)
            await tally.grow(200)
        assert len(tally.acknowledged) == next(tally.numbers)
        await check_ledger(daemon, tally)
        assert {task["callbacks"] for task in (await daemon.tasks()).values()} == {1}


async def test_a_kill_refuses_no_connection(stage: Stage) -> None:
    """After `kill -9` open connections break, new ones wait, and nothing acknowledged is lost."""
    daemon = await recorder(stage)
    with kept_socket(daemon) as place:
        await knock(place)
        await started(daemon)
        async with called(place, breaks=True) as tally:
            await tally.grow(200)
            os.kill(pid_of(daemon), signal.SIGKILL)
            await started(daemon)
            await tally.grow(200)
        assert tally.broken <= CALLERS
        await check_ledger(daemon, tally)


@contextmanager
def passed(daemon: Daemon, sock: socket.socket) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the daemon once, with a socket that the test keeps."""
    daemon._runs += 1
    with (
        (daemon.folder / f"log-{daemon._runs}.txt").open("wb") as output,
        (daemon.folder / f"errors-{daemon._runs}.txt").open("wb") as errors,
        subprocess.Popen(  # noqa: S603 - our own program
            ["/bin/sh", "-c", ONCE, "sh", *SERVE, str(daemon.config), "serve"],
            stdin=sock.fileno(),
            stdout=output,
            stderr=errors,
            env=dict(environment()),
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


@pytest.mark.parametrize("listen", ["127.0.0.1:{port}", "unix:{path}"])
async def test_a_passed_socket_wins_and_stays(stage: Stage, tmp_path: Path, listen: str) -> None:
    """`callback.listen` is not opened, the log names the passed socket, its file outlives us."""
    path = tmp_path / "callback.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        listen = listen.format(port=taken.getsockname()[1], path=path)
        daemon = await stage.daemon(None, start=False, callback={"listen": listen})
        with passed(daemon, sock) as process:
            ready = await daemon.says("daemon.ready")
            assert ready["callback"] == f"unix:{path}/video-callback"
            reader, writer = await asyncio.open_unix_connection(path)
            assert await post((reader, writer), "through-a-file")
            writer.close()
            process.terminate()
            assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 0
        assert path.is_socket()


async def test_what_is_no_listener_is_said_in_one_line(stage: Stage) -> None:
    """A passed socket that cannot be listened on ends the start with exit 1, and not silently."""
    daemon = await stage.daemon(None, start=False, expect_errors=True)
    with (
        socket.socket(type=socket.SOCK_DGRAM) as sock,
        passed(daemon, sock) as process,
    ):
        assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 1
    (line,) = daemon.log("daemon.failed")
    assert "descriptor 3: expected a listening socket" in line["message"]
    assert "exception" not in line

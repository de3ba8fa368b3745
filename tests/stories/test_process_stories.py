"""The process: how it starts, what it refuses, whom it tells, how it ends."""

import asyncio
import json
import os
import pty
import re
import signal
import socket
import sqlite3  # noqa: TID251 - one story plays an intruder in the database
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from daemon import __version__
from daemon.simulator.faults import Faults, FileFault
from tests.stories.harness import TOKEN, Daemon, configure, launch, run_verb
from tests.stories.stage import Stage, success


async def begin_callback(
    daemon: Daemon, body: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a callback but for its last byte; return where the answer comes and how to end it."""
    place = urlsplit(daemon.callback)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    head = f"POST {place.path}/{TOKEN} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body[:-1])
    await writer.drain()
    await asyncio.sleep(0.2)
    return reader, writer


async def test_what_was_begun_is_answered_before_the_end(stage: Stage) -> None:
    """A callback that is on its way when SIGTERM comes gets its 200, and is there after it."""
    daemon = await stage.daemon(None)
    body = json.dumps(success("in-flight", "https://files.invalid/a.mp4")).encode()
    reader, writer = await begin_callback(daemon, body)
    daemon.process.send_signal(signal.SIGTERM)
    await daemon.says("daemon.stopping")
    # Longer than what was accepted is given to be read: it is the drain that waits for it.
    await asyncio.sleep(0.6)
    with pytest.raises(OSError, match="Cannot connect"):
        await daemon.post(b"too late")
    writer.write(body[-1:])
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()
    assert await daemon.ended() == 0
    await daemon.restart()
    assert (await daemon.task("in-flight"))["callbacks"] == 1


async def test_a_second_signal_waits_for_nothing(stage: Stage) -> None:
    """While the first SIGTERM waits for a slow sender, the second ends with exit 8 at once."""
    daemon = await stage.daemon(None)
    _, writer = await begin_callback(daemon, b"{}")
    daemon.process.send_signal(signal.SIGTERM)
    await daemon.says("daemon.stopping")
    await asyncio.sleep(0.3)
    assert daemon.process.poll() is None
    began = time.monotonic()
    assert await daemon.stop(signal.SIGINT) == 8
    assert time.monotonic() - began < 1
    writer.close()
    await daemon.restart()


async def test_an_interrupt_ends_as_politely_as_a_stop(stage: Stage) -> None:
    """Ctrl-C is exit 0, the admin socket is gone, and the last lines say so."""
    daemon = await stage.daemon(None)
    assert await daemon.stop(signal.SIGINT) == 0
    assert [line["event"] for line in daemon.log()][-2:] == ["daemon.stopping", "daemon.stopped"]
    assert not daemon.client.path.exists()
    down = await daemon.run("status")
    assert down.code == 6
    assert str(daemon.client.path) in down.errors


async def test_a_second_daemon_on_the_same_state_is_refused(stage: Stage) -> None:
    """It says whose folder it is and what to do, exits 1, and does not disturb the first."""
    daemon = await stage.daemon(None)
    second = await daemon.run("serve")
    assert second.code == 1
    (line,) = [json.loads(text) for text in second.output.splitlines() if "daemon.failed" in text]
    assert line["level"] == "error"
    assert str(daemon.folder / "state") in line["message"]
    assert "another daemon" in line["message"]
    assert "Traceback" not in second.output + second.errors
    assert (await daemon.run("status")).code == 0
    assert (await daemon.post(success("undisturbed", "https://files.invalid/a"))).status == 200


async def test_a_damaged_database_is_refused_with_the_way_out(stage: Stage) -> None:
    """Bytes that are no database end the start with exit 1 and the file's name, and stay there."""
    daemon = await stage.daemon(None, expect_errors=True)
    assert await daemon.stop() == 0
    ledger = daemon.folder / "state" / "ledger.sqlite3"
    damaged = b"\xff" * ledger.stat().st_size
    ledger.write_bytes(damaged)
    daemon.spawn()
    assert await daemon.ended() == 1
    (line,) = daemon.log("daemon.failed")
    assert str(ledger) in line["message"]
    assert "exception" not in line
    assert ledger.read_bytes() == damaged


async def test_nothing_is_acknowledged_that_was_not_committed(stage: Stage) -> None:
    """While the database cannot be written a callback is 503, and 200 when it can again."""
    daemon = await stage.daemon(None, expect_errors=True, provider={"api_key": None})
    intruder = sqlite3.connect(daemon.folder / "state" / "ledger.sqlite3", isolation_level=None)
    try:
        intruder.execute("BEGIN IMMEDIATE")
        body = success("not-yet", "http://127.0.0.1:9/film.mp4")
        assert (await daemon.post(body)).status == 503
        assert await daemon.tasks() == {}
    finally:
        intruder.close()
    assert (await daemon.post(body)).status == 200
    # What was not acknowledged in time may be stored all the same, and the second call is counted.
    assert (await daemon.task("not-yet"))["callbacks"] in {1, 2}


async def test_a_taken_port_is_said_in_one_line(stage: Stage) -> None:
    """When the callback address is in use, the daemon names it and exits 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = await stage.daemon(
            None, start=False, expect_errors=True, callback={"listen": address}
        )
        daemon.spawn()
        assert await daemon.ended() == 1
    (line,) = daemon.log("daemon.failed")
    assert address in line["message"]
    assert "exception" not in line


def test_all_mistakes_of_a_configuration_are_told_at_once(tmp_path: Path) -> None:
    """`serve` with a bad file is exit 3, with key path, line and suggestion for every mistake."""
    path = tmp_path / "config.toml"
    path.write_text(
        '[callback]\nlisten = "nowhere"\ntokns = ["x"]\n\n[poll]\ninterval = 30\n\n'
        '[download]\nconcurrency = 0\nallow_private = ["10.0.0.0/33"]\n\n[prvider]\nkind = "suno"\n'
    )
    for verb in (["serve"], ["config", "check"], ["status"], ["callback-url"]):
        ended = run_verb("-c", str(path), *verb, SUNO_VIDEOD_DISK__MIN_FREE="lots")
        assert (ended.code, ended.output) == (3, ""), verb
        lines = ended.errors.splitlines()
        for number, key in (
            (2, "callback.listen"),
            (3, "callback.tokns"),
            (6, "poll.interval"),
            (9, "download.concurrency"),
            (10, "download.allow_private"),
            (12, "prvider"),
        ):
            assert any(line.startswith(f"{path}:{number}: {key}") for line in lines), (number, key)
        assert any("callback.tokens" in line for line in lines)
        assert any("SUNO_VIDEOD_DISK__MIN_FREE" in line for line in lines)
        assert not (tmp_path / "state").exists()


@contextmanager
def notify_socket(place: Path) -> Iterator[socket.socket]:
    """Listen where systemd would."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(place))
        listener.settimeout(10)
        yield listener


async def test_systemd_is_told_how_it_stands(stage: Stage, tmp_path: Path) -> None:
    """READY comes with the open doors, STATUS counts, WATCHDOG beats, STOPPING comes first."""
    daemon = await stage.daemon(None, start=False)
    place = tmp_path / "notify"
    with notify_socket(place) as listener:
        daemon.spawn(NOTIFY_SOCKET=str(place), WATCHDOG_USEC="600000")
        first = await asyncio.to_thread(listener.recv, 4096)
        assert first == b"READY=1"
        await daemon.says("daemon.ready")
        await daemon.track("counted")
        began, beats, counted = time.monotonic(), 0, False
        while beats < 4 or not counted:
            told = (await asyncio.to_thread(listener.recv, 4096)).decode().splitlines()
            beats += "WATCHDOG=1" in told
            counted |= "STATUS=1 expected" in told
        assert time.monotonic() - began < 0.6 * beats + 1
        daemon.process.send_signal(signal.SIGTERM)
        told = []
        while "STOPPING=1" not in told:
            told = (await asyncio.to_thread(listener.recv, 4096)).decode().splitlines()
        assert await daemon.ended() == 0


def read_terminal(descriptor: int, end: bytes, seconds: float = 20) -> str:
    """Read what a program writes to its terminal until `end` has come."""
    text, until = b"", time.monotonic() + seconds
    while end not in text or not text.endswith(b"\n"):
        assert time.monotonic() < until, text
        with suppress(BlockingIOError):
            text += os.read(descriptor, 65_536)
        time.sleep(0.02)
    return text.decode()


def test_the_log_is_for_people_on_a_terminal_and_json_in_a_pipe(tmp_path: Path) -> None:
    """On a terminal the log is coloured text, elsewhere one JSON object a line, in one order."""
    (tmp_path / "config.toml").write_text(configure("http://127.0.0.1:9"))
    command = ("-c", str(tmp_path / "config.toml"), "serve")
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    on_terminal = launch(*command, stdin=theirs, stdout=theirs, stderr=theirs)
    try:
        text = read_terminal(ours, __version__.encode())
    finally:
        on_terminal.terminate()
        assert on_terminal.wait(20) == 0
        os.close(ours)
        os.close(theirs)
    assert "\x1b[" in text
    (ready,) = [line for line in text.splitlines() if "daemon.ready" in line]
    assert not ready.startswith("{")
    assert "127.0.0.1" in re.sub(r"\x1b\[[0-9;]*m", "", ready)
    in_pipe = launch(*command, stdout=subprocess.PIPE, text=True)
    try:
        assert in_pipe.stdout is not None
        lines = [json.loads(in_pipe.stdout.readline()) for _ in range(1)]
        while lines[-1]["event"] != "daemon.ready":
            lines.append(json.loads(in_pipe.stdout.readline()))
    finally:
        in_pipe.terminate()
        rest, _ = in_pipe.communicate(timeout=20)
    lines += [json.loads(line) for line in rest.splitlines()]
    assert all(list(line)[:3] == ["timestamp", "level", "event"] for line in lines)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\S+Z", line["timestamp"]) for line in lines)


async def test_the_state_is_for_the_daemon_alone(stage: Stage) -> None:
    """Database, token and lock are 0600, videos readable by the group, the admin socket 0600."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, callback={"tokens": None})
    task_id = provider.add_task(Faults(callbacks=()))
    await daemon.track(task_id)
    await daemon.until(task_id)
    state = daemon.folder / "state"
    names = {path.name for path in state.iterdir()}
    assert {"ledger.sqlite3", "callback-token", "lock", "admin.sock"} <= names
    for path in state.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    (film,) = daemon.videos.glob("*.mp4")
    assert film.stat().st_mode & 0o777 == 0o640
    assert daemon.videos.stat().st_mode & 0o777 == 0o750


async def test_the_generated_token_stays_the_same(stage: Stage) -> None:
    """Without `callback.tokens` one is made at the first start and kept for ever."""
    daemon = await stage.daemon(None, callback={"tokens": None})
    first = await daemon.run("callback-url")
    assert first.code == 0
    url = first.output.strip()
    token = url.rpartition("/")[2]
    assert len(token) >= 32
    assert (await daemon.post(success("a", "https://files.invalid/a"), token=token)).status == 200
    assert await daemon.stop() == 0
    await daemon.restart()
    assert (await daemon.run("callback-url")).output == first.output
    assert (await daemon.post(success("b", "https://files.invalid/b"), token=token)).status == 200
    assert token not in "".join(path.read_text() for path in daemon.folder.glob("*-*.txt"))


async def test_a_full_disk_parks_downloads_and_not_callbacks(stage: Stage) -> None:
    """Below `disk.min_free` nothing is fetched, everything is recorded, and the gate says why."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, disk={"min_free": "1000T"})
    tasks = {provider.add_task(callback_url=daemon.url) for _ in range(3)}
    await daemon.until_all(tasks, "wanted")
    closed = await daemon.says("gate.closed", gate="disk")
    assert "disk.min_free" in closed["reason"]
    (gate,) = (await daemon.get("/v1/status"))["gates"]
    assert gate["name"] == "disk"
    assert await daemon.stop() == 0
    assert len(daemon.log("gate.closed")) == 1
    assert len(daemon.log("download.failed")) <= 4
    daemon.config.write_text(configure(provider.base_url))
    await daemon.restart()
    await daemon.until_all(tasks)


async def test_health_is_told_to_everybody_and_nothing_else(stage: Stage) -> None:
    """/healthz and /readyz are 200 while it works, gates shut or not; /readyz is 503 at the end."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, disk={"min_free": "1000T"})
    provider.add_task(Faults(files=(FileFault(),)), callback_url=daemon.url)
    await daemon.says("gate.closed", gate="disk")
    for path in ("/healthz", "/readyz"):
        assert await daemon.get(path) == {"status": "ok"}
    reader, writer = await asyncio.open_unix_connection(daemon.client.path)
    statuses = []
    daemon.process.send_signal(signal.SIGTERM)
    with suppress(OSError, asyncio.IncompleteReadError):
        while True:
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = re.findall(rb"Content-Length: (\d+)", head)
            await reader.readexactly(int(length))
            statuses.append(int(head.split(b" ")[1]))
    writer.close()
    assert statuses[-1] == 503
    assert await daemon.ended() == 0

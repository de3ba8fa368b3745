"""Sends a thousand callbacks at once to a daemon on a slow disk, among visitors who mean no good.

Rule: every callback that was answered with 200 is in the ledger after a kill, a body that cannot be
read is in quarantine, and everybody hears in time. Every sync of the disk is made to last longer by
strace; the visitors dribble headers, dribble bodies, say nothing, send too much, guess tokens and
hang up in mid-body.

    python -m tests.campaigns.storm --size 1000 --seed 1
"""

import asyncio
import json
import random
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from daemon.callback import BATCH_LIMIT
from daemon.config import environment
from tests.campaigns.callers import CALLBACKS_ALONE, check_acknowledged
from tests.campaigns.campaign import PromiseBroken, command
from tests.stories.harness import PATIENCE_SECONDS, TOKEN, Daemon, configure
from tests.stories.stage import failure

DELAYS_MS: Final = (0, 20, 100, 500)
AGAIN: Final = 0.1
"""The share of callbacks that are sent twice."""
UNREADABLE: Final = 0.05
LORIS: Final = 200
TOO_LARGE: Final = 20
GUESSES: Final = 40
CUT_OFF: Final = 40
BODY_BYTES: Final = 1 << 20
MOST_SECONDS: Final = 10.0
"""The longest that anybody may wait; the provider hangs up after 15."""
LATE_SECONDS: Final = {20: 1.0, 100: 1.0}
"""Milliseconds of delay -> how much longer than on a quick disk 99 of 100 callers may wait."""
MOST_BYTES: Final = 300 << 20
GROWTH_BYTES: Final = 60 << 20
"""How much more memory may be held afterwards than before: SQLite's page cache and the heap's."""


class SlowDaemon(Daemon):
    """A daemon whose syncs last `delay_ms` longer. strace is its child, and ends with it."""

    delay_ms = 0

    def count_syncs(self) -> int:
        """Return how many syncs of the newest process were made slow."""
        trace = self._file("trace")
        return trace.read_text().count("(DELAYED)") if trace.exists() else 0

    def errors(self) -> str:  # type: ignore[explicit-override] # typing.override begins with 3.12
        """Return what all processes wrote to standard error; strace is startled by a kill."""
        lines = super().errors().splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith(f"{shutil.which('strace')}:"))

    def spawn(self, **environ: str) -> None:  # type: ignore[explicit-override] # likewise
        """Start a process and return at once."""
        if self.delay_ms == 0:
            super().spawn(**environ)
            return
        self._runs += 1
        strace = shutil.which("strace")
        assert strace is not None, "needs the package strace"
        # With --seccomp-bpf nothing but the syncs stops, and with -D the daemon is our own child.
        command = [strace, "-D", "-f", "-qqq", "--seccomp-bpf", "-o", str(self._file("trace"))]
        command += ["-e", "trace=fsync,fdatasync"]
        command += ["-e", f"inject=fsync,fdatasync:delay_exit={self.delay_ms * 1000}"]
        command += [sys.executable, "-m", "daemon", "-c", str(self.config), "serve"]
        with self._file("log").open("wb") as output, self._file("errors").open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**environment(), **environ},
            )


@dataclass(slots=True)
class Wave:
    """What one storm brought."""

    delay_ms: int
    seconds: list[float] = field(default_factory=list)
    """How long each caller waited who was answered with 200."""
    statuses: Counter[int] = field(default_factory=Counter)
    """The answers to callbacks of the right token."""
    strangers: Counter[int] = field(default_factory=Counter)
    """The answers to everybody else; 0 is none."""
    delayed: int = 0
    """Syncs that were made slow."""
    peak_bytes: int = 0
    grown_bytes: int = 0

    def quantile(self, share: float) -> float:
        """Return what this share of the callers waited at most."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(slots=True)
class Tally:
    """What was sent, and how it was answered."""

    waves: list[Wave] = field(default_factory=list)
    acknowledged: Counter[str] = field(default_factory=Counter)
    """How many callbacks of each task were answered with 200."""
    unreadable: set[str] = field(default_factory=set)
    """Bodies that cannot be read and were answered with 200."""
    cut_off: int = 0
    """Callbacks that got no answer because the daemon was killed."""


async def run_campaign(
    folder: Path, size: int, seed: int, delays_ms: Sequence[int] = DELAYS_MS
) -> Tally:
    """Let a storm of `size` callbacks blow at each delay.

    Raises:
        PromiseBroken: with the seed that shows it.
    """
    luck, tally = random.Random(seed), Tally()
    daemon = SlowDaemon(
        folder, configure("http://127.0.0.1:9", **CALLBACKS_ALONE), expect_errors=True
    )
    try:
        for delay_ms in delays_ms:
            daemon.delay_ms = delay_ms
            await asyncio.to_thread(daemon.start)
            # What is loaded and opened once by the first callback is no leak.
            await _blow(daemon, Wave(0), _bodies(f"first-{delay_ms}", 20, luck), tally)
            wave = await _storm(daemon, delay_ms, size, luck, tally)
            await _kill_in_a_storm(daemon, delay_ms, size, luck, tally)
            daemon.delay_ms = 0
            await asyncio.to_thread(daemon.start)
            await _check(daemon, tally)
            await asyncio.to_thread(daemon.kill)
            _judge(wave, tally)
    except PromiseBroken as broken:
        raise PromiseBroken(f"seed {seed}: {broken}") from broken
    finally:
        await asyncio.to_thread(daemon.end)
    return tally


async def _storm(
    daemon: SlowDaemon, delay_ms: int, size: int, luck: random.Random, tally: Tally
) -> Wave:
    """One wave with all its strangers, and what it leaves behind."""
    wave = Wave(delay_ms)
    synced_before = daemon.count_syncs()
    held, open_before = _memory(daemon, "VmRSS"), _descriptors(daemon)
    async with _loris(daemon):
        strangers = asyncio.create_task(_send_strangers(daemon, wave))
        try:
            await _blow(daemon, wave, _bodies(f"wave-{delay_ms}", size, luck), tally)
            await strangers
        finally:
            strangers.cancel()
    wave.peak_bytes = _memory(daemon, "VmHWM")
    until = time.monotonic() + PATIENCE_SECONDS
    while (left := _descriptors(daemon)) > open_before:
        if time.monotonic() > until:
            raise PromiseBroken(f"{left} descriptors are open, {open_before} were before")
        await asyncio.sleep(0.1)
    wave.grown_bytes = _memory(daemon, "VmRSS") - held
    wave.delayed = daemon.count_syncs() - synced_before
    tally.waves.append(wave)
    return wave


def _judge(wave: Wave, tally: Tally) -> None:
    longest, late = max(wave.seconds), wave.quantile(0.99)
    told = f"+{wave.delay_ms} ms: {dict(wave.statuses)}, p99 {late:.2f} s, longest {longest:.2f} s"
    if wave.statuses.keys() != {200}:
        raise PromiseBroken(f"{told}: a callback of the right token was not acknowledged")
    if longest > MOST_SECONDS:
        raise PromiseBroken(f"{told}: somebody waited too long")
    quick = next((other.quantile(0.99) for other in tally.waves if other.delay_ms == 0), 0.0)
    shared = 4 + 2 * len(wave.seconds) // BATCH_LIMIT
    # A busy machine is slow without any disk: the daemon is to blame when syncs are not shared.
    if late - quick > LATE_SECONDS.get(wave.delay_ms, MOST_SECONDS) and wave.delayed > shared:
        raise PromiseBroken(
            f"{told}, {quick:.2f} s on a quick disk: {wave.delayed} syncs where {shared} would do"
        )
    if wave.peak_bytes > MOST_BYTES or wave.grown_bytes > GROWTH_BYTES:
        raise PromiseBroken(
            f"{wave.peak_bytes >> 20} MiB at most, {wave.grown_bytes >> 20} MiB more afterwards"
        )
    if (
        not wave.strangers.keys() <= {0, 404, 413, 429}
        or not {404, 413, 429} <= wave.strangers.keys()
    ):
        raise PromiseBroken(f"strangers were answered with {dict(wave.strangers)}")


def _bodies(name: str, count: int, luck: random.Random) -> list[tuple[str | None, bytes]]:
    """Return (task id or None, body) of callbacks in a random order."""
    found: list[tuple[str | None, bytes]] = []
    for number in range(count):
        task_id = f"{name}-{luck.getrandbits(64):016x}"
        if luck.random() < UNREADABLE:
            found.append((None, f'{{"code": 200, "data": {number}, "odd": "{task_id}'.encode()))
            continue
        body = json.dumps(failure(task_id)).encode()
        found += [(task_id, body)] * (2 if luck.random() < AGAIN else 1)
    luck.shuffle(found)
    return found


async def _blow(
    daemon: Daemon, wave: Wave, bodies: Sequence[tuple[str | None, bytes]], tally: Tally
) -> None:
    """Send all at once, each on a connection of its own."""

    async def call(task_id: str | None, body: bytes) -> None:
        began = time.monotonic()
        try:
            status = await _post(daemon, TOKEN, body)
        except (OSError, asyncio.IncompleteReadError):
            tally.cut_off += 1
            return
        wave.statuses[status] += 1
        if status != 200:
            return
        wave.seconds.append(time.monotonic() - began)
        if task_id is None:
            tally.unreadable.add(body.decode())
        else:
            tally.acknowledged[task_id] += 1

    await asyncio.gather(*(call(*one) for one in bodies))


async def _kill_in_a_storm(
    daemon: SlowDaemon, delay_ms: int, size: int, luck: random.Random, tally: Tally
) -> None:
    """Kill the daemon when a third of a second wave is answered."""
    wave = Wave(delay_ms)
    bodies = _bodies(f"last-{delay_ms}", size, luck)
    blowing = asyncio.create_task(_blow(daemon, wave, bodies, tally))
    until = time.monotonic() + PATIENCE_SECONDS
    while wave.statuses.total() < len(bodies) // 3 and not blowing.done():
        if time.monotonic() > until:
            raise PromiseBroken("a third of a wave was not answered")
        await asyncio.sleep(0.001)
    await asyncio.to_thread(daemon.kill)
    await blowing


async def _check(daemon: Daemon, tally: Tally) -> None:
    """Compare what the daemon knows with what it acknowledged."""
    check_acknowledged(await daemon.tasks(), tally.acknowledged)
    held = await asyncio.to_thread(lambda: list(daemon.client.quarantine()))
    missing = tally.unreadable - {one["body"] for one in held}
    if missing:
        raise PromiseBroken(f"acknowledged and not in quarantine: {len(missing)}")


async def _send_strangers(daemon: Daemon, wave: Wave) -> None:
    """Send what is too large, what has a wrong token, and what breaks off."""

    async def send(token: str, body: bytes) -> None:
        try:
            wave.strangers[await _post(daemon, token, body)] += 1
        except (OSError, asyncio.IncompleteReadError):
            wave.strangers[0] += 1

    await asyncio.gather(
        *(send(TOKEN, b"x" * BODY_BYTES) for _ in range(TOO_LARGE)),
        *(send(f"guess-{number}", b"{}") for number in range(GUESSES)),
        *(_break_off(daemon) for _ in range(CUT_OFF)),
    )


async def _connect(daemon: Daemon) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    place = urlsplit(daemon.callback)
    return await asyncio.open_connection(place.hostname, place.port)


def _head(daemon: Daemon, token: str, length: int) -> bytes:
    path = f"{urlsplit(daemon.callback).path}/{token}"
    return f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n".encode()


async def _post(daemon: Daemon, token: str, body: bytes) -> int:
    """Send one callback on a connection of its own; return the status."""
    reader, writer = await _connect(daemon)
    try:
        writer.write(_head(daemon, token, len(body)) + body)
        return int((await reader.readuntil(b"\r\n")).split(b" ")[1])
    finally:
        writer.transport.abort()


async def _break_off(daemon: Daemon) -> None:
    """Hang up in mid-body, with a reset."""
    _, writer = await _connect(daemon)
    writer.write(_head(daemon, TOKEN, 500) + b"{" * 100)
    await writer.drain()
    door = writer.get_extra_info("socket")
    door.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def _loris(daemon: Daemon) -> AsyncIterator[None]:
    """Hold connections open and say next to nothing on them."""
    head = _head(daemon, TOKEN, 500)
    visitors = [
        asyncio.create_task(_dribble(daemon, begins, goes_on))
        for begins, goes_on in [
            (head[:10], head[10:] * 99),
            (head, b"{" * 499),
            (b"", b""),
        ]
        for _ in range(LORIS // 3)
    ]
    try:
        yield
    finally:
        for visitor in visitors:
            visitor.cancel()
        await asyncio.gather(*visitors, return_exceptions=True)


async def _dribble(daemon: Daemon, begins: bytes, goes_on: bytes) -> None:
    while True:
        _, writer = await _connect(daemon)
        try:
            writer.write(begins)
            for byte in goes_on:
                await asyncio.sleep(0.2)
                writer.write(bytes([byte]))
                await writer.drain()
            await asyncio.sleep(PATIENCE_SECONDS)
        except OSError:
            # The daemon lost its patience: once more.
            await asyncio.sleep(0.1)
        finally:
            writer.transport.abort()


def _memory(daemon: Daemon, name: str) -> int:
    """Return a figure of /proc/PID/status in bytes."""
    text = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0]) << 10


def _descriptors(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))


def _tell(tally: Tally) -> str:
    lines = [
        f"+{wave.delay_ms} ms: {len(wave.seconds)} answered, p50 {wave.quantile(0.5):.2f} s, "
        f"p99 {wave.quantile(0.99):.2f} s, longest {max(wave.seconds):.2f} s, "
        f"{wave.delayed} syncs delayed, {wave.peak_bytes >> 20} MiB at most and "
        f"{wave.grown_bytes >> 20} MiB more afterwards, "
        f"strangers {dict(sorted(wave.strangers.items()))}"
        for wave in tally.waves
    ]
    return "\n".join(
        [
            *lines,
            (
                f"{tally.acknowledged.total()} callbacks acknowledged, {len(tally.unreadable)} "
                f"bodies in quarantine, {tally.cut_off} cut off by kills, nothing lost"
            ),
        ]
    )


if __name__ == "__main__":
    command(run_campaign, _tell, size=1000, unit="callbacks a wave")()

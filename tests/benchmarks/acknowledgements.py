"""How many callbacks a second are acknowledged durably, beside a handler that stores nothing.

Rule: no figure is compared across machines or days. Both servers are measured in one run, turn and
turn about, by the same callers, and only the ratio of the medians is worth keeping.
"""

import asyncio
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Final
from urllib.parse import urlsplit

import click

from tests.stories.harness import TOKEN, Daemon, configure
from tests.stories.stage import failure

CONNECTIONS: Final = 32
ROUNDS: Final = 3
SECONDS: Final = 4.0
WARM_UP_SECONDS: Final = 1.0
RECEIVED: Final = b'{"status":"received"}'

_numbers = count()


@dataclass(frozen=True, slots=True)
class Measured:
    """One round against one server."""

    per_second: float
    p99_ms: float


async def call(host: str, port: int, head: str, latencies: list[float]) -> None:
    """Send callbacks on one connection, each when the last one is acknowledged, until cancelled."""
    loop = asyncio.get_running_loop()
    with socket.create_connection((host, port)) as connection:
        connection.settimeout(0)
        while True:
            body = json.dumps(failure(f"bench-{next(_numbers)}")).encode()
            began, heard = time.perf_counter(), b""
            await loop.sock_sendall(connection, f"{head}{len(body)}\r\n\r\n".encode() + body)
            while not heard.endswith(RECEIVED):
                heard += await loop.sock_recv(connection, 4096)
            assert heard.startswith(b"HTTP/1.1 200 ")
            latencies.append(time.perf_counter() - began)


async def measure(url: str, seconds: float) -> Measured:
    """Call `url` on all connections for some seconds."""
    parts, latencies = urlsplit(url), list[float]()
    assert parts.hostname
    assert parts.port
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        "Content-Type: application/json\r\nContent-Length: "
    )
    began = time.perf_counter()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as callers:
            for _ in range(CONNECTIONS):
                callers.create_task(call(parts.hostname, parts.port, head, latencies))
    took = time.perf_counter() - began
    return Measured(len(latencies) / took, quantiles(latencies, n=100)[98] * 1000)


@contextmanager
def our_daemon(folder: Path) -> Iterator[str]:
    """Run the daemon with the default log; yield its callback URL."""
    settings = configure(
        "http://127.0.0.1:9",
        callback={"trust": "callback"},
        provider={"api_key": None},
        log={"level": "info"},
    )
    daemon = Daemon(folder, settings)
    try:
        daemon.start()
        yield daemon.url
    finally:
        daemon.end()


@contextmanager
def forgetful_peer() -> Iterator[str]:
    """Run the handler that stores nothing; yield its callback URL."""
    command = [sys.executable, "-um", "tests.benchmarks.forgetful"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own
        try:
            assert process.stdout is not None
            found = re.search(r"http://[0-9.:]+", process.stdout.readline())
            assert found
            yield f"{found[0]}/video-callback/{TOKEN}"
        finally:
            process.terminate()


async def compare(ours: str, peer: str) -> tuple[list[Measured], list[Measured]]:
    """Measure both, turn and turn about, after a warm-up."""
    rounds: tuple[list[Measured], list[Measured]] = ([], [])
    for url in (ours, peer):
        await measure(url, WARM_UP_SECONDS)
    for _ in range(ROUNDS):
        for url, found in zip((ours, peer), rounds, strict=True):
            found.append(await measure(url, SECONDS))
    return rounds


def row(what: str, ours: Iterable[float], peer: Iterable[float]) -> str:
    """Return a line of the table."""
    left, right = median(ours), median(peer)
    return f"| {what} | {left:,.1f} | {right:,.1f} | {left / right:.2f} |"


def main() -> None:
    """Print the table."""
    with (
        tempfile.TemporaryDirectory(prefix="suno-videod-bench-") as folder,
        our_daemon(Path(folder)) as ours,
        forgetful_peer() as peer,
    ):
        mine, theirs = asyncio.run(compare(ours, peer))
    click.echo(
        f'{CONNECTIONS} connections, unique tasks, callback.trust = "callback"; the peer is a bare '
        f"aiohttp handler that stores nothing; medians of {ROUNDS} alternating rounds\n"
    )
    click.echo("| what | ours | peer | ratio |\n| --- | --- | --- | --- |")
    click.echo(
        row(
            "durable acknowledgements a second",
            (found.per_second for found in mine),
            (found.per_second for found in theirs),
        )
    )
    click.echo(
        row(
            "99th percentile, ms",
            (found.p99_ms for found in mine),
            (found.p99_ms for found in theirs),
        )
    )


if __name__ == "__main__":
    main()

"""Row `flood`: callbacks as fast as they are taken, each with a small film behind it.

Rule: the clock stops when the last of all films has its final name, or after a minute; aria2 is
given the list of the same links at once, with as many connections, and ends with a sync of its
folder. One round each: it lasts long enough.
"""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.caller import call, successes
from tests.benchmarks.fetchers import Shelf
from tests.benchmarks.filehost import MIB, file_host
from tests.benchmarks.ours import fetch, our_daemon
from tests.benchmarks.programs import lacks
from tests.benchmarks.table import Goal, Row, compare, judge
from tests.benchmarks.usage import memory_bytes
from tests.stories.harness import Daemon

FILMS: Final = 10_000
SIZE_BYTES: Final = 64 << 10
AT_ONCE: Final = 16
CONNECTIONS: Final = 32
"""That bring the callbacks."""
LONGEST_SECONDS: Final = 60.0
"""Whoever is not ready by then is measured by what is stored."""
WARM_UP: Final = 50
MOST_MEMORY: Final = Goal("<=", 128.0, "MiB")


def run(folder: Path, size: int = FILMS) -> Iterator[Row]:
    """Let `size` films come at once, to us and to aria2."""
    shelf, theirs = Shelf(folder / "shelf"), 0.0
    with (
        file_host(folder) as host,
        our_daemon(folder / "ours", download={"concurrency": AT_ONCE}) as daemon,
    ):
        film = host.film(SIZE_BYTES)
        links = [f"{host.http}/many/{number}/{film}" for number in range(size)]
        fetch(daemon, {f"warm-up-{number}": f"{links[0]}?{number}" for number in range(WARM_UP)})
        pid = daemon.process.pid
        before = memory_bytes(pid) / MIB
        acknowledged, stored, seconds = _pour(daemon, links)
        after = memory_bytes(pid) / MIB
        missing = lacks("aria2c", what=f"{size:,} films at once, against aria2")
        if missing is None:
            theirs = shelf.aria2_all(links, AT_ONCE)
        if stored < size:
            daemon.kill()
    told = f"{size:,} callbacks with films of {SIZE_BYTES >> 10} KiB"
    yield judge(f'{told}: all acknowledged, trust = "callback"', [acknowledged], "s")
    if missing is not None:
        yield missing
    else:
        what = f"{told}: {stored:,} stored in {seconds:.1f} s, {size:,} by aria2 in {theirs:.1f} s"
        ours, goal = stored / seconds, Goal(">=", 1.0)
        yield compare(what, [ours], [size / theirs], "/s", f"aria2 -j{AT_ONCE}", goal)
    yield judge(
        f"the daemon's peak memory then ({before:.0f} MiB before)", [after], "MiB", MOST_MEMORY
    )


def _pour(daemon: Daemon, links: Sequence[str]) -> tuple[float, int, float]:
    """Return the seconds until all are acknowledged; how many were stored, and in what time."""
    requests = successes(
        daemon.url, [(f"flood-{number}", link) for number, link in enumerate(links)]
    )
    there, stored = _count(daemon.videos), 0
    os.sync()
    began = time.perf_counter()
    call(daemon.url, requests, CONNECTIONS)
    acknowledged = took = time.perf_counter() - began
    while stored < len(links) and took < LONGEST_SECONDS:
        # Counting takes time from whom it watches: rarely while many are missing.
        time.sleep(min(0.5, 0.01 + (len(links) - stored) / 10_000))
        stored, took = _count(daemon.videos) - there, time.perf_counter() - began
    return acknowledged, stored, took


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*.mp4"))

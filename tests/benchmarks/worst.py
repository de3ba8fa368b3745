"""Row `worst`: how long an acknowledgement takes while 32 downloads saturate disk and processor.

Rule: the downloads go on from before the first callback to after the last one, and how much they
moved meanwhile is told; a machine that was not busy would prove nothing. Callbacks come at a
steady pace, as they do from a provider. Then the same with every sync of the disk 500 ms longer.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.benchmarks.caller import Heard, WrongAnswer, call, failures, successes
from tests.benchmarks.filehost import MIB, file_host
from tests.benchmarks.ours import our_daemon
from tests.benchmarks.programs import lacks
from tests.benchmarks.table import Goal, Row, judge
from tests.stories.harness import Daemon

DOWNLOADS: Final = 32
SIZE_BYTES: Final = 64 * MIB
QUEUED: Final = 200
"""Films that are ready to be fetched: more than any machine fetches in that time."""
SECONDS: Final = 10.0
CONNECTIONS: Final = 8
PAUSE_SECONDS: Final = 0.02
"""Between two callbacks of a connection: some hundred callbacks a second in all."""
SLOW_MS: Final = 500
FAR_MS: Final = 1_000.0


def run(folder: Path) -> Iterator[Row]:
    """Measure on this disk, then on one that is slow to sync, at rest and at work."""
    with file_host(folder) as host:
        link = f"{host.http}/{host.film(SIZE_BYTES)}"
        heard, moved = _storm(folder / "quick", link, 0, QUEUED)
        what = f"acknowledgement while {DOWNLOADS} downloads move {moved:,.0f} MiB/s"
        yield judge(f"{what}: p99", [heard.p99_ms], "ms", Goal("<=", 100.0, "ms"))
        yield judge(f"{what}: longest", [_longest(heard)], "ms", Goal("<=", FAR_MS, "ms"))
        goal, what = (
            Goal("<=", 5 * FAR_MS, "ms"),
            f"acknowledgement, every sync {SLOW_MS} ms longer",
        )
        missing = lacks("strace", what=what)
        if missing is not None:
            yield missing
            return
        heard, _ = _storm(folder / "slow", link, SLOW_MS, 0)
        yield judge(f"{what}: longest", [_longest(heard)], "ms", goal)
        what = f"{what}, and {DOWNLOADS} downloads: longest"
        try:
            heard, _ = _storm(folder / "both", link, SLOW_MS, QUEUED)
        except WrongAnswer as wrong:
            said = str(wrong).partition("\r")[0]
            yield Row(what, goal=str(goal), met=f"**no**: {said}")
            return
        yield judge(what, [_longest(heard)], "ms", goal)


def _longest(heard: Heard) -> float:
    return max(heard.waits) * 1000


def _storm(folder: Path, link: str, delay_ms: int, films: int) -> tuple[Heard, float]:
    """Return what callers met, and how many MiB a second were fetched meanwhile."""
    section = {"concurrency": DOWNLOADS}
    with our_daemon(folder, delay_ms=delay_ms, download=section) as daemon:
        try:
            wanted = [(f"film-{number}", f"{link}?{number}") for number in range(films)]
            if wanted:
                # At once: on a slow disk later ones would wait for the first downloads.
                call(daemon.url, successes(daemon.url, wanted), films)
            count = int(SECONDS * CONNECTIONS / PAUSE_SECONDS)
            requests = failures(daemon.url, "worst", count)
            with _taken_away(daemon) as taken:
                heard = call(
                    daemon.url, requests, CONNECTIONS, SECONDS, pause_seconds=PAUSE_SECONDS
                )
                moved = sum(taken) + _partial_bytes(daemon)
        finally:
            # Hundreds of films are still to be fetched, for nobody.
            daemon.kill()
    assert moved or not films, "nothing was fetched"
    assert not films or sum(taken) < films * SIZE_BYTES, "the downloads ended too early"
    return heard, moved / MIB / heard.seconds


@contextmanager
def _taken_away(daemon: Daemon) -> Iterator[list[int]]:
    """Take finished films away, so that no disk fills up; yield their sizes."""
    taken, over = list[int](), threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            for path in daemon.videos.glob("*.mp4"):
                taken.append(path.stat().st_size)
                path.unlink()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield taken
    finally:
        over.set()
        looking.join()


def _partial_bytes(daemon: Daemon) -> int:
    total = 0
    for path in daemon.videos.glob(".partial/*"):
        # It may be published at this moment.
        with suppress(FileNotFoundError):
            total += path.stat().st_blocks * 512
    return total

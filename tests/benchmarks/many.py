"""Row `many`: 32 files of 64 MB at once, and how much memory the daemon needs for them.

Rule: all have as many connections as files; the peers end with a sync of all that they wrote.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.benchmarks.fetchers import Shelf
from tests.benchmarks.filehost import MIB, file_host
from tests.benchmarks.ours import fetch, our_daemon
from tests.benchmarks.programs import lacks
from tests.benchmarks.table import Goal, Row, compare, judge
from tests.benchmarks.usage import memory_bytes

FILES: Final = 32
SIZE_BYTES: Final = 64 * MIB
ROUNDS: Final = 3
MOST_MEMORY_MIB: Final = 128.0


def run(folder: Path) -> Iterator[Row]:
    """Fetch them all, everybody in turn."""
    what, shelf = f"{FILES} files of {SIZE_BYTES // MIB} MB at once", Shelf(folder / "shelf")
    took: dict[str, list[float]] = defaultdict(list)
    with (
        file_host(folder) as host,
        our_daemon(folder / "ours", download={"concurrency": FILES}) as daemon,
    ):
        film = host.film(SIZE_BYTES)
        links = [f"{host.http}/many/{number}/{film}" for number in range(FILES)]
        peers: dict[str, Callable[[], float]] = {
            f"curl -Z --parallel-max {FILES}": lambda: shelf.curl_all(links, FILES),
            f"aria2 -j{FILES}": lambda: shelf.aria2_all(links, FILES),
        }
        for name, program in zip(tuple(peers), ("curl", "aria2c"), strict=True):
            missing = lacks(program, what=f"{what}, against {name}")
            if missing is not None:
                del peers[name]
                yield missing
        for turn in range(ROUNDS):
            wanted = {f"many-{turn}-{number}": link for number, link in enumerate(links)}
            took["ours"].append(fetch(daemon, wanted))
            for name, peer in peers.items():
                took[name].append(peer())
        peak = memory_bytes(daemon.process.pid) / MIB
    for name in peers:
        yield compare(what, took["ours"], took[name], "s", name, Goal("<=", 1.0))
    yield judge("the daemon's peak memory then", [peak], "MiB", Goal("<=", MOST_MEMORY_MIB, "MiB"))

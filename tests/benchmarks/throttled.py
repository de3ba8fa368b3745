"""Row `throttled`: a host that limits each connection, and one that refuses a second one.

Rule: the host limits in the same way whoever asks, and aria2 has as many connections as we may.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.benchmarks.fetchers import Shelf
from tests.benchmarks.filehost import MIB, SLOW_BYTES, file_host
from tests.benchmarks.ours import fetch, our_daemon
from tests.benchmarks.programs import lacks
from tests.benchmarks.table import Goal, Row, compare
from tests.stories.harness import Daemon

SIZE_BYTES: Final = 128 * MIB
LONE_BYTES: Final = 24 * MIB
ROUNDS: Final = 3
CONNECTIONS: Final = 4
SEGMENT: Final = "4M"
ARIA2: Final = (
    f"--max-connection-per-server={CONNECTIONS}",
    f"--split={CONNECTIONS}",
    f"--min-split-size={SEGMENT}",
)


def run(folder: Path) -> Iterator[Row]:
    """Fetch from both hosts."""
    shelf, limit = Shelf(folder / "shelf"), f"{SLOW_BYTES // MIB} MB/s a connection"
    section = {"connections": CONNECTIONS, "min_segment": SEGMENT}
    with file_host(folder) as host, our_daemon(folder / "ours", download=section) as daemon:
        slow = f"{host.http}/slow/{host.film(SIZE_BYTES)}"
        what = f"{SIZE_BYTES // MIB} MB, {limit}, {CONNECTIONS} connections"
        name, goal = f"aria2 -x{CONNECTIONS}", Goal("<=", 1.05)
        yield _measure(what, daemon, slow, lambda: shelf.aria2(slow, *ARIA2), name, goal)
        lone = f"{host.http}/lone/{host.film(LONE_BYTES)}"
        what = f"{LONE_BYTES // MIB} MB, {limit}, a second one is answered with 503"
        yield _measure(what, daemon, lone, lambda: shelf.curl(lone), "curl", Goal("<=", 1.1))


def _measure(
    what: str, daemon: Daemon, link: str, peer: Callable[[], float], name: str, goal: Goal
) -> Row:
    missing = lacks("aria2c" if name.startswith("aria2") else name, what=what)
    if missing is not None:
        return missing
    ours, theirs = list[float](), list[float]()
    for number in range(ROUNDS):
        ours.append(fetch(daemon, {f"slow-{link.count('lone')}-{number}": f"{link}?{number}"}))
        theirs.append(peer())
    return compare(what, ours, theirs, "s", name, goal)

"""Row `rate`: `download.rate_limit` holds over all downloads together.

Rule: bytes of all files by the seconds from the first callback to the last file in its place.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final

from tests.benchmarks.filehost import MIB, file_host
from tests.benchmarks.ours import fetch, our_daemon
from tests.benchmarks.table import Row, say, write

FILES: Final = 4
SIZE_BYTES: Final = 40 * MIB
LIMIT_MIB: Final = 20
ROUNDS: Final = 2
MOST_OFF: Final = 0.05


def run(folder: Path) -> Iterator[Row]:
    """Fetch some files at once under a limit."""
    what = f"download.rate_limit, {FILES} files of {SIZE_BYTES // MIB} MB at once"
    section = {"rate_limit": f"{LIMIT_MIB}M"}
    found = list[float]()
    with file_host(folder) as host, our_daemon(folder / "ours", download=section) as daemon:
        link = f"{host.http}/{host.film(SIZE_BYTES)}"
        for turn in range(ROUNDS):
            links = {f"rate-{turn}-{number}": f"{link}?{number}" for number in range(FILES)}
            found.append(FILES * SIZE_BYTES / MIB / fetch(daemon, links))
    ratio = median(found) / LIMIT_MIB
    yield Row(
        what,
        write(median(found), "MiB/s"),
        f"{LIMIT_MIB} MiB/s, the limit",
        f"{ratio:.2f}",
        f"within {MOST_OFF:.0%}",
        say(met=abs(ratio - 1) <= MOST_OFF),
    )

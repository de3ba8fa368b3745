"""Row `big`: one file of 512 MB, from the callback to the verified, hashed video in its place.

Rule: our clock runs from before the callback to the moment the file has its final name, which it
gets after it was synced, hashed and checked; a peer's runs until its output is synced.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.benchmarks.fetchers import Shelf
from tests.benchmarks.filehost import MIB, FileHost, file_host
from tests.benchmarks.ours import fetch, our_daemon
from tests.benchmarks.programs import lacks
from tests.benchmarks.table import Goal, Row, compare
from tests.stories.harness import Daemon

SIZE_BYTES: Final = 512 * MIB
ROUNDS: Final = 3
GOALS: Final[Mapping[str, Goal | None]] = {
    "curl": Goal("<=", 1.5),
    "aria2": Goal("<=", 1.0),
    "wget": None,
}
_PROGRAMS: Final = {"curl": "curl", "aria2": "aria2c", "wget": "wget"}


def run(folder: Path) -> Iterator[Row]:
    """Fetch the file over HTTP and over TLS, everybody in turn."""
    with file_host(folder) as host:
        host.film(SIZE_BYTES)
        trust = {"SSL_CERT_FILE": str(host.authority)}
        with our_daemon(folder / "ours", environ=trust) as daemon:
            # A daemon that has been up for a while has fetched something before.
            fetch(daemon, {"warm-up": f"{host.https}/{host.film(MIB)}"})
            for scheme, place in (("HTTP", host.http), ("TLS", host.https)):
                yield from _measure(folder, host, daemon, scheme, place)


def _measure(
    folder: Path, host: FileHost, daemon: Daemon, scheme: str, place: str
) -> Iterator[Row]:
    link, shelf = f"{place}/{host.film(SIZE_BYTES)}", Shelf(folder / "shelf")
    authority = str(host.authority)
    peers: dict[str, Callable[[], float]] = {
        "curl": lambda: shelf.curl(link, "--cacert", authority),
        # With one connection, which is its default and the fastest here.
        "aria2": lambda: shelf.aria2(link, "--ca-certificate", authority),
        "wget": lambda: shelf.wget(link, "--ca-certificate", authority),
    }
    what = f"{SIZE_BYTES // MIB} MB over {scheme}, link to verified file"
    for name in tuple(peers):
        missing = lacks(_PROGRAMS[name], what=f"{what}, against {name}")
        if missing is not None:
            del peers[name]
            yield missing
    took: dict[str, list[float]] = defaultdict(list)
    for number in range(ROUNDS):
        took["ours"].append(fetch(daemon, {f"big-{scheme}-{number}": f"{link}?{number}"}))
        for name, peer in peers.items():
            took[name].append(peer())
    for name in peers:
        yield compare(what, took["ours"], took[name], "s", name, GOALS[name])

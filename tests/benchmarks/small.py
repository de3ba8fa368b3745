"""Row `small`: one video of the usual size on an idle daemon, from callback to stored.

Rule: what counts is how much longer we take than curl with the same file from the same host, for
that is all a user waits for. Under `confirm` the simulated provider is asked before anything is
fetched, and its own file server serves both.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Final

from tests.benchmarks.fetchers import Shelf
from tests.benchmarks.filehost import MIB, file_host
from tests.benchmarks.ours import fetch, our_daemon
from tests.benchmarks.programs import lacks
from tests.benchmarks.table import Goal, Row, say, write
from tests.stories.stage import simulated_provider

SIZE_BYTES: Final = 5 * MIB
ROUNDS: Final = 20
GOAL: Final = Goal("<=", 150.0, "ms")
PAUSE_SECONDS: Final = 0.05
"""The daemon is idle before each callback."""


def run(folder: Path) -> Iterator[Row]:
    """Measure with both kinds of trust."""
    what = f"{SIZE_BYTES // MIB} MB, callback to stored, median of {ROUNDS}, trust = "
    missing = lacks("curl", "nginx", what=what)
    if missing is not None:
        yield missing
        return
    yield _callback(folder, f'{what}"callback"')
    yield asyncio.run(_confirm(folder, f'{what}"confirm"'))


def _callback(folder: Path, what: str) -> Row:
    shelf = Shelf(folder / "shelf")
    with file_host(folder) as host, our_daemon(folder / "callback") as daemon:
        link = f"{host.http}/{host.film(SIZE_BYTES)}"
        return _compare(
            what,
            lambda number: fetch(daemon, {f"small-{number}": f"{link}?{number}"}),
            lambda _: shelf.curl(link),
        )


async def _confirm(folder: Path, what: str) -> Row:
    shelf = Shelf(folder / "shelf")
    async with simulated_provider(file_size_bytes=SIZE_BYTES) as provider:
        ids = [provider.add_task() for _ in range(ROUNDS + 1)]
        links = [f"{provider.base_url}/files/{task_id}.mp4" for task_id in ids]

        def measure() -> Row:
            with our_daemon(
                folder / "confirm", trust="confirm", base_url=provider.base_url
            ) as daemon:
                return _compare(
                    what,
                    lambda number: fetch(daemon, {ids[number]: links[number]}),
                    lambda number: shelf.curl(links[number]),
                )

        # The provider needs this loop meanwhile.
        return await asyncio.to_thread(measure)


def _compare(what: str, ours: Callable[[int], float], curl: Callable[[int], float]) -> Row:
    left, right = list[float](), list[float]()
    for number in range(ROUNDS + 1):
        for measure, found in ((ours, left), (curl, right)):
            time.sleep(PAUSE_SECONDS)
            found.append(measure(number) * 1000)
    # The first one of each loads what is used for the first time.
    mine, theirs = median(left[1:]), median(right[1:])
    return Row(
        what,
        write(mine, "ms"),
        f"{write(theirs, 'ms')} curl",
        f"{mine - theirs:+.0f} ms",
        f"{GOAL} beyond",
        say(met=GOAL.is_met(mine - theirs)),
    )

"""Hashing beside the writing costs no more than what came, however much was there before."""

import time
from pathlib import Path

from daemon.disk import Disk
from daemon.partial import open_partial
from daemon.rules.spans import Spans

HELD = 256 << 20


async def test_an_attempt_that_breaks_soon_hashes_little(disk: Disk) -> None:
    """Nobody waits at the end, or at a stop, for hundreds of MB to be read that came before."""
    path: Path = disk.partial("a.part")
    path.touch(0o600)  # noqa: ASYNC240 - its own disk
    with path.open("r+b") as file:
        file.truncate(HELD)

    async def record(_spans: Spans, _total: int | None, _validator: str | None) -> None:
        """Nothing to remember."""

    began = time.process_time()
    async with open_partial(
        *(disk, path, record), spans=f"0-{HELD}", total_bytes=2 * HELD, validator='"v"'
    ) as part:
        await part.write(HELD, memoryview(b"some bytes"))
    assert part.digest.end <= 32 << 20, f"{time.process_time() - began:.1f} s of CPU"

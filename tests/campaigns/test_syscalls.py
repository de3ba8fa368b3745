"""A short slice of the campaign of failing system calls; `make campaign` runs it long."""

import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.campaigns.syscalls import FILM_BYTES, Bench, draw, try_cases
from tests.campaigns.tracing import Case, can_trace
from tests.stories.stage import downloads, simulated_provider

SLICE = [
    Case("running", "log", "pwrite64", 2, "ENOSPC", lasting=True),
    Case("running", "log", "fdatasync", 3, "KILL"),
    Case("running", "partial file", "write", 1, "EDQUOT"),
    Case("running", "videos", "fsync", 1, "EIO", lasting=True),
    Case("running", "videos", "linkat", 1, "ENOSPC"),
    Case("running", "partial folder", "fsync", 1, "KILL"),
    Case("stop", "database", "pwrite64", 2, "EIO"),
    Case("first start", "videos", "mkdir", 1, "ENOSPC"),
]


@pytest.fixture
def strace() -> None:
    """Skip where no process can be traced."""
    if shutil.which("strace") is None:
        pytest.skip("needs the package strace")
    if not can_trace():
        pytest.skip("needs root, to trace a process that runs")


@pytest.fixture
async def bench(tmp_path: Path, strace: None) -> AsyncIterator[Bench]:  # noqa: ARG001 - it skips
    """A daemon on which calls fail."""
    async with simulated_provider(file_size_bytes=FILM_BYTES) as provider:
        made = Bench(tmp_path, provider)
        try:
            yield made
            await made.close()
        finally:
            made.daemon.end()


@pytest.mark.usefixtures("strace")
async def test_whatever_call_fails_nothing_is_lost(tmp_path: Path) -> None:
    """An error or a kill at any place costs no callback and no film, and nobody has to help."""
    tally = await try_cases(tmp_path, SLICE, random.Random(20_261_122), patient=0)
    assert tally.cases == tally.done == len(SLICE)
    assert tally.missed == 0
    assert tally.injected >= len(SLICE) - 2
    assert tally.kills == 2
    assert tally.refused >= 1


async def test_a_callback_whose_commit_was_not_synced_is_refused(bench: Bench) -> None:
    """503, and the daemon ends: what a failed sync left behind can only be read anew."""
    outcome = await bench.attempt(Case("running", "log", "fdatasync", 1, "EIO"), patient=False)
    assert outcome.injected == 1
    assert outcome.status == 503
    assert outcome.code == 1


async def test_a_film_that_was_not_synced_is_fetched_again(bench: Bench) -> None:
    """The next sync would succeed without the bytes: the partial file goes, and all comes anew."""
    outcome = await bench.attempt(Case("running", "partial file", "fsync", 1, "EIO"), patient=False)
    assert outcome.injected == 1
    assert outcome.status == 200
    assert outcome.code is None
    starts = [start for _, start in downloads(bench.provider, outcome.task_id)]
    assert starts == [0, 0]


async def test_a_video_disk_that_fails_at_the_start_stops_no_callback(bench: Bench) -> None:
    """The gate is shut, callbacks are answered, and what is wanted waits for the disk."""
    case = Case("first start", "videos", "mkdir", 1, "ENOSPC", lasting=True)
    outcome = await bench.attempt(case, patient=False)
    assert (outcome.status, outcome.code) == (200, None)
    assert outcome.injected >= 1
    assert bench.daemon.history("gate.closed", gate="disk")


def test_each_kind_of_case_is_drawn_before_any_a_second_time() -> None:
    """A short campaign looks at every kind of call."""
    many = [Case("running", "log", "pwrite64", nth) for nth in range(1, 50)]
    few = [Case("running", "videos", "fsync"), Case("stop", "database", "ftruncate")]
    drawn = draw([*many, *few], 4, random.Random(1))
    assert {*few} < {*drawn}
    assert len(drawn) == 4

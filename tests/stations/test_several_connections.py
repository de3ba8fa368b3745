"""A film over several connections: whole, quicker where that is possible, and never at a price."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise

import pytest
import structlog
from msgspec.structs import replace
from structlog.testing import capture_logs

from daemon.disk import Disk
from daemon.download import Downloader
from daemon.rules import segments
from daemon.rules.failure import Trouble
from daemon.rules.filename import name_partial
from daemon.rules.spans import Spans
from daemon.rules.task import Task
from daemon.rules.transfer import OVERLAP_BYTES
from daemon.simulator.faults import Faults, FileFault
from daemon.simulator.films import Film
from daemon.simulator.simulator import Simulator
from daemon.store import Store

Make = Callable[..., Downloader]
Want = Callable[..., Awaitable[Task]]

SIZE = 4_000_000
FILM = Film("several", SIZE)
SLOW = FileFault(bytes_per_second=1_500_000, lasts="always")
"""Almost three seconds for one connection, less than one for four."""
SEVERAL = {"connections": 4, "min_segment": 256 << 10}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A third of a second is long here; and the log is as it was afterwards."""
    monkeypatch.setattr(segments, "WORTH_SECONDS", 0.3)
    yield
    structlog.reset_defaults()


def add(simulator: Simulator, *faults: FileFault) -> str:
    """Put the film at the host, with these faults in turn; return its link."""
    task_id = simulator.add_task(Faults(callbacks=(), files=faults), film=FILM)
    return simulator.tasks[task_id].video_url


async def get(store: Store, task_id: str = "a") -> Task:
    """Read a task."""
    task = await store.task(task_id)
    assert task is not None
    return task


async def fetch(downloader: Downloader, task: Task) -> dict[str, object]:
    """Fetch and verify the film; return what the log says of it."""
    with capture_logs() as lines:
        fetched = await downloader.fetch(task)
    assert fetched.sha256 == FILM.sha256()
    assert fetched.size_bytes == SIZE
    return dict(next(line for line in lines if line["event"] == "download.finished"))


def asked(simulator: Simulator) -> list[tuple[int, int]]:
    """Return the bytes that were asked for, half-open, the whole film for no range at all."""
    found = []
    for request in simulator.requests:
        first, _, last = (request.range or "bytes=0-").removeprefix("bytes=").partition("-")
        found.append((int(first), int(last) + 1 if last else SIZE))
    return found


async def test_a_host_that_limits_each_connection_is_fetched_over_several(
    simulator: Simulator, make_downloader: Make, want: Want
) -> None:
    """Four times as quick, by parts that are none too small, each of the version of the first."""
    began = time.monotonic()
    line = await fetch(make_downloader(**SEVERAL), await want(add(simulator, SLOW)))
    assert time.monotonic() - began < 0.6 * SIZE / 1_500_000
    assert line["connections"] == 4
    requests = list(simulator.requests)
    assert requests[0].range is None
    assert {request.if_range for request in requests[1:]} == {FILM.etag}
    starts = sorted(start for start, _ in asked(simulator))
    assert all(two - one >= SEVERAL["min_segment"] for one, two in pairwise(starts))


@pytest.mark.parametrize(
    ("fault", "section"),
    [
        (SLOW, {"connections": 1, "min_segment": 256 << 10}),
        (SLOW, {"connections": 4, "min_segment": SIZE // 2 + 1}),
        (replace(SLOW, etag='W/"weak"', ignore_ranges=True), SEVERAL),
        (replace(SLOW, etag=None, ignore_ranges=True), SEVERAL),
        (replace(SLOW, bytes_per_second=None), SEVERAL),
    ],
)
async def test_one_connection_is_enough(
    simulator: Simulator,
    make_downloader: Make,
    want: Want,
    fault: FileFault,
    section: dict[str, int],
) -> None:
    """When no more are allowed, the film is small, nothing proves its version, or it is quick."""
    line = await fetch(make_downloader(**section), await want(add(simulator, fault)))
    assert line["connections"] == 1
    assert len(simulator.requests) == 1


DISLIKES = {
    "429": FileFault(status=429, lasts="always"),
    "503": FileFault(status=503, retry_after="60", lasts="always"),
    "403": FileFault(status=403, lasts="always"),
    "reset": FileFault(cut_after_bytes=0, reset=True, lasts="always"),
    "no ranges": FileFault(ignore_ranges=True, lasts="always"),
    "another version": FileFault(other_film=True, lasts="always"),
}


@pytest.mark.parametrize("dislike", DISLIKES)
async def test_a_host_that_dislikes_it_is_left_with_one(
    simulator: Simulator, make_downloader: Make, want: Want, dislike: str
) -> None:
    """The first connection is not disturbed, nothing is charged, and the host is remembered."""
    once = replace(SLOW, lasts=1, bytes_per_second=6_000_000)
    downloader = make_downloader(**SEVERAL)
    line = await fetch(downloader, await want(add(simulator, once, DISLIKES[dislike])))
    assert len(simulator.requests) == 2
    assert line["connections"] == 2
    simulator.requests.clear()
    again = await want(add(simulator, replace(SLOW, bytes_per_second=6_000_000)), task_id="b")
    line = await fetch(downloader, again)
    assert line["connections"] == 1
    assert len(simulator.requests) == 1


async def test_a_connection_that_breaks_in_its_middle_is_made_up_for(
    simulator: Simulator, make_downloader: Make, want: Want
) -> None:
    """What it left behind is fetched by another, from its last bytes on, and compared with them."""
    once = replace(SLOW, lasts=1)
    cut = replace(once, cut_after_bytes=500_000, reset=True)
    line = await fetch(make_downloader(**SEVERAL), await want(add(simulator, once, cut, SLOW)))
    assert line["resumed_bytes"] == 0
    ranges = asked(simulator)
    broken = ranges[1][0]
    assert any(broken < start <= broken + 500_000 for start, _ in ranges[2:])


async def test_when_the_first_one_breaks_the_others_go_on(
    simulator: Simulator, make_downloader: Make, want: Want
) -> None:
    """Nobody waits for the next attempt while somebody else is served."""
    cut = replace(SLOW, lasts=1, cut_after_bytes=500_000)
    line = await fetch(make_downloader(**SEVERAL), await want(add(simulator, cut, SLOW)))
    assert line["resumed_bytes"] == 0
    assert len(simulator.requests) >= 3


async def test_when_all_break_the_bytes_stay_and_only_gaps_are_fetched_again(
    simulator: Simulator, make_downloader: Make, want: Want, store: Store, disk: Disk
) -> None:
    """Progress is a set of ranges: what came in the middle is not asked for twice."""
    cut = replace(SLOW, cut_after_bytes=400_000)
    link = add(simulator, cut)
    downloader = make_downloader(**SEVERAL)
    with pytest.raises(Trouble):
        await downloader.fetch(await want(link))
    kept = await get(store)
    spans = Spans.parse(kept.spans)
    assert len(spans.ranges) > 1
    simulator.requests.clear()
    task = next(task for task in simulator.tasks.values() if task.video_url == link)
    task.faults = Faults(callbacks=())
    line = await fetch(downloader, kept)
    assert line["resumed_bytes"] == spans.total_bytes
    gaps = spans.gaps(SIZE)
    starts = [start for start, _ in asked(simulator)]
    assert starts == [max(0, start - OVERLAP_BYTES) for start, _ in gaps]
    assert disk.partial(name_partial("a")).stat().st_size == SIZE


async def test_two_connections_that_bring_different_bytes_are_not_believed(
    simulator: Simulator, make_downloader: Make, want: Want
) -> None:
    """A host whose machines serve two films under one ETag: where they meet it shows."""
    once = replace(SLOW, lasts=1)
    other = replace(once, other_film=True, etag=FILM.etag)
    with capture_logs() as lines:
        fetched = await make_downloader(**SEVERAL).fetch(
            await want(add(simulator, once, other, replace(SLOW, bytes_per_second=None)))
        )
    assert fetched.sha256 == FILM.sha256()
    assert "download.restarted" in {line["event"] for line in lines}


async def test_a_cancelled_download_leaves_nobody_behind(
    simulator: Simulator, make_downloader: Make, want: Want, store: Store
) -> None:
    """All connections end with it, and what they brought is recorded and true."""
    task = await want(add(simulator, SLOW))
    before = asyncio.all_tasks()
    fetching = asyncio.create_task(make_downloader(**SEVERAL).fetch(task))
    while len(simulator.requests) < 4:  # noqa: ASYNC110 - the simulator has no event
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    ours = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before}  # type: ignore[union-attr]
    assert not {name for name in ours if "Attempt" in name or "Partial" in name}
    spans = Spans.parse((await get(store)).spans)
    assert len(spans.ranges) > 1


async def test_the_rate_limit_holds_over_all_downloads(
    simulator: Simulator, make_downloader: Make, want: Want
) -> None:
    """Two films at once: together within five hundredths of the limit."""
    limit = 4_000_000
    downloader = make_downloader(connections=1, rate_limit=limit)
    tasks = [await want(add(simulator), task_id=name) for name in "ab"]
    began = time.monotonic()
    async with asyncio.TaskGroup() as downloads:
        for task in tasks:
            downloads.create_task(downloader.fetch(task))
    seconds = time.monotonic() - began
    assert 2 * SIZE / seconds == pytest.approx(limit, rel=0.05)

"""From a link to a finished task: whole, verified, under its name, and never fetched twice."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from daemon.disk import Disk
from daemon.download import Downloader
from daemon.rules.failure import Reason, Refused, Spoiled, Trouble
from daemon.rules.filename import name_partial
from daemon.rules.spans import Spans
from daemon.rules.task import Task
from daemon.rules.transfer import OVERLAP_BYTES
from daemon.simulator.faults import Faults, FileFault
from daemon.simulator.films import Clip, Film
from daemon.simulator.simulator import Simulator
from daemon.store import Store

CUT = FileFault(cut_after_bytes=1_000_000, bytes_per_second=5_000_000)
"""At a pace that a network has: what bursts in with the cut itself is lost in the connection."""

Make = Callable[..., Downloader]
Want = Callable[..., Awaitable[Task]]


def add(simulator: Simulator, *faults: FileFault, film: Film | None = None) -> str:
    """Put a film at the host, with these faults in turn; return its link."""
    task_id = simulator.add_task(Faults(callbacks=(), files=faults), film=film)
    return simulator.tasks[task_id].video_url


def film_of(simulator: Simulator, link: str) -> Film:
    """Return the film behind a link."""
    return next(task.film for task in simulator.tasks.values() if task.video_url == link)


def ranges(simulator: Simulator) -> list[str | None]:
    """Return what was asked of the file host, request by request."""
    return [request.range for request in simulator.requests]


async def get(store: Store, task_id: str = "a") -> Task:
    """Read a task."""
    task = await store.task(task_id)
    assert task is not None
    return task


def part_end(task: Task) -> int:
    """Return where the recorded bytes end."""
    return Spans.parse(task.spans).ranges[-1][1]


async def finish(downloader: Downloader, task: Task) -> Task:
    """Carry a task from `wanted` to `done`."""
    for step in (downloader.fetch, downloader.publish, downloader.finish):
        task = await step(task)
    return task


@pytest.mark.parametrize("clip", ["faststart", "moov_last", "fragmented"])
async def test_a_film_ends_up_under_its_name_whole_and_verified(
    simulator: Simulator, make_downloader: Make, want: Want, disk: Disk, clip: Clip
) -> None:
    """Every byte, its digest, what film it is, and no partial file left."""
    film = Film("x", 2_500_000, clip)
    task = await finish(make_downloader(), await want(add(simulator, film=film)))
    path = disk.directory / "video_a.mp4"
    assert (task.state, task.path, task.claimed_at) == ("done", str(path), None)
    assert (task.size_bytes, task.sha256) == (film.size_bytes, film.sha256())
    assert task.duration_seconds
    assert (task.video_codec, task.audio_codec) == ("avc1", "mp4a")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == film.sha256()
    assert list((disk.directory / ".partial").iterdir()) == []
    assert ranges(simulator) == [None]


@pytest.mark.parametrize("reset", [False, True])
async def test_after_a_cut_only_what_is_missing_is_fetched(
    simulator: Simulator, make_downloader: Make, want: Want, store: Store, *, reset: bool
) -> None:
    """What was recorded is kept, and only an overlap of 64 KiB before it is asked for again."""
    link = add(simulator, replace(CUT, reset=reset))
    with pytest.raises(Trouble) as caught:
        await make_downloader().fetch(await want(link))
    assert caught.value.reason is Reason.NETWORK
    cut = await get(store)
    held = part_end(cut)
    assert OVERLAP_BYTES < held <= 1_000_000
    assert cut.validator == film_of(simulator, link).etag
    done = await finish(make_downloader(), cut)
    assert done.sha256 == film_of(simulator, link).sha256()
    assert ranges(simulator) == [None, f"bytes={held - OVERLAP_BYTES}-"]
    assert simulator.requests[-1].if_range == cut.validator


async def test_a_cancelled_download_recorded_what_is_on_the_disk(
    simulator: Simulator, make_downloader: Make, want: Want, store: Store, disk: Disk
) -> None:
    """A stop in the middle costs nothing but the overlap."""
    link = add(simulator, FileFault(stall_after_bytes=2_000_000))
    fetching = asyncio.create_task(make_downloader().fetch(await want(link)))
    part = disk.partial(name_partial("a"))
    async with asyncio.timeout(5):
        while not part.exists() or part.stat().st_size < 1_000_000:  # noqa: ASYNC110 - neither a file nor a ledger has an event
            await asyncio.sleep(0.02)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    stopped = await get(store)
    assert stopped.spans == f"0-{part.stat().st_size}"
    assert (stopped.size_bytes, stopped.state) == (3_000_000, "wanted")
    done = await finish(make_downloader(), stopped)
    assert done.sha256 == film_of(simulator, link).sha256()
    assert ranges(simulator)[1:] == [f"bytes={part_end(stopped) - OVERLAP_BYTES}-"]


async def test_a_complete_file_that_was_not_verified_yet_is_not_fetched_again(
    simulator: Simulator, make_downloader: Make, want: Want, store: Store
) -> None:
    """A crash between the last byte and the commit costs a reading from disk, no request."""
    link = add(simulator)
    await make_downloader().fetch(await want(link))
    whole = {"spans": "0-3000000", "size_bytes": 3_000_000}
    await store.commits.connection.execute_fetchall("UPDATE task SET state = 'wanted', path = NULL")
    task = await get(store)
    assert {name: getattr(task, name) for name in whole} == whole
    assert (await finish(make_downloader(), task)).state == "done"
    assert ranges(simulator) == [None]


async def test_another_version_in_the_middle_begins_anew(
    simulator: Simulator, make_downloader: Make, want: Want, store: Store
) -> None:
    """Bytes of two versions never meet in one file."""
    link = add(simulator, CUT, FileFault(other_film=True))
    with pytest.raises(Trouble):
        await make_downloader().fetch(await want(link))
    done = await finish(make_downloader(), await get(store))
    other = Film(f"{film_of(simulator, link).seed} again", 3_000_000)
    assert done.sha256 == other.sha256()
    assert len(simulator.requests) == 2


async def test_the_same_validator_over_other_bytes_is_caught(
    simulator: Simulator, make_downloader: Make, want: Want, store: Store
) -> None:
    """The overlap is compared with the disk; after a difference the file is fetched as a whole."""
    film = Film("x", 3_000_000)
    link = add(
        simulator,
        CUT,
        FileFault(other_film=True, etag=film.etag),
        film=film,
    )
    with pytest.raises(Trouble):
        await make_downloader().fetch(await want(link))
    done = await finish(make_downloader(), await get(store))
    assert done.sha256 == film.sha256()
    assert [asked is None for asked in ranges(simulator)] == [True, False, True]


@pytest.mark.parametrize(
    "fault",
    [
        FileFault(ignore_ranges=True),
        FileFault(etag='W/"weak"'),
        FileFault(etag=None),
    ],
)
async def test_without_a_strong_validator_it_begins_anew(
    simulator: Simulator, make_downloader: Make, want: Want, store: Store, fault: FileFault
) -> None:
    """A host that cannot prove the version, or ignores ranges, sends the whole file again."""
    cut = replace(CUT, ignore_ranges=fault.ignore_ranges, etag=fault.etag)
    link = add(simulator, cut, fault)
    with pytest.raises(Trouble):
        await make_downloader().fetch(await want(link))
    done = await finish(make_downloader(), await get(store))
    assert done.sha256 == film_of(simulator, link).sha256()
    assert (ranges(simulator)[1] is None) != fault.ignore_ranges


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_a_file_without_a_length_is_believed_when_its_end_is_proved(
    simulator: Simulator, make_downloader: Make, want: Want, framing: str
) -> None:
    """By the last chunk; or by a total that a question for one byte tells."""
    link = add(simulator, FileFault(framing=framing, lasts="always"))  # type: ignore[arg-type]
    done = await finish(make_downloader(), await want(link))
    assert done.sha256 == film_of(simulator, link).sha256()
    assert ranges(simulator) == ([None] if framing == "chunked" else [None, "bytes=0-0"])


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_cut_is_never_taken_for_the_end(
    simulator: Simulator,
    make_downloader: Make,
    want: Want,
    store: Store,
    framing: str,
    *,
    reset: bool,
) -> None:
    """On FIN and RST without a length aiohttp ends normally; here it is a failure."""
    link = add(simulator, FileFault(framing=framing, cut_after_bytes=700_000, reset=reset))  # type: ignore[arg-type]
    with pytest.raises(Trouble):
        await make_downloader().fetch(await want(link))
    assert (await get(store)).state == "wanted"


async def test_two_equal_downloads_prove_a_file_whose_length_nobody_tells(
    simulator: Simulator, make_downloader: Make, want: Want
) -> None:
    """No length, no chunks, no ranges: only the second body shows where the first one ended."""
    link = add(simulator, FileFault(framing="close", ignore_ranges=True, lasts="always"))
    done = await finish(make_downloader(), await want(link))
    assert done.sha256 == film_of(simulator, link).sha256()
    assert ranges(simulator) == [None, "bytes=0-0", None]


@pytest.mark.parametrize(
    "second",
    [
        FileFault(framing="close", ignore_ranges=True, cut_after_bytes=500_000),
        FileFault(framing="close", ignore_ranges=True, flip_at_byte=2_000_000),
        FileFault(framing="close", ignore_ranges=True, truncate_to_bytes=2_000_000),
    ],
)
async def test_two_different_downloads_without_a_length_prove_nothing(
    simulator: Simulator, make_downloader: Make, want: Want, second: FileFault
) -> None:
    """Both are dropped, and it begins anew."""
    same = FileFault(framing="close", ignore_ranges=True, lasts=2)
    rest = FileFault(framing="close", ignore_ranges=True, lasts="always")
    link = add(simulator, same, second, rest)
    done = await finish(make_downloader(), await want(link))
    assert done.sha256 == film_of(simulator, link).sha256()
    assert ranges(simulator) == [None, "bytes=0-0", None] * 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (FileFault(html=True), Reason.NOT_A_VIDEO),
        (FileFault(truncate_to_bytes=0), Reason.NOT_A_VIDEO),
        (FileFault(truncate_to_bytes=1_000_000), Reason.TRUNCATED),
        (FileFault(truncate_to_bytes=100), Reason.TRUNCATED),
    ],
)
async def test_what_is_no_whole_film_never_gets_a_name(
    simulator: Simulator,
    make_downloader: Make,
    want: Want,
    disk: Disk,
    fault: FileFault,
    reason: Reason,
) -> None:
    """HTML and nothing with status 200, and honest headers over half a film."""
    with pytest.raises(Spoiled) as caught:
        await make_downloader().fetch(await want(add(simulator, fault)))
    assert caught.value.reason is reason
    assert list(disk.directory.iterdir()) == [disk.directory / ".partial"]


async def test_after_a_longer_bad_file_a_shorter_good_one_is_whole(
    simulator: Simulator, make_downloader: Make, want: Want, store: Store
) -> None:
    """What the bad one left behind the good one's end is cut off."""
    film = Film("short", 1_000_000)
    link = add(simulator, film=Film("long", 2_000_000))
    simulator_task = next(iter(simulator.tasks.values()))
    simulator_task.faults = Faults(files=(FileFault(truncate_to_bytes=1_900_000),))
    task = await want(link)
    with pytest.raises(Spoiled):
        await make_downloader().fetch(task)
    simulator_task.film = film
    await store.record_progress("a", "", None, None)
    done = await finish(make_downloader(), await get(store))
    assert (done.size_bytes, done.sha256) == (1_000_000, film.sha256())


@pytest.mark.parametrize(("status", "failure"), [(403, Refused), (404, Refused), (503, Trouble)])
async def test_a_refusal_keeps_the_bytes(
    simulator: Simulator,
    make_downloader: Make,
    want: Want,
    store: Store,
    status: int,
    failure: type,
) -> None:
    """A link that dies in the middle is renewed by asking; what is here fits the renewed one."""
    link = add(simulator, CUT, FileFault(status=status, retry_after="7"))
    downloader = make_downloader()
    with pytest.raises(Trouble):
        await downloader.fetch(await want(link))
    before = await get(store)
    with pytest.raises(failure) as caught:
        await downloader.fetch(before)
    assert getattr(caught.value, "retry_after", 7) == 7
    assert (await get(store)).spans == before.spans
    assert (await finish(downloader, await get(store))).state == "done"
    assert ranges(simulator)[-1] == f"bytes={part_end(before) - OVERLAP_BYTES}-"

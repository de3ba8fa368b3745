"""A download breaks, expires, is killed or interrupted; the film still arrives, and only once."""

import asyncio
import signal
import time
from dataclasses import replace
from typing import Final

import pytest

from daemon.rules.transfer import OVERLAP_BYTES
from daemon.simulator.faults import Faults, FileFault
from daemon.simulator.films import Film
from daemon.simulator.simulator import Simulator
from tests.stories.harness import Daemon
from tests.stories.stage import FILM_BYTES, Stage, check_film, downloads, moves, questions, success

CUT_AT: Final = 1_000_000
CUT: Final = FileFault(cut_after_bytes=CUT_AT, bytes_per_second=4_000_000)
KEPT: Final = CUT_AT // 2
"""The least that is kept: aiohttp drops what it had not handed out when the connection breaks."""
SLOW: Final = FileFault(bytes_per_second=2_000_000)
SLOW_ALWAYS: Final = FileFault(bytes_per_second=2_000_000, lasts="always")
LONG: Final = 16_000_000


def bytes_on_disk(daemon: Daemon) -> int:
    """Return the size of the one partial file."""
    return sum(path.stat().st_size for path in (daemon.videos / ".partial").iterdir())


async def begin_slowly(stage: Stage, connections: int = 1) -> tuple[Simulator, Daemon, str]:
    """Start a download that takes one connection eight seconds; return when some is there."""
    slow = SLOW if connections == 1 else SLOW_ALWAYS
    provider = await stage.provider(file_size_bytes=LONG)
    daemon = await stage.daemon(
        provider, download={"connections": connections, "min_segment": "1M"}
    )
    task_id = provider.add_task(Faults(files=(slow,)), callback_url=daemon.url)
    await daemon.says("download.started", task_id=task_id)
    until = time.monotonic() + 20
    while (await daemon.task(task_id))["received_bytes"] < 1_000_000:
        assert time.monotonic() < until, daemon.tell()
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    return provider, daemon, task_id


async def test_a_cut_download_resumes_where_it_broke(stage: Stage) -> None:
    """What came before the cut is kept; the rest is asked for by Range."""
    provider = await stage.provider(file_size_bytes=2 * CUT_AT)
    daemon = await stage.daemon(provider)
    task_id = provider.add_task(Faults(files=(CUT,)), callback_url=daemon.url)
    task = await daemon.until(task_id)
    check_film(daemon, provider, task_id)
    finished = await daemon.says("download.finished", task_id=task_id)
    assert KEPT < finished["resumed_bytes"] <= CUT_AT
    name = f"/files/{task_id}.mp4"
    resumed_at = finished["resumed_bytes"] - OVERLAP_BYTES
    assert downloads(provider, task_id) == [(name, 0), (name, resumed_at)]
    await daemon.says("task.moved", to="done")
    failed = daemon.log("download.failed", task_id=task_id)
    assert [line["reason"] for line in failed] in (["truncated"], ["network"])
    assert task["attempts"] == 2
    assert task["reason"] is None


@pytest.mark.parametrize("same_version", [True, False])
async def test_a_link_that_expires_in_mid_file_is_renewed(
    stage: Stage, *, same_version: bool
) -> None:
    """A fresh link is asked for; the bytes are kept when its validator still matches, else not."""
    provider = await stage.provider(file_size_bytes=2 * CUT_AT)
    daemon = await stage.daemon(provider)
    files = [CUT, FileFault(status=403, lasts="renewed")]
    if not same_version:
        files.append(FileFault(other_film=True, lasts="always"))
    task_id = provider.add_task(Faults(files=tuple(files)), callback_url=daemon.url)
    task = await daemon.until(task_id)
    if not same_version:
        known = provider.tasks[task_id]
        known.film = replace(known.film, seed=f"{known.film.seed} again")
    check_film(daemon, provider, task_id)
    old, new = f"/files/{task_id}.mp4", f"/files/{task_id}-2.mp4"
    asked = downloads(provider, task_id)
    resumed_at = asked[1][1]
    assert resumed_at > KEPT - OVERLAP_BYTES
    assert asked == [(old, 0), (old, resumed_at), (new, resumed_at)]
    assert questions(provider, task_id) >= 2
    assert moves(task) == ["expected", "wanted", "expected", "wanted", "verified", "stored", "done"]
    refused = next(step for step in task["history"] if step["cause"] == "link_refused")
    assert refused["reason"] == "link_refused"


async def test_a_link_that_comes_back_is_used_again(stage: Stage) -> None:
    """The provider has no other link than the refused one, so it is tried until it works."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    faults = Faults(files=(FileFault(status=404, lasts=2),))
    task_id = provider.add_task(faults, callback_url=daemon.url)
    await daemon.until(task_id)
    check_film(daemon, provider, task_id)
    assert len(downloads(provider, task_id)) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (FileFault(html=True), "not_a_video"),
        (FileFault(truncate_to_bytes=0), "not_a_video"),
        (FileFault(truncate_to_bytes=FILM_BYTES - 1), "truncated"),
        (FileFault(status=503), "network"),
        (FileFault(stall_after_bytes=50_000), "stalled"),
        (FileFault(cut_after_bytes=150_000, framing="chunked", reset=True), "network"),
    ],
)
async def test_a_bad_download_is_never_published(
    stage: Stage, fault: FileFault, reason: str
) -> None:
    """Whatever a host serves first, only the whole film gets the finished name, and once."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, download={"stall_timeout": "1s"})
    task_id = provider.add_task(Faults(files=(fault,)), callback_url=daemon.url)
    task = await daemon.until(task_id)
    check_film(daemon, provider, task_id)
    await daemon.says("task.moved", to="done")
    failed = daemon.log("download.failed", task_id=task_id)
    assert [line["reason"] for line in failed] == [reason]
    assert moves(task).count("stored") == 1


async def test_a_download_that_was_killed_resumes(stage: Stage) -> None:
    """After kill -9 in mid-file no more than the last second or so is fetched again."""
    provider, daemon, task_id = await begin_slowly(stage)
    daemon.kill()
    on_disk = bytes_on_disk(daemon)
    await daemon.restart()
    await daemon.until(task_id)
    check_film(daemon, provider, task_id)
    first, second = downloads(provider, task_id)
    assert first[1] == 0
    assert second[1] > 0
    assert on_disk - second[1] <= OVERLAP_BYTES + 2 * 2_000_000
    assert (await daemon.says("download.finished"))["resumed_bytes"] > 0


async def test_a_download_over_several_connections_that_was_killed_resumes(stage: Stage) -> None:
    """What came in the middle of the file is not fetched again either."""
    provider, daemon, task_id = await begin_slowly(stage, connections=4)
    daemon.kill()
    await daemon.restart()
    kept = (await daemon.task(task_id))["received_bytes"]
    assert kept > 1_000_000
    await daemon.until(task_id)
    check_film(daemon, provider, task_id)
    assert (await daemon.says("download.finished"))["resumed_bytes"] == kept


async def test_a_stop_in_mid_download_keeps_all_progress(stage: Stage) -> None:
    """SIGTERM ends the daemon in seconds with exit 0, and nothing but the overlap comes twice."""
    provider, daemon, task_id = await begin_slowly(stage)
    began = time.monotonic()
    assert await daemon.stop(signal.SIGTERM) == 0
    assert time.monotonic() - began < 5
    assert [line["event"] for line in daemon.log()][-2:] == ["daemon.stopping", "daemon.stopped"]
    on_disk = bytes_on_disk(daemon)
    await daemon.restart()
    received = (await daemon.task(task_id))["received_bytes"]
    assert received >= on_disk
    await daemon.until(task_id)
    check_film(daemon, provider, task_id)
    assert downloads(provider, task_id)[1][1] == on_disk - OVERLAP_BYTES
    assert (await daemon.says("download.finished"))["resumed_bytes"] == on_disk


async def test_a_kill_at_any_moment_leaves_nothing_half_done(stage: Stage) -> None:
    """Killed again and again while films arrive, every one is whole and no name stands for half."""
    provider = await stage.provider(file_size_bytes=3_000_000)
    daemon = await stage.daemon(provider)
    tasks = {provider.add_task(Faults(callbacks=())) for _ in range(12)}
    await daemon.track(*tasks)
    for number in range(4):
        await asyncio.sleep(0.05 + 0.07 * number)
        daemon.kill()
        for path in daemon.videos.glob("*.mp4"):
            film = provider.tasks[path.stem.removeprefix("video_")].film
            assert path.read_bytes() == b"".join(film.read(0, film.size_bytes))
        await daemon.restart()
    await daemon.until_all(tasks)
    for task_id in tasks:
        check_film(daemon, provider, task_id)


async def test_after_a_restart_nothing_is_fetched_twice(stage: Stage) -> None:
    """What is done stays done, also when its callback and a retry come after the restart."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    tasks = {provider.add_task(callback_url=daemon.url) for _ in range(5)}
    before = await daemon.until_all(tasks)
    assert await daemon.stop() == 0
    provider.requests.clear()
    await daemon.restart()
    for task_id in tasks:
        link = provider.tasks[task_id].video_url
        assert (await daemon.post(success(task_id, link))).status == 200
        retried = await daemon.run("retry", task_id)
        assert (retried.code, "already safe" in retried.errors) == (0, True)
    after = await daemon.until_all(tasks)
    assert not [asked for asked in provider.requests if asked.path.startswith("/files/")]
    assert {after[task_id]["callbacks"] for task_id in tasks} == {2}
    for name in ("stored_at", "sha256", "path", "attempts"):
        assert all(after[task_id][name] == before[task_id][name] for task_id in tasks)


async def test_an_acknowledged_callback_survives_a_kill(stage: Stage) -> None:
    """Killed right after the first answers of a burst: every callback that got its 200 is there."""
    daemon = await stage.daemon(None)
    acknowledged: set[str] = set()
    some = asyncio.Event()

    async def send(number: int) -> None:
        task_id = f"acknowledged-{number}"
        reply = await daemon.post(success(task_id, f"https://files.invalid/{number}.mp4"))
        assert reply.status == 200
        acknowledged.add(task_id)
        if len(acknowledged) == 5:
            some.set()

    sending = [asyncio.create_task(send(number)) for number in range(60)]
    await asyncio.wait_for(some.wait(), 20)
    daemon.kill()
    await asyncio.gather(*sending, return_exceptions=True)
    await daemon.restart()
    assert acknowledged <= (await daemon.tasks()).keys()


async def test_an_adopted_film_of_any_layout_is_stored(stage: Stage) -> None:
    """Faststart, moov-last and fragmented films alike pass the verification."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    tasks = {
        provider.add_task(film=Film(clip, FILM_BYTES, clip), callback_url=daemon.url)
        for clip in ("faststart", "moov_last", "fragmented")
    }
    ledger = await daemon.until_all(tasks)
    for task_id in tasks:
        check_film(daemon, provider, task_id)
        assert ledger[task_id]["duration_seconds"] == pytest.approx(2, abs=0.2)

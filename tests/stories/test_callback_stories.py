"""A callback comes, or does not, or comes too often, in the wrong order, or from a forger."""

import asyncio
import time
from itertools import permutations

import pytest

from daemon.simulator.faults import (
    FORGED_FAILURE,
    FORGED_FILE,
    FORGED_LINK,
    Callback,
    Faults,
    Outcome,
    Reply,
)
from tests.stories.stage import (
    Stage,
    check_film,
    downloads,
    failure,
    moves,
    paths,
    questions,
    success,
)


async def test_a_good_callback_ends_in_a_verified_file(stage: Stage) -> None:
    """The callback arrives, the provider confirms it, and the whole film lies on disk."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    task_id = provider.add_task(callback_url=daemon.url)
    task = await daemon.until(task_id)
    film = provider.tasks[task_id].film
    check_film(daemon, provider, task_id)
    assert task["path"] == str(daemon.videos / f"video_{task_id}.mp4")
    assert (task["size_bytes"], task["sha256"]) == (film.size_bytes, film.sha256())
    assert (task["source"], task["callbacks"], task["attempts"]) == ("callback", 1, 1)
    assert (task["width"], task["height"], task["audio_sample_rate"]) == (412, 732, 48_000)
    assert moves(task) == ["expected", "wanted", "verified", "stored", "done"]
    assert [attempt.status for attempt in provider.callbacks.attempts] == [200]
    assert questions(provider, task_id) == 1
    assert len(downloads(provider, task_id)) == 1
    assert (await daemon.run("check")).code == 0
    stored = await daemon.says("task.moved", task_id=task_id, to="stored")
    assert stored["path"] == task["path"]
    assert (stored["bytes"], stored["stored_at"]) == (film.size_bytes, task["stored_at"])


async def test_a_lost_callback_makes_no_difference(stage: Stage) -> None:
    """No callback ever comes: the provider is asked until the film is made."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    task_id = provider.add_task(Faults(callbacks=()), finished=False)
    await daemon.track(task_id, label="lost")
    await daemon.says("poll.asked", task_id=task_id)
    assert (await daemon.task(task_id))["state"] == "expected"
    assert (await daemon.run("check")).code == 1
    provider.finish(task_id)
    task = await daemon.until(task_id)
    check_film(daemon, provider, task_id)
    assert (task["callbacks"], task["label"], task["source"]) == (0, "lost", "track")


async def test_duplicate_callbacks_fetch_once(stage: Stage) -> None:
    """The same callback twice at once and again after the end is counted, and changes nothing."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    callbacks = (Callback(), Callback(), Callback(after_seconds=0.3))
    task_id = provider.add_task(Faults(callbacks=callbacks), callback_url=daemon.url)
    await daemon.until(task_id, callbacks=3)
    link = provider.tasks[task_id].video_url
    assert (await daemon.post(success(task_id, link))).status == 200
    task = await daemon.until(task_id, callbacks=4)
    assert moves(task) == ["expected", "wanted", "verified", "stored", "done"]
    assert len(downloads(provider, task_id)) == 1
    await daemon.says("download.finished")
    assert len(daemon.log("download.finished")) == 1


@pytest.mark.parametrize("trust", ["confirm", "callback"])
async def test_the_order_of_callbacks_does_not_matter(stage: Stage, trust: str) -> None:
    """Success, failure and an unknown code, in every order, end in the same finished file."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, callback={"trust": trust})
    orders = list(permutations((200, 500, 302)))
    tasks = {provider.add_task(Faults(callbacks=())): order for order in orders}
    for task_id, order in tasks.items():
        link = provider.tasks[task_id].video_url
        for code in order:
            body = success(task_id, link) if code == 200 else failure(task_id, code)
            assert (await daemon.post(body)).status == 200
    ledger = await daemon.until_all(set(tasks))
    for task_id in tasks:
        check_film(daemon, provider, task_id)
        assert len(downloads(provider, task_id)) == 1
        assert ledger[task_id]["callbacks"] == 3
        assert ledger[task_id]["reason"] is None


async def test_a_forged_failure_ends_nothing(stage: Stage) -> None:
    """Somebody else's failure only makes us ask; the film that the provider makes is stored."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    task_id = provider.add_task(finished=False, callback_url=daemon.url)
    await daemon.track(task_id)
    before = questions(provider, task_id)
    for code in (400, 401, 429, 451, 500, 531):
        assert (await daemon.post(failure(task_id, code))).status == 200
    await daemon.says("callback.received", task_id=task_id, evidence="failure")
    await daemon.until(task_id, "expected", callbacks=6)
    provider.finish(task_id)
    task = await daemon.until(task_id)
    check_film(daemon, provider, task_id)
    assert questions(provider, task_id) > before
    assert moves(task) == ["expected", "wanted", "verified", "stored", "done"]


async def test_a_forged_link_is_never_opened(stage: Stage) -> None:
    """Under `confirm` the link of a callback gets no request at all; the true film is fetched."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    known = provider.add_task(Faults(callbacks=(FORGED_LINK,)), callback_url=daemon.url)
    faults = Faults(callbacks=(FORGED_FAILURE, FORGED_LINK))
    known_too = provider.add_task(faults, finished=False, callback_url=daemon.url)
    unknown = "nobody-has-this-task"
    forged = success(unknown, provider.base_url + FORGED_FILE)
    assert (await daemon.post(forged)).status == 200
    await daemon.says("poll.asked", task_id=unknown)
    provider.finish(known_too)
    await daemon.until_all({known, known_too})
    check_film(daemon, provider, known)
    check_film(daemon, provider, known_too)
    assert (await daemon.task(unknown))["state"] == "expected"
    assert paths(provider)[FORGED_FILE] == 0


@pytest.mark.parametrize(
    ("outcome", "code", "reason"),
    [
        ("GENERATE_MP4_FAILED", 500, "generate_failed"),
        ("CREATE_TASK_FAILED", 400, "create_failed"),
    ],
)
async def test_a_failure_of_the_provider_is_final_and_safe(
    stage: Stage, outcome: Outcome, code: int, reason: str
) -> None:
    """When the provider confirms that there is no film, the task is failed and nothing is open."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    task_id = provider.add_task(Faults(outcome=outcome, error_code=code), callback_url=daemon.url)
    task = await daemon.until(task_id, "failed")
    assert (task["reason"], task["provider_code"]) == (reason, code)
    assert task["message"]
    assert task["next_attempt_at"] is None
    assert moves(task) == ["expected", "failed"]
    checked = await daemon.run("check", "--json")
    assert (checked.code, checked.output) == (0, '{"safe": true, "unsafe": []}\n')
    assert paths(provider)[f"/files/{task_id}.mp4"] == 0


async def test_a_failure_without_any_callback_is_found_by_asking(stage: Stage) -> None:
    """A task that failed in silence does not stay open for two weeks."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    task_id = provider.add_task(Faults(outcome="GENERATE_MP4_FAILED", callbacks=()))
    await daemon.track(task_id)
    task = await daemon.until(task_id, "failed")
    assert task["reason"] == "generate_failed"


async def test_callback_exception_with_a_link_is_a_film(stage: Stage) -> None:
    """The provider could not reach us, and says so; the film is there all the same."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    task_id = provider.add_task(Faults(outcome="CALLBACK_EXCEPTION", callbacks=()))
    await daemon.track(task_id)
    await daemon.until(task_id)
    check_film(daemon, provider, task_id)


async def test_callback_exception_without_a_link_is_asked_again(stage: Stage) -> None:
    """CALLBACK_EXCEPTION is no failure: the questions go on until there is a link."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    replies = (Reply(flag="PENDING"), *(Reply(flag="CALLBACK_EXCEPTION"),) * 2)
    task_id = provider.add_task(
        Faults(outcome="CALLBACK_EXCEPTION", with_link=False, callbacks=(), replies=replies)
    )
    await daemon.track(task_id)
    until = time.monotonic() + 20
    while questions(provider, task_id) < 3:
        assert time.monotonic() < until, daemon.tell()
        await asyncio.sleep(0.1)
    assert (await daemon.task(task_id))["state"] == "expected"
    provider.tasks[task_id].faults = Faults(callbacks=())
    task = await daemon.until(task_id)
    assert "failed" not in moves(task)
    check_film(daemon, provider, task_id)


async def test_a_hundred_callbacks_at_once_are_all_stored(stage: Stage) -> None:
    """A burst of a hundred is answered within a second or so, and every film is fetched once."""
    provider = await stage.provider(file_size_bytes=60_000)
    daemon = await stage.daemon(provider, log={"level": "info"})
    tasks = {provider.add_task(Faults(callbacks=())) for _ in range(100)}
    began = time.monotonic()
    replies = await asyncio.gather(
        *(daemon.post(success(task_id, provider.tasks[task_id].video_url)) for task_id in tasks)
    )
    assert {reply.status for reply in replies} == {200}
    assert time.monotonic() - began < 10
    ledger = await daemon.until_all(tasks)
    assert len(list(daemon.videos.glob("*.mp4"))) == 100
    for task_id in tasks:
        assert len(downloads(provider, task_id)) == 1
        assert ledger[task_id]["callbacks"] == 1
        check_film(daemon, provider, task_id)


async def test_a_daemon_without_a_public_address_still_gets_every_film(stage: Stage) -> None:
    """With the callback listener off, nothing is open to the world and asking alone suffices."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, callback={"listen": ""})
    assert "callback" not in daemon.ready
    task_id = provider.add_task(callback_url="https://callback.invalid/none")
    await daemon.track(task_id)
    await daemon.until(task_id)
    check_film(daemon, provider, task_id)

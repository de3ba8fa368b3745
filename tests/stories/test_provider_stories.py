"""The provider's API is down, refuses the key, or does not know a task."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from daemon.simulator.faults import FORGED_FILE, ApiFaults, Faults, FileFault, Reply
from daemon.simulator.simulator import Simulator
from tests.stories.harness import Daemon
from tests.stories.stage import Stage, check_film, moves, paths, questions, success

FOREVER = 1_000_000


def refuse(provider: Simulator, reply: int | Reply, times: int = FOREVER) -> None:
    """Let every call to the API be answered so, until told otherwise."""
    provider.script_api(ApiFaults(codes=(reply,), repeat=times))


def serve(provider: Simulator) -> None:
    """Let the API work again."""
    provider.script_api(ApiFaults(codes=()))


async def test_a_refused_key_shuts_a_gate_and_loses_nothing(stage: Stage) -> None:
    """With a wrong key callbacks are still recorded; `retry` probes, and all work goes on."""
    provider = await stage.provider()
    refuse(provider, 401)
    daemon = await stage.daemon(provider)
    closed = await daemon.says("gate.closed", gate="key")
    assert closed["level"] == "warning"
    tasks = {provider.add_task(callback_url=daemon.url) for _ in range(3)}
    waiting = await daemon.until_all(tasks, "expected")
    assert {task["callbacks"] for task in waiting.values()} == {1}
    (gate,) = (await daemon.get("/v1/status"))["gates"]
    assert gate["name"] == "key"
    assert gate["reason"]
    status = await daemon.run("status")
    assert (status.code, "gate shut:       key" in status.output) == (0, True)
    unsafe = await daemon.run("check")
    assert (unsafe.code, "\ngate shut: key" in unsafe.output) == (1, True)
    assert len(provider.requests) == 1
    serve(provider)
    retried = await daemon.run("retry", min(tasks))
    assert retried.code == 0
    await daemon.until_all(tasks)
    assert await daemon.gates() == []
    await daemon.says("gate.opened", gate="key")
    assert len(daemon.log("gate.closed")) == len(daemon.log("gate.opened", gate="key")) == 1
    for task_id in tasks:
        check_film(daemon, provider, task_id)


@pytest.mark.parametrize(("code", "gate"), [(455, "maintenance"), (430, "rate"), (401, "key")])
async def test_a_gate_holds_all_questions_back(stage: Stage, code: int, gate: str) -> None:
    """While a gate is shut the provider hears nothing more, whatever else becomes due."""
    provider = await stage.provider()
    refuse(provider, code)
    daemon = await stage.daemon(provider)
    await daemon.says("gate.closed", gate=gate)
    asked = len(provider.requests)
    for _ in range(5):
        await daemon.track(provider.add_task())
    await asyncio.sleep(0.5)
    assert len(provider.requests) == asked
    assert await daemon.gates() == [gate]


async def test_a_gate_opens_by_itself_after_the_provider_s_own_wish(stage: Stage) -> None:
    """A rate limit with Retry-After pauses for so long, and needs nobody."""
    provider = await stage.provider()
    busy = Reply(status=429, code=430, retry_after="1")
    refuse(provider, busy, times=2)
    daemon = await stage.daemon(provider)
    task_id = provider.add_task(callback_url=daemon.url)
    await daemon.until(task_id)
    check_film(daemon, provider, task_id)
    opened = await daemon.says("gate.opened", gate="rate")
    assert opened["seconds"] >= 2
    assert len(daemon.log("gate.closed")) == 1


async def test_an_api_that_fails_pauses_all_calls_and_recovers(stage: Stage) -> None:
    """Five calls in a row without a usable answer shut the gate `api`; nothing becomes failed."""
    provider = await stage.provider()
    refuse(provider, Reply(status=502, raw="<html>bad gateway</html>"))
    daemon = await stage.daemon(provider)
    tasks = {provider.add_task(callback_url=daemon.url) for _ in range(6)}
    await daemon.says("gate.closed", gate="api")
    # Questions that were on their way when the gate shut get their 502 as well.
    await asyncio.sleep(1)
    refuse(provider, Reply(cut=True), times=1)
    await daemon.retry(min(await daemon.until_all(tasks, "expected")))
    await daemon.retry(min(tasks))
    ledger = await daemon.until_all(tasks)
    assert {len(moves(await daemon.task(task_id))) for task_id in ledger} == {5}
    assert await daemon.gates() == []


async def trust_a_link(
    stage: Stage, reply: int | Reply, link: str = ""
) -> tuple[Simulator, Daemon, Mapping[str, Any]]:
    """Let a callback's link be fetched while the API answers `reply`; return the stored task."""
    provider = await stage.provider()
    refuse(provider, reply)
    daemon = await stage.daemon(provider, callback={"trust_link_after": "1s"})
    task_id = provider.add_task(Faults(callbacks=()))
    link = provider.base_url + link if link else provider.tasks[task_id].video_url
    assert (await daemon.post(success(task_id, link))).status == 200
    task = await daemon.until(task_id, "done")
    assert task["unconfirmed"] is True
    assert (await daemon.run("list")).output.count("done?") == 1
    return provider, daemon, task


@pytest.mark.parametrize("reply", [401, Reply(status=500, raw="down")])
async def test_a_link_is_trusted_when_nobody_confirms_it(stage: Stage, reply: int | Reply) -> None:
    """With the key refused or the API down for so long, the callback's link is fetched, marked."""
    provider, daemon, task = await trust_a_link(stage, reply)
    check_film(daemon, provider, task["task_id"])
    serve(provider)
    await daemon.retry(task["task_id"])
    confirmed = await daemon.until(task["task_id"], "done", unconfirmed=False)
    assert confirmed["path"] == task["path"]
    assert moves(confirmed) == ["expected", "wanted", "verified", "stored", "done"]
    check_film(daemon, provider, task["task_id"])
    assert not daemon.log("task.unconfirmed")


async def test_a_contrary_answer_is_told_and_removes_nothing(stage: Stage) -> None:
    """Fetched unconfirmed, then denied: mark and file stay, and the log says so."""
    provider, daemon, task = await trust_a_link(stage, 401, FORGED_FILE)
    provider.tasks[task["task_id"]].faults = Faults(outcome="GENERATE_MP4_FAILED", callbacks=())
    serve(provider)
    await daemon.retry(task["task_id"])
    said = await daemon.says("task.unconfirmed", task_id=task["task_id"])
    assert said["level"] == "warning"
    after = await daemon.task(task["task_id"])
    assert (after["state"], after["unconfirmed"]) == ("done", True)
    assert (daemon.videos / f"video_{task['task_id']}.mp4").stat().st_size == task["size_bytes"]


async def test_a_link_is_not_trusted_while_the_provider_answers(stage: Stage) -> None:
    """A provider that says "not yet" is an answer: the callback's link stays untouched."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, callback={"trust_link_after": "500ms"})
    task_id = provider.add_task(finished=False)
    await daemon.post(success(task_id, provider.base_url + FORGED_FILE))
    await asyncio.sleep(3)
    assert questions(provider, task_id) >= 2
    assert (await daemon.task(task_id))["state"] == "expected"
    assert paths(provider)[FORGED_FILE] == 0
    provider.finish(task_id)
    assert (await daemon.until(task_id))["unconfirmed"] is False


async def test_an_unknown_task_id_stays_open_until_the_provider_knows_it(stage: Stage) -> None:
    """`data` null proves nothing in the first hour; the film is fetched once there is one."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    task_id = provider.add_task(Faults(callbacks=()))
    hidden = provider.tasks.pop(task_id)
    await daemon.track(task_id)
    await daemon.says("poll.asked", task_id=task_id, outcome="unknown")
    assert (await daemon.task(task_id))["state"] == "expected"
    checked = await daemon.run("check")
    assert (checked.code, task_id in checked.output) == (1, True)
    provider.tasks[task_id] = hidden
    await daemon.until(task_id)
    check_film(daemon, provider, task_id)


async def test_a_failed_task_is_asked_about_again_on_request(stage: Stage) -> None:
    """`retry` revives a failed task when the provider has a film after all."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    task_id = provider.add_task(Faults(outcome="GENERATE_MP4_FAILED"), callback_url=daemon.url)
    await daemon.until(task_id, "failed")
    retried = await daemon.run("retry", "--failed")
    assert retried.code == 0
    await daemon.until(task_id, "failed")
    provider.tasks[task_id].faults = Faults()
    assert (await daemon.run("retry", task_id)).code == 0
    task = await daemon.until(task_id)
    check_film(daemon, provider, task_id)
    assert moves(task)[:5] == ["expected", "failed", "expected", "failed", "expected"]
    assert (task["reason"], task["message"], task["provider_code"]) == (None, None, None)


async def test_without_a_key_callbacks_are_enough(stage: Stage) -> None:
    """No API key: success is fetched once, failure is failed, later success revives it."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, provider={"api_key": None})
    good, revived = (provider.add_task(Faults(callbacks=())) for _ in range(2))
    broken = provider.add_task(Faults(callbacks=(), files=(FileFault(status=403),)))
    links = {task_id: provider.tasks[task_id].video_url for task_id in provider.tasks}
    for task_id in (good, good, broken):
        await daemon.post(success(task_id, links[task_id]))
    await daemon.post({"code": 451, "msg": "no audio", "data": {"taskId": revived}})
    failed = await daemon.until(revived, "failed")
    expected = ("source_audio", "no audio", 451)
    assert (failed["reason"], failed["message"], failed["provider_code"]) == expected
    await daemon.post(success(revived, links[revived]))
    ledger = await daemon.until_all({good, revived, broken})
    for task_id in ledger:
        check_film(daemon, provider, task_id)
    assert moves(await daemon.task(revived))[:2] == ["failed", "wanted"]
    assert paths(provider)[f"/files/{good}.mp4"] == 1
    assert not [path for path in paths(provider) if path.startswith("/api/")]


async def test_without_a_key_a_tracked_task_waits_for_its_callback(stage: Stage) -> None:
    """Nobody can be asked, so a tracked id waits, open, and keeps its label when the film comes."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, provider={"api_key": None})
    task_id = provider.add_task(finished=False, callback_url=daemon.url)
    await daemon.track(task_id, label="mine")
    waiting = await daemon.task(task_id)
    assert (waiting["state"], waiting["next_attempt_at"]) == ("expected", None)
    assert (await daemon.run("check")).code == 1
    provider.finish(task_id)
    task = await daemon.until(task_id)
    assert (task["label"], task["source"], task["callbacks"]) == ("mine", "track", 1)

"""What can go wrong when a video is asked for, and what it costs then."""

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from daemon.simulator.faults import ApiFaults, Faults, Reply
from daemon.simulator.provider import DIALECTS, Kind
from daemon.simulator.simulator import Simulator
from tests.simulator.asking import (
    FAST,
    KEY,
    KINDS,
    NOWHERE,
    TRACK,
    Download,
    ask,
    become_true,
    call,
    fetch,
    generate,
    simulate,
)

PATH = "/api/v1/mp4/generate"


async def submit(simulator: Simulator) -> Download:
    """Ask for a video without a belief about the answer."""
    body = {**TRACK, "callBackUrl": NOWHERE}
    return await fetch(simulator.base_url + PATH, KEY, method="POST", json=body)


@pytest.mark.parametrize(
    ("kind", "scripted", "status", "body"),
    [
        ("sunoapi", 430, 200, b'"code":430'),
        ("kie", 429, 429, b'"code":429'),
        ("kie", 402, 200, b'"code":402'),
        ("sunoapi", 455, 200, b'"code":455'),
        ("sunoapi", Reply(), 200, b'"data":null'),
        ("sunoapi", Reply(raw="<html>", status=502), 502, b"<html>"),
        ("sunoapi", Reply(status=503, retry_after="9"), 503, b'"code":200'),
        ("sunoapi", Reply(code=409, delay_seconds=0.1), 200, b'"code":409'),
    ],
)
async def test_scripted_answer_has_no_effect(
    kind: Kind, scripted: int | Reply, status: int, body: bytes
) -> None:
    """Whatever a script answers, no task exists, nothing is paid, and the next call works."""
    async with simulate(kind) as simulator:
        simulator.script_api(ApiFaults(codes=(scripted,), path=PATH))
        began = time.monotonic()
        answer = await submit(simulator)
        assert answer.status == status
        assert body in answer.body
        if isinstance(scripted, Reply):
            assert answer.headers.get("Retry-After") == scripted.retry_after
            assert time.monotonic() - began >= scripted.delay_seconds
        assert (simulator.tasks, simulator.credits) == ({}, FAST.credits)
        assert (await generate(simulator))["code"] == 200


async def test_scripted_cut_has_no_effect() -> None:
    """A connection that breaks before the call was taken leaves nothing behind."""
    async with simulate() as simulator:
        simulator.script_api(ApiFaults(codes=(Reply(cut=True),), path=PATH))
        with pytest.raises(aiohttp.ClientError):
            await submit(simulator)
        assert (simulator.tasks, simulator.credits) == ({}, FAST.credits)


@pytest.mark.parametrize(
    ("reply", "status", "body"),
    [
        (Reply(code=500), 200, b'"code":500'),
        (Reply(raw="<html>", status=524), 524, b"<html>"),
        (Reply(), 200, b'"data":null'),
    ],
)
async def test_wrong_answer_hides_a_task(reply: Reply, status: int, body: bytes) -> None:
    """The task exists and is paid for, although the answer says something else."""
    async with simulate() as simulator:
        simulator.next_faults = Faults(answer=reply)
        answer = await submit(simulator)
        assert answer.status == status
        assert body in answer.body
        (task_id,) = simulator.tasks
        assert simulator.credits == FAST.credits - 4
        again = await generate(simulator)
        assert (again["code"], again["data"]) == (409, {"taskId": task_id})
        assert (await ask(simulator, task_id))["data"]["successFlag"] == "SUCCESS"


@pytest.mark.parametrize("lost", [False, True])
async def test_answer_comes_late(lost: bool) -> None:  # noqa: FBT001 - the case
    """The task exists at once and is paid for, its id is told later or the call is cut then."""
    async with simulate() as simulator:
        simulator.next_faults = Faults(answer_delay_seconds=0.3, answer_lost=lost)
        call_under_way = asyncio.create_task(submit(simulator))
        began = time.monotonic()
        await become_true(lambda: bool(simulator.tasks))
        (task_id,) = simulator.tasks
        assert (await ask(simulator, task_id))["data"]["successFlag"] == "SUCCESS"
        assert simulator.credits == FAST.credits - 4
        assert not call_under_way.done()
        if lost:
            with pytest.raises(aiohttp.ClientError):
                await call_under_way
        else:
            assert task_id.encode() in (await call_under_way).body
        assert time.monotonic() - began >= 0.25


@pytest.mark.parametrize("kind", KINDS)
async def test_only_a_new_task_is_paid_for(kind: Kind) -> None:
    """Refusals, duplicates, questions and music are free; each new task has the same price."""
    dialect = DIALECTS[kind]
    price = dialect.price_credits
    async with simulate(kind, credits=2.5 * price) as simulator:

        async def left_after(answer: Any, code: int) -> float:
            assert answer["code"] == code
            return simulator.credits / price

        first = await generate(simulator)
        assert await left_after(first, 200) == 1.5
        assert await left_after(await generate(simulator), dialect.duplicate_code) == 1.5
        bad = await generate(simulator, audioId="new", author="A" * 51)
        assert await left_after(bad, dialect.bad_field_code) == 1.5
        body = {**TRACK, "audioId": "new", "callBackUrl": NOWHERE}
        _, denied = await call(simulator, PATH, body, headers={})
        assert await left_after(denied, 401) == 1.5
        assert await left_after(await ask(simulator, first["data"]["taskId"]), 200) == 1.5
        _, music = await call(simulator, "/api/v1/generate", {"prompt": "", "callBackUrl": NOWHERE})
        assert await left_after(music, 200) == 1.5
        assert await left_after(await generate(simulator, audioId="new"), 200) == 0.5
        poor = await generate(simulator, audioId="third")
        assert await left_after(poor, dialect.no_credits_code) == 0.5
        assert len(simulator.tasks) == 2
        # Without credits, too, a duplicate is told as one.
        assert await left_after(await generate(simulator), dialect.duplicate_code) == 0.5


async def test_lost_answer_is_paid_for_once() -> None:
    """Who asks again after a cut finds the task that exists already."""
    async with simulate() as simulator:
        simulator.next_faults = Faults(answer_lost=True)
        with pytest.raises(aiohttp.ClientError):
            await submit(simulator)
        assert (await generate(simulator))["code"] == 409
        assert simulator.credits == FAST.credits - 4

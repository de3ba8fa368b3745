"""The callbacks and scenarios of the provider in a box, through real sockets."""

import asyncio
import itertools
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from daemon.rules.notice import check_signature
from daemon.simulator.faults import FORGED_FILE, SCENARIOS, Callback, Faults
from daemon.simulator.provider import Kind
from daemon.simulator.simulator import Simulator
from tests.simulator.asking import (
    FAST,
    KINDS,
    TRACK,
    ask,
    become_true,
    call,
    generate,
    read_all,
    simulate,
)


class Inbox:
    """A receiver of callbacks; `statuses` are its next answers, then always 200."""

    def __init__(self) -> None:
        self.url = ""
        self.received: list[tuple[float, dict[str, Any], Mapping[str, str]]] = []
        self.statuses: list[int] = []
        self.delay_seconds = 0.0

    async def receive(self, request: web.Request) -> web.Response:
        """Keep a callback and answer it."""
        self.received.append((time.time(), await request.json(), request.headers))
        await asyncio.sleep(self.delay_seconds)
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)

    @property
    def codes(self) -> list[int]:
        """The codes that came, in order."""
        return [body["code"] for _, body, _ in self.received]


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    """Run a receiver of callbacks."""
    inbox = Inbox()
    app = web.Application()
    app.router.add_post("/callback", inbox.receive)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    inbox.url = f"http://127.0.0.1:{runner.addresses[0][1]}/callback"
    yield inbox
    await runner.cleanup()


async def download(url: str) -> bytes:
    """Fetch a file to its end, which has to come without a second of silence."""
    timeout = aiohttp.ClientTimeout(sock_read=1.0)
    async with aiohttp.request("GET", url, timeout=timeout, raise_for_status=True) as response:
        return await response.read()


@pytest.mark.parametrize("kind", KINDS)
async def test_video_is_generated_announced_and_served(kind: Kind, inbox: Inbox) -> None:
    """Every kind takes a generation, says PENDING, calls back, says SUCCESS and serves the film."""
    async with simulate(kind, credits=10, render_seconds=0.5) as simulator:
        answer = await generate(
            simulator, callBackUrl=inbox.url, author="A" * 50, domainName="ü" * 50
        )
        assert (answer["code"], answer["msg"]) == (200, "success")
        task_id = answer["data"]["taskId"]
        assert re.fullmatch("[0-9a-f]{32}", task_id)
        assert 0 < simulator.credits < 10
        pending = (await ask(simulator, task_id))["data"]
        assert (pending["successFlag"], pending["response"], pending["completeTime"]) == (
            "PENDING",
            None,
            None,
        )
        assert inbox.received == []
        await become_true(lambda: bool(inbox.received))
        link = simulator.tasks[task_id].video_url
        message = "success" if kind == "kie" else "MP4 generated successfully."
        _, body, headers = inbox.received[0]
        assert body == {
            "code": 200,
            "msg": message,
            "data": {"task_id": task_id, "video_url": link},
        }
        assert headers["Content-Type"] == "application/json"
        done = (await ask(simulator, task_id))["data"]
        assert (done["successFlag"], done["response"]) == ("SUCCESS", {"videoUrl": link})
        assert await download(link) == read_all(simulator.tasks[task_id].film)


async def test_kie_signs_each_attempt(inbox: Inbox) -> None:
    """With a key every attempt has a valid signature; a forger has none."""
    inbox.statuses = [500]
    forged = Callback(after_seconds=0.1, signed=False)
    async with simulate("kie", hmac_key="whk") as simulator:
        task_id = simulator.add_task(Faults(callbacks=(Callback(), forged)), callback_url=inbox.url)
        await become_true(lambda: len(inbox.received) == 3)
    signed = [entry for entry in inbox.received if "X-Webhook-Signature" in entry[2]]
    assert len(signed) == 2
    for at, _, headers in signed:
        timestamp, signature = headers["X-Webhook-Timestamp"], headers["X-Webhook-Signature"]
        assert check_signature(["whk"], task_id, timestamp, signature, at)
        assert abs(int(timestamp) - at) < 2


async def test_callback_is_sent_until_it_is_answered_with_200(inbox: Inbox) -> None:
    """Other answers are no receipt, not even 204; after a 200 nothing more comes."""
    inbox.statuses = [500, 204]
    async with simulate() as simulator:
        task_id = simulator.add_task(callback_url=inbox.url)
        await become_true(lambda: len(simulator.callbacks.attempts) == 3)
        await asyncio.sleep(0.1)
        assert [
            (attempt.attempt, attempt.status, attempt.task_id)
            for attempt in simulator.callbacks.attempts
        ] == [(1, 500, task_id), (2, 204, task_id), (3, 200, task_id)]
    assert len(inbox.received) == 3


async def test_callback_is_given_up_after_three_retries(inbox: Inbox) -> None:
    """A callback that is never received is sent four times, at the configured times."""
    inbox.statuses = [503] * 9
    async with simulate(callback_retry_delays=(0.05, 0.1, 0.15)) as simulator:
        simulator.add_task(callback_url=inbox.url)
        await become_true(lambda: len(inbox.received) == 4)
        await asyncio.sleep(0.3)
    times = [at for at, _, _ in inbox.received]
    assert len(times) == 4
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(pause >= wanted for pause, wanted in zip(pauses, (0.05, 0.1, 0.15), strict=True))


async def test_slow_receiver_and_none_at_all_count_as_silence(inbox: Inbox) -> None:
    """An answer after the time-out and a refused connection are both no answer."""
    inbox.delay_seconds = 5
    began = time.monotonic()
    async with simulate(callback_timeout_seconds=0.05, callback_retry_delays=()) as simulator:
        simulator.add_task(callback_url=inbox.url)
        simulator.add_task(callback_url="http://127.0.0.1:1/")
        await become_true(lambda: len(simulator.callbacks.attempts) == 2)
        assert [attempt.status for attempt in simulator.callbacks.attempts] == [None, None]
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("url", ["", "https://callback.invalid/none"])
async def test_nobody_is_called_at_an_address_that_cannot_be(url: str) -> None:
    """A task without an address, or with one below .invalid, has no callback."""
    async with simulate() as simulator:
        simulator.add_task(callback_url=url)
        await asyncio.sleep(0.05)
        assert not simulator.callbacks.attempts


async def test_shutdown_ends_callbacks_that_are_still_to_come(inbox: Inbox) -> None:
    """After the end of the simulator nothing of it runs, not even a late callback."""
    before = asyncio.all_tasks()
    async with simulate() as simulator:
        late = Faults(callbacks=(Callback(after_seconds=0.2),))
        simulator.add_task(late, callback_url=inbox.url)
        await asyncio.sleep(0.01)
    assert asyncio.all_tasks() <= before
    await asyncio.sleep(0.3)
    assert inbox.received == []


async def test_error_that_no_receiver_can_cause_is_raised_at_the_end() -> None:
    """A bug in sending is not taken for a silent receiver."""

    async def broken(_url: str, _body: bytes, _headers: Mapping[str, str]) -> int:
        raise LookupError("bug")

    simulator = Simulator(FAST, broken)

    async def fail() -> None:
        async with simulator.serve():
            simulator.add_task(callback_url="http://127.0.0.1:1/")
            await asyncio.sleep(0.02)

    with pytest.raises(LookupError, match="bug"):
        await fail()


@pytest.mark.parametrize(
    ("outcome", "error_code"), [("GENERATE_MP4_FAILED", 451), ("CREATE_TASK_FAILED", 400)]
)
async def test_failure_is_told_both_ways(outcome: Any, error_code: int, inbox: Inbox) -> None:
    """A failed generation has its code in callback and record, and no link."""
    async with simulate() as simulator:
        faults = Faults(outcome=outcome, error_code=error_code)
        task_id = simulator.add_task(faults, callback_url=inbox.url)
        await become_true(lambda: bool(inbox.received))
        _, body, _ = inbox.received[0]
        assert body["code"] == error_code
        assert body["data"] == {"task_id": task_id, "video_url": None}
        record = (await ask(simulator, task_id))["data"]
        assert (record["successFlag"], record["errorCode"]) == (outcome, error_code)
        assert record["errorMessage"]
        assert record["response"] is None


async def test_unfinished_task_is_finished_by_hand(inbox: Inbox) -> None:
    """A task stays PENDING until the test ends it; then the callback comes."""
    async with simulate() as simulator:
        task_id = simulator.add_task(finished=False, callback_url=inbox.url)
        assert (await ask(simulator, task_id))["data"]["successFlag"] == "PENDING"
        assert inbox.received == []
        simulator.finish(task_id)
        assert (await ask(simulator, task_id))["data"]["successFlag"] == "SUCCESS"
        await become_true(lambda: bool(inbox.received))


async def test_forged_link_is_a_playable_film_of_nobody(inbox: Inbox) -> None:
    """A forger's link works, comes first, and holds another film than the task's."""
    async with simulate() as simulator:
        task_id = (await generate(simulator, callBackUrl=inbox.url, audioId="sim-forged-link"))[
            "data"
        ]["taskId"]
        await become_true(lambda: bool(inbox.received))
        forged = inbox.received[0][1]["data"]
        assert forged == {"task_id": task_id, "video_url": simulator.base_url + FORGED_FILE}
        film = await download(forged["video_url"])
        assert film[4:8] == b"ftyp"
        assert film != read_all(simulator.tasks[task_id].film)


@pytest.mark.parametrize(
    ("audio_id", "codes"),
    [
        ("sim-lost-callback", []),
        ("sim-duplicate-callback", [200, 200]),
        ("sim-forged-failure", [500]),
        ("sim-callback-disorder", [200]),
        ("sim-failure", [500]),
        ("sim-create-failure", [400]),
        ("sim-audio-failure", [451]),
        ("sim-callback-exception", []),
        ("none of these", [200]),
    ],
)
async def test_scenario_is_picked_by_audio_id(
    audio_id: str, codes: list[int], inbox: Inbox
) -> None:
    """The audio id decides which callbacks come at once."""
    async with simulate() as simulator:
        await generate(simulator, callBackUrl=inbox.url, audioId=audio_id)
        await asyncio.sleep(0.1)
    assert inbox.codes == codes


@pytest.mark.parametrize(
    "audio_id", [name for name in SCENARIOS if "failure" not in name or "forged" in name]
)
async def test_every_paid_film_can_be_had_in_the_end(audio_id: str, inbox: Inbox) -> None:
    """In each scenario that makes a film, asking and fetching again leads to its true bytes.

    A link that is refused for good is made up for by kie alone.
    """
    async with simulate("kie" if audio_id == "sim-refused-link" else "sunoapi") as simulator:
        body = {**TRACK, "audioId": audio_id, "callBackUrl": inbox.url}
        try:
            await call(simulator, "/api/v1/mp4/generate", body)
        except aiohttp.ClientError:
            assert audio_id == "sim-lost-answer"
        (task_id,) = simulator.tasks
        troubles = 0
        if audio_id == "sim-slow-download":
            assert simulator.tasks[task_id].file_fault.bytes_per_second == 250_000
            return
        while await _try_to_fetch(simulator, task_id) != read_all(simulator.tasks[task_id].film):
            troubles += 1
            assert troubles < 9
        faults, description = SCENARIOS[audio_id]
        assert (troubles > 0) == bool(
            faults.replies or any(fault.redirect_to is None for fault in faults.files)
        )
        assert description


async def _try_to_fetch(simulator: Simulator, task_id: str) -> bytes | None:
    try:
        link = (await ask(simulator, task_id))["data"]["response"]["videoUrl"]
        if simulator.options.kind == "kie" and simulator.tasks[task_id].file_fault_shown:
            _, answer = await call(simulator, "/api/v1/common/download-url", {"url": link})
            link = answer["data"]
        return await download(link)
    except (aiohttp.ClientError, TimeoutError, LookupError, TypeError, ValueError):
        return None


async def test_requests_and_callbacks_can_be_looked_at(inbox: Inbox) -> None:
    """What was asked and how callbacks were answered is shown, the looking itself is not."""
    async with simulate() as simulator:
        task_id = (await generate(simulator, callBackUrl=inbox.url))["data"]["taskId"]
        await ask(simulator, task_id)
        headers = {"Range": "bytes=5-6", "If-Range": '"x"'}
        async with aiohttp.request("GET", simulator.tasks[task_id].video_url, headers=headers):
            pass
        await become_true(lambda: bool(simulator.callbacks.attempts))
        _, shown = await call(simulator, "/simulator/requests")
        for entry in shown["requests"] + shown["callbacks"]:
            assert abs(entry.pop("at") - time.time()) < 5
        nothing = {"task_id": None, "range": None, "if_range": None}
        assert shown == {
            "requests": [
                {"method": "POST", "path": "/api/v1/mp4/generate", **nothing},
                {
                    **nothing,
                    "method": "GET",
                    "path": "/api/v1/mp4/record-info",
                    "task_id": task_id,
                },
                {
                    "method": "GET",
                    "path": f"/files/{task_id}.mp4",
                    "task_id": task_id,
                    "range": "bytes=5-6",
                    "if_range": '"x"',
                },
            ],
            "callbacks": [{"task_id": task_id, "url": inbox.url, "attempt": 1, "status": 200}],
        }
        assert await call(simulator, "/simulator/requests") != (200, {})
        assert len(simulator.requests) == 3

"""The one who spends credits: a video is paid for once, and what is paid for is known."""

import asyncio
from typing import Any

import pytest

from daemon.gates import Gates
from daemon.rules.failure import Reason
from daemon.rules.schedule import MINUTE, SECOND
from daemon.rules.submission import Fate, Next
from daemon.simulator.faults import ApiFaults, Faults, Reply
from daemon.simulator.provider import Kind, SimulatorOptions
from daemon.simulator.simulator import Simulator
from daemon.store import Store
from tests.stations.submitting import (
    CALLBACK,
    GENERATE,
    START,
    TERMS,
    WEEK,
    Advance,
    Now,
    Start,
    named,
    refuse_post,
    run,
    sent,
    serve,
    shut,
    until,
)


async def test_a_wish_is_sent_and_named(start: Start, moves: list[Any]) -> None:
    """With the public address of our own callbacks, and the words on the film."""
    async with serve() as simulator, start(simulator) as station:
        done = await station.submit(author="Ann", domain_name="ann.example.com")
        (task,) = simulator.tasks.values()
        assert (done.task.task_id, done.task.state) == (task.task_id, "expected")
        assert done.receipt is not None
        assert done.reply is not None
        assert done.decision is not None
        assert (done.receipt.fate, done.decision.next) == (Fate.TAKEN, Next.NAME)
        assert task.task_id.encode() in done.reply.body
        assert (task.callback_url, task.track) == (CALLBACK, ("music", "audio"))
        assert done.task.ask_at == START + TERMS.pace.first_after_ms
        assert done.task.deadline_at == START + WEEK
        assert not done.known_before
        assert (station.rings, station.credit_rings) == (1, 1)
        assert done.task.source == "submit"
    assert moves == []


@pytest.mark.parametrize("kind", ["sunoapi", "kie"])
async def test_a_second_wish_for_one_track_is_not_paid_for(start: Start, kind: Kind) -> None:
    """The provider tells the id of the first, or our own ledger knows it."""
    async with serve(kind) as simulator, start(simulator) as station:
        one = await station.submit()
        paid = simulator.credits
        two = await station.submit()
        assert (len(simulator.tasks), simulator.credits, sent(simulator)) == (1, paid, 2)
        assert two.known_before
        assert two.task.task_id == one.task.task_id


async def test_a_video_that_somebody_else_asked_for_waits_for_a_person(start: Start) -> None:
    """kie.ai does not say which one it is, and nobody here knows it: nothing is paid twice."""
    async with serve("kie") as simulator, start(simulator) as station:
        made = (await station.submit()).task
        # As if it had been asked for in the provider's own web page.
        await station.store.commits.connection.execute_fetchall("DELETE FROM submission")
        paid = simulator.credits
        two = await station.submit()
        assert (len(simulator.tasks), simulator.credits) == (1, paid)
        assert two.decision is not None
        assert two.decision.next is Next.LEAVE_OPEN
        assert two.task.task_id != made.task_id
        assert "did not say its id" in (two.task.message or "")
        assert (two.task.state, two.task.next_attempt_at) == ("expected", None)


@pytest.mark.parametrize("patient", [True, False])
async def test_a_lost_answer_is_found_again(start: Start, *, patient: bool) -> None:
    """The second call names what the first one made; it is ours, and paid for once."""
    async with serve() as simulator, start(simulator) as station:
        simulator.next_faults = Faults(answer_lost=True)
        done = await station.submit(patient=patient)
        assert [done.task.task_id] == list(simulator.tasks)
        assert (simulator.credits, sent(simulator)) == (996, 2)
        assert not done.known_before
        intent = await station.intent()
        assert (intent.doubts, intent.unheard, intent.tries) == (1, 1, 2)
        assert shut(station) == []


@pytest.mark.parametrize("patient", [True, False])
@pytest.mark.parametrize("answer", [None, Reply(raw="<html>", status=502), Reply(raw="{")])
async def test_without_an_id_it_stays_open_for_a_person(
    start: Start, answer: Reply | None, *, patient: bool
) -> None:
    """kie.ai does not say which video exists: nothing is sent a third time, whatever rings."""
    async with serve("kie") as simulator, start(simulator) as station:
        simulator.next_faults = Faults(answer_lost=answer is None, answer=answer)
        done = await station.submit(patient=patient)
        assert done.decision is not None
        assert done.decision.next is Next.LEAVE_OPEN
        for _ in range(3):
            station.submitter.ring()
            await asyncio.sleep(0.02)
        assert (len(simulator.tasks), sent(simulator)) == (1, 2)
        task = await station.task()
        assert (task.state, task.has_local_id, task.next_attempt_at) == ("expected", True, None)
        assert "has a video of this track already" in (task.message or "")
        assert (await station.intent()).settled_at is None


async def test_two_cuts_leave_it_open(start: Start) -> None:
    """Nobody knows whether there is a video, and the third call is a person's."""
    async with serve() as simulator, start(simulator) as station:
        simulator.script_api(ApiFaults(codes=(Reply(cut=True),), repeat=2, path=GENERATE))
        done = await station.submit()
        assert "the connection broke" in (done.task.message or "")
        assert (done.task.state, sent(simulator)) == ("expected", 2)
        assert await station.submitter.send_again(done.task)
        assert [(await named(station)).task_id] == list(simulator.tasks)
        assert (await station.intent()).unheard == 2


async def test_two_server_errors_are_a_refusal(start: Start) -> None:
    """The provider says twice, in words, that it made nothing; a cut in between is no such word."""
    async with serve() as simulator, start(simulator) as station:
        simulator.script_api(ApiFaults(codes=(500, 500, Reply(cut=True), 500), path=GENERATE))
        done = await station.submit()
        assert (done.task.state, done.task.reason, done.task.provider_code) == (
            *("failed", "provider_error"),
            500,
        )
        assert (await station.submit()).task.state == "expected"


async def test_an_unreached_provider_raises_no_doubt(
    store: Store, gates: Gates, now: Now, advance: Advance
) -> None:
    """Nothing was sent: it goes on, with growing pauses, until somebody listens."""
    simulator = Simulator(SimulatorOptions(api_key="key"), refuse_post)
    async with simulator.serve() as base_url:
        port = int(base_url.rpartition(":")[2])
    async with run(store, gates, now, base_url, "sunoapi") as station:
        done = await station.submit()
        assert done.receipt is not None
        assert (done.receipt.fate, done.reply) == (Fate.DEFERRED, None)
        for tries in range(1, 9):

            async def has_tried(tries: int = tries) -> bool:
                intent = await station.intent()
                return intent.tries == tries and not intent.calling

            await until(has_tried)
            intent = await station.intent()
            assert (intent.doubts, intent.unheard) == (0, 0)
            pause = (intent.send_at or 0) - now()
            assert 2500 <= pause <= min(10 * MINUTE, 5 * SECOND << (tries - 1))
            assert (await station.task()).next_attempt_at == intent.send_at
            advance(pause)
            gates.probe_now()
            if tries < 8:
                station.submitter.ring()
        assert shut(station) == ["api"]
        async with simulator.serve(port=port):
            station.submitter.ring()
            assert [(await named(station)).task_id] == list(simulator.tasks)
        assert sent(simulator) == 1
        assert shut(station) == []


@pytest.mark.parametrize(
    ("kind", "code", "gate"),
    [
        ("sunoapi", 430, "rate"),
        ("sunoapi", 405, "rate"),
        ("kie", 429, "rate"),
        ("sunoapi", 455, "maintenance"),
        ("kie", 455, "maintenance"),
        ("sunoapi", 404, None),
    ],
)
async def test_a_deferred_wish_is_sent_when_the_gate_opens(
    start: Start, advance: Advance, kind: Kind, code: int, gate: str | None
) -> None:
    """Whoever submits hears it at once and may leave."""
    async with serve(kind) as simulator, start(simulator) as station:
        simulator.script_api(ApiFaults(codes=(code,), path=GENERATE))
        done = await station.submit()
        assert done.decision is not None
        assert done.decision.next is Next.RESEND
        assert (done.task.state, done.task.provider_code) == ("expected", code)
        assert shut(station) == ([gate] if gate else [])
        if gate:
            other = await station.submit(audio_id="other")
            assert (other.receipt, other.task.has_local_id) == (None, True)
        advance(10 * MINUTE)
        station.gates.probe_now()
        station.submitter.ring()
        task = await named(station)
        assert (task.message, task.task_id in simulator.tasks) == (None, True)
        if gate:
            await named(station, 2)
        assert shut(station) == []
        assert (await station.intent()).doubts == 0


async def test_a_wrong_key_refuses_at_once(start: Start, advance: Advance) -> None:
    """The call of a wish is its own probe: nobody waits before a shut gate for such an answer."""
    async with serve() as simulator, start(simulator, "wrong") as station:
        for number in (1, 2):
            async with asyncio.timeout(2):
                done = await station.submit(audio_id=f"a{number}")
            assert (done.task.state, done.task.reason) == ("failed", Reason.UNAUTHORIZED)
            assert shut(station) == ["key"]
            advance(MINUTE)
        assert (simulator.tasks, sent(simulator)) == ({}, 2)
        assert (await station.intent()).settled_at == START


@pytest.mark.parametrize("kind", ["sunoapi", "kie"])
async def test_without_credits_a_success_opens_the_gate(start: Start, kind: Kind) -> None:
    """What was refused for want of them is sent again when a person wants it."""
    async with serve(kind, credits=1) as simulator, start(simulator) as station:
        refused = await station.submit()
        assert (refused.task.state, refused.task.reason) == ("failed", Reason.OUT_OF_CREDITS)
        assert shut(station) == ["credits"]
        simulator.credits = 100
        assert (await station.submit(audio_id="other")).task.task_id in simulator.tasks
        assert shut(station) == []
        assert not await station.submitter.send_again(await station.task(2))
        assert sent(simulator) == 2


async def test_a_lost_answer_and_an_empty_account_stay_open(start: Start) -> None:
    """The call that nobody heard of may have spent the last credits."""
    async with serve() as simulator, start(simulator) as station:
        simulator.script_api(ApiFaults(codes=(Reply(cut=True), 429), path=GENERATE))
        done = await station.submit()
        assert done.decision is not None
        assert done.decision.next is Next.RESEND
        assert (done.task.state, done.task.provider_code) == ("expected", 429)
        assert shut(station) == ["credits"]


async def test_many_wishes_at_once_are_each_paid_once(start: Start) -> None:
    """And the calls overlap, four in a lane."""
    async with serve() as simulator, start(simulator) as station:
        done = await asyncio.gather(*(station.submit(audio_id=f"a{n}") for n in range(12)))
        assert {one.task.task_id for one in done} == set(simulator.tasks)
        assert (len(simulator.tasks), simulator.credits) == (12, 1000 - 12 * 4)


async def test_two_wishes_for_one_track_at_once_are_one_video(start: Start) -> None:
    """Whichever comes first is paid, and both local ids find it."""
    async with serve() as simulator, start(simulator) as station:
        done = await asyncio.gather(*(station.submit() for _ in range(4)))
        assert {one.task.task_id for one in done} == set(simulator.tasks)
        assert (len(simulator.tasks), simulator.credits) == (1, 996)
        assert sum((await station.store.counts()).values()) == 1


@pytest.mark.parametrize("lost", [True, False])
async def test_the_application_is_told_of_its_own_video_alone(start: Start, *, lost: bool) -> None:
    """What was there before is no news to it; what our own lost call made is."""
    async with serve() as simulator, start(simulator) as station:
        if not lost:
            await station.submit()
        else:
            simulator.next_faults = Faults(answer_lost=True)
        await station.submit(application_url="https://app.example.com/done")
        intent = await station.intent(1 if lost else 2)
        assert (intent.application_url is not None) == lost
        assert (await station.task(1)).task_id in simulator.tasks

"""Whoever submits waits a while; what happens when gates, ledger or patience do not last."""

import asyncio
import json
from dataclasses import replace

import pytest

from daemon.rules.failure import Reason
from daemon.rules.lifecycle import Cause
from daemon.rules.schedule import MINUTE
from daemon.rules.submission import Next
from daemon.rules.verdict import Verdict
from daemon.simulator.faults import ApiFaults, Faults, Reply
from daemon.store import Store
from tests.stations.submitting import (
    GENERATE,
    START,
    TERMS,
    WEEK,
    WISH,
    Advance,
    Break,
    Start,
    named,
    sent,
    serve,
    until,
)


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("patient", [True, False])
async def test_a_slow_answer_is_waited_for(start: Start, *, patient: bool) -> None:
    """Whoever submits may leave; what is on its way is not withdrawn, and sent once."""
    async with serve() as simulator, start(simulator) as station:
        simulator.next_faults = Faults(answer_delay_seconds=0.6)
        done = await station.submit(patient=patient)
        assert (done.receipt, done.task.state, done.task.has_local_id) == (None, "expected", True)
        assert [(await named(station)).task_id] == list(simulator.tasks)
        assert sent(simulator) == 1


async def test_a_full_ledger_loses_no_answer(start: Start, break_ledger: Break) -> None:
    """It is carried until the ledger takes it, and whoever waits hears it after that."""
    async with serve() as simulator, start(simulator) as station:
        simulator.next_faults = Faults(answer_delay_seconds=0.2)
        waiting = asyncio.create_task(station.submit())
        await until(lambda: asyncio.sleep(0, bool(simulator.tasks)))
        await break_ledger(broken=True)
        await asyncio.sleep(0.4)
        assert not waiting.done()
        await break_ledger(broken=False)
        done = await waiting
        assert [done.task.task_id] == list(simulator.tasks)
        assert sent(simulator) == 1


async def test_a_wish_that_cannot_be_recorded_is_not_sent(
    start: Start, break_ledger: Break
) -> None:
    """Nothing that is not in the ledger can be in flight."""
    async with serve() as simulator, start(simulator) as station:
        await break_ledger(broken=True)
        with pytest.raises(Exception, match="did not commit"):
            await station.submit()
        await asyncio.sleep(0.05)
        await break_ledger(broken=False)
        await station.submit()
        assert sent(simulator) == 1


async def test_a_resend_before_a_shut_gate_holds_back_no_first_call(start: Start) -> None:
    """Two lanes: an empty account stops what has to be sent again, and nothing else."""
    async with serve() as simulator, start(simulator) as station:
        simulator.script_api(ApiFaults(codes=(404,) * 9, path=GENERATE))
        for number in range(9):
            await station.submit(audio_id=f"a{number}")
        station.gates.close("credits", "none")
        for number in range(1, 10):
            await station.store.intents.reopen(await station.intent(number), START)
        station.submitter.ring()
        await asyncio.sleep(0.05)
        assert sent(simulator) == 9
        async with asyncio.timeout(2):
            assert (await station.submit()).task.task_id in simulator.tasks
        for number in range(1, 10):
            await named(station, number)


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("code", [430, 455, 404])
async def test_who_hears_of_a_deferral_decides_alone(
    start: Start, advance: Advance, code: int
) -> None:
    """An application behind the gateway tries again itself; nothing is sent behind its back."""
    async with serve() as simulator, start(simulator) as station:
        simulator.script_api(ApiFaults(codes=(code,), path=GENERATE))
        done = await station.submit(patient=False)
        assert done.reply is not None
        assert (done.task.state, done.task.reason) == ("failed", Reason.PROVIDER_ERROR)
        advance(10 * MINUTE)
        station.gates.probe_now()
        station.submitter.ring()
        await asyncio.sleep(0.05)
        assert sent(simulator) == 1


@pytest.mark.usefixtures("hurry")
async def test_who_cannot_wait_for_a_gate_withdraws(start: Start) -> None:
    """Its wish is never sent, and stands in nobody's way."""
    async with serve() as simulator, start(simulator) as station:
        station.gates.close("maintenance", "closed")
        done = await station.submit(patient=False)
        assert (done.receipt, done.task.state, done.task.reason) == (
            *(None, "failed"),
            Reason.PROVIDER_ERROR,
        )
        assert "could not be asked in time" in (done.task.message or "")
        station.gates.open("maintenance")
        assert (await station.submit(audio_id="other")).task.task_id in simulator.tasks
        assert sent(simulator) == 1
        assert station.submitter._withdrawn == station.submitter._begun == set()


@pytest.mark.usefixtures("hurry")
async def test_what_may_have_been_accepted_is_not_withdrawn(start: Start) -> None:
    """The answer was lost and the gate shut meanwhile: it is looked after, also unwatched."""
    async with serve() as simulator, start(simulator) as station:
        simulator.next_faults = Faults(answer_delay_seconds=0.15, answer_lost=True)
        waiting = asyncio.create_task(station.submit(patient=False))
        await until(lambda: asyncio.sleep(0, bool(simulator.tasks)))
        station.gates.close("maintenance", "closed")
        done = await waiting
        assert (done.receipt, done.task.state) == (None, "expected")
        station.gates.open("maintenance")
        station.submitter.ring()
        assert [(await named(station)).task_id] == list(simulator.tasks)
        assert simulator.credits == 996


@pytest.mark.usefixtures("hurry")
async def test_a_withdrawal_is_carried_to_a_full_ledger(start: Start, break_ledger: Break) -> None:
    """Or it would block its lane, and the next process would send what nobody waits for."""
    async with serve() as simulator, start(simulator) as station:
        station.gates.close("maintenance", "closed")
        waiting = asyncio.create_task(station.submit(patient=False))
        await asyncio.sleep(0.1)
        await break_ledger(broken=True)
        await asyncio.sleep(0.4)
        station.gates.open("maintenance")
        await asyncio.sleep(0.1)
        await break_ledger(broken=False)
        assert (await waiting).task.state == "failed"
        assert (await station.submit(audio_id="other")).task.task_id in simulator.tasks
        assert sent(simulator) == 1


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("patient", [True, False])
async def test_who_hangs_up(start: Start, *, patient: bool) -> None:
    """An application asks again, so nothing is bought behind its back; the owner's wish stands."""
    async with serve() as simulator, start(simulator) as station:
        if not patient:
            station.gates.close("rate", "busy")
        else:
            simulator.next_faults = Faults(answer_delay_seconds=0.3)
        waiting = asyncio.create_task(station.submit(patient=patient))
        await until(lambda: asyncio.sleep(0, bool(station.submitter._waiting)))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert station.submitter._waiting == {}
        station.gates.open("rate")
        station.submitter.ring()
        if patient:
            assert [(await named(station)).task_id] == list(simulator.tasks)
        else:
            assert (await station.task()).state == "failed"
            assert sent(simulator) == 0


async def test_who_asks_again_joins(start: Start) -> None:
    """Two who want the same film at once hear the same answer, and it is asked for once."""
    async with serve() as simulator, start(simulator) as station:
        simulator.next_faults = Faults(answer_delay_seconds=0.2)
        one, two = await asyncio.gather(station.submit(patient=False), station.submit(patient=True))
        assert one.task.task_id == two.task.task_id == next(iter(simulator.tasks))
        assert sent(simulator) == 1
        other = await station.submit(author="somebody else")
        assert other.known_before
        assert sent(simulator) == 2


async def test_without_a_key_nothing_is_sent(start: Start) -> None:
    """Until there is one, and somebody rings."""
    async with serve() as simulator, start(simulator) as station:
        station.terms = replace(TERMS, has_key=False)
        station.submitter.ring()
        await asyncio.sleep(0.02)
        waiting = asyncio.create_task(station.submit())
        await asyncio.sleep(0.1)
        assert sent(simulator) == 0
        station.terms = TERMS
        station.submitter.ring()
        assert (await waiting).task.task_id in simulator.tasks


async def test_every_application_that_joins_is_called(store: Store, start: Start) -> None:
    """Two orders for one film: it is paid for once, and both hear of it."""
    async with serve() as simulator, start(simulator) as station:
        simulator.next_faults = Faults(answer_delay_seconds=0.2, callbacks=())
        urls = ["http://127.0.0.1:9/order/1", "http://127.0.0.1:9/order/2"]
        done = await asyncio.gather(
            *(station.submit(patient=False, application_url=url) for url in urls)
        )
        assert len({one.task.task_id for one in done}) == len(simulator.tasks) == sent(simulator)
        task = done[0].task
        assert len(await store.tasks()) == 1
        changes = {"reason": "generate_failed", "ask_at": None}
        await store.settle(task, START, lambda _: Verdict(Cause.DECLINED, changes))
        told = await store.commits.connection.execute_fetchall(
            "SELECT target FROM outbox ORDER BY target"
        )
        assert [row[0] for row in told] == urls


async def test_who_asks_for_a_wish_that_rests_sends_it_again(start: Start) -> None:
    """As a person would: the provider names the film of the first call."""
    async with serve() as simulator, start(simulator) as station:
        simulator.next_faults = Faults(answer_lost=True)
        simulator.script_api(ApiFaults(codes=(Reply(cut=True),), repeat=2, path=GENERATE))
        first = await station.submit()
        assert first.task.next_attempt_at is None
        second = await station.submit()
        assert second.task.task_id in simulator.tasks
        assert len(simulator.tasks) == 1


async def test_an_id_of_another_track_is_not_believed(start: Start) -> None:
    """The ledger knows whose it is; the film of one track is not told as that of another."""
    async with serve() as simulator, start(simulator) as station:
        first = (await station.submit()).task
        told = json.dumps({"code": 200, "msg": "success", "data": {"taskId": first.task_id}})
        simulator.next_faults = Faults(answer=Reply(raw=told))
        second = await station.submit(audio_id="another")
        assert second.task.task_id != first.task_id
        assert second.decision is not None
        assert second.decision.next is Next.LEAVE_OPEN
        assert "another track" in (second.task.message or "")


async def test_a_new_process_withdraws_what_applications_did_not_get_sent(
    store: Store, start: Start
) -> None:
    """Their connections broke with the old one, and they ask again; the owner's wish is sent."""
    async with serve() as simulator, start(simulator) as station:
        station.terms = replace(TERMS, has_key=False)
        station.submitter.ring()
        await asyncio.sleep(0.02)
        for number, source in enumerate(("gateway", "submit", "gateway")):
            await store.intents.record(
                f"submit-{number}", WISH, source=source, label=None, now=1, deadline_at=WEEK
            )
        sent_once = await station.intent(3)
        assert await store.intents.begin(sent_once) is not None
        await store.intents.recover(2)
        await store.intents.withdraw_unsent(3)
        states = [(await station.task(number)).state for number in (1, 2, 3)]
        assert states == ["failed", "expected", "expected"]
        assert (await station.intent(1)).settled_at == 3
        assert (await station.task(1)).message == "the daemon stopped before it was sent"

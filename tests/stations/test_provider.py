"""Calls to the provider: one pace, and gates that its answers shut for all calls together."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import pytest

from daemon.config.secret import Secret
from daemon.gates import Gates
from daemon.outbound import api_session
from daemon.provider import BURST, Provider
from daemon.rules.dialect import Outcome
from daemon.rules.notice import Evidence
from daemon.rules.schedule import API_FAILURES, HOUR, MINUTE, SECOND
from daemon.rules.submission import Fate
from daemon.simulator.faults import ApiFaults, Faults, Reply
from daemon.simulator.music import FOREIGN_AUDIO, FOREIGN_MUSIC
from daemon.simulator.provider import Kind, SimulatorOptions
from daemon.simulator.simulator import Simulator

Advance = Callable[[int], None]
Now = Callable[[], int]


async def _refuse_post(_url: str, _body: bytes, _headers: Mapping[str, str]) -> int:
    raise ConnectionRefusedError


@asynccontextmanager
async def connect(
    gates: Gates, now: Now, kind: Kind = "sunoapi", *, key: str = "key", rate: float = 1000
) -> AsyncIterator[tuple[Provider, Simulator]]:
    """Run a provider of one kind, and the station that asks it."""
    simulator = Simulator(SimulatorOptions(kind=kind, api_key="key", credits=30), _refuse_post)
    async with (
        simulator.serve() as base_url,
        api_session(base_url, lambda: Secret(key), 2) as session,
    ):
        yield Provider(session, kind, gates, now, rate), simulator


def shut(gates: Gates) -> list[str]:
    """Return the names of the gates that are shut."""
    return [gate.name for gate in gates.shut()]


@pytest.mark.parametrize("kind", ["sunoapi", "apibox", "kie"])
async def test_an_answer_is_read_and_dated(gates: Gates, now: Now, kind: Kind) -> None:
    """The link of a film that was made, nothing about one that nobody knows; both are answers."""
    async with connect(gates, now, kind) as (provider, simulator):
        assert provider.answered_at is None
        task_id = simulator.add_task(Faults(callbacks=()))
        answer = await provider.ask(task_id)
        assert answer.notice is not None
        assert answer.notice.evidence is Evidence.SUCCESS
        assert answer.notice.link == simulator.tasks[task_id].video_url
        assert provider.answered_at == now()
        assert (await provider.ask("unknown")).outcome is Outcome.UNKNOWN
        assert await provider.balance() == 30
    assert shut(gates) == []


@pytest.mark.parametrize(
    ("kind", "reply", "gate", "pause"),
    [
        ("sunoapi", Reply(code=401), "key", MINUTE),
        ("sunoapi", Reply(code=403), "key", MINUTE),
        ("sunoapi", Reply(raw="", status=401), "key", MINUTE),
        ("sunoapi", Reply(code=429), "credits", 10 * MINUTE),
        ("kie", Reply(code=402), "credits", 10 * MINUTE),
        ("kie", Reply(code=429), "rate", 10 * SECOND),
        ("sunoapi", Reply(code=430), "rate", 10 * SECOND),
        ("sunoapi", Reply(code=430, retry_after="40"), "rate", 40 * SECOND),
        ("sunoapi", Reply(code=430, retry_after="86400"), "rate", HOUR),
        ("sunoapi", Reply(raw="busy", status=429), "rate", 10 * SECOND),
        ("sunoapi", Reply(code=405), "rate", 10 * SECOND),
        ("sunoapi", Reply(code=455), "maintenance", 5 * MINUTE),
        ("kie", Reply(code=455), "maintenance", 5 * MINUTE),
    ],
)
async def test_an_answer_about_our_calls_shuts_their_gate(
    gates: Gates,
    now: Now,
    announced: list[str],
    *,
    kind: Kind,
    reply: Reply,
    gate: str,
    pause: int,
) -> None:
    """The same number means different things to different providers; the body decides."""
    async with connect(gates, now, kind) as (provider, simulator):
        for call in (lambda: provider.ask("a"), provider.balance):
            simulator.script_api(ApiFaults(codes=(reply,)))
            await call()
            (found,) = gates.shut()
            assert (found.name, found.probe_at - now()) == (gate, pause)
            assert provider.answered_at is None
            gates.open(gate)
    assert announced == [f"gate.closed {gate}", f"gate.opened {gate}"] * 2


async def test_credits_hold_no_question_back(gates: Gates, now: Now) -> None:
    """Asking is free: only submitting waits for money, until a balance is seen."""
    async with connect(gates, now) as (provider, simulator):
        gates.close("credits", "none")
        async with asyncio.timeout(1):
            await provider.permit()
        await provider.ask("a")
        assert shut(gates) == ["credits"]
        simulator.credits = 0
        assert await provider.balance() == 0
        assert shut(gates) == ["credits"]
        simulator.credits = 1
        assert await provider.balance() == 1
    assert shut(gates) == []


@pytest.mark.parametrize(
    "reply",
    [Reply(code=500), Reply(raw="{"), Reply(status=502), Reply(status=302)],
)
async def test_an_api_that_fails_is_left_alone_after_five_calls(
    gates: Gates, now: Now, announced: list[str], advance: Advance, reply: Reply
) -> None:
    """Not after four; one success forgets them; then a probe at a time, with growing pauses."""
    async with connect(gates, now) as (provider, simulator):
        simulator.script_api(ApiFaults(codes=(reply,), repeat=API_FAILURES - 1))
        for _ in range(API_FAILURES - 1):
            assert (await provider.ask("a")).outcome is Outcome.TROUBLE
        await provider.ask("a")
        simulator.script_api(ApiFaults(codes=(reply,), repeat=API_FAILURES + 1))
        for _ in range(API_FAILURES - 1):
            await provider.ask("a")
        assert shut(gates) == []
        await provider.ask("a")
        assert shut(gates) == ["api"]
        advance(30 * SECOND)
        await provider.permit()
        await provider.ask("a")
        (found,) = gates.shut()
        assert (found.closings, found.probe_at - now()) == (2, MINUTE)
        advance(MINUTE)
        await provider.permit()
        await provider.ask("a")
    assert announced == ["gate.closed api", "gate.opened api"]


@pytest.mark.parametrize(
    "reply", [Reply(code=404), Reply(raw='{"code": 200, "data": 5}'), Reply(raw='{"code": 200}')]
)
async def test_an_odd_answer_is_trouble_of_one_task_alone(
    gates: Gates, now: Now, reply: Reply
) -> None:
    """One mistyped id, asked again and again, must not hold back the questions about others."""
    async with connect(gates, now) as (provider, simulator):
        simulator.script_api(ApiFaults(codes=(reply,), repeat=2 * API_FAILURES))
        for _ in range(2 * API_FAILURES):
            assert (await provider.ask("a")).outcome is Outcome.ODD
    assert shut(gates) == []


async def test_a_wrong_key_lets_one_probe_through(
    gates: Gates, now: Now, announced: list[str], advance: Advance
) -> None:
    """Nobody calls while the key is wrong, but one, after each pause; a good key opens it."""
    async with connect(gates, now) as (provider, simulator):
        simulator.script_api(ApiFaults(codes=(401,), repeat=2))
        await provider.permit()
        await provider.ask("a")
        waiting = [asyncio.create_task(provider.permit()) for _ in range(3)]
        for pause in (MINUTE, 2 * MINUTE):
            advance(pause)
            gates._bell.ring()
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=1)
            await asyncio.sleep(0.02)
            passed = [task for task in waiting if task.done()]
            assert len(passed) == 1
            waiting.remove(passed[0])
            await provider.ask("a")
        async with asyncio.timeout(1):
            await asyncio.gather(*waiting)
    assert announced == ["gate.closed key", "gate.opened key"]


async def test_a_burst_of_refusals_shuts_a_gate_once(
    gates: Gates, now: Now, announced: list[str]
) -> None:
    """Five answers to one burst are one piece of news: the first pause, not the fifth."""
    async with connect(gates, now) as (provider, simulator):
        simulator.script_api(ApiFaults(codes=(401,), repeat=5))
        await asyncio.gather(*(provider.ask("a") for _ in range(5)))
    (found,) = gates.shut()
    assert (found.closings, found.probe_at - found.since) == (1, MINUTE)
    assert announced == ["gate.closed key"]


@pytest.mark.parametrize("code", [430, 500])
async def test_a_call_on_its_way_opens_no_gate(
    gates: Gates, now: Now, announced: list[str], advance: Advance, code: int
) -> None:
    """A success that was asked before the gate shut proves nothing about it."""
    async with connect(gates, now) as (provider, simulator):
        task_id = simulator.add_task(
            Faults(callbacks=(), replies=(Reply(flag="PENDING", delay_seconds=0.8),))
        )
        slow = asyncio.create_task(provider.ask(task_id))
        await asyncio.sleep(0.1)
        simulator.script_api(ApiFaults(codes=(code,), repeat=API_FAILURES))
        for _ in range(API_FAILURES):
            await provider.ask("a")
        before = gates.shut()
        assert len(before) == 1
        assert (await slow).outcome is Outcome.ANSWERED
        assert gates.shut() == before
        advance(HOUR)
        await provider.permit()
        await provider.ask("a")
    assert [event.partition(" ")[0] for event in announced] == ["gate.closed", "gate.opened"]


async def test_a_gate_that_shuts_while_a_call_waits_for_its_turn_holds_it(
    gates: Gates, now: Now
) -> None:
    """A permission is worth what it says when the call is made, not when it was begun."""
    async with connect(gates, now, rate=20) as (provider, _):
        for _ in range(BURST):
            await provider.permit()
        waiting = asyncio.create_task(provider.permit())
        await asyncio.sleep(0.01)
        gates.close("key", "wrong key")
        await asyncio.sleep(0.15)
        assert not waiting.done()
        gates.open("key")
        async with asyncio.timeout(1):
            await waiting


async def test_the_rate_is_a_ceiling_with_a_burst(gates: Gates, now: Now) -> None:
    """Any window of time sees at most the burst and the rate, over all callers together."""
    rate, calls = 40, 40
    at: list[float] = []
    async with connect(gates, now, rate=rate) as (provider, simulator):

        async def ask() -> None:
            await provider.permit()
            at.append(time.monotonic())
            await provider.ask("a")

        await asyncio.gather(*(ask() for _ in range(calls)))
    assert len(simulator.requests) == calls
    assert at[-1] - at[0] >= (calls - BURST) / rate * 0.9
    for first in range(calls):
        for last in range(first + 1, calls):
            assert last - first + 1 <= BURST + 1 + rate * (at[last] - at[first] + 0.01)


async def test_a_balance_that_nobody_tells_is_none(gates: Gates, now: Now) -> None:
    """Whether the API fails, sends elsewhere or forgets the number; it is asked again later."""
    replies = (Reply(code=500), Reply(status=302), Reply(raw='{"code": 200, "data": null}'))
    async with connect(gates, now) as (provider, simulator):
        simulator.script_api(ApiFaults(codes=replies))
        assert [await provider.balance() for _ in range(4)] == [None, None, None, 30]


@pytest.mark.parametrize(
    "call", [lambda provider: provider.ask("a"), lambda provider: provider.balance()]
)
async def test_a_host_that_is_gone_is_trouble_of_the_call(
    gates: Gates, now: Now, call: Callable[[Provider], Awaitable[object]]
) -> None:
    """Nothing is raised: a dead network is an answer of its own."""
    async with connect(gates, now) as (provider, _):
        pass
    async with api_session("http://127.0.0.1:1", lambda: None, 1) as session:
        provider = Provider(session, "kie", gates, now, 1000)
        for _ in range(API_FAILURES):
            await call(provider)
    assert shut(gates) == ["api"]


WISH = {"taskId": "music", "audioId": "audio", "callBackUrl": "https://callback.invalid/none"}
GENERATE = "/api/v1/mp4/generate"


@pytest.mark.parametrize(
    ("kind", "reply", "gate"),
    [
        ("sunoapi", Reply(code=401), "key"),
        ("sunoapi", Reply(code=429), "credits"),
        ("kie", Reply(code=402), "credits"),
        ("kie", Reply(code=429), "rate"),
        ("kie", Reply(code=430, retry_after="40"), "rate"),
        ("sunoapi", Reply(code=405), "rate"),
        ("sunoapi", Reply(raw="busy", status=429), "rate"),
        ("sunoapi", Reply(code=455), "maintenance"),
        *(("sunoapi", Reply(code=code), None) for code in (400, 404, 409, 413, 451, 500, 501)),
        ("kie", Reply(code=422), None),
    ],
)
async def test_what_generate_says_of_our_calls_shuts_their_gate(
    gates: Gates, now: Now, kind: Kind, reply: Reply, gate: str | None
) -> None:
    """And what it says of the one request shuts none, however often."""
    async with connect(gates, now, kind) as (provider, simulator):
        simulator.script_api(ApiFaults(codes=(reply,), repeat=API_FAILURES - 1, path=GENERATE))
        for _ in range(API_FAILURES - 1):
            receipt, told = await provider.generate(WISH)
            assert receipt.task_id is None
            assert told is not None
        assert shut(gates) == ([gate] if gate else [])
        assert simulator.tasks == {}


async def test_only_a_video_opens_the_gate_of_the_credits(gates: Gates, now: Now) -> None:
    """A duplicate costs nothing, so it proves nothing about the account."""
    async with connect(gates, now) as (provider, _):
        for expected in (Fate.TAKEN, Fate.EXISTED):
            gates.close("credits", "none")
            receipt, _ = await provider.generate(WISH)
            assert receipt.fate is expected
            assert shut(gates) == ([] if expected is Fate.TAKEN else ["credits"])
        assert provider.answered_at == now()


async def test_a_key_that_buys_a_video_is_a_good_key(gates: Gates, now: Now) -> None:
    """The call passed the shut gate, so it was its probe; one that shut meanwhile stays."""
    async with connect(gates, now) as (provider, simulator):
        for expected in (Fate.TAKEN, Fate.EXISTED):
            gates.close("key", "refused")
            receipt, _ = await provider.generate(WISH)
            assert receipt.fate is expected
            assert shut(gates) == []
        simulator.next_faults = Faults(answer_delay_seconds=0.2)
        call = asyncio.create_task(provider.generate({**WISH, "audioId": "another"}))
        await asyncio.sleep(0.1)
        gates.close("key", "refused")
        assert (await call)[0].fate is Fate.TAKEN
        assert shut(gates) == ["key"]


@pytest.mark.parametrize(
    ("reply", "fate"),
    [
        (Reply(cut=True), Fate.UNKNOWN),
        (Reply(delay_seconds=3), Fate.UNKNOWN),
        (Reply(raw="x" * 2_000_000), Fate.UNKNOWN),
        (Reply(status=302), Fate.DEFERRED),
        (Reply(status=303), Fate.UNKNOWN),
    ],
)
async def test_a_call_without_an_answer_is_a_receipt_too(
    gates: Gates, now: Now, reply: Reply, fate: Fate
) -> None:
    """There is no reply to pass on; a redirect says that nothing was taken, but for See Other."""
    async with connect(gates, now) as (provider, simulator):
        simulator.script_api(ApiFaults(codes=(reply,), path=GENERATE))
        receipt, told = await provider.generate(WISH)
        assert (receipt.fate, receipt.outcome, told) == (fate, Outcome.TROUBLE, None)
        assert receipt.message


async def test_a_call_that_reaches_nobody_is_deferred(gates: Gates, now: Now) -> None:
    """Nothing was sent, so nothing can have been taken; after five the API is left alone."""
    async with api_session("http://127.0.0.1:1", lambda: None, 1) as session:
        provider = Provider(session, "kie", gates, now, 1000)
        for _ in range(API_FAILURES):
            receipt, told = await provider.generate(WISH)
            assert (receipt.fate, told) == (Fate.DEFERRED, None)
    assert shut(gates) == ["api"]


@pytest.mark.parametrize("kind", ["sunoapi", "apibox", "kie"])
async def test_music_and_fresh_links_are_asked_for(gates: Gates, now: Now, kind: Kind) -> None:
    """Only kie.ai makes fresh links; the others are not even asked."""
    async with connect(gates, now, kind) as (provider, simulator):
        music = await provider.music(FOREIGN_MUSIC)
        assert music is not None
        assert FOREIGN_AUDIO in dict(music.tracks)
        assert provider.answered_at == now()
        link = simulator.tasks[simulator.add_task(Faults(callbacks=()))].video_url
        calls = len(simulator.requests)
        fresh = await provider.renew(link)
        assert provider.renews_links == (kind == "kie")
        assert (fresh or "").startswith(f"{link}?pass=") == (kind == "kie")
        assert len(simulator.requests) - calls == int(kind == "kie")
        assert await provider.renew("https://elsewhere.example.com/a.mp4") is None
    assert shut(gates) == []


@pytest.mark.parametrize(
    ("reply", "gate"),
    [
        (Reply(code=401), "key"),
        (Reply(code=429), "rate"),
        (Reply(code=500), None),
        (Reply(status=302), None),
    ],
)
async def test_no_music_and_no_fresh_link_are_none(
    gates: Gates, now: Now, reply: Reply, gate: str | None
) -> None:
    """What the answer means for all calls is learned all the same."""
    async with connect(gates, now, "kie") as (provider, simulator):
        for call in (lambda: provider.music("music"), lambda: provider.renew("https://a.example/")):
            simulator.script_api(ApiFaults(codes=(reply,)))
            assert await call() is None
            assert shut(gates) == ([gate] if gate else [])
            for name in shut(gates):
                gates.open(name)


async def test_calls_for_others_leave_room_for_our_own(gates: Gates, now: Now) -> None:
    """They get half of the pace, and wait in a line of their own."""
    async with connect(gates, now, rate=20) as (provider, _):
        relayed = [asyncio.create_task(provider.permit_relay()) for _ in range(3 * BURST)]
        await asyncio.sleep(0.05)
        async with asyncio.timeout(0.5):
            await provider.permit()
        assert not all(task.done() for task in relayed)
        async with asyncio.timeout(3):
            await asyncio.gather(*relayed)

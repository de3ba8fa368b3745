"""A submitter that runs against a provider in a box, for the tests of both."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from daemon.config.secret import Secret
from daemon.gates import Gates
from daemon.outbound import api_session, file_session
from daemon.provider import Provider
from daemon.rules.address import AddressPolicy
from daemon.rules.schedule import MINUTE, SECOND, Pace
from daemon.rules.submission import Intent, Wish
from daemon.rules.task import Task
from daemon.rules.verdict import Terms
from daemon.simulator.provider import Kind, SimulatorOptions
from daemon.simulator.simulator import Simulator
from daemon.store import Store
from daemon.submitter import Submitted, Submitter

START = 1_790_000_000_000
WEEK = 7 * 86_400_000
GENERATE = "/api/v1/mp4/generate"
CALLBACK = "https://mv.example.com/video-callback/token"
WISH = Wish(music_task_id="music", audio_id="audio")
TERMS = Terms(Pace(3 * MINUTE, 30 * SECOND, WEEK), 2 * SECOND, 15 * MINUTE, has_key=True)
LOCAL = AddressPolicy(allow_http=True, allow_private=(ip_network("127.0.0.0/8"),))

Advance = Callable[[int], None]
Break = Callable[..., Awaitable[None]]
Now = Callable[[], int]


async def refuse_post(_url: str, _body: bytes, _headers: Mapping[str, str]) -> int:
    """Take no callback."""
    raise ConnectionRefusedError


class Station:
    """A running submitter, and how often it rang for others."""

    def __init__(self, store: Store, gates: Gates) -> None:
        self.store = store
        self.gates = gates
        self.terms = TERMS
        self.policy = LOCAL
        self.rings = 0
        self.credit_rings = 0
        self.submitter: Submitter

    def ring(self) -> None:
        """Count."""
        self.rings += 1

    def ring_credits(self) -> None:
        """Count."""
        self.credit_rings += 1

    async def submit(self, *, patient: bool = True, **wish: str) -> Submitted:
        """Submit a wish; the rest of it is good."""
        wanted = replace(WISH, **wish)
        return await self.submitter.submit(wanted, source="submit", label=None, patient=patient)

    async def intent(self, number: int = 1) -> Intent:
        """Return an intent as it is in the ledger."""
        return await self.store.intents._one("id = ?", number)

    async def task(self, number: int = 1) -> Task:
        """Return the task of an intent."""
        task = await self.store.task((await self.intent(number)).local_id)
        assert task is not None
        return task


Start = Callable[..., AbstractAsyncContextManager[Station]]


@asynccontextmanager
async def serve(kind: Kind = "sunoapi", **options: Any) -> AsyncIterator[Simulator]:
    """Run a provider of one kind."""
    chosen = SimulatorOptions(kind=kind, api_key="key", file_size_bytes=3_000_000, **options)
    simulator = Simulator(chosen, refuse_post)
    async with simulator.serve():
        yield simulator


@asynccontextmanager
async def run(
    store: Store, gates: Gates, now: Now, base_url: str, kind: Kind, key: str = "key"
) -> AsyncIterator[Station]:
    """Run both lanes of a submitter while the block runs."""
    station = Station(store, gates)
    async with (
        api_session(base_url, lambda: Secret(key), 5) as session,
        file_session(lambda: station.policy, 1, 1, 4) as files,
    ):
        station.submitter = Submitter(
            *(store, Provider(session, kind, gates, now, 1000), files, gates),
            policy=lambda: station.policy,
            terms=lambda: station.terms,
            retention_ms=lambda: WEEK,
            callback_url=lambda: CALLBACK,
            now=now,
            ring=station.ring,
            ring_credits=station.ring_credits,
        )
        lanes = [asyncio.create_task(station.submitter.run(first=first)) for first in (True, False)]
        try:
            yield station
        finally:
            for lane in lanes:
                lane.cancel()
            ended = await asyncio.gather(*lanes, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


def make_start(store: Store, gates: Gates, now: Now) -> Start:
    """Return what runs a submitter, as (simulator, its key)."""

    def begin(simulator: Simulator, key: str = "key") -> AbstractAsyncContextManager[Station]:
        return run(store, gates, now, simulator.base_url, simulator.options.kind, key)

    return begin


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 5) -> None:
    """Wait until something has happened."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - neither a file nor a ledger has an event
            await asyncio.sleep(0.01)


async def named(station: Station, number: int = 1) -> Task:
    """Wait until a task has the provider's id."""

    async def is_named() -> bool:
        return not (await station.task(number)).has_local_id

    await until(is_named)
    return await station.task(number)


def sent(simulator: Simulator) -> int:
    """Return how often a video was asked for."""
    return sum(request.path == GENERATE for request in simulator.requests)


def shut(station: Station) -> list[str]:
    """Return the names of the gates that are shut."""
    return [gate.name for gate in station.gates.shut()]

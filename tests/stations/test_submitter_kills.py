"""A submit that is killed at any step: one video at most is paid for, and it is found."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.gates import Gates
from daemon.rules.task import Task
from daemon.simulator.provider import Kind
from daemon.simulator.simulator import Simulator
from daemon.store import open_store
from tests.stations.submitting import (
    GENERATE,
    Now,
    run,
    serve,
    until,
)

_VICTIM = """
import asyncio, os, signal, sys
from pathlib import Path
from daemon.config.secret import Secret
from daemon.gates import Gates
from daemon.outbound import api_session, file_session
from daemon.provider import Provider
from daemon.rules.address import AddressPolicy
from daemon.rules.schedule import Pace
from daemon.rules.submission import Wish
from daemon.rules.verdict import Terms
from daemon.store import open_store
from daemon.submitter import Submitter

home, base_url, kind, left = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])

def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def die_around(call, counts):
    async def wrapped(*arguments):
        if counts(arguments[0]):
            step()
        result = await call(*arguments)
        if counts(arguments[0]):
            step()
        return result
    return wrapped

async def main():
    store_at, policy = open_store(home), AddressPolicy()
    api_at, files_at = api_session(base_url, lambda: Secret("key")), file_session(None, 1, 1, 1)
    async with store_at as store, api_at as api, files_at as files:
        gates = Gates(lambda: 1, lambda *_: None)
        provider = Provider(api, kind, gates, lambda: 1, 1000)
        writes = lambda sql: sql.split()[0] in {"INSERT", "UPDATE", "COMMIT"}
        connection = store.commits.connection
        connection.execute_fetchall = die_around(connection.execute_fetchall, writes)
        provider.generate = die_around(provider.generate, lambda _: True)
        submitter = Submitter(
            *(store, provider, files, gates),
            policy=lambda: policy,
            terms=lambda: Terms(Pace(1, 1, 1), 1, 1, has_key=True),
            retention_ms=lambda: 9, callback_url=lambda: "https://callback.invalid/none",
            now=lambda: 1, ring=lambda: None, ring_credits=lambda: None,
        )
        lanes = [asyncio.create_task(submitter.run(first=first)) for first in (True, False)]
        wish = Wish(music_task_id="music", audio_id=sys.argv[5])
        await submitter.submit(wish, source="submit", label=None)
        for lane in lanes:
            lane.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["sunoapi", "kie"])
async def test_a_kill_at_any_step_pays_for_one_video_at_most(
    kind: Kind, tmp_path: Path, gates: Gates, now: Now
) -> None:
    """`kill -9` around every commit and around the call; the next process knows what is owed."""
    async with serve(kind) as simulator:
        status, number = -9, 0
        while status == -9:
            number += 1
            home, track = tmp_path / str(number), f"audio{number}"
            victim = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _VICTIM, str(home), simulator.base_url, kind),
                *(str(number), track),
                stderr=subprocess.PIPE,
            )
            _, errors = await victim.communicate()
            status = victim.returncode or 0
            assert status in {0, -9}, errors.decode()
            made = [task for task in simulator.tasks.values() if task.track[1] == track]
            recorded = await check_second_life(simulator, home, gates, now)
            again = [task for task in simulator.tasks.values() if task.track[1] == track]
            assert len(again) == int(recorded is not None)
            assert again[: len(made)] == made
            if recorded is None:
                assert not made
            elif recorded.has_local_id:
                # Only where the provider keeps the id to itself.
                assert (kind, len(made)) == ("kie", 1)
                assert (recorded.state, recorded.next_attempt_at) == ("expected", None)
                assert "has a video of this track already" in (recorded.message or "")
            else:
                assert recorded.task_id == again[0].task_id
            calls = simulator.requests
            simulator.requests = type(calls)(maxlen=calls.maxlen)
            assert sum(call.path == GENERATE for call in calls) <= 2
        assert number >= 9


async def check_second_life(
    simulator: Simulator, home: Path, gates: Gates, now: Now
) -> Task | None:
    """Open a ledger as the service does, send what is owed; return its one task."""
    async with open_store(home) as store:
        await store.intents.recover(now())
        url, kind = simulator.base_url, simulator.options.kind
        async with run(store, gates, now, url, kind) as station:
            if not await store.tasks():
                return None

            async def is_at_rest() -> bool:
                intent = await station.intent()
                return intent.send_at is None and not intent.calling

            await until(is_at_rest)
            await asyncio.sleep(0.05)
            (task,) = await store.tasks()
            return task

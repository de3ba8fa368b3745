"""Plays everything that may happen to a task, in any order, and holds the ledger to its laws.

Rule: after every step the laws of `laws` hold, and the same evidence in any order, any part of it
repeated, ends in the same class of state.

    python -m tests.campaigns.model --size 2000 --seed 1
"""

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import get_state_machine_test

from daemon.rules.lifecycle import State
from daemon.rules.notice import Evidence, read_answer, read_callback
from daemon.rules.schedule import HOUR, MINUTE, SECOND, Pace
from daemon.rules.task import Task
from daemon.rules.verdict import Terms, judge_answer, judge_callback
from daemon.store import Store, open_store
from tests.campaigns.campaign import PromiseBroken, command
from tests.campaigns.machine import RETENTION, START, Ledger
from tests.campaigns.shelf import quick_folder

STEPS: Final = 40
FEW: Final = 5
"""So many messages are brought in all their orders."""
MANY: Final = 9
"""So many in orders that are drawn by lot."""
DRAWN: Final = 20
TERMS: Final = Terms(Pace(3 * MINUTE, 30 * SECOND, 6 * HOUR), 2 * SECOND, 15 * MINUTE, has_key=True)


@dataclass(frozen=True, slots=True)
class Message:
    """A callback, or the answer to a question."""

    is_callback: bool
    code: int
    flag: str | None
    link: int | None
    evidence: Evidence


def _callback(code: int, link: int | None, evidence: Evidence) -> Message:
    return Message(True, code, None, link, evidence)  # noqa: FBT003 - the first field


def _answer(code: int, flag: str | None, link: int | None, evidence: Evidence) -> Message:
    return Message(False, code, flag, link, evidence)  # noqa: FBT003 - likewise


MESSAGES: Final = (
    _callback(200, 1, Evidence.SUCCESS),
    _callback(0, 2, Evidence.SUCCESS),
    _callback(500, None, Evidence.FAILURE),
    _callback(451, None, Evidence.FAILURE),
    _callback(200, None, Evidence.NONE),
    _callback(418, 1, Evidence.NONE),
    _answer(200, "SUCCESS", 1, Evidence.SUCCESS),
    _answer(200, "CALLBACK_EXCEPTION", 2, Evidence.SUCCESS),
    _answer(200, "SUCCESS", None, Evidence.NONE),
    _answer(200, "PENDING", None, Evidence.NONE),
    _answer(200, "CALLBACK_EXCEPTION", None, Evidence.NONE),
    _answer(200, "CREATE_TASK_FAILED", None, Evidence.FAILURE),
    _answer(200, "GENERATE_MP4_FAILED", None, Evidence.FAILURE),
    _answer(200, None, None, Evidence.NONE),
    _answer(500, None, None, Evidence.NONE),
    _answer(401, None, None, Evidence.NONE),
    _answer(429, None, None, Evidence.NONE),
)
CLASSES: Final = {State.EXPECTED: Evidence.NONE, State.WANTED: Evidence.SUCCESS}


@dataclass(slots=True)
class Tally:
    """How much was played."""

    plays: int = 0
    steps: int = 0
    brought_home: int = 0
    orders: int = 0
    kinds: frozenset[Evidence] = frozenset()
    """The classes of state that orders ended in."""


async def run_campaign(folder: Path, size: int, seed: int) -> Tally:
    """Play `size` examples, and a set of messages in all its orders for every twenty of them.

    Raises:
        PromiseBroken: with the seed and the shortest play that shows it.
    """
    tally = Tally()
    try:
        await asyncio.to_thread(_play, size, seed, tally)
        with quick_folder(folder) as quick:
            await _bring_in_all_orders(quick, max(3, size // 20), random.Random(seed), tally)
    except PromiseBroken as broken:
        notes = "\n".join(getattr(broken, "__notes__", ()))
        raise PromiseBroken(f"seed {seed}: {broken}\n{notes}") from broken
    return tally


def _play(size: int, number: int, tally: Tally) -> None:
    plays, steps, home = Ledger.plays, Ledger.steps, Ledger.brought_home
    chosen = settings(
        max_examples=size,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    seed(number)(get_state_machine_test(Ledger, settings=chosen))()
    tally.plays, tally.steps = Ledger.plays - plays, Ledger.steps - steps
    tally.brought_home = Ledger.brought_home - home


async def _bring_in_all_orders(folder: Path, sets: int, luck: random.Random, tally: Tally) -> None:
    async with open_store(folder) as store:
        await store.commits.connection.execute_fetchall("PRAGMA synchronous = OFF")
        for _ in range(sets):
            trusted, apart = luck.random() < 0.7, luck.choice([SECOND, 45 * MINUTE])
            few = luck.sample(MESSAGES, luck.randint(2, FEW))
            orders = list(permutations(few))
            many = luck.sample(MESSAGES, luck.randint(FEW, MANY - 2))
            drawn = [luck.sample(many, len(many)) + luck.choices(many, k=2) for _ in range(DRAWN)]
            for same in (orders, drawn):
                ends = {
                    await _bring(store, f"order-{tally.orders}", order, apart, trusted=trusted)
                    for tally.orders, order in enumerate(same, tally.orders + 1)
                }
                proved = _prove(same[0], trusted=trusted)
                if ends != {proved}:
                    raise PromiseBroken(f"{list(same[0])} prove {proved}, and ended in {ends}")
                tally.kinds |= ends


def _prove(messages: Sequence[Message], *, trusted: bool) -> Evidence:
    counted = [one.evidence.value for one in messages if trusted or not one.is_callback]
    return Evidence(max(counted, default=0))


async def _bring(
    store: Store, task_id: str, messages: Sequence[Message], apart: int, *, trusted: bool
) -> Evidence:
    """Let messages arrive at a task of their own; return what its state says is proved."""
    task: Task | None = None
    for number, message in enumerate(messages, 1):
        now = START + number * apart
        link = f"https://files.example.com/{message.link}.mp4" if message.link else None
        if message.is_callback:
            data = {"task_id": task_id, "video_url": link}
            body = json.dumps({"code": message.code, "msg": "", "data": data}).encode()
            notice = read_callback(body)
            tidings = judge_callback(
                notice, now, trusted=trusted, has_key=True, retention_ms=RETENTION
            )
            await store.receive([tidings])
            task = await store.task(task_id)
            continue
        if task is None:
            (task,), _ = await store.adopt(
                [task_id],
                source="track",
                label=None,
                now=now,
                deadline_at=now + RETENTION,
                ask_at=now,
            )
        task = await _hear(store, task, message, link, now)
    assert task is not None
    if task.state == State.FAILED:
        return Evidence.NONE if task.known_as_missing else Evidence.FAILURE
    return CLASSES[State(task.state)]


async def _hear(store: Store, task: Task, message: Message, link: str | None, now: int) -> Task:
    record = {"successFlag": message.flag, "response": {"videoUrl": link}}
    body = {"code": message.code, "msg": "", "data": record if message.flag else None}
    answer = read_answer("sunoapi", 200, json.dumps(body).encode(), task.task_id)
    settled, _ = await store.settle(
        task, now, lambda newest: judge_answer(newest, answer, now, TERMS, 0.5)
    )
    return settled


def _tell(tally: Tally) -> str:
    return (
        f"{tally.plays} plays, {tally.steps} steps, after each of them every law held; "
        f"{tally.brought_home} tasks brought home at their ends; {tally.orders} orders of "
        "messages, all of the same class"
    )


if __name__ == "__main__":
    command(run_campaign, _tell, size=2_000, unit=f"plays of {STEPS} steps")()

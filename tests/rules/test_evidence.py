"""Any order and any duplication of callbacks and answers ends in the same state.

The messages are real bodies, read by the real rules and committed by the real store. Two tasks that
are equal in every column that a decision about states reads have the same future, so only one of
them is followed further: that way all sequences of five messages are covered without playing every
one of them. Longer sequences are drawn by lot.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from daemon.rules.lifecycle import State
from daemon.rules.notice import Evidence, read_answer, read_callback
from daemon.rules.schedule import HOUR, MINUTE, SECOND, Pace
from daemon.rules.task import Task
from daemon.rules.verdict import Terms, judge_answer, judge_callback
from daemon.store import Store, open_store

LONGEST = 5
BEGAN = 1_766_000_000_000
RETENTION_MS = 14 * 24 * HOUR
TERMS = Terms(Pace(3 * MINUTE, 30 * SECOND, 6 * HOUR), 2 * SECOND, 15 * MINUTE, has_key=True)

DECIDING = (
    *("state", "reason", "link", "hint", "unconfirmed", "denials", "denied_at", "questions"),
    *("refusals", "refusal_proofs", "spoils", "claimed_at", "created_at", "deadline_at"),
)
"""The columns that a decision about the state reads; the others say when something happens next."""


@dataclass(frozen=True)
class Message:
    """A callback, or the answer to a question, and what it proves where it is trusted."""

    name: str
    evidence: Evidence
    code: int
    body: dict[str, object] | None
    is_callback: bool = False


def callback(name: str, evidence: Evidence, code: int, link: str | None) -> Message:
    """Return a callback."""
    return Message(name, evidence, code, {"video_url": link}, is_callback=True)


def answer(
    name: str, evidence: Evidence, flag: str | None = None, link: str | None = None, code: int = 200
) -> Message:
    """Return an answer."""
    if flag is None:
        return Message(name, evidence, code, None)
    return Message(name, evidence, code, {"successFlag": flag, "response": {"videoUrl": link}})


MESSAGES = (
    callback("callback success", Evidence.SUCCESS, 200, "https://one.example.org/a.mp4"),
    callback("callback failure", Evidence.FAILURE, 500, None),
    callback("callback other", Evidence.NONE, 200, None),
    answer("success", Evidence.SUCCESS, "SUCCESS", "https://two.example.org/b.mp4"),
    answer("pending", Evidence.PENDING, "PENDING"),
    answer("failure", Evidence.FAILURE, "GENERATE_MP4_FAILED"),
    answer("unknown", Evidence.NONE),
    answer("trouble", Evidence.NONE, code=500),
    answer("rate", Evidence.NONE, code=430),
)


@asynccontextmanager
async def open_fast(state_dir: Path) -> AsyncIterator[Store]:
    """Open a store that does not wait for the disk: no power is cut here."""
    async with open_store(state_dir) as store:
        await store.commits.connection.execute_fetchall("PRAGMA synchronous = OFF")
        yield store


async def bring(
    store: Store, task_id: str, known: Task | None, message: Message, now: int, *, trusted: bool
) -> Task:
    """Let one message arrive; return the row as it is afterwards."""
    data = None if message.body is None else {**message.body, "task_id": task_id}
    body = json.dumps({"code": message.code, "msg": "", "data": data}).encode()
    if message.is_callback:
        tidings = judge_callback(
            read_callback(body), now, trusted=trusted, has_key=True, retention_ms=RETENTION_MS
        )
        await store.receive([tidings])
        heard = await store.task(task_id)
        assert heard is not None
        return heard
    assert known is not None
    read = read_answer("sunoapi", 200, body, task_id)
    task, _ = await store.settle(
        known, now, lambda newest: judge_answer(newest, read, now, TERMS, 0.5)
    )
    return task


def outcome(task: Task) -> Evidence:
    """Return what a task's state says has been proved."""
    if task.state == State.WANTED:
        return Evidence.SUCCESS
    if task.state == State.FAILED and not task.known_as_missing:
        return Evidence.FAILURE
    # A task that was disowned is still asked about: nothing is proved.
    assert task.state in {State.EXPECTED, State.FAILED}
    return Evidence.NONE


def prove(messages: Sequence[Message], *, trusted: bool) -> Evidence:
    """Return the strongest evidence among messages, with pending as good as none."""
    counted = [message for message in messages if trusted or not message.is_callback]
    strongest = max((message.evidence.value for message in counted), default=0)
    return Evidence.NONE if strongest == Evidence.PENDING.value else Evidence(strongest)


class Play:
    """Plays sequences of messages, each with a task of its own."""

    def __init__(self, store: Store, apart: int, *, trusted: bool, adopted: bool) -> None:
        self._store = store
        self._apart = apart
        self._trusted = trusted
        self.adopted = adopted
        self.played = 0

    async def run(self, messages: Sequence[Message]) -> tuple[object, ...]:
        """Let the messages arrive, check the state, and return what decides the task's future."""
        self.played += 1
        task_id = f"task{self.played}"
        task: Task | None = None
        if self.adopted:
            (task,), _ = await self._store.adopt(
                [task_id],
                source="track",
                label=None,
                now=BEGAN,
                deadline_at=BEGAN + RETENTION_MS,
                ask_at=BEGAN,
            )
        for number, message in enumerate(messages, 1):
            now = BEGAN + number * self._apart
            task = await bring(self._store, task_id, task, message, now, trusted=self._trusted)
        assert task is not None
        proved = prove(messages, trusted=self._trusted)
        assert outcome(task) is proved, [message.name for message in messages]
        return (proved, *(getattr(task, name) for name in DECIDING))

    def may_begin(self, message: Message) -> bool:
        """Tell whether this can come first: nobody asks about a task that is not known."""
        return self.adopted or message.is_callback


in_every_setting = pytest.mark.parametrize(
    ("apart", "trusted", "adopted"),
    [
        pytest.param(SECOND, True, True, id="trusted at once"),
        pytest.param(45 * MINUTE, True, True, id="trusted and spread out"),
        pytest.param(45 * MINUTE, False, True, id="confirmed and spread out"),
        pytest.param(SECOND, True, False, id="trusted, of a new task"),
        pytest.param(SECOND, False, False, id="confirmed, of a new task"),
    ],
)


@in_every_setting
async def test_any_order_and_any_duplication(
    tmp_path: Path, apart: int, *, trusted: bool, adopted: bool
) -> None:
    """After any five messages the state says what the strongest of them proves."""
    async with open_fast(tmp_path) as store:
        play = Play(store, apart, trusted=trusted, adopted=adopted)
        frontier: list[tuple[Message, ...]] = [()]
        for _ in range(LONGEST):
            futures: dict[tuple[object, ...], tuple[Message, ...]] = {}
            for path in frontier:
                for message in MESSAGES:
                    if path or play.may_begin(message):
                        future = await play.run((*path, message))
                        futures.setdefault(future, (*path, message))
            frontier = list(futures.values())
        assert len(frontier) > len(MESSAGES)


@in_every_setting
async def test_long_sequences(tmp_path: Path, apart: int, *, trusted: bool, adopted: bool) -> None:
    """What holds for five messages holds for twenty."""
    luck = Random(f"{apart} {trusted} {adopted}")
    async with open_fast(tmp_path) as store:
        play = Play(store, apart, trusted=trusted, adopted=adopted)
        first = [message for message in MESSAGES if play.may_begin(message)]
        for _ in range(10):
            await play.run([luck.choice(first), *luck.choices(MESSAGES, k=19)])

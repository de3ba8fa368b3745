"""Asks the provider for videos, recorded before the call and settled after it.

Rule: no call without a committed intent that says that it is on its way. Whatever kills the process
in between, the next one finds the mark, asks once more, and the provider's "exists already" names
the task. What the provider answered is carried to the ledger before anybody is told.
"""

import asyncio
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog

from daemon.bell import Bell, sleep_until
from daemon.gates import Gates
from daemon.outbound import Session, get_file
from daemon.provider import SUBMIT_GATES, Provider, Reply
from daemon.rounds import go_round, insist
from daemon.rules.address import AddressPolicy, AddressRefused
from daemon.rules.failure import Reason, Refused, StepFailed
from daemon.rules.lifecycle import Cause
from daemon.rules.music import find_objection
from daemon.rules.submission import (
    Decision,
    Fate,
    Intent,
    Next,
    Receipt,
    Wish,
    judge_receipt,
)
from daemon.rules.task import INTENT_PREFIX, Task
from daemon.rules.transfer import is_dead
from daemon.rules.ulid import LUCK_BYTES, make_ulid
from daemon.rules.verdict import Terms, Verdict
from daemon.store import Store

AT_ONCE: Final = 4
ANSWER_SECONDS: Final = 20.0
"""How long whoever submits is kept waiting for the provider's word."""
AUDIO_SECONDS: Final = 10.0
LONGEST_WAIT_MS: Final = 30_000

_FIRST_GATES: Final = ("rate", "maintenance", "api")
"""A wrong key or an empty account is no reason to keep somebody waiting: the first call of an
intent is its own probe, and its answer says which it is."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """How it stands with an intent: its task, and the provider's word if there is one yet."""

    task: Task
    receipt: Receipt | None = None
    reply: Reply | None = None
    decision: Decision | None = None

    @property
    def known_before(self) -> bool:
        """Whether the provider had a video of this track already, and not from a call of ours."""
        existed = self.receipt is not None and self.receipt.fate is Fate.EXISTED
        return existed and self.decision is not None and self.decision.doubts == 0


@dataclass(frozen=True, slots=True)
class _Word:
    receipt: Receipt
    reply: Reply | None
    decision: Decision


class Submitter:
    """The one who spends credits."""

    def __init__(
        self,
        store: Store,
        provider: Provider,
        files: Session,
        gates: Gates,
        *,
        policy: Callable[[], AddressPolicy],
        terms: Callable[[], Terms],
        retention_ms: Callable[[], int],
        callback_url: Callable[[], str],
        now: Callable[[], int],
        ring: Callable[[], None],
        ring_credits: Callable[[], None],
    ) -> None:
        self._store = store
        self._provider = provider
        self._files = files
        self._gates = gates
        self._policy = policy
        self._terms = terms
        self._retention_ms = retention_ms
        self._callback_url = callback_url
        self._now = now
        self._ring = ring
        self._ring_credits = ring_credits
        self._bell = Bell()
        self._waiting: dict[int, set[asyncio.Future[_Word]]] = {}
        self._recording = asyncio.Lock()
        self._impatient: set[int] = set()
        self._begun: set[int] = set()
        self._withdrawn: set[int] = set()

    def ring(self) -> None:
        """Look anew for what is to be sent."""
        self._bell.ring()

    async def check(self, wish: Wish) -> str | None:
        """Return why the provider could not make this video, where it is sure; else None.

        These are the first questions of the provider's own troubleshooting list. An API or a host
        that does not answer is no objection.
        """
        if self._provider.is_held_back:
            return None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._provider.permit()
                music = await self._provider.music(wish.music_task_id)
        except TimeoutError:
            return None
        if music is None:
            return None
        objection = find_objection(music, wish.audio_id)
        link = music.link_of(wish.audio_id)
        if objection is None and link is not None:
            objection = await self._try_audio(link)
        return objection

    async def _try_audio(self, link: str) -> str | None:
        first_byte = {"Range": "bytes=0-0"}
        try:
            async with (
                asyncio.timeout(AUDIO_SECONDS),
                get_file(self._files, link, self._policy(), first_byte) as response,
            ):
                if is_dead(response.status):
                    return f"the track's audio cannot be fetched any more (HTTP {response.status})"
        except AddressRefused:
            # Our own policy forbids it; the provider is not bound by that.
            return None
        except Refused as refusal:
            return f"the track's audio cannot be fetched any more: {refusal.message}"
        except (StepFailed, TimeoutError):
            return None
        return None

    async def submit(
        self, wish: Wish, *, source: str, label: str | None, patient: bool = True
    ) -> Submitted:
        """Record a wish, send it, and wait a while for the provider's word.

        `patient`: without an answer, or asked to come back later, it is sent again until there is
        one. Otherwise whoever asked is told, and nothing is sent behind their back.

        Raises:
            StoreFailed: nothing was recorded, and nothing was sent.
        """
        async with self._recording:
            intent = await self._join(wish) or await self._record(wish, source, label)
            waiter: asyncio.Future[_Word] = asyncio.get_running_loop().create_future()
            waiting = self._waiting.setdefault(intent.id, set())
            waiting.add(waiter)
            if patient:
                self._impatient.discard(intent.id)
            elif len(waiting) == 1 and not intent.tries:
                self._impatient.add(intent.id)
        self._bell.ring()
        try:
            if not patient or not self._is_paused():
                # A timeout around the future would cancel it.
                await asyncio.wait({waiter}, timeout=ANSWER_SECONDS)
        finally:
            # Also when whoever asked has hung up, or the daemon stops.
            alone = waiting == {waiter}
            if alone and not waiter.done() and intent.id in self._impatient:
                await self._withdraw(intent)
            waiting.discard(waiter)
            if not waiting:
                del self._waiting[intent.id]
                self._impatient.discard(intent.id)
        task = await self._task(intent)
        if not waiter.done():
            return Submitted(task=task)
        word = waiter.result()
        if word.decision.next is Next.NAME:
            await self._enlist(intent, wish, source, task)
        return Submitted(task=task, receipt=word.receipt, reply=word.reply, decision=word.decision)

    async def _join(self, wish: Wish) -> Intent | None:
        """Find the open intent of the same wish: who asks again for it buys no second film."""
        intent = await self._store.intents.open_twin(wish)
        if intent is None or intent.id in self._withdrawn:
            return None
        if intent.send_at is None and not intent.calling:
            await self._store.intents.reopen(intent, self._now())
        return intent

    async def _enlist(self, intent: Intent, wish: Wish, source: str, task: Task) -> None:
        """Let an application that joined the wish of another be called as well."""
        if wish.application_url in {None, intent.application_url}:
            return
        extra = await self._record(wish, source, None, send=False)
        now = self._now()
        await self._store.intents.name(extra, task.task_id, ask_at=task.ask_at, now=now, tells=True)
        self._ring()

    async def _record(
        self, wish: Wish, source: str, label: str | None, *, send: bool = True
    ) -> Intent:
        now = self._now()
        intent = await self._store.intents.record(
            f"{INTENT_PREFIX}{make_ulid(now, secrets.token_bytes(LUCK_BYTES))}",
            wish,
            source=source,
            label=label,
            now=now,
            deadline_at=now + self._retention_ms(),
            send=send,
        )
        _log.info("submit.recorded", task_id=intent.local_id, music_task_id=wish.music_task_id)
        return intent

    def _is_paused(self) -> bool:
        return any(self._gates.is_shut(name) for name in _FIRST_GATES)

    async def _withdraw(self, intent: Intent) -> None:
        """Let nothing be sent any more, unless it is on its way already, or may have arrived."""
        if intent.id in self._begun:
            return
        self._withdrawn.add(intent.id)
        told = "the provider could not be asked in time"
        # Until then it stands at the head of its lane, and would be sent by the next process.
        await insist(lambda: self._refuse(intent, Reason.PROVIDER_ERROR, told, None))
        self._withdrawn.discard(intent.id)

    async def send_again(self, task: Task) -> bool:
        """Send the intent of a task once more, because a person wants it; False: it has none."""
        intent = await self._store.intents.of_task(task.id)
        if intent is None or intent.local_id != task.task_id:
            return False
        await self._store.intents.reopen(intent, self._now())
        self._bell.ring()
        return True

    async def run(self, *, first: bool) -> None:
        """Send for ever: what was never sent (`first`), or what has to be sent again.

        Two lanes, for a gate that holds back the second must not hold back the first.
        """
        gates = _FIRST_GATES if first else SUBMIT_GATES

        async def take() -> Intent | None:
            await self._wait_until_due(first=first)
            await self._provider.permit(*gates)
            return await self._take(first=first)

        await go_round(AT_ONCE, take, self._send, lambda intent: f"submit {intent.local_id}")

    async def _wait_until_due(self, *, first: bool) -> None:
        while True:
            heard = self._bell.listen()
            now = self._now()
            if not self._terms().has_key:
                await sleep_until(heard, LONGEST_WAIT_MS / 1000)
                continue
            if await self._store.intents.due(now, first=first) is not None:
                return
            due_at = await self._store.intents.next_due(now)
            wait_ms = LONGEST_WAIT_MS if due_at is None else due_at - now
            await sleep_until(heard, wait_ms / 1000)

    async def _take(self, *, first: bool) -> Intent | None:
        intent = await self._store.intents.due(self._now(), first=first)
        if intent is None or intent.id in self._withdrawn:
            return None
        self._begun.add(intent.id)
        begun = None
        try:
            begun = await self._store.intents.begin(intent)
        finally:
            if begun is None and intent.tries == 0:
                self._begun.discard(intent.id)
        return begun

    async def _send(self, intent: Intent) -> None:
        receipt, reply = await self._provider.generate(intent.wish().body(self._callback_url()))
        receipt = await insist(partial(self._compare, intent, receipt))
        now, luck = self._now(), random.random()
        patient = intent.id not in self._impatient
        decision = judge_receipt(intent, receipt, now, luck, patient=patient)
        # The provider's word is worth money.
        await insist(lambda: self._carry_out(intent, receipt, decision, now))
        if decision.next is not Next.RESEND:
            self._begun.discard(intent.id)
        _log.info(
            "submit.answered",
            task_id=receipt.task_id or intent.local_id,
            local_id=intent.local_id,
            fate=receipt.fate.value,
            code=receipt.code,
            message=receipt.message,
        )
        if decision.next is not Next.RESEND or decision.doubts == intent.doubts:
            for waiter in self._waiting.get(intent.id, ()):
                if not waiter.done():
                    waiter.set_result(_Word(receipt, reply, decision))
        self._bell.ring()
        self._ring()
        self._ring_credits()

    async def _compare(self, intent: Intent, receipt: Receipt) -> Receipt:
        """Hold the id that the provider named, or did not name, against our own ledger."""
        intents, named = self._store.intents, receipt.task_id
        if named is not None and await intents.is_of_another(intent, named):
            told = f"it was called {named}, which is the video of another track"
            return replace(receipt, task_id=None, message=told)
        if receipt.fate is Fate.EXISTED and not (intent.doubts or intent.unheard):
            # kie.ai does not say which it is. After a doubt it may be one that we do not know.
            return replace(receipt, task_id=named or await intents.twin(intent))
        return receipt

    async def _carry_out(
        self, intent: Intent, receipt: Receipt, decision: Decision, now: int
    ) -> None:
        intents = self._store.intents
        match decision.next:
            case Next.NAME:
                await intents.name(
                    intent,
                    receipt.task_id or "",
                    ask_at=now + self._terms().pace.first_after_ms,
                    now=now,
                    # Nobody is called about a video that was there before; after a doubt it is
                    # most likely the one of our own first call.
                    tells=receipt.fate is Fate.TAKEN or intent.doubts + intent.unheard > 0,
                )
            case Next.FAIL:
                await self._refuse(intent, decision.reason, decision.message, receipt.code)
            case _:
                said = {"message": decision.message, "provider_code": receipt.code}
                await self._store.settle(
                    await self._task(intent), now, lambda _: Verdict(None, said)
                )
                # Last, for from here on the other lane may send it, and is not to be disturbed.
                await intents.postpone(
                    intent, decision.send_at, doubts=decision.doubts, unheard=decision.unheard
                )

    async def _refuse(
        self, intent: Intent, reason: Reason | None, message: str | None, code: int | None
    ) -> None:
        said = {
            "reason": reason,
            "message": message,
            "provider_code": code,
            "ask_at": None,
            "fetch_at": None,
        }
        await self._store.settle(
            await self._task(intent), self._now(), lambda _: Verdict(Cause.DECLINED, said)
        )

    async def _task(self, intent: Intent) -> Task:
        task = await self._store.task(intent.local_id)
        if task is None:
            raise LookupError(f"{intent.local_id} left the ledger")
        return task

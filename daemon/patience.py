"""Ends waiting that has become pointless: for a confirmation, or for a video that cannot come.

Rule: what ends a task is proof, never a clock reading alone (`rules/schedule`), and long before
that somebody is warned. While a gate is shut, or the clock is not to be trusted, trials prove
nothing and nothing expires.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from daemon.clock import Clock
from daemon.gates import Gates
from daemon.hosts import Hosts
from daemon.pulse import beat
from daemon.rules.schedule import (
    HOUR,
    MINUTE,
    NEAR_LEVELS_MS,
    PROOF_APART_MS,
    SECOND,
    count_warnings,
)
from daemon.rules.task import Task
from daemon.rules.verdict import Terms, Verdict, judge_deadline, judge_silence
from daemon.store import Store, StoreFailed, survive

BATCH: Final = 100
LONGEST_PAUSE_MS: Final = 30_000
GRACE_MS: Final = 10 * MINUTE
STILL_MS: Final = 5 * SECOND
"""So much later than it meant to, a sweep begins after a time in which nothing here happened."""
SETTLED_MS: Final = HOUR
"""A machine may start with a wrong clock, and has it set by then."""
TRIAL_GATES: Final = ("key", "rate", "maintenance", "api", "disk")
"""While one of these is shut, nobody can tell whether a video is still to be had."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """What has to be known to give up waiting."""

    store: Store
    gates: Gates
    hosts: Hosts
    clock: Clock
    terms: Callable[[], Terms]
    trust_link_after_ms: Callable[[], int]
    answered_at: Callable[[], int | None]
    """When the provider last answered a question of this process."""
    now: Callable[[], int]
    ring_downloads: Callable[[], None]
    grace_ms: int = GRACE_MS
    """How long the provider may answer the questions of a new process before a link is used
    unconfirmed: silence while this process was not there proves nothing."""

    async def run(self) -> None:
        """Sweep for ever: use links that nobody confirms, warn, declare lost what is."""
        began = expected_at = self.now()
        while True:
            beat()
            if self.now() - expected_at > STILL_MS:
                # Stopped, suspended, or the clock was set: nobody could ask meanwhile.
                began = self.now()
            patience_ms = self.trust_link_after_ms()
            heard_out = self.now() - began >= min(patience_ms, self.grace_ms)
            pause_ms = max(500, min(LONGEST_PAUSE_MS, patience_ms // 4, PROOF_APART_MS // 4))
            try:
                if self.clock.is_sane():
                    if self.terms().has_key and heard_out:
                        await self._trust_links(patience_ms)
                    await self._look_at_deadlines()
            except StoreFailed as failure:
                survive(failure)
            self.hosts.forget_idle()
            expected_at = self.now() + pause_ms
            await asyncio.sleep(pause_ms / 1000)

    async def _trust_links(self, patience_ms: int) -> None:
        now, answered_at = self.now(), self.answered_at()
        # Who answers about others is not silent: these questions wait behind ours, made up or not.
        silent = answered_at is None or answered_at <= now - patience_ms
        for task in await self.store.unanswered(now - patience_ms, BATCH, silent=silent):
            beat()
            await self.store.settle(task, now, partial(judge_silence, now=now))
            self.ring_downloads()

    async def _look_at_deadlines(self) -> None:
        now, terms = self.now(), self.terms()
        last: Task | None = None
        on_trial = not any(self.gates.is_shut(name) for name in TRIAL_GATES)
        while tasks := await self.store.ending(now + NEAR_LEVELS_MS[0], last, BATCH):
            for task in tasks:
                last = task
                beat()
                await self._warn(task, now)
                by_clock_alone = not terms.has_key and task.link is None
                if by_clock_alone and self.clock.up_ms() < SETTLED_MS:
                    continue
                if on_trial and now >= task.deadline_at and not self.hosts.is_shut(task):
                    lost = partial(judge_deadline, now=now, has_key=terms.has_key)
                    await self.store.settle(task, now, lost)

    async def _warn(self, task: Task, now: int) -> None:
        """Say once at each level that a video is about to be deleted and is not here."""
        due = count_warnings(now, task.deadline_at)
        if due <= task.warnings:
            return
        task, _ = await self.store.settle(task, now, lambda _: Verdict(None, {"warnings": due}))
        _log.warning(
            "deadline.near",
            task_id=task.task_id,
            state=task.state,
            hours_left=round((task.deadline_at - now) / HOUR, 1),
            message=task.message,
        )

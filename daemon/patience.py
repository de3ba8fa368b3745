"""Ends waiting that has become pointless: for a confirmation, or for a video that cannot come.

Rule: what ends a task is proof, never a clock reading alone (`rules/schedule`).
"""

import asyncio
from collections.abc import Callable
from functools import partial

from daemon.rules.schedule import MINUTE, PROOF_APART_MS
from daemon.rules.verdict import Terms, judge_deadline, judge_silence
from daemon.store import Store, StoreFailed, survive

BATCH = 100
LONGEST_PAUSE_MS = 30_000
GRACE_MS = 10 * MINUTE


async def wait_no_longer(
    store: Store,
    terms: Callable[[], Terms],
    trust_link_after_ms: Callable[[], int],
    now: Callable[[], int],
    ring_downloads: Callable[[], None],
    *,
    grace_ms: int = GRACE_MS,
) -> None:
    """Sweep for ever: use links that nobody confirms, and declare lost what is proved lost.

    Silence while this process was not there proves nothing: before a link is used unconfirmed, the
    provider has `grace_ms` to answer the questions of a new process.
    """
    began = now()
    while True:
        patience_ms = trust_link_after_ms()
        heard_out = now() - began >= min(patience_ms, grace_ms)
        pause_ms = max(500, min(LONGEST_PAUSE_MS, patience_ms // 4, PROOF_APART_MS // 4))
        try:
            if terms().has_key and heard_out:
                await _trust_links(store, now(), patience_ms, ring_downloads)
            await _declare_lost(store, now(), terms())
        except StoreFailed as failure:
            survive(failure)
        await asyncio.sleep(pause_ms / 1000)


async def _trust_links(
    store: Store, now: int, trust_link_after_ms: int, ring_downloads: Callable[[], None]
) -> None:
    for task in await store.unanswered(now - trust_link_after_ms, BATCH):
        await store.settle(task, now, partial(judge_silence, now=now))
        ring_downloads()


async def _declare_lost(store: Store, now: int, terms: Terms) -> None:
    after_id = 0
    while tasks := await store.past_deadline(now, after_id, BATCH):
        for task in tasks:
            await store.settle(task, now, partial(judge_deadline, now=now, has_key=terms.has_key))
            after_id = task.id

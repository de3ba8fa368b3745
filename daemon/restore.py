"""Takes a backup over that was put in the ledger's place: asks about everything again.

Rule: nothing is served before this is done, and it is done to its end or begun anew. What the
backup calls finished is looked for on the disk; what is gone and can still be had is fetched again.
"""

import asyncio

import structlog

from daemon.disk import Disk
from daemon.rules.lifecycle import Cause
from daemon.rules.request import judge_retry
from daemon.rules.task import Task
from daemon.rules.verdict import NOTHING_ON_DISK, Terms, Verdict
from daemon.store import Store, StoreFailed

PAGE = 500
TRIES = 6
PAUSE_SECONDS = 1.0
"""Between two tries, each of which waits for five seconds itself."""

_log = structlog.get_logger()


async def take_over(store: Store, disk: Disk, now: int, terms: Terms) -> None:
    """Make a restored backup the ledger, where it is one.

    Raises:
        StoreFailed: the ledger cannot be written; the next start begins anew.
        Hindered: the download folder cannot be read.
    """
    if not await store.restoration.is_due():
        return
    await store.restoration.hold_wishes()
    missing = await _fetch_missing(store, disk, now, terms)
    asked = await store.restoration.ask_again(now) if terms.has_key else 0
    for _ in range(TRIES):
        if await store.restoration.complete():
            break
        await asyncio.sleep(PAUSE_SECONDS)
    else:
        raise StoreFailed("another program reads the restored ledger: close it, and start again")
    _log.warning("ledger.restored", asked=asked, missing=missing)


async def _fetch_missing(store: Store, disk: Disk, now: int, terms: Terms) -> int:
    """Open what is finished without its file, and can still be fetched; return how many."""
    missing, before_id = 0, None
    while tasks := await store.obtainable(now, PAGE, before_id):
        for task in tasks:
            if not await disk.has(task.path or "", task.size_bytes):
                missing += 1
                task, _ = await store.settle(task, now, _judge_missing)  # noqa: PLW2901
                if not terms.has_key:
                    await store.settle(task, now, lambda newest: judge_retry(newest, now, terms))
        before_id = tasks[-1].id
    return missing


def _judge_missing(_: Task) -> Verdict:
    gone = {**NOTHING_ON_DISK, "sha256": None, "path": None, "stored_at": None}
    return Verdict(Cause.MISSING, {**gone, "fetch_at": None, "claimed_at": None})

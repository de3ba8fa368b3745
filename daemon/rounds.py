"""Takes what is due and works on it, a bounded number at a time, for ever; insists on the ledger.

Rule: taking waits, working does not hold taking up. A ledger that fails for a while makes a pause;
any other error ends the round and the process.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from daemon.pulse import rest
from daemon.store import StoreFailed, survive

T = TypeVar("T")


async def go_round(
    at_once: int,
    take: Callable[[], Awaitable[T | None]],
    work: Callable[[T], Coroutine[Any, Any, None]],
    name: Callable[[T], str],
) -> None:
    """Call `take` for ever and run `work` on what it returns, at most `at_once` at a time.

    `take` waits until something is due; None says that it was gone before it could be taken.
    """
    room = asyncio.Semaphore(at_once)
    async with asyncio.TaskGroup() as working:
        while True:
            rest()
            await room.acquire()
            try:
                taken = await take()
            except StoreFailed as failure:
                await asyncio.sleep(survive(failure) / 1000)
                taken = None
            if taken is None:
                room.release()
                continue
            job = working.create_task(work(taken), name=name(taken))
            job.add_done_callback(lambda _: room.release())


async def insist(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask the ledger until it answers: for news that nobody would bring a second time."""
    while True:
        try:
            return await ask()
        except StoreFailed as failure:
            rest()
            await asyncio.sleep(survive(failure) / 1000)

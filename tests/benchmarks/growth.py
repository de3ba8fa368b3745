"""Row `growth`: what everything costs in a ledger of a million tasks, beside one of a thousand.

Rule: the same operation is timed in both ledgers in turn, so that both meet the same machine. Both
hold as many open tasks, for a backlog does not grow with the history.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from daemon.inspection import LEDGER_NAME
from daemon.rules.lifecycle import Cause
from daemon.rules.task import Tidings
from daemon.store import Store, open_store
from tests.benchmarks.acks import Server
from tests.benchmarks.ledger import LATER_MS, RETENTION_MS, fill
from tests.benchmarks.ours import our_daemon, time_start
from tests.benchmarks.table import Goal, Row, compare, judge
from tests.benchmarks.usage import cpu_seconds
from tests.stories.harness import Daemon

FEW: Final = 1_000
MANY: Final = 1_000_000
CLAIMS: Final = 80
"""Fewer than there are tasks to claim."""
TIMES: Final = 400
"""How often anything else is done."""
STARTS: Final = 3
PAGES: Final = 20
ROUNDS: Final = 3
SECONDS: Final = 1.0
QUIET_SECONDS: Final = 45.0
"""The check of a large ledger, beside the work, may last so long before we go on without it."""
NEAR: Final = Goal("<=", 1.1)


def run(folder: Path, size: int = MANY) -> Iterator[Row]:
    """Measure both ledgers, first in this process, then in daemons of their own."""
    now = time.time_ns() // 1_000_000
    places = {FEW: folder / "few", size: folder / "many"}
    began = time.perf_counter()
    for tasks, place in places.items():
        place.mkdir()
        fill(place / "state", tasks, now)
    filled = time.perf_counter() - began
    few, many = places.values()
    size_bytes = (many / "state" / LEDGER_NAME).stat().st_size
    told = f"{size:,} tasks"
    yield judge(f"ledger of {told} (made in {filled:.0f} s): bytes a task", [size_bytes / size], "")
    yield from asyncio.run(_operate(few / "state", many / "state", now, told))
    yield from _serve(few, many, told)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two ledgers, and the ids of its tasks that can be claimed."""

    store: Store
    wanted: Sequence[str]


Act = Callable[[Side, int], Awaitable[object]]
"""Does something with a ledger for the so many-th time."""


def _operations(now: int) -> dict[str, Act]:
    """Return what is timed, as the daemon calls it, at a time when all that is open is due."""
    due = now + 2 * LATER_MS

    def receive(side: Side, number: int) -> Awaitable[object]:
        told = Tidings(
            task_id=f"new-{number}",
            cause=Cause.DECLINED,
            now=now,
            deadline_at=now + RETENTION_MS,
            ask_at=None,
            reason="provider_error",
        )
        return side.store.receive([told])

    return {
        "commit of a callback": receive,
        "claim": lambda side, number: side.store.claim(side.wanted[number], due),
        "poll selection, longest overdue": lambda side, _: side.store.due_questions(
            due, 9, freshest=False
        ),
        "poll selection, freshest": lambda side, _: side.store.due_questions(due, 9, freshest=True),
        "poll selection, known": lambda side, _: side.store.due_questions(
            due, 9, freshest=False, known=True
        ),
        "download selection": lambda side, _: side.store.due_downloads(due, 16, freshest=False),
        "when the next falls due": lambda side, _: side.store.next_due(now),
    }


async def _operate(few: Path, many: Path, now: int, told: str) -> list[Row]:
    """Time the operations of the store; the ratio is of medians, for each is short."""
    rows = []
    async with AsyncExitStack() as stack:
        sides = []
        for state_dir in (few, many):
            store = await stack.enter_async_context(open_store(state_dir))
            wanted = await store.tasks(["wanted"], CLAIMS)
            sides.append(Side(store, [task.task_id for task in wanted]))
        for name, act in _operations(now).items():
            waits: tuple[list[float], list[float]] = ([], [])
            for number in range(CLAIMS if name == "claim" else TIMES):
                # Whoever comes second may find its sync half done by the first one's.
                for which in (number % 2, 1 - number % 2):
                    began = time.perf_counter()
                    await act(sides[which], number)
                    waits[which].append((time.perf_counter() - began) * 1000)
            small, large = (median(found) for found in waits)
            rows.append(compare(f"{name}, {told}", [large], [small], "ms", f"of {FEW:,}", NEAR))
    return rows


def _serve(few: Path, many: Path, told: str) -> Iterator[Row]:
    """Time daemons with these ledgers: their start, their pages, and what they acknowledge."""
    starts: tuple[list[float], list[float]] = ([], [])
    for _ in range(STARTS):
        for place, found in zip((few, many), starts, strict=True):
            found.append(time_start(place))
    name = f"of {FEW:,}"
    yield compare(f"start to ready, {told}", starts[1], starts[0], "s", name)
    yield judge(f"start to ready, {told}", starts[1], "s", Goal("<=", 1.0, "s"))
    with our_daemon(few) as small, our_daemon(many) as large:
        began = time.perf_counter()
        _wait_until_quiet(large)
        checked = time.perf_counter() - began
        pages: tuple[list[float], list[float]] = ([], [])
        for _ in range(PAGES):
            for daemon, found in zip((small, large), pages, strict=True):
                began = time.perf_counter()
                daemon.client.get("/v1/tasks")
                found.append((time.perf_counter() - began) * 1000)
        servers = [Server(daemon.url, daemon.process.pid) for daemon in (small, large)]
        for _ in range(ROUNDS):
            for server in servers:
                server.measure(SECONDS)
    yield compare(f"first page of `list`, {told}", pages[1], pages[0], "ms", name)
    yield judge(f"first page of `list`, {told}", pages[1], "ms", Goal("<=", 50.0, "ms"))
    mine, theirs = servers[1], servers[0]
    what = f'acknowledgements, {told}, trust = "callback"'
    yield compare(what, mine.rates, theirs.rates, "/s", name, Goal(">=", 1 / 1.1))
    what = f"processor time per 1,000 of them, {told}"
    yield compare(what, mine.cpu_ms, theirs.cpu_ms, "ms", name, NEAR)
    yield judge("check of the whole large ledger, beside the work", [checked], "s")


def _wait_until_quiet(daemon: Daemon) -> None:
    """Wait until the large ledger has been checked, for the check takes a core meanwhile."""
    until, before = time.monotonic() + QUIET_SECONDS, -1.0
    while (used := cpu_seconds(daemon.process.pid)) > before and time.monotonic() < until:
        before = used + 0.1
        time.sleep(1)

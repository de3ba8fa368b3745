"""What stands on the first page: the one answer, and all that it is made of.

Rule: a page is a few pages of rows, however large the ledger is. A disk that does not answer makes
a page poorer, never slower than a moment.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec

from daemon.dashboard.charts import (
    Bar,
    Day,
    DiskUse,
    divide_disk,
    draw_bars,
    list_days,
)
from daemon.dashboard.films import name_of, picture_of
from daemon.office import Office, in_turns
from daemon.overview import HeldInBrief, Unsafe
from daemon.rules.failure import Hindered
from daemon.rules.gate_words import explain_gate
from daemon.rules.schedule import HOUR
from daemon.rules.task import Task
from daemon.stock import DAY_MS
from daemon.views import DiskView, StatusView, view_task
from daemon.wording import explain

MOVING_LIMIT: Final = 50
STUCK_LIMIT: Final = 20
REFUSED_LIMIT: Final = 5
STORED_LIMIT: Final = 12
DAYS: Final = 30
DISK_SECONDS: Final = 2.0
TALLY_SECONDS: Final = 0.04

T = TypeVar("T")
Row = dict[str, Any]


def make_row(task: Task) -> Row:
    """Return a task with the names of the API, and what its state means."""
    row = msgspec.structs.asdict(view_task(task))
    row["means"] = explain(row)
    row["is_busy"] = task.claimed_at is not None
    return row


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong, and what there is to do."""

    title: str
    means: str
    todo: str = ""
    since: str | None = None
    is_bad: bool = False
    """Whether it endangers a video, or needs somebody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """How it stands, and what is on its way."""

    status: StatusView
    unsafe: Unsafe
    safe: int | None
    """How many videos are in place; None: that is being counted."""
    is_empty: bool
    """Whether nothing ever came."""
    problems: list[Problem]
    moving: list[Row]
    stuck: list[Row]
    refused: list[Row]
    held: list[HeldInBrief]
    stopping: bool

    @property
    def tone(self) -> str:
        """What a glance has to tell: `bad`, `warn`, `busy`, `good`, or `fresh`."""
        if self.unsafe.for_a_person or any(problem.is_bad for problem in self.problems):
            return "bad"
        if self.problems:
            return "warn"
        if self.is_empty:
            return "fresh"
        return "busy" if self.unsafe.videos else "good"


@dataclass(frozen=True, slots=True)
class Card:
    """A stored video, and whether there is a picture of it."""

    row: Row
    has_picture: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """What is stored."""

    cards: list[Card]
    total: int | None
    days: list[Day]
    video_bars: list[Bar]
    byte_bars: list[Bar]
    disk: DiskUse | None


def _look_at(asking: "asyncio.Future[Any]") -> None:
    """Look at what went wrong, so that nobody calls it unretrieved: who waited may be gone."""
    if not asking.cancelled():
        asking.exception()


class Tally(Generic[T]):
    """A number that every row of the ledger goes into: exact where that takes no time.

    In a large ledger it takes a moment, and all that is looked at waits meanwhile: it is made anew
    beside the page, in a twentieth of the time, and until then the last one stands.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], unknown: T) -> None:
        self._ask = ask
        self._newest = unknown
        self._rest_until = 0.0
        self._asking: asyncio.Task[None] | None = None

    async def get(self) -> T:
        """Return it, or the last one where it takes too long.

        Raises:
            StoreFailed: the ledger cannot be read.
        """
        loop = asyncio.get_running_loop()
        if self._asking is None and loop.time() >= self._rest_until:
            self._asking = loop.create_task(self._renew())
            self._asking.add_done_callback(_look_at)
        if self._asking is not None:
            done, _ = await asyncio.wait({self._asking}, timeout=TALLY_SECONDS)
            if done:
                asking, self._asking = self._asking, None
                if asking is not None:
                    asking.result()
        return self._newest

    async def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            self._newest = await self._ask()
        finally:
            took = loop.time() - began
            self._rest_until = loop.time() + (took * 20 if took > TALLY_SECONDS else 0)


@dataclass(slots=True)
class Looker:
    """Finds what a page shows."""

    office: Office
    credits_low: Callable[[], float]
    _counts: Tally[dict[str, int] | None] = field(init=False)
    _bytes: Tally[int | None] = field(init=False)
    _asking: dict["asyncio.Future[Any]", float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        store = self.office.store
        self._counts = Tally(store.counts, None)
        self._bytes = Tally(store.stock.total_bytes, None)

    async def ask_disk(self, function: Callable[..., T], *arguments: object) -> T | None:
        """Ask our own disk; None: it failed, or does not answer."""
        loop = asyncio.get_running_loop()
        # A dead mount takes one thread for each page that somebody looks at, and no more of them.
        if any(loop.time() - began > DISK_SECONDS for began in self._asking.values()):
            return None
        asking = asyncio.ensure_future(self.office.disk.run(function, *arguments))
        self._asking[asking] = loop.time()
        asking.add_done_callback(self._forget)
        await asyncio.wait({asking}, timeout=DISK_SECONDS)
        if not asking.done():
            return None
        try:
            return asking.result()
        except Hindered:
            return None

    def _forget(self, asking: "asyncio.Future[Any]") -> None:
        del self._asking[asking]
        _look_at(asking)

    async def now(self) -> Now:
        """Return how it stands.

        Raises:
            StoreFailed: the ledger cannot be read.
        """
        office = self.office
        overview = office.store.overview
        room = await self.ask_disk(_measure, office.disk.directory)
        disk = None
        if room is not None:
            disk = DiskView(str(office.disk.directory), room[1], office.min_free_bytes())
        unsafe = await overview.unsafe()
        is_empty = not await office.store.tasks((), 1)
        moving = await overview.moving(MOVING_LIMIT) if unsafe.moving else []
        troubled = unsafe.stuck + unsafe.lost + unsafe.unknown
        stuck = await overview.stuck(STUCK_LIMIT) if troubled else []
        refused = await overview.refused(REFUSED_LIMIT) if unsafe.refused else []
        held = await overview.held(STUCK_LIMIT) if unsafe.quarantined else []
        # The slow one last: all others wait for it.
        status = await office.look(disk, {})
        counts = await self.counts()
        return Now(
            status=status,
            safe=None if counts is None else counts["stored"] + counts["done"],
            is_empty=is_empty and not unsafe.quarantined,
            unsafe=unsafe,
            problems=self._find_problems(status),
            moving=await in_turns(make_row, moving),
            stuck=await in_turns(make_row, stuck),
            refused=await in_turns(make_row, refused),
            held=held,
            stopping=office.stopping,
        )

    async def counts(self) -> dict[str, int] | None:
        """Return how many tasks are in each state; None: that is being counted.

        Raises:
            StoreFailed: the ledger cannot be read.
        """
        return await self._counts.get()

    def _find_problems(self, status: StatusView) -> list[Problem]:
        found = []
        now = self.office.now()
        old = {shut.name for shut in self.office.gates.shut() if now - shut.since > HOUR}
        if self.office.stopping:
            found.append(
                Problem("The daemon is stopping", "what is on its way goes on at the next start")
            )
        for gate in status.gates:
            _, means, todo = explain_gate(gate.name)
            needs_somebody = gate.name in {"key", "disk", "credits"}
            is_bad = needs_somebody or (gate.name in old and gate.name == "api")
            title = f"Gate {gate.name} is shut: {gate.reason}"
            found.append(Problem(title, means, todo, gate.since, is_bad))
        # What is said of a gate above is not said twice.
        told = tuple(f"gate {gate.name} " for gate in status.gates)
        found += [
            Problem("Overdue", line, "see the list below for which, and why", None, is_bad=True)
            for line in status.overdue
            if not line.startswith(told or ("\0",))
        ]
        if status.disk is None:
            found.append(
                Problem(
                    "The download folder does not answer",
                    "downloads wait; callbacks are still taken",
                    "see whether its disk is mounted and sound",
                    is_bad=True,
                )
            )
        low = self.credits_low()
        if status.credits is not None and low and status.credits < low:
            left = f"{status.credits:g} credits are left"
            found.append(
                Problem(left, "what is paid for is not touched by that", "buy more in time")
            )
        for one in getattr(status, "undelivered", ()):
            heard = f": {one.last_error}" if one.last_error else ""
            title = f"{one.count} notifications never reached {one.target}{heard}"
            todo = "mend the target, then `suno-videod test-notify` tries it and clears this"
            means = "the videos are not touched by that; they were given up after 3 days"
            found.append(Problem(title, means, todo))
        return found

    async def shelf(self) -> Shelf:
        """Return what is stored.

        Raises:
            StoreFailed: the ledger cannot be read.
        """
        office = self.office
        store, today = office.store, office.now() // DAY_MS
        tasks = await store.overview.newest_stored(STORED_LIMIT)
        days = list_days(await store.stock.by_day(today - DAYS + 1), today, DAYS)
        room = await self.ask_disk(_measure, office.disk.directory)
        cards = await self._make_cards(tasks)
        counts = await self.counts()
        videos = await self._bytes.get()
        return Shelf(
            cards=cards,
            total=None if counts is None else counts["stored"] + counts["done"],
            days=days,
            video_bars=draw_bars([(day.day, day.videos) for day in days]),
            byte_bars=draw_bars([(day.day, day.size_bytes) for day in days]),
            disk=None
            if room is None or videos is None
            else divide_disk(str(office.disk.directory), *room, videos, office.min_free_bytes()),
        )

    async def _make_cards(self, tasks: Sequence[Task]) -> list[Card]:
        disk = self.office.disk
        names = [name_of(task, disk) for task in tasks]
        pictures = {picture_of(name) for name in names if name is not None}
        there = await self.ask_disk(_see, disk.directory, pictures) or frozenset()
        rows = await in_turns(make_row, tasks)
        return [
            Card(row, name is not None and picture_of(name) in there)
            for row, name in zip(rows, names, strict=True)
        ]

    async def has_film(self, task: Task) -> tuple[bool, bool]:
        """Return whether a task's video is in place, and whether there is a picture of it."""
        disk, name = self.office.disk, name_of(task, self.office.disk)
        if name is None:
            return False, False
        there = await self.ask_disk(_see, disk.directory, {name, picture_of(name)}) or frozenset()
        return name in there, picture_of(name) in there


def _measure(directory: Path) -> tuple[int, int]:
    """Return the size of the disk, and what an ordinary user may still write there."""
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    # What is kept for the superuser is nobody's room.
    return (found.f_blocks - found.f_bfree + found.f_bavail) * found.f_frsize, free


def _see(directory: Path, names: set[str]) -> frozenset[str]:
    return frozenset(name for name in names if (directory / name).is_file())

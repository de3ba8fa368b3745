"""Lets the stations live through weeks of trouble in a minute, and counts what was left behind.

Rule: a video that could be had for six hours on end before its deletion has its file; nothing is
lost without proof, the provider is never asked faster than agreed, and in the end nothing is open.
The stations, the rules and the ledger are the real ones; the clock is virtual, and films are facts.

    python -m tests.campaigns.months --size 20 --seed 1
"""

import asyncio
import bisect
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import structlog

from daemon.bell import Bell
from daemon.callback import Heard, Intake
from daemon.clock import Clock
from daemon.disk import Disk
from daemon.download import _SUCCEEDED, Downloader
from daemon.gates import Gates
from daemon.hosts import Hosts
from daemon.outbound import Session
from daemon.patience import Patience
from daemon.poller import Poller
from daemon.provider import BURST, Provider
from daemon.queue import DownloadQueue, work
from daemon.rules.failure import Hindered, Reason
from daemon.rules.lifecycle import Cause, State
from daemon.rules.notice import read_callback
from daemon.rules.schedule import HOUR, MINUTE, SECOND, Pace
from daemon.rules.task import Task
from daemon.rules.verdict import Terms, judge_callback
from daemon.store import Store, open_store
from tests.campaigns.account import DAY, Account, Name, Span, Video, draw_video
from tests.campaigns.campaign import PromiseBroken, command
from tests.campaigns.laws import is_proved_lost
from tests.campaigns.shelf import quick_folder
from tests.campaigns.virtual import VirtualLoop

START: Final = 1_790_000_000_000
RATE: Final = 1.0
WORKERS: Final = 4
RESTARTS: Final = 12
"""How often the daemon is only started anew."""
CHANCE: Final = 6 * HOUR
TERMS: Final = Terms(Pace(3 * MINUTE, 30 * SECOND, 6 * HOUR), 2 * SECOND, 15 * MINUTE, has_key=True)
CALLBACK_RETRIES: Final = (0, 60, 300, 900)
"""Seconds between a callback and the next try, as the provider has it."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How big a world is."""

    videos: int
    born: int
    """In how many milliseconds all of them are submitted."""
    retention: int
    rest: int
    """How long the world goes on after the last deletion: proofs take their time."""


SMALL: Final = Scale(40, 6 * HOUR, 24 * HOUR, 40 * HOUR)
LARGE: Final = Scale(0, 8 * DAY, 14 * DAY, 5 * DAY)


@dataclass(slots=True)
class Tally:
    """What happened in all worlds together."""

    worlds: int = 0
    days: float = 0
    videos: int = 0
    states: Counter[str] = field(default_factory=Counter)
    questions: int = 0
    denials: int = 0
    fetches: int = 0
    refusals: int = 0
    troubles: Counter[str] = field(default_factory=Counter)
    excused: int = 0
    """Videos without a file that nobody could have had for six hours on end."""
    unheard: int = 0
    """Videos whose callbacks never came, and that were brought home all the same."""


async def run_campaign(folder: Path, size: int, seed: int) -> Tally:
    """Live through `size` worlds; one alone is a small one.

    Raises:
        PromiseBroken: with the seed that shows it.
    """
    tally = Tally()
    with quick_folder(folder) as quick, _silence():
        for number in range(size):
            place = quick / str(number)
            place.mkdir()
            luck = random.Random(f"{seed} {number}")
            scale = SMALL
            if number:
                # Forty to two thousand, and mostly few.
                videos = int(40 * 50 ** (luck.random() ** 2))
                scale = Scale(videos, LARGE.born, LARGE.retention, LARGE.rest)
            try:
                await asyncio.to_thread(_live, place, scale, luck, tally)
            except PromiseBroken as broken:
                raise PromiseBroken(f"seed {seed}, world {number}: {broken}") from broken
    return tally


@contextmanager
def _silence() -> Iterator[None]:
    """Write no log: a month has more lines than anybody reads."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def _live(folder: Path, scale: Scale, luck: random.Random, tally: Tally) -> None:
    # The stations draw their jitter from here.
    random.seed(luck.random())
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        runner.run(World(folder, scale, luck, loop).run(tally))


class World:
    """One account, its troubles and a daemon that comes and goes."""

    def __init__(self, folder: Path, scale: Scale, luck: random.Random, loop: VirtualLoop) -> None:
        self.folder = folder
        self.scale = scale
        self.luck = luck
        self.loop = loop
        self.slept_ms = 0
        self.downloads = Bell()
        self.questions = Bell()
        self.woken = Bell()
        """Rings when the wall clock has jumped."""
        self.store: Store | None = None
        self.intake: Intake | None = None
        troubles = _draw_troubles(scale, luck)
        self.account = Account(
            kind=luck.choice(["sunoapi", "kie"]),
            now=self.now,
            luck=luck,
            troubles=troubles,
            moody=luck.choice([0.0, 0.1, 0.3]),
        )
        heard = luck.choice([0.0, 0.5, 1.0, luck.random()])
        for number in range(scale.videos):
            at = START + int(luck.random() * scale.born)
            video = draw_video(luck, number, at, scale.retention)
            video.heard = luck.random() < heard
            self.account.videos[video.task_id] = video
        self.end = START + scale.born + scale.retention + scale.rest

    def now(self) -> int:
        """Return the wall clock, which goes on while the machine sleeps."""
        return START + self.slept_ms + int(self.loop.time() * 1000)

    async def sleep_until(self, at: int) -> None:
        """Sleep until the wall clock says so."""
        while (left := at - self.now()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left / 1000):
                    await self.woken.listen().wait()

    async def run(self, tally: Tally) -> None:
        """Live to the end, then judge."""
        videos = self.account.videos.values()
        outside = [asyncio.create_task(self._send(video)) for video in videos]
        outside.append(asyncio.create_task(self._nod()))
        for begins, ends in self.account.troubles["down"]:
            await self._serve_until(begins)
            await self.sleep_until(ends)
        await self._serve_until(self.end)
        await asyncio.gather(*outside)
        with self.loop.standing_still():
            async with open_store(self.folder) as store:
                tasks = {task.task_id: task for task in await store.tasks((), 1_000_000)}
        self._judge(tasks)
        self._count(tasks, tally)

    async def _nod(self) -> None:
        """Let the machine sleep: its monotonic clock stands still, the wall clock does not."""
        for begins, ends in self.account.troubles["asleep"]:
            await self.sleep_until(begins)
            self.slept_ms += max(0, ends - self.now())
            self.woken.ring()

    async def _send(self, video: Video) -> None:
        """Do what makes a video known: somebody tracks it, the provider calls back."""
        await self.sleep_until(video.created_at)
        while video.tracked:
            if self.store is not None:
                await self.store.adopt(
                    [video.task_id],
                    source="track",
                    label=None,
                    now=self.now(),
                    deadline_at=self.now() + self.scale.retention,
                    ask_at=self.now(),
                )
                video.known_at = self.now()
                self._ring()
                break
            await asyncio.sleep(600)
        await self.sleep_until(video.completed_at)
        for seconds in CALLBACK_RETRIES if video.heard and video.fate != "never" else ():
            await asyncio.sleep(seconds)
            if self.intake is None or not self.account.works("asleep"):
                continue
            tidings = judge_callback(
                read_callback(self.account.callback(video)),
                self.now(),
                trusted=False,
                has_key=True,
                retention_ms=self.scale.retention,
            )
            await self.intake.commit(Heard(tidings))
            video.known_at = video.known_at or self.now()
            self._ring()
            return

    def _ring(self) -> None:
        self.questions.ring()
        self.downloads.ring()

    async def _serve_until(self, at: int) -> None:
        """Be the daemon for a while."""
        if self.now() >= at:
            return
        async with self._open_store() as store:
            self.intake = Intake(store)
            self.store = store
            loops = [asyncio.create_task(loop) for loop in self._build(store, self.intake)]
            ending = asyncio.create_task(self.sleep_until(at))
            done, _ = await asyncio.wait([*loops, ending], return_when=asyncio.FIRST_COMPLETED)
            self.store = self.intake = None
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            for task in done - {ending}:
                raise PromiseBroken(f"a loop ended: {task.exception()!r}") from task.exception()

    @asynccontextmanager
    async def _open_store(self) -> AsyncIterator[Store]:
        opened = open_store(self.folder)
        with self.loop.standing_still():
            store = await opened.__aenter__()
            await store.commits.connection.execute_fetchall("PRAGMA synchronous = OFF")
        self.loop.watch(store.commits.connection)
        await store.ask_about_all(self.now())
        try:
            yield store
        finally:
            with self.loop.standing_still():
                await opened.__aexit__(None, None, None)

    def _build(self, store: Store, intake: Intake) -> list[Any]:
        """Return the loops of one process, as the assembly has them."""
        gates = Gates(self.now, lambda _event, _shut: None)
        hosts = Hosts(gates, self.now, lambda: TERMS.retry_limit_ms)
        session = cast("Session", self.account)
        provider = Provider(session, self.account.kind, gates, self.now, RATE)
        poller = Poller(
            *(store, provider, lambda: TERMS, self.now),
            bell=self.questions,
            ring_downloads=self.downloads.ring,
        )
        disk = cast("Disk", None)
        downloader = Downloader(
            # No byte is fetched here: what the host would have done is told by the account.
            *(store, session, cast("Any", None), disk, gates),
            section=cast("Any", None),
            min_free_bytes=lambda: 0,
            now=self.now,
        )
        steps = {
            State.WANTED: lambda task: self._fetch(downloader, task),
            State.VERIFIED: lambda task: self._publish(downloader, gates, task),
            State.STORED: downloader.finish,
        }
        queue = DownloadQueue()
        workers = [
            work(
                *(queue, store, steps, gates, hosts, lambda: TERMS),
                now=self.now,
                bell=self.downloads,
                ring_questions=self.questions.ring,
                freshest=number == 1,
                is_surplus=lambda: False,
            )
            for number in range(WORKERS)
        ]
        patience = Patience(
            store=store,
            gates=gates,
            hosts=hosts,
            # The boot clock goes on while the machine sleeps.
            clock=Clock(self.now, self.now),
            terms=lambda: TERMS,
            trust_link_after_ms=lambda: 6 * HOUR,
            answered_at=lambda: provider.answered_at,
            now=self.now,
            ring_downloads=self.downloads.ring,
        )
        feed = queue.feed(store, self.now, self.downloads)
        return [intake.run(), poller.run(), feed, patience.run(), *workers]

    async def _fetch(self, downloader: Downloader, task: Task) -> Task:
        await asyncio.sleep(self.luck.uniform(0, 60))
        owner = self.account.serve(task.next_link)
        if owner != task.task_id:
            raise PromiseBroken(f"{task.task_id} was fetched from the link of {owner}")
        known = {"size_bytes": 1, "sha256": owner, "path": f"/videos/{owner}.mp4", "spans": "0-1"}
        return await downloader._move(task, Cause.FETCHED, **known, **_SUCCEEDED)

    async def _publish(self, downloader: Downloader, gates: Gates, task: Task) -> Task:
        if not self.account.works("disk"):
            raise Hindered(Reason.DISK, "no room")
        self.account.files.add(task.task_id)
        gates.open("disk")
        said = {"stored_at": self.now(), "reason": None, "message": None}
        return await downloader._move(task, Cause.PUBLISHED, **said)

    def _judge(self, tasks: dict[str, Task]) -> None:
        """Compare the end with what could have been.

        Raises:
            PromiseBroken: a video was left behind, or something else was promised.
        """
        left = [task for task in tasks.values() if task.state not in {"done", "failed", "lost"}]
        if left:
            raise PromiseBroken(f"still open at the end: {left[0]}")
        for video in self.account.videos.values():
            task = tasks.get(video.task_id)
            if task is None:
                if video.known_at is not None:
                    raise PromiseBroken(f"{video} left the ledger")
                continue
            if task.state == State.DONE and task.task_id not in self.account.files:
                raise PromiseBroken(f"{task} is done without its file")
            if task.state == State.LOST and not is_proved_lost(task):
                raise PromiseBroken(f"{task} is lost without proof")
            missed = video.fate == "made" and task.state != State.DONE
            if missed and self.account.longest_chance(video) >= CHANCE:
                raise PromiseBroken(f"{video} was left behind: {task}")
        self._judge_pace()

    def _judge_pace(self) -> None:
        """No stretch of time has more calls than its length allows, plus a burst."""
        calls = self.account.calls
        for window in (1.0, 10.0, 60.0, 3600.0):
            for index, at in enumerate(calls):
                count = bisect.bisect_left(calls, at + window) - index
                if count > BURST + RATE * window + 1:
                    raise PromiseBroken(f"{count} calls within {window:g} s")

    def _count(self, tasks: dict[str, Task], tally: Tally) -> None:
        account = self.account
        tally.worlds += 1
        tally.days += (self.end - START) / DAY
        tally.videos += len(tasks)
        tally.states.update(task.state for task in tasks.values())
        tally.questions += len(account.calls)
        tally.denials += account.denials
        tally.fetches += account.fetches
        tally.refusals += account.refusals
        tally.troubles.update(name for name, spans in account.troubles.items() for _ in spans)
        for video in account.videos.values():
            task = tasks.get(video.task_id)
            if task is not None and video.fate == "made":
                tally.excused += task.state != State.DONE
                tally.unheard += task.state == State.DONE and not video.heard


def _draw_troubles(scale: Scale, luck: random.Random) -> dict[Name, list[Span]]:
    """Return spans of time in which things do not work, scaled to the retention."""
    share = scale.retention / (14 * DAY)
    lengths: dict[Name, float] = {
        "api": luck.uniform(0, 5) * DAY * share,
        "key": 2 * DAY * share,
        "host": luck.uniform(0, 2) * DAY * share,
        "disk": DAY * share,
        "down": 3 * DAY * share,
        "asleep": 6 * HOUR,
    }
    troubles: dict[Name, list[Span]] = {}
    for name, length in lengths.items():
        begins = START + int(luck.random() * (scale.born + scale.retention / 8))
        troubles[name] = [(begins, begins + int(length))] if luck.random() < 0.7 else []
    for _ in range(RESTARTS):
        begins = START + int(luck.random() * (scale.born + HOUR))
        troubles["down"].append((begins, begins + luck.randint(1, 20) * SECOND))
    troubles["down"].sort()
    return troubles


def _tell(tally: Tally) -> str:
    troubles = ", ".join(f"{count} {name}" for name, count in sorted(tally.troubles.items()))
    states = ", ".join(f"{count} {state}" for state, count in sorted(tally.states.items()))
    return (
        f"{tally.worlds} worlds, {tally.days:.0f} days, troubles: {troubles}; {tally.videos} "
        f"videos ended as {states}; {tally.questions} questions ({tally.denials} in vain), "
        f"{tally.fetches} downloads ({tally.refusals} refused), {tally.unheard} brought home "
        f"without a callback, {tally.excused} never to be had for six hours, none left behind"
    )


if __name__ == "__main__":
    command(run_campaign, _tell, size=20, unit="worlds")()

"""Where steps of the daemon are cut: a real ledger, a slow disk, a provider, and a close look.

Rule: whatever was cut, afterwards nothing is on its way any more: no call to the disk, no open
transaction, no task, no descriptor, no thread, and the ledger still takes a write.
"""

import asyncio
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from daemon.bell import Bell
from daemon.callback import Intake, Receiver, callback_app
from daemon.config.loader import load
from daemon.config.secret import Secret
from daemon.config.sections import Download, TcpEndpoint
from daemon.disk import Disk, sync_or_remove
from daemon.download import Downloader
from daemon.gates import Gates
from daemon.gateway import Gateway
from daemon.listeners import close, listen, public_runner
from daemon.outbound import Session, api_session, file_session
from daemon.poller import Poller
from daemon.provider import Provider
from daemon.rules.address import AddressPolicy
from daemon.rules.lifecycle import Cause
from daemon.rules.schedule import HOUR, MINUTE, SECOND, Pace
from daemon.rules.spans import Spans
from daemon.rules.task import Task, Tidings
from daemon.rules.verdict import Terms
from daemon.simulator.faults import Faults
from daemon.simulator.simulator import Simulator
from daemon.store import Store, open_store
from daemon.submitter import Submitter
from tests.campaigns.campaign import PromiseBroken
from tests.stories.stage import simulated_provider

START: Final = 1_790_000_000_000
WEEK: Final = 7 * 24 * HOUR
FILM_BYTES: Final = 1_300_000
KEY: Final = "key"
POLICY: Final = AddressPolicy(allow_http=True, allow_private=(ip_network("127.0.0.0/8"),))
TERMS: Final = Terms(Pace(3 * MINUTE, 30 * SECOND, HOUR), SECOND, MINUTE, has_key=True)
SLOWEST_SECONDS: Final = 0.002
SETTLE_SECONDS: Final = 3.0
SPARE_DESCRIPTORS: Final = 2
BAITS: Final = 4


class SlowPool(ThreadPoolExecutor):
    """Disk threads that start late, count what they are at, and remember what they did."""

    def __init__(self, workers: int, luck: random.Random) -> None:
        super().__init__(workers, thread_name_prefix="disk")
        self._luck = luck
        self._lock = threading.Lock()
        self.running = 0
        self.journal: deque[str] = deque(maxlen=64)

    def submit(  # type: ignore[explicit-override] # typing.override begins with 3.12
        self, function: Callable[..., Any], /, *arguments: Any, **named: Any
    ) -> "Future[Any]":
        """Run a call after a moment."""
        pause = self._luck.uniform(0, SLOWEST_SECONDS)
        return super().submit(self._run, pause, function, *arguments, **named)

    def _run(self, pause: float, function: Callable[..., Any], /, *rest: Any, **named: Any) -> Any:
        with self._lock:
            self.running += 1
        try:
            time.sleep(pause)
            result = function(*rest, **named)
        finally:
            with self._lock:
                self.running -= 1
                self.journal.append(_name(function))
        return result


def _name(function: Callable[..., Any]) -> str:
    while isinstance(function, partial):
        function = function.func
    return "sync" if function is sync_or_remove else getattr(function, "__name__", "")


Visit = tuple[Awaitable[web.StreamResponse], "asyncio.Future[web.StreamResponse]"]
"""A request that waits for being handled, and where its answer goes."""


class WatchedStore(Store):
    """A ledger whose records of progress are compared with what the disk did."""

    disk_journal: deque[str] | None = None

    async def record_progress(  # type: ignore[explicit-override] # likewise
        self,
        task_id: str,
        spans: str,
        size_bytes: int | None,
        validator: str | None,
        *,
        only_of: str | None = None,
    ) -> None:
        """Commit, once it is clear that everything written was synced."""
        check_synced(self.disk_journal or (), spans)
        await super().record_progress(task_id, spans, size_bytes, validator, only_of=only_of)


def check_synced(journal: "deque[str] | tuple[str, ...]", spans: str) -> None:
    """Raise PromiseBroken when bytes were written after the last sync and are recorded now."""
    for done in reversed(journal):
        if done == "sync" or not spans:
            return
        if done == "write":
            raise PromiseBroken(f"{spans} is recorded before it was synced")


class Workshop:
    """The stations, made by `open_workshop`, and what surrounds them."""

    def __init__(
        self, folder: Path, luck: random.Random, store: Store, provider: Simulator
    ) -> None:
        self.luck = luck
        self.videos = folder / "videos"
        self.simulator = provider
        self.pool = SlowPool(2, luck)
        self.disk = Disk(self.videos, workers=1, file_mode=0o640, directory_mode=0o750)
        self.disk.pool.shutdown()
        self.disk.pool = self.pool
        watched = WatchedStore(
            store.commits.connection, store._reader, lambda _: None, lambda: False
        )
        watched.disk_journal = self.pool.journal
        self.store: Store = watched
        self.gates = Gates(self.now, lambda _event, _shut: None)
        self.intake = Intake(self.store)
        self.complaints: list[str] = []
        self.felt = 0
        """How often the last step was cancelled."""
        self.numbers = iter(range(1_000_000_000))
        self.downloader: Downloader
        self.poller: Poller
        self.submitter: Submitter
        self.gateway: Gateway
        self.provider: Provider
        self.files: Session
        self.door = ""
        """The address that callbacks are sent to."""
        self.visits: asyncio.Queue[Visit] = asyncio.Queue()
        self._loops: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._descriptors = self._threads = 0

    def now(self) -> int:
        """Return the time, which stands still."""
        return START

    def new_id(self) -> str:
        """Return an id that nobody has."""
        return f"cut-{next(self.numbers)}"

    async def restart(self) -> None:
        """Let the submitter, the gateway and the intake begin anew, as a new process would."""
        await self.stop()
        await self.store.intents.recover(START)
        await self.store.intents.withdraw_unsent(START)
        self.submitter = Submitter(
            *(self.store, self.provider, self.files, self.gates),
            policy=lambda: POLICY,
            terms=lambda: TERMS,
            retention_ms=lambda: WEEK,
            callback_url=lambda: "http://127.0.0.1:9/video-callback/token",
            now=self.now,
            ring=lambda: None,
            ring_credits=lambda: None,
        )
        self.gateway = Gateway(
            *(self.store, self.provider, self.gates, self.submitter.submit),
            kind="sunoapi",
            api_key=lambda: KEY,
            policy=lambda: POLICY,
            retention_ms=lambda: WEEK,
            now=self.now,
            ring=lambda: None,
        )
        self._loops = [
            asyncio.create_task(self.submitter.run(first=True), name="first lane"),
            asyncio.create_task(self.submitter.run(first=False), name="second lane"),
            asyncio.create_task(self.intake.run(), name="intake"),
        ]
        self._tasks |= set(self._loops)

    async def stop(self) -> None:
        """End what runs for ever."""
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._tasks -= set(self._loops)
        self._loops = []

    async def want(self, task_id: str | None = None, link: str | None = None) -> Task:
        """Put a wanted task into the ledger, of the provider's where no id is given; claim it."""
        if task_id is None:
            task_id = self.simulator.add_task(Faults(callbacks=()))
            link = self.simulator.tasks[task_id].video_url
        tidings = Tidings(
            task_id=task_id,
            cause=Cause.LINKED,
            now=START,
            deadline_at=START + WEEK,
            ask_at=None,
            link=link or "https://files.example.com/a.mp4",
        )
        await self.store.receive([tidings])
        return await self.claim(task_id)

    async def claim(self, task_id: str) -> Task:
        """Take a task as the next process would."""
        await self.store.release_claims()
        task = await self.store.claim(task_id, START)
        if task is None:
            raise PromiseBroken(f"{task_id} cannot be claimed any more")
        return task

    async def row(self, task_id: str) -> Task:
        """Return a task that has to be there."""
        task = await self.store.task(task_id)
        if task is None:
            raise PromiseBroken(f"{task_id} left the ledger")
        return task

    def check_bytes(self, task: Task, path: Path) -> None:
        """Compare what the ledger says is in a partial file with the film."""
        film = self.simulator.tasks[task.task_id].film
        for start, end in Spans.parse(task.spans).ranges:
            with path.open("rb") as file:
                file.seek(start)
                if file.read(end - start) != b"".join(film.read(start, end)):
                    raise PromiseBroken(f"{path.name}: bytes {start} to {end} are not the film's")

    async def remember(self) -> None:
        """Take what is there now for what belongs here."""
        for _ in range(2):
            await asyncio.gather(*(self.disk.run(os.getpid) for _ in range(2)))
        self._tasks = _our_tasks()
        self._descriptors = _count_descriptors()
        self._threads = _count_threads()

    async def look_around(self) -> None:
        """Compare what is there with what belongs here, right after a step was cut.

        Raises:
            PromiseBroken: something is left of it.
        """
        if self.pool.running:
            raise PromiseBroken("it ended while a call to the disk was on its way")
        baits = [os.open(self.videos / f".bait-{n}", os.O_RDWR | os.O_CREAT) for n in range(BAITS)]
        try:
            # The ledger's thread works on one statement after the other: behind this one it rests.
            if not await self.store.writable():
                raise PromiseBroken("the ledger takes no write any more")
            await self.store.commits.settle()
            if self.store.commits.connection.in_transaction:
                raise PromiseBroken("a transaction was left open")
            await asyncio.gather(*(self.disk.run(os.getpid) for _ in range(2)))
            if any(os.fstat(bait).st_size for bait in baits):
                raise PromiseBroken("a write went to a file that was closed before")
        finally:
            for bait in baits:
                os.close(bait)
        await self._wait_for_rest()
        if self.complaints:
            raise PromiseBroken(f"the loop complains: {self.complaints}")

    async def _wait_for_rest(self) -> None:
        until = time.monotonic() + SETTLE_SECONDS
        while True:
            left = _our_tasks() - self._tasks
            descriptors = _count_descriptors() - self._descriptors
            threads = _count_threads() - self._threads
            if not left and descriptors <= SPARE_DESCRIPTORS and threads <= 0:
                return
            if time.monotonic() > until:
                told = f"tasks {left}, {descriptors} descriptors, {threads} threads"
                raise PromiseBroken(f"left behind: {told}")
            await asyncio.sleep(0.001)


def _our_tasks() -> set[asyncio.Task[Any]]:
    """Return the tasks that are not a connection of a server: those end when the peer is gone."""
    here = asyncio.current_task()
    return {
        task
        for task in asyncio.all_tasks()
        if task is not here
        and getattr(task.get_coro(), "__qualname__", "") != "RequestHandler.start"
    }


def _count_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _count_threads() -> int:
    """Count the threads that belong to no pool."""
    return sum(not thread.name.startswith(("disk", "asyncio")) for thread in threading.enumerate())


@asynccontextmanager
async def open_workshop(folder: Path, luck: random.Random) -> AsyncIterator[Workshop]:
    """Open everything; both lanes of the submitter and the intake run meanwhile."""
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(
            simulated_provider(
                api_key=KEY,
                file_size_bytes=FILM_BYTES,
                credits=1e9,
                # Nobody takes them, and a callback that waits is a task of the loop.
                callback_retry_delays=(),
            )
        )
        ledger = await stack.enter_async_context(open_store(folder / "state"))
        shop = Workshop(folder, luck, ledger, simulator)
        stack.callback(shop.disk.close)
        await shop.disk.prepare()
        api = await stack.enter_async_context(api_session(simulator.base_url, lambda: Secret(KEY)))
        files = await stack.enter_async_context(file_session(lambda: POLICY, 5, 5, 8))
        shop.provider = Provider(api, "sunoapi", shop.gates, shop.now, 1000)
        _furnish(shop, files)
        shop.door = await stack.enter_async_context(_open_door(shop, folder))
        quiet = logging.getLogger("aiohttp.server")
        level = quiet.level
        # A host says so when its client hangs up; here that is what is wanted.
        quiet.setLevel(logging.CRITICAL)
        stack.callback(quiet.setLevel, level)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, told: shop.complaints.append(str(told)))
        stack.callback(loop.set_exception_handler, None)
        stack.push_async_callback(shop.stop)
        await shop.restart()
        yield shop


@asynccontextmanager
async def _open_door(shop: Workshop, folder: Path) -> AsyncIterator[str]:
    """Serve the real callback listener; every visit waits for somebody who takes it in hand."""
    settings = folder / "config.toml"
    settings.write_text('state_dir = "state"\n')
    section = load(settings, {}).config.callback

    app = callback_app(
        Receiver(
            section=lambda: section,
            tokens=lambda: (KEY,),
            has_key=lambda: False,
            retention_ms=lambda: WEEK,
            intake=shop.intake,
            now=shop.now,
            ring=lambda: None,
        )
    )

    async def attend(request: web.BaseRequest) -> web.StreamResponse:
        answer: asyncio.Future[web.StreamResponse] = asyncio.get_running_loop().create_future()
        shop.visits.put_nowait((app(request), answer))
        return await answer

    runner = public_runner(attend)
    place = await listen(runner, TcpEndpoint("127.0.0.1", 0), 0o600)
    try:
        yield f"{place}{section.path}/{KEY}"
    finally:
        await close([runner])


def _furnish(shop: Workshop, files: Session) -> None:
    provider = shop.provider
    shop.files = files
    section = Download(directory=shop.videos)
    shop.downloader = Downloader(
        *(shop.store, files, lambda: POLICY, shop.disk, shop.gates),
        section=lambda: section,
        min_free_bytes=lambda: 0,
        now=shop.now,
    )
    shop.poller = Poller(
        *(shop.store, provider, lambda: TERMS, shop.now),
        bell=Bell(),
        ring_downloads=lambda: None,
    )

"""Carries a task from its link to its place, as the queue and the poller do, on a clock of its own.

Rule: everything that decides or writes is the daemon's own: ledger, downloader, verdicts. Here is
only the loop around them, without the waiting: the clock is set to when the next step falls due.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from socket import AF_UNSPEC, AddressFamily
from typing import Final

import structlog
from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult

from daemon.config.sections import Download
from daemon.disk import Disk
from daemon.download import Downloader
from daemon.gates import Gates
from daemon.outbound import Session, file_session
from daemon.rules.address import AddressPolicy
from daemon.rules.dialect import Outcome
from daemon.rules.failure import Refused, Spoiled, StepFailed
from daemon.rules.filename import name_partial
from daemon.rules.lifecycle import Cause, State
from daemon.rules.notice import Answer, Evidence, Notice
from daemon.rules.schedule import Pace
from daemon.rules.task import Task, Tidings
from daemon.rules.verdict import Terms, judge_answer, judge_failure
from daemon.store import Store, open_store
from tests.campaigns.liars import Liar, Lie, Scene

START: Final = 1_790_000_000_000
WEEK: Final = 7 * 86_400_000
POLICY: Final = AddressPolicy(allow_http=True, allow_private=(ip_network("127.0.0.1/32"),))
PATIENT_SECONDS: Final = 15.0
HASTY_SECONDS: Final = 0.3


class _Names(AbstractResolver):
    """A resolver that asks nobody outside."""

    async def resolve(  # type: ignore[explicit-override] # typing.override begins with 3.12
        self, host: str, port: int = 0, family: AddressFamily = AF_UNSPEC
    ) -> list[ResolveResult]:
        if host != "localhost":
            raise OSError(f"{host}: no such name")
        return await ThreadedResolver().resolve(host, port, family)

    async def close(self) -> None:  # type: ignore[explicit-override] # likewise
        """Nothing is open."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where transfers happen: one ledger, one folder, sessions by (over TLS or not, patience)."""

    host: Liar
    store: Store
    disk: Disk
    patient: Session
    hasty: Session


@asynccontextmanager
async def opened(folder: Path, host: Liar) -> AsyncIterator[Place]:
    """Open a ledger and a download folder."""
    # Thousands of lines about hosts that misbehave would only be in the way.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    async with AsyncExitStack() as stack:
        stack.callback(structlog.reset_defaults)
        store = await stack.enter_async_context(open_store(folder / "state", lambda _: None))
        disk = Disk(folder / "videos", workers=4, file_mode=0o640, directory_mode=0o750)
        stack.callback(disk.close)
        await disk.prepare()
        patient, hasty = [
            await stack.enter_async_context(
                file_session(
                    *(lambda: POLICY, seconds, seconds, 0), tls=host.context, resolver=_Names()
                )
            )
            for seconds in (PATIENT_SECONDS, HASTY_SECONDS)
        ]
        yield Place(host, store, disk, patient, hasty)


class Transfer:
    """One task on its way; `at` is its own clock."""

    def __init__(
        self, place: Place, scene: Scene, luck: random.Random, *, hasty: bool, has_key: bool = True
    ) -> None:
        self.scene = scene
        self.at = START
        self.waited_seconds = 0.0
        """The pause that the last failure brought."""
        self.slowest_seconds = 0.0
        self.attempts = 0
        self.is_stored = False
        self.went_on = ""
        """How the second attempt began."""
        self._place = place
        self._luck = luck
        self._links = 0
        self._terms = Terms(Pace(180_000, 30_000, 21_600_000), 2_000, 900_000, has_key=has_key)
        section = Download(
            directory=place.disk.directory,
            stall_timeout=timedelta(seconds=HASTY_SECONDS if hasty else PATIENT_SECONDS),
            min_speed_time=timedelta(seconds=0.4 if hasty else 60),
        )
        self._downloader = Downloader(
            *(place.store, place.hasty if hasty else place.patient, lambda: POLICY),
            *(place.disk, Gates(lambda: self.at, lambda *_: None)),
            section=lambda: section,
            min_free_bytes=lambda: 0,
            now=lambda: self.at,
        )
        scene.host = place.host
        place.host.scenes[scene.key] = scene

    @property
    def final(self) -> Path:
        """Where the finished film is to appear."""
        return self._place.disk.directory / f"video_{self.scene.key}.mp4"

    @property
    def partial(self) -> Path:
        """Where its bytes are until then."""
        return self._place.disk.partial(name_partial(self.scene.key))

    async def adopt(self) -> None:
        """Put the task into the ledger, wanted."""
        await self._place.store.receive(
            [
                Tidings(
                    task_id=self.scene.key,
                    cause=Cause.LINKED,
                    now=self.at,
                    deadline_at=self.at + WEEK,
                    ask_at=None,
                    link=self._place.host.link(self.scene.key, self.scene.scheme),
                )
            ]
        )

    async def task(self) -> Task:
        """Read it."""
        task = await self._place.store.task(self.scene.key)
        assert task is not None
        return task

    async def attempt(self, lie: Lie | None) -> str:
        """Make one attempt against a host that plays `lie`; return how it ended.

        The clock is left at the time when the next step is due.
        """
        self.scene.begin(lie)
        held = (await self.task()).spans != ""
        task = await self._place.store.claim(self.scene.key, self.at)
        assert task is not None, f"{self.scene.key} is not due"
        steps = {
            State.WANTED: self._downloader.fetch,
            State.VERIFIED: self._downloader.publish,
            State.STORED: self._downloader.finish,
        }
        began = time.monotonic()
        self.attempts += 1
        try:
            while (step := steps.get(State(task.state))) is not None:
                task = await step(task)
        except StepFailed as failure:
            await self._settle(task, failure)
            if isinstance(failure, Refused):
                return "refused"
            return "spoiled" if isinstance(failure, Spoiled) else "trouble"
        finally:
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
            if self.attempts == 2:
                self.went_on = self._describe_beginning()
        self.is_stored = True
        return "restarted" if self._has_restarted(held=held) else "taken"

    def _describe_beginning(self) -> str:
        if not self.scene.asked:
            return "nothing asked"
        return "anew" if self.scene.asked[0][0].start is None else "resumed"

    def leave(self) -> None:
        """Let the host forget it."""
        del self._place.host.scenes[self.scene.key]

    def _has_restarted(self, *, held: bool) -> bool:
        """Whether bytes were thrown away: judged by what the host was asked, and answered."""
        wholes = [
            number
            for number, (asked, status) in enumerate(self.scene.asked)
            if not asked.probes and not status.startswith(("3", "206"))
        ]
        return len(wholes) > 1 or (held and bool(wholes))

    async def _settle(self, task: Task, failure: StepFailed) -> None:
        moment = self.at
        task, _ = await self._place.store.settle(
            *(task, moment),
            lambda newest: judge_failure(newest, failure, moment, self._terms, self._luck.random()),
        )
        if task.state == State.EXPECTED:
            self._links += self._luck.random() < 0.8
            link = self._place.host.link(self.scene.key, self.scene.scheme, self._links)
            notice = Notice(self.scene.key, Evidence.SUCCESS, link, None, "", 200)
            answer = Answer(Outcome.ANSWERED, notice=notice)
            task, _ = await self._place.store.settle(
                *(task, moment),
                lambda newest: judge_answer(
                    newest, answer, moment, self._terms, self._luck.random()
                ),
            )
        assert task.fetch_at is not None
        self.waited_seconds = (task.fetch_at - moment) / 1000
        self.at = max(moment, task.fetch_at)


async def hold(transfer: Transfer, count: int) -> None:
    """Give a task its first `count` bytes, as an attempt that broke off leaves them."""
    scene = transfer.scene
    await asyncio.to_thread(transfer.partial.write_bytes, scene.film[:count])
    await transfer._place.store.record_progress(
        scene.key, f"0-{count}", len(scene.film), scene.etag
    )

"""Gathers what only the running daemon knows, for `doctor`.

Rule: nobody waits for it, neither a callback nor a download: files are looked at on the threads of
the disk, the ledger on the connection of those who look, and what does not answer in its time is
said to hang. One diagnosis runs at a time; who asks meanwhile gets the same.
"""

import asyncio
import os
import platform
import pwd
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from daemon import __version__
from daemon.backup import NOTE_NAME
from daemon.clock import Clock
from daemon.config.sections import Config
from daemon.diagnosis_views import (
    CallbackTestView,
    CertificateView,
    DiagnosisView,
    FolderView,
    LedgerView,
    LeftoverView,
    ListenerView,
    PlaceView,
    QuestionView,
    TallyView,
    TaskDiagnosisView,
)
from daemon.disk import PARTIAL_FOLDER, Disk
from daemon.gates import Gates
from daemon.inspection import LEDGER_NAME
from daemon.logs import mask, recent_trouble
from daemon.overdue import find_overdue
from daemon.premises import (
    file_size,
    list_partials,
    look_at_certificate,
    look_at_folder,
    look_at_place,
    shown,
)
from daemon.provider import QUERY_GATES, Provider
from daemon.rules.failure import Hindered, Reason
from daemon.rules.filename import name_partial
from daemon.rules.notice import Answer
from daemon.rules.schedule import HOUR
from daemon.rules.submission import Wish
from daemon.rules.task import Task
from daemon.soundness import look_quickly
from daemon.store import Store, StoreFailed
from daemon.submitter import Submitter
from daemon.token import token_path
from daemon.turnstile import Turnstile
from daemon.views import show_time, view_gate, view_task

DAY_MS: Final = 24 * HOUR
DISK_SECONDS: Final = 8.0
LEDGER_SECONDS: Final = 4.0
PROVIDER_SECONDS: Final = 10.0
LAG_SECONDS: Final = 0.02
VIDEO_TEST_BYTES: Final = 8 << 20
LEDGER_TEST_BYTES: Final = 1 << 20
PAGES: Final = 20
PAGE: Final = 1_000
_UNFINISHED: Final = ("expected", "wanted", "verified", "failed", "lost")
_NO_KEY: Final = "provider.api_key is not set"

T = TypeVar("T")


class Hanging(Exception):
    """A call of the disk did not come back in its time."""


@dataclass(slots=True, kw_only=True)
class Examiner:
    """Who makes a diagnosis, and what it takes."""

    store: Store
    gates: Gates
    disk: Disk
    provider: Provider
    submitter: Submitter
    clock: Clock
    turnstile: Turnstile
    config: Callable[[], Config]
    now: Callable[[], int]
    started_at: int
    listeners: list[ListenerView] = field(default_factory=list)
    _running: "asyncio.Task[DiagnosisView] | None" = None
    _hanging: "set[asyncio.Future[Any]]" = field(default_factory=set)

    def opened(self, addresses: dict[str, str], *, passed: bool) -> None:
        """Remember which listeners are open."""
        self.listeners[:] = [
            ListenerView(name, mask(address), passed and name == "callback")
            for name, address in addresses.items()
        ]

    async def aclose(self) -> None:
        """End a diagnosis that is being made."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})

    def find_test(self, nonce: str) -> CallbackTestView | None:
        """Return what became of a test callback; None when none came in the last minute."""
        note = self.turnstile.find(nonce)
        if note is None:
            return None
        return CallbackTestView(nonce, show_time(note.at), note.cause, note.remote, note.path)

    async def diagnose(self) -> DiagnosisView:
        """Return a diagnosis, or the one that is being made already."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._look(), name="diagnosis")
        # Who hangs up takes it away from nobody.
        return await asyncio.shield(self._running)

    async def _look(self) -> DiagnosisView:
        began = time.monotonic()
        lags: list[float] = []
        feeling = asyncio.create_task(_feel(lags), name="loop lag")
        try:
            config, directory = self.config(), self.disk.directory
            state_dir = config.state_dir
            question, videos, ledger_folder, ledger = await asyncio.gather(
                self._ask_provider(),
                self._folder(directory, PARTIAL_FOLDER, VIDEO_TEST_BYTES, config.disk.min_free),
                self._folder(state_dir, None, LEDGER_TEST_BYTES, 0),
                self._ledger(state_dir / LEDGER_NAME),
            )
            # Afterwards, or it may see the test file in the moment in which that has a name.
            leftovers = await self._leftovers(directory)
            places = await self._places(config)
            certificate = await self._certificate(config.callback.tls_certificate)
            callbacks = await self._callbacks()
            overdue = await self._overdue(config)
        finally:
            feeling.cancel()
        off_ms = self.clock.off_ms
        return DiagnosisView(
            version=__version__,
            interpreter=sys.executable,
            python=platform.python_version(),
            pid=os.getpid(),
            user=_user(),
            started_at=show_time(self.started_at),
            listeners=list(self.listeners),
            certificate=certificate,
            callbacks=callbacks,
            trouble=recent_trouble(),
            provider=question,
            has_key=config.provider.api_key is not None,
            clock_off_seconds=None if off_ms is None else off_ms / 1000,
            videos=videos,
            state=ledger_folder,
            places=places,
            ledger=ledger,
            leftovers=leftovers,
            loop_lag_seconds=round(max(lags, default=0.0), 3),
            gates=[view_gate(shut) for shut in self.gates.shut()],
            overdue=overdue,
            seconds=round(time.monotonic() - began, 3),
        )

    async def _on_disk(self, function: Callable[..., T], *given: object) -> T:
        """Call a blocking function; one that hangs is left behind, and no other begun meanwhile.

        Raises:
            Hanging: it, or an earlier one, does not come back.
            Hindered: our own disk failed.
        """
        self._hanging = {call for call in self._hanging if not call.done()}
        if self._hanging:
            raise Hanging
        call = asyncio.ensure_future(self.disk.run(function, *given))
        done, _ = await asyncio.wait({call}, timeout=DISK_SECONDS)
        if not done:
            self._hanging.add(call)
            call.add_done_callback(_look_away)
            raise Hanging
        return call.result()

    async def _folder(
        self, path: Path, dot: str | None, size_bytes: int, min_free: int
    ) -> FolderView:
        try:
            return await self._on_disk(look_at_folder, path, dot, size_bytes, min_free)
        except Hindered as failure:
            return FolderView(path=str(path), error=failure.message)
        except Hanging:
            return FolderView(path=str(path), error=f"no answer within {DISK_SECONDS:g} s")

    async def _ledger(self, path: Path) -> LedgerView:
        log = path.with_name(f"{path.name}-wal")
        damage, checked = None, False
        try:
            damage = await self._on_disk(look_quickly, path, LEDGER_SECONDS)
            checked = True
        except (TimeoutError, Hanging):
            # Too large for a short look: the whole of it is read beside the work after each start.
            pass
        except Hindered as failure:
            damage = failure.message
        except Exception as failure:  # noqa: BLE001 - the errors of the database are known to few
            damage = str(failure)
        try:
            sizes = await self._on_disk(lambda: (file_size(path), file_size(log)))
        except (Hanging, Hindered):
            sizes = (None, None)
        copied_at = None
        with suppress(OSError, Hanging, Hindered):
            note = await self._on_disk(os.stat, path.with_name(NOTE_NAME))
            copied_at = show_time(int(note.st_mtime * 1000))
        return LedgerView(
            path=str(path),
            size_bytes=sizes[0],
            log_bytes=sizes[1],
            checked=checked,
            damage=damage,
            backed_up_at=copied_at,
        )

    async def _leftovers(self, directory: Path) -> LeftoverView | None:
        try:
            found = await self._on_disk(list_partials, directory)
            *_, quarantined = await self.store.overview.outlook()
            known = await self._partials_of_tasks() if found else set()
        except (Hanging, Hindered, StoreFailed):
            return None
        if known is None:
            return None
        left = {name: size for name, size in found.items() if name not in known}
        return LeftoverView(len(left), sum(left.values()), shown([*left]), quarantined)

    async def _partials_of_tasks(self) -> set[str] | None:
        """Return the names of the partial files that tasks may need; None: they are too many."""
        names: set[str] = set()
        before: int | None = None
        for _ in range(PAGES):
            tasks = await self.store.tasks(_UNFINISHED, PAGE, before)
            for number, task in enumerate(tasks):
                names.add(name_partial(task.task_id))
                if number % 100 == 0:
                    await asyncio.sleep(0)
            if len(tasks) < PAGE:
                return names
            before = tasks[-1].id
        return None

    async def _places(self, config: Config) -> list[PlaceView]:
        modes = {
            config.state_dir: 0o750,
            config.state_dir / LEDGER_NAME: 0o600,
            token_path(config.state_dir): 0o600,
            self.disk.directory: config.download.directory_mode,
        }
        found: list[PlaceView | None] = []
        with suppress(Hanging, Hindered):
            found = await self._on_disk(
                lambda: [look_at_place(path, most) for path, most in modes.items()]
            )
        return [place for place in found if place is not None]

    async def _certificate(self, path: Path | None) -> CertificateView | None:
        if path is None:
            return None
        try:
            return await self._on_disk(look_at_certificate, path, str(path))
        except (Hanging, Hindered):
            return CertificateView(path=str(path), not_after=None, days_left=None)

    async def _callbacks(self) -> list[TallyView] | None:
        # What cannot be written now is not counted; what is in the ledger can still be read.
        with suppress(StoreFailed):
            await self.turnstile.write(self.store)
        try:
            tallied = await self.store.tally.since(self.now() - DAY_MS)
        except StoreFailed:
            return None
        return [
            TallyView(one.cause, one.times, show_time(one.last_at), one.remote) for one in tallied
        ]

    async def _overdue(self, config: Config) -> list[str] | None:
        has_key = config.provider.api_key is not None
        try:
            found = await find_overdue(self.store, self.gates.shut(), self.now(), has_key=has_key)
        except StoreFailed:
            return None
        return [mask(one) for one in found]

    def _held_back(self) -> QuestionView | None:
        """Return why the provider cannot be asked now; None when it can."""
        section = self.config().provider
        shut = [gate for gate in self.gates.shut() if gate.name in QUERY_GATES]
        if section.api_key is not None and not shut:
            return None
        told = _NO_KEY
        if section.api_key is not None:
            told = "; ".join(f"gate {gate.name} is shut: {mask(gate.reason)}" for gate in shut)
        return QuestionView(asked=False, message=told, base_url=section.base_url)

    async def _ask_provider(self) -> QuestionView:
        if held := self._held_back():
            return held
        base_url, began = self.config().provider.base_url, time.monotonic()
        try:
            async with asyncio.timeout(PROVIDER_SECONDS):
                await self.provider.permit()
                began = time.monotonic()
                found = await self.provider.ask_balance()
        except TimeoutError:
            return _silent(base_url)
        seconds = round(time.monotonic() - began, 3)
        if isinstance(found, Answer):
            return QuestionView(
                asked=True,
                outcome=found.outcome.value,
                seconds=seconds,
                message=found.message,
                base_url=base_url,
            )
        return QuestionView(
            asked=True, outcome="answered", seconds=seconds, credits=found, base_url=base_url
        )

    async def examine_task(self, task: Task) -> TaskDiagnosisView:
        """Return one task, and what the provider says about it now."""
        answer: Answer | None = None
        question = self._held_back()
        if question is None and task.has_local_id:
            told = "the provider's id is not known yet"
            question = QuestionView(
                asked=False, message=told, base_url=self.config().provider.base_url
            )
        if question is None:
            question, answer = await self._ask_about(task)
        objection, checked = None, False
        if task.music_task_id and task.audio_id and self._held_back() is None:
            wish = Wish(music_task_id=task.music_task_id, audio_id=task.audio_id)
            objection, checked = await self.submitter.check(wish), True
        intent = await self.store.intents.of_task(task.id)
        steps = await self.store.history(task.task_id)
        notice = answer.notice if answer else None
        return TaskDiagnosisView(
            task=view_task(task),
            last_step_at=show_time(steps[-1].at) if steps else None,
            answered_at=show_time(task.answered_at),
            provider=question,
            evidence=notice.evidence.name.lower() if notice else None,
            has_link=notice is not None and notice.link is not None,
            code=answer.code if answer else None,
            source_checked=checked,
            objection=None if objection is None else mask(objection),
            author=intent.author if intent else None,
            domain_name=intent.domain_name if intent else None,
            gates=[view_gate(shut) for shut in self.gates.shut()],
            refused_links=sum(step.reason == Reason.LINK_REFUSED for step in steps),
        )

    async def _ask_about(self, task: Task) -> tuple[QuestionView, Answer | None]:
        base_url, began = self.config().provider.base_url, time.monotonic()
        try:
            async with asyncio.timeout(PROVIDER_SECONDS):
                await self.provider.permit()
                began = time.monotonic()
                answer = await self.provider.ask(task.task_id)
        except TimeoutError:
            return _silent(base_url), None
        notice = answer.notice
        told = notice.message if notice else answer.message
        question = QuestionView(
            asked=True,
            outcome=answer.outcome.value,
            seconds=round(time.monotonic() - began, 3),
            message=told or None,
            base_url=base_url,
        )
        return question, answer


async def _feel(lags: list[float]) -> None:
    """Note for ever by how much the loop wakes us too late."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(LAG_SECONDS)
        lags.append(time.monotonic() - began - LAG_SECONDS)


def _silent(base_url: str) -> QuestionView:
    told = f"no answer within {PROVIDER_SECONDS:g} s"
    return QuestionView(asked=True, outcome="trouble", message=told, base_url=base_url)


def _look_away(call: "asyncio.Future[Any]") -> None:
    """Look at how a call ended that nobody waits for any more."""
    if not call.cancelled():
        call.exception()


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())

"""Builds every part from the configuration and hands each what it needs, and no more.

Rule: this is the only place that knows the whole configuration and the only one where stations
meet. Nothing runs yet when it is done: `loops` are coroutines for the service to start.
"""

import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from daemon.announcer import Announcer
from daemon.ballast import Ballast
from daemon.bell import Bell, Spaced
from daemon.broadcast import Broadcast
from daemon.callback import Intake, Receiver
from daemon.clock import Clock, watch_clock
from daemon.config.sections import Config
from daemon.courier import Courier, message_session
from daemon.disk import Disk, may_pass
from daemon.download import Downloader
from daemon.gates import Gates, Shut
from daemon.gateway import Gateway
from daemon.heartbeat import Heartbeat
from daemon.hooks import hook_session
from daemon.hosts import Hosts
from daemon.logs import Rows, mask
from daemon.metrics import Metrics, Step
from daemon.office import Office
from daemon.outbound import Session, api_session, file_session
from daemon.patience import Patience
from daemon.poller import Poller, watch_credits
from daemon.progress import Progress
from daemon.provider import Provider
from daemon.pulse import Pulse, listen
from daemon.queue import DownloadQueue, keep_workers, work
from daemon.readings import Readings
from daemon.restore import take_over
from daemon.right_of_way import RightOfWay
from daemon.rules.address import AddressPolicy
from daemon.rules.failure import Hindered
from daemon.rules.lifecycle import State
from daemon.rules.outgoing import application_policy
from daemon.rules.task import Move, Task
from daemon.settings import Settings
from daemon.soundness import check_soundness
from daemon.store import Store, open_store
from daemon.submitter import Submitter
from daemon.targets import Targets
from daemon.views import show_time

SPACE_SECONDS: Final = 0.05
"""In a flood of callbacks nobody is woken more often."""
DISK_THREADS: Final = 32
"""More than the workers of any disk that is worth having; only those in use are started."""

_log = structlog.get_logger()


def now() -> int:
    """Return milliseconds since 1970, UTC: the one clock that deadlines are kept by."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that was built."""

    settings: Settings
    store: Store
    disk: Disk
    pulse: Pulse
    intake: Intake
    receiver: Receiver
    office: Office
    gateway: Gateway
    broadcast: Broadcast
    readings: Readings
    loops: dict[str, Coroutine[Any, Any, None]]
    """What runs beside the listeners, by name."""
    reload: Callable[[Config], Awaitable[tuple[list[str], list[str]]]]
    """Takes a new configuration; returns what changed and what needs a restart."""


@dataclass(frozen=True, slots=True)
class _Bells:
    """Who is woken for what."""

    downloads: Bell = field(default_factory=Bell)
    questions: Bell = field(default_factory=Bell)
    credits: Bell = field(default_factory=Bell)
    crew: Bell = field(default_factory=Bell)
    messages: Bell = field(default_factory=Bell)
    heartbeat: Bell = field(default_factory=Bell)

    def working(self) -> tuple[Bell, ...]:
        """Return the bells of those who work on tasks."""
        return self.questions, self.downloads, self.credits, self.crew

    def ring(self) -> None:
        """A task changed: a question or a download may be due."""
        self.questions.ring()
        self.downloads.ring()
        self.messages.ring()


async def build(config: Config, stack: AsyncExitStack) -> Parts:
    """Open the store and the sessions and build the stations; `stack` closes what is open.

    Raises:
        StoreRefused: the ledger cannot be used.
        Hindered: the download folder cannot be made.
    """
    bells, broadcast, metrics, progress = _Bells(), Broadcast(), Metrics(), Progress()
    ballast, observe = Ballast(config.state_dir), _observer(metrics, bells.messages)
    store = await stack.enter_async_context(open_store(config.state_dir, observe, ballast))
    store.commits.observe = metrics.commit_seconds.observe
    settings = Settings(config)
    hooks, targets, announcer = await _open_targets(settings, store, bells, stack)
    gates = Gates(now, lambda event, shut: _tell_gate(event, shut, announcer))
    hosts = Hosts(gates, now, lambda: settings.terms.retry_limit_ms)
    clock = Clock(now)
    pulse = Pulse()
    listen(pulse)
    disk = await _prepare_disk(config, gates, stack)
    await take_over(store, disk, now(), settings.terms)
    provider = Provider(
        await stack.enter_async_context(
            api_session(config.provider.base_url, lambda: settings.config.provider.api_key)
        ),
        config.provider.kind,
        gates,
        now,
        config.provider.requests_per_second,
        hear_date=clock.compare,
        hear_outcome=metrics.count_call,
    )
    files = await stack.enter_async_context(_open_files(settings))
    way = RightOfWay()
    downloader = Downloader(
        store,
        files,
        lambda: settings.policy,
        disk,
        gates,
        section=lambda: settings.config.download,
        min_free_bytes=lambda: settings.config.disk.min_free,
        now=now,
        way=way,
        progress=progress,
    )
    submitter = Submitter(
        store,
        provider,
        files,
        gates,
        policy=lambda: settings.policy,
        terms=lambda: settings.terms,
        retention_ms=lambda: settings.retention_ms,
        callback_url=lambda: settings.callback_url,
        now=now,
        ring=bells.ring,
        ring_credits=bells.credits.ring,
    )

    def callable_by() -> AddressPolicy:
        return application_policy(settings.config.download.allow_private)

    def hmac_key() -> str | None:
        keys = settings.config.callback.hmac_keys
        return keys[0].reveal() if keys and config.provider.kind == "kie" else None

    def api_key() -> str | None:
        key = settings.config.provider.api_key
        return key.reveal() if key else None

    courier = Courier(
        store,
        await stack.enter_async_context(message_session(callable_by)),
        callable_by,
        now,
        bell=bells.messages,
        hmac_key=hmac_key,
        targets=targets,
    )
    gateway = Gateway(
        store,
        provider,
        gates,
        submitter.submit,
        kind=config.provider.kind,
        api_key=api_key,
        policy=callable_by,
        retention_ms=lambda: settings.retention_ms,
        now=now,
        ring=bells.ring,
    )
    office = Office(
        store=store,
        gates=gates,
        disk=disk,
        submitter=submitter,
        targets=targets,
        min_free_bytes=lambda: settings.config.disk.min_free,
        terms=lambda: settings.terms,
        retention_ms=lambda: settings.retention_ms,
        now=now,
        ring=bells.ring,
        answered_at=lambda: provider.answered_at,
        credits_low=lambda: settings.config.provider.credits_low,
    )
    steps = {
        State.WANTED: metrics.counted(downloader.fetch, time.monotonic),
        State.VERIFIED: downloader.publish,
        State.STORED: downloader.finish,
    }
    intake = Intake(store)
    receiver = Receiver(
        section=lambda: settings.config.callback,
        tokens=lambda: settings.tokens,
        has_key=lambda: settings.terms.has_key,
        retention_ms=lambda: settings.retention_ms,
        intake=intake,
        now=now,
        ring=Spaced(bells.ring, SPACE_SECONDS).ring,
        way=way,
    )
    poller = Poller(
        store,
        provider,
        lambda: settings.terms,
        now,
        bell=bells.questions,
        ring_downloads=bells.downloads.ring,
    )

    async def reload(new: Config) -> tuple[list[str], list[str]]:
        had_key = settings.terms.has_key
        told = settings.take(new)
        provider.set_pace(settings.config.provider.requests_per_second)
        if settings.terms.has_key and not had_key:
            await store.ask_about_all(now())
        await announcer.subscribe()
        # A new key deserves a try at once.
        gates.probe_now()
        for bell in (*bells.working(), bells.heartbeat):
            bell.ring()
        submitter.ring()
        return told

    patience = Patience(
        store=store,
        gates=gates,
        hosts=hosts,
        clock=clock,
        terms=lambda: settings.terms,
        trust_link_after_ms=lambda: settings.trust_link_after_ms,
        answered_at=lambda: provider.answered_at,
        now=now,
        ring_downloads=bells.downloads.ring,
    )

    mend_times = _mender(settings, store, gates, submitter, bells)
    await mend_times()
    if settings.terms.has_key:
        await store.ask_about_all(now())
    await store.intents.recover(now())
    await store.intents.withdraw_unsent(now())
    readings = Readings(
        metrics=metrics,
        office=office,
        disk=disk,
        pulse=pulse,
        progress=progress,
        received_bytes=lambda: downloader.received_bytes,
        state_dir=config.state_dir,
    )
    return Parts(
        settings=settings,
        store=store,
        disk=disk,
        pulse=pulse,
        intake=intake,
        receiver=receiver,
        office=office,
        gateway=gateway,
        broadcast=broadcast,
        readings=readings,
        loops={
            "ballast": ballast.keep(),
            "courier": courier.run(),
            "announcer": announcer.run(),
            "heartbeat": Heartbeat(
                store,
                hooks,
                lambda: settings.config.heartbeat,
                office.find_overdue,
                bell=bells.heartbeat,
            ).run(),
            "clock": watch_clock(clock, mend_times),
            "patience": patience.run(),
            "store": store.fail_for_good(),
            "soundness": check_soundness(config.state_dir),
            "poller": poller.run(),
            "progress": progress.report(broadcast),
            "credits": watch_credits(
                store,
                provider,
                lambda: settings.config.provider,
                now,
                bell=bells.credits,
                remember=office.remember_credits,
                announce=announcer.say,
            ),
            "submitter": submitter.run(first=True),
            "resubmitter": submitter.run(first=False),
            **_downloading(settings, store, steps, gates, hosts, bells),
        },
        reload=reload,
    )


def _observer(metrics: Metrics, messages: Bell) -> Callable[[Sequence[Move]], None]:
    ring = Spaced(messages.ring, SPACE_SECONDS).ring

    def observe(moves: Sequence[Move]) -> None:
        _log.info("task.moved", rows=Rows(map(_tell_move, moves)))
        metrics.count_moves(moves)
        ring()

    return observe


def _mender(
    settings: Settings, store: Store, gates: Gates, submitter: Submitter, bells: _Bells
) -> Callable[[], Awaitable[None]]:
    async def mend_times() -> None:
        """What was put off by a wrong clock may lie years ahead of the right one."""
        await store.due_times.pull_in(now(), settings.longest_pause_ms)
        gates.probe_now()
        bells.ring()
        submitter.ring()

    return mend_times


async def _open_targets(
    settings: Settings, store: Store, bells: _Bells, stack: AsyncExitStack
) -> tuple[Session, Targets, Announcer]:
    """Open who is told what; from here on the ledger keeps events for them."""
    hooks = await stack.enter_async_context(hook_session())
    targets = Targets(hooks, lambda: settings.config.notify, now)
    announcer = Announcer(store, targets, now, bells.messages.ring)
    await announcer.subscribe()
    return hooks, targets, announcer


async def _prepare_disk(config: Config, gates: Gates, stack: AsyncExitStack) -> Disk:
    disk = Disk(
        config.download.directory,
        workers=DISK_THREADS,
        file_mode=config.download.file_mode,
        directory_mode=config.download.directory_mode,
    )
    stack.callback(disk.close)
    try:
        await disk.prepare()
    except Hindered as failure:
        # Callbacks are taken on a machine whose video disk is in trouble.
        if not may_pass(failure):
            raise
        gates.close("disk", failure.message)
    return disk


def _downloading(
    settings: Settings,
    store: Store,
    steps: Mapping[State, Step],
    gates: Gates,
    hosts: Hosts,
    bells: _Bells,
) -> dict[str, Coroutine[Any, Any, None]]:
    queue = DownloadQueue()

    def size() -> int:
        return settings.config.download.concurrency

    def make(number: int) -> Coroutine[Any, Any, None]:
        return work(
            queue,
            store,
            steps,
            gates,
            hosts,
            lambda: settings.terms,
            now=now,
            bell=bells.downloads,
            ring_questions=bells.questions.ring,
            # The second worker, where there is one: old trouble must not starve a fresh task.
            freshest=number == 1,
            is_surplus=lambda: number >= size(),
        )

    return {
        "feed": queue.feed(store, now, bells.downloads),
        "workers": keep_workers(size, make, bells.crew),
    }


def _open_files(settings: Settings) -> Session:
    section = settings.config.download
    return file_session(
        lambda: settings.policy,
        section.connect_timeout.total_seconds(),
        section.stall_timeout.total_seconds(),
        # Bounded by the workers, whose number a reload may change.
        0,
    )


def _tell_move(move: Move) -> dict[str, object]:
    task = move.task
    told: dict[str, object] = {
        "task_id": task.task_id,
        "from": move.before,
        "to": task.state,
        "cause": task.cause,
        "reason": task.reason,
    }
    if isinstance(task, Task) and task.state == State.STORED:
        told |= {
            "path": task.path,
            "bytes": task.size_bytes,
            "stored_at": show_time(task.stored_at),
            "duration_seconds": task.duration_seconds,
        }
    return told


def _tell_gate(event: str, shut: Shut, announcer: Announcer) -> None:
    told = {"name": shut.name, "since": show_time(shut.since), "reason": mask(shut.reason)}
    announcer.say(event, told)
    if event == "gate.closed":
        _log.warning(event, gate=shut.name, reason=shut.reason)
    else:
        seconds = (now() - shut.since) / 1000
        _log.info(event, gate=shut.name, seconds=round(seconds, 1))

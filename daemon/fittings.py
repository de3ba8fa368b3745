"""The small parts that hold the stations together: bells, observers, what is opened and what runs.

Rule: nothing is decided here; each piece is made for `assembly`, which says who gets it.
"""

import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from daemon.announcer import Announcer
from daemon.bell import Bell, Spaced
from daemon.config.sections import Config
from daemon.disk import Disk, may_pass
from daemon.gates import Gates, Shut
from daemon.hooks import hook_session
from daemon.hosts import Hosts
from daemon.logs import Rows, mask
from daemon.metrics import Metrics, Step
from daemon.outbound import Session, file_session
from daemon.queue import DownloadQueue, keep_workers, work
from daemon.rules.failure import Hindered
from daemon.rules.lifecycle import State
from daemon.rules.task import Move, Task
from daemon.settings import Settings
from daemon.store import Store
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


@dataclass(frozen=True, slots=True)
class Bells:
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


def make_observer(metrics: Metrics, messages: Bell) -> Callable[[Sequence[Move]], None]:
    """Return who is told of every move: the log, the metrics, the courier."""
    ring = Spaced(messages.ring, SPACE_SECONDS).ring

    def observe(moves: Sequence[Move]) -> None:
        _log.info("task.moved", rows=Rows(map(_tell_move, moves)))
        metrics.count_moves(moves)
        ring()

    return observe


async def recover(store: Store, *, has_key: bool) -> None:
    """Let go on what the last process left."""
    if has_key:
        await store.ask_about_all(now())
    await store.intents.recover(now())
    await store.intents.withdraw_unsent(now())


def make_mender(
    settings: Settings, store: Store, gates: Gates, submitter: Submitter, bells: Bells
) -> Callable[[], Awaitable[None]]:
    """Return what puts the due times right after the clock was set."""

    async def mend_times() -> None:
        """What was put off by a wrong clock may lie years ahead of the right one."""
        await store.due_times.pull_in(now(), settings.longest_pause_ms)
        gates.probe_now()
        bells.ring()
        submitter.ring()

    return mend_times


async def open_targets(
    settings: Settings, store: Store, bells: Bells, stack: AsyncExitStack
) -> tuple[Session, Targets, Announcer]:
    """Open who is told what; from here on the ledger keeps events for them."""
    hooks = await stack.enter_async_context(hook_session())
    targets = Targets(hooks, lambda: settings.config.notify, now)
    announcer = Announcer(store, targets, now, bells.messages.ring)
    await announcer.subscribe()
    return hooks, targets, announcer


async def prepare_disk(config: Config, gates: Gates, stack: AsyncExitStack) -> Disk:
    """Make the download folder ready; a disk in trouble shuts its gate.

    Raises:
        Hindered: no restart and no time will cure it.
    """
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


def make_workers(
    settings: Settings,
    store: Store,
    steps: Mapping[State, Step],
    gates: Gates,
    hosts: Hosts,
    bells: Bells,
) -> dict[str, Coroutine[Any, Any, None]]:
    """Return the loops that carry tasks through their download steps."""
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


def open_files(settings: Settings) -> Session:
    """Open the session that videos are fetched through."""
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


def tell_gate(event: str, shut: Shut, announcer: Announcer) -> None:
    """Tell the log and the subscribers that a gate shut or opened."""
    told = {"name": shut.name, "since": show_time(shut.since), "reason": mask(shut.reason)}
    announcer.say(event, told)
    if event == "gate.closed":
        _log.warning(event, gate=shut.name, reason=shut.reason)
    else:
        seconds = (now() - shut.since) / 1000
        _log.info(event, gate=shut.name, seconds=round(seconds, 1))

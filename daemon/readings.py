"""What this moment is like, in the numbers that alarms are made of.

Rule: it is read when somebody asks, through indexes alone, and nothing waits for it. What cannot be
read is left out: an alarm can tell silence from nought.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from daemon.backup import NOTE_NAME
from daemon.disk import Disk
from daemon.inspection import LEDGER_NAME
from daemon.metrics import GATES, Metrics, Reading
from daemon.office import Office
from daemon.progress import Progress
from daemon.pulse import Pulse
from daemon.rules.failure import Hindered
from daemon.turnstile import Answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Where the numbers come from."""

    metrics: Metrics
    office: Office
    disk: Disk
    pulse: Pulse
    progress: Progress
    received_bytes: Callable[[], int]
    answers: Counter[str]
    """What the callback listener answered since the start, by cause."""
    state_dir: Path

    async def take(self) -> None:
        """Read everything that the next scrape shows.

        Raises:
            StoreFailed: the ledger cannot be read.
        """
        self.metrics.show(
            [
                *await self._tasks(),
                *self._gates(),
                *await self._room(),
                *await asyncio.to_thread(self._ledger),
                *self._process(),
            ]
        )

    async def _tasks(self) -> list[Reading]:
        store, now = self.office.store, self.office.now()
        oldest_at, deadline_at, quarantined = await store.overview.outlook()
        unsafe, _, _ = await store.overview.standing()
        undelivered = sum(one.count for one in await store.outbox.undelivered())
        asked_since, fetched_since = await store.due_times.longest_due(now)
        overdue = await self.office.find_overdue()
        left = None if deadline_at is None else (deadline_at - now) / 1000
        answered_at = self.office.answered_at()
        told = "For how long the oldest question has been due"
        return [
            Reading("tasks", "Tasks by state", await store.counts(), "state"),
            Reading("unsafe", "Tasks that `check` names", unsafe),
            Reading("undelivered", "Events that were given up", undelivered),
            Reading("quarantined", "Callbacks nobody could read or has seen", quarantined),
            Reading(
                "overdue", "What should have happened by now; `status` says what", len(overdue)
            ),
            Reading(
                "oldest_pending_seconds", "Age of the oldest open task", _since(oldest_at, now)
            ),
            Reading("earliest_deadline_seconds", "Until a video on its way is deleted", left),
            Reading("question_lag_seconds", told, _since(asked_since, now)),
            Reading("download_lag_seconds", "Likewise, of downloads", _since(fetched_since, now)),
            Reading(
                "last_poll_timestamp_seconds",
                "When the provider last gave a usable answer",
                None if answered_at is None else answered_at / 1000,
            ),
            Reading("credits", "What the provider said was left", self.office.credits_left),
            Reading("stored_bytes", "Of all videos in place", await store.stock.total_bytes()),
        ]

    def _gates(self) -> list[Reading]:
        since: dict[str, int] = {}
        for shut in self.office.gates.shut():
            kind = shut.name.partition(":")[0]
            since[kind] = min(shut.since, since.get(kind, shut.since))
        count = Counter(shut.name.partition(":")[0] for shut in self.office.gates.shut())
        return [
            Reading(
                "gates_closed",
                "How many gates of a kind are shut",
                {gate: count[gate] for gate in GATES},
                "gate",
            ),
            Reading(
                "gate_closed_timestamp_seconds",
                "Since when a gate of a kind is shut",
                {gate: at / 1000 for gate, at in since.items()},
                "gate",
            ),
        ]

    async def _room(self) -> list[Reading]:
        try:
            free_bytes = await self.disk.free_bytes()
            free_inodes = await self.disk.free_inodes()
        except Hindered:
            return []
        least = self.office.min_free_bytes()
        return [
            Reading("disk_free_bytes", "Free where the videos are", free_bytes),
            Reading("disk_free_inodes", "Files that may still be made there", free_inodes),
            Reading("disk_min_free_bytes", "Downloads pause below it", least),
        ]

    def _ledger(self) -> list[Reading]:
        ledger = self.state_dir / LEDGER_NAME
        log = ledger.with_name(f"{LEDGER_NAME}-wal")
        noted = _look(self.state_dir / NOTE_NAME)
        return [
            Reading("ledger_bytes", "Size of the ledger", _size(ledger)),
            Reading("ledger_log_bytes", "Size of its write-ahead log", _size(log)),
            Reading(
                "last_backup_timestamp_seconds",
                "When the ledger was last copied by the verb backup",
                noted.st_mtime if noted else None,
            ),
        ]

    def _process(self) -> list[Reading]:
        commits = self.office.store.commits
        waiting = commits.waiting_seconds()
        received = self.received_bytes()
        return [
            Reading("commit_waiting_seconds", "For how long the oldest commit has waited", waiting),
            Reading("loop_lag_seconds", "How late the loop last woke up", self.pulse.lag_seconds),
            Reading("downloads_running", "Downloads on their way", self.progress.running),
            Reading("download_bytes", "Received from hosts", received, counted=True),
            Reading(
                "callbacks",
                "What the callback listener answered",
                {cause.value: self.answers[cause] for cause in Answered},
                "outcome",
                counted=True,
            ),
        ]


def metric_routes(readings: Readings) -> list[web.RouteDef]:
    """Return the path that Prometheus scrapes."""
    show = make_aiohttp_handler(readings.metrics.registry)

    async def scrape(request: web.Request) -> web.StreamResponse:
        await readings.take()
        return await show(request)

    return [web.get("/metrics", scrape)]


def _since(at: int | None, now: int) -> float:
    return 0.0 if at is None else max(0.0, (now - at) / 1000)


def _look(path: Path) -> os.stat_result | None:
    try:
        return path.stat(follow_symlinks=False)
    except OSError:
        return None


def _size(path: Path) -> float | None:
    found = _look(path)
    return None if found is None else found.st_size

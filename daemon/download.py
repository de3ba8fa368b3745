"""Link -> partial file -> verified -> in place.

Rule: a file gets its final name only when its bytes equal the announced total *and* the box walk
holds, for the end of a stream proves nothing: aiohttp ends normally on FIN, RST and a TLS close
without notify when there is no length. The order is sync, verify from disk, commit `verified`,
link, sync the folder, commit `stored`; a crash between any two steps is finished at the next start.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final

import structlog

from daemon.attempt import Attempt
from daemon.config.sections import Download
from daemon.disk import Disk
from daemon.flow import Flow
from daemon.gates import Gates
from daemon.hosts import open_gate
from daemon.outbound import Session
from daemon.partial import Partial, open_partial
from daemon.progress import Progress
from daemon.pulse import STEP_SECONDS, beat
from daemon.right_of_way import RightOfWay
from daemon.rules.address import AddressPolicy
from daemon.rules.failure import Hindered, Reason
from daemon.rules.filename import name_beside, name_partial, name_video
from daemon.rules.lifecycle import Cause
from daemon.rules.space import ASSUMED_VIDEO_BYTES, missing_room
from daemon.rules.spans import Spans
from daemon.rules.task import Task
from daemon.rules.verdict import NOTHING_ON_DISK, Verdict
from daemon.store import PathTaken, Store
from daemon.traffic import Traffic
from daemon.wording import size

HOPS: Final = 20
"""Answers that one attempt may wait for: redirects, restarts, a probe."""
SEEN_HOSTS_LIMIT: Final = 1_000
"""The ledger knows them all; these need not be asked for again."""

_log = structlog.get_logger()


class Downloader:
    """The three steps from a link to a finished task, one method a state."""

    def __init__(
        self,
        store: Store,
        session: Session,
        policy: Callable[[], AddressPolicy],
        disk: Disk,
        gates: Gates,
        *,
        section: Callable[[], Download],
        min_free_bytes: Callable[[], int],
        now: Callable[[], int],
        way: RightOfWay | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._store = store
        self._session = session
        self._policy = policy
        self._disk = disk
        self._gates = gates
        self._section = section
        self._min_free_bytes = min_free_bytes
        self._now = now
        self._traffic = Traffic(
            Flow(lambda: section().rate_limit), RightOfWay() if way is None else way
        )
        self._progress = Progress() if progress is None else progress
        self._seen_hosts: set[str] = set()

    @property
    def received_bytes(self) -> int:
        """What came from all hosts together."""
        return self._traffic.flow.received_bytes

    async def fetch(self, task: Task) -> Task:
        """`wanted`: fetch what is missing, verify it, commit `verified`.

        Raises:
            StepFailed: what happens next depends on the subclass.
        """
        _log.debug("download.started", have_bytes=Spans.parse(task.spans).total_bytes)
        began = time.monotonic()
        section = self._section()
        patience = 2 * section.connect_timeout + section.stall_timeout
        beat(STEP_SECONDS + HOPS * patience.total_seconds())
        await self._disk.prepare()
        path = self._disk.partial(name_partial(task.task_id))
        async with open_partial(
            self._disk,
            path,
            partial(self._record, task),
            spans=task.spans,
            total_bytes=task.size_bytes,
            validator=task.validator,
        ) as part:
            resumed_bytes = part.spans.total_bytes
            attempt = Attempt(
                task.next_link,
                part,
                self._session,
                self._policy,
                self._traffic,
                section=self._section,
                check_room=self._check_room,
                now=self._now,
            )
            with self._progress.follow(task.task_id, part):
                await attempt.fill()
            open_gate(self._gates, task.next_link)
            if attempt.host:
                await self._note_host(attempt.host)
            size_bytes = part.end
        sha256, film = await self._disk.examine(path, size_bytes, part.digest)
        # Bytes were synced: only that proves a disk that had failed to do it.
        self._gates.open("disk")
        _log.info(
            "download.finished",
            bytes=size_bytes,
            seconds=round(time.monotonic() - began, 3),
            connections=attempt.most_connections,
            resumed_bytes=resumed_bytes,
        )
        return await self._name_and_move(
            task,
            Cause.FETCHED,
            size_bytes=size_bytes,
            sha256=sha256,
            spans=f"0-{size_bytes}",
            duration_seconds=film.duration_seconds,
            width=film.width,
            height=film.height,
            video_codec=film.video_codec,
            audio_codec=film.audio_codec,
            audio_sample_rate=film.audio_sample_rate,
            **_SUCCEEDED,
        )

    async def publish(self, task: Task) -> Task:
        """`verified`: give the file its name, commit `stored`. Also the way back after a crash."""
        if task.path is None or task.sha256 is None:
            raise ValueError(f"{task.task_id} is verified without a path")
        part = self._disk.partial(name_partial(task.task_id))
        path = self._disk.directory / task.path
        try:
            held = await self._disk.publish(part, path, task.sha256)
        except FileExistsError:
            named = await self._name_and_move(task, None, sha256=task.sha256)
            _log.warning("task.renamed", path=named.path, taken=str(path))
            return named
        if not held:
            _log.warning("task.vanished", path=str(path))
            return await self._move(task, Cause.VANISHED, **NOTHING_ON_DISK)
        self._gates.open("disk")
        if path.name != self._name(task):
            _log.warning("task.renamed", path=str(path), taken=self._name(task))
        return await self._move(
            task, Cause.PUBLISHED, stored_at=self._now(), reason=None, message=None
        )

    async def finish(self, task: Task) -> Task:
        """`stored`: no finishing step is configured, so the task is done."""
        settled, _ = await self._store.settle(task, self._now(), _judge_finished)
        return settled

    def _name(self, task: Task) -> str:
        day = datetime.fromtimestamp(task.created_at / 1000, UTC).date().isoformat()
        return name_video(
            self._section().file_name, task_id=task.task_id, label=task.label, date=day
        )

    async def _name_and_move(
        self, task: Task, cause: Cause | None, *, sha256: str, **changes: object
    ) -> Task:
        """Move the task with a final name that neither another file nor another task has."""
        name = self._name(task)
        while True:
            path = await self._disk.choose_path(name, sha256)
            try:
                return await self._move(task, cause, path=str(path), sha256=sha256, **changes)
            except PathTaken:
                name = name_beside(path.name, sha256)

    async def _move(self, task: Task, cause: Cause | None, **changes: object) -> Task:
        verdict = Verdict(cause, changes)

        def decide(newest: Task) -> Verdict:
            # Bytes of a link that nobody confirmed, and that the provider replaced meanwhile.
            forged = task.unconfirmed and newest.link != task.link
            return Verdict(None, NOTHING_ON_DISK) if forged else verdict

        settled, _ = await self._store.settle(task, self._now(), decide)
        return settled

    async def _record(
        self, task: Task, spans: Spans, total_bytes: int | None, validator: str | None
    ) -> None:
        await self._store.record_progress(
            task.task_id,
            str(spans),
            total_bytes,
            validator,
            only_of=task.link if task.unconfirmed else None,
        )
        if spans.total_bytes:
            # Bytes were synced: only that proves a disk that had failed to do it.
            self._gates.open("disk")
        if spans.total_bytes > Spans.parse(task.spans).total_bytes:
            open_gate(self._gates, task.next_link)

    async def _note_host(self, host: str) -> None:
        """Say when videos begin to come from somewhere else: nobody documents from where."""
        if host in self._seen_hosts:
            return
        if await self._store.sightings.note(host, self._now()):
            _log.info("host.first_seen", host=host)
        if len(self._seen_hosts) == SEEN_HOSTS_LIMIT:
            self._seen_hosts.clear()
        self._seen_hosts.add(host)

    async def _check_room(self, part: Partial, position: int) -> None:
        total = part.total_bytes
        needed = ASSUMED_VIDEO_BYTES if total is None else max(0, total - max(position, part.end))
        missing = missing_room(await self._disk.free_bytes(), needed, self._min_free_bytes())
        if missing:
            raise Hindered(
                Reason.DISK,
                f"{size(missing)} are lacking in {self._disk.directory} to keep disk.min_free: "
                "make room, the download goes on by itself",
            )


_SUCCEEDED: Final = {
    "reason": None,
    "message": None,
    "provider_code": None,
    "failures": 0,
    "refusals": 0,
    "spoils": 0,
    "spoiled_sha256": None,
}


def _judge_finished(task: Task) -> Verdict:
    """A file that nobody confirmed yet stays a matter of questions."""
    ask_at = task.ask_at if task.unconfirmed else None
    return Verdict(Cause.FINISHED, {"claimed_at": None, "fetch_at": None, "ask_at": ask_at})

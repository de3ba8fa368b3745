"""Link -> partial file -> verified -> in place.

Rule: a file gets its final name only when its bytes equal the announced total *and* the box walk
holds, for the end of a stream proves nothing: aiohttp ends normally on FIN, RST and a TLS close
without notify when there is no length. The order is sync, verify from disk, commit `verified`,
link, sync the folder, commit `stored`; a crash between any two steps is finished at the next start.
"""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

import structlog
from aiohttp import ClientResponse

from daemon.config.sections import Download
from daemon.disk import Disk
from daemon.gates import Gates
from daemon.hosts import open_gate
from daemon.outbound import Session, get_file, read_chunk
from daemon.partial import Partial, open_partial
from daemon.pulse import STEP_SECONDS, beat
from daemon.rules.address import AddressPolicy
from daemon.rules.failure import Hindered, Reason, Spoiled, StepFailed, Trouble
from daemon.rules.filename import name_beside, name_partial, name_video
from daemon.rules.lifecycle import Cause
from daemon.rules.mp4 import begins_as_film
from daemon.rules.space import ASSUMED_VIDEO_BYTES, RECHECK_BYTES, missing_room
from daemon.rules.spans import Spans
from daemon.rules.task import Task
from daemon.rules.transfer import (
    OVERLAP_BYTES,
    TOO_LARGE_PAUSE_SECONDS,
    Changed,
    Offer,
    Request,
    read_content_range,
    read_head,
)
from daemon.rules.verdict import NOTHING_ON_DISK, Verdict
from daemon.store import PathTaken, Store

BLOCK_BYTES: Final = 1 << 20
"""One write. Each is a thread hop of 50 to 100 us: at 8 KiB a core is busy with hopping alone."""
GATHER_SECONDS: Final = 0.5
"""A slow host's bytes do not wait longer than this for their block to fill."""
PATIENCE_SECONDS: Final = 600.0
FAIR_SPEED: Final = 64 << 10
"""Bytes a second, on average, that an attempt of more than `PATIENCE_SECONDS` has to reach."""
HOPS: Final = 20
"""Answers that one attempt may wait for: redirects, restarts, a probe."""
RESTARTS: Final = 2
"""How often one attempt starts over because the host serves another version."""
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
    ) -> None:
        self._store = store
        self._session = session
        self._policy = policy
        self._disk = disk
        self._gates = gates
        self._section = section
        self._min_free_bytes = min_free_bytes
        self._now = now
        self._seen_hosts: set[str] = set()

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
            await self._fill(task, part)
            size_bytes = part.end
        sha256, film = await self._disk.examine(path, size_bytes)
        _log.info(
            "download.finished",
            bytes=size_bytes,
            seconds=round(time.monotonic() - began, 3),
            connections=1,
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

    async def _fill(self, task: Task, part: Partial) -> None:
        if part.total_bytes is not None and part.spans.covers(part.total_bytes):
            return
        for _ in range(1 + RESTARTS):
            try:
                await self._transfer(task, part)
            except Changed as change:
                _log.info("download.restarted", why=str(change))
                await part.reset()
            else:
                return
        raise Trouble(Reason.NETWORK, "the host serves another version at every request")

    async def _transfer(self, task: Task, part: Partial) -> None:
        """One request, to the end of the file."""
        start = max(0, part.end - OVERLAP_BYTES)
        request = Request(start, part.validator, part.total_bytes)
        async with get_file(
            self._session, task.next_link, self._policy(), request.headers()
        ) as response:
            offer = read_head(
                response.status,
                _headers(response),
                request,
                now=self._now() / 1000,
                max_bytes=self._section().max_size,
            )
            if offer.start == 0 and part.end:
                await part.reset()
            part.total_bytes, part.validator = offer.total_bytes, offer.validator
            await self._check_room(part, 0)
            if offer.total_bytes is None and not offer.framed:
                part.total_bytes = await self._probe_total(task)
            await self._receive(response, offer, part)
            await self._note_host(response.url.raw_host or "")
        await self._check_end(task, offer, part)

    async def _note_host(self, host: str) -> None:
        """Say when videos begin to come from somewhere else: nobody documents from where."""
        if host in self._seen_hosts:
            return
        if await self._store.sightings.note(host, self._now()):
            _log.info("host.first_seen", host=host)
        if len(self._seen_hosts) == SEEN_HOSTS_LIMIT:
            self._seen_hosts.clear()
        self._seen_hosts.add(host)

    async def _receive(self, response: ClientResponse, offer: Offer, part: Partial) -> None:
        position, overlap_end = offer.start, part.end
        checked = position
        async for block in self._blocks(response):
            rest = memoryview(block)
            if position == 0 and not begins_as_film(bytes(rest[:8])):
                raise Spoiled(Reason.NOT_A_VIDEO, _describe(response, bytes(rest[:64])))
            if position < overlap_end:
                same = min(len(rest), overlap_end - position)
                if rest[:same] != await part.read(position, same):
                    raise Changed("the same validator stands over other bytes")
                position, rest = position + same, rest[same:]
            if position + len(rest) > self._section().max_size:
                raise Trouble(
                    Reason.TOO_LARGE,
                    "the file grew beyond download.max_size",
                    TOO_LARGE_PAUSE_SECONDS,
                )
            if rest:
                await part.write(position, rest)
                position += len(rest)
            if position - checked >= RECHECK_BYTES:
                checked = position
                await self._check_room(part, position)

    async def _blocks(self, response: ClientResponse) -> AsyncIterator[bytearray]:
        """Gather the body into blocks; what came before a failure is handed out before it."""
        speed = _Speed(self._section().min_speed, self._section().min_speed_time.total_seconds())
        gathered, since = bytearray(), time.monotonic()
        failure: StepFailed | None = None
        while True:
            stall_timeout = self._section().stall_timeout.total_seconds()
            beat(STEP_SECONDS + stall_timeout)
            asked = time.monotonic()
            try:
                piece = await read_chunk(response, stall_timeout)
                speed.count(len(piece), time.monotonic() - asked)
            except StepFailed as caught:
                piece, failure = b"", caught
            gathered += piece
            now = time.monotonic()
            if len(gathered) >= BLOCK_BYTES or now - since >= GATHER_SECONDS or not piece:
                if gathered:
                    yield gathered
                gathered, since = bytearray(), now
            if not piece:
                break
        if failure is not None:
            raise failure

    async def _check_end(self, task: Task, offer: Offer, part: Partial) -> None:
        if part.total_bytes is None and offer.framed:
            part.total_bytes = part.end
        elif part.total_bytes is None:
            await self._fetch_again(task, part)
        if part.end != part.total_bytes:
            raise Trouble(
                Reason.TRUNCATED, f"the body ended after {part.end} of {part.total_bytes} bytes"
            )
        if part.total_bytes == 0:
            raise Spoiled(Reason.NOT_A_VIDEO, "the host served an empty file")

    async def _probe_total(self, task: Task) -> int | None:
        """Learn the total of a file without length from one byte of it; None when that fails."""
        headers = {"Range": "bytes=0-0"}
        async with get_file(self._session, task.next_link, self._policy(), headers) as response:
            found = read_content_range(_headers(response))
            return found[2] if found is not None and found[:2] == (0, 0) else None

    async def _fetch_again(self, task: Task, part: Partial) -> None:
        """No length and no framing: only a second body, equal to the first, proves it whole."""
        size_bytes, position = part.end, 0
        async with get_file(self._session, task.next_link, self._policy(), {}) as response:
            async for block in self._blocks(response):
                if bytes(block) != await part.read(position, len(block)):
                    raise Changed("two downloads without a length differ")
                position += len(block)
        if position != size_bytes:
            raise Changed("two downloads without a length differ in length")
        part.total_bytes = size_bytes

    async def _check_room(self, part: Partial, position: int) -> None:
        total = part.total_bytes
        needed = ASSUMED_VIDEO_BYTES if total is None else max(0, total - max(position, part.end))
        missing = missing_room(await self._disk.free_bytes(), needed, self._min_free_bytes())
        if missing:
            raise Hindered(
                Reason.DISK,
                f"{missing} bytes are lacking in {self._disk.directory} "
                f"to keep disk.min_free: make room, the download goes on by itself",
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


def _headers(response: ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _describe(response: ClientResponse, head: bytes) -> str:
    kind = response.headers.get("Content-Type", "no type")[:60]
    return f"the host served {kind}, which begins with {head[:16]!r}, instead of a video"


@dataclass(slots=True)
class _Speed:
    """The low-speed limits, over time spent waiting for the network and not for our own disk.

    Above the configured minimum a host may still hold a worker for days; after ten minutes of
    waiting it has to be fast enough for others not to wait behind it. The bytes are kept.
    """

    least_bytes_per_second: int
    window_seconds: float
    waited_seconds: float = 0.0
    window_bytes: int = 0
    all_seconds: float = 0.0
    all_bytes: int = 0

    def count(self, count: int, waited_seconds: float) -> None:
        self.window_bytes += count
        self.waited_seconds += waited_seconds
        self.all_bytes += count
        self.all_seconds += waited_seconds
        if self.all_seconds > PATIENCE_SECONDS and self.all_bytes < FAIR_SPEED * self.all_seconds:
            minutes = self.all_seconds / 60
            raise Trouble(Reason.STALLED, f"{self.all_bytes} bytes in {minutes:.0f} minutes")
        if self.waited_seconds < self.window_seconds:
            return
        if self.window_bytes < self.least_bytes_per_second * self.waited_seconds:
            speed = int(self.window_bytes / self.waited_seconds)
            raise Trouble(Reason.STALLED, f"only {speed} bytes a second came")
        self.waited_seconds, self.window_bytes = 0.0, 0

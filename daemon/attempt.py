"""One attempt at the bytes of a file: over one connection, or over several while they help.

Rule: whatever a connection does, the bytes that came stay and what it left undone is open to the
next one. The first connection says which version is fetched; others join it only by a strong
validator, and where two meet, the bytes of one are compared with those of the other. A host that
does not like several connections is left with one.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import structlog
from aiohttp import ClientResponse

from daemon.config.sections import Download
from daemon.disk import undisturbed, wait_for_all
from daemon.outbound import Session, get_file, read_chunk
from daemon.partial import Partial
from daemon.pulse import STEP_SECONDS, beat
from daemon.rules.address import AddressPolicy
from daemon.rules.failure import Reason, Refused, Spoiled, StepFailed, Trouble
from daemon.rules.mp4 import begins_as_film
from daemon.rules.segments import Growth, Segment, Stage, find_overlap, give_back, next_segment
from daemon.rules.space import RECHECK_BYTES
from daemon.rules.speed import Speed
from daemon.rules.transfer import (
    OVERLAP_BYTES,
    TOO_LARGE_PAUSE_SECONDS,
    Changed,
    Offer,
    Request,
    read_content_range,
    read_head,
)
from daemon.traffic import Traffic

BLOCK_BYTES: Final = 256 << 10
"""One write, or more when more has come meanwhile. Each is a thread hop of 50 to 100 us: at 8 KiB a
core is busy with hopping alone."""
GATHER_SECONDS: Final = 0.5
"""A slow host's bytes do not wait longer than this for their block to fill."""
RESTARTS: Final = 2
"""How often one attempt starts over because the host serves another version."""

_BROKE_OFF: Final = frozenset({Reason.NETWORK, Reason.STALLED, Reason.TRUNCATED})
"""What another connection may still mend; anything else concerns the file."""
SEAM_SECONDS: Final = 0.01
"""The next segment has been asked for: how often to look whether it has begun."""
LONG_LOOK_SECONDS: Final = 30.0
"""Where nothing is to be decided, the watchdog is still told that bytes come."""

Hand: TypeAlias = asyncio.Task[None]
_log = structlog.get_logger()


CheckRoom = Callable[[Partial, int], Coroutine[Any, Any, None]]
"""Raises Hindered when there is no room for what is missing behind a position."""


class Attempt:
    """Fills a partial file from one link. Made for one call of `fill`."""

    def __init__(
        self,
        link: str,
        part: Partial,
        session: Session,
        policy: Callable[[], AddressPolicy],
        traffic: Traffic,
        *,
        section: Callable[[], Download],
        check_room: CheckRoom,
        now: Callable[[], int],
    ) -> None:
        self.host: str | None = None
        """Whom the bytes came from, behind all redirects."""
        self.most_connections = 0
        self._link = link
        self._part = part
        self._session = session
        self._policy = policy
        self._traffic = traffic
        self._section = section
        self._check_room = check_room
        self._now = now
        self._received_bytes = 0
        self._connections = 0
        self._opening = 0
        self._hands: dict[Hand, Segment] = {}
        self._worker: asyncio.Task[Any] | None = None

    async def fill(self) -> None:
        """Fetch what is missing.

        Raises:
            StepFailed: the bytes that came are kept.
        """
        part, self._worker = self._part, asyncio.current_task()
        if part.total_bytes is not None and part.spans.covers(part.total_bytes):
            return
        for _ in range(1 + RESTARTS):
            try:
                await self._transfer()
            except Changed as change:
                _log.info("download.restarted", why=str(change))
                if self.most_connections > 1:
                    self._traffic.leave_alone(self.host or "")
                await part.reset()
            else:
                return
        raise Trouble(Reason.NETWORK, "the host serves another version at every request")

    async def _transfer(self) -> None:
        """From the first missing byte to the end of the file."""
        part = self._part
        segment = Segment(part.end)
        request = Request(find_overlap(part.spans, segment.start), part.validator, part.total_bytes)
        async with AsyncExitStack() as stack:
            response = await stack.enter_async_context(self._connect(request))
            offer = self._read_head(response, request)
            if response.status == HTTPStatus.OK and part.spans.ranges:
                await part.reset()
                segment = Segment(0)
            part.total_bytes, part.validator = offer.total_bytes, offer.validator
            await self._check_room(part, 0)
            if offer.total_bytes is None and not offer.framed:
                part.total_bytes = await self._probe_total()
            self.host = response.url.raw_host
            if part.total_bytes is None:
                await self._receive(response, offer.start, segment)
            else:
                self._hands = {
                    asyncio.create_task(self._lead(stack, response, offer.start, segment)): segment
                }
                await self._share(response, segment, part.total_bytes)
        await self._check_end(offer)

    @asynccontextmanager
    async def _connect(self, request: Request) -> AsyncIterator[ClientResponse]:
        self._traffic.connections += 1
        self._connections += 1
        self.most_connections = max(self.most_connections, self._connections)
        try:
            async with get_file(
                self._session,
                self._link,
                self._policy(),
                request.headers(),
                self._traffic.buffer_bytes(),
            ) as response:
                yield response
        finally:
            self._traffic.connections -= 1
            self._connections -= 1

    def _read_head(self, response: ClientResponse, request: Request) -> Offer:
        return read_head(
            response.status,
            _headers(response),
            request,
            now=self._now() / 1000,
            max_bytes=self._section().max_size,
        )

    async def _lead(
        self, stack: AsyncExitStack, response: ClientResponse, position: int, segment: Segment
    ) -> None:
        """Receive over the first connection, and let go of it at once: there may be no more."""
        async with stack:
            await self._receive(response, position, segment)

    async def _share(self, response: ClientResponse, first: Segment, size_bytes: int) -> None:
        """Let the first connection receive, and others beside it while they help."""
        part, section, hands = self._part, self._section(), self._hands
        gaps = part.spans.gaps(size_bytes)
        first.end = next((end for start, end in gaps if start == first.start), size_bytes)
        growth = Growth(
            limit=section.connections if self._may_share(response, size_bytes) else 1,
            began=time.monotonic(),
            own_bytes=self._received_bytes,
            all_bytes=self._traffic.flow.received_bytes,
        )
        seen_bytes = -1
        try:
            while hands:
                if self._received_bytes != seen_bytes:
                    seen_bytes = self._received_bytes
                    beat(STEP_SECONDS + section.stall_timeout.total_seconds())
                undecided = growth.stage is not Stage.SETTLED and growth.limit > 1
                pause = growth.look_seconds if undecided else LONG_LOOK_SECONDS
                done, _ = await asyncio.wait(
                    hands, timeout=pause, return_when=asyncio.FIRST_COMPLETED
                )
                self._collect(done, growth)
                self._look(growth, size_bytes)
                # Whoever delivered last stays: the others may be about to break.
                order = sorted(hands, key=lambda hand: hands[hand].came_at, reverse=True)
                for surplus in order[growth.allowed :]:
                    surplus.cancel()
                while len(hands) < growth.allowed:
                    segment = next_segment(
                        part.spans, size_bytes, list(hands.values()), section.min_segment
                    )
                    if segment is None:
                        break
                    hands[asyncio.create_task(self._join(segment, growth))] = segment
        finally:
            for hand in hands:
                hand.cancel()
            await undisturbed(wait_for_all(hands))

    def _may_share(self, response: ClientResponse, size_bytes: int) -> bool:
        ranges = response.headers.get("Accept-Ranges", "bytes").strip().lower()
        return (
            self._part.validator is not None
            and size_bytes - self._part.end >= 2 * self._section().min_segment
            and ranges == "bytes"
            and not self._traffic.is_shy(self.host or "")
        )

    def _look(self, growth: Growth, size_bytes: int) -> None:
        if self._opening == 0:
            growth.look(
                time.monotonic(),
                self._received_bytes,
                self._traffic.flow.received_bytes,
                size_bytes - self._part.spans.total_bytes,
            )

    def _collect(self, done: set[Hand], growth: Growth) -> None:
        """Note how connections ended; what broke off is no failure while others go on.

        Raises:
            StepFailed: no connection is left, or another one could not mend it.
            Changed: two connections brought different bytes.
        """
        left = {hand: self._hands.pop(hand) for hand in done}
        # Those that were one too many are cancelled; nobody else cancels them while this runs.
        ended = [hand for hand in done if not hand.cancelled()]
        failures = {hand: failure for hand in ended if (failure := hand.exception()) is not None}
        others_go_on = bool(self._hands) or len(failures) < len(ended)
        # Other bytes outrank whatever happened at the same time: they must not stay.
        for hand in sorted(failures, key=lambda hand: _is_mendable(failures[hand])):
            failure = failures[hand]
            if not others_go_on or not _is_mendable(failure):
                raise failure
            _log.info("download.narrowed", why=str(failure), connections=len(self._hands))
            growth.shrink()
            if left[hand].reached == left[hand].start:
                # It did not even begin: that is no accident, but a host that wants one.
                self._traffic.leave_alone(self.host or "")
        for segment in left.values():
            give_back(segment, list(self._hands.values()))

    async def _join(self, segment: Segment, growth: Growth) -> None:
        """Fetch a segment over one more connection."""
        part = self._part
        start = find_overlap(part.spans, segment.start)
        request = Request(start, part.validator, part.total_bytes, segment.asked_end)
        async with AsyncExitStack() as stack:
            began = time.monotonic()
            self._opening += 1
            try:
                response = await stack.enter_async_context(self._connect(request))
                self._read_head(response, request)
            except (Changed, Trouble) as failure:
                # The first connection says what file it is; another answer is no help, and no news.
                raise Trouble(Reason.NETWORK, str(failure)) from None
            finally:
                self._opening -= 1
            if response.status != HTTPStatus.PARTIAL_CONTENT:
                raise Trouble(Reason.NETWORK, "the host does not serve parts of the file")
            now = time.monotonic()
            growth.open(now, self._received_bytes, self._traffic.flow.received_bytes, now - began)
            await self._receive(response, start, segment)

    async def _receive(self, response: ClientResponse, position: int, segment: Segment) -> None:
        """Write what belongs to the segment, compare what stands on the disk already."""
        part, max_bytes = self._part, self._section().max_size
        checked, held = position, b""
        async with aclosing(self._blocks(response, segment)) as blocks:
            async for block in blocks:
                rest = memoryview(held + block)
                if position == 0 and not begins_as_film(bytes(rest[:8])):
                    raise Spoiled(Reason.NOT_A_VIDEO, _describe(response, bytes(rest[:64])))
                if position < segment.start:
                    same = min(len(rest), segment.start - position)
                    await self._compare(position, rest[:same])
                    position, rest = position + same, rest[same:]
                if position + len(rest) > max_bytes:
                    raise Trouble(
                        Reason.TOO_LARGE,
                        "the file grew beyond download.max_size",
                        TOO_LARGE_PAUSE_SECONDS,
                    )
                if rest and await self._meets(position, rest, segment):
                    return
                if self._reaches_seam(position, rest, segment):
                    held = bytes(rest)
                    continue
                held = b""
                if rest:
                    segment.reached = position + len(rest)
                    await part.write(position, rest)
                    position += len(rest)
                if position - checked >= RECHECK_BYTES:
                    checked = position
                    await self._check_room(part, position)
        if segment.end is not None and position < segment.end:
            raise Trouble(
                Reason.TRUNCATED, f"the body ended after {position} of {part.total_bytes} bytes"
            )

    def _reaches_seam(self, position: int, block: memoryview, segment: Segment) -> bool:
        """Say whether a block reaches the place where the next segment begins.

        What comes behind the announced total is nobody's, and is written: a file that grew beyond
        it is not the one that was announced.
        """
        end = segment.end
        return end is not None and end != self._part.total_bytes and position + len(block) >= end

    async def _meets(self, position: int, block: memoryview, segment: Segment) -> bool:
        """Write the last bytes of a segment once those of the next one are known to fit.

        Until then they are held back, whatever happens: two sides of a seam that nobody compared
        are never both on the disk. False: it is too early, or the segment is larger meanwhile.

        Raises:
            Changed: two connections brought different bytes.
        """
        while self._reaches_seam(position, block, segment):
            end = segment.end or 0
            # Nobody takes over a part of it any more.
            segment.reached = end
            own, beyond = block[: end - position], block[end - position :]
            if len(beyond) < min(OVERLAP_BYTES, (self._part.total_bytes or end) - end):
                return False
            known = min(self._part.spans.reach(end) - end, len(beyond), OVERLAP_BYTES)
            if known == 0 and any(other.start == end for other in self._hands.values()):
                await asyncio.sleep(SEAM_SECONDS)
                continue
            await self._compare(end, beyond[:known])
            await self._part.write(position, own)
            return True
        return False

    async def _compare(self, start: int, block: memoryview) -> None:
        if block and block != await self._part.read(start, len(block)):
            raise Changed("the same validator stands over other bytes")

    async def _blocks(
        self, response: ClientResponse, segment: Segment
    ) -> AsyncGenerator[bytes, None]:
        """Gather the body into blocks; what came before a failure is handed out before it."""
        section, traffic = self._section(), self._traffic
        speed = Speed(section.min_speed, section.min_speed_time.total_seconds())
        gathered, gathered_bytes, since = list[bytes](), 0, time.monotonic()
        failure: StepFailed | None = None
        while True:
            if asyncio.current_task() is self._worker:
                # Nobody beats for a film without a length but who receives it.
                beat(STEP_SECONDS + section.stall_timeout.total_seconds())
            buffer_bytes = traffic.buffer_bytes()
            asked = time.monotonic()
            try:
                piece = await read_chunk(
                    response, self._section().stall_timeout.total_seconds(), buffer_bytes
                )
                speed.count(len(piece), time.monotonic() - asked, max(1, self._connections))
            except StepFailed as caught:
                piece, failure = b"", caught
            segment.came_at = time.monotonic()
            self._received_bytes += len(piece)
            await traffic.flow.count(len(piece))
            await traffic.way.give_way()
            gathered.append(piece)
            gathered_bytes += len(piece)
            now = time.monotonic()
            full = gathered_bytes >= min(BLOCK_BYTES, buffer_bytes)
            if full or now - since >= GATHER_SECONDS or not piece:
                if gathered_bytes:
                    yield b"".join(gathered)
                gathered, gathered_bytes, since = [], 0, now
            if not piece:
                break
        if failure is not None:
            raise failure

    async def _check_end(self, offer: Offer) -> None:
        part = self._part
        if part.total_bytes is None and offer.framed:
            part.total_bytes = part.end
        elif part.total_bytes is None:
            await self._fetch_again()
        if part.total_bytes == 0:
            raise Spoiled(Reason.NOT_A_VIDEO, "the host served an empty file")

    async def _probe_total(self) -> int | None:
        """Learn the total of a file without length from one byte of it; None when that fails."""
        headers = {"Range": "bytes=0-0"}
        async with get_file(self._session, self._link, self._policy(), headers) as response:
            found = read_content_range(_headers(response))
            return found[2] if found is not None and found[:2] == (0, 0) else None

    async def _fetch_again(self) -> None:
        """No length and no framing: only a second body, equal to the first, proves it whole."""
        part, position = self._part, 0
        size_bytes = part.end
        async with (
            get_file(self._session, self._link, self._policy(), {}) as response,
            aclosing(self._blocks(response, Segment(0))) as blocks,
        ):
            async for block in blocks:
                if block != await part.read(position, len(block)):
                    raise Changed("two downloads without a length differ")
                position += len(block)
        if position != size_bytes:
            raise Changed("two downloads without a length differ in length")
        part.total_bytes = size_bytes


def _is_mendable(failure: BaseException) -> bool:
    """Tell whether another connection may still fetch what this one did not."""
    return isinstance(failure, Refused) or (
        isinstance(failure, Trouble) and failure.reason in _BROKE_OFF
    )


def _headers(response: ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _describe(response: ClientResponse, head: bytes) -> str:
    kind = response.headers.get("Content-Type", "no type")[:60]
    return f"the host served {kind}, which begins with {head[:16]!r}, instead of a video"

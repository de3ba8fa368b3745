"""Which bytes does each connection of one download fetch, and how many connections are worth it?

Rule: two connections never own the same byte, and nobody cuts a segment smaller than the operator
allows. A download begins with one connection. More come while much is left to come, and go again
when they turn out to bring no more than one: only a host that limits each connection is fetched
faster by several.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from daemon.rules.spans import Spans
from daemon.rules.transfer import OVERLAP_BYTES

FIRST_LOOK_SECONDS: Final = 0.05
LOOK_SECONDS: Final = 0.1
LOOK_LIMIT_SECONDS: Final = 5.0
ANSWERS_A_LOOK: Final = 4
"""A new connection has as many times its way to the host and back to come up to speed."""
WORTH_SECONDS: Final = 1.5
"""What all that comes would fetch so soon is fetched before another connection is of any use."""
TRIAL_SECONDS: Final = 1.0
"""Hosts and networks deliver in bursts: shorter times compare nothing."""
TRIAL_WORTH_SECONDS: Final = 10.0
"""A trial costs most of its time where several connections do help."""
LEAST_GAIN: Final = 1.25


@dataclass(slots=True)
class Segment:
    """What one connection fetches: from `start` on, up to `end` or, without one, to the last byte.

    `reached` is the first byte that is neither written nor on its way to the disk; `end` comes
    nearer when another connection takes over the second half. What the host was asked for ends at
    `asked_end`, or nowhere: some bytes behind `end`, which the next segment is compared with.
    `came_at` is when something came last.
    """

    start: int
    end: int | None = None
    asked_end: int | None = None
    reached: int = 0
    came_at: float = 0.0

    def __post_init__(self) -> None:
        self.reached = max(self.reached, self.start)


def find_overlap(spans: Spans, start: int) -> int:
    """Return where to ask from when `start` is missing: some bytes before it are compared."""
    before = [first for first, end in spans.ranges if end == start]
    return max(before[0], start - OVERLAP_BYTES) if before else start


def next_segment(
    spans: Spans, size_bytes: int, busy: Sequence[Segment], least_bytes: int
) -> Segment | None:
    """Choose what one more connection fetches; None when nothing is left that is worth it.

    First what nobody fetches, which a connection that broke off left behind. Then the second half
    of the largest rest, which is taken from its owner. Everybody in `busy` has an end.
    """
    owned = spans
    for segment in busy:
        owned = owned.add(segment.start, segment.end or size_bytes)
    for start, end in owned.gaps(size_bytes):
        return Segment(start, end, min(end + OVERLAP_BYTES, size_bytes))
    rests = [((segment.end or size_bytes) - segment.reached, segment) for segment in busy]
    rest_bytes, owner = max(rests, key=lambda rest: rest[0], default=(0, None))
    if owner is None or rest_bytes < 2 * least_bytes:
        return None
    end = owner.end or size_bytes
    owner.end = end - rest_bytes // 2
    return Segment(owner.end, end, min(end + OVERLAP_BYTES, size_bytes))


def give_back(segment: Segment, busy: Sequence[Segment]) -> None:
    """Let the connection before a segment of which nothing came fetch it as well, if it can."""
    for owner in busy:
        asked_far_enough = owner.asked_end is None or owner.asked_end >= (segment.end or 0)
        if owner.end == segment.start == segment.reached and asked_far_enough:
            owner.end = segment.end


class Stage(Enum):
    """What a download is finding out about its host."""

    GROWING = auto()
    MEASURING = auto()
    """How much comes over several connections."""
    TRYING = auto()
    """How much comes over one."""
    SETTLED = auto()


@dataclass(slots=True, kw_only=True)
class Growth:
    """How many connections one download may have.

    It grows while much is left to come, and then, if it lasts, tries whether one connection would
    bring as much. Times are seconds of any clock; byte counts only ever grow.
    """

    limit: int
    began: float
    own_bytes: int = 0
    all_bytes: int = 0
    allowed: int = 1
    look_seconds: float = FIRST_LOOK_SECONDS
    stage: Stage = Stage.GROWING
    _rate: float = 0.0

    def open(self, now: float, own_bytes: int, all_bytes: int, answer_seconds: float) -> None:
        """Begin the look anew: a connection was opened whose answer took `answer_seconds`."""
        least = TRIAL_SECONDS if self.stage in {Stage.MEASURING, Stage.TRYING} else LOOK_SECONDS
        slow = min(LOOK_LIMIT_SECONDS, ANSWERS_A_LOOK * answer_seconds)
        self.look_seconds = max(least, slow)
        self.began, self.own_bytes, self.all_bytes = now, own_bytes, all_bytes

    def look(self, now: float, own_bytes: int, all_bytes: int, missing_bytes: int) -> None:
        """Decide, when it is time, how many connections there may be from now on.

        `own_bytes` came for this download, `all_bytes` for all; `missing_bytes` are to come.
        """
        seconds = now - self.began
        silent = own_bytes == self.own_bytes and seconds < LOOK_LIMIT_SECONDS
        if seconds < self.look_seconds or silent:
            # What has not begun to come is no slow host: the loop may be busy with others.
            return
        own_rate = (own_bytes - self.own_bytes) / seconds
        all_rate = (all_bytes - self.all_bytes) / seconds
        if self.stage is Stage.GROWING:
            if self.allowed < self.limit and missing_bytes > WORTH_SECONDS * all_rate:
                self.allowed = min(self.limit, 2 * self.allowed)
            if 1 < self.allowed == self.limit:
                self.stage = Stage.MEASURING
        elif self.stage is Stage.MEASURING and missing_bytes > TRIAL_WORTH_SECONDS * own_rate:
            self._rate, self.allowed, self.stage = own_rate, 1, Stage.TRYING
        elif self.stage is Stage.TRYING:
            self.allowed = self.limit if self._rate > LEAST_GAIN * own_rate else 1
            self.stage = Stage.SETTLED
        self.open(now, own_bytes, all_bytes, 0.0)

    def shrink(self) -> None:
        """Stay with one connection: the host does not like several."""
        self.limit = self.allowed = 1
        self.stage = Stage.SETTLED

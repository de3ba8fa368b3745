"""When is it tried again, and when is it over?

Rule: attempts never end a task, they only slow it down. What ends a task is the provider's word,
or the deadline together with proof. All times are milliseconds since 1970 UTC by our own clock;
the provider's times are for display. `luck` is a number in [0, 1) from the caller.
"""

from dataclasses import dataclass
from typing import Final

SECOND: Final = 1_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE

EAGER_MS: Final = 20 * MINUTE
"""How long the provider is asked at a constant pace. Its last callback retry comes about 21 minutes
after the first, and a video takes one to two minutes."""
RETRY_AFTER_LIMIT_MS: Final = HOUR
"""A host may ask for patience, but not for the rest of the retention."""
REFRESH_MS: Final = 6 * HOUR
"""How long a link is used before the provider is asked for a newer one."""
SPOILED_PAUSE_MS: Final = 6 * HOUR
"""How long the third identical bad content waits for a new link or validator."""
SPOILED_LIMIT: Final = 3

UNKNOWN_LIMIT: Final = 3
UNKNOWN_APART_MS: Final = 10 * MINUTE
UNKNOWN_AGE_MS: Final = HOUR

PROOF_APART_MS: Final = 6 * HOUR
REFUSALS_PROVE: Final = 3
QUESTIONS_PROVE: Final = 2
KEYLESS_GRACE_MS: Final = 24 * HOUR


def backoff(attempt: int, first_ms: int, limit_ms: int, luck: float) -> int:
    """Return the pause before the next try after `attempt` failures in a row (1 for the first).

    Full jitter (uniform between nothing and the exponential ceiling), with a floor of half of
    `first_ms` so that a hot loop is impossible.
    """
    ceiling = min(limit_ms, first_ms << min(attempt - 1, 32))
    return max(min(first_ms, limit_ms) // 2, int(ceiling * luck))


def pause_download(
    attempt: int, first_ms: int, limit_ms: int, luck: float, retry_after_ms: int | None
) -> int:
    """Return the pause of a download: the host's wish (capped at an hour), else the backoff."""
    pause = backoff(attempt, first_ms, limit_ms, luck)
    if retry_after_ms is None:
        return pause
    return max(pause, min(retry_after_ms, RETRY_AFTER_LIMIT_MS))


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the provider is asked about one task (`[poll]`)."""

    first_after_ms: int
    interval_ms: int
    limit_ms: int


def pause_question(pace: Pace, asked_for_ms: int, last_ms: int, luck: float) -> int:
    """Return the pause before the next question about a task.

    `asked_for_ms` is how long we have been asking, `last_ms` the previous pause (0: there was none,
    and `first_after` counts where it is shorter). Constant for 20 minutes, then growing by half,
    give or take a fifth, up to the limit.
    """
    if last_ms == 0:
        return min(pace.first_after_ms, pace.interval_ms)
    if asked_for_ms < EAGER_MS:
        return pace.interval_ms
    grown = max(last_ms, pace.interval_ms) * 1.5
    return min(pace.limit_ms, int(grown * (0.8 + 0.4 * luck)))


@dataclass(frozen=True, slots=True)
class Tally:
    """Trials in vain that count as proof: `count` of them, the last at `last_at`."""

    count: int
    last_at: int | None

    def another(self, now: int, apart_ms: int) -> "Tally":
        """Count one more, unless the last one is younger than `apart_ms`."""
        if self.last_at is not None and now - self.last_at < apart_ms:
            return self
        return Tally(self.count + 1, now)


def prove_unknown(denials: Tally, adopted_at: int) -> bool:
    """Return whether there is no such task: denied three times, the last an hour after adoption."""
    return (
        denials.count >= UNKNOWN_LIMIT
        and denials.last_at is not None
        and denials.last_at - adopted_at >= UNKNOWN_AGE_MS
    )


def prove_lost(
    now: int, deadline_at: int, *, link_known: bool, has_key: bool, refusals: int, questions: int
) -> bool:
    """Return whether a task is past its deadline and proved unobtainable.

    `refusals` of the link and `questions` that brought no working link are counted at most once in
    six hours, questions only after the deadline. Without an API key nothing can be asked: refusals
    count alone, and a task without a link gets another 24 hours.
    """
    if now < deadline_at:
        return False
    asked = not has_key or questions >= QUESTIONS_PROVE
    if link_known:
        return asked and refusals >= REFUSALS_PROVE
    if has_key:
        return asked
    return now >= deadline_at + KEYLESS_GRACE_MS


NEAR_LEVELS_MS: Final = (72 * HOUR, 24 * HOUR)
"""How long before its deadline a task without a file is warned of, and warned of again."""


def count_warnings(now: int, deadline_at: int) -> int:
    """Return how many of the warnings about a deadline are due."""
    return sum(deadline_at - now <= level for level in NEAR_LEVELS_MS)


_GATE_PAUSES: Final = {
    "key": (MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE),
    "credits": (10 * MINUTE,),
    "rate": (10 * SECOND, 20 * SECOND, 40 * SECOND, 80 * SECOND, 160 * SECOND, 5 * MINUTE),
    "maintenance": (5 * MINUTE,),
    "api": (30 * SECOND, MINUTE, 2 * MINUTE, 4 * MINUTE, 8 * MINUTE, 10 * MINUTE),
    "disk": (10 * SECOND,),
    "host": (30 * SECOND, MINUTE, 2 * MINUTE, 4 * MINUTE, 8 * MINUTE, 10 * MINUTE),
}
API_FAILURES: Final = 5
"""Calls in a row without a usable answer before all calls pause."""
HOST_FAILURES: Final = 5
"""Downloads in a row that a host failed, without a byte, before its other downloads wait."""


def pause_gate(name: str, closings: int) -> int:
    """Return how long a gate stays shut before one probe, after `closings` in a row (1: first).

    `name` is a kind of gate, or a kind and which of them: `host:files.example.com`.
    """
    pauses = _GATE_PAUSES[name.partition(":")[0]]
    return pauses[min(closings, len(pauses)) - 1]

"""What should have happened by now and has not: for `status`, and for whoever watches from outside.

Rule: overdue is a task due for over an hour and not tried, a gate of all our work shut for over an
hour, or a video that is not here within 72 hours of its deadline.
"""

from collections.abc import Sequence
from typing import Final

from daemon.gates import Shut
from daemon.rules.schedule import HOUR, NEAR_LEVELS_MS
from daemon.store import Store

OVERDUE_MS: Final = HOUR
_VITAL: Final = ("key", "api", "disk")


async def find_overdue(
    store: Store, gates: Sequence[Shut], now: int, *, has_key: bool
) -> list[str]:
    """Return what is overdue, a sentence each.

    Raises:
        StoreFailed: the ledger cannot be read.
    """
    found = [
        f"gate {shut.name} has been shut for {(now - shut.since) // HOUR} h: {shut.reason}"
        for shut in gates
        if shut.name in _VITAL and now - shut.since > OVERDUE_MS
    ]
    near, questions, steps = await store.due_times.count_overdue(
        now - OVERDUE_MS, now + NEAR_LEVELS_MS[0]
    )
    if questions and has_key:
        found.append(_say(questions, "question has", "questions have", "been due for over an hour"))
    if steps:
        found.append(_say(steps, "download has", "downloads have", "been due for over an hour"))
    if near:
        rest = (
            "not here and near the provider's deadline, or past it: check says which, and doctor "
            "with its id why"
        )
        found.append(_say(near, "video is", "videos are", rest))
    return found


def _say(count: int, one: str, many: str, rest: str) -> str:
    return f"{count} {one if count == 1 else many} {rest}"

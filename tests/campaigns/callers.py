"""Callers of the campaigns, and the question that all of them ask in the end.

Rule: a callback counts as acknowledged when its answer was 200, and from then on it is in the
ledger, as often as it was acknowledged.
"""

import json
import random
from collections.abc import Mapping
from typing import Any, Final

import aiohttp

from daemon.simulator.simulator import Simulator
from tests.campaigns.campaign import PromiseBroken
from tests.stories.harness import Section, ask
from tests.stories.stage import failure, success

CALLBACKS_ALONE: Final[Mapping[str, Section]] = {
    "callback": {"trust": "callback"},
    "provider": {"api_key": None},
    "log": {"level": "info"},
}
"""Settings of a daemon that believes callbacks and can ask nobody."""


def write_callback(
    provider: Simulator, luck: random.Random, films: float
) -> tuple[str, dict[str, object]]:
    """Return the id and the body of a new callback; this share of them names a film."""
    if luck.random() < films:
        task_id = provider.add_task(finished=True)
        return task_id, success(task_id, provider.tasks[task_id].video_url)
    task_id = f"call-{luck.getrandbits(64):016x}"
    return task_id, failure(task_id)


async def is_acknowledged(url: str, body: dict[str, object]) -> bool:
    """Send one callback; return whether it was answered.

    Raises:
        PromiseBroken: the answer is not 200.
    """
    try:
        reply = await ask("POST", url, data=json.dumps(body).encode())
    except (aiohttp.ClientError, OSError):
        return False
    if reply.status != 200:
        raise PromiseBroken(f"a proper callback was answered with {reply.status}")
    return True


def check_acknowledged(ledger: Mapping[str, Any], answered: Mapping[str, int]) -> None:
    """Compare a ledger, its tasks by id, with how often each was acknowledged.

    Raises:
        PromiseBroken: one is missing, or was forgotten once.
    """
    lost = [
        task_id
        for task_id, count in answered.items()
        if task_id not in ledger or ledger[task_id]["callbacks"] < count
    ]
    if lost:
        raise PromiseBroken(f"acknowledged and not in the ledger: {len(lost)}, as {lost[:3]}")

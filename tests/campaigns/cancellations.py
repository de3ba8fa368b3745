"""Cancels the daemon's steps at every await, once or twice, and looks for what was left behind.

Rule: a step that was cancelled ends cancelled and leaves no transaction, task, thread, descriptor
or disk call behind; the ledger still takes a write, and the step done again comes out right.

    python -m tests.campaigns.cancellations --size 5000 --seed 1
"""

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from structlog.testing import capture_logs

from tests.campaigns.campaign import PromiseBroken, command
from tests.campaigns.shelf import quick_folder
from tests.campaigns.stepping import Cut, run_cut
from tests.campaigns.steps import STEPS, Step
from tests.campaigns.workshop import Workshop, open_workshop

TWICE: Final = 0.4
"""The share of runs in which a second cancellation follows."""
FOLLOWS: Final = 4
"""The second one comes at most so many suspensions after the first."""

Make = Callable[[Workshop], Awaitable[Step]]


@dataclass(slots=True)
class Tally:
    """How often each step was cut, and how."""

    cancelled: Counter[str] = field(default_factory=Counter)
    """Cancellations that arrived, by step."""
    whole: Counter[str] = field(default_factory=Counter)
    """Runs that nothing reached any more: all awaits of the step were cut before."""
    cuts: Counter[Cut] = field(default_factory=Counter)
    twice: int = 0
    deepest: Counter[str] = field(default_factory=Counter)
    """The last suspension of each step that was cut."""


async def run_campaign(folder: Path, size: int, seed: int) -> Tally:
    """Cut steps until `size` cancellations arrived, each step at all its awaits in turn.

    Raises:
        PromiseBroken: with the seed, the step and the suspension that show it.
    """
    luck, tally = random.Random(seed), Tally()
    with capture_logs() as said, quick_folder(folder) as quick:
        try:
            await _cut_all(quick, size, luck, tally)
        except PromiseBroken as broken:
            raise PromiseBroken(f"seed {seed}: {broken}") from broken
    wrong = [line for line in said if line["log_level"] in {"error", "critical"}]
    if wrong:
        raise PromiseBroken(f"seed {seed}: the log says {wrong[:3]}")
    return tally


async def _cut_all(folder: Path, size: int, luck: random.Random, tally: Tally) -> None:
    async with open_workshop(folder, luck) as shop:
        for make in STEPS.values():
            # Once in peace: sessions, pools and caches are warm before anything is counted.
            step = await make(shop)
            await step.work
            await step.mend()
        await shop.remember()
        while tally.cancelled.total() < size:
            for name, make in STEPS.items():
                await _cut_everywhere(shop, name, make, luck, tally, size)


async def _cut_everywhere(
    shop: Workshop, name: str, make: Make, luck: random.Random, tally: Tally, size: int
) -> None:
    """Cut a step at its first await, then at its second, until one run is through."""
    number = 0
    while tally.cancelled.total() < size:
        number += 1
        cuts = {number: luck.choice(list(Cut))}
        if luck.random() < TWICE:
            cuts[number + luck.randint(1, FOLLOWS)] = luck.choice(list(Cut))
        try:
            felt = await _cut(shop, make, cuts)
        except Exception as broken:
            told = ", ".join(f"{at} {cut.value}" for at, cut in cuts.items())
            raise PromiseBroken(f"{name}, cut at {told}: {broken}") from broken
        if not felt:
            tally.whole[name] += 1
            return
        tally.cancelled[name] += felt
        tally.cuts[cuts[number]] += 1
        tally.twice += felt > 1
        tally.deepest[name] = max(tally.deepest[name], number)


async def _cut(shop: Workshop, make: Make, cuts: dict[int, Cut]) -> int:
    step = await make(shop)
    course = await run_cut(step.work, cuts)
    shop.felt = course.felt
    await shop.look_around()
    await step.mend()
    return course.felt


def _tell(tally: Tally) -> str:
    steps = ", ".join(
        f"{name} {count} (to await {tally.deepest[name]})"
        for name, count in tally.cancelled.items()
    )
    kinds = ", ".join(f"{tally.cuts[cut]} {cut.value}" for cut in Cut)
    return (
        f"{tally.cancelled.total()} cancellations ({kinds}; {tally.twice} steps cancelled twice): "
        f"{steps}; nothing left behind, all done again"
    )


if __name__ == "__main__":
    command(run_campaign, _tell, size=5_000, unit="cancellations")()

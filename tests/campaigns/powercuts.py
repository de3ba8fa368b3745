"""Cuts the power under the serving daemon again and again, and looks for what it had promised.

Rule: after every cut the disk has each callback that was answered with 200 before it and each film
that was announced as stored, no file stands under a finished name that is not whole, and a daemon
that starts on what is left finishes everything. A cut is a copy of the disk's image as it is at
that moment: what was never synced has not reached it. A disk that lies about a sync, or that
writes in another order than it was told, is not played here.

Needs root, xfsprogs and e2fsprogs.

    python -m tests.campaigns.powercuts --size 500 --seed 1
"""

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from daemon.simulator.simulator import Simulator
from tests.campaigns.callers import (
    CALLBACKS_ALONE,
    check_acknowledged,
    is_acknowledged,
    write_callback,
)
from tests.campaigns.campaign import PromiseBroken, command
from tests.campaigns.volumes import (
    MIB,
    boot_anew,
    check_files,
    check_startable,
    clone,
    daemon_on,
    make_image,
    mounted,
    read_ledger,
)
from tests.stories.harness import Daemon
from tests.stories.stage import check_film, simulated_provider

CALLERS: Final = 6
FILMS: Final = 0.1
"""The share of callbacks that name a film."""
CUTS_A_LIFE: Final = 5
CUTS_A_DISK: Final = 25
"""Cuts before a new disk: a young ledger grows its log, an old one writes over it."""
WAIT_SECONDS: Final = (0.02, 0.4)
"""How long a load lasts before it is cut."""
AIMED: Final = 0.6
"""The share of cuts that come at once after a film was announced as stored."""
OUTER_BYTES: Final = 2048 * MIB
INNER_BYTES: Final = 192 * MIB


@dataclass(slots=True)
class Promises:
    """What was promised before a moment."""

    answered: Counter[str] = field(default_factory=Counter)
    """How many callbacks of each task were answered with 200."""
    films: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    """Tasks that the log announced as stored."""

    def copy(self) -> "Promises":
        """Return the promises of this moment."""
        return Promises(self.answered.copy(), set(self.films), set(self.stored))


@dataclass(frozen=True, slots=True)
class Cut:
    """What reached the disk, and what had been promised before."""

    image: Path
    promises: Promises


@dataclass(slots=True)
class Tally:
    """What was done to the disks, and what was found on them."""

    cuts: int = 0
    aimed: int = 0
    """Cuts at once after a film was announced as stored."""
    answered: int = 0
    """Callbacks whose answer a cut had to honour, counted once for each cut."""
    stored: int = 0
    """Likewise films."""
    under_way: int = 0
    """Films that a cut found acknowledged and not yet stored."""
    recoveries: int = 0
    finished: int = 0
    """Films that were done, and right, after a recovery."""


async def run_campaign(folder: Path, cuts: int, seed: int) -> Tally:
    """Cut the power `cuts` times and return the count of what was kept.

    Raises:
        PromiseBroken: with the seed that shows it.
    """
    luck, tally = random.Random(seed), Tally()
    async with simulated_provider() as provider:
        image = make_image(folder / "outer.img", OUTER_BYTES, "mkfs.xfs", "-q", "-m", "reflink=1")
        with mounted(image, folder / "outer") as outer:
            try:
                while tally.cuts < cuts:
                    lives = [
                        min(CUTS_A_LIFE, cuts - tally.cuts - done)
                        for done in range(0, min(cuts - tally.cuts, CUTS_A_DISK), CUTS_A_LIFE)
                    ]
                    await _wear_out(outer, lives, provider, luck, tally)
            except AssertionError as broken:
                raise PromiseBroken(f"seed {seed}, cut {tally.cuts}: {broken}") from broken
    return tally


async def _wear_out(
    outer: Path, lives: list[int], provider: Simulator, luck: random.Random, tally: Tally
) -> None:
    """Give a new disk to daemons; each gets what a cut left of the one before it.

    `lives` says how often the power is cut in each; the last daemon lives in peace.
    """
    disk = Cut(make_image(outer / "disk.img", INNER_BYTES, "mkfs.ext4", "-q"), Promises())
    for number, cuts in enumerate([*lives, 0]):
        place = outer.parent / "inner"
        with mounted(disk.image, place):
            boot_anew(place / "state")
            daemon = daemon_on(
                place,
                outer.parent / f"life-{tally.cuts}-{cuts}",
                provider.base_url,
                **CALLBACKS_ALONE,
            )
            try:
                await asyncio.to_thread(daemon.start)
                # Every second daemon meets new callbacks before it has put the old things right.
                if number % 2 == 0 or not cuts:
                    await _finish(daemon, disk.promises, provider, tally)
                taken = await _load(daemon, disk, cuts, provider, luck, tally) if cuts else []
            finally:
                await asyncio.to_thread(daemon.end)
        if taken:
            chosen = luck.choice(taken)
            # A look at it changes it; the next daemon gets it as it is.
            clone(chosen.image, disk.image)
            disk = Cut(disk.image, chosen.promises)
        for cut in taken:
            _check(cut, outer.parent / "check", provider, tally)
            cut.image.unlink()


async def _load(
    daemon: Daemon,
    disk: Cut,
    cuts: int,
    provider: Simulator,
    luck: random.Random,
    tally: Tally,
) -> list[Cut]:
    """Let callers call, cut again and again in the middle of it, and kill the daemon."""
    taken: list[Cut] = []
    promises, log = disk.promises.copy(), _Log(daemon.folder / "log-1.txt")
    callers = [
        asyncio.create_task(_call(daemon.url, provider, random.Random(luck.random()), promises))
        for _ in range(CALLERS)
    ]
    try:
        for _ in range(cuts):
            await asyncio.sleep(luck.uniform(*WAIT_SECONDS))
            aimed = luck.random() < AIMED and await log.until_stored(promises)
            # Nothing is answered between the note and the cut: neither gives the loop away.
            log.read(promises)
            cut = Cut(disk.image.with_name(f"cut-{tally.cuts}.img"), promises.copy())
            clone(disk.image, cut.image)
            taken.append(cut)
            tally.cuts += 1
            tally.aimed += aimed
    finally:
        await asyncio.to_thread(daemon.kill)
        await asyncio.gather(*callers)
    return taken


class _Log:
    """The growing log of a daemon, read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def read(self, promises: Promises) -> bool:
        """Add the tasks that were announced as stored; return whether there were any."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._at += len(whole)
        lines = [json.loads(line) for line in whole.splitlines() if b'"stored"' in line]
        new = {line["task_id"] for line in lines if line.get("to") == "stored"}
        promises.stored |= new
        return bool(new)

    async def until_stored(self, promises: Promises) -> bool:
        """Wait a moment for the next film; return whether it came."""
        self.read(promises)
        for _ in range(500):
            await asyncio.sleep(0.001)
            if self.read(promises):
                return True
        return False


async def _call(url: str, provider: Simulator, luck: random.Random, promises: Promises) -> None:
    """Send callbacks until nobody answers any more."""
    while True:
        task_id, body = write_callback(provider, luck, FILMS)
        if not await is_acknowledged(url, body):
            return
        promises.answered[task_id] += 1
        if body["code"] == 200:
            promises.films.add(task_id)


def _check(cut: Cut, place: Path, provider: Simulator, tally: Tally) -> None:
    """Compare what a cut left with what had been promised before it."""
    promises = cut.promises
    with mounted(cut.image, place) as disk:
        boot_anew(disk / "state")
        ledger = read_ledger(disk / "state")
        check_acknowledged(ledger, promises.answered)
        check_files(disk / "videos", provider, ledger)
        safe = {name for name, task in ledger.items() if task["state"] in {"stored", "done"}}
        if forgotten := promises.stored - safe:
            raise PromiseBroken(f"announced as stored, and it is not: {forgotten}")
        check_startable(disk / "state")
    tally.answered += promises.answered.total()
    tally.stored += len(promises.stored)
    tally.under_way += len(promises.films - safe)


async def _finish(daemon: Daemon, promises: Promises, provider: Simulator, tally: Tally) -> None:
    """Wait until the films are done that were promised, and look at each."""
    ledger = await daemon.until_all(promises.films)
    if lost := promises.answered.keys() - ledger.keys():
        raise PromiseBroken(f"acknowledged and gone after the recovery: {lost}")
    for task_id in promises.films:
        check_film(daemon, provider, task_id)
    if promises.answered:
        tally.recoveries += 1
        tally.finished += len(promises.films)


def _tell(tally: Tally) -> str:
    return (
        f"{tally.cuts} cuts ({tally.aimed} at once after a film was stored), {tally.answered} "
        f"answers and {tally.stored} films to honour, {tally.under_way} films found under way, "
        f"{tally.recoveries} recoveries finished {tally.finished} films, nothing lost"
    )


if __name__ == "__main__":
    command(run_campaign, _tell, size=500, unit="cuts")()

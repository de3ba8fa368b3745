"""Cuts the power behind every single file call between a callback and its finished film.

Rule: behind whatever call of the daemon the power fails, the disk has the callback if it was
answered, the film if it was announced as stored, and no finished name over half a film; a daemon
that starts on what is left finishes it. `powercuts` cuts at random moments under load, this one at
each call of one film's way, so that no gap between two calls is too short to be met: the daemon is
stopped by strace(1) right behind the call, and its disk copied as it is then.

Needs root, strace, xfsprogs and e2fsprogs.

    python -m tests.campaigns.cutsweep --size 200 --seed 1
"""

import asyncio
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

from daemon.simulator.simulator import Simulator
from tests.campaigns.callers import CALLBACKS_ALONE
from tests.campaigns.campaign import PromiseBroken, command
from tests.campaigns.tracing import Case, Trace, attached
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
from tests.stories.harness import Daemon, Section
from tests.stories.stage import check_film, failure, simulated_provider, success

FILM_BYTES: Final = 3_000_000
OUTER_BYTES: Final = 1024 * MIB
INNER_BYTES: Final = 64 * MIB
POINT_SECONDS: Final = 8.0
"""How long a point is waited for; a film is done in a fraction of it."""
ANSWER_SECONDS: Final = 0.1
"""How long an answer may take that the daemon sent before it was stopped."""
OLDER: Final = 200
"""Callbacks before the one that is watched, so many that the log is written over: while it grows,
its sync brings new names to the disk as well, and nobody would miss a sync of their folder."""
SETTINGS: Final[Mapping[str, Section]] = {**CALLBACKS_ALONE, "download": {"concurrency": 1}}


class Point(Case):
    """The call behind which the power fails."""

    def rule(self) -> str:  # type: ignore[explicit-override] # typing.override begins with 3.12
        """Stop the daemon there; a call on a file is carried out first."""
        return f"inject={self.call}:signal=STOP:when={self.nth}"


@dataclass(slots=True)
class Tally:
    """Where the power was cut, and what was found."""

    listed: int = 0
    """Points that there are."""
    cuts: int = 0
    missed: int = 0
    """Points whose call was not made that often this time."""
    answered: int = 0
    """Cuts behind the answer to the callback."""
    stored: int = 0
    """Cuts behind the announcement of the film."""
    done: int = 0
    """Films that a daemon finished afterwards."""
    places: Counter[str] = field(default_factory=Counter)


async def run_campaign(folder: Path, size: int, seed: int) -> Tally:
    """Cut the power at `size` points of all that there are; return the count of what was kept.

    Raises:
        PromiseBroken: with the point that shows it.
    """
    luck, tally = random.Random(seed), Tally()
    async with simulated_provider(file_size_bytes=FILM_BYTES) as provider:
        image = make_image(folder / "outer.img", OUTER_BYTES, "mkfs.xfs", "-q", "-m", "reflink=1")
        with mounted(image, folder / "outer") as outer:
            bench = _Bench(folder, outer, provider, tally)
            await bench.prepare()
            points = await bench.survey()
            tally.listed = len(points)
            for point in sorted(luck.sample(points, min(size, len(points)))):
                try:
                    await bench.cut(point)
                except AssertionError as broken:
                    raise PromiseBroken(f"seed {seed}, {point}: {broken}") from broken
    return tally


class _Bench:
    """A disk that every point begins with, and what is done on copies of it."""

    def __init__(self, folder: Path, outer: Path, provider: Simulator, tally: Tally) -> None:
        self._folder = folder
        self._outer = outer
        self._provider = provider
        self._tally = tally
        self._base = outer / "base.img"
        self._runs = 0

    async def prepare(self) -> None:
        """Make the disk: a ledger with some rows, as a daemon that was killed left it."""
        make_image(self._base, INNER_BYTES, "mkfs.ext4", "-q")
        with mounted(self._base, self._folder / "inner") as disk:
            daemon = self._daemon(disk)
            try:
                await asyncio.to_thread(daemon.start)
                for number in range(OLDER):
                    assert (await daemon.post(failure(f"older-{number}"))).status == 200
                await asyncio.to_thread(daemon.kill)
            finally:
                await asyncio.to_thread(daemon.end)

    async def survey(self) -> list[Point]:
        """Let a film arrive in peace; return every call on its way."""
        task_id = self._provider.add_task(finished=True)
        image = self._outer / "disk.img"
        clone(self._base, image)
        with mounted(image, self._folder / "inner") as disk:
            daemon = self._daemon(disk)
            trace = self._trace(disk, task_id, None)
            try:
                await asyncio.to_thread(daemon.start)
                async with attached(trace, daemon.process.pid):
                    assert (await daemon.post(self._body(task_id))).status == 200
                    await daemon.until(task_id)
            finally:
                await asyncio.to_thread(daemon.end)
        return [
            Point("running", place, call, nth, "STOP")
            for (place, call), count in sorted(trace.count().items())
            for nth in range(1, count + 1)
        ]

    async def cut(self, point: Point) -> None:
        """Cut the power at one point, look at the disk, and let a daemon finish on it."""
        task_id = self._provider.add_task(finished=True)
        image, copy = self._outer / "disk.img", self._outer / "cut.img"
        clone(self._base, image)
        with mounted(image, self._folder / "inner") as disk:
            boot_anew(disk / "state")
            daemon = self._daemon(disk)
            try:
                await asyncio.to_thread(daemon.start)
                trace = self._trace(disk, task_id, point)
                async with attached(trace, daemon.process.pid):
                    posting = asyncio.create_task(self._post(daemon, task_id))
                    was_met = await _stops(daemon, trace)
                    answered = (await asyncio.wait({posting}, timeout=ANSWER_SECONDS))[0]
                    stored = bool(daemon.log("task.moved", task_id=task_id, to="stored"))
                    clone(image, copy)
                    await asyncio.to_thread(daemon.kill)
                    status = await posting
            finally:
                await asyncio.to_thread(daemon.end)
        promised = bool(answered) and status == 200
        self._check(copy, task_id, answered=promised, stored=stored)
        await self._finish(copy, task_id, answered=promised)
        self._tally.cuts += was_met
        self._tally.missed += not was_met
        self._tally.answered += was_met and promised
        self._tally.stored += was_met and stored
        self._tally.places[point.place] += was_met
        copy.unlink()

    def _check(self, image: Path, task_id: str, *, answered: bool, stored: bool) -> None:
        """Compare what a cut left with what had been promised before it."""
        with mounted(image, self._folder / "check") as disk:
            boot_anew(disk / "state")
            ledger = read_ledger(disk / "state")
            expected = {f"older-{number}" for number in range(OLDER)} | (
                {task_id} if answered else set()
            )
            if lost := expected - ledger.keys():
                raise PromiseBroken(f"acknowledged and not in the ledger: {sorted(lost)[:3]}")
            check_files(disk / "videos", self._provider, ledger)
            if stored and ledger[task_id]["state"] not in {"stored", "done"}:
                raise PromiseBroken(f"announced as stored, and it is {ledger[task_id]['state']}")
            check_startable(disk / "state")

    async def _finish(self, image: Path, task_id: str, *, answered: bool) -> None:
        """Start on what is left; the provider calls again where it got no answer."""
        with mounted(image, self._folder / "inner") as disk:
            daemon = self._daemon(disk)
            try:
                await asyncio.to_thread(daemon.start)
                if not answered:
                    assert (await daemon.post(self._body(task_id))).status == 200
                await daemon.until(task_id)
                check_film(daemon, self._provider, task_id)
                self._tally.done += 1
            finally:
                await asyncio.to_thread(daemon.end)

    def _daemon(self, disk: Path) -> Daemon:
        """Return a daemon on a disk; its log and configuration lie elsewhere."""
        self._runs += 1
        return daemon_on(
            disk, self._folder / f"run-{self._runs}", self._provider.base_url, **SETTINGS
        )

    def _trace(self, disk: Path, task_id: str, point: Point | None) -> Trace:
        trace = Trace(disk, task_id, point)
        trace.output = self._folder / f"run-{self._runs}" / "trace.txt"
        trace.errors = trace.output.with_name("strace.txt")
        return trace

    def _body(self, task_id: str) -> bytes:
        return json.dumps(success(task_id, self._provider.tasks[task_id].video_url)).encode()

    async def _post(self, daemon: Daemon, task_id: str) -> int | None:
        """Send the callback; return the answer, None when there was none."""
        try:
            return (await daemon.post(self._body(task_id))).status
        except (aiohttp.ClientError, OSError):
            return None


async def _stops(daemon: Daemon, trace: Trace) -> bool:
    """Wait until all threads stand still behind the call; return whether they do."""
    until = time.monotonic() + POINT_SECONDS
    while time.monotonic() < until:
        text = trace.output.read_text(errors="replace") if trace.output.exists() else ""
        if "stopped by SIGSTOP" in text and _stands_still(daemon.process.pid):
            return True
        if daemon.log("task.moved", to="done") and "(INJECTED)" not in text:
            # It may still be on its way behind the film.
            until = min(until, time.monotonic() + 0.5)
        await asyncio.sleep(0.005)
    return False


def _stands_still(pid: int) -> bool:
    states = [
        (thread / "stat").read_text().rpartition(")")[2].split()[0]
        for thread in Path(f"/proc/{pid}/task").iterdir()
    ]
    return set(states) <= {"T", "t"}


def find_missing_tools() -> str | None:
    """Return the package that is missing here, or None."""
    tools = {"strace": "strace", "mkfs.xfs": "xfsprogs", "mkfs.ext4": "e2fsprogs"}
    return next((name for tool, name in tools.items() if shutil.which(tool) is None), None)


def _tell(tally: Tally) -> str:
    places = ", ".join(f"{count} at the {place}" for place, count in sorted(tally.places.items()))
    return (
        f"{tally.cuts} cuts at {tally.listed} points there are ({places}), {tally.missed} missed, "
        f"{tally.answered} behind the answer, {tally.stored} behind the announcement, "
        f"{tally.done} films finished afterwards, nothing lost"
    )


if __name__ == "__main__":
    command(run_campaign, _tell, size=1_000, unit="points, at most all there are")()
